//! Threads.
//!
//! A thread belongs to one CPU, its *home*: only that CPU runs it, queues it, times it and cancels its waits. Others reach it
//! through the home's inbox. What partners in IPC touch (saved registers, IPC area) they touch only while they alone have
//! taken the thread out of a wait.

mod area;
mod awaiting;
mod held;
mod inherit;
mod machine;
mod marks;
mod pointer;
pub(crate) mod raise;
mod reporting;
mod rest;
mod spare;
mod stamp;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use core::cell::{Cell, UnsafeCell};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

use abi::info::ThreadState;
use abi::{Error, Priority, UserContext};
#[cfg(target_os = "none")]
use abi::{Handle, Rights};

pub use area::IpcArea;
pub(crate) use held::Held;
#[cfg(target_os = "none")]
pub(crate) use inherit::MOST_CALLERS;
use inherit::Serving;
pub use machine::Machine;
pub(crate) use marks::Marks;
pub use pointer::ThreadPtr;
pub(crate) use reporting::{Outcome, Reporting};
pub(crate) use rest::{Rest, Until, UntilCell, WOKEN_AT_ONCE};
pub(crate) use spare::{Spare, Spares};
pub(crate) use stamp::{is_call, stamp_in};

use crate::counter::{Counter, Lasting};
#[cfg(target_os = "none")]
use crate::ipc::{Endpoint, Known};
use crate::ipc::{Listeners, Notification, Wait, WaitOn};
use crate::memory::account::Resource;
use crate::memory::space::Space;
use crate::object::{Object, Ref, Slab};
use crate::process::{Doomed, Process};
use crate::schedule;

/// What is asked of a thread's home. Bits of [`Thread::asked`].
pub mod ask {
    /// It was taken out of its wait: make it ready.
    pub const WAKE: u32 = 1;
    /// Something about it has changed (killed, suspended, resumed, priority, affinity, budget): act on it.
    pub const LOOK: u32 = 2;
    /// End its wait, if it has one.
    pub const CANCEL: u32 = 4;
    /// End the wait that [`Thread::wish_cancel`] has noted, if it lasts.
    pub const CANCEL_THIS: u32 = 16;
    /// It has left its CPU without being queued or waiting: find out what becomes of it.
    pub const ASIDE: u32 = 8;
}

/// What a thread that changes its home was there, for its next home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transit {
    /// It is started.
    Started,
    /// It waited for its turn.
    Ready,
    /// The same, and the new home had nothing to run.
    Pulled,
    /// It was blocked, parked or throttled, with this deadline.
    Off(Option<u64>),
}

