//! Work for `just bench-stretches`, which looks how long the kernel keeps interrupts off: what grows with what a program asks for.
//!
//! The host begins to look at [`bench_trace_begin`](crate::measure::bench_trace_begin), which comes first here, and takes
//! [`bench_trace_end`](crate::measure::bench_trace_end) for the end of a part, of which it knows the names in order. Nothing is measured from inside.

use abi::info::PowerAction;
use abi::{Error, Protection, Rights};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use rt::{
    Deadline, Endpoint, Log, Memory, Message, Notification, System, process, start, thread, time,
};

use crate::changing::{self, touch};
use crate::measure::{bench_trace_begin, bench_trace_end};
use crate::partner::{Role, Starter, Turn};

/// Bytes of the large object: 512 pages.
pub const LARGE: u64 = 2 << 20;
/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Threads, and handles, of which there are many.
const THREADS: usize = 100;
const HANDLES: usize = 1000;
/// Time for what was started, or ended, to come to its end.
const SETTLING: Duration = Duration::from_millis(50);

/// Does everything, says so, and switches the machine off.
///
/// # Errors
/// What stood in the way, in words.
pub fn do_all() -> Result<(), String> {
    let log: Log = start::take("log").map_err(|error| format!("{error}"))?;
    let system: System = start::take("system").map_err(|error| format!("{error}"))?;
    let starter = Starter::new()?;
    bench_trace_begin();
    // The same list is in `tools/src/bench/stretches.rs`.
    let parts: [(&str, &dyn Fn() -> rt::Result<()>); 13] = [
        ("memory", &memory),
        ("clones", &changing::clones),
        ("large pages", &changing::large_pages),
        ("pages taken back", &changing::taken_back),
        (
            "a page taken back, mapped twice",
            &changing::taken_back_scattered,
        ),
        ("the same in several spaces", &|| {
            changing::taken_back_everywhere(&starter)
        }),
        (
            "a shared page written, mapped twice",
            &changing::clone_scattered,
        ),
        (
            "memory cloned that is mapped at 32 places",
            &changing::clone_everywhere,
        ),
        ("2000 mappings", &mappings),
        ("processes", &|| processes(&starter)),
        ("threads", &|| threads(&system)),
        ("waiting callers", &callers),
        ("log", &|| log.write(&"x".repeat(4000))),
    ];
    for (name, part) in parts {
        part().map_err(|error| format!("{name}: {error}"))?;
        bench_trace_end();
    }
    log.write("\nbench done\n")
        .map_err(|error| format!("{error}"))?;
    system
        .power(PowerAction::Off)
        .map_err(|error| format!("can't switch the machine off: {error}"))
}

/// A large object is filled by touching it, copied both ways, and taken away.
fn memory() -> rt::Result<()> {
    let memory = Memory::create(LARGE)?;
    let mapping = memory.map(Protection::READ_WRITE)?;
    touch(&mapping);
    // SAFETY: as above, and nobody writes to it.
    let bytes =
        unsafe { core::slice::from_raw_parts(mapping.as_ptr().cast_const(), LARGE as usize / 2) };
    memory.write(LARGE / 2, bytes)?;
    drop(mapping);
    // Mapped again when all its pages are there.
    drop(memory.map(Protection::READ)?);
    drop(memory);
    time::sleep(SETTLING)
}

/// Many mappings are protected together, room is looked for among them where there is none, and they are unmapped.
fn mappings() -> rt::Result<()> {
    const BASE: u64 = 0x2400_0000_0000;
    const COUNT: u64 = 2000;
    /// More than there is anywhere between two of them.
    const HUGE: u64 = 0x7000_0000_0000 - 1;
    let memory = Memory::create(PAGE as u64)?;
    let own = process::current();
    for number in 0..COUNT {
        let place = BASE + number * PAGE as u64;
        own.map(&memory, place, 0, PAGE as u64, Protection::READ_WRITE)?;
        // SAFETY: it was just mapped, for this function alone.
        unsafe { (place as *mut u8).write_volatile(1) };
    }
    for protection in [Protection::READ, Protection::READ_WRITE] {
        // SAFETY: nobody else knows of the pages.
        unsafe { own.protect(BASE, COUNT * PAGE as u64, protection) }?;
    }
    if Memory::create(HUGE)?.map(Protection::READ).is_ok() {
        return Err(Error::WrongState);
    }
    // SAFETY: as above.
    unsafe { own.unmap(BASE, COUNT * PAGE as u64) }?;
    drop(memory);
    time::sleep(SETTLING)
}

/// A process with a large space and many handles is made and ended.
fn processes(starter: &Starter) -> rt::Result<()> {
    let process = starter.start(Role::Yield(Turn::Plain), &[])?;
    let memory = Memory::create(LARGE)?;
    memory.write(0, &[1; PAGE])?;
    let mapping = memory.map(Protection::READ_WRITE)?;
    touch(&mapping);
    process.map(&memory, 0x2400_0000_0000, 0, LARGE, Protection::READ)?;
    for _ in 0..HANDLES {
        process.grant(&memory, Rights::READ)?;
    }
    time::sleep(SETTLING)?;
    process.kill(0)?;
    drop(process);
    time::sleep(SETTLING)
}

/// Many threads sleep, are listed, and end.
fn threads(system: &System) -> rt::Result<()> {
    let mut bells = Vec::new();
    let mut all = Vec::new();
    for _ in 0..THREADS {
        let bell = Arc::new(Notification::create()?);
        let told = Arc::clone(&bell);
        bells.push(bell);
        let small = thread::Builder::new().stack_bytes(4 * PAGE as u64);
        all.push(small.spawn(move || told.wait(Deadline::NEVER).map(drop))?);
    }
    time::sleep(SETTLING)?;
    system.threads()?;
    for bell in &bells {
        bell.signal(1)?;
    }
    all.into_iter()
        .try_for_each(|thread| thread.join(Deadline::NEVER)?)
}

/// Many callers wait for an endpoint of a process that is ended, and are all told so.
fn callers() -> rt::Result<()> {
    let endpoint = Arc::new(Endpoint::create()?);
    let mut all = Vec::new();
    for _ in 0..THREADS {
        let endpoint = endpoint.mint(abi::Badge(0), Rights::SEND)?;
        let small = thread::Builder::new().stack_bytes(4 * PAGE as u64);
        all.push(
            small.spawn(move || endpoint.call(Message::new(0), 0, Deadline::NEVER).map(drop))?,
        );
    }
    time::sleep(SETTLING)?;
    // Nobody can receive any more.
    drop(endpoint);
    for thread in all {
        if thread.join(Deadline::NEVER)?.is_ok() {
            return Err(Error::WrongState);
        }
    }
    Ok(())
}
