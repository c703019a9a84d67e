//! Something between `sti` and `hlt` of an idle CPU, while the interrupt that it should wake for waits already.
//!
//! The test inside (`injection.rs` of the suite) does nothing but sleep, again and again. A debugger holds its CPU before the `sti`
//! until the timer's interrupt waits, steps to the `hlt`, injects an NMI or a #MC there and lets go: on the way back from
//! that the interrupt is taken, and a CPU that halts then sleeps for good.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::lab::Lab;
use super::nmi::BEGUN;
use super::{Job, matrix, protocol};
use crate::cargo::{BARE, Profile, artefact};
use crate::config::with_options;
use crate::ending::Ending;
use crate::entry_text::EntryText;
use crate::feeder::Feeder;
use crate::gdb::Gdb;
use crate::machine::Machine;
use crate::play::{Over, play_on};
use crate::qmp::Qmp;
use crate::report::Outcome;
use crate::sweep::CONTAINED;

const NAME: &str = "nmi/1/before-halt";
/// The manifest of the test inside.
const MANIFEST: &str = "tests-halt";
const BOOT: Duration = Duration::from_mins(2);
const REST: Duration = Duration::from_mins(2);
/// How often each event is injected.
const ROUNDS: usize = 5;
/// For how long at a time the CPU is held before `sti`, and how often at most until an interrupt waits.
const HELD: Duration = Duration::from_millis(100);
const HOLDS: usize = 100;
/// How long it may take to come to an instruction.
const PATIENCE: Duration = Duration::from_secs(20);
/// `jmp` to itself.
const STAY: [u8; 2] = [0xEB, 0xFE];
/// `sti` and `hlt`.
const STI_HLT: [u8; 2] = [0xFB, 0xF4];

/// The one job.
pub fn jobs() -> Vec<Job> {
    vec![Job::new(
        NAME.into(),
        |lab| lab.tests().and(lab.multiboot()).map(drop),
        inject,
    )]
}

fn inject(lab: &Lab) -> Result<Outcome> {
    let kernel = artefact(&lab.ws, BARE, Profile::Checked, "kernel");
    let halt = EntryText::of(&kernel)?.symbol("switchyard_halt")?;
    let files = with_options(&lab.tests_of(MANIFEST)?, "")?;
    let spec = lab.machine(lab.direct(NAME, &files)?, 1, matrix::MAX.1);
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(&spec, sender)?;
    let begun = play_on(&mut machine, &events, Feeder::default(), BOOT, |t| {
        t.says(BEGUN)
    })?;
    let mut problem = None;
    if begun.over == Over::Said {
        let qmp = machine.qmp().context("QEMU opened no control channel")?;
        let mut gdb = Gdb::attach(qmp)?;
        problem = rounds(&mut gdb, qmp, halt).err();
        // A machine that has ended takes no leave.
        let _ = gdb.detach();
    }
    let played = play_on(&mut machine, &events, begun.feeder, REST, |_| false)?;
    lab.keep(NAME, &played)?;
    let mut outcome = protocol::judge(played.transcript().lines());
    if let Some(error) = problem {
        outcome.fail(format!("{error:#}"));
    }
    if outcome.counts.failed == 0 && played.over != Over::Ended(Ending::PoweredOff) {
        outcome.fail(format!("the machine did not power off: {}", played.over));
    }
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}

fn rounds(gdb: &mut Gdb, qmp: &mut Qmp, halt: u64) -> Result<()> {
    for round in 0..ROUNDS {
        hold_before(gdb, qmp, halt).with_context(|| format!("round {round}"))?;
        qmp.command("inject-nmi", &json!({}))?;
        wakes(gdb, halt).with_context(|| format!("NMI, round {round}"))?;
        hold_before(gdb, qmp, halt).with_context(|| format!("round {round}"))?;
        let said = qmp.monitor(CONTAINED)?;
        ensure!(said.trim().is_empty(), "QEMU's mce says: {said}");
        wakes(gdb, halt).with_context(|| format!("#MC, round {round}"))?;
    }
    Ok(())
}

/// Stops the machine before its next `hlt`, in the shadow of `sti`, with an interrupt that waits.
fn hold_before(gdb: &mut Gdb, qmp: &mut Qmp, halt: u64) -> Result<()> {
    let before = halt - 1;
    run_to(gdb, before).context("on the way to `sti`")?;
    let code = gdb.word(before)?;
    let mut held = code.to_le_bytes();
    ensure!(held[..2] == STI_HLT, "there is no `sti; hlt`");
    held[..2].copy_from_slice(&STAY);
    gdb.set_word(before, u64::from_le_bytes(held))?;
    for round in 0.. {
        ensure!(round < HOLDS, "no interrupt comes");
        gdb.resume()?;
        thread::sleep(HELD);
        gdb.interrupt()?;
        let rip = gdb.registers()?.get("rip");
        ensure!(rip == before, "the CPU went on to {rip:#x}");
        if interrupt_waits(&qmp.monitor("info lapic")?)? {
            break;
        }
    }
    gdb.set_word(before, code)?;
    gdb.step()?;
    let rip = gdb.registers()?.get("rip");
    ensure!(rip == halt, "behind `sti` the CPU is at {rip:#x}");
    Ok(())
}

/// Whether the local APIC has an interrupt for its CPU, by what QEMU's monitor says of its request register.
fn interrupt_waits(said: &str) -> Result<bool> {
    let line = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("IRR"));
    let vectors = line.context("QEMU does not tell of the IRR")?;
    Ok(vectors.trim() != "(none)")
}

/// Lets the machine run until it is behind the `hlt`.
fn wakes(gdb: &mut Gdb, halt: u64) -> Result<()> {
    run_to(gdb, halt + 1).context("halted for good")
}

fn run_to(gdb: &mut Gdb, address: u64) -> Result<()> {
    gdb.set_breakpoint(address)?;
    gdb.resume()?;
    let stopped = gdb.wait(PATIENCE)?;
    if !stopped {
        gdb.interrupt()?;
    }
    gdb.clear_breakpoint(address)?;
    ensure!(stopped, "not within {} s", PATIENCE.as_secs());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::interrupt_waits;

    #[test]
    fn vectors_in_the_request_register_are_seen() {
        let said = |irr| format!("LVT0 x\nESR\t 0x00\nISR\t (none)\nIRR\t {irr}\n\nAPR 0x00\n");
        assert!(!interrupt_waits(&said("(none)")).unwrap());
        assert!(interrupt_waits(&said("239")).unwrap());
        assert!(interrupt_waits("no such thing").is_err());
    }
}
