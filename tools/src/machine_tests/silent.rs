//! A machine without a serial port, as many a PC is: the system comes up, and says so on its screen.
//!
//! Nothing can be typed there, so the test looks at the screen until the shell's prompt is on it, and then at the rest.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Job;
use super::lab::Lab;
use crate::bios;
use crate::feeder::{Feeder, PROMPT};
use crate::machine::Machine;
use crate::picture::Picture;
use crate::play::{Over, play_on};
use crate::report::Outcome;
use crate::run::Way;
use crate::transcript::Transcript;

const LIMIT: Duration = Duration::from_mins(2);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// What must be on the screen besides the prompt: the console's word that there is no port, and the shell's greeting.
const WANTED: [&str; 2] = ["this machine has no serial port", "Welcome to Switchyard"];

/// Started in both ways in which a PC is.
pub fn jobs() -> Vec<Job> {
    [("silent/uefi", Way::Uefi), ("silent/bios", Way::Bios)]
        .into_iter()
        .map(|(name, way)| {
            Job::new(
                name.into(),
                |lab| lab.product().and(lab.multiboot()).map(drop),
                move |lab| watch(lab, name, way),
            )
        })
        .collect()
}

fn watch(lab: &Lab, name: &str, way: Way) -> Result<Outcome> {
    if way == Way::Bios && !bios::is_possible() {
        return Ok(Outcome::skipped(bios::MISSING));
    }
    let start = lab.start(way, "product", lab.product()?)?;
    let mut spec = lab.machine(start, 2, "max");
    spec.serial = false;
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(&spec, sender)?;
    let deadline = Instant::now() + LIMIT;
    let mut text = Vec::new();
    let mut outcome = Outcome::default();
    // Nothing comes by the line; what is waited for is that the machine ends, which it must not.
    let ended = loop {
        let played = play_on(&mut machine, &events, Feeder::default(), PAUSE, |_| false)?;
        if matches!(played.over, Over::Ended(_)) {
            break Some(played.over.to_string());
        }
        let qmp = machine.qmp().context("QEMU opened no control channel")?;
        text = Picture::take(qmp)?.text();
        if text.iter().any(|line| line == PROMPT.trim_end()) {
            break None;
        }
        if Instant::now() >= deadline {
            break Some("no prompt within the time allowed".into());
        }
    };
    let mut seen = Transcript::default();
    seen.push((text.join("\n") + "\n").as_bytes());
    lab.keep_log(name, &seen)?;
    outcome.check("the prompt is on the screen", ended);
    for wanted in WANTED {
        let there = text.iter().any(|line| line.contains(wanted));
        outcome.check(
            &format!("'{wanted}'"),
            (!there).then(|| "it is not on the screen".into()),
        );
    }
    if outcome.counts.failed > 0 {
        let shown: Vec<&str> = text.iter().map(String::as_str).collect();
        outcome
            .details
            .push(format!("the screen:\n    | {}", shown.join("\n    | ")));
    }
    Ok(outcome)
}
