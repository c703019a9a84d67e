//! Memory: pages from the firmware, and physical memory read in place.
//!
//! UEFI runs with physical memory at its own addresses (UEFI specification 2.10 §2.3.4), so a page's address is its
//! physical address. Pages are given back when a boot fails; when it succeeds nothing is, since the jump to the
//! kernel never returns.

use crate::app::status_text;
use alloc::vec::Vec;
use boot_core::acpi::PhysMemory;
use boot_core::addr::{PAGE_SIZE, PhysAddr, pages_for};
use boot_core::error::Fault;
use boot_core::front::Block;
use boot_core::memmap::{FirmwareKind, Region};
use boot_core::protocol::BaseRevision;
use core::ptr::NonNull;
use uefi::boot::{self, AllocateType};
use uefi::mem::memory_map::{MemoryDescriptor, MemoryMap, MemoryType};

/// Whole pages of loader data, zeroed.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    count: usize,
}

impl Pages {
    /// Takes pages for `bytes` bytes, at least one.
    ///
    /// # Errors
    /// `None` if there is not enough memory in one piece.
    pub fn new(bytes: u64) -> Option<Self> {
        let count = usize::try_from(pages_for(bytes).max(1)).ok()?;
        let start =
            boot::allocate_pages(AllocateType::AnyPages, MemoryType::LOADER_DATA, count).ok()?;
        let mut pages = Self { start, count };
        pages.bytes_mut().fill(0);
        Some(pages)
    }
}

impl Block for Pages {
    fn phys(&self) -> PhysAddr {
        PhysAddr(self.start.as_ptr() as u64)
    }

    fn size(&self) -> u64 {
        self.count as u64 * PAGE_SIZE
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the firmware gave `count` pages at `start` to this value alone, `new` initialised them, and the
        // borrow of `self` keeps writers away.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.count * PAGE_SIZE as usize) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the exclusive borrow of `self` keeps all others away. Any bytes the firmware left
        // there are valid `u8`.
        unsafe {
            core::slice::from_raw_parts_mut(self.start.as_ptr(), self.count * PAGE_SIZE as usize)
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the pages came from `allocate_pages` with this count, and nothing borrows them any more. A failure
        // would mean the firmware lost track of them; there is nothing to be done about it.
        let _ = unsafe { boot::free_pages(self.start, self.count) };
    }
}

/// What the firmware calls a descriptor, in the core's words.
pub fn kind_of(descriptor: &MemoryDescriptor) -> FirmwareKind {
    match descriptor.ty {
        MemoryType::LOADER_CODE | MemoryType::LOADER_DATA => FirmwareKind::Loader,
        MemoryType::BOOT_SERVICES_CODE | MemoryType::BOOT_SERVICES_DATA => {
            FirmwareKind::BootServices
        }
        MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA => {
            FirmwareKind::RuntimeServices
        }
        MemoryType::ACPI_RECLAIM => FirmwareKind::AcpiReclaim,
        MemoryType::ACPI_NON_VOLATILE => FirmwareKind::AcpiNvs,
        MemoryType::CONVENTIONAL => FirmwareKind::Conventional,
        _ => FirmwareKind::Other,
    }
}

/// The firmware's memory map as it is now: good for measuring, stale with the next allocation.
///
/// # Errors
/// [`Fault::Firmware`].
pub fn snapshot(revision: BaseRevision) -> Result<Vec<Region>, Fault> {
    let map = boot::memory_map(MemoryType::LOADER_DATA).map_err(|e| Fault::Firmware {
        what: "give its memory map",
        status: status_text(&e),
    })?;
    let region = |d: &MemoryDescriptor| Region {
        base: d.phys_start,
        end: d
            .phys_start
            .saturating_add(d.page_count.saturating_mul(PAGE_SIZE)),
        kind: kind_of(d).kind(revision),
    };
    Ok(map.entries().map(region).collect())
}

/// What the firmware's page tables show: the first 4 GiB and what is in its memory map.
pub struct Mapped<'a>(pub &'a [Region]);

impl PhysMemory for Mapped<'_> {
    /// Firmware maps what its memory map lists, and the first 4 GiB, at physical addresses. Anything else a broken
    /// table may point to is refused rather than touched.
    fn bytes(&self, at: PhysAddr, length: u64) -> Option<&[u8]> {
        let end = at.0.checked_add(length)?;
        let listed = |r: &Region| r.base <= at.0 && end <= r.end;
        if at.0 == 0 || (end > 1 << 32 && !self.0.iter().any(listed)) {
            return None;
        }
        // SAFETY: the range is not null and is mapped, as said above. It holds firmware tables, which nobody writes
        // while a boot application runs; any byte is a valid `u8`.
        Some(unsafe {
            core::slice::from_raw_parts(at.0 as *const u8, usize::try_from(length).ok()?)
        })
    }
}
