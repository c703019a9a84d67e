//! Reports: messages that a thread's registers are made into, and that leave them as they are; and a look at a thread that waits, which no end of its wait overtakes.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::report::{Answer, REGISTER_BYTES, label};
use abi::{Deadline, Error, Handle, Tag, UserContext};

use super::pair;
use crate::ipc::Endpoint;
use crate::object::Ref;
use crate::thread::Outcome;
use crate::thread::testing::*;

/// The registers of one that has executed an invalid instruction. RAX is what a call that succeeds would leave.
fn faulted() -> UserContext {
    UserContext {
        rax: 0,
        rdi: 0x11,
        rsi: 0x22,
        rdx: 0x33,
        r15: 0x44,
        vector: 6,
        error_code: 5,
        rip: 0x40_0000,
        cr2: 0x1000,
        rsp: 0x7000,
        ..UserContext::default()
    }
}

/// `client` faults and is received by `server`. Returns the reply.
fn reported(server: &Program, client: &Program, endpoint: &Ref<Endpoint>) -> Handle {
    *client.thread().registers_mut() = faulted();
    client.thread().reporting.begin(label::FAULT);
    assert_eq!(client.call(endpoint, 7, Deadline::NEVER), Ok(Went::Blocked));
    assert_eq!(server.recv(endpoint, Deadline::NOW), Ok(Went::On));
    woken();
    server.reply_handle()
}

/// What came of the report of `client`, whose registers are as they were but for `change`.
fn outcome(client: &Program, change: impl FnOnce(&mut UserContext)) -> Outcome {
    assert_eq!(woken(), [client.pointer()]);
    let mut wanted = faulted();
    change(&mut wanted);
    assert_eq!(*client.thread().registers(), wanted);
    assert_eq!(client.resume(), Ok(()));
    client.thread().reporting.take_outcome()
}

#[test]
fn a_report_is_made_of_registers_and_its_answer_leaves_them() {
    let (server, client, endpoint) = pair();
    let reply = reported(&server, &client, &endpoint);
    let id = client.thread().id();
    assert_eq!(
        server.message(),
        (
            Tag::new(label::FAULT),
            [6, 5, 0x40_0000, 0x1000, 0x7000, id]
        )
    );
    assert_eq!(server.badge(), 7);
    server.load(Tag::new(Answer::ResumeAt as u32), [0x50_0000; 6]);
    assert_eq!(server.reply(reply), Ok(()));
    assert_eq!(
        outcome(&client, |registers| registers.rip = 0x50_0000),
        Outcome::Answered(Answer::ResumeAt)
    );
    // The next call is a call again.
    client.load(Tag::new(3), [9; 6]);
    assert_eq!(
        client.call(&endpoint, 7, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
    assert_eq!(server.message(), (Tag::new(3), [9; 6]));
    server.load(Tag::new(4), [8; 6]);
    assert_eq!(server.reply(server.reply_handle()), Ok(()));
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
    assert_eq!(client.message(), (Tag::new(4), [8; 6]));
}

#[test]
fn a_report_that_is_not_answered_leaves_all_registers() {
    let (server, client, endpoint) = pair();
    let reply = reported(&server, &client, &endpoint);
    assert_eq!(server.close(reply), Ok(()));
    assert_eq!(outcome(&client, |_| ()), Outcome::Failed(Error::NoReply));
    let reply = reported(&server, &client, &endpoint);
    assert!(client.cancel(Error::Cancelled));
    assert_eq!(outcome(&client, |_| ()), Outcome::Failed(Error::Cancelled));
    assert_eq!(server.reply(reply), Err(Error::CallerGone));
    assert_eq!(server.handles(), 1);
}

#[test]
fn a_senseless_answer_is_the_answerers_fault_and_no_answer() {
    let (server, client, endpoint) = pair();
    for tag in [
        Tag::new(label::FAULT),
        Tag::new(Answer::Result as u32),
        Tag::new(0).with_bytes(REGISTER_BYTES - 1),
        Tag::new(0).with_handles(1, 0),
        Tag(1 << 13),
    ] {
        let reply = reported(&server, &client, &endpoint);
        server.load(tag, [0; 6]);
        assert_eq!(server.reply(reply), Err(Error::BadArgument), "{tag:?}");
        assert_eq!(outcome(&client, |_| ()), Outcome::Failed(Error::NoReply));
        assert_eq!(server.handles(), 1);
    }
}

#[test]
fn no_wait_ends_while_its_thread_is_looked_at() {
    let looks = AtomicU64::new(0);
    // One thread for all rounds: what threads are made of is given back when they end, and this one never runs.
    let (_server, client, _endpoint) = pair();
    let thread = client.thread();
    for _ in rounds() {
        let stamp = thread.begin_awaiting(thread);
        let (inside, over) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while let Ok(()) = thread.while_awaiting(stamp, || {
                    inside.store(true, Ordering::SeqCst);
                    assert!(!over.load(Ordering::SeqCst), "its wait is over");
                    core::hint::spin_loop();
                    assert!(!over.load(Ordering::SeqCst), "its wait was ended");
                    inside.store(false, Ordering::SeqCst);
                    Ok(())
                }) {
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
            spin_until(|| inside.load(Ordering::SeqCst) || looks.load(Ordering::Relaxed) > 0);
            assert!(thread.take_awaiting(Some(stamp), None));
            assert!(
                !inside.load(Ordering::SeqCst),
                "it ended in the middle of a look"
            );
            over.store(true, Ordering::SeqCst);
        });
        assert!(!thread.take_awaiting(Some(stamp), None));
        assert_eq!(
            thread.while_awaiting(stamp, || Ok(())),
            Err(Error::CallerGone)
        );
    }
    assert!(looks.into_inner() > 0, "nobody ever looked");
}
