//! Traces: what is noted, on which CPU, in which order, and what becomes of what nobody reads.

use abi::trace::{TraceKind, TraceRecord};
use abi::{Call, CpuSet, Error, FaultKind, Rights};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use rt::{AsHandle, Endpoint, Notification, System, Thread, thread, time};

use super::contexts::prepared;
use super::faults::faulted;
use super::probe::{Probe, soon, until};
use super::tests;
use crate::kernel_calls::refused;
use crate::verdict::{Verdict, Why};
use crate::world::World;
use crate::{check, code, must, same, skip};

tests! {
    a_trace_tells_what_each_cpu_does: 60,
    a_trace_tells_who_goes_to_another_cpu: 40,
    a_trace_that_nobody_reads_is_counted_as_lost: 60,
    a_trace_that_is_off_notes_nothing: 40,
    signals_are_traced_by_whatever_way_they_go: 60,
    each_program_traces_what_it_asks_for_until_its_own_end: 60,
    senseless_traces_are_refused: 40,
}

/// Ends the trace however the test ends.
struct Tracing<'a>(&'a System);

impl<'a> Tracing<'a> {
    fn on(system: &'a System, kinds: u32) -> rt::Result<Tracing<'a>> {
        system.trace(kinds)?;
        Ok(Tracing(system))
    }
}

impl Drop for Tracing<'_> {
    fn drop(&mut self) {
        // It fails only for a handle without the right.
        let _ = self.0.trace(0);
    }
}

/// The number of the next record of a CPU.
fn next(world: &World, cpu: u32) -> rt::Result<u64> {
    Ok(world.system.read_trace(cpu, u64::MAX)?.1)
}

/// What a CPU has noted from a number on, which grows.
fn news(world: &World, cpu: u32, number: &mut u64) -> rt::Result<Vec<TraceRecord>> {
    let mut all = Vec::new();
    loop {
        let (records, next, _) = world.system.read_trace(cpu, *number)?;
        *number = next;
        if records.is_empty() {
            return Ok(all);
        }
        all.extend(records);
    }
}

fn is(record: &TraceRecord, kind: TraceKind) -> bool {
    record.kind == kind as u32
}

/// Two threads of one CPU that hand a turn to and fro by nothing but yields, so many times; their numbers.
fn yields(cpu: u32, turns: u64) -> Result<[u64; 2], Why> {
    let turn = Arc::new(AtomicU64::new(0));
    let spawn = |parity| {
        let turn = Arc::clone(&turn);
        thread::Builder::new().cpu(cpu).spawn(move || {
            let own = Thread::current()?.info()?.thread;
            for _ in 0..turns {
                while turn.load(Ordering::Acquire) % 2 != parity {
                    thread::yield_now();
                }
                turn.fetch_add(1, Ordering::AcqRel);
            }
            Ok::<u64, Error>(own)
        })
    };
    let (first, second) = (must!(spawn(0)), must!(spawn(1)));
    let first = must!(must!(first.join(soon())));
    Ok([first, must!(must!(second.join(soon())))])
}

/// A call to nobody, after a sleep; the thread's number and the endpoint's handle.
fn calls(cpu: u32) -> Result<(u64, u64), Why> {
    let calls = must!(thread::Builder::new().cpu(cpu).spawn(|| {
        time::sleep(Duration::from_millis(1))?;
        let own = Thread::current()?.info()?.thread;
        let endpoint = Endpoint::create()?;
        let handle = endpoint.handle().0;
        let mut registers = rt::sys::IpcRegisters {
            handle,
            tag: 0,
            words: [0; 6],
            deadline: 0,
            reply: 0,
        };
        // SAFETY: no handles and no bytes go with it.
        unsafe { rt::sys::ipc(Call::Call as u64, &mut registers) };
        Ok::<_, Error>((own, handle))
    }));
    Ok(must!(must!(calls.join(soon()))))
}

