//! The small kernel over `arch` alone (`arch/run-kernel`), whose only work is to run contexts: it checks every register that comes
//! back and reports as the foreign kernel does. One job for each kind of CPU that the entries tell apart, with the internal checks on.

use std::time::Duration;

use anyhow::Result;

use super::foreign::judge;
use super::lab::Lab;
use super::{Job, matrix};
use crate::cargo::{self, BARE, Profile};
use crate::feeder::Feeder;
use crate::image::CONFIG;
use crate::initrd::Files;
use crate::report::Outcome;

const LIMIT: Duration = Duration::from_secs(90);
const PACKAGE: &str = "run-kernel";
const KERNEL: &str = "run/kernel";

/// A job for each CPU model.
pub fn jobs() -> Vec<Job> {
    [matrix::MAX, matrix::QEMU64, matrix::AMD, matrix::INTEL]
        .into_iter()
        .map(|(name, cpu)| {
            let name = format!("context/{name}");
            let prepare = |lab: &Lab| lab.multiboot().map(drop).and(build(lab));
            Job::new(name.clone(), prepare, move |lab| boot(lab, &name, cpu))
        })
        .collect()
}

fn build(lab: &Lab) -> Result<()> {
    cargo::build(&lab.ws, BARE, Profile::Checked, &[PACKAGE])
}

fn boot(lab: &Lab, name: &str, cpu: &str) -> Result<Outcome> {
    let kernel = cargo::artefact(&lab.ws, BARE, Profile::Checked, PACKAGE);
    let config = format!("timeout: 0\n\n/Run\n    protocol: limine\n    path: boot():/{KERNEL}\n");
    let files = Files::from([
        (CONFIG.into(), config.into_bytes()),
        (KERNEL.into(), cargo::read_stripped(&lab.ws, &kernel)?),
    ]);
    let spec = lab.machine(lab.direct(name, &files)?, 1, cpu);
    let played = lab.play(name, &spec, Feeder::default(), LIMIT, |_| false)?;
    let mut outcome = judge(&played);
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}
