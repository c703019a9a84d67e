//! Models of objects that are reached without a count, run by loom: a CPU follows a pointer while another takes away what it points to.

use core::sync::atomic::AtomicU32;

use loom::sync::Arc;

use super::{Epoch, Seen};
use crate::atomics::Atomics;
use crate::atomics::models::{
    ChangesOrderNothing, LoadsAcquireNothing, Mistake, Modelled, NoFences, Owned, Race, Sound,
    StoresReleaseNothing, TornChanges, check,
};
use crate::object::count::Count;
use crate::object::generation::Generation;

/// The generation of the handle.
const GOOD: u32 = 7;

/// An object, the handle that counts on it, and two CPUs.
struct Scene<A: Atomics> {
    generation: Generation<A>,
    references: Count<A>,
    /// Whether it is alive. Whoever destroys it sets this.
    object: Owned<bool>,
    epoch: Epoch<A>,
    seen: [Seen<A>; 2],
    /// How often it was retired. No part of the model, so loom need not know of it.
    retired: AtomicU32,
}

/// The CPUs.
const READER: usize = 0;
const CLOSER: usize = 1;

impl<M: Mistake> Scene<Modelled<M>> {
    fn new(references: u32) -> Arc<Self> {
        Arc::new(Scene {
            generation: Generation::of(GOOD),
            references: Count::of(references),
            object: Owned::new(true),
            epoch: Epoch::of(),
            seen: [Seen::of(), Seen::of()],
            retired: AtomicU32::new(0),
        })
    }

    /// A thread uses what its handle named when it was looked up, if it still does.
    fn use_handle(&self) {
        if self.generation.is(GOOD) {
            assert!(self.object.get(), "the object is gone");
        }
    }

    /// A reference goes. Gives the epoch in which the object is retired, if it was the last.
    fn give_up(&self) -> Option<u64> {
        self.references.remove().then(|| {
            let before = self
                .retired
                .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
            assert_eq!(before, 0, "it is retired once");
            self.epoch.retire()
        })
    }

    /// Destroys the object if its time has come.
    fn reclaim(&self, epoch: u64) {
        if self.seen.iter().all(|seen| seen.has_passed(epoch)) {
            self.object.set(false);
        }
    }

    /// The handle is closed, and its object goes with it.
    fn close(&self) {
        self.generation.set(GOOD + 1);
        if let Some(epoch) = self.give_up() {
            self.seen[CLOSER].pass_in(&self.epoch);
            self.reclaim(epoch);
        }
    }
}

/// What a party of the model does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slip {
    None,
    /// Who has closed the handle waits for nobody.
    WaitsForNobody,
    /// The reader's quiescent point is declared before it has done with the object.
    PassesTooEarly,
}

/// A thread uses its handle, passes a quiescent point, and uses it again, while another closes it and destroys the object.
fn a_use_and_a_close<M: Mistake>(slip: Slip) {
    check(4, move || {
        let scene = Scene::<Modelled<M>>::new(1);
        for seen in &scene.seen {
            seen.pass_in(&scene.epoch);
        }
        let closer = scene.clone();
        Race {
            parties: [
                Box::new(move || {
                    if slip == Slip::PassesTooEarly {
                        let is_good = scene.generation.is(GOOD);
                        scene.seen[READER].pass_in(&scene.epoch);
                        assert!(!is_good || scene.object.get(), "the object is gone");
                        return;
                    }
                    scene.use_handle();
                    scene.seen[READER].pass_in(&scene.epoch);
                    scene.use_handle();
                    scene.seen[READER].pass_in(&scene.epoch);
                }),
                Box::new(move || {
                    if slip == Slip::WaitsForNobody {
                        closer.generation.set(GOOD + 1);
                        closer.object.set(false);
                    } else {
                        closer.close();
                    }
                }),
            ],
            end: Box::new(|| ()),
        }
    });
}

/// The same with a CPU that wakes from its sleep, uses the handle, and sleeps again.
fn a_waking_cpu_and_a_close<M: Mistake>() {
    check(4, || {
        let scene = Scene::<Modelled<M>>::new(1);
        let closer = scene.clone();
        Race {
            parties: [
                Box::new(move || {
                    assert!(scene.seen[READER].is_away());
                    scene.seen[READER].return_in(&scene.epoch);
                    scene.use_handle();
                    scene.seen[READER].leave();
                }),
                Box::new(move || closer.close()),
            ],
            end: Box::new(|| ()),
        }
    });
}

/// Two counted references go at once, each of whose owners has used the object, while a third makes a counted one of one that is not
/// counted, uses it and gives it up. The last of them destroys the object.
fn the_last_of_three<M: Mistake>() {
    check(3, || {
        let scene = Scene::<Modelled<M>>::new(2);
        let [one, other, borrower] = core::array::from_fn(|_| scene.clone());
        let owner = |scene: Arc<Scene<Modelled<M>>>| {
            move || {
                assert!(scene.object.get(), "the object is gone");
                if scene.give_up().is_some() {
                    scene.object.set(false);
                }
            }
        };
        let keep = owner(borrower.clone());
        Race {
            parties: [
                Box::new(owner(one)),
                Box::new(owner(other)),
                Box::new(move || {
                    if !borrower.references.is_none() && borrower.references.add_unless_none() {
                        keep();
                    }
                }),
            ],
            end: Box::new(move || {
                assert!(!scene.object.get(), "the last one destroys it");
            }),
        }
    });
}

#[test]
fn an_object_is_not_destroyed_before_every_cpu_has_passed_a_quiescent_point() {
    a_use_and_a_close::<Sound>(Slip::None);
}

#[test]
fn a_cpu_that_wakes_up_finds_no_object_that_was_destroyed_meanwhile() {
    a_waking_cpu_and_a_close::<Sound>();
}

#[test]
fn the_last_of_all_references_ends_the_object_and_none_before() {
    the_last_of_three::<Sound>();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_notices_an_end_that_waits_for_nobody() {
    a_use_and_a_close::<Sound>(Slip::WaitsForNobody);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_notices_a_quiescent_point_that_comes_too_early() {
    a_use_and_a_close::<Sound>(Slip::PassesTooEarly);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_notices_a_quiescent_point_that_acquires_nothing() {
    a_use_and_a_close::<LoadsAcquireNothing>(Slip::None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_notices_a_quiescent_point_that_releases_nothing() {
    a_use_and_a_close::<StoresReleaseNothing>(Slip::None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_notices_a_retirement_that_orders_nothing() {
    a_use_and_a_close::<ChangesOrderNothing>(Slip::None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_notices_a_waking_cpu_without_a_fence() {
    a_waking_cpu_and_a_close::<NoFences>();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_notices_references_that_go_without_releasing() {
    the_last_of_three::<ChangesOrderNothing>();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_notices_counts_in_two_steps() {
    the_last_of_three::<TornChanges>();
}
