//! What physical memory is and where the kernel sees it: the memory map from the firmware's descriptors and what lies
//! on top of them, and the page tables from the memory map.
//!
//! Both are done twice: once to measure, from a snapshot, while there is still a heap, and once for good after the firmware
//! has been left, when nothing may be allocated.

use crate::acpi::Extent;
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::error::Fault;
use crate::front::{Block, Firmware, LoadedFile, Screen};
use crate::load::{HHDM, Kernel, MAP_GROWTH};
use crate::memmap::{Kind, MemoryMap, Paint, Region, capacity_for};
use crate::paging::{Access, Features, PageTables, Root, tables_for};
use crate::protocol::{BaseRevision, HHDM_LIMIT};
use alloc::vec::Vec;

/// 1 GiB.
const GIB: u64 = 1 << 30;

/// Stretches to be painted over the firmware's map.
#[derive(Clone, Copy, Debug)]
pub struct Overlay {
    /// Where.
    pub extent: Extent,
    /// As what.
    pub kind: Kind,
    /// How it meets what is there.
    pub paint: Paint,
}

/// Collects them: kernel, modules, framebuffer, and the tables that the base revision promises to be mapped.
pub fn overlays<B: Block>(
    kernel: &Kernel<B>,
    modules: &[LoadedFile<B>],
    screen: Option<&Screen>,
    firmware: &Firmware,
    revision: BaseRevision,
) -> Vec<Overlay> {
    let pages = |pages: &B| Overlay {
        extent: Extent {
            base: pages.phys(),
            length: pages.size(),
        },
        kind: Kind::ExecutableAndModules,
        paint: Paint::ByKind,
    };
    let mut overlays = Vec::new();
    overlays.push(pages(&kernel.image));
    overlays.extend(modules.iter().map(|m| pages(&m.pages)));
    overlays.extend(screen.map(|s| Overlay {
        extent: Extent {
            base: s.facts.address,
            length: s.bytes,
        },
        kind: Kind::Framebuffer,
        paint: Paint::ByKind,
    }));
    let mapped = |extent: &Extent, paint| Overlay {
        extent: *extent,
        kind: Kind::ReservedMapped,
        paint,
    };
    if revision.maps_acpi_tables() {
        overlays.extend(
            firmware
                .acpi
                .tables
                .iter()
                .map(|t| mapped(t, Paint::NotOverAcpi)),
        );
    }
    if revision.maps_firmware_tables() {
        overlays.extend(firmware.extents.iter().map(|t| mapped(t, Paint::ByKind)));
    }
    overlays
}

/// Draws the map of everything: the firmware's regions, then the overlays.
///
/// # Errors
/// [`Fault::ArenaFull`] if `room` does not suffice.
pub fn draw<'r>(
    room: &'r mut [Region],
    firmware: impl Iterator<Item = Region>,
    overlays: &[Overlay],
    revision: BaseRevision,
) -> Result<MemoryMap<'r>, Fault> {
    let mut map = MemoryMap::new(room);
    for region in firmware {
        map.add(
            region.base,
            region.end - region.base,
            region.kind,
            Paint::ByKind,
        )?;
    }
    for o in overlays {
        map.add(o.extent.base.0, o.extent.length, o.kind, o.paint)?;
    }
    map.reserve_page_zero(revision)?;
    Ok(map)
}

/// The runs of physical memory that the direct map shows: neighbours of any mapped kind joined, framebuffers apart.
fn for_each_direct_run(
    regions: &[Region],
    revision: BaseRevision,
    mut f: impl FnMut(u64, u64, Access) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut open: Option<(u64, u64, Access)> = None;
    for region in regions {
        // What lies too high for the direct map is devices' address space; memory there is refused beforehand.
        if !region.kind.in_hhdm(revision) || region.end > HHDM_LIMIT {
            continue;
        }
        let access = if region.kind == Kind::Framebuffer {
            Access::FRAMEBUFFER
        } else {
            Access::DIRECT
        };
        open = match open {
            Some((base, end, a)) if end == region.base && a == access => {
                Some((base, region.end, access))
            }
            Some((base, end, a)) => {
                f(base, end, a)?;
                Some((region.base, region.end, access))
            }
            None => Some((region.base, region.end, access)),
        };
    }
    open.map_or(Ok(()), |(base, end, access)| f(base, end, access))
}

