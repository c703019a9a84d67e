//! How charges go through accounts that share and lend: one word of each, changed by one atomic operation at a time.
//!
//! A word says what is used, the limit, and whether the lender is charged as well. No lock is taken. What may go wrong is a charge while
//! the account is closed: either it is in what is used, and so it is kept back, or it finds the mark and goes to the lender.
//!
//! The models (`levels/models.rs`) have accounts charged, closed, divided and left out at once, in every interleaving.

use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

use abi::Error;
use abi::info::Quota;

use super::account::{MOST, Resource};
use crate::atomics::{Atomic, Atomics, Number};

#[cfg(test)]
mod models;

/// In a word: what is used.
const USED: u64 = MOST;
/// In a word: the lender is charged as well, and the limit is the lender's.
const FORWARD: u64 = 1 << 31;
/// In a word: where the limit begins.
const LIMIT_SHIFT: u32 = 32;

/// The word of an account of its own with this limit.
pub(super) const fn word(used: u64, limit: u64) -> u64 {
    let limit = if limit < MOST { limit } else { MOST };
    used | limit << LIMIT_SHIFT
}

/// The word of an account for whose charges the lender pays.
pub(super) const SHARED: u64 = FORWARD | MOST << LIMIT_SHIFT;

/// What is used by a word.
pub(super) const fn used_of(word: u64) -> u64 {
    word & USED
}

/// The limit in a word.
pub(super) const fn limit_of(word: u64) -> u64 {
    word >> LIMIT_SHIFT
}

/// Whether the lender is charged as well.
pub(super) const fn forwards(word: u64) -> bool {
    word & FORWARD != 0
}

/// One account among those that share and lend.
pub(super) trait Level: Sized {
    /// The atomics that it is made of.
    type Atomics: Atomics;

    /// Its word for a resource.
    fn word(&self, resource: Resource) -> &<Self::Atomics as Atomics>::U64;
    /// Whose quota it is a part of, or who pays.
    fn lender(&self) -> Option<&Self>;
    /// Another is that from now on, further up, unless that is about to go.
    fn set_lender(&self, lender: &Self);

    /// It itself, or the next on the way to lenders that pays.
    fn payer(&self) -> &Self {
        let mut account = self;
        while forwards(account.word(Resource::Frames).load(Relaxed))
            && let Some(lender) = account.lender()
        {
            account = lender;
        }
        account
    }

    /// Whether all that is charged to it is charged to its lender as well.
    fn is_closed(&self) -> bool {
        let is = |resource| forwards(self.word(resource).load(Relaxed));
        Resource::ALL.into_iter().all(is)
    }

    /// Leaves closed accounts out of the way from here up. Returns how many are left.
    fn shorten_way(&self) -> usize {
        let mut account = self;
        let mut levels = 0;
        while let Some(lender) = account.lender() {
            let mut next = lender;
            while next.is_closed()
                && let Some(further) = next.lender()
            {
                next = further;
            }
            if !ptr::eq(next, lender) {
                account.set_lender(next);
            }
            account = next;
            levels += 1;
        }
        levels
    }

    /// Charges `count` of a resource.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], and nothing is charged.
    #[inline(always)]
    fn take(&self, resource: Resource, count: u64) -> Result<(), Error> {
        // First who pays, as he may refuse.
        let payer = self.pay(resource, count)?;
        if !ptr::eq(self, payer) {
            self.word(resource).fetch_add(count, Relaxed);
        }
        Ok(())
    }

    /// Takes a charge back.
    #[inline(always)]
    fn give_back(&self, resource: Resource, count: u64) {
        let before = self.word(resource).fetch_sub(count, Relaxed);
        debug_assert!(
            used_of(before) >= count,
            "more is given back than was charged"
        );
        if forwards(before)
            && let Some(lender) = self.lender()
        {
            lender.repay(resource, count);
        }
    }

    /// Charges it, or the next on the way to lenders that pays, and that one alone.
    #[inline]
    fn pay(&self, resource: Resource, count: u64) -> Result<&Self, Error> {
        if count > MOST {
            return Err(Error::QuotaExceeded);
        }
        let mut payer = self;
        loop {
            let charged = payer
                .word(resource)
                .fetch_update(Relaxed, Relaxed, |before| {
                    let sum = used_of(before) + count;
                    (!forwards(before) && sum <= limit_of(before)).then_some(before + count)
                });
            match (charged, payer.lender()) {
                (Ok(_), _) => return Ok(payer),
                (Err(word), Some(lender)) if forwards(word) => payer = lender,
                _ => return Err(Error::QuotaExceeded),
            }
        }
    }

    /// Takes back what [`pay`](Self::pay) has charged: from whoever pays by now. One that is closed has kept it back for its lender, and is so for ever.
    fn repay(&self, resource: Resource, count: u64) {
        let mut payer = self;
        loop {
            let uncharged = payer
                .word(resource)
                .fetch_update(Relaxed, Relaxed, |before| {
                    (!forwards(before)).then(|| before.wrapping_sub(count))
                });
            match (uncharged, payer.lender()) {
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

    /// Takes `count` more from the lender: from who pays for it, as one that is closed counts only what is charged to it by its own process.
    fn raise(&self, resource: Resource, count: u64) -> Result<(), Error> {
        let lender = self.lender().ok_or(Error::WrongState)?;
        lender.pay(resource, count)?;
        let raised = self
            .word(resource)
            .fetch_update(Relaxed, Relaxed, |before| {
                (!forwards(before) && limit_of(before) + count <= MOST)
                    .then_some(before + (count << LIMIT_SHIFT))
            });
        raised.map(|_| ()).map_err(|_| {
            lender.repay(resource, count);
            Error::WrongState
        })
    }

    /// Gives `count` of the limit back to the lender.
    fn lower(&self, resource: Resource, count: u64) -> Result<(), Error> {
        let lender = self.lender().ok_or(Error::WrongState)?;
        let lowered = self
            .word(resource)
            .fetch_update(Relaxed, Relaxed, |before| {
                let left = limit_of(before).checked_sub(count)?;
                (!forwards(before) && used_of(before) <= left)
                    .then_some(before - (count << LIMIT_SHIFT))
            });
        match lowered {
            Ok(_) => {
                lender.repay(resource, count);
                Ok(())
            }
            Err(before) if forwards(before) => Err(Error::WrongState),
            Err(_) => Err(Error::QuotaExceeded),
        }
    }

    /// Gives it another part of its lender's quota. All or nothing; for one at a time.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it has no part, or is closed; [`Error::QuotaExceeded`] if the lender has not so much left, or more is in use than it
    /// shall have.
    fn set_parts(&self, part: &Quota) -> Result<(), Error> {
        let mut before = [0; 3];
        for (index, resource) in Resource::ALL.into_iter().enumerate() {
            before[index] = limit_of(self.word(resource).load(Relaxed));
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

    /// Changes its part from `from` to `to`.
    ///
    /// # Errors
    /// As [`set_parts`](Self::set_parts).
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
    fn close_all(&self) {
        if self.lender().is_none() {
            return;
        }
        for resource in Resource::ALL {
            let before = self.word(resource).fetch_or(FORWARD, Relaxed);
            // Looked up only now: whoever has raised the limit before has taken that from this one, or from one below it that is left out by now.
            if !forwards(before)
                && let Some(lender) = self.lender()
            {
                lender.repay(resource, limit_of(before) - used_of(before));
            }
        }
    }
}
