//! Calls on the state that a thread has in a CPU: registers, floating-point state, debug registers, descriptors of its own.
//!
//! Whoever manages a thread may look at it and change it while it does not run. What comes in is an allegation like any other
//! argument: each part has its check in `arch`, and what passes could have been set by the thread's own user code, or stops
//! that code and nothing else.

use abi::segment::{TLS_SLOTS, tls_selector};
use abi::{ContextPart, DebugRegisters, Error, Handle, Rights, UserContext};
use arch::fpu;
use arch::segments::BadDescriptor;
use arch::switch::set_current_tls;

use super::Caller;
use crate::ipc::ReplyTarget;
use crate::memory::user::{self, UserSlice};
use crate::object::{AnyObject, Ref};
use crate::thread::{Machine, Thread};

/// `thread_set_tls`.
pub(super) fn set_tls(caller: Caller) -> Result<(), Error> {
    let slot = usize::try_from(caller.argument(1)).map_err(|_| Error::OutOfRange)?;
    let selector = tls_selector(slot).ok_or(Error::OutOfRange)?;
    let descriptor = caller.argument(2);
    if caller.handle(0).is_none() {
        // SAFETY: the caller is this CPU's current thread.
        unsafe { set_current_tls(&caller.thread().machine.state, slot, descriptor) }
            .map_err(bad_descriptor)?;
    } else {
        let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
        thread.while_stopped(|machine| {
            // SAFETY: the thread is held stopped.
            unsafe { machine.state.set_tls(slot, descriptor) }.map_err(bad_descriptor)
        })?;
    }
    caller.set_result(0, u64::from(selector));
    Ok(())
}

fn bad_descriptor(_: BadDescriptor) -> Error {
    Error::BadArgument
}

/// `thread_get_context`.
pub(super) fn get(caller: Caller) -> Result<(), Error> {
    let (subject, part, at) = arguments(caller)?;
    match part {
        ContextPart::Registers => user::write(at, &subject.while_stopped(|m| Ok(registers(m)))?),
        ContextPart::Debug => {
            let registers = subject.while_stopped(|machine| Ok(machine.state.debug_registers()))?;
            user::write(at, &registers)
        }
        ContextPart::Tls => {
            let slots = subject.while_stopped(|machine| Ok(machine.state.extras().tls()))?;
            user::write(at, slots.descriptors())
        }
        ContextPart::Fpu => {
            let mut room = [0; fpu::IMAGE_ROOM];
            let image = &mut room[..fpu::image_bytes()];
            // SAFETY: the thread is held stopped.
            subject.while_stopped(|machine| unsafe { machine.read_fpu(image) })?;
            UserSlice::new(at, image.len() as u64)?.copy_out(image)
        }
    }
}

/// `thread_set_context`.
pub(super) fn set(caller: Caller) -> Result<(), Error> {
    let (subject, part, at) = arguments(caller)?;
    // Read before the thread is held: the caller's memory may have to be brought in.
    match part {
        ContextPart::Registers => {
            let registers: UserContext = user::read(at)?;
            subject.set_registers(&registers)
        }
        ContextPart::Debug => {
            let registers: DebugRegisters = user::read(at)?;
            subject.while_stopped(|machine| {
                // SAFETY: the thread is held stopped.
                unsafe { machine.state.set_debug_registers(&registers) }
                    .map_err(|_| Error::BadArgument)
            })
        }
        ContextPart::Tls => {
            let descriptors: [u64; TLS_SLOTS] = user::read(at)?;
            subject.while_stopped(|machine| {
                // SAFETY: the thread is held stopped.
                unsafe { machine.state.set_all_tls(&descriptors) }.map_err(bad_descriptor)
            })
        }
        ContextPart::Fpu => {
            let mut room = [0; fpu::IMAGE_ROOM];
            let image = &mut room[..fpu::image_bytes()];
            UserSlice::new(at, image.len() as u64)?.copy_in(image)?;
            // SAFETY: the thread is held stopped.
            subject.while_stopped(|machine| unsafe { machine.write_fpu(image) })
        }
    }
}

/// Whose state it is.
enum Subject {
    /// A thread's that the caller manages.
    Thread(Ref<Thread>),
    /// That of the thread whose report the caller is to answer.
    Reporter(ReplyTarget),
}

impl Subject {
    /// The one behind a handle.
    fn find(caller: Caller, handle: Handle) -> Result<Subject, Error> {
        let table = caller.process().table.lock();
        let capability = table.get(handle)?;
        match capability.object() {
            AnyObject::Thread(thread) => {
                capability.demand(Rights::MANAGE)?;
                Ok(Subject::Thread(thread.clone()))
            }
            object @ (AnyObject::Reply(_) | AnyObject::Held(_)) => {
                ReplyTarget::of(object, handle).map(Subject::Reporter)
            }
            _ => Err(Error::WrongObject),
        }
    }

    /// Does something with the state of the thread, which does not run meanwhile: it is stopped, was not started, or waits for the answer to a
    /// report.
    fn while_stopped<R>(&self, act: impl FnOnce(&Machine) -> Result<R, Error>) -> Result<R, Error> {
        match self {
            Subject::Reporter(target) => target.while_reporting(|thread| act(&thread.machine)),
            Subject::Thread(thread) => match (thread.reporting.shows_state(), thread.awaited()) {
                (true, Some(stamp)) => thread
                    .while_reporting(stamp, || act(&thread.machine))
                    .map_err(|error| match error {
                        // It has just been answered.
                        Error::CallerGone | Error::NoRight => Error::WrongState,
                        other => other,
                    }),
                _ => thread.while_stopped(act),
            },
        }
    }

    /// The same for what sets registers.
    fn set_registers(&self, registers: &UserContext) -> Result<(), Error> {
        let set = |machine: &Machine| {
            // SAFETY: the thread is held stopped.
            unsafe { machine.state.set_registers(registers) }.map_err(|_| Error::BadArgument)?;
            if let Subject::Thread(thread) = self {
                thread.reporting.note_change(true);
            }
            Ok(())
        };
        self.while_stopped(set)
    }
}

/// The thread, the part, and where its bytes are in the caller's memory.
fn arguments(caller: Caller) -> Result<(Subject, ContextPart, u64), Error> {
    let subject = Subject::find(caller, caller.handle(0))?;
    let part = ContextPart::from_number(caller.argument(1)).ok_or(Error::BadArgument)?;
    let bytes = part.bytes().unwrap_or_else(fpu::image_bytes);
    if caller.argument(3) != bytes as u64 {
        return Err(Error::OutOfRange);
    }
    Ok((subject, part, caller.argument(2)))
}

fn registers(machine: &Machine) -> UserContext {
    // SAFETY: the context lives as long as the thread, which is held stopped.
    unsafe { *machine.context() }
}