/// Bytes of page tables that can be needed at most.
///
/// # Errors
/// [`Fault::PhysicalTooHigh`] for memory that the direct map has no room for.
pub fn page_table_bytes<B>(
    kernel: &Kernel<B>,
    snapshot: &[Region],
    overlays: &[Overlay],
    revision: BaseRevision,
    features: Features,
) -> Result<u64, Fault> {
    let inputs = snapshot.len() + overlays.len() + 1;
    let mut room =
        alloc::vec![Region { base: 0, end: 0, kind: Kind::Usable }; capacity_for(inputs)];
    let map = draw(&mut room, snapshot.iter().copied(), overlays, revision)?;
    let memory = |r: &&Region| matches!(r.kind, Kind::Usable | Kind::BootloaderReclaimable);
    if let Some(high) = map
        .regions()
        .iter()
        .rfind(memory)
        .filter(|r| r.end > HHDM_LIMIT)
    {
        return Err(Fault::PhysicalTooHigh { end: high.end });
    }
    let base = kernel.plan.virtual_base;
    // Two roots, three tables for each of the two transit pages, the kernel's image.
    let mut tables = 8 + tables_for(base, kernel.plan.size, PAGE_SIZE, false);
    let mut count = |base: u64, end: u64| {
        tables += tables_for(
            HHDM.virt(PhysAddr(base)),
            end - base,
            GIB,
            features.gib_pages,
        );
        if revision.has_identity_map() {
            tables += tables_for(VirtAddr(base), end - base, GIB, features.gib_pages);
        }
    };
    if revision.maps_first_4_gib() {
        count(0, 4 * GIB);
    }
    for_each_direct_run(map.regions(), revision, |base, end, _| {
        count(base, end);
        Ok(())
    })?;
    // A descriptor that changes in the meantime can split a run in two; each end of a run needs three tables at
    // most.
    tables += MAP_GROWTH as u64 * 3;
    Ok(tables * PAGE_SIZE)
}

/// Builds the kernel's tables. Returns its root.
///
/// # Errors
/// [`Fault::ArenaFull`] if the tables' memory does not suffice.
pub fn map_all<B: Block>(
    tables: &mut PageTables<'_>,
    kernel: &Kernel<B>,
    regions: &[Region],
    revision: BaseRevision,
) -> Result<Root, Fault> {
    let root = tables.new_root()?;
    let mut direct = |base: u64, end: u64, access| {
        let phys = PhysAddr(base);
        tables.map(root, HHDM.virt(phys), phys, end - base, access)?;
        if revision.has_identity_map() {
            // Page 0 stays out, so that null pointers fault (Limine PROTOCOL, Memory Layout at Entry).
            let base = base.max(PAGE_SIZE);
            if base < end {
                tables.map(root, VirtAddr(base), PhysAddr(base), end - base, access)?;
            }
        }
        Ok(())
    };
    if revision.maps_first_4_gib() {
        direct(0, 4 * GIB, Access::DIRECT)?;
    }
    for_each_direct_run(regions, revision, &mut direct)?;
    for run in &kernel.runs {
        let access = Access {
            write: run.writable,
            execute: run.executable,
            ..Access::DIRECT
        };
        let virt = VirtAddr(kernel.plan.virtual_base.0 + run.offset);
        let phys = PhysAddr(kernel.image.phys().0 + run.offset);
        tables.map(root, virt, phys, run.length, access)?;
    }
    Ok(root)
}
