//! Waits that end by a deadline or a kill, wherever the thread stands.

use abi::{Deadline, Error, Rights, Tag};

use super::pair;
use crate::ipc::{Endpoint, Notification};
use crate::object::AnyObject;
use crate::schedule::longest_stretch;
use crate::thread::WOKEN_AT_ONCE;
use crate::thread::testing::*;

/// A call that blocks.
type Wait<'a> = &'a dyn Fn() -> Result<Went, Error>;

#[test]
fn each_kind_of_wait_can_be_cancelled_and_leaves_nothing_behind() {
    let (server, client, endpoint) = pair();
    let notification = notification();
    let silent = Program::alone("silent");
    let unanswered = crate::thread::testing::endpoint();
    silent.give_endpoint(&unanswered);
    for error in [Error::TimedOut, Error::Cancelled] {
        client.load(Tag::new(1), [1; 6]);
        client.accept(3);
        let waits: [(&str, Wait<'_>); 6] = [
            ("send", &|| client.send(&endpoint, 0, Deadline::NEVER)),
            ("call", &|| client.call(&endpoint, 0, Deadline::NEVER)),
            ("reply", &|| {
                assert_eq!(silent.recv(&unanswered, Deadline::NEVER), Ok(Went::Blocked));
                let went = client.call(&unanswered, 0, Deadline::NEVER);
                assert_eq!(silent.resume(), Ok(()));
                assert_eq!(client.thread().holder(), Some(silent.pointer()));
                woken();
                went
            }),
            ("receive", &|| client.recv(&unanswered, Deadline::NEVER)),
            ("notification", &|| {
                client.wait(&notification, Deadline::NEVER)
            }),
            ("sleep", &|| client.sleep()),
        ];
        for (name, wait) in waits {
            assert_eq!(wait(), Ok(Went::Blocked), "{name}");
            assert!(client.cancel(error), "{name}");
            assert_eq!(woken(), [client.pointer()], "{name}");
            assert_eq!(client.resume(), Err(error), "{name}");
            assert_eq!(client.reserved(), 0, "{name}");
            // A second one finds nothing to cancel.
            assert!(!client.cancel(error), "{name}");
            client.thread().marks().forget_cancel();
        }
        // Nobody was left in a queue, and bits are not given to the one that left.
        assert_eq!(server.recv(&endpoint, Deadline::NOW), Err(Error::TimedOut));
        assert_eq!(
            silent.recv(&unanswered, Deadline::NOW),
            Err(Error::TimedOut)
        );
        notification.signal(1);
        assert_eq!(server.wait(&notification, Deadline::NOW), Ok(Went::On));
        assert_eq!(silent.reply(silent.reply_handle()), Err(Error::CallerGone));
        assert!(woken().is_empty());
    }
}

#[test]
fn one_in_the_middle_of_a_queue_leaves_it_without_disturbing_the_others() {
    let (server, _, endpoint) = pair();
    let clients: Vec<Program> = (0..3).map(|_| Program::alone("client")).collect();
    for (number, client) in clients.iter().enumerate() {
        client.load(Tag::new(number as u32), [0; 6]);
        assert_eq!(
            client.send(&endpoint, 0, Deadline::NEVER),
            Ok(Went::Blocked)
        );
    }
    assert!(clients[1].cancel(Error::TimedOut));
    for number in [0, 2] {
        assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
        assert_eq!(server.message().0, Tag::new(number));
    }
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Err(Error::TimedOut));
    assert_eq!(
        woken(),
        [1, 0, 2].map(|index: usize| clients[index].pointer())
    );
}

#[test]
fn a_message_that_came_first_wins_over_the_deadline() {
    let (server, client, endpoint) = pair();
    assert_eq!(server.recv(&endpoint, Deadline(1)), Ok(Went::Blocked));
    client.load(Tag::new(5), [5; 6]);
    assert_eq!(client.send(&endpoint, 0, Deadline::NOW), Ok(Went::On));
    // The server is ready but has not run yet when its deadline is looked at.
    assert!(!server.cancel(Error::TimedOut));
    assert_eq!(woken(), [server.pointer()]);
    assert_eq!(
        (server.resume(), server.message()),
        (Ok(()), (Tag::new(5), [5; 6]))
    );
    // The word that was left is forgotten: the next wait is not ended by it.
    let other = crate::thread::testing::endpoint();
    client.give_endpoint(&other);
    assert_eq!(server.call(&other, 0, Deadline::NEVER), Ok(Went::Blocked));
    assert_eq!(client.recv(&other, Deadline::NOW), Ok(Went::On));
    assert!(woken().is_empty() && server.is_blocked());
}

/// Takes a caller out of the endpoint's queue as `receive` does, up to the point where nobody but the receiver knows it.
fn in_transit(client: &Program, endpoint: &Endpoint) {
    client.load(Tag::new(1), [1; 6]);
    assert_eq!(client.call(endpoint, 0, Deadline(1)), Ok(Went::Blocked));
    assert!(endpoint.take_out(client.thread(), client.thread().wait.on()));
}

#[test]
fn a_sender_that_is_cancelled_in_transit_is_woken_by_its_receiver() {
    for error in [Error::TimedOut, Error::Cancelled] {
        let (_server, client, endpoint) = pair();
        in_transit(&client, &endpoint);
        assert!(!client.cancel(error), "the receiver has it in its hands");
        assert!(woken().is_empty());
        let stamp = client.thread().begin_awaiting(client.thread());
        client.pointer().cancel_if_due(stamp, &section());
        assert_eq!(
            (woken(), client.resume()),
            (vec![client.pointer()], Err(error))
        );
        // Once.
        client.pointer().cancel_if_due(stamp, &section());
        assert!(woken().is_empty());
    }
}

