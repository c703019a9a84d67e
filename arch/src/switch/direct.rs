//! The switch from one that sends a message to one that waits for it, on one CPU, straight into user mode.
//!
//! Both have come in by `syscall`, and what they need of the kernel is done. So nobody must go on in the kernel: the one that comes leaves
//! for user mode from here, with the message in its registers, and what is left of its kernel stack is given up. The one that leaves
//! needs no frame either: what it must get back lies in its context, so that its partner can answer it the same way. If somebody
//! else wakes it, by an ordinary switch, it goes on behind the call in its entry (`entry/syscall.rs`).
//!
//! The order is that of [`switch_to`](super::switch_to).

use core::arch::asm;

use super::selectors::{exchange_bases, exchange_bases_by_msr};
use super::{Concerns, ThreadState};
use crate::context::{USER_CODE64, VECTOR_SYSCALL};
use crate::cpu::{self, CpuBlock};
use crate::entry::{
    go_on_behind_wait, go_the_long_way, leave_with_answer, leave_with_call, leave_with_fault,
    leave_with_own, leave_with_registers,
};
use crate::extras;
use crate::fpu::{self, Exchange};
use crate::tlb;

use abi::UserContext;

/// What [`exchange_stacks`](super::exchange_stacks) pops: six registers and an address. The address is what the entry's `call` has left
/// right below the context; the registers may be anything.
const FRAME_BYTES: u64 = 7 * 8;

/// Trap and resume flag.
const TF_RF: u64 = 1 << 8 | 1 << 16;

/// Whether a thread with this context, which is the last entry's, can be sent back to user mode by `sysretq` without more ado.
pub fn returns_directly(context: &UserContext) -> bool {
    context.vector == VECTOR_SYSCALL
        && context.cs == u64::from(USER_CODE64)
        && context.rflags & TF_RF == 0
}

/// What the one that comes is given besides the words of the message.
#[derive(Clone, Copy)]
pub enum Delivery {
    /// A call.
    Call {
        /// The badge of the handle that was used.
        badge: u64,
        /// The reply's handle.
        reply: u64,
    },
    /// An answer.
    Answer {
        /// A word whose bit 1 is cleared when the context of the one that leaves may be written by others.
        settling: *mut usize,
    },
    /// A fault's report, of which the words lie where the entry has put what it says of the fault.
    Fault {
        /// The badge of the handle that was given for it.
        badge: u64,
        /// The reply's handle.
        reply: u64,
        /// The number of the thread.
        thread: u64,
    },
    /// All of its own registers, from its context: no message.
    Registers {
        /// As of an answer.
        settling: *mut usize,
    },
    /// Nothing: all of its registers are in its own context.
    Own,
}

/// `previous` waits from now on, and `next` leaves for user mode with what `delivery` says: mostly the message that lies in the context of
/// `previous`.
///
/// It needs no callee-saved register and no frame, and ends in a jump: so the function that ends in it needs none either.
///
/// # Safety
/// As for [`switch_to`](super::switch_to), with the [`concerns`](super::concerns) of the two, which are few; `block` is this CPU's.
/// `previous` is in one of the direct calls of its entry, or for [`Delivery::Fault`] in the entry of an exception from user mode. `next` waits since a `call` or `reply_recv` by `syscall` that
/// [returns directly](returns_directly), or for [`Delivery::Registers`] since it was `previous` in the hand-over of its fault, and nobody counts on what it has left on its kernel stack. A word of `delivery` may be written.
#[inline(always)]
pub unsafe fn hand_over(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
    concerns: Concerns,
    delivery: Delivery,
) -> ! {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        if !concerns.are_none() {
            hand_over_with_more(next, concerns, delivery);
        }
        let (from, to) = (previous.stack_top, next.stack_top);
        exchange_bases(from, to);
        let space = &*next.space;
        if !tlb::is_active(block, space) {
            if block.is_careful() {
                hand_over_with_more(next, Concerns::of_spaces(), delivery);
            }
            tlb::activate_simply(block, space);
        }
        leave(block, previous, next, from, to, delivery)
    }
}

