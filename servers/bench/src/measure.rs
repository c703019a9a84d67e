//! Reading the counter, and what many readings say.

use alloc::vec::Vec;
use core::arch::x86_64::_rdtsc;

/// Readings of one operation.
const READINGS: usize = 1001;
/// Times that an operation is done first, to have all of its memory in place.
const WARM_UP: usize = 50;

/// Times that an operation is done in all: once more for whoever follows it.
pub const DONE: u64 = (READINGS + WARM_UP + 1) as u64;

/// What an operation costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The least of all readings.
    pub least: u64,
    /// Half of the readings are at most this.
    pub median: u64,
    /// The most of all readings: with one in which the timer came, say.
    pub most: u64,
}

/// The time-stamp counter.
#[inline(always)]
pub fn counter() -> u64 {
    // SAFETY: reading the counter has no effect; every x86-64 CPU has it and the kernel leaves it to user mode.
    unsafe { _rdtsc() }
}

/// Does something many times, one reading each.
#[inline(always)]
pub fn measure(operation: impl FnMut()) -> Cost {
    measure_then(operation, || ())
}

/// The same, with something behind each that is not counted.
#[inline(always)]
pub fn measure_then(mut operation: impl FnMut(), mut then: impl FnMut()) -> Cost {
    for _ in 0..WARM_UP {
        operation();
        then();
    }
    let mut readings = Vec::with_capacity(READINGS);
    for _ in 0..READINGS {
        let before = counter();
        operation();
        let after = counter();
        readings.push(after.wrapping_sub(before));
        then();
    }
    bench_trace_begin();
    operation();
    bench_trace_end();
    then();
    Cost::of(readings)
}

/// What an operation comes to whose end is elsewhere: `operation` does it and gives the counter at its begin and at its end. It is
/// done `warm_up` times before the readings are taken, and once more to be followed: then it must come to [`bench_trace_end`] at its end,
/// and what it gives is not looked at.
///
/// # Errors
/// The operation's own.
pub fn measure_to<E>(
    warm_up: usize,
    readings: usize,
    mut operation: impl FnMut(Followed) -> Result<(u64, u64), E>,
) -> Result<Cost, E> {
    for _ in 0..warm_up {
        operation(Followed::No)?;
    }
    let mut taken = Vec::with_capacity(readings);
    for _ in 0..readings {
        let (begin, end) = operation(Followed::No)?;
        taken.push(end.wrapping_sub(begin));
    }
    operation(Followed::Yes)?;
    Ok(Cost::of(taken))
}

/// Whether an operation is the one that a debugger follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Followed {
    /// It is.
    Yes,
    /// It is one of those that are counted.
    No,
}

/// Where a debugger that follows an operation instruction by instruction begins. The name is for it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bench_trace_begin() {
    // SAFETY: an instruction that does nothing, so that the function is not taken for an empty one.
    unsafe { core::arch::asm!("nop", options(nomem, nostack, preserves_flags)) };
}

/// Where it ends. Its body is another, lest the two be made one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bench_trace_end() {
    // SAFETY: as above.
    unsafe { core::arch::asm!("nop", "nop", options(nomem, nostack, preserves_flags)) };
}

impl Cost {
    /// What readings say, of which there is one at least.
    fn of(mut readings: Vec<u64>) -> Cost {
        readings.sort_unstable();
        Cost {
            least: readings[0],
            median: readings[readings.len() / 2],
            most: readings[readings.len() - 1],
        }
    }

    /// This cost without that of the measuring itself.
    pub const fn without(self, overhead: Cost) -> Cost {
        Cost {
            least: self.least.saturating_sub(overhead.least),
            median: self.median.saturating_sub(overhead.median),
            most: self.most.saturating_sub(overhead.median),
        }
    }
}
