//! Messages, replies and notifications: what arrives, and what happens when somebody does not come.

use abi::info::ProcessState;
use abi::ipc_area::BUFFER_BYTES;
use abi::{Badge, Call, Deadline, Error, Handle, Rights, Tag};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::thread::{self, JoinHandle};
use rt::{
    AsHandle, Endpoint, Event, Message, Notification, OwnedHandle, Received, Reply, start, sys,
    time,
};

use super::tests;
use crate::kernel_calls::{call, refused};
use crate::roles::Role;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, fail, must, same};

tests! {
    words_label_and_badge_arrive: 10,
    bytes_arrive_whole_at_every_length: 20,
    handles_are_copied_and_moved: 10,
    transfer_with_a_bad_handle_changes_nothing: 10,
    handles_are_refused_where_none_are_posted: 10,
    refused_answer_uses_the_reply_up: 10,
    reply_works_once: 10,
    dropped_reply_is_an_error_for_the_caller: 10,
    server_that_dies_with_a_reply_is_an_error_for_the_caller: 20,
    endpoint_without_receiver_is_closed_for_waiting_and_new_callers: 10,
    deadlines_end_every_wait: 20,
    past_deadline_does_not_wait: 10,
    late_answer_finds_the_caller_gone: 10,
    many_clients_on_all_cpus_are_all_answered: 60,
    clients_of_another_process_are_all_answered: 60,
    send_waits_for_nobody_but_the_receiver: 10,
    bound_notification_wakes_a_receive: 10,
    notification_bits_gather_until_taken: 10,
    signal_before_the_wait_is_not_lost: 30,
    notification_that_is_closed_wakes_its_waiter: 10,
    reply_can_be_passed_on: 10,
}

/// The partners of these tests.
pub const ROLES: &[Role] = &[
    Role {
        name: "dies-with-reply",
        run: die_with_reply,
    },
    Role {
        name: "echo",
        run: echo,
    },
    Role {
        name: "caller",
        run: caller,
    },
];

const PATIENCE: Duration = Duration::from_secs(5);

fn soon() -> Deadline {
    time::after(PATIENCE)
}

/// The next message at an endpoint.
fn receive(endpoint: &Endpoint, handles: usize) -> rt::Result<Received> {
    match endpoint.recv(handles, soon())? {
        Event::Message(message) => Ok(message),
        Event::Notification(_) => Err(Error::Cancelled),
    }
}

/// Answers `count` messages with what `answer` makes of them.
fn serve(
    endpoint: &Arc<Endpoint>,
    count: usize,
    handles: usize,
    answer: impl Fn(Received) -> Message + Send + 'static,
) -> rt::Result<JoinHandle<rt::Result<()>>> {
    let endpoint = Arc::clone(endpoint);
    thread::spawn(move || {
        for _ in 0..count {
            let mut received = receive(&endpoint, handles)?;
            if let Some(reply) = received.reply.take() {
                reply.answer(answer(received))?;
            }
        }
        Ok(())
    })
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
        check!(time::now() - start < PATIENCE, "a handle is left");
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

fn dropped_reply_is_an_error_for_the_caller(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    for _ in 0..50 {
        let theirs = Arc::clone(&endpoint);
        let client = must!(thread::spawn(move || theirs
            .call(Message::new(0), 0, soon())
            .map(|_| ())));
        drop(must!(receive(&endpoint, 0)));
        same!(must!(client.join(soon())), Err(Error::NoReply));
    }
    Ok(())
}

fn die_with_reply(_: &'static World, how: &str) -> u64 {
    let Ok(endpoint) = start::take::<Endpoint>("endpoint") else {
        return 1;
    };
    let Ok(received) = receive(&endpoint, 0) else {
        return 2;
    };
    match how {
        // SAFETY: it faults, which is what it is for.
        "fault" => unsafe { core::arch::asm!("ud2") },
        "panic" => panic!("on purpose"),
        "wait" => {
            let _ = time::sleep(PATIENCE);
        }
        _ => {}
    }
    drop(received);
    0
}

fn server_that_dies_with_a_reply_is_an_error_for_the_caller(world: &'static World) -> Verdict {
    for how in ["fault", "panic", "wait", "exit"] {
        let endpoint = must!(Endpoint::create());
        let child = must!(world.spawn(
            &alloc::format!("role dies-with-reply {how}"),
            &[("endpoint", endpoint.handle())]
        ));
        if how == "wait" {
            let process = must!(child.process.duplicate(Rights::MANAGE));
            must!(thread::spawn(move || {
                let _ = time::sleep(Duration::from_millis(100));
                let _ = process.kill(7);
            }));
        }
        same!(
            endpoint.call(Message::new(0), 0, soon()).map(|_| ()),
            Err(Error::NoReply)
        );
        let info = must!(child.end(PATIENCE));
        let want = match how {
            "fault" => ProcessState::Faulted,
            "wait" => ProcessState::Killed,
            _ => ProcessState::Exited,
        };
        check!(info.state == want as u32, "{how}: {}", ending(&info));
    }
    Ok(())
}

fn endpoint_without_receiver_is_closed_for_waiting_and_new_callers(_: &'static World) -> Verdict {
    let endpoint = must!(Endpoint::create());
    let sender = Arc::new(must!(endpoint.duplicate(Rights::SEND)));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let sender = Arc::clone(&sender);
        clients.push(must!(thread::spawn(move || sender
            .call(Message::new(0), 0, soon())
            .map(|_| ()))));
    }
    must!(time::sleep(Duration::from_millis(50)));
    drop(endpoint);
    for client in clients {
        same!(must!(client.join(soon())), Err(Error::PeerClosed));
    }
    same!(
        sender.call(Message::new(0), 0, soon()).map(|_| ()),
        Err(Error::PeerClosed)
    );
    same!(sender.send(Message::new(0), soon()), Err(Error::PeerClosed));
    Ok(())
}

