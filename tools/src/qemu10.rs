//! A QEMU whose TCG has x2APIC (version 9 and later), for the machine tests that need it.
//!
//! If the system's own is new enough it is taken. On Debian 12 the one of `bookworm-backports` is unpacked into the
//! repo's ignored folder `.tools/qemu10`: apt downloads it, and the libraries the system lacks, with a configuration and
//! state of its own, and `dpkg-deb -x` unpacks them. Nothing of the system's sources or packages is touched, and no
//! rights are needed. Elsewhere, or offline, the caller is told why there is none.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::machine::Qemu;
use crate::setup;

/// Where it is unpacked, from the workspace's root.
pub const FOLDER: &str = ".tools/qemu10";
/// First major version whose TCG has x2APIC.
const FIRST: u32 = 9;
const RELEASE: &str = "bookworm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where Debian is, if the system's own sources do not say.
const MIRROR: &str = "http://deb.debian.org/debian";

/// The QEMU, fetched into `folder` if need be.
///
/// # Errors
/// If there is none to be had here, with the reason.
pub fn get(folder: &Path) -> Result<Qemu> {
    let system = Qemu::system();
    if version(&system).is_some_and(|v| v >= FIRST) {
        return Ok(system);
    }
    let unpacked = unpacked(folder);
    if version(&unpacked).is_some_and(|v| v >= FIRST) {
        return Ok(unpacked);
    }
    ensure!(
        fs::read_to_string("/etc/os-release").is_ok_and(|text| is_release(&text)),
        "the system's QEMU is older than {FIRST}, and this is not Debian 12"
    );
    eprintln!(
        "qemu10: fetching QEMU from {RELEASE}-backports into {}",
        folder.display()
    );
    fetch(folder)?;
    let found = version(&unpacked);
    ensure!(
        found.is_some_and(|v| v >= FIRST),
        "the QEMU that was unpacked does not run, or is too old ({found:?})"
    );
    Ok(unpacked)
}

/// Major version of a QEMU, if it runs at all.
pub fn version(qemu: &Qemu) -> Option<u32> {
    let out = qemu
        .command()
        .arg("--version")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    parse_version(&String::from_utf8_lossy(&out.stdout))
}

fn parse_version(text: &str) -> Option<u32> {
    text.split("version ")
        .nth(1)?
        .split('.')
        .next()?
        .parse()
        .ok()
}

fn is_release(os_release: &str) -> bool {
    os_release
        .lines()
        .any(|l| l == format!("VERSION_CODENAME={RELEASE}"))
        && os_release.lines().any(|l| l == "ID=debian")
}

fn unpacked(folder: &Path) -> Qemu {
    let root = folder.join("root");
    let lib = root.join("usr/lib/x86_64-linux-gnu");
    Qemu {
        program: root.join("usr/bin/qemu-system-x86_64"),
        data: Some(root.join("usr/share/qemu")),
        // Some libraries lie in folders of their own and are found through links elsewhere.
        libraries: vec![
            lib.clone(),
            root.join("lib/x86_64-linux-gnu"),
            lib.join("pulseaudio"),
            lib.join("blas"),
            lib.join("lapack"),
        ],
    }
}

fn fetch(folder: &Path) -> Result<()> {
    let apt = Apt::new(folder)?;
    apt.run(&["update"])?;
    // Only what the system lacks is downloaded, since apt reads the system's list of what is installed.
    apt.run(&[
        "install",
        "--download-only",
        "--assume-yes",
        "--no-install-recommends",
        "--reinstall",
        "--target-release",
        &format!("{RELEASE}-backports"),
        "qemu-system-x86",
    ])?;
    let new = folder.join("root.new");
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new)?;
    let mut packages = 0;
    for entry in fs::read_dir(apt.cache.join("archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            let status = Command::new("dpkg-deb")
                .arg("-x")
                .arg(&path)
                .arg(&new)
                .stdin(Stdio::null())
                .status()
                .context("dpkg-deb")?;
            ensure!(status.success(), "dpkg-deb can't unpack {}", path.display());
            packages += 1;
        }
    }
    ensure!(packages > 0, "apt downloaded nothing");
    // The data of other packages that the system has already, in the version it has, is found through the usual path;
    // QEMU is told its own folder only, so the few shared ROMs are linked in.
    let root = folder.join("root");
    let _ = fs::remove_dir_all(&root);
    fs::rename(&new, &root).context("moving QEMU into place")?;
    link_shared_roms(&root)?;
    fs::remove_dir_all(folder.join("apt")).context("removing apt's scratch folder")
}

