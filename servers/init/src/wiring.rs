//! Giving out: from an instance and its grants to a process that runs.
//!
//! Every handle that a program gets is made here, with no more rights than its manifest says. Objects of which the kernel
//! has only one (an interrupt line, a range of ports, the framebuffer) are kept for a later start of the same service.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use core::fmt;

use abi::start::{init, names};
use abi::{Badge, CpuSet, Error, Rights};
use rt::archive::Archive;
use rt::loader::{self, ElfError, Plan};
use rt::process::Made;
use rt::{
    AsHandle, Endpoint, Handle, IoPorts, Irq, Log, Memory, Notification, Process, System, Thread,
    start,
};

use crate::instance::Offer;
use crate::manifest::{Grants, INIT_ENDPOINT, PortRange};

/// What a server may do with its own endpoint.
const SERVER: Rights = Rights::RECEIVE
    .with(Rights::SEND)
    .with(Rights::MINT)
    .with(Rights::DUPLICATE)
    .with(Rights::TRANSFER)
    .with(Rights::QUERY);
/// What a client may do with another's.
const CLIENT: Rights = Rights::SEND.with(Rights::QUERY).with(Rights::DUPLICATE);
/// What the registry may do with a public one: also pass it on.
const PUBLIC: Rights = CLIENT.with(Rights::TRANSFER);

/// Why a program was not started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartError {
    /// The archive has no such file.
    NoFile(String),
    /// The file is no program.
    BadFile(String, ElfError),
    /// The kernel refused a step.
    Kernel(&'static str, Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NoFile(file) => write!(f, "{file}: no such file in the initrd"),
            StartError::BadFile(file, error) => write!(f, "{file}: {error}"),
            StartError::Kernel(step, error) => write!(f, "{step}: {error}"),
        }
    }
}

impl core::error::Error for StartError {}

/// Names the step that failed.
fn step<T>(name: &'static str, result: rt::Result<T>) -> Result<T, StartError> {
    result.map_err(|error| StartError::Kernel(name, error))
}

/// A program to start.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The process's name.
    pub name: &'a str,
    /// Its file is `bin/BINARY`.
    pub binary: &'a str,
    /// Its argument string.
    pub argument: &'a str,
    /// The CPU that it is kept on.
    pub cpu: Option<u32>,
    /// What it serves.
    pub offers: &'a [Offer],
    /// What it is given.
    pub grants: &'a Grants,
    /// What its calls carry.
    pub badge: Badge,
}

/// All that can be given out.
#[derive(Debug)]
pub struct Stores<'a> {
    /// The files.
    pub archive: Archive<'a>,
    /// The archive itself.
    pub initrd: Memory,
    /// Its size in bytes.
    pub initrd_bytes: u64,
    /// The machine.
    pub system: System,
    /// The kernel's log.
    pub log: Log,
    /// Each endpoint by name, with all rights, and whether it is public.
    pub endpoints: BTreeMap<String, (Endpoint, bool)>,
    irqs: BTreeMap<u8, Irq>,
    ports: BTreeMap<(u16, u32), IoPorts>,
    framebuffer: Option<Memory>,
}

/// A start block under construction, for one process.
struct Gifts<'a> {
    process: &'a Process,
    block: start::Builder,
}

impl Gifts<'_> {
    fn give(
        &mut self,
        name: &str,
        handle: &impl AsHandle,
        rights: Rights,
        value: u64,
    ) -> rt::Result<()> {
        let theirs = self.process.grant(handle, rights)?;
        self.block.add(name, theirs, value)
    }
}

