//! Processes and threads: beginning, end, and being ended at any moment.

use abi::info::{ProcessState, ThreadState};
use abi::{Call, Deadline, Error, Priority, Rights};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::{AsHandle, Endpoint, Message, Notification, Process, Thread, thread, time};

use super::tests;
use crate::bare::{self, Bare, reg};
use crate::kernel_calls::refused;
use crate::roles::Role;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, must, same};

tests! {
    exit_codes_are_kept: 10,
    last_thread_ends_the_process: 10,
    kill_ends_the_process_with_its_code: 10,
    process_without_threads_can_be_killed: 10,
    watch_signals_at_the_end_and_after_it: 10,
    ended_process_refuses_work: 10,
    panic_ends_the_program_alone: 10,
    threads_are_killed_while_running_on_every_cpu: 30,
    threads_are_killed_while_ready: 30,
    threads_are_killed_in_every_wait: 30,
    process_with_threads_on_every_cpu_is_killed: 30,
    killed_while_working_in_the_kernel: 60,
    threads_have_bases_of_their_own: 20,
    unstarted_thread_can_be_killed: 10,
    log_is_the_kernels_again_when_its_owner_ends: 20,
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

const PATIENCE: Duration = Duration::from_secs(5);

fn soon() -> Deadline {
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
    let (second, _) = must!(unsafe { bare.process.create_thread(bare::CODE, bare::STACK_TOP, 0) });
    must!(bare.thread.start());
    must!(time::sleep(Duration::from_millis(30)));
    let info = must!(bare.process.info());
    same!((info.state, info.threads), (ProcessState::Alive as u32, 1));
    must!(second.start());
    let start = time::now();
    loop {
        let info = must!(bare.process.info());
        if info.state != ProcessState::Alive as u32 {
            same!((info.state, info.code, info.threads), (EXITED, 0, 0));
            return Ok(());
        }
        check!(time::now() - start < PATIENCE, "it did not end");
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

/// Whether a thread is listed, and as what.
fn state_of(world: &World, thread: u64) -> rt::Result<Option<u32>> {
    Ok(world
        .system
        .threads()?
        .into_iter()
        .find(|info| info.thread == thread)
        .map(|info| info.state))
}

/// Numbers of this process's threads.
fn own_threads(world: &World) -> rt::Result<Vec<u64>> {
    let own = rt::process::current().info()?.id;
    Ok(world
        .system
        .threads()?
        .into_iter()
        .filter(|info| info.process == own)
        .map(|info| info.thread)
        .collect())
}

/// Waits until this process has so many threads.
fn wait_for_threads(count: u32, what: &str) -> Verdict {
    let start = time::now();
    loop {
        let threads = must!(rt::process::current().info()).threads;
        if threads == count {
            return Ok(());
        }
        check!(
            time::now() - start < PATIENCE,
            "{threads} threads are left, not {count}, after killing one that was {what}"
        );
        must!(time::sleep(Duration::from_millis(1)));
    }
}

fn threads_are_killed_while_running_on_every_cpu(world: &'static World) -> Verdict {
    for cpu in 0..world.cpus {
        for _ in 0..3 {
            let running = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&running);
            let victim = must!(thread::Builder::new().cpu(cpu).spawn(move || {
                told.store(true, Ordering::Release);
                loop {
                    core::hint::spin_loop();
                }
            }));
            let start = time::now();
            while !running.load(Ordering::Acquire) {
                check!(
                    time::now() - start < PATIENCE,
                    "a thread on CPU {cpu} does not run"
                );
                must!(time::sleep(Duration::from_millis(1)));
            }
            // SAFETY: it holds nothing.
            must!(unsafe { victim.thread().kill() });
            wait_for_threads(1, "running")?;
        }
    }
    Ok(())
}

fn threads_are_killed_while_ready(world: &'static World) -> Verdict {
    // Several that spin on one CPU: all but one are ready and not running when the end comes.
    for cpu in 0..world.cpus {
        let count = Arc::new(AtomicU64::new(0));
        let mut victims = Vec::new();
        for _ in 0..4 {
            let count = Arc::clone(&count);
            victims.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
                count.fetch_add(1, Ordering::Release);
                loop {
                    core::hint::spin_loop();
                }
            })));
        }
        let start = time::now();
        while count.load(Ordering::Acquire) < 4 {
            check!(
                time::now() - start < PATIENCE,
                "threads of one priority on CPU {cpu} don't share it"
            );
            must!(time::sleep(Duration::from_millis(2)));
        }
        for victim in &victims {
            // SAFETY: it holds nothing.
            must!(unsafe { victim.thread().kill() });
        }
        wait_for_threads(1, "ready")?;
    }
    Ok(())
}

