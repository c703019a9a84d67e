//! What test programs say on the serial line, and what it means.
//!
//! | line | meaning |
//! |---|---|
//! | `test NAME ... ok` | the test held |
//! | `test NAME ... FAILED: why` | it did not |
//! | `test NAME ... skipped: why` | it can't run on this machine |
//! | `suite done: N passed, N failed, N skipped` | that was all; the machine powers off |
//!
//! The kernel's log puts the time before each. Silence is no success: a boot without the closing line, with one that does not match the tests seen, or with no test
//! at all has failed.

use crate::report::{Counts, Outcome};
use crate::transcript::untimed;

/// One line of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A test ended.
    Test {
        /// Its name.
        name: String,
        /// How.
        verdict: Verdict,
    },
    /// All tests ended.
    Done(Counts),
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It held.
    Ok,
    /// It did not, and why.
    Failed(String),
    /// It can't run on this machine, and why.
    Skipped(String),
}

/// Reads one line; none if it is not of the protocol.
pub fn parse(line: &str) -> Option<Line> {
    let line = untimed(line);
    if let Some(counts) = line.strip_prefix("suite done: ") {
        return Counts::parse(counts).map(Line::Done);
    }
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    if name.is_empty() || name.contains(' ') {
        return None;
    }
    let reason = |rest: &str| rest.strip_prefix(':').unwrap_or(rest).trim().to_owned();
    let verdict = if verdict.trim() == "ok" {
        Verdict::Ok
    } else if let Some(rest) = verdict.strip_prefix("FAILED") {
        Verdict::Failed(reason(rest))
    } else if let Some(rest) = verdict.strip_prefix("skipped") {
        Verdict::Skipped(reason(rest))
    } else {
        return None;
    };
    Some(Line::Test {
        name: name.to_owned(),
        verdict,
    })
}

/// Judges all lines of one boot.
pub fn judge(lines: &[String]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut done = None;
    for line in lines.iter().filter_map(|l| parse(l)) {
        match line {
            Line::Test { name, verdict } => match verdict {
                Verdict::Ok => {
                    outcome.counts += Counts::PASSED;
                    outcome.held.push(name);
                }
                Verdict::Failed(why) => outcome.fail(format!("{name}: {why}")),
                Verdict::Skipped(why) => {
                    outcome.counts += Counts::SKIPPED;
                    outcome.details.push(format!("SKIPPED: {name}: {why}"));
                    outcome.left_out.push(name);
                }
            },
            Line::Done(counts) => {
                if done.replace(counts).is_some() {
                    outcome.fail("the suite ended twice");
                }
            }
        }
    }
    let seen = outcome.counts;
    match done {
        None => outcome.fail("the machine ended without 'suite done'"),
        Some(counts) if counts != seen => {
            outcome.fail(format!("the suite says {counts}, but its lines say {seen}"));
        }
        Some(_) if seen.total() == 0 => outcome.fail("the suite ran no test"),
        Some(_) => {}
    }
    outcome
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(text: &str) -> Outcome {
        judge(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn good_boot_is_counted() {
        let outcome = judged(
            "boot noise\ntest a::b ... ok\ntest c ... skipped: one CPU\nsuite done: 1 passed, 0 failed, 1 skipped\n",
        );
        assert_eq!(outcome.counts, Counts::new(1, 0, 1));
        assert_eq!(outcome.details, ["SKIPPED: c: one CPU"]);
    }

    #[test]
    fn lines_of_the_log_are_read() {
        let outcome = judged(
            "[    0.877839] test a ... ok\n[   12.000001] suite done: 1 passed, 0 failed, 0 skipped\n",
        );
        assert_eq!(outcome.counts, Counts::PASSED);
    }

    #[test]
    fn failure_keeps_its_reason() {
        let outcome =
            judged("test a ... FAILED: 2 != 3\nsuite done: 0 passed, 1 failed, 0 skipped\n");
        assert_eq!(outcome.counts, Counts::FAILED);
        assert_eq!(outcome.details, ["a: 2 != 3"]);
    }

    #[test]
    fn boot_that_ends_early_has_failed() {
        assert_eq!(judged("test a ... ok\n").counts, Counts::new(1, 1, 0));
        assert_eq!(judged("").counts.failed, 1);
    }

    #[test]
    fn suite_of_no_test_has_failed() {
        assert_eq!(
            judged("suite done: 0 passed, 0 failed, 0 skipped\n")
                .counts
                .failed,
            1
        );
    }

    #[test]
    fn lost_test_line_is_noticed() {
        assert_eq!(
            judged("test a ... ok\nsuite done: 2 passed, 0 failed, 0 skipped\n")
                .counts
                .failed,
            1
        );
    }

    #[test]
    fn other_lines_are_not_of_the_protocol() {
        for line in [
            "test",
            "test a b ... ok",
            "test a ... fine",
            " test a ... ok",
            "suite done: all",
            "test  ... ok",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_can_break_the_parser(line in ".*") {
            let _ = parse(&line);
        }
    }
}
