//! Handles in messages: moved, copied, refused; all of them or none.

use abi::{Badge, Deadline, Error, Handle, Rights, Tag};

use super::pair;
use crate::object::{AnyObject, Capability};
use crate::process::HANDLE_LIMIT;
use crate::schedule;
use crate::thread::WOKEN_AT_ONCE;
use crate::thread::testing::*;

/// A handle to the log: it has no state, so that many can be made and told apart by their badge.
fn log(program: &Program, badge: u64) -> Handle {
    program.give_badged(AnyObject::Log, Rights::ALL, badge)
}

fn badge_of(program: &Program, handle: Handle) -> Result<u64, Error> {
    program
        .process()
        .table
        .lock()
        .get(handle)
        .map(|capability| capability.badge().0)
}

#[test]
fn moved_handles_leave_and_copied_ones_stay() {
    for receiver_first in [true, false] {
        let (server, client, endpoint) = pair();
        let handles = [1, 2, 3, 4].map(|badge| log(&client, badge));
        server.accept(4);
        if receiver_first {
            assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
        }
        client.post(&handles);
        client.load(Tag::new(0).with_handles(4, 0b0101), [0; 6]);
        let went = client.send(&endpoint, 0, Deadline::NEVER);
        if receiver_first {
            assert_eq!((went, server.resume()), (Ok(Went::On), Ok(())));
        } else {
            assert_eq!(
                (went, server.recv(&endpoint, Deadline::NOW)),
                (Ok(Went::Blocked), Ok(Went::On))
            );
            assert_eq!(client.resume(), Ok(()));
        }
        for (index, badge) in (1..=4).enumerate() {
            let there = server.came(index);
            assert_eq!(
                (badge_of(&server, there), server.rights(there)),
                (Ok(badge), Ok(Rights::ALL))
            );
            let here = if index % 2 == 0 {
                Err(Error::BadHandle)
            } else {
                Ok(badge)
            };
            assert_eq!(badge_of(&client, handles[index]), here);
        }
        assert_eq!(
            (server.handles(), server.reserved(), client.handles()),
            (5, 0, 2)
        );
        woken();
    }
}

