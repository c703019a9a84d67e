//! A thread's states, its home, its rest and its end.

use abi::info::{ThreadEnd, ThreadState};
use abi::{Deadline, Error, Priority};

use core::sync::atomic::Ordering;

use super::rest::WOKEN_AT_ONCE;
use super::testing::*;
use super::{Until, ask};
use crate::ipc::{Flow, WaitOn, cancel};
use crate::object::Section;
use crate::process::Process;

#[test]
fn a_thread_is_started_once_or_ended_before() {
    let process = process("states");
    let started = Program::unstarted(&process);
    assert_eq!(started.thread().shown_state(), ThreadState::New);
    assert!(started.thread().begin());
    assert_eq!(started.thread().shown_state(), ThreadState::Ready);
    assert!(
        !started.thread().begin()
            && !started.thread().end_unstarted()
            && !started.thread().has_ended()
    );
    let ended = Program::unstarted(&process);
    assert!(ended.thread().end_unstarted());
    assert!(
        !ended.thread().begin() && !ended.thread().end_unstarted() && ended.thread().has_ended()
    );
    assert_eq!(ended.thread().shown_state(), ThreadState::Ended);
}

#[test]
fn of_two_who_start_and_end_a_thread_at_once_one_wins() {
    let process = process("race");
    // The process would end with its last thread.
    let keeper = Program::new(&process);
    for _ in 0..200 {
        let thread = Program::unstarted(&process).thread().clone();
        let (begun, ended) = std::thread::scope(|scope| {
            let begun = scope.spawn(|| {
                let begin = || thread.begin().then_some(()).ok_or(Error::WrongState);
                process.while_starting(begin).is_ok()
            });
            let ended = thread.end_unstarted();
            (begun.join().unwrap(), ended)
        });
        assert_ne!(begun, ended);
        if begun {
            thread.set_state(ThreadState::Ended);
            drop(process.remove_thread(&thread));
        } else {
            Process::remove_unstarted(&process, &thread);
        }
        assert_eq!(process.info().threads, 1);
    }
    keeper.leave();
    assert_eq!(process.info().threads, 0);
}

#[test]
fn a_wait_is_shown_while_it_lasts() {
    let (program, answers) = (Program::alone("waits"), Program::alone("answers"));
    let (endpoint, notification) = (endpoint(), notification());
    let thread = program.thread();
    for (on, state) in [
        (WaitOn::Sending(endpoint.as_ptr()), ThreadState::Sending),
        (WaitOn::Receiving(endpoint.as_ptr()), ThreadState::Receiving),
        (
            WaitOn::Reply(answers.pointer().as_ptr()),
            ThreadState::AwaitingReply,
        ),
        (
            WaitOn::Notification(notification.as_ptr()),
            ThreadState::Waiting,
        ),
        (WaitOn::Sleep, ThreadState::Sleeping),
        (WaitOn::Nothing, ThreadState::Ready),
    ] {
        thread.wait.set(on);
        assert_eq!((thread.wait.on(), thread.shown_state()), (on, state));
    }
    thread.set_state(ThreadState::Ended);
    thread.wait.set(WaitOn::Sleep);
    assert_eq!(thread.shown_state(), ThreadState::Ended);
    thread.wait.set(WaitOn::Nothing);
}

#[test]
fn each_call_has_a_stamp_of_its_own() {
    let (program, answers) = (Program::alone("stamps"), Program::alone("answers"));
    let thread = program.thread();
    let mut stamps = Vec::new();
    for _ in 0..100 {
        let stamp = thread.begin_awaiting(answers.thread());
        let holder = answers.pointer();
        assert_eq!(thread.wait.on(), WaitOn::Reply(holder.as_ptr()));
        assert_eq!(thread.holder(), Some(holder));
        // An earlier call's stamp, and one that was never given, end nothing.
        assert!(
            stamps
                .iter()
                .all(|&former| !thread.take_awaiting(Some(former), None))
        );
        assert!(!thread.take_awaiting(Some(stamp + 1), None));
        assert!(thread.take_awaiting(
            if stamp.is_multiple_of(4) {
                None
            } else {
                Some(stamp)
            },
            None
        ));
        assert!(!thread.take_awaiting(None, None) && !thread.take_awaiting(Some(stamp), None));
        assert_eq!(thread.wait.on(), WaitOn::Nothing);
        stamps.push(stamp);
    }
    assert!(stamps.windows(2).all(|two| two[0] < two[1]));
}

