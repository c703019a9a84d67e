//! `just bench-scale`: how costs grow with threads, handles, endpoints and CPUs.
//!
//! Threads that take turns stay on the first CPU: all CPUs share one counter here, so the others halt meanwhile. Calls on several CPUs come
//! to what all of them execute for one round trip; of a call to another CPU a run of its own says what each executes ([`sides`]).
//! The operations of `just bench` are measured once more on a machine full of objects.

use std::fmt::Write;

use anyhow::{Result, ensure};

use super::sides::{self, Sides};
use super::{CPU, Figure, compare, measure};
use crate::cargo::{self, Profile};
use crate::image::{self, Plan};
use crate::machine::Spec;
use crate::machine_tests::Lab;
use crate::workspace::Workspace;

/// Machines on which it is measured.
const CPUS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Their memory: ten thousand threads have a kernel stack and an IPC area each.
const MEM: &str = "1G";

/// Parts in a hundred by which an operation may take longer among very many objects.
const FLAT: u64 = 2;

/// Builds, boots one machine after the other, collects.
///
/// # Errors
/// If something can't be built or started, or a machine ends without its figures.
pub fn run() -> Result<()> {
    let lab = Lab::new(Workspace::find()?, "")?;
    let machine = |manifest: &str, cpus: u32| -> Result<Spec> {
        let plan = Plan {
            profile: Profile::Release,
            ..Plan::tests(manifest)
        };
        let files = image::build(&lab.ws, &plan)?;
        let mut spec = lab.machine(lab.direct(manifest, &files)?, cpus, CPU);
        spec.icount = true;
        spec.mem = MEM.into();
        Ok(spec)
    };
    let mut all = Vec::new();
    eprintln!("bench-scale: the operations, alone and among very many objects");
    let alone = measure(&machine("bench", 1)?, CPU)?;
    let crowded = measure(&machine("bench-crowd", 1)?, CPU)?;
    print!("{}", beside(&alone, &crowded)?);
    for mut figure in crowded {
        figure.name += "_in_crowd";
        all.push(figure);
    }
    eprintln!("bench-scale: a call to another CPU");
    let program = cargo::artefact(&lab.ws, super::USER, Profile::Release, "bench");
    let sides = sides::follow(&machine("bench-sides", 2)?, &program)?;
    print!("{}", side_rows(&sides));
    for (cpu, instructions) in sides {
        all.push(Figure {
            name: format!("call_reply_other_cpu_on_{cpu}"),
            instructions,
            cpu: CPU.into(),
            cpus: 2,
            price: None,
        });
    }
    for cpus in CPUS {
        eprintln!("bench-scale: {cpus} CPUs, counting guest instructions");
        let mut figures = measure(&machine("bench-scale", cpus)?, CPU)?;
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

/// Each operation alone and in the crowd, and which of them takes longer there.
fn beside(alone: &[Figure], crowded: &[Figure]) -> Result<String> {
    let width = alone.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let mut text = format!("{:<width$} {:>8} {:>8}\n", "operation", "alone", "in crowd");
    for figure in alone {
        let Some(other) = compare::find(figure, crowded) else {
            anyhow::bail!("{} was not measured in the crowd", figure.name);
        };
        let grew = other.instructions * 100 > figure.instructions * (100 + FLAT);
        // Writing to a string can't fail, here and below.
        let _ = writeln!(
            text,
            "{:<width$} {:>8} {:>8}{}",
            figure.name,
            figure.instructions,
            other.instructions,
            if grew { "  GREW" } else { "" }
        );
    }
    ensure!(alone.len() == crowded.len(), "more figures in the crowd");
    Ok(text)
}

fn side_rows(sides: &Sides) -> String {
    let mut text = String::new();
    for (cpu, instructions) in sides {
        let _ = writeln!(text, "call to another CPU: {instructions} on CPU {cpu}");
    }
    text
}

fn rows(figures: &[Figure]) -> String {
    let mut text = String::new();
    for figure in figures {
        let _ = writeln!(
            text,
            "{:>3} CPUs  {:<34}{:>6}",
            figure.cpus, figure.name, figure.instructions
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_in_the_crowd_is_named() {
        let figure = |name: &str, instructions| Figure {
            name: name.to_owned(),
            instructions,
            cpu: CPU.into(),
            cpus: 1,
            price: None,
        };
        let alone = [figure("a", 100), figure("b", 100)];
        let text = beside(&alone, &[figure("a", 102), figure("b", 103)]).unwrap();
        assert_eq!(text.matches("GREW").count(), 1);
        let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["b", "100", "103", "GREW"]);
        assert!(beside(&alone, &alone[..1]).is_err());
        assert!(beside(&alone[..1], &alone).is_err());
    }

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
            "  1 CPUs  yield_among_2                        114\n 64 CPUs  yield_among_10000                    114\n"
        );
    }
}
