//! `just bench-linux`: what Linux takes for the like, in the same QEMU.
//!
//! Debian's own kernel, from its package, which is downloaded into `build/linux` and unpacked there, not installed; with it an initramfs that
//! holds nothing but the program in `bench/linux`. One CPU, TCG, and a clock that counts instructions, as for `just bench`. The
//! figures go to `bench/linux.json`, which is committed, and from there into the table of `just bench`.
//!
//! What may go wrong: no `apt-get` (it is Debian's, and Ubuntu's), or no network the first time. Either is an error that says so.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Figure, collect};
use crate::machine::die_with_parent;
use crate::workspace::Workspace;

/// The package that depends on the newest kernel.
const PACKAGE: &str = "linux-image-amd64";
/// Where the figures go.
pub(super) const FIGURES: &str = "bench/linux.json";
/// The program's folder, and its target.
const PROGRAM: &str = "bench/linux";
const TARGET: &str = "x86_64-unknown-linux-musl";
/// An ordinary static program, not one of the project's own kind for this target (`.cargo/config.toml`).
const FLAGS: &str = "-C linker=rust-lld -C linker-flavor=ld.lld -C link-self-contained=yes -C target-feature=+crt-static -C relocation-model=static";
/// The CPU model: without the fast string instructions, with which Linux copies and clears byte by byte, and each byte is counted. In Linux's
/// favour.
const CPU: &str = "max,-erms,-fsrm";
/// Output on the serial line, little of it; the clock of the time-stamp counter is not to be doubted under `-icount`.
const CMDLINE: &str = "console=ttyS0 quiet loglevel=3 tsc=reliable panic=-1";
const LIMIT: Duration = Duration::from_mins(8);

/// Fetches, builds, boots, collects.
///
/// # Errors
/// If the kernel can't be had, something can't be built or started, or the machine ends without its figures.
pub fn run() -> Result<()> {
    let ws = Workspace::find()?;
    let folder = ws.build.join("linux");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let kernel = kernel(&folder)?;
    let initramfs = folder.join("initramfs.cpio");
    std::fs::write(&initramfs, archive(&program(&ws)?)?)
        .with_context(|| initramfs.display().to_string())?;
    eprintln!(
        "bench-linux: {}, one CPU, counting guest instructions",
        kernel.file_name().unwrap_or_default().display()
    );
    let said = boot(&kernel, &initramfs)?;
    let lines: Vec<String> = said.lines().map(|line| line.trim().to_owned()).collect();
    let figures = collect(&lines, CPU).with_context(|| said.clone())?;
    let mut json = serde_json::to_string_pretty(&figures)?;
    json.push('\n');
    let path = ws.root.join(FIGURES);
    std::fs::write(&path, json).with_context(|| path.display().to_string())?;
    print!("{}", table(&figures));
    eprintln!("bench-linux: wrote {FIGURES}");
    Ok(())
}

fn table(figures: &[Figure]) -> String {
    let mut text = String::new();
    for figure in figures {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{:<28} {:>8}", figure.name, figure.instructions);
    }
    text
}

/// Runs a command in a folder and gives what it prints.
fn output(folder: &Path, command: &mut Command) -> Result<String> {
    let done = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", done.status);
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The kernel's file; downloaded and unpacked the first time.
fn kernel(folder: &Path) -> Result<PathBuf> {
    let boot = folder.join("root/boot");
    let find = || -> Option<PathBuf> {
        let entries = std::fs::read_dir(&boot).ok()?;
        let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        found.retain(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with("vmlinuz-")
        });
        found.sort();
        found.pop()
    };
    if let Some(kernel) = find() {
        return Ok(kernel);
    }
    let depends = output(folder, Command::new("apt-cache").args(["depends", PACKAGE]))?;
    let name = newest(&depends)
        .with_context(|| format!("apt knows no {PACKAGE}: apt-get update may help"))?;
    eprintln!("bench-linux: downloading {name} into build/linux");
    output(folder, Command::new("apt-get").args(["download", &name]))?;
    let package = std::fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get left no package")?;
    output(
        folder,
        Command::new("dpkg-deb").arg("-x").arg(&package).arg("root"),
    )?;
    find().with_context(|| format!("{} has no vmlinuz", package.display()))
}

