//! A signal from another CPU that crosses the bound thread's way into its receive, or a message that takes it out.
//!
//! Each is tried at many moments, as the stretches in which they can meet are short. Whatever meets what, the thread is
//! woken once, and bits that it was not woken with are there for its next receive.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::register::RECEIVED_NOTIFICATION;
use abi::{Deadline, Error, Tag};

use super::pair;
use crate::thread::ThreadPtr;
use crate::thread::testing::*;

/// Lets another CPU do something in each round at about the time at which this one does.
struct Rounds {
    begun: AtomicU64,
    done: AtomicU64,
    inbox: Mutex<Vec<ThreadPtr>>,
}

/// No more rounds will come.
const OVER: u64 = u64::MAX;

impl Rounds {
    const fn new() -> Rounds {
        Rounds {
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
            inbox: Mutex::new(Vec::new()),
        }
    }

    /// The other CPU.
    fn other(&self, act: impl Fn(u64)) {
        for round in 1.. {
            spin_until(|| self.begun.load(Ordering::SeqCst) >= round);
            if self.begun.load(Ordering::SeqCst) == OVER {
                return;
            }
            pause(round % 61);
            act(round);
            self.inbox.lock().unwrap().append(&mut woken());
            self.done.store(round, Ordering::SeqCst);
        }
    }

    /// This CPU's part of a round; gives who was woken by either.
    fn this<R>(&self, round: u64, act: impl FnOnce() -> R) -> (R, Vec<ThreadPtr>) {
        self.begun.store(round, Ordering::SeqCst);
        pause(round % 53);
        let result = act();
        spin_until(|| self.done.load(Ordering::SeqCst) >= round);
        let mut ready = woken();
        ready.append(&mut self.inbox.lock().unwrap());
        (result, ready)
    }
}

/// Ends the other CPU also when the test fails.
struct End<'a>(&'a Rounds);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.begun.store(OVER, Ordering::SeqCst);
    }
}

fn pause(count: u64) {
    for _ in 0..count {
        std::hint::spin_loop();
    }
}

fn was_notified(server: &Program) -> bool {
    let registers = server.thread().registers();
    let notified = registers.r14 == RECEIVED_NOTIFICATION;
    assert!(!notified || registers.rdx == 1);
    notified
}

#[test]
fn a_signal_on_the_way_into_a_receive_is_not_missed() {
    let (server, _client, endpoint) = pair();
    let (notification, cpus) = (notification(), Rounds::new());
    server.bind(&notification).unwrap();
    std::thread::scope(|scope| {
        let _end = End(&cpus);
        scope.spawn(|| cpus.other(|_| notification.signal(1)));
        for round in rounds() {
            let (went, ready) = cpus.this(round, || server.recv(&endpoint, Deadline::NEVER));
            if went == Ok(Went::Blocked) {
                assert_eq!(
                    ready,
                    [server.pointer()],
                    "the bits are there and the thread sleeps"
                );
                assert_eq!(server.resume(), Ok(()));
            } else {
                assert_eq!((went, ready.len()), (Ok(Went::On), 0));
            }
            assert!(was_notified(&server));
            assert_eq!(server.recv(&endpoint, Deadline::NOW), Err(Error::TimedOut));
        }
    });
}

#[test]
fn of_a_signal_and_a_message_one_wakes_and_the_other_waits() {
    let (server, client, endpoint) = pair();
    let (notification, cpus) = (notification(), Rounds::new());
    let sent = Mutex::new(Ok(Went::On));
    server.bind(&notification).unwrap();
    std::thread::scope(|scope| {
        let _end = End(&cpus);
        scope.spawn(|| {
            cpus.other(|round| {
                client.load(Tag::new(0), [round; 6]);
                *sent.lock().unwrap() = client.send(&endpoint, 0, Deadline::NOW);
            });
        });
        for round in rounds() {
            assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
            let ((), ready) = cpus.this(round, || notification.signal(1));
            assert_eq!(ready, [server.pointer()]);
            assert_eq!(server.resume(), Ok(()));
            let sent = *sent.lock().unwrap();
            if was_notified(&server) {
                assert_eq!(sent, Err(Error::TimedOut));
            } else {
                assert_eq!((sent, server.message().1), (Ok(Went::On), [round; 6]));
                assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
                assert!(was_notified(&server));
            }
            assert_eq!(server.recv(&endpoint, Deadline::NOW), Err(Error::TimedOut));
        }
    });
}
