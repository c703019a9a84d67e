//! Keeping it running: watches all programs, tells how they end, starts services again, and starts programs on request.
//!
//! One thread does it all: it receives at `init`'s own endpoint with the notification bound on which the kernel signals
//! ends, until the next restart is due. It calls no server, so no server can hold it up.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use abi::info::{PowerAction, ProcessInfo, ProcessState};
use abi::{Badge, Deadline, Error};
use rt::interfaces::supervisor::{HANDLES, Server};
use rt::wire::List;
use rt::{
    Caller, Endpoint, Event, Failure, FailureKind, Later, Notification, Outcome, Process, time,
};

use crate::backoff::Backoff;
use crate::instance::Instance;
use crate::manifest::{Grants, Manifest, Restart, Service};
use crate::report;
use crate::wiring::{Program, Stores};

/// The bit that ends of programs started by `run` signal; services have those below, shared beyond 63.
const RUN_BIT: u64 = 1 << 63;
/// Most programs started by `run` at a time.
const MOST_RUNNING: usize = 32;
/// Most bytes of a list in an answer.
const LIST_BYTES: usize = 3000;

/// How an instance stands.
#[derive(Debug)]
enum State {
    /// It runs since then.
    Running(Process, Duration),
    /// It is to be started then.
    Waiting(Duration),
    /// It has ended for good, or never could be started.
    Ended,
}

/// An instance and how it stands.
#[derive(Debug)]
struct Child {
    instance: Instance,
    state: State,
    backoff: Backoff,
    starts: u32,
    /// How it ended last.
    last: Option<String>,
}

/// A program started by `run`, and who waits for its end.
#[derive(Debug)]
struct Running {
    name: String,
    process: Process,
    asked: Option<Later<(u32, u64, String)>>,
}

/// `init` at work.
#[derive(Debug)]
pub struct Supervisor<'a> {
    stores: Stores<'a>,
    services: Vec<Service>,
    run: Option<Grants>,
    children: Vec<Child>,
    running: VecDeque<Running>,
    /// The badge of the program that `run` started last; the instances have those below.
    last_badge: Badge,
    ended: Notification,
}

impl<'a> Supervisor<'a> {
    /// A supervisor of these instances, none of them started.
    ///
    /// # Errors
    /// The kernel's, if the endpoints can't be made.
    pub fn new(
        mut stores: Stores<'a>,
        manifest: Manifest,
        instances: Vec<Instance>,
    ) -> rt::Result<Supervisor<'a>> {
        for instance in &instances {
            stores.add_offers(&instance.offers)?;
        }
        let ended = Notification::create()?;
        let child = |instance: Instance| Child {
            backoff: Backoff::new(manifest.services[instance.service].backoff),
            state: State::Waiting(Duration::ZERO),
            starts: 0,
            last: None,
            instance,
        };
        Ok(Supervisor {
            stores,
            last_badge: Badge(instances.len() as u64),
            children: instances.into_iter().map(child).collect(),
            services: manifest.services,
            run: manifest.run,
            running: VecDeque::new(),
            ended,
        })
    }

    /// Starts all, then serves and supervises until the endpoint fails; returns why.
    pub fn serve(&mut self, endpoint: &Endpoint) -> Error {
        if let Err(error) = self.ended.bind() {
            return error;
        }
        let mut answer = None;
        loop {
            self.start_due();
            match endpoint.serve_next(answer.take(), HANDLES, self.next_start()) {
                Ok(Event::Message(message)) => answer = self.dispatch(message),
                Ok(Event::Notification(bits)) => self.look_after(bits),
                Err(Error::TimedOut | Error::Cancelled) => {}
                Err(error) => return error,
            }
        }
    }

    /// How many instances run.
    pub fn alive(&self) -> usize {
        self.children
            .iter()
            .filter(|child| matches!(child.state, State::Running(..)))
            .count()
    }

    /// Starts what is due.
    pub fn start_due(&mut self) {
        let now = time::now();
        for index in 0..self.children.len() {
            if matches!(self.children[index].state, State::Waiting(due) if due <= now) {
                self.start(index, now);
            }
        }
    }

    fn next_start(&self) -> Deadline {
        let due = self.children.iter().filter_map(|child| match child.state {
            State::Waiting(due) => Some(due.as_nanos() as u64),
            _ => None,
        });
        due.min().map_or(Deadline::NEVER, Deadline)
    }

    fn start(&mut self, index: usize, now: Duration) {
        let child = &mut self.children[index];
        let service = &self.services[child.instance.service];
        let program = Program {
            name: &child.instance.name,
            binary: &service.binary,
            argument: &service.arguments,
            cpu: child.instance.cpu,
            offers: &child.instance.offers,
            grants: &service.grants,
            badge: Badge(index as u64 + 1),
        };
        child.starts += 1;
        match self.stores.start(&program, &self.ended, bit(index)) {
            Ok(process) => child.state = State::Running(process, now),
            Err(error) => {
                log::error!("service '{}': {error}", child.instance.name);
                // A bad file stays bad; what the kernel lacked it may have later.
                let again = matches!(error, crate::wiring::StartError::Kernel(..))
                    && service.restart != Restart::Never;
                child.last = Some(format!("{error}"));
                self.settle(index, again, Duration::ZERO);
            }
        }
    }

    /// A service doesn't run any more: it is started again, or its end is final.
    fn settle(&mut self, index: usize, again: bool, ran: Duration) {
        let child = &mut self.children[index];
        if again {
            let wait = child.backoff.after(ran);
            log::info!(
                "service '{}' starts again in {} ms",
                child.instance.name,
                wait.as_millis()
            );
            child.state = State::Waiting(time::now() + wait);
        } else {
            child.state = State::Ended;
            self.stores
                .remove_offers(&self.children[index].instance.offers);
        }
        if !again && self.services[self.children[index].instance.service].essential {
            self.end_machine(index);
        }
    }

    /// An essential service has ended, and the machine with it.
    fn end_machine(&self, index: usize) {
        let child = &self.children[index];
        let last = child.last.as_deref().unwrap_or("never ran");
        log::info!(
            "essential service '{}' {last}: powering off",
            child.instance.name
        );
        if let Err(error) = self.stores.system.power(PowerAction::Off) {
            log::error!("can't power off: {error}");
        }
    }

    /// Looks at all programs whose bit is set.
    fn look_after(&mut self, bits: u64) {
        for index in 0..self.children.len() {
            if bits & bit(index) == 0 {
                continue;
            }
            let State::Running(process, since) = &self.children[index].state else {
                continue;
            };
            let since = *since;
            // Bits are shared: others may be alive.
            let Some(info) = ended(process) else { continue };
            let name = &self.children[index].instance.name;
            let failed = !report::succeeded(&info);
            tell(&format!("service '{name}' (process {})", info.id), &info);
            self.children[index].last = Some(report::ending(&info));
            let again = match self.services[self.children[index].instance.service].restart {
                Restart::Always => true,
                Restart::OnFailure => failed,
                Restart::Never => false,
            };
            self.settle(index, again, time::now().saturating_sub(since));
        }
        if bits & RUN_BIT != 0 {
            for _ in 0..self.running.len() {
                let Some(running) = self.running.pop_front() else {
                    break;
                };
                match ended(&running.process) {
                    None => self.running.push_back(running),
                    Some(info) => finish(running, &info),
                }
            }
        }
    }
}

