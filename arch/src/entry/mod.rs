//! The ways into the kernel and out of it.
//!
//! | file | entries | stack |
//! |---|---|---|
//! | `syscall.rs` | `syscall` from 64-bit code | the thread's |
//! | `compat.rs` | `syscall` from 32-bit code (AMD) | the thread's |
//! | `sysenter.rs` | `sysenter` (Intel) | the thread's |
//! | `vectors.rs` | exceptions, interrupts, `int 0x80` | the thread's, or the one that was interrupted |
//! | `isolated.rs` | the same, where user mode has page tables of its own | the CPU's entry stack first, then the thread's |
//! | `paranoid.rs` | #DB, NMI, #DF, #MC: may come at any instruction | one of their own each |
//! | `report.rs` | none of its own: to the handler of a fault and back | the thread's |
//! | `run.rs` | none of its own: user mode as a function call, over the others | the caller's |
//!
//! Each builds a [`UserContext`] at the top of its stack; from user mode that is always the top of the thread's kernel stack,
//! so that the context can be found from outside. `frame.rs` holds the layout for the assembly.

mod alternatives;
mod compat;
mod frame;
mod isolated;
mod paranoid;
mod report;
mod run;
mod syscall;
mod sysenter;
mod vectors;

pub use alternatives::patch;
pub(crate) use report::{REPORTED_SHORT_CALL, leave_with_fault, leave_with_registers};
pub use run::{RunContext, come_back, run};
pub(crate) use syscall::{
    go_on_behind_wait, go_the_long_way, leave_with_answer, leave_with_call, leave_with_own,
};
pub use vectors::return_to_user;

use abi::UserContext;

use crate::mitigations::decisions;

/// Address of the stub for a vector.
pub(crate) fn vector_address(vector: u8) -> u64 {
    vectors::first_stub() + u64::from(vector) * vectors::STUB_BYTES
}

/// Where `syscall` goes.
pub(crate) fn syscall_address() -> u64 {
    if decisions().isolation {
        isolated::syscall_entry as *const () as u64
    } else {
        syscall::entry as *const () as u64
    }
}

/// Where `syscall` from 32-bit code goes (AMD).
pub(crate) fn compat_syscall_address() -> u64 {
    if decisions().isolation {
        isolated::compat_entry as *const () as u64
    } else {
        compat::entry as *const () as u64
    }
}

/// Where `sysenter` goes (Intel).
pub(crate) fn sysenter_address() -> u64 {
    if decisions().isolation {
        isolated::sysenter_entry as *const () as u64
    } else {
        sysenter::entry as *const () as u64
    }
}

pub(crate) fn debug_address() -> u64 {
    paranoid::debug as *const () as u64
}

pub(crate) fn nmi_address() -> u64 {
    paranoid::nmi as *const () as u64
}

pub(crate) fn double_fault_address() -> u64 {
    paranoid::double_fault as *const () as u64
}

pub(crate) fn machine_check_address() -> u64 {
    paranoid::machine_check as *const () as u64
}

/// The user context of the thread whose kernel stack ends at `stack_top`.
#[inline]
pub const fn context_at(stack_top: u64) -> *mut UserContext {
    (stack_top - size_of::<UserContext>() as u64) as *mut UserContext
}
