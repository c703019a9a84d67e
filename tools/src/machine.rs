//! One QEMU: how it is started, spoken to and got rid of.
//!
//! The serial line is QEMU's standard input and output, owned by this program through pipes, so that nothing reaches the
//! guest or the user unseen. Disk and variable store are opened as snapshots: a run never changes the image, and every
//! boot starts from the same firmware state. A machine never outlives this program: it is killed on drop, and on Linux
//! by the kernel when the thread that started it is gone (so that thread must stay until the machine has ended).

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::accel::Accel;
use crate::direct::{self, Direct};
use crate::ending::{DEBUG_EXIT_PORT, Ending};
use crate::firmware::Firmware;
use crate::qmp::Qmp;

/// Which QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// The program, a path or a name on PATH.
    pub program: PathBuf,
    /// Folder with its data files, where it is not the built-in one.
    pub data: Option<PathBuf>,
    /// Folders with the shared libraries it needs, where they are not the system's.
    pub libraries: Vec<PathBuf>,
}

impl Qemu {
    /// The system's own.
    pub fn system() -> Self {
        Self {
            program: "qemu-system-x86_64".into(),
            data: None,
            libraries: Vec::new(),
        }
    }

    /// A command that runs it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(data) = &self.data {
            command.arg("-L").arg(data);
        }
        if !self.libraries.is_empty()
            && let Ok(paths) = std::env::join_paths(&self.libraries)
        {
            command.env("LD_LIBRARY_PATH", paths);
        }
        command
    }
}

/// What happens when the guest resets the machine (a triple fault does, too).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReset {
    /// It boots again, as a real machine.
    Boot,
    /// QEMU ends.
    End,
}

/// How a machine comes to its first program.
#[derive(Clone, Debug)]
pub enum Start {
    /// UEFI, from an image.
    Uefi {
        /// The firmware.
        firmware: Firmware,
        /// Image it boots from.
        image: PathBuf,
        /// A loader that QEMU hands to the firmware itself, in place of the one on the image.
        loader: Option<PathBuf>,
    },
    /// QEMU's own BIOS, from a CD.
    Bios {
        /// The CD's image.
        image: PathBuf,
    },
    /// QEMU itself loads the loader and all files.
    Direct(Direct),
}

impl Start {
    /// QEMU's arguments for it.
    fn arguments(&self) -> Vec<String> {
        match self {
            Start::Uefi {
                firmware,
                image,
                loader,
            } => {
                let flash = |unit: u8, path: &Path, mode: &str| {
                    format!(
                        "if=pflash,format=raw,unit={unit},{mode},file={}",
                        escape(path)
                    )
                };
                let mut arguments = vec![
                    "-drive".to_owned(),
                    flash(0, &firmware.code, "readonly=on"),
                    "-drive".to_owned(),
                    flash(1, &firmware.vars, "snapshot=on"),
                    "-drive".to_owned(),
                    format!(
                        "if=none,id=image,format=raw,snapshot=on,file={}",
                        escape(image)
                    ),
                    "-device".to_owned(),
                ];
                // What QEMU itself hands over has the first place in the boot order.
                let disk = "nvme,drive=image,serial=switchyard";
                match loader {
                    Some(loader) => arguments.extend([
                        disk.to_owned(),
                        "-kernel".to_owned(),
                        loader.display().to_string(),
                    ]),
                    None => arguments.push(format!("{disk},bootindex=0")),
                }
                arguments
            }
            Start::Bios { image } => vec![
                "-drive".to_owned(),
                format!(
                    "if=none,id=image,format=raw,media=cdrom,readonly=on,file={}",
                    escape(image)
                ),
                "-device".to_owned(),
                "ide-cd,drive=image,bootindex=0".to_owned(),
            ],
            Start::Direct(direct) => vec![
                "-kernel".to_owned(),
                direct::PROGRAM.to_owned(),
                "-initrd".to_owned(),
                direct.modules.clone(),
            ],
        }
    }
}

