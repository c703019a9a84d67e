//! The Switchyard kernel as a library: objects, handles, IPC, memory, faults and system calls.
//!
//! The binary beside it holds the boot sequence. What is logic builds and is tested on the host as well; what needs
//! the machine is compiled for `target_os = "none"` only.

#![cfg_attr(not(test), no_std)]

pub mod log;
pub mod memory;
pub mod object;
pub mod panic;
pub mod symbols;
pub mod sync;
