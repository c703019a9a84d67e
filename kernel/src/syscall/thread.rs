//! Calls on threads.

use core::ops::RangeInclusive;
use core::ptr;

use abi::info::ThreadEnd;
use abi::{Badge, CpuSet, Deadline, Error, Handle, Priority, Rights};
use arch::context::is_canonical;
use arch::hooks::ShortResult;

use sched::{Affinity, Allowance};

use super::{Caller, Outcome, short, system};
use crate::cpu;
use crate::ipc::{Flow, WaitOn};
use crate::memory::user;
use crate::object::{AnyObject, Capability, Ref, Section};
use crate::process::Process;
use crate::schedule;
use crate::spawn::{self, Begin};
use crate::thread::{Thread, ThreadPtr, Until, ask};

/// Flag of `thread_create`: start it at once.
const START: u64 = 1;

/// `thread_create`. A short call.
pub(super) extern "C" fn create(
    process: u64,
    entry: u64,
    stack: u64,
    argument: u64,
    flags: u64,
    _: u64,
) -> ShortResult {
    let caller = Caller::of_short_call();
    let made = caller.process_by(Handle(process)).and_then(|process| {
        if flags & !START != 0 {
            return Err(Error::BadArgument);
        }
        let begin = Begin {
            entry,
            stack,
            argument,
            priority: Priority::NORMAL.min(process.highest_priority()),
        };
        make(caller, process, begin, flags == START)
    });
    if made.is_err() {
        // What was made and given up again, and perhaps the last reference to a process.
        short::see_to_the_dead();
    }
    short::result(made.map(|handle| handle.0))
}

/// Starts a thread that was just made; whoever debugs its process may have started it before, or ended it.
#[inline]
fn start_new(thread: &Thread) -> Result<(), Error> {
    match schedule::start(thread) {
        Err(Error::WrongState) if thread.has_ended() => Err(Error::Ended),
        Err(Error::WrongState) => Ok(()),
        done => done,
    }
}

/// The rest of [`create`].
fn make(
    caller: Caller,
    process: Ref<Process>,
    begin: Begin,
    is_started: bool,
) -> Result<Handle, Error> {
    let table = &caller.process().table;
    // The handle's place first: a thread that nobody could name must not be made, nor its end be the end of its process.
    table.lock().reserve(1)?;
    let made = spawn::thread(process, begin).inspect_err(|_| table.lock().release(1))?;
    let (pointer, listed) = (ThreadPtr::new(&made), made.clone());
    // Before others can find it: it has a handle from then on, so that it is not ended by the last of another's.
    let capability = Capability::new(AnyObject::Thread(made), Rights::ALL, Badge(0));
    // The capability keeps it alive.
    let thread = pointer.get();
    let ready = spawn::list(listed).and_then(|()| {
        if is_started {
            start_new(thread)
        } else {
            Ok(())
        }
    });
    if let Err(error) = ready {
        table.lock().release(1);
        // With its only handle the thread, which was not started, ends as well.
        drop(capability);
        return Err(error);
    }
    Ok(table.lock().insert_reserved(capability))
}

/// `thread_start`.
pub(super) fn start(caller: Caller) -> Result<(), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    if thread.has_ended() {
        return Err(Error::Ended);
    }
    schedule::start(&thread)
}

/// `thread_exit`.
pub(super) fn exit(caller: Caller) {
    let thread = caller.thread();
    thread.rest.note_end(ThreadEnd::Exited, caller.argument(0));
    thread.marks().kill();
    cpu::this().block().request(arch::cpu::Pending::THREAD);
}

/// `thread_kill`.
pub(super) fn kill(caller: Caller) -> Result<(), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    thread.process().end_thread(&thread);
    Ok(())
}

/// `thread_set_priority`.
pub(super) fn set_priority(caller: Caller) -> Result<(), Error> {
    let priority = Priority::new(caller.argument(1)).ok_or(Error::OutOfRange)?;
    if priority > caller.process().highest_priority() {
        return Err(Error::NoRight);
    }
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    thread.set_priority(priority);
    schedule::ask(ThreadPtr::new(&thread), ask::LOOK);
    Ok(())
}

/// Bytes of a set of CPUs that a call may pass at most.
const MOST_SET_BYTES: u64 = 4096;

/// `thread_set_affinity`.
pub(super) fn set_affinity(caller: Caller, section: &mut Section) -> Result<Outcome, Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    let (address, bytes) = (caller.argument(1), caller.argument(2));
    if bytes == 0 || !bytes.is_multiple_of(8) || bytes > MOST_SET_BYTES {
        return Err(Error::BadArgument);
    }
    let mut words = [0; CpuSet::WORDS];
    for (index, word) in words.iter_mut().enumerate().take((bytes / 8) as usize) {
        *word = user::read(address.wrapping_add(8 * index as u64))?;
    }
    let affinity = Affinity::from_words(&words);
    if !affinity.allows_any_of(cpu::count()) {
        return Err(Error::OutOfRange);
    }
    thread.rest.in_turn(|| thread.affinity.set(&affinity));
    until(caller, &thread, Until::Placed, ask::LOOK, section)
}

/// `thread_get_affinity`.
pub(super) fn get_affinity(caller: Caller) -> Result<(), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::QUERY)?;
    let (address, bytes) = (caller.argument(1), caller.argument(2));
    if bytes == 0 || !bytes.is_multiple_of(8) {
        return Err(Error::BadArgument);
    }
    let affinity = thread.affinity.get();
    let mut written = 0;
    for word in affinity.words().iter().take((bytes / 8) as usize) {
        user::write(address.wrapping_add(written), word)?;
        written += 8;
    }
    caller.set_result(0, written);
    Ok(())
}

