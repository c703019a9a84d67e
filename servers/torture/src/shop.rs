//! What tortured threads are made of: their code, the board, ports, servers; and the making.

use abi::{CpuSet, DebugRegisters, Error, UserContext};
use rt::process::Mode;
use rt::{
    Endpoint, IoPorts, Memory, Notification, Priority, Process, Protection, Rights, System, Thread,
};
use torture::Code;
use torture::damage::Damage;
use torture::fpu::Layout;
use torture::page::{self, BELOW, FRESH_BYTES, Page, TEXT, TEXT_BYTES};
use torture::plan::{self, Birth, Body, Planner, Silence, Use};
use torture::random::Random;

use crate::servers::Servers;
use crate::{features, worker32, worker64};

/// What all places share.
#[derive(Debug)]
pub struct Shop {
    /// The machine's FPU.
    pub layout: Layout,
    /// Whether bases can be read and written by instructions.
    pub fsgsbase: bool,
    /// Whether the kernel has decided to load FPU states when their threads come.
    pub eager: bool,
    /// CPUs of the machine.
    pub cpus: u32,
    /// Who answers.
    pub servers: Servers,
    /// Is told of ends, a bit for each place.
    pub ended: Notification,
    /// The code of 64-bit threads.
    pub code64: Code,
    /// That of 32-bit ones.
    pub code32: Code,
    text64: Memory,
    text32: Memory,
    board: Memory,
    ports: IoPorts,
    /// Nobody signals it.
    bell: Notification,
    /// Nobody sends to it.
    ear: Endpoint,
    /// Nobody receives from it.
    deaf: Endpoint,
}

impl Shop {
    /// Opens it.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn open(system: &System, servers: Servers, cpus: u32, eager: bool) -> rt::Result<Shop> {
        let text = |code: &Code| {
            let memory = Memory::create(TEXT_BYTES)?;
            memory.write(0, code.text)?;
            rt::Result::Ok(memory)
        };
        let (code64, code32) = (worker64::code(), worker32::code());
        Ok(Shop {
            layout: features::layout(),
            fsgsbase: features::fsgsbase(),
            eager,
            cpus,
            servers,
            ended: Notification::create()?,
            text64: text(&code64)?,
            text32: text(&code32)?,
            code64,
            code32,
            board: Memory::create(page::BOARD_BYTES)?,
            ports: IoPorts::create(system, plan::PORT, 1)?,
            bell: Notification::create()?,
            ear: Endpoint::create()?,
            deaf: Endpoint::create()?,
        })
    }

    /// An empty process for such threads, with what they need, and the handles that it has.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn process(
        &self,
        shape: &Shape,
        random: &mut Random,
        damage: Option<&Damage>,
    ) -> rt::Result<(Process, Gifts)> {
        let mode = if shape.bits32 {
            Mode::Compat
        } else {
            Mode::Long
        };
        let process = Process::create_in(mode, "tortured", shape.priority)?;
        let all = Protection::READ_WRITE;
        process.map(&self.board, page::BOARD, 0, page::BOARD_BYTES, all)?;
        let may_use_ports = damage == Some(&Damage::Port) || random.one_in(3);
        // Mostly the server of its CPU: then the answer comes without a wake-up across CPUs.
        let server = match shape.pinned {
            Some(cpu) if !random.one_in(4) => cpu as usize,
            _ => random.below(self.cpus.into()) as usize,
        };
        let gifts = Gifts {
            ports: if may_use_ports {
                process.grant(&self.ports, Rights::MANAGE)?.0
            } else {
                0
            },
            server: process
                .grant(&self.servers.clients[server], Rights::SEND)?
                .0,
            silence: self.silence(&process, damage)?,
            vsyscall: process.info()?.vsyscall,
        };
        Ok((process, gifts))
    }

    fn silence(&self, process: &Process, damage: Option<&Damage>) -> rt::Result<Silence> {
        let bell = if damage == Some(&Damage::Bell) {
            let bell = Notification::create()?;
            bell.signal(1)?;
            process.grant(&bell, Rights::WAIT)?
        } else {
            process.grant(&self.bell, Rights::WAIT)?
        };
        Ok(Silence {
            bell: bell.0,
            ear: process.grant(&self.ear, Rights::RECEIVE)?.0,
            deaf: process.grant(&self.deaf, Rights::SEND)?.0,
        })
    }

    /// Maps text and page of its thread number `index`.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn map(
        &self,
        shape: &Shape,
        process: &Process,
        index: usize,
        page: &Memory,
    ) -> rt::Result<()> {
        let base = base(index);
        let text = if shape.bits32 {
            &self.text32
        } else {
            &self.text64
        };
        process.map(text, base, 0, TEXT_BYTES, Protection::READ_EXECUTE)?;
        let (place, bytes) = (base + TEXT_BYTES, page::PAGE_BYTES);
        process.map(page, place, 0, bytes, Protection::READ_WRITE)?;
        if shape.bits32 {
            process.map(page, place - BELOW, 0, bytes, Protection::READ_WRITE)?;
            // Without its base the segment leads to other words.
            let (elsewhere, bytes) = (page::anchors(index) + BELOW, page::BOARD_BYTES);
            process.map(&self.board, elsewhere, 0, bytes, Protection::READ)?;
        }
        Ok(())
    }

    /// Makes a thread there, by number and name on the board, and fills its page; not yet started.
    ///
    /// # Errors
    /// Those of the calls that it takes; `WrongState` if its debug registers are not what they were set to.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another thing of its life"
    )]
    pub fn thread(
        &self,
        shape: &Shape,
        process: &Process,
        gifts: &Gifts,
        (index, id): (usize, u64),
        page: &mut Page,
        random: &mut Random,
        damage: Option<&Damage>,
    ) -> rt::Result<Tortured> {
        let base = base(index);
        let fresh = renew(process, index)?;
        if let Some(Damage::Fresh(bit)) = damage {
            for page in (0..FRESH_BYTES).step_by(4096) {
                fresh.write(page, &(1_u64 << bit).to_le_bytes())?;
            }
        }
        // SAFETY: the process is not this one.
        let thread = unsafe { process.create_thread(base, base + TEXT_BYTES, 0) }?;
        let area = thread.info()?.area;
        let watch = match damage {
            None => random.one_in(3),
            Some(damage) => *damage == Damage::Breakpoint,
        };
        let body = Body {
            index,
            id,
            bits32: shape.bits32,
            waker: shape.waker,
            fpu: shape
                .fpu
                .unwrap_or_else(|| random.pick(&[Use::Never, Use::Seldom, Use::Often])),
            slots: damage.is_some() || !random.one_in(3),
            pinned: shape.pinned,
            // A thread that is to find its port refused does not know that it has it.
            ports: if damage.is_none() { gifts.ports } else { 0 },
            // An answer would be the work of one who uses the FPU.
            server: if shape.fpu == Some(Use::Never) {
                0
            } else {
                gifts.server
            },
            silence: gifts.silence,
            watch: watch.then(|| (random.below(4) as usize, random.pick(&plan::WATCHES))),
            vsyscall: gifts.vsyscall,
            area,
        };
        let planner = Planner {
            layout: &self.layout,
            fsgsbase: self.fsgsbase,
            code: if shape.bits32 {
                &self.code32
            } else {
                &self.code64
            },
            body,
        };
        let mut birth = planner.fill(page, random);
        if let Some(damage) = damage {
            damage.apply(page, &mut birth, shape.bits32);
            if *damage == Damage::Port {
                page.ports = gifts.ports;
            }
        }
        prepare(&thread, shape, base, &birth)?;
        Ok(Tortured {
            thread,
            body,
            debug: birth.debug,
            descriptors: birth.descriptors,
            stops: 0,
            ended_waits: 0,
            last_ended: None,
        })
    }
}

