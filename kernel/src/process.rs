//! Processes: an address space, a table of handles, and the threads that use both.
//!
//! A process ends when its last thread does, or when it is killed, or when one of its threads faults. Its end is the
//! work of whoever takes the last thread out of its list: handles are closed, the space is given up, watchers are told. The
//! object itself stays as long as somebody has a handle to it, so that its fate can be asked.

mod areas;
mod doomed;
mod end;
mod ways;

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use abi::info::{NAME_BYTES, ProcessEntry, ProcessInfo, ProcessState};
use abi::{Error, Priority, UserContext};

use crate::io_ports::ProcessPorts;
use crate::ipc::{Listeners, Notification, Signaller};
use crate::landing;
use crate::memory::account::Account;
use crate::memory::space::{Mode, Space};
use crate::object::{HandleTable, Object, Ref, Slab, Vacant, Waking};
use crate::sync::{Mutex, level};
use crate::thread::{Spare, Spares, Thread};
use crate::trace::Asked;
pub(crate) use doomed::Doomed;
#[cfg(target_os = "none")]
pub(crate) use doomed::{has_orphans, settle, work_off_a_piece};
pub use end::Ending;
use ways::Ways;

/// Handles that a process may have.
pub const HANDLE_LIMIT: u32 = 16_384;
/// Notifications that can wait for one process's end.
pub const MAX_WATCHERS: usize = 4;
/// Threads that are looked at for what they hold.
const MOST_LOOKS: u32 = 1000;

/// A process's name: UTF-8, at most [`NAME_BYTES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    bytes: [u8; NAME_BYTES],
    length: u8,
}

impl Name {
    /// The name with these bytes.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if it is empty, too long, not UTF-8, or has control characters.
    pub fn new(name: &[u8]) -> Result<Name, Error> {
        let text = core::str::from_utf8(name).map_err(|_| Error::BadArgument)?;
        if text.is_empty() || name.len() > NAME_BYTES || text.chars().any(char::is_control) {
            return Err(Error::BadArgument);
        }
        let mut bytes = [0; NAME_BYTES];
        bytes[..name.len()].copy_from_slice(name);
        Ok(Name {
            bytes,
            length: name.len() as u8,
        })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or("?")
    }

    /// The name padded with zeros, and its length.
    pub fn padded(&self) -> ([u8; NAME_BYTES], u32) {
        (self.bytes, u32::from(self.length))
    }
}

/// A process.
pub struct Process {
    /// Its handles.
    pub(crate) table: Mutex<{ level::TABLE }, HandleTable>,
    id: u64,
    name: Name,
    /// The highest priority that its threads can give.
    highest: Priority,
    mode: Mode,
    /// Where its landing page's image is; 0 if it has none.
    landing: u64,
    /// Who pays for its memory, handles and threads.
    account: Ref<Account>,
    inner: Mutex<{ level::PROCESS }, Inner>,
    /// Handles to it and to its threads, in all processes.
    handles: AtomicU32,
    /// Slots of the table that its destruction has emptied.
    closed_until: u32,
    /// Those who waited for what the last one of them kept open.
    waking: Option<Waking>,
    /// The ports that it may use, from the first time that some were enabled.
    ports: ProcessPorts,
    /// Who listens to the reports of its threads.
    pub(crate) listeners: Listeners,
    /// What it has noted in traces.
    pub(crate) traces: Asked,
    /// The next one that the same thread is to end.
    next_to_end: AtomicPtr<Process>,
    /// It is in such a list.
    is_doomed: AtomicBool,
}

struct Inner {
    state: ProcessState,
    code: u64,
    context: UserContext,
    /// Given up at the end. Threads hold references of their own.
    space: Option<Ref<Space>>,
    /// First of the list, in which each thread has one counted reference.
    first: *mut Thread,
    /// The next one in the list to be ended, while the process's end goes through it.
    to_end: *mut Thread,
    threads: u32,
    ways: Ways,
    watchers: [Option<(Signaller, u64)>; MAX_WATCHERS],
    next_area: u32,
    free_areas: [u32; areas::FREE_AREAS],
    free_area_count: usize,
    /// What ended threads have left to the next ones.
    spares: Spares,
    /// Somebody works off the last of its end.
    is_finishing: bool,
    /// That is done.
    finished: bool,
}

