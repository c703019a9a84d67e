//! The one-shot timer of each CPU.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{delay_ns, scale::Scale, ticks, tsc};
use crate::platform::apic::{self, ApicError};

/// Ticks of the time-stamp counter to ticks of the local APIC's timer.
static TO_APIC_TICKS: AtomicU64 = AtomicU64::new(0);
/// Whether timers fire at values of the time-stamp counter, on all CPUs.
static DEADLINES: AtomicBool = AtomicBool::new(false);

/// How long the timer is watched where only the time-stamp counter is there to measure it.
const WATCH_NS: u64 = 10_000_000;

/// Keeps what calibration found.
pub(super) fn set_up(tsc_hz: u64, apic_hz: u64, deadlines: bool) {
    TO_APIC_TICKS.store(Scale::new(apic_hz, tsc_hz).0, Ordering::Relaxed);
    DEADLINES.store(deadlines, Ordering::Relaxed);
}

/// The local APIC timer's frequency by the time-stamp counter's; 0 if it stands still.
pub(super) fn measure_by_tsc(tsc_hz: u64) -> u64 {
    apic::timer_arm(u32::MAX);
    let (begin, left) = (tsc(), apic::timer_left());
    delay_ns(WATCH_NS);
    let (took, counted) = (tsc() - begin, left.wrapping_sub(apic::timer_left()));
    apic::timer_arm(0);
    let hz = u128::from(counted) * u128::from(tsc_hz) / u128::from(took.max(1));
    u64::try_from(hz).unwrap_or(0)
}

/// Whether timers fire at values of the time-stamp counter.
#[must_use]
pub fn uses_deadlines() -> bool {
    DEADLINES.load(Ordering::Relaxed)
}

/// Puts this CPU's timer into the mode of all, stopped.
///
/// # Errors
/// This CPU can't do what the first one could.
///
/// # Safety
/// On each CPU, the first included, after [`init`](super::init) on the first and `apic::init_this_cpu` on this one, with
/// interrupts off.
pub unsafe fn init_this_cpu() -> Result<(), ApicError> {
    if uses_deadlines() {
        if !apic::has_deadline_timer() {
            return Err(ApicError::WrongMode);
        }
        // SAFETY: the CPU has this mode, and its local APIC was set up.
        unsafe { apic::timer_use_deadlines()? };
    }
    disarm();
    Ok(())
}

/// Lets this CPU's timer interrupt come when its time-stamp counter reaches `at`, or earlier if that is far; at once if it
/// has passed; never for `u64::MAX`. It replaces what was armed before.
#[inline]
pub fn arm_at(at: u64) {
    if at == u64::MAX {
        disarm();
    } else if DEADLINES.load(Ordering::Relaxed) {
        // A deadline of 0 would stop the timer.
        apic::timer_arm_deadline(at.max(1));
    } else {
        let ahead = at.saturating_sub(ticks());
        let count = Scale(TO_APIC_TICKS.load(Ordering::Relaxed)).apply(ahead);
        // A tick more than the rounded number, so that it isn't early by that; and never 0, which would stop it.
        apic::timer_arm(count.saturating_add(1).min(u64::from(u32::MAX)) as u32);
    }
}

/// Stops this CPU's timer. An interrupt that is already on its way still comes.
#[inline]
pub fn disarm() {
    apic::timer_stop(DEADLINES.load(Ordering::Relaxed));
}
