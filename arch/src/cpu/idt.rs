//! The interrupt descriptor table of one CPU.
//!
//! All 256 vectors lead to 16-byte stubs (`entry/vectors.rs`); those of #DB, NMI, #DF and #MC lead to paranoid entries on
//! stacks of their own. All are interrupt gates: IF is clear on entry.

use super::gdt::KERNEL_CODE;
use super::tss::Ist;
use crate::entry;

/// One gate (Intel SDM vol. 3A §6.14.1).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

/// The table.
#[repr(C, align(16))]
pub struct Idt {
    gates: [Gate; 256],
}

/// Last byte of the table, as `lidt` wants it.
pub const LIMIT: u16 = (size_of::<Idt>() - 1) as u16;

/// Vector of the system call by `int`.
pub const SYSTEM_CALL: u8 = 0x80;
const BREAKPOINT: u8 = 3;
const OVERFLOW: u8 = 4;

impl Gate {
    const EMPTY: Gate = Gate { low: 0, high: 0 };

    fn new(handler: u64, dpl: u64, ist: u64) -> Gate {
        const PRESENT_INTERRUPT_GATE: u64 = 0x8E;
        Gate {
            low: handler & 0xFFFF
                | u64::from(KERNEL_CODE) << 16
                | ist << 32
                | (PRESENT_INTERRUPT_GATE | dpl << 5) << 40
                | (handler >> 16 & 0xFFFF) << 48,
            high: handler >> 32,
        }
    }
}

impl Idt {
    pub(super) const fn new() -> Idt {
        Idt {
            gates: [Gate::EMPTY; 256],
        }
    }

    fn fill_with(&mut self, own_stacks: &[(usize, u64, Ist)]) {
        for vector in 0..=255u8 {
            // User code may raise these three by an instruction; any other `int n` is a #GP.
            let dpl = if matches!(vector, BREAKPOINT | OVERFLOW | SYSTEM_CALL) {
                3
            } else {
                0
            };
            self.gates[usize::from(vector)] = Gate::new(entry::vector_address(vector), dpl, 0);
        }
        for &(vector, handler, slot) in own_stacks {
            self.gates[vector] = Gate::new(handler, 0, slot as u64);
        }
    }

    /// Fills the table at `place`.
    ///
    /// # Safety
    /// `place` must be valid for a table that this CPU alone will use, whose IST stacks are set.
    pub(super) unsafe fn fill(place: *mut Idt) {
        let own_stacks = [
            (1, entry::debug_address(), Ist::Debug),
            (2, entry::nmi_address(), Ist::Nmi),
            (8, entry::double_fault_address(), Ist::DoubleFault),
            (18, entry::machine_check_address(), Ist::MachineCheck),
        ];
        // SAFETY: the caller's promise; any bit pattern is a table.
        unsafe { (*place).fill_with(&own_stacks) };
    }

    /// Fills the table at `place` for early boot, when only #DF has a stack of its own.
    ///
    /// # Safety
    /// As [`fill`](Self::fill).
    pub(super) unsafe fn fill_early(place: *mut Idt) {
        let own_stacks = [(8, entry::double_fault_address(), Ist::DoubleFault)];
        // SAFETY: the caller's promise.
        unsafe { (*place).fill_with(&own_stacks) };
    }
}
