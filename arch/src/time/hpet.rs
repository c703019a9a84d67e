//! The high precision event timer as a reference clock (IA-PC HPET specification 1.0a §2.3).
//!
//! Only the lower half of its counter is read: it is the whole of a 32-bit one, and enough for a window of milliseconds
//! either way.

use core::ptr::NonNull;

use super::calibrate::Reference;
use crate::platform::{Cache, PhysicalMap, acpi::Hpet};

/// Bytes of registers.
const REGISTER_BYTES: u64 = 0x400;
/// Capabilities, upper half: the counter's period in femtoseconds.
const PERIOD: usize = 0x004;
/// General configuration; bit 0 lets the counter run.
const CONFIGURATION: usize = 0x010;
const ENABLE: u32 = 1;
/// The main counter, lower half.
const COUNTER: usize = 0x0F0;
/// The longest period that the specification allows: 100 ns.
const LONGEST_PERIOD: u32 = 100_000_000;
const FEMTOSECONDS_PER_SECOND: u64 = 1_000_000_000_000_000;

pub(super) struct Counter {
    registers: NonNull<u8>,
    period: u32,
}

impl Counter {
    /// Maps the registers and lets the counter run; `None` if that can't be, or its period is nonsense.
    ///
    /// # Safety
    /// The address must come from the machine's own HPET table.
    pub(super) unsafe fn new(hpet: Hpet, map: &dyn PhysicalMap) -> Option<Counter> {
        let registers = map.map(hpet.registers, REGISTER_BYTES, Cache::Uncached)?;
        let mut counter = Counter {
            registers,
            period: 0,
        };
        counter.period = counter.register(PERIOD);
        if counter.period == 0 || counter.period > LONGEST_PERIOD {
            return None;
        }
        let configuration = counter.register(CONFIGURATION);
        if configuration & ENABLE == 0 {
            // SAFETY: the register is within the mapping; letting the counter run raises no interrupt of itself.
            unsafe {
                registers
                    .add(CONFIGURATION)
                    .cast::<u32>()
                    .write_volatile(configuration | ENABLE);
            }
        }
        Some(counter)
    }

    fn register(&self, offset: usize) -> u32 {
        // SAFETY: the offsets above are within the mapping, which stays, and aligned; reading changes nothing.
        unsafe { self.registers.add(offset).cast::<u32>().read_volatile() }
    }
}

impl Reference for Counter {
    fn read(&mut self) -> u32 {
        self.register(COUNTER)
    }

    fn bits(&self) -> u32 {
        32
    }

    fn frequency(&self) -> (u64, u64) {
        (FEMTOSECONDS_PER_SECOND, u64::from(self.period))
    }
}
