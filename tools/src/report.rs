//! Counts of tests, and the line they end with.

use std::fmt;
use std::ops::AddAssign;

/// How many tests went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that held.
    pub passed: usize,
    /// Tests that did not.
    pub failed: usize,
    /// Tests that could not run here.
    pub skipped: usize,
}

impl Counts {
    /// One test that passed.
    pub const PASSED: Self = Self::new(1, 0, 0);
    /// One test that failed.
    pub const FAILED: Self = Self::new(0, 1, 0);
    /// One test that could not run.
    pub const SKIPPED: Self = Self::new(0, 0, 1);

    /// The three counts.
    pub const fn new(passed: usize, failed: usize, skipped: usize) -> Self {
        Self {
            passed,
            failed,
            skipped,
        }
    }

    /// All of them.
    pub fn total(self) -> usize {
        self.passed + self.failed + self.skipped
    }

    /// Reads `N passed, N failed, N skipped`; none if `text` is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(", ").map(|part| part.split_once(' '));
        let mut next = |word: &str| match parts.next()?? {
            (number, w) if w == word => number.parse().ok(),
            _ => None,
        };
        let counts = Self::new(next("passed")?, next("failed")?, next("skipped")?);
        parts.next().is_none().then_some(counts)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// What came of one test, or of one boot with many.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many went which way.
    pub counts: Counts,
    /// What a person has to read: failures with their circumstances, and why something was skipped.
    pub details: Vec<String>,
    /// Names of those that held, as far as they have any of their own.
    pub held: Vec<String>,
    /// And of those that were skipped.
    pub left_out: Vec<String>,
}

impl Outcome {
    /// One test that passed.
    pub fn passed() -> Self {
        Self {
            counts: Counts::PASSED,
            ..Self::default()
        }
    }

    /// One failure and what is known of it.
    pub fn failed(detail: impl Into<String>) -> Self {
        Self {
            counts: Counts::FAILED,
            details: vec![detail.into()],
            ..Self::default()
        }
    }

    /// One test that can't run here, and why.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self {
            counts: Counts::SKIPPED,
            details: vec![format!("SKIPPED: {}", why.into())],
            ..Self::default()
        }
    }

    /// Adds a failure.
    pub fn fail(&mut self, detail: impl Into<String>) {
        self.counts += Counts::FAILED;
        self.details.push(detail.into());
    }

    /// Adds a test that passed if `problem` is none, and a failure otherwise.
    pub fn check(&mut self, name: &str, problem: Option<String>) {
        match problem {
            None => self.counts += Counts::PASSED,
            Some(problem) => self.fail(format!("{name}: {problem}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn counts_are_read_as_they_are_written() {
        let counts = Counts::new(12, 0, 3);
        assert_eq!(Counts::parse(&counts.to_string()), Some(counts));
    }

    #[test]
    fn other_text_is_no_count() {
        for text in [
            "",
            "1 passed",
            "1 passed, 2 failed",
            "x passed, 0 failed, 0 skipped",
            "1 failed, 1 passed, 0 skipped",
            "1 passed, 0 failed, 0 skipped, 1 more",
            "-1 passed, 0 failed, 0 skipped",
        ] {
            assert_eq!(Counts::parse(text), None, "{text}");
        }
    }
}
