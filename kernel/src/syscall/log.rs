//! Calls on the kernel's log.

use abi::{Error, Rights};

use super::Caller;
use crate::ipc::Notification;
use crate::log;
use crate::log_owner;
use crate::memory::user::UserSlice;
use crate::schedule;

/// Bytes that one call writes or reads at most, on the kernel stack.
const PIECE: usize = 512;
/// Bytes that one `log_write` takes.
const MOST_BYTES: u64 = 4096;

/// `log_write`.
pub(super) fn write(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), true, Rights::WRITE)?;
    let mut rest = UserSlice::new(caller.argument(1), caller.argument(2))?;
    if rest.len() as u64 > MOST_BYTES {
        return Err(Error::OutOfRange);
    }
    let mut piece = [0; PIECE];
    while !rest.is_empty() {
        let bytes = rest.len().min(PIECE);
        rest.first(bytes).copy_in(&mut piece[..bytes])?;
        // A piece ends with a line where there is one, so that long texts are not cut inside a line.
        let end = match piece[..bytes].iter().rposition(|&byte| byte == b'\n') {
            Some(position) if bytes < rest.len() => position + 1,
            _ => bytes,
        };
        log::write_text(&piece[..end]);
        rest = rest.after(end);
        schedule::preemption_point();
    }
    Ok(())
}

/// `log_read`.
pub(super) fn read(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), true, Rights::READ)?;
    let mut position = caller.argument(1);
    let mut rest = UserSlice::new(caller.argument(2), caller.argument(3))?;
    let mut total = 0;
    let mut piece = [0; PIECE];
    while !rest.is_empty() {
        let bytes = rest.len().min(PIECE);
        let (count, next) = log::read(position, &mut piece[..bytes]);
        rest.first(count).copy_out(&piece[..count])?;
        position = next;
        total += count as u64;
        rest = rest.after(count);
        if count < bytes {
            break;
        }
        schedule::preemption_point();
    }
    caller.set_result(0, total);
    caller.set_result(1, position);
    Ok(())
}

/// `log_take`.
pub(super) fn take(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), true, Rights::MANAGE)?;
    let notification = caller.hold::<Notification>(caller.handle(1), Rights::SIGNAL)?;
    if caller.argument(2) == 0 {
        return Err(Error::BadArgument);
    }
    log_owner::take(caller.process().id(), notification, caller.argument(2))
}
