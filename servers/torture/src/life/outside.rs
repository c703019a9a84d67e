//! What is done to threads from outside while they run: another CPU, a stop in which all of their state goes out and in again, an end
//! of one of two.

use core::time::Duration;

use abi::info::ProcessState;
use abi::{CpuSet, Error};
use rt::time;
use torture::random::Random;

use super::{Life, Place};
use crate::shop::{Shop, Tortured};

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
        let tortured = &life.threads[index];
        let thread = &tortured.thread;
        // SAFETY: it is of another process.
        if alive(unsafe { thread.suspend(time::after(PATIENCE)) })?.is_none() {
            return Ok((false, false));
        }
        let turned = turn_over(tortured);
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

/// Takes out all of a suspended thread's state and puts it back. The inner error: it is not what it was set to.
fn turn_over(tortured: &Tortured) -> rt::Result<Result<bool, ()>> {
    let Tortured {
        thread,
        debug,
        descriptors,
        ..
    } = tortured;
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

/// A result of something that is done to a thread; none if that has ended.
fn alive<T>(result: rt::Result<T>) -> rt::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Ended) => Ok(None),
        Err(error) => Err(error),
    }
}
