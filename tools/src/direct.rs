//! Files as QEMU's own Multiboot loader takes them: `-kernel` and modules, with no firmware's boot in between.
//!
//! QEMU's list of modules is parted by commas, and a module's file ends at the first space. So the files get plain names
//! in a folder of their own, where QEMU is started, and the name that the loader is to know follows after a space.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::image::LOADER;
use crate::initrd::Files;

/// A folder with a loader and its modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// The folder QEMU is to be started in.
    pub folder: PathBuf,
    /// QEMU's argument for the modules.
    pub modules: String,
}

/// Name of the loader in the folder.
pub const PROGRAM: &str = "loader";

/// Writes `program` and `files` (but for UEFI's loader) to `folder`, those that differ from what is there.
///
/// # Errors
/// If a file's name can't be put in QEMU's list, or the folder can't be written.
pub fn write(folder: &Path, program: &[u8], files: &Files) -> Result<Direct> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    write_if_changed(&folder.join(PROGRAM), program)?;
    let mut modules = Vec::new();
    for (name, bytes) in files.iter().filter(|(name, _)| *name != LOADER) {
        ensure!(
            !name.contains([',', ' ', '\n']),
            "the file '{name}' can't be one of QEMU's modules: its name has a comma or a space"
        );
        let plain = name.replace('/', "-");
        write_if_changed(&folder.join(&plain), bytes)?;
        modules.push(format!("{plain} /{name}"));
    }
    Ok(Direct {
        folder: folder.to_owned(),
        modules: modules.join(","),
    })
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    // A machine that runs may have the old file open: it keeps it.
    let folder = path.parent().context("a file needs a folder")?;
    let mut file = tempfile::NamedTempFile::new_in(folder).context("temporary file")?;
    std::io::Write::write_all(&mut file, bytes).with_context(|| path.display().to_string())?;
    file.persist(path)
        .with_context(|| path.display().to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_carry_the_names_that_the_configuration_uses() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::from([
            (LOADER.into(), b"uefi".to_vec()),
            ("limine.conf".into(), b"a".to_vec()),
            ("switchyard/kernel".into(), b"b".to_vec()),
        ]);
        let direct = write(folder.path(), b"program", &files).unwrap();
        assert_eq!(
            direct.modules,
            "limine.conf /limine.conf,switchyard-kernel /switchyard/kernel"
        );
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("switchyard-kernel"), b"b");
        assert_eq!(read(PROGRAM), b"program");
    }

    #[test]
    fn name_that_would_split_the_list_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::from([("a,b".into(), Vec::new())]);
        assert!(write(folder.path(), b"", &files).is_err());
    }
}
