//! Every general register, the flags, and what the entry writes.

use abi::UserContext;
use arch::context::{BadContext, FIXED_FLAGS, USER_CODE32, VECTOR_SYSCALL, fresh};
use arch::hosted::{Fpu, HostError, HostThread, HostedContext, switchyard_hosted_entry};
use arch::run::Trap;

use crate::common::*;

const CF_PF_AF_ZF_SF_OF: u64 = 0x8D5;
const TF: u64 = 1 << 8;
const DF: u64 = 1 << 10;
const AC: u64 = 1 << 18;
const ID: u64 = 1 << 21;

/// Runs `switchyard_test_dump` once with these registers and flags, and checks both directions.
fn check_dump(host: &mut HostThread, values: [u64; 15], flags_in: u64, flags_out: u64) {
    let mut stack = Stack::new();
    let mut user = program(switchyard_test_dump, &stack, Fpu::Shared);
    let (entry, top) = (user.entry(), stack.top());
    stack.words()[..2].copy_from_slice(&[entry, flags_out]);
    set_general(user.context_mut(), values);
    user.context_mut().rflags = flags_in;
    let state = HostState::now();
    for round in 0..3 {
        let before = *user.context();
        // SAFETY: the program is as its comment says.
        let trap = unsafe { host.run(&mut user) };
        assert_eq!(HostState::now(), state);
        assert_eq!(trap, Ok(Trap::SystemCall));
        // SAFETY: the dump lies on the program's stack.
        let dump = unsafe { *((top - 128) as *const Dump) };
        assert_eq!(dump.general, general(&before), "round {round}: going in");
        assert_eq!(
            dump.rflags,
            before.rflags & !(1 << 16) | FIXED_FLAGS,
            "flags going in"
        );
        let after = user.context();
        assert_eq!(
            general(after),
            general(&before).map(|value| !value),
            "round {round}: coming out"
        );
        assert_eq!(after.rflags, flags_out | FIXED_FLAGS, "flags coming out");
        assert_eq!(after.rsp, top - 128);
        assert_eq!(after.rip, switchyard_test_dump_return as *const () as u64);
        assert_eq!(
            (after.vector, after.error_code, after.call_number),
            (VECTOR_SYSCALL, 0, after.rax)
        );
        assert_eq!(
            (after.fs_base, after.gs_base),
            (before.fs_base, before.gs_base)
        );
        assert_eq!(
            (after.cs, after.ss, after.ds, after.es, after.fs, after.gs),
            (
                before.cs, before.ss, before.ds, before.es, before.fs, before.gs
            )
        );
        // Dump, flags that are popped again, return address: nothing else is written.
        assert!(stack.untouched_below(128 + 8));
    }
}

#[test]
fn every_general_register_arrives_and_comes_back() {
    with_each_switch(|host| {
        check_dump(host, pattern(1), 0, 0);
        for register in 0..15 {
            let mut values = [0; 15];
            values[register] = u64::MAX;
            check_dump(host, values, 0, 0);
        }
    });
}

#[test]
fn every_flag_of_the_users_arrives_and_comes_back() {
    with_each_switch(|host| {
        let flags = (0..22)
            .map(|bit| 1 << bit)
            .filter(|flag| (CF_PF_AF_ZF_SF_OF | DF | AC | ID) & flag != 0);
        for flag in flags.chain([0, CF_PF_AF_ZF_SF_OF, CF_PF_AF_ZF_SF_OF | DF | AC | ID]) {
            check_dump(host, pattern(2), flag, 0);
            check_dump(host, pattern(3), 0, flag);
            check_dump(host, pattern(4), flag, flag);
        }
    });
}

