//! What is asked of the machine about interrupts: lines of the I/O APICs, messages, and bits that hold messages back.

use abi::Error;
use abi::irq::Message;
use arch::addr::{ApicId, PhysAddr, VirtAddr};
use arch::paging::Cache;
use arch::platform::madt::{Polarity, Trigger};
use arch::platform::msi::MaskBit;
use arch::platform::{ioapic, msi};

use super::Line;
use crate::cpu;
use crate::memory::{PAGE_BYTES, kernel_space};
use crate::sync::{Mutex, level};

/// Pages with mask bits: each stays mapped for ever, so that the same one is not mapped again for the next driver. A device has one.
const MOST_PAGES: usize = 64;

static PAGES: Mutex<{ level::MASK_PAGES }, [Option<(PhysAddr, VirtAddr)>; MOST_PAGES]> =
    Mutex::new([None; MOST_PAGES]);

fn target(cpu: u32) -> Result<ApicId, Error> {
    cpu::get(cpu)
        .map(cpu::Cpu::apic_id)
        .ok_or(Error::OutOfRange)
}

pub(super) fn has(gsi: u32) -> bool {
    ioapic::has(gsi)
}

/// Sends a line to a CPU; it is masked then.
pub(super) fn route(line: Line, vector: u8, cpu: u32) -> Result<(), Error> {
    let polarity = if line.active_low {
        Polarity::Low
    } else {
        Polarity::High
    };
    let trigger = if line.level_triggered {
        Trigger::Level
    } else {
        Trigger::Edge
    };
    // SAFETY: the vector has a handler, and is this line's alone.
    unsafe { ioapic::route(line.gsi, vector, target(cpu)?, polarity, trigger) }
        .map_err(|_| Error::NotSupported)
}

/// The message that raises `vector` on a CPU.
pub(super) fn message(vector: u8, cpu: u32) -> Result<Message, Error> {
    let (address, data) = msi::message(target(cpu)?, vector).ok_or(Error::NotSupported)?;
    Ok(Message {
        address,
        data: u64::from(data),
    })
}

/// Holds a line back, or no more.
pub(super) fn mask(gsi: u32, masked: bool) {
    // It fails only for lines that no controller has, and those are not made.
    let _ = if masked {
        ioapic::mask(gsi)
    } else {
        ioapic::unmask(gsi)
    };
}

/// The mask bit at a physical address, which is a device's and aligned.
pub(super) fn mask_bit(address: u64, bit: u32) -> Result<MaskBit, Error> {
    let offset = address % PAGE_BYTES;
    let page = PhysAddr::new(address - offset);
    let mut pages = PAGES.lock();
    let known = pages
        .iter()
        .flatten()
        .find_map(|(physical, at)| (*physical == page).then_some(*at));
    let at = if let Some(at) = known {
        at
    } else {
        let free = pages
            .iter_mut()
            .find(|entry| entry.is_none())
            .ok_or(Error::NoMemory)?;
        let at = kernel_space::map_device(page, PAGE_BYTES, Cache::Uncached)?;
        *free = Some((page, at));
        at
    };
    // SAFETY: the page is mapped so for ever; that it is a device's, and the address aligned, was checked.
    Ok(unsafe { MaskBit::new(at + offset, bit) })
}
