//! The registers of paging: CR3, and the instruction that forgets one page.

use core::arch::asm;

use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::Cr3;

use crate::addr::PhysAddr;

/// The root table in use on this CPU.
#[inline]
pub fn current_root() -> PhysAddr {
    Cr3::read().0.start_address()
}

/// Makes `root` this CPU's root table. All but global TLB entries are flushed, where names are in use those under name 0
/// (Intel SDM vol. 3A §4.10.4.1). It is a serialising instruction: what was stored before is visible to all before anything after it
/// is fetched (§8.3).
///
/// # Safety
/// The tables must map what the kernel is executing and using (its image, this stack, the direct map) as the
/// tables in use do, and stay valid as long as any CPU has them loaded.
#[inline(always)]
pub unsafe fn load_root(root: PhysAddr) {
    // SAFETY: the caller's promise; the flags (PWT, PCD of the walk; or the name) are 0: write-back.
    unsafe { load_cr3(root.as_u64()) };
}

/// In a value for CR3: what the TLB holds under its name stays (Intel SDM vol. 3A §4.10.4.1). Only where CR4.PCIDE is set.
pub const KEEP: u64 = 1 << 63;

/// Writes CR3: root, name ([`KEEP`], PCID) and all. As [`load_root`] otherwise.
///
/// # Safety
/// As for [`load_root`]; name and [`KEEP`] only where CR4.PCIDE is set. With [`KEEP`] the TLB may hold nothing under the name
/// that is out of date.
#[inline(always)]
pub unsafe fn load_cr3(value: u64) {
    // SAFETY: the caller's promise. No `nomem`, so that no access moves across.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack)) };
}

/// Flushes this CPU's TLB and paging-structure caches, apart from global entries and, where names are in use, other names.
#[inline]
pub fn reload_cr3() {
    // SAFETY: CR3 gets the value that it has; reading gives bit 63 as 0. No `nomem`: entries may have changed.
    unsafe {
        asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack));
    }
}

/// Flushes what this CPU holds of one page under a name (INVPCID, type 0; Intel SDM vol. 2A).
///
/// # Safety
/// The CPU has INVPCID, and CR4.PCIDE is set or `name` 0.
pub unsafe fn invalidate_named_page(name: u64, address: VirtAddr) {
    let descriptor = [name, address.as_u64()];
    // SAFETY: the caller's promise; the descriptor's reserved bits are 0 and the address is canonical by its type.
    unsafe {
        asm!("invpcid {}, [{}]", in(reg) 0u64, in(reg) &raw const descriptor, options(nostack, preserves_flags));
    }
}

/// Flushes what this CPU holds of one page, and all of its paging-structure caches (Intel SDM vol. 3A §4.10.4.1).
#[inline]
pub fn invalidate_page(address: VirtAddr) {
    tlb::flush(address);
}

/// Whether this CPU has 1 GiB pages (CPUID 80000001h, EDX bit 26).
pub fn supports_1g_pages() -> bool {
    let extended = core::arch::x86_64::__cpuid(0x8000_0000).eax;
    extended >= 0x8000_0001 && core::arch::x86_64::__cpuid(0x8000_0001).edx & 1 << 26 != 0
}
