//! Models of a wait for a reply, run by loom: all who may end it do so at once.

use core::num::NonZeroUsize;
use core::ptr;

use abi::{Error, Handle};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};

use super::{Awaiting, Holder};
use crate::atomics::models::{
    LoadsAcquireNothing, Mistake, Modelled, NoFences, Owned, Race, Sound, StoresReleaseNothing,
    TornChanges, check,
};
use crate::atomics::{Atomic, Atomics};
use crate::ipc::{OnWord, WaitOn};
use crate::thread::{Held, Marks, ThreadPtr};

/// The slot that is lent to the server, and the handles under which the next two calls come.
const LENT: Handle = Handle::new(1, 1);
const HANDLE: Handle = Handle::new(1, 2);
const NEXT_HANDLE: Handle = Handle::new(1, 3);

/// What becomes of a call.
const ANSWERED: u64 = 1;
const ANSWERED_BY_ANOTHER: u64 = 2;
const CANCELLED: u64 = 3;

// Threads that nobody looks at.

fn server() -> Holder {
    ptr::without_provenance(0x1000)
}

fn other_server() -> Holder {
    ptr::without_provenance(0x2000)
}

fn caller() -> ThreadPtr {
    sched::Node::from_word(NonZeroUsize::MIN.saturating_add(0x3000 - 1))
}

fn other_caller() -> ThreadPtr {
    sched::Node::from_word(NonZeroUsize::MIN.saturating_add(0x4000 - 1))
}

/// A caller, and the server that its call is delivered to.
struct Scene<A: Atomics> {
    stamp: A::U64,
    on: OnWord<A>,
    marks: A::U32,
    /// Of whoever has taken the caller out of its wait, and of the caller itself.
    registers: Owned<u64>,
    /// One word of them, which is read before.
    rip: AtomicU64,
    /// How often somebody has looked at its state, and it was made ready.
    looks: AtomicU64,
    woken: AtomicU64,
    held: Held<A>,
    /// The lock of the queue in which it waits to be received.
    queue: Mutex<()>,
}

impl<M: Mistake> Scene<Modelled<M>> {
    fn new() -> Arc<Self> {
        Arc::new(Scene {
            stamp: Atomic::new(2),
            on: OnWord::of(),
            marks: Atomic::new(0),
            registers: Owned::new(0),
            rip: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            woken: AtomicU64::new(0),
            held: Held::of(LENT),
            queue: Mutex::new(()),
        })
    }

    fn awaiting(&self) -> Awaiting<'_, Modelled<M>> {
        Awaiting::of(&self.stamp, &self.on)
    }

    /// The caller calls the server. Gives the stamp.
    fn call(&self) -> u64 {
        let stamp = self.awaiting().begin_here(server());
        assert_eq!(self.held.deliver(caller(), stamp), HANDLE);
        stamp
    }

    /// Whoever has taken it out of its wait gives it the outcome, and makes it ready.
    fn end(&self, outcome: u64) {
        self.registers.set(outcome);
        self.woken.fetch_add(1, Ordering::AcqRel);
    }

    /// What the caller finds, if it runs again.
    fn outcome(&self) -> Option<u64> {
        (self.woken.load(Ordering::Acquire) != 0).then(|| self.registers.get())
    }

    /// Its home ends its wait, as a deadline or a kill does.
    fn cancel(&self) -> bool {
        let take_out = |on| match on {
            WaitOn::Reply(_) => self.awaiting().take(None).is_some(),
            WaitOn::Sending(_) => {
                let _queue = self.queue.lock().unwrap();
                let is_there = self.on.read() == on;
                if is_there {
                    self.on.set(WaitOn::Nothing);
                }
                is_there
            }
            _ => false,
        };
        let marks = Marks::of(&self.marks);
        let taken = self.on.cancel(marks, Error::TimedOut, take_out);
        if taken {
            self.end(CANCELLED);
        }
        taken
    }

    /// Another thread of the server's process answers, by a handle that it may have guessed.
    fn answer_by_handle(&self) {
        let Some(target) = self.held.target(HANDLE) else {
            return;
        };
        let (_, stamp) = target.parts();
        if self.awaiting().take(Some(stamp)).is_some() {
            self.held.was_taken(HANDLE);
            self.end(ANSWERED_BY_ANOTHER);
        }
    }
}

