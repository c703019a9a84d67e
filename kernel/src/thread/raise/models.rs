//! Models of inheritance, run by loom: a call ends, or its caller is raised, while the one who is to answer computes what it inherits.

use core::num::NonZeroUsize;
use core::sync::atomic::AtomicU8;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use sched::{BasePriority, EffectivePriority};

use super::{after_new_priority, settle};
use crate::atomics::models::{Mistake, Modelled, NoFences, Race, Sound, check};
use crate::atomics::{Atomic, Atomics};
use crate::ipc::{OnWord, ReplyTarget, WaitOn};
use crate::thread::stamp::{Awaiting, Holder};
use crate::thread::{Held, Marks, ThreadPtr};

const LOW: u8 = 10;
const HIGH: u8 = 20;

fn priority(level: u8) -> EffectivePriority {
    EffectivePriority::of(BasePriority::new(level).unwrap_or(BasePriority::LOWEST), [])
}

// Threads that nobody looks at.

fn caller() -> ThreadPtr {
    sched::Node::from_word(NonZeroUsize::MIN.saturating_add(0x1000 - 1))
}

fn holder() -> Holder {
    core::ptr::without_provenance(0x2000)
}

fn former_holder() -> Holder {
    core::ptr::without_provenance(0x3000)
}

/// A caller, and who holds the right to answer it, or is passed that.
struct Scene<A: Atomics> {
    stamp: A::U64,
    on: OnWord<A>,
    /// The caller's effective priority, which its home stores with no ordering.
    priority: AtomicU32,
    held: Held<A>,
    marks: A::U32,
    /// The holder's stored priority. Its home's alone.
    stored: AtomicU8,
    /// Whether the holder's home was asked to look.
    asked: AtomicBool,
}

/// The right to answer the caller.
fn reply() -> ReplyTarget {
    ReplyTarget::new(caller().as_ptr(), 3)
}

impl<M: Mistake> Scene<Modelled<M>> {
    /// The caller waits for `holder`.
    fn new(level: u8, holder: Holder) -> Arc<Self> {
        let scene = Arc::new(Scene {
            stamp: Atomic::new(2),
            on: OnWord::of(),
            priority: AtomicU32::new(u32::from(level)),
            held: Held::of(abi::Handle::new(1, 1)),
            marks: Atomic::new(0),
            stored: AtomicU8::new(LOW),
            asked: AtomicBool::new(false),
        });
        scene.awaiting().begin(holder);
        scene
    }

    fn awaiting(&self) -> Awaiting<'_, Modelled<M>> {
        Awaiting::of(&self.stamp, &self.on)
    }

    fn marks(&self) -> Marks<'_, Modelled<M>> {
        Marks::of(&self.marks)
    }

    fn ask(&self, whom: Holder) {
        if whom == holder() {
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    fn caller_priority(&self) -> EffectivePriority {
        priority(self.priority.load(Ordering::Relaxed) as u8)
    }

    /// What the holder inherits by what it keeps.
    fn inherited(&self) -> EffectivePriority {
        match self.held.kept() {
            Some(reply) if self.awaiting().is_for(reply.parts().1) => self.caller_priority(),
            _ => EffectivePriority::LOWEST,
        }
    }

    /// The holder's home brings its priority up to date.
    fn settle(&self) {
        let store = |inherited: EffectivePriority| {
            let level = inherited.max(priority(LOW)).level();
            self.stored.swap(level, Ordering::Relaxed) != level
        };
        settle(self.marks(), priority(LOW), || self.inherited(), store);
    }

    /// The holder is passed the reply.
    fn adopt(&self) -> bool {
        let waits = || self.awaiting().is_for(3);
        let reply = reply();
        self.held.take_over(holder(), &reply, &self.on, waits)
    }

    /// The call ends, by whomever.
    fn end_call(&self) {
        let held_by = self.awaiting().take(Some(3)).expect("nobody else ends it");
        if held_by == holder() && self.marks().is_raised() {
            self.ask(held_by);
        }
    }

    /// The holder's home looks if it was asked to; then what it has stored is what it inherits.
    fn assert_is_settled(&self) {
        if self.asked.load(Ordering::Relaxed) {
            self.settle();
        }
        let level = self.stored.load(Ordering::Relaxed);
        let inherited = self.inherited().max(priority(LOW)).level();
        assert_eq!(level, inherited, "the stored priority is another");
        assert_eq!(self.marks().is_raised(), inherited > LOW);
    }
}

/// What a party of the model does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slip {
    None,
    /// The priority is read before the holder's name is in the caller's word.
    ReadsTooEarly,
    /// The mark comes after what was computed, which is not looked at again.
    MarksTooLate,
}

