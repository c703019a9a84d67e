//! Communication between threads: endpoints, replies, notifications.
//!
//! The logic here decides and moves messages; it never switches threads. Each operation of a running thread ends in a
//! [`Flow`]: its result is in its registers already, or it is queued and must block, or it must block and another
//! thread should run in its place at once. The scheduler does the rest, so that all of this also runs on the host.
//!
//! Who may wake a blocked thread: exactly the one who takes it out of where it waits, under that object's lock (an endpoint's
//! or notification's queue) or under the thread's own (the wait for a reply). Whoever has taken it out writes the
//! result into its saved registers and then makes it ready. So a message, a deadline and a kill may race, and one wins.

mod bits;
#[cfg(target_os = "none")]
mod carrying;
mod cycle;
#[cfg(target_os = "none")]
mod direct;
mod endpoint;
#[cfg(target_os = "none")]
mod fault;
#[cfg(target_os = "none")]
mod known;
mod listener;
mod notification;
mod queue;
mod reply;
mod report;
mod transfer;
mod wait;
mod wait_on;
#[cfg(target_os = "none")]
mod waiting;

#[cfg(test)]
mod tests;

pub use endpoint::Endpoint;
#[cfg(target_os = "none")]
pub(crate) use fault::report_directly;
#[cfg(target_os = "none")]
pub(crate) use known::Known;
pub use listener::Listener;
pub(crate) use listener::Listeners;
pub use notification::{Notification, Signaller};
#[cfg(target_os = "none")]
pub(crate) use notification::{Signalled, give};
#[cfg(any(test, target_os = "none"))]
pub(crate) use reply::close;
pub use reply::{ReplyTarget, reply};
pub use wait::{Wait, cancel, reorder};
pub(crate) use wait_on::OnWord;
pub use wait_on::WaitOn;

use crate::thread::ThreadPtr;

/// How an operation of the running thread goes on.
#[must_use = "a thread that is queued must block"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// It is done; the results are in the thread's registers.
    Done,
    /// The thread waits; whoever wakes it writes the results.
    Block,
    /// As `Block`, and this thread, which the operation has just unblocked, should run at once.
    SwitchTo(ThreadPtr),
}
