//! A stand-in for the kernel inside a host process, so that servers run under plain `cargo test`.
//!
//! It knows handles with rights, endpoints, replies, notifications, memory objects, the clock and the log: what a
//! server's logic needs. It has one table of handles for the whole host process, and no processes, devices or power:
//! those calls give `NotSupported`. One lock and one condition variable serve everything; a test has few threads.
//! It keeps the contract's meaning, not its speed: who is woken first is left open here, where the kernel says more.

mod memory;
mod messages;
mod table;

use core::cell::Cell;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use abi::ipc_area::{AREA_BYTES, IpcHeader};
use abi::layout::PAGE_SIZE;
use abi::{Call, Error, Rights};

use super::{IpcRegisters, Results};
use crate::{Handle, OwnedHandle};
use table::{Object, Table};

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);
static CHANGED: Condvar = Condvar::new();
static BOOT: LazyLock<Instant> = LazyLock::new(Instant::now);

fn table() -> MutexGuard<'static, Table> {
    // A test that panicked while it held the lock has left a table that is still whole: no step here panics half-way.
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ns() -> u64 {
    BOOT.elapsed().as_nanos() as u64
}

/// Waits for a change, at most until the deadline.
///
/// # Errors
/// `TimedOut` once the deadline has passed.
fn wait_change(
    table: MutexGuard<'static, Table>,
    deadline: u64,
) -> Result<MutexGuard<'static, Table>, Error> {
    if deadline == u64::MAX {
        return Ok(CHANGED.wait(table).unwrap_or_else(PoisonError::into_inner));
    }
    let left = deadline.saturating_sub(now_ns());
    if left == 0 {
        return Err(Error::TimedOut);
    }
    let waited = CHANGED.wait_timeout(table, Duration::from_nanos(left));
    Ok(waited.unwrap_or_else(PoisonError::into_inner).0)
}

/// A log object of its own, as `init` would give, and what was written to it so far can be read back through it.
pub fn new_log() -> OwnedHandle {
    let mut table = table();
    let id = table.new_id();
    table.logs.insert(id, std::vec::Vec::new());
    OwnedHandle::from_raw(Handle(table.insert(Object::Log(id), Rights::ALL, 0)))
}

/// Plays a program's start: makes this its start block, and sends its log lines where the block says. The block lives as
/// long as the host process, since anything may refer to it.
///
/// # Errors
/// Names what is wrong with the block.
pub fn begin(block: std::vec::Vec<u8>) -> Result<(), crate::start::StartError> {
    crate::start::Block::parse(&block)?;
    crate::start::adopt(block.leak());
    crate::begin();
    Ok(())
}

/// How many handles there are: a test that ends with as many as it began with has leaked none.
pub fn handle_count() -> usize {
    table().handles.len()
}

/// A thread's IPC area, given back at the thread's end.
struct Area(Cell<*mut IpcHeader>);

const AREA: Layout = match Layout::from_size_align(AREA_BYTES as usize, PAGE_SIZE as usize) {
    Ok(layout) => layout,
    Err(_) => panic!("an IPC area is a whole number of pages"),
};

impl Drop for Area {
    fn drop(&mut self) {
        if !self.0.get().is_null() {
            // SAFETY: allocated below with this layout, and used by this thread alone, which ends.
            unsafe { dealloc(self.0.get().cast(), AREA) };
        }
    }
}

std::thread_local! {
    static THREAD_AREA: Area = const { Area(Cell::new(core::ptr::null_mut())) };
}

/// See [`super::area`].
pub(super) fn area() -> *mut IpcHeader {
    THREAD_AREA.with(|area| {
        if area.0.get().is_null() {
            // SAFETY: the layout is not empty; all zeros is a valid IPC area.
            let made = unsafe { alloc_zeroed(AREA) };
            assert!(!made.is_null(), "the host is out of memory");
            area.0.set(made.cast());
        }
        area.0.get()
    })
}

