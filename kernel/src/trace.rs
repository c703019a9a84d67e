//! Traces: each CPU notes what it does in a ring of its own, while it is asked to, and whoever may look at the system reads it.
//!
//! Off, a trace costs one look at one word where something happens that is no one's fast path: an interrupt, a fault, a migration, a message
//! call by the long way. Switches cost nothing at all: while they are noted, or messages are, every thread has a [mark](crate::thread), and
//! a marked thread takes the long ways, on which they are noted. That makes them slower while they are noted, and only then. Nor does a `signal`, which
//! has no long way: while messages are noted, each CPU has another table of short calls, with one that notes it.
//!
//! Every process asks by itself for what is to be noted ([`wanted`]); what it reads is what anybody has asked for.
//!
//! What may go wrong: two who change at once what threads and CPUs are to do, each by what it saw. So whoever brings one into line looks again
//! afterwards whether it still is.
//!
//! A ring is made when a trace is first asked for, and stays. Nothing ever waits for a reader; what it is too slow for is overwritten,
//! and it is told how much that was.

#[cfg(target_os = "none")]
mod bare;
mod ring;
mod wanted;

#[cfg(target_os = "none")]
pub(crate) use bare::{
    Ring, fault, idle, interrupt, ipc, is_noted, mark_new, migration, read, set, switch,
};
pub(crate) use wanted::Asked;

/// What is noted now.
static WANTED: wanted::Wanted = wanted::Wanted::nothing();

/// A process has ended, and asks for nothing any more. No lock may be held.
pub(crate) fn forget(asked: &Asked) {
    if WANTED.exchange(asked, 0) != 0 {
        #[cfg(target_os = "none")]
        bare::settle();
    }
}
