//! The MADT: which CPUs and interrupt controllers there are (ACPI 6.5 §5.2.12).
//!
//! Every entry is checked when a [`Madt`] is made, because the `acpi` crate's iterator believes the lengths that it
//! finds. After that the iterators can't fail. There is no table of CPUs: duplicates (firmware that lists a CPU both as
//! xAPIC and as x2APIC entry) are found by looking back through the entries before, which is quadratic, and a matter of
//! microseconds for hundreds of CPUs.

use core::pin::Pin;

use acpi::madt::{self as layout, MadtEntry};

use super::acpi::{AcpiError, HEADER_BYTES, signature};
use crate::addr::{ApicId, PhysAddr};

/// Bytes before the first entry.
const FIXED_BYTES: usize = HEADER_BYTES + 8;
/// Bit 0 of a CPU entry's flags: this CPU is there and may be used.
const ENABLED: u32 = 1;
/// The xAPIC id that means "all": no CPU has it.
const XAPIC_BROADCAST: u8 = 0xFF;
/// The x2APIC id that means "all".
const X2APIC_BROADCAST: u32 = u32::MAX;
/// The bus number of ISA in an override.
const BUS_ISA: u8 = 0;

/// At which level an interrupt line is active.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polarity {
    /// Active high: ISA's way.
    High,
    /// Active low: PCI's way.
    Low,
}

/// What on an interrupt line counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// The change to active: ISA's way.
    Edge,
    /// Being active: PCI's way.
    Level,
}

/// A CPU that the firmware lists as enabled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// Its local APIC's id.
    pub apic_id: ApicId,
    /// Its number in the firmware's own naming.
    pub uid: u32,
}

/// An I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApicEntry {
    /// Its id; it says nothing about the order.
    pub id: u8,
    /// Where its registers are.
    pub registers: PhysAddr,
    /// The global system interrupt of its first input.
    pub gsi_base: u32,
}

/// Where an interrupt line enters the I/O APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// The global system interrupt.
    pub gsi: u32,
    /// When it is active.
    pub polarity: Polarity,
    /// What of it counts.
    pub trigger: Trigger,
}

/// A checked MADT.
#[derive(Clone, Copy)]
pub struct Madt {
    table: Pin<&'static layout::Madt>,
}

/// The least length of an entry of this kind: what the crate's type for it reads. Kinds that it doesn't know are skipped
/// by it, and need no more than their head.
fn least_length(kind: u8) -> usize {
    match kind {
        0x0 => size_of::<layout::LocalApicEntry>(),
        0x1 => size_of::<layout::IoApicEntry>(),
        0x2 => size_of::<layout::InterruptSourceOverrideEntry>(),
        0x3 => size_of::<layout::NmiSourceEntry>(),
        0x4 => size_of::<layout::LocalApicNmiEntry>(),
        0x5 => size_of::<layout::LocalApicAddressOverrideEntry>(),
        0x6 => size_of::<layout::IoSapicEntry>(),
        0x7 => size_of::<layout::LocalSapicEntry>(),
        0x8 => size_of::<layout::PlatformInterruptSourceEntry>(),
        0x9 => size_of::<layout::LocalX2ApicEntry>(),
        0xA => size_of::<layout::X2ApicNmiEntry>(),
        0xB => size_of::<layout::GiccEntry>(),
        0xC => size_of::<layout::GicdEntry>(),
        0xD => size_of::<layout::GicMsiFrameEntry>(),
        0xE => size_of::<layout::GicRedistributorEntry>(),
        0xF => size_of::<layout::GicInterruptTranslationServiceEntry>(),
        0x10 => size_of::<layout::MultiprocessorWakeupEntry>(),
        _ => size_of::<layout::EntryHeader>(),
    }
}

