//! x86-64 mechanism: everything with a register in its name.
//!
//! This crate knows descriptor tables, entry and exit paths, the task switch, the FPU, paging, interrupt
//! controllers and clocks. It knows no handle, no process and no policy: the kernel calls down into it, and
//! where it must call up (a system call came, a trap came) it calls one of the few symbols in [`hooks`].
//!
//! What can run inside an ordinary process (layouts, validation, page tables on an arena, arithmetic of clocks)
//! also builds there and is tested there; what touches the machine is compiled for `target_os = "none"` only.

#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod backtrace;
pub mod context;
pub mod copy;
pub mod debug_registers;
pub mod exchange;
pub mod fpu;
pub mod landing;
pub mod memory;
pub mod mitigations;
pub mod paging;
pub mod platform;
pub mod ports;
pub mod random;
pub mod run;
pub mod segments;
pub mod time;
pub mod tlb;
pub mod user_copy;

#[cfg(target_os = "linux")]
pub mod hosted;

#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod entry;
#[cfg(target_os = "none")]
pub mod extras;
#[cfg(target_os = "none")]
pub mod hooks;
#[cfg(target_os = "none")]
pub mod switch;
