//! The boot configuration in an image: the repository's `limine.cfg` with, where asked, another kernel command line.
//!
//! Only the `cmdline:` line of the first entry is touched; all else stays byte for byte, so that what a person wrote is
//! what boots.

use anyhow::{Result, bail};

use crate::image::CONFIG;
use crate::initrd::Files;

/// `text` with the first entry's command line set to `cmdline`.
///
/// # Errors
/// If `cmdline` holds a line break, or `text` has no entry to put it in.
pub fn with_cmdline(text: &str, cmdline: &str) -> Result<String> {
    if cmdline.contains(['\n', '\r']) {
        bail!("a kernel command line can't hold a line break");
    }
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let Some(entry) = lines.iter().position(|l| l.trim_start().starts_with('/')) else {
        bail!("limine.cfg has no entry (a line that starts with '/') to give a command line to");
    };
    let end = lines[entry + 1..]
        .iter()
        .position(|l| l.trim_start().starts_with('/'))
        .map_or(lines.len(), |n| entry + 1 + n);
    let new = format!("    cmdline: {cmdline}");
    let old = (entry + 1..end).find(|&n| {
        lines[n].split_once(':').is_some_and(|(key, _)| {
            let key = key.trim();
            key.eq_ignore_ascii_case("cmdline") || key.eq_ignore_ascii_case("kernel_cmdline")
        })
    });
    match old {
        Some(n) => lines[n] = new,
        None => lines.insert(entry + 1, new),
    }
    Ok(lines.join("\n") + "\n")
}

/// The command line of the first entry that has one; empty if none has.
fn cmdline(text: &str) -> &str {
    text.lines()
        .filter_map(|line| line.trim().split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case("cmdline"))
        .map_or("", |(_, value)| value.trim())
}

/// The files of an image with more words on the kernel's command line.
///
/// # Errors
/// As [`with_cmdline`].
pub fn with_options(files: &Files, options: &str) -> Result<Files> {
    let text = String::from_utf8_lossy(&files[CONFIG]).into_owned();
    let line = format!("{} {options}", cmdline(&text));
    let mut files = files.clone();
    files.insert(
        CONFIG.into(),
        with_cmdline(&text, line.trim())?.into_bytes(),
    );
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{with_cmdline, with_options};
    use crate::image::CONFIG;

    const CFG: &str = "timeout: 0\n\n/One\n    protocol: limine\n    cmdline: a=b\n    path: boot():/k\n\
                       /Two\n    cmdline: keep\n";

    #[test]
    fn command_line_of_the_first_entry_is_replaced_and_nothing_else() {
        let new = with_cmdline(CFG, "manifest=tests x:y").unwrap();
        assert_eq!(new, CFG.replace("a=b", "manifest=tests x:y"));
    }

    #[test]
    fn words_are_added_to_the_command_line_of_an_image() {
        let files = [(CONFIG.into(), CFG.as_bytes().to_vec())].into();
        let new = with_options(&files, "mitigations=on").unwrap();
        let text = String::from_utf8(new[CONFIG].clone()).unwrap();
        assert_eq!(text, CFG.replace("a=b", "a=b mitigations=on"));
    }

    #[test]
    fn command_line_is_added_where_there_was_none() {
        let new =
            with_cmdline("/One\n    protocol: limine\n/Two\n    cmdline: keep\n", "z").unwrap();
        assert_eq!(
            new,
            "/One\n    cmdline: z\n    protocol: limine\n/Two\n    cmdline: keep\n"
        );
    }

    #[test]
    fn configuration_without_entry_is_refused() {
        assert!(with_cmdline("timeout: 0\n", "z").is_err());
    }

    #[test]
    fn line_break_in_a_command_line_is_refused() {
        assert!(with_cmdline(CFG, "a\nprotocol: linux").is_err());
    }
}
