//! Threads.
//!
//! A thread belongs to one CPU, its *home*: only that CPU runs it, queues it, times it and cancels its waits. Others reach it
//! through the home's inbox. What partners in IPC touch (saved registers, IPC area) they touch only while they alone have
//! taken the thread out of a wait.

mod area;
mod machine;
mod pointer;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use abi::info::ThreadState;
use abi::{Error, Priority, UserContext};

pub use area::IpcArea;
pub use machine::Machine;
pub use pointer::ThreadPtr;

use crate::counter::{Counter, Lasting};
use crate::ipc::{Notification, Wait, WaitOn};
use crate::memory::space::Space;
use crate::object::{Object, Ref, Slab, stamp_of};
use crate::process::Process;
use crate::schedule;
use crate::sync::{Guard, Mutex, level};

/// What other CPUs ask of a thread's home. Bits of [`Thread::asked`].
pub mod ask {
    /// It was taken out of its wait: make it ready.
    pub const WAKE: u32 = 1;
    /// End its wait, if it has one: it was killed.
    pub const LOOK: u32 = 2;
}

/// Bits of [`Thread::marks`].
mod mark {
    /// It shall end.
    pub(super) const KILLED: u32 = 1;
    /// Its wait was cancelled while it was between two waits; the error is in the upper half.
    pub(super) const CANCELLED: u32 = 2;
    pub(super) const ERROR_SHIFT: u32 = 16;
}

/// No CPU.
const ANYWHERE: u32 = u32::MAX;

/// A thread.
pub struct Thread {
    pub(crate) links: sched::Links<ThreadPtr>,
    pub(crate) machine: Machine,
    pub(crate) area: IpcArea,
    /// The address space that it runs in and the number of its IPC area there; the kernel's own tests have none.
    space: Option<(Ref<Space>, u32)>,
    pub(crate) wait: Wait,
    /// The stamp of the call whose reply it waits for.
    pub(crate) awaiting: Mutex<{ level::THREAD }, Option<u64>>,
    /// Its process; it keeps it alive.
    process: Ref<Process>,
    /// Unique since boot.
    id: u64,
    /// Index of the CPU that it belongs to.
    home: AtomicU32,
    affinity: AtomicU32,
    priority: AtomicU8,
    /// [`ThreadState`] as far as it is no wait: new, ready (or running: that is the CPU's to know), ended.
    state: AtomicU32,
    pub(crate) asked: AtomicU32,
    marks: AtomicU32,
    /// Handles to it, in all processes.
    handles: AtomicU32,
    /// What is left of its turn while it does not run, in ticks of the time-stamp counter; never nothing. Its home's.
    pub(crate) slice: Cell<sched::Slice>,
    /// For how long it ran. Its home's.
    pub(crate) run_time: Lasting,
    /// How often it was given a CPU. Its home's.
    pub(crate) switches: Counter,
    /// The notification that its `recv` also waits for. Its own.
    bound: UnsafeCell<Option<Ref<Notification>>>,
    /// Neighbours in its process's list, under the process's lock.
    pub(crate) next: AtomicPtr<Thread>,
    pub(crate) previous: AtomicPtr<Thread>,
}

// SAFETY: each cell is touched by the thread itself or its home CPU only, as its line says; all else is atomic or locked.
unsafe impl Sync for Thread {}

static SLAB: Slab<Thread> = Slab::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Object for Thread {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    fn tear_down(&mut self) -> bool {
        // Somebody slow may have pushed it into its home's inbox when another had spoken for it already. Now that nobody can push
        // it any more, it goes when the home has drained its inbox.
        !self.links.is_in_inbox()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some((space, number)) = &self.space {
            // SAFETY: nobody can reach the thread any more, so the kernel does not use its area. It fails only if the space is
            // being torn down, which frees the area as well.
            let _ = unsafe { space.unmap_ipc_area(*number) };
            self.process.give_area_number(*number);
        }
    }
}

