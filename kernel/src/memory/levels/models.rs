//! Models of charges, run by loom: accounts that share and lend are charged, closed, divided and left out at once.

use core::ptr;
use core::sync::atomic::AtomicU64;

use abi::Error;
use abi::info::Quota;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicPtr, Ordering};

use super::{Level, SHARED, forwards, limit_of, used_of, word};
use crate::atomics::models::{Mistake, Modelled, Race, Sound, TornChanges, check};
use crate::atomics::{Atomic, Atomics};
use crate::memory::account::{MOST, Resource};

const FRAMES: Resource = Resource::Frames;

/// An account of a model.
struct Account<A: Atomics> {
    words: [A::U64; 3],
    lender: AtomicPtr<Account<A>>,
}

impl<A: Atomics> Level for Account<A> {
    type Atomics = A;

    fn word(&self, resource: Resource) -> &A::U64 {
        &self.words[resource as usize]
    }

    fn lender(&self) -> Option<&Self> {
        // SAFETY: accounts of a model lie in one row, which lives as long as each of them.
        unsafe { self.lender.load(Ordering::Acquire).as_ref() }
    }

    fn set_lender(&self, lender: &Self) {
        let lender = ptr::from_ref(lender).cast_mut();
        self.lender.swap(lender, Ordering::AcqRel);
    }
}

/// Accounts, of which the first pays for the others and has no lender, and what each may have when the model begins.
struct Row<A: Atomics, const COUNT: usize> {
    accounts: [Account<A>; COUNT],
    /// What was charged and not given back. No part of the model, so loom need not know of it.
    taken: AtomicU64,
}

/// How an account begins: the index of its lender, and its word.
type Begin = (Option<usize>, u64);

impl<M: Mistake, const COUNT: usize> Row<Modelled<M>, COUNT> {
    fn new(begins: [Begin; COUNT]) -> Arc<Self> {
        let row = Arc::new(Row {
            accounts: begins.map(|(_, frames)| {
                let other = if frames == SHARED { SHARED } else { word(2, 2) };
                Account {
                    words: [frames, other, other].map(Atomic::new),
                    lender: AtomicPtr::new(ptr::null_mut()),
                }
            }),
            taken: AtomicU64::new(0),
        });
        for (account, (lender, _)) in row.accounts.iter().zip(begins) {
            if let Some(lender) = lender {
                account.set_lender(&row.accounts[lender]);
            }
        }
        row
    }

    fn frames(&self, account: usize) -> u64 {
        self.accounts[account].word(FRAMES).load(Ordering::Relaxed)
    }

    /// Charges an account if that may be; whoever pays never has more in use than it may.
    fn take(&self, account: usize, count: u64) -> bool {
        let taken = self.accounts[account].take(FRAMES, count).is_ok();
        let first = self.frames(0);
        assert!(
            used_of(first) <= limit_of(first),
            "more is in use than may be"
        );
        if taken {
            self.taken.fetch_add(count, Ordering::Relaxed);
        }
        taken
    }