fn a_trace_tells_what_each_cpu_does(world: &'static World) -> Verdict {
    const INVALID_INSTRUCTION: u64 = 6;
    for cpu in 0..world.cpus {
        // Without switches there are few others, so that none is overwritten.
        let kinds = TraceKind::EVERY - TraceKind::Switch.bit();
        let mut number = must!(next(world, cpu));
        let tracing = must!(Tracing::on(&world.system, kinds));
        let (caller, endpoint) = calls(cpu)?;
        let bare = must!(prepared(code!("ud2"), |_| {}));
        must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
        let faulting = must!(bare.thread.info()).thread;
        faulted("ud2", &must!(bare.run()), FaultKind::InvalidInstruction)?;
        drop(tracing);
        let mut seen = must!(news(world, cpu, &mut number));
        let has = |what: &str, wanted: &dyn Fn(&TraceRecord) -> bool| -> Verdict {
            check!(
                seen.iter().any(wanted),
                "no {what} in the trace of CPU {cpu}: {seen:x?}"
            );
            Ok(())
        };
        has("call", &|record| {
            is(record, TraceKind::Ipc)
                && (record.thread, record.a, record.b) == (caller, Call::Call as u64, endpoint)
        })?;
        has("fault", &|record| {
            is(record, TraceKind::Fault)
                && (record.thread, record.a) == (faulting, INVALID_INSTRUCTION)
        })?;
        // The timer's, as the caller slept.
        has("interrupt", &|record| is(record, TraceKind::Interrupt))?;

        let tracing = must!(Tracing::on(&world.system, TraceKind::Switch.bit()));
        let two = yields(cpu, 50)?;
        drop(tracing);
        let switches = must!(news(world, cpu, &mut number));
        let between = |record: &&TraceRecord| {
            is(record, TraceKind::Switch) && two.contains(&record.thread) && two.contains(&record.a)
        };
        let count = switches.iter().filter(between).count();
        check!(count >= 90, "only {count} yields in the trace of CPU {cpu}");
        seen.extend(switches);
        check!(
            seen.iter().all(|record| record.cpu == cpu),
            "records of others are in the trace of CPU {cpu}"
        );
        check!(
            seen.is_sorted_by_key(|record| record.ticks),
            "the trace of CPU {cpu} is not in order"
        );
    }
    Ok(())
}

fn a_trace_tells_who_goes_to_another_cpu(world: &'static World) -> Verdict {
    if world.cpus == 1 {
        skip!("there is nowhere to go to");
    }
    let mut number = must!(next(world, 0));
    let _tracing = must!(Tracing::on(&world.system, TraceKind::Migration.bit()));
    let probe = must!(Probe::counting(&CpuSet::only(0)));
    let id = must!(probe.info()).thread;
    must!(probe.thread().start());
    probe.goes_on()?;
    must!(probe.thread().set_affinity(&CpuSet::only(1)));
    let records = must!(news(world, 0, &mut number));
    let gone = |record: &TraceRecord| (record.thread, record.a) == (id, 1);
    check!(records.iter().any(gone), "{records:?}");
    check!(
        records
            .iter()
            .all(|record| is(record, TraceKind::Migration)),
        "what was not asked for is noted"
    );
    Ok(())
}

fn a_trace_that_nobody_reads_is_counted_as_lost(world: &'static World) -> Verdict {
    let cpu = world.cpus - 1;
    let start = must!(next(world, cpu));
    let tracing = must!(Tracing::on(&world.system, TraceKind::Switch.bit()));
    yields(cpu, 2000)?;
    drop(tracing);
    let end = must!(next(world, cpu));
    check!(end - start > 3000, "only {} records", end - start);
    let (mut number, mut read, mut lost) = (start, 0, 0);
    while number < end {
        let (records, next, missed) = must!(world.system.read_trace(cpu, number));
        check!(next > number, "it does not go on");
        number = next;
        read += records.len() as u64;
        lost += missed;
    }
    check!(lost > 1000 && read > 1000, "{read} read, {lost} lost");
    // What had begun to be noted when it ended may have come after the end.
    same!(read + lost, number - start);
    Ok(())
}

fn a_trace_that_is_off_notes_nothing(world: &'static World) -> Verdict {
    // Also if it was on, and ended in the midst of everything.
    must!(world.system.trace(TraceKind::EVERY));
    must!(world.system.trace(0));
    nothing_is_noted(world)
}

/// No CPU notes what it does.
fn nothing_is_noted(world: &'static World) -> Verdict {
    // What had begun when it ended.
    for cpu in 0..world.cpus {
        must!(must!(thread::Builder::new().cpu(cpu).spawn(thread::yield_now)).join(soon()));
    }
    let mut before = Vec::new();
    for cpu in 0..world.cpus {
        before.push(must!(next(world, cpu)));
    }
    for cpu in 0..world.cpus {
        must!(must!(thread::Builder::new().cpu(cpu).spawn(thread::yield_now)).join(soon()));
    }
    for (cpu, before) in before.into_iter().enumerate() {
        same!(must!(next(world, cpu as u32)), before);
    }
    Ok(())
}

