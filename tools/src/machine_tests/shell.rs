//! Drives the product's shell the way a pipe to `just qemu-smp` does, and checks its answers.
//!
//! The log may come between any two lines; its lines begin with a time and are no part of an answer.

use std::time::Duration;

use anyhow::Result;

use super::Job;
use super::lab::Lab;
use crate::bios;
use crate::ending::Ending;
use crate::feeder::{Feeder, PROMPT};
use crate::play::Over;
use crate::report::Outcome;
use crate::run::Way;
use crate::transcript::untimed;

const LIMIT: Duration = Duration::from_mins(3);

/// What is wrong with an answer, if anything; the number is that of the machine's CPUs.
type Check = fn(&[String], u32) -> Option<String>;

/// Each command, and what its answer must be.
const SCRIPT: [(&str, Check); 19] = [
    ("help", |a, _| {
        all_of(
            a,
            &[
                "help", "cpus", "ps", "mem", "ping", "ls", "cat", "uptime", "run", "poweroff",
                "reboot",
            ],
        )
    }),
    ("cpus", three_tables_of_cpus),
    ("ps", |a, _| {
        all_of(a, &["init", "console", "names", "shell"])
    }),
    ("top 50", |a, _| all_of(a, &["BUSY", "OF A CPU"])),
    ("top -p 50", |a, _| {
        all_of(
            a,
            &["MEMORY", "OF A CPU", "init", "console", "shell", "KiB"],
        )
    }),
    ("trace 20", |a, _| {
        all_of(a, &["switch ", "interrupt", "lost"])
    }),
    ("mem", sizes_of_memory),
    ("ping 20", |a, cpus| {
        one_line_a_cpu(a, cpus).or_else(|| second_column(a, cpus, "20"))
    }),
    ("ls", |a, _| all_of(a, &["motd", "services.toml"])),
    ("cat motd", |a, _| all_of(a, &["Switchyard"])),
    ("cat no-such-file", |a, _| all_of(a, &["no-such-file"])),
    ("uptime", time_since_boot),
    ("run hello machine", |a, _| {
        all_of(a, &["hello", "exited with code 0"])
    }),
    ("run hello32 machine", |a, _| {
        all_of(a, &["hello32", "exited with code 0"])
    }),
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

/// What the program in [`SCRIPT`] says, on the console or in the log.
const HELLO: &str = "hello, machine";
/// What the 32-bit program says in the log.
const HELLO32: &str = "hello, machine from 32-bit code, by";

/// On one CPU and on several; and a restart.
pub fn jobs() -> Vec<Job> {
    let mut jobs: Vec<Job> = [
        ("shell/1", 1, Way::Direct),
        ("shell/4", 4, Way::Uefi),
        ("shell/8", 8, Way::Direct),
        ("shell/bios", 2, Way::Bios),
    ]
    .into_iter()
    .map(|(name, cpus, way)| {
        Job::new(
            name.into(),
            |lab| lab.product().and(lab.multiboot()).map(drop),
            move |lab| drive(lab, name, cpus, way),
        )
    })
    .collect();
    jobs.push(Job::new(
        "shell/reboot".into(),
        |lab| lab.product().and(lab.multiboot()).map(drop),
        reboot,
    ));
    jobs
}

fn drive(lab: &Lab, name: &str, cpus: u32, way: Way) -> Result<Outcome> {
    if way == Way::Bios && !bios::is_possible() {
        return Ok(Outcome::skipped(bios::MISSING));
    }
    let start = lab.start(way, "product", lab.product()?)?;
    let commands = SCRIPT.map(|(command, _)| command);
    let spec = lab.machine(start, cpus, "max");
    let played = lab.play(name, &spec, Feeder::with_lines(&commands), LIMIT, |_| false)?;
    let mut outcome = Outcome::default();
    let mut answers = answers(played.transcript().lines()).into_iter().peekable();
    for (command, check) in SCRIPT {
        // Where the log came between a command and its echo, the shell has shown a part of it, or none, before the whole.
        while answers
            .next_if(|(asked, _)| *asked != command && command.starts_with(asked))
            .is_some()
        {}
        let problem = match answers.next() {
            None => Some("it was never asked for".into()),
            Some((asked, _)) if asked != command => {
                Some(format!("its line shows '{asked}' instead"))
            }
            Some((_, answer)) => {
                check(&answer, cpus).map(|p| format!("{p}; the answer: {answer:?}"))
            }
        };
        outcome.check(&format!("'{command}'"), problem);
    }
    for greeting in [HELLO, HELLO32] {
        let greeted = played.transcript().says(greeting);
        outcome.check(
            "the program that was run",
            (!greeted).then(|| format!("it did not say '{greeting}'")),
        );
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

fn reboot(lab: &Lab) -> Result<Outcome> {
    let start = lab.direct("product", lab.product()?)?;
    let spec = lab.machine(start, 4, "max");
    let feeder = Feeder::with_lines(&["reboot"]);
    let played = lab.play("shell/reboot", &spec, feeder, LIMIT, |_| false)?;
    let mut outcome = Outcome::default();
    // QEMU does not tell a reset that was asked for from one by a crash, so at least the shell must have meant it.
    let problem = if played.over != Over::Ended(Ending::Reset) {
        Some(played.over.to_string())
    } else if !played.transcript().says("restarting") {
        Some("the shell did not say so".into())
    } else {
        None
    };
    outcome.check("reboot resets the machine", problem);
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}

/// The commands as the shell echoed them, each with the lines up to the next prompt, those of the log left out.
fn answers(lines: &[String]) -> Vec<(&str, Vec<String>)> {
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
            let said = lines[start + 1..end].iter();
            let answer = said.filter(|line| untimed(line) == *line).cloned();
            (command, answer.collect())
        })
        .collect()
}

fn all_of(answer: &[String], parts: &[&str]) -> Option<String> {
    parts
        .iter()
        .find(|part| !answer.iter().any(|line| line.contains(**part)))
        .map(|part| format!("'{part}' is not in it"))
}

/// A table whose rows `total` and `free` show sizes, and no more free than there is.
fn sizes_of_memory(answer: &[String], _: u32) -> Option<String> {
    let mebibytes = |what: &str| -> Option<f64> {
        let row = answer
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words.first() == Some(&what))?;
        let scale = match *row.get(2)? {
            "GiB" => 1024.0,
            "MiB" => 1.0,
            _ => return None,
        };
        Some(row.get(1)?.parse::<f64>().ok()? * scale)
    };
    match (mebibytes("total"), mebibytes("free")) {
        // The machine has 512 MiB, of which the firmware keeps some.
        (Some(total), Some(free)) if total > 256.0 && total <= 512.0 && free < total => None,
        found => Some(format!("total and free are {found:?} MiB")),
    }
}

