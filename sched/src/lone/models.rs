//! Models of the place, run by loom in every interleaving.

use core::num::NonZeroUsize;

use loom::sync::Arc;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::{Left, Lone};
use crate::node::{Links, Node};

struct Thread {
    links: Links<ThreadRef>,
    /// What it has in its registers: written with no ordering of its own, so that only the place orders it.
    registers: AtomicUsize,
}

loom::lazy_static! {
    static ref THREADS: [Thread; 2] =
        core::array::from_fn(|_| Thread { links: Links::new(), registers: AtomicUsize::new(0) });
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ThreadRef(usize);

impl ThreadRef {
    fn registers(&self) -> &AtomicUsize {
        &THREADS[self.0].registers
    }
}

impl Node for ThreadRef {
    fn links(&self) -> &Links<Self> {
        &THREADS[self.0].links
    }
    fn into_word(self) -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add((self.0 + 1) * 16 - 1)
    }
    fn from_word(word: NonZeroUsize) -> Self {
        ThreadRef(word.get() / 16 - 1)
    }
}

/// What a receiver has in its registers before it has settled, and what a sender puts there.
const ANSWER: usize = 7;
const MESSAGE: usize = 9;

/// An endpoint: the place, and the lock with how many senders and whether the receiver stand in the queue.
struct Endpoint {
    lone: Lone<ThreadRef>,
    queue: Mutex<(usize, Option<ThreadRef>)>,
}

impl Endpoint {
    fn new() -> Endpoint {
        Endpoint {
            lone: Lone::new(),
            queue: Mutex::new((0, None)),
        }
    }

    /// Does something to the queue under the lock.
    fn locked<R>(&self, act: impl FnOnce(&mut (usize, Option<ThreadRef>)) -> R) -> R {
        let mut queue = self.queue.lock().unwrap();
        if let Some(thread) = self.lone.close(thread::yield_now) {
            assert!(queue.1.replace(thread).is_none());
        }
        let result = act(&mut queue);
        self.lone.open(match (queue.0, queue.1) {
            (0, None) => Left::Nobody,
            (0, Some(thread)) => {
                queue.1 = None;
                Left::One(thread)
            }
            _ => Left::More,
        });
        result
    }

    /// A sender: without the lock if it can, else with it. Returns whether it found the receiver.
    fn send(&self) -> bool {
        let found = match self.lone.waiting() {
            Some(thread) if self.lone.take(thread) => Some(thread),
            _ => self.locked(|queue| {
                if queue.1.is_none() {
                    queue.0 += 1;
                }
                queue.1.take()
            }),
        };
        if let Some(thread) = found {
            assert_eq!(thread.registers().load(Ordering::Relaxed), ANSWER);
            thread.registers().store(MESSAGE, Ordering::Relaxed);
        }
        found.is_some()
    }

    /// A receiver: as the sender. Returns whether it found one that waits.
    fn receive(&self, thread: ThreadRef) -> bool {
        if self.lone.enter(thread) {
            // Until it has settled its registers are its own.
            thread.registers().store(ANSWER, Ordering::Relaxed);
            assert_eq!(thread.registers().load(Ordering::Relaxed), ANSWER);
            self.lone.settle();
            return false;
        }
        thread.registers().store(ANSWER, Ordering::Relaxed);
        self.locked(|queue| {
            if queue.0 > 0 {
                queue.0 -= 1;
                return true;
            }
            assert!(queue.1.replace(thread).is_none());
            false
        })
    }
}

#[test]
fn a_receiver_and_a_sender_find_each_other() {
    loom::model(|| {
        let endpoint = Arc::new(Endpoint::new());
        let sender = {
            let endpoint = Arc::clone(&endpoint);
            thread::spawn(move || endpoint.send())
        };
        let receiver_found = endpoint.receive(ThreadRef(0));
        let sender_found = sender.join().unwrap();
        assert!(
            receiver_found != sender_found,
            "one of them came second and found the other"
        );
        let left = endpoint.locked(|queue| (queue.0, queue.1));
        assert_eq!(left, (0, None));
    });
}

#[test]
fn of_two_senders_one_finds_the_receiver() {
    loom::model(|| {
        let endpoint = Arc::new(Endpoint::new());
        assert!(!endpoint.receive(ThreadRef(1)));
        let other = {
            let endpoint = Arc::clone(&endpoint);
            thread::spawn(move || endpoint.send())
        };
        let found = [endpoint.send(), other.join().unwrap()];
        assert_eq!(found.iter().filter(|found| **found).count(), 1);
        assert_eq!(endpoint.locked(|queue| (queue.0, queue.1)), (1, None));
    });
}

#[test]
fn who_has_the_lock_meets_a_receiver_settled_or_not_at_all() {
    loom::model(|| {
        let endpoint = Arc::new(Endpoint::new());
        let closer = {
            let endpoint = Arc::clone(&endpoint);
            thread::spawn(move || {
                // As at the end of the endpoint: whoever waits is taken out.
                endpoint.locked(|queue| {
                    queue.1.take().inspect(|thread| {
                        assert_eq!(thread.registers().load(Ordering::Relaxed), ANSWER);
                    })
                })
            })
        };
        let receiver = ThreadRef(0);
        let entered = endpoint.lone.enter(receiver);
        if entered {
            receiver.registers().store(ANSWER, Ordering::Relaxed);
            endpoint.lone.settle();
        }
        let woken = closer.join().unwrap();
        let still = endpoint.lone.waiting();
        assert!(woken.is_none() || still.is_none());
        assert_eq!(entered, woken.is_some() || still.is_some());
    });
}

#[test]
fn a_receiver_that_withdraws_was_never_there() {
    loom::model(|| {
        let endpoint = Arc::new(Endpoint::new());
        let sender = {
            let endpoint = Arc::clone(&endpoint);
            thread::spawn(move || endpoint.send())
        };
        if endpoint.lone.enter(ThreadRef(0)) {
            endpoint.lone.withdraw();
        }
        assert!(!sender.join().unwrap());
        assert_eq!(endpoint.locked(|queue| (queue.0, queue.1)), (1, None));
    });
}
