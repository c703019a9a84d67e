//! The operations, and how each is measured.

use abi::info::PowerAction;
use abi::{Call, Deadline, Error};
use alloc::format;
use alloc::string::String;
use core::time::Duration;
use rt::sys::{self, IpcRegisters};
use rt::{AsHandle, Endpoint, Log, System, start, thread, time};

use crate::measure::{Cost, measure};
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
    let say = |name: &str, cost: rt::Result<Cost>| -> Result<(), String> {
        let failed = |error: Error| format!("{name}: {error}");
        let cost = cost.map_err(failed)?.without(overhead);
        log.write(&format!(
            "{name}: at least {}\nbench {name} {}\n",
            cost.least, cost.median
        ))
        .map_err(failed)
    };
    say("syscall_null", syscall_null())?;
    say("call_reply_same_space", call_reply_same_space())?;
    say("call_reply_cross_space", call_reply_cross_space(&starter))?;
    say("yield_same_space", yield_same_space())?;
    for (name, mine, partners) in [
        ("yield_cross_space", Turn::Plain, Turn::Plain),
        ("yield_cross_space_fpu_one", Turn::Float, Turn::Plain),
        ("yield_cross_space_fpu_both", Turn::Float, Turn::Float),
    ] {
        say(name, yield_cross_space(&starter, mine, partners))?;
    }
    log.write("bench done\n")
        .map_err(|error| format!("{error}"))?;
    system
        .power(PowerAction::Off)
        .map_err(|error| format!("can't switch the machine off: {error}"))
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

/// Calls whoever serves the endpoint, with words alone.
fn call_reply(endpoint: &Endpoint) -> rt::Result<Cost> {
    let mut status = 0;
    let cost = measure(|| {
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
    let server = thread::spawn(move || partner::serve(&endpoint))?;
    time::sleep(SETTLING)?;
    let cost = call_reply(&caller);
    // SAFETY: it waits for a message, holds nothing, and is not heard of again.
    unsafe { server.thread().kill() }?;
    cost
}

fn call_reply_cross_space(starter: &Starter) -> rt::Result<Cost> {
    let endpoint = Endpoint::create()?;
    let server = starter.start("serve", Some(&endpoint))?;
    time::sleep(SETTLING)?;
    let cost = call_reply(&endpoint);
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
