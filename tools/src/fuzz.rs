//! `just fuzz`: looks for inputs that a reader of files or registers can't bear, for a bounded time.
//!
//! Words are `target=NAME` and `seconds=N`, in any order; without a target all have their turn. The targets are those of `cargo fuzz` in
//! `fuzz/`, built on stable: `cargo fuzz` has rustc's own coverage pass do the instrumenting, and no sanitizer, which would need nightly.
//! Inputs of `fuzz/corpus` are only read; what a run finds of interest goes to `build/fuzz`, where the next one finds it again.
//!
//! What may go wrong: there is no C++ compiler, which libFuzzer is built by, or no network at the first time; both are said.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo;
use crate::workspace::Workspace;

/// The `cargo-fuzz` that is fetched into `.tools`.
const VERSION: &str = "0.13.2";
/// What the targets are built for.
const HOST: &str = "x86_64-unknown-linux-gnu";
/// For how long each target runs, unless told otherwise; and the longest time.
const SECONDS: u32 = 60;
const MOST_SECONDS: u32 = 7 * 24 * 3600;
/// What one input may take: a hang and a leak are defects as well.
const LIMITS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=1024"];

/// What the words say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Words {
    targets: Vec<String>,
    seconds: u32,
}

impl Words {
    fn parse(words: &[String], known: &[String]) -> Result<Self> {
        let mut all = Self {
            targets: known.to_vec(),
            seconds: SECONDS,
        };
        for word in words {
            match word.split_once('=') {
                Some(("target", name)) => {
                    ensure!(
                        known.iter().any(|target| target == name),
                        "'{word}': the targets are {}",
                        known.join(", ")
                    );
                    all.targets = vec![name.to_owned()];
                }
                Some(("seconds", number)) => {
                    all.seconds = match number.parse() {
                        Ok(seconds @ 1..=MOST_SECONDS) => seconds,
                        _ => bail!("'{word}': 1 to {MOST_SECONDS}"),
                    };
                }
                _ => bail!("'{word}' is none of target=NAME, seconds=N"),
            }
        }
        Ok(all)
    }
}

/// Builds the targets and runs them one after another.
///
/// # Errors
/// If a word has no meaning, or the targets can't be built or started.
pub fn run(words: &[String]) -> Result<ExitCode> {
    let ws = Workspace::find()?;
    let Words { targets, seconds } = Words::parse(words, &known(&ws.root)?)?;
    let program = cargo_fuzz(&ws)?;
    let built = ws.target.join("fuzz");
    let mut build = Command::new(program);
    build
        .args(["fuzz", "build", "--sanitizer", "none", "--target", HOST])
        .arg("--target-dir")
        .arg(&built)
        .current_dir(ws.root.join("fuzz"))
        .stdin(Stdio::null());
    cargo::run(build)?;
    for target in targets {
        eprintln!("fuzz: {target}, for {seconds} s");
        let own = ws.build.join("fuzz").join(&target);
        let found = own.join("corpus");
        fs::create_dir_all(&found).with_context(|| format!("can't make {}", found.display()))?;
        let mut command = Command::new(built.join(HOST).join("release").join(&target));
        command
            .args(LIMITS)
            .args([
                format!("-max_total_time={seconds}"),
                "-print_final_stats=1".into(),
            ])
            .arg(prefix(&own))
            .arg(found)
            .arg(ws.root.join("fuzz/corpus").join(&target))
            .stdin(Stdio::null());
        if let Err(error) = cargo::run(command) {
            eprintln!("fuzz: {error:#}");
            eprintln!(
                "fuzz: the input is in build/fuzz/{target}; once it is mended, keep it in fuzz/corpus/{target}, named for what it is"
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    eprintln!("fuzz: nothing was found that is wrong");
    Ok(ExitCode::SUCCESS)
}

/// libFuzzer's word for where it puts an input that is a defect.
fn prefix(folder: &Path) -> OsString {
    let mut word = OsString::from("-artifact_prefix=");
    word.push(folder);
    word.push("/");
    word
}

/// The names of the targets: those of their programs.
fn known(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// `cargo-fuzz`, put into `.tools` if it is not there.
fn cargo_fuzz(ws: &Workspace) -> Result<PathBuf> {
    ensure!(
        runs(Command::new("c++").arg("--version")),
        "fuzzing needs a C++ compiler, which libFuzzer is built by (Debian: apt install g++)"
    );
    let root = ws.root.join(".tools");
    let program = root.join("bin/cargo-fuzz");
    if !runs(Command::new(&program).args(["fuzz", "--version"])) {
        eprintln!("fuzz: compiling cargo-fuzz into .tools (a minute or two, once)");
        let mut install = cargo::command(ws);
        install
            .args(["install", "cargo-fuzz", "--locked", "--version", VERSION])
            .arg("--root")
            .arg(root);
        cargo::run(install)?;
    }
    Ok(program)
}

/// Whether a command ends well; what it says is nobody's business.
fn runs(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Words> {
        let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
        Words::parse(&words, &["calls".into(), "elf".into()])
    }

    #[test]
    fn all_targets_have_a_minute_unless_told_otherwise() {
        let words = parsed(&[]).unwrap();
        assert_eq!((words.targets.len(), words.seconds), (2, SECONDS));
        let words = parsed(&["seconds=5", "target=elf"]).unwrap();
        assert_eq!((words.targets, words.seconds), (vec!["elf".into()], 5));
    }

    #[test]
    fn words_of_no_meaning_are_named_with_what_there_is() {
        let error = format!("{:#}", parsed(&["target=elves"]).unwrap_err());
        assert!(
            error.contains("elves") && error.contains("calls, elf"),
            "{error}"
        );
        for word in ["seconds=0", "seconds=-1", "seconds=x", "elf", "targets=elf"] {
            let error = parsed(&[word]).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{word}");
        }
    }

    #[test]
    fn targets_are_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let names = known(&root).unwrap();
        assert!(names.iter().any(|name| name == "elf"), "{names:?}");
    }
}