/// A thread.
#[repr(C)]
pub struct Thread {
    /// First, so that the switch finds it where the thread is.
    pub(crate) machine: Machine,
    pub(crate) links: sched::Links<ThreadPtr>,
    pub(crate) area: IpcArea,
    /// The address space that it runs in and the number of its IPC area there; the kernel's own tests have none.
    space: Option<(Ref<Space>, u32)>,
    pub(crate) wait: Wait,
    pub(crate) held: Held,
    /// The report that it makes.
    pub(crate) reporting: Reporting,
    /// Who listens to its reports, before those who listen to its process's.
    pub(crate) listeners: Listeners,
    pub(crate) serving: Serving,
    /// The CPU (its block) on which it waits so that its partner may go straight into user mode for it (`ipc/direct.rs`); null: it does not.
    /// For its home, and whoever moves it; other CPUs may read it.
    pub(crate) poised: AtomicPtr<()>,
    /// It waits, or is ready since, with all that it needs in its context (`schedule/doze.rs`). Its home's.
    #[cfg(target_os = "none")]
    pub(crate) dozes: Cell<bool>,
    /// The notification that it waited for last. Its own.
    #[cfg(target_os = "none")]
    pub(crate) awaited: Known<Notification>,
    /// The endpoint that it called last. Its own.
    #[cfg(target_os = "none")]
    pub(crate) callee: Known<Endpoint>,
    /// The endpoint at which it received last. Its own.
    #[cfg(target_os = "none")]
    pub(crate) served: Known<Endpoint>,
    /// The notification that it signalled last. Its own.
    #[cfg(target_os = "none")]
    pub(crate) signalled: Known<Notification>,
    /// The endpoint at which it received last, in any way. Its own.
    #[cfg(target_os = "none")]
    received_at: Known<Endpoint>,
    /// Its process; it keeps it alive.
    process: Ref<Process>,
    /// Unique since boot.
    id: u64,
    /// The CPU that it belongs to.
    pub(crate) home: sched::Home,
    /// What it was at its former home. Written by that, read by the new one.
    pub(crate) transit: Cell<Transit>,
    /// Where it may run.
    pub(crate) affinity: sched::SharedAffinity,
    pub(crate) priority: sched::ThreadPriority,
    /// [`ThreadState`] as far as it is no wait: new, ready (or running: that is the CPU's to know), ended.
    state: AtomicU32,
    pub(crate) asked: AtomicU32,
    /// Whether it is parked or has ended, and who waits for that.
    pub(crate) rest: Rest,
    /// It was preempted on its way out of the kernel, so that all of its user registers are in its context. Its home's.
    pub(crate) at_border: Cell<bool>,
    /// Its budget. Its home's.
    pub(crate) budget: Cell<Option<sched::Budget>>,
    /// It waits for its budget's next period. Written by its home.
    throttled: AtomicBool,
    /// How often it had been given a CPU when somebody wished the end of the wait that it was in.
    cancel_at: AtomicU64,
    /// Its end was held up once already, with nothing found.
    out_of_inboxes: bool,
    /// Handles to it, in all processes.
    handles: AtomicU32,
    /// How long its turn is, from when it comes, in ticks of the time-stamp counter; nothing if its budget is used up, or if its turn is another
    /// thread's, which it has called directly. A yield
    /// leaves it as it is. Its home's.
    pub(crate) slice: Cell<sched::Slice>,
    /// For how long it ran. Its home's.
    pub(crate) run_time: Lasting,
    /// How often it was given a CPU. Its home's.
    pub(crate) switches: Counter,
    /// How often it changed its home. Its home's.
    pub(crate) migrations: Counter,
    /// Processes that it is to end on its way out of the kernel. Its own.
    pub(crate) doomed: Doomed,
    /// The notification that its `recv` also waits for. Its own.
    bound: UnsafeCell<Option<Ref<Notification>>>,
    /// Neighbours in its process's list, under the process's lock.
    pub(crate) next: AtomicPtr<Thread>,
    pub(crate) previous: AtomicPtr<Thread>,
}

const _: () = assert!(core::mem::offset_of!(Thread, machine) == 0);

// SAFETY: each cell is touched by the thread itself or its home CPU only, as its line says; all else is atomic or locked.
unsafe impl Sync for Thread {}

static SLAB: Slab<Thread> = Slab::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Object for Thread {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    fn is_held_up(&mut self) -> bool {
        // Somebody slow may have pushed it into an inbox when another had spoken for it already. Nobody else can do so any more, but
        // the inbox's owner may push it on to another CPU's, and still looks at it when it has taken it out. So it
        // goes when it was seen in no inbox twice, with a quiescent point of every CPU in between.
        if self.links.is_in_inbox() {
            self.out_of_inboxes = false;
            return true;
        }
        !core::mem::replace(&mut self.out_of_inboxes, true)
    }

    fn number(&self) -> u64 {
        self.id
    }

    fn last_reference(&self) {
        // Its end has told them already, but for one that never began.
        self.tell_of_end();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        debug_assert!(self.doomed.is_empty(), "it has ended what it was to end");
        let Some((space, number)) = self.space.take() else {
            return;
        };
        self.process.account().uncharge_of(Resource::Threads, 1);
        if self.process.keeps_spares() {
            self.area.wipe();
            let spare = Spare::new(number, self.area, &mut self.machine);
            if spare.is_some_and(|spare| self.process.keep_spare(spare).is_ok()) {
                return;
            }
        }
        // SAFETY: nobody can reach the thread any more, so the kernel does not use its area. It fails only if the space is
        // being torn down, which frees the area as well.
        let _ = unsafe { space.unmap_ipc_area(number) };
        self.process.give_area_number(number);
    }
}

