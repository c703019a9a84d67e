//! The torture of threads on machines that differ in how a thread's registers are kept: `servers/torture` says what it does.
//!
//! Each makes a million switches at least, and every kind of disturbance. The seed is new each time; the log has it, and
//! `./justw cmdline=torture=seed=N filter=torture/4/max test-machine` repeats it.

use std::time::Duration;

use anyhow::Result;

use super::lab::Lab;
use super::matrix::{self, Config, MITIGATED};
use super::{Job, protocol};
use crate::config::with_options;
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::play::Over;
use crate::report::Outcome;

/// How long one boot may take.
const LIMIT: Duration = Duration::from_mins(5);
/// The threads end by faults, thousands of them; the kernel is not to report each on a serial port.
const QUIET: &str = "log=off";
/// Its manifest.
const MANIFEST: &str = "tests-torture";

/// A machine of the lane; `says` is what the torture's own line about the machine must hold.
const fn machine(
    cpus: u32,
    model: (&'static str, &'static str),
    options: &'static str,
    says: &'static str,
) -> Config {
    Config {
        says,
        ..matrix::with(options, cpus, model)
    }
}

/// With all that TCG has, on more CPUs than the host has and on more still; without instructions for bases; without XSAVE; both vendors; FPU state loaded at the first use and at each
/// switch; next to nothing; page tables of user mode's own (which "intel-eager" has too, as its CPU needs them).
const MACHINES: [Config; 9] = [
    machine(8, matrix::MAX, "", "threads on 8 CPUs"),
    machine(
        4,
        matrix::MAX,
        "",
        "bases by instructions, FPU: x87 SSE AVX",
    ),
    machine(
        2,
        ("without-fsgsbase", "max,-fsgsbase"),
        "",
        "bases by calls",
    ),
    machine(2, ("without-xsave", "max,-xsave"), "", "FPU: x87 SSE;"),
    machine(2, matrix::AMD, "", "AVX; lazy, page tables shared;"),
    machine(
        2,
        ("intel-lazy", matrix::INTEL.1),
        "fpu=lazy mitigations=off",
        "AVX; lazy, page tables shared;",
    ),
    machine(
        2,
        ("intel-eager", matrix::INTEL.1),
        "fpu=eager",
        "AVX; eager, page tables apart;",
    ),
    machine(1, matrix::QEMU64, "", "bases by calls, FPU: x87 SSE;"),
    machine(
        2,
        ("max-mitigated", "max"),
        MITIGATED,
        "AVX; eager, page tables apart;",
    ),
];

/// A job for each machine.
pub fn jobs() -> Vec<Job> {
    MACHINES
        .iter()
        .map(|config| {
            let name = format!("torture/{}/{}", config.cpus, config.name);
            Job::new(
                name.clone(),
                |lab| lab.tests().and(lab.multiboot()).map(drop),
                move |lab| boot(lab, &name, config),
            )
        })
        .collect()
}

fn boot(lab: &Lab, name: &str, config: &Config) -> Result<Outcome> {
    let files = with_options(&lab.tests_of(MANIFEST)?, QUIET)?;
    let files = with_options(&files, config.options)?;
    let start = lab.direct(&format!("{MANIFEST}{}", config.options), &files)?;
    let spec = lab.machine(start, config.cpus, config.cpu);
    let played = lab.play(name, &spec, Feeder::default(), LIMIT, |_| false)?;
    let mut outcome = protocol::judge(played.transcript().lines());
    if outcome.counts.failed == 0 && played.over != Over::Ended(Ending::PoweredOff) {
        outcome.fail(format!("the machine did not power off: {}", played.over));
    }
    let said = played.transcript().says(config.says);
    let problem = (!said).then(|| "it is not in the log".into());
    outcome.check(&format!("'{}'", config.says), problem);
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}
