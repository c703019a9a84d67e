//! Monotonic time and the one-shot timer.
//!
//! Time is the time-stamp counter, scaled to nanoseconds by one multiplication; it counts from the kernel's first
//! instruction. It is calibrated once, on the first CPU, against the best that the machine has. Every CPU's counter is
//! compared with the first CPU's when it starts, and set right if it is off. Should that not succeed, a guard makes
//! [`now_ns`] never return less than it has returned before, on any CPU: slower, but time never runs backwards.
//!
//! The timer is the local APIC's: deadlines in the time-stamp counter where the CPU has them, else a count of its own
//! clock, which is at most 32 bits long. So it may fire *early* (a far deadline, rounding): whoever gets the
//! interrupt compares the clock with what is due and arms it again.
//!
//! What may go wrong: no reference answers, or none is steady. Then a frequency is taken from what the CPU says of itself,
//! or assumed, and [`Calibration::trouble`] names the fault; nothing waits without an end.

pub mod calibrate;
pub mod offset;
pub mod scale;

#[cfg(target_os = "none")]
mod hpet;
#[cfg(target_os = "none")]
mod pit;
#[cfg(target_os = "none")]
mod pm_timer;
#[cfg(target_os = "none")]
mod setup;
#[cfg(target_os = "none")]
mod sync;
#[cfg(target_os = "none")]
mod timer;

#[cfg(target_os = "none")]
pub use setup::{Calibration, init};
#[cfg(target_os = "none")]
pub use sync::{TscSync, synchronise_as_new_cpu, synchronise_with_new_cpu};
#[cfg(target_os = "none")]
pub use timer::{arm_at, disarm, init_this_cpu, uses_deadlines};

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use scale::Scale;

/// The counter's value at time 0.
static EPOCH: AtomicU64 = AtomicU64::new(0);
/// The counter's frequency.
static TSC_HZ: AtomicU64 = AtomicU64::new(0);
/// Ticks to nanoseconds.
static TO_NS: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds to ticks.
static TO_TICKS: AtomicU64 = AtomicU64::new(0);
/// Whether some CPU's counter could not be brought in step.
static GUARDED: AtomicBool = AtomicBool::new(false);
/// The latest time given out while guarded.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// Sets the scale and the beginning of time.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
fn set_scale(epoch: u64, tsc_hz: u64) {
    EPOCH.store(epoch, Ordering::Relaxed);
    TSC_HZ.store(tsc_hz, Ordering::Relaxed);
    TO_NS.store(
        Scale::new(scale::NS_PER_SECOND, tsc_hz).0,
        Ordering::Relaxed,
    );
    TO_TICKS.store(
        Scale::new(tsc_hz, scale::NS_PER_SECOND).0,
        Ordering::Relaxed,
    );
}

/// From now on no CPU sees a time before one that any CPU has seen.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
fn guard() {
    GUARDED.store(true, Ordering::SeqCst);
}

/// The counter's value at time 0, and nanoseconds a tick times 2 to the 32nd, for whoever reads the counter without the
/// kernel; `None` if that would not be [`now_ns`], because the guard is on.
#[must_use]
pub fn published() -> Option<(u64, u64)> {
    let scale = TO_NS.load(Ordering::Relaxed);
    (!is_guarded() && scale != 0).then(|| (EPOCH.load(Ordering::Relaxed), scale))
}

/// Whether the guard is on, because some CPU's counter could not be brought in step.
#[must_use]
pub fn is_guarded() -> bool {
    GUARDED.load(Ordering::Relaxed)
}

/// This CPU's time-stamp counter, not read before what stands before it in the program.
#[inline]
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has both instructions; a fence before keeps `rdtsc` from being taken early (Intel SDM
    // vol. 2B, RDTSC).
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

/// This CPU's time-stamp counter, which may be read a little before what stands before it in the program: for accounts
/// that only compare readings of one CPU. It is one instruction.
#[inline(always)]
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and reading has no effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ticks of the time-stamp counter a second; 0 before calibration.
#[must_use]
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// Monotonic nanoseconds since the kernel's first instruction; 0 before calibration.
#[inline]
#[must_use]
pub fn now_ns() -> u64 {
    let ticks = tsc().saturating_sub(EPOCH.load(Ordering::Relaxed));
    let now = Scale(TO_NS.load(Ordering::Relaxed)).apply(ticks);
    if GUARDED.load(Ordering::Relaxed) {
        return LATEST.fetch_max(now, Ordering::Relaxed).max(now);
    }
    now
}

/// This CPU's counter's value at which [`now_ns`] will have reached `ns`; the largest there is if that is never, and a value
/// that has passed if the time has.
///
/// It is counted from the present, so that the scales' rounding grows with the time to wait and not with the time since
/// boot. Whoever waits for a far time compares [`now_ns`] with it when the counter is there, and asks again.
#[inline]
#[must_use]
pub fn ticks_at(ns: u64) -> u64 {
    let ticks = tsc();
    let ahead = ns.saturating_sub(now_ns());
    ticks.saturating_add(ns_to_ticks(ahead).saturating_add(1))
}

/// Ticks of the time-stamp counter that fit into `ns` nanoseconds.
#[inline]
#[must_use]
pub fn ns_to_ticks(ns: u64) -> u64 {
    Scale(TO_TICKS.load(Ordering::Relaxed)).apply(ns)
}

/// Nanoseconds that a stretch of `ticks` of the time-stamp counter takes.
#[inline]
#[must_use]
pub fn ticks_to_ns(ticks: u64) -> u64 {
    Scale(TO_NS.load(Ordering::Relaxed)).apply(ticks)
}

/// Waits, doing nothing, for `ns` nanoseconds or a little longer. Before calibration it doesn't wait.
pub fn delay_ns(ns: u64) {
    let begin = tsc();
    let ticks = Scale(TO_TICKS.load(Ordering::Relaxed)).apply(ns);
    while tsc().wrapping_sub(begin) < ticks {
        core::hint::spin_loop();
    }
}
