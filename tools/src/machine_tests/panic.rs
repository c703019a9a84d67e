//! A kernel that panics must say so, with a backtrace a person can read, and end the machine with a failing status.

use std::time::Duration;

use anyhow::Result;

use super::Job;
use super::lab::Lab;
use crate::config;
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::image::CONFIG;
use crate::play::{Over, Played};
use crate::report::Outcome;

const LIMIT: Duration = Duration::from_mins(2);

/// On one CPU, and on several that have to be stopped.
pub fn jobs() -> Vec<Job> {
    [1, 4]
        .into_iter()
        .map(|cpus| {
            let name = format!("panic/{cpus}");
            Job::new(
                name.clone(),
                |lab| lab.product().map(drop),
                move |lab| boot(lab, &name, cpus),
            )
        })
        .collect()
}

fn boot(lab: &Lab, name: &str, cpus: u32) -> Result<Outcome> {
    let mut files = lab.product()?.clone();
    let text = String::from_utf8_lossy(&files[CONFIG]).into_owned();
    files.insert(
        CONFIG.into(),
        config::with_cmdline(&text, "panic=test")?.into_bytes(),
    );
    let image = lab.image(name, &files)?;
    let played = lab.play(
        name,
        &lab.machine(image, cpus, "max"),
        Feeder::default(),
        LIMIT,
        |_| false,
    )?;
    let mut outcome = Outcome::default();
    for (what, problem) in judge(&played) {
        outcome.check(what, problem);
    }
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}

fn judge(played: &Played) -> [(&'static str, Option<String>); 3] {
    let ended = (played.over != Over::Ended(Ending::Panicked))
        .then(|| format!("{}, not by a panic", played.over));
    let said =
        (!played.transcript().says("KERNEL PANIC")).then(|| "no line says KERNEL PANIC".into());
    let traced = (!has_symbols(played.transcript().lines()))
        .then(|| "no line of the backtrace names a function".into());
    [
        ("ends with a failing status", ended),
        ("says KERNEL PANIC", said),
        ("names functions", traced),
    ]
}

/// Whether, after the panic's line, some line has both an address of the kernel's half and a function of the kernel's.
fn has_symbols(lines: &[String]) -> bool {
    lines
        .iter()
        .skip_while(|l| !l.contains("KERNEL PANIC"))
        .any(|l| l.contains("ffffffff") && l.contains("kernel::"))
}

#[cfg(test)]
mod tests {
    use super::has_symbols;

    #[test]
    fn addresses_alone_are_no_backtrace() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(!has_symbols(&lines(
            "KERNEL PANIC\n 0: 0xffffffff80001234\n"
        )));
        assert!(!has_symbols(&lines(
            "0xffffffff80001234 kernel::main\nKERNEL PANIC\n"
        )));
        assert!(has_symbols(&lines(
            "KERNEL PANIC\n 0: 0xffffffff80001234 kernel::main+0x10\n"
        )));
    }
}
