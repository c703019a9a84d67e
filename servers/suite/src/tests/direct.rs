//! Messages that go straight from one thread to the other, because it waits for them on the same CPU: all registers of both sides, what
//! comes in between, and what becomes of the right to answer, which the receiver then holds by itself.

use abi::info::ObjectKind;
use abi::{Call, CpuSet, Deadline, Error, Handle, Rights, Tag};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::{
    AsHandle, Badge, Endpoint, Memory, Message, Notification, OwnedHandle, Reply, thread, time,
};

use super::ipc::{receive, soon};
use super::tests;
use crate::kernel_calls::refused;
use crate::registers::*;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, fail, must, same};

tests! {
    direct_messages_carry_words_and_keep_all_other_registers: 60,
    a_direct_call_that_fails_keeps_all_registers: 40,
    direct_partners_may_be_moved_to_other_cpus: 60,
    replies_that_are_not_given_at_once_stay_good: 40,
    a_held_reply_is_good_in_all_threads_of_the_process_once: 40,
    a_plain_message_takes_no_handles_whatever_was_taken_before: 40,
    an_answer_that_moves_the_endpoint_away_is_given_and_the_wait_fails: 40,
    what_another_thread_used_leaves_no_handle_behind: 40,
}

const NEVER: u64 = Deadline::NEVER.0;
pub(super) const BADGE: u64 = 0xBAD6_E000_0001;

/// The words of a message, which the first tells.
fn words(first: u64) -> [u64; 6] {
    core::array::from_fn(|index| first.rotate_left(9 * index as u32))
}

/// Registers with a message in them, and whatever else.
fn with_message(registers: Registers, tag: u64, words: [u64; 6]) -> Registers {
    let [rdx, r10, r8, r9, r12, r13] = words;
    Registers {
        rsi: tag,
        rdx,
        r10,
        r8,
        r9,
        r12,
        r13,
        ..registers
    }
}

/// Something large is destroyed, in many pieces: for a while each way out of the kernel on this CPU has something to do first.
pub(super) fn leave_work_behind() -> rt::Result<()> {
    let memory = Memory::create(0x40_0000)?;
    memory.write(0, &alloc::vec![1; 0x8_0000])
}

/// Answers calls on `endpoint` with what they bring, inverted, until it is closed. Looks at all registers each time.
pub(super) fn answer_all(endpoint: Handle, seed: u64) -> Verdict {
    let mut reply = 0;
    let mut first = 0;
    for round in 0_u64.. {
        if round % 32 == 9 {
            must!(leave_work_behind());
        }
        let registers = Registers {
            rax: Call::ReplyRecv as u64,
            rdi: endpoint.0,
            r14: if round % 16 == 5 {
                time::after(core::time::Duration::from_mins(10)).0
            } else {
                NEVER
            },
            r15: reply,
            flags: BASE_FLAGS | ARITHMETIC | DIRECTION,
            ..pattern(seed ^ round)
        };
        let before = with_message(registers, Tag::new(9).0, words(!first));
        let mut after = before;
        // SAFETY: a message of words alone, and nobody else's registers.
        unsafe { through_syscall(&mut after) };
        if after.rax != 0 {
            let error = Error::PeerClosed as u64;
            same!(
                after,
                Registers {
                    rax: error,
                    rcx: after.rcx,
                    r11: before.flags,
                    ..before
                }
            );
            return Ok(());
        }
        first = after.rdx;
        reply = after.r15;
        check!(reply != 0, "a call came without a reply");
        let came = Registers {
            rax: 0,
            rdi: BADGE,
            rcx: after.rcx,
            r11: before.flags,
            r14: abi::register::RECEIVED_MESSAGE,
            r15: reply,
            ..before
        };
        same!(after, with_message(came, Tag::new(5).0, words(first)));
    }
    Ok(())
}

/// A call, with all registers looked at.
pub(super) fn call(endpoint: Handle, seed: u64, deadline: u64) -> Verdict {
    let registers = Registers {
        rax: Call::Call as u64,
        rdi: endpoint.0,
        r14: deadline,
        flags: BASE_FLAGS | ARITHMETIC,
        ..pattern(seed)
    };
    let before = with_message(registers, Tag::new(5).0, words(seed));
    let mut after = before;
    // SAFETY: as above.
    unsafe { through_syscall(&mut after) };
    let came = Registers {
        rax: 0,
        rdi: 0,
        rcx: after.rcx,
        r11: before.flags,
        r14: abi::register::RECEIVED_MESSAGE,
        r15: 0,
        ..before
    };
    same!(after, with_message(came, Tag::new(9).0, words(!seed)));
    Ok(())
}

