//! The line editor: one line of a bounded length, with history.
//!
//! It writes what a plain terminal understands: characters, return, erase to the end of the line, cursor right. The line
//! never wraps: one that is longer than the terminal is wide is shown in part, so that drawing it anew needs no
//! knowledge of where it began.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::keys::{Decoder, Key};

/// Most characters of a line.
pub const MOST_CHARACTERS: usize = 1024;
/// Most lines of history.
pub const MOST_HISTORY: usize = 100;
/// Fewest columns of a terminal that are believed.
const FEWEST_COLUMNS: usize = 24;

/// What a byte came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The line goes on.
    More,
    /// The line is finished.
    Line(String),
    /// The line was given up.
    Cancelled,
    /// The screen is to be cleared, and then the line shown again.
    Clear,
}

/// The editor.
#[derive(Debug)]
pub struct Editor {
    prompt: &'static str,
    columns: usize,
    decoder: Decoder,
    line: Vec<char>,
    cursor: usize,
    history: VecDeque<String>,
    /// Which line of history is shown; its length is the new line.
    place: usize,
    /// The new line, while history is shown.
    kept: Vec<char>,
    output: String,
    /// The line must be drawn anew before the output is taken.
    stale: bool,
}

impl Editor {
    /// An editor with this prompt on a terminal of so many columns.
    pub fn new(prompt: &'static str, columns: usize) -> Editor {
        Editor {
            prompt,
            columns: columns.max(FEWEST_COLUMNS),
            decoder: Decoder::default(),
            line: Vec::new(),
            cursor: 0,
            history: VecDeque::new(),
            place: 0,
            kept: Vec::new(),
            output: String::new(),
            stale: false,
        }
    }

    /// Begins a new line.
    pub fn begin(&mut self) {
        self.line.clear();
        self.cursor = 0;
        self.place = self.history.len();
        self.kept.clear();
        self.output.push_str(self.prompt);
    }

    /// Shows prompt and line anew on the terminal's present line.
    pub fn redraw(&mut self) {
        self.stale = true;
    }

    /// What is to be written to the terminal.
    pub fn take_output(&mut self) -> String {
        if core::mem::take(&mut self.stale) {
            self.draw();
        }
        core::mem::take(&mut self.output)
    }

    /// The line so far.
    pub fn line(&self) -> String {
        self.line.iter().collect()
    }

    /// Adds a byte of input.
    pub fn add(&mut self, byte: u8) -> Step {
        match self.decoder.add(byte) {
            None => Step::More,
            Some(key) => self.press(key),
        }
    }

