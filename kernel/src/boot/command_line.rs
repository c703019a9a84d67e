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

/// Whether an idle CPU is to poll and never to halt; `Err` holds a value that is no choice.
///
/// # Errors
/// The unknown value.
pub fn polls_when_idle(line: &str) -> Result<bool, &str> {
    match option(line, "idle") {
        None | Some("halt") => Ok(false),
        Some("poll") => Ok(true),
        Some(other) => Err(other),
    }
}

/// The components of floating-point state that a command line allows, as XCR0 has them; all, if it does not say. `Err` holds a value
/// that is no number.
///
/// # Errors
/// The value.
pub fn components(line: &str) -> Result<u64, &str> {
    let Some(value) = option(line, "xcr0") else {
        return Ok(u64::MAX);
    };
    let (digits, radix) = value
        .strip_prefix("0x")
        .map_or((value, 10), |digits| (digits, 16));
    u64::from_str_radix(digits, radix).map_err(|_| value)
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
    fn an_idle_cpu_halts_unless_it_is_asked_to_poll() {
        assert_eq!(polls_when_idle("fpu=lazy"), Ok(false));
        assert_eq!(polls_when_idle("idle=poll idle=halt"), Ok(false));
        assert_eq!(polls_when_idle("idle=poll"), Ok(true));
        assert_eq!(polls_when_idle("idle=mwait"), Err("mwait"));
    }

    #[test]
    fn components_are_a_number_and_what_is_none_is_named() {
        assert_eq!(components("fpu=lazy"), Ok(u64::MAX));
        assert_eq!(components("xcr0=7"), Ok(7));
        assert_eq!(components("xcr0=0xE7"), Ok(0xE7));
        for bad in ["", "avx", "0x", "-1", "0x1_0", "0x10000000000000000"] {
            let line = std::format!("xcr0={bad}");
            assert_eq!(components(&line), Err(bad));
        }
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
