//! Processes: beginning, end, and being ended at any moment.

use abi::info::ProcessState;
use abi::{Call, Deadline, Error, Rights};
use alloc::sync::Arc;
use core::time::Duration;
use rt::{AsHandle, Endpoint, Message, Notification, Process, thread, time};

use super::tests;
use crate::bare::{self, Bare, reg};
use crate::clock::since;
use crate::kernel_calls::refused;
use crate::roles::Role;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, must, same};

tests! {
    exit_codes_are_kept: 40,
    last_thread_ends_the_process: 40,
    kill_ends_the_process_with_its_code: 40,
    process_without_threads_can_be_killed: 40,
    watch_signals_at_the_end_and_after_it: 40,
    ended_process_refuses_work: 40,
    panic_ends_the_program_alone: 40,
    process_with_threads_on_every_cpu_is_killed: 40,
    killed_while_working_in_the_kernel: 60,
    log_is_the_kernels_again_when_its_owner_ends: 40,
}

/// The partners of these tests.
pub const ROLES: &[Role] = &[
    Role {
        name: "spin-everywhere",
        run: spin_everywhere,
    },
    Role {
        name: "panic",
        run: |_, _| panic!("on purpose"),
    },
    Role {
        name: "busy-kernel",
        run: busy_kernel,
    },
    Role {
        name: "take-log",
        run: take_log,
    },
];

pub(super) const PATIENCE: Duration = crate::runner::PATIENCE;

pub(super) fn soon() -> Deadline {
    time::after(PATIENCE)
}

const EXITED: u32 = ProcessState::Exited as u32;
const KILLED: u32 = ProcessState::Killed as u32;

/// A program that spins for ever.
fn spinner() -> rt::Result<Bare> {
    Bare::new(code!("2:", "pause", "jmp 2b"), &bare::pattern())
}

fn exit_codes_are_kept(_: &'static World) -> Verdict {
    for code in [0, 1, 101, u64::MAX, 1 << 63] {
        let mut values = bare::pattern();
        values[reg::RDI] = code;
        values[reg::RAX] = Call::ProcessExit as u64;
        for exit in [code!("syscall", "ud2"), code!("int 0x80", "ud2")] {
            let info = must!(must!(Bare::new(exit, &values)).run());
            same!((info.state, info.code), (EXITED, code));
            same!((info.threads, info.handles), (0, 0));
        }
    }
    Ok(())
}

fn last_thread_ends_the_process(_: &'static World) -> Verdict {
    let mut values = bare::pattern();
    values[reg::RAX] = Call::ThreadExit as u64;
    let bare = must!(Bare::new(code!("syscall", "ud2"), &values));
    // SAFETY: the process is not this one.
    let second = must!(unsafe { bare.process.create_thread(bare::CODE, bare::STACK_TOP, 0) });
    must!(bare.thread.start());
    let start = time::now();
    loop {
        let info = must!(bare.process.info());
        same!(info.state, ProcessState::Alive as u32);
        if info.threads == 1 {
            break;
        }
        check!(since(start) < PATIENCE, "its first thread did not end");
        thread::yield_now();
    }
    must!(second.start());
    let start = time::now();
    loop {
        let info = must!(bare.process.info());
        if info.state != ProcessState::Alive as u32 {
            same!((info.state, info.code, info.threads), (EXITED, 0, 0));
            return Ok(());
        }
        check!(since(start) < PATIENCE, "it did not end");
        thread::yield_now();
    }
}

fn kill_ends_the_process_with_its_code(_: &'static World) -> Verdict {
    for round in 0..20 {
        let bare = must!(spinner());
        let done = must!(Notification::create());
        must!(bare.process.watch(&done, 2));
        must!(bare.thread.start());
        if round % 2 == 0 {
            must!(time::sleep(Duration::from_millis(2)));
        }
        must!(bare.process.kill(round));
        same!(done.wait(soon()), Ok(2));
        let info = must!(bare.process.info());
        same!((info.state, info.code, info.threads), (KILLED, round, 0));
    }
    Ok(())
}

fn process_without_threads_can_be_killed(_: &'static World) -> Verdict {
    let process = must!(Process::create("nobody"));
    same!(must!(process.info()).state, ProcessState::Alive as u32);
    must!(process.kill(3));
    let info = must!(process.info());
    same!(
        (info.state, info.code, info.threads, info.handles),
        (KILLED, 3, 0, 0)
    );
    // The first ending counts.
    let _ = process.kill(4);
    same!(must!(process.info()).code, 3);
    Ok(())
}

fn watch_signals_at_the_end_and_after_it(_: &'static World) -> Verdict {
    let process = must!(Process::create("watched"));
    let before = must!(Notification::create());
    must!(process.watch(&before, 0b100));
    same!(before.wait(Deadline::NOW), Err(Error::TimedOut));
    must!(process.kill(0));
    same!(before.wait(soon()), Ok(0b100));
    let after = must!(Notification::create());
    must!(process.watch(&after, 0b10));
    same!(after.wait(soon()), Ok(0b10));
    Ok(())
}

fn ended_process_refuses_work(_: &'static World) -> Verdict {
    let process = must!(Process::create("ended"));
    let memory = must!(rt::Memory::create(4096));
    must!(process.kill(0));
    same!(
        process.map(&memory, 0, 0, 4096, rt::Protection::READ),
        Err(Error::Ended)
    );
    same!(process.grant(&memory, Rights::READ), Err(Error::Ended));
    refused(
        Call::ThreadCreate,
        &[process.handle().0, 0x40_0000, 0x80_0000, 0],
        Error::Ended,
    )?;
    Ok(())
}

