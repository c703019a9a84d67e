//! Bits that are signalled, waited for, and received beside messages.

use abi::register::{RECEIVED_MESSAGE, RECEIVED_NOTIFICATION};
use abi::{Deadline, Error, Handle, Tag};

use super::pair;
use crate::ipc::WaitOn;
use crate::object::Object;
use crate::thread::testing::*;

fn bits(program: &Program) -> u64 {
    program.thread().registers().rdx
}

fn kind(program: &Program) -> u64 {
    program.thread().registers().r14
}

#[test]
fn bits_are_gathered_until_somebody_takes_them_all() {
    let (program, notification) = (Program::alone("waiter"), notification());
    notification.signal(0b001);
    notification.signal(0b100);
    notification.signal(0b100);
    notification.signal(0);
    assert_eq!(program.wait(&notification, Deadline::NOW), Ok(Went::On));
    assert_eq!(bits(&program), 0b101);
    assert_eq!(
        program.wait(&notification, Deadline::NOW),
        Err(Error::TimedOut)
    );
    notification.signal(u64::MAX);
    assert_eq!(program.wait(&notification, Deadline::NEVER), Ok(Went::On));
    assert_eq!(bits(&program), u64::MAX);
    assert!(woken().is_empty());
}

#[test]
fn a_signal_wakes_one_waiter_in_order() {
    let notification = notification();
    let waiters: Vec<Program> = (0..3).map(|_| Program::alone("waiter")).collect();
    for waiter in &waiters {
        assert_eq!(
            waiter.wait(&notification, Deadline::NEVER),
            Ok(Went::Blocked)
        );
    }
    notification.signal(0);
    assert!(woken().is_empty());
    for (number, waiter) in waiters.iter().enumerate() {
        notification.signal(1 << number);
        assert_eq!((woken(), waiter.resume()), (vec![waiter.pointer()], Ok(())));
        assert_eq!(bits(waiter), 1 << number);
    }
    // With nobody left the bits stay.
    notification.signal(8);
    assert_eq!(
        (
            waiters[0].wait(&notification, Deadline::NOW),
            bits(&waiters[0])
        ),
        (Ok(Went::On), 8)
    );
}

