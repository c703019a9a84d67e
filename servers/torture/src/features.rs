//! What registers this machine has.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};

use alloc::vec::Vec;
use torture::fpu::Layout;
use torture::page::AREA_WORDS;

/// Whether FS and GS base can be read and written by instructions: where the CPU has them, the kernel lets user code use them.
pub fn fsgsbase() -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 != 0
}

/// The FPU, as far as the kernel has enabled it (Intel SDM vol. 1 §13.2, §13.3).
pub fn layout() -> Layout {
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return Layout::default();
    }
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE says that the instruction is there; it reads XCR0.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    let enabled = u64::from(low) | u64::from(high) << 32;
    let components = (2..63)
        .filter(|bit| enabled >> bit & 1 != 0)
        .map(|bit| {
            let leaf = __cpuid_count(0xD, bit);
            (bit, leaf.ebx as usize, leaf.eax as usize)
        })
        .filter(|(_, offset, bytes)| offset + bytes <= 8 * AREA_WORDS)
        .collect::<Vec<_>>();
    Layout {
        enabled,
        components,
    }
}

/// Something that is different each time.
pub fn new_seed() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and the kernel leaves it to user code.
    let ticks = unsafe { _rdtsc() };
    torture::random::Random::new(ticks).word() >> 16
}
