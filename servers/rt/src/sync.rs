//! Locks for the threads of one process.
//!
//! A waiter sleeps on a notification, never spins: with strict priorities a spinning thread would keep the very thread
//! from its CPU that holds the lock. The word is 0 free, 1 held, 2 held and perhaps waited for. Whoever had to wait takes
//! the lock as "perhaps waited for", so that its unlock wakes the next; a signal without a waiter stays set and costs one
//! extra turn. The notification is made when first needed, so that a lock can be a `static`.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use abi::{Call, Deadline, Handle};

use crate::{notification, sys, time};

const FREE: u32 = 0;
const HELD: u32 = 1;
const WAITED_FOR: u32 = 2;

/// A lock of [`lock_api`]'s kind.
pub struct RawMutex {
    word: AtomicU32,
    notification: AtomicU64,
}

/// A value that one thread at a time can use.
pub type Mutex<T> = lock_api::Mutex<RawMutex, T>;
/// The proof that a thread may use it.
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawMutex, T>;

/// How many notifications the program's locks have.
static NOTIFICATIONS: AtomicU64 = AtomicU64::new(0);

/// How many notifications this program's locks have made because a thread had to wait, and keep: each is a handle as well. For whoever counts what
/// there is.
pub fn notifications() -> u64 {
    NOTIFICATIONS.load(Ordering::SeqCst)
}

impl RawMutex {
    /// The notification to wait on, `None` if none can be had.
    fn notification(&self) -> Option<Handle> {
        let known = self.notification.load(Ordering::Acquire);
        if known != 0 {
            return Some(Handle(known));
        }
        // By number, since making an owner's error text must not need this lock again.
        // SAFETY: touches no memory.
        let [made, ..] = unsafe { sys::call(Call::NotificationCreate, [0; 6]) }.ok()?;
        match self
            .notification
            .compare_exchange(0, made, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => {
                NOTIFICATIONS.fetch_add(1, Ordering::SeqCst);
                Some(Handle(made))
            }
            Err(first) => {
                // Another thread was first.
                drop(crate::OwnedHandle::from_raw(Handle(made)));
                Some(Handle(first))
            }
        }
    }

    #[cold]
    fn lock_slow(&self) {
        while self.word.swap(WAITED_FOR, Ordering::Acquire) != FREE {
            // Without a notification, or if waiting fails, a short sleep lets the holder go on.
            let waited = self
                .notification()
                .map(|handle| notification::wait(handle, Deadline::NEVER));
            if !matches!(waited, Some(Ok(_))) {
                let _ = time::sleep(Duration::from_micros(200));
            }
        }
    }
}

impl Drop for RawMutex {
    fn drop(&mut self) {
        let made = *self.notification.get_mut();
        if made != 0 {
            NOTIFICATIONS.fetch_sub(1, Ordering::SeqCst);
        }
        drop(crate::OwnedHandle::from_raw(Handle(made)));
    }
}

// SAFETY: the word goes from FREE to held by exactly one thread's compare-exchange or swap, and back by its unlock.
unsafe impl lock_api::RawMutex for RawMutex {
    const INIT: RawMutex = RawMutex {
        word: AtomicU32::new(FREE),
        notification: AtomicU64::new(0),
    };
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        if !self.try_lock() {
            self.lock_slow();
        }
    }

    fn try_lock(&self) -> bool {
        self.word
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    unsafe fn unlock(&self) {
        if self.word.swap(FREE, Ordering::Release) == WAITED_FOR
            && let Some(handle) = self.notification()
        {
            // A failure leaves the waiter to its next signal; it can only be a handle closed by force.
            let _ = notification::signal(handle, 1);
        }
    }
}
