//! Instructions that only some CPUs have, patched into the entry paths at boot.
//!
//! Exceptions and interrupts don't clear AC, so with SMAP the entries need `clac`, which without SMAP is #UD. A test at each
//! entry would cost more than the instruction, so each place holds a three-byte nop which [`patch`] replaces.
//! The CR3 slots are five-byte nops: the room of a `jmp` to the change of page tables, should a CPU need page-table
//! isolation (docs: decision on mitigations).

use crate::cpu::features;

/// A place for `clac`: three bytes that do nothing. `name` becomes a global label.
macro_rules! clac_slot {
    ($name:literal) => {
        concat!(".globl ", $name, "\n", $name, ": .byte 0x0F, 0x1F, 0x00")
    };
}

/// A place for the change of CR3: five bytes that do nothing.
macro_rules! cr3_slot {
    () => {
        ".byte 0x0F, 0x1F, 0x44, 0x00, 0x00"
    };
}

pub(super) use {clac_slot, cr3_slot};

const NOP3: [u8; 3] = [0x0F, 0x1F, 0x00];
const CLAC: [u8; 3] = [0x0F, 0x01, 0xCA];

unsafe extern "C" {
    static switchyard_clac_trap: [u8; 3];
    static switchyard_clac_debug: [u8; 3];
    static switchyard_clac_debug_user: [u8; 3];
    static switchyard_clac_nmi: [u8; 3];
    static switchyard_clac_df: [u8; 3];
    static switchyard_clac_mc: [u8; 3];
}

/// Writes the instructions that this machine has into the entry paths.
///
/// `writable` maps an address in the kernel's text to one at which the same byte can be written.
///
/// # Panics
/// If a place does not hold what was assembled there: a kernel bug.
///
/// # Safety
/// To be called on the first CPU, before any other runs and before the first entry from user mode, with interrupts off.
pub unsafe fn patch(writable: impl Fn(u64) -> *mut u8) {
    if !features().smap {
        return;
    }
    let places = [
        &raw const switchyard_clac_trap,
        &raw const switchyard_clac_debug,
        &raw const switchyard_clac_debug_user,
        &raw const switchyard_clac_nmi,
        &raw const switchyard_clac_df,
        &raw const switchyard_clac_mc,
    ];
    for place in places {
        // SAFETY: the label marks three bytes of text.
        let found = unsafe { place.read() };
        assert!(
            found == NOP3,
            "an entry's place for clac holds something else"
        );
        for (offset, byte) in CLAC.into_iter().enumerate() {
            // SAFETY: `writable` gives a writable alias of the text, and nobody executes it now.
            unsafe { writable(place as u64 + offset as u64).write_volatile(byte) };
        }
    }
    // A serialising instruction, so that this CPU fetches what was written (Intel SDM vol. 3A §8.1.3).
    let _ = raw_cpuid::cpuid!(0);
}
