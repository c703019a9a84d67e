//! What goes into an image, and when it has to be made again.
//!
//! Two images share all but a few files: the product's (`build/switchyard.img`) and the tests' (`build/test.img`, with
//! the test programs and manifests, built with every check on). An image is written only if its contents changed; a
//! small file beside it keeps the contents' fingerprint. The same files also make an image for machines without UEFI
//! (`build/bios.iso`) and a folder that QEMU loads from by itself.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cargo::{self, BARE, Profile, UEFI, USER};
use crate::direct::Direct;
use crate::initrd::{self, Files};
use crate::workspace::{Archive, INIT, Workspace};
use crate::{bios, config, direct, disk};

/// Where firmware looks for a loader on removable media (UEFI specification 2.10, §3.5.1.1).
pub const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// The loader's configuration.
pub const CONFIG: &str = "limine.conf";
/// The kernel.
pub const KERNEL: &str = "switchyard/kernel";
/// The first program.
pub const FIRST_PROGRAM: &str = "switchyard/init";
/// The boot archive.
pub const INITRD: &str = "switchyard/initrd.tar";

/// What an image is made from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which programs and manifests it holds.
    pub archive: Archive,
    /// How the kernel and the programs were built.
    pub profile: Profile,
    /// The kernel's command line, where it differs from the one in `limine.cfg`.
    pub cmdline: Option<String>,
    /// A folder with stock Limine's `BOOTX64.EFI`, to be used in place of the project's loader.
    pub limine_dir: Option<PathBuf>,
}

impl Plan {
    /// The product.
    pub fn product() -> Self {
        Self {
            archive: Archive::Product,
            profile: Profile::Release,
            cmdline: None,
            limine_dir: None,
        }
    }

    /// The tests' image, which starts the programs of `manifest`.
    pub fn tests(manifest: &str) -> Self {
        Self {
            archive: Archive::Test,
            profile: Profile::Checked,
            cmdline: Some(format!("manifest={manifest}")),
            limine_dir: None,
        }
    }
}

/// The files of the boot archive of `archive`, programs without debug information.
///
/// # Errors
/// If a program has not been built, or `initrd/` can't be read.
pub fn archive_files(ws: &Workspace, archive: Archive, profile: Profile) -> Result<Files> {
    let mut files = initrd::collect(&ws.root.join("initrd"), archive)?;
    for program in &ws.programs {
        if program.name != INIT && program.is_in(archive) {
            let path = cargo::artefact(ws, program.target, profile, &program.name);
            files.insert(
                format!("bin/{}", program.name),
                cargo::read_stripped(ws, &path)?,
            );
        }
    }
    Ok(files)
}

/// The files of an image. Everything must have been built.
///
/// # Errors
/// If a file is missing (the message names it) or refused.
pub fn contents(ws: &Workspace, plan: &Plan) -> Result<Files> {
    let loader = match &plan.limine_dir {
        None => cargo::artefact(ws, UEFI, Profile::Release, "bootx64.efi"),
        Some(folder) => stock_loader(folder)?,
    };
    let mut config_text =
        std::fs::read_to_string(ws.root.join("limine.cfg")).context("can't read limine.cfg")?;
    if let Some(cmdline) = &plan.cmdline {
        config_text = config::with_cmdline(&config_text, cmdline)?;
    }
    let kernel = cargo::artefact(ws, BARE, plan.profile, "kernel");
    let init = cargo::artefact(ws, USER, plan.profile, INIT);
    let archive = archive_files(ws, plan.archive, plan.profile)?;
    let loader =
        std::fs::read(&loader).with_context(|| format!("can't read {}", loader.display()))?;
    Ok(Files::from([
        (LOADER.into(), loader),
        (CONFIG.into(), config_text.into_bytes()),
        (KERNEL.into(), cargo::read_stripped(ws, &kernel)?),
        (FIRST_PROGRAM.into(), cargo::read_stripped(ws, &init)?),
        (INITRD.into(), initrd::pack(&archive)?),
    ]))
}

/// The loader for machines without UEFI, which has to have been built.
///
/// # Errors
/// If it is missing.
pub fn multiboot_loader(ws: &Workspace) -> Result<Vec<u8>> {
    cargo::read_stripped(ws, &cargo::artefact(ws, BARE, Profile::Release, "loader"))
}

