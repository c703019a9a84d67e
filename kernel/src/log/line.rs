//! Text cut into lines, without an allocator and without holding a lock while it is being formatted.
//!
//! Formatting runs code of whoever logs, which may log or panic itself; so it is done into a buffer on the
//! stack, and only a finished line goes to the log.

use core::fmt;

/// Most bytes of a line; a longer one goes on in the next.
pub const LINE_BYTES: usize = 320;

/// Collects text and gives it on line by line, without the line ends.
///
/// Control characters (all but tabulator and line feed) become U+FFFD, so that nothing logged can steer a
/// terminal.
pub struct LineWriter<F: FnMut(&str)> {
    line: [u8; LINE_BYTES],
    used: usize,
    emit: F,
}

impl<F: FnMut(&str)> LineWriter<F> {
    /// A writer that calls `emit` for each line.
    pub const fn new(emit: F) -> Self {
        LineWriter {
            line: [0; LINE_BYTES],
            used: 0,
            emit,
        }
    }

    /// Adds bytes that should be UTF-8; each piece that is not becomes U+FFFD.
    pub fn write_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.utf8_chunks() {
            chunk.valid().chars().for_each(|c| self.push(c));
            if !chunk.invalid().is_empty() {
                self.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    /// Gives on what was begun, if anything was.
    pub fn finish(&mut self) {
        if self.used > 0 {
            self.end_line();
        }
    }

    fn push(&mut self, character: char) {
        if character == '\n' {
            return self.end_line();
        }
        let visible = character == '\t' || !character.is_control();
        let character = if visible {
            character
        } else {
            char::REPLACEMENT_CHARACTER
        };
        if self.used + character.len_utf8() > LINE_BYTES {
            self.end_line();
        }
        self.used += character.encode_utf8(&mut self.line[self.used..]).len();
    }

    fn end_line(&mut self) {
        // Only whole characters are put in, so this is never the default.
        (self.emit)(str::from_utf8(&self.line[..self.used]).unwrap_or_default());
        self.used = 0;
    }
}

impl<F: FnMut(&str)> fmt::Write for LineWriter<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().for_each(|c| self.push(c));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut writer = LineWriter::new(|line: &str| lines.push(line.to_string()));
        writer.write_bytes(bytes);
        writer.finish();
        lines
    }

    #[test]
    fn text_is_cut_at_line_ends() {
        assert_eq!(
            lines(b"one\n\ntwo\tx\nthree"),
            ["one", "", "two\tx", "three"]
        );
        assert_eq!(lines(b""), [""; 0]);
        assert_eq!(lines(b"\n"), [""]);
    }

    #[test]
    fn control_characters_and_broken_utf8_become_replacements() {
        assert_eq!(lines(b"a\x1b[2Jb\r\x00"), ["a\u{FFFD}[2Jb\u{FFFD}\u{FFFD}"]);
        assert_eq!(lines(b"x\xFFy\xE4\xBD"), ["x\u{FFFD}y\u{FFFD}"]);
    }

    proptest! {
        #[test]
        fn long_lines_go_on_in_the_next_and_nothing_is_lost(text in "[a-zä日]{0,2000}") {
            let lines = lines(text.as_bytes());
            prop_assert!(lines.iter().all(|line| line.len() <= LINE_BYTES));
            prop_assert_eq!(lines.concat(), text);
        }
    }
}
