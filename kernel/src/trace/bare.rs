//! The rings of the machine's CPUs, and what is noted in them.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use abi::trace::{TraceKind, TraceRecord};
use abi::{Call, Error, UserContext};
use arch::memory::phys_to_virt;
use arch::time;

use super::WANTED;
use super::ring::{self, Place};
use crate::cpu::{self, Cpu};
use crate::memory::PAGE_BYTES;
use crate::memory::frames::{self, FrameKind};
use crate::object::{Section, Step, Walk};
use crate::process::Process;
use crate::schedule;
use crate::sync;
use crate::thread::Thread;

/// Pages of a ring, as a power of two: 64 KiB, some 1,600 records.
const ORDER: u8 = 4;
const RECORDS: usize = ((PAGE_BYTES as usize) << ORDER) / size_of::<Place>();
/// Threads that are marked between two chances for others.
const MARKED_AT_ONCE: usize = 256;

/// One CPU's.
pub(crate) struct Ring {
    /// Null: it was never asked for.
    places: AtomicPtr<Place>,
    next: AtomicU64,
}

impl Ring {
    pub(crate) const fn new() -> Ring {
        Ring {
            places: AtomicPtr::new(ptr::null_mut()),
            next: AtomicU64::new(0),
        }
    }

    fn places(&self) -> &'static [Place] {
        let first = self.places.load(Ordering::Acquire);
        if first.is_null() {
            return &[];
        }
        // SAFETY: a block of frames that is the ring's for ever, was zeroed, and has room for so many.
        unsafe { core::slice::from_raw_parts(first, RECORDS) }
    }

    fn make(&self) -> Result<(), Error> {
        if !self.places.load(Ordering::Acquire).is_null() {
            return Ok(());
        }
        let block = frames::allocate_order(ORDER, FrameKind::Kernel).ok_or(Error::NoMemory)?;
        let first: *mut u8 = phys_to_virt(block);
        for page in 0..1 << ORDER {
            // SAFETY: the block is ours and so large.
            unsafe {
                first
                    .add(page * PAGE_BYTES as usize)
                    .write_bytes(0, PAGE_BYTES as usize);
            };
            schedule::preemption_point();
        }
        let made = self.places.compare_exchange(
            ptr::null_mut(),
            first.cast(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if made.is_err() {
            // Somebody else was faster.
            frames::free_run(block, 1 << ORDER);
        }
        Ok(())
    }
}

/// Whether this kind is noted now.
#[inline]
pub(crate) fn is_noted(kind: TraceKind) -> bool {
    WANTED.has(kind)
}

/// Notes the kinds of a set for a process from now on, beside what others ask for.
///
/// # Errors
/// [`Error::NoMemory`] if there is none for the rings, [`Error::Ended`]; what it had asked for before is noted still.
pub(crate) fn set(process: &Process, kinds: u32) -> Result<(), Error> {
    sync::assert_none_held();
    if kinds != 0 {
        for cpu in cpu::all() {
            cpu.trace.make()?;
        }
    }
    process.while_alive(|| {
        WANTED.exchange(&process.traces, kinds);
        Ok(())
    })?;
    // Also if another has begun with that already: what is asked for is noted when the call returns.
    settle();
    Ok(())
}

/// Brings all CPUs and all threads into line with what is noted now.
pub(super) fn settle() {
    settle_calls();
    let mut walk = Walk::<Thread>::begin();
    while mark_some(&mut walk) {
        schedule::preemption_point();
    }
}

/// Whether threads are to be marked, so that they take the long ways, on which what is noted of them is noted.
#[inline(always)]
fn marks_threads() -> bool {
    WANTED.has_long_ways()
}

/// Marks a thread that is about to run for the first time, if it is to be. One that was there already when that was asked for has its mark.
#[inline(always)]
pub(crate) fn mark_new(thread: &Thread) {
    if marks_threads() {
        mark(thread);
    }
}

/// Gives a thread the mark, or takes it off, as it should be now.
#[cold]
fn mark(thread: &Thread) {
    loop {
        let on = marks_threads();
        thread.marks().trace(on);
        if on == marks_threads() {
            return;
        }
    }
}

/// Has every CPU note short calls, or not, as it should be now.
fn settle_calls() {
    loop {
        let on = WANTED.has_surely(TraceKind::Ipc);
        arch::cpu::note_short_calls(on, cpu::all().map(Cpu::block));
        if on == WANTED.has_surely(TraceKind::Ipc) {
            return;
        }
    }
}

/// Marks the next few threads; false if there are no more.
fn mark_some(walk: &mut Walk<Thread>) -> bool {
    // SAFETY: all kernel code between two quiescent points is inside a section.
    let section = unsafe { Section::enter() };
    for _ in 0..MARKED_AT_ONCE {
        match walk.next(&section) {
            Step::Object(thread) => mark(&thread),
            Step::Free => {}
            Step::End => return false,
        }
    }
    true
}

#[cold]
fn note(cpu: &Cpu, kind: TraceKind, thread: u64, a: u64, b: u64) {
    let record = TraceRecord {
        ticks: time::ticks(),
        thread,
        a,
        b,
        kind: kind as u32,
        cpu: cpu.index(),
    };
    ring::write(cpu.trace.places(), &cpu.trace.next, &record);
}

fn current(cpu: &Cpu) -> u64 {
    cpu.current().map_or(0, |thread| thread.get().id())
}

/// A marked thread is about to get the CPU.
#[cold]
pub(crate) fn switch(cpu: &Cpu, next: &Thread) {
    if is_noted(TraceKind::Switch) {
        let priority = u64::from(next.priority().level());
        note(cpu, TraceKind::Switch, next.id(), current(cpu), priority);
    }
}

/// The CPU is about to be idle.
#[cold]
pub(crate) fn idle(cpu: &Cpu) {
    note(cpu, TraceKind::Switch, 0, current(cpu), 0);
}

/// A call was made: notes it if it is one on an endpoint, a reply or a notification.
#[cold]
pub(crate) fn ipc(call: Call, argument: u64) {
    let is_ipc = matches!(
        call,
        Call::Signal
            | Call::Call
            | Call::Send
            | Call::Recv
            | Call::Reply
            | Call::ReplyRecv
            | Call::Wait
            | Call::SignalWait
    );
    if is_ipc {
        let cpu = cpu::this();
        note(cpu, TraceKind::Ipc, current(cpu), call as u64, argument);
    }
}

/// An interrupt came.
#[cold]
pub(crate) fn interrupt(cpu: &Cpu, vector: u64) {
    note(
        cpu,
        TraceKind::Interrupt,
        current(cpu),
        vector,
        cpu.interrupts.get(),
    );
}

/// User code faulted.
#[cold]
pub(crate) fn fault(context: &UserContext, about: u64) {
    let cpu = cpu::this();
    let a = context.vector & 0xFFFF_FFFF | context.error_code << 32;
    note(cpu, TraceKind::Fault, current(cpu), a, about);
}

/// A thread is given to another CPU.
#[cold]
pub(crate) fn migration(cpu: &Cpu, thread: &Thread, to: u32, ready: bool) {
    note(
        cpu,
        TraceKind::Migration,
        thread.id(),
        u64::from(to),
        u64::from(ready),
    );
}

/// Reads what a CPU has noted: see [`ring::read`].
///
/// # Errors
/// [`Error::OutOfRange`] for a CPU that there is not.
pub(crate) fn read(
    index: u64,
    from: u64,
    into: &mut [TraceRecord],
) -> Result<(usize, u64, u64), Error> {
    let cpu = u32::try_from(index)
        .ok()
        .and_then(cpu::get)
        .ok_or(Error::OutOfRange)?;
    Ok(ring::read(cpu.trace.places(), &cpu.trace.next, from, into))
}