impl Madt {
    /// Checks a whole table, whose length and checksum were found right.
    ///
    /// # Errors
    /// It is shorter than its fixed part, or an entry's length can't be.
    pub(super) fn new(bytes: &'static [u8]) -> Result<Madt, AcpiError> {
        if bytes.len() < FIXED_BYTES {
            return Err(AcpiError::Length(signature::MADT, bytes.len() as u32));
        }
        let mut offset = FIXED_BYTES;
        while offset < bytes.len() {
            let kind = bytes[offset];
            let length = bytes.get(offset + 1).copied().unwrap_or(0);
            if (length as usize) < least_length(kind) || length as usize > bytes.len() - offset {
                return Err(AcpiError::MadtEntry {
                    offset,
                    kind,
                    length,
                });
            }
            offset += length as usize;
        }
        const { assert!(size_of::<layout::Madt>() == FIXED_BYTES && align_of::<layout::Madt>() == 1) };
        // SAFETY: the bytes stay for good and are as many as the table's header says (they were cut by it); the
        // structure is packed, made of integers, and no longer than they are. The table never moves.
        let table = unsafe { Pin::new_unchecked(&*bytes.as_ptr().cast::<layout::Madt>()) };
        Ok(Madt { table })
    }

    /// Where the local APICs' registers are in xAPIC mode, as the table has it. (The CPU's own IA32_APIC_BASE decides.)
    #[must_use]
    pub fn local_apic(&self) -> PhysAddr {
        let wide = self.table.entries().find_map(|entry| match entry {
            MadtEntry::LocalApicAddressOverride(entry) => Some(entry.local_apic_address),
            _ => None,
        });
        PhysAddr::new_truncate(wide.unwrap_or(u64::from(self.table.local_apic_address)))
    }

    /// Whether the machine has a pair of 8259 interrupt controllers, which must be masked.
    #[must_use]
    pub fn has_pic(&self) -> bool {
        self.table.supports_8259()
    }

    /// Every CPU entry that is enabled and has an id of its own, duplicates included.
    fn enabled(&self) -> impl Iterator<Item = Cpu> + '_ {
        self.table.entries().filter_map(|entry| match entry {
            MadtEntry::LocalApic(entry)
                if entry.flags & ENABLED != 0 && entry.apic_id != XAPIC_BROADCAST =>
            {
                Some(Cpu {
                    apic_id: ApicId(u32::from(entry.apic_id)),
                    uid: u32::from(entry.processor_id),
                })
            }
            MadtEntry::LocalX2Apic(entry)
                if entry.flags & ENABLED != 0 && entry.x2apic_id != X2APIC_BROADCAST =>
            {
                Some(Cpu {
                    apic_id: ApicId(entry.x2apic_id),
                    uid: entry.processor_uid,
                })
            }
            _ => None,
        })
    }

    /// Every enabled CPU, once, in the table's order, the CPU that booted among them.
    pub fn cpus(&self) -> impl Iterator<Item = Cpu> + '_ {
        self.enabled().enumerate().filter_map(|(index, cpu)| {
            let listed_before = self
                .enabled()
                .take(index)
                .any(|earlier| earlier.apic_id == cpu.apic_id);
            (!listed_before).then_some(cpu)
        })
    }

    /// Every I/O APIC.
    pub fn io_apics(&self) -> impl Iterator<Item = IoApicEntry> + '_ {
        self.table.entries().filter_map(|entry| match entry {
            MadtEntry::IoApic(entry) => Some(IoApicEntry {
                id: entry.io_apic_id,
                registers: PhysAddr::new(u64::from(entry.io_apic_address)),
                gsi_base: entry.global_system_interrupt_base,
            }),
            _ => None,
        })
    }

    /// Where ISA line `line` (0 to 15) enters the I/O APICs: where an override puts it, else at the global system
    /// interrupt of the same number, active high and edge-triggered (ACPI 6.5 §5.2.12.5).
    ///
    /// # Errors
    /// The line's override has reserved flags.
    pub fn isa_to_gsi(&self, line: u8) -> Result<Line, AcpiError> {
        let found = self.table.entries().find_map(|entry| match entry {
            MadtEntry::InterruptSourceOverride(entry)
                if entry.bus == BUS_ISA && entry.irq == line =>
            {
                Some((entry.global_system_interrupt, entry.flags))
            }
            _ => None,
        });
        let (gsi, flags) = found.unwrap_or((u32::from(line), 0));
        let reserved = AcpiError::OverrideFlags { line, flags };
        let polarity = match flags & 0b11 {
            0b00 | 0b01 => Polarity::High,
            0b11 => Polarity::Low,
            _ => return Err(reserved),
        };
        let trigger = match flags >> 2 & 0b11 {
            0b00 | 0b01 => Trigger::Edge,
            0b11 => Trigger::Level,
            _ => return Err(reserved),
        };
        Ok(Line {
            gsi,
            polarity,
            trigger,
        })
    }
}
