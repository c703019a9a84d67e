//! The shell from typed bytes to what is written, over a world of known facts.
#![cfg(not(target_env = "musl"))]

use std::collections::VecDeque;
use std::time::Duration;

use abi::info::{
    CpuInfo, EndpointInfo, FpuCounters, MachineInfo, MemoryInfo, PowerAction, ProcessEntry,
    ThreadInfo,
};
use abi::trace::TraceRecord;
use proptest::prelude::*;
use shell::session::{PROMPT, Session};
use shell::world::{Trace, World};

#[derive(Default)]
struct Facts {
    input: VecDeque<Vec<u8>>,
    output: String,
    powered: Option<PowerAction>,
    cleared: usize,
    paused: Duration,
}

impl World for Facts {
    fn read(&mut self) -> Result<Vec<u8>, String> {
        self.input.pop_front().ok_or_else(|| "no more".into())
    }
    fn write(&mut self, text: &str) {
        self.output.push_str(text);
    }
    fn clear(&mut self) {
        self.cleared += 1;
    }
    fn columns(&mut self) -> usize {
        160
    }
    fn now(&self) -> Duration {
        Duration::from_millis(72_300)
    }
    fn cpus(&self) -> Result<Vec<CpuInfo>, String> {
        let cpu = |index, apic_id| CpuInfo {
            index,
            apic_id,
            busy_ns: 250_000_000,
            up_ns: 1_000_000_000,
            switches: 12_345,
            interrupts: 678,
            ipis_sent: 9,
            runnable: 1,
            machine_checks: 0,
            nmis: 1234,
            idle_ns: 750_000_000,
            timer_ticks: 44,
            migrations_in: 31,
            migrations_out: 30,
            steals: 12,
            fpu: FpuCounters {
                saves: 31,
                restores: 32,
                traps: 33,
                skipped: 34,
                preloads: 35,
                scrubs: 36,
                ts_changes: 37,
            },
        };
        Ok(vec![cpu(0, 0), cpu(1, 16)])
    }
    fn threads(&self) -> Result<Vec<ThreadInfo>, String> {
        let mut thread = ThreadInfo {
            process: 3,
            thread: 7,
            cpu: 1,
            state: 4,
            priority: 40,
            cpu_ns: 1500,
            base_priority: 40,
            switches: 88,
            migrations: 5,
            ..ThreadInfo::default()
        };
        thread.name[..7].copy_from_slice(b"na\x1bmes\xff");
        thread.name_bytes = 7;
        Ok(vec![
            thread,
            ThreadInfo {
                state: 99,
                base_priority: 16,
                name_bytes: 4000,
                ..thread
            },
            ThreadInfo {
                thread: 8,
                state: 3,
                waits_for: 12,
                ..thread
            },
        ])
    }
    fn processes(&self) -> Result<Vec<ProcessEntry>, String> {
        let process = |id, state, name: &[u8]| {
            let mut process = ProcessEntry {
                id,
                state,
                threads: 2,
                pages: 384,
                handles: 9,
                code: 7,
                name_bytes: name.len() as u32,
                ..ProcessEntry::default()
            };
            process.name[..name.len()].copy_from_slice(name);
            process
        };
        // In any order, as the kernel has them.
        Ok(vec![
            process(5, 88, b""),
            process(3, 0, b"na\x1bmes"),
            process(4, 1, b"gone"),
        ])
    }
    fn endpoints(&self) -> Result<Vec<EndpointInfo>, String> {
        let endpoint = |id, server, servers| EndpointInfo {
            id,
            creator: 4,
            server,
            server_process: if server == 0 { 0 } else { 3 },
            servers,
            receive_handles: 1,
            senders: 2,
            receivers: 1,
        };
        Ok(vec![
            endpoint(11, 7, 1),
            endpoint(12, 0, 3),
            endpoint(13, 0, 0),
        ])
    }
    fn pause(&mut self, time: Duration) {
        self.paused += time;
    }
    fn trace(&mut self, time: Duration) -> Result<Trace, String> {
        self.paused += time;
        let record = TraceRecord {
            ticks: 24_000,
            thread: 7,
            a: 6,
            b: 20,
            kind: 0,
            cpu: 1,
        };
        Ok(Trace {
            records: vec![record],
            lost: 0,
        })
    }
    fn memory(&self) -> Result<MemoryInfo, String> {
        Ok(MemoryInfo {
            total: 512 << 20,
            free: 256 << 20,
            kernel: 1536,
            ..MemoryInfo::default()
        })
    }
    fn machine(&self) -> Result<MachineInfo, String> {
        Ok(MachineInfo {
            cpus: 2,
            cpus_failed: 1,
            tsc_hz: 2_400_000_000,
            boot_seconds: 951_782_400,
            kernel_boot_ns: 53_200_000,
            ..MachineInfo::default()
        })
    }
    fn ping(&mut self, cpu: u32, rounds: u32) -> Result<Duration, String> {
        if cpu == 0 {
            Ok(Duration::from_micros(u64::from(rounds) * 3))
        } else {
            Err("echo.1: not found".into())
        }
    }
    fn files(&self) -> Result<Vec<(String, usize)>, String> {
        Ok(vec![("motd".into(), 12), ("bin/echo".into(), 150_000)])
    }
    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(match name {
            "motd" => Some(b"hello\r\nthere".to_vec()),
            "evil" => Some(b"\x1b[2Jx".to_vec()),
            "bin/echo" => Some(b"\x7FELF\xff\x00".to_vec()),
            _ => None,
        })
    }
    fn run(&mut self, name: &str, argument: &str) -> Result<String, String> {
        Ok(format!("{name} exited with code {}", argument.len()))
    }
    fn services(&mut self) -> Result<Vec<String>, String> {
        Ok(vec!["names running".into()])
    }
    fn restart(&mut self, name: &str) -> Result<(), String> {
        Err(format!("restart: {name}: not found"))
    }
    fn names(&mut self) -> Result<Vec<String>, String> {
        Err("this shell was not given the 'names' endpoint".into())
    }
    fn log(&self) -> Result<Vec<u8>, String> {
        Ok(b"[0.1] cut \xff\n[0.2] kernel: up\n".to_vec())
    }
    fn power(&mut self, action: PowerAction) -> Result<(), String> {
        self.powered = Some(action);
        Err("the kernel refuses: not supported here".into())
    }
}

