//! `call`, `send`, `recv`, `reply`, `reply_recv`, and the notification calls.

use core::sync::atomic::Ordering;

use abi::{Deadline, Error, Handle, Rights, Tag};

use super::{Caller, Outcome};
use crate::ipc::{self, Endpoint, Flow, Notification, WaitOn};
use crate::object::Section;
use crate::schedule;

/// Carries out what an operation says of the calling thread.
fn go_on(flow: Flow, deadline: Deadline, section: &mut Section) -> Outcome {
    match flow {
        Flow::Done => schedule::settle_running(),
        Flow::Block => schedule::block(deadline, section),
        Flow::SwitchTo(next) => schedule::switch_directly(next, deadline, section),
    }
    Outcome::Written
}

/// Reserves the table slots that a wait may fill, one for each handle that the thread says it takes; and notes whether it is poised.
///
/// What a wait does not use stays the thread's for the next, until it ends.
///
/// `takes`: it takes any at all.
fn reserve(caller: Caller, takes: bool, deadline: Deadline) -> Result<(), Error> {
    let thread = caller.thread();
    let accept = if takes { thread.area.accept() } else { 0 };
    let reserved = thread.wait.reserved.load(Ordering::Relaxed);
    if accept > reserved {
        let more = accept - reserved;
        caller.process().table.lock().reserve(more)?;
        thread.wait.reserved.store(accept, Ordering::Relaxed);
    }
    thread.wait.set_accept(accept);
    let is_poised =
        deadline == Deadline::NEVER && arch::switch::returns_directly(thread.registers());
    let here = core::ptr::from_ref(arch::cpu::block()).cast_mut();
    thread.poised.store(
        if is_poised {
            here.cast()
        } else {
            core::ptr::null_mut()
        },
        Ordering::Relaxed,
    );
    Ok(())
}

/// `call`.
pub(super) fn call(caller: Caller, section: &mut Section) -> Result<Outcome, Error> {
    let deadline = caller.deadline();
    let flow = {
        let (endpoint, badge) = caller.find::<Endpoint>(caller.handle(0), Rights::SEND, section)?;
        reserve(caller, takes_handles(caller), deadline)?;
        endpoint.send(caller.thread(), badge, true, deadline)
    };
    finish(flow, deadline, section)
}

/// `send`.
pub(super) fn send(caller: Caller, section: &mut Section) -> Result<Outcome, Error> {
    let deadline = caller.deadline();
    let flow = {
        let (endpoint, badge) = caller.find::<Endpoint>(caller.handle(0), Rights::SEND, section)?;
        caller
            .thread()
            .poised
            .store(core::ptr::null_mut(), Ordering::Relaxed);
        endpoint.send(caller.thread(), badge, false, deadline)
    };
    finish(flow, deadline, section)
}

/// `recv`.
pub(super) fn recv(caller: Caller, section: &mut Section) -> Result<Outcome, Error> {
    let deadline = caller.deadline();
    let flow = receive_in_pieces(caller, true, deadline, section);
    finish(flow, deadline, section)
}

/// What the tag in a thread's registers says of its receive half.
fn takes_handles(caller: Caller) -> bool {
    Tag(caller.thread().registers().rsi).takes_handles()
}

/// The receive half of a call; `None`: others are to have the CPU before it is tried again.
fn receive(
    caller: Caller,
    takes: bool,
    deadline: Deadline,
    section: &Section,
) -> Result<Option<Flow>, Error> {
    let (endpoint, _) = caller.find::<Endpoint>(caller.handle(0), Rights::RECEIVE, section)?;
    caller.thread().note_served(caller.handle(0));
    caller.thread().expect_reply()?;
    reserve(caller, takes, deadline)?;
    if endpoint.begin_service(caller.thread()) {
        // The direct way is to say so as well, should the thread come back to the other one.
        caller.thread().served.forget();
    }
    endpoint.receive(caller.thread(), caller.thread().bound(), deadline, section)
}

