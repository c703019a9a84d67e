//! A thread at rest, and those who wait until it is: suspending, joining, and waiting for a change of affinity.
//!
//! A suspended thread *stands still* when it will run no user code until it is resumed. That is so while it waits for something (what
//! it waits for may come, and then it comes as far as its way out of the kernel), and once it is *parked*: taken off its CPU on
//! its way out, when all of its user registers are in its context. Only the home parks a thread and lets it go, both under
//! the lock in here: whoever holds that and finds the thread parked has its registers to himself.
//!
//! Whoever waits for any of this is in one of the thread's own lists of waiters, one for each thing to wait for. The home looks
//! which of them are over whenever something has changed. A waiter enters its list *before* it asks the home to look, so that no
//! answer comes too early.
//!
//! Any number may wait. So a look costs nothing for those whose wait goes on, and wakes a few of the others at a time; the home asks
//! itself to look again if there may be more, so that interrupts have their chance in between.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::info::ThreadEnd;
use abi::{Deadline, Error};

use super::{Thread, ThreadPtr};
use crate::ipc::{Flow, WaitOn};
use crate::schedule;
use crate::sync::{Mutex, level};

/// What somebody waits for of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// Its end.
    Ended,
    /// That it stands still.
    Still,
    /// That it is parked.
    Parked,
    /// That it belongs to a CPU that its affinity allows.
    Placed,
}

impl Until {
    /// All of them, each at the place that is its number.
    const ALL: [Until; 4] = [Until::Ended, Until::Still, Until::Parked, Until::Placed];
}

/// Waiters that are woken in one go.
pub(crate) const WOKEN_AT_ONCE: usize = 8;

/// The part of a thread that is about its rest and its end.
pub(crate) struct Rest {
    inner: Mutex<{ level::REST }, Inner>,
    /// A copy of [`Inner::parked`] for lists.
    shown_parked: AtomicBool,
    /// How it shall have ended: code, and [`ThreadEnd`] plus one; the first to say so counts.
    code: AtomicU64,
    how: AtomicU64,
}

struct Inner {
    parked: bool,
    ended: bool,
    /// Those who wait, by what they wait for.
    waiters: [sched::List<ThreadPtr>; Until::ALL.len()],
    wish: Option<Wish>,
}

/// A budget that the home shall take over; `None` takes it away.
pub(crate) struct Wish(pub(crate) Option<sched::Allowance>);

/// What a waiter is told.
type Answer = Result<(), Error>;

impl Rest {
    pub(super) const fn new() -> Rest {
        Rest {
            inner: Mutex::new(Inner {
                parked: false,
                ended: false,
                waiters: [const { sched::List::new() }; Until::ALL.len()],
                wish: None,
            }),
            shown_parked: AtomicBool::new(false),
            code: AtomicU64::new(0),
            how: AtomicU64::new(0),
        }
    }

    /// Does something that several may want to do at a time, one after another. It must be short and take no lock.
    pub(crate) fn in_turn(&self, act: impl FnOnce()) {
        let _turn = self.inner.lock();
        act();
    }

    /// Notes how the thread ends. Who is first counts; the code is there before it is read, at the end itself.
    pub(crate) fn note_end(&self, how: ThreadEnd, code: u64) {
        const CLAIMED: u64 = u64::MAX;
        if self
            .how
            .compare_exchange(0, CLAIMED, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            self.code.store(code, Ordering::SeqCst);
            self.how.store(how as u64 + 1, Ordering::SeqCst);
        }
    }

    /// How it has ended, and its code. Nobody said so: it was killed.
    pub(crate) fn end(&self) -> (ThreadEnd, u64) {
        match self.how.load(Ordering::SeqCst) {
            0 => (ThreadEnd::Killed, 0),
            how => (
                ThreadEnd::from_number(how.wrapping_sub(1)).unwrap_or(ThreadEnd::Killed),
                self.code.load(Ordering::SeqCst),
            ),
        }
    }

    /// Whether it is parked, for lists.
    pub(super) fn is_shown_parked(&self) -> bool {
        self.shown_parked.load(Ordering::Relaxed)
    }

    /// The home parks the thread, or lets it go. Returns how it was.
    pub(crate) fn park(&self, parked: bool) -> bool {
        let mut inner = self.inner.lock();
        self.shown_parked.store(parked, Ordering::Relaxed);
        core::mem::replace(&mut inner.parked, parked)
    }

    /// Whether it is parked. For its home, for which the answer holds.
    pub(crate) fn is_parked(&self) -> bool {
        self.inner.lock().parked
    }

