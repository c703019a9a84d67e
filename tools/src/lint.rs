//! `just lint`: clippy on every package, for the target it is written for, with no warning let through.

use anyhow::Result;

use crate::cargo::{self, BARE, UEFI};
use crate::host_tests;
use crate::workspace::{USER_TARGETS, Workspace};

/// Runs clippy over the workspace.
///
/// # Errors
/// If clippy can't be run or finds something.
pub fn run() -> Result<()> {
    let ws = Workspace::find()?;
    clippy(
        &ws,
        BARE,
        &["kernel", "run-kernel", "boot-foreign", "boot-multiboot"],
    )?;
    clippy(&ws, UEFI, &["boot-uefi"])?;
    for target in USER_TARGETS {
        clippy(&ws, target, &ws.packages_for(target, |_| true))?;
    }
    // Libraries, with their tests and those in folders of their own, as the host tests build them.
    let mut command = cargo::command(&ws);
    command.args(["clippy", "--profile", "test"]);
    command.args(host_tests::selection(&ws));
    command.args(["--", "--deny", "warnings"]);
    cargo::run(command)?;
    let mut command = cargo::command(&ws);
    command.args([
        "clippy",
        "--package",
        "tools",
        "--package",
        "bench-native",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]);
    cargo::run(command)
}

fn clippy(ws: &Workspace, target: &str, packages: &[&str]) -> Result<()> {
    let mut command = cargo::cross_command(ws);
    command.args(["clippy", "--target", target]);
    for package in packages {
        command.args(["--package", package]);
    }
    command.args(["--", "--deny", "warnings"]);
    cargo::run(command)
}
