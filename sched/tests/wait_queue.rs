//! The queue of waiting threads against a model that is too simple to be wrong: a list that is searched from the top.

mod common;

use common::ThreadRef;
use proptest::prelude::*;
use sched::{EffectivePriority, Node, WaitQueue};

const THREADS: usize = 12;

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(usize, u8),
    Pop,
    PopOnly,
    Remove(usize),
    Requeue(usize, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few levels, so that they fill; the lowest and the highest among them.
    let level = prop::sample::select(vec![0u8, 1, 31, 32, 62, 63]);
    let thread = 0..THREADS;
    let step = prop_oneof![
        4 => (thread.clone(), level.clone()).prop_map(|(t, l)| Step::Push(t, l)),
        2 => Just(Step::Pop),
        1 => Just(Step::PopOnly),
        1 => thread.clone().prop_map(Step::Remove),
        2 => (thread, level).prop_map(|(t, l)| Step::Requeue(t, l)),
    ];
    prop::collection::vec(step, 0..200)
}

/// Who waits, in the order in which they came to their present priorities.
#[derive(Default)]
struct Model(Vec<(usize, u8)>);

impl Model {
    fn level_of(&self, thread: usize) -> Option<u8> {
        self.0
            .iter()
            .find(|(other, _)| *other == thread)
            .map(|(_, level)| *level)
    }
    fn remove(&mut self, thread: usize) -> bool {
        let waits = self.level_of(thread).is_some();
        self.0.retain(|(other, _)| *other != thread);
        waits
    }
    fn in_order(&self) -> Vec<usize> {
        let mut all = self.0.clone();
        all.sort_by_key(|(_, level)| std::cmp::Reverse(*level));
        all.into_iter().map(|(thread, _)| thread).collect()
    }
}

fn priority(level: u8) -> EffectivePriority {
    EffectivePriority::new(level).expect("a test's level is below 64")
}

fn numbers(queue: &WaitQueue<ThreadRef>) -> Vec<usize> {
    queue.iter().map(|thread| thread.0.number).collect()
}

proptest! {
    #[test]
    fn wait_queue_does_what_the_model_does(steps in steps()) {
        let threads = ThreadRef::many(THREADS);
        let mut queue = WaitQueue::new();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Push(t, l) if model.level_of(t).is_none() => {
                    queue.push_back(threads[t], priority(l));
                    model.0.push((t, l));
                }
                Step::Push(..) => {}
                Step::Pop => {
                    let first = model.in_order().first().copied();
                    if let Some(first) = first {
                        model.remove(first);
                    }
                    prop_assert_eq!(queue.pop_front().map(|thread| thread.0.number), first);
                }
                Step::PopOnly => {
                    let only = model.0.len() == 1;
                    let first = model.0.first().map(|&(thread, _)| thread).filter(|_| only);
                    if let Some(first) = first {
                        model.remove(first);
                    }
                    prop_assert_eq!(queue.pop_only().map(|thread| thread.0.number), first);
                }
                Step::Remove(t) => prop_assert_eq!(queue.remove(threads[t]), model.remove(t)),
                Step::Requeue(t, l) => {
                    let waits = model.level_of(t).is_some();
                    if waits && model.level_of(t) != Some(l) {
                        model.remove(t);
                        model.0.push((t, l));
                    }
                    prop_assert_eq!(queue.requeue(threads[t], priority(l)), waits);
                }
            }
            let order = model.in_order();
            prop_assert_eq!(numbers(&queue), order.clone());
            prop_assert_eq!(queue.front().map(|thread| thread.0.number), order.first().copied());
            prop_assert_eq!(queue.is_empty(), order.is_empty());
            let only = if order.len() == 1 { order.first().copied() } else { None };
            prop_assert_eq!(queue.only().map(|thread| thread.0.number), only);
            let highest = order.first().and_then(|&first| model.level_of(first));
            prop_assert_eq!(queue.peek_priority(), highest.map(priority));
            for (number, thread) in threads.iter().enumerate() {
                prop_assert_eq!(thread.links().is_listed(), model.level_of(number).is_some());
                prop_assert!(!thread.links().is_ready());
            }
        }
    }
}

#[test]
fn ten_thousand_waiters_come_out_by_priority_and_in_their_order() {
    let threads = ThreadRef::many(10_000);
    let mut queue = WaitQueue::new();
    for (number, &thread) in threads.iter().enumerate() {
        queue.push_back(thread, priority((number % 64) as u8));
    }
    for level in (0..64).rev() {
        for number in (level..10_000).step_by(64) {
            assert_eq!(queue.pop_front(), Some(threads[number]));
        }
    }
    assert_eq!(queue.pop_front(), None);
}

#[test]
fn a_thread_that_leaves_one_queue_can_enter_another() {
    let thread = ThreadRef::new(0);
    let (mut first, mut second) = (WaitQueue::new(), WaitQueue::new());
    first.push_back(thread, priority(3));
    assert!(first.remove(thread) && !first.remove(thread));
    second.push_back(thread, priority(60));
    assert_eq!(second.pop_front(), Some(thread));
    assert!(first.is_empty() && second.is_empty());
}
