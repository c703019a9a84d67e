//! `just qemu-smp`: boots the product and connects the user to its serial line.
//!
//! A terminal goes to raw mode and every key to the guest (see [`crate::keys`] for the way out). A pipe is fed line by
//! line as the shell asks for it (see [`crate::feeder`]); at its end, when the shell asks once more, the machine is
//! ended with status 0. The exit status is the machine's: 0 for a power-off, not 0 for a panic. A power-off or reboot
//! that was asked for and does not come about is a failure, not an end of input.

use std::io::{BufRead, IsTerminal, Read, Write, stderr, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::accel::Accel;
use crate::ending::Ending;
use crate::feeder::{Feeder, Step};
use crate::firmware;
use crate::image::{self, Plan};
use crate::keys::Keys;
use crate::machine::{Event, Machine, OnReset, Qemu, Spec, Start};
use crate::noise::{Filter, firmware_gave_up};
use crate::qemu10;
use crate::terminal::Raw;
use crate::workspace::Workspace;

/// What starts the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// UEFI, from the image that also goes on a USB stick
    Uefi,
    /// A BIOS and GRUB, from build/bios.iso
    Bios,
    /// QEMU itself: no firmware to wait for, and no image
    Direct,
}

/// More CPUs than the kernel has numbers for (`abi::CpuSet`) are of no use.
const MOST_CPUS: i64 = 512;
/// More than the ids of a local APIC in its older mode tell apart.
const MOST_WITHOUT_X2APIC: u32 = 255;

/// The machine a person asks for.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Number of CPUs; more than 255 need x2APIC (`--cpu max,+x2apic`)
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=MOST_CPUS))]
    pub cpus: u32,
    /// Memory, in QEMU's notation
    #[arg(long, default_value = "512M")]
    pub mem: String,
    /// QEMU's CPU model
    #[arg(long, default_value = "max")]
    pub cpu: String,
    /// auto, kvm or tcg
    #[arg(long, default_value = "auto")]
    pub accel: String,
    /// QEMU's display
    #[arg(long, default_value = "none")]
    pub display: String,
    /// What starts the system
    #[arg(long, default_value = "uefi")]
    pub firmware: Way,
    /// The kernel's command line; empty: as in limine.cfg
    #[arg(long, default_value = "")]
    pub cmdline: String,
    /// A folder with stock Limine's BOOTX64.EFI; empty: the project's own loader
    #[arg(long, default_value = "")]
    pub limine_dir: String,
}

impl Options {
    /// Builds what these options ask for, and says how a machine starts from it.
    ///
    /// # Errors
    /// If something can't be built or the firmware is missing.
    pub fn start(&self, ws: &Workspace) -> Result<Start> {
        let (plan, name) = plan(&self.cmdline, &self.limine_dir);
        Ok(match self.firmware {
            Way::Uefi => Start::Uefi {
                image: image::make(ws, &plan, name)?,
                firmware: firmware::find().context("no OVMF firmware found (./justw setup)")?,
                loader: None,
            },
            Way::Bios => Start::Bios {
                image: image::make_bios(ws, &plan, bios_name(name))?,
            },
            Way::Direct => Start::Direct(image::make_direct(ws, &plan, name)?),
        })
    }

    /// The machine these options ask for.
    ///
    /// # Errors
    /// If an option is not understood, or there is no QEMU here that can be such a machine.
    pub fn spec(&self, ws: &Workspace, start: Start, on_reset: OnReset) -> Result<Spec> {
        let (accel, why) = Accel::choose(&self.accel)?;
        let qemu = if needs_x2apic(self.cpus, &self.cpu, accel)? {
            qemu10::get(&ws.root.join(qemu10::FOLDER))
                .with_context(|| format!("{} CPUs need a QEMU with x2APIC under TCG", self.cpus))?
        } else {
            Qemu::system()
        };
        eprintln!(
            "qemu: {} CPUs ({}), {}, {} ({why})",
            self.cpus,
            self.cpu,
            self.mem,
            accel.name()
        );
        Ok(Spec {
            qemu,
            start,
            cpus: self.cpus,
            mem: self.mem.clone(),
            cpu: self.cpu.clone(),
            accel,
            accel_options: "",
            display: self.display.clone(),
            graphics: true,
            devices: &[],
            serial: true,
            icount: false,
            on_reset,
        })
    }
}

/// Whether so many CPUs of a model need a QEMU whose TCG has x2APIC. With KVM every QEMU has it, in all models that KVM is used with.
///
/// # Errors
/// If the CPUs are too many for a model that is not asked to have it.
fn needs_x2apic(cpus: u32, cpu: &str, accel: Accel) -> Result<bool> {
    if cpus <= MOST_WITHOUT_X2APIC || accel == Accel::Kvm {
        return Ok(false);
    }
    ensure!(
        cpu.split(',')
            .any(|word| matches!(word, "+x2apic" | "x2apic" | "x2apic=on")),
        "{cpus} CPUs: more than {MOST_WITHOUT_X2APIC} need x2APIC, which cpu={cpu} does not ask for (cpu={cpu},+x2apic)"
    );
    Ok(true)
}

