//! How processes end, and what of them stays.

use abi::info::{NAME_BYTES, ProcessState, Quota, ThreadState};
use abi::{Badge, Deadline, Error, Rights, Tag, UserContext};

use super::*;
use crate::memory::account::Resource;
use crate::object::{AnyObject, Capability, Section, Step, Walk, quiescent};
use crate::schedule;
use crate::thread::testing::*;
use crate::thread::{WOKEN_AT_ONCE, ask};

fn log() -> Capability {
    Capability::new(AnyObject::Log, Rights::ALL, Badge(77))
}

fn state(process: &Process) -> (u32, u32, u64) {
    let info = process.info();
    (info.state, info.threads, info.code)
}

fn poll(notification: &Notification) -> Result<u64, Error> {
    let program = Program::alone("poll");
    let bits = program
        .wait(notification, Deadline::NOW)
        .map(|_| program.thread().registers().rdx);
    program.leave();
    bits
}

mod forgotten;

#[test]
fn names_are_short_plain_text() {
    let longest = [b'x'; NAME_BYTES];
    for good in [b"a".as_slice(), "n\u{e4}mes".as_bytes(), &longest] {
        let name = Name::new(good).unwrap();
        assert_eq!(name.as_str().as_bytes(), good);
        let (bytes, length) = name.padded();
        assert_eq!(&bytes[..length as usize], good);
        assert!(bytes[length as usize..].iter().all(|&byte| byte == 0));
    }
    let too_long = [b'x'; NAME_BYTES + 1];
    for bad in [
        b"".as_slice(),
        b"a\nb",
        b"\0",
        b"\xFF",
        b"\xC3",
        b"\x1B[0m",
        "\u{85}".as_bytes(),
        &too_long,
    ] {
        assert_eq!(Name::new(bad).err(), Some(Error::BadArgument), "{bad:?}");
    }
}

#[test]
fn a_process_that_cannot_be_made_takes_no_part_of_a_quota() {
    crate::memory::testing::kernel_machine();
    let lender = Account::create(1000).unwrap();
    let used = || Resource::ALL.map(|resource| lender.used_of(resource));
    let part = Quota {
        pages: 0,
        handles: 70,
        threads: 7,
    };
    for _ in 0..20 {
        let account = Account::divide(&lender, &part).unwrap();
        let name = Name::new(b"too poor").unwrap();
        let made = Process::create(name, account, Priority::HIGHEST, Mode::Long);
        assert_eq!(made.err(), Some(Error::QuotaExceeded));
        // No quiescent point has passed since.
        assert_eq!(used(), [0; 3]);
    }
}

#[test]
fn a_process_exits_with_its_last_thread() {
    let (process, end) = (process("exits"), notification());
    process.watch(end.clone(), 0b10).unwrap();
    let threads: Vec<Program> = (0..3).map(|_| Program::new(&process)).collect();
    threads[0].give(AnyObject::Log, Rights::ALL);
    for (number, thread) in threads.into_iter().enumerate() {
        assert_eq!(
            state(&process),
            (ProcessState::Alive as u32, 3 - number as u32, 0)
        );
        assert_eq!(
            (process.info().handles, poll(&end)),
            (1, Err(Error::TimedOut))
        );
        thread.leave();
    }
    assert_eq!(state(&process), (ProcessState::Exited as u32, 0, 0));
    assert_eq!((process.info().handles, poll(&end)), (0, Ok(0b10)));
    assert_eq!(poll(&end), Err(Error::TimedOut));
}

#[test]
fn what_comes_before_the_first_thread_overlaps_with_none() {
    let process = process("threadless");
    let done = std::cell::Cell::new(0);
    let tried = || process.while_threadless(|| done.set(done.get() + 1));
    assert_eq!((tried(), done.get()), (Ok(()), 1));
    let thread = Program::new(&process);
    assert_eq!((tried(), done.get()), (Err(Error::WrongState), 1));
    thread.leave();
    assert_eq!((tried(), done.get()), (Err(Error::Ended), 1));
}

