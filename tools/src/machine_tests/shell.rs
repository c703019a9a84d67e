//! Drives the product's shell the way a pipe to `just qemu-smp` does, and checks its answers.

use std::time::Duration;

use anyhow::Result;

use super::Job;
use super::lab::Lab;
use crate::ending::Ending;
use crate::feeder::{Feeder, PROMPT};
use crate::play::Over;
use crate::report::Outcome;

const LIMIT: Duration = Duration::from_mins(3);

/// What is wrong with an answer, if anything; the number is that of the machine's CPUs.
type Check = fn(&[String], u32) -> Option<String>;

/// Each command, and what its answer must be.
const SCRIPT: [(&str, Check); 14] = [
    ("help", |a, _| {
        all_of(
            a,
            &[
                "help", "cpus", "ps", "mem", "ping", "ls", "cat", "uptime", "run", "poweroff",
                "reboot",
            ],
        )
    }),
    ("cpus", one_line_a_cpu),
    ("ps", |a, _| {
        all_of(a, &["init", "console", "names", "shell"])
    }),
    ("mem", |a, _| has_number(a)),
    ("ping 20", |a, cpus| {
        all_of(a, &["20"]).or_else(|| fewer_than(a, cpus as usize))
    }),
    ("ls", |a, _| all_of(a, &["motd", "services.toml"])),
    ("cat motd", |a, _| all_of(a, &["Switchyard"])),
    ("cat no-such-file", |a, _| all_of(a, &["no-such-file"])),
    ("uptime", |a, _| has_number(a)),
    ("run no-such-program", |a, _| {
        all_of(a, &["no-such-program"])
    }),
    ("frobnicate", |a, _| all_of(a, &["frobnicate", "help"])),
    ("ping many", |a, _| all_of(a, &["many"])),
    ("", |a, _| {
        (!a.is_empty()).then(|| "an empty line was answered".into())
    }),
    ("poweroff", |_, _| None),
];

/// On one CPU and on several.
pub fn jobs() -> Vec<Job> {
    [1, 4, 8]
        .into_iter()
        .map(|cpus| {
            let name = format!("shell/{cpus}");
            Job::new(
                name.clone(),
                |lab| lab.product().map(drop),
                move |lab| drive(lab, &name, cpus),
            )
        })
        .collect()
}

fn drive(lab: &Lab, name: &str, cpus: u32) -> Result<Outcome> {
    let image = lab.image("product", lab.product()?)?;
    let commands = SCRIPT.map(|(command, _)| command);
    let spec = lab.machine(image, cpus, "max");
    let played = lab.play(name, &spec, Feeder::with_lines(&commands), LIMIT, |_| false)?;
    let mut outcome = Outcome::default();
    let mut answers = answers(played.transcript().lines()).into_iter();
    for (command, check) in SCRIPT {
        let problem = match answers.next() {
            None => Some("it was never asked for".into()),
            Some((asked, _)) if asked != command => {
                Some(format!("its line shows '{asked}' instead"))
            }
            Some((_, answer)) => {
                check(answer, cpus).map(|p| format!("{p}; the answer: {answer:?}"))
            }
        };
        outcome.check(&format!("'{command}'"), problem);
    }
    let off = played.over == Over::Ended(Ending::PoweredOff);
    outcome.check(
        "poweroff ends the machine",
        (!off).then(|| played.over.to_string()),
    );
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}

/// The commands as the shell echoed them, each with the lines up to the next prompt.
fn answers(lines: &[String]) -> Vec<(&str, &[String])> {
    let asked = |line: &String| -> Option<usize> {
        // An empty command leaves the prompt alone, without its trailing space.
        (line.starts_with(PROMPT) || line == PROMPT.trim_end())
            .then_some(PROMPT.len().min(line.len()))
    };
    let starts: Vec<usize> = (0..lines.len())
        .filter(|&n| asked(&lines[n]).is_some())
        .collect();
    starts
        .iter()
        .enumerate()
        .map(|(n, &start)| {
            let end = starts.get(n + 1).copied().unwrap_or(lines.len());
            let command = lines[start][asked(&lines[start]).unwrap_or_default()..].trim();
            (command, &lines[start + 1..end])
        })
        .collect()
}

fn all_of(answer: &[String], parts: &[&str]) -> Option<String> {
    parts
        .iter()
        .find(|part| !answer.iter().any(|line| line.contains(**part)))
        .map(|part| format!("'{part}' is not in it"))
}

fn has_number(answer: &[String]) -> Option<String> {
    let found = answer.iter().any(|l| l.bytes().any(|b| b.is_ascii_digit()));
    (!found).then(|| "there is no number in it".into())
}

fn fewer_than(answer: &[String], lines: usize) -> Option<String> {
    let said = answer.iter().filter(|l| !l.trim().is_empty()).count();
    (said < lines).then(|| format!("{said} lines, fewer than {lines}"))
}

/// For each index from 0 on a line that begins with it, and no more such lines.
fn one_line_a_cpu(answer: &[String], cpus: u32) -> Option<String> {
    let indices: Vec<u32> = answer
        .iter()
        .filter_map(|l| l.split_whitespace().next()?.parse().ok())
        .collect();
    (indices != (0..cpus).collect::<Vec<_>>()).then(|| format!("it lists the CPUs {indices:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn answers_are_cut_at_prompts() {
        let lines =
            lines("boot\nswitchyard> cpus\n0 busy\n1 idle\nswitchyard>\nswitchyard> poweroff\nbye");
        let found = answers(&lines);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].0, found[0].1.len()), ("cpus", 2));
        assert_eq!((found[1].0, found[1].1.len()), ("", 0));
        assert_eq!(found[2].0, "poweroff");
    }

    #[test]
    fn missing_or_surplus_cpu_is_noticed() {
        let answer = lines("index apic busy\n0 0 1%\n1 1 2%");
        assert_eq!(one_line_a_cpu(&answer, 2), None);
        assert!(one_line_a_cpu(&answer, 1).is_some());
        assert!(one_line_a_cpu(&answer, 3).is_some());
    }
}
