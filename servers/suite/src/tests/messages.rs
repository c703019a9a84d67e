//! What a message carries: words, bytes, handles.

use abi::ipc_area::BUFFER_BYTES;
use abi::{Badge, Call, Deadline, Error, Handle, Rights, Tag};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use rt::thread::{self};
use rt::{AsHandle, Endpoint, Message, Notification, OwnedHandle, Reply, sys, time};

use super::ipc::{PATIENCE, receive, serve, soon};
use super::tests;
use crate::clock::since;
use crate::kernel_calls::{call, refused};
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, fail, must, same};

tests! {
    words_label_and_badge_arrive: 40,
    bytes_arrive_whole_at_every_length: 40,
    handles_are_copied_and_moved: 40,
    transfer_with_a_bad_handle_changes_nothing: 40,
    handles_are_refused_where_none_are_posted: 40,
    refused_answer_uses_the_reply_up: 40,
    reply_works_once: 40,
    reply_can_be_passed_on: 40,
}

fn words_label_and_badge_arrive(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let badges = [0, 1, 0xFFFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000];
    let server = must!(serve(&endpoint, badges.len(), 0, |received| {
        let mut words = received.words;
        words.reverse();
        words[0] = received.badge.0;
        Message::new(!received.label).with_words(words)
    }));
    for badge in badges {
        let client = must!(endpoint.mint(Badge(badge), Rights::SEND));
        let message = Message::new(0xABCD_1234).with_words([1, 2, 3, 4, 5, u64::MAX]);
        let answer = must!(client.call(message, 0, soon()));
        same!(answer.label, !0xABCD_1234);
        same!(answer.words, [badge, 5, 4, 3, 2, 1]);
        same!(answer.badge, Badge(0));
        check!(answer.reply.is_none(), "an answer came with a reply");
        refused(Call::Recv, &[client.handle().0], Error::NoRight)?;
    }
    must!(must!(server.join(soon())));
    Ok(())
}

fn bytes_arrive_whole_at_every_length(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let lengths = [1, 2, 7, 8, 9, 63, 64, 65, 511, 1000, 4095, BUFFER_BYTES];
    let server = must!(serve(&endpoint, lengths.len(), 0, |received| {
        let bytes: Vec<u8> = received.bytes.iter().map(|byte| !byte).collect();
        Message::new(received.bytes.len() as u32).with_bytes(&bytes)
    }));
    for length in lengths {
        let bytes: Vec<u8> = (0..length)
            .map(|index| (index * 31 + length) as u8)
            .collect();
        let answer = must!(endpoint.call(Message::new(1).with_bytes(&bytes), 0, soon()));
        same!(answer.label as usize, length);
        check!(
            answer.bytes.iter().zip(&bytes).all(|(a, b)| *a == !b) && answer.bytes.len() == length,
            "{length} bytes"
        );
    }
    must!(must!(server.join(soon())));
    let long = Message::new(0).with_bytes(&alloc::vec![0; BUFFER_BYTES + 1]);
    same!(
        endpoint.call(long, 0, soon()).map(|_| ()),
        Err(Error::OutOfRange)
    );
    Ok(())
}

fn handles_are_copied_and_moved(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    // Signals each handle that comes, and sends them back.
    let server = must!(serve(&endpoint, 1, 4, |received| {
        let mut answer = Message::new(received.handles.len() as u32);
        for (index, handle) in received.handles.into_iter().enumerate() {
            let notification = Notification::from_handle(handle);
            let _ = notification.signal(1 << index);
            answer = answer.with_moved(notification);
        }
        answer
    }));
    let kept = must!(Notification::create());
    let moved = must!(Notification::create());
    let numbers = [kept.handle().0, moved.handle().0];
    let watch = must!(moved.duplicate(Rights::WAIT));
    let message = Message::new(0)
        .with_copy(&kept)
        .with_moved(moved)
        .with_copy(&kept);
    let answer = must!(endpoint.call(message, 4, soon()));
    same!(answer.label, 3);
    same!(answer.handles.len(), 3);
    same!(kept.wait(Deadline::NOW), Ok(0b101));
    same!(watch.wait(Deadline::NOW), Ok(0b010));
    // What was moved is gone from here, what was copied is not.
    same!(
        OwnedHandle::query(&kept.into_handle()).map(|info| info.kind),
        Ok(3)
    );
    refused(Call::Signal, &[numbers[1], 1], Error::BadHandle)?;
    for handle in &answer.handles {
        must!(call(Call::Signal, &[handle.raw().0, 8]));
    }
    same!(watch.wait(Deadline::NOW), Ok(8));
    must!(must!(server.join(soon())));
    Ok(())
}

/// Calls with these handles in the area, moved as the mask says. Returns the status.
fn call_with(endpoint: &Endpoint, handles: &[Handle], moved: u8) -> u64 {
    for (index, handle) in handles.iter().enumerate() {
        // SAFETY: the area is this thread's own; there are at most four.
        unsafe { (*sys::area()).handles_out[index] = handle.0 };
    }
    let mut registers = sys::IpcRegisters {
        handle: endpoint.handle().0,
        tag: Tag::new(1).with_handles(handles.len(), moved).0,
        words: [0; 6],
        deadline: soon().0,
        reply: 0,
    };
    // SAFETY: touches the area alone.
    unsafe { sys::ipc(Call::Call as u64, &mut registers) }
}

