//! The short ways of a switch: for callers that have asked first what there is to carry.
//!
//! [`concerns`] ors what each of the two threads has to carry into one word. Who finds that there is nothing, or nothing but
//! floating-point state, or bases by MSRs, has the switch done by the way that is made for it; everybody else, and every other case, goes by
//! [`switch_to`], which does the same in the same order.
//!
//! Each way is part of its caller and ends in a jump to [`exchange_stacks`](super::exchange_stacks), as do the functions that rare cases leave by. So a caller for
//! which the switch is the last thing to do needs no callee-saved register of its own: that routine saves them, once.
//!
//! What may go wrong: something that changes between the question and the switch. Nothing can: interrupts are off, and both threads are this
//! CPU's.

use core::arch::asm;
use core::mem::offset_of;

use super::selectors::{exchange_bases, exchange_bases_by_msr};
use super::{Switched, ThreadState, exchange_threads, switch_to};
use crate::cpu::CpuBlock;
use crate::extras::{self, Extras};
use crate::fpu::{self, Exchange};
use crate::tlb;

/// In a rare case of a function that ends in one of these ways: lets the compiler set up its stack frame here.
///
/// All functions are told to have one, for the sake of reports of panics. One that saves nothing gets it at its beginning, for all
/// cases; one that saves something, where that is saved. Nobody misses it in the others, as they call nothing: they jump.
#[inline(always)]
pub fn frame_here() {
    // SAFETY: there is no instruction. A register is named that a function saves if it changes it.
    unsafe { asm!("", out("r12") _, options(nomem, nostack, preserves_flags)) };
}

/// What a switch has to carry besides bases and general registers: kinds of extras, and in the upper half the kernel's marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Concerns(u64);

impl Concerns {
    /// Nothing.
    pub const NONE: Concerns = Concerns(0);

    /// Nothing: [`switch_plainly`] will do.
    #[inline(always)]
    pub fn are_none(self) -> bool {
        self.0 == 0
    }

    /// Floating-point state and nothing else: [`switch_with_fpu`] will do.
    #[inline(always)]
    pub fn are_fpu_alone(self) -> bool {
        self.0 == u64::from(extras::FPU)
    }

    /// Floating-point state, bases by MSRs, or both, and nothing else: [`switch_by_msrs`] will do.
    #[inline(always)]
    pub fn are_few(self) -> bool {
        self.0 & !u64::from(extras::FPU | extras::BASES_BY_MSR) == 0
    }

    /// None but a change of spaces that takes more than most; bases are exchanged already.
    #[inline(always)]
    pub(super) fn of_spaces() -> Concerns {
        Concerns(u64::from(extras::IDLE))
    }

    #[inline(always)]
    pub(super) fn are_of_spaces(self) -> bool {
        self.0 == u64::from(extras::IDLE)
    }

    /// As a number, to go on in another function with.
    #[inline(always)]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The opposite of [`bits`](Self::bits).
    ///
    /// # Safety
    /// The number comes from there.
    #[inline(always)]
    pub unsafe fn from_bits(bits: u64) -> Concerns {
        Concerns(bits)
    }

    #[inline(always)]
    pub(super) fn need(self, kinds: u32) -> bool {
        self.0 as u32 & kinds != 0
    }
}

/// What a switch from `previous`, the current thread, to `next` has to carry: the four data selectors, which are all null in 64-bit code as
/// a rule, and the words of both threads, or-ed. A selector may look like kinds of the long way, which it needs itself.
#[inline(always)]
pub fn concerns(previous: &ThreadState, next: &ThreadState) -> Concerns {
    let (all, last): (u64, u64);
    // SAFETY: reading selectors has no effect; a 32-bit destination is zero-extended. Of the threads' two words, eight bytes that are
    // aligned, the lower one is this CPU's to touch, and the upper one an atomic.
    unsafe {
        asm!(
            "mov {all:e}, ds",
            "mov {last:e}, es",
            "or {all:e}, {last:e}",
            "mov {last:e}, fs",
            "or {all:e}, {last:e}",
            "or {all}, [{previous} + {words}]",
            "or {all}, [{next} + {words}]",
            "mov {last:e}, gs",
            previous = in(reg) previous,
            next = in(reg) next,
            all = out(reg) all,
            last = out(reg) last,
            words = const offset_of!(ThreadState, extras) + Extras::WORDS,
            options(readonly, nostack),
        );
    }
    // The compiler's own, so that its comparison with 0 comes with it.
    Concerns(all | last)
}

