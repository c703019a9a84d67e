//! Calls that would wait for themselves.
//!
//! A thread that queues at an endpoint waits for the one that serves it alone, if there is one; a thread that waits for an answer waits for who received
//! its call, if that one serves an endpoint alone and holds the reply itself: one that lies in its process's table may be given by any other thread of
//! that. Followed from the endpoint at which a thread has just queued, this comes to an end, or back to
//! the thread itself. Then nobody in the circle can ever go on, and the thread gets [`Deadlock`](abi::Error::Deadlock).
//!
//! *Alone* is one who is the only one that has received there so far: a second thread that is about to receive there for the first time is not
//! seen. So a server of several threads lets them all receive before one of them calls where it might come back to.
//!
//! A report is refused by no circle: it waits, as its thread can't do anything else. A question after a page is: its thread faults then.
//!
//! No lock is held: each thread's word says what it waits for. A thread queues first and looks then, all with sequentially consistent operations, so of two that
//! close a circle at the same moment on two CPUs one at least sees the other. What was seen step by step need not have been so at any one moment;
//! so a circle is believed if a second look along it finds the very same waits, which its threads' stamps tell from later ones.
//!
//! The walk is bounded, as no one may keep a CPU's interrupts off by a chain of threads. A chain that is longer is refused like a circle, so that no circle
//! is too long to be found.

use core::ptr;
use core::sync::atomic::Ordering;

use super::endpoint::Endpoint;
use super::wait_on::WaitOn;
use crate::object::{Borrowed, Section, stamp_of};
use crate::thread::{Thread, ThreadPtr, stamp_in};

/// Threads that are followed from one to the next.
pub(super) const MOST_THREADS: usize = 128;

/// Whether `thread`, which has just queued at `endpoint`, waits for itself there.
pub(super) fn is_closed_by(thread: &Thread, endpoint: &Endpoint, section: &Section) -> bool {
    let found = walk(thread, endpoint, section);
    found.is_some() && walk(thread, endpoint, section) == found
}

/// Follows the waits from `endpoint` on. `None` if they come to an end; else a sum of all that was seen.
pub(super) fn walk(thread: &Thread, endpoint: &Endpoint, section: &Section) -> Option<u64> {
    /// Odd, and of no other meaning.
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut seen = 0_u64;
    let mut next = endpoint.server()?;
    for _ in 0..MOST_THREADS {
        if ptr::eq(next, thread) {
            break;
        }
        // SAFETY: threads that receive live in slots.
        let stamp = stamp_in(unsafe { stamp_of(ptr::from_ref(next)) }.load(Ordering::SeqCst));
        for word in [ptr::from_ref(next).addr() as u64, next.wait.seen(), stamp] {
            seen = (seen ^ word).wrapping_mul(FACTOR).rotate_left(23);
        }
        next = awaited(next, section)?;
    }
    Some(seen)
}

/// Whom a thread waits for, if that one alone can end its wait.
fn awaited<'s>(thread: &Thread, section: &'s Section) -> Option<&'s Thread> {
    match thread.wait.on() {
        WaitOn::Sending(endpoint) => {
            // SAFETY: the endpoint had the thread in its queue when the word was read, so it was not retired then.
            unsafe { Borrowed::from_ptr(endpoint, section) }
                .get()
                .server()
        }
        WaitOn::Reply(_) => thread.holder().map(ThreadPtr::get).filter(|holder| {
            holder.serves_alone() && holder.held.caller() == Some(ThreadPtr::new(thread))
        }),
        _ => None,
    }
}
