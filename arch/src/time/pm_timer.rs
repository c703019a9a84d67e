//! The ACPI power management timer as a reference clock (ACPI 6.5 §4.8.2.1).
//!
//! It is 24 or 32 bits wide; the lower 24 are enough either way. Some chip sets of the past don't latch it, so that it can
//! be read in the middle of a carry: three readings in a row must not run backwards, else they are taken again.

use core::ptr::NonNull;

use x86_64::instructions::port::Port;

use super::calibrate::Reference;
use crate::platform::{
    Cache, PhysicalMap,
    fadt::{PmTimer, Register},
};

const HZ: u64 = 3_579_545;
const BITS: u32 = 24;
const MASK: u32 = (1 << BITS) - 1;
/// Times that three readings are taken before the last is believed.
const TRIES: u32 = 10;

pub(super) enum Counter {
    Port(Port<u32>),
    Memory(NonNull<u32>),
}

impl Counter {
    /// The timer's counter; `None` if its register can't be mapped.
    ///
    /// # Safety
    /// The register must come from the machine's own FADT.
    pub(super) unsafe fn new(timer: PmTimer, map: &dyn PhysicalMap) -> Option<Counter> {
        Some(match timer.register {
            Register::Port(port) => Counter::Port(Port::new(port)),
            Register::Memory(address) => {
                if !address.as_u64().is_multiple_of(4) {
                    return None;
                }
                Counter::Memory(map.map(address, 4, Cache::Uncached)?.cast())
            }
        })
    }

    fn once(&mut self) -> u32 {
        // SAFETY: the register is the timer's; reading it changes nothing.
        let value = unsafe {
            match self {
                Counter::Port(port) => port.read(),
                Counter::Memory(address) => address.read_volatile(),
            }
        };
        value & MASK
    }
}

impl Reference for Counter {
    fn read(&mut self) -> u32 {
        let mut last = 0;
        for _ in 0..TRIES {
            let (first, second) = (self.once(), self.once());
            last = self.once();
            let forward = |from: u32, to: u32| to.wrapping_sub(from) & MASK < MASK / 2;
            if forward(first, second) && forward(second, last) {
                break;
            }
        }
        last
    }

    fn bits(&self) -> u32 {
        BITS
    }

    fn frequency(&self) -> (u64, u64) {
        (HZ, 1)
    }
}
