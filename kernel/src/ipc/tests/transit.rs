//! A caller whose deadline passes while a receiver on another CPU has it in its hands.
//!
//! The stretch is short, between the endpoint's queue and the wait for the reply, so the message is as long as can be and the
//! deadline is tried at many moments. A deadline passes once: whoever finds it, the home or the receiver, must wake the
//! caller, or it sleeps for ever.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::ipc_area::{BUFFER_BYTES, MAX_HANDLES};
use abi::{Deadline, Error, Handle, Rights, Tag};

use super::pair;
use crate::object::AnyObject;
use crate::thread::ThreadPtr;
use crate::thread::testing::*;

/// Ends the receiver also when the test fails.
struct Stop<'a>(&'a AtomicBool, &'a AtomicU64);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        self.1.store(u64::MAX, Ordering::SeqCst);
    }
}

/// Receives whatever comes, and answers nothing. Replies are closed when their calls are over, as they would wake the caller.
fn receive(
    server: &Program,
    endpoint: &crate::ipc::Endpoint,
    over: &AtomicU64,
    inbox: &Mutex<Vec<ThreadPtr>>,
) {
    let mut replies: Vec<(u64, Handle)> = Vec::new();
    if server.recv(endpoint, Deadline::NOW) == Ok(Went::On) {
        replies.push((server.message().1[0], server.reply_handle()));
        for index in 0..MAX_HANDLES {
            server.close(server.came(index)).unwrap();
        }
    }
    inbox.lock().unwrap().append(&mut woken());
    for (number, reply) in replies {
        spin_until(|| over.load(Ordering::SeqCst) >= number);
        server.close(reply).unwrap();
        assert!(woken().is_empty(), "the call was over");
    }
}

#[test]
fn a_deadline_that_passes_in_transit_always_wakes_the_caller() {
    let (server, client, endpoint) = pair();
    server.accept(MAX_HANDLES as u64);
    let handle = client.give(AnyObject::Log, Rights::ALL);
    client.post(&[handle; MAX_HANDLES]);
    let (stop, over, inbox) = (
        AtomicBool::new(false),
        AtomicU64::new(0),
        Mutex::new(Vec::new()),
    );
    std::thread::scope(|scope| {
        let _stop = Stop(&stop, &over);
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                receive(&server, &endpoint, &over, &inbox);
            }
        });
        for number in rounds() {
            let tag = Tag::new(0)
                .with_bytes(BUFFER_BYTES)
                .with_handles(MAX_HANDLES, 0);
            client.load(tag, [number, 0, 0, 0, 0, 0]);
            assert_eq!(client.call(&endpoint, 0, Deadline(1)), Ok(Went::Blocked));
            for _ in 0..number % 101 {
                std::hint::spin_loop();
            }
            let mut ready = Vec::new();
            if client.cancel(Error::TimedOut) {
                ready = woken();
            } else {
                spin_until(|| {
                    ready = core::mem::take(&mut *inbox.lock().unwrap());
                    !ready.is_empty()
                });
            }
            assert_eq!(
                (ready, client.resume()),
                (vec![client.pointer()], Err(Error::TimedOut))
            );
            over.store(number, Ordering::SeqCst);
        }
    });
    assert!(inbox.into_inner().unwrap().is_empty());
    assert_eq!(
        (server.handles(), server.reserved(), client.handles()),
        (1, 0, 1)
    );
}
