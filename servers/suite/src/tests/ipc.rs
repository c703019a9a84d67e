//! Calls and answers: what happens when many come, and when somebody does not.

use abi::info::ProcessState;
use abi::{Badge, Deadline, Error, Rights};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use rt::thread::{self, JoinHandle};
use rt::{AsHandle, Endpoint, Event, Message, Notification, Received, start, time};

use super::tests;
use crate::roles::Role;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, fail, must, same};

tests! {
    dropped_reply_is_an_error_for_the_caller: 40,
    server_that_dies_with_a_reply_is_an_error_for_the_caller: 40,
    endpoint_without_receiver_is_closed_for_waiting_and_new_callers: 40,
    deadlines_end_every_wait: 40,
    past_deadline_does_not_wait: 40,
    late_answer_finds_the_caller_gone: 40,
    many_clients_on_all_cpus_are_all_answered: 60,
    clients_of_another_process_are_all_answered: 60,
    send_waits_for_nobody_but_the_receiver: 40,
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

pub(super) const PATIENCE: Duration = crate::runner::PATIENCE;

pub(super) fn soon() -> Deadline {
    time::after(PATIENCE)
}

/// The next message at an endpoint.
pub(super) fn receive(endpoint: &Endpoint, handles: usize) -> rt::Result<Received> {
    match endpoint.recv(handles, soon())? {
        Event::Message(message) => Ok(message),
        Event::Notification(_) => Err(Error::Cancelled),
    }
}

/// Answers `count` messages with what `answer` makes of them.
pub(super) fn serve(
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
            // Killed before it has received, it would die without a reply.
            let told = start::take::<Notification>("received").map(|received| received.signal(1));
            if !matches!(told, Ok(Ok(()))) {
                return 3;
            }
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
        let received = must!(Notification::create());
        let child = must!(world.spawn(
            &alloc::format!("role dies-with-reply {how}"),
            &[
                ("endpoint", endpoint.handle()),
                ("received", received.handle())
            ]
        ));
        if how == "wait" {
            let process = must!(child.process.duplicate(Rights::MANAGE));
            must!(thread::spawn(move || {
                let _ = received.wait(soon());
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

/// A way to wait, by its deadline.
type Wait<'a> = &'a dyn Fn(Deadline) -> rt::Result<()>;

fn deadlines_end_every_wait(_: &'static World) -> Verdict {
    const WAIT: Duration = Duration::from_millis(30);
    let endpoint = must!(Endpoint::create());
    let notification = must!(Notification::create());
    let waits: [(&str, Wait<'_>); 5] = [
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
    // Nobody serves this one, and nobody calls the other.
    let called = must!(Endpoint::create());
    let endpoint = must!(Endpoint::create());
    let notification = must!(Notification::create());
    for deadline in [Deadline::NOW, Deadline(1)] {
        same!(
            called.call(Message::new(0), 0, deadline).map(|_| ()),
            Err(Error::TimedOut)
        );
        same!(called.send(Message::new(0), deadline), Err(Error::TimedOut));
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
        let received_one = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&received_one);
        // On a slow machine its deadline may pass before anybody receives: then it tries again.
        let client = must!(thread::spawn(move || loop {
            let called = theirs.call(Message::new(0), 0, time::after(wait));
            if seen.load(Ordering::SeqCst) {
                return called.map(drop);
            }
        }));
        let mut received = must!(receive(&endpoint, 0));
        received_one.store(true, Ordering::SeqCst);
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
