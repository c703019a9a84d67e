//! `just setup`: what a machine needs besides Rust, and how it gets there.
//!
//! Rust's own targets and the C compiler are seen to before this program can be compiled (`tools/bootstrap.sh`). Here:
//! QEMU and OVMF, which are required, and GRUB's tools, which only the image for machines without UEFI needs: where they
//! can't be had, the tests that need them are skipped. Where apt may be used (as root or through sudo) they are installed; elsewhere the
//! packages are named. Sudo asks for a password only where somebody sits at a terminal; it reads it from there, so piped
//! input stays whole. When all is there this says nothing and costs a few milliseconds.

use std::fs::File;
use std::io::{IsTerminal, stderr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::bios;
use crate::bochs;
use crate::firmware;
use crate::machine::Qemu;
use crate::qemu10;

/// Something that must be there, and the packages that bring it.
struct Need {
    name: &'static str,
    here: fn() -> bool,
    /// Whether nothing works without it. What is not is only looked for when everything is asked for.
    required: bool,
    apt: &'static str,
    dnf: &'static str,
    pacman: &'static str,
    brew: &'static str,
}

const NEEDS: [Need; 4] = [
    Need {
        name: "QEMU (qemu-system-x86_64)",
        here: || qemu10::version(&Qemu::system()).is_some(),
        required: true,
        apt: "qemu-system-x86",
        dnf: "qemu-system-x86-core",
        pacman: "qemu-system-x86",
        brew: "qemu",
    },
    Need {
        name: "OVMF (UEFI firmware for QEMU)",
        here: || firmware::find().is_some(),
        required: true,
        apt: "ovmf",
        dnf: "edk2-ovmf",
        pacman: "edk2-ovmf",
        brew: "qemu",
    },
    Need {
        name: "GRUB's BIOS half and grub-mkrescue",
        here: bios::is_possible,
        required: false,
        apt: "grub-common grub-pc-bin xorriso mtools",
        dnf: "grub2-tools-extra grub2-pc-modules xorriso mtools",
        pacman: "grub libisoburn mtools",
        brew: "i686-elf-grub xorriso mtools",
    },
    Need {
        name: "Bochs (a second emulator, for the machine tests)",
        here: || bochs::find().is_some(),
        required: false,
        apt: "bochs bochs-term bochsbios vgabios",
        dnf: "bochs",
        pacman: "bochs",
        brew: "bochs",
    },
];

/// Checks, and installs what is missing if that is possible here: what is required, or `everything`.
///
/// # Errors
/// If something required is missing and can't be installed; the message names the packages.
pub fn run(everything: bool) -> Result<()> {
    let before = missing(everything);
    if before.is_empty() {
        return Ok(());
    }
    for need in &before {
        eprintln!("setup: {} is missing", need.name);
    }
    if let Some(apt) = usable_apt() {
        let packages: Vec<&str> = before
            .iter()
            .flat_map(|n| n.apt.split_whitespace())
            .collect();
        eprintln!("setup: installing {}", packages.join(" "));
        if apt == SUDO_ASKS {
            eprintln!("setup: sudo may ask for your password for that");
        }
        // Lists may be old or absent; if they can't be renewed, the install says what is wrong.
        apt_get(apt, &["update"]);
        let mut arguments = vec!["install", "--assume-yes", "--no-install-recommends"];
        arguments.extend(&packages);
        apt_get(apt, &arguments);
    }
    let left = missing(everything);
    if left.is_empty() {
        eprintln!("setup: all there");
        return Ok(());
    }
    if left.iter().any(|n| n.required) {
        bail!("{}", advice(&left));
    }
    eprintln!("setup: {}", advice(&left));
    eprintln!("setup: all else is there; what needs them is left out");
    Ok(())
}

fn missing(everything: bool) -> Vec<&'static Need> {
    NEEDS
        .iter()
        .filter(|n| (n.required || everything) && !(n.here)())
        .collect()
}

/// What to type, on each kind of system.
fn advice(left: &[&Need]) -> String {
    let list = |of: fn(&Need) -> &'static str| {
        let mut packages: Vec<&str> = left.iter().map(|n| of(n)).collect();
        packages.dedup();
        packages.join(" ")
    };
    let names: Vec<&str> = left.iter().map(|n| n.name).collect();
    format!(
        "still missing: {}. Install:\n    apt:    sudo apt install {}\n    dnf:    sudo dnf install {}\n    \
         pacman: sudo pacman -S {}\n    brew:   brew install {}",
        names.join(", "),
        list(|n| n.apt),
        list(|n| n.dnf),
        list(|n| n.pacman),
        list(|n| n.brew),
    )
}

const ROOT: &[&str] = &["env", QUIET, "apt-get"];
/// Sudo hands on no environment of its caller's, hence `env`.
const SUDO: &[&str] = &["sudo", "-n", "env", QUIET, "apt-get"];
const SUDO_ASKS: &[&str] = &["sudo", "env", QUIET, "apt-get"];
const QUIET: &str = "DEBIAN_FRONTEND=noninteractive";

/// How apt-get is called here, if it may be.
fn usable_apt() -> Option<&'static [&'static str]> {
    let works = |command: &[&str]| {
        Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if !works(&["apt-get", "--version"]) {
        None
    } else if rustix::process::geteuid().is_root() {
        Some(ROOT)
    } else if works(&["sudo", "-n", "true"]) {
        Some(SUDO)
    } else if works(&["sudo", "-V"]) && somebody_is_there() {
        Some(SUDO_ASKS)
    } else {
        None
    }
}

/// Whether a person can read a question and answer it.
fn somebody_is_there() -> bool {
    stderr().is_terminal() && File::open("/dev/tty").is_ok()
}

/// Where the standard output of a helper goes whose words are progress: to standard error, since standard output is the
/// machine's.
pub fn progress() -> Stdio {
    stderr()
        .as_fd()
        .try_clone_to_owned()
        .map_or_else(|_| Stdio::null(), Stdio::from)
}

/// Runs apt-get; whether it did its work is seen by what is there afterwards.
fn apt_get(apt: &[&str], arguments: &[&str]) {
    let status = Command::new(apt[0])
        .args(&apt[1..])
        .arg("-q")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(progress())
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("setup: apt-get {} failed ({status})", arguments[0]),
        Err(error) => eprintln!("setup: apt-get can't be run: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_each_package_once_for_every_system() {
        let all: Vec<&Need> = NEEDS.iter().collect();
        let text = advice(&all);
        for line in [
            "apt install qemu-system-x86 ovmf grub-common grub-pc-bin xorriso mtools bochs bochs-term bochsbios vgabios\n",
            "dnf install qemu-system-x86-core edk2-ovmf grub2-tools-extra",
            "pacman -S qemu-system-x86 edk2-ovmf grub",
            "brew install qemu i686-elf-grub",
        ] {
            assert!(text.contains(line), "{line} is not in: {text}");
        }
        let brew = text.lines().last().unwrap();
        assert_eq!(brew.matches("qemu").count(), 1);
    }

    #[test]
    fn what_only_some_tests_need_is_not_asked_of_everybody() {
        let of =
            |everything| -> Vec<bool> { missing(everything).iter().map(|n| n.required).collect() };
        assert!(of(false).iter().all(|required| *required));
        assert!(NEEDS.iter().any(|n| !n.required));
    }
}