/// All that is written when these pieces are typed.
fn session<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Facts {
    let mut world = Facts {
        input: pieces.into_iter().map(<[u8]>::to_vec).collect(),
        ..Facts::default()
    };
    let mut session = Session::start(&mut world);
    while session.turn(&mut world).is_ok() {}
    world
}

/// What one line gives, without prompt and echo.
fn answer(line: &str) -> String {
    let output = session([format!("{line}\n").as_bytes()]).output;
    let echoed = format!("{PROMPT}{line}\n");
    let rest = output
        .strip_prefix(&echoed)
        .unwrap_or_else(|| panic!("{output:?}"));
    rest.strip_suffix(PROMPT)
        .unwrap_or_else(|| panic!("{output:?}"))
        .to_owned()
}

#[test]
fn prompt_is_exactly_what_tools_wait_for() {
    assert_eq!(PROMPT, "switchyard> ");
    assert_eq!(session([]).output, "switchyard> ");
    assert_eq!(answer(""), "");
    assert_eq!(answer("   "), "");
}

#[test]
fn tables_have_units_and_line_up() {
    assert_eq!(
        answer("cpus"),
        concat!(
            "CPU  APIC ID    BUSY  TIME BUSY  SWITCHES  READY  IN  OUT  STOLEN\n",
            "  0        0  25.0 %  250.00 ms     12345      1  31   30      12\n",
            "  1       16  25.0 %  250.00 ms     12345      1  31   30      12\n",
            "\n",
            "CPU  TICKS  INTERRUPTS  IPIS  NMIS\n",
            "  0     44         678     9  1234\n",
            "  1     44         678     9  1234\n",
            "\n",
            "CPU  FPU SAVES  RESTORES  #NM  SKIPPED  PRELOADS  SCRUBS  CR0 WRITES\n",
            "  0         31        32   33       34        35      36          37\n",
            "  1         31        32   33       34        35      36          37\n",
        )
    );
    let ps = answer("ps");
    assert!(ps.starts_with("PROCESS  NAME"), "{ps}");
    assert!(ps.contains("      3  na\u{FFFD}mes\u{FFFD}"), "{ps}");
    assert!(
        ps.contains("receiving        40    1.5 us        88      5\n"),
        "{ps}"
    );
    assert!(ps.contains("40 (16)"), "an inherited priority: {ps}");
    assert!(!ps.contains('\x1b'));
    assert_eq!(
        answer("ps -p"),
        concat!(
            "PROCESS  NAME    STATE      THREADS   MEMORY  HANDLES  ENDPOINTS  SERVES\n",
            "      3  na\u{FFFD}mes  alive            2  1.5 MiB        9          0  11\n",
            "      4  gone    exited, 7        2  1.5 MiB        9          3\n",
            "      5          ?                2  1.5 MiB        9          0\n",
        )
    );
    assert_eq!(
        answer("ps -e"),
        concat!(
            "ENDPOINT  MADE BY  SERVED BY          RECEIVERS  SENDERS  WHO WAITS TO SEND\n",
            "      11  gone     na\u{FFFD}mes (thread 7)          1        2\n",
            "      12  gone     3 threads                  1        2  na\u{FFFD}mes\u{FFFD} (thread 8)\n",
            "      13  gone     -                          1        2\n",
        )
    );
    let mem = answer("mem");
    assert!(
        mem.contains("total                           512.0 MiB  100.0 %\n"),
        "{mem}"
    );
    assert_eq!(
        answer("uptime"),
        "up 1 min 12.3 s, since 2000-02-29 00:00:00 UTC, 2 CPUs (1 more did not start)\n\
         kernel start took 53.20 ms, time-stamp counter runs at 2.400 GHz\n"
    );
    assert_eq!(
        answer("ping 500"),
        "CPU  ROUND TRIPS     TIME  PER ROUND TRIP\n  \
         0          500  1.50 ms          3.0 us\n\
         ping: CPU 1: echo.1: not found\n"
    );
    assert_eq!(
        answer("ls"),
        "     SIZE  FILE\n146.5 KiB  bin/echo\n     12 B  motd\n"
    );
}