#[test]
fn a_priority_counts_once_the_home_has_settled_it() {
    let program = Program::alone("settings");
    let thread = program.thread();
    for priority in [Priority::LOWEST, Priority::HIGHEST, Priority::NORMAL] {
        let before = thread.priority();
        thread.set_priority(priority);
        assert_eq!(thread.priority(), before);
        assert_eq!(thread.priority.base().level(), priority.level());
        thread.priority.settle([]);
        assert_eq!(thread.priority().level(), priority.level());
    }
}

#[test]
fn a_thread_has_no_home_until_it_is_started() {
    let program = Program::unstarted(&process("homeless"));
    let thread = program.thread();
    assert_eq!((thread.home.cpu(), thread.shown_home()), (None, 0));
    program.live_on(5);
    assert_eq!((thread.home.settled(), thread.shown_home()), (Some(5), 5));
    assert!(thread.end_unstarted());
}

/// What somebody waits for of another thread, and how he is told.
#[test]
fn those_who_wait_for_a_thread_are_told_once_of_what_they_wait_for() {
    let process = process("joined");
    let (target, joiner) = (Program::new(&process), Program::new(&process));
    let (keeper, mover) = (Program::new(&process), Program::new(&process));
    let target_thread = target.thread();
    target.live_on(1);
    let only = |cpu| sched::Affinity::only(cpu);
    let wait = |program: &Program, until| {
        target_thread.wait_until(program.thread(), until, Deadline::NEVER)
    };
    assert_eq!(wait(&joiner, Until::Ended), Ok(Flow::Block));
    assert_eq!(joiner.thread().shown_state(), ThreadState::Joining);
    assert_eq!(wait(&keeper, Until::Parked), Ok(Flow::Block));
    target_thread.affinity.set(&only(2));
    assert_eq!(wait(&mover, Until::Placed), Ok(Flow::Block));
    target_thread.wake_waiters(false);
    target_thread.wake_waiters(true);
    assert_eq!(woken(), []);
    // It comes to where it may be.
    target.live_on(2);
    target_thread.wake_waiters(false);
    assert_eq!(woken(), [mover.pointer()]);
    assert_eq!(mover.thread().registers().rax, 0);
    // It is parked, and whoever asks now need not wait.
    assert!(!target_thread.rest.park(true));
    target_thread.wake_waiters(false);
    assert_eq!(woken(), [keeper.pointer()]);
    assert_eq!(wait(&keeper, Until::Still), Ok(Flow::Done));
    assert_eq!(target_thread.shown_state(), ThreadState::Suspended);
    assert_eq!(target_thread.rest.while_parked(|| Ok(7)), Ok(7));
    assert!(target_thread.rest.park(false));
    assert_eq!(
        target_thread.rest.while_parked(|| Ok(7)),
        Err(Error::WrongState)
    );
    // A wait that may not last is none.
    assert_eq!(
        target_thread.wait_until(keeper.thread(), Until::Ended, Deadline::NOW),
        Err(Error::TimedOut)
    );
    assert_eq!(keeper.thread().wait.on(), WaitOn::Nothing);
    // Its end: the first to say how counts.
    assert_eq!(wait(&keeper, Until::Parked), Ok(Flow::Block));
    target_thread.rest.note_end(ThreadEnd::Exited, 42);
    target_thread.rest.note_end(ThreadEnd::Killed, 9);
    target_thread.set_state(ThreadState::Ended);
    drop(process.remove_thread(target_thread));
    let mut told = woken();
    told.sort_by_key(|thread| thread.as_ptr());
    let mut expected = vec![joiner.pointer(), keeper.pointer()];
    expected.sort_by_key(|thread| thread.as_ptr());
    assert_eq!(told, expected);
    let registers = joiner.thread().registers();
    assert_eq!((registers.rax, registers.rdi, registers.rsi), (0, 42, 0));
    assert_eq!(keeper.thread().registers().rax, Error::Ended as u64);
    // And afterwards.
    assert_eq!(wait(&joiner, Until::Ended), Ok(Flow::Done));
    assert_eq!(wait(&joiner, Until::Still), Err(Error::Ended));
}

