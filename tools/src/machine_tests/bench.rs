//! What the finest paths cost, held: the program of `just bench` counts its instructions, and a figure above its ceiling fails.
//!
//! Under `-icount` the counts are the same in every run and on any host, so a ceiling can lie close to what is there: two parts in a
//! hundred above, for what another compiler does otherwise. Who makes a path shorter lowers its ceiling; who makes it longer sees it
//! here, and has to say in this table that it is meant to be.
//!
//! The shipped build is measured, alone in an archive of its own: nothing but the program itself has to be built for it. With the same build one call is
//! followed, and compared with the chapter of the book that tells of it ([`book`](crate::bench::book)).

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Job;
use super::lab::Lab;
use crate::bench::{self, Figure};
use crate::cargo::{self, Profile, USER};
use crate::config;
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::image::{CONFIG, INITRD};
use crate::initrd::{self, Files};
use crate::play::Over;
use crate::report::Outcome;

const PROGRAM: &str = "bench";
const LIMIT: Duration = Duration::from_mins(3);

/// A figure and its limits, in instructions. What it must be and is to be at all is in [`TARGETS`](crate::bench::targets::TARGETS).
struct Ceiling {
    figure: &'static str,
    /// What it may take today, with FSGSBASE and without.
    now: [u64; 2],
}

/// The same table is in `docs/src/benchmarks.md`.
#[rustfmt::skip]
const CEILINGS: [Ceiling; 18] = [
    Ceiling { figure: "syscall_null",               now: [35, 35] },
    Ceiling { figure: "call_reply_cross_space_6w",  now: [304, 408] },
    Ceiling { figure: "call_reply_cross_space",     now: [298, 401] },
    Ceiling { figure: "call_reply_same_space",      now: [286, 387] },
    Ceiling { figure: "call_reply_256b",            now: [432, 499] },
    Ceiling { figure: "call_reply_4k",              now: [937, 1006] },
    Ceiling { figure: "call_reply_handle",          now: [557, 625] },
    Ceiling { figure: "signal_idle",                now: [58, 58] },
    Ceiling { figure: "signal_wait_pingpong",       now: [418, 477] },
    Ceiling { figure: "fault_round_trip",           now: [387, 453] },
    Ceiling { figure: "yield_same_space",           now: [194, 243] },
    Ceiling { figure: "yield_cross_space",          now: [205, 253] },
    Ceiling { figure: "yield_cross_space_fpu_one",  now: [262, 298] },
    Ceiling { figure: "yield_cross_space_fpu_both", now: [278, 315] },
    Ceiling { figure: "map_unmap_4k",               now: [517, 517] },
    Ceiling { figure: "thread_create",              now: [892, 916] },
    Ceiling { figure: "thread_create_cold",         now: [2771, 2795] },
    Ceiling { figure: "process_create",             now: [12230, 12241] },
];

/// One machine with FSGSBASE, one without, and one on which the call is followed that the book tells of.
pub fn jobs() -> Vec<Job> {
    let counted = [
        ("bench/max", bench::CPU, 0),
        ("bench/no-fsgsbase", bench::CPU_WITHOUT, 1),
    ]
    .into_iter()
    .map(|(name, cpu, column)| {
        Job::new(name.into(), prepare, move |lab| {
            count(lab, name, cpu, column)
        })
    });
    let book = Job::new("bench/book".into(), prepare, |lab| {
        follow(lab, "bench/book")
    });
    counted.chain([book]).collect()
}

fn prepare(lab: &Lab) -> Result<()> {
    cargo::build(&lab.ws, USER, Profile::Release, &[PROGRAM])?;
    lab.product().and(lab.multiboot()).map(drop)
}

/// Follows a call instruction by instruction, and looks whether the book tells the same.
fn follow(lab: &Lab, name: &str) -> Result<Outcome> {
    let mut spec = lab.machine(lab.direct(name, &files(lab)?)?, bench::CPUS, bench::CPU);
    spec.icount = true;
    let complaints = bench::book::follow(&lab.ws, &spec)?;
    let mut outcome = Outcome::default();
    let problem = (!complaints.is_empty()).then(|| complaints.join("; "));
    outcome.check(bench::book::CHAPTER, problem);
    Ok(outcome)
}