/// ROMs of packages that the system has and that therefore were not downloaded (`seabios`, `ipxe-qemu`).
fn link_shared_roms(root: &Path) -> Result<()> {
    let data = root.join("usr/share/qemu");
    for folder in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        for base in [root, Path::new("/")] {
            let Ok(entries) = fs::read_dir(base.join(folder)) else {
                continue;
            };
            for entry in entries {
                let from = entry?.path();
                let to = data.join(from.file_name().context("a file has a name")?);
                if from.is_file() && !to.exists() {
                    std::os::unix::fs::symlink(&from, &to)
                        .with_context(|| to.display().to_string())?;
                }
            }
        }
    }
    Ok(())
}

/// An apt with a configuration, sources, lists and cache of its own.
struct Apt {
    config: PathBuf,
    cache: PathBuf,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "Debian's keyring is missing ({KEYRING})"
        );
        let base = folder.join("apt");
        let _ = fs::remove_dir_all(&base);
        let cache = base.join("cache");
        for part in ["cache/archives/partial", "state/lists/partial", "etc"] {
            fs::create_dir_all(base.join(part)).with_context(|| base.display().to_string())?;
        }
        let mirror = system_mirror().unwrap_or_else(|| MIRROR.into());
        let sources = base.join("etc/sources.list");
        let source = format!("deb [signed-by={KEYRING}] {mirror} {RELEASE}");
        let lines = format!("{source} main\n{source}-backports main\n");
        fs::write(&sources, lines)?;
        let config = base.join("apt.conf");
        // Options in a file override the system's; proxies and the like are read from there as ever.
        let text = format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"-\";\nDir::Etc::preferences \"-\";\n\
             Dir::Etc::preferencesparts \"-\";\nDir::Cache \"{}\";\nDir::State \"{}\";\n\
             Dir::State::status \"/var/lib/dpkg/status\";\nDebug::NoLocking \"true\";\nAPT::Sandbox::User \"\";\n\
             DPkg::Post-Invoke {{}};\nAPT::Update::Post-Invoke {{}};\nAPT::Update::Post-Invoke-Success {{}};\n\
             #clear DPkg::Post-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
             #clear DPkg::Pre-Install-Pkgs;\nBinary::apt::APT::Keep-Downloaded-Packages \"true\";\n",
            sources.display(),
            cache.display(),
            base.join("state").display(),
        );
        fs::write(&config, text)?;
        Ok(Self { config, cache })
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        // `APT_CONFIG` is read before the system's parts, whose settings would win; `-c` is read after them.
        let mut apt = Command::new("apt-get")
            .arg("-c")
            .arg(&self.config)
            .arg("-q")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            // A sign of life: the download takes minutes on a slow line.
            .stdout(setup::progress())
            .stderr(Stdio::piped())
            .spawn()
            .context("can't run apt-get")?;
        let mut last = None;
        if let Some(errors) = apt.stderr.take() {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                eprintln!("{line}");
                if !line.trim().is_empty() {
                    last = Some(line);
                }
            }
        }
        let status = apt.wait().context("waiting for apt-get")?;
        ensure!(
            status.success(),
            "apt-get {} failed: {}",
            arguments[0],
            last.as_deref().unwrap_or("it does not say why")
        );
        Ok(())
    }
}

/// Where the system itself gets this release from.
fn system_mirror() -> Option<String> {
    let out = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(SITE) $(CODENAME) $(COMPONENT)",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .find_map(|line| {
            let mut words = line.split(' ');
            match (words.next()?, words.next()?, words.next()?) {
                (site, RELEASE, "main") if site.starts_with("http") => {
                    Some(site.trim_end_matches('/').to_owned())
                }
                _ => None,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_version_is_read() {
        assert_eq!(
            parse_version("QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7)\nCopyright"),
            Some(7)
        );
        assert_eq!(parse_version("QEMU emulator version 10.0.2"), Some(10));
        assert_eq!(parse_version("qemu: not found"), None);
    }

    #[test]
    fn only_the_right_release_has_these_packages() {
        assert!(is_release("ID=debian\nVERSION_CODENAME=bookworm\n"));
        assert!(!is_release("ID=ubuntu\nVERSION_CODENAME=noble\n"));
        assert!(!is_release("ID=raspbian\nVERSION_CODENAME=bookworm\n"));
    }
}
