//! `just bench-scale`: how costs grow with threads, handles, endpoints and CPUs.
//!
//! Threads that take turns stay on the first CPU: all CPUs share one counter here, so the others halt meanwhile. Calls on several CPUs come
//! to what all of them execute for one round trip; of a call to another CPU a run of its own says what each executes ([`sides`]). Interrupts
//! between CPUs are counted by the kernel, CPU by CPU: on a machine where an idle CPU halts, and on one where it polls (`idle=poll`).
//! The operations of `just bench`, and the calls on several CPUs, are measured once more on a machine full of objects.
//!
//! All of it is compared with what was accepted last ([`compare`]), `bench/scale.json`.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};

use super::sides::{self, Sides};
use super::{CPU, Figure, compare, measure};
use crate::cargo::{self, Profile};
use crate::image::{self, Plan};
use crate::machine::Spec;
use crate::machine_tests::Lab;
use crate::workspace::Workspace;

/// Machines on which it is measured.
const CPUS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// The one of them on which calls on several CPUs are measured among very many objects as well.
const CPUS_IN_CROWD: u32 = 4;
/// Their memory: ten thousand threads have a kernel stack and an IPC area each.
const MEM: &str = "1G";

/// Parts in a hundred by which an operation may take longer among very many objects.
const FLAT: u64 = 2;
/// The same where several CPUs execute what is counted. When one of them comes to halt, and which of two is first, moves with every change of
/// the program or the kernel, and with the time of the timer's next interrupt.
const SEVERAL: u64 = 5;

/// Where the figures are that were accepted last.
const ACCEPTED: &str = "bench/scale.json";

/// Builds, boots one machine after the other, collects; compares with what was accepted last, or accepts what there is.
///
/// # Errors
/// If something can't be built or started, or a machine ends without its figures.
pub fn run(accept: bool) -> Result<()> {
    let lab = Lab::new(Workspace::find()?, "")?;
    let all = collect(&lab)?;
    let accepted = lab.ws.root.join(ACCEPTED);
    let before = compare::read(&accepted)?;
    let changes = compare::changes_beyond(bound, &before, &all);
    if before.is_empty() {
        println!("\nthere is no {ACCEPTED} yet");
    } else if changes.is_empty() {
        println!("\nas in {ACCEPTED}");
    } else {
        print!("\nsince {ACCEPTED}:\n{changes}");
    }
    let mut json = serde_json::to_string_pretty(&all)?;
    json.push('\n');
    super::write(&lab.ws, "bench-scale.json", &json)?;
    eprintln!("bench-scale: wrote build/bench-scale.json");
    if accept {
        std::fs::write(&accepted, &json).with_context(|| accepted.display().to_string())?;
        eprintln!("bench-scale: wrote {ACCEPTED}");
    } else if !changes.is_empty() {
        eprintln!(
            "bench-scale: if that is meant to be: ./justw bench-scale-accept, and commit {ACCEPTED}"
        );
    }
    Ok(())
}

/// All figures, which are printed as they come.
fn collect(lab: &Lab) -> Result<Vec<Figure>> {
    let machine = |manifest: &str, options: &str, cpus: u32| -> Result<Spec> {
        let plan = Plan {
            profile: Profile::Release,
            cmdline: Some(format!("manifest={manifest} {options}").trim().to_owned()),
            ..Plan::tests(manifest)
        };
        let files = image::build(&lab.ws, &plan)?;
        let mut spec = lab.machine(lab.direct(manifest, &files)?, cpus, CPU);
        spec.icount = true;
        spec.mem = MEM.into();
        Ok(spec)
    };
    let measured = |manifest: &str, options: &str, cpus: u32, suffix: &str| {
        let mut figures = measure(&machine(manifest, options, cpus)?, CPU)?;
        for figure in &mut figures {
            figure.cpus = cpus;
            figure.name += suffix;
        }
        Ok::<_, anyhow::Error>(figures)
    };
    let mut all = Vec::new();
    eprintln!("bench-scale: the operations, alone and among very many objects");
    let alone = measured("bench", "", 1, "")?;
    let crowded = measured("bench-crowd", "", 1, IN_CROWD)?;
    print!("{}", beside(&alone, &crowded)?);
    all.extend(crowded);
    eprintln!("bench-scale: a call to another CPU");
    let program = cargo::artefact(&lab.ws, super::USER, Profile::Release, "bench");
    let sides = sides::follow(&machine("bench-sides", "", 2)?, &program)?;
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
    eprintln!("bench-scale: the same where idle CPUs poll");
    let polling = measured("bench-between-cpus", "idle=poll", 2, "_polling")?;
    print!("{}", rows(&polling));
    all.extend(polling);
    for cpus in CPUS {
        eprintln!("bench-scale: {cpus} CPUs, counting guest instructions");
        let figures = measured("bench-scale", "", cpus, "")?;
        print!("{}", rows(&figures));
        if cpus == CPUS_IN_CROWD {
            eprintln!("bench-scale: calls on them among very many objects");
            let crowded = measured("bench-crowd-cpus", "", cpus, IN_CROWD)?;
            let alone: Vec<Figure> = figures
                .iter()
                .filter(|figure| figure.name.starts_with("call_"))
                .cloned()
                .collect();
            print!("{}", beside(&alone, &crowded)?);
            all.extend(crowded);
        }
        all.extend(figures);
    }
    Ok(all)
}