    /// Does something with a thread that is parked, and stays so meanwhile.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it is not, or what `act` gives.
    pub(crate) fn while_parked<R>(
        &self,
        act: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        let inner = self.inner.lock();
        if inner.parked {
            act()
        } else {
            Err(Error::WrongState)
        }
    }

    /// Leaves a budget for the home to take over.
    pub(crate) fn wish_budget(&self, allowance: Option<sched::Allowance>) {
        self.inner.lock().wish = Some(Wish(allowance));
    }

    /// The budget that was left. For the home.
    pub(crate) fn take_wish(&self) -> Option<Wish> {
        self.inner.lock().wish.take()
    }
}

impl Thread {
    /// The running thread `current` begins to wait for something of this one. If it must block, the caller asks this thread's home
    /// to look in between, where that is what it waits for.
    ///
    /// # Errors
    /// [`Error::Ended`] if that ends it first; [`Error::TimedOut`] for a deadline of 0 where it must wait.
    pub(crate) fn wait_until(
        &self,
        current: &Thread,
        until: Until,
        deadline: Deadline,
    ) -> Result<Flow, Error> {
        let mut inner = self.rest.inner.lock();
        if let Some(answer) = self.answer(&inner, until, false) {
            drop(inner);
            answer?;
            self.tell(current, until, Ok(()));
            return Ok(Flow::Done);
        }
        if deadline == Deadline::NOW {
            return Err(Error::TimedOut);
        }
        current.wait.until.set(until);
        current.wait.set(WaitOn::Thread(self));
        inner.waiters[until as usize].push_back(ThreadPtr::new(current));
        Ok(Flow::Block)
    }

    /// What one who waits for this is to be told; `None`: to go on waiting. `waits`: its home has found it in a wait.
    fn answer(&self, inner: &Inner, until: Until, waits: bool) -> Option<Answer> {
        if inner.ended {
            return Some(match until {
                Until::Ended => Ok(()),
                _ => Err(Error::Ended),
            });
        }
        let is = match until {
            Until::Ended => false,
            Until::Still => inner.parked || waits,
            Until::Parked => inner.parked,
            Until::Placed => self
                .home
                .settled()
                .is_some_and(|cpu| self.affinity.allows(cpu)),
        };
        is.then_some(Ok(()))
    }

    /// Writes the results of a wait. The waiter was taken out of it, or did not begin.
    fn tell(&self, waiter: &Thread, until: Until, answer: Answer) {
        waiter.set_status(answer);
        if until == Until::Ended && answer.is_ok() {
            let (how, code) = self.rest.end();
            let registers = waiter.registers_mut();
            registers.rdi = code;
            registers.rsi = how as u64;
        }
    }

    /// Wakes those whose wait is over; if they are many, some of them, and the home looks again soon. For the home. `waits`: it has
    /// found the thread in a wait.
    pub(crate) fn wake_waiters(&self, waits: bool) {
        if self.wake_some(waits) {
            schedule::look_again(ThreadPtr::new(self));
        }
    }

    /// Wakes some of those whose wait is over; true if there may be more.
    fn wake_some(&self, waits: bool) -> bool {
        for _ in 0..WOKEN_AT_ONCE {
            let mut inner = self.rest.inner.lock();
            let over = Until::ALL.into_iter().find_map(|until| {
                let waiter = inner.waiters[until as usize].front()?;
                Some((until, waiter, self.answer(&inner, until, waits)?))
            });
            let Some((until, waiter, answer)) = over else {
                return false;
            };
            inner.waiters[until as usize].remove(waiter);
            waiter.get().wait.set(WaitOn::Nothing);
            drop(inner);
            self.tell(waiter.get(), until, answer);
            schedule::make_ready(waiter);
        }
        true
    }

    /// It has ended: tells all who wait for it. If they are many, others may have the CPU in between.
    pub(crate) fn tell_of_end(&self) {
        self.rest.inner.lock().ended = true;
        while self.wake_some(false) {
            schedule::preemption_point();
        }
    }

    /// Takes a waiting thread out of this one's list, if it is still there.
    pub(crate) fn take_out(&self, waiter: &Thread, on: WaitOn) -> bool {
        let mut inner = self.rest.inner.lock();
        if waiter.wait.on() != on {
            return false;
        }
        let list = &mut inner.waiters[waiter.wait.until.get() as usize];
        let removed = list.remove(ThreadPtr::new(waiter));
        debug_assert!(removed, "a thread that waits for another is in its list");
        waiter.wait.set(WaitOn::Nothing);
        true
    }
}

/// What a thread waits for of another; part of its [`Wait`](crate::ipc::Wait).
pub(crate) type UntilCell = Cell<Until>;
