//! How long something takes.

use core::time::Duration;

/// The time since then.
pub fn since(then: Duration) -> Duration {
    rt::time::now().saturating_sub(then)
}