/// How a figure's name ends that was measured among very many objects.
const IN_CROWD: &str = "_in_crowd";

/// Parts in a hundred of a figure that are passed over.
fn bound(figure: &Figure) -> u64 {
    let is_of_one = figure.cpus == 1 || figure.name.starts_with("yield_");
    if is_of_one || figure.name.contains("_ipis_") {
        compare::PASSED_OVER
    } else {
        SEVERAL
    }
}

/// Each operation alone and in the crowd, and which of them takes longer there.
fn beside(alone: &[Figure], crowded: &[Figure]) -> Result<String> {
    let width = alone.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let mut text = format!("{:<width$} {:>8} {:>8}\n", "operation", "alone", "in crowd");
    for figure in alone {
        let name = format!("{}{IN_CROWD}", figure.name);
        let Some(other) = crowded.iter().find(|other| other.name == name) else {
            anyhow::bail!("{} was not measured in the crowd", figure.name);
        };
        let flat = if bound(figure) == SEVERAL {
            SEVERAL
        } else {
            FLAT
        };
        let grew = other.instructions * 100 > figure.instructions * (100 + flat);
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
            "{:>3} CPUs  {:<52}{:>6}",
            figure.cpus, figure.name, figure.instructions
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, instructions: u64, cpus: u32) -> Figure {
        Figure {
            name: name.to_owned(),
            instructions,
            cpu: CPU.into(),
            cpus,
            price: None,
        }
    }

    #[test]
    fn what_takes_longer_in_the_crowd_is_named() {
        let alone = [
            figure("a", 100, 1),
            figure("b", 100, 1),
            figure("c", 100, 4),
        ];
        let crowded = [
            figure("a_in_crowd", 102, 1),
            figure("b_in_crowd", 103, 1),
            figure("c_in_crowd", 103, 4),
        ];
        let text = beside(&alone, &crowded).unwrap();
        assert_eq!(text.matches("GREW").count(), 1);
        let words: Vec<&str> = text.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(words, ["b", "100", "103", "GREW"]);
        assert!(beside(&alone, &crowded[..1]).is_err());
        assert!(beside(&alone[..1], &crowded).is_err());
    }

    #[test]
    fn what_one_cpu_executes_and_interrupts_are_compared_more_closely() {
        for (name, cpus, wide) in [
            ("call_reply_pairs_on_1", 1, false),
            ("call_reply_pairs_on_2", 2, true),
            ("yield_among_10", 64, false),
            ("call_reply_other_cpu_ipis_of_caller_in_1000", 2, false),
        ] {
            assert_eq!(bound(&figure(name, 1, cpus)) == SEVERAL, wide, "{name}");
        }
    }

    #[test]
    fn the_book_has_what_was_accepted() {
        let book = include_str!("../../../docs/src/benchmarks.md");
        let accepted: Vec<Figure> =
            serde_json::from_str(include_str!("../../../bench/scale.json")).unwrap();
        let figure = |name: &str, cpus: u32| {
            let found = accepted.iter().find(|f| f.name == name && f.cpus == cpus);
            found.map(|figure| figure.instructions)
        };
        for cpus in CPUS {
            let mut row = format!("| {cpus} |");
            let other = ["call_reply_other_cpu".to_owned()].into_iter();
            let crowd = |of: &'static str| [1, 2, 4].map(move |count| format!("{of}{count}"));
            let names = other
                .chain(crowd("call_reply_pairs_on_"))
                .chain(crowd("call_reply_one_server_from_"));
            for name in names {
                row += &figure(&name, cpus).map_or(" |".into(), |found| format!(" {found} |"));
            }
            assert!(book.contains(&row), "benchmarks.md lacks: {row}");
        }
        let sides = [0, 1].map(|cpu| figure(&format!("call_reply_other_cpu_on_{cpu}"), 2).unwrap());
        let [caller, server] = sides;
        let sentence = format!("{caller} on the caller's, {server} on the server's");
        assert!(book.contains(&sentence), "benchmarks.md lacks: {sentence}");
    }

    #[test]
    fn each_figure_has_a_row_with_its_machine() {
        assert_eq!(
            rows(&[figure("a", 114, 1), figure("b", 7, 64)]),
            format!("  1 CPUs  {:<52}   114\n 64 CPUs  {:<52}     7\n", "a", "b")
        );
    }
}
