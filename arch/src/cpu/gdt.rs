//! The global descriptor table of one CPU.
//!
//! Its order is dictated by STAR: `syscall` loads CS from STAR[47:32] and SS from the next slot; `sysretq` loads SS from
//! STAR[63:48] + 8 and CS from + 16 (Intel SDM vol. 2B, SYSCALL and SYSRET), hence 32-bit user code, user data,
//! 64-bit user code in a row. Three slots are kept for thread-area segments of 32-bit programs. The last slot's
//! limit is the CPU's index, so that `lsl` tells it to code that can't trust GS.

use abi::segment::{TLS_FIRST_SELECTOR, TLS_SLOTS};
use x86_64::structures::gdt::DescriptorFlags;

/// Kernel code selector.
pub const KERNEL_CODE: u16 = 0x08;
/// Kernel data selector.
pub const KERNEL_DATA: u16 = 0x10;
/// 32-bit user code selector, RPL 3.
pub const USER_CODE32: u16 = 0x18 | 3;
/// User data selector, RPL 3.
pub const USER_DATA: u16 = 0x20 | 3;
/// 64-bit user code selector, RPL 3.
pub const USER_CODE64: u16 = 0x28 | 3;
/// TSS selector (two slots).
pub const TSS: u16 = 0x30;
/// First of the slots for the current thread's own segments.
const TLS_FIRST: usize = TLS_FIRST_SELECTOR as usize / 8;
/// The slot whose limit is the CPU index, RPL 3.
pub const CPU_NUMBER: u16 = 0x58 | 3;

/// What STAR holds. Its upper part carries RPL 3: a `sysret` takes it as it is on AMD, and an SS without it dies at a later `iretq`.
pub const STAR_VALUE: u64 = (USER_CODE32 as u64) << 48 | (KERNEL_CODE as u64) << 32;

const _: () = {
    assert!(USER_CODE32 & 3 == 3, "STAR[63:48] needs RPL 3");
    assert!(USER_DATA == USER_CODE32 + 8);
    assert!(USER_CODE64 == USER_CODE32 + 16);
    assert!(KERNEL_DATA == KERNEL_CODE + 8);
};

const SLOTS: usize = 12;

/// The table.
#[repr(C, align(16))]
pub struct Gdt {
    slots: [u64; SLOTS],
}

/// Last byte of the table, as `lgdt` wants it.
pub const LIMIT: u16 = (size_of::<Gdt>() - 1) as u16;

impl Gdt {
    /// The table of CPU `index`, whose TSS lies at an address and has a last byte with this offset.
    pub const fn new(index: u32, (tss, tss_limit): (u64, u32)) -> Gdt {
        let tss_low = (tss_limit & 0xFFFF) as u64
            | (tss & 0xFF_FFFF) << 16
            // Present, 64-bit TSS, available (Intel SDM vol. 3A §7.2.3).
            | 0x89 << 40
            | (tss_limit as u64 >> 16 & 0xF) << 48
            | (tss >> 24 & 0xFF) << 56;
        // A present, DPL 3, read-only data segment that is accessed already; its limit is the index, in bytes.
        let number = (index as u64 & 0xFFFF) | 0xF1 << 40 | (index as u64 >> 16 & 0xF) << 48;
        Gdt {
            slots: [
                0,
                DescriptorFlags::KERNEL_CODE64.bits(),
                DescriptorFlags::KERNEL_DATA.bits(),
                DescriptorFlags::USER_CODE32.bits(),
                DescriptorFlags::USER_DATA.bits(),
                DescriptorFlags::USER_CODE64.bits(),
                tss_low,
                tss >> 32,
                0,
                0,
                0,
                number,
            ],
        }
    }

    /// Fills the slots for a thread's own segments, if they differ from what is there.
    #[inline]
    pub fn set_tls(&mut self, descriptors: &[u64; TLS_SLOTS]) {
        let slots = &mut self.slots[TLS_FIRST..TLS_FIRST + TLS_SLOTS];
        if slots != descriptors {
            slots.copy_from_slice(descriptors);
        }
    }
}

const _: () = {
    assert!(TSS as usize / 8 == 6);
    assert!(TLS_FIRST == TSS as usize / 8 + 2);
    assert!(TLS_FIRST + TLS_SLOTS == CPU_NUMBER as usize / 8);
    assert!(CPU_NUMBER as usize / 8 == SLOTS - 1);
};