/// The package that another one depends on, in what `apt-cache depends` says.
fn newest(depends: &str) -> Option<String> {
    depends.lines().find_map(|line| {
        let name = line.trim().strip_prefix("Depends: ")?;
        name.starts_with("linux-image-").then(|| name.to_owned())
    })
}

/// The program, built.
fn program(ws: &Workspace) -> Result<Vec<u8>> {
    let target = ws.target.join("bench-linux");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--target", TARGET])
        .current_dir(ws.root.join(PROGRAM))
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", &target)
        .stdin(Stdio::null())
        .status()
        .context("cargo build")?;
    ensure!(status.success(), "{PROGRAM} can't be built");
    let path = target.join(TARGET).join("release/bench-linux");
    std::fs::read(&path).with_context(|| path.display().to_string())
}

/// The initramfs: a console for the first process, and the first process.
///
/// # Errors
/// If the program is larger than the format can say.
fn archive(program: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    entry(&mut archive, "dev", 0o040_755, (0, 0), &[])?;
    entry(&mut archive, "dev/console", 0o020_600, (5, 1), &[])?;
    entry(&mut archive, "init", 0o100_755, (0, 0), program)?;
    entry(&mut archive, "TRAILER!!!", 0, (0, 0), &[])?;
    Ok(archive)
}

/// One entry in the form "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst): thirteen numbers of eight hexadecimal
/// digits, name, contents, each padded to four bytes.
fn entry(
    archive: &mut Vec<u8>,
    name: &str,
    mode: u32,
    device: (u32, u32),
    contents: &[u8],
) -> Result<()> {
    let size = u32::try_from(contents.len()).context("too large for an initramfs")?;
    let number = archive.len() as u32;
    let fields = [
        number,
        mode,
        0,
        0,
        1,
        0,
        size,
        0,
        0,
        device.0,
        device.1,
        name.len() as u32 + 1,
        0,
    ];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(contents);
    archive.resize(archive.len().next_multiple_of(4), 0);
    Ok(())
}

/// Boots it, and gives what it says until it has switched itself off.
fn boot(kernel: &Path, initramfs: &Path) -> Result<String> {
    let scratch = tempfile::NamedTempFile::new().context("temporary file")?;
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg", "-icount", "shift=0,sleep=off"])
        .args(["-cpu", CPU, "-smp", "1", "-m", "512M", "-nodefaults"])
        .args(["-display", "none", "-no-reboot", "-append", CMDLINE])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-serial")
        .arg(format!("file:{}", scratch.path().display()))
        .stdin(Stdio::null());
    die_with_parent(&mut command);
    let mut child = command.spawn().context("qemu-system-x86_64")?;
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begin.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("the machine came to no end within {} s", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let said = std::fs::read(scratch.path())?;
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(status.success(), "QEMU: {status}; {said}");
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_package_depends_on() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(newest(text).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(newest("x\n  Depends: libc6\n"), None);
        assert_eq!(newest(""), None);
    }

    #[test]
    fn an_archive_has_names_and_contents_on_borders_of_four() {
        let bytes = archive(b"hello").unwrap();
        assert!(bytes.len().is_multiple_of(4));
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4);
        let at = text.find("init\0").unwrap();
        assert_eq!(&text[at + 6..at + 11], "hello", "{text}");
        // The console is a character device 5, 1.
        let header = &text[..text.find("dev/console").unwrap()];
        let header = &header[header.len() - 110..];
        assert_eq!(&header[14..22], "00002180");
        assert_eq!(&header[78..94], "0000000500000001");
    }
}
