//! The hosted twin of `run`: a [`UserContext`](abi::UserContext) inside a Linux process.
//!
//! User code runs in the process of the one who runs it, at the same privilege level, and calls an entry in place of `syscall`. So
//! a personality, a debugger or a test can work with contexts as a kernel does, without a machine under it.
//!
//! ```no_run
//! use arch::context::fresh;
//! use arch::hosted::{Fpu, HostThread, HostedContext};
//! use arch::run::Trap;
//!
//! # fn example(code: u64, stack: u64) -> Result<(), Box<dyn std::error::Error>> {
//! let mut host = HostThread::enter()?;
//! let mut user = HostedContext::new(fresh(code, stack, 0, 0, 0), Fpu::Own)?;
//! user.context_mut().rdi = user.entry(); // how this program is told what to call
//! // SAFETY: the code is ours, and is as `run` asks.
//! while let Trap::SystemCall = unsafe { host.run(&mut user)? } {
//!     let call = user.context().call_number;
//!     user.context_mut().rax = call + 1;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | file | what |
//! |---|---|
//! | `host_thread.rs` | a thread that runs contexts; `run` |
//! | `hosted_context.rs` | a context and its gate |
//! | `gate.rs`, `gate_code.rs` | the way in and out, with all registers kept |
//! | `signals.rs` | faults of user code |
//!
//! FPU registers of the user's own are a [`fpu::State`](crate::fpu::hosted::State).
//!
//! Two FS bases are at work, the host's and the user's, and the one rule is: while host Rust code runs, the host's is in force.
//! Nothing is ever stored in the other side's thread-local storage, nor below its stack pointer; how the entry finds the host's
//! side all the same is in `gate.rs`.

mod gate;
mod gate_code;
mod host_thread;
mod hosted_context;
mod signals;

use core::arch::naked_asm;
use core::fmt;

pub use crate::context::BadContext;
pub use host_thread::{BaseSwitch, HostThread};
pub use hosted_context::{Fpu, HostedContext};

/// Why a thread or a context can't be prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostError {
    /// A call of the operating system failed: its name and `errno`.
    Os(&'static str, i32),
    /// The thread is already prepared.
    AlreadyEntered,
    /// The thread has a shadow stack, which the way out of user code would contradict.
    ShadowStack,
    /// The instructions that change bases are not allowed here.
    NoFsgsbase,
    /// The CPU can't do `lahf` in 64-bit mode: one of the first of its kind.
    NoLahf,
}

impl HostError {
    /// The failure of the last call, which has this name.
    fn last(call: &'static str) -> HostError {
        // SAFETY: `errno` is the thread's own.
        HostError::Os(call, unsafe { *libc::__errno_location() })
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostError::Os(call, errno) => write!(f, "{call} failed, errno {errno}"),
            HostError::AlreadyEntered => f.write_str("this thread already runs contexts"),
            HostError::ShadowStack => f.write_str("this thread has a shadow stack"),
            HostError::NoFsgsbase => f.write_str("wrfsbase is not allowed here"),
            HostError::NoLahf => f.write_str("this CPU has no lahf in 64-bit mode"),
        }
    }
}

impl core::error::Error for HostError {}

/// An entry with one address for all contexts: goes to the entry of the gate that GS points at.
///
/// In: as a gate's own entry (`gate_code.rs`); GS base is [`HostedContext::gs_of_entry`]. Changes no register, no flag and no
/// memory. Not to be called by host code.
///
/// # Safety
/// To be called by user code of a context that is being run, with that GS base.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn switchyard_hosted_entry() {
    naked_asm!("jmp qword ptr gs:[{entry}]", entry = const gate::ENTRY_OFFSET)
}
