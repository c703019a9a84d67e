//! Four-level page tables: the mechanism.
//!
//! [`PageTables`] maps, unmaps, changes and looks up pages in a tree of tables that it reaches through the direct
//! map, so that the same code runs on the machine and, over an arena, in host tests. Entries and flags are the
//! `x86_64` crate's. Its `Mapper`s are not used: their `map_to` refuses the PAT bit of 4 KiB pages (it is
//! the large-page bit of the other levels), and they can't take a whole subtree out at once, which is what keeps
//! unmapping short.
//!
//! What may be mapped is a matter of types: [`Access`] has no writable and executable kind, a page is global exactly if
//! it is the kernel's, and [`Cache`] names memory types and never bits.
//!
//! Where user mode has tables of its own (docs, chapter on mitigations), a tree has two roots, side by side. They share all
//! tables of the user half; what the upper half of user mode's root leads to is the entry paths' alone. In the kernel's root, user
//! pages can't be executed: a way out that forgot to change tables would fault at once, also on a CPU that leaks nothing.
//!
//! What may go wrong: an entry is also written by the CPU (accessed and dirty bits) and read by the page walkers of
//! all CPUs, so every access here is volatile and a whole entry; and nothing here flushes a TLB, which is
//! [`tlb`](crate::tlb)'s business.

mod attributes;
#[cfg(target_os = "none")]
mod root;
mod tables;
#[cfg(test)]
mod tests;

pub use attributes::{Access, Attributes, Cache, Owner, PAT_VALUE, PageSize};
#[cfg(target_os = "none")]
pub use root::{
    KEEP, current_root, invalidate_named_page, invalidate_page, load_cr3, load_root, reload_cr3,
    supports_1g_pages,
};
pub use tables::{FrameSource, MapError, PageTables, Translation};

/// Bytes of a small page and of a table.
pub const PAGE_BYTES: u64 = 4096;
/// Entries of a table.
pub const ENTRIES: usize = 512;
/// First address of the kernel's half.
pub const KERNEL_HALF: u64 = 0xFFFF_8000_0000_0000;
/// The bits of an entry that hold the physical address (Intel SDM vol. 3A §4.5, with the architectural 52 bits).
pub const ADDRESS_MASK: u64 = 0x000F_FFFF_FFFF_F000;

/// The root of the tables that user mode runs on, where it has tables of its own: the frame behind the kernel's root. The pair is
/// aligned to its size, so that one bit of CR3 tells the two apart.
#[inline]
pub fn user_root(root: crate::addr::PhysAddr) -> crate::addr::PhysAddr {
    root + PAGE_BYTES
}

/// How many bits a physical address has on this CPU (CPUID 80000008h, EAX bits 7 to 0; 36 where there is no such leaf,
/// Intel SDM vol. 3A §4.1.4). At most 52.
pub fn physical_address_bits() -> u32 {
    let highest = core::arch::x86_64::__cpuid(0x8000_0000).eax;
    let bits = if highest >= 0x8000_0008 {
        core::arch::x86_64::__cpuid(0x8000_0008).eax & 0xFF
    } else {
        36
    };
    bits.clamp(32, 52)
}
