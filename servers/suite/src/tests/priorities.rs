//! Who waits is served by priority: at endpoints, where both senders and receivers wait, and at notifications.

use abi::Priority;
use abi::info::ThreadState;
use alloc::sync::Arc;
use alloc::vec::Vec;
use rt::thread::{self, JoinHandle};
use rt::{Endpoint, Event, Message, Notification};

use super::probe::{soon, until};
use super::tests;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{fail, must, same};

tests! {
    callers_are_received_by_priority: 40,
    receivers_are_served_by_priority: 40,
    a_signal_wakes_the_highest_waiter: 40,
    a_waiter_whose_priority_changes_changes_its_place: 40,
}

/// Priorities of the waiters, in the order in which they come.
const CAME: [u64; 6] = [8, 3, 9, 8, 1, 9];
/// Their numbers in the order in which they are to be served.
const SERVED: [u64; 6] = [2, 5, 0, 3, 1, 4];

pub(super) fn priority(level: u64) -> Priority {
    Priority::new(level).unwrap_or(Priority::LOWEST)
}

/// A thread for each of [`CAME`], which has come to its wait before the next one is started.
fn waiters<T: Send + 'static>(
    state: ThreadState,
    wait: impl Fn(u64) -> T + Send + Sync + 'static,
) -> rt::Result<Vec<JoinHandle<T>>> {
    let wait = Arc::new(wait);
    let mut all = Vec::new();
    for (number, level) in (0..).zip(CAME) {
        let wait = Arc::clone(&wait);
        let waiter = thread::Builder::new()
            .priority(priority(level))
            .spawn(move || wait(number))?;
        let waits = until("it waits", || {
            Ok(waiter.thread().info()?.state == state as u32)
        });
        if waits.is_err() {
            return Err(abi::Error::TimedOut);
        }
        all.push(waiter);
    }
    Ok(all)
}

/// The next call on an endpoint, which is answered with its own label.
fn serve(endpoint: &Endpoint) -> rt::Result<u64> {
    match endpoint.recv(0, soon())? {
        Event::Message(mut received) => {
            if let Some(reply) = received.reply.take() {
                reply.answer(Message::new(received.label))?;
            }
            Ok(u64::from(received.label))
        }
        Event::Notification(_) => Err(abi::Error::NotSupported),
    }
}

fn callers_are_received_by_priority(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let called = Arc::clone(&endpoint);
    let callers = must!(waiters(ThreadState::Sending, move |number| {
        let answer = called.call(Message::new(number as u32), 0, soon())?;
        Ok::<u64, abi::Error>(u64::from(answer.label))
    }));
    for number in SERVED {
        same!(must!(serve(&endpoint)), number);
    }
    for (number, caller) in (0..).zip(callers) {
        same!(must!(caller.join(soon())), Ok(number));
    }
    Ok(())
}

fn receivers_are_served_by_priority(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let served = Arc::clone(&endpoint);
    let receivers = must!(waiters(ThreadState::Receiving, move |_| serve(&served)));
    for (message, receiver) in (0..).zip(SERVED) {
        must!(endpoint.call(Message::new(message), 0, soon()));
        // None but the one whose turn it was is through.
        let Some(receiver) = receivers.get(receiver as usize) else {
            fail!("there is no receiver {receiver}");
        };
        must!(receiver.wait(soon()));
        let through = receivers.iter().filter(|other| other.is_finished());
        same!(through.count() as u32, message + 1);
    }
    for receiver in receivers {
        must!(must!(receiver.join(soon())));
    }
    Ok(())
}

fn a_signal_wakes_the_highest_waiter(_: &'static World) -> Verdict {
    let notification = Arc::new(must!(Notification::create()));
    let waited = Arc::clone(&notification);
    let all = must!(waiters(ThreadState::Waiting, move |_| waited.wait(soon())));
    let mut bits = [0; CAME.len()];
    for (bit, waiter) in (0..).zip(SERVED) {
        must!(notification.signal(1 << bit));
        bits[waiter as usize] = 1 << bit;
    }
    for (waiter, bits) in all.into_iter().zip(bits) {
        same!(must!(waiter.join(soon())), Ok(bits));
    }
    Ok(())
}

fn a_waiter_whose_priority_changes_changes_its_place(world: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let called = Arc::clone(&endpoint);
    let callers = must!(waiters(ThreadState::Sending, move |number| {
        called
            .call(Message::new(number as u32), 0, soon())
            .map(drop)
    }));
    let change = |number: usize, level: u64| -> Verdict {
        let Some(caller) = callers.get(number) else {
            fail!("there is no caller {number}");
        };
        must!(caller.thread().set_priority(priority(level)));
        until("the change counts", || {
            Ok(u64::from(caller.thread().info()?.priority) == level)
        })
    };
    // The last becomes the first, the first the last; one goes behind another of its new priority, and one stays where it is.
    change(4, 12)?;
    change(2, 0)?;
    change(1, 8)?;
    change(0, 8)?;
    // The priority is seen before the place is another. A CPU that runs a thread afterwards is through with both.
    for cpu in 0..world.cpus {
        let through = thread::Builder::new().cpu(cpu).spawn(|| ());
        must!(must!(through).join(soon()));
    }
    for number in [4, 5, 0, 3, 1, 2] {
        same!(must!(serve(&endpoint)), number);
    }
    for caller in callers {
        must!(must!(caller.join(soon())));
    }
    Ok(())
}
