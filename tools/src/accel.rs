//! Chooses how QEMU runs the guest: with KVM only where it really works, otherwise by translation (TCG).
//!
//! `/dev/kvm` alone proves nothing: some containers and cloud machines have the device but no virtualisation behind it,
//! and KVM then fails or hangs late. So the CPU's own flags must show it first, and then KVM must make a virtual machine.

#[cfg(target_os = "linux")]
mod kvm;

use std::fs::File;

use anyhow::{Result, bail};

/// An accelerator of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The hardware's virtualisation.
    Kvm,
    /// Translation; works everywhere.
    Tcg,
}

impl Accel {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    /// The accelerator for `asked` (`auto`, `kvm` or `tcg`) and why, in half a sentence.
    ///
    /// # Errors
    /// If `asked` is another word.
    pub fn choose(asked: &str) -> Result<(Self, String)> {
        match asked {
            "kvm" => Ok((Accel::Kvm, "asked for".into())),
            "tcg" => Ok((Accel::Tcg, "asked for".into())),
            "auto" => Ok(match why_not_kvm() {
                None => (Accel::Kvm, "/dev/kvm works".into()),
                Some(why) => (Accel::Tcg, why),
            }),
            other => bail!("accel={other}: it may be auto, kvm or tcg"),
        }
    }
}

fn why_not_kvm() -> Option<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !shows_virtualisation(&cpuinfo) {
        return Some("the CPU shows no virtualisation (vmx or svm)".into());
    }
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(device) => try_kvm(&device).err().map(|why| format!("/dev/kvm: {why}")),
        Err(error) => Some(format!("/dev/kvm: {error}")),
    }
}

#[cfg(target_os = "linux")]
use kvm::make_a_machine as try_kvm;

#[cfg(not(target_os = "linux"))]
fn try_kvm(_device: &File) -> Result<(), String> {
    Err("KVM is a part of Linux".into())
}

fn shows_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|l| l.split_once(':'))
        .filter(|(key, _)| key.trim() == "flags")
        .any(|(_, flags)| flags.split_whitespace().any(|f| f == "vmx" || f == "svm"))
}

#[cfg(test)]
mod tests {
    use super::{Accel, shows_virtualisation};

    #[test]
    fn virtualisation_is_a_flag_of_its_own() {
        assert!(shows_virtualisation("flags\t\t: fpu vmx sse\n"));
        assert!(shows_virtualisation("flags\t\t: fpu svm\n"));
        // Linux lists features of VMX on a line of its own, and Intel's RAPL-like names hold the letters.
        assert!(!shows_virtualisation(
            "flags\t\t: fpu svm_lock\nvmx flags\t: vnmi\nmodel name: vmx\n"
        ));
    }

    #[test]
    fn unknown_accelerator_is_refused() {
        assert!(Accel::choose("hax").is_err());
        assert_eq!(Accel::choose("tcg").unwrap().0, Accel::Tcg);
    }
}
