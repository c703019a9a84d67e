//! One boot, from an entry of the configuration to the kernel's first instruction.
//!
//! The order matters. All that can fail comes first, while a message and a return to the firmware are still
//! possible: files, checks, memory. Responses are written then too. After boot services have ended only three things
//! are left, none of which allocates: the memory map, which is final only now; the page tables, which map what it
//! lists; and the quieting of hardware that the firmware used until a moment ago.

use crate::facts::{self, Firmware};
use crate::files::{self, LoadedFile, Volume};
use crate::handover;
use crate::map::{Overlay, draw, map_all, overlays, page_table_bytes};
use crate::memory::{Pages, Snapshot, kind_of};
use crate::screen::{self, Screen};
use crate::{console, progress, quiet};
use alloc::vec::Vec;
use boot_core::addr::{Hhdm, PAGE_SIZE, PhysAddr, VirtAddr};
use boot_core::arena::Arena;
use boot_core::config::{Config, Entry};
use boot_core::elf::{PageRun, Plan};
use boot_core::error::{BootError, Fault, InFile};
use boot_core::memmap::{Kind, Region, capacity_for};
use boot_core::paging::{Access, Features, PageTables};
use boot_core::protocol::{BaseRevision, Feature, HHDM_BASE};
use boot_core::reloc;
use boot_core::request::Requests;
use boot_core::response::{self, EfiMapFacts, Facts, FileFacts, Late};
use core::convert::Infallible;
use uefi::boot;
use uefi::mem::memory_map::{MemoryMap as _, MemoryMapOwned, MemoryType};

/// Descriptors that the memory map can grow by between measuring and the end of boot services, with room to spare.
pub const MAP_GROWTH: usize = 64;
/// What the message names when not a file but the machine is at fault.
const MACHINE: &str = "this machine";
/// 1 GiB.
pub const GIB: u64 = 1 << 30;
/// Where the kernel sees physical memory.
pub const HHDM: Hhdm = Hhdm(HHDM_BASE);

/// The kernel, loaded and relocated.
pub struct Kernel {
    file: LoadedFile,
    /// Where everything of it goes.
    pub plan: Plan,
    /// The plan's pages by permission, worked out while there is a heap.
    pub runs: Vec<PageRun>,
    /// The block it lies in.
    pub image: Pages,
    requests: Requests,
    entry: VirtAddr,
    stack_bytes: u64,
}

/// All memory and facts that the time after boot services needs.
struct Prepared {
    revision: BaseRevision,
    overlays: Vec<Overlay>,
    regions: Vec<Region>,
    features: Features,
    firmware: Firmware,
    keep_iommus: bool,
    late: Late,
    /// Parameters of the jump, GDT and responses.
    arena_used: usize,
    arena: Pages,
    tables: Pages,
    stack: Pages,
}

/// Boots `entry`.
///
/// # Errors
/// What went wrong and in which file. All memory taken has then been given back.
pub fn boot(config: &Config, home: &Volume, entry: &Entry) -> Result<Infallible, BootError> {
    let mut kernel = load_kernel(config, home, entry)?;
    let modules = load_modules(config, home, entry)?;
    if handover::firmware_has_five_levels() {
        return Err(Fault::FirmwarePaging).in_file(MACHINE);
    }
    let wants_screen = kernel.requests.has(Feature::Framebuffer);
    let screen = (wants_screen || entry.resolution.is_some())
        .then(|| screen::find(entry.resolution))
        .flatten();
    if wants_screen && screen.is_none() {
        progress!("switchyard boot: no framebuffer on this machine");
    }
    let prepared = prepare(&mut kernel, modules, screen, entry).in_file(MACHINE)?;
    progress!(
        "switchyard boot: base revision {}, entry {:#x}, starting the kernel after {} ticks",
        prepared.revision.number(),
        kernel.entry.0,
        crate::app::ticks()
    );
    // SAFETY: no protocol, event or pool string is held here; what the heap holds is used until the jump and never
    // freed. The console's flag is set below, before anything could print.
    let map = unsafe { boot::exit_boot_services(Some(MemoryType::LOADER_DATA)) };
    console::firmware_has_left();
    handover::disable_interrupts();
    finish(&kernel, prepared, &map)
}

