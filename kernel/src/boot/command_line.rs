//! The kernel's command line: words separated by blanks, options as `name=value`. Unknown ones are user space's.

use arch::mitigations::Choice;

/// The value of option `name`; the last one counts.
pub fn option<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .rfind(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// What a command line says is to be done about the flaws of CPUs; `Err` holds a value that is no choice.
///
/// # Errors
/// The unknown value.
pub fn mitigations(line: &str) -> Result<Choice, &str> {
    match option(line, "mitigations") {
        None | Some("auto") => Ok(Choice::Auto),
        Some("off") => Ok(Choice::Off),
        Some("on") => Ok(Choice::On),
        Some(other) => Err(other),
    }
}

/// When threads' floating-point state is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FpuMode {
    /// At a thread's first use, unless this CPU leaks state that is kept so.
    Auto,
    /// At a thread's first use.
    Lazy,
    /// At every switch.
    Eager,
}

impl FpuMode {
    /// The choice on a command line; `Err` holds a value that is none.
    ///
    /// # Errors
    /// The unknown value.
    pub fn from_command_line(line: &str) -> Result<FpuMode, &str> {
        match option(line, "fpu") {
            None | Some("auto") => Ok(FpuMode::Auto),
            Some("lazy") => Ok(FpuMode::Lazy),
            Some("eager") => Ok(FpuMode::Eager),
            Some(other) => Err(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_among_words() {
        let line = " quiet log=debug  manifest=tests log=info =x a=b=c";
        assert_eq!(option(line, "log"), Some("info"));
        assert_eq!(option(line, "manifest"), Some("tests"));
        assert_eq!(option(line, "a"), Some("b=c"));
        assert_eq!(option(line, "quiet"), None);
        assert_eq!(option("", "log"), None);
    }

    #[test]
    fn an_unknown_fpu_mode_is_named() {
        assert_eq!(
            FpuMode::from_command_line("x fpu=eager"),
            Ok(FpuMode::Eager)
        );
        assert_eq!(FpuMode::from_command_line("fpu=lazy"), Ok(FpuMode::Lazy));
        assert_eq!(FpuMode::from_command_line("fpu=auto"), Ok(FpuMode::Auto));
        assert_eq!(FpuMode::from_command_line(""), Ok(FpuMode::Auto));
        assert_eq!(FpuMode::from_command_line("fpu=never"), Err("never"));
    }

    #[test]
    fn an_unknown_mitigation_is_named() {
        assert_eq!(mitigations("mitigations=off"), Ok(Choice::Off));
        assert_eq!(
            mitigations("mitigations=off mitigations=on"),
            Ok(Choice::On)
        );
        assert_eq!(mitigations(""), Ok(Choice::Auto));
        assert_eq!(mitigations("mitigations=some"), Err("some"));
    }
}
