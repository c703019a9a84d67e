//! Calls on reports: who listens to them.

use abi::report::ReportKind;
use abi::{Badge, Error, Handle, Rights};

use super::Caller;
use crate::ipc::{Endpoint, Listener};
use crate::object::{AnyObject, Ref};
use crate::reported::are_reported;

/// `report_to`.
pub(super) fn report_to(caller: Caller) -> Result<(), Error> {
    let kind = ReportKind::from_number(caller.argument(1)).ok_or(Error::BadArgument)?;
    let listener = listener(caller, caller.handle(2))?;
    let (thread, process) = {
        let table = caller.process().table.lock();
        let capability = table.get(caller.handle(0))?;
        let objects = match capability.object() {
            AnyObject::Thread(thread) => (Some(thread.clone()), None),
            AnyObject::Process(process) => (None, Some(process.clone())),
            _ => return Err(Error::WrongObject),
        };
        capability.demand(Rights::MANAGE)?;
        objects
    };
    // What is there is taken away at the end, so nothing may come later.
    if let Some(thread) = thread {
        if thread.has_ended() {
            return Err(Error::Ended);
        }
        if kind == ReportKind::ForeignCalls {
            return Err(Error::BadArgument);
        }
        if kind == ReportKind::Calls {
            let reports = listener.is_some() || are_reported(thread.process());
            thread.while_stopped(|machine| {
                // SAFETY: the thread is held stopped.
                unsafe { machine.state.report_calls(reports) };
                Ok(())
            })?;
        }
        thread.listeners.set(kind, listener);
    } else if let Some(process) = process {
        let mut former = None;
        if kind == ReportKind::ForeignCalls {
            // Its threads know from their beginning whose calls they make.
            process.while_threadless(|| former = process.listeners.exchange(kind, listener))?;
        } else {
            process.while_alive(|| {
                former = process.listeners.exchange(kind, listener);
                Ok(())
            })?;
        }
        // With no lock held: an endpoint's end may take others.
        drop(former);
    }
    Ok(())
}

/// Who shall listen: nobody, or the endpoint behind a handle, with the handle's badge.
fn listener(caller: Caller, handle: Handle) -> Result<Option<Ref<Listener>>, Error> {
    if handle.is_none() {
        return Ok(None);
    }
    behind(caller, handle).map(Some)
}

/// The endpoint behind a handle, with the handle's badge.
pub(super) fn behind(caller: Caller, handle: Handle) -> Result<Ref<Listener>, Error> {
    let (endpoint, badge) = endpoint(caller, handle)?;
    Listener::create(endpoint, badge)
}

fn endpoint(caller: Caller, handle: Handle) -> Result<(Ref<Endpoint>, Badge), Error> {
    let table = caller.process().table.lock();
    let capability = table.get(handle)?;
    let AnyObject::Endpoint(endpoint) = capability.object() else {
        return Err(Error::WrongObject);
    };
    capability.demand(Rights::SEND)?;
    Ok((endpoint.clone(), capability.badge()))
}
