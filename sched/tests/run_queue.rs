//! The run queue and the plain list against models that are too simple to be wrong.

mod common;

use std::collections::VecDeque;

use common::ThreadRef;
use proptest::prelude::*;
use sched::{EffectivePriority, List, RunQueue};

const THREADS: usize = 12;

#[derive(Clone, Copy, Debug)]
enum Step {
    PushBack(usize, u8),
    PushFront(usize, u8),
    Pop,
    Remove(usize),
    Requeue(usize, u8),
    Exchange(usize, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few levels, so that they fill; the lowest and the highest among them.
    let level = prop::sample::select(vec![0u8, 1, 31, 32, 62, 63]);
    let thread = 0..THREADS;
    let step = prop_oneof![
        3 => (thread.clone(), level.clone()).prop_map(|(t, l)| Step::PushBack(t, l)),
        1 => (thread.clone(), level.clone()).prop_map(|(t, l)| Step::PushFront(t, l)),
        2 => Just(Step::Pop),
        1 => thread.clone().prop_map(Step::Remove),
        1 => (thread.clone(), level.clone()).prop_map(|(t, l)| Step::Requeue(t, l)),
        2 => (thread, level).prop_map(|(t, l)| Step::Exchange(t, l)),
    ];
    prop::collection::vec(step, 0..200)
}

/// One queue per level, searched from the top.
struct Model(Vec<VecDeque<usize>>);

impl Model {
    fn level_of(&self, thread: usize) -> Option<usize> {
        self.0.iter().position(|level| level.contains(&thread))
    }
    fn remove(&mut self, thread: usize) -> bool {
        let level = self.level_of(thread);
        level.is_some_and(|level| {
            self.0[level].retain(|t| *t != thread);
            true
        })
    }
    fn pop(&mut self) -> Option<usize> {
        self.0
            .iter_mut()
            .rev()
            .find(|level| !level.is_empty())?
            .pop_front()
    }
    fn peek(&self) -> Option<usize> {
        self.0.iter().rposition(|level| !level.is_empty())
    }
    fn len(&self) -> usize {
        self.0.iter().map(VecDeque::len).sum()
    }
}

fn priority(level: u8) -> EffectivePriority {
    EffectivePriority::new(level).expect("a test's level is below 64")
}

proptest! {
    #[test]
    fn run_queue_does_what_the_model_does(steps in steps()) {
        let threads = ThreadRef::many(THREADS);
        let mut queue = RunQueue::new();
        let mut model = Model(vec![VecDeque::new(); 64]);
        for step in steps {
            match step {
                Step::PushBack(t, l) if model.level_of(t).is_none() => {
                    queue.push_back(threads[t], priority(l));
                    model.0[l as usize].push_back(t);
                }
                Step::PushFront(t, l) if model.level_of(t).is_none() => {
                    queue.push_front(threads[t], priority(l));
                    model.0[l as usize].push_front(t);
                }
                Step::Exchange(t, l) if model.level_of(t).is_none() => {
                    let first = queue.front(priority(l));
                    let expected = model.0[l as usize].front().copied();
                    prop_assert_eq!(first.map(|t| t.0.number), expected);
                    if let Some(first) = first {
                        queue.exchange(threads[t], first, priority(l));
                        model.0[l as usize].pop_front();
                        model.0[l as usize].push_back(t);
                    }
                }
                Step::PushBack(..) | Step::PushFront(..) | Step::Exchange(..) => {}
                Step::Pop => {
                    prop_assert_eq!(queue.pop_highest().map(|t| t.0.number), model.pop());
                }
                Step::Remove(t) => prop_assert_eq!(queue.remove(threads[t]), model.remove(t)),
                Step::Requeue(t, l) => {
                    let old = model.level_of(t);
                    if old.is_some() && old != Some(l as usize) {
                        model.remove(t);
                        model.0[l as usize].push_back(t);
                    }
                    prop_assert_eq!(queue.requeue(threads[t], priority(l)), old.is_some());
                }
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.is_empty(), model.len() == 0);
            let highest = model.peek();
            prop_assert_eq!(queue.peek_priority().map(|p| p.level() as usize), highest);
            for level in [0u8, 1, 31, 32, 62, 63] {
                let from = highest.is_some_and(|highest| highest >= level as usize);
                prop_assert_eq!(queue.has_from(priority(level)), from);
            }
        }
        while let Some(expected) = model.pop() {
            prop_assert_eq!(queue.pop_highest(), Some(threads[expected]));
        }
        prop_assert_eq!(queue.pop_highest(), None);
    }

    #[test]
    fn list_does_what_a_deque_does(steps in steps()) {
        let threads = ThreadRef::many(THREADS);
        let mut list = List::new();
        let mut model = VecDeque::new();
        for step in steps {
            match step {
                Step::PushBack(t, _) if !model.contains(&t) => {
                    list.push_back(threads[t]);
                    model.push_back(t);
                }
                Step::PushFront(t, _) if !model.contains(&t) => {
                    list.push_front(threads[t]);
                    model.push_front(t);
                }
                Step::PushBack(..)
                | Step::PushFront(..)
                | Step::Requeue(..)
                | Step::Exchange(..) => {}
                Step::Pop => {
                    prop_assert_eq!(list.pop_front().map(|t| t.0.number), model.pop_front());
                }
                Step::Remove(t) => {
                    let inside = model.contains(&t);
                    model.retain(|other| *other != t);
                    prop_assert_eq!(list.remove(threads[t]), inside);
                }
            }
            let order: Vec<_> = list.iter().map(|t| t.0.number).collect();
            prop_assert_eq!(order, Vec::from(model.clone()));
            prop_assert_eq!(list.front().map(|t| t.0.number), model.front().copied());
        }
    }
}

#[test]
fn levels_past_63_do_not_exist() {
    assert_eq!(EffectivePriority::new(64), None);
    assert_eq!(EffectivePriority::new(255), None);
    assert_eq!(EffectivePriority::new(63), Some(EffectivePriority::HIGHEST));
    assert_eq!(EffectivePriority::new(0), Some(EffectivePriority::LOWEST));
}

#[test]
fn every_level_is_found_by_the_bitmap() {
    let mut queue = RunQueue::new();
    let threads = ThreadRef::many(64);
    for (level, thread) in threads.iter().enumerate() {
        queue.push_back(*thread, priority(level as u8));
        assert_eq!(queue.priority_of(*thread), Some(priority(level as u8)));
    }
    for level in (0..64).rev() {
        assert_eq!(queue.peek_priority(), Some(priority(level as u8)));
        assert_eq!(queue.pop_highest(), Some(threads[level]));
        assert_eq!(queue.priority_of(threads[level]), None);
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "in a list or run queue already")]
fn pushing_a_ready_thread_again_is_caught_in_debug_builds() {
    let mut queue = RunQueue::new();
    let thread = ThreadRef::new(0);
    queue.push_back(thread, priority(1));
    queue.push_back(thread, priority(2));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "in another")]
fn removing_through_another_queue_is_caught_in_debug_builds() {
    let (mut queue, mut other) = (RunQueue::new(), RunQueue::new());
    let thread = ThreadRef::new(0);
    queue.push_back(thread, priority(1));
    other.push_back(ThreadRef::new(1), priority(1));
    other.remove(thread);
}