/// Name of the plain product's image.
const PRODUCT: &str = "switchyard";

/// The product's image with a command line and a loader, and the name of its file. The plain product keeps its name for
/// itself, so that what goes on a USB stick is never a leftover of some experiment.
pub fn plan(cmdline: &str, limine_dir: &str) -> (Plan, &'static str) {
    let plan = Plan {
        cmdline: (!cmdline.is_empty()).then(|| cmdline.to_owned()),
        limine_dir: (!limine_dir.is_empty()).then(|| PathBuf::from(limine_dir)),
        ..Plan::product()
    };
    let name = if cmdline.is_empty() {
        PRODUCT
    } else {
        "switchyard-cmdline"
    };
    (plan, name)
}

/// The name of the image for machines without UEFI, beside that of the one for UEFI.
pub fn bios_name(name: &str) -> &'static str {
    if name == PRODUCT {
        "bios"
    } else {
        "bios-cmdline"
    }
}

/// Boots, and stays until the machine ends or the user leaves.
///
/// # Errors
/// If something can't be built or started. How the machine ended is in the exit code.
pub fn run(options: &Options) -> Result<ExitCode> {
    let ws = Workspace::find()?;
    let start = options.start(&ws)?;
    let stop = stop_flag()?;
    if stdin().is_terminal() {
        let spec = options.spec(&ws, start, OnReset::Boot)?;
        eprintln!("qemu: keys go to the machine; Ctrl-A X ends it");
        at_terminal(&spec, &stop)
    } else {
        piped(&options.spec(&ws, start, OnReset::End)?, &stop)
    }
}

/// Raised by a signal that asks this program to end.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
        signal_hook::consts::SIGINT,
    ] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("signal handler")?;
    }
    Ok(flag)
}

/// How often a quiet session looks at the stop flag and the clock.
const TICK: Duration = Duration::from_millis(100);

/// The next event, or none after a tick of silence.
fn next_event(events: &Receiver<Event>, stop: &AtomicBool) -> Result<Option<Event>> {
    if stop.load(Ordering::Relaxed) {
        bail!("stopped by a signal");
    }
    match events.recv_timeout(TICK) {
        Ok(event) => Ok(Some(event)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => bail!("the machine's serial line is gone"),
    }
}

fn show(bytes: &[u8]) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .context("standard output")
}

