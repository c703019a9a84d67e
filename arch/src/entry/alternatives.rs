//! Instructions that only some machines need, patched into the entry paths at boot.
//!
//! Exceptions and interrupts don't clear AC, so with SMAP the entries need `clac`, which without SMAP is #UD. A test at each
//! entry would cost more than the instruction, so each place holds a three-byte nop which [`patch`] replaces.
//!
//! Where user mode has page tables of its own, or VERW must be the last thing before it, the ways in and out are longer. Those of
//! most machines should not pay for that, not even by a nop: so the last two instructions before user mode, and the first two
//! after it, which together have room for a `jmp`, are replaced by one to the longer way (`isolated.rs`), which does them itself.
//!
//! The instructions that save and load floating-point state are put in as well (`fpu/chosen.rs`).

use super::isolated;
use crate::cpu::features;
use crate::cpu::offsets::DATA_SELECTOR;
use crate::mitigations::decisions;

/// A place for `clac`: three bytes that do nothing. `name` becomes a global label.
macro_rules! clac_slot {
    ($name:literal) => {
        concat!(".globl ", $name, "\n", $name, ": .byte 0x0F, 0x1F, 0x00")
    };
}

pub(super) use clac_slot;

/// `nop dword ptr [rax]`
const NOP3: &[u8] = &[0x0F, 0x1F, 0x00];
/// `clac`
const CLAC: &[u8] = &[0x0F, 0x01, 0xCA];
/// `nop word ptr [rax + rax + 0]` with a displacement of four bytes
const NOP9: &[u8] = &[0x66, 0x0F, 0x1F, 0x84, 0, 0, 0, 0, 0];
/// The first five bytes of `swapgs; lfence`.
const SWAPGS_LFENCE: &[u8] = &[0x0F, 0x01, 0xF8, 0x0F, 0xAE];
/// The first five bytes of `swapgs; sysretq`.
const SWAPGS_SYSRET: &[u8] = &[0x0F, 0x01, 0xF8, 0x48, 0x0F];
/// `swapgs; iretq`
const SWAPGS_IRET: &[u8] = &[0x0F, 0x01, 0xF8, 0x48, 0xCF];

unsafe extern "C" {
    static switchyard_clac_trap: u8;
    static switchyard_clac_debug: u8;
    static switchyard_clac_debug_user: u8;
    static switchyard_clac_nmi: u8;
    static switchyard_clac_df: u8;
    static switchyard_clac_mc: u8;
    static switchyard_trap_from_user: u8;
    static switchyard_sysret: u8;
    static switchyard_sysret_short: u8;
    static switchyard_sysret_call: u8;
    static switchyard_sysret_answer: u8;
    static switchyard_sysret_fault: u8;
    static switchyard_sysret_own: u8;
    static switchyard_leave: u8;
    static switchyard_clear_sysret: u8;
    static switchyard_clear_iret: u8;
}

/// Writes the instructions that this machine needs into the entry paths.
///
/// `writable` maps an address in the kernel's text to one at which the same byte can be written.
///
/// # Panics
/// If a place does not hold what was assembled there: a kernel bug.
///
/// # Safety
/// To be called on the first CPU, before any other runs and before the first entry from user mode, with interrupts off, once features
/// are known and mitigations decided.
pub unsafe fn patch(writable: impl Fn(u64) -> *mut u8) {
    let replace = |place: *const u8, was: &[u8], becomes: &[u8]| {
        assert_eq!(was.len(), becomes.len());
        // SAFETY: the label marks so many bytes of text.
        let found = unsafe { core::slice::from_raw_parts(place, was.len()) };
        assert!(
            found == was,
            "a place in the entry paths holds something else"
        );
        for (offset, &byte) in becomes.iter().enumerate() {
            // SAFETY: `writable` gives a writable alias of the text, and nobody executes it now.
            unsafe { writable(place as u64 + offset as u64).write_volatile(byte) };
        }
    };
    let lead = |place: *const u8, was: &[u8], to: unsafe extern "C" fn()| {
        replace(place, was, &jump(place as u64, to as *const () as u64));
    };
    if features().smap {
        for place in [
            &raw const switchyard_clac_trap,
            &raw const switchyard_clac_debug,
            &raw const switchyard_clac_debug_user,
            &raw const switchyard_clac_nmi,
            &raw const switchyard_clac_df,
            &raw const switchyard_clac_mc,
        ] {
            replace(place, NOP3, CLAC);
        }
    }
    crate::fpu::patch(&features().fpu, replace, jump);
    let sysrets = [
        &raw const switchyard_sysret,
        &raw const switchyard_sysret_short,
        &raw const switchyard_sysret_call,
        &raw const switchyard_sysret_answer,
        &raw const switchyard_sysret_fault,
        &raw const switchyard_sysret_own,
    ];
    let leave = &raw const switchyard_leave;
    if decisions().isolation {
        let trap = &raw const switchyard_trap_from_user;
        lead(trap, SWAPGS_LFENCE, isolated::trap);
        lead(leave, SWAPGS_IRET, isolated::iret);
        for sysret in sysrets {
            lead(sysret, SWAPGS_SYSRET, isolated::sysret);
        }
        if decisions().clear_buffers {
            for place in [
                &raw const switchyard_clear_sysret,
                &raw const switchyard_clear_iret,
            ] {
                replace(place, NOP9, &verw());
            }
        }
    } else if decisions().clear_buffers {
        lead(leave, SWAPGS_IRET, isolated::clearing_iret);
        for sysret in sysrets {
            lead(sysret, SWAPGS_SYSRET, isolated::clearing_sysret);
        }
    }
    // A serialising instruction, so that this CPU fetches what was written (Intel SDM vol. 3A §8.1.3).
    let _ = raw_cpuid::cpuid!(0);
}

/// `jmp` with a displacement of four bytes, which counts from the next instruction on. All of the text is within its reach.
fn jump(from: u64, to: u64) -> [u8; 5] {
    let distance = to.wrapping_sub(from + 5) as u32;
    let [a, b, c, d] = distance.to_le_bytes();
    [0xE9, a, b, c, d]
}

/// `verw word ptr gs:[...]` of the selector in the block.
fn verw() -> [u8; 9] {
    let [a, b, c, d] = (DATA_SELECTOR as u32).to_le_bytes();
    [0x65, 0x0F, 0x00, 0x2C, 0x25, a, b, c, d]
}
