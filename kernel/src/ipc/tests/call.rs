//! Calls, sends and answers between two or three threads, in either order of arrival.

use abi::{Deadline, Error, Handle, Tag};

use crate::thread::testing::*;

const WORDS: [u64; 6] = [1, u64::MAX, 3, 4, 5, 6];
const ANSWER: [u64; 6] = [60, 50, 40, 30, 20, 10];

/// A server with an endpoint of its own and a client.
fn pair() -> (Program, Program, crate::object::Ref<crate::ipc::Endpoint>) {
    let (server, client, endpoint) = (Program::alone("server"), Program::alone("client"), endpoint());
    server.give_endpoint(&endpoint);
    (server, client, endpoint)
}

#[test]
fn a_call_reaches_a_waiting_receiver_and_is_answered() {
    let (server, client, endpoint) = pair();
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    client.load(Tag::new(7), WORDS);
    assert_eq!(client.call(&endpoint, 99, Deadline::NEVER), Ok(Went::Blocked));
    assert_eq!(woken(), [server.pointer()]);
    assert_eq!(server.resume(), Ok(()));
    assert_eq!((server.message(), server.badge()), ((Tag::new(7), WORDS), 99));
    server.load(Tag::new(8), ANSWER);
    assert_eq!(server.reply(server.reply_handle()), Ok(()));
    assert_eq!(woken(), [client.pointer()]);
    assert_eq!(client.resume(), Ok(()));
    assert_eq!((client.message(), client.badge(), client.reply_handle()), ((Tag::new(8), ANSWER), 0, Handle::NONE));
    assert_eq!((server.handles(), server.reserved(), client.handles(), client.reserved()), (1, 0, 0, 0));
}

#[test]
fn an_endpoint_without_receivers_is_closed() {
    let (_, client, _) = pair();
    let nobodys = endpoint();
    assert_eq!(client.call(&nobodys, 0, Deadline::NEVER), Err(Error::PeerClosed));
}