/// Calls in a row: some have a deadline, and some find that there is something to do on the way out.
pub(super) fn calls(endpoint: Handle, count: u64, seed: u64) -> Verdict {
    for round in 0..count {
        if round % 32 == 3 {
            must!(leave_work_behind());
        }
        let deadline = if round % 16 == 7 { soon().0 } else { NEVER };
        call(endpoint, seed ^ round << 20, deadline)?;
    }
    Ok(())
}

fn direct_messages_carry_words_and_keep_all_other_registers(world: &'static World) -> Verdict {
    for cpu in 0..world.cpus.min(4) {
        let endpoint = must!(Endpoint::create());
        let ours = must!(endpoint.mint(Badge(BADGE), Rights::SEND));
        let (theirs, client) = (endpoint.handle(), ours.handle());
        let server = must!(
            thread::Builder::new()
                .cpu(cpu)
                .spawn(move || answer_all(theirs, 0x5E))
        );
        let caller = must!(
            thread::Builder::new()
                .cpu(cpu)
                .spawn(move || calls(client, 200, 0xC1))
        );
        must!(caller.join(soon()))?;
        // The server's wait ends with an error, which keeps its registers as well.
        drop(endpoint);
        must!(server.join(soon()))?;
    }
    Ok(())
}

fn a_direct_call_that_fails_keeps_all_registers(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let endpoint = must!(Endpoint::create());
        let (theirs, ours) = (endpoint.handle(), endpoint.handle());
        // A server that answers the first call and then drops what it gets.
        let server = must!(thread::Builder::new().cpu(cpu).spawn(move || -> Verdict {
            let mut reply = 0;
            for round in 0..6_u64 {
                let registers = Registers {
                    rax: Call::ReplyRecv as u64,
                    rdi: theirs.0,
                    rsi: 0,
                    r14: NEVER,
                    r15: reply,
                    ..pattern(round)
                };
                let mut after = registers;
                // SAFETY: a message of words alone.
                unsafe { through_syscall(&mut after) };
                same!(after.rax, 0);
                reply = after.r15;
                if round > 0 {
                    drop(OwnedHandle::from_raw(Handle(reply)));
                    reply = 0;
                }
            }
            Ok(())
        }));
        let client = must!(thread::Builder::new().cpu(cpu).spawn(move || -> Verdict {
            for round in 0..6_u64 {
                let before = Registers {
                    rax: Call::Call as u64,
                    rdi: ours.0,
                    rsi: 3 << 32,
                    r14: NEVER,
                    ..pattern(round)
                };
                let mut after = before;
                // SAFETY: as above.
                unsafe { through_syscall(&mut after) };
                if round == 0 {
                    same!(after.rax, 0);
                } else {
                    same!(
                        after,
                        Registers {
                            rax: Error::NoReply as u64,
                            rcx: after.rcx,
                            r11: before.flags,
                            ..before
                        }
                    );
                }
            }
            Ok(())
        }));
        must!(client.join(soon()))?;
        must!(server.join(soon()))?;
    }
    Ok(())
}

fn direct_partners_may_be_moved_to_other_cpus(world: &'static World) -> Verdict {
    let endpoint = must!(Endpoint::create());
    let ours = must!(endpoint.mint(Badge(BADGE), Rights::SEND));
    let (theirs, client) = (endpoint.handle(), ours.handle());
    let server = must!(thread::spawn(move || answer_all(theirs, 1)));
    let stop = Arc::new(AtomicU64::new(0));
    let stopped = Arc::clone(&stop);
    let caller = must!(thread::spawn(move || -> Verdict {
        let mut round = 0;
        while stopped.load(Ordering::Relaxed) == 0 {
            round += 1;
            call(client, round, NEVER)?;
        }
        Ok(())
    }));
    for round in 0..40 {
        let cpu = round % world.cpus;
        must!(server.thread().set_affinity(&CpuSet::only(cpu)));
        if round % 3 != 0 {
            must!(caller.thread().set_affinity(&CpuSet::only(cpu)));
        }
        let before = must!(server.thread().info()).switches;
        super::probe::until("the server is called again", || {
            Ok(server.thread().info()?.switches > before + 4)
        })?;
    }
    stop.store(1, Ordering::Relaxed);
    must!(caller.join(soon()))?;
    drop(endpoint);
    must!(server.join(soon()))
}

