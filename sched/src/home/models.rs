//! Models of a thread that changes its home while others ask things of it, run by loom in every interleaving.

use core::num::NonZeroUsize;
use std::vec::Vec;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use loom::thread;

use super::{Arrival, Home};
use crate::inbox::Inbox;
use crate::node::{Links, Node};

/// Bits of [`Thread::asked`].
const WAKE: u32 = 1;
const LOOK: u32 = 2;

struct Thread {
    links: Links<ThreadRef>,
    home: Home,
    asked: AtomicU32,
    /// What the giver noted for the taker; with no ordering of its own.
    note: AtomicUsize,
    /// How often each question was answered.
    woken: AtomicUsize,
    looked_at: AtomicUsize,
    arrived: AtomicUsize,
}

loom::lazy_static! {
    static ref THREAD: Thread = Thread {
        links: Links::new(),
        home: Home::nowhere(),
        asked: AtomicU32::new(0),
        note: AtomicUsize::new(0),
        woken: AtomicUsize::new(0),
        looked_at: AtomicUsize::new(0),
        arrived: AtomicUsize::new(0),
    };
}

/// The only thread there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ThreadRef;

impl Node for ThreadRef {
    fn links(&self) -> &Links<Self> {
        &THREAD.links
    }
    fn into_word(self) -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add(15)
    }
    fn from_word(_: NonZeroUsize) -> Self {
        ThreadRef
    }
}

struct Machine {
    inboxes: [Inbox<ThreadRef>; 2],
}

impl Machine {
    fn new() -> Arc<Machine> {
        Arc::new(Machine {
            inboxes: [Inbox::new(), Inbox::new()],
        })
    }

    fn push(&self, cpu: u32) {
        let _ = self.inboxes[cpu as usize].push(ThreadRef);
    }

    /// Any CPU asks something of the thread.
    fn ask(&self, what: u32) {
        THREAD.asked.fetch_or(what, Ordering::SeqCst);
        if let Some(home) = THREAD.home.cpu() {
            self.push(home);
        }
    }

    /// A CPU looks into its inbox.
    fn drain(&self, cpu: u32) {
        self.inboxes[cpu as usize].drain(|_| {
            match THREAD.home.arrive(cpu) {
                Arrival::Elsewhere(home) => return self.push(home),
                Arrival::Arrived => {
                    assert_eq!(THREAD.note.load(Ordering::Relaxed), cpu as usize + 1);
                    THREAD.arrived.fetch_add(1, Ordering::Relaxed);
                }
                Arrival::Here => {}
            }
            assert!(THREAD.home.is(cpu));
            let asked = THREAD.asked.swap(0, Ordering::SeqCst);
            if asked & WAKE != 0 {
                THREAD.woken.fetch_add(1, Ordering::Relaxed);
            }
            if asked & LOOK != 0 {
                THREAD.looked_at.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// The home gives the thread away.
    fn give(&self, to: u32) {
        THREAD.note.store(to as usize + 1, Ordering::Relaxed);
        THREAD.home.leave_for(to);
        self.push(to);
    }

    /// Every CPU looks until there is nothing to see any more.
    fn settle(&self) {
        while self.inboxes.iter().any(|inbox| !inbox.is_empty()) {
            self.drain(0);
            self.drain(1);
        }
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// CPU 0 gives the thread to CPU 1 while a third wakes it and a fourth asks to look: each is answered once, by the home.
#[test]
fn what_is_asked_of_a_thread_on_its_way_is_answered_once_by_its_home() {
    check(|| {
        let machine = Machine::new();
        machine.give(0);
        machine.drain(0);
        let mut others: Vec<_> = [WAKE, LOOK]
            .into_iter()
            .map(|what| {
                let machine = machine.clone();
                thread::spawn(move || machine.ask(what))
            })
            .collect();
        others.push({
            let machine = machine.clone();
            thread::spawn(move || machine.drain(1))
        });
        machine.drain(0);
        machine.give(1);
        machine.drain(0);
        for other in others {
            other.join().unwrap();
        }
        machine.settle();
        assert_eq!(THREAD.woken.load(Ordering::Relaxed), 1);
        assert_eq!(THREAD.looked_at.load(Ordering::Relaxed), 1);
        assert_eq!(THREAD.arrived.load(Ordering::Relaxed), 2);
        assert!(THREAD.home.is(1));
    });
}

/// It goes there and back again, and a late push into the first inbox is not taken for its arrival.
#[test]
fn a_thread_that_comes_back_is_not_confused_by_late_pushes() {
    check(|| {
        let machine = Machine::new();
        machine.give(0);
        machine.drain(0);
        let other = {
            let machine = machine.clone();
            thread::spawn(move || machine.ask(WAKE))
        };
        let second = {
            let machine = machine.clone();
            thread::spawn(move || {
                machine.drain(1);
                if THREAD.home.is(1) {
                    machine.give(0);
                }
            })
        };
        machine.give(1);
        machine.drain(0);
        other.join().unwrap();
        second.join().unwrap();
        machine.settle();
        assert_eq!(THREAD.woken.load(Ordering::Relaxed), 1);
        assert!(THREAD.home.settled().is_some());
    });
}

/// A question to a thread that is being started is answered on its arrival at the latest.
#[test]
fn what_is_asked_of_a_thread_that_is_being_started_is_answered() {
    check(|| {
        let machine = Machine::new();
        let other = {
            let machine = machine.clone();
            thread::spawn(move || machine.ask(LOOK))
        };
        machine.give(1);
        machine.drain(1);
        other.join().unwrap();
        machine.settle();
        assert_eq!(THREAD.looked_at.load(Ordering::Relaxed), 1);
        assert_eq!(THREAD.arrived.load(Ordering::Relaxed), 1);
    });
}

/// The models must be able to fail: a CPU that answers without asking whether the thread is its own is caught.
#[test]
#[should_panic(expected = "is(cpu)")]
fn the_model_notices_a_cpu_that_answers_for_another() {
    check(|| {
        let machine = Machine::new();
        machine.give(0);
        machine.drain(0);
        let other = {
            let machine = machine.clone();
            thread::spawn(move || machine.ask(WAKE))
        };
        machine.give(1);
        // What `drain` would be without the question.
        machine.inboxes[0].drain(|_| {
            let cpu = 0;
            assert!(THREAD.home.is(cpu));
        });
        other.join().unwrap();
    });
}