fn at_terminal(spec: &Spec, stop: &AtomicBool) -> Result<ExitCode> {
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(spec, sender.clone())?;
    let raw = Raw::enter()?;
    thread::spawn(move || read_keys(&sender));
    let mut filter = Filter::default();
    let mut keys = Keys::default();
    loop {
        match next_event(&events, stop)? {
            Some(Event::Said(bytes)) => show(&filter.push(&bytes))?,
            Some(Event::Typed(bytes)) => {
                let typed = keys.typed(&bytes);
                machine.send(&typed.send);
                if typed.quit {
                    machine.kill();
                    drop(raw);
                    eprintln!("\nqemu: ended by Ctrl-A X");
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Some(Event::Closed) => break,
            Some(Event::InputEnded) | None => {}
        }
    }
    drop(raw);
    Ok(report(&mut machine, machine_ending)?.into())
}

fn read_keys(sender: &Sender<Event>) {
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = stdin().lock().read(&mut buffer) {
        if sender.send(Event::Typed(buffer[..n].to_vec())).is_err() {
            return;
        }
    }
    let _ = sender.send(Event::InputEnded);
}

/// How long a machine may go on after the command that ends it: the shell may show one more prompt meanwhile.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long a machine that was asked to end, and says nothing to show that it will not, is waited for after the input's
/// end.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How long a machine may take to its first prompt when nobody sits at it to judge for himself.
const BOOT_LIMIT: Duration = Duration::from_mins(10);

fn piped(spec: &Spec, stop: &AtomicBool) -> Result<ExitCode> {
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(spec, sender.clone())?;
    thread::spawn(move || read_lines(&sender));
    let started = Instant::now();
    let mut filter = Filter::default();
    let mut feeder = Feeder::default();
    let mut done = None;
    let mut drained = None;
    loop {
        match next_event(&events, stop)? {
            Some(Event::Said(bytes)) => {
                show(&filter.push(&bytes))?;
                feeder.said(&bytes);
                if firmware_gave_up(feeder.transcript()) {
                    machine.kill();
                    show(b"\n")?;
                    bail!("the system did not start; the firmware's own words are above");
                }
            }
            Some(Event::Typed(line)) => feeder.input(&String::from_utf8_lossy(&line)),
            Some(Event::InputEnded) => feeder.input_ended(),
            Some(Event::Closed) => break,
            None if !feeder.reached_prompt() && started.elapsed() > BOOT_LIMIT => {
                machine.kill();
                bail!("no prompt within {} seconds", BOOT_LIMIT.as_secs());
            }
            None => {}
        }
        match feeder.step() {
            Step::Wait => done = None,
            Step::Send(bytes) => machine.send(&bytes),
            Step::Done => {
                done.get_or_insert_with(Instant::now);
            }
        }
        if feeder.is_drained() {
            drained.get_or_insert_with(Instant::now);
        }
        let since = |moment: Option<Instant>| moment.map(|m| m.elapsed());
        match verdict(feeder.power_command(), since(done), since(drained)) {
            Verdict::GoOn => {}
            Verdict::Disobeyed(command) => {
                machine.kill();
                show(b"\n")?;
                bail!("the machine did not carry out '{command}'; it was ended");
            }
            Verdict::Over => {
                machine.kill();
                show(b"\n")?;
                eprintln!("qemu: end of input at the prompt; the machine was ended");
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    let rebooted = feeder.power_command() == Some("reboot");
    let code = report(&mut machine, |ending| match ending {
        Ending::Reset if rebooted => (
            0,
            "the machine was reset, as asked; piped input ends there".into(),
        ),
        Ending::Reset => (1, "the machine reset itself (a triple fault?)".into()),
        other => machine_ending(other),
    })?;
    Ok(code.into())
}

/// What to do with a machine that is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict<'a> {
    GoOn,
    /// All was carried out.
    Over,
    /// It was told to end by this command, and stays.
    Disobeyed(&'a str),
}

/// Judges by the command to end the machine that was sent, how long the shell has been asking for more than there is,
/// and how long all input has been sent.
fn verdict(power: Option<&str>, done: Option<Duration>, drained: Option<Duration>) -> Verdict<'_> {
    match (power, done, drained) {
        (None, Some(_), _) => Verdict::Over,
        (Some(power), Some(done), _) if done >= GRACE => Verdict::Disobeyed(power),
        (Some(power), None, Some(drained)) if drained >= END_LIMIT => Verdict::Disobeyed(power),
        _ => Verdict::GoOn,
    }
}

fn read_lines(sender: &Sender<Event>) {
    let mut input = stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {
                while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                    line.pop();
                }
                if sender.send(Event::Typed(line.clone())).is_err() {
                    return;
                }
            }
        }
    }
    let _ = sender.send(Event::InputEnded);
}

fn machine_ending(ending: Ending) -> (u8, String) {
    (ending.exit_code(), ending.to_string())
}

/// Says how the machine ended; its exit code.
fn report(machine: &mut Machine, judge: impl FnOnce(Ending) -> (u8, String)) -> Result<u8> {
    let ending = machine.wait()?;
    let (code, text) = judge(ending);
    for line in machine.complaints() {
        eprintln!("{line}");
    }
    let mut err = stderr().lock();
    writeln!(err, "\nqemu: {text}").context("standard error")?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{END_LIMIT, GRACE, Verdict, needs_x2apic, verdict};
    use crate::accel::Accel;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn more_cpus_than_a_local_apic_tells_apart_need_x2apic() {
        assert!(!needs_x2apic(255, "max", Accel::Tcg).unwrap());
        assert!(needs_x2apic(256, "max,+x2apic", Accel::Tcg).unwrap());
        assert!(!needs_x2apic(288, "max", Accel::Kvm).unwrap());
        for cpu in ["max", "max,-x2apic", "qemu64,x2apic=off"] {
            let error = needs_x2apic(256, cpu, Accel::Tcg).unwrap_err().to_string();
            assert!(
                error.contains("256 CPUs: more than 255 need x2APIC"),
                "{error}"
            );
        }
    }

    #[test]
    fn end_of_input_at_the_prompt_is_the_end() {
        assert_eq!(verdict(None, None, Some(END_LIMIT)), Verdict::GoOn);
        assert_eq!(verdict(None, Some(MOMENT), Some(MOMENT)), Verdict::Over);
    }

    #[test]
    fn power_off_that_does_not_come_is_no_success() {
        let power = Some("poweroff");
        let disobeyed = Verdict::Disobeyed("poweroff");
        assert_eq!(verdict(power, Some(MOMENT), Some(MOMENT)), Verdict::GoOn);
        assert_eq!(verdict(power, Some(GRACE), Some(GRACE)), disobeyed);
        // A machine that hangs shows no prompt.
        assert_eq!(verdict(power, None, Some(GRACE)), Verdict::GoOn);
        assert_eq!(verdict(power, None, Some(END_LIMIT)), disobeyed);
        // More input may come.
        assert_eq!(verdict(power, None, None), Verdict::GoOn);
    }
}