fn load_kernel(config: &Config, home: &Volume, entry: &Entry) -> Result<Kernel, BootError> {
    let text = &entry.kernel_text;
    let mut file = files::load(config, home, &entry.kernel, text)?;
    file.facts.string.clone_from(&entry.cmdline);
    let plan = Plan::new(file.contents()).in_file(text)?;
    let mut image = Pages::new(plan.size)
        .ok_or(Fault::NoMemory { bytes: plan.size })
        .in_file(text)?;
    plan.load(file.contents(), image.bytes_mut())
        .in_file(text)?;
    reloc::apply(&plan, image.bytes_mut()).in_file(text)?;

    let requests = Requests::scan(&plan, image.bytes()).in_file(text)?;
    requests.check_paging_mode(image.bytes()).in_file(text)?;
    if entry.min_paging_levels.is_some_and(|levels| levels > 4) {
        return Err(Fault::PagingMode).in_file("limine.conf");
    }
    let start = requests.entry_point(&plan, image.bytes()).in_file(text)?;
    let stack_bytes = requests.stack_size(image.bytes()).in_file(text)?;
    progress!(
        "switchyard boot: kernel {text}: {} KiB at {:#x}, {} requests, wants base revision {}",
        plan.size / 1024,
        plan.virtual_base.0,
        requests.count(),
        requests.requested.unwrap_or(0)
    );
    Ok(Kernel {
        file,
        runs: plan.page_runs(),
        plan,
        image,
        requests,
        entry: start,
        stack_bytes,
    })
}

fn load_modules(
    config: &Config,
    home: &Volume,
    entry: &Entry,
) -> Result<Vec<LoadedFile>, BootError> {
    let mut modules = Vec::new();
    for module in &entry.modules {
        let mut file = files::load(config, home, &module.path, &module.text)?;
        file.facts.string.clone_from(&module.string);
        progress!(
            "switchyard boot: module {}: {} bytes",
            module.text,
            file.facts.size
        );
        modules.push(file);
    }
    Ok(modules)
}

/// Takes all memory that will be needed and writes all responses but the memory map's contents.
fn prepare(
    kernel: &mut Kernel,
    modules: Vec<LoadedFile>,
    screen: Option<Screen>,
    entry: &Entry,
) -> Result<Prepared, Fault> {
    let revision = kernel.requests.base;
    let snapshot = Snapshot::take(revision)?;
    let firmware = facts::gather(&snapshot);
    let overlays = overlays(kernel, &modules, screen.as_ref(), &firmware, revision);
    let map_capacity = capacity_for(snapshot.regions().len() + MAP_GROWTH + overlays.len() + 1);

    let stack = Pages::new(kernel.stack_bytes).ok_or(Fault::OutOfMemory {
        what: "the stack",
        bytes: kernel.stack_bytes,
    })?;
    let facts = Facts {
        loader: ("Switchyard boot", env!("CARGO_PKG_VERSION")),
        kernel: FileFacts {
            string: entry.cmdline.clone(),
            ..kernel.file.facts.clone()
        },
        modules: modules.iter().map(|m| m.facts.clone()).collect(),
        framebuffer: screen.map(|s| s.facts),
        rsdp: firmware.rsdp,
        smbios_32: firmware.smbios_32,
        smbios_64: firmware.smbios_64,
        system_table: firmware.system_table,
        date: facts::date(),
        image: (kernel.image.phys(), kernel.plan.virtual_base),
        hhdm: HHDM,
        map_capacity,
    };
    let arena_bytes =
        PAGE_SIZE + response::room_for(&facts) as u64 + size_of_val(&handover::GDT) as u64;
    let mut arena = Pages::new(arena_bytes).ok_or(Fault::OutOfMemory {
        what: "the boot information",
        bytes: arena_bytes,
    })?;
    let phys = arena.phys();
    let mut places = Arena::new(arena.bytes_mut(), phys, HHDM);
    // The first page is for the jump's parameters, the GDT follows: `finish` relies on both.
    places.take(PAGE_SIZE as usize, PAGE_SIZE as usize, "the jump")?;
    places.put_words(&handover::GDT, "the GDT")?;
    let late = response::write(
        &kernel.requests,
        &facts,
        &mut places,
        kernel.image.bytes_mut(),
    )?;
    let arena_used = places.used();

    let features = handover::paging_features();
    let table_bytes = page_table_bytes(kernel, &snapshot, &overlays, revision, features)?;
    let tables = Pages::new(table_bytes).ok_or(Fault::OutOfMemory {
        what: "page tables",
        bytes: table_bytes,
    })?;
    // From here on the kernel owns its modules.
    modules.into_iter().for_each(core::mem::forget);
    Ok(Prepared {
        revision,
        overlays,
        regions: alloc::vec![Region { base: 0, end: 0, kind: Kind::Usable }; map_capacity],
        features,
        firmware,
        keep_iommus: kernel.requests.has(Feature::KeepIommu),
        late,
        arena_used,
        arena,
        tables,
        stack,
    })
}

