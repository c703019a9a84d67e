//! What a process of the suite has, and how it starts more of them.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::time::Duration;

use abi::info::{ProcessInfo, ProcessState, Quota};
use abi::{Error, FaultKind, Handle, Protection, Rights};
use rt::archive::Archive;
use rt::loader::{self, Plan};
use rt::{AsHandle, Log, Memory, Notification, OwnedHandle, Process, System, Thread, start, time};

/// This program and the 32-bit one: the entry of the start block, and the file in the archive.
const PROGRAM: (&str, &str) = ("program", "bin/suite");
const PROGRAM32: (&str, &str) = ("program32", "bin/suite32");
const REPORT: &str = "report";
/// Bytes of the memory in which a test leaves its reason; the first eight are the reason's length.
const REPORT_BYTES: u64 = 4096;
/// Stack of a test's first thread.
const STACK_BYTES: u64 = 256 * 1024;

/// Exit code of a process that the suite had to end.
pub const OVERDUE: u64 = 0x0DEAD;

/// What every process of the suite has.
pub struct World {
    /// The kernel's log.
    pub log: Log,
    /// The machine, with all rights that the manifest gives.
    pub system: System,
    /// CPUs of the machine.
    pub cpus: u32,
    program: Image,
    program32: Image,
}

/// A program that can be started.
struct Image {
    memory: Memory,
    file: &'static [u8],
    plan: Plan,
}

impl Image {
    /// Takes it from the start block, or unpacks it from the archive.
    fn take((entry, name): (&str, &str), archive: Option<&Archive>) -> Result<Image, String> {
        let failed = |error: Error| format!("{error}");
        let (memory, bytes) = match archive {
            Some(archive) => unpack(archive, name)?,
            None => (
                start::take(entry).map_err(|error| format!("{error}"))?,
                start::value(entry).map_err(|error| format!("{error}"))?,
            ),
        };
        let mapping = memory.map(Protection::READ).map_err(failed)?;
        let mapped = mapping.bytes().min(bytes as usize);
        // SAFETY: nobody writes to the program once the first process of the suite has made it.
        let file = unsafe { core::slice::from_raw_parts(mapping.leak(), mapped) };
        let plan = Plan::new(file).map_err(|error| format!("{name}: {error}"))?;
        Ok(Image { memory, file, plan })
    }
}

impl World {
    /// The suite's own program: its plan, and the file that this is of.
    pub fn program(&self) -> (&Plan, &'static [u8]) {
        (&self.program.plan, self.program.file)
    }

    /// Takes what the start block brought: from `init` the whole archive, from the suite itself just its program.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn take() -> Result<&'static World, String> {
        let missing = |error: start::StartError| format!("{error}");
        let log: Log = start::take("log").map_err(missing)?;
        let system: System = start::take("system").map_err(missing)?;
        // What the suite itself was started with; its processes are given the programs.
        let (program, program32) = match start::take::<Memory>("initrd") {
            Ok(initrd) => {
                let mapping = initrd
                    .map(Protection::READ)
                    .map_err(|error| format!("initrd: {error}"))?;
                let bytes = start::value("initrd").map_err(missing)? as usize;
                // SAFETY: the archive is mapped read-only everywhere.
                let contents = unsafe { mapping.as_slice() };
                let archive = Archive::new(&contents[..contents.len().min(bytes)])
                    .map_err(|error| format!("initrd: {error}"))?;
                (
                    Image::take(PROGRAM, Some(&archive))?,
                    Image::take(PROGRAM32, Some(&archive))?,
                )
            }
            Err(_) => (Image::take(PROGRAM, None)?, Image::take(PROGRAM32, None)?),
        };
        let failed = |error: Error| format!("{error}");
        let cpus = system.machine().map_err(failed)?.cpus;
        Ok(Box::leak(Box::new(World {
            log,
            system,
            cpus,
            program,
            program32,
        })))
    }

    /// Starts this program with an argument. `extra` handles go with it under their names.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn spawn(&self, argument: &str, extra: &[(&str, Handle)]) -> rt::Result<Child> {
        let child = self.prepare(argument, extra)?;
        child.thread.start()?;
        Ok(child)
    }

    /// The same, with its first thread not yet started.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn prepare(&self, argument: &str, extra: &[(&str, Handle)]) -> rt::Result<Child> {
        self.prepare_image(&self.program, argument, extra, None)
    }

    /// Starts this program with an argument and a part of this one's quota.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn spawn_with(
        &self,
        argument: &str,
        extra: &[(&str, Handle)],
        quota: &Quota,
    ) -> rt::Result<Child> {
        let child = self.prepare_image(&self.program, argument, extra, Some(quota))?;
        child.thread.start()?;
        Ok(child)
    }

    /// Starts the 32-bit program with an argument, in a 32-bit process.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn spawn32(&self, argument: &str) -> rt::Result<Child> {
        let child = self.prepare_image(&self.program32, argument, &[], None)?;
        child.thread.start()?;
        Ok(child)
    }

    fn prepare_image(
        &self,
        image: &Image,
        argument: &str,
        extra: &[(&str, Handle)],
        quota: Option<&Quota>,
    ) -> rt::Result<Child> {
        let name = argument.rsplit(' ').next().unwrap_or(argument);
        let mut end = name.len().min(abi::info::NAME_BYTES);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let process =
            Process::make_with(image.plan.mode, &name[..end], rt::Priority::LOWEST, quota)?;
        let report = Memory::create(REPORT_BYTES)?;
        // In place from now on: a test that used up all memory must still be able to say why it failed.
        report.write(0, &[0; 8])?;
        let mut block = start::Builder::new();
        let mut give = |name: &str, handle: Handle, value: u64| {
            let rights = Rights(Lent::new(handle).query()?.rights);
            block.add(name, process.grant(&handle, rights)?, value)
        };
        give("log", self.log.handle(), 0)?;
        give("system", self.system.handle(), 0)?;
        for ((entry, _), image) in [(PROGRAM, &self.program), (PROGRAM32, &self.program32)] {
            give(entry, image.memory.handle(), image.file.len() as u64)?;
        }
        give(REPORT, report.handle(), 0)?;
        for (name, handle) in extra {
            give(name, *handle, 0)?;
        }
        image.plan.load(image.file, &process)?;
        let done = Notification::create()?;
        process.watch(&done, 1)?;
        let thread = loader::first_thread(&process, &image.plan, STACK_BYTES, &block, argument)?;
        Ok(Child {
            process: process.process,
            thread,
            done,
            report,
        })
    }
}

