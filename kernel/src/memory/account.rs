//! What a process is charged for: frames of memory, places in handle tables, threads; each against a quota.
//!
//! A process either has a part of its creator's quota (*divided*), which is taken out of the creator's account at once and comes back at the
//! end, or it has none of its own (*shared*), and whatever it is charged its creator's account is charged as well. So all that can be used
//! up below an account is bounded by that account, and a part that was given away is nobody else's.
//!
//! An account outlives its process as long as anything charged to it is alive, a shared memory object say, so it is an object of its own.
//! When its process ends, what of a part is not in use goes back at once ([`close`](Account::close)), and from then on the account
//! is as a shared one: who gave the part pays for what is left, until that goes as well, and for what it may still grow by.
//!
//! Each resource is one word, and no lock is taken (`levels.rs`).
//!
//! What is charged to a closed account is counted there and where it is paid, and at no closed one between. So these can be left out: a row
//! of processes, each of which makes the next with a part of its own and ends, would else leave an ever longer way to whoever pays. Whenever a part
//! is given, all accounts on the way from there up get the next one for a lender that pays by itself; and such a way may have [`MOST_LEVELS`].
//! A closed account shows more in use than there is, if what others have of it was given back without it.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, Ordering::Relaxed};

use abi::Error;
use abi::info::Quota;

use super::levels::{self, Level, SHARED, forwards, used_of, word};
use crate::atomics::Native;
use crate::object::{Borrowed, Object, Ref, Section, Slab};
use crate::sync::{Mutex, level};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    /// Frames of memory.
    Frames = 0,
    /// Places in handle tables.
    Handles = 1,
    /// Threads.
    Threads = 2,
}

impl Resource {
    /// All of them.
    pub const ALL: [Resource; 3] = [Resource::Frames, Resource::Handles, Resource::Threads];

    /// Its part of a quota.
    pub(super) const fn of(self, quota: &Quota) -> u64 {
        match self {
            Resource::Frames => quota.pages,
            Resource::Handles => quota.handles,
            Resource::Threads => quota.threads,
        }
    }
}

/// The most accounts, each with a part of the next one's quota, that can be in a row.
pub const MOST_LEVELS: usize = 32;
/// The most that a limit can be: eight terabytes of memory.
pub const MOST: u64 = (1 << 31) - 1;

/// An account.
pub struct Account {
    words: [AtomicU64; 3],
    /// Whose quota this one is a part of, or who pays.
    lender: Lender,
}

/// Whoever changes the parts of quotas does so after another: two that did it at once would add their differences.
static SETTING: Mutex<{ level::PARTS }, ()> = Mutex::new(());

/// A counted reference to an account, or to none, which may be exchanged for one to an account further up. What it was is retired.
struct Lender(AtomicPtr<Account>);

impl Lender {
    const fn none() -> Lender {
        Lender(AtomicPtr::new(ptr::null_mut()))
    }

    fn of(account: Ref<Account>) -> Lender {
        Lender(AtomicPtr::new(account.into_raw().cast_mut()))
    }

    /// For the rest of the kernel entry at most: there is no preemption point in this file.
    fn get(&self) -> Option<&Account> {
        // SAFETY: it is counted here, or was and is retired, so that it lives as long as this section: all kernel code between two quiescent
        // points is inside one.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    fn set(&self, account: Ref<Account>) {
        let former = self.0.swap(account.into_raw().cast_mut(), Ordering::AcqRel);
        drop(Self::reference(former));
    }

    fn reference(former: *mut Account) -> Option<Ref<Account>> {
        // SAFETY: it came from `into_raw`, and was taken out of the word by one alone.
        (!former.is_null()).then(|| unsafe { Ref::from_raw(former) })
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        drop(Self::reference(*self.0.get_mut()));
    }
}

impl Account {
    /// An account of its own that may hold `limit` frames, and anything else without limit.
    ///
    /// # Errors
    /// [`Error::NoMemory`]
    pub fn create(limit: u64) -> Result<Ref<Account>, Error> {
        Ref::try_new(Account {
            words: [limit, MOST, MOST].map(|limit| AtomicU64::new(word(0, limit))),
            lender: Lender::none(),
        })
    }

    /// An account for whose charges `lender` pays.
    ///
    /// # Errors
    /// [`Error::NoMemory`]
    pub fn share(lender: &Ref<Account>) -> Result<Ref<Account>, Error> {
        Ref::try_new(Account {
            words: [const { AtomicU64::new(SHARED) }; 3],
            lender: Lender::of(lender.payer_counted()),
        })
    }

    /// An account with a part of the quota of `lender`.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] if there is not so much left, or the account would be the end of too long a row; [`Error::NoMemory`]. Nothing is taken
    /// then.
    pub fn divide(lender: &Ref<Account>, part: &Quota) -> Result<Ref<Account>, Error> {
        let lender = lender.payer_counted();
        if lender.shorten_way() >= MOST_LEVELS {
            return Err(Error::QuotaExceeded);
        }
        let account = Ref::try_new(Account {
            words: [const { AtomicU64::new(0) }; 3],
            lender: Lender::of(lender),
        })?;
        for resource in Resource::ALL {
            if let Err(error) = account.raise(resource, resource.of(part)) {
                // What was taken goes back at once, and not only when the account does.
                account.close();
                return Err(error);
            }
        }
        Ok(account)
    }

