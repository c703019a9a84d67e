//! One boot, from an entry of the configuration to the kernel's first instruction.
//!
//! The order matters. All that can fail comes first ([`prepare`]), while a message and a way back to the firmware are still
//! possible: files, checks, memory. Responses are written then too. After the firmware has been left, two things remain
//! ([`Prepared::complete`]), neither of which allocates: the memory map, which is final only now, and the page tables, which
//! map what it lists. Then the hardware is brought to rest and the jump is made, which is not for this crate.

use crate::acpi::AcpiFacts;
use crate::addr::{Hhdm, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arena::Arena;
use crate::config::{Config, Entry};
use crate::elf::{PageRun, Plan};
use crate::error::{BootError, Fault, InFile};
use crate::front::{Block, Firmware, FrontEnd, LoadedFile, Screen};
use crate::hash;
use crate::map::{Overlay, draw, map_all, overlays, page_table_bytes};
use crate::memmap::{Kind, Region, capacity_for};
use crate::paging::{Access, Features, PageTables};
use crate::path::FilePath;
use crate::protocol::{BaseRevision, Feature, GDT, HHDM_BASE};
use crate::reloc;
use crate::request::Requests;
use crate::response::{self, EfiMapFacts, Facts, FileFacts, Late};
use crate::session::Session;
use alloc::vec::Vec;

/// Regions that the memory map can grow by between measuring and the kernel's start, with room to spare.
pub const MAP_GROWTH: usize = 64;
/// What the message names when not a file but the machine is at fault.
pub const MACHINE: &str = "this machine";
/// Where the kernel sees physical memory.
pub const HHDM: Hhdm = Hhdm(HHDM_BASE);

/// The kernel, loaded and relocated.
#[derive(Debug)]
pub struct Kernel<B> {
    file: LoadedFile<B>,
    /// Where everything of it goes.
    pub plan: Plan,
    /// The plan's pages by permission, worked out while there is a heap.
    pub runs: Vec<PageRun>,
    /// The block it lies in.
    pub image: B,
    requests: Requests,
    entry: VirtAddr,
    stack_bytes: u64,
}

/// All memory and facts that the time after the firmware needs.
#[derive(Debug)]
pub struct Prepared<B> {
    kernel: Kernel<B>,
    /// They stay where they are: the kernel owns them from its start on.
    _modules: Vec<LoadedFile<B>>,
    revision: BaseRevision,
    overlays: Vec<Overlay>,
    regions: Vec<Region>,
    features: Features,
    firmware: Firmware,
    keep_iommus: bool,
    late: Late,
    /// Parameters of the jump, GDT and responses.
    arena_used: usize,
    arena: B,
    tables: B,
    stack: B,
}

/// What the jump to the kernel needs.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The base revision that the kernel was given.
    pub revision: BaseRevision,
    /// Whether its tables have no-execute bits.
    pub no_execute: bool,
    /// Whether the kernel wants the IOMMUs as they are.
    pub keep_iommus: bool,
    /// A page for the jump itself. The transit tables show it at its own address.
    pub page: PhysAddr,
    /// CR3 of the transit tables: the kernel's, with the jump's code and its page at their own addresses.
    pub transit_cr3: PhysAddr,
    /// CR3 of the kernel's tables.
    pub kernel_cr3: PhysAddr,
    /// The GDT.
    pub gdt: VirtAddr,
    /// One past the stack's highest byte.
    pub stack_top: VirtAddr,
    /// The kernel's first instruction.
    pub entry: VirtAddr,
}