/// What is known of a process that has ended; `None` if it is alive.
fn ended(process: &Process) -> Option<ProcessInfo> {
    process
        .info()
        .ok()
        .filter(|info| report::state(info) != ProcessState::Alive)
}

/// The bit that the end of an instance signals.
const fn bit(index: usize) -> u64 {
    1 << (index % 63)
}

/// Logs an end. The registers of a fault stand in the kernel's own report, just before.
fn tell(who: &str, info: &ProcessInfo) {
    if report::succeeded(info) {
        log::info!("{who} {}", report::ending(info));
    } else {
        log::warn!("{who} {}", report::ending(info));
    }
}

/// A program started by `run` has ended: tells whoever waits, or else the log.
fn finish(running: Running, info: &ProcessInfo) {
    let line = format!("{} {}", running.name, report::ending(info));
    if report::state(info) == ProcessState::Faulted {
        tell(
            &format!("program '{}' (process {})", running.name, info.id),
            info,
        );
    }
    // A caller who waits no more needs no answer.
    let _ = running
        .asked
        .map(|later| later.answer(Ok((info.state, info.code, line))));
}

impl Server for Supervisor<'_> {
    fn run(
        &mut self,
        caller: &mut Caller,
        name: String,
        argument: String,
    ) -> Outcome<(u32, u64, String)> {
        let Some(grants) = &self.run else {
            return Outcome::Failed(Failure::new(
                FailureKind::NotAllowed,
                "the manifest has no [run] table",
            ));
        };
        if self.running.len() >= MOST_RUNNING {
            return Outcome::Failed(FailureKind::Busy.into());
        }
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > abi::info::NAME_BYTES || !name.bytes().all(good) {
            return Outcome::Failed(Failure::new(FailureKind::BadArgument, "program name"));
        }
        // Never the same again, so that no server takes a program for an earlier one.
        self.last_badge.0 += 1;
        let program = Program {
            name: &name,
            binary: &name,
            argument: &argument,
            cpu: None,
            offers: &[],
            grants,
            badge: self.last_badge,
        };
        match self.stores.start(&program, &self.ended, RUN_BIT) {
            Ok(process) => {
                self.running.push_back(Running {
                    name,
                    process,
                    asked: caller.later(),
                });
                Outcome::Later
            }
            Err(crate::wiring::StartError::NoFile(file)) => {
                Outcome::Failed(Failure::new(FailureKind::NotFound, file))
            }
            Err(error) => Outcome::Failed(Failure::new(FailureKind::Internal, format!("{error}"))),
        }
    }

    fn restart(&mut self, _: &mut Caller, name: String) -> Outcome<()> {
        let found = self
            .children
            .iter()
            .find(|child| child.instance.name == name);
        let Some(child) = found else {
            return Outcome::Failed(FailureKind::NotFound.into());
        };
        if self.services[child.instance.service].restart == Restart::Never {
            let problem = "the manifest does not say that it is started again";
            return Outcome::Failed(Failure::new(FailureKind::NotAllowed, problem));
        }
        let State::Running(process, _) = &child.state else {
            return Outcome::Failed(Failure::new(FailureKind::Busy, "it does not run"));
        };
        // Its end is noticed as any other.
        process.kill(0).map_err(Failure::from).into()
    }

    fn services(&mut self, _: &mut Caller, first: u32) -> Outcome<(List<String>, u32)> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        for child in self.children.iter().skip(first as usize) {
            let state = match &child.state {
                State::Running(..) => "running",
                State::Waiting(_) => "waiting",
                State::Ended => "ended",
            };
            let plural = if child.starts == 1 { "" } else { "s" };
            let mut line = format!(
                "{} {state}, {} start{plural}",
                child.instance.name, child.starts
            );
            if let Some(last) = &child.last {
                line = format!("{line}, last {last}");
            }
            bytes += line.len() + 8;
            if bytes > LIST_BYTES && !lines.is_empty() {
                break;
            }
            lines.push(line);
        }
        Outcome::Done((List(lines), self.children.len() as u32))
    }
}
