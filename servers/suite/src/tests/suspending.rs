//! Threads that others hold still, look into, change and let go; and whose end others wait for.

use abi::info::{ThreadEnd, ThreadState};
use abi::{Call, CpuSet, Error, Priority, Rights};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use rt::{Deadline, Notification, Thread, thread, time};

use super::probe::{Probe, soon, until};
use super::suspended_registers::own;
use super::tests;
use crate::bare::{self, Bare};
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, must, same};

tests! {
    a_suspended_thread_stands_still_until_it_is_resumed: 40,
    a_thread_that_never_gets_the_cpu_is_suspended_but_not_waited_for: 60,
    a_wait_is_left_alone_or_ended_by_suspending: 40,
    a_thread_can_suspend_itself: 40,
    a_thread_suspended_before_its_start_runs_no_instruction: 40,
    suspended_threads_are_killed: 40,
    joining_tells_how_a_thread_ended: 40,
}

fn a_suspended_thread_stands_still_until_it_is_resumed(world: &'static World) -> Verdict {
    for cpu in 0..world.cpus {
        let probe = must!(Probe::counting(&CpuSet::only(cpu)));
        // Beside another, so that it is suspended while it waits for its turn as well.
        let other = must!(Probe::counting(&CpuSet::only(cpu)));
        must!(probe.thread().start());
        must!(other.thread().start());
        for round in 0..20 {
            probe.goes_on()?;
            probe.stop()?;
            probe.stands_still()?;
            // Once more is nothing new, and to be resumed once is enough.
            probe.stop()?;
            must!(probe.thread().resume());
            same!(probe.thread().resume(), Err(Error::WrongState));
            if round % 4 == 0 {
                other.goes_on()?;
            }
        }
        // Without a moment to spare it is about to stand still.
        // SAFETY: the thread is of another process.
        let result = unsafe { probe.thread().suspend(Deadline::NOW) };
        check!(
            matches!(result, Ok(()) | Err(Error::TimedOut)),
            "{result:?}"
        );
        probe.comes_to(ThreadState::Suspended)?;
        probe.stands_still()?;
    }
    Ok(())
}

fn a_thread_that_never_gets_the_cpu_is_suspended_but_not_waited_for(
    world: &'static World,
) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let busy = must!(Probe::counting(&CpuSet::only(cpu)));
        must!(
            busy.thread()
                .set_priority(Priority::new(5).unwrap_or(Priority::LOWEST))
        );
        must!(busy.thread().start());
        busy.goes_on()?;
        // It has kernel code to run before its first instruction, and never comes to that.
        let probe = must!(Probe::counting(&CpuSet::only(cpu)));
        must!(probe.thread().set_priority(Priority::LOWEST));
        must!(probe.thread().start());
        let deadline = time::after(Duration::from_millis(20));
        // SAFETY: the thread is of another process.
        let result = unsafe { probe.thread().suspend(deadline) };
        same!(result, Err(Error::TimedOut));
        check!(time::now_ns() >= deadline.0, "its deadline had not passed");
        busy.goes_on()?;
        // It is suspended nevertheless, and stands still when it could go on.
        busy.stop()?;
        probe.comes_to(ThreadState::Suspended)?;
        // SAFETY: as above.
        must!(unsafe { probe.thread().suspend(soon()) });
        same!(probe.count(), 0);
        must!(probe.thread().resume());
        probe.goes_on()?;
    }
    Ok(())
}

fn a_wait_is_left_alone_or_ended_by_suspending(world: &'static World) -> Verdict {
    const { assert!(Call::Wait as u64 == 13) };
    for cpu in 0..world.cpus {
        for ends in [false, true] {
            let bell = must!(Notification::create());
            // Waits, tells what it got, and waits again.
            let probe = must!(Probe::new(
                code!(
                    "2:",
                    "mov eax, 13",
                    "mov rdi, rbp",
                    "mov r14, -1", // for ever
                    "syscall",
                    "mov [rbx + 8], rax",
                    "mov [rbx + 16], rdx",
                    "inc qword ptr [rbx]",
                    "jmp 2b",
                ),
                |_| {}
            ));
            let handle = must!(probe.bare.process.grant(&bell, Rights::ALL));
            let mut context = must!(probe.thread().registers());
            context.rbp = handle.0;
            // SAFETY: the thread is of another process.
            must!(unsafe { probe.thread().set_registers(&context) });
            must!(probe.thread().set_affinity(&CpuSet::only(cpu)));
            must!(probe.thread().start());
            let word = |index| probe.word(index).load(Ordering::SeqCst);
            probe.comes_to(ThreadState::Waiting)?;
            if ends {
                probe.stop()?;
                // Its call is over, with all registers in place, and it has not gone on.
                let seen = must!(probe.thread().registers());
                same!(
                    (seen.rax, seen.rbp, seen.r14),
                    (Error::Cancelled as u64, handle.0, u64::MAX)
                );
                same!(probe.count(), 0);
                must!(probe.thread().resume());
                until("its call has failed", || Ok(probe.count() == 1))?;
                same!(word(1), Error::Cancelled as u64);
                probe.comes_to(ThreadState::Waiting)?;
            } else {
                // SAFETY: as above.
                must!(unsafe { probe.thread().suspend(soon()) });
                // It stands still where it is, but its registers are not all in place.
                same!(must!(probe.info()).state, ThreadState::Waiting as u32);
                same!(probe.thread().registers().err(), Some(Error::WrongState));
                must!(bell.signal(0x40));
                probe.comes_to(ThreadState::Suspended)?;
                same!(probe.count(), 0);
                same!(must!(probe.thread().registers()).rdx, 0x40);
                must!(probe.thread().resume());
                until("it has its bits", || Ok(probe.count() == 1))?;
                same!((word(1), word(2)), (0, 0x40));
                // Resumed in its wait, it goes on waiting.
                probe.comes_to(ThreadState::Waiting)?;
                // SAFETY: as above.
                must!(unsafe { probe.thread().suspend(soon()) });
                must!(probe.thread().resume());
                same!(must!(probe.info()).state, ThreadState::Waiting as u32);
            }
            must!(bell.signal(0x80));
            until("it has its bits", || Ok(probe.count() == 2))?;
            same!((word(1), word(2)), (0, 0x80));
        }
    }
    Ok(())
}