fn deadlines_end_every_wait(_: &'static World) -> Verdict {
    const WAIT: Duration = Duration::from_millis(30);
    let endpoint = must!(Endpoint::create());
    let notification = must!(Notification::create());
    let waits: [(&str, &dyn Fn(Deadline) -> rt::Result<()>); 5] = [
        ("call", &|deadline| {
            endpoint.call(Message::new(0), 0, deadline).map(|_| ())
        }),
        ("send", &|deadline| endpoint.send(Message::new(0), deadline)),
        ("recv", &|deadline| endpoint.recv(0, deadline).map(|_| ())),
        ("wait", &|deadline| notification.wait(deadline).map(|_| ())),
        ("sleep", &|deadline| {
            time::sleep_until(deadline).map_or_else(Err, |()| Err(Error::TimedOut))
        }),
    ];
    for (name, wait) in waits {
        let deadline = time::after(WAIT);
        same!(wait(deadline), Err(Error::TimedOut));
        let now = time::now_ns();
        check!(
            now >= deadline.0,
            "{name} ended {} ns before its deadline",
            deadline.0 - now
        );
        check!(
            now - deadline.0 < 500_000_000,
            "{name} ended {} ns late",
            now - deadline.0
        );
    }
    // Nobody is left in the queues.
    same!(
        endpoint.recv(0, Deadline::NOW).map(|_| ()),
        Err(Error::TimedOut)
    );
    Ok(())
}

fn past_deadline_does_not_wait(_: &'static World) -> Verdict {
    let endpoint = must!(Endpoint::create());
    let notification = must!(Notification::create());
    for deadline in [Deadline::NOW, Deadline(1)] {
        same!(
            endpoint.call(Message::new(0), 0, deadline).map(|_| ()),
            Err(Error::TimedOut)
        );
        same!(
            endpoint.send(Message::new(0), deadline),
            Err(Error::TimedOut)
        );
        same!(endpoint.recv(0, deadline).map(|_| ()), Err(Error::TimedOut));
        same!(
            notification.wait(deadline).map(|_| ()),
            Err(Error::TimedOut)
        );
        must!(notification.signal(4));
        same!(notification.wait(deadline), Ok(4));
        must!(time::sleep_until(deadline));
    }
    Ok(())
}

fn late_answer_finds_the_caller_gone(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    for by_loop in [false, true] {
        let theirs = Arc::clone(&endpoint);
        let wait = Duration::from_millis(20);
        let client = must!(thread::spawn(move || theirs
            .call(Message::new(0), 0, time::after(wait))
            .map(|_| ())));
        let mut received = must!(receive(&endpoint, 0));
        same!(must!(client.join(soon())), Err(Error::TimedOut));
        let Some(reply) = received.reply.take() else {
            fail!("no reply came")
        };
        if by_loop {
            // A server's loop is not stopped by it.
            let next = endpoint
                .reply_recv(reply, Message::new(0), 0, time::after(wait))
                .map(|_| ());
            check!(
                matches!(next, Err(Error::TimedOut | Error::CallerGone)),
                "{next:?}"
            );
        } else {
            same!(reply.answer(Message::new(0)), Err(Error::CallerGone));
        }
    }
    Ok(())
}

