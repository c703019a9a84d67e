//! The system call border: raw stubs, by registers, exactly as `abi::register` says.
//!
//! Two back ends offer the same three functions: `bare`, which is `syscall`, and `host`, a stand-in for the kernel
//! inside a host process. All else in this crate is written over them and is thereby the same code in both places.
//! Programs use the typed wrappers; what is here is public for tests and measurements of the border itself.

#[cfg(target_env = "musl")]
mod bare;
#[cfg(target_env = "musl")]
use bare as backend;
#[cfg(not(target_env = "musl"))]
pub mod host;
#[cfg(not(target_env = "musl"))]
use host as backend;

use abi::ipc_area::IpcHeader;
use abi::{Call, Deadline, Error};

/// What a plain call gives back, unjudged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Results {
    /// `rax`: 0, or an error's code.
    pub status: u64,
    /// `rdi`, `rsi`, `rdx`.
    pub values: [u64; 3],
}

/// The registers of an IPC call, in and out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct IpcRegisters {
    /// `rdi`: endpoint handle in, badge out.
    pub handle: u64,
    /// `rsi`: tag.
    pub tag: u64,
    /// `rdx`, `r10`, `r8`, `r9`, `r12`, `r13`.
    pub words: [u64; abi::register::MESSAGE_WORDS],
    /// `r14`: deadline in, what came out.
    pub deadline: u64,
    /// `r15`: reply handle, in and out.
    pub reply: u64,
}

/// Any system call by number, with six arguments and a deadline; nothing is judged.
///
/// # Safety
/// The call must not take away memory that the program still uses, nor write over any (its pointers are the caller's
/// word), nor end a thread that owes something.
#[inline]
pub unsafe fn raw(number: u64, arguments: [u64; 6], deadline: u64) -> Results {
    // SAFETY: the caller's promise is the back end's.
    unsafe { backend::raw(number, arguments, deadline) }
}

/// A short call ([`abi::SHORT_CALLS`]) without arguments: its status and its result, unjudged.
///
/// # Safety
/// As for [`raw`].
#[inline]
pub unsafe fn short(call: Call) -> (u64, u64) {
    debug_assert!((call as u64) < abi::SHORT_CALLS);
    // SAFETY: the caller's promise is the back end's.
    unsafe { backend::short(call as u64) }
}

/// A short call with two arguments.
///
/// # Safety
/// As for [`raw`].
#[inline]
pub unsafe fn short_with(call: Call, first: u64, second: u64) -> (u64, u64) {
    debug_assert!((call as u64) < abi::SHORT_CALLS);
    // SAFETY: the caller's promise is the back end's.
    unsafe { backend::short_with(call as u64, first, second) }
}

/// A short call with five arguments.
///
/// # Safety
/// As for [`raw`].
#[inline]
pub unsafe fn short_with_five(call: Call, arguments: [u64; 5]) -> (u64, u64) {
    debug_assert!((call as u64) < abi::SHORT_CALLS);
    // SAFETY: the caller's promise is the back end's.
    unsafe { backend::short_with_five(call as u64, arguments) }
}

/// `wait` by handle; nothing is judged. Returns `rax` and the bits.
///
/// # Safety
/// As for [`raw`].
#[inline]
pub unsafe fn wait(notification: u64, deadline: u64) -> (u64, u64) {
    // SAFETY: the caller's promise is the back end's.
    unsafe { backend::wait(notification, deadline) }
}

/// `signal_wait` by handles; nothing is judged. Returns `rax` and the bits.
///
/// # Safety
/// As for [`raw`].
#[inline]
pub unsafe fn signal_wait(signalled: u64, bits: u64, awaited: u64, deadline: u64) -> (u64, u64) {
    // SAFETY: the caller's promise.
    unsafe { backend::signal_wait(signalled, bits, awaited, deadline) }
}

/// An IPC call by number; nothing is judged. On an error the registers are kept. Returns `rax`.
///
/// # Safety
/// As for [`raw`]. The thread's IPC area is read and written.
#[inline]
pub unsafe fn ipc(number: u64, registers: &mut IpcRegisters) -> u64 {
    // SAFETY: the caller's promise is the back end's.
    unsafe { backend::ipc(number, registers) }
}

/// The calling thread's IPC area: its header page, behind which the buffer page lies.
#[inline]
pub fn area() -> *mut IpcHeader {
    backend::area()
}

/// The calling thread's message buffer, [`abi::ipc_area::BUFFER_BYTES`] long.
#[inline]
pub fn buffer() -> *mut u8 {
    // The buffer page follows the header page in one area, so this stays inside of it.
    area()
        .cast::<u8>()
        .wrapping_add(abi::ipc_area::BUFFER_OFFSET as usize)
}

/// A status as a result. A code that this program doesn't know (a younger kernel's) is `NotSupported`.
///
/// # Errors
/// The status's own.
#[inline]
pub fn check(status: u64) -> crate::Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(Error::from_code(status).unwrap_or(Error::NotSupported))
    }
}

/// A call that only names objects and numbers, or memory that the wrapper vouches for.
///
/// # Safety
/// As for [`raw`].
#[inline]
pub(crate) unsafe fn call(call: Call, arguments: [u64; 6]) -> crate::Result<[u64; 3]> {
    // SAFETY: the caller's promise.
    let results = unsafe { raw(call as u64, arguments, Deadline::NEVER.0) };
    check(results.status).map(|()| results.values)
}