/// Somebody else's handle, looked at through an owner that does not close it.
struct Lent(core::mem::ManuallyDrop<OwnedHandle>);

impl Lent {
    fn new(handle: Handle) -> Lent {
        Lent(core::mem::ManuallyDrop::new(OwnedHandle::from_raw(handle)))
    }
}

impl core::ops::Deref for Lent {
    type Target = OwnedHandle;
    fn deref(&self) -> &OwnedHandle {
        &self.0
    }
}

/// A program out of the boot archive, in memory that the suite's processes share, and its size.
fn unpack(archive: &Archive, name: &str) -> Result<(Memory, u64), String> {
    let failed = |error: Error| format!("{error}");
    let file = archive
        .find(name)
        .ok_or_else(|| format!("the initrd has no {name}"))?;
    let program = Memory::create(file.len() as u64).map_err(failed)?;
    program.write(0, file).map_err(failed)?;
    Ok((program, file.len() as u64))
}

/// Leaves a reason for whoever started this process.
///
/// # Errors
/// Those of the calls that it takes, or if nobody wants to know.
pub fn report(reason: &str) -> rt::Result<()> {
    let memory: Memory = start::take(REPORT).map_err(|_| Error::NotSupported)?;
    let bytes = &reason.as_bytes()[..reason.len().min(REPORT_BYTES as usize - 8)];
    memory.write(0, &(bytes.len() as u64).to_le_bytes())?;
    memory.write(8, bytes)
}

/// A process that was started.
pub struct Child {
    /// The process.
    pub process: Process,
    /// Its first thread.
    pub thread: Thread,
    done: Notification,
    report: Memory,
}

impl Child {
    /// Waits until it has ended, at most so long; then it is ended by force, with code [`OVERDUE`].
    ///
    /// # Errors
    /// `TimedOut` if even that does not end it.
    pub fn end(&self, patience: Duration) -> rt::Result<ProcessInfo> {
        end(&self.process, &self.done, patience)
    }

    /// The reason that it left.
    pub fn reason(&self) -> String {
        let mut length = [0; 8];
        let mut text = alloc::vec![0; REPORT_BYTES as usize - 8];
        if self
            .report
            .read(0, &mut length)
            .and_then(|()| self.report.read(8, &mut text))
            .is_err()
        {
            return String::from("its reason can't be read");
        }
        let length = (u64::from_le_bytes(length) as usize).min(text.len());
        String::from_utf8_lossy(&text[..length]).into_owned()
    }
}

impl Drop for Child {
    /// A test that fails half-way must not leave its partners behind to disturb the next.
    fn drop(&mut self) {
        // That it has ended is the usual case.
        let _ = self.process.kill(OVERDUE);
    }
}

/// Waits for a watched process's end; see [`Child::end`].
pub fn end(process: &Process, done: &Notification, patience: Duration) -> rt::Result<ProcessInfo> {
    if done.wait(time::after(patience)) == Err(Error::TimedOut) {
        process.kill(OVERDUE)?;
        done.wait(time::after(Duration::from_secs(5)))?;
    }
    process.info()
}

/// How a process ended, in words.
pub fn ending(info: &ProcessInfo) -> String {
    const EXITED: u32 = ProcessState::Exited as u32;
    const KILLED: u32 = ProcessState::Killed as u32;
    const FAULTED: u32 = ProcessState::Faulted as u32;
    match info.state {
        EXITED => format!("exited with code {}", info.code),
        KILLED if info.code == OVERDUE => String::from("did not end in time"),
        KILLED => format!("was killed with code {}", info.code),
        FAULTED => format!(
            "ended by a fault: {} at {:#x}, error code {:#x}, address {:#x}",
            FaultKind::from_vector(info.context.vector).text(),
            info.context.rip,
            info.context.error_code,
            info.context.cr2
        ),
        state => format!("is in state {state}"),
    }
}
