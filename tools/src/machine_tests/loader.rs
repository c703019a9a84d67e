//! What the loader has to do by itself where there is no UEFI: refuse a CPU that can't run the system, wait for a key, report
//! an exception.

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::Job;
use super::lab::Lab;
use crate::bios;
use crate::feeder::{Feeder, PROMPT};
use crate::image::CONFIG;
use crate::machine::Machine;
use crate::play::{Over, Played, play_on};
use crate::report::Outcome;
use crate::run::Way;
use crate::transcript::Transcript;

const LIMIT: Duration = Duration::from_mins(1);

/// A CPU without long mode.
const OLD_CPU: &str = "qemu32";
const NO_LONG_MODE: &str = "switchyard boot: error: this CPU has no long mode";

/// What the loader says when `timeout: no` makes it wait.
const WAITS: &str = "switchyard boot: 'Switchyard' at a key";

/// A CPU that is refused, started both ways; and what can be done to a loader that waits.
pub fn jobs() -> Vec<Job> {
    let job = |name: &'static str, action: fn(&Lab, &str) -> Result<Outcome>| {
        Job::new(
            name.into(),
            |lab| lab.product().and(lab.multiboot()).map(drop),
            move |lab| action(lab, name),
        )
    };
    vec![
        job("loader/old-cpu", |lab, name| {
            old_cpu(lab, name, Way::Direct)
        }),
        job("loader/old-cpu/bios", |lab, name| {
            old_cpu(lab, name, Way::Bios)
        }),
        job("loader/key", key),
        job("loader/nmi", nmi),
    ]
}

fn old_cpu(lab: &Lab, name: &str, way: Way) -> Result<Outcome> {
    if way == Way::Bios && !bios::is_possible() {
        return Ok(Outcome::skipped(bios::MISSING));
    }
    let spec = lab.machine(lab.start(way, "product", lab.product()?)?, 1, OLD_CPU);
    let refused = |said: &Transcript| {
        said.lines().iter().any(|l| l.contains(NO_LONG_MODE)) || said.current() == PROMPT
    };
    let played = lab.play(name, &spec, Feeder::default(), LIMIT, refused)?;
    Ok(judge(&played, NO_LONG_MODE))
}

fn judge(played: &Played, wanted: &str) -> Outcome {
    let said = played.transcript();
    if played.over == Over::Said && said.lines().iter().any(|l| l.contains(wanted)) {
        Outcome::passed()
    } else {
        Outcome::failed(format!("no line says '{wanted}'; {}", played.tail()))
    }
}

/// Boots a loader that waits, does something to it, and goes on until `enough`.
fn disturb(
    lab: &Lab,
    name: &str,
    disturbance: impl Fn(&mut Machine) -> Result<()>,
    enough: impl Fn(&Transcript) -> bool,
) -> Result<Played> {
    let mut files = lab.product()?.clone();
    let text = String::from_utf8_lossy(&files[CONFIG]).replace("timeout: 0", "timeout: no");
    anyhow::ensure!(
        text.contains("timeout: no"),
        "limine.cfg has no 'timeout: 0'"
    );
    files.insert(CONFIG.into(), text.into_bytes());
    let spec = lab.machine(lab.direct(name, &files)?, 1, "max");
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(&spec, sender)?;
    let waits = |said: &Transcript| said.lines().iter().any(|l| l == WAITS);
    let first = play_on(&mut machine, &events, Feeder::default(), LIMIT, waits)?;
    anyhow::ensure!(
        first.over == Over::Said,
        "it does not wait; {}",
        first.tail()
    );
    disturbance(&mut machine)?;
    let played = play_on(&mut machine, &events, Feeder::default(), LIMIT, enough)?;
    lab.keep(name, &played)?;
    Ok(played)
}

/// A byte on the serial line is a key.
fn key(lab: &Lab, name: &str) -> Result<Outcome> {
    // What is there before the loader asks is no answer, and the question comes just after the line.
    let press = |machine: &mut Machine| {
        std::thread::sleep(Duration::from_millis(500));
        machine.send(b" ");
        Ok(())
    };
    let played = disturb(lab, name, press, |said| said.current() == PROMPT)?;
    Ok(if played.over == Over::Said {
        Outcome::passed()
    } else {
        Outcome::failed(format!("no prompt after a key; {}", played.tail()))
    })
}

/// An interrupt that can't be masked stands for all exceptions: without a table for them the machine would just reset.
fn nmi(lab: &Lab, name: &str) -> Result<Outcome> {
    const REPORT: &str = "switchyard boot: internal error: exception 2";
    let inject = |machine: &mut Machine| {
        let qmp = machine.qmp().context("no control channel to QEMU")?;
        qmp.command("inject-nmi", &json!({})).map(drop)
    };
    let reported = |said: &Transcript| said.lines().iter().any(|l| l.contains(REPORT));
    Ok(judge(&disturb(lab, name, inject, reported)?, REPORT))
}
