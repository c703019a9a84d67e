//! Selectors and bases of the running thread: what user mode may change without the kernel's knowledge.
//!
//! A thread loads DS, ES, FS and GS as it likes, and writes the bases of FS and GS by instructions of their own where the CPU has them
//! (FSGSBASE), else by loading a selector. So both are read when it leaves, and loaded when another comes; most threads have no
//! selectors, which [`concerns`](super::concerns) tells, and bases alone then take ten instructions ([`exchange_bases`]).
//!
//! The user's GS base is in KERNEL_GS_BASE while the kernel runs, as the GS base in force is the kernel's own.
//!
//! What may go wrong: bases loaded before selectors. Loading a selector changes the base on Intel's CPUs, and on AMD's a null one does not.

use core::arch::asm;
use core::mem::offset_of;
use core::ptr;

use abi::UserContext;

use super::ThreadState;
use crate::cpu::{self, Msr, features};
use crate::extras;
use crate::segments::{self, BadDescriptor};

/// Saves the bases of `previous` and loads those of `next`, on a CPU with FSGSBASE.
///
/// The user's GS base is the one that `swapgs` brings in, for three instructions. No interrupt can come, and an NMI does
/// not trust GS.
///
/// The contexts are told by the tops of the threads' stacks, `from` and `to`.
///
/// # Safety
/// Both are user threads', `from` this CPU's current one's; the bases in the context of the other are canonical.
#[inline(always)]
pub(super) unsafe fn exchange_bases(from: u64, to: u64) {
    /// A context lies right below its stack's top.
    const CONTEXT_BYTES: isize = size_of::<UserContext>() as isize;
    // SAFETY: the caller's promise; the contexts are the threads' own.
    unsafe {
        asm!(
            // ANCHOR: exchange_bases
            "rdfsbase {t}",
            "mov [{from} + {fs_base}], {t}",
            "mov {t}, [{to} + {fs_base}]",
            "wrfsbase {t}",
            "mov {t}, [{to} + {gs_base}]",
            "swapgs",
            "rdgsbase {u}",
            "wrgsbase {t}",
            "swapgs",
            "mov [{from} + {gs_base}], {u}",
            // ANCHOR_END: exchange_bases
            from = in(reg) from,
            to = in(reg) to,
            t = out(reg) _,
            u = out(reg) _,
            fs_base = const offset_of!(UserContext, fs_base) as isize - CONTEXT_BYTES,
            gs_base = const offset_of!(UserContext, gs_base) as isize - CONTEXT_BYTES,
            options(nostack, preserves_flags),
        );
    }
}

/// The same on a CPU without FSGSBASE. The bases must be read there as well: user mode changes them by loading selectors, null ones too.
///
/// # Safety
/// As for [`exchange_bases`].
#[inline(always)]
pub(super) unsafe fn exchange_bases_by_msr(previous: &ThreadState, next: &ThreadState) {
    // SAFETY: the contexts are the threads' own, and the one that comes has canonical bases. While the kernel runs, KERNEL_GS_BASE holds
    // the user's base.
    unsafe {
        let (from, to) = (previous.context(), next.context());
        (*from).fs_base = Msr::FS_BASE.read();
        Msr::FS_BASE.write((*to).fs_base);
        (*from).gs_base = Msr::KERNEL_GS_BASE.read();
        Msr::KERNEL_GS_BASE.write((*to).gs_base);
    }
}

/// Saves what user mode may have changed without the kernel's knowledge: selectors, and with them or by `wrfsbase`, bases.
///
/// # Safety
/// `thread` is the current user thread.
#[inline]
pub(super) unsafe fn save_segments(thread: &ThreadState) {
    // SAFETY: the context is the thread's own.
    unsafe { save_segments_of(&mut *thread.context()) };
    thread.selectors_changed();
}

/// Saves selectors and bases as user mode left them.
///
/// # Safety
/// Nobody has loaded others since user mode was left.
#[inline]
pub(crate) unsafe fn save_segments_of(context: &mut UserContext) {
    // SAFETY: reading has no effect; KERNEL_GS_BASE holds the user's base while the kernel runs.
    unsafe {
        let (ds, es, fs, gs): (u16, u16, u16, u16);
        asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
        (context.ds, context.es, context.fs, context.gs) = (ds, es, fs, gs);
        if features().fsgsbase {
            asm!("rdfsbase {}", out(reg) context.fs_base, options(nomem, nostack, preserves_flags));
        } else {
            context.fs_base = Msr::FS_BASE.read();
        }
        context.gs_base = Msr::KERNEL_GS_BASE.read();
    }
}

/// Loads a thread's selectors, then its bases: loading a selector changes the base (or, on AMD, a null one does not), so the
/// bases come last.
///
/// # Safety
/// The context holds selectors of user code (`context::sanitise`) and canonical bases; the thread's own descriptors are in the table.
#[inline]
pub(super) unsafe fn load_segments(next: &ThreadState) {
    // SAFETY: the context is the thread's own; the rest is the caller's promise.
    unsafe { load_segments_of(&*next.context()) };
}

/// Loads selectors and bases.
///
/// # Safety
/// As [`load_segments`].
#[inline]
pub(crate) unsafe fn load_segments_of(context: &UserContext) {
    // SAFETY: the caller's promise. A selector that went bad since it was checked becomes null.
    unsafe {
        let (ds, es): (u16, u16);
        let (fs, gs): (u16, u16);
        asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
        if (ds | context.ds) != 0 {
            segments::load_ds(u32::from(context.ds));
        }
        if (es | context.es) != 0 {
            segments::load_es(u32::from(context.es));
        }
        if (fs | context.fs) != 0 {
            segments::load_fs(u32::from(context.fs));
        }
        if (gs | context.gs) != 0 {
            segments::load_gs(u32::from(context.gs), ptr::from_ref(cpu::block()) as u64);
        }
        if features().fsgsbase {
            asm!("wrfsbase {}", in(reg) context.fs_base, options(nostack, preserves_flags));
        } else {
            Msr::FS_BASE.write(context.fs_base);
        }
        Msr::KERNEL_GS_BASE.write(context.gs_base);
    }
}

/// Sets the FS base of the running thread.
///
/// # Safety
/// To be called in a system call of the current user thread; the base is canonical and the user's.
pub unsafe fn set_current_fs_base(base: u64) {
    // SAFETY: the caller's promise.
    unsafe { Msr::FS_BASE.write(base) };
}

/// Changes one of the running thread's own descriptors. Registers that name it are loaded anew, with its base.
///
/// # Errors
/// What makes the descriptor unfit; nothing is changed then.
///
/// # Safety
/// `thread` is this CPU's current user thread.
pub unsafe fn set_current_tls(
    thread: &ThreadState,
    slot: usize,
    descriptor: u64,
) -> Result<(), BadDescriptor> {
    // SAFETY: the caller's promise; while this runs the thread is as good as stopped.
    unsafe {
        save_segments(thread);
        thread.set_tls(slot, descriptor)?;
        extras::load_tls(cpu::block(), &thread.extras);
        load_segments(thread);
    }
    Ok(())
}

/// Brings the bases and selectors of the running thread into its context.
///
/// # Safety
/// `thread` is this CPU's current user thread.
pub unsafe fn complete_context(thread: &ThreadState) {
    // SAFETY: the caller's promise.
    unsafe { save_segments(thread) };
}