/// What a party of the model does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slip {
    None,
    /// The server ends whatever wait there is, and not that for its call.
    AnyCall,
    /// It looks at the stamp, and sets it in a second step.
    LookThenSet,
    /// Who has looked at the state leaves the word as it was before.
    LookLeavesNoTrace,
}

/// The server answers, another thread of its process answers by the handle, and the deadline passes. The caller, which one of them has woken, calls
/// another server; who comes late ends nothing of that.
fn answers_and_a_deadline<M: Mistake>(slip: Slip) {
    check(2, move || {
        let scene = Scene::<Modelled<M>>::new();
        scene.call();
        let (_, stamp) = scene.held.own(HANDLE).expect("it was delivered");
        let [home, holder, other, all] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || {
                    home.cancel();
                    if let Some(outcome) = home.outcome() {
                        assert!((ANSWERED..=CANCELLED).contains(&outcome));
                        home.awaiting().begin(other_server());
                    }
                }),
                Box::new(move || {
                    let awaiting = holder.awaiting();
                    let taken = match slip {
                        Slip::AnyCall => awaiting.take(None).is_some(),
                        Slip::LookThenSet => {
                            let awaits = awaiting.is_for(stamp);
                            if awaits {
                                holder.stamp.store(stamp + 1, Ordering::SeqCst);
                                holder.on.set(WaitOn::Nothing);
                            }
                            awaits
                        }
                        _ => awaiting.take(Some(stamp)).is_some(),
                    };
                    holder.held.use_up();
                    if taken {
                        holder.end(ANSWERED);
                    }
                }),
                Box::new(move || other.answer_by_handle()),
            ],
            end: Box::new(move || {
                let calls_again = all.stamp.load(Ordering::Relaxed) > 4;
                if calls_again {
                    let call = all.awaiting().call();
                    assert_eq!(call, Some(5), "who came late has ended the next wait");
                }
                let woken = all.woken.load(Ordering::Acquire);
                assert_eq!(woken, 1, "one ends the wait");
                if calls_again {
                    assert_eq!(all.on.read(), WaitOn::Reply(other_server()));
                }
            }),
        }
    });
}

/// Calls are delivered to a server, one when the one before is answered, while another thread of its process tries their handles: what it finds under one is
/// that call, and all of it.
fn a_handle_and_a_delivery<M: Mistake>() {
    check(3, || {
        let scene = Scene::<Modelled<M>>::new();
        let [home, other] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || {
                    home.registers.set(0);
                    let stamp = home.call();
                    if home.awaiting().take(Some(stamp)).is_some() {
                        home.end(ANSWERED);
                    }
                    home.held.use_up();
                    home.held.deliver(other_caller(), 77);
                }),
                Box::new(move || {
                    if let Some(target) = other.held.target(NEXT_HANDLE) {
                        let expected = (other_caller().as_ptr(), 77);
                        assert_eq!(target.parts(), expected, "a right that nobody gave");
                    } else if let Some(target) = other.held.target(HANDLE) {
                        let expected = (caller().as_ptr(), 3);
                        assert_eq!(target.parts(), expected, "a right that nobody gave");
                        other.answer_by_handle();
                    }
                }),
            ],
            end: Box::new(move || {
                let woken = scene.woken.load(Ordering::Acquire);
                assert_eq!(woken, 1, "one ends the wait");
            }),
        }
    });
}

/// The server answers on the caller's home, by what it has read of the caller's state before it takes it; somebody else changes that state
/// while the caller waits.
fn a_direct_answer_and_a_look<M: Mistake>(slip: Slip) {
    check(2, move || {
        let scene = Scene::<Modelled<M>>::new();
        let stamp = scene.call();
        let [home, looker] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || {
                    if home.stamp.load(Ordering::Acquire) == stamp {
                        let rip = home.rip.load(Ordering::Relaxed);
                        if home.awaiting().take_here(stamp) {
                            home.rip.store(rip + 1, Ordering::Relaxed);
                            return home.end(ANSWERED);
                        }
                    }
                    if home.awaiting().take(Some(stamp)).is_some() {
                        let rip = home.rip.load(Ordering::Relaxed);
                        home.rip.store(rip + 1, Ordering::Relaxed);
                        home.end(ANSWERED);
                    }
                }),
                Box::new(move || {
                    if looker.awaiting().begin_look(stamp, || false).is_err() {
                        return;
                    }
                    looker.registers.set(100);
                    looker.rip.store(100, Ordering::Relaxed);
                    looker.looks.store(1, Ordering::Relaxed);
                    if slip == Slip::LookLeavesNoTrace {
                        looker.stamp.store(stamp, Ordering::Release);
                    } else {
                        looker.awaiting().end_look(stamp);
                    }
                }),
            ],
            end: Box::new(move || {
                let woken = scene.woken.load(Ordering::Acquire);
                assert_eq!(woken, 1, "one ends the wait");
                let stepped = u64::from(scene.registers.get() == ANSWERED);
                let looked = 100 * scene.looks.load(Ordering::Relaxed);
                let rip = scene.rip.load(Ordering::Relaxed);
                assert_eq!(rip, looked + stepped, "what was set is lost");
            }),
        }
    });
}

