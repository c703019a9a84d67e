//! Threads: the kernel's, and Rust closures run on new ones ([`spawn`]).

mod spawning;

use core::time::Duration;

use abi::info::{ThreadEnd, ThreadInfo};
use abi::report::ReportKind;
use abi::segment::DataSegment;
use abi::{Call, CpuSet, Deadline, Error, Handle, Priority};

use crate::handle::object;
use crate::{AsHandle, Endpoint, OwnedHandle, Result, sys};

pub use spawning::{Builder, JoinHandle, spawn};

object! {
    /// A thread of this or another process.
    Thread
}

impl Thread {
    /// A handle to the calling thread.
    ///
    /// # Errors
    /// `NoMemory`, `QuotaExceeded`.
    pub fn current() -> Result<Thread> {
        // SAFETY: touches no memory.
        let values = unsafe { sys::call(Call::ThreadSelf, [0; 6]) }?;
        Ok(Thread(OwnedHandle::from_raw(Handle(values[0]))))
    }

    /// Lets it run.
    ///
    /// # Errors
    /// `WrongState` if it was started before, `Ended`, `NoRight` without MANAGE.
    pub fn start(&self) -> Result<()> {
        // SAFETY: what the thread runs was promised when it was made.
        unsafe { sys::call(Call::ThreadStart, [self.handle().0, 0, 0, 0, 0, 0]) }.map(|_| ())
    }