/// Stock Limine's loader in `folder`: the file's own name, in a release's folder or an installed one.
fn stock_loader(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("BOOTX64.EFI");
    ensure!(
        path.is_file(),
        "LIMINE_DIR={}: there is no file BOOTX64.EFI in that folder",
        folder.display()
    );
    Ok(path)
}

/// Writes an image of `files` to `path` unless it is there already; says whether it wrote.
///
/// # Errors
/// As [`disk::write`].
pub fn write_if_changed(path: &Path, files: &Files) -> Result<bool> {
    let stamp = path.with_extension("stamp");
    let print = disk::fingerprint(files).to_string();
    let size = std::fs::metadata(path).map(|m| m.len()).ok();
    if size == Some(disk::SIZE) && std::fs::read_to_string(&stamp).is_ok_and(|s| s == print) {
        return Ok(false);
    }
    // The stamp goes first: an image whose writing is interrupted must not look finished.
    let _ = std::fs::remove_file(&stamp);
    disk::write(path, files)?;
    std::fs::write(&stamp, print).with_context(|| stamp.display().to_string())?;
    Ok(true)
}

/// Builds everything `plan` needs and makes the image `build/NAME.img`; says in one line what was done.
///
/// # Errors
/// If a build fails, or as [`contents`] and [`write_if_changed`].
pub fn make(ws: &Workspace, plan: &Plan, name: &str) -> Result<PathBuf> {
    // A wrong folder is said before minutes of building.
    if let Some(folder) = &plan.limine_dir {
        stock_loader(folder)?;
    }
    let files = build(ws, plan)?;
    let path = ws.build.join(format!("{name}.img"));
    let wrote = write_if_changed(&path, &files)?;
    let loader = plan.limine_dir.as_ref().map_or(String::new(), |dir| {
        format!(", with the loader of {}", dir.display())
    });
    say_what(ws, &path, wrote, &files, &loader);
    Ok(path)
}

/// Builds everything `plan` needs; the files of its image.
///
/// # Errors
/// If a build fails, or as [`contents`].
pub fn build(ws: &Workspace, plan: &Plan) -> Result<Files> {
    cargo::build_system(ws, plan.profile, plan.archive)?;
    contents(ws, plan)
}

/// As [`make`], for machines without UEFI: `build/NAME.iso`.
///
/// # Errors
/// If a build fails, there are no tools for it, or `plan` names another loader.
pub fn make_bios(ws: &Workspace, plan: &Plan, name: &str) -> Result<PathBuf> {
    refuse_other_loader(plan)?;
    let files = build(ws, plan)?;
    let path = ws.build.join(format!("{name}.iso"));
    let wrote = bios::write_if_changed(&path, &multiboot_loader(ws)?, &files)?;
    say_what(ws, &path, wrote, &files, ", for a BIOS");
    Ok(path)
}

/// As [`make`], for QEMU to load by itself: the folder `build/direct/NAME`.
///
/// # Errors
/// If a build fails, the folder can't be written, or `plan` names another loader.
pub fn make_direct(ws: &Workspace, plan: &Plan, name: &str) -> Result<Direct> {
    refuse_other_loader(plan)?;
    let files = build(ws, plan)?;
    let folder = ws.build.join("direct").join(name);
    direct::write(&folder, &multiboot_loader(ws)?, &files)
}

fn refuse_other_loader(plan: &Plan) -> Result<()> {
    ensure!(
        plan.limine_dir.is_none(),
        "LIMINE_DIR names a loader for UEFI: leave it out, or use firmware=uefi"
    );
    Ok(())
}

fn say_what(ws: &Workspace, path: &Path, wrote: bool, files: &Files, how: &str) {
    let shown = path.strip_prefix(&ws.root).unwrap_or(path).display();
    if wrote {
        let bytes: usize = files.values().map(Vec::len).sum();
        eprintln!("image: wrote {shown} ({} KiB of files{how})", bytes / 1024);
    } else {
        eprintln!("image: {shown} is up to date{how}");
    }
}
