//! From the configuration file to a kernel that is ready to start: the loader's whole way, for any front end.
//!
//! Every failure comes back as one error with the file and the fault. What a machine does then differs (firmware may go on
//! to its next boot option, or there may be none), so that is the front end's.

use crate::config::{Config, MESSAGE_TENTHS, Timeout};
use crate::error::{BootError, InFile};
use crate::front::FrontEnd;
use crate::load::{self, Prepared};

/// A boot that failed.
#[derive(Debug)]
pub struct Failed {
    /// What went wrong.
    pub error: BootError,
    /// How long the message is to be read before anything paints over it, in tenths of a second, by what the configuration
    /// says.
    pub patience: u32,
}

/// A front end and whether it is to print progress.
#[derive(Debug)]
pub struct Session<'f, F> {
    /// The front end.
    pub front: &'f mut F,
    quiet: bool,
}

impl<F: FrontEnd> Session<'_, F> {
    /// Prints a line on how far the boot has come, unless the configuration asks for quiet.
    pub fn progress(&mut self, text: core::fmt::Arguments<'_>) {
        if !self.quiet {
            self.front.say(text);
        }
    }
}

/// Brings the default entry of the first configuration file found into memory, all but started.
///
/// # Errors
/// What went wrong and in which file.
pub fn run<F: FrontEnd>(front: &mut F) -> Result<Prepared<F::Block>, Failed> {
    let mut patience = MESSAGE_TENTHS;
    let mut session = Session {
        front,
        quiet: false,
    };
    default_entry(&mut session, &mut patience).map_err(|error| Failed { error, patience })
}

fn default_entry<F: FrontEnd>(
    session: &mut Session<'_, F>,
    patience: &mut u32,
) -> Result<Prepared<F::Block>, BootError> {
    let found = session.front.find_config()?;
    session.front.say(format_args!(
        "switchyard boot: configuration {} on {}",
        found.path, found.volume_name
    ));
    *patience = Config::message_tenths(&found.contents);
    let config = Config::parse(&found.contents).in_file(&found.path)?;
    session.quiet = config.quiet;
    for warning in &config.warnings {
        session.front.say(format_args!(
            "switchyard boot: warning: {}: {warning}",
            found.path
        ));
    }
    let entry = config.default_entry().in_file(&found.path)?;
    match config.timeout {
        Timeout::Seconds(0) => {}
        Timeout::Seconds(seconds) => {
            session.front.say(format_args!(
                "switchyard boot: '{}' in {seconds} s, or at a key",
                entry.name
            ));
            session.front.wait_for_key(Some(seconds.saturating_mul(10)));
        }
        Timeout::Never => {
            session
                .front
                .say(format_args!("switchyard boot: '{}' at a key", entry.name));
            session.front.wait_for_key(None);
        }
    }
    load::prepare(session, &config, &found.volume, &entry)
}
