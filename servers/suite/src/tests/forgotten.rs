//! Processes that end because nobody can reach them: by whom, beside whom, and that it is certain.

use abi::info::ThreadState;
use abi::{Call, CpuSet, Error, Rights};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::{AsHandle, Badge, Endpoint, Memory, Message, Notification, Process, Protection, thread};

use super::priorities::priority;
use super::probe::{PATIENCE, soon, until};
use super::tests;
use crate::bare::{self, Bare};
use crate::clock::since;
use crate::kernel_calls::call;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, must, same};

tests! {
    who_gives_up_a_process_ends_it_and_holds_up_nobody_elses: 40,
    a_forgotten_process_is_taken_away_though_no_other_cpu_enters_the_kernel: 40,
    a_process_whose_last_running_thread_ends_goes_though_one_was_never_started: 40,
}

/// More handles than are closed between two preemption points.
const HANDLES: u32 = 100;
/// Who gives up the first process, and who comes in between.
const LOW: u64 = 3;
const HIGH: u64 = 20;

/// A process without threads, with a handle that is closed first and others after it, and what its end signals.
fn forgotten(first: &impl AsHandle, rights: Rights) -> rt::Result<(Process, Notification)> {
    let (process, ended) = (Process::create("forgotten")?, Notification::create()?);
    process.grant(first, rights)?;
    for _ in 0..HANDLES {
        process.grant(&ended, Rights::SIGNAL)?;
    }
    process.watch(&ended, 1)?;
    Ok((process, ended))
}

fn who_gives_up_a_process_ends_it_and_holds_up_nobody_elses(world: &'static World) -> Verdict {
    let cpu = world.cpus - 1;
    let endpoint = must!(Endpoint::create());
    let (large, ended) = must!(forgotten(&endpoint, Rights::RECEIVE));
    let first_ended = must!(ended.duplicate(Rights::WAIT));
    // From now on the first process has the only handle to receive. Who waits there is woken as the process's end begins, and has the CPU.
    let sender = must!(endpoint.mint(Badge(1), Rights::SEND));
    drop(endpoint);
    let builder = thread::Builder::new().cpu(cpu).priority(priority(HIGH));
    let between = must!(builder.spawn(move || -> Verdict {
        let called = sender.call(Message::new(1), 0, soon());
        same!(called.map(drop), Err(Error::PeerClosed));
        same!(first_ended.poll(), Ok(0));
        // Another process is given up while that end is under way, by one that can't wait for it.
        let (small, ended) = must!(forgotten(&must!(Notification::create()), Rights::SIGNAL));
        drop(small);
        same!(ended.poll(), Ok(1));
        same!(first_ended.poll(), Ok(0));
        Ok(())
    }));
    until("waiting for the first process", || {
        Ok(between.thread().info()?.state == ThreadState::Sending as u32)
    })?;
    let builder = thread::Builder::new().cpu(cpu).priority(priority(LOW));
    let closer = must!(builder.spawn(move || drop(large)));
    must!(between.join(soon()))?;
    same!(ended.wait(soon()), Ok(1));
    must!(closer.join(soon()));
    Ok(())
}

fn a_forgotten_process_is_taken_away_though_no_other_cpu_enters_the_kernel(
    world: &'static World,
) -> Verdict {
    let circle = code!("2:", "pause", "jmp 2b");
    let spinners = (1..world.cpus).map(|cpu| {
        let bare = Bare::new(circle, &bare::pattern())?;
        bare.thread.set_affinity(&CpuSet::only(cpu))?;
        Ok(bare)
    });
    let spinners: Vec<Bare> = must!(spinners.collect::<rt::Result<_>>());
    let worker = thread::Builder::new().cpu(0);
    let worker = must!(worker.spawn(move || -> Verdict {
        let (process, ended) = must!(forgotten(&must!(Notification::create()), Rights::SIGNAL));
        for spinner in &spinners {
            must!(spinner.thread.start());
            // It has begun, and nothing that it does ever ends.
            until("running", || {
                Ok(spinner.thread.info()?.state == ThreadState::Running as u32)
            })?;
        }
        let before = must!(world.system.objects()).spaces;
        drop(process);
        same!(ended.poll(), Ok(1));
        // Nobody waits here, as an idle CPU would see to it.
        let start = rt::time::now();
        while must!(world.system.objects()).spaces >= before {
            check!(
                since(start) < PATIENCE,
                "its address space is not taken away"
            );
        }
        Ok(())
    }));
    must!(worker.join(soon()))
}

fn a_process_whose_last_running_thread_ends_goes_though_one_was_never_started(
    _: &'static World,
) -> Verdict {
    const PLACE: u64 = 0x3000_0000;
    for handles_first in [false, true] {
        let memory = must!(Memory::create(4096));
        let mapping = must!(memory.map(Protection::READ_WRITE));
        // SAFETY: mapped, aligned, and used as an atomic by all.
        let word = unsafe { &*mapping.as_ptr().cast::<AtomicU64>() };
        let mut values = bare::pattern();
        values[bare::reg::RBX] = PLACE;
        // Its thread ends when it is told to.
        let code = code!(
            "2:",
            "pause",
            "cmp qword ptr [rbx], 0",
            "je 2b",
            "xor edi, edi",
            "mov eax, 58",
            "syscall",
            "ud2"
        );
        let program = must!(Bare::new(code, &values));
        must!(
            program
                .process
                .map(&memory, PLACE, 0, 4096, Protection::READ_WRITE)
        );
        let ended = must!(Notification::create());
        must!(program.process.watch(&ended, 1));
        // More than one piece of a look through them.
        for _ in 0..3 * HANDLES {
            must!(program.process.grant(&ended, Rights::SIGNAL));
        }
        // SAFETY: it is never started.
        let unstarted = must!(unsafe { program.process.create_thread(0x1000, 0, 0) });
        must!(program.process.grant(&unstarted, Rights::ALL));
        must!(program.process.grant(&program.process, Rights::ALL));
        drop(unstarted);
        must!(program.thread.start());
        let close = || -> Verdict {
            for handle in [program.process.handle(), program.thread.handle()] {
                must!(call(Call::HandleClose, &[handle.0]));
            }
            Ok(())
        };
        if handles_first {
            close()?;
            must!(rt::time::sleep(core::time::Duration::from_millis(2)));
            same!(ended.poll(), Ok(0));
            word.store(1, Ordering::Release);
        } else {
            word.store(1, Ordering::Release);
            // It leaves its process a moment after it is said to have ended.
            until("its thread has ended", || {
                Ok(program.thread.info()?.state == ThreadState::Ended as u32
                    && program.process.info()?.threads == 1)
            })?;
            // Whoever has a handle could start the other one.
            same!(ended.poll(), Ok(0));
            close()?;
        }
        same!(ended.wait(soon()), Ok(1));
        // Its handles are closed.
        core::mem::forget(program);
    }
    Ok(())
}
