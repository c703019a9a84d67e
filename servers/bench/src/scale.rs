//! How the cost of a switch grows with the number of threads, and with that of CPUs.
//!
//! All threads are kept on the first CPU: under `-icount` all CPUs share one counter, so the others must halt while one is measured.
//! The partners are four instructions without a stack, so that ten thousand of them fit.

use abi::info::PowerAction;
use abi::{Call, CpuSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::{naked_asm, x86_64::_rdtsc};
use core::time::Duration;
use rt::{Log, Priority, System, Thread, process, start, thread, time};

use crate::cpus;
use crate::crowd::Crowd;
use crate::partner::Starter;

/// Threads that take turns, the measuring one among them.
const CROWDS: [u64; 5] = [2, 10, 100, 1000, 10_000];
/// Readings of each; of the median nothing is seen of the few in which the timer came.
const READINGS: usize = 21;
/// Times that all take their turn for one reading.
const ROUNDS: u64 = 8;
/// Time for those that were started to come to their first turn.
const SETTLING: Duration = Duration::from_millis(20);

/// Measures, says it, and switches the machine off.
///
/// # Errors
/// What stood in the way, in words.
pub fn measure_all() -> Result<(), String> {
    let log: Log = start::take("log").map_err(|error| format!("{error}"))?;
    let system: System = start::take("system").map_err(|error| format!("{error}"))?;
    let failed = |error: abi::Error| format!("{error}");
    let here = CpuSet::only(0);
    Thread::current()
        .and_then(|own| own.set_affinity(&here))
        .map_err(failed)?;
    cpus::measure_all(&log, &system, &Starter::new()?)?;
    let mut threads = 1;
    for crowd in CROWDS {
        while threads < crowd {
            start_partner(&here).map_err(|error| format!("thread {threads}: {error}"))?;
            threads += 1;
        }
        time::sleep(SETTLING).map_err(failed)?;
        let turn = cost_of_a_turn(crowd);
        log.write(&format!("bench yield_among_{crowd} {turn}\n"))
            .map_err(failed)?;
    }
    end(&log, &system)
}

/// Calls on and between several CPUs alone, among very many objects.
///
/// # Errors
/// What stood in the way, in words.
pub fn measure_cpus_in_crowd() -> Result<(), String> {
    let crowd = Crowd::gather()?;
    measure_cpus(cpus::measure_all)?;
    drop(crowd);
    Ok(())
}

/// Calls from one CPU to another alone.
///
/// # Errors
/// What stood in the way, in words.
pub fn measure_between_cpus() -> Result<(), String> {
    measure_cpus(cpus::measure_between)
}

fn measure_cpus(
    measure: impl FnOnce(&Log, &System, &Starter) -> Result<(), String>,
) -> Result<(), String> {
    let log: Log = start::take("log").map_err(|error| format!("{error}"))?;
    let system: System = start::take("system").map_err(|error| format!("{error}"))?;
    measure(&log, &system, &Starter::new()?)?;
    end(&log, &system)
}

/// One call to another CPU, and nothing else: for whoever follows it.
///
/// # Errors
/// What stood in the way, in words.
pub fn call_other_cpu() -> Result<(), String> {
    let log: Log = start::take("log").map_err(|error| format!("{error}"))?;
    let system: System = start::take("system").map_err(|error| format!("{error}"))?;
    cpus::once(&Starter::new()?)?;
    end(&log, &system)
}

fn end(log: &Log, system: &System) -> Result<(), String> {
    log.write("bench done\n")
        .map_err(|error| format!("{error}"))?;
    system
        .power(PowerAction::Off)
        .map_err(|error| format!("can't switch the machine off: {error}"))
}

/// Instructions from one thread's yield to the next one's, when so many take turns.
fn cost_of_a_turn(crowd: u64) -> u64 {
    let mut readings = Vec::with_capacity(READINGS);
    for _ in 0..READINGS {
        // SAFETY: reading the counter has no effect.
        let before = unsafe { _rdtsc() };
        for _ in 0..ROUNDS {
            // All others have their turn before this returns.
            thread::yield_now();
        }
        // SAFETY: as above.
        let after = unsafe { _rdtsc() };
        readings.push(after.wrapping_sub(before));
    }
    readings.sort_unstable();
    readings[READINGS / 2] / (ROUNDS * crowd)
}

/// Starts a thread that does nothing but yield.
fn start_partner(cpus: &CpuSet) -> rt::Result<()> {
    let entry = partner as *const () as u64;
    // SAFETY: the code uses no stack and no memory at all.
    let thread = unsafe { process::current().create_thread(entry, 0, 0) }?;
    thread.set_priority(Priority::NORMAL)?;
    thread.set_affinity(cpus)?;
    thread.start()
}

/// Yields for ever. In: nothing. Uses no stack. Out: never. Clobbers what a short call does.
#[unsafe(naked)]
extern "C" fn partner() -> ! {
    naked_asm!(
        "2:",
        "mov eax, {call}",
        "syscall",
        "jmp 2b",
        call = const Call::Yield as u64,
    )
}
