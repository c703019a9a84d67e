//! Threads: what is theirs alone, and being ended at any moment.

use abi::info::ThreadState;
use abi::{Call, Deadline, Error, Priority};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::{Endpoint, Message, Notification, Process, Thread, thread, time};

use super::processes::{PATIENCE, soon};
use super::tests;
use crate::clock::since;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, must, same, skip};

tests! {
    threads_are_killed_while_running_on_every_cpu: 40,
    threads_are_killed_while_ready: 40,
    threads_are_killed_in_every_wait: 40,
    threads_have_bases_of_their_own: 40,
    gs_base_that_the_program_set_is_kept: 40,
    unstarted_thread_can_be_killed: 40,
    an_area_that_an_ended_thread_has_left_is_clean: 40,
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
            since(start) < PATIENCE,
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
                    since(start) < PATIENCE,
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
                since(start) < PATIENCE,
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
                    since(start) < PATIENCE,
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
            // SAFETY: until the base is put back nothing uses it but this code; the calls change what a C function may.
            unsafe {
                core::arch::asm!(
                    "syscall",
                    "mov r13, fs:[0]",
                    "mov eax, {sleep}",
                    "syscall",
                    "mov r15, fs:[0]",
                    "mov rdi, r12",
                    "mov eax, {set}",
                    "syscall",
                    out("r13") first,
                    out("r15") second,
                    in("r12") area,
                    sleep = const Call::Yield as u64,
                    set = const Call::ThreadSetFsBase as u64,
                    inout("rax") Call::ThreadSetFsBase as u64 => _,
                    inout("rdi") address => _,
                    out("rsi") _, out("rdx") _, out("rcx") _, out("r11") _,
                    out("r8") _, out("r9") _, out("r10") _,
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

fn gs_base_that_the_program_set_is_kept(world: &'static World) -> Verdict {
    if __cpuid_count(7, 0).ebx & 1 == 0 {
        skip!("this CPU has no FSGSBASE");
    }
    let mut threads = Vec::new();
    for cpu in 0..world.cpus {
        for number in 0..3_u64 {
            let base = 0x1234_0000_0000 + (u64::from(cpu) << 20) + (number << 12);
            threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
                // SAFETY: nothing of a program uses GS; the CPU has the instructions (Intel SDM vol. 2B, WRGSBASE), and the
                // kernel lets user code have them where it does.
                unsafe { core::arch::asm!("wrgsbase {}", in(reg) base, options(nomem, nostack)) };
                (0..300).all(|_| {
                    thread::yield_now();
                    let now: u64;
                    // SAFETY: as above.
                    unsafe {
                        core::arch::asm!("rdgsbase {}", out(reg) now, options(nomem, nostack));
                    };
                    now == base
                })
            })));
        }
    }
    for thread in threads {
        check!(must!(thread.join(soon())), "a thread's GS base changed");
    }
    Ok(())
}

fn unstarted_thread_can_be_killed(_: &'static World) -> Verdict {
    let process = must!(Process::create("unstarted"));
    // SAFETY: the process is not this one.
    let one = must!(unsafe { process.create_thread(0x40_0000, 0x80_0000, 0) });
    // SAFETY: as above.
    let two = must!(unsafe { process.create_thread(0x40_0000, 0x80_0000, 0) });
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
    must!(own.set_priority(Priority::NORMAL));
    Ok(())
}

fn an_area_that_an_ended_thread_has_left_is_clean(_: &'static World) -> Verdict {
    const WORDS: u64 = abi::ipc_area::AREA_BYTES / 8;
    let start = time::now();
    let (mut seen, mut again) = (Vec::new(), 0);
    while again < 4 {
        // SAFETY: it is never started.
        let thread =
            must!(unsafe { rt::process::current().create_thread(0x40_0000, 0x80_0000, 0) });
        let area = must!(thread.info()).area;
        for word in 0..WORDS {
            let place = (area + 8 * word) as *mut u64;
            // SAFETY: the area is the thread's, mapped while that is there, and nobody else's: the thread never runs.
            let found = unsafe { place.replace(!word) };
            let want = if word == 0 { area } else { 0 };
            check!(found == want, "word {word} of an area is {found:#x}");
        }
        again += usize::from(seen.contains(&area));
        seen.push(area);
        // With its only handle it ends; what it leaves comes to the process a little later.
        drop(thread);
        check!(
            since(start) < PATIENCE,
            "{} threads, and {again} areas that came again",
            seen.len()
        );
        must!(time::sleep(Duration::from_micros(50)));
    }
    Ok(())
}
