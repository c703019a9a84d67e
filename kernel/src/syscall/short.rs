//! The short calls: arguments and results as the C convention passes them in registers, so that their entry saves next to
//! nothing (`arch`'s `entry/syscall.rs`).
//!
//! They run without a user context, so nothing in here may ask for the calling thread's registers; arguments come as arguments.
//! `int 0x80` reaches the same functions through a context.

use abi::trace::TraceKind;
use abi::{Call, Error, Handle, Rights, SHORT_CALLS};
use arch::hooks::{ShortCall, ShortResult};
use arch::switch::frame_here;

use arch::cpu::Pending;
use arch::short_call_of_six;

use super::{Caller, Outcome, handle, ipc, memory, thread};
use crate::cpu;
use crate::ipc::{Signalled, give};
use crate::object::{Section, quiescent};
use crate::schedule;
use crate::thread::ThreadPtr;
use crate::trace;

/// By number. The entry of `syscall` calls through a copy of this.
#[unsafe(export_name = "switchyard_short_calls")]
static SHORT: [ShortCall; SHORT_CALLS as usize] = [
    null,
    yield_now,
    signal,
    clock_now,
    memory_map,
    memory::unmap,
    handle_close,
    thread_create,
];

/// The same while messages are noted.
#[unsafe(export_name = "switchyard_noted_short_calls")]
static NOTED: [ShortCall; SHORT_CALLS as usize] = {
    let mut calls = SHORT;
    calls[Call::Signal as usize] = signal_noted;
    calls
};

const _: () = {
    assert!(Call::Null as u64 == 0);
    assert!(Call::Yield as u64 == 1);
    assert!(Call::Signal as u64 == 2);
    assert!(Call::ClockNow as u64 == 3);
    assert!(Call::MemoryMap as u64 == 4);
    assert!(Call::MemoryUnmap as u64 == 5);
    assert!(Call::HandleClose as u64 == 6);
    assert!(Call::ThreadCreate as u64 == 7);
};

extern "C" fn null(_: u64, _: u64, _: u64) -> ShortResult {
    ShortResult::NOTHING
}

extern "C" fn yield_now(_: u64, _: u64, _: u64) -> ShortResult {
    schedule::yield_now()
}

extern "C" fn signal(notification: u64, bits: u64, _: u64) -> ShortResult {
    // SAFETY: a system call is made by a thread.
    let thread = unsafe { cpu::running(arch::cpu::block()) }.get();
    let mut woken = None;
    // SAFETY: the thread is this one; all kernel code between two quiescent points is inside a section.
    if let Some(known) = unsafe { thread.signalled.look(Handle(notification)) } {
        match known.signal_plainly(bits) {
            Signalled::Nobody => return ShortResult::NOTHING,
            Signalled::Somebody(waiter) => woken = Some(waiter),
            Signalled::Not => {}
        }
    }
    frame_here();
    signal_somebody(woken, notification, bits)
}

/// [`signal`] while messages are noted.
extern "C" fn signal_noted(notification: u64, bits: u64, more: u64) -> ShortResult {
    if trace::is_noted(TraceKind::Ipc) {
        trace::ipc(Call::Signal, notification);
    }
    signal(notification, bits, more)
}

/// [`signal`] of somebody who was taken out of his wait; or of what is not known yet, is bound to a thread, or is in use.
#[inline(never)]
fn signal_somebody(woken: Option<ThreadPtr>, notification: u64, bits: u64) -> ShortResult {
    if let Some(waiter) = woken {
        give(waiter, bits);
        return ShortResult::NOTHING;
    }
    signal_anybody(notification, bits)
}

/// The rest of [`signal_somebody`].
#[cold]
#[inline(never)]
fn signal_anybody(notification: u64, bits: u64) -> ShortResult {
    let Some(current) = cpu::this().current() else {
        return failed(Error::WrongState);
    };
    let thread = current.get();
    let handle = Handle(notification);
    if let Some(known) = thread.signalled.find(thread, handle, Rights::SIGNAL) {
        known.signal(bits);
        return ShortResult::NOTHING;
    }
    // SAFETY: this is the beginning of a kernel entry, and the section ends with this function: before any quiescent point.
    let section = unsafe { Section::enter() };
    match ipc::signal(Caller::new(current), handle, bits, &section) {
        Ok(()) => ShortResult::NOTHING,
        Err(error) => failed(error),
    }
}

extern "C" fn clock_now(_: u64, _: u64, _: u64) -> ShortResult {
    ShortResult::of(arch::time::now_ns())
}

short_call_of_six! {
    memory_map => memory::map
}

short_call_of_six! {
    thread_create => thread::create
}

extern "C" fn handle_close(closed: u64, _: u64, _: u64) -> ShortResult {
    let closing = handle::close(Caller::of_short_call(), Handle(closed));
    see_to_the_dead();
    result(closing.map(|()| 0))
}

/// Has objects that wait for their end be looked at on the way out, which a short call does not do by itself.
pub(super) fn see_to_the_dead() {
    if quiescent::pending() != 0 {
        arch::cpu::block().request(Pending::PASS);
    }
}

/// A call's result as the entry wants it.
pub(super) fn result(result: Result<u64, Error>) -> ShortResult {
    result.map_or_else(failed, ShortResult::of)
}

fn failed(error: Error) -> ShortResult {
    ShortResult::failed(error as u64)
}

/// A short call that came in with a whole context, which gets what the short entry would leave in the registers.
pub(super) fn by_context(caller: Caller) -> Outcome {
    const CLOCK_NOW: u64 = Call::ClockNow as u64;
    const MEMORY_MAP: u64 = Call::MemoryMap as u64;
    const THREAD_CREATE: u64 = Call::ThreadCreate as u64;
    let registers = caller.thread().registers();
    let has_result = matches!(
        registers.call_number,
        CLOCK_NOW | MEMORY_MAP | THREAD_CREATE
    );
    // 32-bit code has a register map of its own, which keeps what is no result.
    let is_64_bit = registers.cs == u64::from(arch::context::USER_CODE64);
    let [a, b, c] = [registers.rdi, registers.rsi, registers.rdx];
    let [d, e, f] = [registers.r10, registers.r8, registers.r9];
    let result = match registers.call_number {
        MEMORY_MAP => memory::map(a, b, c, d, e, f),
        THREAD_CREATE => thread::create(a, b, c, d, e, f),
        number => SHORT[number as usize](a, b, c),
    };
    let registers = caller.thread().registers_mut();
    registers.rax = result.status();
    if is_64_bit {
        registers.rdi = result.value();
        (registers.rsi, registers.rdx) = (0, 0);
        (registers.r8, registers.r9, registers.r10) = (0, 0, 0);
    } else if has_result && result.status() == 0 {
        registers.rdi = result.value();
    }
    Outcome::Written
}
