//! `just bench-stretches`: the longest stretches of guest instructions with interrupts off.
//!
//! QEMU's log of executed blocks (`-d in_asm,exec,nochain`) comes through a pipe while a program asks the kernel for what is long. The
//! kernel runs with interrupts off but behind each `sti`. So a stretch is what is executed at privilege level 0 from where user mode is
//! left, or from a `sti`, to the next `sti` or to user mode. Each iteration of a `rep` instruction is a block of its own there, and
//! counts.
//!
//! What may go wrong: a block that a fault ends is counted whole, some instructions too many; the log's form is another QEMU's, which is
//! an error.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::steps::{self, Names};
use super::{CPU, CPUS};
use crate::cargo::{self, Profile};
use crate::gdb::Gdb;
use crate::image::{self, Plan};
use crate::machine::{Event, Machine, Spec};
use crate::machine_tests::Lab;
use crate::workspace::Workspace;

const LIMIT: Duration = Duration::from_mins(8);
/// What is shorter is not looked at.
const FLOOR: u32 = 500;
/// Rows of the table.
const ROWS: usize = 25;
/// Functions that are named of each.
const FUNCTIONS: usize = 8;

/// Builds, boots, follows, tells.
///
/// # Errors
/// If something can't be built or started, or the machine does not come to its end.
pub fn run() -> Result<()> {
    let ws = Workspace::find()?;
    let plan = Plan {
        profile: Profile::Release,
        ..Plan::tests("bench-stretches")
    };
    let files = image::build(&ws, &plan)?;
    let lab = Lab::new(ws, "")?;
    let mut spec = lab.machine(lab.direct("bench-stretches", &files)?, CPUS, CPU);
    spec.icount = true;
    eprintln!("bench-stretches: one CPU, all that it executes");
    let built = |target, name| cargo::artefact(&lab.ws, target, plan.profile, name);
    let kernel = built(cargo::BARE, "kernel");
    let found = follow(&spec, &kernel, &built(super::USER, "bench"))?;
    let mut text = table(&found);
    print!("{text}");
    text += &breakdown(&found);
    super::write(&lab.ws, "bench-stretches.txt", &text)?;
    eprintln!("bench-stretches: wrote build/bench-stretches.txt");
    Ok(())
}

/// The longest stretch of a kind: of those that begin in the same function and are mostly spent in the same one.
struct Found {
    instructions: u32,
    begin: String,
    mostly: String,
    /// Where the longest was, function by function, the most first.
    functions: Vec<(String, u32)>,
    /// How many there were.
    count: u32,
}

fn follow(spec: &Spec, kernel: &Path, program: &Path) -> Result<Vec<Found>> {
    let scratch = tempfile::tempdir().context("temporary folder")?;
    let pipe = scratch.path().join("log");
    let made = Command::new("mkfifo").arg(&pipe).status();
    ensure!(made.context("mkfifo")?.success(), "mkfifo failed");
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(spec, sender)?;
    let qmp = machine.qmp().context("QEMU opened no control channel")?;
    let mut gdb = Gdb::attach(qmp)?;
    steps::stop_at_begin(&mut gdb, program)?;
    let names = Names::read(kernel)?;
    let (done, log) = mpsc::channel();
    let reader = pipe.clone();
    thread::spawn(move || {
        // Who waits may be gone already.
        let _ = done.send(read(&reader));
    });
    qmp.monitor(&format!("logfile {}", pipe.display()))?;
    qmp.monitor("log in_asm,exec,nochain")?;
    gdb.detach()?;
    let begin = Instant::now();
    let mut said = Vec::new();
    loop {
        match events.recv_timeout(Duration::from_millis(200)) {
            Ok(Event::Said(bytes)) => said.extend(bytes),
            Ok(Event::Closed) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
            _ if begin.elapsed() > LIMIT => {
                machine.kill();
                break;
            }
            _ => {}
        }
    }
    machine.kill();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(
        said.contains("bench done"),
        "the program did not come to its end: {said}"
    );
    let stretches = log.recv_timeout(LIMIT).context("the log has no end")??;
    Ok(named(&stretches, &names))
}