/// A line `up TIME, ...` that also counts the CPUs.
fn time_since_boot(answer: &[String], cpus: u32) -> Option<String> {
    let counted = format!(" {cpus} CPU{}", if cpus == 1 { "" } else { "s" });
    let is_it = |line: &String| {
        line.strip_prefix("up ")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            && line.ends_with(&counted)
    };
    (!answer.iter().any(is_it)).then(|| format!("no line begins 'up' and ends '{counted}'"))
}

/// In each CPU's line the second column holds `value`.
fn second_column(answer: &[String], cpus: u32, value: &str) -> Option<String> {
    let found = answer
        .iter()
        .map(|line| line.split_whitespace())
        .filter_map(|mut words| words.next()?.parse::<u32>().ok().and(words.next()))
        .filter(|second| *second == value)
        .count();
    (found != cpus as usize).then(|| format!("{found} lines with {value}"))
}

/// For each index from 0 on a line that begins with it, and no more such lines.
/// Their columns must be no wider than a terminal is.
fn three_tables_of_cpus(answer: &[String], cpus: u32) -> Option<String> {
    const TERMINAL: usize = 80;
    let wide = answer.iter().find(|line| line.len() > TERMINAL);
    let tables: Vec<&[String]> = answer
        .chunk_by(|_, next| !next.starts_with("CPU "))
        .collect();
    match (wide, tables.len()) {
        (Some(line), _) => Some(format!("this is too wide for a terminal: {line}")),
        (None, 3) => tables.iter().find_map(|table| one_line_a_cpu(table, cpus)),
        (None, found) => Some(format!("it has {found} tables")),
    }
}

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
    fn log_is_no_answer() {
        let lines = lines("switchyard> cpus\n0 busy\n[    1.500000] names: 5\n1 idle");
        assert_eq!(answers(&lines)[0].1, ["0 busy", "1 idle"]);
    }

    #[test]
    fn three_narrow_tables_of_all_cpus_are_wanted() {
        let good = "CPU  A\n0  1\n1  1\n\nCPU  B\n0  1\n1  1\nCPU  C\n0  1\n1  1";
        assert_eq!(three_tables_of_cpus(&lines(good), 2), None);
        assert!(three_tables_of_cpus(&lines(good), 3).is_some());
        assert!(three_tables_of_cpus(&lines(&good[..10]), 2).is_some());
        let wide = good.replace('A', &"A".repeat(80));
        assert!(three_tables_of_cpus(&lines(&wide), 2).is_some());
    }

    #[test]
    fn error_with_a_number_is_no_size_and_no_time() {
        let error = lines("mem: the kernel refuses: error 5\nup 3 things failed");
        assert!(sizes_of_memory(&error, 4).is_some());
        assert!(time_since_boot(&error, 4).is_some());
        let memory = lines("MEMORY SIZE SHARE\ntotal 503.3 MiB 100.0 %\nfree 497.0 MiB 98.7 %");
        assert_eq!(sizes_of_memory(&memory, 4), None);
        let up = lines("up 1.364 s, since 2026-11-21 22:10:15 UTC, 4 CPUs\nkernel start took 1 ms");
        assert_eq!(time_since_boot(&up, 4), None);
        assert!(time_since_boot(&up, 8).is_some());
    }

    #[test]
    fn cpu_without_round_trips_is_noticed() {
        let good = lines("CPU ROUND TRIPS\n0 20 6 ms\n1 20 5 ms");
        assert_eq!(second_column(&good, 2, "20"), None);
        let bad = lines("CPU ROUND TRIPS\n0 20 6 ms\nping: CPU 1: 20");
        assert!(second_column(&bad, 2, "20").is_some());
    }

    #[test]
    fn missing_or_surplus_cpu_is_noticed() {
        let answer = lines("index apic busy\n0 0 1%\n1 1 2%");
        assert_eq!(one_line_a_cpu(&answer, 2), None);
        assert!(one_line_a_cpu(&answer, 1).is_some());
        assert!(one_line_a_cpu(&answer, 3).is_some());
    }
}
