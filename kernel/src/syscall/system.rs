//! Calls on the system: lists, memory, power.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::info::{CpuInfo, FpuCounters, MemoryInfo, PowerAction, SystemQuery, ThreadInfo};
use abi::trace::{TraceKind, TraceRecord};
use abi::{Error, Rights};
use arch::platform::{power, serial};
use arch::time;

use super::{Caller, objects};
use crate::cpu::{self, Cpu};
use crate::ipc::Endpoint;
use crate::machine;
use crate::memory::PAGE_BYTES;
use crate::memory::frames::{self, FrameKind};
use crate::memory::user::{self, Plain, UserSlice};
use crate::object::{Object, Section, Step, Walk};
use crate::process::Process;
use crate::schedule;
use crate::thread::Thread;
use crate::trace;

/// Records that are gathered at a time, on the kernel stack.
const BATCH: usize = 16;

/// Records that are described between two preemption points, and slots and frames that are looked at for them.
const SLOTS_A_PIECE: usize = 64;
const FRAMES_A_PIECE: usize = 512;

/// What `system_query` has written, how many there are, and where to go on; 0: that was all.
struct Listed {
    written: u64,
    total: u64,
    next: u64,
}

/// `system_query`.
pub(super) fn query(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), false, Rights::QUERY)?;
    let what = SystemQuery::from_number(caller.argument(1)).ok_or(Error::BadArgument)?;
    let first = caller.argument(2);
    let (address, bytes) = (caller.argument(3), caller.argument(4));
    let listed = match what {
        SystemQuery::Cpus => list(first, address, bytes, gather_cpus)?,
        SystemQuery::Threads => list_objects(first, address, bytes, |thread: &Thread| {
            (!thread.has_ended()).then(|| thread_info(thread))
        })?,
        SystemQuery::Processes => list_objects(first, address, bytes, |process: &Process| {
            Some(process.entry())
        })?,
        SystemQuery::Endpoints => list_objects(first, address, bytes, |endpoint: &Endpoint| {
            Some(endpoint.info())
        })?,
        SystemQuery::Memory => list(first, address, bytes, |first, batch| {
            one(first, batch, memory_info)
        })?,
        SystemQuery::Machine => list(first, address, bytes, |first, batch| {
            one(first, batch, machine::info)
        })?,
        SystemQuery::Objects => list(first, address, bytes, |first, batch| {
            one(first, batch, objects::info)
        })?,
    };
    caller.set_result(0, listed.written);
    caller.set_result(1, listed.total);
    caller.set_result(2, listed.next);
    Ok(())
}

/// Where the caller wants records.
struct Room {
    address: u64,
    records: u64,
    written: u64,
}

impl Room {
    fn new<T>(address: u64, bytes: u64) -> Result<Room, Error> {
        UserSlice::new(address, bytes)?;
        Ok(Room {
            address,
            records: bytes / size_of::<T>() as u64,
            written: 0,
        })
    }

    fn left(&self) -> u64 {
        self.records - self.written
    }

    fn write<T: Plain>(&mut self, record: &T) -> Result<(), Error> {
        let at = self.address + self.written * size_of::<T>() as u64;
        user::write(at, record)?;
        self.written += 1;
        Ok(())
    }
}

/// Copies records of all objects of a type to the caller, as many as fit, from the slot `first` on. It is done in pieces, with preemption points
/// between. `describe` gives no record of what is not to be shown.
fn list_objects<T: Object, R: Plain + Default>(
    first: u64,
    address: u64,
    bytes: u64,
    describe: impl Fn(&T) -> Option<R>,
) -> Result<Listed, Error> {
    let mut room = Room::new::<R>(address, bytes)?;
    let mut walk = Walk::<T>::begin();
    while !walk.go_to(first, FRAMES_A_PIECE) {
        schedule::preemption_point();
    }
    let mut has_more = true;
    while has_more && room.left() != 0 {
        let mut batch = [R::default(); BATCH];
        let most = room.left().min(BATCH as u64) as usize;
        let mut count = 0;
        {
            // SAFETY: all kernel code between two quiescent points is inside a section.
            let section = unsafe { Section::enter() };
            for _ in 0..SLOTS_A_PIECE {
                if count == most {
                    break;
                }
                match walk.next(&section) {
                    Step::Object(object) => {
                        if let Some(record) = describe(&object) {
                            batch[count] = record;
                            count += 1;
                        }
                    }
                    Step::Free => {}
                    Step::End => {
                        has_more = false;
                        break;
                    }
                }
            }
        }
        for record in &batch[..count] {
            room.write(record)?;
        }
        schedule::preemption_point();
    }
    Ok(Listed {
        written: room.written,
        total: T::slab().in_use() as u64,
        next: if has_more { walk.number() } else { 0 },
    })
}

/// Copies records to the caller, as many as fit, a batch at a time. `gather` fills a batch from an index on and says how many it
/// filled and how many there are.
fn list<T: Plain + Default>(
    first: u64,
    address: u64,
    bytes: u64,
    gather: impl Fn(u64, &mut [T; BATCH]) -> (usize, u64),
) -> Result<Listed, Error> {
    let mut room = Room::new::<T>(address, bytes)?;
    loop {
        let mut batch = [T::default(); BATCH];
        let at = first.saturating_add(room.written);
        let (count, total) = gather(at, &mut batch);
        let fitting = (count as u64).min(room.left());
        for record in &batch[..fitting as usize] {
            room.write(record)?;
        }
        if fitting < BATCH as u64 {
            let next = at.saturating_add(fitting);
            return Ok(Listed {
                written: room.written,
                total,
                next: if next < total { next } else { 0 },
            });
        }
        schedule::preemption_point();
    }
}

