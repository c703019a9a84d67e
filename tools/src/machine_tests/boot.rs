//! Bad images: each must end in one clear message, from the loader or from the kernel, never in silence.

use std::time::Duration;

use anyhow::Result;

use super::Job;
use super::lab::Lab;
use crate::feeder::{Feeder, PROMPT};
use crate::image::{CONFIG, FIRST_PROGRAM, INITRD, KERNEL, LOADER};
use crate::initrd::Files;
use crate::play::Over;
use crate::report::Outcome;

const LIMIT: Duration = Duration::from_mins(1);

/// One bad image, or one machine that is too small for a good one.
struct Case {
    name: &'static str,
    mem: &'static str,
    spoil: fn(&mut Files),
    /// What the message must hold, all in one line: the thing and its fault.
    message: &'static [&'static str],
}

const CASES: [Case; 3] = [
    Case {
        name: "no-kernel",
        mem: "512M",
        spoil: |files| drop(files.remove(KERNEL)),
        message: &[KERNEL, "not found"],
    },
    Case {
        name: "no-config",
        mem: "512M",
        spoil: |files| drop(files.remove(CONFIG)),
        message: &[CONFIG, "not found"],
    },
    Case {
        name: "truncated-kernel",
        mem: "512M",
        spoil: |files| cut(files, KERNEL),
        message: &[KERNEL],
    },
];

fn cut(files: &mut Files, name: &str) {
    if let Some(bytes) = files.get_mut(name) {
        bytes.truncate(bytes.len() / 2);
    }
}

/// A job for each case.
pub fn jobs() -> Vec<Job> {
    CASES
        .iter()
        .map(|case| {
            let name = format!("boot/{}", case.name);
            Job::new(
                name.clone(),
                |lab| lab.product().map(drop),
                move |lab| boot(lab, &name, case),
            )
        })
        .collect()
}

fn boot(lab: &Lab, name: &str, case: &Case) -> Result<Outcome> {
    let mut files = lab.product()?.clone();
    (case.spoil)(&mut files);
    debug_assert!(files.contains_key(LOADER) && (FIRST_PROGRAM != INITRD));
    let mut spec = lab.machine(lab.image(name, &files)?, 2, "max");
    spec.mem = case.mem.into();
    let is_message = |line: &String| case.message.iter().all(|part| line.contains(part));
    let played = lab.play(name, &spec, Feeder::default(), LIMIT, |said| {
        said.lines().iter().any(is_message) || said.current() == PROMPT
    })?;
    let said = played
        .transcript()
        .lines()
        .iter()
        .filter(|l| is_message(l))
        .count();
    Ok(match (played.over, said) {
        (_, 1) => Outcome::passed(),
        (Over::Said, 0) => Outcome::failed("the system started from a bad image"),
        (_, n) => Outcome::failed(format!(
            "{n} lines say {:?}; {}",
            case.message,
            played.tail()
        )),
    })
}
