//! Finds OVMF, the UEFI firmware for QEMU, where distributions put it.
//!
//! Code and variable store must be of one build and one size. Variants with secure boot are left out: they refuse an
//! unsigned loader.

use std::path::{Path, PathBuf};

/// A firmware: its code and the variable store it starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// The read-only flash.
    pub code: PathBuf,
    /// The template of its variables.
    pub vars: PathBuf,
}

/// Folder, code, variables; the first pair that is there is taken.
const PLACES: [(&str, &str, &str); 9] = [
    // Debian, Ubuntu
    ("/usr/share/OVMF", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF", "OVMF_CODE.fd", "OVMF_VARS.fd"),
    // Fedora
    ("/usr/share/edk2/ovmf", "OVMF_CODE.fd", "OVMF_VARS.fd"),
    // Arch
    ("/usr/share/edk2/x64", "OVMF_CODE.4m.fd", "OVMF_VARS.4m.fd"),
    ("/usr/share/edk2-ovmf/x64", "OVMF_CODE.fd", "OVMF_VARS.fd"),
    // openSUSE
    (
        "/usr/share/qemu",
        "ovmf-x86_64-code.bin",
        "ovmf-x86_64-vars.bin",
    ),
    // What QEMU ships itself; the variable store of its 32-bit build is the one for both.
    (
        "/opt/homebrew/share/qemu",
        "edk2-x86_64-code.fd",
        "edk2-i386-vars.fd",
    ),
    (
        "/usr/local/share/qemu",
        "edk2-x86_64-code.fd",
        "edk2-i386-vars.fd",
    ),
    (
        "/usr/share/qemu",
        "edk2-x86_64-code.fd",
        "edk2-i386-vars.fd",
    ),
];

/// The system's firmware, if there is one.
pub fn find() -> Option<Firmware> {
    find_below(Path::new("/"))
}

fn find_below(root: &Path) -> Option<Firmware> {
    PLACES.iter().find_map(|(folder, code, vars)| {
        let folder = root.join(folder.trim_start_matches('/'));
        let found = Firmware {
            code: folder.join(code),
            vars: folder.join(vars),
        };
        (found.code.is_file() && found.vars.is_file()).then_some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::find_below;

    #[test]
    fn code_without_its_variables_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("usr/share/OVMF");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("OVMF_CODE_4M.fd"), "").unwrap();
        std::fs::write(folder.join("OVMF_VARS.fd"), "").unwrap();
        assert_eq!(find_below(root.path()), None);
        std::fs::write(folder.join("OVMF_CODE.fd"), "").unwrap();
        assert_eq!(
            find_below(root.path()).unwrap().code,
            folder.join("OVMF_CODE.fd")
        );
    }
}
