//! The family of atomics that models run on: loom's, sound or with a mistake planted.
//!
//! loom takes sequentially consistent accesses for weaker than they are, but not fences. So a store or a change that asks for that order is
//! one with a fence behind it, which is what a CPU makes of both (an `xchg`, or another locked instruction); a load is an acquiring one, as on the CPU.
//!
//! Each model is a function of the family. With a [`Sound`] one it must hold; with each mistake that it is given it must panic, so that a model that looks at
//! nothing can't pass.

use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use loom::sync::atomic::{self, AtomicPtr, AtomicU32, AtomicU64};

use super::{Atomic, Atomics, Number};

/// What is wrong with a family.
pub(crate) trait Mistake: 'static {
    /// The ordering that a load gets.
    fn load(order: Ordering) -> Ordering {
        order
    }
    /// The ordering that a store gets.
    fn store(order: Ordering) -> Ordering {
        order
    }
    /// The ordering that a change gets.
    fn change(order: Ordering) -> Ordering {
        order
    }
    /// Whether fences are there, and what is ordered as by one.
    const FENCES: bool = true;
    /// Whether reading and writing are one step in a change.
    const CHANGES_ARE_ATOMIC: bool = true;
}

/// Nothing is wrong.
pub(crate) struct Sound;

impl Mistake for Sound {}

/// Loads acquire nothing.
pub(crate) struct LoadsAcquireNothing;

impl Mistake for LoadsAcquireNothing {
    fn load(_: Ordering) -> Ordering {
        Ordering::Relaxed
    }
}

/// Stores release nothing.
pub(crate) struct StoresReleaseNothing;

impl Mistake for StoresReleaseNothing {
    fn store(_: Ordering) -> Ordering {
        Ordering::Relaxed
    }
}

/// Changes order nothing.
pub(crate) struct ChangesOrderNothing;

impl Mistake for ChangesOrderNothing {
    fn change(_: Ordering) -> Ordering {
        Ordering::Relaxed
    }
}

/// Sequential consistency is forgotten: acquiring and releasing is all there is.
pub(crate) struct NoFences;

impl Mistake for NoFences {
    const FENCES: bool = false;
}

/// A change is a load and a store.
pub(crate) struct TornChanges;

impl Mistake for TornChanges {
    const CHANGES_ARE_ATOMIC: bool = false;
}

/// loom's atomics, with a mistake.
pub(crate) struct Modelled<M = Sound>(PhantomData<M>);

impl<M: Mistake> Atomics for Modelled<M> {
    type U32 = Word<AtomicU32, M>;
    type U64 = Word<AtomicU64, M>;
    type Pointer<T> = Word<AtomicPtr<T>, M>;

    fn fence(order: Ordering) {
        if M::FENCES {
            atomic::fence(order);
        }
    }

    fn relax() {
        loom::thread::yield_now();
    }
}

/// One of loom's words.
pub(crate) struct Word<W, M> {
    word: W,
    _mistake: PhantomData<fn() -> M>,
}

/// What loom is asked for.
fn plain(order: Ordering, without: Ordering) -> Ordering {
    if order == Ordering::SeqCst {
        without
    } else {
        order
    }
}

fn fence_behind<M: Mistake>(order: Ordering) {
    if order == Ordering::SeqCst && M::FENCES {
        atomic::fence(Ordering::SeqCst);
    }
}

macro_rules! atomic {
    ($atomic:ty, $value:ty $(, for $parameter:ident)?) => {
        impl<M: Mistake, $($parameter)?> Word<$atomic, M> {
            fn change(
                &self,
                order: Ordering,
                whole: impl FnOnce(Ordering) -> $value,
                torn: impl FnOnce($value) -> $value,
            ) -> $value {
                let order = M::change(order);
                let before = if M::CHANGES_ARE_ATOMIC {
                    whole(plain(order, Ordering::AcqRel))
                } else {
                    let before = self.word.load(Ordering::Acquire);
                    self.word.store(torn(before), Ordering::Release);
                    before
                };
                fence_behind::<M>(order);
                before
            }
        }

        impl<M: Mistake, $($parameter)?> Atomic<$value> for Word<$atomic, M> {
            fn new(value: $value) -> Self {
                Word {
                    word: <$atomic>::new(value),
                    _mistake: PhantomData,
                }
            }
            fn load(&self, order: Ordering) -> $value {
                self.word.load(plain(M::load(order), Ordering::Acquire))
            }
            fn store(&self, value: $value, order: Ordering) {
                let order = M::store(order);
                self.word.store(value, plain(order, Ordering::Release));
                fence_behind::<M>(order);
            }
            fn swap(&self, value: $value, order: Ordering) -> $value {
                self.change(order, |order| self.word.swap(value, order), |_| value)
            }
            fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let (success, failure) = (M::change(success), M::load(failure));
                let done = if M::CHANGES_ARE_ATOMIC {
                    let (success, failure) = (
                        plain(success, Ordering::AcqRel),
                        plain(failure, Ordering::Acquire),
                    );
                    self.word.compare_exchange(current, new, success, failure)
                } else {
                    let found = self.word.load(Ordering::Acquire);
                    if found == current {
                        self.word.store(new, Ordering::Release);
                        Ok(found)
                    } else {
                        Err(found)
                    }
                };
                fence_behind::<M>(if done.is_ok() { success } else { failure });
                done
            }
        }
    };
}

