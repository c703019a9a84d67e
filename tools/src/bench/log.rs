//! QEMU's log of executed blocks (`-d in_asm,exec,nochain`), through a pipe, from where the bench program says that it begins.
//!
//! Each iteration of a `rep` instruction is a block of its own there, and counts. What may go wrong: a block that a fault ends is counted
//! whole, some instructions too many; the log's form is another QEMU's, which is an error.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::steps;
use crate::gdb::Gdb;
use crate::machine::{Event, Machine, Spec};

const LIMIT: Duration = Duration::from_mins(8);

/// A translated block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Block {
    pub instructions: u32,
    /// It has a `sti`.
    pub allows_interrupts: bool,
}

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    /// A block is about to be executed.
    Executed {
        /// By which CPU.
        cpu: u32,
        /// Where it lies.
        pc: u64,
        /// At what privilege level.
        level: u64,
        /// The block, unless it was translated before the log began.
        block: Option<Block>,
    },
    /// The last was not executed after all.
    TakenBack,
    /// Anything else.
    Other,
}

/// The blocks that the lines have listed so far.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By the address of the translation.
    blocks: HashMap<u64, Block>,
    /// The listing that was read last, whose translation is not known yet.
    listed: Option<(u64, Block)>,
}

impl Listing {
    /// Reads a line.
    ///
    /// # Errors
    /// If it is of another form.
    pub fn read(&mut self, line: &str) -> Result<Line> {
        if let Some(rest) = line.strip_prefix("Trace ") {
            return self
                .executed(rest)
                .with_context(|| format!("can't read '{line}'"));
        }
        if line.starts_with("Stopped execution of TB chain") {
            return Ok(Line::TakenBack);
        }
        if line.starts_with("IN:") {
            self.listed = None;
        } else if let Some((address, text)) = line.split_once(": ")
            && let Some(address) = address.strip_prefix("0x")
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            let (_, block) = self.listed.get_or_insert((address, Block::default()));
            block.instructions += 1;
            block.allows_interrupts |= text.split_whitespace().any(|word| word == "sti");
        }
        Ok(Line::Other)
    }

    /// `CPU: TRANSLATION [BASE/PC/FLAGS/CFLAGS] SYMBOL`.
    fn executed(&mut self, rest: &str) -> Result<Line> {
        let (cpu, rest) = rest.split_once(": 0x").context("no CPU")?;
        let (translation, rest) = rest.split_once(" [").context("no bracket")?;
        let translation = u64::from_str_radix(translation, 16)?;
        let mut parts = rest.split(['/', ']']).skip(1);
        let mut hex =
            || -> Result<u64> { Ok(u64::from_str_radix(parts.next().context("too short")?, 16)?) };
        let (pc, flags) = (hex()?, hex()?);
        if let Some((_, block)) = self.listed.take_if(|(listed, _)| *listed == pc) {
            self.blocks.insert(translation, block);
        }
        Ok(Line::Executed {
            cpu: cpu.parse()?,
            pc,
            level: flags & 3,
            block: self.blocks.get(&translation).copied(),
        })
    }
}

/// Boots a machine, has each line that it logs from the program's `bench_trace_begin` on seen to by `each`, and waits for its end. What
/// `each` has come to is given back.
///
/// # Errors
/// If the machine or the debugger fails, the program does not come to its end, or `each` fails.
pub(super) fn follow<T: Send + 'static>(
    spec: &Spec,
    program: &Path,
    mut state: T,
    each: impl Fn(&mut T, &str) -> Result<()> + Send + 'static,
) -> Result<T> {
    let scratch = tempfile::tempdir().context("temporary folder")?;
    let pipe = scratch.path().join("log");
    let made = Command::new("mkfifo").arg(&pipe).status();
    ensure!(made.context("mkfifo")?.success(), "mkfifo failed");
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(spec, sender)?;
    let qmp = machine.qmp().context("QEMU opened no control channel")?;
    let mut gdb = Gdb::attach(qmp)?;
    steps::stop_at_begin(&mut gdb, program)?;
    let (done, log) = mpsc::channel();
    let reader = pipe.clone();
    thread::spawn(move || {
        let result = lines(&reader, |line| each(&mut state, line)).map(|()| state);
        // Who waits may be gone already.
        let _ = done.send(result);
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
            _ if begin.elapsed() > LIMIT => break,
            _ => {}
        }
    }
    machine.kill();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(
        said.contains("bench done"),
        "the program did not come to its end: {said}"
    );
    log.recv_timeout(LIMIT).context("the log has no end")?
}

/// Reads a log to its end. A last line that was cut off is left out.
fn lines(path: &Path, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut lines = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? != 0 {
        if line.ends_with(b"\n") {
            each(String::from_utf8_lossy(&line).trim_end())?;
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_another_form_is_refused() {
        let mut log = Listing::default();
        for line in [
            "Trace 0: 0x10 [0/ffff8000/000000b0/0] ",
            "Trace 0: 0x10 ",
            "Trace x: 0x10 [0/10/b0/0] ",
        ] {
            let read = log.read(line);
            assert!(
                !matches!(read, Ok(Line::Executed { block: Some(_), .. })),
                "{line}"
            );
        }
        assert!(log.read("Trace 0: 0x10 ").is_err());
        assert!(log.read("Trace x: 0x10 [0/10/b0/0] ").is_err());
    }

    #[test]
    fn a_block_belongs_to_the_cpu_that_executes_it() {
        let mut log = Listing::default();
        for line in ["IN: ", "0x1000:  90      nop", "0x1001:  fb      sti"] {
            assert!(matches!(log.read(line), Ok(Line::Other)));
        }
        let Ok(Line::Executed {
            cpu: 3,
            pc: 0x1000,
            level: 0,
            block: Some(block),
        }) = log.read("Trace 3: 0x7f00 [0000000000000000/0000000000001000/000000b0/ff000000] ")
        else {
            panic!("not read as it was written")
        };
        assert_eq!((block.instructions, block.allows_interrupts), (2, true));
    }
}