    /// Ends it.
    ///
    /// # Safety
    /// If it is of this process: it holds no lock and owes nothing, since it never runs again.
    ///
    /// # Errors
    /// `Ended`, `NoRight` without MANAGE.
    pub unsafe fn kill(&self) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { sys::call(Call::ThreadKill, [self.handle().0, 0, 0, 0, 0, 0]) }.map(|_| ())
    }

    /// Sets its base priority, which counts at once.
    ///
    /// # Errors
    /// `NoRight` without MANAGE or above this process's highest, `Ended`.
    pub fn set_priority(&self, priority: Priority) -> Result<()> {
        // SAFETY: touches no memory.
        unsafe {
            sys::call(
                Call::ThreadSetPriority,
                [self.handle().0, u64::from(priority.level()), 0, 0, 0, 0],
            )
        }
        .map(|_| ())
    }

    /// Puts a segment into one of its slots (`None` empties it), while it does not run: before its start, or
    /// [stopped](Self::stop). Returns the slot's selector.
    ///
    /// # Errors
    /// `OutOfRange` past the last slot, `WrongState` if it runs or waits, `NoRight` without MANAGE, `Ended`.
    pub fn set_tls(&self, slot: usize, segment: Option<DataSegment>) -> Result<u16> {
        set_tls(self.handle(), slot, segment)
    }

    /// Sets where it may run. On return it runs nowhere else.
    ///
    /// # Errors
    /// `OutOfRange` if it could run on no CPU that is there, `Ended`, `NoRight` without MANAGE.
    pub fn set_affinity(&self, cpus: &CpuSet) -> Result<()> {
        let words = cpus.words.as_ptr() as u64;
        // SAFETY: the kernel reads the words, which live until the call is over.
        unsafe {
            sys::call(
                Call::ThreadSetAffinity,
                [self.handle().0, words, size_of::<CpuSet>() as u64, 0, 0, 0],
            )
        }
        .map(|_| ())
    }

    /// Where it may run.
    ///
    /// # Errors
    /// `NoRight` without QUERY.
    pub fn affinity(&self) -> Result<CpuSet> {
        let mut cpus = CpuSet::NONE;
        let words = cpus.words.as_mut_ptr() as u64;
        // SAFETY: the kernel writes the words, which live until the call is over and are ours.
        unsafe {
            sys::call(
                Call::ThreadGetAffinity,
                [self.handle().0, words, size_of::<CpuSet>() as u64, 0, 0, 0],
            )
        }?;
        Ok(cpus)
    }

    /// Lets it run for `budget` in each `period` and no longer; `None`: as long as its priority lets it.
    ///
    /// # Errors
    /// `OutOfRange` for a period that is not 100 microseconds to 10 seconds, or a budget that is not 10 microseconds to the period;
    /// `Ended`, `NoRight` without MANAGE.
    pub fn set_budget(&self, budget: Option<(Duration, Duration)>) -> Result<()> {
        let (budget, period) = budget.unwrap_or_default();
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: touches no memory.
        unsafe {
            sys::call(
                Call::ThreadSetBudget,
                [
                    self.handle().0,
                    nanoseconds(budget),
                    nanoseconds(period),
                    0,
                    0,
                    0,
                ],
            )
        }
        .map(|_| ())
    }

    /// Lets it run no user code until it is [resumed](Self::resume). On return it stands still: between two instructions with its
    /// registers in place, or in a wait, in which it may still be sent something.
    ///
    /// # Safety
    /// If it is of this process: it may hold a lock, the heap's for one, until it is resumed.
    ///
    /// # Errors
    /// `TimedOut` (it is suspended all the same), `Ended`, `NoRight` without MANAGE.
    pub unsafe fn suspend(&self, deadline: Deadline) -> Result<()> {
        // SAFETY: the caller's promise; touches no memory.
        unsafe { self.suspend_with(0, deadline) }
    }

    /// The same, and a wait of its ends with `Cancelled`, so that it stands still with its registers in place whatever it did.
    ///
    /// # Safety
    /// As for [`suspend`](Self::suspend).
    ///
    /// # Errors
    /// As for [`suspend`](Self::suspend).
    pub unsafe fn stop(&self, deadline: Deadline) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.suspend_with(1, deadline) }
    }

    unsafe fn suspend_with(&self, flags: u64, deadline: Deadline) -> Result<()> {
        let arguments = [self.handle().0, flags, 0, 0, 0, 0];
        // SAFETY: the caller's promise; touches no memory.
        sys::check(unsafe { sys::raw(Call::ThreadSuspend as u64, arguments, deadline.0) }.status)
    }

    /// Lets it go on that was suspended.
    ///
    /// # Errors
    /// `WrongState` if it is not suspended, `Ended`, `NoRight` without MANAGE.
    pub fn resume(&self) -> Result<()> {
        // SAFETY: touches no memory.
        unsafe { sys::call(Call::ThreadResume, [self.handle().0, 0, 0, 0, 0, 0]) }.map(|_| ())
    }

    /// Ends the wait in which it is now with `Cancelled`, unless something else ends it first. A wait that it begins later is none of this.
    ///
    /// # Errors
    /// `WrongState` if it waits for nothing, `Ended`, `NoRight` without MANAGE.
    pub fn cancel(&self) -> Result<()> {
        // SAFETY: touches no memory. Each wait may end with an error.
        unsafe { sys::call(Call::ThreadCancel, [self.handle().0, 0, 0, 0, 0, 0]) }.map(|_| ())
    }

    /// Waits for its end: its exit code, and how it ended.
    ///
    /// # Errors
    /// `TimedOut`, `Cancelled`, `Deadlock` if it is the calling thread, `NoRight` without QUERY.
    pub fn join(&self, deadline: Deadline) -> Result<(u64, ThreadEnd)> {
        let arguments = [self.handle().0, 0, 0, 0, 0, 0];
        // SAFETY: touches no memory.
        let results = unsafe { sys::raw(Call::ThreadJoin as u64, arguments, deadline.0) };
        sys::check(results.status)?;
        let [code, how, _] = results.values;
        Ok((
            code,
            ThreadEnd::from_number(how).ok_or(Error::NotSupported)?,
        ))
    }

    /// Lets it report what it does of this kind to an endpoint, with the badge of this handle; `None` ends that. See [`report`](crate::report).
    ///
    /// # Errors
    /// `NoRight` without MANAGE, or SEND on the endpoint; `NoMemory`, `Ended`.
    pub fn report_to(&self, kind: ReportKind, endpoint: Option<&Endpoint>) -> Result<()> {
        crate::report::report_to(self.handle(), kind, endpoint)
    }

    /// What it is and how it stands.
    ///
    /// # Errors
    /// `NoRight` without QUERY.
    pub fn info(&self) -> Result<ThreadInfo> {
        let mut info = ThreadInfo::default();
        // SAFETY: the kernel writes a record into `info`, which is one.
        unsafe {
            sys::call(
                Call::ThreadInfo,
                [self.handle().0, &raw mut info as u64, 0, 0, 0, 0],
            )
        }?;
        Ok(info)
    }
}

fn set_tls(handle: Handle, slot: usize, segment: Option<DataSegment>) -> Result<u16> {
    let descriptor = segment.map_or(0, DataSegment::descriptor);
    // SAFETY: touches no memory. A segment only says how 32-bit code, or an FS or GS override, reaches this process's memory.
    let values = unsafe {
        sys::call(
            Call::ThreadSetTls,
            [handle.0, slot as u64, descriptor, 0, 0, 0],
        )
    }?;
    Ok(values[0] as u16)
}

/// Puts a segment into one of the calling thread's slots (`None` empties it). Returns the slot's selector.
///
/// # Errors
/// `OutOfRange` past the last slot.
///
/// # Safety
/// FS is not loaded with the slot's selector: its base, by which the SDK finds the IPC area, would change.
pub unsafe fn set_own_tls(slot: usize, segment: Option<DataSegment>) -> Result<u16> {
    set_tls(Handle::NONE, slot, segment)
}

/// Lets another thread of the same priority run.
#[inline]
pub fn yield_now() {
    // SAFETY: touches no memory; it can't fail.
    let _ = unsafe { sys::short(Call::Yield) };
}
