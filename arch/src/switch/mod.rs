//! `switch_to`: one thread leaves a CPU, another comes.
//!
//! The kernel keeps no thread in hardware: a switch is a handful of loads and stores in a stated order (see
//! [`switch_to`]). Each thread has a kernel stack of its own. A thread that is not running has its callee-saved registers on
//! that stack, and its stack pointer in its [`ThreadState`]; its user registers lie at the top of the stack, where the entry
//! put them.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the order of a switch, and its last step: another stack |
//! | `state.rs` | a thread as the switch knows it |
//! | `selectors.rs` | selectors and bases |
//! | `short.rs` | the same switch for threads that have little to carry |
//! | `direct.rs` | the same for a message to one that waits for it, straight into user mode |
//!
//! What most threads don't have costs most switches nothing: the words of both threads' [`Extras`](crate::extras::Extras) and the four
//! selector registers are or-ed together, and only if anything is set the long way is taken ([`switch_extras`]).
//!
//! What may go wrong: a base or selector that is not saved is another thread's afterwards; a kernel stack's top that is not
//! changed lets the next entry write over another thread's stack.

mod direct;
mod selectors;
mod short;
mod state;

use core::arch::naked_asm;
use core::ptr;

pub use direct::{
    Delivery, go_on_in, hand_over, leave_after_wait, leave_at_once, long_way, returns_directly,
};
pub use selectors::{complete_context, set_current_fs_base, set_current_tls};
use selectors::{exchange_bases, exchange_bases_by_msr, load_segments, save_segments};
pub(crate) use selectors::{load_segments_of, save_segments_of};
pub use short::{Concerns, concerns, frame_here, switch_by_msrs, switch_plainly, switch_with_fpu};
pub use state::ThreadState;

use crate::cpu::{self, CpuBlock};
use crate::entry::return_to_user;
use crate::exchange::exchange_code;
use crate::ports::PortMap;
use crate::tlb;
use crate::{extras, fpu};

/// Makes a state this CPU's current thread without a switch: for the idle thread that grows out of the boot code.
///
/// # Safety
/// The caller runs on the state's stack, and the state lives for ever.
pub unsafe fn adopt(state: &'static ThreadState) {
    let block = cpu::block();
    block.set_current(ptr::from_ref(state).cast_mut());
    // SAFETY: the stack is the state's own.
    unsafe { block.set_stack_top(state.stack_top) };
}

/// Leaves `previous` and goes on where `next` left; returns when somebody switches back.
///
/// Order: floating-point state, what few threads have, selectors and bases, page tables, the stack top, the current
/// thread, callee-saved registers and stack.
///
/// # Safety
/// Interrupts are off and no lock is held. `previous` is this CPU's current thread; `next` runs nowhere and belongs to this CPU.
/// Both live until the switch is done; nobody frees `previous` before this CPU's next quiescent point.
#[inline]
pub unsafe fn switch_to(previous: &ThreadState, next: &ThreadState) -> Switched {
    let block = cpu::block();
    let concerns = concerns(previous, next);
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        if concerns.need(extras::FPU | extras::IDLE) {
            fpu::exchange(block, previous, next);
        }
        if concerns.need(!(extras::FPU | extras::BASES_BY_MSR)) {
            switch_extras(block, previous, next);
        } else if concerns.need(extras::BASES_BY_MSR) {
            exchange_bases_by_msr(previous, next);
        } else {
            exchange_bases(previous.stack_top, next.stack_top);
        }
        tlb::activate_on(block, &*next.space);
        exchange_threads(block, previous, next, next.stack_top)
    }
}

/// The long way of selectors, bases and whatever else few threads have.
///
/// # Safety
/// As for [`switch_to`].
#[cold]
#[inline(never)]
unsafe fn switch_extras(block: &CpuBlock, previous: &ThreadState, next: &ThreadState) {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        if previous.user {
            save_segments(previous);
        }
        extras::switch(block, &previous.extras, &next.extras);
        if next.user {
            load_segments(next);
        }
    }
}

/// The last steps of a switch. `to` is the top of the stack of `next`, which most callers have at hand.
///
/// # Safety
/// As for [`switch_to`]; `block` is this CPU's.
#[inline(always)]
unsafe fn exchange_threads(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
    to: u64,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        block.set_stack_top(to);
        block.set_current(ptr::from_ref(next).cast_mut());
        exchange_stacks(previous, next)
    }
}

/// What [`switch_to`] returns when somebody has switched back: the result of a short call that did nothing but switch.
pub type Switched = crate::hooks::ShortResult;

/// Saves the callee-saved registers on the current stack, stores RSP in the thread that leaves, and pops the same from the one
/// that comes. The code is in [`exchange`](crate::exchange).
///
/// In: RDI the state of the one that leaves, RSI that of the one that comes; RSP is the first word of each. Out: returns on the
/// other stack, to where that thread left, callee-saved registers its own; RAX and RDX are zero, which is what a short call gives
/// back that had nothing else to do. Flags are not kept; interrupts stay off. Clobbers what a C call may.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn exchange_stacks(previous: &ThreadState, next: &ThreadState) -> Switched {
    exchange_code!()
}

/// Where a thread's first switch comes out: RSP is at its context. Does what is due on the way to user mode, then goes there.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn first_run() {
    naked_asm!(
        "call {begin}",
        "jmp {return_to_user}",
        begin = sym crate::hooks::thread_begin,
        return_to_user = sym return_to_user,
    )
}

/// Lets the running thread have the ports of a map, at once and whenever it runs.
///
/// # Safety
/// `thread` is this CPU's current user thread; the map lives as long as the thread.
pub unsafe fn use_ports(thread: &ThreadState, map: &PortMap) {
    // SAFETY: the caller's promise.
    unsafe {
        thread.extras.set_ports(map);
        extras::load_ports(cpu::block(), &thread.extras);
    }
}