fn replies_that_are_not_given_at_once_stay_good(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let mut clients = Vec::new();
    for number in 0..5_u32 {
        let theirs = Arc::clone(&endpoint);
        clients.push(must!(thread::spawn(move || {
            theirs
                .call(Message::new(number), 0, soon())
                .map(|answer| answer.label)
        })));
    }
    let mut replies = Vec::new();
    for _ in 0..clients.len() {
        let mut received = must!(receive(&endpoint, 0));
        let Some(reply) = received.reply.take() else {
            fail!("no reply came")
        };
        same!(must!(reply.query()).kind, ObjectKind::Reply as u32);
        replies.push((reply, received.label));
    }
    for (reply, label) in replies.into_iter().rev() {
        let raw = reply.handle();
        must!(reply.answer(Message::new(label + 100)));
        refused(Call::HandleClose, &[raw.0], Error::BadHandle)?;
    }
    for (number, client) in clients.into_iter().enumerate() {
        same!(must!(client.join(soon())), Ok(number as u32 + 100));
    }
    Ok(())
}

fn a_held_reply_is_good_in_all_threads_of_the_process_once(world: &'static World) -> Verdict {
    for how in ["answer", "close", "move", "keep"] {
        let endpoint = Arc::new(must!(Endpoint::create()));
        let other = Arc::new(must!(Endpoint::create()));
        let theirs = Arc::clone(&endpoint);
        let client = must!(thread::spawn(move || {
            theirs
                .call(Message::new(0), 0, soon())
                .map(|answer| answer.label)
        }));
        let mut received = must!(receive(&endpoint, 0));
        let Some(reply) = received.reply.take() else {
            fail!("no reply came")
        };
        let raw = reply.into_handle().into_raw();
        // Another thread uses it, on another CPU if there is one, while this one still has it.
        let to = Arc::clone(&other);
        let helper = thread::Builder::new().cpu(world.cpus - 1);
        let helper = must!(helper.spawn(move || {
            let reply = Reply::from_handle(OwnedHandle::from_raw(raw));
            match how {
                "answer" => reply.answer(Message::new(7)),
                "close" => {
                    drop(reply);
                    Ok(())
                }
                "move" => to.send(Message::new(1).with_moved(reply), soon()),
                _ => {
                    let _ = reply.into_handle().into_raw();
                    Ok(())
                }
            }
        }));
        let want = match how {
            "answer" => Ok(7),
            "close" => Err(Error::NoReply),
            "move" => {
                let mut passed = must!(receive(&other, 1));
                let Some(reply) = passed.handles.pop() else {
                    fail!("no reply was passed on")
                };
                must!(Reply::from_handle(reply).answer(Message::new(8)));
                Ok(8)
            }
            _ => {
                // Received again, what was held before is kept under its name.
                same!(
                    endpoint.recv(0, Deadline::NOW).map(|_| ()),
                    Err(Error::TimedOut)
                );
                must!(Reply::from_handle(OwnedHandle::from_raw(raw)).answer(Message::new(9)));
                Ok(9)
            }
        };
        must!(must!(helper.join(soon())));
        same!(must!(client.join(soon())), want);
        // It is used up, whoever tries.
        let again = Reply::from_handle(OwnedHandle::from_raw(raw)).answer(Message::new(6));
        check!(
            matches!(again, Err(Error::BadHandle | Error::CallerGone)),
            "{again:?}"
        );
    }
    Ok(())
}

/// What a thread said of handles for one wait holds for no later one.
fn a_plain_message_takes_no_handles_whatever_was_taken_before(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let endpoint = Arc::new(must!(Endpoint::create()));
        let theirs = Arc::clone(&endpoint);
        let client = must!(
            thread::Builder::new()
                .cpu(cpu)
                .spawn(move || -> rt::Result<()> {
                    let gone = Endpoint::create()?.mint(Badge(0), Rights::SEND)?;
                    let failed = gone.call(Message::new(0), 4, soon()).map(|_| ());
                    if failed != Err(Error::PeerClosed) {
                        return failed;
                    }
                    for _ in 0..3 {
                        theirs.call_plain(rt::Plain::default(), Deadline::NEVER)?;
                    }
                    Ok(())
                })
        );
        let carried = must!(Notification::create());
        let server = thread::Builder::new().cpu(cpu);
        let theirs = Arc::clone(&endpoint);
        let server = must!(server.spawn(move || -> rt::Result<rt::Result<()>> {
            let mut event = theirs.recv(2, Deadline::NEVER)?;
            let mut answered = 0;
            loop {
                let rt::Event::Message(mut received) = event else {
                    return Err(Error::Cancelled);
                };
                let reply = received.reply.take().ok_or(Error::NoReply)?;
                answered += 1;
                if answered == 3 {
                    return Ok(reply.answer(Message::new(0).with_copy(&carried)));
                }
                // It waits, and takes none: whoever brings one is told so.
                event = theirs.reply_recv(reply, Message::new(0), 0, Deadline::NEVER)?;
            }
        }));
        same!(must!(client.join(soon())), Err(Error::NoReply));
        same!(
            must!(must!(server.join(soon()))),
            Err(Error::HandlesRefused)
        );
    }
    Ok(())
}

