//! What a machine has said on its serial line so far, as lines of plain text.
//!
//! A carriage return takes the writing back to the line's start, as on a terminal, so a shell that redraws its line does
//! not look like several lines. Bytes that are not UTF-8 become the replacement character: a garbled line is something
//! to show, not to fail on.

use crate::ansi::Stripper;

/// Lines said, and the line being said.
#[derive(Debug, Default)]
pub struct Transcript {
    stripper: Stripper,
    lines: Vec<String>,
    current: Vec<u8>,
    returned: bool,
}

impl Transcript {
    /// Takes in what the machine said next.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in self.stripper.push(bytes) {
            match byte {
                b'\n' => {
                    self.lines.push(text(&self.current).trim_end().to_owned());
                    self.current.clear();
                    self.returned = false;
                }
                b'\r' => self.returned = true,
                0x08 => {
                    self.current.pop();
                }
                0x20.. | b'\t' => {
                    if std::mem::take(&mut self.returned) {
                        self.current.clear();
                    }
                    self.current.push(byte);
                }
                _ => {}
            }
        }
    }

    /// The finished lines.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The line that has no end yet.
    pub fn current(&self) -> String {
        text(&self.current)
    }

    /// The last `n` lines with something on them, the unfinished one included.
    pub fn tail(&self, n: usize) -> Vec<String> {
        let mut all: Vec<String> = self
            .lines
            .iter()
            .filter(|l| !l.trim().is_empty())
            .cloned()
            .collect();
        if !self.current.is_empty() {
            all.push(self.current());
        }
        all.split_off(all.len().saturating_sub(n))
    }

    /// Whether some line, finished or not, holds `part`.
    pub fn says(&self, part: &str) -> bool {
        self.current().contains(part) || self.lines.iter().any(|l| l.contains(part))
    }
}

/// A line without the time that the kernel's log puts before it (`[  12.345678] `).
pub fn untimed(line: &str) -> &str {
    let inside = |stamp: &str| {
        let stamp = stamp.trim_start();
        !stamp.is_empty() && stamp.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    match line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((stamp, rest)) if inside(stamp) => rest,
        _ => line,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Transcript, untimed};

    #[test]
    fn time_of_the_log_is_taken_off_and_nothing_else() {
        assert_eq!(untimed("[    0.877839] test a ... ok"), "test a ... ok");
        assert_eq!(untimed("[12345.000001] [x] y"), "[x] y");
        for line in [
            "",
            "[",
            "[] a",
            "[ ] a",
            "[a] b",
            "[1.2]c",
            "test [1.2] a",
            "[1.2 3] a",
        ] {
            assert_eq!(untimed(line), line);
        }
    }

    #[test]
    fn lines_end_at_line_feeds_with_or_without_carriage_return() {
        let mut t = Transcript::default();
        t.push(b"one\r\ntwo\nthr");
        assert_eq!(t.lines(), ["one", "two"]);
        assert_eq!(t.current(), "thr");
    }

    #[test]
    fn redrawn_line_is_one_line() {
        let mut t = Transcript::default();
        t.push(b"$ a\r\x1b[K$ ab\r\x1b[K$ abc\x08d\r\n");
        assert_eq!(t.lines(), ["$ abd"]);
    }

    #[test]
    fn tail_skips_empty_lines() {
        let mut t = Transcript::default();
        t.push(b"a\n\n\nb\nc");
        assert_eq!(t.tail(2), ["b", "c"]);
        assert_eq!(t.tail(9), ["a", "b", "c"]);
    }
}