/// What was executed in one go, by block.
#[derive(Debug, Default)]
struct Stretch {
    begin: u64,
    instructions: u32,
    blocks: HashMap<u64, u32>,
}

/// A translated block.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    instructions: u32,
    allows_interrupts: bool,
}

/// What the log's lines say so far.
#[derive(Debug, Default)]
struct Log {
    /// By the address of the translation.
    blocks: HashMap<u64, Block>,
    /// The listing that was read last, whose translation is not known yet.
    listed: Option<(u64, Block)>,
    now: Stretch,
    /// What came last: where, and how many instructions.
    last: Option<(u64, u32)>,
    /// It ended the stretch, which counts when it is known to have been executed.
    over: bool,
    long: Vec<Stretch>,
}

impl Log {
    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(rest) = line.strip_prefix("Trace 0: 0x") {
            self.executed(rest)
                .with_context(|| format!("can't read '{line}'"))
        } else if line.starts_with("Stopped execution of TB chain") {
            self.take_back();
            Ok(())
        } else if line.starts_with("IN:") {
            self.listed = None;
            Ok(())
        } else {
            if let Some((address, text)) = line.split_once(": ")
                && let Some(address) = address.strip_prefix("0x")
                && let Ok(address) = u64::from_str_radix(address, 16)
            {
                let (_, block) = self.listed.get_or_insert((address, Block::default()));
                block.instructions += 1;
                block.allows_interrupts |= text.split_whitespace().any(|word| word == "sti");
            }
            Ok(())
        }
    }

    /// `TRANSLATION [BASE/PC/FLAGS/CFLAGS] SYMBOL`, before it is executed.
    fn executed(&mut self, rest: &str) -> Result<()> {
        let (translation, rest) = rest.split_once(" [").context("no bracket")?;
        let translation = u64::from_str_radix(translation, 16)?;
        let mut parts = rest.split(['/', ']']).skip(1);
        let mut hex =
            || -> Result<u64> { Ok(u64::from_str_radix(parts.next().context("too short")?, 16)?) };
        let (pc, flags) = (hex()?, hex()?);
        if let Some((_, block)) = self.listed.take_if(|(listed, _)| *listed == pc) {
            self.blocks.insert(translation, block);
        }
        if self.over || flags & 3 != 0 {
            self.end();
        }
        if flags & 3 != 0 {
            self.last = None;
            return Ok(());
        }
        let block = self.blocks.get(&translation);
        let block = block.with_context(|| format!("the block at {pc:#x} was not listed"))?;
        if self.now.instructions == 0 {
            self.now.begin = pc;
        }
        self.now.instructions += block.instructions;
        *self.now.blocks.entry(pc).or_default() += block.instructions;
        self.last = Some((pc, block.instructions));
        self.over = block.allows_interrupts;
        Ok(())
    }

    /// The last block was not executed after all.
    fn take_back(&mut self) {
        if let Some((pc, instructions)) = self.last.take() {
            self.now.instructions -= instructions;
            if let Some(count) = self.now.blocks.get_mut(&pc) {
                *count -= instructions;
            }
            self.over = false;
        }
    }

    fn end(&mut self) {
        self.over = false;
        if self.now.instructions >= FLOOR {
            self.long.push(std::mem::take(&mut self.now));
        } else {
            self.now.instructions = 0;
            self.now.blocks.clear();
        }
    }
}

/// Reads the log to its end.
fn read(path: &Path) -> Result<Vec<Stretch>> {
    let mut lines = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut log = Log::default();
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? != 0 {
        if line.ends_with(b"\n") {
            log.line(String::from_utf8_lossy(&line).trim_end())?;
        }
        line.clear();
    }
    if log.long.is_empty() {
        bail!("nothing in the log is long");
    }
    Ok(log.long)
}