/// See [`super::short`].
///
/// # Safety
/// As for [`super::raw`].
pub(super) unsafe fn short(number: u64) -> (u64, u64) {
    // SAFETY: the caller's promise.
    unsafe { short_with(number, 0, 0) }
}

/// See [`super::wait`].
///
/// # Safety
/// As for [`super::raw`].
pub(super) unsafe fn wait(notification: u64, deadline: u64) -> (u64, u64) {
    // SAFETY: the caller's promise.
    let results = unsafe { raw(Call::Wait as u64, [notification, 0, 0, 0, 0, 0], deadline) };
    (results.status, results.values[2])
}

/// See [`super::signal_wait`].
///
/// # Safety
/// As for [`super::raw`].
pub(super) unsafe fn signal_wait(
    signalled: u64,
    bits: u64,
    awaited: u64,
    deadline: u64,
) -> (u64, u64) {
    let arguments = [signalled, bits, awaited, 0, 0, 0];
    // SAFETY: the caller's promise.
    let results = unsafe { raw(Call::SignalWait as u64, arguments, deadline) };
    (results.status, results.values[2])
}

/// See [`super::short_with`].
///
/// # Safety
/// As for [`super::raw`].
pub(super) unsafe fn short_with(number: u64, first: u64, second: u64) -> (u64, u64) {
    // SAFETY: the caller's promise.
    let results = unsafe { raw(number, [first, second, 0, 0, 0, 0], 0) };
    (results.status, results.values[0])
}

/// See [`super::short_with_five`].
///
/// # Safety
/// As for [`super::raw`].
pub(super) unsafe fn short_with_five(number: u64, [a, b, c, d, e]: [u64; 5]) -> (u64, u64) {
    // SAFETY: the caller's promise.
    let results = unsafe { raw(number, [a, b, c, d, e, 0], 0) };
    (results.status, results.values[0])
}

/// See [`super::ipc`].
///
/// # Safety
/// As for [`super::raw`].
pub(super) unsafe fn ipc(number: u64, registers: &mut IpcRegisters) -> u64 {
    let mut out = *registers;
    let result = match Call::from_number(number) {
        Some(Call::Call) => messages::call(&mut out),
        Some(Call::Send) => messages::send(&out),
        Some(Call::Recv) => messages::recv(&mut out, true),
        Some(Call::Reply) => messages::reply(&out),
        Some(Call::ReplyRecv) => {
            let answered = if out.reply == 0 {
                Ok(())
            } else {
                messages::reply(&out)
            };
            let takes = abi::Tag(out.tag).takes_handles();
            answered.and_then(|()| messages::recv(&mut out, takes))
        }
        _ => Err(Error::UnknownCall),
    };
    match result {
        Ok(()) => {
            *registers = out;
            0
        }
        Err(error) => error as u64,
    }
}

/// See [`super::raw`].
///
/// # Safety
/// As for [`super::raw`].
pub(super) unsafe fn raw(number: u64, arguments: [u64; 6], deadline: u64) -> Results {
    let Some(call) = Call::from_number(number) else {
        return Results {
            status: Error::UnknownCall as u64,
            values: kept(arguments),
        };
    };
    // SAFETY: the caller's promise: pointers among the arguments are good.
    match unsafe { plain(call, arguments, deadline) } {
        Ok(values) => Results { status: 0, values },
        Err(error) => Results {
            status: error as u64,
            values: kept(arguments),
        },
    }
}

fn kept([rdi, rsi, rdx, ..]: [u64; 6]) -> [u64; 3] {
    [rdi, rsi, rdx]
}

fn rights(bits: u64) -> Result<Rights, Error> {
    u32::try_from(bits)
        .ok()
        .map(Rights)
        .filter(|rights| Rights::ALL.contains(*rights))
        .ok_or(Error::BadArgument)
}

