//! `just bench-stretches`: the longest stretches of guest instructions with interrupts off.
//!
//! QEMU's log of executed blocks (`-d in_asm,exec,nochain`) comes through a pipe while a program asks the kernel for what is long. The
//! kernel runs with interrupts off but behind each `sti`. So a stretch is what is executed at privilege level 0 from where user mode is
//! left, or from a `sti`, to the next `sti` or to user mode. Each iteration of a `rep` instruction is a block of its own there, and
//! counts ([`log`]).

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::log::{self, Line, Listing};
use super::steps::{self, Names};
use super::{CPU, CPUS};
use crate::cargo::{self, Profile};
use crate::image::{self, Plan};
use crate::machine::Spec;
use crate::machine_tests::Lab;
use crate::workspace::Workspace;

/// What the program does, in order. The same list is in `servers/bench/src/stretches.rs`.
const PARTS: [&str; 13] = [
    "memory",
    "clones",
    "large pages",
    "pages taken back",
    "a page taken back, mapped twice",
    "the same in several spaces",
    "a shared page written, mapped twice",
    "memory cloned that is mapped at 32 places",
    "2000 mappings",
    "processes",
    "threads",
    "waiting callers",
    "log",
];

/// What is shorter is not looked at.
const FLOOR: u32 = 500;
/// Rows of the table.
const ROWS: usize = 40;
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

/// The longest stretch of a kind: of those of one part that begin in the same function and are mostly spent in the same one.
struct Found {
    part: &'static str,
    instructions: u32,
    begin: String,
    mostly: String,
    /// Where the longest was, function by function, the most first.
    functions: Vec<(String, u32)>,
    /// How many there were.
    count: u32,
}

fn follow(spec: &Spec, kernel: &Path, program: &Path) -> Result<Vec<Found>> {
    let log = Log {
        part_end: steps::address(program, "bench_trace_end")?,
        ..Log::default()
    };
    let log = log::follow(spec, program, log, Log::line)?;
    ensure!(!log.long.is_empty(), "nothing in the log is long");
    ensure!(
        log.part == PARTS.len(),
        "{} parts, and {} are known by name",
        log.part,
        PARTS.len()
    );
    Ok(named(&log.long, &Names::read(kernel)?))
}

/// What was executed in one go, by block.
#[derive(Debug, Default)]
struct Stretch {
    part: usize,
    begin: u64,
    instructions: u32,
    blocks: HashMap<u64, u32>,
}

/// What the log's lines say so far.
#[derive(Debug, Default)]
struct Log {
    listing: Listing,
    /// Where the program says that a part has ended.
    part_end: u64,
    /// Parts that have ended.
    part: usize,
    now: Stretch,
    /// What came last: where, and how many instructions.
    last: Option<(u64, u32)>,
    /// It ended the stretch, which counts when it is known to have been executed.
    over: bool,
    long: Vec<Stretch>,
}

impl Log {
    fn line(&mut self, line: &str) -> Result<()> {
        match self.listing.read(line)? {
            Line::Executed {
                pc, level, block, ..
            } => {
                if self.over || level != 0 {
                    self.end();
                }
                if level != 0 {
                    self.part += usize::from(pc == self.part_end);
                    self.last = None;
                    return Ok(());
                }
                let block =
                    block.with_context(|| format!("the block at {pc:#x} was not listed"))?;
                if self.now.instructions == 0 {
                    self.now.begin = pc;
                    self.now.part = self.part;
                }
                self.now.instructions += block.instructions;
                *self.now.blocks.entry(pc).or_default() += block.instructions;
                self.last = Some((pc, block.instructions));
                self.over = block.allows_interrupts;
            }
            Line::TakenBack => self.take_back(),
            Line::Other => {}
        }
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
        // What comes after the last is the machine's end.
        let part = PARTS.get(stretch.part).copied().unwrap_or("the end");
        match all
            .iter_mut()
            .find(|f| f.part == part && f.begin == begin && f.mostly == mostly)
        {
            Some(found) => {
                if stretch.instructions > found.instructions {
                    found.instructions = stretch.instructions;
                    found.functions = functions;
                }
                found.count += 1;
            }
            None => all.push(Found {
                part,
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
        "{:>12}  {:>6}  {:<35}  {:<55}  begins in\n",
        "instructions", "times", "part", "mostly in"
    );
    for row in found {
        let _ = writeln!(
            text,
            "{:>12}  {:>6}  {:<35}  {:<55}  {}",
            row.instructions, row.count, row.part, row.mostly, row.begin
        );
    }
    text
}

/// What each row's longest consists of.
fn breakdown(found: &[Found]) -> String {
    let mut text = String::new();
    for row in found {
        let _ = writeln!(
            text,
            "\n{}: {} from {}",
            row.part, row.instructions, row.begin
        );
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
    fn a_stretch_belongs_to_the_part_in_which_it_began() {
        let mut log = Log {
            part_end: 0x2000,
            ..Log::default()
        };
        block(&mut log, 0xffff_8000, 600, "sysretq", 0);
        block(&mut log, 0x2000, 2, "ret", 3);
        executed(&mut log, 0xffff_8000, 0);
        executed(&mut log, 0x2000, 3);
        let parts: Vec<_> = log.long.iter().map(|s| s.part).collect();
        assert_eq!((parts, log.part), (vec![0, 1], 2));
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
    fn a_block_that_was_not_listed_is_an_error() {
        let mut log = Log::default();
        assert!(log.line("Trace 0: 0x10 [0/ffff8000/000000b0/0] ").is_err());
    }
}
