//! Processes that nobody can reach any more: when they end, and that their end is done by pieces.

use super::*;

/// A capability with all rights.
fn all(object: AnyObject) -> Capability {
    Capability::new(object, Rights::ALL, Badge(0))
}

fn given(process: &Process, object: AnyObject) {
    let granted = process.grant(all(object));
    granted.map_err(|(error, _)| error).unwrap();
}

#[test]
fn a_process_that_is_to_be_ended_twice_is_ended_once() {
    let (doomed, other, end) = (process("doomed"), process("other"), notification());
    doomed.watch(end.clone(), 1).unwrap();
    for process in [&doomed, &doomed, &other] {
        doomed::later(process.clone());
    }
    // That is the work of whoever gave it up, on his way out.
    assert_eq!(state(&doomed).0, ProcessState::Alive as u32);
    doomed::work_off();
    for ended in [&doomed, &other] {
        assert_eq!(state(ended), (ProcessState::Killed as u32, 0, 0));
    }
    assert_eq!(poll(&end), Ok(1));
    assert_eq!(poll(&end), Err(Error::TimedOut));
    // As late as that there is nothing more to do.
    doomed::later(doomed.clone());
    doomed::work_off();
    assert_eq!(poll(&end), Err(Error::TimedOut));
    assert!(!doomed::work_off_a_piece());
}

#[test]
fn what_one_has_given_up_is_ended_a_piece_at_a_time_beside_others() {
    let (large, end) = (process("large"), notification());
    large.watch(end.clone(), 1).unwrap();
    let outside = all(AnyObject::Process(large.clone()));
    for _ in 0..100 {
        large.grant(log()).map_err(|(error, _)| error).unwrap();
    }
    drop(outside);
    let mut pieces = 0;
    while poll(&end).is_err() {
        let before = large.info().handles;
        assert!(doomed::work_off_a_piece(), "the end of a process is lost");
        assert!(before - large.info().handles <= 1);
        pieces += 1;
        // Somebody else's comes in between, and is ended beside it.
        if pieces == 50 {
            let other = process("other");
            let mut end = end::End::of_unreachable();
            while end.piece(&other) {}
            assert_eq!(state(&other), (ProcessState::Killed as u32, 0, 0));
            assert_eq!(state(&large).0, ProcessState::Killed as u32);
        }
    }
    assert!(pieces > 100);
}

#[test]
fn a_process_that_never_ran_closes_its_handles_when_it_is_forgotten() {
    let (process, closed) = (process("forgotten"), endpoint());
    let account = process.account().clone();
    for badge in 0..100 {
        let capability = if badge == 99 {
            Capability::new(
                AnyObject::Endpoint(closed.clone()),
                Rights::ALL,
                Badge(badge),
            )
        } else {
            log()
        };
        process
            .grant(capability)
            .map_err(|(error, _)| error)
            .unwrap();
    }
    let caller = Program::alone("caller");
    caller.load(Tag::new(0), [0; 6]);
    assert_eq!(caller.send(&closed, 0, Deadline::NOW), Err(Error::TimedOut));
    drop(process);
    settle(&account);
    // Its space goes after it, so its handles are closed by now.
    assert_eq!(
        caller.send(&closed, 0, Deadline::NOW),
        Err(Error::PeerClosed)
    );
}

#[test]
fn a_process_that_was_never_started_ends_when_only_its_own_handles_name_it_or_its_threads() {
    for with_thread in [false, true] {
        let process = process("self-contained");
        let account = process.account().clone();
        let outside = all(AnyObject::Process(process.clone()));
        given(&process, AnyObject::Process(process.clone()));
        if with_thread {
            let thread = Program::unstarted(&process).thread().clone();
            let outside = all(AnyObject::Thread(thread.clone()));
            given(&process, AnyObject::Thread(thread.clone()));
            given(&process, AnyObject::Process(process.clone()));
            drop(outside);
        }
        assert_eq!(state(&process).0, ProcessState::Alive as u32);
        drop(outside);
        doomed::work_off();
        assert_eq!(state(&process).0, ProcessState::Killed as u32);
        drop(process);
        settle(&account);
    }
}

