//! `just bench`: what operations cost, in guest instructions.
//!
//! Under `-icount shift=0` QEMU advances its clock by one nanosecond an instruction and the time-stamp counter with it,
//! so a program that reads the counter counts instructions: the same figure every run, on any machine. The bench program
//! says `bench NAME INSTRUCTIONS` a line and `bench done` at the end.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::cargo::Profile;
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::image::{self, Plan};
use crate::machine_tests::Lab;
use crate::play::{Over, play};
use crate::transcript::untimed;
use crate::workspace::Workspace;

const CPU: &str = "max";
/// One: with several, the counter is shared by all.
const CPUS: u32 = 1;
const LIMIT: Duration = Duration::from_mins(5);

/// One figure, as it stands in `build/bench.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// The operation.
    pub name: String,
    /// Guest instructions for one of it.
    pub instructions: u64,
    /// QEMU's CPU model.
    pub cpu: String,
    /// The machine's CPUs.
    pub cpus: u32,
}

/// Builds, boots, collects.
///
/// # Errors
/// If something can't be built or started, or the machine ends without its figures.
pub fn run() -> Result<()> {
    let ws = Workspace::find()?;
    // What is shipped is what is measured: no checks.
    let plan = Plan {
        profile: Profile::Release,
        ..Plan::tests("bench")
    };
    let files = image::build(&ws, &plan)?;
    let lab = Lab::new(ws)?;
    let mut spec = lab.machine(lab.direct("bench", &files)?, CPUS, CPU);
    spec.icount = true;
    eprintln!("bench: one CPU, counting guest instructions");
    let played = play(&spec, Feeder::default(), LIMIT, |_| false)?;
    if played.over != Over::Ended(Ending::PoweredOff) {
        bail!("the machine did not power off; {}", played.tail());
    }
    let figures = collect(played.transcript().lines()).with_context(|| played.tail())?;
    let path = lab.ws.build.join("bench.json");
    let mut json = serde_json::to_string_pretty(&figures)?;
    json.push('\n');
    std::fs::write(&path, json).with_context(|| path.display().to_string())?;
    print!("{}", table(&figures));
    eprintln!("bench: wrote build/bench.json");
    Ok(())
}

/// The figures in what the machine said.
///
/// # Errors
/// If there are none, one can't be read or appears twice, or the closing line is missing.
fn collect(lines: &[String]) -> Result<Vec<Figure>> {
    let mut figures: Vec<Figure> = Vec::new();
    let mut done = false;
    for rest in lines
        .iter()
        .filter_map(|l| untimed(l).strip_prefix("bench "))
    {
        if rest == "done" {
            done = true;
            continue;
        }
        let mut words = rest.split_whitespace();
        let (Some(name), Some(number), None) = (words.next(), words.next(), words.next()) else {
            bail!("can't read 'bench {rest}'");
        };
        let instructions = number
            .parse()
            .with_context(|| format!("can't read 'bench {rest}'"))?;
        ensure!(
            figures.iter().all(|f| f.name != name),
            "two figures for {name}"
        );
        figures.push(Figure {
            name: name.to_owned(),
            instructions,
            cpu: CPU.into(),
            cpus: CPUS,
        });
    }
    ensure!(done, "no line 'bench done'");
    ensure!(!figures.is_empty(), "no figures");
    Ok(figures)
}

fn table(figures: &[Figure]) -> String {
    let width = figures
        .iter()
        .map(|f| f.name.len())
        .max()
        .unwrap_or(0)
        .max(9);
    let mut text = format!("{:<width$}  instructions\n", "operation");
    for figure in figures {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{:<width$}  {:>12}", figure.name, figure.instructions);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(text: &str) -> Result<Vec<Figure>> {
        collect(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn figures_are_collected_in_order() {
        let figures =
            collected("boot\nbench syscall_null 71\n[    0.512345] bench yield 400\nbench done\n")
                .unwrap();
        let named: Vec<_> = figures
            .iter()
            .map(|f| (f.name.as_str(), f.instructions))
            .collect();
        assert_eq!(named, [("syscall_null", 71), ("yield", 400)]);
        let json = serde_json::to_value(&figures).unwrap();
        assert_eq!(
            json[0],
            serde_json::json!({"name": "syscall_null", "instructions": 71, "cpu": "max", "cpus": 1})
        );
    }

    #[test]
    fn incomplete_or_garbled_figures_are_refused() {
        for text in [
            "",
            "bench done",
            "bench a 1",
            "bench a x\nbench done",
            "bench a 1 2\nbench done",
            "bench a 1\nbench a 2\nbench done",
            "bench a -1\nbench done",
        ] {
            assert!(collected(text).is_err(), "{text}");
        }
    }
}
