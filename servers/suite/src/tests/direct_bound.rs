//! Servers that wait for a notification as well, which their calls reach by the direct way: a signal that comes between an answer and the
//! wait behind it is heard, and none takes a call's place.

use abi::{CpuSet, Deadline, Error};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rt::{Endpoint, Event, Message, Notification, Reply, thread};

use super::ipc::soon;
use super::probe::until;
use super::tests;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, fail, must, same};

tests! {
    a_server_hears_signals_and_calls_whatever_comes_first: 60,
    a_server_binds_and_unbinds_between_calls: 40,
}

/// What a call with this label is answered with.
const fn answer(label: u32) -> u32 {
    label.wrapping_mul(3) + 1
}

/// Serves until nobody can call any more, and adds up what bits it hears of.
fn serve(endpoint: &Endpoint, events: &Notification, heard: &AtomicU64) -> Verdict {
    must!(events.bind());
    let mut pending: Option<(Reply, Message)> = None;
    loop {
        match endpoint.serve_next(pending.take(), 0, Deadline::NEVER) {
            Ok(Event::Message(mut received)) => {
                let Some(reply) = received.reply.take() else {
                    fail!("a call came without a reply")
                };
                pending = Some((reply, Message::new(answer(received.label))));
            }
            Ok(Event::Notification(bits)) => {
                heard.fetch_add(bits, Ordering::SeqCst);
            }
            Err(Error::PeerClosed) => break,
            Err(error) => fail!("the server's wait ends with {error}"),
        }
    }
    must!(Notification::unbind());
    Ok(())
}

fn a_server_hears_signals_and_calls_whatever_comes_first(world: &'static World) -> Verdict {
    const SIGNALS: u64 = 300;
    for cpu in 0..world.cpus.min(2) {
        let endpoint = Arc::new(must!(Endpoint::create()));
        let events = Arc::new(must!(Notification::create()));
        let heard = Arc::new(AtomicU64::new(0));
        let calls = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let server = {
            let (endpoint, events, heard) = (
                Arc::clone(&endpoint),
                Arc::clone(&events),
                Arc::clone(&heard),
            );
            let run = move || serve(&endpoint, &events, &heard);
            must!(thread::Builder::new().cpu(cpu).spawn(run))
        };
        let client = {
            let (endpoint, calls, stop) =
                (Arc::clone(&endpoint), Arc::clone(&calls), Arc::clone(&stop));
            let run = move || -> Verdict {
                let mut label = 0;
                while !stop.load(Ordering::Relaxed) {
                    label += 1;
                    let answered = must!(endpoint.call(Message::new(label), 0, Deadline::NEVER));
                    same!(answered.label, answer(label));
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            };
            must!(thread::Builder::new().cpu(cpu).spawn(run))
        };
        let mut sum = 0;
        for round in 0..SIGNALS {
            let bits = 1 << (round % 20);
            sum += bits;
            must!(events.signal(bits));
            // Neither twice nor never, and before the next one, so that no two are one.
            until("the signal is heard", || {
                Ok(heard.load(Ordering::SeqCst) == sum)
            })?;
            if round % 30 == 0 {
                let before = calls.load(Ordering::Relaxed);
                until("calls go on", || {
                    Ok(calls.load(Ordering::Relaxed) > before + 2)
                })?;
            }
        }
        stop.store(true, Ordering::Relaxed);
        must!(client.join(soon()))?;
        same!(heard.load(Ordering::SeqCst), sum);
        // It has the right to receive itself, so that only its end by another's hand is left; but its wait can be moved about before.
        must!(server.thread().set_affinity(&CpuSet::only(world.cpus - 1)));
        must!(events.signal(1));
        until("it hears elsewhere", || {
            Ok(heard.load(Ordering::SeqCst) == sum + 1)
        })?;
        // SAFETY: it waits, and holds nothing but what is counted.
        must!(unsafe { server.thread().kill() });
    }
    Ok(())
}

fn a_server_binds_and_unbinds_between_calls(_: &'static World) -> Verdict {
    const ROUNDS: u32 = 24;
    const CALLS: u32 = 6;
    let endpoints = Arc::new([must!(Endpoint::create()), must!(Endpoint::create())]);
    let theirs = Arc::clone(&endpoints);
    let client = must!(thread::spawn(move || -> Verdict {
        for round in 0..ROUNDS {
            for call in 0..CALLS {
                let label = round * CALLS + call;
                let endpoint = &theirs[round as usize % 2];
                let answered = must!(endpoint.call(Message::new(label), 0, soon()));
                same!((round, answered.label), (round, answer(label)));
            }
        }
        Ok(())
    }));
    let events = must!(Notification::create());
    for round in 0..ROUNDS {
        // Two rounds bound, two not; each at the other endpoint than the last.
        let bound = round / 2 % 2 == 0;
        if bound {
            must!(events.bind());
            if round % 3 == 0 {
                must!(events.signal(8));
            }
        }
        let endpoint = &endpoints[round as usize % 2];
        let mut pending = None;
        let (mut seen, mut bits) = (0, 0);
        while seen < CALLS {
            match must!(endpoint.serve_next(pending.take(), 0, Deadline::NEVER)) {
                Event::Message(mut received) => {
                    same!(received.label, round * CALLS + seen);
                    let Some(reply) = received.reply.take() else {
                        fail!("a call came without a reply")
                    };
                    seen += 1;
                    pending = Some((reply, Message::new(answer(received.label))));
                    if bound && seen == 3 {
                        // Before the next wait: it is heard there, and the answer has gone out.
                        must!(events.signal(4));
                    }
                }
                Event::Notification(came) => bits |= came,
            }
        }
        let Some((reply, message)) = pending else {
            fail!("nobody is owed an answer")
        };
        must!(reply.answer(message));
        let wanted = match (bound, round % 3) {
            (false, _) => 0,
            (true, 0) => 12,
            (true, _) => 4,
        };
        check!(
            bits == wanted,
            "round {round}: heard of {bits:#x}, not {wanted:#x}"
        );
        if bound {
            must!(Notification::unbind());
        }
    }
    must!(client.join(soon()))
}