    fn give_back(&self, account: usize, count: u64) {
        self.accounts[account].give_back(FRAMES, count);
        self.taken.fetch_sub(count, Ordering::Relaxed);
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// That the first account is charged what was taken, and what `part` still has for itself, if it is not closed.
    fn assert_nothing_is_lost(&self, part: usize, taken_of_part: u64) {
        let of_part = self.frames(part);
        let kept = if forwards(of_part) {
            0
        } else {
            limit_of(of_part) - taken_of_part
        };
        let used = used_of(self.frames(0));
        assert_eq!(
            used,
            self.taken() + kept,
            "a charge is lost, or counted twice"
        );
    }
}

/// Two processes, which have no quota of their own, charge their creator's account at its limit, and one of them gives back.
fn two_at_a_limit<M: Mistake>() {
    check(3, || {
        let own = word(0, 3);
        let row = Row::<Modelled<M>, 3>::new([(None, own), (Some(0), SHARED), (Some(0), SHARED)]);
        let [one, other] = core::array::from_fn(|_| row.clone());
        Race {
            parties: [
                Box::new(move || {
                    if one.take(1, 2) {
                        one.give_back(1, 1);
                    }
                }),
                Box::new(move || {
                    other.take(2, 2);
                }),
            ],
            end: Box::new(move || {
                assert!((1..=3).contains(&row.taken()), "one of them is charged");
                let used = [0, 1, 2].map(|account| used_of(row.frames(account)));
                assert_eq!(used[0], row.taken(), "a charge is lost, or counted twice");
                assert_eq!(
                    used[1] + used[2],
                    used[0],
                    "a charge is lost, or counted twice"
                );
            }),
        }
    });
}

/// A part is charged, or gives back, while its process ends; somebody else charges the lender with all that the part may give back.
fn a_charge_and_a_close<M: Mistake>() {
    check(2, || {
        // Of five the part has four, of which one is in use.
        let (lender, part) = (word(4, 5), word(1, 4));
        let row = Row::<Modelled<M>, 2>::new([(None, lender), (Some(0), part)]);
        row.taken.store(1, Ordering::Relaxed);
        let [charger, closer, other] = core::array::from_fn(|_| row.clone());
        Race {
            parties: [
                Box::new(move || {
                    if !charger.take(1, 2) {
                        charger.give_back(1, 1);
                    }
                }),
                Box::new(move || closer.accounts[1].close_all()),
                Box::new(move || {
                    other.take(0, 3);
                }),
            ],
            end: Box::new(move || row.assert_nothing_is_lost(1, 0)),
        }
    });
}

/// A part is made smaller while it is charged, and somebody else charges the lender.
fn a_charge_and_another_part<M: Mistake>() {
    check(2, || {
        let (lender, part) = (word(4, 6), word(1, 4));
        let row = Row::<Modelled<M>, 2>::new([(None, lender), (Some(0), part)]);
        row.taken.store(1, Ordering::Relaxed);
        let [charger, setter, other] = core::array::from_fn(|_| row.clone());
        Race {
            parties: [
                Box::new(move || {
                    charger.take(1, 2);
                }),
                Box::new(move || {
                    let _ = setter.accounts[1].change(FRAMES, 4, 2);
                }),
                Box::new(move || {
                    other.take(0, 2);
                }),
            ],
            end: Box::new(move || {
                let of_part = row.frames(1);
                assert!(
                    used_of(of_part) <= limit_of(of_part),
                    "more is in use than may be"
                );
                row.assert_nothing_is_lost(1, used_of(of_part));
            }),
        }
    });
}

/// A part is given more of one resource, and of another more than there is, so that the first is undone; its process ends meanwhile.
fn a_close_and_parts_that_are_too_large<M: Mistake>() {
    check(3, || {
        let (lender, part) = (word(2, 6), word(0, 2));
        let row = Row::<Modelled<M>, 2>::new([(None, lender), (Some(0), part)]);
        let [setter, closer] = core::array::from_fn(|_| row.clone());
        Race {
            parties: [
                Box::new(move || {
                    let part = Quota {
                        pages: 4,
                        handles: MOST,
                        threads: 2,
                    };
                    let set = setter.accounts[1].set_parts(&part);
                    assert!(matches!(set, Err(Error::QuotaExceeded | Error::WrongState)));
                }),
                Box::new(move || closer.accounts[1].close_all()),
            ],
            end: Box::new(move || {
                assert!(row.accounts[1].is_closed());
                row.assert_nothing_is_lost(1, 0);
            }),
        }
    });
}

/// An account is charged by way of one that ends and is then left out of the way.
fn a_charge_and_a_shorter_way<M: Mistake>() {
    check(3, || {
        let (lender, part) = (word(3, 5), word(0, 3));
        let row = Row::<Modelled<M>, 3>::new([(None, lender), (Some(0), part), (Some(1), SHARED)]);
        let [charger, closer] = core::array::from_fn(|_| row.clone());
        Race {
            parties: [
                Box::new(move || {
                    if charger.take(2, 2) {
                        charger.give_back(2, 1);
                    }
                }),
                Box::new(move || {
                    closer.accounts[1].close_all();
                    assert!(closer.accounts[2].shorten_way() == 1, "it is left out");
                }),
            ],
            end: Box::new(move || {
                row.assert_nothing_is_lost(1, 0);
                assert_eq!(used_of(row.frames(2)), row.taken());
                if row.taken() == 1 {
                    row.give_back(2, 1);
                }
                assert_eq!(used_of(row.frames(0)), 0, "all was given back");
            }),
        }
    });
}

#[test]
fn two_chargers_never_pass_a_limit_that_they_share() {
    two_at_a_limit::<Sound>();
}

#[test]
fn nothing_is_lost_when_a_part_is_closed_under_a_charge() {
    a_charge_and_a_close::<Sound>();
}

#[test]
fn nothing_is_lost_when_a_part_changes_under_a_charge() {
    a_charge_and_another_part::<Sound>();
}

#[test]
fn parts_that_are_half_changed_when_their_account_is_closed_are_undone() {
    a_close_and_parts_that_are_too_large::<Sound>();
}

#[test]
fn nothing_is_lost_when_an_account_is_left_out_under_a_charge() {
    a_charge_and_a_shorter_way::<Sound>();
}

#[test]
#[should_panic(expected = "counted twice")]
fn the_model_notices_charges_in_two_steps() {
    two_at_a_limit::<TornChanges>();
}

#[test]
#[should_panic(expected = "counted twice")]
fn the_model_notices_a_close_in_two_steps() {
    a_charge_and_a_close::<TornChanges>();
}

#[test]
#[should_panic(expected = "counted twice")]
fn the_model_notices_a_change_of_parts_in_two_steps() {
    a_charge_and_another_part::<TornChanges>();
}

#[test]
#[should_panic(expected = "is_closed()")]
fn the_model_notices_an_undoing_in_two_steps() {
    a_close_and_parts_that_are_too_large::<TornChanges>();
}