/// A receiver takes the caller out of an endpoint's queue, and makes it wait for the answer, while its home cancels its wait. Nothing else would
/// ever end it.
fn a_cancellation_and_a_receiver<M: Mistake>() {
    check(4, || {
        let scene = Scene::<Modelled<M>>::new();
        let endpoint = WaitOn::Sending(ptr::without_provenance(0x5000));
        scene.on.set(endpoint);
        let [home, receiver] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || {
                    home.cancel();
                }),
                Box::new(move || {
                    {
                        let _queue = receiver.queue.lock().unwrap();
                        if receiver.on.read() != endpoint {
                            return;
                        }
                        receiver.on.set(WaitOn::Nothing);
                    }
                    // Its message is read.
                    receiver.registers.get();
                    let stamp = receiver.awaiting().begin(server());
                    let marks = Marks::of(&receiver.marks);
                    let taken = receiver.awaiting().take_if_cancelled(stamp, marks);
                    if taken.is_some() {
                        receiver.end(CANCELLED);
                    }
                }),
            ],
            end: Box::new(move || {
                let woken = scene.woken.load(Ordering::Acquire);
                assert_eq!(woken, 1, "the cancellation is told once");
                assert_eq!(scene.outcome(), Some(CANCELLED));
                assert_eq!(scene.on.read(), WaitOn::Nothing);
            }),
        }
    });
}

#[test]
fn of_two_answers_and_a_deadline_one_ends_the_wait_and_none_the_next() {
    answers_and_a_deadline::<Sound>(Slip::None);
}

#[test]
fn a_handle_names_one_call_and_all_of_it() {
    a_handle_and_a_delivery::<Sound>();
}

#[test]
fn a_direct_answer_never_sets_what_it_read_before_a_look() {
    a_direct_answer_and_a_look::<Sound>(Slip::None);
}

#[test]
fn a_caller_that_is_received_while_it_is_cancelled_is_told_once() {
    a_cancellation_and_a_receiver::<Sound>();
}

#[test]
#[should_panic(expected = "who came late has ended the next wait")]
fn the_model_notices_an_answer_to_whatever_call_there_is() {
    answers_and_a_deadline::<Sound>(Slip::AnyCall);
}

#[test]
#[should_panic(expected = "one ends the wait")]
fn the_model_notices_a_wait_that_is_ended_in_two_steps() {
    answers_and_a_deadline::<Sound>(Slip::LookThenSet);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_notices_exchanges_that_are_torn() {
    answers_and_a_deadline::<TornChanges>(Slip::None);
}

#[test]
#[should_panic(expected = "a right that nobody gave")]
fn the_model_notices_a_delivery_that_releases_nothing() {
    a_handle_and_a_delivery::<StoresReleaseNothing>();
}

#[test]
#[should_panic(expected = "a right that nobody gave")]
fn the_model_notices_a_right_that_is_read_without_acquiring() {
    a_handle_and_a_delivery::<LoadsAcquireNothing>();
}

#[test]
#[should_panic(expected = "a right that nobody gave")]
fn the_model_notices_a_right_whose_name_is_not_read_again_behind_a_fence() {
    a_handle_and_a_delivery::<NoFences>();
}

#[test]
#[should_panic(expected = "what was set is lost")]
fn the_model_notices_a_look_that_leaves_no_trace() {
    a_direct_answer_and_a_look::<Sound>(Slip::LookLeavesNoTrace);
}

#[test]
#[should_panic(expected = "the cancellation is told once")]
fn the_model_notices_a_cancellation_without_a_fence() {
    a_cancellation_and_a_receiver::<NoFences>();
}
