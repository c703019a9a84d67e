//! Reading the loader's page tables.

use crate::requests::HHDM;
use core::arch::asm;

/// What a page is mapped to, and how.
#[derive(Clone, Copy)]
pub struct Mapping {
    /// Physical address.
    pub phys: u64,
    /// May be written, by the entries of all levels.
    pub write: bool,
    /// May be executed, by the entries of all levels.
    pub execute: bool,
    /// User code may use it.
    pub user: bool,
    /// Index into the PAT.
    pub pat: u64,
}

/// Offset of the direct map.
pub fn hhdm() -> u64 {
    HHDM.response().map_or(0, |at| word(at + 8))
}

/// The word at a virtual address that the loader promised to be readable.
pub fn word(at: u64) -> u64 {
    // SAFETY: callers pass addresses inside responses, or in memory that the protocol promises to be mapped; a broken
    // promise ends in a fault, and so in a test that does not pass.
    unsafe { (at as *const u64).read_unaligned() }
}

/// The byte at such an address.
pub fn byte(at: u64) -> u8 {
    // SAFETY: as for `word`.
    unsafe { (at as *const u8).read_volatile() }
}

/// CR3's table.
pub fn root() -> u64 {
    let cr3: u64;
    // SAFETY: reading CR3 changes nothing.
    unsafe { asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags)) }
    cr3 & 0x000f_ffff_ffff_f000
}

/// Looks `virt` up (Intel SDM vol. 3A §4.5).
pub fn translate(virt: u64) -> Option<Mapping> {
    let (mut table, mut write, mut execute, mut user) = (root(), true, true, true);
    for level in (0..4).rev() {
        let shift = 12 + 9 * level;
        let entry = word(hhdm() + table + (virt >> shift & 511) * 8);
        if entry & 1 == 0 {
            return None;
        }
        write &= entry & 2 != 0;
        user &= entry & 4 != 0;
        execute &= entry >> 63 == 0;
        let large = level > 0 && entry & 1 << 7 != 0;
        if level == 0 || large {
            let size = 1 << shift;
            let high = if large {
                entry >> 12 & 1
            } else {
                entry >> 7 & 1
            };
            return Some(Mapping {
                phys: (entry & 0x000f_ffff_ffff_f000 & !(size - 1)) + (virt & (size - 1)),
                write,
                execute,
                user,
                pat: high << 2 | entry >> 3 & 3,
            });
        }
        table = entry & 0x000f_ffff_ffff_f000;
    }
    None
}
