//! Packs the boot archive: a plain `ustar` of user programs, manifests and files. `initrd/README.md` states the rules.
//!
//! The archive depends on its contents alone: names are sorted, times are zero, owners are root. What may go wrong: a
//! file name that `ustar` or the system's own reader can't hold, which is refused here by name.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Archive;

/// Manifests of the test image alone: any whose name starts with one of these.
const TEST_MANIFESTS: [&str; 2] = ["test", "bench"];

/// Names and contents of what an archive holds; a name uses `/`.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The manifests and files of the folder `initrd/` that belong into `archive`.
///
/// # Errors
/// If the folder can't be read or holds something that is neither file nor folder.
pub fn collect(folder: &Path, archive: Archive) -> Result<Files> {
    let mut files = Files::new();
    for (name, bytes) in read_folder(folder)? {
        let Some(stem) = name.strip_suffix(".toml") else {
            continue;
        };
        if archive == Archive::Test || !TEST_MANIFESTS.iter().any(|t| stem.starts_with(t)) {
            files.insert(name, bytes);
        }
    }
    let extra = folder.join("files");
    if extra.is_dir() {
        collect_below(&extra, "", &mut files)?;
    }
    Ok(files)
}

fn collect_below(folder: &Path, prefix: &str, files: &mut Files) -> Result<()> {
    for (name, bytes) in read_folder(folder)? {
        let full = format!("{prefix}{name}");
        ensure!(
            files.insert(full.clone(), bytes).is_none(),
            "initrd/files/{full} has the name of a manifest"
        );
    }
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let name = file_name(&entry)?;
            collect_below(&entry.path(), &format!("{prefix}{name}/"), files)?;
        }
    }
    Ok(())
}

/// The plain files of one folder; hidden ones are left out.
fn read_folder(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = file_name(&entry)?;
        if name.starts_with('.') || entry.path().is_dir() {
            continue;
        }
        let path = entry.path();
        let bytes =
            std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        found.push((name, bytes));
    }
    Ok(found)
}

fn file_name(entry: &std::fs::DirEntry) -> Result<String> {
    match entry.file_name().into_string() {
        Ok(name) => Ok(name),
        Err(name) => bail!("file name {} is not UTF-8", name.display()),
    }
}

/// Longest name that fits a `ustar` header without the prefix field, which small readers don't know.
const LONGEST_NAME: usize = 99;

/// Packs `files` into an archive.
///
/// # Errors
/// If a name is empty, absolute, too long for a plain header, or not printable ASCII.
pub fn pack(files: &Files) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        ensure!(
            !name.is_empty()
                && !name.starts_with('/')
                && name.bytes().all(|b| b.is_ascii_graphic()),
            "'{name}' can't be a name in the archive: it must be relative, printable ASCII without spaces"
        );
        ensure!(
            name.len() <= LONGEST_NAME,
            "'{name}' can't be a name in the archive: it is longer than {LONGEST_NAME} bytes"
        );
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(if name.starts_with("bin/") {
            0o755
        } else {
            0o644
        });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes.as_slice())?;
    }
    archive.into_inner().context("archive")
}

/// Reads an archive back.
///
/// # Errors
/// If it is no sound archive.
pub fn unpack(bytes: &[u8]) -> Result<Files> {
    let mut files = Files::new();
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(name, content);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(
            files in proptest::collection::btree_map(
                "[a-z]{1,8}(/[a-z0-9.]{1,8}x)?", proptest::collection::vec(any::<u8>(), 0..2000), 0..12)
        ) {
            let packed = pack(&files).unwrap();
            prop_assert_eq!(packed.len() % 512, 0);
            prop_assert_eq!(unpack(&packed).unwrap(), files);
        }
    }

    #[test]
    fn truncated_archive_is_refused() {
        let packed = pack(&[("a".to_owned(), vec![1; 5000])].into()).unwrap();
        assert!(unpack(&packed[..3000]).is_err());
        assert!(unpack(&packed[..100]).is_err());
    }

    #[test]
    fn same_files_make_the_same_archive() {
        let files: Files = [("b".into(), vec![1]), ("a".into(), vec![2; 600])].into();
        assert_eq!(pack(&files).unwrap(), pack(&files.clone()).unwrap());
    }

    #[test]
    fn bad_names_are_refused() {
        for name in [
            "",
            "/etc/passwd",
            "with space",
            "umlaut\u{e4}",
            &"x".repeat(100),
        ] {
            let files: Files = [(name.to_owned(), vec![])].into();
            assert!(pack(&files).is_err(), "{name:?}");
        }
    }

    #[test]
    fn test_manifests_stay_out_of_the_product() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "services.toml",
            "tests.toml",
            "bench.toml",
            "README.md",
            ".hidden.toml",
        ] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        std::fs::create_dir_all(folder.path().join("files/etc")).unwrap();
        std::fs::write(folder.path().join("files/etc/motd"), "hello").unwrap();
        let names = |archive| {
            collect(folder.path(), archive)
                .unwrap()
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(names(Archive::Product), ["etc/motd", "services.toml"]);
        assert_eq!(
            names(Archive::Test),
            ["bench.toml", "etc/motd", "services.toml", "tests.toml"]
        );
    }
}
