//! A supervisor ends the wait in which a thread is, and no other.

use abi::Error;
use abi::info::ThreadState;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use rt::thread;
use rt::{Deadline, Endpoint, Event, Message, Notification, time};

use super::probe::{soon, until};
use super::tests;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{must, same};

tests! {
    each_kind_of_wait_can_be_cancelled: 60,
    who_waits_for_nothing_is_not_cancelled_later: 40,
    an_answer_to_a_cancelled_call_finds_nobody: 40,
}

/// A wait, and how it is shown.
type Wait = (ThreadState, Box<dyn FnOnce() -> rt::Result<()> + Send>);

fn each_kind_of_wait_can_be_cancelled(world: &'static World) -> Verdict {
    let unserved = Arc::new(must!(Endpoint::create()));
    let silent = Arc::new(must!(Endpoint::create()));
    let notification = Arc::new(must!(Notification::create()));
    let (end, ends) = (Arc::clone(&notification), Arc::clone(&silent));
    // It receives calls, keeps their replies, and answers none.
    let silence = must!(thread::spawn(move || {
        let mut kept = alloc::vec::Vec::new();
        while let Event::Message(received) = ends.recv(0, Deadline::NEVER)? {
            if received.label == 9 {
                return Ok(());
            }
            kept.push(received.reply);
        }
        Err(Error::NotSupported)
    }));
    let sleeper = Arc::new(must!(thread::spawn(move || end
        .wait(Deadline::NEVER)
        .map(drop))));
    for cpu in [0, world.cpus - 1] {
        for deadline in [Deadline::NEVER, time::after(Duration::from_hours(1))] {
            let (to_send, to_call, to_serve) = (
                Arc::clone(&unserved),
                Arc::clone(&unserved),
                Arc::clone(&silent),
            );
            let (to_signal, other) = (Arc::clone(&notification), Arc::clone(&sleeper));
            let own = must!(Endpoint::create());
            let waits: [Wait; 7] = [
                (
                    ThreadState::Sending,
                    Box::new(move || to_send.send(Message::new(1), deadline)),
                ),
                (
                    ThreadState::Sending,
                    Box::new(move || to_call.call(Message::new(1), 0, deadline).map(drop)),
                ),
                (
                    ThreadState::AwaitingReply,
                    Box::new(move || to_serve.call(Message::new(1), 0, deadline).map(drop)),
                ),
                (
                    ThreadState::Receiving,
                    Box::new(move || own.recv(0, deadline).map(drop)),
                ),
                (
                    ThreadState::Waiting,
                    Box::new(move || to_signal.wait(deadline).map(drop)),
                ),
                (
                    ThreadState::Sleeping,
                    Box::new(|| time::sleep(Duration::from_hours(1))),
                ),
                (
                    ThreadState::Joining,
                    Box::new(move || other.thread().join(deadline).map(drop)),
                ),
            ];
            for (state, wait) in waits {
                let waiter = must!(thread::Builder::new().cpu(cpu).spawn(wait));
                until(state.text(), || {
                    Ok(waiter.thread().info()?.state == state as u32)
                })?;
                must!(waiter.thread().cancel());
                same!(must!(waiter.join(soon())), Err(Error::Cancelled));
            }
        }
    }
    // Nobody is left in the queues, and the bits are for who waits still.
    same!(unserved.recv(0, Deadline::NOW).err(), Some(Error::TimedOut));
    must!(silent.send(Message::new(9), soon()));
    must!(must!(silence.join(soon())));
    must!(notification.signal(1));
    must!(sleeper.wait(soon()));
    Ok(())
}

fn who_waits_for_nothing_is_not_cancelled_later(world: &'static World) -> Verdict {
    let go = Arc::new(AtomicBool::new(false));
    let notification = Arc::new(must!(Notification::create()));
    let (goes, waits) = (Arc::clone(&go), Arc::clone(&notification));
    let runs = must!(thread::Builder::new().cpu(world.cpus - 1).spawn(move || {
        while !goes.load(Ordering::Acquire) {
            thread::yield_now();
        }
        waits.wait(soon())
    }));
    for _ in 0..20 {
        same!(runs.thread().cancel(), Err(Error::WrongState));
    }
    go.store(true, Ordering::Release);
    until("it waits", || {
        Ok(runs.thread().info()?.state == ThreadState::Waiting as u32)
    })?;
    must!(notification.signal(5));
    let ended = must!(rt::Thread::current());
    same!(ended.cancel(), Err(Error::WrongState));
    let (result, bits) = (runs.wait(soon()), 5);
    must!(result);
    until("it has ended", || {
        Ok(runs.thread().info()?.state == ThreadState::Ended as u32)
    })?;
    same!(runs.thread().cancel(), Err(Error::Ended));
    same!(must!(runs.join(soon())), Ok(bits));
    Ok(())
}

fn an_answer_to_a_cancelled_call_finds_nobody(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let called = Arc::clone(&endpoint);
    let caller = must!(thread::spawn(move || called
        .call(Message::new(1), 0, Deadline::NEVER)
        .map(drop)));
    let Event::Message(mut received) = must!(endpoint.recv(0, soon())) else {
        crate::fail!("it was no message");
    };
    must!(caller.thread().cancel());
    same!(must!(caller.join(soon())), Err(Error::Cancelled));
    if let Some(reply) = received.reply.take() {
        same!(reply.answer(Message::new(2)), Err(Error::CallerGone));
    }
    Ok(())
}
