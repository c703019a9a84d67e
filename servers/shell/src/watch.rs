//! What changes while one looks: who has the CPUs, and what they do one by one.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Reverse;

use abi::info::{CpuInfo, ProcessEntry, ThreadInfo, ThreadState};
use abi::trace::{TraceKind, TraceRecord};
use abi::{Call, FaultKind};

use crate::show;
use crate::table::{Align, Table};
use crate::units;
use crate::world::Trace;

/// Threads that [`top`] shows, and processes that [`top_processes`] shows.
const SHOWN: usize = 15;
/// Records that [`trace`] shows: the last ones.
const SHOWN_RECORDS: usize = 40;

/// All CPUs and all threads at a moment.
pub type Moment = (Vec<CpuInfo>, Vec<ThreadInfo>);

/// What the CPUs, and those threads that had most of them, did from one moment to another.
pub fn top(before: &Moment, after: &Moment) -> String {
    let (cpus, passed) = cpus(before, after);
    let mut busy = ran(before, after);
    busy.retain(|(ran, _)| *ran > 0);
    busy.sort_by_key(|(ran, thread)| (Reverse(*ran), thread.thread));
    let mut threads = Table::new(&[
        ("PROCESS", Align::Right),
        ("NAME", Align::Left),
        ("THREAD", Align::Right),
        ("CPU", Align::Right),
        ("STATE", Align::Left),
        ("PRIORITY", Align::Right),
        ("RAN", Align::Right),
        ("OF A CPU", Align::Right),
    ]);
    for (ran, thread) in busy.iter().take(SHOWN) {
        threads.row([
            thread.process.to_string(),
            show::name(thread),
            thread.thread.to_string(),
            thread.cpu.to_string(),
            ThreadState::from_number(thread.state)
                .map_or("?", ThreadState::text)
                .into(),
            thread.priority.to_string(),
            units::nanoseconds(*ran),
            units::percent(*ran, passed),
        ]);
    }
    format!("{cpus}\n{}", threads.finish())
}

/// The same with processes: those that had most of the CPUs, and of those that had none, those with most memory.
///
/// What a process did is what its threads did that are there now; one that has ended since takes its part with it.
pub fn top_processes(before: &Moment, after: &Moment, processes: &[ProcessEntry]) -> String {
    let (cpus, passed) = cpus(before, after);
    let by_thread = ran(before, after);
    let mut shares: Vec<(u64, u64, &ProcessEntry)> = processes
        .iter()
        .map(|process| {
            let own = by_thread
                .iter()
                .filter(|(_, thread)| thread.process == process.id);
            let (ran, total) = own.fold((0_u64, 0_u64), |(ran, total), (more, thread)| {
                (
                    ran.saturating_add(*more),
                    total.saturating_add(thread.cpu_ns),
                )
            });
            (ran, total, process)
        })
        .collect();
    // What has ended and is only remembered is no user of anything.
    shares.retain(|(ran, _, process)| *ran > 0 || process.threads > 0 || process.pages > 0);
    shares.sort_by_key(|(ran, _, process)| (Reverse(*ran), Reverse(process.pages), process.id));
    let mut table = Table::new(&[
        ("PROCESS", Align::Right),
        ("NAME", Align::Left),
        ("THREADS", Align::Right),
        ("MEMORY", Align::Right),
        ("CPU TIME", Align::Right),
        ("RAN", Align::Right),
        ("OF A CPU", Align::Right),
    ]);
    for (ran, total, process) in shares.iter().take(SHOWN) {
        table.row([
            process.id.to_string(),
            show::process_name(process),
            process.threads.to_string(),
            show::pages(process.pages),
            units::nanoseconds(*total),
            units::nanoseconds(*ran),
            units::percent(*ran, passed),
        ]);
    }
    let more = match shares.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("and {more} more\n"),
    };
    format!("{cpus}\n{}{more}", table.finish())
}

/// What the CPUs did from one moment to another, and how long that was in nanoseconds.
fn cpus(before: &Moment, after: &Moment) -> (String, u64) {
    let mut table = Table::new(&[
        ("CPU", Align::Right),
        ("BUSY", Align::Right),
        ("SWITCHES", Align::Right),
        ("INTERRUPTS", Align::Right),
        ("READY", Align::Right),
    ]);
    let mut passed = 0;
    for now in &after.0 {
        let Some(then) = before.0.iter().find(|then| then.index == now.index) else {
            continue;
        };
        let up = now.up_ns.saturating_sub(then.up_ns);
        passed = up.max(passed);
        table.row([
            now.index.to_string(),
            units::percent(now.busy_ns.saturating_sub(then.busy_ns), up),
            now.switches.saturating_sub(then.switches).to_string(),
            now.interrupts.saturating_sub(then.interrupts).to_string(),
            now.runnable.to_string(),
        ]);
    }
    (table.finish(), passed)
}

