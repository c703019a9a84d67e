//! Feeds prepared input to the shell line by line, each only when the shell asks for it.
//!
//! Firmware, loader and kernel all listen on the serial line, or flush it, before the shell does; a line sent too early
//! is lost or wakes a boot menu. So a line goes out only when the line the machine is writing is exactly the prompt, and
//! after a line was sent its echo must have been finished before a prompt counts again: a shell that redraws its line
//! while it echoes shows prompts too, and the log may come between a line's sending and its echo, which leaves a bare
//! or half-written prompt behind (see [`echoes`]).

use std::collections::VecDeque;

use crate::transcript::Transcript;

/// What the shell writes when it waits for a command.
pub const PROMPT: &str = "switchyard> ";

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the machine is busy, or no input is there yet.
    Wait,
    /// Send these bytes to the machine.
    Send(Vec<u8>),
    /// All input was carried out and the shell asks for more: the session is over.
    Done,
}

/// The state of one fed session.
#[derive(Debug, Default)]
pub struct Feeder {
    transcript: Transcript,
    waiting: VecDeque<String>,
    ended: bool,
    prompts: usize,
    /// Count of finished lines when the last command went out.
    sent_at: Option<usize>,
    last_sent: String,
    /// The last command sent that ends the machine.
    power: Option<String>,
}

/// Longest line that the shell shows whole on any screen.
const SHOWN_WHOLE: usize = 60;

/// Whether the finished line `said` is the echo of the command `sent`: the prompt and the command behind it. A part of
/// the command alone is not, nor is a bare prompt: there the log came between, and the shell shows its line again. A
/// command the editor may show otherwise (control characters, a line that is scrolled) is taken at any such line.
pub fn echoes(said: &str, sent: &str) -> bool {
    let Some(shown) = said.strip_prefix(PROMPT.trim_end()) else {
        return false;
    };
    let (shown, sent) = (shown.trim(), sent.trim());
    let as_it_is = sent.len() <= SHOWN_WHOLE && sent.bytes().all(|b| matches!(b, b' '..=b'~'));
    !as_it_is || shown == sent || !sent.starts_with(shown)
}

impl Feeder {
    /// A feeder with all its input.
    pub fn with_lines(lines: &[&str]) -> Self {
        let mut feeder = Self::default();
        for line in lines {
            feeder.input(line);
        }
        feeder.input_ended();
        feeder
    }

    /// Adds a line of input, without its line end.
    pub fn input(&mut self, line: &str) {
        self.waiting.push_back(line.to_owned());
    }

    /// No more input will come.
    pub fn input_ended(&mut self) {
        self.ended = true;
    }

    /// Takes in what the machine said.
    pub fn said(&mut self, bytes: &[u8]) {
        self.transcript.push(bytes);
    }

    /// What to do now. To be asked again after every call of the others, until it says [`Step::Wait`].
    pub fn step(&mut self) -> Step {
        if !self.at_prompt() {
            return Step::Wait;
        }
        let Some(line) = self.waiting.pop_front() else {
            return if self.ended { Step::Done } else { Step::Wait };
        };
        self.prompts += 1;
        self.sent_at = Some(self.transcript.lines().len());
        // What a terminal sends for Enter.
        let bytes = format!("{line}\r").into_bytes();
        if matches!(line.trim(), "poweroff" | "reboot") {
            self.power = Some(line.trim().to_owned());
        }
        self.last_sent = line;
        Step::Send(bytes)
    }

    /// Whether the shell has asked for input at least once.
    pub fn reached_prompt(&self) -> bool {
        self.prompts > 0 || self.at_prompt()
    }

    /// The last command sent that ends the machine, if one was: a prompt after it says little.
    pub fn power_command(&self) -> Option<&str> {
        self.power.as_deref()
    }

    /// Whether all input has been sent and no more will come.
    pub fn is_drained(&self) -> bool {
        self.ended && self.waiting.is_empty()
    }

    /// All that was said.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    fn at_prompt(&self) -> bool {
        let echoed = self.sent_at.is_none_or(|at| {
            let since = &self.transcript.lines()[at..];
            since.iter().any(|line| echoes(line, &self.last_sent))
        });
        echoed && self.transcript.current() == PROMPT
    }
}

#[cfg(test)]
mod tests {
    use super::{Feeder, Step};

    fn sent(line: &str) -> Step {
        Step::Send(format!("{line}\r").into_bytes())
    }