/// The same as often as it takes. A client that sends what nobody takes holds up the thread itself, as it pays with its own time for each, and nobody
/// else on its CPU.
fn receive_in_pieces(
    caller: Caller,
    takes: bool,
    deadline: Deadline,
    section: &mut Section,
) -> Result<Flow, Error> {
    loop {
        if let Some(flow) = receive(caller, takes, deadline, section)? {
            return Ok(flow);
        }
        if caller.thread().marks().is_killed() {
            return Err(Error::Cancelled);
        }
        // Nothing is borrowed here: the endpoint is looked up anew.
        schedule::preemption_point();
    }
}

fn finish(
    flow: Result<Flow, Error>,
    deadline: Deadline,
    section: &mut Section,
) -> Result<Outcome, Error> {
    Ok(go_on(flow?, deadline, section))
}

/// `reply`.
pub(super) fn reply(caller: Caller, section: &mut Section) -> Result<(), Error> {
    let handle = Handle(caller.thread().registers().r15);
    let answered = ipc::reply(caller.thread(), handle, section)?;
    schedule::settle_running();
    schedule::make_ready(answered);
    Ok(())
}

/// `reply_recv`.
pub(super) fn reply_recv(caller: Caller, section: &mut Section) -> Result<Outcome, Error> {
    let deadline = caller.deadline();
    let handle = Handle(caller.thread().registers().r15);
    let takes = takes_handles(caller);
    let just_receive = |section: &mut Section| {
        let flow = receive_in_pieces(caller, takes, deadline, section);
        finish(flow, deadline, section)
    };
    if handle.is_none() {
        return just_receive(section);
    }
    // A bad endpoint is found out before the answer is given away.
    caller.find::<Endpoint>(caller.handle(0), Rights::RECEIVE, section)?;
    let answered = match ipc::reply(caller.thread(), handle, section) {
        Ok(answered) => answered,
        // A server must not be stopped by a client that gave up.
        Err(Error::CallerGone) => return just_receive(section),
        Err(error) => return Err(error),
    };
    match receive(caller, takes, deadline, section) {
        Ok(Some(Flow::Block)) => Ok(go_on(Flow::SwitchTo(answered), deadline, section)),
        Ok(Some(flow)) => {
            schedule::make_ready(answered);
            Ok(go_on(flow, deadline, section))
        }
        Ok(None) => {
            schedule::settle_running();
            schedule::make_ready(answered);
            schedule::preemption_point();
            just_receive(section)
        }
        Err(error) => {
            // It goes on, with what it had inherited from the one that it has answered.
            schedule::settle_running();
            schedule::make_ready(answered);
            Err(error)
        }
    }
}

/// `signal`.
pub(super) fn signal(
    caller: Caller,
    handle: Handle,
    bits: u64,
    section: &Section,
) -> Result<(), Error> {
    let (notification, _) = caller.find::<Notification>(handle, Rights::SIGNAL, section)?;
    notification.signal(bits);
    Ok(())
}

/// `wait`.
pub(super) fn wait(caller: Caller, section: &mut Section) -> Result<Outcome, Error> {
    let deadline = caller.deadline();
    let flow = {
        let (notification, _) =
            caller.find::<Notification>(caller.handle(0), Rights::WAIT, section)?;
        notification.wait(caller.thread(), deadline)?
    };
    Ok(go_on(flow, deadline, section))
}

/// `signal_wait`.
pub(super) fn signal_wait(caller: Caller, section: &mut Section) -> Result<Outcome, Error> {
    let deadline = caller.deadline();
    let bits = caller.argument(1);
    let flow = {
        // Both before anything is done.
        let (signalled, _) =
            caller.find::<Notification>(caller.handle(0), Rights::SIGNAL, section)?;
        let (awaited, _) = caller.find::<Notification>(caller.handle(2), Rights::WAIT, section)?;
        signalled.signal(bits);
        awaited.wait(caller.thread(), deadline)?
    };
    Ok(go_on(flow, deadline, section))
}

/// `sleep`.
pub(super) fn sleep(caller: Caller, section: &mut Section) -> Outcome {
    let deadline = caller.deadline();
    if deadline.0 <= arch::time::now_ns() {
        return Outcome::Done;
    }
    caller.thread().wait.set(WaitOn::Sleep);
    schedule::block(deadline, section);
    // The deadline's passing is what was asked for.
    let registers = caller.thread().registers_mut();
    if registers.rax == Error::TimedOut as u64 {
        registers.rax = 0;
    }
    Outcome::Written
}
