//! What is done to threads from outside while they run: another CPU, a stop in which all of their state goes out and in again, an end
//! of one of two.

use core::ops::AddAssign;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use abi::info::ProcessState;
use abi::{CpuSet, Error, UserContext};
use rt::time;
use torture::judge;
use torture::page::{self, Page, STRIDE, TEXT, count, reg};
use torture::random::Random;

use super::{Life, Place};
use crate::shop::{Shop, Tortured, renew};

/// How long a thread may take to stand still, or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// NT, a flag that a context does not take.
const NESTED: u64 = 1 << 14;

impl Place {
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
        alive(
            life.threads[random.below(life.threads.len() as u64) as usize]
                .thread
                .set_affinity(&set),
        )
        .map(|moved| moved.is_some())
    }

    /// Suspends one of its threads, in half of the cases so that a wait of its ends; looks at what of its state can be known, puts
    /// back what was read, or something else where that can be told to the thread; takes its fresh pages away; and lets it go on.
    ///
    /// # Errors
    /// What the kernel says, but that the thread has ended; `BadArgument` if its debug registers or descriptors are not its own.
    pub fn hold(&mut self, shop: &Shop, random: &mut Random) -> rt::Result<Held> {
        let Some(mut life) = self.life.take() else {
            return Ok(Held::default());
        };
        let index = random.below(life.threads.len() as u64) as usize;
        let held = self.hold_in(shop, &mut life, index, random);
        self.life = Some(life);
        alive(held).map(Option::unwrap_or_default)
    }

    fn hold_in(
        &self,
        shop: &Shop,
        life: &mut Life,
        index: usize,
        random: &mut Random,
    ) -> rt::Result<Held> {
        let tortured = &mut life.threads[index];
        let until = time::after(PATIENCE);
        if random.one_in(2) {
            tortured.stops += 1;
            // SAFETY: it is of another process.
            unsafe { tortured.thread.stop(until) }?;
        } else {
            // SAFETY: as above.
            unsafe { tortured.thread.suspend(until) }?;
        }
        let mut held = Held {
            suspended: 1,
            ..Held::default()
        };
        let done = self.handle(shop, tortured, random, &mut held);
        if !matches!(done, Err(Error::Ended)) && random.one_in(2) {
            renew(&life.process, index)?;
            held.renewed = 1;
        }
        // One that was killed meanwhile is not resumed.
        let resumed = life.threads[index].thread.resume();
        match done {
            // It stands still inside a call.
            Ok(()) | Err(Error::WrongState) => {}
            Err(error) => return Err(error),
        }
        resumed.map(|()| held)
    }

    /// What is done to a thread that is suspended.
    fn handle(
        &self,
        shop: &Shop,
        tortured: &mut Tortured,
        random: &mut Random,
        held: &mut Held,
    ) -> rt::Result<()> {
        let mut context = tortured.thread.registers()?;
        // What the thread may have, and no context may.
        let high = context.fs_base.max(context.gs_base) >> 47 != 0;
        let settable = !high && context.rflags & NESTED == 0;
        if self.ended_wait(shop, tortured, &context) && settable {
            held.rewritten = self
                .rewrite(tortured.body.index, &mut context, random)
                .into();
        }
        check(tortured)?;
        if settable {
            turn_over(tortured, &context)?;
            held.turned = 1;
        }
        Ok(())
    }

    /// Notes that a thread stands behind a wait that was ended, if it does. Whether it does, for the first time.
    fn ended_wait(&self, shop: &Shop, tortured: &mut Tortured, context: &UserContext) -> bool {
        let bits32 = self.shape.bits32;
        let code = if bits32 { &shop.code32 } else { &shop.code64 };
        let index = tortured.body.index;
        let offset = context.rip.wrapping_sub(TEXT + index as u64 * STRIDE);
        // Where 32-bit code's other calls return to is not in its text.
        let here = offset == code.after_interrupt || offset == code.after_call && !bits32;
        if !here || context.rax != Error::Cancelled as u64 {
            return false;
        }
        // SAFETY: the page is mapped here as long as the place lives; its thread, which alone writes to it, is suspended. Any bits
        // make a `Page`.
        let page = unsafe { &*self.page(index) };
        let rounds = page.counters[count::ROUNDS];
        // It may not have got anywhere since the last time.
        if tortured.last_ended.replace(rounds) == Some(rounds) {
            return false;
        }
        tortured.ended_waits += 1;
        true
    }

    /// Gives a suspended thread that stands behind a call other values in registers that the call keeps: in its context, and where
    /// it will look what they must be. Whether there were any.
    fn rewrite(&self, index: usize, context: &mut UserContext, random: &mut Random) -> bool {
        let bits32 = self.shape.bits32;
        // SAFETY: as above.
        let page = unsafe { &mut *self.page(index) };
        let Some(step) =
            judge::step_of(page, page_steps(index)).and_then(|at| page.steps.get_mut(at))
        else {
            return false;
        };
        let mut general = context.general();
        let kept: &[usize] = if bits32 {
            &[reg::RBX, reg::RBP, reg::RSI, reg::RDI]
        } else {
            &[reg::RBX, reg::RBP, reg::R12, reg::R13]
        };
        let mut rewritten = false;
        for &register in kept {
            if step.want[register] != step.load[register] {
                continue;
            }
            general[register] = random.word() >> if bits32 { 32 } else { 0 };
            step.load[register] = general[register];
            step.want[register] = general[register];
            step.cancelled[register] = general[register];
            rewritten = true;
        }
        context.set_general(&general);
        rewritten
    }

    /// Stops its first thread so that a wait of its ends, until one has, and keeps that to itself.
    ///
    /// # Errors
    /// What the kernel says; `TimedOut` if no wait was ended in time.
    pub fn end_a_wait(&self) -> rt::Result<()> {
        let Some(life) = &self.life else {
            return Err(Error::Ended);
        };
        let thread = &life.threads[0].thread;
        let (limit, until) = (time::now() + PATIENCE, time::after(PATIENCE));
        // SAFETY: the word is in the page, which is mapped as long as the place lives, and is only read here, as a whole.
        let ended =
            unsafe { AtomicU64::from_ptr(&raw mut (*self.page(0)).counters[count::CANCELLED]) };
        while ended.load(Ordering::Relaxed) == 0 {
            if time::now() > limit {
                return Err(Error::TimedOut);
            }
            // SAFETY: it is of another process.
            unsafe { thread.stop(until) }?;
            thread.resume()?;
            time::sleep(Duration::from_micros(50))?;
        }
        Ok(())
    }

    /// Ends one of two threads and makes another in its place, in the same process. Whether it did.
    ///
    /// # Errors
    /// What the kernel says, but that the process has ended.
    pub fn replace(&mut self, shop: &Shop, random: &mut Random) -> rt::Result<bool> {
        let Some(life) = self.life.take_if(|life| life.threads.len() > 1) else {
            return Ok(false);
        };
        let index = random.below(life.threads.len() as u64) as usize;
        let replaced = self.replace_in(shop, life, index, random);
        alive(replaced).map(|done| done.unwrap_or(false))
    }

    fn replace_in(
        &mut self,
        shop: &Shop,
        mut life: Life,
        index: usize,
        random: &mut Random,
    ) -> rt::Result<bool> {
        let old = &life.threads[index].thread;
        // SAFETY: it is of another process.
        let ended = unsafe { old.kill() }.and_then(|()| old.join(time::after(PATIENCE)));
        if let Err(error) = ended {
            self.life = Some(life);
            return Err(error);
        }
        // Should the process have ended meanwhile, what its threads say of themselves must stay.
        let made = match life.process.info() {
            Ok(info) if info.state == ProcessState::Alive as u32 => {
                self.count(index);
                self.make_thread(shop, &life, index, random, None)
            }
            Ok(_) => Err(Error::Ended),
            Err(error) => Err(error),
        };
        let started = made.and_then(|new| {
            new.thread.start()?;
            life.threads[index] = new;
            Ok(true)
        });
        self.life = Some(life);
        started
    }
}