/// A machine to be started.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The emulator.
    pub qemu: Qemu,
    /// How it comes to its first program.
    pub start: Start,
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory, in QEMU's notation (`512M`).
    pub mem: String,
    /// CPU model and features, in QEMU's notation.
    pub cpu: String,
    /// The accelerator.
    pub accel: Accel,
    /// Options of the accelerator (`thread=single`), or empty.
    pub accel_options: &'static str,
    /// QEMU's display; `none` still has a framebuffer.
    pub display: String,
    /// Whether there is a graphics card at all.
    pub graphics: bool,
    /// More devices, in QEMU's notation.
    pub devices: &'static [&'static str],
    /// Whether there is a serial port; without one the machine can be seen on its screen only.
    pub serial: bool,
    /// Whether the time-stamp counter counts guest instructions (one CPU at a time runs, then).
    pub icount: bool,
    /// What a reset does.
    pub on_reset: OnReset,
}

impl Spec {
    /// QEMU's arguments.
    fn arguments(&self, qmp: &Path) -> Vec<String> {
        let mut accel = self.accel.name().to_owned();
        if !self.accel_options.is_empty() {
            accel = format!("{accel},{}", self.accel_options);
        }
        let mut arguments: Vec<String> = [
            "-machine",
            "q35",
            "-nodefaults",
            "-vga",
            if self.graphics { "std" } else { "none" },
            "-display",
            &self.display,
            "-accel",
            &accel,
            "-cpu",
            &self.cpu,
            "-smp",
            &self.cpus.to_string(),
            "-m",
            &self.mem,
            "-device",
            &format!("isa-debug-exit,iobase={DEBUG_EXIT_PORT:#x},iosize=0x04"),
            "-chardev",
            "stdio,id=serial,signal=off",
            "-qmp",
            &format!("unix:{},server=on,wait=off", escape(qmp)),
        ]
        .map(str::to_owned)
        .into();
        arguments.extend(self.start.arguments());
        for device in self.devices {
            arguments.extend(["-device", device].map(str::to_owned));
        }
        if self.serial {
            arguments.extend(["-serial", "chardev:serial"].map(str::to_owned));
        }
        if self.icount {
            arguments.extend(["-icount", "shift=0,sleep=off"].map(str::to_owned));
        }
        if self.on_reset == OnReset::End {
            arguments.push("-no-reboot".into());
        }
        arguments
    }
}

/// A path inside one of QEMU's option lists, where a comma ends a value unless it is doubled.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Something that happened to a session with a machine.
#[derive(Debug)]
pub enum Event {
    /// The machine wrote to its serial line.
    Said(Vec<u8>),
    /// The serial line is closed: QEMU has ended or is about to.
    Closed,
    /// The user gave input.
    Typed(Vec<u8>),
    /// The user's input is at its end.
    InputEnded,
}

/// A running QEMU.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    serial: ChildStdin,
    complaints: Arc<Mutex<VecDeque<String>>>,
    qmp: Option<Qmp>,
    /// Holds the QMP socket's folder.
    _scratch: tempfile::TempDir,
}

/// The time that a process has spent on CPUs, in user mode and in the kernel; `None` where the host does not say (only Linux does here:
/// `proc_pid_stat(5)`, fields 14 and 15).
fn processor_time(id: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field is a name in parentheses, in which anything may stand.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(14 - 3);
    let mut ticks = 0_u64;
    for _ in 0..2 {
        ticks += fields.next()?.parse::<u64>().ok()?;
    }
    let in_a_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis(ticks * 1000 / in_a_second.max(1)))
}

/// How many of QEMU's own lines are kept.
const COMPLAINTS: usize = 20;
/// How long a QEMU without a serial line may take to end, and how often that is looked for.
const LAST_STEPS: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(2);

