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
//! Each resource is one word, changed by one atomic operation: what is used, the limit, and whether the lender is charged as well.
//! No lock is taken. What may go wrong is a charge while the account is closed: either it is in what is used, and so it is kept back, or
//! it finds the mark and goes to the lender.
//!
//! What is charged to a closed account is counted there and where it is paid, and at no closed one between. So these can be left out: a row
//! of processes, each of which makes the next with a part of its own and ends, would else leave an ever longer way to whoever pays. Whenever a part
//! is given, all accounts on the way from there up get the next one for a lender that pays by itself; and such a way may have [`MOST_LEVELS`].
//! A closed account shows more in use than there is, if what others have of it was given back without it.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, Ordering::Relaxed};

use abi::Error;
use abi::info::Quota;

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
    const fn of(self, quota: &Quota) -> u64 {
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
pub const MOST: u64 = USED;
/// In a word: what is used.
const USED: u64 = (1 << 31) - 1;
/// In a word: the lender is charged as well, and the limit is the lender's.
const FORWARD: u64 = 1 << 31;
/// In a word: where the limit begins.
const LIMIT_SHIFT: u32 = 32;

const fn word(used: u64, limit: u64) -> u64 {
    let limit = if limit < MOST { limit } else { MOST };
    used | limit << LIMIT_SHIFT
}

const fn used_of(word: u64) -> u64 {
    word & USED
}

const fn limit_of(word: u64) -> u64 {
    word >> LIMIT_SHIFT
}

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
            words: [const { AtomicU64::new(FORWARD | MOST << LIMIT_SHIFT) }; 3],
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

    /// It itself, or the next on the way to lenders that pays.
    fn payer(&self) -> &Account {
        let mut account = self;
        while account.words[0].load(Relaxed) & FORWARD != 0
            && let Some(lender) = account.lender.get()
        {
            account = lender;
        }
        account
    }

    /// The same, counted.
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

    /// Whether all that is charged to it is charged to its lender as well.
    fn is_closed(&self) -> bool {
        let is = |word: &AtomicU64| word.load(Relaxed) & FORWARD != 0;
        self.words.iter().all(is)
    }

    /// Leaves closed accounts out of the way from here up. Returns how many are left.
    fn shorten_way(&self) -> usize {
        let mut account = self;
        let mut levels = 0;
        while let Some(lender) = account.lender.get() {
            let mut next = lender;
            while next.is_closed()
                && let Some(further) = next.lender.get()
            {
                next = further;
            }
            if !ptr::eq(next, lender)
                && let Some(next) = next.counted()
            {
                account.lender.set(next);
            }
            account = next;
            levels += 1;
        }
        levels
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
                Some(lender) if word & FORWARD != 0 => account = lender,
                _ => return limit_of(word),
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
        // First who pays, as he may refuse.
        let payer = self.pay(resource, count)?;
        if !ptr::eq(self, payer) {
            self.words[resource as usize].fetch_add(count, Relaxed);
        }
        Ok(())
    }

    /// Charges it, or the next on the way to lenders that pays, and that one alone.
    #[inline]
    fn pay(&self, resource: Resource, count: u64) -> Result<&Account, Error> {
        if count > MOST {
            return Err(Error::QuotaExceeded);
        }
        let mut payer = self;
        loop {
            let charged = payer.words[resource as usize].fetch_update(Relaxed, Relaxed, |before| {
                let sum = used_of(before) + count;
                (before & FORWARD == 0 && sum <= limit_of(before)).then_some(before + count)
            });
            match (charged, payer.lender.get()) {
                (Ok(_), _) => return Ok(payer),
                (Err(word), Some(lender)) if word & FORWARD != 0 => payer = lender,
                _ => return Err(Error::QuotaExceeded),
            }
        }
    }

    /// Takes back what [`pay`](Self::pay) has charged: from whoever pays by now. One that is closed has kept it back for its lender, and is so for ever.
    fn repay(&self, resource: Resource, count: u64) {
        let mut payer = self;
        loop {
            let uncharged =
                payer.words[resource as usize].fetch_update(Relaxed, Relaxed, |before| {
                    (before & FORWARD == 0).then(|| before.wrapping_sub(count))
                });
            match (uncharged, payer.lender.get()) {
                (Ok(before), _) => {
                    debug_assert!(
                        used_of(before) >= count,
                        "more is given back than was charged"
                    );
                    return;
                }
                (Err(_), Some(lender)) => payer = lender,
                (Err(_), None) => return,
            }
        }
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
        let before = self.words[resource as usize].fetch_sub(count, Relaxed);
        debug_assert!(
            used_of(before) >= count,
            "more is given back than was charged"
        );
        if before & FORWARD != 0
            && let Some(lender) = self.lender.get()
        {
            lender.repay(resource, count);
        }
    }

    /// Takes `count` more from the lender: from who pays for it, as one that is closed counts only what is charged to it by its own process.
    fn raise(&self, resource: Resource, count: u64) -> Result<(), Error> {
        let lender = self.lender.get().ok_or(Error::WrongState)?;
        lender.pay(resource, count)?;
        let raised = self.words[resource as usize].fetch_update(Relaxed, Relaxed, |before| {
            (before & FORWARD == 0 && limit_of(before) + count <= MOST)
                .then_some(before + (count << LIMIT_SHIFT))
        });
        raised.map(|_| ()).map_err(|_| {
            lender.repay(resource, count);
            Error::WrongState
        })
    }

    /// Gives `count` of the limit back to the lender.
    fn lower(&self, resource: Resource, count: u64) -> Result<(), Error> {
        let lender = self.lender.get().ok_or(Error::WrongState)?;
        let lowered = self.words[resource as usize].fetch_update(Relaxed, Relaxed, |before| {
            let left = limit_of(before).checked_sub(count)?;
            (before & FORWARD == 0 && used_of(before) <= left)
                .then_some(before - (count << LIMIT_SHIFT))
        });
        match lowered {
            Ok(_) => {
                lender.repay(resource, count);
                Ok(())
            }
            Err(before) if before & FORWARD != 0 => Err(Error::WrongState),
            Err(_) => Err(Error::QuotaExceeded),
        }
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
        let mut before = [0; 3];
        for (index, resource) in Resource::ALL.into_iter().enumerate() {
            before[index] = limit_of(self.words[resource as usize].load(Relaxed));
            if let Err(error) = self.change(resource, before[index], resource.of(part)) {
                for (former, resource) in before[..index].iter().zip(Resource::ALL) {
                    // Back: what was raised may be in use by now, and stays then; what was lowered may be somebody else's.
                    let _ = self.change(resource, resource.of(part), *former);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn change(&self, resource: Resource, from: u64, to: u64) -> Result<(), Error> {
        if to > MOST {
            Err(Error::QuotaExceeded)
        } else if to >= from {
            self.raise(resource, to - from)
        } else {
            self.lower(resource, from - to)
        }
    }

    /// Its process has ended: what of its part is not in use goes back to the lender, who pays for the rest from now on.
    pub fn close(&self) {
        if self.lender.get().is_none() {
            return;
        }
        for resource in Resource::ALL {
            let before = self.words[resource as usize].fetch_or(FORWARD, Relaxed);
            // Looked up only now: whoever has raised the limit before has taken that from this one, or from one below it that is left out by now.
            if before & FORWARD == 0
                && let Some(lender) = self.lender.get()
            {
                lender.repay(resource, limit_of(before) - used_of(before));
            }
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
