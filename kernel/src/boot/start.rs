//! The boot sequence on the first CPU.

use core::fmt::Display;
use core::ops::Range;
use core::ptr::NonNull;

use abi::Error;
use abi::info::{FramebufferInfo, MachineInfo};
use arch::addr::PhysAddr;
use arch::cpu::{block, cpu_init, detect, features, halt_forever, install_boot_block};
use arch::memory::phys_to_virt;
use arch::mitigations::decisions;
use arch::platform::acpi::Tables;
use arch::platform::apic_registers::Mode;
use arch::platform::{Cache, PhysicalMap, apic, ioapic, pic, power, serial};
use arch::{fpu, paging, time, user_copy};
use spin::Once;

use super::command_line::{self, option};
use super::protocol::{self, Answers, Extent, MemoryMap};
use super::{entry, first_process, flaws, heap, on_purpose, smp};
use crate::irq::Line;
use crate::landing;
use crate::machine::{self, Facts};
use crate::memory::kernel_space::{self, KernelImage};
use crate::memory::map::{MemoryKind, MemoryRange};
use crate::memory::{PAGE_BYTES, frames};
use crate::memory::{prepared, stacks};
use crate::schedule;
use crate::{cpu, log, log_owner, panic, symbols};

/// Long enough for an NMI to arrive, also in an emulator.
const STOP_NS: u64 = 10_000_000;

/// What ends QEMU when there is nothing to run: not a kernel bug, so another code than a panic's.
const NOTHING_TO_RUN: u8 = 0x21;

/// What the second half of the sequence needs of the first.
struct Boot {
    answers: Answers,
    map: MemoryMap,
    tables: Option<Tables<'static>>,
    trampoline: Option<PhysAddr>,
}

// SAFETY: it is handed from the first CPU to itself, across a change of stacks.
unsafe impl Sync for Boot {}
// SAFETY: as above.
unsafe impl Send for Boot {}

static BOOT: Once<Boot> = Once::new();

/// Ends the boot for a reason that is no bug of the kernel's: says why, on all devices.
pub fn give_up(why: &dyn Display) -> ! {
    arch::cpu::disable_interrupts();
    log::untake();
    ::log::error!("switchyard can't go on: {why}");
    power::exit_emulator(NOTHING_TO_RUN);
    halt_forever()
}

/// Device and firmware mappings for `arch`.
struct DeviceMap;

impl PhysicalMap for DeviceMap {
    fn map(&self, phys: PhysAddr, bytes: u64, cache: Cache) -> Option<NonNull<u8>> {
        let cache = match cache {
            Cache::WriteBack => paging::Cache::WriteBack,
            Cache::Uncached => paging::Cache::Uncached,
            Cache::WriteCombining => paging::Cache::WriteCombining,
        };
        NonNull::new(
            kernel_space::map_device(phys, bytes, cache)
                .ok()?
                .as_mut_ptr(),
        )
    }
}

static DEVICES: DeviceMap = DeviceMap;

