//! Models of a notification, run by loom: who waits is signalled, cancelled, taken by a message, and left by the last who could signal, all at once.

use core::num::NonZeroUsize;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU32};

use abi::Error;
use loom::sync::atomic::Ordering;
use loom::sync::{Arc, Mutex};
use sched::{EffectivePriority, Links, Node, WaitQueue};

use super::{Bits, Counts, Look, Signal, Waiter};
use crate::atomics::Atomic;
use crate::atomics::models::{Mistake, Modelled, Owned, Race, Sound, TornChanges, check};
use crate::ipc::{OnWord, WaitOn};
use crate::thread::Marks;

/// What a thread is told.
const BITS: u64 = 1;
const CLOSED: u64 = 2;
const CANCELLED: u64 = 3;
const MESSAGE: u64 = 4;

// Objects that nobody looks at.

fn notification() -> WaitOn {
    WaitOn::Notification(ptr::without_provenance(0x1000))
}

fn endpoint() -> WaitOn {
    WaitOn::Receiving(ptr::without_provenance(0x2000))
}

/// A thread that waits.
struct Thread<M: Mistake> {
    links: Links<Pointer<M>>,
    on: OnWord<Modelled<M>>,
    marks: <Modelled<M> as crate::atomics::Atomics>::U32,
    /// What it was told last: by whoever has taken it out of its wait, or itself.
    told: Owned<u64>,
    /// How often. No part of the model, so loom need not know of it.
    times: AtomicU32,
}

/// A pointer to one.
struct Pointer<M: Mistake>(NonNull<Thread<M>>);

impl<M: Mistake> Clone for Pointer<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Mistake> Copy for Pointer<M> {}

impl<M: Mistake> PartialEq for Pointer<M> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<M: Mistake> Eq for Pointer<M> {}

// SAFETY: a thread may be used from anywhere, and lives as long as the model runs.
unsafe impl<M: Mistake> Send for Pointer<M> {}

impl<M: Mistake> Pointer<M> {
    fn get(&self) -> &Thread<M> {
        // SAFETY: pointers are made of threads of a scene, and used as long as that is there.
        unsafe { self.0.as_ref() }
    }

    fn tell(self, what: u64) {
        self.get().told.set(what);
        self.get().times.fetch_add(1, Ordering::Relaxed);
    }
}

impl<M: Mistake> Node for Pointer<M> {
    fn links(&self) -> &Links<Self> {
        &self.get().links
    }
    fn into_word(self) -> NonZeroUsize {
        NonZeroUsize::from(self.0.expose_provenance())
    }
    fn from_word(word: NonZeroUsize) -> Self {
        Pointer(NonNull::with_exposed_provenance(word))
    }
}

impl<M: Mistake> Waiter for Pointer<M> {
    type Atomics = Modelled<M>;

    fn on(&self) -> &OnWord<Modelled<M>> {
        &self.get().on
    }
    fn priority(&self) -> EffectivePriority {
        EffectivePriority::LOWEST
    }
}

/// A notification, an endpoint's queue, and a thread.
struct Scene<M: Mistake> {
    bits: Mutex<Bits<Pointer<M>>>,
    counts: Counts<Modelled<M>>,
    receivers: Mutex<WaitQueue<Pointer<M>>>,
    /// Whether a signal is about to take the second lock. No part of the model.
    wants_endpoint: AtomicBool,
    thread: Thread<M>,
}

impl<M: Mistake> Scene<M> {
    /// A handle by which one can wait, and so many who can signal.
    fn new(signallers: u32) -> Arc<Self> {
        Arc::new(Scene {
            bits: Mutex::new(Bits::none()),
            counts: Counts::of(1 + signallers, signallers),
            receivers: Mutex::new(WaitQueue::new()),
            wants_endpoint: AtomicBool::new(false),
            thread: Thread {
                links: Links::new(),
                on: OnWord::of(),
                marks: Atomic::new(0),
                told: Owned::new(0),
                times: AtomicU32::new(0),
            },
        })
    }

    fn pointer(&self) -> Pointer<M> {
        Pointer(NonNull::from(&self.thread))
    }

    fn times(&self) -> u32 {
        self.thread.times.load(Ordering::Relaxed)
    }

