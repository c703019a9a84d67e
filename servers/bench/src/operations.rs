//! The operations, and how each is measured.

use abi::Call;
use abi::info::{FpuCounters, PowerAction};
use abi::ipc_area::BUFFER_BYTES;
use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;
use rt::sys;
use rt::{Log, System, start, thread, time};

use crate::creation;
use crate::crowd::Crowd;
use crate::mapping;
use crate::measure::{Cost, DONE, measure};
use crate::messages::{self, SETTLING};
use crate::partner::{self, Calls, Role, Starter, Turn};

/// The same as [`measure_all`], among very many objects.
///
/// # Errors
/// What stood in the way, in words.
pub fn measure_in_crowd() -> Result<(), String> {
    let crowd = Crowd::gather()?;
    measure_all()?;
    drop(crowd);
    Ok(())
}

/// Measures everything, says it, and switches the machine off.
///
/// # Errors
/// What stood in the way, in words.
pub fn measure_all() -> Result<(), String> {
    let log: Log = start::take("log").map_err(|error| format!("{error}"))?;
    let system: System = start::take("system").map_err(|error| format!("{error}"))?;
    let starter = Starter::new()?;
    let overhead = measure(|| ());
    let say = |name: &str, act: &dyn Fn() -> Result<Cost, String>| -> Result<(), String> {
        let failed = |error: String| format!("{name}: {error}");
        let cpu = || fpu_counters(&system).map_err(|error| format!("{error}"));
        let before = cpu().map_err(failed)?;
        let cost = act().map_err(failed)?.without(overhead);
        let did = floating_work(before, cpu().map_err(failed)?);
        log.write(&format!(
            "{name}: at least {}, at most {}{did}\nbench {name} {}\n",
            cost.least, cost.most, cost.median
        ))
        .map_err(|error| failed(format!("{error}")))
    };
    let tell = |name: &str, act: &dyn Fn() -> rt::Result<Cost>| {
        say(name, &|| act().map_err(|error| format!("{error}")))
    };
    tell("syscall_null", &syscall_null)?;
    tell("call_reply_cross_space_6w", &|| {
        messages::call_reply_cross_space_6w(&starter)
    })?;
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
        tell(name, &|| {
            messages::call_reply_cross_space(&starter, mine, servers)
        })?;
    }
    tell("call_reply_cross_space_bound", &|| {
        messages::call_reply_cross_space_bound(&starter)
    })?;
    tell("call_reply_same_space", &messages::call_reply_same_space)?;
    for (name, bytes) in [("call_reply_256b", 256), ("call_reply_4k", BUFFER_BYTES)] {
        tell(name, &|| messages::call_reply_bytes(&starter, bytes))?;
    }
    tell("call_reply_handle", &|| {
        messages::call_reply_handle(&starter)
    })?;
    tell("fault_round_trip", &|| messages::fault_round_trip(&starter))?;
    tell("signal_idle", &messages::signal_idle)?;
    for (name, calls, starter) in [
        ("signal_wait_pingpong", Calls::One, Some(&starter)),
        ("signal_wait_pingpong_same_space", Calls::One, None),
        ("signal_wait_pingpong_two_calls", Calls::Two, Some(&starter)),
    ] {
        tell(name, &|| messages::signal_wait_pingpong(calls, starter))?;
    }
    tell("thread_create_cold", &creation::thread_create_cold)?;
    tell("thread_create", &creation::thread_create)?;
    say("process_create", &creation::process_create)?;
    tell("yield_same_space", &yield_same_space)?;
    for (name, mine, partners) in [
        ("yield_cross_space", Turn::Plain, Turn::Plain),
        ("yield_cross_space_fpu_one", Turn::Float, Turn::Plain),
        ("yield_cross_space_fpu_both", Turn::Float, Turn::Float),
    ] {
        tell(name, &|| yield_cross_space(&starter, mine, partners))?;
    }
    tell("map_unmap_4k", &mapping::map_unmap_4k)?;
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
    let partner = starter.start(Role::Yield(partners), &[])?;
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
