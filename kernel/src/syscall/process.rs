//! Calls on processes.

use abi::info::{NAME_BYTES, Quota, QuotaInfo};
use abi::{Error, Handle, Priority, Rights};

use super::Caller;
use crate::ipc::Notification;
use crate::memory::account::Account;
use crate::memory::space::Mode;
use crate::memory::user::{self, UserSlice};
use crate::object::AnyObject;
use crate::process::{Ending, Name, Process};

/// `process_create`.
pub(super) fn create(caller: Caller) -> Result<(), Error> {
    let bytes = caller.argument(1);
    if bytes == 0 || bytes > NAME_BYTES as u64 {
        return Err(Error::BadArgument);
    }
    let mut name = [0; NAME_BYTES];
    let name = &mut name[..bytes as usize];
    UserSlice::new(caller.argument(0), bytes)?.copy_in(name)?;
    let own = caller.process().highest_priority();
    let highest = match caller.argument(2) {
        0 => own,
        level => Priority::new(level).ok_or(Error::OutOfRange)?,
    };
    if highest > own {
        return Err(Error::NoRight);
    }
    let mode = Mode::from_number(caller.argument(3)).ok_or(Error::BadArgument)?;
    let name = Name::new(name)?;
    let own = caller.process().account();
    let account = match caller.argument(4) {
        0 => Account::share(own)?,
        pointer => Account::divide(own, &user::read::<Quota>(pointer)?)?,
    };
    let process = Process::create(name, account, highest, mode)?;
    let (image, vsyscall) = process.landing();
    caller.give(AnyObject::Process(process), Rights::ALL)?;
    caller.set_result(1, image);
    caller.set_result(2, vsyscall);
    Ok(())
}

/// `process_quota`.
pub(super) fn quota(caller: Caller) -> Result<(), Error> {
    let (used, limit) = match caller.handle(0) {
        Handle::NONE => caller.process().account().quotas(),
        process => caller
            .hold::<Process>(process, Rights::QUERY)?
            .account()
            .quotas(),
    };
    user::write(caller.argument(1), &QuotaInfo { used, limit })
}

/// `process_set_quota`.
pub(super) fn set_quota(caller: Caller) -> Result<(), Error> {
    let process = caller.hold::<Process>(caller.handle(0), Rights::MANAGE)?;
    let part: Quota = user::read(caller.argument(1))?;
    process
        .account()
        .set_part(caller.process().account(), &part)
}

/// `process_kill`.
pub(super) fn kill(caller: Caller) -> Result<(), Error> {
    caller
        .hold::<Process>(caller.handle(0), Rights::MANAGE)?
        .end(Ending::Kill(caller.argument(1)));
    Ok(())
}

/// `process_exit`.
pub(super) fn exit(caller: Caller) {
    caller.process().end(Ending::Exit(caller.argument(0)));
    // Also if another thread had begun the end and not come to this one yet.
    super::thread::exit(caller);
}

/// `process_watch`.
pub(super) fn watch(caller: Caller) -> Result<(), Error> {
    let process = caller.hold::<Process>(caller.handle(0), Rights::QUERY)?;
    let notification = caller.hold::<Notification>(caller.handle(1), Rights::SIGNAL)?;
    if caller.argument(2) == 0 {
        return Err(Error::BadArgument);
    }
    process.watch(notification, caller.argument(2))
}

/// `process_info`.
pub(super) fn info(caller: Caller) -> Result<(), Error> {
    let info = match caller.handle(0) {
        Handle::NONE => caller.process().info(),
        process => caller.hold::<Process>(process, Rights::QUERY)?.info(),
    };
    user::write(caller.argument(1), &info)
}

/// `process_self`.
pub(super) fn this(caller: Caller) -> Result<(), Error> {
    caller.give(AnyObject::Process(caller.process().clone()), Rights::ALL)
}
