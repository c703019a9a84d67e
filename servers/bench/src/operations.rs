//! The operations, and how each is measured.

use abi::info::{FpuCounters, PowerAction};
use abi::{Call, Deadline, Error};
use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;
use core::time::Duration;
use rt::sys::{self, IpcRegisters};
use rt::{AsHandle, Endpoint, Log, System, start, thread, time};

use crate::mapping;
use crate::measure::{Cost, DONE, measure};
use crate::partner::{self, Starter, Turn};

/// Time for a partner to come to its first wait.
const SETTLING: Duration = Duration::from_millis(20);

/// Measures everything, says it, and switches the machine off.
///
/// # Errors
/// What stood in the way, in words.
pub fn measure_all() -> Result<(), String> {
    let log: Log = start::take("log").map_err(|error| format!("{error}"))?;
    let system: System = start::take("system").map_err(|error| format!("{error}"))?;
    let starter = Starter::new()?;
    let overhead = measure(|| ());
    let say = |name: &str, act: &dyn Fn() -> rt::Result<Cost>| -> Result<(), String> {
        let failed = |error: Error| format!("{name}: {error}");
        let before = fpu_counters(&system).map_err(failed)?;
        let cost = act().map_err(failed)?.without(overhead);
        let did = floating_work(before, fpu_counters(&system).map_err(failed)?);
        log.write(&format!(
            "{name}: at least {}{did}\nbench {name} {}\n",
            cost.least, cost.median
        ))
        .map_err(failed)
    };
    say("syscall_null", &syscall_null)?;
    say("call_reply_same_space", &call_reply_same_space)?;
    for (name, mine, servers) in [
        ("call_reply_cross_space", Turn::Plain, Turn::Plain),
        (
            "call_reply_cross_space_fpu_client",
            Turn::Float,
            Turn::Plain,
        ),
        (
            "call_reply_cross_space_fpu_server",
            Turn::Plain,
            Turn::Float,
        ),
        ("call_reply_cross_space_fpu_both", Turn::Float, Turn::Float),
    ] {
        say(name, &|| call_reply_cross_space(&starter, mine, servers))?;
    }
    say("yield_same_space", &yield_same_space)?;
    for (name, mine, partners) in [
        ("yield_cross_space", Turn::Plain, Turn::Plain),
        ("yield_cross_space_fpu_one", Turn::Float, Turn::Plain),
        ("yield_cross_space_fpu_both", Turn::Float, Turn::Float),
    ] {
        say(name, &|| yield_cross_space(&starter, mine, partners))?;
    }
    say("map_unmap_4k", &mapping::map_unmap_4k)?;
    log.write("bench done\n")
        .map_err(|error| format!("{error}"))?;
    system
        .power(PowerAction::Off)
        .map_err(|error| format!("can't switch the machine off: {error}"))
}

/// What the one CPU did about floating-point state.
fn fpu_counters(system: &System) -> rt::Result<FpuCounters> {
    Ok(system.cpus()?[0].fpu)
}

/// What was done about floating-point state for each time that an operation was done, in words; nothing if next to nothing was.
fn floating_work(before: FpuCounters, after: FpuCounters) -> String {
    let hundredths = |before: u64, after: u64| (after - before) * 100 / DONE;
    let parts = [
        ("saves", hundredths(before.saves, after.saves)),
        ("loads", hundredths(before.restores, after.restores)),
        ("#NM", hundredths(before.traps, after.traps)),
        ("not needed", hundredths(before.skipped, after.skipped)),
        ("cleared", hundredths(before.scrubs, after.scrubs)),
        (
            "CR0 writes",
            hundredths(before.ts_changes, after.ts_changes),
        ),
    ];
    let mut text = String::new();
    if parts.iter().any(|(_, count)| *count >= 10) {
        for (name, count) in parts {
            // Writing to a string can't fail.
            let _ = write!(text, "; {name} {}.{:02}", count / 100, count % 100);
        }
    }
    text
}

fn syscall_null() -> rt::Result<Cost> {
    let mut failed = 0;
    let cost = measure(|| {
        // SAFETY: the call does nothing.
        let (status, _) = unsafe { sys::short(Call::Null) };
        failed |= status;
    });
    sys::check(failed).map(|()| cost)
}

/// Calls whoever serves the endpoint, with words alone, each time after `work`.
#[inline(always)]
fn call_reply(endpoint: &Endpoint, work: impl Fn()) -> rt::Result<Cost> {
    let mut status = 0;
    let cost = measure(|| {
        work();
        let mut registers = IpcRegisters {
            handle: endpoint.handle().0,
            tag: 0,
            words: [1, 2, 3, 4, 5, 6],
            deadline: Deadline::NEVER.0,
            reply: 0,
        };
        // SAFETY: a message of words alone, which touches nothing but the registers.
        status |= unsafe { sys::ipc(Call::Call as u64, &mut registers) };
    });
    sys::check(status).map(|()| cost)
}

fn call_reply_same_space() -> rt::Result<Cost> {
    let endpoint = Endpoint::create()?;
    let caller = endpoint.duplicate(rt::Rights::SEND)?;
    let server = thread::spawn(move || partner::serve(&endpoint, Turn::Plain))?;
    time::sleep(SETTLING)?;
    let cost = call_reply(&caller, || ());
    // SAFETY: it waits for a message, holds nothing, and is not heard of again.
    unsafe { server.thread().kill() }?;
    cost
}

fn call_reply_cross_space(starter: &Starter, mine: Turn, servers: Turn) -> rt::Result<Cost> {
    let endpoint = Endpoint::create()?;
    let server = starter.start(servers.serving(), Some(&endpoint))?;
    time::sleep(SETTLING)?;
    let cost = match mine {
        Turn::Plain => call_reply(&endpoint, || ()),
        Turn::Float => call_reply(&endpoint, partner::use_fpu),
    };
    server.kill(0)?;
    cost
}

/// There and back: the partner does nothing but yield as well.
fn yield_same_space() -> rt::Result<Cost> {
    let partner = thread::spawn(|| partner::take_turns(Turn::Plain))?;
    time::sleep(SETTLING)?;
    let cost = measure(thread::yield_now);
    // SAFETY: it holds nothing, and is not heard of again.
    unsafe { partner.thread().kill() }?;
    Ok(cost)
}

fn yield_cross_space(starter: &Starter, mine: Turn, partners: Turn) -> rt::Result<Cost> {
    let partner = starter.start(partners.role(), None)?;
    time::sleep(SETTLING)?;
    let cost = match mine {
        Turn::Plain => measure(thread::yield_now),
        Turn::Float => measure(|| {
            partner::use_fpu();
            thread::yield_now();
        }),
    };
    partner.kill(0)?;
    Ok(cost)
}
