//! Models of the inbox, run by loom in every interleaving and with every value that a load may return.
//!
//! loom knows no interrupt, so a model's CPU is a thread and its pending interrupt an atomic that the producer
//! sets last, as the write to the interrupt command register comes last.

use core::num::NonZeroUsize;
use std::vec::Vec;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use super::{Inbox, Pushed};
use crate::node::{Links, Node};

struct Thread {
    links: Links<ThreadRef>,
    /// What the wake-up is about: written with no ordering of its own, so that only the inbox orders it.
    message: AtomicUsize,
}

loom::lazy_static! {
    static ref THREADS: [Thread; 3] =
        core::array::from_fn(|_| Thread { links: Links::new(), message: AtomicUsize::new(0) });
}

/// An index, as a model can't have addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ThreadRef(usize);

impl ThreadRef {
    fn message(&self) -> &AtomicUsize {
        &THREADS[self.0].message
    }
}

impl Node for ThreadRef {
    fn links(&self) -> &Links<Self> {
        &THREADS[self.0].links
    }
    fn into_word(self) -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add((self.0 + 1) * 16)
    }
    fn from_word(word: NonZeroUsize) -> Self {
        ThreadRef(word.get() / 16 - 1)
    }
}

/// Drains what is there; gives index and message of each.
fn drained(inbox: &Inbox<ThreadRef>) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    inbox.drain(|thread| all.push((thread.0, thread.message().load(Ordering::Relaxed))));
    all
}

#[test]
fn two_producers_lose_and_double_nothing() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new());
        let producers: Vec<_> = (0..2)
            .map(|i| {
                let inbox = inbox.clone();
                thread::spawn(move || {
                    ThreadRef(i).message().store(7 + i, Ordering::Relaxed);
                    inbox.push(ThreadRef(i))
                })
            })
            .collect();
        let mut all = drained(&inbox);
        let answers: Vec<_> = producers.into_iter().map(|p| p.join().unwrap()).collect();
        all.extend(drained(&inbox));
        all.sort_unstable();
        assert_eq!(all, [(0, 7), (1, 8)]);
        assert!(
            answers.contains(&Pushed::First),
            "somebody must tell the owner: {answers:?}"
        );
        assert!(inbox.is_empty());
    });
}

/// The owner takes one at a time, and looks again as long as there is something: what it keeps has its place before what is new.
#[test]
fn threads_that_are_taken_one_by_one_come_out_in_order() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let inbox = Arc::new(Inbox::new());
        let producer = {
            let inbox = inbox.clone();
            thread::spawn(move || {
                (0..3)
                    .map(|i| {
                        ThreadRef(i).message().store(i, Ordering::Relaxed);
                        inbox.push(ThreadRef(i))
                    })
                    .filter(|pushed| *pushed == Pushed::First)
                    .count()
            })
        };
        let mut all = Vec::new();
        let mut take_one = || {
            let before = all.len();
            let count = inbox.drain_some(1, |thread| {
                all.push((thread.0, thread.message().load(Ordering::Relaxed)));
            });
            assert!(count <= 1 && all.len() == before + count);
        };
        take_one();
        take_one();
        let told = producer.join().unwrap();
        assert!(told >= 1, "somebody must tell the owner");
        while !inbox.is_empty() {
            take_one();
        }
        assert_eq!(all, [(0, 0), (1, 1), (2, 2)]);
        assert!(inbox.start_polling(), "nothing is kept");
    });
}

#[test]
fn one_producers_threads_come_out_in_order() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new());
        let producer = {
            let inbox = inbox.clone();
            thread::spawn(move || {
                for i in 0..3 {
                    ThreadRef(i).message().store(i, Ordering::Relaxed);
                    assert_ne!(inbox.push(ThreadRef(i)), Pushed::Already);
                }
            })
        };
        let mut all = drained(&inbox);
        all.extend(drained(&inbox));
        producer.join().unwrap();
        all.extend(drained(&inbox));
        assert_eq!(all, [(0, 0), (1, 1), (2, 2)]);
    });
}