/// The last steps. `from` and `to` are the tops of the two stacks, which callers have at hand.
///
/// # Safety
/// As for [`hand_over`].
#[inline(always)]
unsafe fn leave(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
    from: u64,
    to: u64,
    delivery: Delivery,
) -> ! {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        block.set_stack_top(to);
        block.set_current(core::ptr::from_ref(next).cast_mut());
        previous
            .rsp
            .set(from - size_of::<UserContext>() as u64 - FRAME_BYTES);
        match delivery {
            Delivery::Call { badge, reply } => asm!(
                "jmp {leave}",
                leave = sym leave_with_call,
                in("rsi") from,
                in("rcx") to,
                in("rdx") badge,
                in("r8") reply,
                options(noreturn),
            ),
            Delivery::Answer { settling } => asm!(
                "jmp {leave}",
                leave = sym leave_with_answer,
                in("rsi") from,
                in("rcx") to,
                in("rax") settling,
                options(noreturn),
            ),
            Delivery::Fault {
                badge,
                reply,
                thread,
            } => asm!(
                "jmp {leave}",
                leave = sym leave_with_fault,
                in("rsi") from,
                in("rcx") to,
                in("rdx") badge,
                in("r8") reply,
                in("r9") thread,
                options(noreturn),
            ),
            Delivery::Registers { settling } => asm!(
                "jmp {leave}",
                leave = sym leave_with_registers,
                in("rcx") to,
                in("rax") settling,
                options(noreturn),
            ),
            Delivery::Own => asm!(
                "jmp {leave}",
                leave = sym leave_with_own,
                in("rcx") to,
                options(noreturn),
            ),
        }
    }
}

/// [`hand_over`] with floating-point state, bases by MSRs, or a change of spaces that takes more than most. It is jumped to, not called.
///
/// # Safety
/// As for that. Bases were exchanged if `concerns` are those [of spaces](Concerns::of_spaces).
#[inline(always)]
unsafe fn hand_over_with_more(next: &ThreadState, concerns: Concerns, delivery: Delivery) -> ! {
    // SAFETY: the caller's promise. Both functions take what is put into the registers of the C convention, return never, and use no
    // instruction that wants the stack aligned.
    unsafe {
        match delivery {
            Delivery::Call { badge, reply } => asm!(
                "jmp {more}",
                more = sym call_with_more,
                in("rdi") next,
                in("rsi") concerns.bits(),
                in("rdx") badge,
                in("rcx") reply,
                options(noreturn),
            ),
            Delivery::Answer { settling } => asm!(
                "jmp {more}",
                more = sym answer_with_more,
                in("rdi") next,
                in("rsi") concerns.bits(),
                in("rdx") settling,
                options(noreturn),
            ),
            Delivery::Fault {
                badge,
                reply,
                thread,
            } => asm!(
                "jmp {more}",
                more = sym fault_with_more,
                in("rdi") next,
                in("rsi") concerns.bits(),
                in("rdx") badge,
                in("rcx") reply,
                in("r8") thread,
                options(noreturn),
            ),
            Delivery::Registers { settling } => asm!(
                "jmp {more}",
                more = sym registers_with_more,
                in("rdi") next,
                in("rsi") concerns.bits(),
                in("rdx") settling,
                options(noreturn),
            ),
            Delivery::Own => asm!(
                "jmp {more}",
                more = sym own_with_more,
                in("rdi") next,
                in("rsi") concerns.bits(),
                options(noreturn),
            ),
        }
    }
}

/// # Safety
/// As for [`hand_over_with_more`].
unsafe extern "C" fn call_with_more(
    next: &ThreadState,
    concerns: Concerns,
    badge: u64,
    reply: u64,
) -> ! {
    // SAFETY: the caller's promise.
    unsafe { carry_more(next, concerns, Delivery::Call { badge, reply }) }
}

/// # Safety
/// As for [`hand_over_with_more`].
unsafe extern "C" fn answer_with_more(
    next: &ThreadState,
    concerns: Concerns,
    settling: *mut usize,
) -> ! {
    // SAFETY: the caller's promise.
    unsafe { carry_more(next, concerns, Delivery::Answer { settling }) }
}