#[test]
fn rights_travel_as_they_are() {
    let (server, client, endpoint) = pair();
    let few = Rights::TRANSFER | Rights::READ;
    client.post(&[client.give_badged(AnyObject::Log, few, 9)]);
    client.load(Tag::new(0).with_handles(1, 0), [0; 6]);
    server.accept(1);
    assert_eq!(
        client.send(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
    assert_eq!(
        (
            server.rights(server.came(0)),
            badge_of(&server, server.came(0))
        ),
        (Ok(few), Ok(9))
    );
    woken();
}

/// What is wrong with one of four handles.
fn spoil(client: &Program, handles: &mut [Handle; 4], position: usize, fault: usize) -> Error {
    match fault {
        0 => {
            client.close(handles[position]).unwrap();
            Error::BadHandle
        }
        1 => {
            handles[position] = Handle::new(1_000_000, 1);
            Error::BadHandle
        }
        2 => {
            handles[position] = Handle::NONE;
            Error::BadHandle
        }
        3 => {
            handles[position] = client.give(AnyObject::Log, Rights::ALL - Rights::TRANSFER);
            Error::NoRight
        }
        _ => {
            handles[position] = handles[(position + 1) % 4];
            Error::BadArgument
        }
    }
}

#[test]
fn one_bad_handle_of_four_leaves_all_as_it_was() {
    for receiver_first in [true, false] {
        for position in 0..4 {
            for fault in 0..5 {
                let (server, client, endpoint) = pair();
                let mut handles = [1, 2, 3, 4].map(|badge| log(&client, badge));
                let expected = spoil(&client, &mut handles, position, fault);
                let before = client.handles();
                server.accept(4);
                client.post(&handles);
                client.load(Tag::new(0).with_handles(4, 0b1111), [7; 6]);
                if receiver_first {
                    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
                    assert_eq!(
                        client.call(&endpoint, 0, Deadline::NEVER),
                        Err(expected),
                        "{position} {fault}"
                    );
                    assert!(woken().is_empty());
                    assert!(server.is_blocked());
                } else {
                    assert_eq!(
                        client.call(&endpoint, 0, Deadline::NEVER),
                        Ok(Went::Blocked)
                    );
                    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
                    assert_eq!(woken(), [client.pointer()]);
                    assert_eq!(client.resume(), Err(expected), "{position} {fault}");
                }
                assert_eq!(
                    (client.handles(), server.handles(), server.reserved()),
                    (before, 1, 5)
                );
                for (handle, badge) in handles.iter().zip(1..=4) {
                    if usize::from(badge as u8) != position + 1 {
                        assert_eq!(badge_of(&client, *handle), Ok(badge));
                    }
                }
                // The receiver is as good as before: the next message comes through.
                client.load(Tag::new(3), [8; 6]);
                assert_eq!(client.send(&endpoint, 0, Deadline::NOW), Ok(Went::On));
                assert_eq!((woken(), server.resume()), (vec![server.pointer()], Ok(())));
                assert_eq!(
                    (server.message(), server.reserved()),
                    ((Tag::new(3), [8; 6]), 0)
                );
            }
        }
    }
}

#[test]
fn a_handle_can_be_copied_often_but_moved_once() {
    let (server, client, endpoint) = pair();
    let handle = log(&client, 5);
    client.post(&[handle; 4]);
    server.accept(4);
    for moved in 1..16 {
        assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
        client.load(Tag::new(0).with_handles(4, moved), [0; 6]);
        assert_eq!(
            client.send(&endpoint, 0, Deadline::NEVER),
            Err(Error::BadArgument),
            "moved: {moved:#b}"
        );
        assert!(server.cancel(Error::TimedOut));
        assert_eq!(server.resume(), Err(Error::TimedOut));
    }
    assert_eq!(
        (server.recv(&endpoint, Deadline::NEVER), woken().len()),
        (Ok(Went::Blocked), 15)
    );
    client.load(Tag::new(0).with_handles(4, 0), [0; 6]);
    assert_eq!(client.send(&endpoint, 0, Deadline::NEVER), Ok(Went::On));
    assert_eq!(server.resume(), Ok(()));
    let mut came = [0, 1, 2, 3].map(|index| server.came(index));
    came.sort_by_key(|handle| handle.0);
    assert!(came.windows(2).all(|two| two[0] != two[1]));
    assert!(
        came.iter()
            .all(|&handle| badge_of(&server, handle) == Ok(5))
    );
    assert_eq!(
        (client.handles(), server.handles(), server.reserved()),
        (1, 5, 0)
    );
    woken();
}

#[test]
fn many_whose_messages_can_not_be_taken_are_told_a_few_at_a_time() {
    const SENDERS: usize = 5 * WOKEN_AT_ONCE + 3;
    let (server, _, endpoint) = pair();
    let senders: Vec<_> = (0..SENDERS).map(|_| Program::alone("sender")).collect();
    for sender in &senders {
        // A handle that names nothing, which shows when the message is received.
        sender.post(&[Handle::new(9999, 1)]);
        sender.load(Tag::new(0).with_handles(1, 1), [0; 6]);
        assert_eq!(
            sender.call(&endpoint, 0, Deadline::NEVER),
            Ok(Went::Blocked)
        );
    }
    woken();
    schedule::longest_stretch();
    server.accept(1);
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
    assert_eq!(woken().len(), SENDERS);
    let stretch = schedule::longest_stretch();
    assert!(
        (1..=WOKEN_AT_ONCE).contains(&stretch),
        "{stretch} in one stretch"
    );
    for sender in &senders {
        assert_eq!(sender.resume(), Err(Error::BadHandle));
    }
}

#[test]
fn a_receiver_gets_no_more_handles_than_it_takes() {
    for accept in 0..4 {
        // The receiver waits: the sender is told at once, the receiver is not disturbed.
        let (server, client, endpoint) = pair();
        let second = Program::alone("second");
        let count = accept + 1;
        let handles = [1, 2, 3, 4].map(|badge| log(&client, badge));
        server.accept(accept);
        assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
        client.post(&handles);
        client.load(Tag::new(0).with_handles(count as usize, 1), [0; 6]);
        assert_eq!(
            client.call(&endpoint, 0, Deadline::NEVER),
            Err(Error::HandlesRefused)
        );
        assert_eq!(
            client.send(&endpoint, 0, Deadline::NEVER),
            Err(Error::HandlesRefused)
        );
        assert!(woken().is_empty());
        assert!(server.cancel(Error::TimedOut));
        assert_eq!(server.resume(), Err(Error::TimedOut));
        woken();
        // The sender waits: it is woken with the error, and the receiver takes the next one.
        second.load(Tag::new(2), [2; 6]);
        assert_eq!(
            client.call(&endpoint, 0, Deadline::NEVER),
            Ok(Went::Blocked)
        );
        assert_eq!(
            second.send(&endpoint, 0, Deadline::NEVER),
            Ok(Went::Blocked)
        );
        assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
        assert_eq!(woken(), [client.pointer(), second.pointer()]);
        assert_eq!(
            (client.resume(), second.resume()),
            (Err(Error::HandlesRefused), Ok(()))
        );
        assert_eq!(server.message(), (Tag::new(2), [2; 6]));
        assert_eq!(
            (client.handles(), server.handles(), server.reserved()),
            (4, 1, 0)
        );
    }
}

#[test]
fn an_answer_with_more_handles_than_the_caller_takes_ends_the_call_and_moves_none() {
    let (server, client, endpoint) = pair();
    let handles = [1, 2].map(|badge| log(&server, badge));
    server.post(&handles);
    for (count, answered) in [(2, Err(Error::HandlesRefused)), (1, Ok(()))] {
        client.accept(1);
        client.load(Tag::new(0), [0; 6]);
        assert_eq!(
            client.call(&endpoint, 0, Deadline::NEVER),
            Ok(Went::Blocked)
        );
        assert_eq!(client.reserved(), 1);
        assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
        let reply = server.reply_handle();
        assert_eq!(server.handles(), 4);
        server.load(Tag::new(0).with_handles(count, (1 << count) - 1), [0; 6]);
        assert_eq!(server.reply(reply), answered);
        assert_eq!(server.reply(reply), Err(Error::BadHandle));
        let status = answered.map_err(|_| Error::NoReply);
        assert_eq!((woken(), client.resume()), (vec![client.pointer()], status));
        assert_eq!(client.reserved(), 0);
    }
    assert_eq!(
        (
            badge_of(&client, client.came(0)),
            badge_of(&server, handles[0])
        ),
        (Ok(1), Err(Error::BadHandle))
    );
    assert_eq!((client.handles(), server.handles()), (1, 2));
}

#[test]
fn a_bad_handle_in_an_answer_ends_the_call_and_moves_none() {
    let (server, client, endpoint) = pair();
    client.accept(4);
    for position in 0..4 {
        client.load(Tag::new(0), [0; 6]);
        assert_eq!(
            client.call(&endpoint, 0, Deadline::NEVER),
            Ok(Went::Blocked)
        );
        assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
        let mut handles = [1, 2, 3, 4].map(|badge| log(&server, badge));
        handles[position] = Handle::new(3, 77);
        server.post(&handles);
        server.load(Tag::new(0).with_handles(4, 0b1111), [0; 6]);
        assert_eq!(server.reply(server.reply_handle()), Err(Error::BadHandle));
        assert_eq!(
            (woken(), client.resume()),
            (vec![client.pointer()], Err(Error::NoReply))
        );
        assert_eq!(
            (client.handles(), client.reserved(), server.handles()),
            (0, 0, 5 + 4 * position as u32)
        );
    }
}

#[test]
fn what_a_program_says_it_takes_is_at_most_four() {
    let (server, _client, endpoint) = pair();
    for (alleged, reserved) in [(3, 4), (4, 5), (5, 5), (1 << 32, 5), (u64::MAX, 5)] {
        server.accept(alleged);
        assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::Blocked));
        assert_eq!(server.reserved(), reserved);
        assert!(server.cancel(Error::TimedOut));
        assert_eq!(
            (server.resume(), server.reserved()),
            (Err(Error::TimedOut), 0)
        );
    }
    woken();
}

