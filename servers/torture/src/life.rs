//! A place for tortured threads, and one life after another in it: a process with one thread or two, made, ended, judged.
//!
//! The pages stay a place's from life to life. While a process lives only its threads write to them, but for the one word that tells
//! a thread to end; this program reads and fills them between two lives. So a life counts as over only when the kernel
//! has said so.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use abi::info::{ProcessInfo, ProcessState};
use abi::{CpuSet, DebugRegisters, Error, FaultKind, UserContext, Watch};
use rt::process::Mode;
use rt::{
    IoPorts, Mapping, Memory, Notification, Priority, Process, Protection, Rights, System, Thread,
    time,
};
use torture::damage::Damage;
use torture::fpu::Layout;
use torture::judge;
use torture::page::{self, Page, TEXT, TEXT_BYTES, count};
use torture::plan::{self, Birth, Body, Planner, Use};
use torture::random::Random;
use torture::{BAD, Code, DONE};

use crate::servers::Servers;
use crate::{features, worker32, worker64};

/// Exit code of processes that are killed.
const KILLED: u64 = 0x0DEAD;

/// How long a thread may take to stand still.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all places share.
#[derive(Debug)]
pub struct Shop {
    /// The machine's FPU.
    pub layout: Layout,
    /// Whether bases can be read and written by instructions.
    pub fsgsbase: bool,
    /// CPUs of the machine.
    pub cpus: u32,
    /// Who answers.
    pub servers: Servers,
    /// Is told of ends, a bit for each place.
    pub ended: Notification,
    code64: (Code, Memory),
    code32: (Code, Memory),
    board: Memory,
    ports: IoPorts,
}

impl Shop {
    /// Opens it.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn open(system: &System, servers: Servers, cpus: u32) -> rt::Result<Shop> {
        let text = |code: Code| {
            let memory = Memory::create(TEXT_BYTES)?;
            memory.write(0, code.text)?;
            Ok((code, memory))
        };
        Ok(Shop {
            layout: features::layout(),
            fsgsbase: features::fsgsbase(),
            cpus,
            servers,
            ended: Notification::create()?,
            code64: text(worker64::code())?,
            code32: text(worker32::code())?,
            board: Memory::create(page::BOARD_BYTES)?,
            ports: IoPorts::create(system, plan::PORT, 1)?,
        })
    }
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
}

/// How a life is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Not decided.
    Open,
    /// Killed.
    Killed,
    /// By this step of this thread.
    Step(usize, usize),
}

/// How a life ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Killed.
    Killed,
    /// By an exit.
    Exit,
    /// By an invalid instruction.
    Invalid,
    /// By a port that was refused.
    Port,
    /// By its breakpoint.
    Breakpoint,
}

#[derive(Debug)]
struct Life {
    process: Process,
    threads: Vec<Thread>,
    bodies: Vec<Body>,
    births: Vec<(DebugRegisters, [u64; 3])>,
    fate: Fate,
}

/// A place.
#[derive(Debug)]
pub struct Place {
    number: usize,
    shape: Shape,
    pages: Vec<(Memory, Mapping)>,
    life: Option<Life>,
    /// Lives so far.
    pub lives: u64,
    /// Counts of all lives that are over.
    pub counts: [u64; count::ALL],
}

