//! The IPC area: two pages of each thread through which handles and bytes of messages travel.
//!
//! The kernel owns, pins and maps them into the process, so that a transfer can't fault or race with an unmapping.
//! The first page is [`IpcHeader`], the second is the buffer. A new thread finds the area's address in `rsi` and in
//! its FS base, whose first word is the address again, so that `mov rax, fs:0` finds it at any time.

use crate::compat::BLOCK_WORDS;
use crate::layout::PAGE_SIZE;

/// Bytes that a message can carry in the buffer.
pub const BUFFER_BYTES: usize = 4096;
/// Handles that a message can carry.
pub const MAX_HANDLES: usize = 4;
/// Size of the whole area in bytes.
pub const AREA_BYTES: u64 = 2 * PAGE_SIZE;
/// Where the buffer begins, in bytes from the start of the area.
pub const BUFFER_OFFSET: u64 = PAGE_SIZE;
/// Where the program's own thread-local space begins in the header page; the kernel never touches it.
pub const PROGRAM_OFFSET: usize = 2048;

/// The first page of the area.
#[repr(C, align(4096))]
pub struct IpcHeader {
    /// The area's own address, written by the kernel at the thread's creation.
    pub self_address: u64,
    /// How many handles the next receive (or reply, for `call`) takes: 0 to 4, set by the program. `call` and `reply_recv` look here only
    /// if their [tag](crate::Tag::taking_handles) says so.
    pub accept: u64,
    /// The handles that the next send carries, set by the program.
    pub handles_out: [u64; MAX_HANDLES],
    /// The handles that the last receive brought, written by the kernel.
    pub handles_in: [u64; MAX_HANDLES],
    /// The registers of a system call of 32-bit code in the block form (see [`compat`](crate::compat)).
    pub registers: [u64; BLOCK_WORDS],
    reserved: [u64; 236],
    /// Free for the program: the SDK keeps its thread-local data here.
    pub program: [u64; 256],
}

const _: () = {
    assert!(size_of::<IpcHeader>() == PAGE_SIZE as usize);
    assert!(core::mem::offset_of!(IpcHeader, handles_out) == 16);
    assert!(core::mem::offset_of!(IpcHeader, handles_in) == 48);
    assert!(core::mem::offset_of!(IpcHeader, registers) == 80);
    assert!(core::mem::offset_of!(IpcHeader, program) == PROGRAM_OFFSET);
};