fn signals_are_traced_by_whatever_way_they_go(world: &'static World) -> Verdict {
    let signals = code!(
        "2:",
        "mov eax, 2",
        "mov rdi, r12",
        "mov esi, 1",
        "syscall",
        "inc qword ptr [rbx]",
        "jmp 2b",
    );
    const { assert!(Call::Signal as u64 == 2) };
    for cpu in 0..world.cpus {
        let notification = must!(Notification::create());
        let (probe, handle) = must!(with_handle(signals, &notification.handle(), Rights::SIGNAL));
        must!(probe.thread().set_affinity(&CpuSet::only(cpu)));
        let id = must!(probe.info()).thread;
        must!(probe.thread().start());
        // It is in the midst of them when the trace begins, and goes on for a while.
        probe.goes_on()?;
        let mut number = must!(next(world, cpu));
        let tracing = must!(Tracing::on(&world.system, TraceKind::Ipc.bit()));
        let mut seen = 0;
        until("its signals are noted", || {
            let records = news(world, cpu, &mut number)?;
            let wanted = (id, Call::Signal as u64, handle);
            let is_one = |record: &&TraceRecord| (record.thread, record.a, record.b) == wanted;
            seen += records.iter().filter(is_one).count();
            Ok(seen >= 10)
        })?;
        drop(tracing);
        probe.goes_on()?;
        let before = must!(next(world, cpu));
        probe.goes_on()?;
        same!(must!(next(world, cpu)), before);
        must!(probe.bare.process.kill(0));
    }
    Ok(())
}

/// A program that is given a handle, in R12, and the handle's number.
fn with_handle(code: &[u8], handle: &impl AsHandle, rights: Rights) -> rt::Result<(Probe, u64)> {
    let probe = Probe::new(code, |_| {})?;
    let granted = probe.bare.process.grant(handle, rights)?.0;
    let mut registers = probe.thread().registers()?;
    registers.r12 = granted;
    // SAFETY: the thread is of another process.
    unsafe { probe.thread().set_registers(&registers) }?;
    Ok((probe, granted))
}

fn each_program_traces_what_it_asks_for_until_its_own_end(world: &'static World) -> Verdict {
    // It begins and ends a trace of switches and messages, over and over, and lets others run in between.
    let to_and_fro = code!(
        "2:",
        "mov eax, 98",
        "mov rdi, r12",
        "mov esi, 3",
        "syscall",
        "mov eax, 98",
        "mov rdi, r12",
        "xor esi, esi",
        "syscall",
        "mov eax, 1",
        "syscall",
        "inc qword ptr [rbx]",
        "jmp 2b",
    );
    // It begins one of everything, and ends.
    let forgetful = code!(
        "mov eax, 98",
        "mov rdi, r12",
        "mov esi, 31",
        "syscall",
        "mov edi, eax",
        "mov eax, 50",
        "syscall",
    );
    const {
        assert!(Call::SystemTrace as u64 == 98 && Call::Yield as u64 == 1);
        assert!(Call::ProcessExit as u64 == 50 && TraceKind::EVERY == 31);
        assert!(TraceKind::Switch.bit() | TraceKind::Ipc.bit() == 3);
    }
    let system = world.system.handle();
    let (other, _) = must!(with_handle(to_and_fro, &system, Rights::QUERY));
    must!(other.thread().set_affinity(&CpuSet::only(world.cpus - 1)));
    must!(other.thread().start());
    other.goes_on()?;
    let tracing = must!(Tracing::on(&world.system, TraceKind::Switch.bit()));
    for cpu in 0..world.cpus {
        let mut number = must!(next(world, cpu));
        let two = yields(cpu, 20)?;
        let switches = must!(news(world, cpu, &mut number));
        let to_them =
            |record: &&TraceRecord| is(record, TraceKind::Switch) && two.contains(&record.thread);
        let count = switches.iter().filter(to_them).count();
        check!(count >= 36, "only {count} turns in the trace of CPU {cpu}");
    }
    let (last, _) = must!(with_handle(forgetful, &system, Rights::QUERY));
    same!(must!(last.bare.run()).code, 0);
    must!(other.bare.process.kill(0));
    must!(other.bare.run_to_end());
    drop(tracing);
    nothing_is_noted(world)
}

fn senseless_traces_are_refused(world: &'static World) -> Verdict {
    let system = world.system.handle().0;
    for kinds in [u64::from(TraceKind::EVERY) + 1, 1 << 31, 1 << 32, u64::MAX] {
        refused(Call::SystemTrace, &[system, kinds], Error::BadArgument)?;
    }
    let room = [TraceRecord::default(); 2];
    let place = room.as_ptr() as u64;
    for cpu in [u64::from(world.cpus), 1 << 32, u64::MAX] {
        let arguments = [system, cpu, 0, place, 80];
        refused(Call::SystemTraceRead, &arguments, Error::OutOfRange)?;
    }
    for (address, bytes) in [(1 << 47, 80), (u64::MAX - 7, 80), (place, u64::MAX)] {
        let arguments = [system, 0, 0, address, bytes];
        refused(Call::SystemTraceRead, &arguments, Error::BadPointer)?;
    }
    let _tracing = must!(Tracing::on(&world.system, TraceKind::EVERY));
    let arguments = [system, 0, 0, 0x6000_0000_0000, 80];
    until("there is something to read", || Ok(next(world, 0)? > 0))?;
    refused(Call::SystemTraceRead, &arguments, Error::BadPointer)
}