/// Loads `entry` and takes everything it will need.
///
/// # Errors
/// What went wrong and in which file. All memory taken has then been given back.
pub fn prepare<F: FrontEnd>(
    session: &mut Session<'_, F>,
    config: &Config,
    home: &F::Volume,
    entry: &Entry,
) -> Result<Prepared<F::Block>, BootError> {
    let kernel = load_kernel(session, config, home, entry)?;
    let modules = load_modules(session, config, home, entry)?;
    session.front.check_machine().in_file(MACHINE)?;
    let wants_screen = kernel.requests.has(Feature::Framebuffer);
    let screen = (wants_screen || entry.resolution.is_some())
        .then(|| session.front.screen(entry.resolution))
        .flatten();
    if wants_screen && screen.is_none() {
        session.progress(format_args!(
            "switchyard boot: no framebuffer on this machine"
        ));
    }
    let prepared = take_all(session.front, kernel, modules, screen, entry).in_file(MACHINE)?;
    let ticks = session.front.ticks();
    session.progress(format_args!(
        "switchyard boot: base revision {}, entry {:#x}, starting the kernel after {ticks} ticks",
        prepared.revision.number(),
        prepared.kernel.entry.0,
    ));
    Ok(prepared)
}

/// Reads a file whole; `text` is how the configuration names it.
fn load_file<F: FrontEnd>(
    front: &mut F,
    config: &Config,
    home: &F::Volume,
    path: &FilePath,
    text: &str,
) -> Result<LoadedFile<F::Block>, BootError> {
    // A hash is too long for a message, and says nothing to its reader.
    let text = text.split('#').next().unwrap_or(text);
    let loaded = front.read(home, path).in_file(text)?;
    if let Some(wanted) = &path.hash {
        match hash::check(loaded.contents(), wanted) {
            Err(fault) if config.hash_mismatch_panics => return Err(fault).in_file(text),
            Err(fault) => front.say(format_args!("switchyard boot: warning: {text}: {fault}")),
            Ok(()) => {}
        }
    }
    Ok(loaded)
}

fn load_kernel<F: FrontEnd>(
    session: &mut Session<'_, F>,
    config: &Config,
    home: &F::Volume,
    entry: &Entry,
) -> Result<Kernel<F::Block>, BootError> {
    let text = &entry.kernel_text;
    let mut file = load_file(session.front, config, home, &entry.kernel, text)?;
    file.facts.string.clone_from(&entry.cmdline);
    let plan = Plan::new(file.contents()).in_file(text)?;
    let mut image = session
        .front
        .pages(plan.size)
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
    session.progress(format_args!(
        "switchyard boot: kernel {text}: {} KiB at {:#x}, {} requests, wants base revision {}",
        plan.size / 1024,
        plan.virtual_base.0,
        requests.count(),
        requests.requested.unwrap_or(0)
    ));
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

fn load_modules<F: FrontEnd>(
    session: &mut Session<'_, F>,
    config: &Config,
    home: &F::Volume,
    entry: &Entry,
) -> Result<Vec<LoadedFile<F::Block>>, BootError> {
    let mut modules = Vec::new();
    for module in &entry.modules {
        let mut file = load_file(session.front, config, home, &module.path, &module.text)?;
        file.facts.string.clone_from(&module.string);
        session.progress(format_args!(
            "switchyard boot: module {}: {} bytes",
            module.text, file.facts.size
        ));
        modules.push(file);
    }
    Ok(modules)
}

/// Takes all memory that will be needed and writes all responses but the memory map's contents.
fn take_all<F: FrontEnd>(
    front: &mut F,
    mut kernel: Kernel<F::Block>,
    modules: Vec<LoadedFile<F::Block>>,
    screen: Option<Screen>,
    entry: &Entry,
) -> Result<Prepared<F::Block>, Fault> {
    let revision = kernel.requests.base;
    let snapshot = front.regions(revision)?;
    let firmware = front.firmware(&snapshot);
    let overlays = overlays(&kernel, &modules, screen.as_ref(), &firmware, revision);
    let map_capacity = capacity_for(snapshot.len() + MAP_GROWTH + overlays.len() + 1);

    let mut take = |bytes: u64, what: &'static str| {
        front.pages(bytes).ok_or(Fault::OutOfMemory { what, bytes })
    };
    let stack = take(kernel.stack_bytes, "the stack")?;
    let facts = Facts {
        loader: ("Switchyard boot", env!("CARGO_PKG_VERSION")),
        firmware: F::FIRMWARE,
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
        date: front.date(),
        image: (kernel.image.phys(), kernel.plan.virtual_base),
        hhdm: HHDM,
        map_capacity,
    };
    let mut take = |bytes: u64, what: &'static str| {
        front.pages(bytes).ok_or(Fault::OutOfMemory { what, bytes })
    };
    let arena_bytes = PAGE_SIZE + response::room_for(&facts) as u64 + size_of_val(&GDT) as u64;
    let mut arena = take(arena_bytes, "the boot information")?;
    let phys = arena.phys();
    let mut places = Arena::new(arena.bytes_mut(), phys, HHDM);
    // The first page is for the jump, the GDT follows: `complete` relies on both.
    places.take(PAGE_SIZE as usize, PAGE_SIZE as usize, "the jump")?;
    places.put_words(&GDT, "the GDT")?;
    let late = response::write(
        &kernel.requests,
        &facts,
        &mut places,
        kernel.image.bytes_mut(),
    )?;
    let arena_used = places.used();

    let features = front.paging_features();
    let table_bytes = page_table_bytes(&kernel, &snapshot, &overlays, revision, features)?;
    let tables = front.pages(table_bytes).ok_or(Fault::OutOfMemory {
        what: "page tables",
        bytes: table_bytes,
    })?;
    Ok(Prepared {
        revision,
        overlays,
        regions: alloc::vec![Region { base: 0, end: 0, kind: Kind::Usable }; map_capacity],
        features,
        firmware,
        keep_iommus: kernel.requests.has(Feature::KeepIommu),
        kernel,
        _modules: modules,
        late,
        arena_used,
        arena,
        tables,
        stack,
    })
}

