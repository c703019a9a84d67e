//! Monotonic time, deadlines, sleeping.

use core::time::Duration;

use abi::{Call, Deadline};

use crate::{landing, sys};

/// Time since boot.
#[inline]
pub fn now() -> Duration {
    Duration::from_nanos(now_ns())
}

/// Nanoseconds since boot; without a call where the landing page can tell.
#[inline]
pub fn now_ns() -> u64 {
    landing::clock().unwrap_or_else(now_by_call)
}

/// Nanoseconds since boot, asked of the kernel.
#[inline]
pub fn now_by_call() -> u64 {
    // SAFETY: touches no memory; it can't fail.
    unsafe { sys::short(Call::ClockNow) }.1
}

/// The deadline that is `duration` away; one too far away is `NEVER`.
pub fn after(duration: Duration) -> Deadline {
    let wait = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Deadline(now_ns().saturating_add(wait))
}

/// Sleeps at least so long.
///
/// # Errors
/// `Cancelled` if a supervisor woke the thread.
pub fn sleep(duration: Duration) -> crate::Result<()> {
    sleep_until(after(duration))
}

/// Sleeps until then.
///
/// # Errors
/// `Cancelled` if a supervisor woke the thread.
pub fn sleep_until(deadline: Deadline) -> crate::Result<()> {
    // SAFETY: touches no memory.
    sys::check(unsafe { sys::raw(Call::Sleep as u64, [0; 6], deadline.0) }.status)
}
