//! What ends a process, or needs a process that nobody has prepared: each of these tests starts its own program again, with
//! the scene's name in the environment.

use std::env;
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use arch::hosted::{Fpu, HostThread};
use arch::run::Trap;

use crate::common::*;

const SCENE: &str = "SWITCHYARD_HOSTED_SCENE";

/// In the child: plays the scene, and ends. In the parent: starts the child in which `test` plays it.
fn in_child(test: &str, scene: fn()) -> Output {
    if env::var_os(SCENE).is_some_and(|name| name == test) {
        scene();
        std::process::exit(0);
    }
    Command::new(env::current_exe().expect("this program"))
        .args([&format!("children::{test}"), "--exact", "--nocapture"])
        .env(SCENE, test)
        .output()
        .expect("a child")
}

/// Runs a context, so that everything is set up and was in use.
fn some_runs(host: &mut HostThread) {
    let stack = Stack::new();
    let mut user = program(switchyard_test_count, &stack, Fpu::Own);
    user.context_mut().rdi = user.entry();
    for _ in 0..10 {
        // SAFETY: the program counts and calls.
        assert_eq!(unsafe { host.run(&mut user) }, Ok(Trap::SystemCall));
    }
    user.context_mut().rip = 0;
    // SAFETY: nothing is mapped there.
    assert_eq!(unsafe { host.run(&mut user) }, Ok(Trap::Exception(14)));
}

fn read_nowhere() {
    // SAFETY: the fault is the purpose.
    unsafe { black_box(std::ptr::dangling::<u64>()).read_volatile() };
}

#[test]
fn a_fault_of_host_code_still_ends_the_process() {
    let child = in_child("a_fault_of_host_code_still_ends_the_process", || {
        let mut host = HostThread::enter().expect("a thread that may run contexts");
        some_runs(&mut host);
        read_nowhere();
    });
    let status = child.status;
    assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
}

#[test]
fn a_thread_without_preparation_faults_as_ever() {
    let child = in_child("a_thread_without_preparation_faults_as_ever", || {
        let mut host = HostThread::enter().expect("a thread that may run contexts");
        some_runs(&mut host);
        let other = std::thread::spawn(read_nowhere);
        other.join().expect("it does not return");
    });
    let status = child.status;
    assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
}

#[test]
fn an_overflow_of_the_hosts_stack_is_still_reported() {
    #[allow(unconditional_recursion, reason = "the overflow is the purpose")]
    fn deeper(depth: u64) -> u64 {
        let room = black_box([depth; 512]);
        deeper(depth + 1) + room[depth as usize % 512]
    }
    let child = in_child("an_overflow_of_the_hosts_stack_is_still_reported", || {
        let mut host = HostThread::enter().expect("a thread that may run contexts");
        some_runs(&mut host);
        println!("{}", deeper(0));
    });
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(said.contains("has overflowed its stack"), "{said}");
    assert_eq!(child.status.signal(), Some(libc::SIGABRT));
}

static SEEN: AtomicU32 = AtomicU32::new(0);

std::thread_local! {
    static MARK: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

extern "C" fn count_and_touch_tls(_: libc::c_int) {
    // With the user's FS base this would read elsewhere.
    if MARK.get() == 99 {
        SEEN.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_sent_signal_goes_to_the_handler_of_before_with_the_hosts_tls_and_user_code_goes_on() {
    let name =
        "a_sent_signal_goes_to_the_handler_of_before_with_the_hosts_tls_and_user_code_goes_on";
    let child = in_child(name, || {
        // SAFETY: the handler touches an atomic and thread-local storage.
        unsafe { libc::signal(libc::SIGTRAP, count_and_touch_tls as *const () as usize) };
        for bases in switches() {
            MARK.set(99);
            SEEN.store(0, Ordering::SeqCst);
            let mut host = HostThread::enter_with(bases).expect("a thread that may run contexts");
            let stack = Stack::new();
            let mut user = program(switchyard_test_count, &stack, Fpu::Own);
            user.context_mut().rdi = user.entry();
            (user.context_mut().fs_base, user.context_mut().gs_base) = (0x1000, 0x2000);
            let state = HostState::now();
            // SAFETY: it names this thread.
            let me = unsafe { libc::pthread_self() } as usize;
            let sender = std::thread::spawn(move || {
                for _ in 0..2000 {
                    // SAFETY: the thread joins this one, so it is alive.
                    unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGTRAP) };
                    std::thread::yield_now();
                }
            });
            let mut rounds = 0;
            while !sender.is_finished() {
                // SAFETY: the program counts and calls.
                assert_eq!(unsafe { host.run(&mut user) }, Ok(Trap::SystemCall));
                assert_eq!(user.context().rax, rounds);
                assert_eq!(
                    (user.context().fs_base, user.context().gs_base),
                    (0x1000, 0x2000)
                );
                assert_eq!(MARK.get(), 99);
                rounds += 1;
            }
            assert_eq!(HostState::now(), state);
            assert_ne!(SEEN.load(Ordering::SeqCst), 0);
        }
        println!("the scene is over");
    });
    let said = String::from_utf8_lossy(&child.stdout);
    let why = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}: {why}", child.status);
    assert!(said.contains("the scene is over"), "{said}");
}