/// Serves until a message of label 0: answers word 0 plus the badge.
fn echo_loop(endpoint: &Endpoint) -> rt::Result<u64> {
    let mut pending = None;
    let mut count = 0;
    loop {
        let event = endpoint.serve_next(pending.take(), 0, time::after(Duration::from_secs(20)))?;
        let Event::Message(mut received) = event else {
            continue;
        };
        let mut words = received.words;
        words[0] = words[0].wrapping_add(received.badge.0);
        let answer = Message::new(received.label).with_words(words);
        if received.label == 0 {
            if let Some(reply) = received.reply.take() {
                reply.answer(answer)?;
            }
            return Ok(count);
        }
        count += 1;
        pending = received.reply.take().map(|reply| (reply, answer));
    }
}

/// Calls `count` times with this badge added.
fn call_often(client: &Endpoint, badge: u64, count: u64) -> Verdict {
    for round in 0..count {
        let words = [round, badge, round ^ badge, 3, 4, 5];
        let answer = must!(client.call_plain(rt::Plain { label: 1, words }, soon()));
        same!(answer.words, [round + badge, badge, round ^ badge, 3, 4, 5]);
    }
    Ok(())
}

fn many_clients_on_all_cpus_are_all_answered(world: &'static World) -> Verdict {
    const ROUNDS: u64 = 400;
    let endpoint = Arc::new(must!(Endpoint::create()));
    let mut servers = Vec::new();
    for cpu in 0..world.cpus.min(2) {
        let endpoint = Arc::clone(&endpoint);
        servers.push(must!(
            thread::Builder::new()
                .cpu(cpu)
                .spawn(move || echo_loop(&endpoint))
        ));
    }
    let mut clients = Vec::new();
    for number in 0..u64::from(world.cpus) * 2 {
        let client = must!(endpoint.mint(Badge(number * 1000), Rights::SEND));
        let cpu = (number % u64::from(world.cpus)) as u32;
        clients.push(must!(
            thread::Builder::new().cpu(cpu).spawn(move || call_often(
                &client,
                number * 1000,
                ROUNDS
            ))
        ));
    }
    let clients_count = clients.len() as u64;
    for client in clients {
        must!(client.join(time::after(Duration::from_secs(40))))?;
    }
    let mut served = 0;
    for _ in 0..servers.len() {
        must!(endpoint.call_plain(
            rt::Plain {
                label: 0,
                words: [0; 6]
            },
            soon()
        ));
    }
    for server in servers {
        served += must!(must!(server.join(soon())));
    }
    same!(served, clients_count * ROUNDS);
    Ok(())
}

fn echo(_: &'static World, _: &str) -> u64 {
    let Ok(endpoint) = start::take::<Endpoint>("endpoint") else {
        return 1;
    };
    match echo_loop(&endpoint) {
        Ok(_) => 0,
        Err(_) => 2,
    }
}

fn caller(_: &'static World, argument: &str) -> u64 {
    let Ok(endpoint) = start::take::<Endpoint>("endpoint") else {
        return 1;
    };
    let Ok(badge) = argument.parse() else {
        return 2;
    };
    u64::from(call_often(&endpoint, badge, 300).is_err()) * 3
}

fn clients_of_another_process_are_all_answered(world: &'static World) -> Verdict {
    let endpoint = must!(Endpoint::create());
    let server = must!(world.spawn("role echo", &[("endpoint", endpoint.handle())]));
    let mut clients = Vec::new();
    for badge in 1..=u64::from(world.cpus.min(4)) {
        let minted = must!(endpoint.mint(Badge(badge), Rights::SEND | Rights::TRANSFER));
        let argument = alloc::format!("role caller {badge}");
        clients.push(must!(
            world.spawn(&argument, &[("endpoint", minted.handle())])
        ));
    }
    for client in clients {
        let info = must!(client.end(Duration::from_secs(40)));
        check!(
            info.state == ProcessState::Exited as u32 && info.code == 0,
            "a client {}",
            ending(&info)
        );
    }
    must!(endpoint.call_plain(
        rt::Plain {
            label: 0,
            words: [0; 6]
        },
        soon()
    ));
    let info = must!(server.end(PATIENCE));
    check!(
        info.state == ProcessState::Exited as u32 && info.code == 0,
        "the server {}",
        ending(&info)
    );
    Ok(())
}