impl Inner {
    /// Whether a thread of the process is in the list.
    fn lists(&self, thread: &Thread) -> bool {
        !thread.previous.load(Ordering::Relaxed).is_null()
            || ptr::eq(self.first, ptr::from_ref(thread))
    }
}

// SAFETY: the raw pointers are to threads that the list keeps alive; the lock hands them on.
unsafe impl Send for Inner {}

/// A thread that was taken out of a process's list.
struct Taken {
    /// The list's.
    reference: Ref<Thread>,
    left: Left,
}

/// Who is left in a list when a thread was taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    Nobody,
    /// None that was started; the thread was.
    Unstarted,
    Others,
}

static SLAB: Slab<Process> = Slab::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Object for Process {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    fn tear_down(&mut self) -> bool {
        self.tear_down_a_piece()
    }
}

impl Process {
    /// A process without threads, for which `account` pays.
    ///
    /// # Errors
    /// [`Error::NoMemory`], [`Error::QuotaExceeded`]. The account is closed then, as at the end of its process: a part of a quota is back at once.
    pub fn create(
        name: Name,
        account: Ref<Account>,
        highest: Priority,
        mode: Mode,
    ) -> Result<Ref<Process>, Error> {
        let space = Space::create(Some(account.clone()), mode).inspect_err(|_| account.close())?;
        let landing = space.landing_image();
        let place = Vacant::take().inspect_err(|_| account.close())?;
        let process = place.fill(Process {
            table: Mutex::new(HandleTable::new(HANDLE_LIMIT, Some(account.clone()))),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name,
            highest,
            mode,
            landing,
            account,
            inner: Mutex::new(Inner {
                state: ProcessState::Alive,
                code: 0,
                context: UserContext::default(),
                space: Some(space),
                first: ptr::null_mut(),
                to_end: ptr::null_mut(),
                threads: 0,
                ways: Ways::new(),
                watchers: [const { None }; MAX_WATCHERS],
                next_area: 0,
                free_areas: [0; areas::FREE_AREAS],
                free_area_count: 0,
                spares: Spares::none(),
                is_finishing: false,
                finished: false,
            }),
            handles: AtomicU32::new(0),
            closed_until: 0,
            waking: None,
            ports: ProcessPorts::new(),
            listeners: Listeners::none(),
            traces: Asked::nothing(),
            next_to_end: AtomicPtr::new(ptr::null_mut()),
            is_doomed: AtomicBool::new(false),
        });
        Ok(process)
    }

    /// Its number, unique since boot.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The highest priority that its threads can give to threads.
    pub fn highest_priority(&self) -> Priority {
        self.highest
    }

    /// Whether it is a 64-bit or a 32-bit one.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where `sysenter` in one of its threads returns to; `None` if the CPU or the process has no such way in.
    pub fn sysenter_return(&self) -> Option<u64> {
        landing::sysenter_return(self.mode, self.landing)
    }

    /// Where its landing page's image is, and `__kernel_vsyscall` in it; 0 for what it has not.
    pub fn landing(&self) -> (u64, u64) {
        (self.landing, landing::vsyscall(self.mode, self.landing))
    }

    /// Who pays for its memory, handles and threads.
    pub fn account(&self) -> &Ref<Account> {
        &self.account
    }

    /// The ports that it may use.
    pub(crate) fn ports(&self) -> &ProcessPorts {
        &self.ports
    }

