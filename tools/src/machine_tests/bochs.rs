//! The suite of test programs, and the torture of threads, in Bochs, on an Intel model and an AMD one.
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

/// A boot in Bochs.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Its test's name.
    name: &'static str,
    /// Bochs's name of the CPU.
    model: &'static str,
    /// The kernel's command line.
    cmdline: &'static str,
    /// What it must log, so that the row shows what it is for.
    demanded: &'static [&'static str],
}

/// The tests that depend on the machine. Version 2.7 saves AVX state in the compacted format where it does not look for it when it loads.
const HARDWARE: &str = "manifest=tests xsave=standard only=hardware";
/// As many switches as fit into two minutes; what Bochs interprets in that time is no million.
const TORTURE: &str = "manifest=tests-torture xsave=standard log=off torture=switches=300000";

/// The suite on both models.
const ROWS: [Row; 2] = [
    Row {
        name: "bochs/2/skylake-x",
        model: "corei7_skylake_x",
        cmdline: HARDWARE,
        demanded: &[
            "local APIC in x2APIC mode",
            "with deadlines",
            "address spaces: names in the TLB (PCIDs), pages of user tables flushed by INVPCID",
            "mitigations: page tables apart,",
            "hello, manifest from 32-bit code, by sysenter",
        ],
    },
    Row {
        name: "bochs/2/ryzen",
        model: "ryzen",
        cmdline: HARDWARE,
        demanded: &[
            "mitigations: none, as this CPU needs it",
            "not known to leak lazily kept registers",
            "hello, manifest from 32-bit code, by syscall",
        ],
    },
];

/// XSAVES, which only this emulator has, and does right without AVX (see [`SUITE`]).
const COMPACTED: Row = Row {
    name: "fpu/2/bochs-xsaves",
    model: "corei7_skylake_x",
    cmdline: "manifest=tests-fpu xcr0=3",
    demanded: &["floating-point state: x87, SSE by xsaves, 576 bytes;"],
};

/// The torture on both.
const TORTURES: [Row; 2] = [
    Row {
        name: "torture/2/bochs-skylake-x",
        model: "corei7_skylake_x",
        cmdline: TORTURE,
        demanded: &["FPU: x87 SSE AVX opmask ZMM ZMM16-31; eager, page tables apart;"],
    },
    Row {
        name: "torture/2/bochs-ryzen",
        model: "ryzen",
        cmdline: TORTURE,
        demanded: &["FPU: x87 SSE AVX; lazy, page tables shared;"],
    },
];

/// A job for each model.
pub fn jobs() -> Vec<Job> {
    ROWS.iter()
        .chain([&COMPACTED])
        .chain(&TORTURES)
        .map(job)
        .collect()
}

fn job(row: &'static Row) -> Job {
    Job::new(
        row.name.into(),
        |lab| lab.tests().and(lab.multiboot()).map(drop),
        move |lab| boot(lab, row),
    )
}

fn boot(lab: &Lab, row: &Row) -> Result<Outcome> {
    let Some(bochs) = bochs::find() else {
        return Ok(Outcome::skipped(MISSING));
    };
    if !bios::is_possible() {
        return Ok(Outcome::skipped(bios::MISSING));
    }
    let files = lab.tests_with(row.cmdline)?;
    let Start::Bios { image } = lab.bios(row.name, &files)? else {
        unreachable!("asked for a BIOS start");
    };
    let spec = Spec {
        image: &image,
        cpus: 2,
        model: row.model,
        speed: SPEED,
        memory: MEMORY,
    };
    let run = bochs.run(&spec, LIMIT)?;
    lab.keep_log(row.name, &run.transcript)?;
    let mut outcome = protocol::judge(run.transcript.lines());
    if outcome.counts.failed == 0 && !run.ended {
        outcome.fail("the machine did not power off");
    }
    for text in row.demanded {
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
