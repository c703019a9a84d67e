//! The world as it is: through the handles that the manifest gave.
//!
//! A handle that was not given, or a server that doesn't answer, makes the commands that need it say so; the others go
//! on. The console is the exception: without it there is nobody to talk to.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use abi::info::{
    CpuInfo, EndpointInfo, MachineInfo, MemoryInfo, PowerAction, ProcessEntry, ThreadInfo,
};
use abi::start::init;
use abi::trace::TraceKind;
use rt::archive::Archive;
use rt::interfaces::{console, echo, names, supervisor};
use rt::{CallError, Deadline, Failure, FailureKind, Log, Memory, System, start, thread, time};

use crate::world::{Trace, World};

/// How long an answer of a server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Text goes to the console in pieces of this size at most.
const PIECE: usize = 3000;
/// How often a running program's end is looked for besides what was typed.
const LOOK: Duration = Duration::from_millis(100);
/// What interrupts waiting for a program.
const CONTROL_C: u8 = 0x03;

/// The handles.
pub struct Machine {
    console: console::Client,
    names: Option<names::Client>,
    supervisor: Option<Arc<supervisor::Client>>,
    system: Option<System>,
    log: Option<Log>,
    /// The boot archive, or why there is none.
    initrd: Result<Archive<'static>, String>,
    /// What was typed while a program ran.
    typed: Vec<u8>,
}

impl Machine {
    /// Takes the handles out of the start block.
    ///
    /// # Errors
    /// If there is no console.
    pub fn take() -> Result<Machine, String> {
        Ok(Machine {
            console: start::take("console").map_err(|error| format!("{error}"))?,
            names: start::take("names").ok(),
            supervisor: start::take("init").ok().map(Arc::new),
            system: start::take(init::SYSTEM).ok(),
            log: start::take(init::LOG).ok(),
            initrd: boot_archive(),
            typed: Vec::new(),
        })
    }

    fn system(&self) -> Result<&System, String> {
        self.system
            .as_ref()
            .ok_or_else(|| "this shell was not given the 'system' handle".to_string())
    }

    fn query<T>(&self, ask: impl FnOnce(&System) -> rt::Result<T>) -> Result<T, String> {
        ask(self.system()?).map_err(|error| format!("the kernel refuses: {error}"))
    }

    fn names_server(&self) -> Result<&names::Client, String> {
        self.names
            .as_ref()
            .ok_or_else(|| "this shell was not given the 'names' endpoint".to_string())
    }

    fn supervisor(&self) -> Result<&Arc<supervisor::Client>, String> {
        self.supervisor
            .as_ref()
            .ok_or_else(|| "this shell was not given the 'init' endpoint".to_string())
    }

    fn initrd(&self) -> Result<&Archive<'static>, String> {
        self.initrd.as_ref().map_err(String::clone)
    }
}

fn boot_archive() -> Result<Archive<'static>, String> {
    let lacks = |_| "this shell was not given the initrd".to_string();
    let memory: Memory = start::take(init::INITRD).map_err(lacks)?;
    let bytes = start::value(init::INITRD).map_err(lacks)?;
    Archive::map(&memory, bytes).map_err(|error| format!("initrd: {error}"))
}

fn soon() -> Deadline {
    time::after(PATIENCE)
}

/// Collects a list that a server gives in parts.
fn all(
    mut part: impl FnMut(u32) -> Result<(rt::wire::List<String>, u32), CallError>,
) -> Result<Vec<String>, String> {
    let mut list = Vec::new();
    loop {
        let (mut some, total) = part(list.len() as u32).map_err(|error| error.to_string())?;
        if some.0.is_empty() {
            return Ok(list);
        }
        list.append(&mut some.0);
        if list.len() >= total as usize {
            return Ok(list);
        }
    }
}

impl World for Machine {
    fn read(&mut self) -> Result<Vec<u8>, String> {
        if !self.typed.is_empty() {
            return Ok(core::mem::take(&mut self.typed));
        }
        self.console
            .read(1024_u32, Deadline::NEVER)
            .map_err(|error| error.to_string())
    }

