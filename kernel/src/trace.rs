//! Traces: each CPU notes what it does in a ring of its own, while it is asked to, and whoever may look at the system reads it.
//!
//! Off, a trace costs one look at one word where something happens that is no one's fast path: an interrupt, a fault, a migration, a message
//! call by the long way. Switches cost nothing at all: while they are noted, or messages are, every thread has a [mark](crate::thread), and
//! a marked thread takes the long ways, on which they are noted. That makes them slower while they are noted, and only then.
//!
//! A ring is made when a trace is first asked for, and stays. Nothing ever waits for a reader; what it is too slow for is overwritten,
//! and it is told how much that was.

#[cfg(target_os = "none")]
mod bare;
mod ring;

#[cfg(target_os = "none")]
pub(crate) use bare::{
    Ring, fault, idle, interrupt, ipc, is_noted, marks_threads, migration, read, set, switch,
};
