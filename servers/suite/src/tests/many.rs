//! All CPUs of the machine, however many: each is listed, woken by the others, moved to, and reached by shoot-downs.
//!
//! A machine of some hundred CPUs in an emulator with two real ones is slow only if its CPUs spin: no more than a few do here at a time.

use abi::{CpuSet, Error, Protection};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use rt::thread::JoinHandle;
use rt::{Deadline, Memory, Notification, Thread, landing, thread, time};

use super::tests;
use crate::clock::since;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, must, same};

tests! {
    every_cpu_is_listed_and_woken_by_others: 90,
    every_cpu_is_reached_by_shoot_downs: 90,
    a_thread_goes_to_each_cpu_in_turn: 80,
}

const PAGE: u64 = 4096;
/// Where the page is that is exchanged for another.
const PLACE: u64 = 0x2300_0000_0000;

/// How many CPUs are busy at a time.
const AT_ONCE: usize = 4;

/// Some hundred CPUs share two.
const PATIENCE: Duration = Duration::from_mins(1);

fn soon() -> Deadline {
    time::after(PATIENCE)
}

/// Waits until something is so.
fn until(what: &str, is: impl Fn() -> bool) -> Verdict {
    let start = time::now();
    while !is() {
        check!(since(start) < PATIENCE, "it never came to this: {what}");
        must!(time::sleep(Duration::from_millis(5)));
    }
    Ok(())
}

/// Puts a page that holds `number` at [`PLACE`], where nothing is.
fn put(number: u64) -> Result<(), Error> {
    let page = Memory::create(PAGE)?;
    page.write(0, &number.to_le_bytes())?;
    rt::process::current()
        .map(&page, PLACE, 0, PAGE, Protection::READ)
        .map(drop)
}

/// Takes away what is there.
fn take_away() -> Result<(), Error> {
    // SAFETY: it is read by `look` only, and by nobody meanwhile.
    unsafe { rt::process::current().unmap(PLACE, PAGE) }
}

/// What is there.
fn look() -> u64 {
    // SAFETY: a page of `put` is mapped there whenever somebody looks, and it is aligned.
    unsafe { core::ptr::with_exposed_provenance::<u64>(PLACE as usize).read_volatile() }
}

/// A thread that is kept on a CPU.
fn on(cpu: u32) -> thread::Builder {
    thread::Builder::new().stack_bytes(16 * 1024).cpu(cpu)
}

/// On which CPU this thread is: by the shared page, or if that can't tell, by a call.
fn here() -> Result<u32, Error> {
    match landing::cpu_number() {
        Some(cpu) => Ok(cpu),
        None => Thread::current()?.info().map(|info| info.cpu),
    }
}

/// A thread that is kept on a CPU, looks, sleeps, and when it is woken looks again: where it is, and what the page holds.
struct Sleeper {
    bell: Arc<Notification>,
    thread: JoinHandle<Result<[(u32, u64); 2], Error>>,
}

impl Sleeper {
    fn start(cpu: u32, asleep: Arc<AtomicU32>) -> Result<Sleeper, Error> {
        let bell = Arc::new(Notification::create()?);
        let told = Arc::clone(&bell);
        let thread = on(cpu).spawn(move || {
            let before = (here()?, look());
            asleep.fetch_add(1, Ordering::AcqRel);
            told.wait(soon())?;
            Ok([before, (here()?, look())])
        })?;
        Ok(Sleeper { bell, thread })
    }
}

fn every_cpu_is_listed_and_woken_by_others(world: &'static World) -> Verdict {
    let listed = must!(world.system.cpus());
    let indices: Vec<u32> = listed.iter().map(|cpu| cpu.index).collect();
    same!(indices, (0..world.cpus).collect::<Vec<_>>());
    let mut ids: Vec<u32> = listed.iter().map(|cpu| cpu.apic_id).collect();
    ids.sort_unstable();
    ids.dedup();
    same!(ids.len(), listed.len());

    must!(put(1));
    let asleep = Arc::new(AtomicU32::new(0));
    let mut sleepers = Vec::new();
    for cpu in 0..world.cpus {
        sleepers.push(must!(Sleeper::start(cpu, Arc::clone(&asleep))));
    }
    until("all of them have looked", || {
        asleep.load(Ordering::Acquire) == world.cpus
    })?;
    // Each of these CPUs has seen the page.
    must!(take_away());
    must!(put(2));
    // One after another, as threads that end together take their stacks away together, each from all that still run.
    for (cpu, sleeper) in (0..).zip(sleepers) {
        must!(sleeper.bell.signal(1));
        let found = must!(must!(sleeper.thread.join(soon())));
        same!(found, [(cpu, 1), (cpu, 2)]);
    }
    for (before, after) in listed.iter().zip(must!(world.system.cpus())) {
        check!(
            after.switches > before.switches,
            "CPU {} did not switch",
            after.index
        );
    }
    must!(take_away());
    Ok(())
}

fn a_thread_goes_to_each_cpu_in_turn(world: &'static World) -> Verdict {
    let wanderer = must!(thread::spawn({
        let cpus = world.cpus;
        move || {
            let own = Thread::current()?;
            // From the first to the last and back.
            for cpu in (0..cpus).chain((0..cpus).rev()) {
                own.set_affinity(&CpuSet::only(cpu))?;
                let found = here()?;
                if found != cpu {
                    return Ok(Some((cpu, found)));
                }
            }
            Ok::<_, Error>(None)
        }
    }));
    let strayed = must!(must!(wanderer.join(soon())));
    check!(
        strayed.is_none(),
        "sent to one CPU, it ran on another: {strayed:?}"
    );
    Ok(())
}

/// A few threads at a time stay in user mode, each on its CPU, while the page that all of them have read is exchanged for another.
fn every_cpu_is_reached_by_shoot_downs(world: &'static World) -> Verdict {
    let all: Vec<u32> = (0..world.cpus).collect();
    for (round, cpus) in (1_u64..).zip(all.chunks(AT_ONCE)) {
        must!(put(round));
        let looked = Arc::new(AtomicU32::new(0));
        let again = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for cpu in cpus {
            let (looked, again) = (Arc::clone(&looked), Arc::clone(&again));
            threads.push(must!(on(*cpu).spawn(move || {
                let before = look();
                looked.fetch_add(1, Ordering::AcqRel);
                while !again.load(Ordering::Acquire) {
                    core::hint::spin_loop();
                }
                (before, look())
            })));
        }
        until("these have looked", || {
            looked.load(Ordering::Acquire) == cpus.len() as u32
        })?;
        must!(take_away());
        let other = round << 32;
        must!(put(other));
        again.store(true, Ordering::Release);
        for thread in threads {
            same!(must!(thread.join(soon())), (round, other));
        }
        must!(take_away());
    }
    Ok(())
}
