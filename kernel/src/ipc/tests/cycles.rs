//! Calls that would wait for themselves.

use abi::report::label;
use abi::{Badge, Deadline, Error};

use crate::ipc::cycle::{MOST_THREADS, walk};
use crate::ipc::{Endpoint, Flow};
use crate::object::Ref;
use crate::thread::testing::*;

const NEVER: Deadline = Deadline::NEVER;

/// A server that has received at an endpoint of its own, and is at work for a caller.
fn server() -> (Program, Ref<Endpoint>, Program) {
    let (server, client, endpoint) = super::pair();
    assert_eq!(server.recv_to_hold(&endpoint, NEVER), Ok(Went::Blocked));
    call(&client, &server, &endpoint);
    (server, endpoint, client)
}

fn call(client: &Program, server: &Program, endpoint: &Endpoint) {
    assert_eq!(client.call(endpoint, 0, NEVER), Ok(Went::Blocked));
    assert_eq!((woken(), server.resume()), (vec![server.pointer()], Ok(())));
}

#[test]
fn a_server_that_calls_itself_is_refused() {
    let (server, endpoint, client) = server();
    for deadline in [NEVER, Deadline(1)] {
        assert_eq!(server.call(&endpoint, 0, deadline), Err(Error::Deadlock));
        assert_eq!(server.send(&endpoint, 0, deadline), Err(Error::Deadlock));
    }
    assert_eq!(
        server.call(&endpoint, 0, Deadline::NOW),
        Err(Error::TimedOut)
    );
    // It can still do its work, and nothing of it is in the queue.
    assert_eq!(server.reply(server.reply_handle()), Ok(()));
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Err(Error::TimedOut));
}

#[test]
fn a_circle_of_queues_is_refused_to_the_last_of_it() {
    for length in 2..6 {
        let servers: Vec<_> = (0..length).map(|_| server()).collect();
        let replies: Vec<_> = servers
            .iter()
            .map(|(server, ..)| server.reply_handle())
            .collect();
        for (number, (server, ..)) in servers.iter().enumerate() {
            let next = &servers[(number + 1) % length].1;
            let went = server.call(next, 0, NEVER);
            let closes = number == length - 1;
            assert_eq!(
                went,
                if closes {
                    Err(Error::Deadlock)
                } else {
                    Ok(Went::Blocked)
                }
            );
        }
        // It gives way, and all go on.
        for ((server, endpoint, client), reply) in servers.iter().zip(replies).rev() {
            assert_eq!(server.reply(reply), Ok(()));
            assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
            if server.recv(endpoint, Deadline::NOW) == Ok(Went::On) {
                assert_eq!(server.reply(server.reply_handle()), Ok(()));
                let [woken] = woken()[..] else {
                    panic!("one is answered")
                };
                let caller = servers.iter().find(|(other, ..)| other.pointer() == woken);
                assert_eq!(caller.map(|(caller, ..)| caller.resume()), Some(Ok(())));
            }
        }
    }
}

#[test]
fn a_circle_over_calls_that_were_received_is_refused() {
    let (first, first_endpoint, _client) = server();
    let (second, second_endpoint, _other) = server();
    assert_eq!(second.reply(second.reply_handle()), Ok(()));
    woken();
    assert_eq!(
        second.recv_to_hold(&second_endpoint, NEVER),
        Ok(Went::Blocked)
    );
    call(&first, &second, &second_endpoint);
    assert_eq!(second.call(&first_endpoint, 0, NEVER), Err(Error::Deadlock));
    // Somebody else may wait there: nobody waits for that one.
    let outside = Program::alone("outside");
    assert_eq!(outside.call(&first_endpoint, 0, NEVER), Ok(Went::Blocked));
    assert!(outside.cancel(Error::TimedOut));
    woken();
}

