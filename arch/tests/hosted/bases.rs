//! FS and GS: the user's are honoured, the host's are put back, and nobody writes where they point.

use std::arch::global_asm;
use std::cell::Cell;

use arch::hosted::{BaseSwitch, Fpu, HostThread};
use arch::run::Trap;

use crate::common::*;

global_asm!(
    // In: RDI the entry. Reads through both bases, then calls, for ever.
    ".globl switchyard_test_bases",
    "switchyard_test_bases:",
    "mov rax, fs:[0]",
    "mov rbx, gs:[8]",
    "call rdi",
    "jmp switchyard_test_bases",
    // In: RDI the entry, RSI and RDX new bases. Sets them, says what it finds, calls.
    ".globl switchyard_test_set_bases",
    "switchyard_test_set_bases:",
    "wrfsbase rsi",
    "wrgsbase rdx",
    "rdfsbase rax",
    "rdgsbase rbx",
    "call rdi",
    "jmp switchyard_test_set_bases",
);

unsafe extern "C" {
    fn switchyard_test_bases();
    fn switchyard_test_set_bases();
}

thread_local! {
    static MARK: Cell<u64> = const { Cell::new(0) };
}

#[test]
fn bases_of_the_users_are_honoured_and_nothing_is_written_there() {
    // Constants: a write would be a fault.
    static TLS: [u64; 2] = [0x1111, 0x2222];
    static OTHER: [u64; 2] = [0x3333, 0x4444];
    MARK.set(77);
    with_each_switch(|host| {
        let stack = Stack::new();
        let mut user = program(switchyard_test_bases, &stack, Fpu::Shared);
        user.context_mut().rdi = user.entry();
        let state = HostState::now();
        for (fs, gs) in [(&TLS, &OTHER), (&OTHER, &TLS), (&TLS, &TLS)] {
            user.context_mut().fs_base = fs.as_ptr() as u64;
            user.context_mut().gs_base = gs.as_ptr() as u64;
            // SAFETY: the program reads two words and calls.
            assert_eq!(unsafe { host.run(&mut user) }, Ok(Trap::SystemCall));
            assert_eq!((user.context().rax, user.context().rbx), (fs[0], gs[1]));
            assert_eq!(user.context().fs_base, fs.as_ptr() as u64);
            assert_eq!(user.context().gs_base, gs.as_ptr() as u64);
            assert_eq!(HostState::now(), state);
            assert_eq!(MARK.get(), 77);
        }
    });
}

#[test]
fn user_code_may_share_the_hosts_bases() {
    with_each_switch(|host| {
        let stack = Stack::new();
        let mut user = program(switchyard_test_count, &stack, Fpu::Shared);
        let mut fs = 0u64;
        // SAFETY: it writes eight bytes to `fs`.
        unsafe { libc::syscall(libc::SYS_arch_prctl, 0x1003, &raw mut fs) };
        user.context_mut().rdi = user.entry();
        user.context_mut().fs_base = fs;
        for round in 0..3 {
            // SAFETY: the program counts and calls.
            assert_eq!(unsafe { host.run(&mut user) }, Ok(Trap::SystemCall));
            assert_eq!((user.context().rax, user.context().fs_base), (round, fs));
        }
    });
}

#[test]
fn bases_that_user_code_changes_are_in_its_context_afterwards() {
    if BaseSwitch::best() == BaseSwitch::ArchPrctl {
        // Then user code has no instruction to change them with.
        return;
    }
    let mut host = HostThread::enter().expect("a thread that may run contexts");
    let stack = Stack::new();
    let mut user = program(switchyard_test_set_bases, &stack, Fpu::Shared);
    let state = HostState::now();
    for (fs, gs) in [(0x1000, 0x2000), (0, 0x7FFF_0000_0000), (0x123, 0)] {
        let entry = user.entry();
        let context = user.context_mut();
        (context.rdi, context.rsi, context.rdx) = (entry, fs, gs);
        // SAFETY: the program sets its bases and calls.
        assert_eq!(unsafe { host.run(&mut user) }, Ok(Trap::SystemCall));
        assert_eq!(HostState::now(), state);
        let context = user.context();
        assert_eq!((context.rax, context.rbx), (fs, gs));
        assert_eq!((context.fs_base, context.gs_base), (fs, gs));
    }
}