    /// The thread waits for the notification, unless it need not.
    fn wait(&self, slip: Slip) {
        let mut bits = self.bits.lock().unwrap();
        match bits.look() {
            Look::Bits(_) => self.pointer().tell(BITS),
            Look::Closed => self.pointer().tell(CLOSED),
            Look::Nothing => {
                if slip == Slip::LooksBeforeItHasTheLock {
                    drop(bits);
                    bits = self.bits.lock().unwrap();
                }
                bits.enter(self.pointer(), notification());
            }
        }
    }

    /// The thread receives, or takes the bits of the notification that is bound to it.
    fn receive(&self, slip: Slip) {
        if slip == Slip::TakesTheEndpointFirst {
            self.take_the_wrong_way();
        }
        let mut bits = Some(self.bits.lock().unwrap());
        let taken = bits.as_mut().and_then(|bits| bits.take_bits());
        if taken.is_some() {
            return self.pointer().tell(BITS);
        }
        if slip == Slip::LooksBeforeItHasTheLock {
            bits = None;
        }
        let mut receivers = self.receivers.lock().unwrap();
        self.thread.on.set(endpoint());
        receivers.push_back(self.pointer(), EffectivePriority::LOWEST);
        drop(bits);
    }

    /// Takes both locks, the endpoint's first. loom can't end a run in which two wait for each other, so that is looked for here.
    fn take_the_wrong_way(&self) {
        loop {
            let receivers = self.receivers.lock().unwrap();
            if self.bits.try_lock().is_ok() {
                return;
            }
            let is_wanted = self.wants_endpoint.load(Ordering::Relaxed);
            drop(receivers);
            assert!(!is_wanted, "each waits for the other's lock");
            loom::thread::yield_now();
        }
    }

    /// Somebody signals.
    fn signal(&self) {
        let signal = self.bits.lock().unwrap().signal(1, |bound, on| {
            self.wants_endpoint.store(true, Ordering::Relaxed);
            let mut receivers = self.receivers.lock().unwrap();
            self.wants_endpoint.store(false, Ordering::Relaxed);
            if bound.on().read() != on {
                return false;
            }
            assert!(receivers.remove(bound), "it stands in the queue");
            bound.on().set(WaitOn::Nothing);
            true
        });
        match signal {
            Signal::Kept => {}
            Signal::Waiter(thread, bits) | Signal::Bound(thread, bits) => {
                assert_eq!(bits, 1, "it gets what was signalled");
                thread.tell(BITS);
            }
        }
    }

    /// A message comes to the endpoint. Who gets it receives again.
    fn send(&self, slip: Slip) {
        let mut receivers = self.receivers.lock().unwrap();
        if let Some(receiver) = receivers.pop_front() {
            receiver.on().set(WaitOn::Nothing);
            drop(receivers);
            receiver.tell(MESSAGE);
            self.receive(slip);
        }
    }

    /// One who could signal can do so no more.
    fn leave(&self, slip: Slip) {
        if !self.counts.handle_leaves(true) {
            return;
        }
        if slip != Slip::ClosesNothing {
            self.bits.lock().unwrap().closed = true;
        }
        loop {
            let mut bits = self.bits.lock().unwrap();
            let popped = if slip == Slip::ClosesNothing {
                bits.waiters
                    .pop_front()
                    .inspect(|thread| thread.on().set(WaitOn::Nothing))
            } else {
                bits.pop_closed()
            };
            drop(bits);
            let Some(thread) = popped else { return };
            thread.tell(CLOSED);
        }
    }

    /// The thread's home ends its wait.
    fn cancel(&self) {
        let take_out = |on| match on {
            WaitOn::Notification(_) => self.bits.lock().unwrap().take_out(self.pointer(), on),
            _ => false,
        };
        let marks = Marks::of(&self.thread.marks);
        if self.thread.on.cancel(marks, Error::TimedOut, take_out) {
            self.pointer().tell(CANCELLED);
        }
    }
}

/// What a party of the model does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slip {
    None,
    /// Who waits opens the lock between its look and its place in the queue.
    LooksBeforeItHasTheLock,
    /// The last who could signal tells those who wait, and leaves it open for others.
    ClosesNothing,
    /// Who receives takes the two locks in the wrong order.
    TakesTheEndpointFirst,
}