#[test]
fn what_several_serve_closes_no_circle() {
    let (first, first_endpoint, _client) = server();
    let second = Program::new(first.process());
    assert_eq!(
        second.recv(&first_endpoint, Deadline::NOW),
        Err(Error::TimedOut)
    );
    assert_eq!(first.call(&first_endpoint, 0, NEVER), Ok(Went::Blocked));
    assert_eq!(second.recv(&first_endpoint, NEVER), Ok(Went::On));
    assert_eq!(second.reply(second.reply_handle()), Ok(()));
    assert_eq!((woken(), first.resume()), (vec![first.pointer()], Ok(())));
    // When the other is gone it serves alone again.
    second.leave();
    assert_eq!(first.call(&first_endpoint, 0, NEVER), Err(Error::Deadlock));
}

#[test]
fn a_chain_that_is_too_long_is_refused_as_well() {
    let servers: Vec<_> = (0..=MOST_THREADS).map(|_| server()).collect();
    for two in servers.windows(2) {
        let went = two[1].0.call(&two[0].1, 0, NEVER);
        assert_eq!(went, Ok(Went::Blocked));
    }
    let (_, last, _) = servers.last().unwrap();
    let outside = Program::alone("outside");
    assert_eq!(outside.call(last, 0, NEVER), Err(Error::Deadlock));
    let (_, middle, _) = &servers[MOST_THREADS / 2];
    assert_eq!(outside.call(middle, 0, NEVER), Ok(Went::Blocked));
    for program in servers.iter().map(|(server, ..)| server).chain([&outside]) {
        program.cancel(Error::Cancelled);
    }
    woken();
}

#[test]
fn a_reply_that_is_kept_for_another_thread_closes_no_circle() {
    let (first, first_endpoint, _client) = server();
    let (dispatcher, endpoint, other) = server();
    let worker = Program::new(dispatcher.process());
    assert_eq!(dispatcher.reply(dispatcher.reply_handle()), Ok(()));
    assert_eq!((woken(), other.resume()), (vec![other.pointer()], Ok(())));
    assert_eq!(dispatcher.recv_to_hold(&endpoint, NEVER), Ok(Went::Blocked));
    call(&first, &dispatcher, &endpoint);
    // It would wait for who waits for it, if there were not the other thread.
    let reply = dispatcher.reply_handle();
    assert_eq!(
        dispatcher.recv_to_hold(&endpoint, Deadline::NOW),
        Err(Error::TimedOut)
    );
    assert_eq!(
        dispatcher.call(&first_endpoint, 0, NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(worker.reply(reply), Ok(()));
    assert_eq!((woken(), first.resume()), (vec![first.pointer()], Ok(())));
    assert!(dispatcher.cancel(Error::Cancelled));
    woken();
}

#[test]
fn a_report_is_refused_by_no_circle() {
    let (faulty, faulty_endpoint, _client) = server();
    let (handler, reports, _other) = server();
    // The handler gives up some time, and sees to the report then.
    assert_eq!(
        handler.call(&faulty_endpoint, 0, Deadline(1)),
        Ok(Went::Blocked)
    );
    faulty.thread().reporting.begin(label::FAULT);
    let flow = reports.send(faulty.thread(), Badge(0), true, NEVER);
    assert_eq!(flow, Ok(Flow::Block));
    assert!(handler.cancel(Error::TimedOut));
    assert_eq!(
        (woken(), handler.resume()),
        (vec![handler.pointer()], Err(Error::TimedOut))
    );
    assert!(faulty.cancel(Error::Cancelled));
    woken();
}

#[test]
fn a_circle_is_seen_while_somebody_looks_at_a_thread_in_it() {
    let (first, first_endpoint, _client) = server();
    let (second, second_endpoint, other) = server();
    assert_eq!(second.reply(second.reply_handle()), Ok(()));
    assert_eq!((woken(), other.resume()), (vec![other.pointer()], Ok(())));
    assert_eq!(
        second.recv_to_hold(&second_endpoint, NEVER),
        Ok(Went::Blocked)
    );
    call(&first, &second, &second_endpoint);
    let (_, stamp) = second.thread().held.own(second.reply_handle()).unwrap();
    let walk = || walk(second.thread(), &first_endpoint, &section());
    let seen = walk();
    assert!(seen.is_some());
    assert_eq!(
        first.thread().while_awaiting(stamp, || Ok(walk())),
        Ok(seen)
    );
    assert!(first.cancel(Error::Cancelled));
    woken();
}
