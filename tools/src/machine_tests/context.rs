//! The small kernel over `arch` alone (`arch/run-kernel`), whose only work is to run contexts: it checks every register that comes
//! back and reports as the foreign kernel does. One job for each kind of CPU that the entries tell apart, with the internal checks on.
//! One more runs in Bochs: what the CPU refuses of the hardware's own tasks is refused there with the error codes of hardware.

use std::time::Duration;

use anyhow::Result;

use super::foreign::{judge, tally};
use super::lab::Lab;
use super::{Job, matrix};
use crate::bios;
use crate::bochs::{self, MISSING};
use crate::cargo::{self, BARE, Profile};
use crate::feeder::Feeder;
use crate::image::CONFIG;
use crate::initrd::Files;
use crate::machine::Start;
use crate::report::Outcome;

const LIMIT: Duration = Duration::from_secs(90);
const PACKAGE: &str = "run-kernel";
const KERNEL: &str = "run/kernel";
/// How long Bochs may take, from its BIOS on.
const BOCHS_LIMIT: Duration = Duration::from_mins(5);
/// A model with SMAP and FSGSBASE, and without XSAVEC: what Bochs 2.7 saves with that it can't load again.
const BOCHS_MODEL: &str = "broadwell_ult";

/// A job for each CPU model.
pub fn jobs() -> Vec<Job> {
    [matrix::MAX, matrix::QEMU64, matrix::AMD, matrix::INTEL]
        .into_iter()
        .map(|(name, cpu)| {
            let name = format!("context/{name}");
            let prepare = |lab: &Lab| lab.multiboot().map(drop).and(build(lab));
            Job::new(name.clone(), prepare, move |lab| boot(lab, &name, cpu))
        })
        .chain([Job::new(
            "context/bochs".into(),
            |lab: &Lab| lab.multiboot().map(drop).and(build(lab)),
            |lab| boot_bochs(lab, "context/bochs"),
        )])
        .collect()
}

fn build(lab: &Lab) -> Result<()> {
    cargo::build(&lab.ws, BARE, Profile::Checked, &[PACKAGE])
}

fn files(lab: &Lab) -> Result<Files> {
    let kernel = cargo::artefact(&lab.ws, BARE, Profile::Checked, PACKAGE);
    let config = format!("timeout: 0\n\n/Run\n    protocol: limine\n    path: boot():/{KERNEL}\n");
    Ok(Files::from([
        (CONFIG.into(), config.into_bytes()),
        (KERNEL.into(), cargo::read_stripped(&lab.ws, &kernel)?),
    ]))
}

fn boot_bochs(lab: &Lab, name: &str) -> Result<Outcome> {
    let Some(bochs) = bochs::find() else {
        return Ok(Outcome::skipped(MISSING));
    };
    if !bios::is_possible() {
        return Ok(Outcome::skipped(bios::MISSING));
    }
    let Start::Bios { image } = lab.bios(name, &files(lab)?)? else {
        unreachable!("asked for a BIOS start");
    };
    let spec = bochs::Spec {
        image: &image,
        cpus: 1,
        model: BOCHS_MODEL,
        speed: 50_000_000,
        memory: 128,
    };
    let run = bochs.run(&spec, BOCHS_LIMIT)?;
    lab.keep_log(name, &run.transcript)?;
    let mut outcome = tally(run.transcript.lines());
    if !run.ended && outcome.counts.failed == 0 {
        outcome.fail("the machine did not power off");
    }
    if outcome.counts.failed > 0 {
        let last = [run.transcript.tail(25), run.complaints].concat();
        outcome
            .details
            .push(format!("last lines:\n    | {}", last.join("\n    | ")));
    }
    Ok(outcome)
}

fn boot(lab: &Lab, name: &str, cpu: &str) -> Result<Outcome> {
    let files = files(lab)?;
    let spec = lab.machine(lab.direct(name, &files)?, 1, cpu);
    let played = lab.play(name, &spec, Feeder::default(), LIMIT, |_| false)?;
    let mut outcome = judge(&played);
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}