/// The sequence up to the kernel's own tables, stack and clock.
pub(super) extern "C" fn start() -> ! {
    let epoch = arch::cpu::read_tsc();
    // SAFETY: this is the first CPU's first code, on a stack in the image, with interrupts off.
    unsafe { install_boot_block() };
    install_panic_hooks();
    log::init();
    // SAFETY: nothing else uses the port.
    if unsafe { serial::init() } {
        log::set_serial(serial::write);
    }
    ::log::info!("Switchyard {} for x86-64", env!("CARGO_PKG_VERSION"));
    // SAFETY: the loader's mappings are in force and its memory is untouched.
    let answers = match unsafe { protocol::read() } {
        Ok(answers) => answers,
        Err(why) => give_up(&why),
    };
    show_on_loaders_screen(&answers);
    set_log_level(&answers);
    ::log::info!(
        "started by {} at base revision {}, command line \"{}\"",
        answers.loader.as_str(),
        answers.revision,
        answers.command_line.as_str()
    );
    if answers.command_line.cut {
        ::log::warn!("the command line is too long or no UTF-8: its end is ignored");
    }
    if option(answers.command_line.as_str(), "xsave") == Some("standard") {
        fpu::use_standard_format_only();
    }
    match command_line::components(answers.command_line.as_str()) {
        Ok(components) => fpu::allow_components(components),
        Err(other) => ::log::warn!("xcr0={other}: no number; all components are used"),
    }
    let features = detect();
    // Page tables, control registers and entry paths depend on it.
    flaws::choose(answers.command_line.as_str());
    flaws::say_names();
    let (map, trampoline) = match take_memory() {
        Ok(taken) => taken,
        Err(error) => give_up(&format_args!("the memory map: {error}")),
    };
    let image = KernelImage::running(answers.kernel);
    // SAFETY: no other CPU runs, and the loader's direct map shows the image writable; the kernel's own will not.
    unsafe { arch::entry::patch(|address| phys_to_virt(image.physical + (address - image.start))) };
    let screen = match enter_own_tables(&answers, &map, &image, features.gigabyte_pages) {
        Ok(screen) => screen,
        Err(error) => give_up(&format_args!("the kernel's page tables: {error}")),
    };
    if let Some(screen) = screen {
        // SAFETY: the framebuffer is mapped there, for good.
        unsafe { log::rebase_screen(screen) };
    }
    if let Some(file) = answers.kernel_file {
        // SAFETY: the file lies in memory of the kernel's kind or in the loader's, of which `reclaim` keeps it.
        if let Err(error) = symbols::init(unsafe { file.contents() }) {
            ::log::warn!("backtraces will have no names: {error}");
        }
    }
    if let Some(what) = option(answers.command_line.as_str(), "panic") {
        on_purpose::on_boot_stack(what);
    }
    let tables = find_tables(&answers);
    if let Err(error) = first_cpu(epoch, tables.as_ref()) {
        give_up(&format_args!("the first CPU: {error}"));
    }
    BOOT.call_once(|| Boot {
        answers,
        map,
        tables,
        trampoline,
    });
    // SAFETY: the idle stack is this CPU's, and nobody is on it.
    unsafe { entry::continue_on(cpu::this().idle_stack_top(), go_on) }
}

/// The rest, on the first CPU's own stack.
extern "C" fn go_on() -> ! {
    let Some(boot) = BOOT.get() else {
        unreachable!("the first half has set it")
    };
    let line = boot.answers.command_line.as_str();
    let eager = flaws::choose_fpu(line);
    match command_line::polls_when_idle(line) {
        Ok(polls) => schedule::choose_idle(polls),
        Err(other) => ::log::warn!("idle={other}: unknown; halt and poll are known"),
    }
    let failed = smp::start_others(
        boot.tables.as_ref(),
        boot.trampoline,
        option(line, "panic") == Some("ap"),
    );
    reclaim(&boot.map, boot.answers.kernel_file);
    boot.map.free();
    machine::set(Facts {
        framebuffer: boot.answers.framebuffer.unwrap_or_default(),
        boot_seconds: boot.answers.boot_seconds,
        cpus_failed: failed,
        decisions: [
            (eager, MachineInfo::EAGER_FPU),
            (decisions().isolation, MachineInfo::TABLES_APART),
        ]
        .into_iter()
        .fold(0, |all, (so, bit)| if so { all | bit } else { all }),
        image_bytes: KernelImage::running(boot.answers.kernel).data.end
            - KernelImage::running(boot.answers.kernel).start,
        isa_lines: core::array::from_fn(|line| isa_line(boot.tables.as_ref(), line as u8)),
    });
    let memory = frames::statistics();
    ::log::info!(
        "{} CPUs, {} MiB of memory, {} KiB of it in use",
        cpu::count(),
        (memory.total * PAGE_BYTES) >> 20,
        ((memory.total - memory.free) * PAGE_BYTES) >> 10
    );
    // SAFETY: this is the idle stack, and the state lives as long as the CPU.
    unsafe { arch::switch::adopt(&cpu::this().idle) };
    if let Some(what) = option(line, "panic") {
        on_purpose::after_boot(what);
    }
    log::set_notify(log_owner::mark);
    prepared::init();
    heap::close();
    if let Err(error) = landing::init(arch::landing::data(), arch::landing::vsyscall()) {
        give_up(&format_args!("the landing page: {error}"));
    }
    if let Err(error) = first_process::start(boot.answers.init, boot.answers.initrd, line) {
        give_up(&error);
    }
    schedule::run_idle()
}

fn show_on_loaders_screen(answers: &Answers) {
    let Some(info) = &answers.framebuffer else {
        return;
    };
    let base = (info.physical + answers.direct_map) as *mut u32;
    // SAFETY: the loader has mapped the framebuffer in its direct map; the mapping is left behind only when the screen
    // is re-based.
    if let Err(error) = unsafe { log::set_screen(base, info) } {
        ::log::warn!("no text on the framebuffer: {error}");
    }
}

