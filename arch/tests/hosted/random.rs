//! Random contexts, one after the other through one gate: what goes in is what user code sees, and what it leaves is what
//! comes out.

use arch::context::{FIXED_FLAGS, VECTOR_SYSCALL};
use arch::hosted::{Fpu, HostThread};
use arch::run::Trap;
use proptest::prelude::*;

use crate::common::*;

/// CF, PF, AF, ZF, SF, DF, OF, AC, ID.
const FLAGS: u64 = 0x24_0CD5;

#[derive(Clone, Debug)]
struct Step {
    general: [u64; 15],
    flags_in: u64,
    flags_out: u64,
    fs: u64,
    gs: u64,
    fault: bool,
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), Just(1 << 63)]
}

fn base() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0..abi::layout::USER_END,
        1 => Just(0),
        1 => Just(abi::layout::USER_END - 1),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    (
        prop::array::uniform15(word()),
        any::<u64>(),
        any::<u64>(),
        base(),
        base(),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(general, flags_in, flags_out, fs, gs, fault)| Step {
            general,
            flags_in: flags_in & FLAGS,
            flags_out: flags_out & FLAGS,
            fs,
            gs,
            fault,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_contexts_arrive_and_come_back_whole(
        steps in prop::collection::vec(step(), 1..20),
        own_fpu: bool,
    ) {
        for bases in switches() {
            let mut host = HostThread::enter_with(bases).expect("a thread that may run contexts");
            let mut stack = Stack::new();
            let mut user = program(switchyard_test_dump, &stack, if own_fpu { Fpu::Own } else { Fpu::Shared });
            let (entry, top) = (user.entry(), stack.top());
            let state = HostState::now();
            for step in &steps {
                stack.words()[..2].copy_from_slice(&[entry, step.flags_out]);
                let context = user.context_mut();
                set_general(context, step.general);
                // An address that is mapped nowhere, or the program.
                context.rip = if step.fault { 0x10 } else { switchyard_test_dump as *const () as u64 };
                context.rsp = top;
                context.rflags = step.flags_in;
                (context.fs_base, context.gs_base) = (step.fs, step.gs);
                // SAFETY: the program dumps, inverts and calls; none of its accesses goes through FS or GS.
                let trap = unsafe { host.run(&mut user) };
                let after = user.context();
                prop_assert_eq!(HostState::now(), state);
                prop_assert_eq!((after.fs_base, after.gs_base), (step.fs, step.gs));
                if step.fault {
                    prop_assert_eq!(trap, Ok(Trap::Exception(14)));
                    prop_assert_eq!(general(after), step.general);
                    prop_assert_eq!((after.rip, after.cr2, after.rsp), (0x10, 0x10, top));
                    // A fault also reports RF.
                    prop_assert_eq!(after.rflags & !(1 << 16), step.flags_in | FIXED_FLAGS);
                    continue;
                }
                prop_assert_eq!(trap, Ok(Trap::SystemCall));
                // SAFETY: the dump lies on the program's stack.
                let dump = unsafe { *((top - 128) as *const Dump) };
                prop_assert_eq!(dump.general, step.general);
                prop_assert_eq!(dump.rflags, step.flags_in | FIXED_FLAGS);
                prop_assert_eq!(general(after), step.general.map(|value| !value));
                prop_assert_eq!(after.rflags, step.flags_out | FIXED_FLAGS);
                prop_assert_eq!(after.vector, VECTOR_SYSCALL);
                prop_assert_eq!(after.call_number, !step.general[10]);
                prop_assert_eq!(after.rsp, top - 128);
            }
        }
    }
}
