//! The grinder on machines of one, two and four CPUs: `servers/grind` says what it does.
//!
//! The seed is the same each time, as is all that follows from it on one CPU, which counts instructions. `./justw grind` makes longer runs with
//! seeds of their own.

use std::time::Duration;

use anyhow::Result;

use super::lab::Lab;
use super::{Job, protocol};
use crate::bench;
use crate::config::with_options;
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::play::Over;
use crate::report::Outcome;

/// Its manifest, and the kernel's option that the program reads.
const MANIFEST: &str = "tests-grind";
const OPTION: &str = "grind";
/// The programs end by faults, hundreds of them; the kernel is not to report each on a serial port.
const QUIET: &str = "log=off";
/// How long one boot of the lane may take.
const LIMIT: Duration = Duration::from_mins(4);
/// CPUs, and random calls to be made.
const MACHINES: [(u32, u64); 3] = [(1, 60_000), (2, 60_000), (4, 60_000)];

/// A job for each machine.
pub fn jobs() -> Vec<Job> {
    MACHINES
        .iter()
        .map(|&(cpus, calls)| {
            let name = format!("grind/{cpus}/max");
            Job::new(
                name.clone(),
                |lab| lab.tests().and(lab.multiboot()).map(drop),
                move |lab| boot(lab, &name, cpus, &format!("calls={calls}"), LIMIT),
            )
        })
        .collect()
}

/// Boots a machine that grinds, and judges. One with a single CPU counts instructions, so that the whole run is the same again.
///
/// # Errors
/// If it can't be started.
pub fn boot(lab: &Lab, name: &str, cpus: u32, options: &str, limit: Duration) -> Result<Outcome> {
    let files = with_options(&lab.tests_of(MANIFEST)?, QUIET)?;
    let files = with_options(&files, &format!("{OPTION}={options}"))?;
    let mut spec = lab.machine(lab.direct(name, &files)?, cpus, bench::CPU);
    spec.icount = cpus == 1;
    let played = lab.play(name, &spec, Feeder::default(), limit, |_| false)?;
    let mut outcome = protocol::judge(played.transcript().lines());
    if outcome.counts.failed == 0 && played.over != Over::Ended(Ending::PoweredOff) {
        outcome.fail(format!("the machine did not power off: {}", played.over));
    }
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}
