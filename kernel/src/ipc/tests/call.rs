//! Calls, sends and answers between two or three threads, in either order of arrival.

use abi::info::ThreadState;
use abi::ipc_area::BUFFER_BYTES;
use abi::{Deadline, Error, Handle, Rights, Tag};

use super::pair;
use crate::object::AnyObject;
use crate::thread::testing::*;

const WORDS: [u64; 6] = [1, u64::MAX, 3, 4, 5, 6];
const ANSWER: [u64; 6] = [60, 50, 40, 30, 20, 10];
const SOON: Deadline = Deadline(1);

#[test]
fn a_call_reaches_a_waiting_receiver_and_is_answered() {
    let (server, client, endpoint) = pair();
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    assert_eq!(server.thread().shown_state(), ThreadState::Receiving);
    client.load(Tag::new(7), WORDS);
    assert_eq!(
        client.call(&endpoint, 99, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(client.thread().shown_state(), ThreadState::AwaitingReply);
    assert_eq!(woken(), [server.pointer()]);
    assert_eq!(server.resume(), Ok(()));
    assert_eq!(
        (server.message(), server.badge()),
        ((Tag::new(7), WORDS), 99)
    );
    server.load(Tag::new(8), ANSWER);
    assert_eq!(server.reply(server.reply_handle()), Ok(()));
    assert_eq!(woken(), [client.pointer()]);
    assert_eq!(client.resume(), Ok(()));
    assert_eq!(
        (client.message(), client.badge(), client.reply_handle()),
        ((Tag::new(8), ANSWER), 0, Handle::NONE)
    );
    assert_eq!(client.thread().shown_state(), ThreadState::Ready);
    assert_eq!(
        (
            server.handles(),
            server.reserved(),
            client.handles(),
            client.reserved()
        ),
        (1, 0, 0, 0)
    );
}

#[test]
fn a_receiver_finds_a_waiting_caller() {
    let (server, client, endpoint) = pair();
    client.load(Tag::new(7), WORDS);
    assert_eq!(
        client.call(&endpoint, 99, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(client.thread().shown_state(), ThreadState::Sending);
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
    assert_eq!(
        (server.message(), server.badge()),
        ((Tag::new(7), WORDS), 99)
    );
    assert_eq!(client.thread().shown_state(), ThreadState::AwaitingReply);
    assert!(woken().is_empty());
    server.load(Tag::new(8), ANSWER);
    assert_eq!(server.reply(server.reply_handle()), Ok(()));
    assert_eq!(woken(), [client.pointer()]);
    assert_eq!(client.resume(), Ok(()));
    assert_eq!(client.message(), (Tag::new(8), ANSWER));
}

#[test]
fn a_send_is_over_when_it_was_received() {
    let (server, client, endpoint) = pair();
    // The receiver waits.
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    client.load(Tag::new(1), WORDS);
    assert_eq!(client.send(&endpoint, 5, Deadline::NOW), Ok(Went::On));
    assert_eq!(woken(), [server.pointer()]);
    assert_eq!(server.resume(), Ok(()));
    assert_eq!(
        (server.message(), server.badge(), server.reply_handle()),
        ((Tag::new(1), WORDS), 5, Handle::NONE)
    );
    // The sender waits.
    client.load(Tag::new(2), ANSWER);
    assert_eq!(
        client.send(&endpoint, 6, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
    assert_eq!(
        (server.message(), server.badge(), server.reply_handle()),
        ((Tag::new(2), ANSWER), 6, Handle::NONE)
    );
    assert_eq!(woken(), [client.pointer()]);
    assert_eq!(client.resume(), Ok(()));
    // A sender's registers are its own still.
    assert_eq!(client.message(), (Tag::new(2), ANSWER));
    assert_eq!((server.handles(), server.reserved()), (1, 0));
}

#[test]
fn senders_and_receivers_have_their_turns_in_order() {
    let (server, _, endpoint) = pair();
    let clients: Vec<Program> = (0..5).map(|_| Program::alone("client")).collect();
    for (number, client) in clients.iter().enumerate() {
        client.load(Tag::new(number as u32), [number as u64; 6]);
        let went = if number % 2 == 0 {
            client.call(&endpoint, 0, SOON)
        } else {
            client.send(&endpoint, 0, SOON)
        };
        assert_eq!(went, Ok(Went::Blocked));
    }
    for number in 0..5 {
        assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
        assert_eq!(server.message(), (Tag::new(number), [u64::from(number); 6]));
    }
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Err(Error::TimedOut));
    assert_eq!(woken(), [clients[1].pointer(), clients[3].pointer()]);

    let servers: Vec<Program> = (0..3).map(|_| Program::new(server.process())).collect();
    for server in &servers {
        assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    }
    for (number, server) in servers.iter().enumerate() {
        assert_eq!(clients[1].is_blocked(), number == 0);
        if number == 0 {
            assert_eq!(clients[1].resume(), Ok(()));
        }
        clients[1].load(Tag::new(0), [number as u64 + 10; 6]);
        assert_eq!(clients[1].send(&endpoint, 0, Deadline::NOW), Ok(Went::On));
        assert_eq!(woken(), [server.pointer()]);
        assert_eq!(server.resume(), Ok(()));
        assert_eq!(server.message().1, [number as u64 + 10; 6]);
    }
}

#[test]
fn bytes_are_copied_up_to_the_count_and_not_beyond() {
    for bytes in [1, 8, 4095, BUFFER_BYTES] {
        let (server, client, endpoint) = pair();
        let sent: Vec<u8> = (0..bytes).map(|index| (index * 7 + 1) as u8).collect();
        server.write_buffer(&[0xEE; BUFFER_BYTES]);
        client.write_buffer(&sent);
        client.load(Tag::new(0).with_bytes(bytes), WORDS);
        assert_eq!(
            client.call(&endpoint, 0, Deadline::NEVER),
            Ok(Went::Blocked)
        );
        assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
        assert_eq!(server.message(), (Tag::new(0).with_bytes(bytes), WORDS));
        assert_eq!(server.read_buffer()[..bytes], sent);
        assert!(
            server.read_buffer()[bytes..]
                .iter()
                .all(|&byte| byte == 0xEE),
            "{bytes} bytes"
        );
        // And back, shorter.
        server.write_buffer(b"answer");
        server.load(Tag::new(0).with_bytes(3), ANSWER);
        assert_eq!(server.reply(server.reply_handle()), Ok(()));
        assert_eq!(&client.read_buffer()[..3], b"ans");
        assert_eq!(client.read_buffer()[3..bytes.max(3)], sent[3.min(bytes)..]);
        woken();
    }
}

#[test]
fn a_bad_tag_is_refused_before_anybody_is_disturbed() {
    let (server, client, endpoint) = pair();
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    for tag in [
        Tag::new(0).with_bytes(4097),
        Tag::new(0).with_handles(5, 0),
        Tag::new(0).with_handles(1, 2),
        Tag(1 << 19),
    ] {
        client.load(tag, WORDS);
        assert_eq!(
            client.call(&endpoint, 0, Deadline::NEVER),
            Err(Error::BadArgument)
        );
        assert_eq!(
            client.send(&endpoint, 0, Deadline::NEVER),
            Err(Error::BadArgument)
        );
    }
    assert!(woken().is_empty());
    assert!(server.is_blocked());
    // As an answer it uses the reply up, and the caller hears of it.
    client.load(Tag::new(0), WORDS);
    assert_eq!(
        client.call(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    woken();
    assert_eq!(server.resume(), Ok(()));
    server.load(Tag(1 << 13), ANSWER);
    assert_eq!(server.reply(server.reply_handle()), Err(Error::BadArgument));
    assert_eq!(
        (woken(), client.resume()),
        (vec![client.pointer()], Err(Error::NoReply))
    );
    assert_eq!((server.handles(), client.message().1), (1, WORDS));
}

#[test]
fn with_a_deadline_of_zero_nothing_waits() {
    let (server, client, endpoint) = pair();
    client.load(Tag::new(0), WORDS);
    assert_eq!(
        client.call(&endpoint, 0, Deadline::NOW),
        Err(Error::TimedOut)
    );
    assert_eq!(
        client.send(&endpoint, 0, Deadline::NOW),
        Err(Error::TimedOut)
    );
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Err(Error::TimedOut));
    assert_eq!(
        notification().wait(client.thread(), Deadline::NOW),
        Err(Error::TimedOut)
    );
    assert_eq!(
        (server.reserved(), server.handles(), client.handles()),
        (0, 1, 0)
    );
    // Nobody was left in a queue.
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Err(Error::TimedOut));
    assert!(woken().is_empty());
}

#[test]
fn an_endpoint_without_receivers_is_closed() {
    let (_server, client, _) = pair();
    let nobodys = endpoint();
    client.load(Tag::new(0), WORDS);
    assert_eq!(
        client.call(&nobodys, 0, Deadline::NEVER),
        Err(Error::PeerClosed)
    );
    assert_eq!(
        client.send(&nobodys, 0, Deadline::NOW),
        Err(Error::PeerClosed)
    );
    assert_eq!(
        client.recv(&nobodys, Deadline::NEVER),
        Err(Error::PeerClosed)
    );
    // A handle that may only send makes no receiver.
    client.give(
        AnyObject::Endpoint(nobodys.clone()),
        Rights::ALL - Rights::RECEIVE,
    );
    assert_eq!(
        client.call(&nobodys, 0, Deadline::NEVER),
        Err(Error::PeerClosed)
    );
    assert_eq!(client.reserved(), 0);
}

#[test]
fn the_last_receive_handles_end_wakes_all_senders_once() {
    let (server, _, endpoint) = pair();
    let first = server.give_endpoint(&endpoint);
    let last = server.give_endpoint(&endpoint);
    let clients: Vec<Program> = (0..4).map(|_| Program::alone("client")).collect();
    for client in &clients {
        client.load(Tag::new(0), WORDS);
        assert_eq!(
            client.call(&endpoint, 0, Deadline::NEVER),
            Ok(Went::Blocked)
        );
    }
    // The pair's own handle is the third.
    assert_eq!(server.close(first), Ok(()));
    assert_eq!(server.close(last), Ok(()));
    assert!(woken().is_empty());
    server.process().end(crate::process::Ending::Exit(0));
    let process = server.process().clone();
    server.leave();
    assert_eq!(process.info().handles, 0);
    let order: Vec<_> = clients.iter().map(Program::pointer).collect();
    assert_eq!(woken(), order);
    for client in &clients {
        assert_eq!(client.resume(), Err(Error::PeerClosed));
    }
    assert_eq!(
        clients[0].call(&endpoint, 0, Deadline::NEVER),
        Err(Error::PeerClosed)
    );
    assert!(woken().is_empty());
}

#[test]
fn the_last_receive_handles_end_wakes_receivers_as_well() {
    let (server, endpoint) = (Program::alone("server"), endpoint());
    let other = Program::new(server.process());
    let closer = Program::new(server.process());
    let handle = closer.give_endpoint(&endpoint);
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    assert_eq!(other.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    assert_eq!(closer.reserved(), 2);
    assert_eq!(closer.close(handle), Ok(()));
    assert_eq!(woken(), [server.pointer(), other.pointer()]);
    assert_eq!(
        (server.resume(), other.resume()),
        (Err(Error::PeerClosed), Err(Error::PeerClosed))
    );
    assert_eq!((closer.reserved(), closer.handles()), (0, 0));
}

#[test]
fn threads_of_one_process_may_call_each_other() {
    let (server, endpoint) = (Program::alone("both"), endpoint());
    let client = Program::new(server.process());
    let handle = server.give_endpoint(&endpoint);
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    client.post(&[handle]);
    client.load(Tag::new(0).with_bytes(2), WORDS);
    client.write_buffer(b"me");
    assert_eq!(
        client.call(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(woken(), [server.pointer()]);
    assert_eq!(server.resume(), Ok(()));
    assert_eq!(&server.read_buffer()[..2], b"me");
    assert_eq!(server.handles(), 2);
    server.load(Tag::new(0), ANSWER);
    assert_eq!(server.reply(server.reply_handle()), Ok(()));
    assert_eq!(woken(), [client.pointer()]);
    assert_eq!(client.resume(), Ok(()));
    assert_eq!((server.handles(), server.reserved()), (1, 0));
}

#[test]
fn reply_recv_answers_and_waits_again() {
    let (server, client, endpoint) = pair();
    let second = Program::alone("second");
    for (program, label) in [(&client, 1), (&second, 2)] {
        program.load(Tag::new(label), WORDS);
        assert_eq!(
            program.call(&endpoint, 0, Deadline::NEVER),
            Ok(Went::Blocked)
        );
    }
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
    server.load(Tag::new(11), ANSWER);
    assert_eq!(
        server.reply_recv(server.reply_handle(), &endpoint, Deadline::NEVER),
        Ok(Went::On)
    );
    assert_eq!(woken(), [client.pointer()]);
    assert_eq!(
        (client.resume(), client.message()),
        (Ok(()), (Tag::new(11), ANSWER))
    );
    assert_eq!(server.message(), (Tag::new(2), WORDS));
    server.load(Tag::new(12), ANSWER);
    assert_eq!(
        server.reply_recv(server.reply_handle(), &endpoint, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(woken(), [second.pointer()]);
    assert_eq!(
        (second.resume(), second.message()),
        (Ok(()), (Tag::new(12), ANSWER))
    );
    assert_eq!((server.handles(), server.reserved()), (1, 1));
}
