//! The direct way of a wait for a notification: no deadline, and nothing to be kept on a kernel stack meanwhile.
//!
//! It is for the same threads as that of a [call](super::direct), and goes the same way when anything is rare: the call is left to the long
//! way with nothing done.

use abi::{Call, Handle, Rights};
use arch::switch::{frame_here, go_on_in, leave_at_once};

use super::direct::go_the_long_way;
use super::notification::Began;
use crate::cpu;
use crate::schedule;

/// `wait`.
#[unsafe(export_name = "switchyard_direct_wait")]
extern "C" fn wait(handle: Handle) -> ! {
    let block = arch::cpu::block();
    // SAFETY: a system call is made by a thread.
    let thread = unsafe { cpu::running(block) }.get();
    // Also if its calls are reported, as the long way's are.
    if thread.marks().any() || thread.machine.state.extras().is_reporting() {
        go_the_long_way(Call::Wait)
    }
    // SAFETY: the thread is this one; all kernel code between two quiescent points is inside a section.
    let Some(notification) = (unsafe { thread.awaited.look(handle) }) else {
        frame_here();
        // SAFETY: nothing here is to be dropped.
        unsafe { go_on_in(wait_for_another, [handle.0, 0, 0]) }
    };
    match notification.begin_wait(thread) {
        Began::Waiting => schedule::doze(block, thread),
        Began::Over(bits) => {
            let registers = thread.registers_mut();
            registers.rax = 0;
            registers.rdx = bits;
            // SAFETY: this is in a direct call of the thread, and these were what was missing in its context.
            unsafe { leave_at_once(&thread.machine.state) }
        }
        Began::Not => go_the_long_way(Call::Wait),
    }
}

/// [`wait`] for another notification than the last.
extern "C" fn wait_for_another(handle: u64, _: u64, _: u64) -> ! {
    // SAFETY: as in `wait`.
    let thread = unsafe { cpu::running(arch::cpu::block()) }.get();
    if thread.awaited.learn(thread, Handle(handle), Rights::WAIT) {
        wait(Handle(handle))
    }
    go_the_long_way(Call::Wait)
}
