//! `just grind`: random system calls for as long as one likes, on as many CPUs as one likes.
//!
//! Words are `seed=N`, `calls=N` and `cpus=N`, in any order. Without a seed there is a new one, which is said first: the same seed, number of
//! calls and of CPUs make the same calls again, and on one CPU the same machine, moment by moment.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::machine_tests::{Lab, grind};
use crate::workspace::Workspace;

/// Calls, unless told otherwise.
const CALLS: u64 = 2_000_000;
const CPUS: u64 = 4;
/// What a run may take at least, and how many calls a second it makes at least.
const LIMIT: Duration = Duration::from_mins(4);
const CALLS_A_SECOND: u64 = 500;

/// What the words say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Words {
    seed: u64,
    calls: u64,
    cpus: u64,
}

impl Words {
    fn parse(words: &[String], new_seed: u64) -> Result<Self> {
        let mut all = Self {
            seed: new_seed,
            calls: CALLS,
            cpus: CPUS,
        };
        for word in words {
            let (name, value) = word
                .split_once('=')
                .with_context(|| format!("'{word}' is none of seed=N, calls=N, cpus=N"))?;
            let number = match value.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => value.parse(),
            }
            .with_context(|| format!("'{word}'"))?;
            match name {
                "seed" => all.seed = number,
                "calls" => all.calls = number,
                "cpus" if (1..=64).contains(&number) => all.cpus = number,
                "cpus" => bail!("'{word}': 1 to 64"),
                _ => bail!("'{word}' is none of seed=N, calls=N, cpus=N"),
            }
        }
        Ok(all)
    }
}

/// Builds, boots, judges.
///
/// # Errors
/// If a word has no meaning, or the machine can't be built or started.
pub fn run(words: &[String]) -> Result<ExitCode> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let Words { seed, calls, cpus } = Words::parse(words, now.as_micros() as u64)?;
    let lab = Lab::new(Workspace::find()?, "")?;
    eprintln!("grind: ./justw grind seed={seed:#x} calls={calls} cpus={cpus}");
    let limit = LIMIT + Duration::from_secs(calls / CALLS_A_SECOND);
    let options = format!("seed={seed:#x},calls={calls}");
    let outcome = grind::boot(&lab, "grind", cpus as u32, &options, limit)?;
    for detail in &outcome.details {
        println!("{detail}");
    }
    println!("{}", outcome.counts);
    eprintln!("grind: the log is build/logs/grind.log");
    Ok(if outcome.counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        eprintln!("grind: again with ./justw grind seed={seed:#x} calls={calls} cpus={cpus}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Words> {
        let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
        Words::parse(&words, 7)
    }

    #[test]
    fn words_come_in_any_order() {
        let words = parsed(&["cpus=2", "seed=0x10"]).unwrap();
        assert_eq!((words.seed, words.calls, words.cpus), (16, CALLS, 2));
        assert_eq!(parsed(&[]).unwrap().seed, 7);
    }

    #[test]
    fn words_without_a_meaning_are_named() {
        for word in ["seed", "seed=x", "cpus=0", "cpus=65", "cals=1", "calls=-1"] {
            let error = parsed(&[word]).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{word}");
        }
    }
}