/// A call ends while its holder's home computes what that inherits.
fn an_end_and_a_settling<M: Mistake>(slip: Slip) {
    check(4, move || {
        let scene = Scene::<Modelled<M>>::new(HIGH, holder());
        scene.held.keep_caller(&reply());
        let [home, other] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || {
                    if slip == Slip::MarksTooLate {
                        let level = home.inherited().max(priority(LOW)).level();
                        home.stored.store(level, Ordering::Relaxed);
                        home.marks().raise(level > LOW);
                    } else {
                        home.settle();
                    }
                }),
                Box::new(move || other.end_call()),
            ],
            end: Box::new(move || scene.assert_is_settled()),
        }
    });
}

/// A call ends while its reply is passed to another, which settles.
fn an_end_and_an_adoption<M: Mistake>() {
    check(4, || {
        let scene = Scene::<Modelled<M>>::new(HIGH, former_holder());
        let [home, other] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || {
                    if home.adopt() {
                        home.settle();
                    }
                }),
                Box::new(move || other.end_call()),
            ],
            end: Box::new(move || scene.assert_is_settled()),
        }
    });
}

/// A caller is raised while its reply is passed to another: that one finds the new priority, or is asked to look.
fn a_raise_and_an_adoption<M: Mistake>(slip: Slip) {
    check(4, move || {
        let scene = Scene::<Modelled<M>>::new(LOW, former_holder());
        let [home, receiver] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || {
                    home.priority.store(u32::from(HIGH), Ordering::Relaxed);
                    if let WaitOn::Reply(holder) = after_new_priority(&home.on) {
                        home.ask(holder);
                    }
                }),
                Box::new(move || {
                    let before = receiver.caller_priority();
                    assert!(receiver.adopt(), "the caller waits");
                    let found = if slip == Slip::ReadsTooEarly {
                        before
                    } else {
                        receiver.caller_priority()
                    };
                    if found > priority(LOW) {
                        receiver.ask(holder());
                    }
                }),
            ],
            end: Box::new(move || {
                assert_eq!(scene.on.read(), WaitOn::Reply(holder()));
                let asked = scene.asked.load(Ordering::Relaxed);
                assert!(asked, "nobody is raised");
                scene.assert_is_settled();
            }),
        }
    });
}

/// A caller is raised while it is received: the receiver, which has the reply delivered and settles afterwards, finds the new priority, or is asked to
/// look.
fn a_raise_and_a_delivery<M: Mistake>() {
    check(4, || {
        let scene = Scene::<Modelled<M>>::new(LOW, former_holder());
        assert!(scene.awaiting().take(None).is_some());
        let [home, receiver] = core::array::from_fn(|_| scene.clone());
        Race {
            parties: [
                Box::new(move || {
                    home.priority.store(u32::from(HIGH), Ordering::Relaxed);
                    if let WaitOn::Reply(holder) = after_new_priority(&home.on) {
                        home.ask(holder);
                    }
                }),
                Box::new(move || {
                    let stamp = receiver.awaiting().begin(holder());
                    let reply = ReplyTarget::new(caller().as_ptr(), stamp);
                    receiver.held.keep_caller(&reply);
                    receiver.settle();
                }),
            ],
            end: Box::new(move || {
                scene.assert_is_settled();
                let level = scene.stored.load(Ordering::Relaxed);
                assert_eq!(level, HIGH, "nobody is raised");
            }),
        }
    });
}

#[test]
fn a_thread_that_is_raised_while_the_call_ends_is_told_of_it() {
    an_end_and_a_settling::<Sound>(Slip::None);
}

#[test]
fn a_thread_that_is_passed_a_reply_while_the_call_ends_is_not_raised_by_it() {
    an_end_and_an_adoption::<Sound>();
}

#[test]
fn a_thread_that_is_passed_a_reply_is_raised_with_the_caller() {
    a_raise_and_an_adoption::<Sound>(Slip::None);
}

#[test]
fn a_thread_that_receives_a_call_is_raised_with_the_caller() {
    a_raise_and_a_delivery::<Sound>();
}

#[test]
#[should_panic(expected = "the stored priority is another")]
fn the_model_notices_a_mark_that_comes_too_late() {
    an_end_and_a_settling::<Sound>(Slip::MarksTooLate);
}

#[test]
#[should_panic(expected = "the stored priority is another")]
fn the_model_notices_a_settling_without_a_fence() {
    an_end_and_a_settling::<NoFences>(Slip::None);
}

#[test]
#[should_panic(expected = "the stored priority is another")]
fn the_model_notices_an_adoption_without_a_fence() {
    an_end_and_an_adoption::<NoFences>();
}

#[test]
#[should_panic(expected = "nobody is raised")]
fn the_model_notices_a_priority_that_is_read_before_the_adoption() {
    a_raise_and_an_adoption::<Sound>(Slip::ReadsTooEarly);
}

#[test]
#[should_panic(expected = "nobody is raised")]
fn the_model_notices_a_raise_without_a_fence() {
    a_raise_and_an_adoption::<NoFences>(Slip::None);
}

#[test]
#[should_panic(expected = "the stored priority is another")]
fn the_model_notices_a_delivery_without_a_fence() {
    a_raise_and_a_delivery::<NoFences>();
}
