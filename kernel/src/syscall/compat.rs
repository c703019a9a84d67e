//! System calls of 32-bit code: brought into the 64-bit register map, run, and brought back.
//!
//! `abi::compat` lays down the two forms, `kernel/src/compat.rs` does them. Everything here happens in the thread's own context at the top of its kernel stack, so that
//! the rest of the kernel (a partner that puts a message into a waiting thread's registers, say) sees one map only. What
//! the way back needs is kept on the kernel stack meanwhile, where the thread will find it on whatever CPU it goes on.
//!
//! What may go wrong: a register that carries a 64-bit value of somebody else's into 32-bit code. So the context is cut down on
//! the way in, before anything is believed, and again on the way out.

use abi::Error;
use arch::context::{USER_CODE64, VECTOR_SYSCALL32, VECTOR_SYSENTER, cut_to_32_bits};

use crate::compat::{self, Form};
use crate::memory::user;
use crate::thread::{Thread, ThreadPtr};
use crate::{cpu, trap};

/// Vector of a `sysenter` that nobody may make, as the program is told: a general protection fault.
const PROTECTION: u64 = 13;

/// Runs the system call of 32-bit code in the registers of the current thread, and does what is due on the way out.
pub fn enter() {
    let Some(current) = cpu::this().current() else {
        return;
    };
    let thread = current.get();
    cut_to_32_bits(thread.registers_mut());
    let arrived = arrive(thread);
    if arrived.is_ok() && thread.machine.state.extras().is_reporting() {
        enter_reported(current);
        return;
    }
    let form = match arrived {
        Ok(()) => take_in(thread),
        Err(Refusal::Error(error)) => {
            thread.set_status(Err(error));
            crate::schedule::exit_work();
            return;
        }
        Err(Refusal::Fault) => {
            refuse(thread);
            return;
        }
    };
    super::perform(current);
    // Before anybody may stop the thread and look at its registers, which happens on the way out.
    give_back(current, form);
    crate::schedule::exit_work();
}

/// The same for a thread whose calls are reported: as they stand in its registers, before anything is brought into the 64-bit map and after it was
/// brought back.
fn enter_reported(current: ThreadPtr) {
    let registers = current.get().registers_mut();
    registers.call_number = registers.rax;
    crate::reported::call(current.get(), |thread| {
        // Its supervisor may have set what 32-bit code can't have.
        cut_to_32_bits(thread.registers_mut());
        let form = take_in(thread);
        super::perform(current);
        give_back(current, form);
    });
    let registers = current.get().registers_mut();
    // Nor may what its supervisor has set last be more, unless it is 64-bit code from now on.
    if registers.cs != u64::from(USER_CODE64) {
        cut_to_32_bits(registers);
    }
    crate::schedule::exit_work();
}

/// Why a call does not get as far as its number.
enum Refusal {
    /// The call fails.
    Error(Error),
    /// The instruction itself may not be used here.
    Fault,
}

/// Undoes what the entry did to registers and stack, so that the context is the caller's as the call returns to it.
fn arrive(thread: &Thread) -> Result<(), Refusal> {
    let vector = thread.registers().vector;
    if vector == VECTOR_SYSENTER {
        let back = thread.process().sysenter_return().ok_or(Refusal::Fault)?;
        thread.registers_mut().rip = back;
        let word = pop(thread)?;
        thread.registers_mut().rbp = word;
    } else if vector == VECTOR_SYSCALL32 {
        // The return address is in RIP already.
        let word = pop(thread)?;
        thread.registers_mut().rcx = word;
    }
    Ok(())
}

/// Takes a word off the caller's stack. It is taken off also if it can't be read.
fn pop(thread: &Thread) -> Result<u64, Refusal> {
    let registers = thread.registers_mut();
    let at = registers.rsp;
    registers.rsp = u64::from((at as u32).wrapping_add(4));
    // Four bytes at the end of 32-bit addresses may reach past it, where a 64-bit process can have memory, but no caller a stack.
    user::read::<u32>(at).map(u64::from).map_err(Refusal::Error)
}

/// Puts the arguments where 64-bit code would have put them.
fn take_in(thread: &Thread) -> Form {
    compat::take_in(thread.registers_mut(), |index| thread.area.register(index))
}

/// Puts the results where 32-bit code looks for them. On an error they are what the arguments were.
fn give_back(current: ThreadPtr, form: Form) {
    let thread = current.get();
    compat::give_back(thread.registers_mut(), form, |index, word| {
        thread.area.set_register(index, word);
    });
}

/// A `sysenter` of a process that has no place to return to: 64-bit code on an Intel CPU. Where it was nobody knows.
fn refuse(thread: &Thread) {
    let registers = thread.registers_mut();
    registers.vector = PROTECTION;
    registers.error_code = 0;
    registers.call_number = arch::context::NO_CALL;
    trap::from_user(registers);
}