fn send_waits_for_nobody_but_the_receiver(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let theirs = Arc::clone(&endpoint);
    let sender = must!(thread::spawn(move || {
        for label in 0..100 {
            theirs.send(Message::new(label), soon())?;
        }
        Ok::<(), Error>(())
    }));
    for label in 0..100 {
        let received = must!(receive(&endpoint, 0));
        same!(received.label, label);
        check!(received.reply.is_none(), "a send came with a reply");
    }
    must!(must!(sender.join(soon())));
    Ok(())
}

fn bound_notification_wakes_a_receive(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let notification = Arc::new(must!(Notification::create()));
    let (ours, bound) = (Arc::clone(&endpoint), Arc::clone(&notification));
    let server = must!(thread::spawn(move || {
        bound.bind()?;
        let mut bits = 0;
        let mut messages = 0;
        while bits != 0x1FF || messages < 50 {
            match ours.recv(0, soon())? {
                Event::Notification(more) => bits |= more,
                Event::Message(mut received) => {
                    messages += 1;
                    if let Some(reply) = received.reply.take() {
                        reply.answer(Message::new(0))?;
                    }
                }
            }
        }
        Notification::unbind()?;
        Ok::<(), Error>(())
    }));
    for round in 0..50 {
        if round % 6 == 0 {
            must!(notification.signal(1 << (round / 6)));
        }
        must!(endpoint.call(Message::new(1), 0, soon()));
    }
    must!(must!(server.join(soon())));
    // It is free again, for one thread.
    must!(notification.bind());
    let again = Arc::clone(&notification);
    let other = must!(thread::spawn(move || again.bind()));
    same!(must!(other.join(soon())), Err(Error::Busy));
    must!(Notification::unbind());
    Ok(())
}

fn notification_bits_gather_until_taken(_: &'static World) -> Verdict {
    let notification = must!(Notification::create());
    for bits in [1, 1, 1 << 63, 0, 0b1010] {
        must!(notification.signal(bits));
    }
    same!(notification.wait(soon()), Ok(1 | 1 << 63 | 0b1010));
    same!(notification.wait(Deadline::NOW), Err(Error::TimedOut));
    must!(notification.signal(0));
    same!(notification.wait(Deadline::NOW), Err(Error::TimedOut));
    Ok(())
}

fn signal_before_the_wait_is_not_lost(world: &'static World) -> Verdict {
    const ROUNDS: u64 = 500;
    let there = Arc::new(must!(Notification::create()));
    let back = Arc::new(must!(Notification::create()));
    let (theirs, ours) = (Arc::clone(&there), Arc::clone(&back));
    let partner = must!(thread::Builder::new().cpu(world.cpus - 1).spawn(move || {
        for _ in 0..ROUNDS {
            theirs.wait(soon())?;
            ours.signal(1)?;
        }
        Ok::<(), Error>(())
    }));
    for round in 0..ROUNDS {
        must!(there.signal(1));
        if round % 7 == 0 {
            thread::yield_now();
        }
        must!(back.wait(soon()));
    }
    must!(must!(partner.join(soon())));
    Ok(())
}

fn notification_that_is_closed_wakes_its_waiter(_: &'static World) -> Verdict {
    let notification = must!(Notification::create());
    let raw = notification.into_handle().into_raw();
    let waiting = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&waiting);
    let waiter = must!(thread::spawn(move || {
        told.store(true, Ordering::Release);
        let deadline = soon().0;
        // SAFETY: touches no memory.
        unsafe { sys::raw(Call::Wait as u64, [raw.0, 0, 0, 0, 0, 0], deadline) }.status
    }));
    while !waiting.load(Ordering::Acquire) {
        thread::yield_now();
    }
    must!(time::sleep(Duration::from_millis(20)));
    must!(call(Call::HandleClose, &[raw.0]));
    same!(must!(waiter.join(soon())), Error::PeerClosed as u64);
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
