//! The I/O APICs: which interrupt line goes to which CPU, as which vector.
//!
//! A machine has one or several; each serves a range of global system interrupts (GSIs). The register access is the
//! `x2apic` crate's, which is right here, with two of its functions avoided: `init` leaves entries unmasked, and reading back
//! an entry's mode panics on a reserved value. Its `set_table_entry` writes the lower word first, so an entry is masked
//! whenever it is changed.
//!
//! A destination here has 8 bits. Reaching CPUs with higher ids takes interrupt remapping, which is not there yet, so
//! [`route`] refuses such a CPU.

use core::fmt;

use spin::Mutex;
use x2apic::ioapic::{IoApic, IrqFlags, IrqMode, RedirectionTableEntry};

use super::{
    Cache, PhysicalMap,
    madt::{IoApicEntry, Polarity, Trigger},
};
use crate::addr::{ApicId, PhysAddr};

/// The registers of one I/O APIC: a selector and a window.
const REGISTER_BYTES: u64 = 0x20;
/// More I/O APICs than any machine has (large servers have one or two a socket). More are reported.
const MOST: usize = 64;
/// The highest input an I/O APIC can have (82093AA datasheet §3.2.2).
const HIGHEST_INPUT: u8 = 239;

struct Unit {
    registers: IoApic,
    gsi_base: u32,
    inputs: u32,
}

/// Taken for a few register accesses at a time, never while anything is waited for.
static UNITS: Mutex<[Option<Unit>; MOST]> = Mutex::new([const { None }; MOST]);

/// Why an interrupt can't be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoApicError {
    /// Its registers can't be mapped.
    NotMapped(PhysAddr),
    /// It does not answer: its registers read as all ones.
    NoAnswer(PhysAddr),
    /// There are more of them than this can hold.
    TooMany,
    /// No I/O APIC has this interrupt.
    NoSuchInterrupt(u32),
    /// This CPU can't be reached by one.
    Unreachable(ApicId),
}

impl fmt::Display for IoApicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMapped(address) => {
                write!(f, "the I/O APIC at {:#x} can't be mapped", address.as_u64())
            }
            Self::NoAnswer(address) => {
                write!(f, "there is no I/O APIC at {:#x}", address.as_u64())
            }
            Self::TooMany => write!(f, "more than {MOST} I/O APICs"),
            Self::NoSuchInterrupt(gsi) => write!(f, "no I/O APIC has interrupt {gsi}"),
            Self::Unreachable(id) => write!(f, "no I/O APIC can reach APIC id {id}"),
        }
    }
}

impl core::error::Error for IoApicError {}

/// Takes over one I/O APIC and masks all its inputs. Returns how many it has.
///
/// # Errors
/// Its registers can't be mapped or don't answer, or there are too many.
///
/// # Safety
/// The entry must come from the machine's own MADT, and be passed once.
pub unsafe fn add(entry: IoApicEntry, map: &dyn PhysicalMap) -> Result<u32, IoApicError> {
    let address = map
        .map(entry.registers, REGISTER_BYTES, Cache::Uncached)
        .ok_or(IoApicError::NotMapped(entry.registers))?;
    // SAFETY: the registers are mapped uncached for good, and only here.
    let mut registers = unsafe { IoApic::new(address.as_ptr() as u64) };
    // SAFETY: reading the version changes nothing.
    let highest = unsafe { registers.max_table_entry() };
    if highest > HIGHEST_INPUT {
        return Err(IoApicError::NoAnswer(entry.registers));
    }
    for input in 0..=highest {
        let mut masked = RedirectionTableEntry::default();
        masked.set_flags(IrqFlags::MASKED);
        // SAFETY: the input exists; masked, it sends nothing.
        unsafe {
            registers.disable_irq(input);
            registers.set_table_entry(input, masked);
        }
    }
    let inputs = u32::from(highest) + 1;
    let mut units = UNITS.lock();
    let free = units
        .iter_mut()
        .find(|unit| unit.is_none())
        .ok_or(IoApicError::TooMany)?;
    *free = Some(Unit {
        registers,
        gsi_base: entry.gsi_base,
        inputs,
    });
    Ok(inputs)
}

/// Runs `act` on the I/O APIC that has `gsi`, and the input's number there.
fn with<R>(gsi: u32, act: impl FnOnce(&mut IoApic, u8) -> R) -> Result<R, IoApicError> {
    let mut units = UNITS.lock();
    units
        .iter_mut()
        .flatten()
        .find_map(|unit| {
            let input = gsi.checked_sub(unit.gsi_base)?;
            (input < unit.inputs).then_some((&mut unit.registers, input as u8))
        })
        .map(|(registers, input)| act(registers, input))
        .ok_or(IoApicError::NoSuchInterrupt(gsi))
}

/// Whether an I/O APIC has this interrupt.
#[must_use]
pub fn has(gsi: u32) -> bool {
    with(gsi, |_, _| ()).is_ok()
}

/// Sends interrupt `gsi` to the CPU `target` as `vector`, and leaves it masked: [`unmask`] lets it through.
///
/// # Errors
/// No I/O APIC has the interrupt, or none can reach that CPU.
///
/// # Safety
/// The vector must have a handler that ends the interrupt, and must be none of the CPU's own (below 32).
pub unsafe fn route(
    gsi: u32,
    vector: u8,
    target: ApicId,
    polarity: Polarity,
    trigger: Trigger,
) -> Result<(), IoApicError> {
    let destination = u8::try_from(target.0)
        .ok()
        .filter(|id| *id != u8::MAX)
        .ok_or(IoApicError::Unreachable(target))?;
    let mut flags = IrqFlags::MASKED;
    flags.set(IrqFlags::LOW_ACTIVE, polarity == Polarity::Low);
    flags.set(IrqFlags::LEVEL_TRIGGERED, trigger == Trigger::Level);
    with(gsi, |registers, input| {
        let mut entry = RedirectionTableEntry::default();
        entry.set_vector(vector);
        entry.set_mode(IrqMode::Fixed);
        entry.set_flags(flags);
        entry.set_dest(destination);
        // SAFETY: the input exists, and stays masked between the two writes of its entry; the caller vouches for the
        // vector.
        unsafe {
            registers.disable_irq(input);
            registers.set_table_entry(input, entry);
        }
    })
}

/// Lets interrupt `gsi` through, which has been routed.
///
/// # Errors
/// No I/O APIC has the interrupt.
pub fn unmask(gsi: u32) -> Result<(), IoApicError> {
    // SAFETY: the input exists, and its route was set up by `route`, or is vector 0, which local APICs refuse.
    with(gsi, |registers, input| unsafe {
        registers.enable_irq(input);
    })
}

/// Holds interrupt `gsi` back. One that is already on its way still comes.
///
/// # Errors
/// No I/O APIC has the interrupt.
pub fn mask(gsi: u32) -> Result<(), IoApicError> {
    // SAFETY: the input exists; masked, it sends nothing.
    with(gsi, |registers, input| unsafe {
        registers.disable_irq(input);
    })
}
