//! A program of machine code that counts in a page which it shares with the test, so that the test sees whether it runs.
//!
//! Such programs say `pause` in their loops: an emulator that runs all CPUs on one thread lets the next CPU run then, and not only when
//! a tenth of a second is over.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use abi::info::{ThreadInfo, ThreadState};
use abi::{CpuSet, Priority, Protection, UserContext};
use rt::{Deadline, Mapping, Memory, Thread, time};

use super::contexts::prepared;
use crate::bare::Bare;
use crate::clock::since;
use crate::verdict::Verdict;
use crate::{check, code, fail, must, same};

/// Where the program has the page.
pub(super) const SHARED: u64 = 0x60_0000;
/// How long anything may take that is about to happen.
pub(super) const PATIENCE: Duration = crate::runner::PATIENCE;

/// The end of [`PATIENCE`], from now.
pub(super) fn soon() -> Deadline {
    time::after(PATIENCE)
}

/// Waits until something is so.
pub(super) fn until(what: &str, mut is: impl FnMut() -> rt::Result<bool>) -> Verdict {
    let start = time::now();
    while !must!(is()) {
        check!(since(start) < PATIENCE, "it never came to this: {what}");
        must!(time::sleep(Duration::from_micros(200)));
    }
    Ok(())
}

/// The program and the test's view of the page.
pub(super) struct Probe {
    pub(super) bare: Bare,
    page: Mapping,
}

impl Probe {
    /// A program that begins right at `code` with [`SHARED`] in RBX, and registers that `change` may change. It counts in the page's
    /// first word. Not started.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub(super) fn new(code: &[u8], change: impl FnOnce(&mut UserContext)) -> rt::Result<Probe> {
        let bare = prepared(code, |context| {
            context.rbx = SHARED;
            change(context);
        })?;
        let memory = Memory::create(4096)?;
        bare.process
            .map(&memory, SHARED, 0, 4096, Protection::READ_WRITE)?;
        let page = memory.map(Protection::READ_WRITE)?;
        Ok(Probe { bare, page })
    }

    /// One that counts and does nothing else, on these CPUs.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub(super) fn counting(cpus: &CpuSet) -> rt::Result<Probe> {
        let probe = Probe::new(
            code!("2:", "inc qword ptr [rbx]", "pause", "jmp 2b"),
            |_| {},
        )?;
        probe.thread().set_affinity(cpus)?;
        Ok(probe)
    }

    /// Its thread.
    pub(super) fn thread(&self) -> &Thread {
        &self.bare.thread
    }

    /// A word of the page.
    pub(super) fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the page holds 512 aligned words and is mapped as long as the program lives.
        unsafe { &*self.page.as_ptr().cast::<AtomicU64>().add(index % 512) }
    }

    /// How far it has counted.
    pub(super) fn count(&self) -> u64 {
        self.word(0).load(Ordering::SeqCst)
    }

    /// Waits until it has counted further.
    pub(super) fn goes_on(&self) -> Verdict {
        let before = self.count();
        until("the program goes on", || Ok(self.count() != before))
    }

    /// What the kernel says of its thread.
    ///
    /// # Errors
    /// Those of the call.
    pub(super) fn info(&self) -> rt::Result<ThreadInfo> {
        self.thread().info()
    }

    /// Waits until its thread is in a state.
    pub(super) fn comes_to(&self, state: ThreadState) -> Verdict {
        until(state.text(), || Ok(self.info()?.state == state as u32))
    }

    /// Lets it run no further. It stands still with its registers in place.
    pub(super) fn stop(&self) -> Verdict {
        // SAFETY: the thread is of another process.
        must!(unsafe { self.thread().stop(soon()) });
        same!(must!(self.info()).state, ThreadState::Suspended as u32);
        Ok(())
    }

    /// Checks that it does not run: another of its priority, which would come after it, gets its CPU.
    pub(super) fn stands_still(&self) -> Verdict {
        let before = self.count();
        let info = must!(self.info());
        let other = must!(Probe::counting(&CpuSet::only(info.cpu)));
        let priority = Priority::new(u64::from(info.base_priority)).unwrap_or(Priority::LOWEST);
        must!(other.thread().set_priority(priority));
        must!(other.thread().start());
        other.goes_on()?;
        if self.count() != before {
            fail!("it runs although it should not");
        }
        Ok(())
    }
}