/// The longest of each kind, the longest first.
fn named(stretches: &[Stretch], names: &Names) -> Vec<Found> {
    let mut known: HashMap<u64, String> = HashMap::new();
    let mut name = |pc: u64| -> String {
        let name = known.entry(pc).or_insert_with(|| names.of(pc));
        name.clone()
    };
    let mut all: Vec<Found> = Vec::new();
    for stretch in stretches {
        let mut functions: HashMap<String, u32> = HashMap::new();
        for (pc, count) in &stretch.blocks {
            *functions.entry(name(*pc)).or_default() += count;
        }
        // Of equals always the same one, so that each run has the same rows.
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        functions.truncate(FUNCTIONS);
        let mostly = functions
            .first()
            .map_or_else(String::new, |(function, _)| function.clone());
        let begin = name(stretch.begin);
        match all
            .iter_mut()
            .find(|f| f.begin == begin && f.mostly == mostly)
        {
            Some(found) => {
                if stretch.instructions > found.instructions {
                    found.instructions = stretch.instructions;
                    found.functions = functions;
                }
                found.count += 1;
            }
            None => all.push(Found {
                instructions: stretch.instructions,
                begin,
                mostly,
                functions,
                count: 1,
            }),
        }
    }
    all.sort_by_key(|found| std::cmp::Reverse(found.instructions));
    all.truncate(ROWS);
    all
}

/// Writing to a string can't fail, so what `write!` says of it is left alone.
fn table(found: &[Found]) -> String {
    let mut text = format!(
        "{:>12}  {:>6}  {:<55}  begins in\n",
        "instructions", "times", "mostly in"
    );
    for row in found {
        let _ = writeln!(
            text,
            "{:>12}  {:>6}  {:<55}  {}",
            row.instructions, row.count, row.mostly, row.begin
        );
    }
    text
}

/// What each row's longest consists of.
fn breakdown(found: &[Found]) -> String {
    let mut text = String::new();
    for row in found {
        let _ = writeln!(text, "\n{} from {}", row.instructions, row.begin);
        for (function, count) in &row.functions {
            let _ = writeln!(text, "  {count:>8}  {function}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listing of a block of so many instructions at an address, and one execution.
    fn block(log: &mut Log, pc: u64, instructions: u64, last: &str, level: u64) {
        log.line("IN: ").unwrap();
        for index in 0..instructions {
            let text = if index + 1 == instructions {
                last
            } else {
                "nop"
            };
            log.line(&format!("0x{:x}:  90      {text}", pc + index))
                .unwrap();
        }
        executed(log, pc, level);
    }

    fn executed(log: &mut Log, pc: u64, level: u64) {
        log.line(&format!(
            "Trace 0: 0x{:x} [0000000000000000/{pc:016x}/{:08x}/ff000000] ",
            pc & 0xFFFF,
            0xb0 | level
        ))
        .unwrap();
    }

    #[test]
    fn a_stretch_goes_from_user_mode_or_sti_to_user_mode_or_sti() {
        let mut log = Log::default();
        block(&mut log, 0x1000, 9, "syscall", 3);
        block(&mut log, 0xffff_8000, 600, "jmp", 0);
        block(&mut log, 0xffff_9000, 10, "sti", 0);
        block(&mut log, 0xffff_a000, 700, "sysretq", 0);
        executed(&mut log, 0x1000, 3);
        executed(&mut log, 0xffff_8000, 0);
        executed(&mut log, 0x1000, 3);
        let lengths: Vec<_> = log.long.iter().map(|s| (s.begin, s.instructions)).collect();
        assert_eq!(
            lengths,
            [(0xffff_8000, 610), (0xffff_a000, 700), (0xffff_8000, 600)]
        );
    }

    #[test]
    fn what_was_not_executed_after_all_does_not_count() {
        let mut log = Log::default();
        block(&mut log, 0xffff_8000, 600, "jmp", 0);
        block(&mut log, 0xffff_9000, 10, "sti", 0);
        log.line("Stopped execution of TB chain before 0x9000 [00000000ffff9000] ")
            .unwrap();
        executed(&mut log, 0xffff_9000, 0);
        block(&mut log, 0x1000, 1, "nop", 3);
        assert_eq!(log.long[0].instructions, 610);
    }

    #[test]
    fn a_log_of_another_form_is_refused() {
        let mut log = Log::default();
        assert!(log.line("Trace 0: 0x10 [0/ffff8000/000000b0/0] ").is_err());
        assert!(log.line("Trace 0: 0x10 ").is_err());
    }
}
