//! The Switchyard kernel as a library: objects, handles, IPC, memory, faults and system calls.
//!
//! The binary beside it is the library and a panic handler. What is logic builds and is tested on the host as well; what
//! needs the machine is compiled for `target_os = "none"` only.

#![cfg_attr(not(test), no_std)]
// On the host the scheduler and the system calls are missing, and with them the users of some parts.
#![cfg_attr(not(target_os = "none"), allow(dead_code))]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests run where memory does not end"
    )
)]

pub mod atomics;
pub mod boot;
pub mod compat;
pub mod counter;
pub mod io_ports;
pub mod ipc;
pub mod irq;
pub mod landing;
pub mod log;
pub mod log_owner;
pub mod machine;
pub mod memory;
pub mod object;
pub mod panic;
pub mod process;
pub mod schedule;
pub mod symbols;
pub mod sync;
pub mod thread;
mod trace;

#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
mod fault;
#[cfg(target_os = "none")]
mod reported;
#[cfg(target_os = "none")]
mod spawn;
#[cfg(target_os = "none")]
mod syscall;
#[cfg(target_os = "none")]
mod trap;