#[test]
fn a_process_that_was_never_started_ends_with_the_last_handle_to_it() {
    let (process, end) = (process("forgotten"), notification());
    process.watch(end.clone(), 2).unwrap();
    let (first, second) = (
        all(AnyObject::Process(process.clone())),
        all(AnyObject::Process(process.clone())),
    );
    drop(first);
    doomed::work_off();
    assert_eq!(state(&process).0, ProcessState::Alive as u32);
    drop(second);
    doomed::work_off();
    // Somebody still refers to it, who looked it up before: he makes nothing of it any more.
    assert_eq!(state(&process).0, ProcessState::Killed as u32);
    assert_eq!(poll(&end), Ok(2));
    let late = process.grant(log()).map_err(|(error, _)| error);
    assert_eq!(late.err(), Some(Error::Ended));
}

#[test]
fn a_handle_of_its_own_that_comes_as_the_last_one_outside_goes_keeps_no_process_alive() {
    let process = process("overlapping");
    let outside = all(AnyObject::Process(process.clone()));
    // A grant has made the second handle; before it is in the table the first one is closed.
    let own = outside.duplicate(Rights::ALL).unwrap();
    drop(outside);
    doomed::work_off();
    assert_eq!(state(&process).0, ProcessState::Alive as u32);
    process.grant(own).map_err(|(error, _)| error).unwrap();
    doomed::work_off();
    assert_eq!(state(&process).0, ProcessState::Killed as u32);
}

#[test]
fn the_many_who_wait_for_what_a_forgotten_process_held_are_woken_a_few_at_a_time() {
    for was_reachable in [false, true] {
        let process = process("holder");
        let account = process.account().clone();
        let (endpoint, notification) = (endpoint(), notification());
        let outside = was_reachable.then(|| all(AnyObject::Process(process.clone())));
        given(&process, AnyObject::Endpoint(endpoint.clone()));
        given(&process, AnyObject::Notification(notification.clone()));
        let waiters: Vec<Program> = (0..100).map(|_| Program::alone("waiter")).collect();
        for (number, waiter) in waiters.iter().enumerate() {
            waiter.load(Tag::new(0), [0; 6]);
            let went = match number % 2 {
                0 => waiter.send(&endpoint, 0, Deadline::NEVER),
                _ => waiter.wait(&notification, Deadline::NEVER),
            };
            assert_eq!(went, Ok(Went::Blocked));
        }
        drop((process, outside));
        let mut woken = 0;
        for _ in 0..10_000 {
            schedule::longest_stretch();
            doomed::work_off();
            if !was_reachable {
                // Each call does a piece.
                quiescent::reclaim(1, &|_| {}, &mut |_| {});
            }
            let step = schedule::longest_stretch();
            assert!(step <= WOKEN_AT_ONCE, "{step} are woken in one go");
            woken += schedule::take_ready().len();
            if woken == waiters.len() {
                break;
            }
        }
        assert_eq!(woken, waiters.len());
        for waiter in waiters {
            assert_eq!(waiter.resume(), Err(Error::PeerClosed));
            waiter.leave();
        }
        settle(&account);
    }
}

#[test]
fn a_started_process_goes_on_with_no_handles_but_its_own() {
    let process = process("alone");
    let thread = Program::new(&process);
    let outside = all(AnyObject::Process(process.clone()));
    thread.give(AnyObject::Process(process.clone()), Rights::ALL);
    drop(outside);
    doomed::work_off();
    assert_eq!(state(&process).0, ProcessState::Alive as u32);
    thread.leave();
}

#[test]
fn a_long_row_of_processes_each_with_the_last_handle_to_the_next_ends_without_a_deep_stack() {
    let mut accounts = Vec::new();
    let mut next: Option<(Ref<Process>, Ref<Thread>)> = None;
    for number in 0..500 {
        let process = process("row");
        accounts.push(process.account().clone());
        let thread = Program::unstarted(&process).thread().clone();
        if let Some((last, last_thread)) = next.take() {
            // By turns the only handle to a thread, and one beside the process's own.
            if number % 2 == 0 {
                given(&last, AnyObject::Process(last.clone()));
                given(&process, AnyObject::Process(last.clone()));
            }
            given(&process, AnyObject::Thread(last_thread));
        }
        next = Some((process, thread));
    }
    let (first, thread) = next.unwrap();
    let outside = all(AnyObject::Thread(thread));
    drop(first);
    // As much as a kernel stack has, or thereabouts: the host's checked code takes more.
    let small = std::thread::Builder::new().stack_size(128 * 1024);
    let end = small.spawn(move || {
        drop(outside);
        doomed::work_off();
    });
    let end = end.unwrap();
    end.join().unwrap();
    for account in &accounts {
        settle(account);
    }
}

