//! `just bench-scale`: how the cost of a switch grows with threads and CPUs.
//!
//! The measured threads stay on the first CPU. All CPUs share one counter here, so the others halt meanwhile.

use std::fmt::Write;

use anyhow::Result;

use super::{CPU, Figure, measure};
use crate::cargo::Profile;
use crate::image::{self, Plan};
use crate::machine_tests::Lab;
use crate::workspace::Workspace;

/// Machines on which it is measured.
const CPUS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Their memory: ten thousand threads have a kernel stack and an IPC area each.
const MEM: &str = "1G";

/// Builds, boots one machine after the other, collects.
///
/// # Errors
/// If something can't be built or started, or a machine ends without its figures.
pub fn run() -> Result<()> {
    let ws = Workspace::find()?;
    let plan = Plan {
        profile: Profile::Release,
        ..Plan::tests("bench-scale")
    };
    let files = image::build(&ws, &plan)?;
    let lab = Lab::new(ws, "")?;
    let mut all = Vec::new();
    for cpus in CPUS {
        eprintln!("bench-scale: {cpus} CPUs, counting guest instructions");
        let mut spec = lab.machine(lab.direct("bench-scale", &files)?, cpus, CPU);
        spec.icount = true;
        spec.mem = MEM.into();
        let mut figures = measure(&spec, CPU)?;
        for figure in &mut figures {
            figure.cpus = cpus;
        }
        print!("{}", rows(&figures));
        all.extend(figures);
    }
    let mut json = serde_json::to_string_pretty(&all)?;
    json.push('\n');
    super::write(&lab.ws, "bench-scale.json", &json)?;
    eprintln!("bench-scale: wrote build/bench-scale.json");
    Ok(())
}

fn rows(figures: &[Figure]) -> String {
    let mut text = String::new();
    for figure in figures {
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "{:>3} CPUs  {:<20}{:>6}",
            figure.cpus, figure.name, figure.instructions
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_a_row_with_its_machine() {
        let figure = |name: &str, cpus| Figure {
            name: name.to_owned(),
            instructions: 114,
            cpu: CPU.into(),
            cpus,
            price: None,
        };
        assert_eq!(
            rows(&[figure("yield_among_2", 1), figure("yield_among_10000", 64)]),
            "  1 CPUs  yield_among_2          114\n 64 CPUs  yield_among_10000      114\n"
        );
    }
}
