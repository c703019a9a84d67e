//! The timer queue against a sorted map, and the bound on its paths.

mod common;

use std::collections::BTreeMap;

use common::ThreadRef;
use proptest::prelude::*;
use sched::TimerQueue;

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(usize, u64),
    Remove(usize),
    Expire(u64),
}

proptest! {
    #[test]
    fn timer_queue_does_what_a_sorted_map_does(
        steps in prop::collection::vec(
            prop_oneof![
                4 => (0..40usize, prop_oneof![0..100u64, Just(u64::MAX)])
                    .prop_map(|(t, d)| Step::Insert(t, d)),
                2 => (0..40usize).prop_map(Step::Remove),
                1 => (0..100u64).prop_map(Step::Expire),
            ],
            0..300,
        )
    ) {
        let threads = ThreadRef::many(40);
        let mut queue = TimerQueue::new();
        let mut model = BTreeMap::<usize, u64>::new();
        for step in steps {
            match step {
                Step::Insert(t, deadline) => {
                    if model.insert(t, deadline).is_some() {
                        prop_assert!(queue.remove(threads[t]));
                    }
                    queue.insert(threads[t], deadline);
                }
                Step::Remove(t) => {
                    prop_assert_eq!(queue.remove(threads[t]), model.remove(&t).is_some());
                }
                Step::Expire(now) => {
                    let mut last = 0;
                    while let Some(thread) = queue.pop_expired(now) {
                        let deadline = model.remove(&thread.0.number);
                        prop_assert!(deadline.is_some_and(|d| last <= d && d <= now));
                        last = deadline.unwrap_or(0);
                    }
                    prop_assert!(model.values().all(|d| *d > now));
                }
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.is_empty(), model.is_empty());
            prop_assert_eq!(queue.earliest(), model.values().min().copied());
        }
    }
}

#[test]
fn a_deadline_expires_at_its_nanosecond_and_not_before() {
    let mut queue = TimerQueue::new();
    let thread = ThreadRef::new(0);
    queue.insert(thread, 1000);
    assert_eq!(queue.pop_expired(999), None);
    assert_eq!(queue.pop_expired(1000), Some(thread));
    assert_eq!(queue.earliest(), None);
}

/// Sorted input makes naive trees into lists; here it must stay quick (this would take minutes).
#[test]
fn sorted_deadlines_do_not_degrade_the_queue() {
    const COUNT: usize = 200_000;
    let threads = ThreadRef::many(COUNT);
    for order in 0..3 {
        let mut queue = TimerQueue::new();
        for (i, thread) in threads.iter().enumerate() {
            let deadline = match order {
                0 => i,
                1 => COUNT - i,
                _ => 7,
            };
            queue.insert(*thread, deadline as u64);
        }
        // Half of them by name, the other half in order.
        for thread in threads.iter().step_by(2) {
            assert!(queue.remove(*thread));
        }
        let mut count = 0;
        while queue.pop_expired(u64::MAX).is_some() {
            count += 1;
        }
        assert_eq!(count, COUNT / 2);
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "has a deadline already")]
fn inserting_twice_is_caught_in_debug_builds() {
    let mut queue = TimerQueue::new();
    let thread = ThreadRef::new(0);
    queue.insert(thread, 1);
    queue.insert(thread, 2);
}