/// Takes the fresh pages of a process's thread number `index` away, if it has them, and gives it others there, which are zero. The
/// thread must not run.
///
/// # Errors
/// Those of the calls that it takes.
pub fn renew(process: &Process, index: usize) -> rt::Result<Memory> {
    let memory = Memory::create(FRESH_BYTES)?;
    let place = page::fresh(index);
    // SAFETY: the process is not this one.
    unsafe { process.unmap(place, FRESH_BYTES) }?;
    process.map(&memory, place, 0, FRESH_BYTES, Protection::READ_WRITE)?;
    Ok(memory)
}

/// Where the thread of a number has its text.
const fn base(index: usize) -> u64 {
    TEXT + index as u64 * page::STRIDE
}

fn prepare(thread: &Thread, shape: &Shape, entry: u64, birth: &Birth) -> rt::Result<()> {
    thread.set_all_tls(&birth.descriptors)?;
    thread.set_debug_registers(&birth.debug)?;
    if thread.debug_registers()? != birth.debug {
        return Err(Error::WrongState);
    }
    let own = thread.registers()?;
    let context = UserContext {
        rip: entry,
        cs: own.cs,
        ..birth.context
    };
    // SAFETY: it is of another process.
    unsafe { thread.set_registers(&context) }?;
    if let Some(cpu) = shape.pinned {
        thread.set_affinity(&CpuSet::only(cpu))?;
    }
    thread.set_priority(shape.priority)
}

/// What a process has for its threads.
#[derive(Clone, Copy, Debug)]
pub struct Gifts {
    /// Handle of ports; 0: none.
    ports: u64,
    /// Handle of a server.
    server: u64,
    /// Handles of what nothing comes of.
    silence: Silence,
    /// `__kernel_vsyscall` of a 32-bit process.
    vsyscall: u64,
}

/// A thread, and what it was made with.
#[derive(Debug)]
pub struct Tortured {
    /// The thread.
    pub thread: Thread,
    /// What kind it is.
    pub body: Body,
    /// Its debug registers.
    pub debug: DebugRegisters,
    /// Its descriptors.
    pub descriptors: [u64; 3],
    /// How often it was stopped in a way that ends waits.
    pub stops: u64,
    /// How often it stood behind a wait that had been ended so.
    pub ended_waits: u64,
    /// Its count of steps at the last of those.
    pub last_ended: Option<u64>,
}

/// What kind of threads live in a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// 32-bit code.
    pub bits32: bool,
    /// Threads in the process: one, or two of 64-bit code.
    pub threads: usize,
    /// They sleep and wake above the others.
    pub waker: bool,
    /// The CPU that they are kept on.
    pub pinned: Option<u32>,
    /// Their priority.
    pub priority: Priority,
    /// How much they use the FPU; `None`: as chance has it.
    pub fpu: Option<Use>,
}
