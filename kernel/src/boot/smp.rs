//! The other CPUs: each is made, started, brought in step, and set to work. One that does not answer is left out.

use arch::addr::{PhysAddr, VirtAddr};
use arch::cpu::{cpu_init, halt_forever};
use arch::platform::acpi::Tables;
use arch::platform::apic;
use arch::platform::smp::{ApBoot, start_cpu};
use arch::time::{self, TscSync};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::cpu::{self, Cpu};
use crate::memory::{StartTables, kernel_space};
use crate::schedule;

/// How far the CPU that is being started has come: 0 not yet, 1 online, 2 it can't be used.
static PROGRESS: AtomicU32 = AtomicU32::new(0);
const ONLINE: u32 = 1;
const UNUSABLE: u32 = 2;
/// It is about to be online.
const COMING: u32 = 3;
/// It took too long, and must not come online any more.
const WITHDRAWN: u32 = 4;
/// How long a CPU that answered may take to come online.
const PATIENCE_NS: u64 = 10_000_000_000;

/// `panic=ap` on the command line: CPU 1 shall panic.
/// Whether CPU 1 shall wait for that.
static WAIT_TO_PANIC: AtomicBool = AtomicBool::new(false);
static PANIC_ON_ARRIVAL: AtomicBool = AtomicBool::new(false);

/// Waits for the panic of CPU 1, which stops this one.
pub(super) fn wait_for_panic() {
    let begin = time::now_ns();
    PANIC_ON_ARRIVAL.store(true, Ordering::SeqCst);
    while time::now_ns().saturating_sub(begin) < PATIENCE_NS {
        core::hint::spin_loop();
    }
}

/// Starts all CPUs of the machine's list but this one. `panic` says that one shall wait for [`wait_for_panic`] and then panic.
/// Returns how many were left out.
pub(super) fn start_others(
    tables: Option<&Tables<'static>>,
    trampoline: Option<PhysAddr>,
    panic: bool,
) -> u32 {
    WAIT_TO_PANIC.store(panic, Ordering::SeqCst);
    let Some(Ok(madt)) = tables.map(Tables::madt) else {
        return 0;
    };
    let this = apic::id();
    let mut others = madt.cpus().filter(|cpu| cpu.apic_id != this).peekable();
    if others.peek().is_none() {
        return 0;
    }
    let Some(trampoline) = trampoline else {
        ::log::warn!("no page below 1 MiB is free: the other CPUs can't be started");
        return others.count() as u32;
    };
    let start_tables = match StartTables::create(trampoline) {
        Ok(start_tables) => start_tables,
        Err(error) => {
            ::log::warn!("the other CPUs can't be started: {error}");
            return others.count() as u32;
        }
    };
    let mut failed = 0;
    let mut silent = false;
    for listed in others {
        match start_one(listed.apic_id, trampoline, start_tables.root()) {
            Ok(()) => {}
            Err(Failure::Silent) => {
                silent = true;
                failed += 1;
            }
            Err(Failure::Refused) => failed += 1,
        }
    }
    if silent {
        // One that comes late finds its offer withdrawn, but it needs page and tables to find that out.
        ::log::debug!("the start page stays, as a CPU may come late");
    } else {
        // SAFETY: all CPUs that were started are on the kernel's tables.
        unsafe { start_tables.free() };
        crate::memory::frames::free_frame(trampoline);
    }
    failed
}

enum Failure {
    /// It did not answer, or not to the end: it may still come.
    Silent,
    /// It could not be made.
    Refused,
}

fn start_one(
    apic_id: arch::addr::ApicId,
    trampoline: PhysAddr,
    root: PhysAddr,
) -> Result<(), Failure> {
    let new = match cpu::create(apic_id) {
        Ok(new) => new,
        Err(error) => {
            ::log::warn!("CPU with APIC id {apic_id} is left out: {error}");
            return Err(Failure::Refused);
        }
    };
    PROGRESS.store(0, Ordering::SeqCst);
    let boot = ApBoot {
        trampoline,
        root,
        stack_top: VirtAddr::new(new.idle_stack_top()),
        entry: arrive,
        argument: core::ptr::from_ref(new) as u64,
    };
    // SAFETY: the target is listed, is not this CPU and does not run; tables and page stay until all are started.
    if let Err(error) = unsafe { start_cpu(apic_id, &boot) } {
        ::log::warn!("CPU with APIC id {apic_id} is left out: {error}");
        return Err(Failure::Silent);
    }
    match time::synchronise_with_new_cpu(apic_id) {
        TscSync::InStep => {}
        other => ::log::info!("CPU with APIC id {apic_id}: time-stamp counter {other:?}"),
    }
    let begin = time::now_ns();
    loop {
        match PROGRESS.load(Ordering::SeqCst) {
            ONLINE => return Ok(()),
            UNUSABLE => {
                ::log::warn!("CPU with APIC id {apic_id} is left out: it differs from the first");
                return Err(Failure::Refused);
            }
            _ if time::now_ns().saturating_sub(begin) > PATIENCE_NS
                && PROGRESS
                    .compare_exchange(0, WITHDRAWN, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok() =>
            {
                ::log::warn!("CPU with APIC id {apic_id} is left out: it came and stopped");
                return Err(Failure::Silent);
            }
            _ => core::hint::spin_loop(),
        }
    }
}

/// Where a new CPU arrives, on its own stack, with interrupts off.
extern "C" fn arrive(argument: u64) -> ! {
    // SAFETY: the argument is the address of this CPU's `Cpu`, which lives for ever.
    let this: &'static Cpu = unsafe { &*(argument as *const Cpu) };
    // SAFETY: the kernel's tables hold all that this CPU uses; it has not used any other mapping yet but the start page.
    unsafe { arch::paging::load_root(kernel_space::root()) };
    // SAFETY: the block is this CPU's.
    let ready = unsafe { cpu_init(this.block()) }.is_ok()
        // SAFETY: interrupts are off, and the handlers are in place.
        && unsafe { apic::init_this_cpu() }.is_ok()
        // SAFETY: as above, after the local APIC.
        && unsafe { time::init_this_cpu() }.is_ok();
    time::synchronise_as_new_cpu();
    if !ready {
        PROGRESS.store(UNUSABLE, Ordering::SeqCst);
        halt_forever();
    }
    // One that is slow is given up by the first CPU, which then gives its index to another.
    if PROGRESS
        .compare_exchange(0, COMING, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        halt_forever();
    }
    // SAFETY: the block is this CPU's; from now on shoot-downs know of this CPU, which has walked no user tables.
    unsafe { arch::tlb::join(this.block(), kernel_space::as_loaded()) };
    // SAFETY: this is the idle stack, and the state lives as long as the CPU.
    unsafe { arch::switch::adopt(&this.idle) };
    cpu::set_online(this);
    PROGRESS.store(ONLINE, Ordering::SeqCst);
    if this.index() == 1 && WAIT_TO_PANIC.load(Ordering::SeqCst) {
        while !PANIC_ON_ARRIVAL.load(Ordering::SeqCst) {
            core::hint::spin_loop();
        }
        panic!("asked for on the command line, on CPU 1");
    }
    schedule::run_idle()
}
