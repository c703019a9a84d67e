//! `just bench`: what operations cost, in guest instructions.
//!
//! Under `-icount shift=0` QEMU advances its clock by one nanosecond an instruction and the time-stamp counter with it,
//! so a program that reads the counter counts instructions: the same figure every run, on any machine. The bench program
//! says `bench NAME INSTRUCTIONS` a line and `bench done` at the end.
//!
//! The same is counted on a CPU without FSGSBASE. Then a debugger follows one of each operation on both ([`steps`]): that gives its steps, and
//! what instructions hide of their price.
//!
//! The table has beside each figure what is asked of it and what others take ([`targets`]), and what has changed since the figures
//! that were accepted last ([`compare`]).

pub(crate) mod book;
mod compare;
pub mod linux;
mod log;
pub mod scale;
mod sides;
mod steps;
pub mod stretches;
pub mod targets;

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cargo::{self, Profile};
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::image::{self, Plan};
use crate::machine::Spec;
use crate::machine_tests::Lab;
use crate::play::{Over, play};
use crate::transcript::untimed;
use crate::workspace::Workspace;

use self::steps::{Price, Steps};
use self::targets::Target;

/// QEMU's CPU model.
pub(crate) const CPU: &str = "max";
/// The same without the instructions for segment bases.
pub(crate) const CPU_WITHOUT: &str = "max,-fsgsbase";
/// Where users' programs are built for.
const USER: &str = "x86_64-unknown-linux-musl";
/// One: with several, the counter is shared by all.
pub(crate) const CPUS: u32 = 1;
const LIMIT: Duration = Duration::from_mins(5);

/// One figure, as it stands in `build/bench.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// The operation.
    pub name: String,
    /// Guest instructions for one of it.
    pub instructions: u64,
    /// QEMU's CPU model.
    pub cpu: String,
    /// The machine's CPUs.
    pub cpus: u32,
    /// What the instructions hide of their price, where it was looked for.
    #[serde(flatten)]
    pub price: Option<Price>,
}

/// Where the figures are that were accepted last.
const ACCEPTED: &str = "bench/results.json";

/// Builds, boots, collects; compares with what was accepted last, or accepts what there is.
///
/// # Errors
/// If something can't be built or started, or the machine ends without its figures.
pub fn run(accept: bool) -> Result<()> {
    let ws = Workspace::find()?;
    // What is shipped is what is measured: no checks.
    let plan = Plan {
        profile: Profile::Release,
        ..Plan::tests("bench")
    };
    let files = image::build(&ws, &plan)?;
    let lab = Lab::new(ws, "")?;
    eprintln!("bench: one CPU, counting guest instructions");
    let machine = |cpu: &str| -> Result<Spec> {
        let mut spec = lab.machine(lab.direct("bench", &files)?, CPUS, cpu);
        spec.icount = true;
        Ok(spec)
    };
    let mut figures = measure(&machine(CPU)?, CPU)?;
    let mut without = measure(&machine(CPU_WITHOUT)?, CPU_WITHOUT)?;
    eprintln!("bench: following one of each operation");
    let built = |target, name| cargo::artefact(&lab.ws, target, plan.profile, name);
    let (kernel, program) = (built(cargo::BARE, "kernel"), built(USER, "bench"));
    let follow = |cpu: &str, figures: &mut [Figure]| -> Result<Vec<Steps>> {
        // The first is the measuring itself.
        let mut followed = steps::follow(&machine(cpu)?, &kernel, &program, figures.len() + 1)?;
        followed.remove(0);
        for (figure, steps) in figures.iter_mut().zip(&followed) {
            figure.price = Some(steps.price);
        }
        Ok(followed)
    };
    let followed = follow(CPU, &mut figures)?;
    follow(CPU_WITHOUT, &mut without)?;
    write(&lab.ws, "bench-steps.txt", &breakdown(&figures, &followed))?;
    for complaint in book::complaints(&lab.ws, &figures, &followed)? {
        println!("{}: {complaint}", book::CHAPTER);
    }
    let accepted = lab.ws.root.join(ACCEPTED);
    let linux = compare::read(&lab.ws.root.join(linux::FIGURES))?;
    let before = compare::read(&accepted)?;
    print!(
        "{}\n{}\nwithout FSGSBASE:\n{}",
        table(&figures, &without, &before, &linux),
        prices(&figures),
        prices(&without)
    );
    figures.extend(without);
    let changes = compare::changes(&before, &figures);
    if before.is_empty() {
        println!("\nthere is no {ACCEPTED} yet");
    } else if changes.is_empty() {
        println!("\nas in {ACCEPTED}");
    } else {
        print!("\nsince {ACCEPTED}:\n{changes}");
    }
    let mut json = serde_json::to_string_pretty(&figures)?;
    json.push('\n');
    write(&lab.ws, "bench.json", &json)?;
    eprintln!("bench: wrote build/bench.json, and each operation's steps to build/bench-steps.txt");
    if accept {
        std::fs::write(&accepted, &json).with_context(|| accepted.display().to_string())?;
        eprintln!("bench: wrote {ACCEPTED}");
    } else if !changes.is_empty() {
        eprintln!("bench: if that is meant to be: ./justw bench-accept, and commit {ACCEPTED}");
    }
    Ok(())
}