/// # Safety
/// As for [`hand_over_with_more`].
unsafe extern "C" fn fault_with_more(
    next: &ThreadState,
    concerns: Concerns,
    badge: u64,
    reply: u64,
    thread: u64,
) -> ! {
    let delivery = Delivery::Fault {
        badge,
        reply,
        thread,
    };
    // SAFETY: the caller's promise.
    unsafe { carry_more(next, concerns, delivery) }
}

/// # Safety
/// As for [`hand_over_with_more`].
unsafe extern "C" fn registers_with_more(
    next: &ThreadState,
    concerns: Concerns,
    settling: *mut usize,
) -> ! {
    // SAFETY: the caller's promise.
    unsafe { carry_more(next, concerns, Delivery::Registers { settling }) }
}

/// # Safety
/// As for [`hand_over_with_more`].
unsafe extern "C" fn own_with_more(next: &ThreadState, concerns: Concerns) -> ! {
    // SAFETY: the caller's promise.
    unsafe { carry_more(next, concerns, Delivery::Own) }
}

/// # Safety
/// As for [`hand_over_with_more`].
#[inline(always)]
unsafe fn carry_more(next: &ThreadState, concerns: Concerns, delivery: Delivery) -> ! {
    let block = cpu::block();
    // SAFETY: the caller's promises are those of the parts. The current thread is still the one that leaves.
    unsafe {
        let previous = &*block.current();
        if concerns.need(extras::FPU) {
            match fpu::exchange_steadily(block, previous, next) {
                Exchange::Done => {}
                Exchange::Undecided => fpu::exchange(block, previous, next),
                Exchange::Refused => {
                    fpu::refuse(block, next);
                    fpu::exchange(block, previous, next);
                }
            }
        }
        if concerns.need(extras::BASES_BY_MSR) {
            exchange_bases_by_msr(previous, next);
        } else if !concerns.are_of_spaces() {
            exchange_bases(previous.stack_top, next.stack_top);
        }
        tlb::activate_on(block, &*next.space);
        let (from, to) = (previous.stack_top, next.stack_top);
        leave(block, previous, next, from, to, delivery)
    }
}

/// Lets the current thread leave for user mode at the end of a direct call in which it did not have to wait: its registers are in its context.
///
/// # Safety
/// To be called in a direct call of this CPU's current thread, `state`, all of whose registers are in its context.
#[inline(always)]
pub unsafe fn leave_at_once(state: &ThreadState) -> ! {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "jmp {leave}",
            leave = sym leave_with_own,
            in("rcx") state.stack_top,
            options(noreturn),
        )
    }
}

/// The current thread goes on after a direct call in which it waited, and was switched to as any other: first in the kernel, then in user mode.
///
/// # Safety
/// As for [`leave_at_once`]. The caller holds nothing that is to be dropped.
#[inline(always)]
pub unsafe fn leave_after_wait() -> ! {
    // SAFETY: the caller's promise.
    unsafe { asm!("jmp {go_on}", go_on = sym go_on_behind_wait, options(noreturn)) }
}

/// Ends a direct call that must go the long way. Nothing was done.
///
/// # Safety
/// To be called in a direct call `number` of this CPU's current thread.
#[inline(always)]
pub unsafe fn long_way(number: abi::Call) -> ! {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "jmp {long_way}",
            long_way = sym go_the_long_way,
            in("rax") number as u64,
            options(noreturn),
        )
    }
}

/// Goes on in another function, to which this one does not return: as a call in a function that calls nothing else would have it set up a
/// frame for all cases.
///
/// # Safety
/// The caller holds nothing that is to be dropped.
#[inline(always)]
pub unsafe fn go_on_in(function: extern "C" fn(u64, u64, u64) -> !, arguments: [u64; 3]) -> ! {
    // SAFETY: the registers are those of the C convention. The function returns never, so it misses no address; the kernel has no
    // instruction that wants the stack aligned.
    unsafe {
        asm!(
            "jmp {function}",
            function = in(reg) function,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            options(noreturn),
        )
    }
}