impl<B: Block> Prepared<B> {
    /// The base revision that the kernel is given.
    #[must_use]
    pub fn revision(&self) -> BaseRevision {
        self.revision
    }

    /// What ACPI says of the machine.
    #[must_use]
    pub fn acpi(&self) -> &AcpiFacts {
        &self.firmware.acpi
    }

    /// Writes the memory map and the page tables. `firmware_map` is the firmware's last memory map, `efi_map` where it lies
    /// if it is one of UEFI's; `jump_code` is the page with the code that jumps, which has to be the loader's own memory.
    /// Allocates nothing.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`] if what was measured in [`prepare`] came out larger.
    pub fn complete(
        &mut self,
        firmware_map: impl Iterator<Item = Region>,
        efi_map: Option<EfiMapFacts>,
        jump_code: PhysAddr,
    ) -> Result<Start, Fault> {
        let page = self.arena.phys();
        let regions = draw(
            &mut self.regions,
            firmware_map,
            &self.overlays,
            self.revision,
        )?;
        let mut arena = Arena::reopen(self.arena.bytes_mut(), page, HHDM, self.arena_used);
        self.late.fill_map(&mut arena, regions.regions())?;
        if let Some(efi_map) = efi_map {
            self.late.fill_efi_map(&mut arena, HHDM, efi_map);
        }

        let tables_phys = self.tables.phys();
        let mut tables = PageTables::new(self.tables.bytes_mut(), tables_phys, self.features);
        let root = map_all(&mut tables, &self.kernel, regions.regions(), self.revision)?;
        let transit = tables.upper_half_of(root)?;
        for page in [page, jump_code] {
            tables.map(transit, VirtAddr(page.0), page, PAGE_SIZE, Access::DIRECT)?;
        }
        Ok(Start {
            revision: self.revision,
            no_execute: self.features.no_execute,
            keep_iommus: self.keep_iommus,
            page,
            transit_cr3: tables.cr3(transit),
            kernel_cr3: tables.cr3(root),
            gdt: HHDM.virt(PhysAddr(page.0 + PAGE_SIZE)),
            stack_top: HHDM.virt(PhysAddr(self.stack.phys().0 + self.stack.size())),
            entry: self.kernel.entry,
        })
    }
}
