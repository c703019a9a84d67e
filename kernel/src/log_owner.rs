//! Who is told that the log grew, and what happens when that process ends.
//!
//! A line may be logged under any lock, so logging only marks the CPU ([`mark`]); the signal follows on the way out of the
//! kernel ([`tell`]). When the owner ends, serial port and screen are the kernel's again.

use abi::Error;

use crate::ipc::{Notification, Signaller};
use crate::log;
use crate::object::{Ref, Waking};
use crate::sync::{Mutex, level};

struct Owner {
    process: u64,
    notification: Signaller,
    bits: u64,
}

static OWNER: Mutex<{ level::IRQ }, Option<Owner>> = Mutex::new(None);

/// The log grew: have it told on the way out of the kernel.
#[cfg(target_os = "none")]
pub fn mark() {
    arch::cpu::block().request(arch::cpu::Pending::LOG);
}

/// Signals the owner if the log grew. No lock may be held.
pub fn tell() {
    if log::take_growth()
        && let Some(owner) = &*OWNER.lock()
    {
        // Under this lock the notification can't go; notifications come later in the order.
        owner.notification.signal(owner.bits);
    }
}

/// Gives serial port and screen to a process, which is told of growth by `bits`; at once of what is there already.
///
/// # Errors
/// [`Error::Busy`] if a process has them.
pub fn take(process: u64, notification: Ref<Notification>, bits: u64) -> Result<(), Error> {
    let mut owner = OWNER.lock();
    if owner.is_some() {
        drop(owner);
        return Err(Error::Busy);
    }
    notification.signal(bits);
    *owner = Some(Owner {
        process,
        notification: Signaller::new(notification),
        bits,
    });
    drop(owner);
    log::take();
    Ok(())
}

/// A process has ended: if it was the owner, the kernel writes to serial port and screen again. Then those are to be woken who waited to be told of the log by that
/// and nothing else. No lock may be held.
pub(crate) fn process_ended(process: u64) -> Option<Waking> {
    let mut owner = OWNER.lock();
    if owner.as_ref().is_none_or(|owner| owner.process != process) {
        return None;
    }
    let former = owner.take();
    drop(owner);
    log::untake();
    former?.notification.give_up()
}
