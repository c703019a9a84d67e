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
}

/// Does something many times, one reading each.
#[inline(always)]
pub fn measure(mut operation: impl FnMut()) -> Cost {
    for _ in 0..WARM_UP {
        operation();
    }
    let mut readings = Vec::with_capacity(READINGS);
    for _ in 0..READINGS {
        // SAFETY: reading the counter has no effect; every x86-64 CPU has it and the kernel leaves it to user mode.
        let before = unsafe { _rdtsc() };
        operation();
        // SAFETY: as above.
        let after = unsafe { _rdtsc() };
        readings.push(after.wrapping_sub(before));
    }
    bench_trace_begin();
    operation();
    bench_trace_end();
    readings.sort_unstable();
    Cost {
        least: readings[0],
        median: readings[READINGS / 2],
    }
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
extern "C" fn bench_trace_end() {
    // SAFETY: as above.
    unsafe { core::arch::asm!("nop", "nop", options(nomem, nostack, preserves_flags)) };
}

impl Cost {
    /// This cost without that of the measuring itself.
    pub const fn without(self, overhead: Cost) -> Cost {
        Cost {
            least: self.least.saturating_sub(overhead.least),
            median: self.median.saturating_sub(overhead.median),
        }
    }
}