fn transfer_with_a_bad_handle_changes_nothing(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let before = must!(rt::process::current().info()).handles;
    let server = must!(serve(&endpoint, 1, 4, |received| Message::new(
        received.handles.len() as u32
    )));
    let good = must!(Notification::create());
    let untransferable = must!(good.duplicate(Rights::SIGNAL));
    let bad = Handle(good.handle().0 + (7 << 32));
    // Time for the server to wait, so that both orders of arrival are seen below.
    must!(time::sleep(Duration::from_millis(20)));
    for (handles, moved, want) in [
        ([good.handle(), bad], 0b01, Error::BadHandle),
        ([good.handle(), Handle::NONE], 0b01, Error::BadHandle),
        (
            [good.handle(), untransferable.handle()],
            0b01,
            Error::NoRight,
        ),
        ([good.handle(), good.handle()], 0b11, Error::BadArgument),
        ([good.handle(), good.handle()], 0b01, Error::BadArgument),
    ] {
        same!(call_with(&endpoint, &handles, moved), want as u64);
        must!(good.signal(1));
    }
    // The server was not woken by any of it.
    same!(call_with(&endpoint, &[good.handle()], 0), 0);
    must!(must!(server.join(soon())));
    drop(good);
    drop(untransferable);
    // The joined thread's own handle goes when the thread does, a moment later.
    let start = time::now();
    while must!(rt::process::current().info()).handles != before {
        check!(since(start) < PATIENCE, "a handle is left");
        must!(time::sleep(Duration::from_millis(1)));
    }
    Ok(())
}

fn handles_are_refused_where_none_are_posted(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let server = must!(serve(&endpoint, 1, 1, |_| Message::new(0)));
    must!(time::sleep(Duration::from_millis(20)));
    let one = must!(Notification::create());
    let two = || Message::new(0).with_copy(&one).with_copy(&one);
    same!(
        endpoint.call(two(), 0, soon()).map(|_| ()),
        Err(Error::HandlesRefused)
    );
    must!(endpoint.call(Message::new(0).with_copy(&one), 0, soon()));
    must!(must!(server.join(soon())));
    // A sender that waits already is refused as well, when the receiver comes.
    let theirs = Arc::clone(&endpoint);
    let client = must!(thread::spawn(move || {
        let one = Notification::create()?;
        theirs
            .call(Message::new(0).with_copy(&one), 0, soon())
            .map(|_| ())
    }));
    must!(time::sleep(Duration::from_millis(20)));
    same!(
        endpoint
            .recv(0, time::after(Duration::from_millis(50)))
            .map(|_| ()),
        Err(Error::TimedOut)
    );
    same!(must!(client.join(soon())), Err(Error::HandlesRefused));
    Ok(())
}

fn refused_answer_uses_the_reply_up(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let theirs = Arc::clone(&endpoint);
    // A caller that takes no handle.
    let client = must!(thread::spawn(move || theirs
        .call(Message::new(0), 0, soon())
        .map(|_| ())));
    let mut received = must!(receive(&endpoint, 0));
    let Some(reply) = received.reply.take() else {
        fail!("no reply came")
    };
    let raw = reply.handle();
    let one = must!(Notification::create());
    same!(
        reply.answer(Message::new(0).with_copy(&one)),
        Err(Error::HandlesRefused)
    );
    same!(
        OwnedHandle::from_raw(raw).query().map(|_| ()),
        Err(Error::BadHandle)
    );
    same!(must!(client.join(soon())), Err(Error::NoReply));
    Ok(())
}

fn reply_works_once(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let theirs = Arc::clone(&endpoint);
    let client = must!(thread::spawn(move || theirs
        .call(Message::new(0), 0, soon())
        .map(|answer| answer.label)));
    let mut received = must!(receive(&endpoint, 0));
    let Some(reply) = received.reply.take() else {
        fail!("no reply came")
    };
    let raw = reply.handle();
    // It can be neither duplicated nor used as anything else.
    refused(Call::HandleDuplicate, &[raw.0, 0], Error::NoRight)?;
    refused(Call::Signal, &[raw.0, 1], Error::WrongObject)?;
    must!(reply.answer(Message::new(5)));
    same!(
        Reply::from_handle(OwnedHandle::from_raw(raw)).answer(Message::new(6)),
        Err(Error::BadHandle)
    );
    same!(must!(client.join(soon())), Ok(5));
    let other = must!(Notification::create());
    same!(
        Reply::from_handle(other.into_handle()).answer(Message::new(6)),
        Err(Error::WrongObject)
    );
    Ok(())
}

fn reply_can_be_passed_on(_: &'static World) -> Verdict {
    let front = Arc::new(must!(Endpoint::create()));
    let back = Arc::new(must!(Endpoint::create()));
    let count = Arc::new(AtomicU64::new(0));
    let (from, to) = (Arc::clone(&front), Arc::clone(&back));
    let passing = must!(thread::spawn(move || {
        let mut received = receive(&from, 0)?;
        let reply = received.reply.take().ok_or(Error::NoReply)?;
        to.send(Message::new(2).with_moved(reply), soon())
    }));
    let (from, counted) = (Arc::clone(&back), Arc::clone(&count));
    let answering = must!(thread::spawn(move || {
        let mut received = receive(&from, 1)?;
        counted.fetch_add(1, Ordering::Relaxed);
        let reply = received.handles.pop().ok_or(Error::NoReply)?;
        Reply::from_handle(reply).answer(Message::new(99))
    }));
    same!(must!(front.call(Message::new(1), 0, soon())).label, 99);
    must!(must!(passing.join(soon())));
    must!(must!(answering.join(soon())));
    same!(count.load(Ordering::Relaxed), 1);
    Ok(())
}
