//! Calls, answers and signals: what one round trip of each kind costs.
//!
//! What is carried is looked at once at the end, so that no figure stands for a message that did not arrive.

use abi::ipc_area::BUFFER_BYTES;
use abi::report::ReportKind;
use abi::{Call, Deadline, Error, Tag};
use core::time::Duration;
use rt::sys::{self, IpcRegisters};
use rt::{AsHandle, Endpoint, Notification, Process, Rights, Thread, thread, time};

use crate::calls;
use crate::measure::{Cost, DONE, measure, measure_then};
use crate::partner::{self, Calls, FILLING, REQUEST_BYTES, Role, Starter, Turn};

/// Time for a partner to come to its first wait.
pub const SETTLING: Duration = Duration::from_millis(20);

/// A server in a process of its own, that waits for its first call, and its endpoint.
fn server(starter: &Starter, role: Role) -> rt::Result<(Endpoint, Process)> {
    let endpoint = Endpoint::create()?;
    let process = starter.start(role, &[("endpoint", endpoint.handle(), Rights::RECEIVE)])?;
    time::sleep(SETTLING)?;
    Ok((endpoint, process))
}

/// Calls without words, each time after `work`.
#[inline(always)]
fn call_reply(endpoint: &Endpoint, work: impl Fn()) -> rt::Result<Cost> {
    let endpoint = endpoint.handle().0;
    let mut status = 0;
    let cost = measure(|| {
        work();
        // SAFETY: a message without bytes and handles, which touches nothing but the registers.
        status |= unsafe { calls::call(endpoint, 0) }.0;
    });
    sys::check(status).map(|()| cost)
}

/// Without words, between two threads of this program.
pub fn call_reply_same_space() -> rt::Result<Cost> {
    let endpoint = Endpoint::create()?;
    let caller = endpoint.duplicate(Rights::SEND)?;
    let server = thread::spawn(move || partner::serve(Role::Serve(Turn::Plain), &endpoint))?;
    time::sleep(SETTLING)?;
    let cost = call_reply(&caller, || ());
    // SAFETY: it waits for a message, holds nothing, and is not heard of again.
    unsafe { server.thread().kill() }?;
    cost
}

/// Without words, between two programs; `mine` and `servers` is what each does in its turn.
pub fn call_reply_cross_space(starter: &Starter, mine: Turn, servers: Turn) -> rt::Result<Cost> {
    let (endpoint, server) = server(starter, Role::Serve(servers))?;
    let cost = match mine {
        Turn::Plain => call_reply(&endpoint, || ()),
        Turn::Float => call_reply(&endpoint, partner::use_fpu),
    };
    server.kill(0)?;
    cost
}

/// The same to a server that waits for a notification as well.
///
/// # Errors
/// Those of the calls, and of what the server's process takes.
pub fn call_reply_cross_space_bound(starter: &Starter) -> rt::Result<Cost> {
    let (endpoint, server) = server(starter, Role::ServeBound)?;
    let cost = call_reply(&endpoint, || ());
    server.kill(0)?;
    cost
}

/// Six words there and back, between two programs.
pub fn call_reply_cross_space_6w(starter: &Starter) -> rt::Result<Cost> {
    const WORDS: [u64; 6] = [1, 2, 3, 4, 5, 6];
    let (endpoint, server) = server(starter, Role::ServeWords)?;
    let (mut status, mut answer) = (0, [0; 6]);
    let cost = measure(|| {
        let mut registers = IpcRegisters {
            handle: endpoint.handle().0,
            tag: 0,
            words: WORDS,
            deadline: Deadline::NEVER.0,
            reply: 0,
        };
        // SAFETY: a message of words alone, which touches nothing but the registers.
        status |= unsafe { sys::ipc(Call::Call as u64, &mut registers) };
        answer = registers.words;
    });
    server.kill(0)?;
    sys::check(status)?;
    arrived(answer == WORDS).map(|()| cost)
}

/// A request of 64 bytes, and an answer of so many.
pub fn call_reply_bytes(starter: &Starter, bytes: usize) -> rt::Result<Cost> {
    const REQUEST: u8 = 0x3C;
    let (endpoint, server) = server(starter, Role::ServeBytes(bytes))?;
    let endpoint = endpoint.handle().0;
    let request = Tag::new(0).with_bytes(REQUEST_BYTES).0;
    let mut status = 0;
    let cost = measure(|| {
        // SAFETY: nobody holds a reference to the buffer.
        status |= unsafe { calls::call(endpoint, request) }.0;
    });
    // What was sent once stays in the server's buffer, and comes back with the answer to a call that brings nothing.
    // SAFETY: the calling thread's own buffer, which nobody else names.
    unsafe {
        sys::buffer().write_bytes(REQUEST, REQUEST_BYTES);
        status |= calls::call(endpoint, request).0;
        sys::buffer().write_bytes(0, BUFFER_BYTES);
    }
    // SAFETY: as above.
    let (last, tag) = unsafe { calls::call(endpoint, 0) };
    // SAFETY: as above, and the slice is dropped before the next call.
    let buffer = unsafe { core::slice::from_raw_parts(sys::buffer(), BUFFER_BYTES) };
    let (sent, rest) = buffer.split_at(REQUEST_BYTES);
    let (filled, untouched) = rest.split_at(bytes - REQUEST_BYTES);
    let whole = Tag(tag).bytes() == bytes
        && sent.iter().all(|byte| *byte == REQUEST)
        && filled.iter().all(|byte| *byte == FILLING)
        && untouched.iter().all(|byte| *byte == 0);
    server.kill(0)?;
    sys::check(status | last)?;
    arrived(whole).map(|()| cost)
}