fn write(ws: &Workspace, name: &str, text: &str) -> Result<()> {
    let path = ws.build.join(name);
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

/// Boots a machine that measures.
fn measure(spec: &Spec, cpu: &str) -> Result<Vec<Figure>> {
    let played = play(spec, Feeder::default(), LIMIT, |_| false)?;
    if played.over != Over::Ended(Ending::PoweredOff) {
        bail!("the machine did not power off; {}", played.tail());
    }
    collect(played.transcript().lines(), cpu).with_context(|| played.tail())
}

/// The figures in what the machine said.
///
/// # Errors
/// If there are none, one can't be read or appears twice, or the closing line is missing.
pub(crate) fn collect(lines: &[String], cpu: &str) -> Result<Vec<Figure>> {
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
            cpu: cpu.into(),
            cpus: CPUS,
            price: None,
        });
    }
    ensure!(done, "no line 'bench done'");
    ensure!(!figures.is_empty(), "no figures");
    Ok(figures)
}

/// Each figure beside what was accepted last, what others take and what is asked of it.
///
/// Writing to a string can't fail, so what `write!` says of it is left alone here and below.
fn table(figures: &[Figure], without: &[Figure], before: &[Figure], linux: &[Figure]) -> String {
    let width = names_width(figures);
    let columns = |words: [&str; 9]| {
        let [name, here, other, last, smp, one, linux, must, judged] = words;
        format!("{name:<width$} {here:>8} {other:>8} {last:>8}  {must:>13}  {judged:<6}  {smp:>16}  {one:>16}  {linux}")
            .trim_end()
            .to_owned()
            + "\n"
    };
    let mut text = columns([
        "operation",
        "here",
        "no FSGS",
        "accepted",
        "seL4, many CPUs",
        "seL4, one CPU",
        "Linux",
        "must / aim",
        "",
    ]);
    for figure in figures {
        let other = without.iter().find(|other| other.name == figure.name);
        let number = |figure: Option<&Figure>| {
            figure.map_or_else(String::new, |figure| figure.instructions.to_string())
        };
        let target = Target::of(&figure.name);
        let bar = target.map_or_else(String::new, |target| {
            format!("{} / {}", target.must, target.aim)
        });
        let measured = linux.iter().find(|other| other.name == figure.name);
        let peer = |of: fn(&Target) -> &'static str| target.map_or("", of);
        text += &columns([
            &figure.name,
            &figure.instructions.to_string(),
            &number(other),
            &number(compare::find(figure, before)),
            peer(|target| target.sel4_smp),
            peer(|target| target.sel4_one),
            &measured.map_or_else(
                || peer(|target| target.linux).to_owned(),
                |measured| measured.instructions.to_string(),
            ),
            &bar,
            target.map_or("", |target| target.judge(figure.instructions)),
        ]);
    }
    text
}

/// What each figure hides.
fn prices(figures: &[Figure]) -> String {
    let width = names_width(figures);
    let mut text = format!(
        "{:<width$} {:>4} {:>4} {:>4} {:>7} {:>6} {:>12} {:>12}\n",
        "operation", "CR0", "CR3", "MSR", "locked", "lines", "kernel data", "kernel code"
    );
    for (figure, price) in figures
        .iter()
        .filter_map(|figure| Some((figure, figure.price?)))
    {
        let _ = writeln!(
            text,
            "{:<width$} {:>4} {:>4} {:>4} {:>7} {:>6} {:>12} {:>12}",
            figure.name,
            price.cr0_writes,
            price.cr3_writes,
            price.msr_writes,
            price.locked,
            price.lines,
            price.kernel_lines,
            price.kernel_code_lines
        );
    }
    text
}

fn names_width(figures: &[Figure]) -> usize {
    figures.iter().map(|f| f.name.len()).max().unwrap_or(0)
}

/// The functions of each operation and how many instructions each has; and of what is short, all of these, with a `+` for each line of data that is
/// new.
fn breakdown(figures: &[Figure], followed: &[Steps]) -> String {
    let mut text = String::new();
    for (figure, steps) in figures.iter().zip(followed) {
        let _ = writeln!(text, "{}: {}", figure.name, steps.instructions());
        for (function, count) in &steps.functions {
            let _ = writeln!(text, "  {count:>6}  {function}");
        }
    }
    let short = |(_, steps): &(&Figure, &Steps)| steps.instructions() < SHORT;
    for (figure, steps) in figures.iter().zip(followed).filter(short) {
        let _ = writeln!(text, "\n{}, instruction by instruction:", figure.name);
        for executed in &steps.listing {
            let whose = if executed.is_kernel { "" } else { "program: " };
            let lines = "+".repeat(executed.new_lines);
            let _ = writeln!(text, "{lines:>4} {whose}{}", executed.text);
        }
    }
    text
}

/// What is followed in fewer instructions is written down one by one.
const SHORT: u32 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(text: &str) -> Result<Vec<Figure>> {
        collect(&text.lines().map(str::to_owned).collect::<Vec<_>>(), CPU)
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
    fn the_table_has_what_is_asked_and_what_was() {
        let figure = |name: &str, instructions| Figure {
            name: name.into(),
            instructions,
            cpu: CPU.into(),
            cpus: CPUS,
            price: None,
        };
        let now = [figure("syscall_null", 46), figure("other", 7)];
        let text = table(
            &now,
            &[figure("syscall_null", 47)],
            &[figure("other", 8)],
            &[figure("other", 9)],
        );
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            words[1],
            [
                "syscall_null",
                "46",
                "47",
                "45",
                "/",
                "36",
                "MISSED",
                "138",
                "89",
                "325"
            ]
        );
        assert_eq!(words[2], ["other", "7", "8", "9"]);
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