fn threads_are_killed_in_every_wait(world: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let other = Arc::new(must!(Endpoint::create()));
    let notification = Arc::new(must!(Notification::create()));
    let base = must!(own_threads(world));
    for cpu in 0..world.cpus {
        for (wait, want) in [
            (0, ThreadState::Sending),
            (1, ThreadState::Receiving),
            (2, ThreadState::Waiting),
            (3, ThreadState::Sleeping),
            (4, ThreadState::AwaitingReply),
        ] {
            let (endpoint, other, notification) =
                (endpoint.clone(), other.clone(), notification.clone());
            let receiver = other.clone();
            let victim = must!(thread::Builder::new().cpu(cpu).spawn(move || {
                let _ = match wait {
                    0 => endpoint
                        .call(Message::new(0), 0, Deadline::NEVER)
                        .map(|_| ()),
                    1 => endpoint.recv(0, Deadline::NEVER).map(|_| ()),
                    2 => notification.wait(Deadline::NEVER).map(|_| ()),
                    3 => time::sleep_until(Deadline(u64::MAX - 1)),
                    _ => other.call(Message::new(0), 0, Deadline::NEVER).map(|_| ()),
                };
            }));
            let received = if wait == 4 {
                Some(must!(receiver.recv(0, soon())))
            } else {
                None
            };
            let start = time::now();
            loop {
                let new = must!(own_threads(world))
                    .into_iter()
                    .find(|thread| !base.contains(thread));
                let state = match new {
                    Some(thread) => must!(state_of(world, thread)),
                    None => None,
                };
                if state == Some(want as u32) {
                    break;
                }
                check!(
                    time::now() - start < PATIENCE,
                    "it never was {}, but {state:?}",
                    want.text()
                );
                must!(time::sleep(Duration::from_millis(1)));
            }
            // SAFETY: it holds nothing that anybody waits for.
            must!(unsafe { victim.thread().kill() });
            wait_for_threads(1, want.text())?;
            drop(received);
        }
    }
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

fn threads_have_bases_of_their_own(world: &'static World) -> Verdict {
    // `fs:[0]` is a thread's own area, whatever else ran meanwhile.
    let mut threads = Vec::new();
    for cpu in 0..world.cpus {
        for _ in 0..3 {
            threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
                let own = rt::sys::area() as u64;
                for _ in 0..500 {
                    thread::yield_now();
                    if rt::sys::area() as u64 != own {
                        return None;
                    }
                }
                Some(own)
            })));
        }
    }
    let mut seen = alloc::vec![rt::sys::area() as u64];
    for thread in threads {
        let Some(area) = must!(thread.join(soon())) else {
            crate::fail!("a thread's FS base changed")
        };
        check!(
            !seen.contains(&area),
            "two threads have the FS base {area:#x}"
        );
        seen.push(area);
    }
    // Set by the call: seen by the thread at once and after it was away.
    let words = alloc::vec![0x1111_u64, 0x2222];
    let addresses = [words.as_ptr() as u64, words.as_ptr() as u64 + 8];
    let keeper = must!(thread::spawn(move || {
        let area = rt::sys::area() as u64;
        let mut seen = [0_u64; 4];
        for (index, address) in addresses.into_iter().enumerate() {
            let (first, second): (u64, u64);
            // SAFETY: until the base is put back nothing uses it but this code; `syscall` changes rax, rcx and r11.
            unsafe {
                core::arch::asm!(
                    "syscall",
                    "mov {first}, fs:[0]",
                    "mov eax, {sleep}",
                    "syscall",
                    "mov {second}, fs:[0]",
                    "mov rdi, {area}",
                    "mov eax, {set}",
                    "syscall",
                    first = out(reg) first,
                    second = out(reg) second,
                    area = in(reg) area,
                    sleep = const Call::Yield as u64,
                    set = const Call::ThreadSetFsBase as u64,
                    inout("rax") Call::ThreadSetFsBase as u64 => _,
                    inout("rdi") address => _,
                    out("rsi") _, out("rdx") _, out("rcx") _, out("r11") _,
                    options(nostack),
                );
            }
            seen[index * 2] = first;
            seen[index * 2 + 1] = second;
        }
        seen
    }));
    same!(must!(keeper.join(soon())), [0x1111, 0x1111, 0x2222, 0x2222]);
    drop(words);
    Ok(())
}

fn unstarted_thread_can_be_killed(_: &'static World) -> Verdict {
    let process = must!(Process::create("unstarted"));
    // SAFETY: the process is not this one.
    let (one, _) = must!(unsafe { process.create_thread(0x40_0000, 0x80_0000, 0) });
    // SAFETY: as above.
    let (two, _) = must!(unsafe { process.create_thread(0x40_0000, 0x80_0000, 0) });
    same!(must!(process.info()).threads, 2);
    // SAFETY: it never ran.
    must!(unsafe { one.kill() });
    same!(must!(process.info()).threads, 1);
    same!(one.start(), Err(Error::Ended));
    must!(process.kill(0));
    same!(must!(process.info()).threads, 0);
    same!(two.start(), Err(Error::Ended));
    // A thread can be started once.
    let own = must!(Thread::current());
    same!(own.start(), Err(Error::WrongState));
    same!(own.set_affinity(Some(0)), Err(Error::WrongState));
    must!(own.set_priority(Priority::NORMAL));
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
