//! Events before each instruction of the kernel's entries and exits: see [`sweep`](crate::sweep).
//!
//! The test inside (`injection.rs` of the suite) goes through all ways into the kernel and out of it, lap after lap, and compares its
//! registers. No machine has all the ways: AMD's CPUs have `syscall` for 32-bit code and Intel's `sysenter`, and the ways are others
//! where user mode has page tables of its own. So several machines run one after another, and what none of them reached is a
//! failure, but for what [`excuse`] names. What became of each instruction is in `build/logs/entries-coverage.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use iced_x86::Mnemonic;

use super::lab::Lab;
use super::matrix::{INTEL, MAX, MITIGATED};
use super::nmi::BEGUN;
use super::{Job, protocol};
use crate::cargo::{BARE, Profile, artefact};
use crate::config::with_options;
use crate::ending::Ending;
use crate::entry_text::{EntryText, Place, STUB_BYTES, STUBS, VECTORS};
use crate::feeder::Feeder;
use crate::gdb::Gdb;
use crate::machine::Machine;
use crate::play::{Over, play_on};
use crate::report::Outcome;
use crate::sweep::{Left, Report, Sweep};

const NAME: &str = "entries/1";
/// The manifest of the test inside.
const MANIFEST: &str = "tests-entries";
/// How long a boot may take, its sweep, and the rest.
const BOOT: Duration = Duration::from_mins(3);
const SWEEP: Duration = Duration::from_mins(6);
const REST: Duration = Duration::from_mins(4);

/// One machine.
struct Config {
    name: &'static str,
    cpu: &'static str,
    /// Words for the kernel's command line.
    options: &'static str,
    /// The entries for which everything is done although a machine before has done it.
    again: Option<&'static str>,
}

/// The machines. The first does all that it comes to, the others what is left; the entries that interrupt the kernel are others where
/// there are two sets of page tables.
const MACHINES: [Config; 3] = [
    Config {
        name: "amd",
        cpu: MAX.1,
        options: "",
        again: None,
    },
    Config {
        name: "intel-mitigated",
        cpu: INTEL.1,
        options: MITIGATED,
        again: Some("entry::paranoid::"),
    },
    Config {
        name: "intel",
        cpu: INTEL.1,
        options: "mitigations=off",
        again: None,
    },
];

/// Why no machine here comes to an instruction; none if one must.
fn excuse(place: &Place) -> Option<&'static str> {
    let mnemonic = place.instruction.mnemonic();
    let clearing = place.routine.contains("::clearing_");
    if place.routine == STUBS {
        Some("stubs of vectors that nothing raises; that all are alike is seen to")
    } else if place.routine.starts_with("entry::run::") {
        Some("of `run`, which this kernel does not use; the lane `context/` does")
    } else if place.routine.starts_with("entry::report::") {
        Some("of reports, which the programs of this lane do not make")
    } else if place.routine.starts_with("entry::isolated::")
        && (clearing || mnemonic == Mnemonic::Nop)
    {
        Some(
            "for CPUs that need either VERW or page tables apart, of which QEMU's TCG has no model",
        )
    } else if mnemonic == Mnemonic::Ud2 {
        Some("behind a call that does not return")
    } else if place.routine == "entry::paranoid::debug" && mnemonic == Mnemonic::Jmp {
        Some("behind the handler of user code's #DB, which ends its thread")
    } else {
        None
    }
}

/// One job: the machines share what they cover.
pub fn jobs() -> Vec<Job> {
    vec![Job::new(
        NAME.into(),
        |lab| lab.tests().and(lab.multiboot()).map(drop),
        sweep_all,
    )]
}

fn sweep_all(lab: &Lab) -> Result<Outcome> {
    let text = EntryText::of(&artefact(&lab.ws, BARE, Profile::Checked, "kernel"))?;
    let mut outcome = Outcome::default();
    let mut coverage = Coverage::default();
    for config in &MACHINES {
        boot(lab, &text, config, &mut coverage, &mut outcome)?;
    }
    coverage.judge(&mut outcome);
    std::fs::write(
        lab.ws.build.join("logs/entries-coverage.txt"),
        coverage.text(),
    )
    .context("the list of what was covered")?;
    Ok(outcome)
}

