//! What the argument string says: `seed=N`, `calls=N`, in any order; numbers decimal or `0x` hexadecimal.

use alloc::format;
use alloc::string::String;

/// Where chance begins unless told otherwise: fixed, so that what failed fails again.
pub const SEED: u64 = 0x5EED_0001;
/// Calls that a run makes unless told otherwise.
pub const CALLS: u64 = 200_000;

/// The options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// What all chance comes from.
    pub seed: u64,
    /// Random calls to be made, by all programs together.
    pub calls: u64,
}

impl Options {
    /// Reads them.
    ///
    /// # Errors
    /// What is no option, in words.
    pub fn parse(text: &str) -> Result<Options, String> {
        let mut options = Options {
            seed: SEED,
            calls: CALLS,
        };
        for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
            let bad = || format!("'{word}' is no option: seed=N, calls=N");
            let (name, value) = word.split_once('=').ok_or_else(bad)?;
            let value = number(value).ok_or_else(bad)?;
            match name {
                "seed" => options.seed = value,
                "calls" => options.calls = value,
                _ => return Err(bad()),
            }
        }
        Ok(options)
    }
}

/// A number as options have it.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_in_any_order() {
        let parsed = |seed, calls| Ok(Options { seed, calls });
        assert_eq!(Options::parse("calls=5,seed=0x1F"), parsed(31, 5));
        assert_eq!(Options::parse("seed=7"), parsed(7, CALLS));
        assert_eq!(Options::parse(""), parsed(SEED, CALLS));
    }

    #[test]
    fn what_is_no_option_is_named() {
        for text in ["seed", "seed=", "seed=x", "sed=1", "calls=-1", "calls=0x"] {
            let error = Options::parse(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
