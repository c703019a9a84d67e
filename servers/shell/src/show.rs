//! The system's records as tables.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::time::Duration;

use abi::info::{
    CpuInfo, EndpointInfo, MachineInfo, MemoryInfo, ProcessEntry, ProcessState, ThreadInfo,
    ThreadState,
};

use crate::table::{Align, Table};
use crate::units;

/// CPUs: what their threads do, what interrupts them, and what they did about floating-point state. A table for each, as one of all
/// would be wider than a terminal.
pub fn cpus(list: &[CpuInfo]) -> String {
    let of = |headings: &[&str], cells: &dyn Fn(&CpuInfo) -> Vec<String>| {
        let headings: Vec<_> = headings.iter().map(|&text| (text, Align::Right)).collect();
        let mut table = Table::new(&headings);
        for cpu in list {
            table.row(cells(cpu));
        }
        table.finish()
    };
    let threads = [
        "CPU",
        "APIC ID",
        "BUSY",
        "TIME BUSY",
        "SWITCHES",
        "READY",
        "IN",
        "OUT",
        "STOLEN",
    ];
    let interrupts = ["CPU", "TICKS", "INTERRUPTS", "IPIS", "NMIS"];
    let fpu = [
        "CPU",
        "FPU SAVES",
        "RESTORES",
        "#NM",
        "SKIPPED",
        "PRELOADS",
        "SCRUBS",
        "CR0 WRITES",
    ];
    [
        of(&threads, &|cpu| {
            vec![
                cpu.index.to_string(),
                cpu.apic_id.to_string(),
                units::percent(cpu.busy_ns, cpu.up_ns),
                units::nanoseconds(cpu.busy_ns),
                cpu.switches.to_string(),
                cpu.runnable.to_string(),
                cpu.migrations_in.to_string(),
                cpu.migrations_out.to_string(),
                cpu.steals.to_string(),
            ]
        }),
        of(&interrupts, &|cpu| {
            vec![
                cpu.index.to_string(),
                cpu.timer_ticks.to_string(),
                cpu.interrupts.to_string(),
                cpu.ipis_sent.to_string(),
                cpu.nmis.to_string(),
            ]
        }),
        of(&fpu, &|cpu| {
            vec![
                cpu.index.to_string(),
                cpu.fpu.saves.to_string(),
                cpu.fpu.restores.to_string(),
                cpu.fpu.traps.to_string(),
                cpu.fpu.skipped.to_string(),
                cpu.fpu.preloads.to_string(),
                cpu.fpu.scrubs.to_string(),
                cpu.fpu.ts_changes.to_string(),
            ]
        }),
    ]
    .join("\n")
}

/// Threads.
pub fn threads(list: &[ThreadInfo]) -> String {
    let mut table = Table::new(&[
        ("PROCESS", Align::Right),
        ("NAME", Align::Left),
        ("THREAD", Align::Right),
        ("CPU", Align::Right),
        ("STATE", Align::Left),
        ("PRIORITY", Align::Right),
        ("CPU TIME", Align::Right),
        ("SWITCHES", Align::Right),
        ("MOVES", Align::Right),
    ]);
    for thread in list {
        table.row([
            thread.process.to_string(),
            name(thread),
            thread.thread.to_string(),
            thread.cpu.to_string(),
            ThreadState::from_number(thread.state)
                .map_or("?", ThreadState::text)
                .into(),
            priority(thread),
            units::nanoseconds(thread.cpu_ns),
            thread.switches.to_string(),
            thread.migrations.to_string(),
        ]);
    }
    table.finish()
}

/// A thread's effective priority, and its own behind it if that is another.
fn priority(thread: &ThreadInfo) -> String {
    if thread.priority == thread.base_priority {
        thread.priority.to_string()
    } else {
        format!("{} ({})", thread.priority, thread.base_priority)
    }
}

/// A thread's process's name; what can't be shown of it is replaced.
pub fn name(thread: &ThreadInfo) -> String {
    name_of(&thread.name, thread.name_bytes)
}

/// A process's name, in the same way.
pub fn process_name(process: &ProcessEntry) -> String {
    name_of(&process.name, process.name_bytes)
}

/// Memory that is counted in pages.
pub fn pages(count: u64) -> String {
    const PAGE_BYTES: u64 = 4096;
    units::bytes(count.saturating_mul(PAGE_BYTES))
}

fn name_of(name: &[u8], bytes: u32) -> String {
    let bytes = &name[..(bytes as usize).min(name.len())];
    printable(&String::from_utf8_lossy(bytes))
}

