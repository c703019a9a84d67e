//! Bochs: an emulator that is stricter than QEMU's TCG, and knows CPU features that TCG lacks.
//!
//! It boots the BIOS image from its CD drive, with the serial line written to a file that is read as it grows. It has no
//! input: what runs in it must come to an end by itself. Debian's build has a debugger in it that waits for commands, so it is
//! told to continue by a file of commands; another build does not know that option, and `--help` tells which it is.
//!
//! What may go wrong: Bochs draws on a terminal or a window where it can, so it gets a display that needs neither and a graphics card
//! without modes that such a display could not show. It ends with the same status whatever happened, so the serial line
//! must tell.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::machine::die_with_parent;
use crate::transcript::Transcript;

/// What is missing where it can't be run.
pub const MISSING: &str =
    "no Bochs with its BIOS (Debian: apt install bochs bochs-term bochsbios vgabios)";

const PROGRAM: &str = "bochs";
const BIOS: [&str; 2] = [
    "/usr/share/bochs/BIOS-bochs-latest",
    "/usr/local/share/bochs/BIOS-bochs-latest",
];
const VIDEO_BIOS: [&str; 3] = [
    "/usr/share/bochs/VGABIOS-lgpl-latest",
    "/usr/local/share/bochs/VGABIOS-lgpl-latest",
    "/usr/share/vgabios/vgabios.bin",
];
/// Displays that need no screen, and the plug-in of each where displays are plug-ins. Where there is no plug-in the first is
/// built in, if any is.
const DISPLAYS: [(&str, &str); 2] = [
    ("nogui", "libbx_nogui_gui.so"),
    ("term", "libbx_term_gui.so"),
];
const PLUGINS: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/bochs/plugins",
    "/usr/lib64/bochs/plugins",
    "/usr/lib/bochs/plugins",
];

/// How often the serial line's file is looked at.
const POLL: Duration = Duration::from_millis(100);

/// A Bochs that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bochs {
    bios: PathBuf,
    video_bios: PathBuf,
    display: &'static str,
    debugger: bool,
}

/// The machine.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    /// The CD's image.
    pub image: &'a Path,
    /// Number of CPUs.
    pub cpus: u32,
    /// One of the models that `bochs --help cpu` lists.
    pub model: &'static str,
    /// Instructions in a second of the machine's own time, all CPUs together.
    pub speed: u32,
    /// Memory in MiB.
    pub memory: u32,
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// What was said on the serial line.
    pub transcript: Transcript,
    /// Whether Bochs ended by itself.
    pub ended: bool,
    /// The last complaints of Bochs itself.
    pub complaints: Vec<String>,
}

/// The system's Bochs, if there is one with all it needs.
pub fn find() -> Option<Bochs> {
    let first = |places: &[&str]| places.iter().map(PathBuf::from).find(|p| p.is_file());
    let help = Command::new(PROGRAM)
        .arg("--help")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let said = [help.stdout, help.stderr].concat();
    let folder = PLUGINS.iter().map(Path::new).find(|p| p.is_dir());
    let display = match folder {
        None => DISPLAYS[0].0,
        Some(folder) => {
            DISPLAYS
                .iter()
                .find(|(_, plugin)| folder.join(plugin).exists())?
                .0
        }
    };
    Some(Bochs {
        bios: first(&BIOS)?,
        video_bios: first(&VIDEO_BIOS)?,
        display,
        debugger: String::from_utf8_lossy(&said).contains("-rc "),
    })
}

impl Bochs {
    /// The configuration file's text.
    fn configuration(&self, spec: &Spec<'_>, serial: &Path, log: &Path) -> String {
        let Spec {
            image,
            cpus,
            model,
            speed,
            memory,
        } = spec;
        [
            "plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=0, serial=1"
                .into(),
            "config_interface: textconfig".into(),
            format!("display_library: {}", self.display),
            // No VBE: the display could not show its modes, and would end the run.
            "vga: extension=none, update_freq=1".into(),
            format!("memory: host={memory}, guest={memory}"),
            format!("romimage: file=\"{}\"", self.bios.display()),
            format!("vgaromimage: file=\"{}\"", self.video_bios.display()),
            "boot: cdrom".into(),
            "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14".into(),
            format!(
                "ata0-master: type=cdrom, path=\"{}\", status=inserted",
                image.display()
            ),
            format!("com1: enabled=1, mode=file, dev=\"{}\"", serial.display()),
            // A triple fault ends the run.
            format!("cpu: model={model}, count={cpus}, ips={speed}, reset_on_triple_fault=0"),
            // The machine's clock goes by instructions, not by the host's: the same run every time.
            "clock: sync=none".into(),
            format!("log: {}", log.display()),
            "panic: action=fatal".into(),
            "error: action=report".into(),
            "info: action=ignore".into(),
            "debug: action=ignore".into(),
        ]
        .join("\n")
            + "\n"
    }