/// How often what was done to threads that were suspended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// They were suspended.
    pub suspended: u64,
    /// Their state went out and in again.
    pub turned: u64,
    /// They stood behind a wait that had been ended, and got other registers.
    pub rewritten: u64,
    /// They got other fresh pages.
    pub renewed: u64,
}

impl AddAssign for Held {
    fn add_assign(&mut self, more: Held) {
        self.suspended += more.suspended;
        self.turned += more.turned;
        self.rewritten += more.rewritten;
        self.renewed += more.renewed;
    }
}

/// The address of the first step of a process's thread number `index`.
fn page_steps(index: usize) -> u64 {
    page::address(index, core::mem::offset_of!(Page, steps))
}

/// # Errors
/// What the kernel says; `BadArgument` if a suspended thread's debug registers or descriptors are not what they were set to.
fn check(tortured: &Tortured) -> rt::Result<()> {
    let (found, set) = (tortured.thread.debug_registers()?, &tortured.debug);
    let own = (found.address, found.control) == (set.address, set.control);
    // The kernel marks descriptors as accessed.
    let same = |(found, set): (u64, &u64)| found | 1 << 40 == set | 1 << 40;
    let descriptors = tortured.thread.tls()?;
    if own && descriptors.into_iter().zip(&tortured.descriptors).all(same) {
        Ok(())
    } else {
        Err(Error::BadArgument)
    }
}

/// Takes out the state of a suspended thread and puts it back, with these registers.
fn turn_over(tortured: &Tortured, context: &UserContext) -> rt::Result<()> {
    let thread = &tortured.thread;
    let found = thread.debug_registers()?;
    let state = thread.fpu_state()?;
    // SAFETY: it is of another process.
    unsafe { thread.set_registers(context) }?;
    thread.set_debug_registers(&found)?;
    thread.set_all_tls(&tortured.descriptors)?;
    thread.set_fpu_state(&state)
}

/// A result of something that is done to a thread; none if that has ended.
fn alive<T>(result: rt::Result<T>) -> rt::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Ended) => Ok(None),
        Err(error) => Err(error),
    }
}
