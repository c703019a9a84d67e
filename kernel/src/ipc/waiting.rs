//! The direct way of a wait for a notification, alone or behind a signal: no deadline, and nothing to be kept on a kernel stack meanwhile.
//!
//! It is for the same threads as that of a [call](super::direct), and goes the same way when anything is rare: the call is left to the long
//! way with nothing done.

use abi::{Call, Deadline, Handle, Rights};
use arch::switch::{frame_here, go_on_in, leave_at_once};

use super::Flow;
use super::direct::go_the_long_way;
use super::notification::{Began, Signalled, give_registers};
use crate::cpu;
use crate::schedule;
use crate::thread::{Thread, ThreadPtr};

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
        Began::Over(bits) => leave_with(thread, bits),
        Began::Not => go_the_long_way(Call::Wait),
    }
}

/// The bits were there.
#[inline(always)]
fn leave_with(thread: &Thread, bits: u64) -> ! {
    give_registers(thread, bits);
    // SAFETY: this is in a direct call of the thread, and these were what was missing in its context.
    unsafe { leave_at_once(&thread.machine.state) }
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

/// `signal_wait`.
///
/// Whoever waits for the signal is not made ready first: if it may run at once, it does, on what is left of the turn.
#[unsafe(export_name = "switchyard_direct_signal_wait")]
extern "C" fn signal_wait(signalled: Handle, bits: u64, awaited: Handle) -> ! {
    let block = arch::cpu::block();
    // SAFETY: a system call is made by a thread.
    let thread = unsafe { cpu::running(block) }.get();
    // As in `wait`.
    if thread.marks().any() || thread.machine.state.extras().is_reporting() {
        go_the_long_way(Call::SignalWait)
    }
    // SAFETY: as in `wait`.
    let known = unsafe {
        (
            thread.signalled.look(signalled),
            thread.awaited.look(awaited),
        )
    };
    let (Some(bell), Some(notification)) = known else {
        frame_here();
        // SAFETY: nothing here is to be dropped.
        unsafe { go_on_in(signal_wait_others, [signalled.0, bits, awaited.0]) }
    };
    match bell.signal_plainly(bits) {
        Signalled::Not => go_the_long_way(Call::SignalWait),
        Signalled::Nobody => {
            frame_here();
            // SAFETY: nothing here is to be dropped.
            unsafe { go_on_in(wait_after_signal, [0; 3]) }
        }
        Signalled::Somebody(waiter) => {
            give_registers(waiter.get(), bits);
            match notification.begin_wait_alone(thread) {
                Began::Waiting => schedule::doze_for(block, thread, waiter),
                Began::Over(bits) => {
                    frame_here();
                    // SAFETY: nothing here is to be dropped.
                    unsafe { go_on_in(wake_and_leave, [waiter.as_ptr() as u64, bits, 0]) }
                }
                Began::Not => {
                    frame_here();
                    // SAFETY: nothing here is to be dropped.
                    unsafe { go_on_in(wake_and_wait, [waiter.as_ptr() as u64, 0, 0]) }
                }
            }
        }
    }
}

/// [`signal_wait`] with other notifications than the last.
extern "C" fn signal_wait_others(signalled: u64, bits: u64, awaited: u64) -> ! {
    // SAFETY: as in `wait`.
    let thread = unsafe { cpu::running(arch::cpu::block()) }.get();
    let (signalled, awaited) = (Handle(signalled), Handle(awaited));
    let known = thread.signalled.find(thread, signalled, Rights::SIGNAL);
    if known.is_some() && thread.awaited.find(thread, awaited, Rights::WAIT).is_some() {
        signal_wait(signalled, bits, awaited)
    }
    go_the_long_way(Call::SignalWait)
}

/// The second half of [`signal_wait`] by itself: the signal has met nobody, or its waiter was woken. It can't be left to the long way any more, which would
/// signal again.
extern "C" fn wait_after_signal(_: u64, _: u64, _: u64) -> ! {
    let block = arch::cpu::block();
    // SAFETY: as in `wait`; `signal_wait` has found the notification in this section.
    let (thread, notification) = unsafe {
        let thread = cpu::running(block).get();
        (thread, thread.awaited.last())
    };
    match notification.wait(thread, Deadline::NEVER) {
        Ok(Flow::Block) => schedule::doze(block, thread),
        Ok(_) => {}
        Err(error) => thread.registers_mut().rax = error as u64,
    }
    // SAFETY: this is in a direct call of the thread, and status and bits were what was missing in its context.
    unsafe { leave_at_once(&thread.machine.state) }
}

/// The thread whose wait has ended is made ready, and what is waited for is there already.
extern "C" fn wake_and_leave(waiter: u64, bits: u64, _: u64) -> ! {
    // SAFETY: as in `wait`.
    let thread = unsafe { cpu::running(arch::cpu::block()) }.get();
    schedule::make_ready(waiter_at(waiter));
    leave_with(thread, bits)
}

/// The thread whose wait has ended is made ready, and the caller waits, perhaps as one of many.
extern "C" fn wake_and_wait(waiter: u64, _: u64, _: u64) -> ! {
    schedule::make_ready(waiter_at(waiter));
    wait_after_signal(0, 0, 0)
}

fn waiter_at(address: u64) -> ThreadPtr {
    let waiter: *const Thread = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: it comes from `signal_wait`, which has taken it out of its wait in the section that lasts still.
    ThreadPtr::new(unsafe { &*waiter })
}