fn panic_ends_the_program_alone(world: &'static World) -> Verdict {
    let child = must!(world.spawn("role panic", &[]));
    let info = must!(child.end(PATIENCE));
    check!(
        info.state == EXITED && info.code == 101,
        "it {}",
        ending(&info)
    );
    Ok(())
}

fn spin_everywhere(world: &'static World, _: &str) -> u64 {
    let Ok(ready) = rt::start::take::<Notification>("ready") else {
        return 1;
    };
    for cpu in 0..world.cpus {
        for number in 0..2 {
            let spawned = thread::Builder::new().cpu(cpu).spawn(move || {
                loop {
                    if number == 0 {
                        core::hint::spin_loop();
                    } else {
                        thread::yield_now();
                    }
                }
            });
            if spawned.is_err() {
                return 2;
            }
        }
    }
    let _ = ready.signal(1);
    let _ = time::sleep_until(Deadline::NEVER);
    3
}

fn process_with_threads_on_every_cpu_is_killed(world: &'static World) -> Verdict {
    for round in 0..4 {
        let ready = must!(Notification::create());
        let child = must!(world.spawn("role spin-everywhere", &[("ready", ready.handle())]));
        same!(ready.wait(soon()), Ok(1));
        must!(child.process.kill(round));
        let info = must!(child.end(PATIENCE));
        same!(
            (info.state, info.code, info.threads, info.handles),
            (KILLED, round, 0, 0)
        );
    }
    Ok(())
}

fn busy_kernel(world: &'static World, what: &str) -> u64 {
    // Pairs of threads that talk to each other without a pause, within a CPU and across.
    for cpu in 0..world.cpus {
        let Ok(endpoint) = Endpoint::create() else {
            return 1;
        };
        let endpoint = Arc::new(endpoint);
        let server = endpoint.clone();
        let next = (cpu + 1) % world.cpus;
        let serving = thread::Builder::new().cpu(next).spawn(move || {
            let mut pending = None;
            loop {
                let Ok(event) = server.serve_next(pending.take(), 0, Deadline::NEVER) else {
                    return;
                };
                if let rt::Event::Message(mut received) = event {
                    pending = received.reply.take().map(|reply| (reply, Message::new(0)));
                }
            }
        });
        let calling = thread::Builder::new().cpu(cpu).spawn(move || {
            loop {
                if endpoint
                    .call_plain(rt::Plain::default(), Deadline::NEVER)
                    .is_err()
                {
                    return;
                }
                thread::yield_now();
            }
        });
        if serving.is_err() || calling.is_err() {
            return 2;
        }
    }
    let Ok(ready) = rt::start::take::<Notification>("ready") else {
        return 3;
    };
    let _ = ready.signal(1);
    if what == "memory" {
        loop {
            let Ok(memory) = rt::Memory::create(64 * 4096) else {
                return 4;
            };
            let Ok(mapping) = memory.map(rt::Protection::READ_WRITE) else {
                return 5;
            };
            // SAFETY: nobody else has it.
            unsafe { mapping.as_ptr().write_bytes(1, mapping.bytes()) };
        }
    }
    let _ = time::sleep_until(Deadline::NEVER);
    6
}

fn killed_while_working_in_the_kernel(world: &'static World) -> Verdict {
    for round in 0..12_u64 {
        let ready = must!(Notification::create());
        let what = if round % 2 == 0 {
            "role busy-kernel ipc"
        } else {
            "role busy-kernel memory"
        };
        let child = must!(world.spawn(what, &[("ready", ready.handle())]));
        same!(ready.wait(soon()), Ok(1));
        must!(time::sleep(Duration::from_micros(3000 + 1700 * round)));
        must!(child.process.kill(round));
        let info = must!(child.end(PATIENCE));
        same!(
            (info.state, info.code, info.threads, info.handles),
            (KILLED, round, 0, 0)
        );
    }
    Ok(())
}

fn take_log(world: &'static World, how: &str) -> u64 {
    let Ok(notification) = Notification::create() else {
        return 1;
    };
    if world.log.take(&notification, 1).is_err() {
        return 2;
    }
    // Nobody else can have it now.
    if world.log.take(&notification, 1) != Err(Error::Busy) {
        return 3;
    }
    if world
        .log
        .write("the log's owner is told of this line\n")
        .is_err()
    {
        return 4;
    }
    if notification.wait(soon()) != Ok(1) {
        return 5;
    }
    if how == "fault" {
        // SAFETY: it faults, which is what it is for.
        unsafe { core::arch::asm!("ud2") };
    }
    0
}

fn log_is_the_kernels_again_when_its_owner_ends(world: &'static World) -> Verdict {
    for how in ["exit", "fault", "exit"] {
        let child = must!(world.spawn(&alloc::format!("role take-log {how}"), &[]));
        let info = must!(child.end(PATIENCE));
        let want = if how == "fault" {
            ProcessState::Faulted
        } else {
            ProcessState::Exited
        };
        check!(
            info.state == want as u32 && (how == "fault" || info.code == 0),
            "it {}",
            ending(&info)
        );
    }
    Ok(())
}