impl Thread {
    /// A thread of `process` that is not started yet.
    pub fn new(
        process: Ref<Process>,
        space: Option<(Ref<Space>, u32)>,
        machine: Machine,
        area: IpcArea,
        priority: Priority,
    ) -> Thread {
        Thread {
            links: sched::Links::new(),
            machine,
            area,
            space,
            wait: Wait::new(),
            awaiting: Mutex::new(None),
            process,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            home: AtomicU32::new(0),
            affinity: AtomicU32::new(ANYWHERE),
            priority: AtomicU8::new(priority.level()),
            state: AtomicU32::new(ThreadState::New as u32),
            asked: AtomicU32::new(0),
            marks: AtomicU32::new(0),
            handles: AtomicU32::new(0),
            slice: Cell::new(sched::Slice::SPENT),
            run_time: Lasting::new(),
            switches: Counter::new(),
            bound: UnsafeCell::new(None),
            next: AtomicPtr::new(core::ptr::null_mut()),
            previous: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Its number, unique since boot.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its process.
    #[inline]
    pub fn process(&self) -> &Ref<Process> {
        &self.process
    }

    /// The address space that it runs in.
    #[inline]
    pub fn space(&self) -> Option<&Ref<Space>> {
        self.space.as_ref().map(|(space, _)| space)
    }

    /// Its user registers as its last entry saved them.
    #[inline]
    pub fn registers(&self) -> &UserContext {
        // SAFETY: the context lies on the thread's own stack, which lives as long as the thread. Writers are the thread's own
        // kernel entry and whoever has taken it out of its wait, never both at once.
        unsafe { &*self.machine.context() }
    }

    /// The same, to be written.
    ///
    /// The caller is the thread itself in the kernel, or has taken it out of its wait.
    #[inline]
    #[allow(
        clippy::mut_from_ref,
        reason = "the registers are shared by protocol, not by the type system: see the module"
    )]
    pub fn registers_mut(&self) -> &mut UserContext {
        // SAFETY: as for `registers`; the caller is the only one who touches them now.
        unsafe { &mut *self.machine.context() }
    }

    /// Writes a system call's status. For the thread itself, or whoever has taken it out of its wait.
    #[inline]
    pub fn set_status(&self, status: Result<(), Error>) {
        self.registers_mut().rax = match status {
            Ok(()) => 0,
            Err(error) => error as u64,
        };
    }

    /// Its effective priority.
    #[inline]
    pub fn priority(&self) -> sched::EffectivePriority {
        sched::EffectivePriority::from_low_bits(self.priority.load(Ordering::Relaxed))
    }

    /// Sets its priority; it counts from the next time that it is queued.
    pub fn set_priority(&self, priority: Priority) {
        self.priority.store(priority.level(), Ordering::Relaxed);
    }

    /// The CPU that it belongs to.
    #[inline]
    pub fn home(&self) -> u32 {
        self.home.load(Ordering::Relaxed)
    }

    /// Gives it to a CPU, before it is started.
    pub fn set_home(&self, cpu: u32) {
        self.home.store(cpu, Ordering::Relaxed);
    }

    /// Where it may run.
    pub fn affinity(&self) -> sched::Affinity {
        match self.affinity.load(Ordering::Relaxed) {
            ANYWHERE => sched::Affinity::Any,
            cpu => sched::Affinity::Only(cpu),
        }
    }

    /// Sets where it may run, before it is started; `None` for anywhere.
    pub fn set_affinity(&self, cpu: Option<u32>) {
        self.affinity
            .store(cpu.unwrap_or(ANYWHERE), Ordering::Relaxed);
    }

    /// What it is doing, for lists.
    pub fn shown_state(&self) -> ThreadState {
        let state = ThreadState::from_number(self.state.load(Ordering::Relaxed))
            .unwrap_or(ThreadState::Ended);
        match state {
            ThreadState::Ready if schedule::is_running(self) => ThreadState::Running,
            ThreadState::Ready => self.wait.shown_state().unwrap_or(state),
            other => other,
        }
    }

    pub(crate) fn set_state(&self, state: ThreadState) {
        self.state.store(state as u32, Ordering::Relaxed);
    }

    /// Lets it use the ports that its process may use from now on. For the running thread itself.
    #[cfg(target_os = "none")]
    pub(crate) fn use_ports(&self) {
        // SAFETY: the map is its process's and lives as long as that; the thread is this CPU's current one.
        unsafe { arch::switch::use_ports(&self.machine.state, self.process.ports().map()) };
    }

    /// Brings the ports that its process may use into this CPU's TSS, if they are not there as they are now. For the running thread.
    ///
    /// Ports are enabled for a whole process; its other threads, and other CPUs, learn of it here, at their first use. True if
    /// there was something new, so that the access is worth another try.
    #[cfg(target_os = "none")]
    pub(crate) fn take_new_ports(&self) -> bool {
        let map = self.process.ports().map();
        let new = map.has_bits() && !arch::ports::are_loaded(map);
        if new {
            self.use_ports();
        }
        new
    }

