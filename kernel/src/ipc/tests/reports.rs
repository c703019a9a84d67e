//! Reports: messages that a thread's registers are made into, and that leave them as they are; and a look at a thread that waits, which no end of its wait overtakes.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::compat::{BLOCK_FORM, block};
use abi::report::{Answer, PageAccess, REGISTER_BYTES, label};
use abi::{Deadline, Error, Handle, Tag, UserContext};

use super::pair;
use crate::ipc::{Endpoint, report};
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
fn an_answer_that_comes_too_late_is_told_so_whatever_it_says() {
    let (server, client, endpoint) = pair();
    let reply = reported(&server, &client, &endpoint);
    let stamp = client.thread().awaited().unwrap();
    // Between the look for the thread and the answer its wait is ended, and another report begins.
    assert_eq!(server.close(reply), Ok(()));
    assert_eq!(outcome(&client, |_| ()), Outcome::Failed(Error::NoReply));
    let reply = reported(&server, &client, &endpoint);
    for tag in [
        Tag::new(Answer::Resume as u32),
        Tag::new(Answer::Result as u32),
        Tag::new(label::FAULT),
        Tag(1 << 13),
    ] {
        server.load(tag, [0; 6]);
        let answered = report::answer(server.thread(), client.thread(), stamp);
        assert_eq!(answered, Err(Error::CallerGone), "{tag:?}");
    }
    server.load(Tag::new(Answer::Resume as u32), [0; 6]);
    assert_eq!(server.reply(reply), Ok(()));
    assert_eq!(outcome(&client, |_| ()), Outcome::Answered(Answer::Resume));
}

#[test]
fn a_step_outlasts_the_reports_of_a_call_that_it_comes_into() {
    const TRAP: u64 = 1 << 8;
    let (server, client, endpoint) = pair();
    let thread = client.thread();
    let answer = |label, answer: Answer, registers: Option<UserContext>| {
        thread.reporting.begin(label);
        assert_eq!(
            client.call(&endpoint, 7, Deadline::NEVER),
            Ok(Went::Blocked)
        );
        assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
        let tag = Tag::new(answer as u32);
        server.load(tag, [0; 6]);
        if let Some(registers) = registers {
            // SAFETY: the buffer is a whole page.
            unsafe {
                server
                    .thread()
                    .area
                    .buffer()
                    .cast::<UserContext>()
                    .write(registers);
            }
            server.load(tag.with_bytes(REGISTER_BYTES), [0; 6]);
        }
        assert_eq!(server.reply(server.reply_handle()), Ok(()));
        assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
        thread.reporting.take_outcome();
        (
            thread.reporting.is_stepped(),
            thread.registers().rflags & TRAP != 0,
        )
    };
    *thread.registers_mut() = faulted();
    assert_eq!(answer(label::FAULT, Answer::Step, None), (true, true));
    for answered in [Answer::Resume, Answer::Result, Answer::Step] {
        for point in [label::CALL_BEGINS, label::CALL_ENDS] {
            assert_eq!(answer(point, answered, None), (true, true), "{answered:?}");
        }
    }
    // Whoever takes the flag away takes the step away.
    let without = UserContext {
        rflags: 0,
        ..faulted()
    };
    let answered = answer(label::CALL_BEGINS, Answer::Resume, Some(without));
    assert_eq!(answered, (false, false));
    // A program's own flag is no step of anybody's.
    thread.registers_mut().rflags |= TRAP;
    for answered in [Answer::Resume, Answer::Step] {
        assert_eq!(answer(label::CALL_ENDS, answered, None), (false, true));
    }
}

#[test]
fn a_call_in_the_block_form_shows_the_arguments_of_its_block() {
    let (server, client, endpoint) = pair();
    let thread = client.thread();
    for (place, value) in [
        (block::RDI, 0x1_0000_0011),
        (block::RSI, 0x2_0000_0022),
        (block::RDX, 0x3_0000_0033),
        (block::R10, 0x4_0000_0044),
    ] {
        thread.area.set_register(place, value);
    }
    let number = u64::from(BLOCK_FORM | 4);
    let in_registers = [0x11, 0x22, 0x33, 0];
    let in_block = [0x1_0000_0011, 0x2_0000_0022, 0x3_0000_0033, 0x4_0000_0044];
    for (label, code, number, shown) in [
        (label::CALL_BEGINS, 0x1B, number, in_block),
        (label::CALL_ENDS, 0x1B, number, in_block),
        (label::CALL_BEGINS, 0x1B, 4, in_registers),
        // A number of another system has no such form, and none of 64-bit code has.
        (label::FOREIGN_CALL, 0x1B, number, in_registers),
        (label::CALL_BEGINS, 0x2B | 3, number, in_registers),
    ] {
        *thread.registers_mut() = UserContext {
            cs: code,
            call_number: number,
            ..faulted()
        };
        thread.reporting.begin(label);
        assert_eq!(
            client.call(&endpoint, 7, Deadline::NEVER),
            Ok(Went::Blocked)
        );
        assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
        let [a, b, c, d] = shown;
        let wanted = match label {
            label::CALL_ENDS => [number, 0, a, b, c, thread.id()],
            _ => [number, a, b, c, d, thread.id()],
        };
        assert_eq!(server.message().1, wanted, "{label:x} {code:x} {number:x}");
        assert_eq!(server.close(server.reply_handle()), Ok(()));
        assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
        thread.reporting.take_outcome();
    }
}