    /// The next on the way to lenders that pays, counted.
    fn payer_counted(&self) -> Ref<Account> {
        loop {
            // If nobody counts it any more, the way to it is another by now.
            if let Some(payer) = self.payer().counted() {
                return payer;
            }
        }
    }

    fn counted(&self) -> Option<Ref<Account>> {
        // SAFETY: all kernel code between two quiescent points is inside a section.
        let section = unsafe { Section::enter() };
        // SAFETY: it is counted, or was so in this section.
        unsafe { Borrowed::from_ptr(self, &section) }.to_ref()
    }

    /// What it has in use.
    pub fn used_of(&self, resource: Resource) -> u64 {
        used_of(self.words[resource as usize].load(Relaxed))
    }

    /// What it may have in use: of a shared account what its lender may.
    pub fn limit_of(&self, resource: Resource) -> u64 {
        let mut account = self;
        loop {
            let word = account.words[resource as usize].load(Relaxed);
            match account.lender.get() {
                Some(lender) if forwards(word) => account = lender,
                _ => return levels::limit_of(word),
            }
        }
    }

    /// Frames charged.
    pub fn used(&self) -> u64 {
        self.used_of(Resource::Frames)
    }

    /// Frames that may be charged.
    pub fn limit(&self) -> u64 {
        self.limit_of(Resource::Frames)
    }

    /// What is used, and what may be.
    pub fn quotas(&self) -> (Quota, Quota) {
        let of = |what: &dyn Fn(Resource) -> u64| Quota {
            pages: what(Resource::Frames),
            handles: what(Resource::Handles),
            threads: what(Resource::Threads),
        };
        (
            of(&|resource| self.used_of(resource)),
            of(&|resource| self.limit_of(resource)),
        )
    }

    /// Sets the limit of frames of an account without a lender. What is charged already stays, also above it.
    pub fn set_limit(&self, frames: u64) {
        debug_assert!(
            self.lender.get().is_none(),
            "a part is changed with its lender"
        );
        let set = |before| Some(word(used_of(before), frames));
        let _ = self.words[0].fetch_update(Relaxed, Relaxed, set);
    }

    /// Charges `frames`.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], and nothing is charged.
    #[inline]
    pub fn charge(&self, frames: u64) -> Result<(), Error> {
        self.charge_of(Resource::Frames, frames)
    }

    /// Takes a charge back.
    #[inline]
    pub fn uncharge(&self, frames: u64) {
        self.uncharge_of(Resource::Frames, frames);
    }

    /// Charges `count` of a resource.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], and nothing is charged.
    pub fn charge_of(&self, resource: Resource, count: u64) -> Result<(), Error> {
        self.take(resource, count)
    }

    /// Charges as much as it can, at most `count`, and says how much.
    pub fn charge_some(&self, resource: Resource, count: u64) -> u64 {
        let mut count = count;
        while count > 0 && self.charge_of(resource, count).is_err() {
            count /= 2;
        }
        count
    }

    /// Takes a charge back.
    pub fn uncharge_of(&self, resource: Resource, count: u64) {
        self.give_back(resource, count);
    }

    /// Gives it another part of its lender's quota. All or nothing.
    ///
    /// # Errors
    /// [`Error::NoRight`] if what `by` is charged is not paid by who pays for the lender; [`Error::WrongState`] if it has no part, or its process
    /// has ended; [`Error::QuotaExceeded`] if the lender has not so much left, or more is in use than it shall have.
    pub fn set_part(&self, by: &Ref<Account>, part: &Quota) -> Result<(), Error> {
        let lender = self.lender.get().ok_or(Error::WrongState)?;
        if !ptr::eq(by.payer(), lender.payer()) {
            return Err(Error::NoRight);
        }
        let _one_after_another = SETTING.lock();
        self.set_parts(part)
    }

    /// Its process has ended: what of its part is not in use goes back to the lender, who pays for the rest from now on.
    pub fn close(&self) {
        self.close_all();
    }
}

impl Level for Account {
    type Atomics = Native;

    #[inline(always)]
    fn word(&self, resource: Resource) -> &AtomicU64 {
        &self.words[resource as usize]
    }

    #[inline(always)]
    fn lender(&self) -> Option<&Self> {
        self.lender.get()
    }

    fn set_lender(&self, lender: &Self) {
        if let Some(lender) = lender.counted() {
            self.lender.set(lender);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Nothing is charged any more.
        self.close();
    }
}

impl Object for Account {
    fn slab() -> &'static Slab<Self> {
        static SLAB: Slab<Account> = Slab::new();
        &SLAB
    }
}

/// Charges an account, if there is one: the kernel's own memory has none.
pub(crate) fn charge(account: Option<&Ref<Account>>, frames: u64) -> Result<(), Error> {
    account.map_or(Ok(()), |account| account.charge(frames))
}

/// Takes a charge back.
pub(crate) fn uncharge(account: Option<&Ref<Account>>, frames: u64) {
    if let Some(account) = account {
        account.uncharge(frames);
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