    /// Boots a machine and waits for its end, `limit` at most; it is then ended.
    ///
    /// # Errors
    /// If Bochs can't be started or its files can't be read.
    pub fn run(&self, spec: &Spec<'_>, limit: Duration) -> Result<Run> {
        let scratch = tempfile::tempdir().context("temporary folder")?;
        let place = |name: &str| scratch.path().join(name);
        let (serial, log) = (place("serial"), place("log"));
        std::fs::write(place("bochsrc"), self.configuration(spec, &serial, &log))?;
        std::fs::write(place("commands"), "continue\n")?;
        std::fs::write(&serial, "")?;
        let mut command = Command::new(PROGRAM);
        command.arg("-q").arg("-f").arg(place("bochsrc"));
        if self.debugger {
            command.arg("-rc").arg(place("commands"));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        die_with_parent(&mut command);
        let mut child = Running(command.spawn().context("can't run bochs (./justw setup)")?);
        let mut transcript = Transcript::default();
        let mut said = File::open(&serial).context("Bochs's serial line")?;
        let deadline = Instant::now() + limit;
        let ended = loop {
            let over = child.0.try_wait().context("waiting for Bochs")?.is_some();
            // What was written up to that moment, and after the end all of it.
            let mut bytes = Vec::new();
            said.read_to_end(&mut bytes)
                .context("Bochs's serial line")?;
            transcript.push(&bytes);
            if over || Instant::now() >= deadline {
                break over;
            }
            thread::sleep(POLL);
        };
        drop(child);
        let complaints =
            std::fs::read_to_string(&log).map_or_else(|_| Vec::new(), |t| complaints(&t));
        Ok(Run {
            transcript,
            ended,
            complaints,
        })
    }
}

/// How many of Bochs's own lines are kept.
const COMPLAINTS: usize = 10;

/// Its last lines that are more than the state of its CPUs: `TICKSe[DEVICE] text`.
fn complaints(log: &str) -> Vec<String> {
    let grave = |line: &&str| {
        let kind = line.trim_start_matches(|c: char| c.is_ascii_digit());
        kind.starts_with("p[") || kind.starts_with("e[")
    };
    let mut lines: Vec<String> = log.lines().filter(grave).map(str::to_owned).collect();
    lines.split_off(lines.len().saturating_sub(COMPLAINTS))
}

/// A process that ends with this program's interest in it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_and_panics_are_complaints() {
        let log = "00000000000i[SIM   ] hello\n00000000123e[CPU0  ] wrong\n00000000124i[CPU0  ] | RAX=0\n\
                   00000000125p[TERM  ] >>PANIC<< no\nrest\n";
        assert_eq!(
            complaints(log),
            [
                "00000000123e[CPU0  ] wrong",
                "00000000125p[TERM  ] >>PANIC<< no"
            ]
        );
    }

    #[test]
    fn configuration_has_what_the_machine_is() {
        let bochs = Bochs {
            bios: "/b".into(),
            video_bios: "/v".into(),
            display: "term",
            debugger: true,
        };
        let spec = Spec {
            image: Path::new("/i.iso"),
            cpus: 2,
            model: "ryzen",
            speed: 5,
            memory: 64,
        };
        let text = bochs.configuration(&spec, Path::new("/s"), Path::new("/l"));
        assert!(text.contains("cpu: model=ryzen, count=2, ips=5, reset_on_triple_fault=0\n"));
        assert!(text.contains("path=\"/i.iso\""));
        assert!(text.contains("mode=file, dev=\"/s\""));
    }
}