fn count(lab: &Lab, name: &str, cpu: &str, column: usize) -> Result<Outcome> {
    let mut spec = lab.machine(lab.direct(name, &files(lab)?)?, bench::CPUS, cpu);
    spec.icount = true;
    let played = lab.play(name, &spec, Feeder::default(), LIMIT, |_| false)?;
    ensure!(
        played.over == Over::Ended(Ending::PoweredOff),
        "the machine did not power off: {}; {}",
        played.over,
        played.tail()
    );
    let figures = bench::collect(played.transcript().lines(), cpu)?;
    Ok(judge(&figures, column))
}

/// The product's files, but with the program that measures as the only one, and its manifest.
fn files(lab: &Lab) -> Result<Files> {
    let mut files = lab.product()?.clone();
    let manifest = format!("{PROGRAM}.toml");
    let path = lab.ws.root.join("initrd").join(&manifest);
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let program = cargo::artefact(&lab.ws, USER, Profile::Release, PROGRAM);
    let archive = Files::from([
        (manifest, text),
        (
            format!("bin/{PROGRAM}"),
            cargo::read_stripped(&lab.ws, &program)?,
        ),
    ]);
    files.insert(INITRD.into(), initrd::pack(&archive)?);
    let text = std::fs::read_to_string(lab.ws.root.join("limine.cfg")).context("limine.cfg")?;
    let text = config::with_cmdline(&text, &format!("manifest={PROGRAM}"))?;
    files.insert(CONFIG.into(), text.into_bytes());
    Ok(files)
}

/// Each figure against its ceiling in a column of the table.
fn judge(figures: &[Figure], column: usize) -> Outcome {
    let mut outcome = Outcome::default();
    for ceiling in &CEILINGS {
        let most = ceiling.now[column];
        let problem = match figures.iter().find(|f| f.name == ceiling.figure) {
            None => Some("it was not measured".into()),
            Some(found) if found.instructions > most => Some(format!(
                "{} instructions, and {most} are allowed",
                found.instructions
            )),
            Some(_) => None,
        };
        outcome.check(ceiling.figure, problem);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::targets::Target;

    fn figures(change: impl Fn(usize, u64) -> u64) -> Vec<Figure> {
        let figure = |(index, ceiling): (usize, &Ceiling)| Figure {
            name: ceiling.figure.into(),
            instructions: change(index, ceiling.now[0]),
            cpu: "max".into(),
            cpus: 1,
            price: None,
        };
        CEILINGS.iter().enumerate().map(figure).collect()
    }

    #[test]
    fn a_figure_above_its_ceiling_fails_by_name() {
        assert_eq!(judge(&figures(|_, now| now), 0).counts.failed, 0);
        let longer = |index: usize| u64::from(CEILINGS[index].figure == "yield_cross_space");
        let outcome = judge(&figures(|index, now| now + longer(index)), 0);
        let others = CEILINGS.len() - 1;
        assert_eq!((outcome.counts.passed, outcome.counts.failed), (others, 1));
        assert!(
            outcome.details[0].starts_with("yield_cross_space: 206"),
            "{:?}",
            outcome.details
        );
    }

    #[test]
    fn a_figure_that_is_missing_fails() {
        let mut figures = figures(|_, now| now);
        figures.remove(0);
        assert_eq!(judge(&figures, 0).counts.failed, 1);
    }

    #[test]
    fn no_ceiling_is_above_what_must_be_and_the_book_has_the_same() {
        let book = include_str!("../../../docs/src/benchmarks.md");
        for ceiling in &CEILINGS {
            let Ceiling {
                figure,
                now: [with, without],
            } = ceiling;
            if let Some(target) = Target::of(figure) {
                assert!(*with <= target.must, "{figure}");
            }
            let row = format!("| `{figure}` | {with} | {without} |");
            assert!(book.contains(&row), "benchmarks.md lacks: {row}");
        }
    }
}