/// Processes, with the endpoints that each has made and those that its threads serve alone.
pub fn processes(list: &[ProcessEntry], endpoints: &[EndpointInfo]) -> String {
    let mut table = Table::new(&[
        ("PROCESS", Align::Right),
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("THREADS", Align::Right),
        ("MEMORY", Align::Right),
        ("HANDLES", Align::Right),
        ("ENDPOINTS", Align::Right),
        ("SERVES", Align::Left),
    ]);
    for process in list {
        let made = endpoints.iter().filter(|one| one.creator == process.id);
        let served: Vec<String> = endpoints
            .iter()
            .filter(|one| one.server != 0 && one.server_process == process.id)
            .map(|one| one.id.to_string())
            .collect();
        table.row([
            process.id.to_string(),
            process_name(process),
            state(process),
            process.threads.to_string(),
            pages(process.pages),
            process.handles.to_string(),
            made.count().to_string(),
            some(&served),
        ]);
    }
    table.finish()
}

/// How a process stands, or how it ended.
fn state(process: &ProcessEntry) -> String {
    let is = |state: ProcessState| process.state == state as u32;
    if is(ProcessState::Alive) {
        "alive".into()
    } else if is(ProcessState::Exited) {
        format!("exited, {}", process.code)
    } else if is(ProcessState::Killed) {
        "killed".into()
    } else if is(ProcessState::Faulted) {
        "faulted".into()
    } else {
        "?".into()
    }
}

/// Endpoints: whose they are, who serves them, and who waits there.
pub fn endpoints(
    list: &[EndpointInfo],
    processes: &[ProcessEntry],
    threads: &[ThreadInfo],
) -> String {
    let mut table = Table::new(&[
        ("ENDPOINT", Align::Right),
        ("MADE BY", Align::Left),
        ("SERVED BY", Align::Left),
        ("RECEIVERS", Align::Right),
        ("SENDERS", Align::Right),
        ("WHO WAITS TO SEND", Align::Left),
    ]);
    for endpoint in list {
        let process = |id: u64| {
            let found = processes.iter().find(|process| process.id == id);
            found.map_or_else(|| "-".into(), process_name)
        };
        let server = match (endpoint.server, endpoint.servers) {
            (0, 0) => "-".into(),
            (0, several) => format!("{several} threads"),
            (thread, _) => format!("{} (thread {thread})", process(endpoint.server_process)),
        };
        let waiting: Vec<String> = threads
            .iter()
            .filter(|thread| {
                thread.state == ThreadState::Sending as u32 && thread.waits_for == endpoint.id
            })
            .map(|thread| format!("{} (thread {})", name(thread), thread.thread))
            .collect();
        table.row([
            endpoint.id.to_string(),
            process(endpoint.creator),
            server,
            endpoint.receivers.to_string(),
            endpoint.senders.to_string(),
            some(&waiting),
        ]);
    }
    table.finish()
}

/// The first few of a list, and how many there are more.
fn some(list: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = list[..list.len().min(SHOWN)].join(", ");
    if list.len() > SHOWN {
        let _ = write!(text, ", and {} more", list.len() - SHOWN);
    }
    text
}

/// A text without what would steer the terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                '\u{FFFD}'
            } else {
                character
            }
        })
        .collect()
}

/// Memory.
pub fn memory(info: &MemoryInfo) -> String {
    let mut table = Table::new(&[
        ("MEMORY", Align::Left),
        ("SIZE", Align::Right),
        ("SHARE", Align::Right),
    ]);
    for (what, bytes) in [
        ("total", info.total),
        ("free", info.free),
        ("kernel image", info.kernel_image),
        ("kernel tables, stacks, objects", info.kernel),
        ("user programs", info.user),
        ("reclaimed from the boot loader", info.reclaimed),
    ] {
        table.row([
            what.into(),
            units::bytes(bytes),
            units::percent(bytes, info.total),
        ]);
    }
    table.finish()
}

/// Uptime.
pub fn uptime(now: Duration, machine: &MachineInfo) -> String {
    let up = units::duration(now);
    let since = match machine.boot_seconds {
        0 => String::new(),
        seconds => format!(", since {}", units::date(seconds)),
    };
    let plural = if machine.cpus == 1 { "" } else { "s" };
    let failed = match machine.cpus_failed {
        0 => String::new(),
        failed => format!(" ({failed} more did not start)"),
    };
    let start = units::nanoseconds(machine.kernel_boot_ns);
    let clock = units::gigahertz(machine.tsc_hz);
    let cpus = machine.cpus;
    format!(
        "up {up}{since}, {cpus} CPU{plural}{failed}\n\
         kernel start took {start}, time-stamp counter runs at {clock}\n"
    )
}

/// A file: text as it is, with what would steer the terminal replaced; of other files only what they are.
pub fn file(name: &str, contents: &[u8]) -> String {
    let Ok(text) = str::from_utf8(contents) else {
        return format!(
            "{name}: not text, {}\n",
            units::bytes(contents.len() as u64)
        );
    };
    if text.contains('\0') {
        return format!(
            "{name}: not text, {}\n",
            units::bytes(contents.len() as u64)
        );
    }
    let keep = |character: char| !character.is_control() || character == '\n' || character == '\t';
    let mut text: String = text
        .chars()
        .filter(|character| *character != '\r')
        .map(|character| {
            if keep(character) {
                character
            } else {
                '\u{FFFD}'
            }
        })
        .collect();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
