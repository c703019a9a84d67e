//! Plays one session with a machine to its end, with nobody at it: feeds it lines, and stops at a text, at a power-off,
//! or when time is up.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::ending::Ending;
use crate::feeder::{Feeder, Step};
use crate::machine::{Event, Machine, Spec};
use crate::noise::firmware_gave_up;
use crate::run::GRACE;
use crate::transcript::Transcript;

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The machine ended.
    Ended(Ending),
    /// The text that was waited for has been said.
    Said,
    /// All input was carried out.
    Fed,
    /// The loader came back to the firmware.
    NotBooted,
    /// Time was up.
    TimedOut,
}

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Over::Ended(ending) => write!(f, "{ending}"),
            Over::Said => write!(f, "stopped as planned"),
            Over::Fed => write!(f, "all input carried out"),
            Over::NotBooted => write!(f, "the firmware gave up on the loader"),
            Over::TimedOut => write!(f, "no end within the time allowed"),
        }
    }
}

/// A session that is over.
#[derive(Debug)]
pub struct Played {
    /// All that happened on the serial line.
    pub feeder: Feeder,
    /// Why it is over.
    pub over: Over,
    /// QEMU's own words.
    pub complaints: Vec<String>,
}

/// How many last lines of a failed session are shown.
const TAIL: usize = 25;

impl Played {
    /// All that was said.
    pub fn transcript(&self) -> &Transcript {
        self.feeder.transcript()
    }

    /// The end of the session, for a person to read.
    pub fn tail(&self) -> String {
        let mut text = format!("ended: {}; last lines:", self.over);
        for line in self.transcript().tail(TAIL) {
            text.push_str("\n    | ");
            text.push_str(&line);
        }
        for line in &self.complaints {
            text.push_str("\n    qemu: ");
            text.push_str(line);
        }
        text
    }
}

/// Plays a session: `feeder` holds the input, `stop` says when enough was said, `limit` bounds it.
///
/// # Errors
/// If QEMU can't be started or waited for.
pub fn play(
    spec: &Spec,
    feeder: Feeder,
    limit: Duration,
    stop: impl Fn(&Transcript) -> bool,
) -> Result<Played> {
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(spec, sender)?;
    play_on(&mut machine, &events, feeder, limit, stop)
}

/// Plays a session with a machine that is running already, and leaves it running unless it ends by itself.
///
/// # Errors
/// If QEMU can't be waited for.
pub fn play_on(
    machine: &mut Machine,
    events: &mpsc::Receiver<Event>,
    mut feeder: Feeder,
    limit: Duration,
    stop: impl Fn(&Transcript) -> bool,
) -> Result<Played> {
    let mut deadline = Instant::now() + limit;
    let mut fed = false;
    let over = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(Event::Said(bytes)) => feeder.said(&bytes),
            Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => {
                break Over::Ended(machine.wait()?);
            }
            Ok(Event::Typed(_) | Event::InputEnded) => {}
            Err(RecvTimeoutError::Timeout) if fed => break Over::Fed,
            Err(RecvTimeoutError::Timeout) => break Over::TimedOut,
        }
        if stop(feeder.transcript()) {
            break Over::Said;
        }
        if firmware_gave_up(feeder.transcript()) {
            break Over::NotBooted;
        }
        match feeder.step() {
            Step::Wait => {}
            Step::Send(bytes) => machine.send(&bytes),
            Step::Done if feeder.power_command().is_some() => {
                if !fed {
                    fed = true;
                    deadline = Instant::now() + GRACE;
                }
            }
            Step::Done => break Over::Fed,
        }
    };
    Ok(Played {
        feeder,
        over,
        complaints: machine.complaints(),
    })
}