/// Two CPUs wake one thread, each for a reason of its own: however they meet, the owner sees both reasons.
#[test]
fn a_wake_up_answered_with_already_is_still_seen() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new());
        let producers: Vec<_> = (0..2)
            .map(|i| {
                let inbox = inbox.clone();
                thread::spawn(move || {
                    ThreadRef(0).message().fetch_or(1 << i, Ordering::Relaxed);
                    inbox.push(ThreadRef(0))
                })
            })
            .collect();
        // The owner takes what it sees at each wake-up, and remembers nothing but that.
        let mut seen = 0;
        let mut handed_out = 0;
        let mut take = |thread: ThreadRef| {
            handed_out += 1;
            seen |= thread.message().load(Ordering::Relaxed);
        };
        inbox.drain(&mut take);
        let answers: Vec<_> = producers.into_iter().map(|p| p.join().unwrap()).collect();
        inbox.drain(&mut take);
        assert_eq!(seen, 0b11);
        let pushed = answers.iter().filter(|a| **a != Pushed::Already).count();
        assert_eq!(handed_out, pushed);
    });
}

/// A CPU as it halts and is woken: interrupts are off, so a pending one waits for the `hlt`.
struct Cpu {
    inbox: Inbox<ThreadRef>,
    interrupt_pending: AtomicBool,
}

impl Cpu {
    fn new() -> Arc<Cpu> {
        Arc::new(Cpu {
            inbox: Inbox::new(),
            interrupt_pending: AtomicBool::new(false),
        })
    }

    fn wake(&self, thread: ThreadRef) {
        thread.message().store(1, Ordering::Relaxed);
        if self.inbox.push(thread) == Pushed::First {
            // A swap, since the controller keeps one bit that all interrupts of this vector are merged into:
            // whoever takes the interrupt sees what each sender wrote before.
            self.interrupt_pending.swap(true, Ordering::AcqRel);
        }
    }

    /// `sti; hlt`: goes on when an interrupt is pending. In a model the wait is a loop that lets others run; one
    /// that nobody ends makes loom fail the model.
    fn halt(&self) {
        while !self.interrupt_pending.swap(false, Ordering::AcqRel) {
            thread::yield_now();
        }
    }

    /// The idle loop, until two threads were woken.
    fn idle(&self, poll_first: bool, most: usize) {
        let mut woken = 0;
        while woken < 2 {
            woken += self.inbox.drain_some(most, |thread| {
                assert_eq!(thread.message().load(Ordering::Relaxed), 1);
            });
            if woken == 2 {
                return;
            }
            if poll_first && self.inbox.start_polling() {
                // One look in place of many: what matters is the way from polling to halting.
                let _ = self.inbox.is_empty();
                if !self.inbox.stop_polling() {
                    continue;
                }
            }
            if self.inbox.is_empty() {
                self.halt();
            }
        }
    }
}

fn idle_cpu_is_woken_by_two(poll_first: bool, most: usize) {
    let mut model = loom::model::Builder::new();
    // Three CPUs with a loop have too many interleavings to try all; each that takes the CPU away from somebody
    // at most twice in mid-course is tried, and that is where such errors show.
    model.preemption_bound = Some(2);
    model.check(move || {
        let cpu = Cpu::new();
        let producers: Vec<_> = (0..2)
            .map(|i| {
                let cpu = cpu.clone();
                thread::spawn(move || cpu.wake(ThreadRef(i)))
            })
            .collect();
        cpu.idle(poll_first, most);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn a_halting_cpu_never_sleeps_through_a_wake_up() {
    idle_cpu_is_woken_by_two(false, usize::MAX);
}

#[test]
fn a_halting_cpu_that_takes_one_at_a_time_never_sleeps_through_a_wake_up() {
    idle_cpu_is_woken_by_two(false, 1);
}

#[test]
fn a_cpu_that_polls_and_then_halts_never_sleeps_through_a_wake_up() {
    idle_cpu_is_woken_by_two(true, usize::MAX);
}

#[test]
fn a_cpu_that_polls_and_takes_one_at_a_time_never_sleeps_through_a_wake_up() {
    idle_cpu_is_woken_by_two(true, 1);
}

/// The models must be able to fail: without the interrupt the CPU sleeps for ever, and loom says so.
#[test]
#[should_panic(expected = "exceeded maximum number of branches")]
fn the_model_notices_a_missing_interrupt() {
    loom::model(|| {
        let cpu = Cpu::new();
        let producer = {
            let cpu = cpu.clone();
            thread::spawn(move || {
                let _ = cpu.inbox.push(ThreadRef(0));
            })
        };
        if cpu.inbox.is_empty() {
            cpu.halt();
        }
        producer.join().unwrap();
    });
}