    #[test]
    fn nothing_is_sent_before_the_prompt() {
        let mut feeder = Feeder::with_lines(&["cpus"]);
        assert_eq!(feeder.step(), Step::Wait);
        feeder.said(b"Press any key to stop booting\r\nkernel: hello\r\nswitchyard>");
        assert_eq!(feeder.step(), Step::Wait);
        feeder.said(b" ");
        assert_eq!(feeder.step(), sent("cpus"));
        assert_eq!(feeder.step(), Step::Wait);
    }

    #[test]
    fn prompt_inside_a_line_is_no_prompt() {
        let mut feeder = Feeder::with_lines(&["cpus"]);
        feeder.said(b"the prompt is switchyard> ");
        assert_eq!(feeder.step(), Step::Wait);
        feeder.said(b"\r\nswitchyard> echo");
        assert_eq!(feeder.step(), Step::Wait);
    }

    #[test]
    fn lines_go_out_one_a_prompt_and_then_it_is_over() {
        let mut feeder = Feeder::with_lines(&["a", "", "b"]);
        feeder.said(b"switchyard> ");
        assert_eq!(feeder.step(), sent("a"));
        feeder.said(b"a\r\nanswer\r\nswitchyard> ");
        assert_eq!(feeder.step(), sent(""));
        feeder.said(b"\r\nswitchyard> ");
        assert_eq!(feeder.step(), sent("b"));
        feeder.said(b"b\r\n");
        assert_eq!(feeder.step(), Step::Wait);
        feeder.said(b"switchyard> ");
        assert_eq!(feeder.step(), Step::Done);
    }

    #[test]
    fn redrawing_the_line_while_echoing_asks_for_nothing() {
        let mut feeder = Feeder::with_lines(&["ab", "c"]);
        feeder.said(b"switchyard> ");
        assert_eq!(feeder.step(), sent("ab"));
        for chunk in [
            &b"\r\x1b[K"[..],
            b"switchyard> ",
            b"a\r\x1b[K",
            b"switchyard> ",
            b"ab",
        ] {
            feeder.said(chunk);
            assert_eq!(feeder.step(), Step::Wait);
        }
        feeder.said(b"\r\nswitchyard> ");
        assert_eq!(feeder.step(), sent("c"));
    }

    #[test]
    fn log_between_sending_and_echo_asks_for_nothing() {
        let mut feeder = Feeder::with_lines(&["cpus", "poweroff"]);
        feeder.said(b"switchyard> ");
        assert_eq!(feeder.step(), sent("cpus"));
        for chunk in [
            &b"\n[    1.000000] names: late\r\nswitchyard> "[..],
            b"\r\x1b[K[    1.000001] names: later\r\nswitchyard> ",
            b"cp\n[    1.000002] names: last\r\nswitchyard> ",
        ] {
            feeder.said(chunk);
            assert_eq!(feeder.step(), Step::Wait);
        }
        feeder.said(b"cpus\r\n0 idle\r\nswitchyard> ");
        assert_eq!(feeder.step(), sent("poweroff"));
    }

    #[test]
    fn command_that_is_not_shown_as_sent_is_not_waited_for_for_ever() {
        for line in ["cp\tus", "caf\u{e9}", "\u{15}", &"x".repeat(200)] {
            let mut feeder = Feeder::with_lines(&[line]);
            feeder.said(b"switchyard> ");
            assert_eq!(feeder.step(), sent(line));
            feeder.said(b"switchyard> what the editor makes of it\r\nswitchyard> ");
            assert_eq!(feeder.step(), Step::Done, "{line:?}");
        }
    }

    #[test]
    fn power_command_is_remembered_whatever_follows() {
        let mut feeder = Feeder::with_lines(&[" poweroff ", "cpus"]);
        feeder.said(b"switchyard> ");
        assert_eq!(feeder.power_command(), None);
        feeder.step();
        assert_eq!(feeder.power_command(), Some("poweroff"));
        assert!(!feeder.is_drained());
        feeder.said(b"switchyard>  poweroff\r\nrefused\r\nswitchyard> ");
        feeder.step();
        assert_eq!(feeder.power_command(), Some("poweroff"));
        assert!(feeder.is_drained());
    }

    #[test]
    fn waits_for_input_that_has_not_come_yet() {
        let mut feeder = Feeder::default();
        feeder.said(b"switchyard> ");
        assert_eq!(feeder.step(), Step::Wait);
        feeder.input("late");
        assert_eq!(feeder.step(), sent("late"));
    }
}