#[test]
fn threads_leave_the_list_from_any_place_and_once() {
    for order in [
        [0, 1, 2],
        [1, 0, 2],
        [2, 1, 0],
        [1, 2, 0],
        [0, 2, 1],
        [2, 0, 1],
    ] {
        let process = process("list");
        let threads = [0; 3].map(|_| Program::new(&process).thread().clone());
        let mut left: Vec<u64> = threads.iter().map(|thread| thread.id()).collect();
        for index in order {
            let mut listed = Vec::new();
            process.for_each_thread(&mut |thread| {
                listed.push(thread.id());
                true
            });
            listed.reverse();
            assert_eq!(listed, left);
            assert!(
                process
                    .remove_thread(&threads[index])
                    .unwrap()
                    .is(&threads[index])
            );
            assert!(process.remove_thread(&threads[index]).is_none());
            left.retain(|&id| id != threads[index].id());
        }
        assert_eq!(process.info().threads, 0);
    }
}

/// A process with a thread in each state there is, and who they wait for.
fn busy() -> (
    Ref<Process>,
    Vec<Program>,
    Ref<Thread>,
    Program,
    Ref<crate::ipc::Endpoint>,
) {
    let (process, peer) = (process("busy"), Program::alone("peer"));
    let (served, silent, elsewhere) = (endpoint(), endpoint(), notification());
    for endpoint in [&served, &silent] {
        peer.give_endpoint(endpoint);
    }
    let threads: Vec<Program> = (0..6).map(|_| Program::new(&process)).collect();
    let own = endpoint();
    threads[0].give_endpoint(&own);
    threads[0].give(AnyObject::Notification(elsewhere.clone()), Rights::ALL);
    for program in &threads {
        program.load(Tag::new(0), [1; 6]);
    }
    assert_eq!(
        threads[1].call(&silent, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(
        threads[2].call(&served, 0, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(peer.recv(&served, Deadline::NEVER), Ok(Went::On));
    assert_eq!(threads[3].recv(&own, Deadline::NEVER), Ok(Went::Blocked));
    assert_eq!(
        threads[4].wait(&elsewhere, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert_eq!(threads[5].sleep(), Ok(Went::Blocked));
    let unstarted = Program::unstarted(&process).thread().clone();
    let states = [
        ThreadState::Ready,
        ThreadState::Sending,
        ThreadState::AwaitingReply,
        ThreadState::Receiving,
        ThreadState::Waiting,
        ThreadState::Sleeping,
    ];
    assert!(
        threads
            .iter()
            .zip(states)
            .all(|(program, state)| program.thread().shown_state() == state)
    );
    (process, threads, unstarted, peer, own)
}

#[test]
fn a_killed_process_ends_whatever_its_threads_do() {
    let (process, threads, unstarted, peer, own) = busy();
    let ends: Vec<_> = (0..MAX_WATCHERS).map(|_| notification()).collect();
    for (number, end) in ends.iter().enumerate() {
        assert_eq!(process.watch(end.clone(), 1 << number), Ok(()));
    }
    assert_eq!(process.watch(ends[0].clone(), 1), Err(Error::Busy));
    let account = process.account().clone();
    let caller = Program::alone("caller");
    caller.load(Tag::new(0), [0; 6]);

    process.end(Ending::Kill(42));
    assert_eq!(state(&process), (ProcessState::Killed as u32, 6, 42));
    assert!(unstarted.has_ended() && !unstarted.begin());
    // From here on nothing is added or begun.
    assert_eq!(process.while_alive(|| Ok(())), Err(Error::Ended));
    let (error, back) = process.grant(log()).expect_err("it has ended");
    assert_eq!((error, back.badge()), (Error::Ended, Badge(77)));
    assert_eq!(
        process.add_thread(unstarted.clone(), || ()),
        Err(Error::Ended)
    );

    // Each is asked to look, and those that wait are woken once.
    for (number, program) in threads.iter().enumerate() {
        assert!(program.thread().marks().is_killed());
        assert_eq!(program.serve_asked(), ask::LOOK);
        if number == 0 {
            assert!(woken().is_empty());
        } else {
            assert_eq!(
                (woken(), program.resume()),
                (vec![program.pointer()], Err(Error::Cancelled))
            );
        }
    }
    // The endpoint of the process is open until its last thread is gone.
    assert_eq!(caller.call(&own, 0, Deadline::NEVER), Ok(Went::Blocked));
    for program in threads {
        assert!(ends.iter().all(|end| poll(end) == Err(Error::TimedOut)));
        assert_eq!(process.info().handles, 2);
        program.leave();
    }
    assert_eq!(state(&process), (ProcessState::Killed as u32, 0, 42));
    assert_eq!(
        (process.info().handles, process.space().err()),
        (0, Some(Error::Ended))
    );
    assert_eq!(
        (woken(), caller.resume()),
        (vec![caller.pointer()], Err(Error::PeerClosed))
    );
    for (number, end) in ends.iter().enumerate() {
        assert_eq!(poll(end), Ok(1 << number));
    }
    // What the peer has of it is stale, and it is not in the peer's way.
    assert_eq!(peer.reply(peer.reply_handle()), Err(Error::CallerGone));
    drop((unstarted, process));
    settle(&account);
}

#[test]
fn the_first_ending_counts() {
    let process = process("first");
    let thread = Program::new(&process);
    assert_eq!(process.while_alive(|| Ok(8)), Ok(8));
    assert_eq!(
        process.while_alive(|| Err::<(), _>(Error::Busy)),
        Err(Error::Busy)
    );
    process.end(Ending::Exit(3));
    process.end(Ending::Kill(4));
    process.end(Ending::Fault(&UserContext::default()));
    assert_eq!(state(&process), (ProcessState::Exited as u32, 1, 3));
    thread.leave();
    process.end(Ending::Kill(5));
    assert_eq!(state(&process), (ProcessState::Exited as u32, 0, 3));
}

#[test]
fn a_fault_keeps_the_registers() {
    let process = process("faults");
    let thread = Program::new(&process);
    let context = UserContext {
        vector: 14,
        rip: 0x1234,
        cr2: 0xDEAD,
        ..UserContext::default()
    };
    process.end(Ending::Fault(&context));
    thread.leave();
    let info = process.info();
    assert_eq!((info.state, info.code), (ProcessState::Faulted as u32, 14));
    assert_eq!((info.context.rip, info.context.cr2), (0x1234, 0xDEAD));
}

#[test]
fn a_process_without_threads_ends_at_once_when_it_is_killed() {
    let (process, end) = (process("empty"), notification());
    process.watch(end.clone(), 1).unwrap();
    process.grant(log()).map_err(|(error, _)| error).unwrap();
    process.end(Ending::Kill(1));
    assert_eq!(
        (state(&process), process.info().handles),
        ((ProcessState::Killed as u32, 0, 1), 0)
    );
    assert_eq!(poll(&end), Ok(1));
    // Who comes late is told at once.
    assert_eq!(process.watch(end.clone(), 2), Ok(()));
    assert_eq!(poll(&end), Ok(2));
}

#[test]
fn one_thread_may_be_ended_without_the_others() {
    let process = process("threads");
    let (running, unstarted) = (Program::new(&process), Program::unstarted(&process));
    process.end_thread(unstarted.thread());
    assert!(unstarted.thread().has_ended());
    assert_eq!(
        (state(&process), running.serve_asked()),
        ((ProcessState::Alive as u32, 1, 0), 0)
    );
    // Twice is once.
    process.end_thread(unstarted.thread());
    assert!(!unstarted.thread().marks().is_killed());
    assert_eq!(unstarted.serve_asked(), 0);
    process.end_thread(running.thread());
    assert!(running.thread().marks().is_killed());
    assert_eq!(
        (running.serve_asked(), state(&process).0),
        (ask::LOOK, ProcessState::Alive as u32)
    );
    let thread = running.thread().clone();
    running.leave();
    assert_eq!(state(&process), (ProcessState::Exited as u32, 0, 0));
    // It is gone for good: its home is not asked for it.
    process.end_thread(&thread);
    assert_eq!(thread.asked.load(Ordering::SeqCst), 0);
}

#[test]
fn a_process_whose_only_thread_is_ended_before_its_start_exits() {
    let (process, end) = (process("never"), notification());
    process.watch(end.clone(), 4).unwrap();
    let thread = Program::unstarted(&process);
    process.end_thread(thread.thread());
    assert_eq!(
        (state(&process), poll(&end)),
        ((ProcessState::Exited as u32, 0, 0), Ok(4))
    );
}

#[test]
fn a_thread_object_outlives_its_thread_and_keeps_its_process() {
    let process = process("outlived");
    let (id, account) = (process.id(), process.account().clone());
    let program = Program::new(&process);
    let thread = program.thread().clone();
    program.leave();
    drop(process);
    assert_eq!(
        (thread.process().id(), thread.shown_state()),
        (id, ThreadState::Ended)
    );
    assert!(listed(id));
    drop(thread);
    settle(&account);
    assert!(!listed(id));
}

fn listed(id: u64) -> bool {
    // SAFETY: no quiescent point is declared in here.
    let section = unsafe { Section::enter() };
    let mut walk = Walk::<Process>::begin();
    loop {
        match walk.next(&section) {
            Step::Object(process) if process.id() == id => return true,
            Step::Object(_) | Step::Free => {}
            Step::End => return false,
        }
    }
}

#[test]
fn a_walk_comes_upon_each_process_while_somebody_refers_to_it() {
    let processes: Vec<_> = (0..4).map(|_| process("listed")).collect();
    let mut ids: Vec<_> = processes.iter().map(|process| process.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    for (index, process) in processes.into_iter().enumerate() {
        let id = process.id();
        let second = process.clone();
        drop(process);
        assert!(listed(id));
        drop(second);
        assert!(!listed(id), "process {index}");
    }
}

#[test]
fn area_numbers_are_used_again() {
    let process = process("areas");
    let first: Vec<u32> = (0..3).map(|_| process.take_area_number()).collect();
    assert_eq!(first, [0, 1, 2]);
    process.give_area_number(1);
    assert_eq!(
        (process.take_area_number(), process.take_area_number()),
        (1, 3)
    );
    // More than are remembered are lost until the numbers wrap, which `map_area` copes with.
    (0..200).for_each(|number| process.give_area_number(number));
    let again: Vec<u32> = (0..areas::FREE_AREAS)
        .map(|_| process.take_area_number())
        .collect();
    assert!(
        again
            .iter()
            .all(|&number| (number as usize) < areas::FREE_AREAS)
    );
    assert_eq!(process.take_area_number(), 4);
}

#[test]
fn the_many_who_wait_to_be_told_of_the_log_are_woken_a_few_at_a_time_when_its_owner_ends() {
    let (process, log) = (process("console"), mute_notification());
    crate::log_owner::take(process.id(), log.clone(), 1).unwrap();
    let waiters: Vec<Program> = (0..100).map(|_| Program::alone("waiter")).collect();
    // What is in the log already was told.
    assert_eq!(poll(&log), Ok(1));
    for waiter in &waiters {
        let went = waiter.wait(&log, Deadline::NEVER);
        assert_eq!(went, Ok(Went::Blocked));
    }
    schedule::longest_stretch();
    process.end(Ending::Kill(0));
    assert_eq!(woken().len(), waiters.len());
    let step = schedule::longest_stretch();
    assert!(step <= WOKEN_AT_ONCE, "{step} are woken in one go");
    for waiter in waiters {
        assert_eq!(waiter.resume(), Err(Error::PeerClosed));
        waiter.leave();
    }
    // The next one can have it.
    let next = self::process("console");
    crate::log_owner::take(next.id(), notification(), 1).unwrap();
    next.end(Ending::Kill(0));
}
