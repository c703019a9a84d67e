//! The console server: clients' text, the log, and input, put together.
//!
//! Each write is queued as a whole, so that clients' texts don't mix. When the serial line is behind, writers wait, the
//! log too: its ring holds what was not yet read. The screen is drawn at most fifty times a second, however much is
//! written.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use rt::interfaces::console::Server;
use rt::{Caller, Deadline, Later, Log, Outcome, time};
use screen::Surface;

use crate::input::Input;
use crate::output::Output;
use crate::serial::SerialLine;
use crate::terminal::Terminal;

/// Least time between two drawings of the screen.
const FRAME: Duration = Duration::from_millis(20);
/// How often a serial line is asked while it has something to send, in case its interrupt was lost or there is none.
const POLL: Duration = Duration::from_millis(50);
/// Most rounds of asking the line at one interrupt.
const MOST_ROUNDS: usize = 64;
/// Longest read that is answered.
const MOST_READ: usize = 4000;
/// Size of the screen if there is only a serial line.
const LINE_ONLY: (u32, u32) = (80, 24);

/// Where the last text ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// At the start of a line.
    LineStart,
    /// Within a line.
    InLine,
    /// At the start of a line, after the log came between a client's unfinished line and its reading: nobody was told
    /// yet that the line is gone.
    Overwritten,
}

/// The console.
pub struct Console<'a, L, S> {
    line: L,
    terminal: Option<Terminal<'a, S>>,
    log: Option<Log>,
    log_position: u64,
    input: Input,
    output: Output,
    /// Writers that wait until the serial line has caught up.
    writers: VecDeque<Later<()>>,
    place: Place,
    drawn: Duration,
    to_draw: bool,
    /// Whether the line needs to be asked also without an interrupt.
    polled: bool,
}