/// What all machines together have done.
#[derive(Default)]
struct Coverage {
    /// By address and text, as an instruction may be another one on another machine.
    done: BTreeSet<Key>,
    left: BTreeMap<Key, (Place, Left)>,
}

type Key = (u64, String);

fn key(place: &Place) -> Key {
    (place.address, place.text())
}

impl Coverage {
    /// Whether a machine shall do what there is to do at an instruction.
    fn wants(&self, place: &Place, config: &Config) -> bool {
        let again = config.again.is_some_and(|r| place.routine.starts_with(r));
        again || !self.done.contains(&key(place))
    }

    /// Adds what one machine has done of what it should.
    fn add(&mut self, report: &Report) {
        for place in report.places.values() {
            let key = key(place);
            let Some(now) = report.left.get(&place.address) else {
                self.left.remove(&key);
                self.done.insert(key);
                continue;
            };
            if self.done.contains(&key) {
                continue;
            }
            let (_, left) = self
                .left
                .entry(key)
                .or_insert_with(|| (place.clone(), now.clone()));
            left.never &= now.never;
            left.events.retain(|event| now.events.contains(event));
        }
    }

    /// What no machine covered: excused or not.
    fn judge(&self, outcome: &mut Outcome) {
        let mut excused: BTreeMap<&str, usize> = BTreeMap::new();
        let mut missing = Vec::new();
        for (place, left) in self.left.values() {
            match excuse(place).filter(|_| left.never) {
                Some(reason) => *excused.entry(reason).or_default() += 1,
                None => missing.push(line(place, left)),
            }
        }
        outcome.details.push(format!(
            "all machines together: {} instructions with everything done, {} excused, {} missing",
            self.done.len(),
            excused.values().sum::<usize>(),
            missing.len()
        ));
        for (reason, count) in &excused {
            outcome
                .details
                .push(format!("excused, {count} instructions: {reason}"));
        }
        let problem = (!missing.is_empty()).then(|| {
            let shown = &missing[..missing.len().min(SHOWN)];
            format!("{} are not:\n{}", missing.len(), shown.join("\n"))
        });
        outcome.check("every instruction is covered", problem);
    }

    /// A line for each instruction.
    fn text(&self) -> String {
        let done = self
            .done
            .iter()
            .map(|(address, text)| (*address, format!("{text}: done")));
        let left = self.left.values().map(|(place, left)| {
            let excuse = excuse(place).filter(|_| left.never);
            let line = excuse.map_or_else(
                || line(place, left),
                |excuse| format!("{}: excused: {excuse}", place.text()),
            );
            (place.address, line)
        });
        let all: BTreeSet<(u64, String)> = done.chain(left).collect();
        all.iter().fold(String::new(), |mut text, (address, line)| {
            let _ = writeln!(text, "{address:#x} {line}");
            text
        })
    }
}

fn line(place: &Place, left: &Left) -> String {
    let what = if left.never {
        "never".to_owned()
    } else {
        format!("no {:?}", left.events)
    };
    format!("{}: {what}", place.text())
}

/// The vectors whose exceptions push an error code (Intel SDM vol. 3A §6.15, AMD64 APM vol. 2 §8.2).
const WITH_ERROR_CODE: [u64; 10] = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];

/// Which stub of a vector does anything else than all: make up for the missing error code, push its number, and go where all go.
fn other_stub(places: &BTreeMap<u64, Place>) -> Option<String> {
    let stubs: Vec<&Place> = places.values().filter(|p| p.routine == STUBS).collect();
    // Up to the first there may be something that aligns it.
    let routine = stubs.first()?;
    let first = (routine.address - routine.offset).next_multiple_of(STUB_BYTES);
    let common = stubs.last()?.instruction.near_branch_target();
    (0..VECTORS).find_map(|vector| {
        let begins = first + vector * STUB_BYTES;
        let own = begins..begins + STUB_BYTES;
        let mut code = stubs.iter().filter(|p| own.contains(&p.address));
        let mut pushes = vec![vector];
        if !WITH_ERROR_CODE.contains(&vector) {
            pushes.insert(0, 0);
        }
        let pushed = pushes.iter().all(|word| {
            code.next().is_some_and(|p| {
                p.instruction.mnemonic() == Mnemonic::Push && p.instruction.immediate(0) == *word
            })
        });
        let led = code.next().is_some_and(|p| {
            p.instruction.mnemonic() == Mnemonic::Jmp
                && p.instruction.near_branch_target() == common
        });
        (!pushed || !led || code.next().is_some())
            .then(|| format!("the stub of vector {vector:#x} is another"))
    })
}

