//! A round trip to user code: all registers in, one `call`, all registers out.

use std::arch::naked_asm;
use std::hint::black_box;

use arch::context::fresh;
use arch::hosted::{BaseSwitch, Fpu, HostThread, HostedContext};
use arch::run::Trap;
use criterion::Criterion;
use trapframe::UserContext as PeerContext;

use crate::thread_time::ThreadTime;

/// Group in criterion's report.
pub const GROUP: &str = "round trip to user code";
/// The peer's name in it.
pub const PEER: &str = "trapframe run_fncall";
/// What is compared with the peer.
pub const OURS: [&str; 4] = [
    "run",
    "run, GS of its own",
    "run, FPU of its own",
    "run, bases by arch_prctl",
];

const STACK_BYTES: usize = 0x4000;

/// User code of ours. In: RDI the entry. Counts in RAX.
#[unsafe(naked)]
unsafe extern "C" fn user() {
    naked_asm!("2:", "inc rax", "call rdi", "jmp 2b")
}

/// The same for the peer, whose entry is a symbol.
#[unsafe(naked)]
unsafe extern "C" fn peers_user() {
    naked_asm!("2:", "inc rax", "call syscall_fn_entry", "jmp 2b")
}

/// Times ours and the peer's.
pub fn measure(criterion: &mut Criterion<ThreadTime>) {
    let mut group = criterion.benchmark_group(GROUP);
    let kinds = [
        (BaseSwitch::best(), Fpu::Shared, false),
        (BaseSwitch::best(), Fpu::Shared, true),
        (BaseSwitch::best(), Fpu::Own, false),
        (BaseSwitch::ArchPrctl, Fpu::Shared, false),
    ];
    for (name, (bases, fpu, gs)) in OURS.into_iter().zip(kinds) {
        let mut host = HostThread::enter_with(bases).expect("a thread that may run contexts");
        let stack = vec![0u8; STACK_BYTES];
        let storage = [0u64; 8];
        let mut context = fresh(
            user as *const () as u64,
            stack.as_ptr() as u64 + STACK_BYTES as u64 / 2,
            0,
            0,
            // As with the peer, user code has an FS base of its own.
            storage.as_ptr() as u64,
        );
        if gs {
            context.gs_base = context.fs_base;
        }
        let mut user = HostedContext::new(context, fpu).expect("a gate");
        user.context_mut().rdi = user.entry();
        let mut rounds = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                rounds += 1;
                // SAFETY: the program counts and calls.
                let trap = unsafe { host.run(&mut user) };
                assert!(trap == Ok(Trap::SystemCall));
            });
        });
        assert_eq!(user.context().rax, rounds, "{name} lost a round");
    }

    let stack = vec![0u8; STACK_BYTES];
    let mut context = PeerContext::default();
    context.general.rip = peers_user as *const () as usize;
    context.general.rsp = stack.as_ptr() as usize + STACK_BYTES / 2;
    let mut rounds = 0;
    group.bench_function(PEER, |bencher| {
        bencher.iter(|| {
            rounds += 1;
            black_box(&mut context).run_fncall();
            assert!(context.trap_num == 0x100);
        });
    });
    assert_eq!(context.general.rax, rounds, "the peer lost a round");
    group.finish();
}