/// The threads that are there now, and for how many nanoseconds each ran since.
fn ran<'a>(before: &Moment, after: &'a Moment) -> Vec<(u64, &'a ThreadInfo)> {
    let since = |now: &'a ThreadInfo| {
        let then = before.1.iter().find(|then| then.thread == now.thread);
        let before = then.map_or(0, |then| then.cpu_ns);
        (now.cpu_ns.saturating_sub(before), now)
    };
    after.1.iter().map(since).collect()
}

/// What was noted: how many of each kind, and the last ones.
pub fn trace(trace: &Trace, tsc_hz: u64) -> String {
    let mut counts: Vec<String> = TraceKind::ALL
        .iter()
        .map(|kind| {
            let is = |record: &&TraceRecord| record.kind == *kind as u32;
            format!(
                "{} {}",
                kind.text(),
                trace.records.iter().filter(is).count()
            )
        })
        .collect();
    counts.push(format!("lost {}", trace.lost));
    let shown = &trace.records[trace.records.len().saturating_sub(SHOWN_RECORDS)..];
    let mut table = Table::new(&[
        ("TIME", Align::Right),
        ("CPU", Align::Right),
        ("WHAT", Align::Left),
        ("THREAD", Align::Right),
        ("", Align::Left),
    ]);
    let start = shown.first().map_or(0, |record| record.ticks);
    for record in shown {
        let ticks = record.ticks.saturating_sub(start);
        table.row([
            units::nanoseconds(nanoseconds(ticks, tsc_hz)),
            record.cpu.to_string(),
            TraceKind::from_number(record.kind)
                .map_or("?", TraceKind::text)
                .into(),
            match record.thread {
                0 => "-".into(),
                thread => thread.to_string(),
            },
            details(record),
        ]);
    }
    format!("{}\n\n{}", counts.join(", "), table.finish())
}

/// The two words of a record, in words.
fn details(record: &TraceRecord) -> String {
    let (a, b) = (record.a, record.b);
    match TraceKind::from_number(record.kind) {
        Some(TraceKind::Switch) => {
            let after = match a {
                0 => "after idleness".into(),
                thread => format!("after thread {thread}"),
            };
            if record.thread == 0 {
                format!("idle, {after}")
            } else {
                format!("{after}, priority {b}")
            }
        }
        Some(TraceKind::Ipc) => {
            let call = Call::from_number(a).map_or("?", Call::name);
            format!("{call} {b:#x}")
        }
        Some(TraceKind::Interrupt) => format!("vector {a:#x}"),
        Some(TraceKind::Fault) => {
            let kind = FaultKind::from_vector(a & 0xFFFF_FFFF).text();
            format!("{kind} at {b:#x}")
        }
        Some(TraceKind::Migration) if b == 0 => format!("to CPU {a}, in a wait"),
        Some(TraceKind::Migration) => format!("to CPU {a}"),
        None => String::new(),
    }
}

