//! The boot archive (`servers/rt/src/archive.rs`): what is accepted can be walked and searched, and no file reaches out of it.

use rt::archive::Archive;

use crate::{is_one_line, lies_in};

/// Opens an archive, goes through its files, and looks each up by its name.
///
/// # Panics
/// If a file is not in the archive, or not found.
pub fn check(bytes: &[u8]) {
    let archive = match Archive::new(bytes) {
        Ok(archive) => archive,
        Err(error) => return is_one_line(&error),
    };
    let files: Vec<_> = archive.files().collect();
    // A header for each.
    assert!(files.len() <= bytes.len() / 512, "more files than blocks");
    for file in &files {
        assert!(lies_in(file.contents, bytes), "{} lies outside", file.name);
        // An absolute name, or one that is there before, is not found under itself.
        let first = files.iter().find(|other| other.name == file.name);
        if !file.name.starts_with('/') {
            let found = archive.find(&file.name);
            assert_eq!(found, first.map(|first| first.contents), "{}", file.name);
        }
    }
    assert_eq!(archive.find("no such file of any archive, ever"), None);
}
