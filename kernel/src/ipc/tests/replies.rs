//! The one-shot right to answer: used once, dropped, stale.

use abi::{Deadline, Error, Handle, Rights, Tag};

use super::pair;
use crate::ipc::Endpoint;
use crate::object::AnyObject;
use crate::thread::testing::*;

/// The client calls, the server receives; gives the reply handle.
fn received(server: &Program, client: &Program, endpoint: &Endpoint) -> Handle {
    client.load(Tag::new(1), [1; 6]);
    assert_eq!(client.call(endpoint, 0, Deadline::NEVER), Ok(Went::Blocked));
    assert_eq!(server.recv(endpoint, Deadline::NEVER), Ok(Went::On));
    server.load(Tag::new(2), [2; 6]);
    server.reply_handle()
}

#[test]
fn a_dropped_reply_is_an_error_for_the_caller() {
    let (server, client, endpoint) = pair();
    let reply = received(&server, &client, &endpoint);
    assert_eq!(server.close(reply), Ok(()));
    assert_eq!(
        (woken(), client.resume()),
        (vec![client.pointer()], Err(Error::NoReply))
    );
    assert_eq!(server.close(reply), Err(Error::BadHandle));
    assert!(woken().is_empty());
}

#[test]
fn a_reply_is_used_once() {
    let (server, client, endpoint) = pair();
    let reply = received(&server, &client, &endpoint);
    assert_eq!(server.reply(reply), Ok(()));
    assert_eq!(server.reply(reply), Err(Error::BadHandle));
    assert_eq!(woken(), [client.pointer()]);
    assert_eq!(client.resume(), Ok(()));
}

#[test]
fn what_is_no_reply_answers_nobody() {
    let (server, client, endpoint) = pair();
    received(&server, &client, &endpoint);
    let log = server.give(AnyObject::Log, Rights::ALL);
    assert_eq!(server.reply(log), Err(Error::WrongObject));
    for bad in [Handle::NONE, Handle(u64::MAX), Handle::new(999, 1)] {
        assert_eq!(server.reply(bad), Err(Error::BadHandle));
    }
    assert_eq!(server.rights(log), Ok(Rights::ALL));
    assert!(woken().is_empty() && client.is_blocked());
}

#[test]
fn a_reply_to_a_caller_that_gave_up_says_so_and_is_gone() {
    let (server, client, endpoint) = pair();
    let reply = received(&server, &client, &endpoint);
    assert!(client.cancel(Error::TimedOut));
    assert_eq!(
        (woken(), client.resume()),
        (vec![client.pointer()], Err(Error::TimedOut))
    );
    // An error that was not there before this call leaves no trace in the caller's registers.
    assert_eq!(server.reply(reply), Err(Error::CallerGone));
    assert_eq!(server.reply(reply), Err(Error::BadHandle));
    assert_eq!(client.message(), (Tag::new(1), [1; 6]));
    assert!(woken().is_empty());
    assert_eq!(server.handles(), 1);
}

#[test]
fn a_stale_reply_never_answers_a_later_call() {
    let (server, client, endpoint) = pair();
    let stale = received(&server, &client, &endpoint);
    assert!(client.cancel(Error::TimedOut));
    assert_eq!(client.resume(), Err(Error::TimedOut));
    let fresh = received(&server, &client, &endpoint);
    woken();
    assert_eq!(server.reply(stale), Err(Error::CallerGone));
    assert!(woken().is_empty() && client.is_blocked());
    // Nor does its end wake the caller.
    let third = received(&server, &Program::alone("third"), &endpoint);
    assert_eq!(server.close(third), Ok(()));
    woken();
    assert!(client.is_blocked());
    assert_eq!(server.reply(fresh), Ok(()));
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
}

#[test]
fn a_stale_reply_that_is_closed_does_not_disturb_a_later_call() {
    let (server, client, endpoint) = pair();
    let stale = received(&server, &client, &endpoint);
    assert!(client.cancel(Error::Cancelled));
    assert_eq!(client.resume(), Err(Error::Cancelled));
    woken();
    let fresh = received(&server, &client, &endpoint);
    assert_eq!(server.close(stale), Ok(()));
    assert!(woken().is_empty() && client.is_blocked());
    assert_eq!(server.reply(fresh), Ok(()));
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
}

#[test]
fn replies_may_be_given_in_any_order() {
    let (server, _, endpoint) = pair();
    let clients: Vec<Program> = (0..4).map(|_| Program::alone("client")).collect();
    let replies: Vec<Handle> = clients
        .iter()
        .map(|client| received(&server, client, &endpoint))
        .collect();
    for index in [2, 0, 3, 1] {
        server.load(Tag::new(index as u32), [index as u64; 6]);
        assert_eq!(server.reply(replies[index]), Ok(()));
        assert_eq!(
            (woken(), clients[index].resume()),
            (vec![clients[index].pointer()], Ok(()))
        );
        assert_eq!(
            clients[index].message(),
            (Tag::new(index as u32), [index as u64; 6])
        );
    }
    assert_eq!(server.handles(), 1);
}

#[test]
fn the_end_of_the_server_is_an_error_for_those_who_wait_for_its_answer() {
    let (server, client, endpoint) = pair();
    let waiting = Program::alone("waiting");
    received(&server, &client, &endpoint);
    waiting.load(Tag::new(1), [1; 6]);
    assert_eq!(
        waiting.call(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    server.leave();
    // One was received and one was not: each hears of it once, with its own error.
    let mut ready = woken();
    ready.sort_by_key(|thread| thread.get().id());
    assert_eq!(ready, [client.pointer(), waiting.pointer()]);
    assert_eq!(
        (client.resume(), waiting.resume()),
        (Err(Error::NoReply), Err(Error::PeerClosed))
    );
}

#[test]
fn reply_recv_goes_on_when_the_caller_gave_up() {
    let (server, client, endpoint) = pair();
    let reply = received(&server, &client, &endpoint);
    assert!(client.cancel(Error::TimedOut));
    assert_eq!(client.resume(), Err(Error::TimedOut));
    woken();
    assert_eq!(
        server.reply_recv(reply, &endpoint, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!((server.handles(), server.reserved()), (1, 1));
}

#[test]
fn a_call_to_an_endpoint_that_nobody_serves_yet_ends_by_its_deadline_only() {
    // It has never received there, so somebody else may.
    let (server, _, endpoint) = pair();
    server.load(Tag::new(0), [0; 6]);
    assert_eq!(server.call(&endpoint, 0, Deadline(1)), Ok(Went::Blocked));
    assert!(woken().is_empty());
    assert!(server.cancel(Error::TimedOut));
    assert_eq!(
        (woken(), server.resume()),
        (vec![server.pointer()], Err(Error::TimedOut))
    );
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Err(Error::TimedOut));
}