#[test]
fn a_direct_answer_does_not_overtake_a_look() {
    let (_server, client, _endpoint) = pair();
    let thread = client.thread();
    let stamp = thread.begin_awaiting(thread);
    assert!(thread.take_awaiting_here(stamp));
    // What the direct way has read before is not what is there after a look, although the number is the same.
    let stamp = thread.begin_awaiting(thread);
    assert_eq!(thread.while_awaiting(stamp, || Ok(())), Ok(()));
    assert!(thread.awaits(stamp));
    assert!(!thread.take_awaiting_here(stamp));
    assert!(thread.take_awaiting(Some(stamp), None));
    assert!(!thread.awaits(stamp));
    // The next wait is as any.
    let stamp = thread.begin_awaiting(thread);
    let failed = thread.take_awaiting_after(stamp, thread, || Err(Error::BadArgument));
    assert_eq!(failed, Err(Error::BadArgument));
    assert!(thread.awaits(stamp) && !thread.take_awaiting_here(stamp));
    assert_eq!(thread.take_awaiting_after(stamp, thread, || Ok(())), Ok(()));
    assert!(!thread.awaits(stamp));
    let stamp = thread.begin_awaiting(thread);
    assert!(thread.take_awaiting_here(stamp));
}

#[test]
fn nobody_looks_between_an_answer_and_the_end_of_the_wait() {
    let (_server, client, _endpoint) = pair();
    let thread = client.thread();
    let looks = AtomicU64::new(0);
    for _ in rounds() {
        let stamp = thread.begin_awaiting(thread);
        let at_answer = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while thread
                    .while_awaiting(stamp, || {
                        looks.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    })
                    .is_ok()
                {}
            });
            let before = looks.load(Ordering::SeqCst);
            spin_until(|| looks.load(Ordering::SeqCst) != before);
            let answered = thread.take_awaiting_after(stamp, thread, || {
                at_answer.store(looks.load(Ordering::SeqCst), Ordering::SeqCst);
                Ok(())
            });
            assert_eq!(answered, Ok(()));
        });
        assert_eq!(looks.load(Ordering::SeqCst), at_answer.into_inner());
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

#[test]
fn a_page_that_is_wanted_is_told_by_its_place_alone() {
    let (server, client, endpoint) = pair();
    for (tag, answered) in [
        (Tag::new(Answer::Resume as u32), Ok(Answer::Resume)),
        (Tag::new(Answer::End as u32), Ok(Answer::End)),
        (Tag::new(Answer::ResumeAt as u32), Err(Error::BadArgument)),
        (Tag::new(Answer::Step as u32), Err(Error::BadArgument)),
        (Tag::new(9), Err(Error::BadArgument)),
        (
            Tag::new(0).with_bytes(REGISTER_BYTES),
            Err(Error::BadArgument),
        ),
    ] {
        *client.thread().registers_mut() = faulted();
        let reporting = &client.thread().reporting;
        reporting.begin_page(0x3000, PageAccess::Write);
        assert!(!reporting.shows_state());
        assert_eq!(
            client.call(&endpoint, 7, Deadline::NEVER),
            Ok(Went::Blocked)
        );
        assert_eq!(server.recv(&endpoint, Deadline::NOW), Ok(Went::On));
        woken();
        let id = client.thread().id();
        let wanted = (Tag::new(label::PAGE), [0x3000, 1, 0, 0, 0, id]);
        assert_eq!((server.message(), server.badge()), (wanted, 7));
        server.load(tag, [0; 6]);
        let reply = server.reply(server.reply_handle());
        assert_eq!(reply, answered.map(|_| ()), "{tag:?}");
        let came_of_it = answered.map_or(Outcome::Failed(Error::NoReply), Outcome::Answered);
        assert_eq!(outcome(&client, |_| ()), came_of_it);
        assert_eq!(server.handles(), 1);
    }
}