/// A thread begins to wait while the last two who can signal leave, one after a signal if it `signals`.
fn a_wait_and_the_last_signaller<M: Mistake>(signals: bool, slip: Slip) {
    check(2, move || {
        let scene = Scene::<M>::new(2);
        let [waiter, one, other] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || waiter.wait(slip)),
                Box::new(move || {
                    if signals {
                        one.signal();
                    }
                    one.leave(slip);
                }),
                Box::new(move || other.leave(slip)),
            ],
            end: Box::new(move || {
                assert_eq!(scene.times(), 1, "it is told once what became of its wait");
                assert_eq!(scene.thread.on.read(), WaitOn::Nothing);
            }),
        }
    });
}

/// A thread that waits is signalled, and its wait is cancelled, while the last who can signal leaves.
fn a_signal_and_a_cancellation<M: Mistake>() {
    check(3, || {
        let scene = Scene::<M>::new(1);
        scene.wait(Slip::None);
        let [home, signaller] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || home.cancel()),
                Box::new(move || {
                    signaller.signal();
                    signaller.leave(Slip::None);
                }),
            ],
            end: Box::new(move || {
                assert_eq!(scene.times(), 1, "it is told once what became of its wait");
                let told = scene.thread.told.get();
                let left = scene.bits.lock().unwrap().take_bits();
                assert_eq!(left.is_some(), told != BITS, "a bit is lost");
            }),
        }
    });
}

/// A thread receives with the notification bound to it, and again when it has got a message, while the notification is signalled.
fn a_bound_receiver<M: Mistake>(slip: Slip) {
    check(2, move || {
        let scene = Scene::<M>::new(1);
        scene.bits.lock().unwrap().bound = Some(scene.pointer());
        let [receiver, signaller, sender] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || receiver.receive(slip)),
                Box::new(move || signaller.signal()),
                Box::new(move || sender.send(slip)),
            ],
            end: Box::new(move || {
                let waits = scene.thread.on.read() == endpoint();
                let left = scene.bits.lock().unwrap().take_bits();
                assert!(!waits || left.is_none(), "it waits for bits that are there");
                let told = scene.thread.told.get();
                assert_eq!(left.is_some(), told != BITS, "a bit is lost");
            }),
        }
    });
}

#[test]
fn who_begins_to_wait_while_the_last_signaller_leaves_is_told() {
    a_wait_and_the_last_signaller::<Sound>(false, Slip::None);
    a_wait_and_the_last_signaller::<Sound>(true, Slip::None);
}

#[test]
fn a_signal_or_a_cancellation_ends_the_wait_and_no_bit_is_lost() {
    a_signal_and_a_cancellation::<Sound>();
}

#[test]
fn a_signal_or_a_message_wakes_a_bound_receiver_and_no_bit_is_lost() {
    a_bound_receiver::<Sound>(Slip::None);
}

#[test]
#[should_panic(expected = "it is told once")]
fn the_model_notices_a_wait_that_begins_behind_its_look() {
    a_wait_and_the_last_signaller::<Sound>(true, Slip::LooksBeforeItHasTheLock);
}

#[test]
#[should_panic(expected = "it is told once")]
fn the_model_notices_an_end_that_closes_nothing() {
    a_wait_and_the_last_signaller::<Sound>(false, Slip::ClosesNothing);
}

#[test]
#[should_panic(expected = "it is told once")]
fn the_model_notices_signallers_that_are_counted_in_two_steps() {
    a_wait_and_the_last_signaller::<TornChanges>(false, Slip::None);
}

#[test]
#[should_panic(expected = "it waits for bits that are there")]
fn the_model_notices_a_receiver_that_lets_go_of_the_notification_too_early() {
    a_bound_receiver::<Sound>(Slip::LooksBeforeItHasTheLock);
}

#[test]
#[should_panic(expected = "each waits for the other's lock")]
fn the_model_notices_two_locks_in_the_wrong_order() {
    a_bound_receiver::<Sound>(Slip::TakesTheEndpointFirst);
}
