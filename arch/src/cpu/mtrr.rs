//! Memory type range registers.
//!
//! They must say the same on every CPU (Intel SDM vol. 3A §11.11.8). Firmware sees to that as a rule; where it did not, a
//! started CPU gets the first CPU's.

use core::arch::asm;

use spin::Once;

use super::msr::Msr;

const CAPABILITY: Msr = Msr(0xFE);
const DEFAULT_TYPE: Msr = Msr(0x2FF);
const VARIABLE_BASE: u32 = 0x200;
/// More pairs than any CPU has; what is over stays as the firmware left it.
const MAX_PAIRS: usize = 32;
const FIXED: [Msr; 11] = [
    Msr(0x250),
    Msr(0x258),
    Msr(0x259),
    Msr(0x268),
    Msr(0x269),
    Msr(0x26A),
    Msr(0x26B),
    Msr(0x26C),
    Msr(0x26D),
    Msr(0x26E),
    Msr(0x26F),
];
const HAS_FIXED: u64 = 1 << 8;
const ENABLE: u64 = 1 << 11;

/// All of a CPU's registers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Mtrrs {
    default_type: u64,
    variable: [(u64, u64); MAX_PAIRS],
    fixed: [u64; FIXED.len()],
}

static FIRST: Once<Mtrrs> = Once::new();

fn pairs(capability: u64) -> usize {
    ((capability & 0xFF) as usize).min(MAX_PAIRS)
}

/// Reads this CPU's registers.
///
/// # Safety
/// The CPU must have MTRRs.
unsafe fn read() -> Mtrrs {
    // SAFETY: the caller says that the registers exist; the capability register says how many there are.
    unsafe {
        let capability = CAPABILITY.read();
        let mut all = Mtrrs {
            default_type: DEFAULT_TYPE.read(),
            variable: [(0, 0); MAX_PAIRS],
            fixed: [0; FIXED.len()],
        };
        for (index, pair) in all.variable.iter_mut().enumerate().take(pairs(capability)) {
            let base = VARIABLE_BASE + 2 * index as u32;
            *pair = (Msr(base).read(), Msr(base + 1).read());
        }
        if capability & HAS_FIXED != 0 {
            for (value, msr) in all.fixed.iter_mut().zip(FIXED) {
                *value = msr.read();
            }
        }
        all
    }
}

/// Remembers the first CPU's registers, or makes this CPU's equal to them. Returns whether it had to change any.
///
/// # Safety
/// To be called in `cpu_init` only, with interrupts off, on a CPU with MTRRs.
pub(super) unsafe fn agree() -> bool {
    // SAFETY: the caller says that the CPU has MTRRs.
    let mine = unsafe { read() };
    let first = FIRST.call_once(|| mine);
    if mine == *first {
        return false;
    }
    // SAFETY: this is the sequence of Intel SDM vol. 3A §11.11.8: caches off and flushed, TLBs flushed, MTRRs off, written, on
    // again, flushed, caches as before. Interrupts are off and no other CPU shares this one's caches' contents unflushed.
    unsafe {
        let (cr0, cr3, cr4): (u64, u64, u64);
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack));
        // Without PGE, or entries of global pages would stay.
        asm!("mov cr4, {}", in(reg) cr4 & !(1 << 7), options(nostack));
        asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack));
        asm!("mov cr0, {}", "wbinvd", in(reg) (cr0 | 1 << 30) & !(1 << 29), options(nostack));
        asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) cr3, options(nostack));
        let capability = CAPABILITY.read();
        DEFAULT_TYPE.write(first.default_type & !ENABLE);
        for (index, pair) in first.variable.iter().enumerate().take(pairs(capability)) {
            let base = VARIABLE_BASE + 2 * index as u32;
            Msr(base).write(pair.0);
            Msr(base + 1).write(pair.1);
        }
        if capability & HAS_FIXED != 0 {
            for (value, msr) in first.fixed.iter().zip(FIXED) {
                msr.write(*value);
            }
        }
        DEFAULT_TYPE.write(first.default_type);
        asm!("wbinvd", "mov cr3, {}", "mov cr0, {}", "mov cr4, {}", in(reg) cr3, in(reg) cr0, in(reg) cr4, options(nostack));
    }
    true
}
