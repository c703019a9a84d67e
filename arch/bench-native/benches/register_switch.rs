//! The switch of registers between two stacks, there and back.
//!
//! Ours is timed twice. *One call site*: both sides come to the switch by the same call, as two threads do that both yield;
//! the CPU then predicts the return rightly. *Two call sites*: it never does, as `ret` goes where the other side called from. The
//! peer jumps instead of returning, and the CPU learns where to.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use arch::exchange::exchange_stacks;
use corosensei::{Coroutine, CoroutineResult};
use criterion::Criterion;

use crate::thread_time::{self, ThreadTime};

/// Group in criterion's report.
pub const GROUP: &str = "register switch, there and back";
/// The peer's name in it.
pub const PEER: &str = "corosensei resume and suspend";
/// What is compared with the peer.
pub const OURS: [&str; 2] = [
    "exchange_stacks, one call site",
    "exchange_stacks, two call sites",
];

const STACK_WORDS: usize = 0x2000;
/// Turns of the side that is only there to be switched to.
const FOR_EVER: u64 = u64::MAX;

/// Where each of two sides is while the other one runs.
struct Sides {
    rsp: [Cell<u64>; 2],
    turns: Cell<u64>,
}

thread_local! {
    static SIDES: Cell<*const Sides> = const { Cell::new(std::ptr::null()) };
}

/// Makes a stack on which `code` begins, and its RSP the other side's.
fn prepare(sides: &Sides, stack: &mut [u64], code: extern "C" fn() -> !) {
    // Six registers and the address to "return" to; 8 short of a multiple of 16 there, as after a call.
    let mut frame = stack.len() - 64;
    if (&raw const stack[frame + 7]).addr().is_multiple_of(16) {
        frame += 1;
    }
    stack[frame + 6] = code as *const () as u64;
    sides.rsp[1].set((&raw const stack[frame]) as u64);
    sides.turns.set(0);
    SIDES.set(sides);
}

/// Switches away `turns` times: the one call site.
#[inline(never)]
fn bounce(sides: &Sides, me: usize, turns: u64) {
    for _ in 0..turns {
        sides.turns.set(sides.turns.get() + me as u64);
        // SAFETY: the other side has stored its RSP when it switched here, or `prepare` made its frame.
        unsafe { exchange_stacks(sides.rsp[me].as_ptr(), sides.rsp[1 - me].as_ptr()) };
    }
}

extern "C" fn by_one_site() -> ! {
    loop {
        // SAFETY: `prepare` has set it, and who has called that waits on the first side.
        bounce(unsafe { &*SIDES.get() }, 1, FOR_EVER);
    }
}

extern "C" fn by_another_site() -> ! {
    // SAFETY: as above.
    let sides = unsafe { &*SIDES.get() };
    loop {
        sides.turns.set(sides.turns.get() + 1);
        // SAFETY: as in `bounce`.
        unsafe { exchange_stacks(sides.rsp[1].as_ptr(), sides.rsp[0].as_ptr()) };
    }
}

fn time_bounces(sides: &Sides, turns: u64) -> Duration {
    let start = thread_time::now();
    bounce(sides, 0, turns);
    thread_time::now().saturating_sub(start)
}

/// Times ours and the peer's.
pub fn measure(criterion: &mut Criterion<ThreadTime>) {
    let mut group = criterion.benchmark_group(GROUP);
    for (name, code) in OURS
        .into_iter()
        .zip([by_one_site as extern "C" fn() -> !, by_another_site])
    {
        let mut stack = vec![0; STACK_WORDS];
        let sides = Sides {
            rsp: [const { Cell::new(0) }; 2],
            turns: Cell::new(0),
        };
        prepare(&sides, &mut stack, code);
        let mut rounds = 0;
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|turns| {
                rounds += turns;
                time_bounces(&sides, turns)
            });
        });
        assert_eq!(sides.turns.get(), rounds, "a turn was lost");
    }

    let mut rounds = 0u64;
    let mut peer = Coroutine::<(), u64, ()>::new(|yielder, ()| {
        let mut turns = 0;
        loop {
            turns += 1;
            yielder.suspend(turns);
        }
    });
    group.bench_function(PEER, |bencher| {
        bencher.iter(|| {
            rounds += 1;
            match black_box(&mut peer).resume(()) {
                CoroutineResult::Yield(turns) => assert!(turns == rounds),
                CoroutineResult::Return(()) => unreachable!("it never ends"),
            }
        });
    });
    // SAFETY: what it has on its stack needs no dropping, and nobody refers to it.
    unsafe { peer.force_reset() };
    group.finish();
}