fn one<T>(first: u64, batch: &mut [T; BATCH], make: impl FnOnce() -> T) -> (usize, u64) {
    if first != 0 {
        return (0, 1);
    }
    batch[0] = make();
    (1, 1)
}

fn gather_cpus(first: u64, batch: &mut [CpuInfo; BATCH]) -> (usize, u64) {
    let mut count = 0;
    for (cpu, record) in cpu::all()
        .skip(usize::try_from(first).unwrap_or(usize::MAX))
        .zip(batch)
    {
        *record = cpu_info(cpu);
        count += 1;
    }
    (count, u64::from(cpu::count()))
}

fn cpu_info(cpu: &Cpu) -> CpuInfo {
    let (idle, now) = cpu.idle_time.snapshot(time::tsc);
    let up = now.saturating_sub(cpu.started.load(Ordering::Relaxed));
    CpuInfo {
        index: cpu.index(),
        apic_id: cpu.apic_id().0,
        busy_ns: time::ticks_to_ns(up.saturating_sub(idle)),
        up_ns: time::ticks_to_ns(up),
        switches: cpu.switches.get(),
        interrupts: cpu.interrupts.get(),
        ipis_sent: cpu.ipis_sent.get(),
        runnable: cpu.load.get() as u32,
        machine_checks: cpu.machine_checks.get() as u32,
        nmis: cpu.nmis.get(),
        idle_ns: time::ticks_to_ns(idle),
        timer_ticks: cpu.timer_ticks.get(),
        migrations_in: cpu.migrations_in.get(),
        migrations_out: cpu.migrations_out.get(),
        steals: cpu.steals.get(),
        fpu: fpu_counters(cpu),
    }
}

fn fpu_counters(cpu: &Cpu) -> FpuCounters {
    let counters = arch::fpu::counters(cpu.block());
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    FpuCounters {
        saves: read(&counters.saves),
        restores: read(&counters.restores) + read(&counters.preloads),
        traps: read(&counters.traps),
        skipped: read(&counters.skipped),
        preloads: read(&counters.preloads),
        scrubs: read(&counters.scrubs),
        ts_changes: read(&counters.ts_changes),
    }
}

pub(super) fn thread_info(thread: &Thread) -> ThreadInfo {
    let process = thread.process();
    let (name, name_bytes) = process.name().padded();
    ThreadInfo {
        process: process.id(),
        thread: thread.id(),
        cpu: thread.shown_home(),
        state: thread.shown_state() as u32,
        priority: u32::from(thread.shown_priority().level()),
        name_bytes,
        cpu_ns: time::ticks_to_ns(thread.run_time.ticks(time::ticks())),
        name,
        switches: thread.switches.get(),
        migrations: thread.migrations.get(),
        base_priority: u32::from(thread.priority.base().level()),
        reserved: 0,
        waits_for: thread.wait.shown_subject(),
        area: thread.area.user_address(),
    }
}

fn memory_info() -> MemoryInfo {
    let frames = frames::statistics();
    let user = frames.held[FrameKind::User as usize];
    let free = frames.free + frames.held[FrameKind::Prepared as usize];
    MemoryInfo {
        total: frames.total * PAGE_BYTES,
        free: free * PAGE_BYTES,
        kernel_image: machine::facts().map_or(0, |facts| facts.image_bytes),
        kernel: frames.total.saturating_sub(free + user) * PAGE_BYTES,
        user: user * PAGE_BYTES,
        reclaimed: machine::reclaimed(),
    }
}

/// `system_trace`.
pub(super) fn trace(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), false, Rights::QUERY)?;
    let kinds = u32::try_from(caller.argument(1))
        .ok()
        .filter(|kinds| kinds & !TraceKind::EVERY == 0)
        .ok_or(Error::BadArgument)?;
    trace::set(caller.process(), kinds)
}

/// `system_trace_read`.
pub(super) fn read_trace(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), false, Rights::QUERY)?;
    let (cpu, mut number) = (caller.argument(1), caller.argument(2));
    let (address, bytes) = (caller.argument(3), caller.argument(4));
    UserSlice::new(address, bytes)?;
    let size = size_of::<TraceRecord>() as u64;
    let room = bytes / size;
    let (mut written, mut lost) = (0, 0);
    loop {
        let mut batch = [TraceRecord::default(); BATCH];
        let wanted = (room - written).min(BATCH as u64) as usize;
        let (count, next, missed) = trace::read(cpu, number, &mut batch[..wanted])?;
        for record in &batch[..count] {
            user::write(address + written * size, record)?;
            written += 1;
        }
        number = next;
        lost += missed;
        if count < wanted || wanted == 0 || written == room {
            break;
        }
        schedule::preemption_point();
    }
    caller.set_result(0, written);
    caller.set_result(1, number);
    caller.set_result(2, lost);
    Ok(())
}

/// `system_power`.
pub(super) fn power(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), false, Rights::POWER)?;
    let action = PowerAction::from_number(caller.argument(1)).ok_or(Error::BadArgument)?;
    // The last words are often the ones that matter.
    serial::drain();
    match action {
        PowerAction::Off => {
            // SAFETY: whoever has the right to it has decided that nothing is left to do.
            let trouble = unsafe { power::power_off() };
            ::log::error!("the machine can't be switched off: {trouble}");
            Err(Error::NotSupported)
        }
        // SAFETY: as above.
        PowerAction::Restart => unsafe { power::restart() },
    }
}
