//! Builds what goes into an image: the kernel, the loader, the foreign test kernel and the user programs, each for its
//! own target. Cargo decides what is out of date, and shows its own progress.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::{Archive, USER_TARGETS, Workspace};

/// Target of the kernel and of foreign kernels.
pub const BARE: &str = "x86_64-unknown-none";
/// Target of the loader.
pub const UEFI: &str = "x86_64-unknown-uefi";
/// Target of user programs; it stands in for "bare metal with hard float" (see `.cargo/config.toml`).
pub const USER: &str = "x86_64-unknown-linux-musl";

/// Target of 32-bit user programs, likewise.
pub const USER32: &str = "i686-unknown-linux-gnu";

/// A build profile of the workspace's `Cargo.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// What is shipped.
    Release,
    /// The same with every internal check on: what the machine tests run.
    Checked,
}

impl Profile {
    /// Cargo's name for it, and that of its folder under the target's.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Checked => "checked",
        }
    }
}

/// Where a built program lies.
pub fn artefact(ws: &Workspace, target: &str, profile: Profile, file: &str) -> PathBuf {
    ws.target.join(target).join(profile.name()).join(file)
}

/// Builds the kernel and the user programs of `archive` in `profile`, and the loaders.
///
/// # Errors
/// If cargo can't be run or a build fails; cargo has said why by then.
pub fn build_system(ws: &Workspace, profile: Profile, archive: Archive) -> Result<()> {
    build(ws, BARE, profile, &["kernel"])?;
    for target in USER_TARGETS {
        let packages = ws.packages_for(target, |program| program.is_in(archive));
        if !packages.is_empty() {
            build(ws, target, profile, &packages)?;
        }
    }
    build_loader(ws)
}

/// Builds the loaders, for UEFI and for machines without, always as they are shipped.
///
/// # Errors
/// As [`build_system`].
pub fn build_loader(ws: &Workspace) -> Result<()> {
    build(ws, UEFI, Profile::Release, &["boot-uefi"])?;
    build(ws, BARE, Profile::Release, &["boot-multiboot"])
}

/// Builds `packages` for `target`.
///
/// # Errors
/// As [`build_system`].
pub fn build(ws: &Workspace, target: &str, profile: Profile, packages: &[&str]) -> Result<()> {
    build_with(ws, target, profile, packages, "", None)
}

/// Builds `packages` for `target` with some of their features, separated by commas, and with compiler flags in place of
/// those of `.cargo/config.toml`.
///
/// # Errors
/// As [`build_system`].
pub fn build_with(
    ws: &Workspace,
    target: &str,
    profile: Profile,
    packages: &[&str],
    features: &str,
    rustflags: Option<&str>,
) -> Result<()> {
    let mut cargo = cross_command(ws);
    if let Some(flags) = rustflags {
        cargo.env("RUSTFLAGS", flags);
    }
    cargo.args(["build", "--profile", profile.name(), "--target", target]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    if !features.is_empty() {
        cargo.args(["--features", features]);
    }
    run(cargo)
}

/// A cargo that reads no standard input, at the workspace's root.
pub fn command(ws: &Workspace) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&ws.root).stdin(Stdio::null());
    cargo
}

/// Compiler flags and targets that a user or a CI system may have set for builds in general.
const FOR_THE_HOST: [&str; 4] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
];

/// A [`command`] for what runs inside the machine. General compiler flags in the environment (`-D warnings` is common)
/// would not be added to those of `.cargo/config.toml` but replace them, and with them how a kernel or a program is
/// laid out and linked; so they are left out here.
pub fn cross_command(ws: &Workspace) -> Command {
    let mut cargo = command(ws);
    for name in FOR_THE_HOST {
        cargo.env_remove(name);
    }
    cargo
}

/// Runs a command to its end.
///
/// # Errors
/// If it can't be started or ends with a failure.
pub fn run(mut command: Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command
        .status()
        .with_context(|| format!("can't run {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// Reads a program as it goes into an image: without debug information, which nothing in the machine reads, but with
/// its symbols, which backtraces need. Falls back on the whole file where there is no `objcopy` at all.
///
/// # Errors
/// If the file is missing or `objcopy` can't read it.
pub fn read_stripped(ws: &Workspace, path: &Path) -> Result<Vec<u8>> {
    let Some(objcopy) = objcopy(ws) else {
        return std::fs::read(path).with_context(|| format!("can't read {}", path.display()));
    };
    let scratch = tempfile::NamedTempFile::new().context("temporary file")?;
    let mut command = Command::new(objcopy);
    command
        .arg("--strip-debug")
        .arg(path)
        .arg(scratch.path())
        .stdin(Stdio::null());
    run(command)?;
    std::fs::read(scratch.path()).context("stripped program")
}

/// `llvm-objcopy` of the toolchain's `llvm-tools` component, or else the `objcopy` that comes with a C compiler.
fn objcopy(ws: &Workspace) -> Option<PathBuf> {
    let rustc = |what: &[&str]| {
        let out = Command::new("rustc")
            .args(what)
            .current_dir(&ws.root)
            .output()
            .ok()?;
        String::from_utf8(out.stdout).ok()
    };
    let own = || {
        let sysroot = rustc(&["--print", "sysroot"])?;
        let verbose = rustc(&["-vV"])?;
        let host = verbose.lines().find_map(|l| l.strip_prefix("host: "))?;
        let path = Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(host)
            .join("bin/llvm-objcopy");
        path.exists().then_some(path)
    };
    own().or_else(|| {
        let hosts = Path::new("/usr/bin/objcopy");
        hosts.exists().then(|| hosts.to_path_buf())
    })
}