fn set_log_level(answers: &Answers) {
    match log::level_from_command_line(answers.command_line.as_str()) {
        Ok(level) => log::set_level(level),
        Err(error) => ::log::warn!("{error}"),
    }
}

fn take_memory() -> Result<(MemoryMap, Option<PhysAddr>), Error> {
    frames::init(protocol::memory_map())?;
    // Before anything else is handed out: the other CPUs start in a page below 1 MiB.
    let trampoline = frames::reserve_low_page();
    Ok((MemoryMap::copy()?, trampoline))
}

/// Builds the kernel's tables and begins to use them. Returns where the framebuffer is from now on.
fn enter_own_tables(
    answers: &Answers,
    map: &MemoryMap,
    image: &KernelImage,
    gigabyte_pages: bool,
) -> Result<Option<*mut u32>, Error> {
    kernel_space::build(
        map.ranges().iter().copied(),
        image,
        gigabyte_pages,
        decisions().isolation,
    )?;
    let screen = match &answers.framebuffer {
        Some(info) => Some(map_framebuffer(info)?),
        None => None,
    };
    // SAFETY: the stack is in the image; the loader turned NX on by the protocol; what is used of its memory was copied.
    unsafe { kernel_space::activate() };
    Ok(screen)
}

fn map_framebuffer(info: &FramebufferInfo) -> Result<*mut u32, Error> {
    let bytes = u64::from(info.pitch) * u64::from(info.height);
    kernel_space::map_device(
        PhysAddr::new_truncate(info.physical),
        bytes,
        paging::Cache::WriteCombining,
    )
    .map(arch::addr::VirtAddr::as_mut_ptr)
}

fn find_tables(answers: &Answers) -> Option<Tables<'static>> {
    let Some(rsdp) = answers.rsdp else {
        ::log::warn!("the boot loader gave no ACPI tables: one CPU, no power-off");
        return None;
    };
    // SAFETY: the loader gave the address, and nobody writes to firmware's tables.
    match unsafe { Tables::from_rsdp(rsdp, &DEVICES) } {
        Ok(tables) => Some(tables),
        Err(error) => {
            ::log::warn!("ACPI tables: {error}: one CPU, no power-off");
            None
        }
    }
}

/// Why the first CPU can't be set up.
#[derive(Debug)]
enum FirstCpuError {
    Kernel(Error),
    Apic(apic::ApicError),
    Init(arch::cpu::InitError),
}

impl Display for FirstCpuError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            FirstCpuError::Kernel(error) => error.fmt(f),
            FirstCpuError::Apic(error) => error.fmt(f),
            FirstCpuError::Init(error) => write!(f, "{error:?}"),
        }
    }
}

fn first_cpu(epoch: u64, tables: Option<&Tables<'static>>) -> Result<(), FirstCpuError> {
    // SAFETY: this is the first CPU, with interrupts off, and the handlers are in place.
    let mode = unsafe { apic::init_boot_cpu(&DEVICES) }.map_err(FirstCpuError::Apic)?;
    // SAFETY: as above; the tables are this machine's.
    let calibration = unsafe { time::init(epoch, tables, &DEVICES) };
    log::set_clock(time::now_ns);
    report_calibration(&calibration);
    let mode = match mode {
        Mode::XApic => "xAPIC",
        Mode::X2Apic => "x2APIC",
    };
    ::log::info!("local APIC in {mode} mode");
    let listed = tables
        .and_then(|tables| tables.madt().ok())
        .map_or(1, |madt| madt.cpus().count() as u32);
    // One more, should the firmware have forgotten the CPU that this is.
    let capacity = listed + 1;
    cpu::create_table(capacity).map_err(FirstCpuError::Kernel)?;
    let this = cpu::create(apic::id()).map_err(FirstCpuError::Kernel)?;
    // SAFETY: the block is this CPU's, and all that it needs stays mapped.
    unsafe { cpu_init(this.block()) }.map_err(FirstCpuError::Init)?;
    user_copy::set_smap(features().smap);
    // SAFETY: as for `init_boot_cpu`.
    unsafe { time::init_this_cpu() }.map_err(FirstCpuError::Apic)?;
    // SAFETY: the block is this CPU's, and it has walked no user tables.
    unsafe { arch::tlb::join(this.block(), kernel_space::as_loaded()) };
    cpu::set_online(this);
    quieten_controllers(tables);
    // SAFETY: the tables are this machine's.
    if let Err(error) = unsafe { power::prepare(tables, &DEVICES) } {
        ::log::warn!("no power-off: {error}");
    }
    Ok(())
}

