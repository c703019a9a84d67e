//! Notifications: bits that are neither lost nor doubled.

use abi::{Call, Deadline, Error};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use rt::thread::{self};
use rt::{Endpoint, Event, Message, Notification, sys, time};

use super::ipc::soon;
use super::tests;
use crate::kernel_calls::call;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{must, same};

tests! {
    bound_notification_wakes_a_receive: 40,
    notification_bits_gather_until_taken: 40,
    signal_before_the_wait_is_not_lost: 40,
    notification_that_is_closed_wakes_its_waiter: 40,
}

fn bound_notification_wakes_a_receive(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let notification = Arc::new(must!(Notification::create()));
    let (ours, bound) = (Arc::clone(&endpoint), Arc::clone(&notification));
    let server = must!(thread::spawn(move || {
        bound.bind()?;
        let mut bits = 0;
        let mut messages = 0;
        while bits != 0x1FF || messages < 50 {
            match ours.recv(0, soon())? {
                Event::Notification(more) => bits |= more,
                Event::Message(mut received) => {
                    messages += 1;
                    if let Some(reply) = received.reply.take() {
                        reply.answer(Message::new(0))?;
                    }
                }
            }
        }
        Notification::unbind()?;
        Ok::<(), Error>(())
    }));
    for round in 0..50 {
        if round % 6 == 0 {
            must!(notification.signal(1 << (round / 6)));
        }
        must!(endpoint.call(Message::new(1), 0, soon()));
    }
    must!(must!(server.join(soon())));
    // It is free again, for one thread.
    must!(notification.bind());
    let again = Arc::clone(&notification);
    let other = must!(thread::spawn(move || again.bind()));
    same!(must!(other.join(soon())), Err(Error::Busy));
    must!(Notification::unbind());
    Ok(())
}

fn notification_bits_gather_until_taken(_: &'static World) -> Verdict {
    let notification = must!(Notification::create());
    for bits in [1, 1, 1 << 63, 0, 0b1010] {
        must!(notification.signal(bits));
    }
    same!(notification.wait(soon()), Ok(1 | 1 << 63 | 0b1010));
    same!(notification.wait(Deadline::NOW), Err(Error::TimedOut));
    must!(notification.signal(0));
    same!(notification.wait(Deadline::NOW), Err(Error::TimedOut));
    Ok(())
}

fn signal_before_the_wait_is_not_lost(world: &'static World) -> Verdict {
    const ROUNDS: u64 = 500;
    let there = Arc::new(must!(Notification::create()));
    let back = Arc::new(must!(Notification::create()));
    let (theirs, ours) = (Arc::clone(&there), Arc::clone(&back));
    let partner = must!(thread::Builder::new().cpu(world.cpus - 1).spawn(move || {
        for _ in 0..ROUNDS {
            theirs.wait(soon())?;
            ours.signal(1)?;
        }
        Ok::<(), Error>(())
    }));
    for round in 0..ROUNDS {
        must!(there.signal(1));
        if round % 7 == 0 {
            thread::yield_now();
        }
        must!(back.wait(soon()));
    }
    must!(must!(partner.join(soon())));
    Ok(())
}

fn notification_that_is_closed_wakes_its_waiter(_: &'static World) -> Verdict {
    let notification = must!(Notification::create());
    let raw = notification.into_handle().into_raw();
    let waiting = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&waiting);
    let waiter = must!(thread::spawn(move || {
        told.store(true, Ordering::Release);
        let deadline = soon().0;
        // SAFETY: touches no memory.
        unsafe { sys::raw(Call::Wait as u64, [raw.0, 0, 0, 0, 0, 0], deadline) }.status
    }));
    while !waiting.load(Ordering::Acquire) {
        thread::yield_now();
    }
    must!(time::sleep(Duration::from_millis(20)));
    must!(call(Call::HandleClose, &[raw.0]));
    same!(must!(waiter.join(soon())), Error::PeerClosed as u64);
    Ok(())
}
