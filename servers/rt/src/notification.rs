//! Notifications: 64 bits that are or-ed in and taken out.

use abi::{Call, Deadline, Error, Handle};

use crate::handle::object;
use crate::{AsHandle, OwnedHandle, Result, sys};

object! {
    /// A word of 64 bits: signalled bits stay set until somebody takes them.
    Notification
}

impl Notification {
    /// A new notification with all rights.
    ///
    /// # Errors
    /// `NoMemory`, `QuotaExceeded`.
    pub fn create() -> Result<Notification> {
        // SAFETY: touches no memory.
        let values = unsafe { sys::call(Call::NotificationCreate, [0; 6]) }?;
        Ok(Notification(OwnedHandle::from_raw(Handle(values[0]))))
    }

    /// Sets bits and wakes a waiter.
    ///
    /// # Errors
    /// `NoRight` without SIGNAL.
    pub fn signal(&self, bits: u64) -> Result<()> {
        signal(self.handle(), bits)
    }

    /// Waits until bits are set, and takes them all.
    ///
    /// # Errors
    /// `TimedOut`, `Cancelled`, `PeerClosed` if nobody can signal it any more, `NoRight` without WAIT.
    pub fn wait(&self, deadline: Deadline) -> Result<u64> {
        wait(self.handle(), deadline)
    }

    /// Sets bits in this one and wakes a waiter, then waits for `other`: [`signal`](Self::signal) and [`wait`](Self::wait) in one call, at little more
    /// than half of the price of two, as the waiter runs at once where it may. For two who take turns, and for both ends of a stream.
    ///
    /// If either handle is refused nothing is signalled. If the wait fails the bits were set.
    ///
    /// # Errors
    /// `TimedOut`, `Cancelled`, `PeerClosed`, `NoRight` without SIGNAL on this one and WAIT on the other.
    pub fn signal_and_wait(
        &self,
        bits: u64,
        other: &Notification,
        deadline: Deadline,
    ) -> Result<u64> {
        let (signalled, awaited) = (self.handle().0, other.handle().0);
        // SAFETY: touches no memory.
        let (status, bits) = unsafe { sys::signal_wait(signalled, bits, awaited, deadline.0) };
        sys::check(status).map(|()| bits)
    }

    /// Takes the bits that are set now, 0 if none.
    ///
    /// # Errors
    /// `NoRight` without WAIT.
    pub fn poll(&self) -> Result<u64> {
        match self.wait(Deadline::NOW) {
            Err(Error::TimedOut) => Ok(0),
            result => result,
        }
    }

    /// Binds it to the calling thread, whose receives then also wait for it.
    ///
    /// # Errors
    /// `NoRight` without WAIT, `Busy` if it is bound to another thread.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: touches no memory.
        unsafe { sys::call(Call::NotificationBind, [self.handle().0, 0, 0, 0, 0, 0]) }.map(|_| ())
    }

    /// Unbinds whatever is bound to the calling thread.
    ///
    /// # Errors
    /// Those of any call.
    pub fn unbind() -> Result<()> {
        // SAFETY: touches no memory.
        unsafe { sys::call(Call::NotificationBind, [0; 6]) }.map(|_| ())
    }
}

/// [`Notification::signal`] by number, for those who can't own one (a lock in a static).
pub(crate) fn signal(notification: Handle, bits: u64) -> Result<()> {
    // SAFETY: touches no memory.
    let (status, _) = unsafe { sys::short_with(Call::Signal, notification.0, bits) };
    sys::check(status)
}

/// [`Notification::wait`] by number.
pub(crate) fn wait(notification: Handle, deadline: Deadline) -> Result<u64> {
    // SAFETY: touches no memory.
    let (status, bits) = unsafe { sys::wait(notification.0, deadline.0) };
    sys::check(status).map(|()| bits)
}