impl<'a> Stores<'a> {
    /// The stores at the beginning: no endpoint yet.
    pub const fn new(
        archive: Archive<'a>,
        initrd: Memory,
        initrd_bytes: u64,
        system: System,
        log: Log,
    ) -> Stores<'a> {
        Stores {
            archive,
            initrd,
            initrd_bytes,
            system,
            log,
            endpoints: BTreeMap::new(),
            irqs: BTreeMap::new(),
            ports: BTreeMap::new(),
            framebuffer: None,
        }
    }

    /// Makes the endpoints that an instance offers, unless they are there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_offers(&mut self, offers: &[Offer]) -> rt::Result<()> {
        for offer in offers {
            if !self.endpoints.contains_key(&offer.endpoint) {
                self.endpoints
                    .insert(offer.endpoint.clone(), (Endpoint::create()?, offer.public));
            }
        }
        Ok(())
    }

    /// Closes the endpoints of a service that has ended for good: their callers get `PeerClosed`.
    pub fn remove_offers(&mut self, offers: &[Offer]) {
        for offer in offers {
            self.endpoints.remove(&offer.endpoint);
        }
    }

    /// Starts a program and watches it: `bit` of the notification is signalled at its end.
    ///
    /// # Errors
    /// Names the file or the step. Nothing of it is left then.
    pub fn start(
        &mut self,
        program: &Program,
        ended: &Notification,
        bit: u64,
    ) -> Result<Process, StartError> {
        let file = format!("bin/{}", program.binary);
        let Some(contents) = self.archive.find(&file) else {
            return Err(StartError::NoFile(file));
        };
        let plan = Plan::new(contents).map_err(|error| StartError::BadFile(file, error))?;
        let process = step(
            "can't make the process",
            plan.process_with(
                program.name,
                program.grants.highest,
                program.grants.quota.as_ref(),
            ),
        )?;
        let started = self
            .fill(program, &process, &plan, contents)
            .and_then(|thread| {
                step("can't watch it", process.watch(ended, bit))?;
                step("can't start its thread", thread.start())
            });
        if let Err(error) = started {
            // It never ran; that it can't be ended again would only say that it has.
            let _ = process.kill(u64::MAX);
            return Err(error);
        }
        Ok(process.process)
    }

    fn fill(
        &mut self,
        program: &Program,
        process: &Made,
        plan: &Plan,
        contents: &[u8],
    ) -> Result<Thread, StartError> {
        step("can't load the image", plan.load(contents, process))?;
        let mut gifts = Gifts {
            process,
            block: start::Builder::new(),
        };
        let own = Rights::MANAGE | Rights::QUERY | Rights::DUPLICATE | Rights::TRANSFER;
        step(
            "can't give it its process",
            gifts.give(names::PROCESS, &process.process, own, 0),
        )?;
        self.give_endpoints(program, &mut gifts)?;
        let grants = program.grants;
        if grants.log != Rights::NONE {
            step(
                "can't give it the log",
                gifts.give(init::LOG, &self.log, grants.log, 0),
            )?;
        }
        if grants.system != Rights::NONE {
            step(
                "can't give it the system",
                gifts.give(init::SYSTEM, &self.system, grants.system, 0),
            )?;
        }
        if grants.initrd {
            let rights = Rights::READ | Rights::QUERY;
            step(
                "can't give it the initrd",
                gifts.give(init::INITRD, &self.initrd, rights, self.initrd_bytes),
            )?;
        }
        self.give_devices(program, &mut gifts);
        let thread = loader::first_thread(
            process,
            plan,
            grants.stack_bytes,
            &gifts.block,
            program.argument,
        );
        let thread = step("can't make its thread", thread)?;
        step(
            "can't set its priority",
            thread.set_priority(grants.priority),
        )?;
        if let Some(cpu) = program.cpu {
            step(
                "can't keep it on its CPU",
                thread.set_affinity(&CpuSet::only(cpu)),
            )?;
        }
        Ok(thread)
    }

    fn give_endpoints(&self, program: &Program, gifts: &mut Gifts) -> Result<(), StartError> {
        for offer in program.offers {
            if let Some((endpoint, _)) = self.endpoints.get(&offer.endpoint) {
                step(
                    "can't give it its endpoint",
                    gifts.give(&offer.entry, endpoint, SERVER, 0),
                )?;
            }
        }
        for name in &program.grants.uses {
            let Some((endpoint, _)) = self.endpoints.get(name) else {
                continue;
            };
            let badged = endpoint.mint(program.badge, CLIENT | Rights::TRANSFER);
            let given = badged.and_then(|badged| gifts.give(name, &badged, CLIENT, 0));
            step("can't give it an endpoint", given)?;
        }
        if program.grants.registry {
            let public = self
                .endpoints
                .iter()
                .filter(|(name, (_, public))| *public && *name != INIT_ENDPOINT);
            for (name, (endpoint, _)) in public {
                let given = gifts.give(&format!("public.{name}"), endpoint, PUBLIC, 0);
                step("can't give it a public endpoint", given)?;
            }
        }
        Ok(())
    }

    /// A device that can't be had is named, and the program started without it: a driver knows what to do on a machine
    /// that lacks its device.
    fn give_devices(&mut self, program: &Program, gifts: &mut Gifts) {
        let rights = Rights::MANAGE | Rights::QUERY;
        let lacks =
            |what: &str, error: Error| log::warn!("service '{}': {what}: {error}", program.name);
        for line in &program.grants.irqs {
            let given = self
                .irq(*line)
                .and_then(|irq| gifts.give(&format!("irq.{line}"), irq, rights, 0));
            given.unwrap_or_else(|error| lacks(&format!("irqs: line {line}"), error));
        }
        for range in &program.grants.ports {
            let PortRange { first, count } = *range;
            let given = self.ports(*range).and_then(|ports| {
                gifts.give(&format!("ports.{first:x}"), ports, rights, u64::from(count))
            });
            given.unwrap_or_else(|error| lacks(&format!("ports: {first:#x}, {count}"), error));
        }
        if program.grants.framebuffer {
            self.give_framebuffer(gifts)
                .unwrap_or_else(|error| lacks("framebuffer", error));
        }
    }

    fn irq(&mut self, line: u8) -> rt::Result<&Irq> {
        if !self.irqs.contains_key(&line) {
            self.irqs
                .insert(line, Irq::create(&self.system, u64::from(line), true)?);
        }
        self.irqs.get(&line).ok_or(Error::NotSupported)
    }

    fn ports(&mut self, range: PortRange) -> rt::Result<&IoPorts> {
        let key = (range.first, range.count);
        if !self.ports.contains_key(&key) {
            self.ports.insert(
                key,
                IoPorts::create(&self.system, range.first, range.count)?,
            );
        }
        self.ports.get(&key).ok_or(Error::NotSupported)
    }

    /// Gives the pixels and their geometry; nothing on a machine without.
    fn give_framebuffer(&mut self, gifts: &mut Gifts) -> rt::Result<()> {
        let screen = self.system.machine()?.framebuffer;
        if screen.physical == 0 {
            return Ok(());
        }
        let bytes = u64::from(screen.pitch) * u64::from(screen.height);
        let memory = match self.framebuffer.take() {
            Some(memory) => memory,
            None => {
                self.system
                    .physical_memory(screen.physical, bytes.next_multiple_of(4096), true)?
            }
        };
        let given = gifts.give(
            "framebuffer",
            &memory,
            Rights::READ | Rights::WRITE | Rights::QUERY,
            bytes,
        );
        self.framebuffer = Some(memory);
        given?;
        let shifts = [
            screen.red_shift,
            screen.green_shift,
            screen.blue_shift,
            0,
            0,
            0,
            0,
            0,
        ];
        for (name, value) in [
            ("framebuffer.width", u64::from(screen.width)),
            ("framebuffer.height", u64::from(screen.height)),
            ("framebuffer.pitch", u64::from(screen.pitch)),
            ("framebuffer.shifts", u64::from_le_bytes(shifts)),
        ] {
            gifts.block.add(name, Handle::NONE, value)?;
        }
        Ok(())
    }
}
