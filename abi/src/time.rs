//! Deadlines.

/// An absolute point of monotonic time, in nanoseconds since boot, until which a call may block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Deadline(pub u64);

impl Deadline {
    /// Don't wait at all: what can't be had at once fails with [`Error::TimedOut`](crate::Error::TimedOut).
    pub const NOW: Deadline = Deadline(0);
    /// Wait for ever.
    pub const NEVER: Deadline = Deadline(u64::MAX);
}