fn a_thread_can_suspend_itself(world: &'static World) -> Verdict {
    for cpu in 0..world.cpus {
        let times = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&times);
        let itself = must!(thread::Builder::new().cpu(cpu).spawn(move || {
            let own = Thread::current()?;
            for _ in 0..5 {
                counted.fetch_add(1, Ordering::SeqCst);
                // SAFETY: it holds nothing.
                unsafe { own.suspend(Deadline::NEVER) }?;
            }
            Ok::<u64, Error>(own.info()?.thread)
        }));
        for round in 1..=5 {
            until("it is suspended", || {
                let state = itself.thread().info()?.state;
                Ok(itself.is_finished()
                    || times.load(Ordering::SeqCst) == round
                        && state == ThreadState::Suspended as u32)
            })?;
            must!(itself.thread().resume());
        }
        let number = must!(itself.thread().info()).thread;
        same!(must!(must!(itself.join(soon()))), number);
    }
    Ok(())
}

fn a_thread_suspended_before_its_start_runs_no_instruction(world: &'static World) -> Verdict {
    for cpu in 0..world.cpus {
        let probe = must!(Probe::counting(&CpuSet::only(cpu)));
        let given = must!(probe.thread().registers());
        // SAFETY: the thread is of another process.
        must!(unsafe { probe.thread().suspend(soon()) });
        same!(must!(probe.info()).state, ThreadState::New as u32);
        must!(probe.thread().start());
        probe.comes_to(ThreadState::Suspended)?;
        same!(own(&must!(probe.thread().registers())), own(&given));
        same!(probe.count(), 0);
        must!(probe.thread().resume());
        probe.goes_on()?;
    }
    Ok(())
}

fn suspended_threads_are_killed(world: &'static World) -> Verdict {
    for cpu in 0..world.cpus {
        for whole in [false, true] {
            let probe = must!(Probe::counting(&CpuSet::only(cpu)));
            must!(probe.thread().start());
            probe.goes_on()?;
            probe.stop()?;
            if whole {
                must!(probe.bare.process.kill(5));
            } else {
                // SAFETY: the thread is of another process.
                must!(unsafe { probe.thread().kill() });
            }
            let info = must!(probe.bare.run_to_end());
            same!(info.threads, 0);
            let code = if whole { 5 } else { 0 };
            same!(probe.thread().join(soon()), Ok((code, ThreadEnd::Killed)));
            same!(probe.thread().resume(), Err(Error::Ended));
            // SAFETY: as above.
            same!(unsafe { probe.thread().stop(soon()) }, Err(Error::Ended));
        }
    }
    Ok(())
}

fn joining_tells_how_a_thread_ended(_: &'static World) -> Verdict {
    const { assert!(Call::ThreadExit as u64 == 58) };
    let ways: [(&[u8], (u64, ThreadEnd)); 3] = [
        (
            code!("mov edi, 77", "mov eax, 58", "syscall"),
            (77, ThreadEnd::Exited),
        ),
        (
            code!("mov edi, 78", "mov eax, 50", "syscall"),
            (78, ThreadEnd::Killed),
        ),
        (code!("ud2"), (6, ThreadEnd::Faulted)),
    ];
    for (code, how) in ways {
        let bare = must!(Bare::new(code, &bare::pattern()));
        same!(
            bare.thread.join(time::after(Duration::from_millis(2))),
            Err(Error::TimedOut)
        );
        same!(bare.thread.join(Deadline::NOW), Err(Error::TimedOut));
        // Several wait, and one comes when it is over.
        let mut joiners = Vec::new();
        for _ in 0..3 {
            let handle = must!(bare.thread.duplicate(Rights::QUERY));
            joiners.push(must!(thread::spawn(move || handle.join(soon()))));
        }
        for joiner in &joiners {
            until("it waits", || {
                Ok(joiner.thread().info()?.state == ThreadState::Joining as u32)
            })?;
        }
        must!(bare.thread.start());
        for joiner in joiners {
            same!(must!(joiner.join(soon())), Ok(how));
        }
        same!(bare.thread.join(Deadline::NOW), Ok(how));
    }
    // One that never began.
    let bare = must!(Bare::new(code!("ud2"), &bare::pattern()));
    // SAFETY: the thread is of another process.
    must!(unsafe { bare.thread.kill() });
    same!(bare.thread.join(soon()), Ok((0, ThreadEnd::Killed)));
    Ok(())
}