macro_rules! number {
    ($atomic:ty, $value:ty) => {
        atomic!($atomic, $value);

        impl<M: Mistake> Number<$value> for Word<$atomic, M> {
            fn fetch_add(&self, more: $value, order: Ordering) -> $value {
                let whole = |order| self.word.fetch_add(more, order);
                self.change(order, whole, |before| before.wrapping_add(more))
            }
            fn fetch_sub(&self, less: $value, order: Ordering) -> $value {
                let whole = |order| self.word.fetch_sub(less, order);
                self.change(order, whole, |before| before.wrapping_sub(less))
            }
            fn fetch_or(&self, bits: $value, order: Ordering) -> $value {
                let whole = |order| self.word.fetch_or(bits, order);
                self.change(order, whole, |before| before | bits)
            }
            fn fetch_and(&self, bits: $value, order: Ordering) -> $value {
                let whole = |order| self.word.fetch_and(bits, order);
                self.change(order, whole, |before| before & bits)
            }
        }
    };
}

number!(AtomicU32, u32);
number!(AtomicU64, u64);
atomic!(AtomicPtr<T>, *mut T, for T);

/// What one CPU does in a model.
pub(crate) type Party = Box<dyn FnOnce()>;

/// A model: what CPUs do at once, and what must be so when all have done it.
pub(crate) struct Race<const PARTIES: usize> {
    pub(crate) parties: [Party; PARTIES],
    pub(crate) end: Box<dyn FnOnce()>,
}

/// Has loom run a model in every interleaving with at most `preemptions` changes from a thread that could go on: more of them find nothing new
/// in models of this size, and take minutes.
///
/// Interleavings are derived from the first one, and a thread's store that comes after its own load of the word is not tried before what others have loaded
/// earlier. So every order of the parties is a first one.
pub(crate) fn check<const PARTIES: usize>(
    preemptions: usize,
    model: impl Fn() -> Race<PARTIES> + Copy + Send + Sync + 'static,
) {
    let mut order = core::array::from_fn(|index| index);
    check_orders(&mut order, 0, &|order: [usize; PARTIES]| {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.max_branches = 10_000;
        builder.check(move || {
            let Race { parties, end } = model();
            let mut parties = parties.map(Some);
            let threads = order.map(|index| {
                let party = parties[index].take().expect("each is in the order once");
                loom::thread::spawn(party)
            });
            for thread in threads {
                thread.join().unwrap();
            }
            end();
        });
    });
}

/// Does something with all orders that differ from `first` on.
fn check_orders<const PARTIES: usize>(
    order: &mut [usize; PARTIES],
    first: usize,
    act: &dyn Fn([usize; PARTIES]),
) {
    if first == PARTIES {
        return act(*order);
    }
    for other in first..PARTIES {
        order.swap(first, other);
        check_orders(order, first + 1, act);
        order.swap(first, other);
    }
}

/// A cell that whoever has won the right to it reads and writes: loom finds out if two are at it at once.
pub(crate) struct Owned<V>(loom::cell::UnsafeCell<V>);

// SAFETY: loom sees to it that nobody reads while another writes, and panics before it happens.
unsafe impl<V: Send> Sync for Owned<V> {}

impl<V: Copy> Owned<V> {
    pub(crate) fn new(value: V) -> Owned<V> {
        Owned(loom::cell::UnsafeCell::new(value))
    }

    pub(crate) fn get(&self) -> V {
        // SAFETY: loom has seen that nobody writes.
        self.0.with(|value| unsafe { *value })
    }

    pub(crate) fn set(&self, value: V) {
        // SAFETY: loom has seen that nobody else is at it.
        self.0.with_mut(|place| unsafe { *place = value });
    }
}