impl<'a, L: SerialLine, S: Surface> Console<'a, L, S> {
    /// A console on this line and screen. `polled` says that the line has no interrupt.
    pub fn new(line: L, terminal: Option<Terminal<'a, S>>, polled: bool) -> Console<'a, L, S> {
        Console {
            line,
            terminal,
            log: None,
            log_position: 0,
            input: Input::default(),
            output: Output::default(),
            writers: VecDeque::new(),
            place: Place::LineStart,
            drawn: Duration::ZERO,
            to_draw: true,
            polled,
        }
    }

    /// Shows all of the log so far on the screen alone: the kernel has written it to the serial line already.
    pub fn show_past_log(&mut self, log: Log) {
        let mut text = [0; 1024];
        while let Ok((bytes, next)) = log.read(self.log_position, &mut text) {
            if bytes == 0 {
                break;
            }
            self.log_position = next;
            self.show(&text[..bytes]);
        }
        self.log = Some(log);
    }

    /// The log's handle, once it was given.
    pub const fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    /// Writes what was logged since, unless the line is behind.
    pub fn pump_log(&mut self) {
        let mut text = [0; 1024];
        let mut begun = false;
        let mut lost = self.place == Place::Overwritten;
        while !self.output.is_full() {
            let Some(Ok((bytes, next))) = self
                .log
                .as_ref()
                .map(|log| log.read(self.log_position, &mut text))
            else {
                break;
            };
            if bytes == 0 {
                break;
            }
            self.log_position = next;
            if !begun && self.place == Place::InLine {
                // A line that is being edited is taken away and asked for again; any other is ended, and if it was a
                // prompt whose reader is yet to come, that one is told at once.
                lost = !self.input.has_reader();
                self.put(if lost { b"\n" } else { b"\r\x1b[K" });
            }
            begun = true;
            self.put(&text[..bytes]);
        }
        if begun {
            if self.place == Place::InLine {
                self.put(b"\n");
            }
            if lost {
                self.place = Place::Overwritten;
            }
            self.input.interrupt();
        }
        self.move_bytes();
    }

    /// The line interrupted.
    pub fn interrupted(&mut self) {
        self.line.acknowledge();
        for _ in 0..MOST_ROUNDS {
            self.move_bytes();
            if !self.line.is_pending() {
                break;
            }
        }
    }

    /// Carries bytes both ways as far as they go.
    pub fn move_bytes(&mut self) {
        let mut came = Vec::new();
        self.line
            .receive(self.input.room(), &mut |byte| came.push(byte));
        if !came.is_empty() {
            self.input.add(&came);
        }
        let line = &mut self.line;
        self.output.send(time::now(), |bytes| line.send(bytes));
        self.line.want_room(!self.output.is_empty());
        while !self.output.is_full()
            && let Some(writer) = self.writers.pop_front()
        {
            // Whether it still waits is its own affair.
            let _ = writer.answer(Ok(()));
        }
    }

    /// What is due without an event: drawing, asking the line. Then the time of the next such. While an answer is
    /// `pending`, drawing waits a little: a client should not.
    pub fn tick(&mut self, pending: bool) -> Deadline {
        let now = time::now();
        if self.polled || !self.output.is_empty() {
            self.move_bytes();
            if !self.output.is_full() {
                self.pump_log();
            }
        }
        let frame = if pending { FRAME * 5 } else { FRAME };
        if self.to_draw && now >= self.drawn + frame {
            if let Some(terminal) = &mut self.terminal {
                terminal.flush();
            }
            self.to_draw = false;
            self.drawn = now;
        }
        let mut next = Deadline::NEVER;
        if self.to_draw && self.terminal.is_some() {
            next = Deadline((self.drawn + FRAME).as_nanos() as u64);
        }
        if self.polled || !self.output.is_empty() {
            next = next.min(Deadline((now + POLL).as_nanos() as u64));
        }
        next
    }

    /// Puts text on the screen alone.
    fn show(&mut self, text: &[u8]) {
        if let Some(terminal) = &mut self.terminal {
            terminal.write(text);
            self.to_draw = true;
        }
    }

    /// Puts text on both.
    fn put(&mut self, text: &[u8]) {
        if let Some(last) = text.last() {
            let starts = *last == b'\n' || text.ends_with(b"\r\x1b[K");
            self.place = if starts {
                Place::LineStart
            } else {
                Place::InLine
            };
        }
        self.show(text);
        self.output.add(text, time::now());
    }
}

impl<L: SerialLine, S: Surface> Server for Console<'_, L, S> {
    fn write(&mut self, caller: &mut Caller, text: Vec<u8>) -> Outcome<()> {
        self.put(&text);
        self.move_bytes();
        if self.output.is_full()
            && let Some(writer) = caller.later()
        {
            self.writers.push_back(writer);
            return Outcome::Later;
        }
        Outcome::Done(())
    }

    fn read(&mut self, caller: &mut Caller, most: u32) -> Outcome<Vec<u8>> {
        let most = (most as usize).clamp(1, MOST_READ);
        // What the line held back for want of room can come now.
        self.move_bytes();
        if self.place == Place::Overwritten {
            self.place = Place::LineStart;
            return Outcome::Done(Vec::new());
        }
        let taken = self.input.take(most);
        if !taken.is_empty() {
            return Outcome::Done(taken);
        }
        if let Some(reader) = caller.later() {
            self.input.wait(most, reader);
        }
        Outcome::Later
    }

    fn clear(&mut self, _: &mut Caller) -> Outcome<()> {
        self.put(b"\x1b[H\x1b[2J");
        self.place = Place::LineStart;
        self.move_bytes();
        Outcome::Done(())
    }

    fn size(&mut self, _: &mut Caller) -> Outcome<(u32, u32)> {
        let size = self
            .terminal
            .as_ref()
            .map(|terminal| terminal.screen().size());
        Outcome::Done(size.map_or(LINE_ONLY, |(columns, rows)| (columns as u32, rows as u32)))
    }
}
