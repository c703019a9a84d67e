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

/// Makes `root` this CPU's root table. All but global TLB entries are flushed (Intel SDM vol. 3A §4.10.4.1; the kernel does
/// not set CR4.PCIDE). It is a serialising instruction: what was stored before is visible to all before anything after it
/// is fetched (§8.3).
///
/// # Safety
/// The tables must map what the kernel is executing and using (its image, this stack, the direct map) as the
/// tables in use do, and stay valid as long as any CPU has them loaded.
#[inline(always)]
pub unsafe fn load_root(root: PhysAddr) {
    // SAFETY: the caller's promise; the flags (PWT, PCD of the walk) are 0: write-back. No `nomem`, so that no access moves
    // across.
    unsafe { asm!("mov cr3, {}", in(reg) root.as_u64(), options(nostack, preserves_flags)) };
}

/// Flushes this CPU's TLB and paging-structure caches, apart from global entries.
#[inline]
pub fn flush_all_but_global() {
    tlb::flush_all();
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