/// [`switch_to`] for two threads whose [`concerns`] were none just now.
///
/// # Safety
/// As for [`switch_to`], and as said; `block` is this CPU's.
#[inline(always)]
pub unsafe fn switch_plainly(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        let to = next.stack_top;
        exchange_bases(previous.stack_top, to);
        exchange_spaces_and_threads(block, previous, next, to)
    }
}

/// [`switch_to`] for two threads whose [`concerns`] were few: the short way of a CPU without FSGSBASE.
///
/// # Safety
/// As for [`switch_to`], and as said; `block` is this CPU's.
#[inline(always)]
pub unsafe fn switch_by_msrs(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
    concerns: Concerns,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        if concerns.need(extras::FPU) {
            match fpu::exchange_steadily(block, previous, next) {
                Exchange::Done => {}
                Exchange::Undecided => return decide_and_switch(previous, next),
                Exchange::Refused => return refuse_and_switch(previous, next, block),
            }
        }
        exchange_bases_by_msr(previous, next);
        exchange_spaces_and_threads(block, previous, next, next.stack_top)
    }
}

/// What comes after the bases. `to` is the top of the stack of `next`.
///
/// # Safety
/// As for [`switch_to`]; `block` is this CPU's.
#[inline(always)]
unsafe fn exchange_spaces_and_threads(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
    to: u64,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        let space = &*next.space;
        if !tlb::is_active(block, space) {
            if block.is_careful() {
                return activate_and_exchange(previous, next, block);
            }
            tlb::activate_simply(block, space);
        }
        exchange_threads(block, previous, next, to)
    }
}

/// [`switch_to`] for two threads whose [`concerns`] were floating-point state alone.
///
/// # Safety
/// As for [`switch_to`], and as said; `block` is this CPU's.
#[inline(always)]
pub unsafe fn switch_with_fpu(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        match fpu::exchange_steadily(block, previous, next) {
            Exchange::Done => switch_plainly(block, previous, next),
            Exchange::Undecided => decide_and_switch(previous, next),
            Exchange::Refused => refuse_and_switch(previous, next, block),
        }
    }
}

/// [`switch_with_fpu`] when something is to be decided.
///
/// # Safety
/// As for that.
#[inline(never)]
unsafe fn decide_and_switch(previous: &ThreadState, next: &ThreadState) -> Switched {
    // SAFETY: the caller's promise.
    unsafe { switch_to(previous, next) }
}

/// [`switch_with_fpu`] when the CPU refuses the state of the one that comes: that is noted, and all else is done as ever.
///
/// # Safety
/// As for that.
#[cold]
#[inline(never)]
unsafe fn refuse_and_switch(
    previous: &ThreadState,
    next: &ThreadState,
    block: &CpuBlock,
) -> Switched {
    fpu::refuse(block, next);
    // SAFETY: the caller's promise.
    unsafe { switch_to(previous, next) }
}

/// The end of [`switch_plainly`] where a change of spaces is more than a change of root.
///
/// # Safety
/// As for that.
#[inline(never)]
unsafe fn activate_and_exchange(
    previous: &ThreadState,
    next: &ThreadState,
    block: &CpuBlock,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        tlb::activate_on(block, &*next.space);
        exchange_threads(block, previous, next, next.stack_top)
    }
}