    /// Its address space.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub fn space(&self) -> Result<Ref<Space>, Error> {
        self.inner.lock().space.clone().ok_or(Error::Ended)
    }

    /// Whether what an ended thread leaves is kept for the next one.
    pub(crate) fn keeps_spares(&self) -> bool {
        let inner = self.inner.lock();
        inner.state == ProcessState::Alive && !inner.spares.is_full()
    }

    /// Keeps what an ended thread has left.
    ///
    /// # Errors
    /// Gives it back, if there is enough of it or the process has ended.
    pub(crate) fn keep_spare(&self, spare: Spare) -> Result<(), Spare> {
        let mut inner = self.inner.lock();
        if inner.state != ProcessState::Alive || inner.spares.is_full() {
            return Err(spare);
        }
        inner.spares.keep(spare);
        Ok(())
    }

    /// Its address space, for a new thread, and what an ended one may have left to it.
    ///
    /// # Errors
    /// [`Error::Ended`].
    #[inline]
    pub(crate) fn space_and_spare(&self) -> Result<(Ref<Space>, Option<Spare>), Error> {
        let mut inner = self.inner.lock();
        let space = inner.space.clone().ok_or(Error::Ended)?;
        Ok((space, inner.spares.take()))
    }

    /// [`while_alive`](Self::while_alive) for the start of a thread.
    ///
    /// # Errors
    /// [`Error::Ended`], or what `act` gives; then nothing was started.
    pub(crate) fn while_starting<R>(
        &self,
        act: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut inner = self.inner.lock();
        if inner.state != ProcessState::Alive {
            return Err(Error::Ended);
        }
        let result = act()?;
        inner.ways.add_running();
        Ok(result)
    }

    /// Does something that must not overlap with the process's end.
    ///
    /// # Errors
    /// [`Error::Ended`], or what `act` gives.
    pub(crate) fn while_alive<R>(
        &self,
        act: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        let inner = self.inner.lock();
        if inner.state != ProcessState::Alive {
            return Err(Error::Ended);
        }
        act()
    }

    /// Does something that must be done before it has a thread, and that no thread's coming may overlap.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it has a thread, [`Error::Ended`].
    pub(crate) fn while_threadless(&self, act: impl FnOnce()) -> Result<(), Error> {
        let inner = self.inner.lock();
        if inner.state != ProcessState::Alive {
            return Err(Error::Ended);
        }
        if inner.threads != 0 {
            return Err(Error::WrongState);
        }
        act();
        Ok(())
    }

    /// Takes a new thread into the process's list. `prepare` is run in the same step.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub fn add_thread(&self, thread: Ref<Thread>, prepare: impl FnOnce()) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        if inner.state != ProcessState::Alive {
            return Err(Error::Ended);
        }
        prepare();
        let pointer = thread.into_raw().cast_mut();
        // SAFETY: the list's counted reference keeps the thread alive; neighbours are in the list under this lock.
        unsafe {
            (*pointer).next.store(inner.first, Ordering::Relaxed);
            if let Some(first) = inner.first.as_ref() {
                first.previous.store(pointer, Ordering::Relaxed);
            }
        }
        inner.first = pointer;
        inner.threads += 1;
        Ok(())
    }

    /// Whether a thread is in the list: made, and not taken out yet.
    pub(crate) fn lists(&self, thread: &Thread) -> bool {
        self.inner.lock().lists(thread)
    }

    /// Takes a thread out of the list that was started and has ended; with the last one the process ends as well, also if it is the last that was started and nobody can reach the
    /// others.
    ///
    /// The list's reference comes back to the caller, who drops it when no lock is held. Others may have the CPU in between.
    pub fn remove_thread(&self, thread: &Thread) -> Option<Ref<Thread>> {
        let taken = self.take_out(thread, true)?;
        match taken.left {
            Left::Nobody => self.finish(),
            Left::Unstarted => self.look_for_ways(thread.process()),
            Left::Others => {}
        }
        Some(taken.reference)
    }

    /// Takes a thread out that was ended before it was started, as nobody can start it any more.
    pub(crate) fn remove_unstarted(process: &Ref<Process>, thread: &Thread) {
        if let Some(taken) = process.take_out(thread, false) {
            drop(taken.reference);
            if taken.left == Left::Nobody {
                doomed::later(process.clone());
            }
        }
    }

    /// Takes a thread out of the list, which was started or not.
    fn take_out(&self, thread: &Thread, was_started: bool) -> Option<Taken> {
        let pointer = ptr::from_ref(thread).cast_mut();
        let taken = {
            let mut inner = self.inner.lock();
            let next = thread.next.swap(ptr::null_mut(), Ordering::Relaxed);
            let previous = thread.previous.swap(ptr::null_mut(), Ordering::Relaxed);
            if previous.is_null() && inner.first != pointer {
                // Not in the list, or not any more.
                return None;
            }
            // SAFETY: neighbours are in the list under this lock, so they are alive.
            unsafe {
                match previous.as_ref() {
                    Some(previous) => previous.next.store(next, Ordering::Relaxed),
                    None => inner.first = next,
                }
                if let Some(next) = next.as_ref() {
                    next.previous.store(previous, Ordering::Relaxed);
                }
            }
            if inner.to_end == pointer {
                inner.to_end = next;
            }
            inner.threads -= 1;
            if inner.threads == 0 && inner.state == ProcessState::Alive {
                inner.state = ProcessState::Exited;
            }
            let was_last = was_started && inner.ways.remove_running();
            let left = if inner.threads == 0 {
                Left::Nobody
            } else if was_last && inner.state == ProcessState::Alive {
                inner.ways.forget();
                Left::Unstarted
            } else {
                Left::Others
            };
            // SAFETY: `add_thread` gave this reference up.
            let reference = unsafe { Ref::from_raw(pointer) };
            Taken { reference, left }
        };
        thread.tell_of_end();
        Some(taken)
    }

    /// Signals `bits` when the process has ended; at once if it has.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many wait for it.
    pub fn watch(&self, notification: Ref<Notification>, bits: u64) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        if inner.finished {
            drop(inner);
            notification.signal(bits);
            return Ok(());
        }
        let place = inner
            .watchers
            .iter_mut()
            .find(|place| place.is_none())
            .ok_or(Error::Busy)?;
        *place = Some((Signaller::new(notification), bits));
        Ok(())
    }

    /// What it is and how it stands.
    pub fn info(&self) -> ProcessInfo {
        let handles = u64::from(self.table_len());
        let held = self.count_held();
        let inner = self.inner.lock();
        ProcessInfo {
            id: self.id,
            state: inner.state as u32,
            threads: inner.threads,
            code: inner.code,
            pages: self.account.used(),
            handles,
            held,
            landing: self.landing,
            vsyscall: landing::vsyscall(self.mode, self.landing),
            context: inner.context,
        }
    }

    /// The same as a list of processes shows it.
    pub(crate) fn entry(&self) -> ProcessEntry {
        let handles = u64::from(self.table_len());
        let (name, name_bytes) = self.name.padded();
        let inner = self.inner.lock();
        ProcessEntry {
            id: self.id,
            state: inner.state as u32,
            threads: inner.threads,
            pages: self.account.used(),
            handles,
            code: inner.code,
            is_32_bit: u32::from(self.mode == Mode::Compat),
            name_bytes,
            name,
        }
    }

    fn table_len(&self) -> u32 {
        self.table.lock().len()
    }

    /// How many of its threads hold a right to answer: of the first thousand, as nobody may look for longer than that.
    fn count_held(&self) -> u64 {
        let (mut held, mut looks) = (0, MOST_LOOKS);
        self.for_each_thread(&mut |thread| {
            held += u64::from(thread.held.is_some());
            looks -= 1;
            looks > 0
        });
        held
    }

    /// Calls `visit` with each thread, under the list's lock, until it returns false.
    pub(crate) fn for_each_thread(&self, visit: &mut dyn FnMut(&Thread) -> bool) -> bool {
        let inner = self.inner.lock();
        let mut next = inner.first;
        // SAFETY: threads in the list are alive under its lock.
        while let Some(thread) = unsafe { next.as_ref() } {
            if !visit(thread) {
                return false;
            }
            next = thread.next.load(Ordering::Relaxed);
        }
        true
    }
}

#[cfg(test)]
mod tests;
