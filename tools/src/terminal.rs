//! Raw mode for the user's terminal, and its way back.
//!
//! In raw mode every key reaches the machine at once, Ctrl-C included, and nothing is echoed: the guest echoes. The old
//! settings come back when the guard is dropped, also on an error; a signal must therefore end the program through its
//! main loop, not on the spot.

use std::io::{Stdin, stdin};

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Holds the terminal in raw mode.
#[derive(Debug)]
pub struct Raw {
    terminal: Stdin,
    before: Termios,
}

impl Raw {
    /// Puts standard input, which must be a terminal, into raw mode.
    ///
    /// # Errors
    /// If it is not a terminal or its settings can't be changed.
    pub fn enter() -> Result<Self> {
        let terminal = stdin();
        let before = tcgetattr(&terminal).context("terminal settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw).context("terminal settings")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better can be done in a drop than to try.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