    fn press(&mut self, key: Key) -> Step {
        match key {
            Key::Char(character) => self.insert(character),
            Key::Enter => return self.enter(),
            Key::Control('c') => {
                self.end_line("^C");
                return Step::Cancelled;
            }
            Key::Control('l') => {
                self.stale = true;
                return Step::Clear;
            }
            Key::Backspace | Key::Control('h') if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.remove(self.cursor);
                self.stale = true;
            }
            Key::Delete | Key::Control('d') if self.cursor < self.line.len() => {
                self.line.remove(self.cursor);
                self.stale = true;
            }
            Key::Left | Key::Control('b') => self.move_to(self.cursor.saturating_sub(1)),
            Key::Right | Key::Control('f') => self.move_to(self.cursor + 1),
            Key::WordLeft => self.move_to(self.word_start()),
            Key::WordRight => self.move_to(self.word_end()),
            Key::Home | Key::Control('a') => self.move_to(0),
            Key::End | Key::Control('e') => self.move_to(self.line.len()),
            Key::Control('u') => self.cut(0, self.cursor),
            Key::Control('k') => self.cut(self.cursor, self.line.len()),
            Key::Control('w') => self.cut(self.word_start(), self.cursor),
            Key::Up | Key::Control('p') => self.recall(self.place.checked_sub(1)),
            Key::Down | Key::Control('n') => self.recall(Some(self.place + 1)),
            Key::Backspace | Key::Delete | Key::Control(_) => {}
        }
        Step::More
    }

    fn insert(&mut self, character: char) {
        if self.line.len() >= MOST_CHARACTERS {
            // The bell says that no more goes in.
            if !self.output.ends_with('\x07') {
                self.output.push('\x07');
            }
            return;
        }
        self.line.insert(self.cursor, character);
        self.cursor += 1;
        let fits = self.line.len() < self.room();
        if self.cursor == self.line.len() && fits && !self.stale {
            self.output.push(character);
        } else {
            self.stale = true;
        }
    }

    fn enter(&mut self) -> Step {
        // The whole line stays readable above; a stale one is drawn before its end.
        self.cursor = self.line.len();
        self.end_line("");
        let line = self.line();
        if !line.trim().is_empty() && self.history.back() != Some(&line) {
            if self.history.len() == MOST_HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(line.clone());
        }
        Step::Line(line)
    }

    fn end_line(&mut self, mark: &str) {
        if core::mem::take(&mut self.stale) {
            self.draw();
        }
        self.output.push_str(mark);
        self.output.push('\n');
    }

    fn move_to(&mut self, place: usize) {
        let place = place.min(self.line.len());
        if place != self.cursor {
            self.cursor = place;
            self.stale = true;
        }
    }

    fn cut(&mut self, from: usize, to: usize) {
        if from < to {
            self.line.drain(from..to);
            self.cursor = from;
            self.stale = true;
        }
    }

    fn word_start(&self) -> usize {
        let before = &self.line[..self.cursor];
        let end = before
            .iter()
            .rposition(|character| *character != ' ')
            .map_or(0, |last| last + 1);
        before[..end]
            .iter()
            .rposition(|character| *character == ' ')
            .map_or(0, |space| space + 1)
    }

    fn word_end(&self) -> usize {
        let after = &self.line[self.cursor..];
        let start = after
            .iter()
            .position(|character| *character != ' ')
            .unwrap_or(after.len());
        let length = after[start..]
            .iter()
            .position(|character| *character == ' ')
            .unwrap_or(after.len() - start);
        self.cursor + start + length
    }

    fn recall(&mut self, place: Option<usize>) {
        let Some(place) = place.filter(|place| *place <= self.history.len()) else {
            return;
        };
        if self.place == self.history.len() {
            self.kept.clone_from(&self.line);
        }
        self.place = place;
        self.line = match self.history.get(place) {
            Some(line) => line.chars().collect(),
            None => core::mem::take(&mut self.kept),
        };
        self.cursor = self.line.len();
        self.stale = true;
    }

    /// Columns for the line after the prompt, the cursor's included.
    fn room(&self) -> usize {
        self.columns
            .saturating_sub(self.prompt.chars().count())
            .max(8)
    }

    fn draw(&mut self) {
        let room = self.room();
        // The part that is shown ends with the cursor, or begins with the line if that has room.
        let first = (self.cursor + 1).saturating_sub(room);
        let last = self.line.len().min(first + room - 1);
        let shown: String = self.line[first..last].iter().collect();
        let back = last - self.cursor;
        self.output.push('\r');
        self.output.push_str(self.prompt);
        self.output.push_str(&shown);
        self.output.push_str("\x1b[K");
        if back > 0 {
            // Writing to a String can't fail.
            let _ = write!(self.output, "\x1b[{back}D");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    fn edit(input: &[u8]) -> Vec<String> {
        let mut editor = Editor::new("> ", 40);
        editor.begin();
        let mut lines = Vec::new();
        for byte in input {
            match editor.add(*byte) {
                Step::Line(line) => {
                    lines.push(line);
                    editor.begin();
                }
                Step::Cancelled => editor.begin(),
                Step::More | Step::Clear => {}
            }
        }
        lines
    }

    #[test]
    fn keys_edit_the_line() {
        assert_eq!(edit(b"abc\x1b[D\x1b[DX\r"), ["aXbc"]);
        assert_eq!(edit(b"abc\x7f\x7fd\r"), ["ad"]);
        assert_eq!(edit(b"abc\x1b[H\x1b[3~\x1b[FZ\r"), ["bcZ"]);
        assert_eq!(edit(b"abc\x01X\x05Y\r"), ["XabcY"]);
        assert_eq!(edit(b"one two  three\x17X\r"), ["one two  X"]);
        assert_eq!(edit(b"one two\x1b[1;5D\x0b!\r"), ["one !"]);
        assert_eq!(edit(b"one two\x1b[D\x15\r"), ["o"]);
        assert_eq!(edit(b"gone\x03kept\r"), ["kept"]);
        assert_eq!(edit(b"\x7f\x1b[D\x1b[3~\x0b\x15\x17a\r"), ["a"]);
        assert_eq!(edit("gr\u{fc}\u{df}e\x7f\x7fs\r".as_bytes()), ["gr\u{fc}s"]);
    }

    #[test]
    fn history_goes_up_and_down_and_keeps_the_new_line() {
        assert_eq!(edit(b"one\rtwo\r\x1b[A\r"), ["one", "two", "two"]);
        assert_eq!(edit(b"one\rtwo\r\x1b[A\x1b[A!\r"), ["one", "two", "one!"]);
        assert_eq!(edit(b"one\rnew\x1b[A\x1b[B!\r"), ["one", "new!"]);
        assert_eq!(
            edit(b"one\r\x1b[A\x1b[A\x1b[A\x1b[B\x1b[B\x1b[Bx\r"),
            ["one", "x"]
        );
        // Neither empty lines nor repetitions are kept.
        assert_eq!(edit(b"one\r\r  \rone\rtwo\r\x1b[A\x1b[A\r")[5], "one");
    }

    #[test]
    fn history_is_bounded() {
        let mut input = Vec::new();
        for number in 0..MOST_HISTORY + 20 {
            input.extend(format!("{number}\r").bytes());
        }
        input.extend(b"\x1b[A".repeat(MOST_HISTORY + 50));
        input.push(b'\r');
        assert_eq!(edit(&input).last().map(String::as_str), Some("20"));
    }

    #[test]
    fn typed_characters_are_echoed_once() {
        let mut editor = Editor::new("switchyard> ", 80);
        editor.begin();
        assert_eq!(editor.take_output(), "switchyard> ");
        for byte in b"ps" {
            editor.add(*byte);
        }
        assert_eq!(editor.take_output(), "ps");
        assert_eq!(editor.add(b'\r'), Step::Line("ps".into()));
        assert_eq!(editor.take_output(), "\n");
    }

    #[test]
    fn long_line_stays_in_one_row_and_is_bounded() {
        let mut editor = Editor::new("> ", 40);
        editor.begin();
        editor.take_output();
        for _ in 0..3000 {
            editor.add(b'x');
            let output = editor.take_output();
            let shown = output.trim_start_matches('\r').replace("\x1b[K", "");
            assert!(shown.len() < 40, "{shown:?}");
        }
        assert_eq!(editor.line().len(), MOST_CHARACTERS);
        editor.add(0x01);
        let output = editor.take_output();
        assert!(
            output.starts_with("\r> xxx") && output.ends_with("\x1b[37D"),
            "{output:?}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_keep_line_and_cursor_in_bounds(input in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut editor = Editor::new("> ", 30);
            editor.begin();
            for byte in input {
                if editor.add(byte) != Step::More {
                    editor.begin();
                }
                prop_assert!(editor.cursor <= editor.line.len() && editor.line.len() <= MOST_CHARACTERS);
                prop_assert!(editor.line.iter().all(|character| !character.is_control()));
                editor.take_output();
            }
        }
    }
}
