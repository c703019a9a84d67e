//! The contract between the Switchyard kernel and user space.
//!
//! Everything that both sides must agree on lives here and nowhere else: system call numbers ([`Call`]),
//! which register carries what ([`register`], for 32-bit code [`compat`]), error codes ([`Error`]), the message tag ([`Tag`]), rights
//! ([`Rights`]), the layout of the thread's IPC area ([`ipc_area`]), the structures that calls fill in
//! ([`info`]) and the block that a program finds at its start ([`start`]). It is data only: no code of either
//! side, no `unsafe`, no dependency, so that a host test can read it as well.
//!
//! What may go wrong here is silent drift, so every layout that crosses the border is `#[repr(C)]` and its size
//! and offsets are asserted at compile time beside its definition.

#![no_std]
#![forbid(unsafe_code)]

mod call;
pub mod compat;
mod context;
mod cpu_set;
pub mod debug;
mod error;
pub mod general;
mod handle;
pub mod info;
pub mod ipc_area;
pub mod irq;
pub mod landing;
pub mod layout;
pub mod pager;
mod priority;
pub mod register;
pub mod report;
mod rights;
pub mod segment;
pub mod start;
mod tag;
mod time;
pub mod trace;

pub use call::{Call, SHORT_CALLS};
pub use context::{ContextPart, DebugRegisters, FaultKind, UserContext, Watch, Width};
pub use cpu_set::CpuSet;
pub use error::Error;
pub use handle::{Badge, Handle};
pub use priority::Priority;
pub use rights::{MemoryFlags, Protection, Rights};
pub use tag::{Load, Tag, TagError};
pub use time::Deadline;