/// A process with one running thread and one that was not started, which its own table names alone, behind `others` other handles.
fn with_an_unstarted_one(others: u64) -> (Ref<Process>, Program) {
    let process = process("half-started");
    for _ in 0..others {
        given(&process, AnyObject::Log);
    }
    let running = Program::new(&process);
    let unstarted = Program::unstarted(&process).thread().clone();
    running.give(AnyObject::Thread(unstarted), Rights::ALL);
    (process, running)
}

#[test]
fn a_process_ends_with_its_last_running_thread_if_nobody_can_start_another() {
    for others in [0, 200, 2000] {
        let (process, running) = with_an_unstarted_one(others);
        let account = process.account().clone();
        let end = notification();
        process.watch(end.clone(), 1).unwrap();
        // While it runs its own handles are as good as any.
        let outside = all(AnyObject::Process(process.clone()));
        given(&process, AnyObject::Process(process.clone()));
        drop(outside);
        doomed::work_off();
        assert_eq!(state(&process), (ProcessState::Alive as u32, 2, 0));
        running.leave();
        doomed::work_off();
        assert_eq!(state(&process), (ProcessState::Killed as u32, 0, 0));
        assert_eq!(poll(&end), Ok(1));
        drop(process);
        settle(&account);
    }
}

#[test]
fn a_thread_that_somebody_else_can_start_keeps_its_process_until_he_gives_it_up() {
    let (process, running) = with_an_unstarted_one(300);
    let outside = all(AnyObject::Process(process.clone()));
    let account = process.account().clone();
    running.leave();
    doomed::work_off();
    assert_eq!(state(&process), (ProcessState::Alive as u32, 1, 0));
    // Another one comes, runs and goes: it is counted anew, and not added to what was counted before.
    for round in 0..3 {
        let second = Program::new(&process);
        given(&process, AnyObject::Process(process.clone()));
        second.leave();
        doomed::work_off();
        assert_eq!(
            state(&process),
            (ProcessState::Alive as u32, 1, 0),
            "{round}"
        );
        // What he gives it now is its own as well.
        given(&process, AnyObject::Process(process.clone()));
    }
    drop(outside);
    doomed::work_off();
    assert_eq!(state(&process), (ProcessState::Killed as u32, 0, 0));
    drop(process);
    settle(&account);
}

#[test]
fn a_handle_that_comes_while_its_own_are_counted_is_counted_once() {
    // Into the first slot or behind the last, before the counting has come there and afterwards.
    for (first, pieces) in (0..5).flat_map(|pieces| [(false, pieces), (true, pieces)]) {
        let process = process("counted");
        let running = Program::new(&process);
        let hole = running.give(AnyObject::Log, Rights::ALL);
        let unstarted = Program::unstarted(&process).thread().clone();
        for _ in 0..700 {
            given(&process, AnyObject::Log);
        }
        given(&process, AnyObject::Thread(unstarted));
        if first {
            drop(process.table.lock().remove(hole));
        }
        let outside = all(AnyObject::Process(process.clone()));
        let thread = running.thread();
        thread.set_state(ThreadState::Ended);
        let taken = process.take_out(thread, true).unwrap();
        assert_eq!(taken.left, Left::Unstarted);
        for piece in 0..pieces {
            assert_eq!(process.count_some_ways(), piece < 3, "{piece}");
        }
        let own = outside.duplicate(Rights::ALL).unwrap();
        drop(outside);
        doomed::work_off();
        assert_eq!(state(&process).0, ProcessState::Alive as u32);
        let own = process.grant(own).map_err(|(error, _)| error).unwrap();
        assert_eq!(own.index() == hole.index(), first);
        process.look_for_ways(&process);
        doomed::work_off();
        let ended = (ProcessState::Killed as u32, 0, 0);
        assert_eq!(state(&process), ended, "{first} {pieces}");
        drop(taken.reference);
    }
}