/// `thread_info`.
pub(super) fn info(caller: Caller) -> Result<(), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::QUERY)?;
    user::write(caller.argument(1), &system::thread_info(&thread))
}

/// Flag of `thread_suspend`: end the thread's wait, if it has one.
const END_WAIT: u64 = 1;

/// `thread_suspend`.
pub(super) fn suspend(caller: Caller, section: &mut Section) -> Result<Outcome, Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    let (what, goal) = match caller.argument(1) {
        0 => (ask::LOOK, Until::Still),
        END_WAIT => (ask::LOOK | ask::CANCEL, Until::Parked),
        _ => return Err(Error::BadArgument),
    };
    thread.marks().suspend(true);
    until(caller, &thread, goal, what, section)
}

/// `thread_resume`.
pub(super) fn resume(caller: Caller) -> Result<(), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    if thread.has_ended() {
        return Err(Error::Ended);
    }
    if !thread.marks().suspend(false) {
        return Err(Error::WrongState);
    }
    schedule::ask(ThreadPtr::new(&thread), ask::LOOK);
    Ok(())
}

/// `thread_cancel`.
pub(super) fn cancel(caller: Caller) -> Result<(), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    if thread.has_ended() {
        return Err(Error::Ended);
    }
    if !thread.wish_cancel() {
        return Err(Error::WrongState);
    }
    schedule::ask(ThreadPtr::new(&thread), ask::CANCEL_THIS);
    Ok(())
}

/// Asks a thread's home for something, and waits until it is so.
fn until(
    caller: Caller,
    thread: &Ref<Thread>,
    goal: Until,
    what: u32,
    section: &mut Section,
) -> Result<Outcome, Error> {
    let pointer = ThreadPtr::new(thread);
    let current = caller.thread();
    let deadline = caller.deadline();
    if thread.has_ended() {
        return Err(Error::Ended);
    }
    if ptr::eq(current, &raw const **thread) || thread.home.cpu().is_none() {
        // The caller itself comes to it on its way out; a thread that was not started finds it at its start.
        schedule::ask(pointer, what);
        return Ok(Outcome::Done);
    }
    if deadline == Deadline::NOW {
        schedule::ask(pointer, what);
        // It does not begin a wait that must not last.
        let _: Flow = thread.wait_until(current, goal, deadline)?;
        return Ok(Outcome::Written);
    }
    let flow = thread.wait_until(current, goal, deadline)?;
    schedule::ask(pointer, what);
    if flow == Flow::Block {
        // If that has woken the caller already there is nothing left to time.
        let woken = current.wait.on() == WaitOn::Nothing;
        schedule::block(if woken { Deadline::NEVER } else { deadline }, section);
    }
    Ok(Outcome::Written)
}

/// `thread_join`.
pub(super) fn join(caller: Caller, section: &mut Section) -> Result<Outcome, Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::QUERY)?;
    if ptr::eq(caller.thread(), &raw const *thread) {
        return Err(Error::Deadlock);
    }
    let deadline = caller.deadline();
    if thread.wait_until(caller.thread(), Until::Ended, deadline)? == Flow::Block {
        schedule::block(deadline, section);
    }
    Ok(Outcome::Written)
}

/// Bounds of a budget's period, in nanoseconds.
const PERIODS_NS: RangeInclusive<u64> = 100_000..=10_000_000_000;
/// The least budget, in nanoseconds: less would be spent on coming and going.
const LEAST_BUDGET_NS: u64 = 10_000;

/// `thread_set_budget`.
pub(super) fn set_budget(caller: Caller) -> Result<(), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    let (budget_ns, period_ns) = (caller.argument(1), caller.argument(2));
    let allowance = if (budget_ns, period_ns) == (0, 0) {
        None
    } else {
        if !PERIODS_NS.contains(&period_ns) || !(LEAST_BUDGET_NS..=period_ns).contains(&budget_ns) {
            return Err(Error::OutOfRange);
        }
        Some(Allowance {
            ticks: arch::time::ns_to_ticks(budget_ns).max(1),
            period_ns,
        })
    };
    if thread.has_ended() {
        return Err(Error::Ended);
    }
    thread.rest.wish_budget(allowance);
    schedule::ask(ThreadPtr::new(&thread), ask::LOOK);
    Ok(())
}

/// `thread_set_fs_base`.
pub(super) fn set_fs_base(caller: Caller) -> Result<(), Error> {
    let base = caller.argument(0);
    if !is_canonical(base) {
        return Err(Error::BadArgument);
    }
    // SAFETY: this is a call of the current thread, and the base was checked.
    unsafe { arch::switch::set_current_fs_base(base) };
    Ok(())
}

/// `thread_self`.
pub(super) fn this(caller: Caller) -> Result<(), Error> {
    // SAFETY: all kernel code between two quiescent points is inside a section.
    let section = unsafe { Section::enter() };
    // SAFETY: the thread runs this code.
    let thread = unsafe { crate::object::Borrowed::from_ptr(caller.thread(), &section) };
    let thread = thread.to_ref().ok_or(Error::Ended)?;
    caller.give(AnyObject::Thread(thread), Rights::ALL)
}