impl Machine {
    /// Starts the machine; what it says goes to `events`.
    ///
    /// # Errors
    /// If QEMU can't be started. If it starts and then refuses its arguments, [`Machine::wait`] says so.
    pub fn start(spec: &Spec, events: Sender<Event>) -> Result<Self> {
        let scratch = tempfile::tempdir().context("temporary folder")?;
        let socket = scratch.path().join("qmp");
        let mut command = spec.qemu.command();
        command
            .args(spec.arguments(&socket))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Start::Direct(direct) = &spec.start {
            command.current_dir(&direct.folder);
        }
        die_with_parent(&mut command);
        let mut child = command.spawn().with_context(|| {
            format!("can't run {} (./justw setup)", spec.qemu.program.display())
        })?;
        let taken = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(serial), Some(mut said), Some(stderr)) = taken else {
            unreachable!("all three were asked for as pipes");
        };
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = said.read(&mut buffer) {
                if events.send(Event::Said(buffer[..n].to_vec())).is_err() {
                    break;
                }
            }
            let _ = events.send(Event::Closed);
        });
        let complaints = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&complaints);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // A CPU model has features that TCG lacks; QEMU leaves them out and says so for each.
                // The loader's header asks for a framebuffer, which GRUB can give and QEMU cannot.
                if line.contains("TCG doesn't support requested feature")
                    || line.contains("multiboot knows VBE")
                {
                    continue;
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > COMPLAINTS {
                    kept.pop_front();
                }
            }
        });
        let qmp = Qmp::connect(&socket, || matches!(child.try_wait(), Ok(None)));
        Ok(Self {
            child,
            serial,
            complaints,
            qmp,
            _scratch: scratch,
        })
    }

    /// Sends bytes down the serial line. A machine that has ended swallows them.
    pub fn send(&mut self, bytes: &[u8]) {
        // An error means that QEMU is gone, which the reader reports in its own words.
        let _ = self
            .serial
            .write_all(bytes)
            .and_then(|()| self.serial.flush());
    }

    /// The control channel, if QEMU opened one.
    pub fn qmp(&mut self) -> Option<&mut Qmp> {
        self.qmp.as_mut()
    }

    /// Says how much time QEMU has spent on CPUs so far, whenever it is asked: see [`processor_time`].
    pub fn processor_time(&self) -> impl Fn() -> Option<Duration> + use<> {
        let id = self.child.id();
        move || processor_time(id)
    }

    /// Waits for a machine whose serial line is closed, and says how it ended. A QEMU that does not end is killed.
    ///
    /// # Errors
    /// If the process can't be waited for, or had to be killed.
    pub fn wait(&mut self) -> Result<Ending> {
        let deadline = Instant::now() + LAST_STEPS;
        let status = loop {
            if let Some(status) = self.child.try_wait().context("waiting for QEMU")? {
                break status;
            }
            if Instant::now() >= deadline {
                self.kill();
                bail!("QEMU closed its serial line and did not end");
            }
            thread::sleep(POLL);
        };
        let reset = self.qmp.as_mut().is_some_and(Qmp::saw_reset);
        Ok(match Ending::of(status) {
            Ending::PoweredOff if reset => Ending::Reset,
            ending => ending,
        })
    }

    /// Ends the machine at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// QEMU's own last lines.
    pub fn complaints(&self) -> Vec<String> {
        let kept = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.iter().cloned().collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Has Linux kill the child when its parent is gone, however that ended.
#[cfg(target_os = "linux")]
pub(crate) fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    use rustix::process::{Signal, set_parent_process_death_signal};

    // SAFETY: the closure runs in the child between `fork` and `exec`, where only async-signal-safe calls are allowed.
    // It makes one system call (prctl), allocates nothing and takes no lock; the error it may return is a plain number.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn die_with_parent(_command: &mut Command) {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn comma_in_a_path_does_not_end_the_option() {
        assert_eq!(super::escape(Path::new("/a,b/c.img")), "/a,,b/c.img");
    }
}
