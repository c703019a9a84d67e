//! The ways to a process: whether anybody can reach it still.
//!
//! A thread that was started keeps its process, whoever knows of it. A process none of whose threads was started, or whose started ones have all ended, is
//! reached by handles alone: to itself, or to a thread that can be started. Those in its own table lead nowhere, as nobody is there to use them. So if all
//! handles that there are lie in it, the process is [ended](super::doomed).
//!
//! How many handles there are is counted as they come and go. Those in its own table are counted only while nobody is there to use them, so that the calls of
//! programs pay nothing for this: from the process's begin on, and anew when the last thread that was started has ended and others are left. Then the table is gone through, by
//! pieces, as it may be large. It loses nothing meanwhile, as only the process's own threads take out of it; what others put in before the place that this has come to is counted by them.

use core::ptr;
use core::sync::atomic::Ordering;

use abi::info::ProcessState;
use abi::{Error, Handle};

use super::{Process, doomed};
use crate::object::{AnyObject, Capability, Ref};
use crate::schedule;

/// Slots of the table that one piece of the counting looks at.
const LOOKS_A_PIECE: u32 = 256;
/// All slots, also those to come.
const ALL: u32 = u32::MAX;

/// What a process knows of the ways to it, under its lock.
pub(super) struct Ways {
    /// Threads that were started and have not ended.
    running: u32,
    /// While there is none: handles to the process and to its threads in the slots of its own table below `counted`.
    own: u32,
    counted: u32,
}

impl Ways {
    pub(super) const fn new() -> Ways {
        Ways {
            running: 0,
            own: 0,
            counted: ALL,
        }
    }

    /// A thread was started.
    pub(super) fn add_running(&mut self) {
        self.running += 1;
    }

    /// A thread has ended that was started; whether it was the last.
    pub(super) fn remove_running(&mut self) -> bool {
        self.running -= 1;
        self.running == 0
    }

    /// The handles in the table are not known.
    pub(super) fn forget(&mut self) {
        (self.own, self.counted) = (0, 0);
    }

    /// A handle to the process or to a thread of it was put into its own table.
    fn put(&mut self, handle: Handle) {
        if self.running == 0 && handle.index() < self.counted {
            self.own += 1;
        }
    }

    /// Whether there is none but in the process's own table, of so many handles in all.
    fn lead_nowhere(&self, handles: u32) -> bool {
        self.running == 0 && self.counted == ALL && self.own == handles
    }
}

/// The process that a capability is a way to, if it is one.
fn leads_to(capability: &Capability) -> Option<&Ref<Process>> {
    match capability.object() {
        AnyObject::Process(process) => Some(process),
        AnyObject::Thread(thread) => Some(thread.process()),
        _ => None,
    }
}

impl Process {
    /// Puts a capability into its table.
    ///
    /// # Errors
    /// Gives the capability back with [`Error::Ended`], [`Error::QuotaExceeded`] or [`Error::NoMemory`].
    pub fn grant(&self, capability: Capability) -> Result<Handle, (Error, Capability)> {
        let own = leads_to(&capability)
            .filter(|process| self.is(process))
            .cloned();
        let (handle, unreachable) = {
            // Under the process's lock, so that nothing is put into a table that has been emptied for good.
            let mut inner = self.inner.lock();
            if inner.state != ProcessState::Alive {
                return Err((Error::Ended, capability));
            }
            let handle = self.table.lock().insert(capability)?;
            if own.is_some() {
                inner.ways.put(handle);
            }
            // The last handle outside may have been closed while this one was on its way in, and so was not its own yet.
            let handles = self.handles.load(Ordering::Acquire);
            (handle, own.is_some() && inner.ways.lead_nowhere(handles))
        };
        if let Some(process) = own
            && unreachable
        {
            doomed::later(process);
        }
        Ok(handle)
    }

    /// A handle to it, or to a thread of it, was made.
    pub(crate) fn handle_added(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// A handle to it, or to a thread of it, is gone. If nobody can ever reach it now, it ends.
    pub(crate) fn handle_removed(process: &Ref<Process>) {
        process.handles.fetch_sub(1, Ordering::AcqRel);
        process.end_if_unreachable(process);
    }

    /// Goes through its table, when no thread is there any more that was started, and ends it if nobody can ever reach it. Others may have the CPU in between: the
    /// caller holds counted references only, and no lock.
    pub(super) fn look_for_ways(&self, process: &Ref<Process>) {
        while self.count_some_ways() {
            schedule::preemption_point();
        }
        self.end_if_unreachable(process);
    }

    /// Counts what is in the next few slots of its table; false if there are no more, or it is of no use now. Several may do so at once.
    pub(super) fn count_some_ways(&self) -> bool {
        let mut inner = self.inner.lock();
        let ways = &mut inner.ways;
        if ways.running != 0 || ways.counted == ALL {
            return false;
        }
        let end = ways.counted + LOOKS_A_PIECE;
        let table = self.table.lock();
        for index in ways.counted..end {
            let own = table.peek(index).and_then(leads_to);
            ways.own += u32::from(own.is_some_and(|process| self.is(process)));
        }
        ways.counted = if end < table.slots() { end } else { ALL };
        true
    }

    fn end_if_unreachable(&self, process: &Ref<Process>) {
        let unreachable = {
            let inner = self.inner.lock();
            // Counted under the lock: one that the process was given itself meanwhile is in both figures or in neither.
            inner
                .ways
                .lead_nowhere(self.handles.load(Ordering::Acquire))
                && inner.state == ProcessState::Alive
        };
        if unreachable {
            doomed::later(process.clone());
        }
    }

    fn is(&self, process: &Process) -> bool {
        ptr::eq(process, self)
    }
}
