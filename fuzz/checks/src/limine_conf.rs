//! `limine.conf` (`boot/core/src/config.rs`): what is accepted has an entry to boot, or says why not.

use boot_core::config::{Config, Entry, HURRIED_TENTHS, MESSAGE_TENTHS};
use boot_core::path::FilePath;

use crate::is_one_line;

/// Reads a configuration and chooses its entry.
///
/// # Panics
/// If an entry was chosen that can't be booted as it stands.
pub fn check(file: &[u8]) {
    // This one is asked also of files that can't be read.
    let shown = Config::message_tenths(file);
    assert!([0, HURRIED_TENTHS, MESSAGE_TENTHS].contains(&shown));
    let config = match Config::parse(file) {
        Ok(config) => config,
        Err(fault) => return is_one_line(&fault),
    };
    // Each entry has a line of its own.
    assert!(config.entry_count() <= file.len());
    for warning in &config.warnings {
        is_one_line(warning);
    }
    match config.default_entry() {
        Ok(entry) => is_bootable(&entry),
        Err(fault) => is_one_line(&fault),
    }
}

fn is_bootable(entry: &Entry) {
    assert!(!entry.name.is_empty());
    assert_eq!(
        FilePath::parse(&entry.kernel_text),
        Ok(entry.kernel.clone())
    );
    for module in &entry.modules {
        assert_eq!(FilePath::parse(&module.text), Ok(module.path.clone()));
    }
    for path in entry
        .modules
        .iter()
        .map(|module| &module.path)
        .chain([&entry.kernel])
    {
        assert!(path.path.len() > 1 && path.path.starts_with('/'));
    }
    if let Some(levels) = entry.min_paging_levels {
        assert!((4..=5).contains(&levels));
    }
}