/// Ticks of a clock in nanoseconds.
fn nanoseconds(ticks: u64, hz: u64) -> u64 {
    let nanoseconds = u128::from(ticks) * 1_000_000_000 / u128::from(hz.max(1));
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(index: u32, busy_ns: u64, up_ns: u64) -> CpuInfo {
        CpuInfo {
            index,
            busy_ns,
            up_ns,
            switches: up_ns / 10,
            interrupts: 7,
            ..CpuInfo::default()
        }
    }

    fn thread(number: u64, cpu_ns: u64) -> ThreadInfo {
        let mut thread = ThreadInfo {
            process: 3,
            thread: number,
            state: ThreadState::Running as u32,
            priority: 20,
            cpu_ns,
            ..ThreadInfo::default()
        };
        thread.name[..4].copy_from_slice(b"name");
        thread.name_bytes = 4;
        thread
    }

    #[test]
    fn top_shows_what_was_used_between_and_who_used_most_first() {
        let before = (
            alloc::vec![cpu(0, 100, 1000), cpu(1, 0, 1000)],
            alloc::vec![thread(1, 100), thread(2, 50), thread(3, 5)],
        );
        let after = (
            alloc::vec![cpu(0, 600, 2000), cpu(1, 0, 2000), cpu(9, 0, 1)],
            alloc::vec![thread(1, 100), thread(2, 150), thread(3, 405), thread(4, 2)],
        );
        assert_eq!(
            top(&before, &after),
            concat!(
                "CPU    BUSY  SWITCHES  INTERRUPTS  READY\n",
                "  0  50.0 %       100           0      0\n",
                "  1   0.0 %       100           0      0\n",
                "\n",
                "PROCESS  NAME  THREAD  CPU  STATE    PRIORITY     RAN  OF A CPU\n",
                "      3  name       3    0  running        20  400 ns    40.0 %\n",
                "      3  name       2    0  running        20  100 ns    10.0 %\n",
                "      3  name       4    0  running        20    2 ns     0.2 %\n",
            )
        );
    }

    fn process(id: u64, pages: u64, threads: u32) -> ProcessEntry {
        let mut process = ProcessEntry {
            id,
            pages,
            threads,
            ..ProcessEntry::default()
        };
        process.name[..4].copy_from_slice(b"na\x1Be");
        process.name_bytes = 4;
        process
    }

    #[test]
    fn top_of_processes_sums_their_threads_and_shows_memory() {
        let of = |process, number, cpu_ns| ThreadInfo {
            process,
            ..thread(number, cpu_ns)
        };
        let before = (
            alloc::vec![cpu(0, 100, 1000), cpu(1, 0, 1000)],
            alloc::vec![of(3, 1, 100), of(3, 2, 50), of(4, 3, 7000)],
        );
        // Threads 2 and 3 went on, 1 has ended, 4 is new.
        let after = (
            alloc::vec![cpu(0, 1100, 2000), cpu(1, 900, 2000)],
            alloc::vec![of(3, 2, 950), of(4, 3, 7100), of(3, 4, 600)],
        );
        let processes = [
            process(1, 2, 1),
            process(2, 256, 1),
            process(3, 384, 2),
            process(4, 1, 1),
            process(5, 0, 0),
        ];
        assert_eq!(
            top_processes(&before, &after, &processes),
            concat!(
                "CPU     BUSY  SWITCHES  INTERRUPTS  READY\n",
                "  0  100.0 %       100           0      0\n",
                "  1   90.0 %       100           0      0\n",
                "\n",
                "PROCESS  NAME  THREADS   MEMORY  CPU TIME     RAN  OF A CPU\n",
                "      3  na\u{FFFD}e        2  1.5 MiB    1.6 us  1.5 us   150.0 %\n",
                "      4  na\u{FFFD}e        1  4.0 KiB    7.1 us  100 ns    10.0 %\n",
                "      2  na\u{FFFD}e        1  1.0 MiB      0 ns    0 ns     0.0 %\n",
                "      1  na\u{FFFD}e        1  8.0 KiB      0 ns    0 ns     0.0 %\n",
            )
        );
    }

    #[test]
    fn top_of_many_processes_says_how_many_it_does_not_show() {
        let moment = (Vec::new(), Vec::new());
        let processes: Vec<_> = (1..=20).map(|id| process(id, id, 1)).collect();
        let text = top_processes(&moment, &moment, &processes);
        assert!(text.ends_with("and 5 more\n"), "{text}");
        assert!(text.contains("     20  na"), "{text}");
        assert!(!text.contains("\n      5  na"), "{text}");
    }

    #[test]
    fn each_kind_of_record_is_told_in_words() {
        let record = |kind: u32, thread, a, b| TraceRecord {
            ticks: 1000,
            thread,
            a,
            b,
            kind,
            cpu: 1,
        };
        let told = |kind, thread, a, b| details(&record(kind, thread, a, b));
        assert_eq!(told(0, 5, 4, 20), "after thread 4, priority 20");
        assert_eq!(told(0, 5, 0, 20), "after idleness, priority 20");
        assert_eq!(told(0, 0, 4, 0), "idle, after thread 4");
        assert_eq!(
            told(1, 5, Call::Send as u64, 0x1_0000_0002),
            "send 0x100000002"
        );
        assert_eq!(told(1, 5, 9999, 0), "? 0x0");
        assert_eq!(told(2, 5, 0x31, 7), "vector 0x31");
        assert_eq!(told(3, 5, 0x6_0000_000E, 0x1000), "page fault at 0x1000");
        assert_eq!(told(4, 5, 2, 1), "to CPU 2");
        assert_eq!(told(4, 5, 2, 0), "to CPU 2, in a wait");
        assert_eq!(told(77, 5, 2, 0), "");
    }

    #[test]
    fn a_trace_shows_its_last_records_and_counts_all() {
        let records: Vec<TraceRecord> = (0..100)
            .map(|number| TraceRecord {
                ticks: number * 1000,
                thread: number % 3,
                kind: 2,
                ..TraceRecord::default()
            })
            .collect();
        let text = trace(&Trace { records, lost: 9 }, 1_000_000_000);
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some("switch 0, ipc 0, interrupt 100, fault 0, migration 0, lost 9")
        );
        assert_eq!(text.lines().count(), 2 + 1 + SHOWN_RECORDS);
        assert!(
            text.ends_with("39.0 us    0  interrupt       -  vector 0x0\n"),
            "{text}"
        );
        assert!(trace(&Trace::default(), 0).starts_with("switch 0, "));
    }
}