#[test]
fn a_sender_that_is_cancelled_after_its_transit_is_woken_by_its_home() {
    let (_server, client, endpoint) = pair();
    in_transit(&client, &endpoint);
    let stamp = client.thread().begin_awaiting(client.thread());
    assert!(client.cancel(Error::TimedOut));
    client.pointer().cancel_if_due(stamp, &section());
    assert_eq!(
        (woken(), client.resume()),
        (vec![client.pointer()], Err(Error::TimedOut))
    );
}

#[test]
fn a_word_left_in_transit_does_not_end_a_later_call() {
    let (_server, client, endpoint) = pair();
    in_transit(&client, &endpoint);
    assert!(!client.cancel(Error::TimedOut));
    let stamp = client.thread().begin_awaiting(client.thread());
    // The server was quick: it answered before the receiver's CPU looked.
    assert!(client.thread().take_awaiting(Some(stamp), None));
    client.thread().set_status(Ok(()));
    crate::schedule::make_ready(client.pointer());
    client.pointer().cancel_if_due(stamp, &section());
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
    in_transit(&client, &endpoint);
    let stamp = client.thread().begin_awaiting(client.thread());
    client.pointer().cancel_if_due(stamp, &section());
    assert!(woken().is_empty() && client.is_blocked());
}

#[test]
fn a_kill_is_kept_when_the_word_of_a_cancelled_wait_is_forgotten() {
    let (_server, client, _) = pair();
    client.thread().marks().kill();
    assert_eq!(client.sleep(), Ok(Went::Blocked));
    assert!(client.cancel(Error::Cancelled));
    client.thread().marks().note_cancel(Error::Cancelled);
    assert_eq!(
        (woken(), client.resume()),
        (vec![client.pointer()], Err(Error::Cancelled))
    );
    assert!(client.thread().marks().is_killed());
}

#[test]
fn a_cancelled_receiver_takes_no_slots_with_it() {
    let (server, client, endpoint) = pair();
    server.accept(4);
    for _ in 0..10_000 {
        assert_eq!(server.recv(&endpoint, Deadline(1)), Ok(Went::Blocked));
        assert!(server.cancel(Error::TimedOut));
        assert_eq!(server.resume(), Err(Error::TimedOut));
    }
    woken();
    assert_eq!((server.reserved(), server.handles()), (0, 1));
    let log = client.give(AnyObject::Log, Rights::ALL);
    client.post(&[log]);
    client.load(Tag::new(0).with_handles(1, 1), [0; 6]);
    assert_eq!(client.send(&endpoint, 0, Deadline(1)), Ok(Went::Blocked));
    assert!(client.cancel(Error::TimedOut));
    // The handle was not taken yet.
    assert_eq!(
        (client.rights(log), client.resume()),
        (Ok(Rights::ALL), Err(Error::TimedOut))
    );
    woken();
}

#[test]
fn a_word_that_was_left_while_a_thread_ran_does_not_end_its_next_call() {
    let (server, client, endpoint) = pair();
    client.thread().marks().note_cancel(Error::Cancelled);
    assert_eq!(
        client.call(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    // On a machine another CPU may be that quick.
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
    assert!(woken().is_empty() && client.is_blocked());
    assert_eq!(server.reply(server.reply_handle()), Ok(()));
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
}

#[test]
fn many_who_wait_for_what_is_closed_are_woken_a_few_at_a_time() {
    const WAITERS: usize = 3 * WOKEN_AT_ONCE + 1;
    type Waits = fn(&Program, &Endpoint, &Notification) -> Result<Went, Error>;
    let waits: [(&str, Waits); 3] = [
        ("to call", |program, endpoint, _| {
            program.call(endpoint, 0, Deadline::NEVER)
        }),
        ("to receive", |program, endpoint, _| {
            program.recv(endpoint, Deadline::NEVER)
        }),
        ("for a signal", |program, _, notification| {
            program.wait(notification, Deadline::NEVER)
        }),
    ];
    for by_end in [false, true] {
        for (name, wait) in waits {
            let (owner, bound) = (Program::alone("owner"), Program::alone("bound"));
            let process = process("many");
            let (endpoint, notification) = (endpoint(), mute_notification());
            let handles = [
                owner.give_endpoint(&endpoint),
                owner.give(AnyObject::Notification(notification.clone()), Rights::ALL),
            ];
            let waiters: Vec<_> = (0..WAITERS).map(|_| Program::new(&process)).collect();
            for waiter in &waiters {
                let went = wait(waiter, &endpoint, &notification);
                assert_eq!(went, Ok(Went::Blocked), "{name}");
            }
            // Who refers to it otherwise keeps nobody waiting.
            assert_eq!(bound.bind(&notification), Ok(()), "{name}");
            longest_stretch();
            if by_end {
                owner.leave();
            } else {
                assert_eq!(handles.map(|handle| owner.close(handle)), [Ok(()); 2]);
            }
            assert_eq!(longest_stretch(), WOKEN_AT_ONCE, "{name}");
            let pointers: Vec<_> = waiters.iter().map(Program::pointer).collect();
            assert_eq!(woken(), pointers, "{name}");
            for waiter in &waiters {
                assert_eq!(waiter.resume(), Err(Error::PeerClosed), "{name}");
            }
            bound.leave();
        }
    }
}