#[test]
fn a_bound_thread_is_woken_out_of_its_receive() {
    let (server, client, endpoint) = pair();
    let notification = notification();
    assert_eq!(server.bind(&notification), Ok(()));
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    notification.signal(0b11);
    assert_eq!((woken(), server.resume()), (vec![server.pointer()], Ok(())));
    assert_eq!(
        (
            kind(&server),
            bits(&server),
            server.reply_handle(),
            server.badge()
        ),
        (RECEIVED_NOTIFICATION, 3, Handle::NONE, 0)
    );
    assert_eq!((server.message().0, server.reserved()), (Tag(0), 0));
    // It is out of the endpoint's queue: a caller waits for the next receive.
    client.load(Tag::new(1), [1; 6]);
    assert_eq!(
        client.call(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert!(woken().is_empty());
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
    assert_eq!(
        (kind(&server), server.message()),
        (RECEIVED_MESSAGE, (Tag::new(1), [1; 6]))
    );
}

#[test]
fn bits_that_are_there_come_before_messages_that_wait() {
    let (server, client, endpoint) = pair();
    let notification = notification();
    assert_eq!(server.bind(&notification), Ok(()));
    client.load(Tag::new(1), [1; 6]);
    assert_eq!(
        client.send(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    notification.signal(4);
    assert!(woken().is_empty());
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
    assert_eq!((kind(&server), bits(&server)), (RECEIVED_NOTIFICATION, 4));
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
    assert_eq!(
        (kind(&server), server.message()),
        (RECEIVED_MESSAGE, (Tag::new(1), [1; 6]))
    );
    assert_eq!(woken(), [client.pointer()]);
}

#[test]
fn bits_that_come_while_the_bound_thread_runs_or_waits_elsewhere_stay() {
    let (server, client, endpoint) = pair();
    let (bound, other) = (notification(), notification());
    assert_eq!(server.bind(&bound), Ok(()));
    bound.signal(1);
    assert!(woken().is_empty());
    // It waits for another notification, sleeps, or calls: that is no receive.
    let elsewhere = endpoint_of(&client);
    let waits: [&dyn Fn() -> Result<Went, Error>; 3] = [
        &|| server.wait(&other, Deadline::NEVER),
        &|| server.sleep(),
        &|| {
            server.load(Tag::new(0), [0; 6]);
            server.call(&elsewhere, 0, Deadline::NEVER)
        },
    ];
    for wait in waits {
        assert_eq!(wait(), Ok(Went::Blocked));
        bound.signal(2);
        assert!(woken().is_empty());
        assert!(server.cancel(Error::Cancelled));
        assert_eq!(
            (woken(), server.resume()),
            (vec![server.pointer()], Err(Error::Cancelled))
        );
    }
    // Its receive has just been ended by a message: the message is what it gets, the bits come with the next receive.
    assert_eq!(
        server.recv(&endpoint, Deadline::NOW).map(|_| bits(&server)),
        Ok(3)
    );
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    client.load(Tag::new(9), [9; 6]);
    assert_eq!(client.send(&endpoint, 0, Deadline::NOW), Ok(Went::On));
    bound.signal(16);
    assert_eq!((woken(), server.resume()), (vec![server.pointer()], Ok(())));
    assert_eq!(
        (kind(&server), server.message()),
        (RECEIVED_MESSAGE, (Tag::new(9), [9; 6]))
    );
    assert_eq!(
        server.recv(&endpoint, Deadline::NOW).map(|_| bits(&server)),
        Ok(16)
    );
}

fn endpoint_of(program: &Program) -> crate::object::Ref<crate::ipc::Endpoint> {
    let endpoint = endpoint();
    program.give_endpoint(&endpoint);
    endpoint
}

#[test]
fn the_race_of_a_signal_with_a_message_keeps_the_bits() {
    // What `signal` sees when a message takes the thread between the look at its wait and the endpoint's lock.
    let (server, client, endpoint) = pair();
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    let seen = server.thread().wait.on();
    assert_eq!(seen, WaitOn::Receiving(endpoint.as_ptr()));
    client.load(Tag::new(1), [1; 6]);
    assert_eq!(client.send(&endpoint, 0, Deadline::NOW), Ok(Went::On));
    assert!(!endpoint.take_out(server.thread(), seen));
    assert_eq!((woken(), server.resume()), (vec![server.pointer()], Ok(())));
}

#[test]
fn a_notification_is_bound_to_one_thread_until_it_is_unbound() {
    let (server, client, endpoint) = pair();
    let notification = notification();
    assert_eq!(server.bind(&notification), Ok(()));
    assert_eq!(client.bind(&notification), Err(Error::Busy));
    assert!(client.thread().bound().is_none());
    server.unbind();
    notification.signal(1);
    // Unbound, the receive waits in spite of the bits, and a signal does not end it.
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    notification.signal(2);
    assert!(woken().is_empty());
    assert_eq!(client.bind(&notification), Ok(()));
    client.give_endpoint(&endpoint);
    assert_eq!(
        client.recv(&endpoint, Deadline::NOW).map(|_| bits(&client)),
        Ok(3)
    );
    // A thread that ends gives it free.
    client.leave();
    woken();
    let third = Program::alone("third");
    assert_eq!(third.bind(&notification), Ok(()));
}

#[test]
fn a_waiter_comes_before_the_bound_thread() {
    let (server, client, endpoint) = pair();
    let notification = notification();
    assert_eq!(server.bind(&notification), Ok(()));
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    assert_eq!(
        client.wait(&notification, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    notification.signal(1);
    assert_eq!(
        (woken(), client.resume(), bits(&client)),
        (vec![client.pointer()], Ok(()), 1)
    );
    notification.signal(2);
    assert_eq!(
        (woken(), server.resume(), bits(&server)),
        (vec![server.pointer()], Ok(()), 2)
    );
}

#[test]
fn the_end_of_a_notification_wakes_its_waiters_with_an_error() {
    let notification = notification();
    let waiters: Vec<Program> = (0..2).map(|_| Program::alone("waiter")).collect();
    for waiter in &waiters {
        assert_eq!(
            waiter.wait(&notification, Deadline::NEVER),
            Ok(Went::Blocked)
        );
    }
    drop(notification);
    assert_eq!(woken(), [waiters[0].pointer(), waiters[1].pointer()]);
    assert!(
        waiters
            .iter()
            .all(|waiter| waiter.resume() == Err(Error::PeerClosed))
    );
}

#[test]
fn nobody_begins_to_wait_for_a_notification_that_is_gone() {
    let (program, notification) = (Program::alone("late"), notification());
    notification.signal(1);
    // Its last handle was closed after the thread had looked it up.
    notification.last_reference();
    assert_eq!(
        program
            .wait(&notification, Deadline::NEVER)
            .map(|_| bits(&program)),
        Ok(1)
    );
    assert_eq!(
        program.wait(&notification, Deadline::NEVER),
        Err(Error::PeerClosed)
    );
    assert_eq!(
        program.wait(&notification, Deadline::NOW),
        Err(Error::PeerClosed)
    );
}