impl Place {
    /// A place, empty. Its number is below 64.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn new(number: usize, shape: Shape) -> rt::Result<Place> {
        let pages = (0..shape.threads)
            .map(|_| {
                let memory = Memory::create(page::PAGE_BYTES)?;
                let mapping = memory.map(Protection::READ_WRITE)?;
                Ok((memory, mapping))
            })
            .collect::<rt::Result<_>>()?;
        Ok(Place {
            number,
            shape,
            pages,
            life: None,
            lives: 0,
            counts: [0; count::ALL],
        })
    }

    fn page(&self, index: usize) -> *mut Page {
        self.pages[index].1.as_ptr().cast()
    }

    /// Begins a life.
    ///
    /// # Errors
    /// Those of the calls that it takes, and debug registers that do not come back as they were set.
    ///
    /// # Panics
    /// If there is one already.
    pub fn begin(
        &mut self,
        shop: &Shop,
        random: &mut Random,
        damage: Option<&Damage>,
    ) -> Result<(), String> {
        assert!(self.life.is_none(), "place {} is taken", self.number);
        self.lives += 1;
        let life = self
            .make(shop, random, damage)
            .map_err(|error| format!("a thread can't be made: {error}"))?;
        let started = life.threads.iter().try_for_each(Thread::start);
        self.life = Some(life);
        started.map_err(|error| format!("a thread can't be started: {error}"))
    }

    fn make(&self, shop: &Shop, random: &mut Random, damage: Option<&Damage>) -> rt::Result<Life> {
        let bits32 = self.shape.bits32;
        let (mode, (code, text)) = if bits32 {
            (Mode::Compat, &shop.code32)
        } else {
            (Mode::Long, &shop.code64)
        };
        let process = Process::create_in(mode, "tortured", self.shape.priority)?;
        process.watch(&shop.ended, 1 << self.number)?;
        let all = Protection::READ_WRITE;
        process.map(&shop.board, page::BOARD, 0, page::BOARD_BYTES, all)?;
        let vsyscall = process.info()?.vsyscall;
        let may_use_ports = damage == Some(&Damage::Port) || random.one_in(3);
        let ports = if may_use_ports {
            process.grant(&shop.ports, Rights::MANAGE)?.0
        } else {
            0
        };
        // Mostly the one of its CPU: then the answer comes without a wake-up across CPUs.
        let server = match self.shape.pinned {
            Some(cpu) if !random.one_in(4) => cpu as usize,
            _ => random.below(shop.cpus.into()) as usize,
        };
        let server = process
            .grant(&shop.servers.clients[server], Rights::SEND)?
            .0;
        let (mut threads, mut bodies, mut births) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..self.shape.threads {
            let base = TEXT + index as u64 * page::STRIDE;
            process.map(text, base, 0, TEXT_BYTES, Protection::READ_EXECUTE)?;
            let place = base + TEXT_BYTES;
            process.map(&self.pages[index].0, place, 0, page::PAGE_BYTES, all)?;
            // SAFETY: the process is not this one.
            let (thread, area) = unsafe { process.create_thread(base, place, 0) }?;
            let watch = match damage {
                None => random.one_in(3),
                Some(damage) => *damage == Damage::Breakpoint,
            };
            let body = Body {
                index,
                id: (self.number as u64) << 8 | index as u64 | 0x8000,
                bits32,
                waker: self.shape.waker,
                fpu: if damage.is_some() {
                    Use::Often
                } else {
                    random.pick(&[Use::Never, Use::Seldom, Use::Often])
                },
                slots: damage.is_some() || !random.one_in(3),
                pinned: self.shape.pinned,
                // A thread that is to find its port refused does not know that it has it.
                ports: if damage.is_none() { ports } else { 0 },
                server,
                watch: watch.then(|| (random.below(4) as usize, random.pick(&plan::WATCHES))),
                vsyscall,
                area,
            };
            let planner = Planner {
                layout: &shop.layout,
                fsgsbase: shop.fsgsbase,
                code,
                body,
            };
            // SAFETY: the page is mapped here as long as the place lives, page-aligned and all of it; nobody else has it now, since the
            // last life is over and this one has not begun. Any bits make a `Page`.
            let page = unsafe { &mut *self.page(index) };
            let mut birth = planner.fill(page, random);
            if let Some(damage) = damage {
                damage.apply(page, &mut birth, bits32);
                if *damage == Damage::Port {
                    page.ports = ports;
                }
            }
            self.prepare(&thread, base, &birth)?;
            threads.push(thread);
            bodies.push(body);
            births.push((birth.debug, birth.descriptors));
        }
        Ok(Life {
            process,
            threads,
            bodies,
            births,
            fate: Fate::Open,
        })
    }

    fn prepare(&self, thread: &Thread, entry: u64, birth: &Birth) -> rt::Result<()> {
        thread.set_all_tls(&birth.descriptors)?;
        thread.set_debug_registers(&birth.debug)?;
        if thread.debug_registers()? != birth.debug {
            return Err(Error::WrongState);
        }
        let own = thread.registers()?;
        let context = UserContext {
            rip: entry,
            cs: own.cs,
            ss: own.ss,
            ..birth.context
        };
        // SAFETY: it is of another process.
        unsafe { thread.set_registers(&context) }?;
        if let Some(cpu) = self.shape.pinned {
            thread.set_affinity(&CpuSet::only(cpu))?;
        }
        thread.set_priority(self.shape.priority)
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(life) = &mut self.life {
            if life.fate == Fate::Open {
                life.fate = Fate::Killed;
            }
            // One that has just ended by itself is judged by its fate.
            let _ = life.process.kill(KILLED);
        }
    }

    /// Whether its threads are 32-bit code.
    pub const fn is_32_bit(&self) -> bool {
        self.shape.bits32
    }

    /// Whether it lives and its end has not been decided.
    pub fn is_open(&self) -> bool {
        self.life
            .as_ref()
            .is_some_and(|life| life.fate == Fate::Open)
    }

    /// Has one of its threads end by a step: the given one, or one that chance chooses among those that will do.
    pub fn tell(&mut self, random: &mut Random, step: Option<usize>) {
        let Some(life) = &mut self.life else { return };
        let index = random.below(life.threads.len() as u64) as usize;
        let step = step.unwrap_or_else(|| {
            let watched = life.bodies[index].watch.is_some();
            let all = [
                plan::END_EXIT,
                plan::END_INVALID,
                plan::END_PORT,
                plan::END_WATCHED,
            ];
            random.pick(&all[..if watched { 4 } else { 3 }])
        });
        life.fate = Fate::Step(index, step);
        // SAFETY: the word is in the page, which is mapped as long as the place lives. The thread only reads it, as a whole.
        let stop = unsafe { AtomicU64::from_ptr(&raw mut (*self.page(index)).stop) };
        stop.store(step as u64, Ordering::Relaxed);
    }

    /// Lets one of its threads run on another CPU, on two or on any, and has the kernel move it there at once. Whether it did.
    ///
    /// # Errors
    /// What the kernel says, but that the thread has ended.
    pub fn move_about(&self, shop: &Shop, random: &mut Random) -> rt::Result<bool> {
        let Some(life) = &self.life else {
            return Ok(false);
        };
        if self.shape.pinned.is_some() {
            return Ok(false);
        }
        let cpus = u64::from(shop.cpus);
        let mut set = CpuSet::only(random.below(cpus) as u32);
        match random.below(4) {
            0 => set = set.with(random.below(cpus) as u32),
            1 => set = CpuSet::ALL,
            _ => {}
        }
        alive(life.threads[random.below(life.threads.len() as u64) as usize].set_affinity(&set))
            .map(|moved| moved.is_some())
    }

    /// Suspends one of its threads, looks at what of its state can be known, puts back what was read, and lets it go on. Says
    /// whether it was suspended, and whether its state went out and in again.
    ///
    /// # Errors
    /// What the kernel says, but that the thread has ended; `WrongState` if its debug registers or descriptors are not its own.
    pub fn hold(&self, random: &mut Random) -> rt::Result<(bool, bool)> {
        let Some(life) = &self.life else {
            return Ok((false, false));
        };
        let index = random.below(life.threads.len() as u64) as usize;
        let thread = &life.threads[index];
        // SAFETY: it is of another process.
        if alive(unsafe { thread.suspend(time::after(PATIENCE)) })?.is_none() {
            return Ok((false, false));
        }
        let turned = Self::turn_over(thread, &life.births[index]);
        // One that was killed meanwhile is not resumed.
        let resumed = alive(thread.resume());
        let turned = match turned {
            // It stands still inside a call.
            Err(Error::WrongState) => false,
            Err(Error::Ended) => return Ok((true, false)),
            Err(error) => return Err(error),
            Ok(Err(())) => return Err(Error::WrongState),
            Ok(Ok(turned)) => turned,
        };
        resumed.map(|_| (true, turned))
    }

    /// Takes out all of a suspended thread's state and puts it back. The inner error: it is not what it was set to.
    fn turn_over(
        thread: &Thread,
        (debug, descriptors): &(DebugRegisters, [u64; 3]),
    ) -> rt::Result<Result<bool, ()>> {
        /// NT, which a context does not take.
        const NESTED: u64 = 1 << 14;
        let context = thread.registers()?;
        let found = thread.debug_registers()?;
        let own = (found.address, found.control) == (debug.address, debug.control);
        // The kernel marks descriptors as accessed.
        let same = |(found, set): (u64, &u64)| found | 1 << 40 == set | 1 << 40;
        if !own || !thread.tls()?.into_iter().zip(descriptors).all(same) {
            return Ok(Err(()));
        }
        let high = context.fs_base.max(context.gs_base) >> 47 != 0;
        if high || context.rflags & NESTED != 0 {
            return Ok(Ok(false));
        }
        let state = thread.fpu_state()?;
        // SAFETY: it is of another process.
        unsafe { thread.set_registers(&context) }?;
        thread.set_debug_registers(&found)?;
        thread.set_all_tls(descriptors)?;
        thread.set_fpu_state(&state)?;
        Ok(Ok(true))
    }

    /// Judges a life that is over, and counts it.
    ///
    /// # Errors
    /// What was wrong with it, in words.
    pub fn end(&mut self, shop: &Shop) -> Result<End, Fault> {
        let Some(life) = self.life.take() else {
            return Err(Fault::said("nobody lives there"));
        };
        let info = life
            .process
            .info()
            .map_err(|error| Fault::said(&format!("nothing is known of its end: {error}")))?;
        for index in 0..self.shape.threads {
            // SAFETY: as in `make`: the process has ended, so nobody else has the page.
            let page = unsafe { &*self.page(index) };
            for (sum, count) in self.counts.iter_mut().zip(page.counters) {
                *sum += count;
            }
        }
        self.judge(shop, &life, &info).map_err(|mut fault| {
            let kind = if self.shape.bits32 {
                "32-bit"
            } else {
                "64-bit"
            };
            fault.text = format!(
                "place {}, life {}, {kind}, kept on CPU {:?}, {:?}: {}",
                self.number, self.lives, self.shape.pinned, life.fate, fault.text
            );
            fault
        })
    }

    fn judge(&self, shop: &Shop, life: &Life, info: &ProcessInfo) -> Result<End, Fault> {
        const EXITED: u32 = ProcessState::Exited as u32;
        const KILLED_STATE: u32 = ProcessState::Killed as u32;
        const FAULTED: u32 = ProcessState::Faulted as u32;
        match (info.state, life.fate) {
            (EXITED, _) if info.code == BAD => Err(self.bad(shop, life)),
            (KILLED_STATE, Fate::Killed) if info.code == KILLED => Ok(End::Killed),
            (EXITED, Fate::Step(_, plan::END_EXIT)) if info.code == DONE => Ok(End::Exit),
            (FAULTED, Fate::Step(index, step)) => self.fault(shop, life, info, index, step),
            (FAULTED, _) => Err(Fault::said(&faulted(&info.context))),
            (state, fate) => Err(Fault::said(&format!(
                "it ended in state {state} with code {:#x}, which is not {fate:?}",
                info.code
            ))),
        }
    }

    /// What its threads say of themselves.
    fn bad(&self, shop: &Shop, life: &Life) -> Fault {
        for body in &life.bodies {
            // SAFETY: as in `end`.
            let page = unsafe { &*self.page(body.index) };
            if page.bad == 0 {
                continue;
            }
            let steps = page::address(body.index, offset_of!(Page, steps));
            let wrong = judge::page(&shop.layout, page, self.shape.bits32, steps);
            let number = judge::step_of(page, steps).unwrap_or(usize::MAX);
            let step = page.steps.get(number);
            return Fault {
                register: wrong.register.clone(),
                bit: wrong.bit,
                text: format!(
                    "{wrong}, after {} (call {:#x}, step {number}, round {}, on CPU {})",
                    plan::how_text(step.map_or(u64::MAX, |step| step.how)),
                    step.map_or(0, |step| step.load[0]),
                    page.counters[count::ROUNDS],
                    page.cpu,
                ),
            };
        }
        Fault::said("it says that something is wrong, and not what")
    }

    /// Whether a fault is the one that it was told to end by, with all registers as they were.
    fn fault(
        &self,
        shop: &Shop,
        life: &Life,
        info: &ProcessInfo,
        index: usize,
        step: usize,
    ) -> Result<End, Fault> {
        let context = &info.context;
        let code = if self.shape.bits32 {
            &shop.code32.0
        } else {
            &shop.code64.0
        };
        let watch = life.bodies[index].watch;
        let (end, kind, offset, status) = match (step, watch) {
            (plan::END_INVALID, _) => (
                End::Invalid,
                FaultKind::InvalidInstruction,
                code.invalid,
                None,
            ),
            (plan::END_PORT, _) => (End::Port, FaultKind::Protection, code.port, None),
            (plan::END_WATCHED, Some((slot, Watch::Execute))) => (
                End::Breakpoint,
                FaultKind::Debug,
                code.watched,
                Some(1 << slot),
            ),
            (plan::END_WATCHED, Some((slot, _))) => (
                End::Breakpoint,
                FaultKind::Debug,
                code.after_watched,
                Some(1 << slot),
            ),
            _ => return Err(Fault::said(&faulted(context))),
        };
        let rip = TEXT + index as u64 * page::STRIDE + offset;
        if FaultKind::from_vector(context.vector) != kind || context.rip != rip {
            return Err(Fault::said(&format!(
                "not the end that it was told ({kind:?} at {rip:#x}): {}",
                faulted(context)
            )));
        }
        if let Some(status) = status
            && context.debug_status & 0xF != status
        {
            return Err(Fault::said(&format!(
                "its breakpoint was hit with status {:#x}, not {status:#x}",
                context.debug_status
            )));
        }
        // SAFETY: as in `end`.
        let page = unsafe { &*self.page(index) };
        match judge::report(page, step, context, self.shape.bits32) {
            None => Ok(end),
            Some(wrong) => Err(Fault {
                text: format!("in the report of its fault {wrong}"),
                register: wrong.register,
                bit: wrong.bit,
            }),
        }
    }
}

/// A result of something that is done to a thread; none if that has ended.
fn alive<T>(result: rt::Result<T>) -> rt::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Ended) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What was wrong with a life.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The register; empty if it was something else.
    pub register: String,
    /// Its first wrong bit.
    pub bit: u32,
    /// All of it in words.
    pub text: String,
}

impl Fault {
    fn said(text: &str) -> Fault {
        Fault {
            register: String::new(),
            bit: 0,
            text: text.to_string(),
        }
    }
}

fn faulted(context: &UserContext) -> String {
    format!(
        "it ended by a fault: {} at {:#x}, error code {:#x}, address {:#x}, debug status {:#x}",
        FaultKind::from_vector(context.vector).text(),
        context.rip,
        context.error_code,
        context.cr2,
        context.debug_status
    )
}
