//! Makes the image for machines without UEFI: a CD's, which also starts from a USB stick, with GRUB in front of the loader.
//!
//! GRUB's `grub-mkrescue` does the work; it needs its BIOS half, and `xorriso`. GRUB brings the loader and the files of the
//! boot as modules, each under the name that `limine.conf` uses. A CPU that can't run the system is told so by GRUB
//! already, in whatever mode the screen is. What may go wrong: the tools are not everywhere (the message names the
//! packages), and GRUB's menu is not ours (there is none: it goes on at once).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::disk;
use crate::image::LOADER;
use crate::initrd::Files;

/// The loader's place in the image.
const PROGRAM: &str = "boot/loader";
const MENU: &str = "boot/grub/grub.cfg";

/// Where distributions keep GRUB's BIOS half.
const GRUB: [&str; 2] = ["/usr/lib/grub/i386-pc", "/usr/share/grub/i386-pc"];

/// What is missing where no image can be made.
pub const MISSING: &str = "no grub-mkrescue with GRUB's BIOS half, or no xorriso (Debian: apt install grub-common \
                           grub-pc-bin xorriso mtools)";

/// GRUB's tool and the folder of its BIOS half, if both and `xorriso` are here.
fn tool() -> Option<(&'static str, &'static str)> {
    let runs = |program: &str| {
        Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let folder = GRUB
        .into_iter()
        .find(|f| Path::new(f).join("multiboot.mod").is_file())?;
    let tool = ["grub-mkrescue", "grub2-mkrescue"]
        .into_iter()
        .find(|t| runs(t))?;
    runs("xorriso").then_some((tool, folder))
}

/// Whether an image can be made here.
pub fn is_possible() -> bool {
    tool().is_some()
}

/// GRUB's part of the way: a check of the CPU, then the loader with all files.
fn menu(files: &Files) -> Result<String> {
    let mut menu = String::from(
        "# What is said goes to the screen and to the first serial port.\n\
         set timeout=0\n\
         serial --unit=0 --speed=115200\n\
         terminal_output console serial\n\
         insmod all_video\n\
         if cpuid -l; then\n",
    );
    writeln!(menu, "    multiboot /{PROGRAM}")?;
    for name in files.keys().filter(|name| *name != LOADER) {
        ensure!(
            name.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)),
            "the file '{name}' can't be one of GRUB's modules: its name has unusual characters"
        );
        writeln!(menu, "    module /{name} /{name}")?;
    }
    menu.push_str(
        "    boot\n\
         else\n    \
             echo \"switchyard boot: error: this CPU has no long mode; Switchyard needs a 64-bit CPU\"\n    \
             sleep 3600\n\
         fi\n",
    );
    Ok(menu)
}

/// Writes an image with `program` as the loader and `files` (but for UEFI's loader) to `path`, unless it is there already.
///
/// # Errors
/// If GRUB's tools are missing or fail.
pub fn write_if_changed(path: &Path, program: &[u8], files: &Files) -> Result<bool> {
    let mut all: Files = files
        .iter()
        .filter(|(name, _)| *name != LOADER)
        .map(|(name, bytes)| (name.clone(), bytes.clone()))
        .collect();
    all.insert(MENU.into(), menu(files)?.into_bytes());
    all.insert(PROGRAM.into(), program.to_vec());

    let stamp = path.with_extension("stamp");
    let print = disk::fingerprint(&all).to_string();
    if path.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|s| s == print) {
        return Ok(false);
    }
    let _ = std::fs::remove_file(&stamp);
    make(path, &all)?;
    std::fs::write(&stamp, print).with_context(|| stamp.display().to_string())?;
    Ok(true)
}

fn make(path: &Path, files: &Files) -> Result<()> {
    let Some((tool, grub)) = tool() else {
        bail!("{MISSING}");
    };
    let folder = path.parent().context("an image needs a folder")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let scratch = tempfile::tempdir_in(folder).context("temporary folder")?;
    let root = scratch.path().join("root");
    for (name, bytes) in files {
        let file = root.join(name);
        let parent = file.parent().context("a file needs a folder")?;
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&file, bytes))
            .with_context(|| file.display().to_string())?;
    }
    let image: PathBuf = scratch.path().join("image");
    let out = Command::new(tool)
        .arg(format!("--directory={grub}"))
        .arg("-o")
        .arg(&image)
        .arg(&root)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't run {tool}"))?;
    ensure!(
        out.status.success() && image.is_file(),
        "{tool} failed ({}): {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    std::fs::rename(&image, path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn menu_names_every_file_as_the_configuration_does() {
        let files = Files::from([
            (LOADER.into(), Vec::new()),
            ("limine.conf".into(), Vec::new()),
            ("switchyard/kernel".into(), Vec::new()),
        ]);
        let menu = menu(&files).unwrap();
        assert!(menu.contains("    module /switchyard/kernel /switchyard/kernel\n"));
        assert!(menu.contains("    module /limine.conf /limine.conf\n"));
        assert!(!menu.contains("EFI"));
    }

    #[test]
    fn name_that_grub_would_take_apart_is_refused() {
        assert!(menu(&Files::from([("a b".into(), Vec::new())])).is_err());
        assert!(menu(&Files::from([("a;b".into(), Vec::new())])).is_err());
    }
}