impl Thread {
    /// A thread of `process` that is not started yet.
    #[inline(always)]
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
            held: Held::new(),
            reporting: Reporting::none(),
            listeners: Listeners::none(),
            serving: Serving::nothing(),
            poised: AtomicPtr::new(ptr::null_mut()),
            #[cfg(target_os = "none")]
            callee: Known::nothing(),
            #[cfg(target_os = "none")]
            served: Known::nothing(),
            #[cfg(target_os = "none")]
            signalled: Known::nothing(),
            #[cfg(target_os = "none")]
            received_at: Known::nothing(),
            #[cfg(target_os = "none")]
            dozes: Cell::new(false),
            #[cfg(target_os = "none")]
            awaited: Known::nothing(),
            process,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            home: sched::Home::nowhere(),
            transit: Cell::new(Transit::Started),
            affinity: sched::SharedAffinity::any(),
            priority: sched::ThreadPriority::new(base(priority)),
            state: AtomicU32::new(ThreadState::New as u32),
            asked: AtomicU32::new(0),
            rest: Rest::new(),
            at_border: Cell::new(false),
            budget: Cell::new(None),
            throttled: AtomicBool::new(false),
            cancel_at: AtomicU64::new(0),
            out_of_inboxes: false,
            handles: AtomicU32::new(0),
            slice: Cell::new(sched::Slice::SPENT),
            run_time: Lasting::new(),
            switches: Counter::new(),
            migrations: Counter::new(),
            doomed: Doomed::none(),
            bound: UnsafeCell::new(None),
            next: AtomicPtr::new(ptr::null_mut()),
            previous: AtomicPtr::new(ptr::null_mut()),
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
        if self.reporting.is_on() {
            // Its registers are not those of a call.
            let error = status.err().unwrap_or(Error::NoReply);
            return self.reporting.set_outcome(Outcome::Failed(error));
        }
        self.registers_mut().rax = match status {
            Ok(()) => 0,
            Err(error) => error as u64,
        };
    }

    /// Sets its user registers, as far as user code could have set them. For whoever holds it stopped, at a place where all of them are in
    /// its context.
    ///
    /// # Errors
    /// [`Error::BadArgument`]; nothing is changed then.
    #[cfg_attr(
        not(target_os = "none"),
        expect(clippy::unnecessary_wraps, reason = "the host checks none")
    )]
    pub(crate) fn set_registers(&self, registers: &UserContext) -> Result<(), Error> {
        #[cfg(target_os = "none")]
        // SAFETY: the caller's promise.
        unsafe { self.machine.state.set_registers(registers) }.map_err(|_| Error::BadArgument)?;
        #[cfg(not(target_os = "none"))]
        {
            *self.registers_mut() = *registers;
        }
        Ok(())
    }

    /// What it must see to before it goes on in user mode.
    #[inline]
    pub(crate) fn marks(&self) -> Marks<'_> {
        Marks::of(self.machine.marks())
    }

    /// Its effective priority.
    #[inline]
    pub fn priority(&self) -> sched::EffectivePriority {
        self.priority.effective()
    }

    /// Gives it another base priority. Its home must be asked to look; one that was not started finds it at its start.
    pub fn set_priority(&self, priority: Priority) {
        self.priority.give(base(priority));
    }

    /// The CPU that it belongs to, or is on its way to; 0 if it was not started. For lists.
    pub fn shown_home(&self) -> u32 {
        self.home.cpu().unwrap_or(0)
    }

    /// What it is doing, for lists.
    pub fn shown_state(&self) -> ThreadState {
        let state = ThreadState::from_number(self.state.load(Ordering::Relaxed))
            .unwrap_or(ThreadState::Ended);
        match state {
            ThreadState::Ready if schedule::is_running(self) => ThreadState::Running,
            ThreadState::Ready if self.rest.is_shown_parked() => ThreadState::Suspended,
            ThreadState::Ready if self.is_throttled() => ThreadState::Throttled,
            ThreadState::Ready => self.wait.shown_state().unwrap_or(state),
            other => other,
        }
    }

    /// Wishes the end of the wait in which it is now; false if it is in none. Its home must be asked to see to it.
    ///
    /// Between two waits a thread is given a CPU, and that is counted: so the home tells the one that was meant from a later one.
    pub(crate) fn wish_cancel(&self) -> bool {
        let before = self.switches.get();
        // Read in this order: had it gone on and waited again in between, the number would be another when the home looks.
        fence(Ordering::SeqCst);
        let waits = self.wait.on() != WaitOn::Nothing;
        if waits {
            self.cancel_at.store(before, Ordering::SeqCst);
        }
        waits
    }

    /// Whether the wait in which it is now is the one that was meant. For its home.
    pub(crate) fn is_cancel_due(&self) -> bool {
        self.cancel_at.load(Ordering::SeqCst) == self.switches.get()
    }

    pub(crate) fn set_state(&self, state: ThreadState) {
        self.state.store(state as u32, Ordering::Relaxed);
    }

    /// Notes that it is about to receive at the endpoint behind a handle, which it may. For the running thread itself.
    #[cfg(target_os = "none")]
    pub(crate) fn note_served(&self, handle: Handle) {
        if !self.received_at.is_of(handle) {
            self.received_at.learn(self, handle, Rights::RECEIVE);
        }
    }

    /// Whether this endpoint is the one at which it received last. For the running thread itself.
    #[cfg(target_os = "none")]
    pub(crate) fn serves(&self, endpoint: &Endpoint) -> bool {
        self.received_at.names(endpoint) || self.served.names(endpoint)
    }

    /// The endpoint behind a handle by which it received last, in any way, if that is the one that it serves. For the running thread itself.
    #[cfg(target_os = "none")]
    pub(crate) fn received_by<'s>(&self, handle: Handle) -> Option<&'s Endpoint> {
        // SAFETY: the caller is the thread, and all kernel code between two quiescent points is inside a section.
        let endpoint = unsafe { self.received_at.look(handle) }?;
        let serves = self.serving.endpoint();
        serves
            .is_some_and(|serves| ptr::eq(serves, endpoint))
            .then_some(endpoint)
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
        self.process.handle_added();
    }

    /// A handle to it is gone. If it was the last and the thread was never started, nobody can start it any more: it ends.
    pub(crate) fn handle_removed(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 && self.end_unstarted() {
            Process::remove_unstarted(&self.process, self);
        }
        Process::handle_removed(&self.process);
    }

    /// Does something with the registers of a thread that does not run: one that was not started, or that is suspended and parked.
    ///
    /// It runs under the locks under which threads are started and let go, so it must be short and touch no user memory.
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
                self.rest.while_parked(|| act(&self.machine))
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

    /// Whether it waits for its budget's next period.
    pub(crate) fn is_throttled(&self) -> bool {
        self.throttled.load(Ordering::Relaxed)
    }

    /// It waits for its budget's next period, or does no more. For its home.
    pub(crate) fn set_throttled(&self, throttled: bool) {
        self.throttled.store(throttled, Ordering::Relaxed);
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
        #[cfg(target_os = "none")]
        self.served.forget();
        // SAFETY: as for `bound`; no borrow of it is alive in another call.
        unsafe { core::mem::replace(&mut *self.bound.get(), notification) }
    }
}

/// A priority as the scheduler has it.
fn base(priority: Priority) -> sched::BasePriority {
    sched::BasePriority::new(priority.level()).unwrap_or(sched::BasePriority::LOWEST)
}
