//! Runs the tests that need no machine: those of every library, and the integration tests of every package.
//!
//! Programs for bare metal can't be built for the host, so only library targets and `tests/` folders are named to cargo.
//! `cargo nextest` is used where it is installed, else `cargo test`; either one's closing figures are read off its
//! output, which the user sees as it comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use cargo_metadata::TargetKind;

use crate::cargo;
use crate::report::{Counts, Outcome};
use crate::workspace::{Workspace, is_bin};

/// Runs them all.
///
/// # Errors
/// If cargo can't be run. A failed build or test is in the outcome.
pub fn run(ws: &Workspace) -> Result<Outcome> {
    let nextest = has_nextest(ws);
    let mut command = cargo::command(ws);
    if nextest {
        command.args(["nextest", "run", "--no-fail-fast"]);
    } else {
        eprintln!("host tests: cargo-nextest is not installed; using cargo test");
        command.args(["test", "--no-fail-fast"]);
    }
    command.args(selection(ws));
    let (lines, success) = tee(command)?;
    let mut counts = count(&lines);
    let mut details = Vec::new();
    if !success && counts.failed == 0 {
        counts += Counts::FAILED;
        details.push("host tests: cargo failed before all tests had run (see above)".into());
    }
    if success && counts.total() == 0 {
        counts += Counts::FAILED;
        details.push("host tests: no test was run".into());
    }
    Ok(Outcome {
        counts,
        details,
        ..Outcome::default()
    })
}

/// Cargo's arguments that name every host test.
pub fn selection(ws: &Workspace) -> Vec<String> {
    let mut packages = Vec::new();
    let mut arguments = Vec::new();
    for package in &ws.metadata.packages {
        let library = package
            .targets
            .iter()
            .any(|t| t.test && !is_bin(t) && t.kind.contains(&TargetKind::Lib));
        let tests: Vec<_> = package
            .targets
            .iter()
            .filter(|t| t.test && t.kind.contains(&TargetKind::Test))
            .collect();
        if !library && tests.is_empty() {
            continue;
        }
        packages.extend(["--package".to_owned(), package.name.to_string()]);
        for test in tests {
            arguments.extend(["--test".to_owned(), test.name.clone()]);
        }
    }
    packages.push("--lib".into());
    packages.extend(arguments);
    packages
}

fn has_nextest(ws: &Workspace) -> bool {
    cargo::command(ws)
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Runs a command, showing its output and keeping it.
fn tee(mut command: Command) -> Result<(Vec<String>, bool)> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("can't run cargo")?;
    let (sender, receiver) = mpsc::channel();
    let pipes: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|p| Box::new(p) as _),
        child.stderr.take().map(|p| Box::new(p) as _),
    ];
    for pipe in pipes.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
    }
    drop(sender);
    let mut lines = Vec::new();
    for line in receiver {
        // Output is for the reader's eyes only; a closed pipe must not stop the tests.
        let _ = writeln!(std::io::stderr(), "{line}");
        lines.push(line);
    }
    Ok((lines, child.wait().context("cargo")?.success()))
}

/// Sums the closing figures of nextest (one line) or of cargo test (one for each program).
fn count(lines: &[String]) -> Counts {
    let mut counts = Counts::default();
    for line in lines {
        let line = line.trim();
        let figures = if let Some(rest) = line.strip_prefix("test result:") {
            rest.split_once(". ").map(|(_, figures)| figures)
        } else if line.starts_with("Summary [") {
            line.split_once(" run: ").map(|(_, figures)| figures)
        } else {
            None
        };
        for figure in figures.unwrap_or_default().split([',', ';']) {
            let Some((number, word)) = figure.trim().split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<usize>() else {
                continue;
            };
            if word.starts_with("passed") {
                counts.passed += number;
            } else if word.contains("failed") || word.contains("timed out") {
                counts.failed += number;
            } else if word.starts_with("skipped") || word.starts_with("ignored") {
                counts.skipped += number;
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn closing_line_of_nextest_is_read() {
        let text = "     Summary [   0.004s] 9 tests run: 6 passed (1 slow), 1 failed, 1 timed out, 1 exec failed, 2 skipped";
        assert_eq!(count(&lines(text)), Counts::new(6, 3, 2));
    }

    #[test]
    fn closing_lines_of_cargo_test_are_summed() {
        let text = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                    test a ... FAILED\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(count(&lines(text)), Counts::new(4, 2, 1));
    }
}