/// A call that moves a handle to the server. A second one, which is not counted, brings it back.
pub fn call_reply_handle(starter: &Starter) -> rt::Result<Cost> {
    let (endpoint, server) = server(starter, Role::ServeHandle)?;
    let endpoint = endpoint.handle().0;
    let area = sys::area();
    let moving = Tag::new(0).with_handles(1, 1).0;
    let taking = Tag::new(0).taking_handles().0;
    let (status, failed) = (core::cell::Cell::new(0), core::cell::Cell::new(0));
    let held = core::cell::Cell::new(Notification::create()?.into_handle().into_raw().0);
    let cost = measure_then(
        || {
            // SAFETY: the calling thread's own area, which nobody else names.
            unsafe { (*area).handles_out[0] = held.get() };
            // SAFETY: nobody holds a reference to the area.
            status.set(status.get() | unsafe { calls::call(endpoint, moving) }.0);
        },
        || {
            // SAFETY: as above.
            unsafe {
                (*area).accept = 1;
                failed.set(failed.get() | calls::call(endpoint, taking).0);
                held.set((*area).handles_in[0]);
            }
        },
    );
    server.kill(0)?;
    sys::check(status.get() | failed.get())?;
    // It is what it was: nobody else has it.
    drop(rt::OwnedHandle::from_raw(abi::Handle(held.get())));
    Ok(cost)
}

/// A fault of this program, of which a handler in another program is told, and which it lets go on behind the instruction.
pub fn fault_round_trip(starter: &Starter) -> rt::Result<Cost> {
    let (endpoint, handler) = server(starter, Role::StepOver)?;
    let listener = endpoint.duplicate(Rights::SEND)?;
    let own = Thread::current()?;
    own.report_to(ReportKind::Faults, Some(&listener))?;
    let mut passed = 0_u64;
    let cost = measure(|| {
        // SAFETY: the handler lets it go on behind the instruction, with all registers as they were.
        unsafe { core::arch::asm!("ud2", options(nomem, nostack, preserves_flags)) };
        passed += 1;
    });
    own.report_to(ReportKind::Faults, None)?;
    handler.kill(0)?;
    arrived(passed == DONE).map(|()| cost)
}

/// A signal for which nobody waits.
pub fn signal_idle() -> rt::Result<Cost> {
    let bell = Notification::create()?;
    let handle = bell.handle().0;
    let mut status = 0;
    // SAFETY: touches no memory.
    let cost = measure(|| status |= unsafe { sys::short_with(Call::Signal, handle, 1) }.0);
    sys::check(status)?;
    arrived(bell.poll()? == 1).map(|()| cost)
}

/// A signal to another thread and its signal back, each waited for; between two programs, or (without a starter) two threads of this one.
pub fn signal_wait_pingpong(calls: Calls, starter: Option<&Starter>) -> rt::Result<Cost> {
    match calls {
        Calls::One => ping_pong(starter, calls, |ping, pong| {
            Calls::One.signal_and_wait(ping, pong)
        }),
        Calls::Two => ping_pong(starter, calls, |ping, pong| {
            Calls::Two.signal_and_wait(ping, pong)
        }),
    }
}

#[inline(always)]
fn ping_pong(
    starter: Option<&Starter>,
    calls: Calls,
    turn: impl Fn(&Notification, &Notification) -> rt::Result<u64>,
) -> rt::Result<Cost> {
    let (ping, pong) = (Notification::create()?, Notification::create()?);
    let failed = core::cell::Cell::new(None);
    let trip = || {
        measure(|| {
            if let Err(error) = turn(&ping, &pong) {
                failed.set(Some(error));
            }
        })
    };
    let cost = if let Some(starter) = starter {
        let given = [
            ("ping", ping.handle(), Rights::WAIT),
            ("pong", pong.handle(), Rights::SIGNAL),
        ];
        let partner = starter.start(Role::PingPong(calls), &given)?;
        time::sleep(SETTLING)?;
        let cost = trip();
        partner.kill(0)?;
        cost
    } else {
        let theirs = (
            ping.duplicate(Rights::WAIT)?,
            pong.duplicate(Rights::SIGNAL)?,
        );
        let partner = thread::spawn(move || partner::ping_pong(calls, &theirs.0, &theirs.1))?;
        time::sleep(SETTLING)?;
        let cost = trip();
        // SAFETY: it waits, holds nothing, and is not heard of again.
        unsafe { partner.thread().kill() }?;
        cost
    };
    failed.get().map_or(Ok(cost), Err)
}

/// Whether something came as it was sent.
fn arrived(whole: bool) -> rt::Result<()> {
    if whole {
        Ok(())
    } else {
        Err(Error::WrongState)
    }
}
