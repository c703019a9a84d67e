//! The firmware's memory map in the protocol's terms.
//!
//! Firmware gives descriptors in any order, and may let them overlap; on top of them come the places where this
//! loader put the kernel and its modules, the framebuffer, and the tables that a base revision promises to be
//! mapped. The protocol wants one sorted list in which usable and reclaimable memory is page-aligned and overlaps
//! nothing (Limine PROTOCOL, Memory Map Feature). Here no two entries of any type overlap: each region is painted
//! onto the map, and where two meet the one with more to lose wins (see [`Kind`]'s order).
//!
//! It runs after the firmware's allocator is gone, so it works in a slice it is given. No boundary is ever made that
//! was not one of the input's, so twice the number of inputs is always room enough ([`capacity_for`]).

use crate::addr::{PAGE_SIZE, page_down, page_up};
use crate::error::Fault;
use crate::protocol::BaseRevision;

/// What a region is, by how firmly it holds its place: a later one wins over an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Free memory.
    Usable,
    /// Memory that the kernel may take once it needs nothing of the loader's any more.
    BootloaderReclaimable,
    /// ACPI tables, free once read.
    AcpiReclaimable,
    /// ACPI's own storage.
    AcpiNvs,
    /// Not memory, or not ours.
    Reserved,
    /// Broken memory.
    BadMemory,
    /// Reserved, but in the direct map (base revision 4 and later).
    ReservedMapped,
    /// Kernel and modules.
    ExecutableAndModules,
    /// A framebuffer.
    Framebuffer,
}

impl Kind {
    /// Its number in the protocol (`LIMINE_MEMMAP_*`).
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Usable => 0,
            Self::Reserved => 1,
            Self::AcpiReclaimable => 2,
            Self::AcpiNvs => 3,
            Self::BadMemory => 4,
            Self::BootloaderReclaimable => 5,
            Self::ExecutableAndModules => 6,
            Self::Framebuffer => 7,
            Self::ReservedMapped => 8,
        }
    }

    /// Whether the direct map covers regions of this kind (Limine PROTOCOL, Memory Layout at Entry).
    #[must_use]
    pub const fn in_hhdm(self, revision: BaseRevision) -> bool {
        match self {
            Self::Usable
            | Self::BootloaderReclaimable
            | Self::ExecutableAndModules
            | Self::Framebuffer => true,
            Self::AcpiReclaimable | Self::AcpiNvs | Self::ReservedMapped => {
                revision.maps_acpi_tables() || revision.number() < 3
            }
            Self::Reserved | Self::BadMemory => revision.has_identity_map(),
        }
    }
}

/// A stretch of physical memory of one kind, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub base: u64,
    /// One past the last byte.
    pub end: u64,
    /// What it is.
    pub kind: Kind,
}

/// What UEFI says a descriptor is (UEFI specification 2.10 §7.2, EFI_MEMORY_TYPE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareKind {
    /// The loader's own code and data.
    Loader,
    /// The firmware's, until boot services end.
    BootServices,
    /// The firmware's for good.
    RuntimeServices,
    /// ACPI tables.
    AcpiReclaim,
    /// ACPI storage.
    AcpiNvs,
    /// Free.
    Conventional,
    /// Anything else.
    Other,
}

impl FirmwareKind {
    /// The protocol's kind for it (Limine PROTOCOL, EFI Memory Map Entry Type to Limine Memory Map Type).
    #[must_use]
    pub const fn kind(self, revision: BaseRevision) -> Kind {
        match self {
            Self::Loader | Self::BootServices => Kind::BootloaderReclaimable,
            Self::RuntimeServices if revision.maps_firmware_tables() => Kind::ReservedMapped,
            Self::RuntimeServices | Self::Other => Kind::Reserved,
            Self::AcpiReclaim => Kind::AcpiReclaimable,
            Self::AcpiNvs => Kind::AcpiNvs,
            Self::Conventional => Kind::Usable,
        }
    }
}

/// How a region is put onto what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Wins over every kind that comes before its own in [`Kind`]'s order.
    ByKind,
    /// As above, but leaves ACPI memory alone, which is mapped already: for ACPI tables that the firmware keeps
    /// elsewhere.
    NotOverAcpi,
    /// Only where nothing or usable memory is: for page 0.
    OverUsable,
}

