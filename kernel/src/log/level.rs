//! How much is logged: `log=` on the kernel's command line.

use core::fmt;

use ::log::LevelFilter;

/// What is logged if the command line says nothing.
pub const DEFAULT: LevelFilter = LevelFilter::Info;

/// `log=` with a word that is no level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownLevel<'a>(pub &'a str);

impl fmt::Display for UnknownLevel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "log={}: not one of off, error, warn, info, debug, trace",
            self.0
        )
    }
}

/// The level that the command line asks for; the last `log=` counts.
///
/// # Errors
/// The word after `log=`, if it is no level.
pub fn from_command_line(command_line: &str) -> Result<LevelFilter, UnknownLevel<'_>> {
    let word = command_line
        .split_ascii_whitespace()
        .filter_map(|option| option.strip_prefix("log="))
        .next_back();
    match word {
        None => Ok(DEFAULT),
        Some("off") => Ok(LevelFilter::Off),
        Some("error") => Ok(LevelFilter::Error),
        Some("warn") => Ok(LevelFilter::Warn),
        Some("info") => Ok(LevelFilter::Info),
        Some("debug") => Ok(LevelFilter::Debug),
        Some("trace") => Ok(LevelFilter::Trace),
        Some(other) => Err(UnknownLevel(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_log_option_counts() {
        assert_eq!(
            from_command_line("quiet log=debug fpu=lazy"),
            Ok(LevelFilter::Debug)
        );
        assert_eq!(
            from_command_line("log=debug log=warn"),
            Ok(LevelFilter::Warn)
        );
        assert_eq!(from_command_line("catalog=debug"), Ok(DEFAULT));
        assert_eq!(from_command_line(""), Ok(DEFAULT));
    }

    #[test]
    fn a_word_that_is_no_level_is_named() {
        assert_eq!(from_command_line("log=loud"), Err(UnknownLevel("loud")));
        assert_eq!(from_command_line("log="), Err(UnknownLevel("")));
        assert!(UnknownLevel("loud").to_string().contains("log=loud"));
    }
}