/// Boots one machine and sweeps it.
fn boot(
    lab: &Lab,
    text: &EntryText,
    config: &Config,
    coverage: &mut Coverage,
    outcome: &mut Outcome,
) -> Result<()> {
    let began = Instant::now();
    let short = config.name;
    let name = format!("{NAME}/{short}");
    let files = with_options(&lab.tests_of(MANIFEST)?, config.options)?;
    let spec = lab.machine(lab.direct(&name, &files)?, 1, config.cpu);
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(&spec, sender)?;
    let begun = play_on(&mut machine, &events, Feeder::default(), BOOT, |t| {
        t.says(BEGUN)
    })?;
    let report = match begun.over {
        Over::Said => {
            let wanted = |place: &Place| coverage.wants(place, config);
            Some(sweep(&mut machine, text, wanted)?)
        }
        _ => None,
    };
    let played = play_on(&mut machine, &events, begun.feeder, REST, |_| false)?;
    lab.keep(&name, &played)?;
    let inside = protocol::judge(played.transcript().lines());
    let mut problems = inside.details;
    if inside.counts.failed == 0 && played.over != Over::Ended(Ending::PoweredOff) {
        problems.push(format!("the machine did not power off: {}", played.over));
    }
    if let Some(report) = &report {
        coverage.add(report);
        outcome.check(
            &format!("{short}: all stubs are alike"),
            other_stub(&report.places),
        );
        let [nmis, machine_checks, double_faults, traps] = report.injected;
        outcome.details.push(format!(
            "{short}: {:.0} s; {} of {} instructions, {nmis} NMIs ({} held back), {machine_checks} #MC, {double_faults} #DF, {traps} #DB",
            began.elapsed().as_secs_f64(), report.stopped, report.wanted, report.held_back
        ));
        problems.extend(report.problems.iter().take(SHOWN).cloned());
        let taken = played
            .transcript()
            .lines()
            .iter()
            .find_map(|l| nmis_taken(l));
        // Those that were held back come later, but several as one.
        let possible = nmis - report.held_back..=nmis;
        if report.problems.is_empty() && !taken.is_some_and(|taken| possible.contains(&taken)) {
            problems.push(format!(
                "of {nmis} NMIs, {} of them held back, the kernel counts {taken:?}",
                report.held_back
            ));
        }
    }
    if !problems.is_empty() {
        problems.push(played.tail());
    }
    outcome.check(
        &format!("{short}: everything is as it was"),
        (!problems.is_empty()).then(|| problems.join("\n")),
    );
    Ok(())
}

/// The kernel's count, as the test inside tells it.
fn nmis_taken(line: &str) -> Option<usize> {
    let (_, rest) = line.split_once("injection: CPU 0 took ")?;
    rest.split(' ').next()?.parse().ok()
}

fn sweep(
    machine: &mut Machine,
    text: &EntryText,
    wanted: impl Fn(&Place) -> bool,
) -> Result<Report> {
    let processor_time = machine.processor_time();
    let qmp = machine.qmp().context("QEMU opened no control channel")?;
    let mut gdb = Gdb::attach(qmp)?;
    let report = Sweep::new(&mut gdb, qmp, &processor_time, text, wanted)?.run(SWEEP)?;
    // A machine that has ended takes no leave.
    let _ = gdb.detach();
    Ok(report)
}

/// How many lines of each kind are shown.
const SHOWN: usize = 100;
