//! What a process is charged for: frames of memory, against a quota.
//!
//! An account outlives its process as long as anything charged to it is alive, so it is an object of its own.
//! Charging is a pair of atomic operations and takes no lock.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::Error;

use crate::object::{Object, Ref, Slab};

/// An account of frames.
pub struct Account {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Account {
    /// An account that may hold `limit` frames.
    ///
    /// # Errors
    /// [`Error::NoMemory`]
    pub fn create(limit: u64) -> Result<Ref<Account>, Error> {
        Ref::try_new(Account {
            used: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
        })
    }

    /// Frames charged.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Frames that may be charged.
    pub fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Sets the limit. What is charged already stays, also above it.
    pub fn set_limit(&self, frames: u64) {
        self.limit.store(frames, Relaxed);
    }

    /// Charges `frames`.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], and nothing is charged.
    pub fn charge(&self, frames: u64) -> Result<(), Error> {
        let limit = self.limit();
        self.used
            .fetch_update(Relaxed, Relaxed, |used| {
                used.checked_add(frames).filter(|&sum| sum <= limit)
            })
            .map(|_| ())
            .map_err(|_| Error::QuotaExceeded)
    }

    /// Takes a charge back.
    pub fn uncharge(&self, frames: u64) {
        let before = self.used.fetch_sub(frames, Relaxed);
        debug_assert!(before >= frames, "more is given back than was charged");
    }
}

impl Object for Account {
    fn slab() -> &'static Slab<Self> {
        static SLAB: Slab<Account> = Slab::new();
        &SLAB
    }
}

/// Charges an account, if there is one: the kernel's own memory has none.
pub(super) fn charge(account: Option<&Ref<Account>>, frames: u64) -> Result<(), Error> {
    account.map_or(Ok(()), |account| account.charge(frames))
}

/// Takes a charge back.
pub(super) fn uncharge(account: Option<&Ref<Account>>, frames: u64) {
    if let Some(account) = account {
        account.uncharge(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_beyond_the_limit_is_refused_whole() {
        crate::memory::testing::machine();
        let account = Account::create(10).unwrap();
        assert_eq!(account.charge(8), Ok(()));
        assert_eq!(account.charge(3), Err(Error::QuotaExceeded));
        assert_eq!(account.charge(u64::MAX), Err(Error::QuotaExceeded));
        assert_eq!(account.used(), 8);
        account.uncharge(8);
        assert_eq!(account.charge(10), Ok(()));
        account.set_limit(4);
        account.uncharge(5);
        assert_eq!(account.charge(1), Err(Error::QuotaExceeded));
    }
}
