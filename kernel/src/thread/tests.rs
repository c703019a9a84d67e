//! A thread's states and marks.

use abi::info::ThreadState;
use abi::{Error, Priority};

use super::testing::*;
use crate::ipc::WaitOn;

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
    for _ in 0..200 {
        let thread = Program::unstarted(&process).thread().clone();
        let (begun, ended) = std::thread::scope(|scope| {
            let begun = scope.spawn(|| thread.begin());
            (thread.end_unstarted(), begun.join().unwrap())
        });
        assert_ne!(begun, ended);
        if !thread.has_ended() {
            thread.set_state(ThreadState::Ended);
        }
        drop(process.remove_thread(&thread));
        // The last one's end is the process's; here another is always to come.
        if process.info().state != 0 {
            return assert_eq!(process.info().threads, 0);
        }
    }
}

#[test]
fn a_wait_is_shown_while_it_lasts() {
    let program = Program::alone("waits");
    let (endpoint, notification) = (endpoint(), notification());
    let thread = program.thread();
    for (on, state) in [
        (WaitOn::Sending(endpoint.as_ptr()), ThreadState::Sending),
        (WaitOn::Receiving(endpoint.as_ptr()), ThreadState::Receiving),
        (WaitOn::Reply, ThreadState::AwaitingReply),
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
fn the_latest_cancellation_is_kept_beside_a_kill() {
    let program = Program::alone("marks");
    let thread = program.thread();
    assert_eq!(thread.noted_cancel(), None);
    for &error in Error::ALL {
        thread.note_cancel(error);
        assert_eq!(thread.noted_cancel(), Some(error));
    }
    thread.mark_killed();
    assert!(thread.is_killed() && thread.noted_cancel().is_some());
    thread.forget_cancel();
    assert!(thread.is_killed() && thread.noted_cancel().is_none());
    thread.note_cancel(Error::TimedOut);
    assert!(thread.is_killed());
    assert_eq!(thread.noted_cancel(), Some(Error::TimedOut));
    thread.forget_cancel();
}

#[test]
fn each_call_has_a_stamp_of_its_own() {
    let program = Program::alone("stamps");
    let thread = program.thread();
    let mut stamps = Vec::new();
    for _ in 0..100 {
        let stamp = thread.begin_awaiting();
        assert_eq!(thread.wait.on(), WaitOn::Reply);
        // An earlier call's stamp, and one that was never given, end nothing.
        assert!(
            stamps
                .iter()
                .all(|&former| !thread.take_awaiting(Some(former)))
        );
        assert!(!thread.take_awaiting(Some(stamp + 1)));
        assert!(thread.take_awaiting(if stamp.is_multiple_of(4) {
            None
        } else {
            Some(stamp)
        }));
        assert!(!thread.take_awaiting(None) && !thread.take_awaiting(Some(stamp)));
        assert_eq!(thread.wait.on(), WaitOn::Nothing);
        stamps.push(stamp);
    }
    assert!(stamps.windows(2).all(|two| two[0] < two[1]));
}

#[test]
fn priority_affinity_and_home_are_what_was_set() {
    let program = Program::alone("settings");
    let thread = program.thread();
    for priority in [Priority::LOWEST, Priority::NORMAL, Priority::HIGHEST] {
        thread.set_priority(priority);
        assert_eq!(
            Some(thread.priority()),
            sched::EffectivePriority::new(priority.level())
        );
    }
    assert_eq!(thread.affinity(), sched::Affinity::Any);
    thread.set_affinity(Some(3));
    assert_eq!(thread.affinity(), sched::Affinity::Only(3));
    thread.set_affinity(None);
    assert_eq!(thread.affinity(), sched::Affinity::Any);
    thread.set_home(5);
    assert_eq!(thread.home(), 5);
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