impl Paint {
    fn wins(self, new: Kind, old: Kind) -> bool {
        match self {
            Self::ByKind => new > old,
            Self::NotOverAcpi => new > old && !matches!(old, Kind::AcpiReclaimable | Kind::AcpiNvs),
            Self::OverUsable => old == Kind::Usable,
        }
    }
}

/// Regions that a map made from `inputs` regions can have at most.
#[must_use]
pub const fn capacity_for(inputs: usize) -> usize {
    2 * inputs + 1
}

/// A map under construction: sorted, without overlap, whole pages.
#[derive(Debug)]
pub struct MemoryMap<'a> {
    room: &'a mut [Region],
    used: usize,
}

const FULL: Fault = Fault::ArenaFull {
    what: "the memory map",
};

impl<'a> MemoryMap<'a> {
    /// An empty map that will be kept in `room`.
    pub fn new(room: &'a mut [Region]) -> Self {
        Self { room, used: 0 }
    }

    /// The regions, by address.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.room[..self.used]
    }

    /// Puts `length` bytes from `base` onto the map. Free memory shrinks to whole pages, all else grows to them;
    /// what runs past the end of the address space is cut there.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`] if there is no room for another region.
    pub fn add(&mut self, base: u64, length: u64, kind: Kind, paint: Paint) -> Result<(), Fault> {
        let end = base.saturating_add(length);
        let (base, end) = match kind {
            Kind::Usable | Kind::BootloaderReclaimable => match page_up(base) {
                Some(base) => (base, page_down(end)),
                None => return Ok(()),
            },
            _ => (page_down(base), page_up(end).unwrap_or(page_down(end))),
        };
        if length == 0 || base >= end {
            return Ok(());
        }
        self.paint(Region { base, end, kind }, paint)
    }

    /// Makes page 0 reserved if it is usable, as base revisions below 3 promise.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`].
    pub fn reserve_page_zero(&mut self, revision: BaseRevision) -> Result<(), Fault> {
        let usable = self
            .regions()
            .first()
            .is_some_and(|r| r.base == 0 && r.kind == Kind::Usable);
        if usable && !revision.page_zero_usable() {
            self.add(0, PAGE_SIZE, Kind::Reserved, Paint::OverUsable)?;
        }
        Ok(())
    }

    fn paint(&mut self, new: Region, how: Paint) -> Result<(), Fault> {
        let mut at = new.base;
        let mut index = self.regions().partition_point(|r| r.end <= at);
        while at < new.end {
            let piece_end;
            match self.regions().get(index).copied() {
                Some(old) if old.base <= at => {
                    piece_end = old.end.min(new.end);
                    if how.wins(new.kind, old.kind) {
                        index = self.replace(
                            index,
                            Region {
                                base: at,
                                end: piece_end,
                                kind: new.kind,
                            },
                        )?;
                    }
                }
                next => {
                    piece_end = next.map_or(new.end, |r| r.base.min(new.end));
                    self.insert(
                        index,
                        Region {
                            base: at,
                            end: piece_end,
                            kind: new.kind,
                        },
                    )?;
                }
            }
            at = piece_end;
            index += 1;
        }
        self.merge();
        Ok(())
    }

    /// Cuts `piece` out of the region at `index`, which holds it, and puts it there. Returns the piece's index.
    fn replace(&mut self, index: usize, piece: Region) -> Result<usize, Fault> {
        let old = self.room[index];
        let mut at = index;
        if old.base < piece.base {
            self.room[index].end = piece.base;
            at += 1;
            self.insert(at, piece)?;
        } else {
            self.room[index] = piece;
        }
        if piece.end < old.end {
            self.insert(
                at + 1,
                Region {
                    base: piece.end,
                    ..old
                },
            )?;
        }
        Ok(at)
    }

    fn insert(&mut self, index: usize, region: Region) -> Result<(), Fault> {
        if self.used == self.room.len() {
            // Neighbours of one kind may be waiting to be joined, but joining here would move `index`.
            return Err(FULL);
        }
        self.room.copy_within(index..self.used, index + 1);
        self.room[index] = region;
        self.used += 1;
        Ok(())
    }

    fn merge(&mut self) {
        let mut kept = 0;
        for n in 0..self.used {
            let region = self.room[n];
            if kept > 0
                && self.room[kept - 1].end == region.base
                && self.room[kept - 1].kind == region.kind
            {
                self.room[kept - 1].end = region.end;
            } else {
                self.room[kept] = region;
                kept += 1;
            }
        }
        self.used = kept;
    }
}

#[cfg(test)]
#[path = "memmap_tests.rs"]
mod tests;
