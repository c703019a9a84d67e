//! What the argument string says: `seed=N`, `switches=N`, `seconds=N`, in any order; numbers decimal or `0x` hexadecimal.

use alloc::format;
use alloc::string::String;

/// Switches that a run makes unless told otherwise.
const SWITCHES: u64 = 1_000_000;
/// Seconds of the machine's time that it may take unless told otherwise.
const SECONDS: u64 = 240;

/// The options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// What all chance comes from; `None`: a new one.
    pub seed: Option<u64>,
    /// Switches to be made.
    pub switches: u64,
    /// Seconds that this may take.
    pub seconds: u64,
}

impl Options {
    /// Reads them.
    ///
    /// # Errors
    /// What is no option, in words.
    pub fn parse(text: &str) -> Result<Options, String> {
        let mut options = Options {
            seed: None,
            switches: SWITCHES,
            seconds: SECONDS,
        };
        for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
            let bad = || format!("'{word}' is no option: seed=N, switches=N, seconds=N");
            let (name, value) = word.split_once('=').ok_or_else(bad)?;
            let value = number(value).ok_or_else(bad)?;
            match name {
                "seed" => options.seed = Some(value),
                "switches" => options.switches = value,
                "seconds" => options.seconds = value,
                _ => return Err(bad()),
            }
        }
        Ok(options)
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn options_come_in_any_order() {
        let options = Options::parse("switches=5,seed=0x1F seconds=9").unwrap();
        assert_eq!(
            (options.seed, options.switches, options.seconds),
            (Some(31), 5, 9)
        );
        let options = Options::parse("").unwrap();
        assert_eq!((options.seed, options.switches), (None, 1_000_000));
    }

    #[test]
    fn what_is_no_option_is_named() {
        for text in [
            "seeds=1", "seed", "seed=", "seed=-1", "seed=1x", "=1", "seed=0x",
        ] {
            let error = Options::parse(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