/// A thread that receives, and others that answer: the usual server with workers.
fn what_another_thread_used_leaves_no_handle_behind(world: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let theirs = Arc::clone(&endpoint);
    let client = must!(thread::spawn(move || -> rt::Result<()> {
        for _ in 0..40 {
            theirs.call_plain(rt::Plain::default(), Deadline::NEVER)?;
        }
        Ok(())
    }));
    let (given, done) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(must!(Notification::create())),
    );
    let (work, ready) = (Arc::clone(&given), Arc::new(must!(Notification::create())));
    let (finished, told) = (Arc::clone(&done), Arc::clone(&ready));
    let worker = thread::Builder::new().cpu(world.cpus - 1);
    let worker = must!(worker.spawn(move || -> rt::Result<()> {
        for _ in 0..40 {
            told.wait(soon())?;
            let raw = Handle(work.load(Ordering::SeqCst));
            Reply::from_handle(OwnedHandle::from_raw(raw)).answer(Message::new(0))?;
            finished.signal(1)?;
        }
        Ok(())
    }));
    let before = must!(rt::process::current().info()).handles;
    for _ in 0..40 {
        let mut received = must!(receive(&endpoint, 0));
        let Some(reply) = received.reply.take() else {
            fail!("no reply came")
        };
        let raw = reply.into_handle().into_raw();
        given.store(raw.0, Ordering::SeqCst);
        must!(ready.signal(1));
        must!(done.wait(soon()));
        refused(Call::HandleClose, &[raw.0], Error::BadHandle)?;
    }
    must!(must!(client.join(soon())));
    must!(must!(worker.join(soon())));
    same!(
        endpoint.recv(0, Deadline::NOW).map(|_| ()),
        Err(Error::TimedOut)
    );
    let after = must!(rt::process::current().info()).handles;
    check!(after <= before, "{} handles stay behind", after - before);
    Ok(())
}

/// By the direct way, which has a way of its own for a single handle, and by the long one.
fn an_answer_that_moves_the_endpoint_away_is_given_and_the_wait_fails(
    _: &'static World,
) -> Verdict {
    for (deadline, more) in [
        (Deadline::NEVER, false),
        (Deadline::NEVER, true),
        (soon(), false),
        (soon(), true),
    ] {
        let endpoint = must!(Endpoint::create());
        let called = must!(endpoint.mint(Badge(1), Rights::SEND));
        let number = endpoint.handle();
        let server = must!(thread::Builder::new().cpu(0).spawn(move || -> Verdict {
            let mut received = must!(receive(&endpoint, 0));
            let Some(reply) = received.reply.take() else {
                fail!("a call came without a reply")
            };
            let mut answer = Message::new(7).with_moved(endpoint.into_handle());
            if more {
                answer = answer.with_moved(must!(Notification::create()).into_handle());
            }
            let endpoint = Endpoint::from_handle(OwnedHandle::from_raw(number));
            let next = endpoint.reply_recv(reply, answer, 0, deadline);
            same!(next.map(drop), Err(Error::BadHandle));
            Ok(())
        }));
        let client = must!(thread::Builder::new().cpu(0).spawn(move || called.call(
            Message::new(1),
            2,
            deadline
        )));
        must!(server.join(soon()))?;
        let mut answer = must!(must!(client.join(soon())));
        same!(
            (answer.label, answer.handles.len()),
            (7, 1 + usize::from(more))
        );
        // It has all of its rights, and nobody waits there.
        let endpoint = Endpoint::from_handle(answer.handles.swap_remove(0));
        same!(
            endpoint.recv(0, Deadline::NOW).map(drop),
            Err(Error::TimedOut)
        );
        let again = must!(endpoint.mint(Badge(2), Rights::SEND));
        same!(
            again.send(Message::new(1), Deadline::NOW),
            Err(Error::TimedOut)
        );
    }
    Ok(())
}
