//! What can run in a Linux process, timed beside its peers in one run of criterion:
//!
//! - a round trip to user code and back (`arch::hosted`) beside `run_fncall` of the crate `trapframe`, which does the same with the same
//!   intent: user code calls, the host gets its registers;
//! - the switch of registers (`arch::exchange`) there and back beside the crate `corosensei`, whose switch is that of a
//!   coroutine library.
//!
//! At the end it prints each figure as a part of its peer's. `just bench-native` runs it.

mod register_switch;
mod round_trip;
mod summary;
mod thread_time;

use criterion::Criterion;
use thread_time::ThreadTime;

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(ThreadTime)
        .configure_from_args();
    round_trip::measure(&mut criterion);
    register_switch::measure(&mut criterion);
    criterion.final_summary();
    summary::print();
}