/// # Safety
/// Pointers among the arguments are good for what the call does with them.
unsafe fn plain(call: Call, arguments: [u64; 6], deadline: u64) -> Result<[u64; 3], Error> {
    let [a, b, c, d, ..] = arguments;
    let kept = kept(arguments);
    match call {
        Call::Null => Ok(kept),
        Call::Yield => {
            std::thread::yield_now();
            Ok(kept)
        }
        Call::ClockNow => Ok([now_ns(), b, c]),
        Call::Sleep => {
            std::thread::sleep(Duration::from_nanos(deadline.saturating_sub(now_ns())));
            Ok(kept)
        }
        Call::HandleClose => {
            table().close(a)?;
            CHANGED.notify_all();
            Ok(kept)
        }
        Call::HandleDuplicate => {
            let wanted = rights(b)?;
            let mut table = table();
            let entry = table.find(a, Rights::DUPLICATE.with(wanted))?;
            Ok([table.insert(entry.object, wanted, entry.badge), b, c])
        }
        Call::HandleQuery => {
            let info = table().query(a)?;
            // SAFETY: the caller's promise.
            unsafe { (b as usize as *mut abi::info::HandleInfo).write(info) };
            Ok(kept)
        }
        Call::EndpointCreate => {
            let mut table = table();
            let id = table.new_id();
            table.queues.insert(id, std::collections::VecDeque::new());
            Ok([table.insert(Object::Endpoint(id), Rights::ALL, 0), b, c])
        }
        Call::EndpointMint => {
            let wanted = rights(c)?;
            let mut table = table();
            let entry = table.find(a, Rights::MINT.with(wanted))?;
            let Object::Endpoint(_) = entry.object else {
                return Err(Error::WrongObject);
            };
            Ok([table.insert(entry.object, wanted, b), b, c])
        }
        Call::NotificationCreate => {
            let mut table = table();
            let id = table.new_id();
            table.notifications.insert(id, 0);
            Ok([table.insert(Object::Notification(id), Rights::ALL, 0), b, c])
        }
        Call::NotificationBind => messages::bind(a).map(|()| kept),
        Call::Signal => messages::signal(a, b).map(|()| kept),
        Call::Wait => messages::wait(a, deadline).map(|bits| [a, b, bits]),
        Call::SignalWait => messages::signal_wait(a, b, c, deadline).map(|bits| [a, b, bits]),
        Call::ThreadSelf | Call::ProcessSelf => {
            let object = if call == Call::ThreadSelf {
                Object::Thread
            } else {
                Object::Process
            };
            Ok([table().insert(object, Rights::ALL, 0), b, c])
        }
        Call::MemoryCreate => memory::create(a).map(|handle| [handle, b, c]),
        Call::MemoryMap => memory::map(arguments).map(|address| [address, b, c]),
        Call::MemoryUnmap => memory::unmap(b).map(|()| kept),
        // SAFETY: the caller's promise.
        Call::MemoryRead => unsafe { memory::read(a, b, c, d) }.map(|()| kept),
        // SAFETY: the caller's promise.
        Call::MemoryWrite => unsafe { memory::write(a, b, c, d) }.map(|()| kept),
        Call::LogWrite => {
            // SAFETY: the caller's promise.
            let text = unsafe { core::slice::from_raw_parts(b as usize as *const u8, c as usize) };
            table().log(a, Rights::WRITE)?.extend_from_slice(text);
            Ok(kept)
        }
        Call::LogRead => {
            let mut table = table();
            let log = table.log(a, Rights::READ)?;
            let start = (b as usize).min(log.len());
            let count = (d as usize).min(log.len() - start);
            // SAFETY: the caller's promise; count is at most what there is room for.
            unsafe {
                log[start..]
                    .as_ptr()
                    .copy_to_nonoverlapping(c as usize as *mut u8, count);
            }
            Ok([count as u64, (start + count) as u64, c])
        }
        _ => Err(Error::NotSupported),
    }
}
