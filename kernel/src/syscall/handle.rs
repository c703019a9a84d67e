//! Calls on handles, and those that make endpoints and notifications.

use abi::info::HandleInfo;
use abi::{Badge, Error, Handle, Rights};

use super::Caller;
use crate::ipc::{self, Endpoint, Notification};
use crate::memory::user;
use crate::object::{AnyObject, Ref, Section};
use crate::process::Process;

/// `handle_close`.
pub(super) fn close(caller: Caller, handle: Handle) -> Result<(), Error> {
    ipc::close(caller.thread(), handle)
}

/// `handle_duplicate`.
pub(super) fn duplicate(caller: Caller) -> Result<(), Error> {
    let rights = caller.rights(1)?;
    let second = {
        let table = caller.process().table.lock();
        let capability = table.get(caller.handle(0))?;
        capability.demand(Rights::DUPLICATE)?;
        capability.duplicate(rights)?
    };
    caller.give_capability(second)
}

/// `endpoint_mint`.
pub(super) fn mint(caller: Caller) -> Result<(), Error> {
    let badge = Badge(caller.argument(1));
    let rights = caller.rights(2)?;
    let minted = {
        let table = caller.process().table.lock();
        let capability = table.get(caller.handle(0))?;
        if !matches!(capability.object(), AnyObject::Endpoint(_)) {
            return Err(Error::WrongObject);
        }
        capability.demand(Rights::MINT)?;
        capability.with_badge(rights, badge)?
    };
    caller.give_capability(minted)
}

/// `handle_query`.
pub(super) fn query(caller: Caller) -> Result<(), Error> {
    let info = {
        let table = caller.process().table.lock();
        let capability = table.get(caller.handle(0))?;
        let size = match capability.object() {
            AnyObject::Memory(memory) => memory.bytes(),
            _ => 0,
        };
        HandleInfo {
            kind: capability.object().kind() as u32,
            rights: capability.rights().0,
            badge: capability.badge().0,
            size,
        }
    };
    user::write(caller.argument(1), &info)
}

/// `handle_grant`.
pub(super) fn grant(caller: Caller, section: &mut Section) -> Result<(), Error> {
    let rights = caller.rights(2)?;
    let (process, _) = caller.find::<Process>(caller.handle(0), Rights::MANAGE, section)?;
    let copy = {
        let table = caller.process().table.lock();
        let capability = table.get(caller.handle(1))?;
        capability.demand(Rights::TRANSFER)?;
        capability.duplicate(rights)?
    };
    match process.grant(copy) {
        Ok(handle) => {
            caller.set_result(0, handle.0);
            Ok(())
        }
        Err((error, refused)) => {
            refused.end();
            Err(error)
        }
    }
}

/// `endpoint_create`.
pub(super) fn create_endpoint(caller: Caller) -> Result<(), Error> {
    caller.give(
        AnyObject::Endpoint(Ref::try_new(Endpoint::made_by(caller.process().id()))?),
        Rights::ALL,
    )
}

/// `notification_create`.
pub(super) fn create_notification(caller: Caller) -> Result<(), Error> {
    caller.give(
        AnyObject::Notification(Ref::try_new(Notification::new())?),
        Rights::ALL,
    )
}

/// `notification_bind`.
pub(super) fn bind(caller: Caller, _section: &mut Section) -> Result<(), Error> {
    let thread = caller.thread();
    let wanted = match caller.handle(0) {
        handle if handle.is_none() => None,
        handle => Some(caller.hold::<Notification>(handle, Rights::WAIT)?),
    };
    if let Some(notification) = &wanted {
        if thread.bound().is_some() {
            return Err(Error::Busy);
        }
        notification.bind(thread)?;
    }
    if let Some(former) = thread.set_bound(wanted) {
        former.unbind();
    }
    Ok(())
}
