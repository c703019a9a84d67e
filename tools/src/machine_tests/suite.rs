//! The suite of test programs on every machine of the matrix, and on a newer QEMU for x2APIC; its tests of floating-point state
//! alone on machines that differ in nothing else.

use std::time::Duration;

use anyhow::Result;

use super::lab::Lab;
use super::matrix::{Config, FLOATING_POINT, MATRIX, SAYS, TESTS, X2APIC};
use super::{Job, protocol};
use crate::config::with_options;
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::machine::Qemu;
use crate::play::Over;
use crate::report::Outcome;

/// How long one boot with all its tests may take. Eight CPUs on two take their time.
const LIMIT: Duration = Duration::from_mins(6);

/// What the suite drives: a device made for trying interrupts, with MSI, and a network card with MSI-X, which is connected to nothing.
const DEVICES: [&str; 2] = ["edu", "e1000e,romfile="];

/// What the 32-bit program of the tests' manifest says, whatever its way into the kernel is.
const GREETING: &str = "hello, manifest from 32-bit code, by";

/// A job for each machine of the matrix.
pub fn jobs() -> Vec<Job> {
    jobs_of("suite", &MATRIX)
}

/// A job for each way to load and save floating-point state.
pub fn floating_point_jobs() -> Vec<Job> {
    jobs_of("fpu", &FLOATING_POINT)
}

fn jobs_of(lane: &str, machines: &'static [Config]) -> Vec<Job> {
    machines
        .iter()
        .map(|config| {
            let name = format!("{lane}/{}/{}", config.cpus, config.name);
            Job::new(
                name.clone(),
                |lab| lab.tests().and(lab.multiboot()).map(drop),
                move |lab| boot(lab, &name, config, &Qemu::system()),
            )
        })
        .collect()
}

/// A job for each machine that needs the newer QEMU.
pub fn x2apic_jobs() -> Vec<Job> {
    X2APIC
        .iter()
        .map(|config| {
            let name = format!("qemu10/{}/{}", config.cpus, config.name);
            let prepare = |lab: &Lab| {
                // Whether it is there is the test's business; here it is only fetched in time.
                let _ = lab.qemu10();
                lab.tests().and(lab.multiboot()).map(drop)
            };
            Job::new(name.clone(), prepare, move |lab| match lab.qemu10() {
                Ok(qemu) => boot(lab, &name, config, qemu),
                Err(why) => Ok(Outcome::skipped(format!(
                    "no QEMU with x2APIC under TCG: {why:#}"
                ))),
            })
        })
        .collect()
}

/// Boots and judges.
fn boot(lab: &Lab, name: &str, config: &Config, qemu: &Qemu) -> Result<Outcome> {
    let whole = config.manifest == TESTS;
    let options = format!("{} {}", config.options, config.only);
    let options = options.trim();
    let start = if whole && options.is_empty() {
        lab.start(config.way, TESTS, lab.tests()?)?
    } else {
        let files = with_options(&lab.tests_of(config.manifest)?, options)?;
        let name = format!("{}-{}", config.manifest, options.replace(['=', ' '], "-"));
        lab.start(config.way, &name, &files)?
    };
    let mut spec = lab.machine(start, config.cpus, config.cpu);
    spec.accel_options = config.tcg;
    if whole {
        spec.devices = &DEVICES;
    }
    spec.qemu = qemu.clone();
    let played = lab.play(name, &spec, Feeder::default(), LIMIT, |_| false)?;
    let mut outcome = protocol::judge(played.transcript().lines());
    if outcome.counts.failed == 0 && played.over != Over::Ended(Ending::PoweredOff) {
        outcome.fail(format!("the machine did not power off: {}", played.over));
    }
    let of_options = SAYS
        .iter()
        .filter(|(options, _)| *options == config.options)
        .map(|&(_, said)| said);
    let greeting = if whole { GREETING } else { "" };
    let wanted = [config.says, greeting].into_iter().chain(of_options);
    for demanded in wanted.filter(|line| !line.is_empty()) {
        let said = played.transcript().says(demanded);
        let problem = (!said).then(|| "it is not in the log".into());
        outcome.check(&format!("'{demanded}'"), problem);
    }
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}