/// However many wait, a look takes no time for those whose wait goes on and wakes a few of the others, until all were woken once.
#[test]
fn many_who_wait_for_a_thread_are_woken_a_few_at_a_time() {
    const JOINERS: usize = 100;
    const MOVERS: usize = 3 * WOKEN_AT_ONCE + 1;
    let process = process("many");
    let target = Program::new(&process);
    let thread = target.thread();
    target.live_on(1);
    thread.affinity.set(&sched::Affinity::only(2));
    let waiting = |count, until| -> Vec<Program> {
        let programs: Vec<_> = (0..count).map(|_| Program::new(&process)).collect();
        for program in &programs {
            let begun = thread.wait_until(program.thread(), until, Deadline::NEVER);
            assert_eq!(begun, Ok(Flow::Block));
        }
        programs
    };
    let pointers =
        |programs: &[Program]| -> Vec<_> { programs.iter().map(Program::pointer).collect() };
    let looks_again = || thread.asked.swap(0, Ordering::SeqCst) & ask::LOOK != 0;
    let joiners = waiting(JOINERS, Until::Ended);
    let movers = waiting(MOVERS, Until::Placed);
    thread.wake_waiters(true);
    assert_eq!((woken(), looks_again()), (vec![], false));
    target.live_on(2);
    let mut told = Vec::new();
    loop {
        thread.wake_waiters(false);
        let some = woken();
        assert!(some.len() <= WOKEN_AT_ONCE);
        told.extend(some);
        if !looks_again() {
            break;
        }
    }
    assert_eq!(told, pointers(&movers));
    // One in the middle gives up; the others are told in the order in which they came.
    // SAFETY: nothing is reclaimed meanwhile.
    let section = unsafe { Section::enter() };
    assert!(cancel(joiners[50].thread(), Error::TimedOut, &section));
    thread.rest.note_end(ThreadEnd::Exited, 42);
    thread.tell_of_end();
    let mut expected = pointers(&joiners);
    expected.remove(50);
    assert_eq!(woken(), expected);
    assert!(joiners.iter().enumerate().all(|(index, joiner)| {
        let registers = joiner.thread().registers();
        index == 50 || (registers.rax, registers.rdi) == (0, 42)
    }));
}

#[test]
fn a_wait_for_a_thread_can_be_cancelled() {
    let process = process("cancelled");
    let (target, joiner) = (Program::new(&process), Program::new(&process));
    let begun = target
        .thread()
        .wait_until(joiner.thread(), Until::Ended, Deadline(7));
    assert_eq!(begun, Ok(Flow::Block));
    // SAFETY: nothing is reclaimed meanwhile.
    let section = unsafe { Section::enter() };
    assert!(cancel(joiner.thread(), Error::TimedOut, &section));
    assert_eq!(joiner.thread().registers().rax, Error::TimedOut as u64);
    target.thread().tell_of_end();
    assert_eq!(woken(), []);
}

#[test]
fn the_kernel_writes_the_area_where_the_program_reads_it() {
    let program = Program::alone("area");
    let area = &program.thread().area;
    assert_ne!(area.user_address(), 0);
    for index in 0..4 {
        area.set_handle_in(index, 100 + index as u64);
        assert_eq!(program.came(index).0, 100 + index as u64);
    }
    let handles = [5, 6, 7, 8].map(abi::Handle);
    program.post(&handles);
    assert_eq!(
        [0, 1, 2, 3].map(|index| abi::Handle(area.handle_out(index))),
        handles
    );
    program.accept(2);
    assert_eq!(area.accept(), 2);
    program.accept(u64::MAX);
    assert_eq!(area.accept(), 4);
}