#[test]
fn commands_answer_and_failures_are_told() {
    assert_eq!(answer("cat motd"), "hello\nthere\n");
    assert_eq!(answer("cat evil"), "\u{FFFD}[2Jx\n");
    assert_eq!(answer("cat bin/echo"), "bin/echo: not text, 6 B\n");
    assert_eq!(
        answer("cat none"),
        "cat: no file 'none' ('ls' lists them)\n"
    );
    assert_eq!(answer("run bin/suite a b"), "suite exited with code 3\n");
    assert_eq!(answer("echo a  b"), "a  b\n");
    assert_eq!(answer("services"), "names running\n");
    assert_eq!(answer("restart x"), "restart: x: not found\n");
    assert_eq!(
        answer("names"),
        "this shell was not given the 'names' endpoint\n"
    );
    assert_eq!(answer("log"), "[0.1] cut \u{FFFD}\n[0.2] kernel: up\n");
    assert_eq!(
        answer("poweroff"),
        "powering off\nthe kernel refuses: not supported here\n"
    );
    assert!(answer("help").lines().count() > 15);
    assert!(answer("hlep").contains("did you mean 'help'"));
    assert_eq!(
        session([&b"poweroff\r"[..]]).powered,
        Some(PowerAction::Off)
    );
    assert_eq!(
        session([&b"reboot\r"[..]]).powered,
        Some(PowerAction::Restart)
    );
    assert_eq!(session([&b"clear\r\x0c"[..]]).cleared, 2);
}

#[test]
fn lines_of_a_pipe_are_carried_out_one_by_one() {
    let output = session([&b"echo one\necho two\r\nec"[..], &b"ho three\n"[..]]).output;
    assert_eq!(
        output,
        "switchyard> echo one\none\nswitchyard> echo two\ntwo\nswitchyard> echo three\nthree\nswitchyard> "
    );
}

#[test]
fn prompt_that_was_written_over_comes_again_with_the_line() {
    let output = session([&b"ech"[..], b"", &b"o x\n"[..]]).output;
    assert_eq!(
        output,
        "switchyard> ech\rswitchyard> ech\x1b[Ko x\nx\nswitchyard> "
    );
}

proptest! {
    #[test]
    fn any_bytes_leave_a_shell_that_works(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8)) {
        let mut pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        // Ends a character, a sequence and a line that may be open.
        pieces.push(b"zzz\x03\x03echo alive\n");
        let output = session(pieces).output;
        prop_assert!(output.ends_with("switchyard> echo alive\nalive\nswitchyard> "), "{:?}", output);
    }
}

#[test]
fn very_long_line_does_no_harm() {
    let mut input = b"echo ".to_vec();
    input.extend(std::iter::repeat_n(b'y', 50_000));
    input.extend(b"\necho alive\n");
    let output = session([input.as_slice()]).output;
    assert!(output.contains(&format!("{}\n", "y".repeat(1019))));
    assert!(output.ends_with("switchyard> echo alive\nalive\nswitchyard> "));
}

#[test]
fn top_and_trace_look_for_as_long_as_they_are_told() {
    let top = answer("top -p 30");
    let row = "      3  na\u{FFFD}mes        2  1.5 MiB    4.5 us  0 ns         -\n";
    assert!(top.contains(row), "{top}");
    let world = session([&b"top 250\ntrace\n"[..]]);
    assert_eq!(world.paused, Duration::from_millis(260));
    let text = world.output;
    assert!(text.contains("CPU  BUSY  SWITCHES"), "{text}");
    assert!(
        text.contains("switch 1, ipc 0, interrupt 0, fault 0, migration 0, lost 0\n"),
        "{text}"
    );
    assert!(text.contains("after thread 6, priority 20\n"), "{text}");
}
