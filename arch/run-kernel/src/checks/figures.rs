//! What a run costs. The time-stamp counter counts guest instructions under QEMU's `-icount shift=0`, and means little otherwise.

use arch::cpu::read_tsc;
use arch::run::Trap;

use super::{begin, enter};
use crate::programs::program;
use crate::report::say;

/// Prints a line in the form that benchmarks have: the least of many rounds, less what reading the counter takes.
pub fn print() {
    let mut context = begin(program!(call), 70);
    let (mut best, mut reading) = (u64::MAX, u64::MAX);
    for _ in 0..100 {
        // A number that is no short call's.
        context.rax = 100;
        let start = read_tsc();
        let trap = enter(&mut context);
        let end = read_tsc();
        assert!(trap == Ok(Trap::SystemCall));
        best = best.min(end - start);
        reading = reading.min(read_tsc() - end);
    }
    say(format_args!("bench run_and_back {}", best - reading));
}