    fn write(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let mut end = rest.len().min(PIECE);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            // Text that a dead console lost is lost; the session notices at its next read.
            if self
                .console
                .write(&rest.as_bytes()[..end], Deadline::NEVER)
                .is_err()
            {
                return;
            }
            rest = &rest[end..];
        }
    }

    fn clear(&mut self) {
        // As above.
        let _ = self.console.clear(Deadline::NEVER);
    }

    fn columns(&mut self) -> usize {
        self.console
            .size(Deadline::NEVER)
            .map_or(80, |(columns, _)| columns as usize)
    }

    fn now(&self) -> Duration {
        time::now()
    }

    fn cpus(&self) -> Result<Vec<CpuInfo>, String> {
        self.query(System::cpus)
    }

    fn threads(&self) -> Result<Vec<ThreadInfo>, String> {
        self.query(System::threads)
    }

    fn processes(&self) -> Result<Vec<ProcessEntry>, String> {
        self.query(System::processes)
    }

    fn endpoints(&self) -> Result<Vec<EndpointInfo>, String> {
        self.query(System::endpoints)
    }

    fn pause(&mut self, time: Duration) {
        // Cut short, the figures are of a shorter time, which they say themselves.
        let _ = time::sleep(time);
    }

    fn trace(&mut self, time: Duration) -> Result<Trace, String> {
        self.query(|system| {
            let mut numbers = Vec::new();
            for cpu in system.cpus()? {
                numbers.push((cpu.index, system.read_trace(cpu.index, u64::MAX)?.1));
            }
            system.trace(TraceKind::EVERY)?;
            let slept = time::sleep(time);
            system.trace(0)?;
            slept?;
            let mut trace = Trace::default();
            for (cpu, mut number) in numbers {
                loop {
                    let (records, next, lost) = system.read_trace(cpu, number)?;
                    (number, trace.lost) = (next, trace.lost + lost);
                    if records.is_empty() {
                        break;
                    }
                    trace.records.extend(records);
                }
            }
            trace.records.sort_by_key(|record| record.ticks);
            Ok(trace)
        })
    }

    fn memory(&self) -> Result<MemoryInfo, String> {
        self.query(System::memory)
    }

    fn machine(&self) -> Result<MachineInfo, String> {
        self.query(System::machine)
    }

    fn ping(&mut self, cpu: u32, rounds: u32) -> Result<Duration, String> {
        let endpoint = self
            .names_server()?
            .look_up(format!("echo.{cpu}"), soon())
            .map_err(|error| error.to_string())?;
        let client = echo::Client::new(endpoint);
        let begin = time::now();
        for round in 0..u64::from(rounds) {
            match client.word(round, soon()) {
                Ok(answer) if answer == round => {}
                Ok(answer) => return Err(format!("round trip {round} came back as {answer}")),
                Err(error) => return Err(format!("round trip {round}: {error}")),
            }
        }
        Ok(time::now().saturating_sub(begin))
    }

    fn files(&self) -> Result<Vec<(String, usize)>, String> {
        Ok(self
            .initrd()?
            .files()
            .map(|file| (file.name, file.contents.len()))
            .collect())
    }

    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(self.initrd()?.find(name).map(<[u8]>::to_vec))
    }

    /// The call waits on a thread of its own, so that control-C is heard meanwhile.
    fn run(&mut self, name: &str, argument: &str) -> Result<String, String> {
        let supervisor = Arc::clone(self.supervisor()?);
        let (program, argument) = (name.to_string(), argument.to_string());
        let waiter = thread::spawn(move || supervisor.run(program, argument, Deadline::NEVER))
            .map_err(|error| format!("can't make a thread: {error}"))?;
        loop {
            if waiter.wait(time::after(LOOK)).is_ok() {
                return match waiter.join(soon()) {
                    Ok(Ok((_, _, line))) => Ok(line),
                    Ok(Err(CallError::Failed(Failure {
                        kind: FailureKind::NotFound,
                        ..
                    }))) => Err(format!(
                        "run: no program '{name}' ('ls' lists them, as bin/NAME)"
                    )),
                    // Says which file, and what is wrong with it.
                    Ok(Err(CallError::Failed(failure))) if !failure.detail.is_empty() => {
                        Err(format!("run: {}", failure.detail))
                    }
                    Ok(Err(error)) => Err(format!("run: {name}: {error}")),
                    Err(error) => Err(format!("run: {name}: {error}")),
                };
            }
            let Ok(typed) = self
                .console
                .read(1024_u32, time::after(Duration::from_millis(2)))
            else {
                continue;
            };
            if let Some(place) = typed.iter().position(|byte| *byte == CONTROL_C) {
                self.typed.extend(&typed[place + 1..]);
                return Ok(format!("{name} still runs"));
            }
            self.typed.extend(typed);
        }
    }

    fn services(&mut self) -> Result<Vec<String>, String> {
        let supervisor = self.supervisor()?;
        all(|first| supervisor.services(first, soon()))
    }

    fn restart(&mut self, name: &str) -> Result<(), String> {
        let result = self.supervisor()?.restart(name, soon());
        result.map_err(|error| format!("restart: {name}: {error}"))
    }

    fn names(&mut self) -> Result<Vec<String>, String> {
        let names = self.names_server()?;
        all(|first| names.list(first, soon()))
    }

    fn log(&self) -> Result<Vec<u8>, String> {
        let Some(log) = &self.log else {
            return Err("this shell was not given the log".to_string());
        };
        let mut text = Vec::new();
        let mut piece = [0; 1024];
        let mut position = 0;
        loop {
            let (bytes, next) = log
                .read(position, &mut piece)
                .map_err(|error| format!("the kernel refuses: {error}"))?;
            // The log may grow while it is read; its ring's size is the bound.
            if bytes == 0 || text.len() > 1 << 20 {
                return Ok(text);
            }
            text.extend_from_slice(&piece[..bytes]);
            position = next;
        }
    }

    fn power(&mut self, action: PowerAction) -> Result<(), String> {
        self.query(|system| system.power(action))
    }
}