fn report_calibration(found: &time::Calibration) {
    ::log::info!(
        "time-stamp counter at {}.{:03} MHz by {}{}",
        found.tsc_hz / 1_000_000,
        found.tsc_hz / 1_000 % 1_000,
        found.source.text(),
        if found.deadline_timer {
            ", with deadlines"
        } else {
            ""
        }
    );
    if let Some(trouble) = found.trouble {
        ::log::warn!("the clock is a guess: {trouble:?}");
    }
}

fn quieten_controllers(tables: Option<&Tables<'static>>) {
    // SAFETY: nobody uses the legacy controllers.
    unsafe { pic::disable() };
    let Some(Ok(madt)) = tables.map(Tables::madt) else {
        return;
    };
    for entry in madt.io_apics() {
        // SAFETY: nobody uses the I/O APICs yet.
        if let Err(error) = unsafe { ioapic::add(entry, &DEVICES) } {
            ::log::warn!("an I/O APIC is left out: {error}");
        }
    }
}

fn isa_line(tables: Option<&Tables<'static>>, line: u8) -> Result<Line, Error> {
    let madt = tables
        .and_then(|tables| tables.madt().ok())
        .ok_or(Error::NotSupported)?;
    let found = madt.isa_to_gsi(line).map_err(|_| Error::NotSupported)?;
    Ok(Line {
        gsi: found.gsi,
        active_low: found.polarity == arch::platform::madt::Polarity::Low,
        level_triggered: found.trigger == arch::platform::madt::Trigger::Level,
    })
}

/// Takes over what the loader leaves behind, but for the kernel's own file, from which a panic takes its names.
fn reclaim(map: &MemoryMap, kept: Option<Extent>) {
    let kept = kept.map_or(0..0, |file| {
        let start = file.start.as_u64();
        start / PAGE_BYTES..(start + file.bytes).div_ceil(PAGE_BYTES)
    });
    for &range in map
        .ranges()
        .iter()
        .filter(|range| range.kind == MemoryKind::Reclaimable)
    {
        // What lies before the file, and what lies behind it; all of the range, twice none, if the file is elsewhere.
        let before = range.start..range.end().min(kept.start.max(range.start));
        let behind = range.start.max(kept.end.min(range.end()))..range.end();
        let apart = kept.is_empty() || kept.end <= range.start || range.end() <= kept.start;
        let parts = if apart {
            [range.start..range.end(), 0..0]
        } else {
            [before, behind]
        };
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let part = MemoryRange {
                start: part.start,
                frames: part.end - part.start,
                kind: range.kind,
            };
            // SAFETY: what was needed of the loader's memory was copied or is kept, no CPU is on its tables or stacks, and each
            // part is added once.
            match unsafe { frames::add_region(part) } {
                Ok(()) => machine::add_reclaimed(part.frames * PAGE_BYTES),
                Err(error) => report_lost(part, error),
            }
        }
    }
}

fn report_lost(range: MemoryRange, error: Error) {
    ::log::warn!(
        "{} KiB of the boot loader's memory are lost: {error}",
        (range.frames * PAGE_BYTES) >> 10
    );
}

fn install_panic_hooks() {
    panic::install(panic::Hooks {
        cpu: || block().index().0,
        stop_others: || {
            if apic::mode().is_some() && cpu::count() > 1 {
                apic::send_nmi_all_but_self();
                time::delay_ns(STOP_NS);
            }
        },
        stack_of,
        exit: power::exit_emulator,
    });
}

/// The kernel stack in which an address lies, if it is one that this CPU may be on.
fn stack_of(address: u64) -> Option<Range<u64>> {
    let boot = entry::stack();
    let this = cpu::try_this();
    let idle = this.map(cpu::Cpu::idle_stack);
    let thread = this.and_then(cpu::Cpu::current).map(|thread| {
        let top = thread.get().machine.state.stack_top();
        top - stacks::STACK_BYTES..top
    });
    [Some(boot), idle, thread]
        .into_iter()
        .flatten()
        .find(|stack| stack.contains(&address))
}
