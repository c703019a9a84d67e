//! The inbox on real atomics and real threads; its models are in the crate itself.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::ThreadRef;
use sched::{Inbox, Node, Pushed};

fn drained(inbox: &Inbox<ThreadRef>) -> Vec<usize> {
    let mut all = Vec::new();
    let count = inbox.drain(|thread| all.push(thread.0.number));
    assert_eq!(count, all.len());
    all
}

#[test]
fn only_the_first_push_into_an_empty_inbox_asks_for_an_interrupt() {
    let inbox = Inbox::new();
    let threads = ThreadRef::many(3);
    assert!(inbox.is_empty());
    assert_eq!(inbox.push(threads[0]), Pushed::First);
    assert_eq!(inbox.push(threads[1]), Pushed::More);
    assert_eq!(inbox.push(threads[0]), Pushed::Already);
    assert_eq!(inbox.push(threads[2]), Pushed::More);
    assert!(!inbox.is_empty());
    assert_eq!(drained(&inbox), [0, 1, 2]);
    assert_eq!(inbox.push(threads[1]), Pushed::First);
    assert_eq!(drained(&inbox), [1]);
    assert_eq!(drained(&inbox), []);
}

#[test]
fn a_polled_inbox_asks_for_no_interrupt() {
    let inbox = Inbox::new();
    let threads = ThreadRef::many(2);
    assert!(inbox.start_polling());
    assert!(inbox.is_empty());
    assert_eq!(inbox.push(threads[0]), Pushed::More);
    assert!(!inbox.is_empty());
    assert!(!inbox.stop_polling());
    assert!(!inbox.start_polling());
    assert_eq!(drained(&inbox), [0]);
    assert!(inbox.start_polling());
    assert!(inbox.stop_polling());
    assert_eq!(inbox.push(threads[1]), Pushed::First);
}

#[test]
fn a_thread_can_be_pushed_again_while_it_is_handed_out() {
    let inbox = Inbox::new();
    let thread = ThreadRef::new(0);
    assert_eq!(inbox.push(thread), Pushed::First);
    let mut rounds = 0;
    while inbox.drain(|thread| {
        assert!(!thread.links().is_in_inbox());
        if rounds < 3 {
            assert_eq!(inbox.push(thread), Pushed::First);
        }
    }) != 0
    {
        rounds += 1;
    }
    assert_eq!(rounds, 4);
}

#[test]
fn many_are_taken_in_pieces_in_their_order() {
    const MOST: usize = 3;
    let inbox = Inbox::new();
    let threads = ThreadRef::many(1000);
    let (first, later) = threads.split_at(900);
    for &thread in first {
        let _ = inbox.push(thread);
    }
    let mut later = later.iter();
    let mut all = Vec::new();
    let mut calls = 0;
    while !inbox.is_empty() {
        let before = all.len();
        let count = inbox.drain_some(MOST, |thread| all.push(thread.0.number));
        assert_eq!(count, all.len() - before);
        assert!(count <= MOST);
        calls += 1;
        assert!(calls < 1000, "it comes to no end");
        // What comes meanwhile waits for its turn, and nobody need be told of it as long as the owner keeps some.
        let keeps = !inbox.is_empty();
        if let Some(&thread) = later.next() {
            let pushed = inbox.push(thread);
            assert_eq!(pushed == Pushed::First, !keeps);
            assert!(!inbox.start_polling());
        }
    }
    assert_eq!(all, (0..1000).collect::<Vec<_>>());
    assert!(inbox.start_polling());
}

#[test]
fn four_producers_at_full_speed_lose_no_wake_up() {
    const ROUNDS: u64 = 50_000;
    let inbox = Arc::new(Inbox::new());
    let threads = ThreadRef::many(4);
    let done = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = threads
        .iter()
        .map(|&thread| {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                for round in 1..=ROUNDS {
                    thread.0.value.store(round, Ordering::Relaxed);
                    let _ = inbox.push(thread);
                }
            })
        })
        .collect();
    let consumer = {
        let (inbox, done) = (Arc::clone(&inbox), Arc::clone(&done));
        thread::spawn(move || {
            let mut seen = [0; 4];
            loop {
                let last = done.load(Ordering::Acquire);
                inbox.drain(|thread| {
                    let value = thread.0.value.load(Ordering::Relaxed);
                    assert!(
                        value >= seen[thread.0.number],
                        "an older wake-up after a newer one"
                    );
                    seen[thread.0.number] = value;
                });
                if last {
                    return seen;
                }
            }
        })
    };
    for producer in producers {
        producer.join().expect("a producer ends");
    }
    done.store(true, Ordering::Release);
    assert_eq!(consumer.join().expect("the consumer ends"), [ROUNDS; 4]);
}
