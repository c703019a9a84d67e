//! The suite of test programs in Bochs, on an Intel model and an AMD one.
//!
//! Bochs faults where hardware does and TCG is kinder: a return to a non-canonical address faults in the kernel, with the user's
//! stack; bases and MSRs refuse such addresses. Its Skylake-X has PCID, TSC deadline, x2APIC and XSAVES, which TCG lacks. It
//! interprets instruction by instruction, so the machine's clock is slow against its CPUs: [`SPEED`].

use std::time::Duration;

use anyhow::Result;

use super::lab::Lab;
use super::{Job, protocol};
use crate::bios;
use crate::bochs::{self, MISSING, Spec};
use crate::machine::Start;
use crate::report::Outcome;

/// How long one boot with all its tests may take.
const LIMIT: Duration = Duration::from_mins(15);
/// Instructions in a second of the machine's time: few, so that what waits for time costs little, and enough for the tests' own
/// limits.
const SPEED: u32 = 50_000_000;
const MEMORY: u32 = 256;

/// A model, by its short name and Bochs's; what its boot must log, so that the lane shows what it is for.
const MODELS: [(&str, &str, &[&str]); 2] = [
    (
        "skylake-x",
        "corei7_skylake_x",
        &["local APIC in x2APIC mode", "with deadlines"],
    ),
    ("ryzen", "ryzen", &[]),
];

/// A job for each model.
pub fn jobs() -> Vec<Job> {
    MODELS
        .iter()
        .map(|(short, model, demanded)| {
            let name = format!("bochs/2/{short}");
            Job::new(
                name.clone(),
                |lab| lab.tests().and(lab.multiboot()).map(drop),
                move |lab| boot(lab, &name, model, demanded),
            )
        })
        .collect()
}

fn boot(lab: &Lab, name: &str, model: &'static str, demanded: &[&str]) -> Result<Outcome> {
    let Some(bochs) = bochs::find() else {
        return Ok(Outcome::skipped(MISSING));
    };
    if !bios::is_possible() {
        return Ok(Outcome::skipped(bios::MISSING));
    }
    // Version 2.7 saves AVX state in the compacted format where it does not look for it when it loads.
    let files = lab.tests_with("manifest=tests xsave=standard")?;
    let Start::Bios { image } = lab.bios("tests-bochs", &files)? else {
        unreachable!("asked for a BIOS start");
    };
    let spec = Spec {
        image: &image,
        cpus: 2,
        model,
        speed: SPEED,
        memory: MEMORY,
    };
    let run = bochs.run(&spec, LIMIT)?;
    lab.keep_log(name, &run.transcript)?;
    let mut outcome = protocol::judge(run.transcript.lines());
    if outcome.counts.failed == 0 && !run.ended {
        outcome.fail("the machine did not power off");
    }
    for text in demanded {
        let said = run.transcript.says(text);
        outcome.check(
            &format!("'{text}'"),
            (!said).then(|| "it is not in the log".into()),
        );
    }
    if outcome.counts.failed > 0 {
        let mut last = String::from("last lines:");
        for line in run.transcript.tail(25).iter().chain(&run.complaints) {
            last.push_str("\n    | ");
            last.push_str(line);
        }
        outcome.details.push(last);
    }
    Ok(outcome)
}