    /// A handle to it was made.
    pub(crate) fn handle_added(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// A handle to it is gone. If it was the last and the thread was never started, nobody can start it any more: it ends.
    pub(crate) fn handle_removed(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 && self.end_unstarted() {
            drop(self.process.remove_thread(self));
        }
    }

    /// Does something with the registers of a thread that does not run: for now, one that was not started.
    ///
    /// It runs under the lock under which threads are started, so it must be short and touch no user memory.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::WrongState`] if it runs, or what `act` gives.
    #[cfg(target_os = "none")]
    pub(crate) fn while_stopped<R>(
        &self,
        act: impl FnOnce(&Machine) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if self.has_ended() {
            return Err(Error::Ended);
        }
        self.process.while_alive(|| {
            if self.shown_state() == ThreadState::New {
                act(&self.machine)
            } else {
                Err(Error::WrongState)
            }
        })
    }

    /// Turns a new thread into a ready one; false if it was started or ended before.
    pub(crate) fn begin(&self) -> bool {
        self.state
            .compare_exchange(
                ThreadState::New as u32,
                ThreadState::Ready as u32,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Turns a new thread into an ended one; false if it was started before.
    pub(crate) fn end_unstarted(&self) -> bool {
        self.state
            .compare_exchange(
                ThreadState::New as u32,
                ThreadState::Ended as u32,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.state.load(Ordering::Acquire) == ThreadState::Ended as u32
    }

    /// Marks it to end at its next way out of the kernel.
    pub(crate) fn mark_killed(&self) {
        self.marks.fetch_or(mark::KILLED, Ordering::SeqCst);
    }

    /// Whether there is anything to be seen to before it goes on in user mode. One load, for the switch.
    #[inline]
    pub(crate) fn has_marks(&self) -> bool {
        self.marks.load(Ordering::Relaxed) != 0
    }

    /// Whether it shall end.
    #[inline]
    pub fn is_killed(&self) -> bool {
        self.marks.load(Ordering::SeqCst) & mark::KILLED != 0
    }

    /// Leaves word that its wait is cancelled, for whoever has it in his hands.
    pub(crate) fn note_cancel(&self, error: Error) {
        let word = mark::CANCELLED | (error as u32) << mark::ERROR_SHIFT;
        let _ = self
            .marks
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |marks| {
                Some(marks & mark::KILLED | word)
            });
    }

    /// Forgets such a word, as its wait is over.
    pub(crate) fn forget_cancel(&self) {
        if self.marks.load(Ordering::Relaxed) & mark::CANCELLED != 0 {
            self.marks.fetch_and(mark::KILLED, Ordering::SeqCst);
        }
    }

    fn noted_cancel(&self) -> Option<Error> {
        let marks = self.marks.load(Ordering::SeqCst);
        if marks & mark::CANCELLED == 0 {
            None
        } else {
            Error::from_code(u64::from(marks >> mark::ERROR_SHIFT))
        }
    }

    /// Begins the wait for a reply; the stamp names the call.
    pub(crate) fn begin_awaiting(&self) -> u64 {
        let mut awaiting = self.awaiting.lock();
        // SAFETY: threads live in slab slots.
        let stamp = unsafe { stamp_of::<Thread>(self) }.fetch_add(1, Ordering::AcqRel) + 1;
        *awaiting = Some(stamp);
        self.wait.set(WaitOn::Reply);
        stamp
    }

    /// Ends the wait for a reply, under its lock.
    pub(crate) fn end_awaiting(&self, awaiting: &mut Guard<'_, { level::THREAD }, Option<u64>>) {
        **awaiting = None;
        // SAFETY: threads live in slab slots. From here on the call's reply is stale.
        unsafe { stamp_of::<Thread>(self) }.fetch_add(1, Ordering::AcqRel);
        self.wait.set(WaitOn::Nothing);
    }

    /// Takes the thread out of its wait for a reply (to the call `stamp`, or to any); false if it does not wait for it.
    pub(crate) fn take_awaiting(&self, stamp: Option<u64>) -> bool {
        let mut awaiting = self.awaiting.lock();
        match *awaiting {
            Some(current) if stamp.is_none_or(|stamp| stamp == current) => {
                self.end_awaiting(&mut awaiting);
                true
            }
            _ => false,
        }
    }

    /// The notification bound to the running thread.
    pub(crate) fn bound(&self) -> Option<&Notification> {
        // SAFETY: only the thread itself looks at it and changes it, in different system calls.
        unsafe { &*self.bound.get() }.as_deref()
    }

    /// Exchanges the bound notification of the running thread; the former one is returned.
    pub(crate) fn set_bound(
        &self,
        notification: Option<Ref<Notification>>,
    ) -> Option<Ref<Notification>> {
        // SAFETY: as for `bound`; no borrow of it is alive in another call.
        unsafe { core::mem::replace(&mut *self.bound.get(), notification) }
    }
}
