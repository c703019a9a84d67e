//! Many host threads, each with contexts of its own, and contexts that go from thread to thread.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use arch::hosted::{Fpu, HostThread, HostedContext};
use arch::run::Trap;

use crate::common::*;

thread_local! {
    /// Wrong at once if a thread goes on with another's FS base.
    static WHO: Cell<u64> = const { Cell::new(u64::MAX) };
}

const ROUNDS: u64 = 20_000;

fn counter(stack: &Stack, fs: u64, gs: u64) -> HostedContext {
    let mut user = program(switchyard_test_count, stack, Fpu::Shared);
    user.context_mut().rdi = user.entry();
    (user.context_mut().fs_base, user.context_mut().gs_base) = (fs, gs);
    user
}

fn many_threads(threads: u64) {
    thread::scope(|scope| {
        for who in 0..threads {
            scope.spawn(move || {
                WHO.set(who);
                let mut host = HostThread::enter().expect("a thread that may run contexts");
                let stacks = [Stack::new(), Stack::new()];
                let mut users = [0, 1].map(|i| {
                    let i = i as u64;
                    counter(
                        &stacks[i as usize],
                        who << 20 | i << 16,
                        who << 24 | (1 - i) << 16,
                    )
                });
                for round in 0..ROUNDS {
                    for (i, user) in users.iter_mut().enumerate() {
                        let before = *user.context();
                        // SAFETY: the program counts and calls.
                        assert_eq!(unsafe { host.run(user) }, Ok(Trap::SystemCall));
                        assert_eq!(WHO.get(), who);
                        assert_eq!(user.context().rax, round, "context {i} of thread {who}");
                        assert_eq!(user.context().fs_base, before.fs_base);
                        assert_eq!(user.context().gs_base, before.gs_base);
                    }
                    if round % 512 == who {
                        // A fault now and then.
                        users[0].context_mut().rip = who;
                        // SAFETY: nothing is mapped there.
                        assert_eq!(unsafe { host.run(&mut users[0]) }, Ok(Trap::Exception(14)));
                        assert_eq!((WHO.get(), users[0].context().cr2), (who, who));
                        let context = users[0].context_mut();
                        context.rip = switchyard_test_count as *const () as u64;
                        // It counts at its return from the call, which this round has lost.
                        context.rax += 1;
                    }
                }
            });
        }
    });
}

#[test]
fn many_threads_run_contexts_at_a_time() {
    many_threads(16);
}

#[test]
fn a_context_goes_from_thread_to_thread() {
    const THREADS: usize = 4;
    const LAPS: u64 = 2000;
    let stacks: Vec<Stack> = (0..3).map(|_| Stack::new()).collect();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS)
        .map(|_| mpsc::channel::<HostedContext>())
        .unzip();
    for (i, stack) in stacks.iter().enumerate() {
        senders[0]
            .send(counter(stack, 0x10_0000 << i, 0x20_0000 << i))
            .expect("a receiver");
    }
    thread::scope(|scope| {
        for (who, receiver) in receivers.into_iter().enumerate() {
            let next = senders[(who + 1) % THREADS].clone();
            let entry = senders[0].clone();
            scope.spawn(move || {
                drop(entry);
                WHO.set(who as u64);
                let mut host = HostThread::enter().expect("a thread that may run contexts");
                let mut ended = 0;
                while ended < 3 {
                    let mut user = receiver.recv().expect("a context");
                    let told = user.context().rdi;
                    let (laps, bases) = (
                        user.context().rax,
                        (user.context().fs_base, user.context().gs_base),
                    );
                    if laps < LAPS {
                        // SAFETY: the program counts and calls.
                        assert_eq!(unsafe { host.run(&mut user) }, Ok(Trap::SystemCall));
                        assert_eq!(WHO.get(), who as u64);
                        assert_eq!(user.entry(), told, "the entry stays where it is");
                        let after = user.context();
                        assert_eq!((after.fs_base, after.gs_base), bases);
                        // The first call comes before the first count.
                        assert!(after.rax == laps + 1 || (laps, after.rax) == (0, 0));
                    } else {
                        ended += 1;
                    }
                    if next.send(user).is_err() {
                        // The others have seen the end of all three.
                        break;
                    }
                }
            });
        }
        drop(senders);
    });
}

#[test]
fn signals_with_a_handler_wait_until_the_thread_runs_no_more_contexts() {
    static ENTERED: AtomicBool = AtomicBool::new(false);
    static DURING: AtomicU32 = AtomicU32::new(0);
    static AFTER: AtomicU32 = AtomicU32::new(0);
    extern "C" fn on_signal(_: libc::c_int) {
        if ENTERED.load(Ordering::SeqCst) {
            DURING.fetch_add(1, Ordering::SeqCst);
        } else {
            AFTER.fetch_add(1, Ordering::SeqCst);
        }
    }
    // SAFETY: the handler touches atomics only.
    unsafe { libc::signal(libc::SIGUSR2, on_signal as *const () as usize) };
    let (tell, told) = mpsc::channel();
    let runner = thread::spawn(move || {
        let stack = Stack::new();
        let mut user = counter(&stack, 0x1000, 0x2000);
        let mut host = HostThread::enter().expect("a thread that may run contexts");
        ENTERED.store(true, Ordering::SeqCst);
        // SAFETY: it names this thread.
        tell.send(unsafe { libc::pthread_self() })
            .expect("a listener");
        for _ in 0..200_000 {
            // SAFETY: the program counts and calls.
            assert_eq!(unsafe { host.run(&mut user) }, Ok(Trap::SystemCall));
        }
        thread::sleep(Duration::from_millis(20));
        ENTERED.store(false, Ordering::SeqCst);
        drop(host);
        thread::sleep(Duration::from_millis(1));
    });
    let thread = told.recv().expect("the thread");
    for _ in 0..100 {
        // SAFETY: the thread is alive as long as nobody has joined it.
        unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
        thread::yield_now();
    }
    runner.join().expect("no failure");
    assert_eq!(DURING.load(Ordering::SeqCst), 0);
    assert_ne!(AFTER.load(Ordering::SeqCst), 0);
}
