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

use abi::info::{ProcessInfo, ProcessState};
use abi::{FaultKind, UserContext, Watch};
use rt::{Mapping, Memory, Process, Protection};
use torture::damage::{CANCELLED, Damage};
use torture::judge;
use torture::page::{self, Page, TEXT, count};
use torture::plan;
use torture::random::Random;
use torture::{BAD, DONE};

use crate::shop::{Gifts, Shape, Shop, Tortured};

mod outside;

pub use outside::Held;

/// Exit code of processes that are killed.
const KILLED: u64 = 0x0DEAD;

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
    /// By a load of SS that was refused.
    Stack,
}

#[derive(Debug)]
struct Life {
    process: Process,
    gifts: Gifts,
    threads: Vec<Tortured>,
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
        let started = life.threads.iter().try_for_each(|one| one.thread.start());
        self.life = Some(life);
        started.map_err(|error| format!("a thread can't be started: {error}"))
    }

    fn make(&self, shop: &Shop, random: &mut Random, damage: Option<&Damage>) -> rt::Result<Life> {
        let (process, gifts) = shop.process(&self.shape, random, damage)?;
        process.watch(&shop.ended, 1 << self.number)?;
        for (index, (memory, _)) in self.pages.iter().enumerate() {
            shop.map(&self.shape, &process, index, memory)?;
        }
        let mut life = Life {
            process,
            gifts,
            threads: Vec::new(),
            fate: Fate::Open,
        };
        for index in 0..self.shape.threads {
            let thread = self.make_thread(shop, &life, index, random, damage)?;
            life.threads.push(thread);
        }
        Ok(life)
    }

    /// A thread in the place of number `index`, whose last one has ended.
    fn make_thread(
        &self,
        shop: &Shop,
        life: &Life,
        index: usize,
        random: &mut Random,
        damage: Option<&Damage>,
    ) -> rt::Result<Tortured> {
        let id = (self.number as u64) << 8 | index as u64 | 0x8000;
        // SAFETY: the page is mapped here as long as the place lives, page-aligned and all of it; nobody else has it now, since the
        // last thread that had it has ended and this one has not begun. Any bits make a `Page`.
        let page = unsafe { &mut *self.page(index) };
        shop.thread(
            &self.shape,
            &life.process,
            &life.gifts,
            (index, id),
            page,
            random,
            damage,
        )
    }

    fn count(&mut self, index: usize) {
        // SAFETY: as in `make_thread`: its thread has ended.
        let page = unsafe { &*self.page(index) };
        for (sum, count) in self.counts.iter_mut().zip(page.counters) {
            *sum += count;
        }
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
            let watched = life.threads[index].body.watch.is_some();
            let all = [
                plan::END_EXIT,
                plan::END_INVALID,
                plan::END_PORT,
                plan::END_STACK,
                plan::END_WATCHED,
            ];
            random.pick(&all[..all.len() - usize::from(!watched)])
        });
        life.fate = Fate::Step(index, step);
        // SAFETY: the word is in the page, which is mapped as long as the place lives. The thread only reads it, as a whole.
        let stop = unsafe { AtomicU64::from_ptr(&raw mut (*self.page(index)).stop) };
        stop.store(step as u64, Ordering::Relaxed);
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
            self.count(index);
        }
        let judged = self.judge(shop, &life, &info);
        judged
            .and_then(|end| self.waits(&life).map(|()| end))
            .map_err(|mut fault| {
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

    /// Whether as many waits of its threads were ended as somebody ended.
    fn waits(&self, life: &Life) -> Result<(), Fault> {
        for one in &life.threads {
            let index = one.body.index;
            // SAFETY: as in `count`.
            let page = unsafe { &*self.page(index) };
            let count = page.counters[count::CANCELLED];
            // One that did not end by a step of its own may have come to its end before it looked.
            let unseen = u64::from(!matches!(life.fate, Fate::Step(ended, _) if ended == index));
            let text = format!(
                "{count} waits of thread {index} were ended, at least {} by {} stops",
                one.ended_waits, one.stops
            );
            if count > one.stops {
                return Err(Fault {
                    register: CANCELLED.to_string(),
                    bit: 0,
                    text: format!("{CANCELLED}: {text}"),
                });
            }
            if count + unseen < one.ended_waits {
                return Err(Fault::said(&text));
            }
        }
        Ok(())
    }

    /// What its threads say of themselves.
    fn bad(&self, shop: &Shop, life: &Life) -> Fault {
        for body in life.threads.iter().map(|one| &one.body) {
            // SAFETY: as in `count`.
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
            &shop.code32
        } else {
            &shop.code64
        };
        let watch = life.threads[index].body.watch;
        let (end, kind, offset, status) = match (step, watch) {
            (plan::END_INVALID, _) => (
                End::Invalid,
                FaultKind::InvalidInstruction,
                code.invalid,
                None,
            ),
            (plan::END_PORT, _) => (End::Port, FaultKind::Protection, code.port, None),
            (plan::END_STACK, _) => (End::Stack, FaultKind::Protection, code.stack, None),
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
        // SAFETY: as in `count`.
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
