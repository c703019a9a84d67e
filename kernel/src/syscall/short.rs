//! The short calls: as few arguments and results as the C convention passes in registers, so that their entry saves next to
//! nothing (`arch`'s `entry/syscall.rs`).
//!
//! They run without a user context, so nothing in here may ask for the calling thread's registers; arguments come as arguments.
//! `int 0x80` reaches the same functions through a context.

use abi::{Call, Error, Handle, SHORT_CALLS};
use arch::hooks::{ShortCall, ShortResult};

use super::{Caller, Outcome, ipc};
use crate::cpu;
use crate::object::Section;
use crate::schedule;

/// By number. The entry of `syscall` calls through a copy of this.
#[unsafe(export_name = "switchyard_short_calls")]
static SHORT: [ShortCall; SHORT_CALLS as usize] = [null, yield_now, signal, clock_now];

const _: () = {
    assert!(Call::Null as u64 == 0);
    assert!(Call::Yield as u64 == 1);
    assert!(Call::Signal as u64 == 2);
    assert!(Call::ClockNow as u64 == 3);
};

extern "C" fn null(_: u64, _: u64, _: u64) -> ShortResult {
    ShortResult::NOTHING
}

extern "C" fn yield_now(_: u64, _: u64, _: u64) -> ShortResult {
    schedule::yield_now()
}

extern "C" fn signal(notification: u64, bits: u64, _: u64) -> ShortResult {
    let Some(current) = cpu::this().current() else {
        return failed(Error::WrongState);
    };
    // SAFETY: this is the beginning of a kernel entry, and the section ends with this function: before any quiescent point.
    let section = unsafe { Section::enter() };
    match ipc::signal(Caller::new(current), Handle(notification), bits, &section) {
        Ok(()) => ShortResult::NOTHING,
        Err(error) => failed(error),
    }
}

extern "C" fn clock_now(_: u64, _: u64, _: u64) -> ShortResult {
    ShortResult::of(arch::time::now_ns())
}

fn failed(error: Error) -> ShortResult {
    ShortResult::failed(error as u64)
}

/// A short call that came in with a whole context, which gets what the short entry would leave in the registers.
pub(super) fn by_context(caller: Caller) -> Outcome {
    let registers = caller.thread().registers();
    let call = SHORT[registers.call_number as usize];
    let has_result = registers.call_number == Call::ClockNow as u64;
    // 32-bit code has a register map of its own, which keeps what is no result.
    let is_64_bit = registers.cs == u64::from(arch::context::USER_CODE64);
    let result = call(registers.rdi, registers.rsi, registers.rdx);
    let registers = caller.thread().registers_mut();
    registers.rax = result.status();
    if is_64_bit {
        registers.rdi = result.value();
        (registers.rsi, registers.rdx) = (0, 0);
        (registers.r8, registers.r9, registers.r10) = (0, 0, 0);
    } else if has_result {
        registers.rdi = result.value();
    }
    Outcome::Written
}
