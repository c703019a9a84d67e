//! NMIs by the thousand into a machine that is busy with system calls, messages, faults and interrupts.
//!
//! The test inside (`injection.rs` of the suite) has two threads on each CPU go through the kernel with all registers known. From
//! the moment it says that it has begun, NMIs are injected through QMP as fast as it takes them, on all CPUs at once. The kernel
//! counts those that arrive; a CPU that is still in its handler takes a second one later and a third one never, so fewer
//! arrive than are sent.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::lab::Lab;
use super::matrix::{Config, MITIGATED, on, with};
use super::{Job, protocol};
use crate::config::with_options;
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::machine::{Event, Machine};
use crate::play::{Over, Played, play_on};
use crate::report::Outcome;

/// How long one boot with its storm may take.
const LIMIT: Duration = Duration::from_mins(4);
/// Its manifest.
const MANIFEST: &str = "tests-nmi";
/// What the test inside says when it has begun.
pub const BEGUN: &str = "injection: begin";
/// What it says when it has had enough; it waits then until no more come.
const ENOUGH: &str = "injection: enough";
/// Pause between two NMIs: time for a CPU on a busy host to do something else.
const PAUSE: Duration = Duration::from_micros(500);

/// One CPU and several, with FSGSBASE and without, with page tables of user mode's own.
const MACHINES: [Config; 6] = [
    on(1, ("max", "max")),
    on(1, ("without-fsgsbase", "max,-fsgsbase")),
    on(4, ("max", "max")),
    on(4, ("without-fsgsbase", "max,-fsgsbase")),
    with(MITIGATED, 1, ("mitigated", "max")),
    with(MITIGATED, 4, ("mitigated", "max,-fsgsbase")),
];

/// A job for each machine.
pub fn jobs() -> Vec<Job> {
    MACHINES
        .iter()
        .map(|config| {
            let name = format!("nmi/{}/{}", config.cpus, config.name);
            Job::new(
                name.clone(),
                |lab| lab.tests().and(lab.multiboot()).map(drop),
                move |lab| storm(lab, &name, config),
            )
        })
        .collect()
}

fn storm(lab: &Lab, name: &str, config: &Config) -> Result<Outcome> {
    let files = with_options(&lab.tests_of(MANIFEST)?, config.options)?;
    let start = lab.direct(&format!("{MANIFEST}{}", config.options), &files)?;
    let spec = lab.machine(start, config.cpus, config.cpu);
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(&spec, sender)?;
    let deadline = Instant::now() + LIMIT;
    let begun = play_on(&mut machine, &events, Feeder::default(), LIMIT, |t| {
        t.says(BEGUN)
    })?;
    let (played, sent) = if begun.over == Over::Said {
        inject(&mut machine, &events, begun.feeder, deadline)?
    } else {
        (begun, 0)
    };
    lab.keep(name, &played)?;
    let mut outcome = protocol::judge(played.transcript().lines());
    if outcome.counts.failed == 0 && played.over != Over::Ended(Ending::PoweredOff) {
        outcome.fail(format!("the machine did not power off: {}", played.over));
    }
    if outcome.counts.failed > 0 {
        outcome.details.push(format!("{sent} NMIs were sent"));
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}

/// Injects NMIs until the machine ends or time is up. Returns how it went, and how many were sent to each CPU.
fn inject(
    machine: &mut Machine,
    events: &mpsc::Receiver<Event>,
    mut feeder: Feeder,
    deadline: Instant,
) -> Result<(Played, u64)> {
    let mut sent = 0;
    loop {
        let played = play_on(machine, events, feeder, PAUSE, |_| false)?;
        if played.over != Over::TimedOut || Instant::now() >= deadline {
            return Ok((played, sent));
        }
        feeder = played.feeder;
        let qmp = machine.qmp().context("QEMU opened no control channel")?;
        // A command that comes while the machine is being switched off has QEMU hang in its own cleaning up.
        let enough = feeder.transcript().says(ENOUGH);
        if enough || qmp.command("inject-nmi", &json!({})).is_err() {
            let rest = deadline.saturating_duration_since(Instant::now());
            return Ok((play_on(machine, events, feeder, rest, |_| false)?, sent));
        }
        sent += 1;
    }
}