#[test]
fn a_reply_can_be_moved_but_not_copied() {
    let (server, client, endpoint) = pair();
    let other = Program::alone("other");
    let hand_over = endpoint_of(&other);
    client.load(Tag::new(1), [1; 6]);
    assert_eq!(
        client.call(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
    let reply = server.reply_handle();
    assert!(
        server
            .process()
            .table
            .lock()
            .get(reply)
            .unwrap()
            .duplicate(Rights::NONE)
            .is_err()
    );
    server.post(&[reply]);
    other.accept(1);
    assert_eq!(other.recv(&hand_over, Deadline::NEVER), Ok(Went::Blocked));
    server.load(Tag::new(0).with_handles(1, 0), [0; 6]);
    assert_eq!(
        server.send(&hand_over, 0, Deadline::NOW),
        Err(Error::NoRight)
    );
    server.load(Tag::new(0).with_handles(1, 1), [0; 6]);
    assert_eq!(server.send(&hand_over, 0, Deadline::NOW), Ok(Went::On));
    assert_eq!((woken(), other.resume()), (vec![other.pointer()], Ok(())));
    assert_eq!(server.reply(reply), Err(Error::BadHandle));
    assert!(client.is_blocked());
    other.load(Tag::new(5), [5; 6]);
    assert_eq!(other.reply(other.came(0)), Ok(()));
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
    assert_eq!(client.message(), (Tag::new(5), [5; 6]));
    assert_eq!((server.handles(), other.handles()), (1, 1));
}

fn endpoint_of(program: &Program) -> crate::object::Ref<crate::ipc::Endpoint> {
    let endpoint = endpoint();
    program.give_endpoint(&endpoint);
    endpoint
}

#[test]
fn an_answer_that_carries_its_own_reply_is_one_answer() {
    let (server, client, endpoint) = pair();
    client.accept(1);
    client.load(Tag::new(0), [0; 6]);
    assert_eq!(
        client.call(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
    let reply = server.reply_handle();
    server.post(&[reply]);
    server.load(Tag::new(0).with_handles(1, 1), [0; 6]);
    assert_eq!(server.reply(reply), Ok(()));
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
    assert_eq!(
        (server.handles(), client.handles(), client.reserved()),
        (1, 1, 0)
    );
    // What the caller got is the spent right to answer itself.
    assert_eq!(client.reply(client.came(0)), Err(Error::CallerGone));
    assert_eq!(client.handles(), 0);
    assert!(woken().is_empty());
}

#[test]
fn the_last_right_to_receive_survives_a_move() {
    let (server, client, endpoint) = pair();
    let moved = endpoint_of(&client);
    let handle = client
        .process()
        .table
        .lock()
        .remove(Handle::new(0, 1))
        .map(|capability| {
            let rights = capability.rights();
            (capability, rights)
        });
    let (capability, _) = handle.unwrap();
    let handle = client
        .process()
        .grant(capability)
        .map_err(|(error, _)| error)
        .unwrap();
    let waiting = Program::alone("waiting");
    waiting.load(Tag::new(4), [4; 6]);
    assert_eq!(waiting.send(&moved, 0, Deadline::NEVER), Ok(Went::Blocked));
    client.post(&[handle]);
    client.load(Tag::new(0).with_handles(1, 1), [0; 6]);
    server.accept(1);
    assert_eq!(
        client.send(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
    assert!(waiting.is_blocked());
    assert_eq!(server.recv(&moved, Deadline::NEVER), Ok(Went::On));
    assert_eq!(
        (server.message().0, woken()),
        (Tag::new(4), vec![waiting.pointer()])
    );
    assert_eq!(server.close(server.came(0)), Ok(()));
    assert_eq!(waiting.resume(), Ok(()));
    assert_eq!(
        waiting.send(&moved, 0, Deadline::NEVER),
        Err(Error::PeerClosed)
    );
}

#[test]
fn a_receiver_without_room_in_its_table_does_not_wait() {
    let (server, client, endpoint) = pair();
    let last = {
        let mut table = server.process().table.lock();
        let mut last = Handle::NONE;
        while let Ok(handle) = table
            .insert(Capability::new(AnyObject::Log, Rights::ALL, Badge(0)))
            .map_err(|(error, _)| {
                assert_eq!(error, Error::QuotaExceeded);
            })
        {
            last = handle;
        }
        last
    };
    assert_eq!(server.handles(), HANDLE_LIMIT);
    assert_eq!(
        server.recv(&endpoint, Deadline::NEVER),
        Err(Error::QuotaExceeded)
    );
    assert_eq!(server.reserved(), 0);
    client.load(Tag::new(1), [0; 6]);
    assert_eq!(
        client.call(&endpoint, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(server.close(last), Ok(()));
    server.accept(1);
    assert_eq!(
        server.recv(&endpoint, Deadline::NEVER),
        Err(Error::QuotaExceeded)
    );
    server.accept(0);
    assert_eq!(server.recv(&endpoint, Deadline::NEVER), Ok(Went::On));
    assert_eq!((server.handles(), server.reserved()), (HANDLE_LIMIT, 0));
    assert_eq!(server.close(server.reply_handle()), Ok(()));
    assert_eq!(
        (woken(), client.resume()),
        (vec![client.pointer()], Err(Error::NoReply))
    );
}
