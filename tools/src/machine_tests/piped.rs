//! The way of a user: this program itself, started as `run` with commands on a pipe, and what a script sees of it: its
//! standard output and its exit status.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Job;
use super::lab::Lab;
use crate::bios;
use crate::ending::PANIC_VALUE;
use crate::feeder::PROMPT;
use crate::image::{self, Plan};
use crate::machine::die_with_parent;
use crate::report::Outcome;

const LIMIT: Duration = Duration::from_mins(3);
const LOOK: Duration = Duration::from_millis(100);

/// One run, and what must come of it.
#[derive(Debug)]
struct Case {
    name: &'static str,
    arguments: &'static [&'static str],
    input: &'static str,
    status: i32,
    /// What standard output must hold.
    says: &'static [&'static str],
}

const CASES: [Case; 5] = [
    Case {
        name: "run/commands",
        arguments: &[],
        input: "cpus\nps\npoweroff\n",
        status: 0,
        says: &["switchyard> cpus", "APIC ID", "names", "powering off"],
    },
    Case {
        name: "run/no-input",
        arguments: &[],
        input: "",
        status: 0,
        says: &[PROMPT],
    },
    Case {
        name: "run/bios",
        arguments: &["--firmware", "bios"],
        input: "cpus\npoweroff\n",
        status: 0,
        says: &["Multiboot by GRUB", "APIC ID", "powering off"],
    },
    Case {
        name: "run/direct",
        arguments: &["--firmware", "direct"],
        input: "cpus\npoweroff\n",
        status: 0,
        says: &["Multiboot by qemu", "APIC ID", "powering off"],
    },
    Case {
        name: "run/panic",
        arguments: &["--cmdline", "panic=test", "--firmware", "direct"],
        input: "cpus\n",
        status: PANIC_VALUE * 2 + 1,
        says: &["KERNEL PANIC"],
    },
];

/// Commands that end with a power-off, no input at all, and a kernel that panics.
pub fn jobs() -> Vec<Job> {
    CASES
        .iter()
        .map(|case| {
            let prepare = |lab: &Lab| {
                // So that two runs don't write the same image at the same time.
                image::make(&lab.ws, &Plan::product(), "switchyard").map(drop)
            };
            Job::new(case.name.into(), prepare, move |_| boot(case))
        })
        .collect()
}

/// This program, for another run of it. On Linux by the link that leads to it also when a build has replaced its file meanwhile, as
/// the host tests' build does.
fn own_program() -> Result<PathBuf> {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() || link.is_symlink() {
        return Ok(link);
    }
    std::env::current_exe().context("this program's own path")
}

fn boot(case: &Case) -> Result<Outcome> {
    if case.arguments.contains(&"bios") && !bios::is_possible() {
        return Ok(Outcome::skipped(bios::MISSING));
    }
    let mut command = Command::new(own_program()?);
    command
        .args(["run", "--cpus", "4", "--accel", "tcg"])
        .args(case.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    die_with_parent(&mut command);
    let mut child = command.spawn().context("can't run this program again")?;
    let taken = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut input), Some(stdout), Some(stderr)) = taken else {
        unreachable!("all three were asked for as pipes");
    };
    let stdout = collect(stdout);
    let stderr = collect(stderr);
    // All at once, long before the machine asks for it, and then the end of input. An error means that the program is
    // gone, which its status tells.
    let _ = input.write_all(case.input.as_bytes());
    drop(input);
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for the program")? {
            break Some(status);
        }
        if started.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(LOOK);
    };
    let said = stdout.join().unwrap_or_default();
    let errors = stderr.join().unwrap_or_default();
    let mut outcome = Outcome::default();
    let right = status.is_some_and(|status| status.code() == Some(case.status));
    let ended = || match status {
        None => "no end within the time allowed".to_owned(),
        Some(status) => format!("{status}, not {}", case.status),
    };
    outcome.check("ends with the right status", (!right).then(ended));
    for part in case.says {
        let problem = (!said.contains(part)).then(|| "it is not on standard output".into());
        outcome.check(&format!("'{part}'"), problem);
    }
    if outcome.counts.failed > 0 {
        outcome.details.push(format!(
            "standard output:\n{said}\nstandard error:\n{errors}"
        ));
    }
    Ok(outcome)
}

/// Reads to the end, on a thread of its own so that no pipe fills up.
fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is of use too.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