#[test]
fn one_entry_serves_all_contexts_that_leave_gs_to_it() {
    with_each_switch(|host| {
        let stacks = [Stack::new(), Stack::new(), Stack::new()];
        let mut users = stacks.each_ref().map(|stack| {
            let mut user = program(switchyard_test_count, stack, Fpu::Shared);
            user.context_mut().rdi = switchyard_hosted_entry as *const () as u64;
            user.context_mut().gs_base = user.gs_of_entry();
            user
        });
        for round in 0..10 {
            for (user, stack) in users.iter_mut().zip(&stacks) {
                // SAFETY: the program counts and calls.
                assert_eq!(unsafe { host.run(user) }, Ok(Trap::SystemCall));
                assert_eq!(
                    (user.context().rax, user.context().call_number),
                    (round, round)
                );
                assert_eq!(user.context().rsp, stack.top());
            }
        }
    });
}

#[test]
fn single_steps_stop_in_user_code_and_never_in_the_gate() {
    with_each_switch(|host| {
        let mut stack = Stack::new();
        let mut user = program(switchyard_test_dump, &stack, Fpu::Shared);
        let entry = user.entry();
        stack.words()[..2].copy_from_slice(&[entry, TF]);
        set_general(user.context_mut(), pattern(5));
        user.context_mut().rflags = TF;
        let state = HostState::now();
        let (first, last) = (
            switchyard_test_dump as *const () as u64,
            switchyard_test_dump_return as *const () as u64,
        );
        let mut steps = 0;
        loop {
            let before = user.context().rip;
            // SAFETY: the program is as its comment says.
            let trap = unsafe { host.run(&mut user) }.expect("it runs");
            assert_eq!(HostState::now(), state);
            let context = user.context();
            assert_ne!(context.rflags & TF, 0);
            if trap == Trap::SystemCall {
                assert_eq!(context.rip, last);
                break;
            }
            assert_eq!(trap, Trap::Exception(1));
            assert_eq!(context.debug_status, 1 << 14);
            assert!((first..last).contains(&context.rip) && context.rip > before);
            steps += 1;
        }
        // 16 pushes, 15 inversions, the flags' two.
        assert_eq!(steps, 33);
        assert_eq!(general(user.context()), pattern(5).map(|value| !value));
        // And on behind the call.
        // SAFETY: as above.
        assert_eq!(unsafe { host.run(&mut user) }, Ok(Trap::Exception(1)));
        assert!(user.context().rip > last);
    });
}

#[test]
fn contexts_that_can_not_run_are_refused_by_field() {
    let stack = Stack::new();
    let good = fresh(
        switchyard_test_count as *const () as u64,
        stack.top(),
        0,
        0,
        0,
    );
    let mut host = HostThread::enter().expect("a thread that may run contexts");
    for (want, context) in [
        (
            BadContext::Rip,
            UserContext {
                rip: 1 << 47,
                ..good
            },
        ),
        (
            BadContext::Rsp,
            UserContext {
                rsp: 1 << 47,
                ..good
            },
        ),
        (BadContext::Cs, UserContext { cs: 0, ..good }),
        (
            BadContext::Cs,
            UserContext {
                cs: u64::from(USER_CODE32),
                ..good
            },
        ),
        (BadContext::Ss, UserContext { ss: 0x2B, ..good }),
        (
            BadContext::Base,
            UserContext {
                fs_base: (1 << 47) - 1,
                ..good
            },
        ),
        (
            BadContext::Base,
            UserContext {
                gs_base: 1 << 63,
                ..good
            },
        ),
    ] {
        let mut user = HostedContext::new(context, Fpu::Shared).expect("a gate");
        // SAFETY: it is not run.
        assert_eq!(unsafe { host.run(&mut user) }, Err(want));
        assert_eq!(user.context().rip, context.rip);
    }
}

#[test]
fn a_thread_is_prepared_once_at_a_time() {
    let host = HostThread::enter().expect("a thread that may run contexts");
    assert_eq!(HostThread::enter().err(), Some(HostError::AlreadyEntered));
    drop(host);
    HostThread::enter().expect("again");
}
