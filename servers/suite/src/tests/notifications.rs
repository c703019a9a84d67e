//! Notifications: bits that are neither lost nor doubled.

use abi::{Call, Deadline, Error};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::thread::{self};
use rt::{AsHandle as _, Endpoint, Event, Message, Notification, Rights, sys, time};

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
    a_signal_and_a_wait_in_one_call_do_both: 40,
    a_signal_and_a_wait_of_which_one_is_refused_signal_nobody: 40,
    threads_that_signal_each_other_leave_the_cpu_to_their_equals: 40,
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

fn a_signal_and_a_wait_in_one_call_do_both(world: &'static World) -> Verdict {
    const ROUNDS: u64 = 500;
    let (there, back) = (must!(Notification::create()), must!(Notification::create()));
    // With nobody on the other side: the bits stay, and what is there is taken.
    must!(back.signal(0b110));
    same!(there.signal_and_wait(1, &back, soon()), Ok(0b110));
    same!(there.poll(), Ok(1));
    // What it has signalled itself is there at once.
    same!(there.signal_and_wait(9, &there, soon()), Ok(9));
    same!(
        there.signal_and_wait(4, &back, Deadline::NOW),
        Err(Error::TimedOut)
    );
    same!(there.poll(), Ok(4));
    same!(
        there.signal_and_wait(0, &back, time::after(Duration::from_millis(1))),
        Err(Error::TimedOut)
    );
    same!(there.poll(), Ok(0));

    let pair = Arc::new((there, back));
    for cpu in 0..world.cpus {
        let theirs = Arc::clone(&pair);
        let partner = must!(thread::Builder::new().cpu(cpu).spawn(move || {
            let mut came = theirs.0.wait(soon())?;
            for round in 1..ROUNDS {
                if came != round {
                    return Ok(came);
                }
                came = theirs.1.signal_and_wait(round, &theirs.0, soon())?;
            }
            theirs.1.signal(ROUNDS)?;
            Ok::<u64, Error>(came)
        }));
        for round in 1..=ROUNDS {
            same!(pair.0.signal_and_wait(round, &pair.1, soon()), Ok(round));
        }
        same!(must!(partner.join(soon())), Ok(ROUNDS));
    }
    Ok(())
}

fn a_signal_and_a_wait_of_which_one_is_refused_signal_nobody(_: &'static World) -> Verdict {
    let (bell, other) = (must!(Notification::create()), must!(Notification::create()));
    let mute = must!(bell.duplicate(Rights::WAIT));
    let deaf = must!(other.duplicate(Rights::SIGNAL));
    let endpoint = must!(Endpoint::create());
    let now = Deadline::NOW;
    // By the direct way too, which knows both by now.
    must!(other.signal(1));
    same!(bell.signal_and_wait(1, &other, Deadline::NEVER), Ok(1));
    same!(bell.poll(), Ok(1));
    for deadline in [now, Deadline::NEVER] {
        same!(
            mute.signal_and_wait(1, &other, deadline),
            Err(Error::NoRight)
        );
        same!(
            bell.signal_and_wait(1, &deaf, deadline),
            Err(Error::NoRight)
        );
        for (signalled, awaited, error) in [
            (bell.handle(), endpoint.handle(), Error::WrongObject),
            (endpoint.handle(), other.handle(), Error::WrongObject),
            (bell.handle(), abi::Handle(0), Error::BadHandle),
            (abi::Handle(u64::MAX), other.handle(), Error::BadHandle),
        ] {
            // SAFETY: touches no memory.
            let (status, _) = unsafe { sys::signal_wait(signalled.0, 1, awaited.0, deadline.0) };
            same!(status, error as u64);
        }
        same!(bell.poll(), Ok(0));
    }
    same!(other.poll(), Ok(0));
    Ok(())
}

/// Two that hand the CPU to each other without end do so on one turn, as one thread would: a third of their priority gets its turns.
fn threads_that_signal_each_other_leave_the_cpu_to_their_equals(_: &'static World) -> Verdict {
    let pair = Arc::new((must!(Notification::create()), must!(Notification::create())));
    let over = Arc::new(AtomicBool::new(false));
    let counted = Arc::new(AtomicU64::new(0));
    let both = [false, true].map(|first| {
        let (pair, over, counted) = (Arc::clone(&pair), Arc::clone(&over), Arc::clone(&counted));
        thread::Builder::new().cpu(0).spawn(move || {
            let (ours, theirs) = if first {
                (&pair.0, &pair.1)
            } else {
                (&pair.1, &pair.0)
            };
            if first {
                ours.wait(soon())?;
            }
            while !over.load(Ordering::Acquire) {
                counted.fetch_add(1, Ordering::Relaxed);
                theirs.signal_and_wait(1, ours, Deadline::NEVER)?;
            }
            theirs.signal(1)
        })
    });
    let seen = Arc::clone(&counted);
    // It never waits: so whenever the two have gone on, they had a turn between two of its own.
    let third = must!(thread::Builder::new().cpu(0).spawn(move || {
        for _ in 0..3 {
            let before = seen.load(Ordering::Relaxed);
            while seen.load(Ordering::Relaxed) == before {
                core::hint::spin_loop();
            }
        }
        over.store(true, Ordering::Release);
    }));
    must!(third.join(soon()));
    for one in both {
        must!(must!(must!(one).join(soon())));
    }
    Ok(())
}
