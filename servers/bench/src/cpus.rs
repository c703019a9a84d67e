//! Calls on and between several CPUs.
//!
//! Under `-icount` all CPUs share one counter, and QEMU runs one after the other for a while each. So what a figure says is how many
//! instructions all of them executed for one round trip: the same for any number of CPUs if none waits for another.

use abi::{CpuSet, Deadline, Error};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rt::sys;
use rt::{AsHandle, Endpoint, Log, Notification, Process, Rights, System, Thread, time};

use crate::calls;
use crate::measure::{DONE, counter, measure};
use crate::messages::SETTLING;
use crate::partner::{CLIENT_CALLS, Role, Starter, Turn};

/// How many of the CPUs take part.
const CROWDS: [u32; 3] = [1, 2, 4];

fn failed(error: Error) -> String {
    format!("{error}")
}

fn say(log: &Log, name: &str, number: u64) -> Result<(), String> {
    log.write(&format!("bench {name} {number}\n"))
        .map_err(|error| format!("{name}: {error}"))
}

/// Measures calls from one CPU to another, if the machine has two, and says it: to a server that waits, and to one that is awake.
///
/// # Errors
/// What stood in the way, in words.
pub fn measure_between(log: &Log, system: &System, starter: &Starter) -> Result<(), String> {
    stay_here().map_err(failed)?;
    if system.machine().map_err(failed)?.cpus < 2 {
        return Ok(());
    }
    let waiting = call_other_cpu(system, starter, Role::Serve(Turn::Plain)).map_err(failed)?;
    say(log, "call_reply_other_cpu", waiting.instructions)?;
    let [caller, server] = waiting.ipis;
    say(log, "call_reply_other_cpu_ipis_of_caller_in_1000", caller)?;
    say(log, "call_reply_other_cpu_ipis_of_server_in_1000", server)?;
    let awake = call_other_cpu(system, starter, Role::ServeAwake).map_err(failed)?;
    let [caller, server] = awake.ipis;
    say(
        log,
        "call_reply_awake_server_ipis_of_caller_in_1000",
        caller,
    )?;
    say(
        log,
        "call_reply_awake_server_ipis_of_server_in_1000",
        server,
    )
}

/// Measures what the machine has CPUs for, and says it.
///
/// # Errors
/// What stood in the way, in words.
pub fn measure_all(log: &Log, system: &System, starter: &Starter) -> Result<(), String> {
    measure_between(log, system, starter)?;
    stay_here().map_err(failed)?;
    let cpus = system.machine().map_err(failed)?.cpus;
    for crowd in CROWDS.into_iter().filter(|crowd| *crowd <= cpus) {
        let turn = throughput(starter, crowd, true).map_err(failed)?;
        say(log, &format!("call_reply_pairs_on_{crowd}"), turn)?;
    }
    for crowd in CROWDS.into_iter().filter(|crowd| *crowd <= cpus) {
        let turn = throughput(starter, crowd, false).map_err(failed)?;
        say(log, &format!("call_reply_one_server_from_{crowd}"), turn)?;
    }
    Ok(())
}

/// One round trip to a server on the second CPU, to be followed, and nothing else.
///
/// # Errors
/// What stood in the way, in words.
pub fn once(starter: &Starter) -> Result<(), String> {
    let trips = || -> rt::Result<()> {
        stay_here()?;
        let (endpoint, server) = server_on(starter, 1, Role::Serve(Turn::Plain))?;
        let mut status = 0;
        // SAFETY: a message without bytes and handles.
        measure(|| status |= unsafe { calls::call(endpoint.handle().0, 0) }.0);
        server.kill(0)?;
        sys::check(status)
    };
    trips().map_err(|error| format!("{error}"))
}

/// Keeps the calling thread on the first CPU.
fn stay_here() -> rt::Result<()> {
    Thread::current()?.set_affinity(&CpuSet::only(0))
}

/// A server of calls without words, on that CPU alone, and its endpoint.
fn server_on(starter: &Starter, cpu: u32, role: Role) -> rt::Result<(Endpoint, Process)> {
    let endpoint = Endpoint::create()?;
    let given = [("endpoint", endpoint.handle(), Rights::RECEIVE)];
    let server = starter.start_on(&CpuSet::only(cpu), role, &given)?;
    time::sleep(SETTLING)?;
    Ok((endpoint, server))
}

/// What a round trip to another CPU comes to.
struct Trip {
    /// Instructions of both CPUs.
    instructions: u64,
    /// Interrupts that each sends the other for a thousand of them: the caller's CPU, and the server's.
    ipis: [u64; 2],
}

/// A round trip to a server on the second CPU, on a machine that does nothing else.
fn call_other_cpu(system: &System, starter: &Starter, role: Role) -> rt::Result<Trip> {
    let (endpoint, server) = server_on(starter, 1, role)?;
    let sent = || -> rt::Result<[u64; 2]> {
        let cpus = system.cpus()?;
        Ok([cpus[0].ipis_sent, cpus[1].ipis_sent])
    };
    let mut status = 0;
    let before = sent()?;
    // SAFETY: a message without bytes and handles.
    let cost = measure(|| status |= unsafe { calls::call(endpoint.handle().0, 0) }.0);
    let after = sent()?;
    server.kill(0)?;
    sys::check(status)?;
    Ok(Trip {
        instructions: cost.median,
        ipis: [0, 1].map(|cpu| (after[cpu] - before[cpu]) * 1000 / DONE),
    })
}

/// Instructions for one round trip when a client on each of so many CPUs calls at the same time: a server of its own on the same CPU, or one
/// for all on the first.
fn throughput(starter: &Starter, cpus: u32, own_servers: bool) -> rt::Result<u64> {
    let (go, done) = (Notification::create()?, Notification::create()?);
    let mut all = Vec::new();
    let mut servers = Vec::new();
    for cpu in 0..cpus {
        if own_servers || servers.is_empty() {
            servers.push(server_on(starter, cpu, Role::Serve(Turn::Plain))?);
        }
        let (endpoint, _) = servers.last().ok_or(Error::WrongState)?;
        let given = [
            ("endpoint", endpoint.handle(), Rights::SEND),
            ("go", go.handle(), Rights::WAIT.with(Rights::SIGNAL)),
            ("done", done.handle(), Rights::SIGNAL),
        ];
        all.push(starter.start_on(&CpuSet::only(cpu), Role::Client(cpu), &given)?);
    }
    time::sleep(SETTLING)?;
    let begin = counter();
    go.signal(1)?;
    let mut waiting = (1_u64 << cpus) - 1;
    while waiting != 0 {
        waiting &= !done.wait(Deadline::NEVER)?;
    }
    let end = counter();
    all.iter()
        .chain(servers.iter().map(|(_, server)| server))
        .try_for_each(|process| process.kill(0))?;
    Ok((end - begin) / (u64::from(cpus) * CLIENT_CALLS))
}