/// Everything after boot services: no allocation, no return.
fn finish(kernel: &Kernel, mut prepared: Prepared, map: &MemoryMapOwned) -> ! {
    match complete(kernel, &mut prepared, map) {
        // SAFETY: boot services have ended and interrupts are off. The page is the arena's first, which was taken for
        // this. It and the routine's page are loader memory: the transit tables were given both at their physical
        // addresses, and all tables show both in the direct map, as bootloader-reclaimable memory, with all rights.
        // Stack, GDT and image lie in memory that the kernel's tables map.
        Ok(parameters) => unsafe { handover::jump(prepared.arena.phys(), parameters) },
        Err(fault) => {
            console::emergency(format_args!("switchyard boot: error: {MACHINE}: {fault}\n"));
            console::halt_or_reset()
        }
    }
}

fn complete(
    kernel: &Kernel,
    prepared: &mut Prepared,
    map: &MemoryMapOwned,
) -> Result<handover::Parameters, Fault> {
    let revision = prepared.revision;
    let phys = prepared.arena.phys();
    let descriptors = map.entries().map(|d| Region {
        base: d.phys_start,
        end: d
            .phys_start
            .saturating_add(d.page_count.saturating_mul(PAGE_SIZE)),
        kind: kind_of(d).kind(revision),
    });
    let regions = draw(
        &mut prepared.regions,
        descriptors,
        &prepared.overlays,
        revision,
    )?;
    let mut arena = Arena::reopen(prepared.arena.bytes_mut(), phys, HHDM, prepared.arena_used);
    prepared.late.fill_map(&mut arena, regions.regions())?;
    let meta = map.meta();
    let efi_map = EfiMapFacts {
        address: PhysAddr(map.buffer().as_ptr() as u64),
        size: meta.map_size as u64,
        descriptor_size: meta.desc_size as u64,
        descriptor_version: meta.desc_version.into(),
    };
    prepared.late.fill_efi_map(&mut arena, HHDM, efi_map);

    let tables_phys = prepared.tables.phys();
    let mut tables = PageTables::new(prepared.tables.bytes_mut(), tables_phys, prepared.features);
    let root = map_all(&mut tables, kernel, regions.regions(), revision)?;
    let transit = tables.upper_half_of(root)?;
    for page in [phys, handover::routine_page()] {
        tables.map(transit, VirtAddr(page.0), page, PAGE_SIZE, Access::DIRECT)?;
    }

    let acpi = &prepared.firmware.acpi;
    quiet::mask_pics();
    quiet::mask_io_apics(acpi, revision.strict_machine_state());
    if revision.strict_machine_state() {
        quiet::init_local_apic(acpi);
        if !prepared.keep_iommus {
            quiet::disable_iommus(acpi);
        }
    }

    let gdt = HHDM.virt(PhysAddr(phys.0 + PAGE_SIZE));
    let top = HHDM.virt(PhysAddr(prepared.stack.phys().0 + prepared.stack.size()));
    let mut parameters = handover::parameters(phys, HHDM, gdt, kernel.entry, top);
    parameters.transit_cr3 = tables.cr3(transit).0;
    parameters.kernel_cr3 = tables.cr3(root).0;
    (parameters.cr0, parameters.cr4, parameters.efer) =
        handover::control_registers(revision, prepared.features.no_execute);
    Ok(parameters)
}
