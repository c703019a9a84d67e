//! Which register carries what.
//!
//! `syscall` overwrites `rcx` and `r11` (Intel SDM vol. 2B, SYSCALL); `rbx` and `rbp` can't be operands of Rust's
//! inline assembly. That leaves eleven registers to share, and the IPC calls use them all:
//!
//! | register | any call, in | any call, out | IPC send half, in | IPC receive half, out |
//! |---|---|---|---|---|
//! | `rax` | number | status: 0, or an [`Error`](crate::Error) | number | status |
//! | `rdi` | argument 0 | result 0 | endpoint handle | badge of the handle that was used |
//! | `rsi` | argument 1 | result 1 | [`Tag`](crate::Tag) | [`Tag`](crate::Tag) |
//! | `rdx` | argument 2 | result 2 | word 0 | word 0, or the bits of the bound notification |
//! | `r10` | argument 3 | kept | word 1 | word 1 |
//! | `r8` | argument 4 | kept | word 2 | word 2 |
//! | `r9` | argument 5 | kept | word 3 | word 3 |
//! | `r12` | | kept | word 4 | word 4 |
//! | `r13` | | kept | word 5 | word 5 |
//! | `r14` | deadline, where a call has one | kept | deadline | what came: [`RECEIVED_MESSAGE`] or [`RECEIVED_NOTIFICATION`] |
//! | `r15` | | kept | reply handle (`reply`, `reply_recv`) | reply handle, 0 if the sender waits for none |
//! | `rbx`, `rbp`, `rsp` | | kept | | kept |
//! | `rcx`, `r11` | | rip and rflags of the caller | | rip and rflags of the caller |
//!
//! The short calls ([`SHORT_CALLS`](crate::SHORT_CALLS)) treat registers as a C function does: whatever their outcome, `rdi` is
//! the result (0 if there is none), and `rsi`, `rdx`, `r8`, `r9` and `r10` are 0. What need not be kept need not be saved, and
//! zero says nothing of the kernel.
//!
//! On an error of any other call `rax` is the error's code and the other registers are kept as they were, except where a line says
//! otherwise. Vector registers are kept by every call. A reply that a `call` waits for arrives in the registers
//! of the receive half, with `rdi`, `r14` and `r15` zero.
//!
//! `int 0x80` from 64-bit code uses the same map. 32-bit code, which has seven registers, has [a map of its
//! own](crate::compat) onto this one.

/// `r14` after a successful receive: a message came.
pub const RECEIVED_MESSAGE: u64 = 0;
/// `r14` after a successful receive: the bound notification was signalled; its bits, now cleared, are in `rdx`.
pub const RECEIVED_NOTIFICATION: u64 = 1;

/// The words of a message that travel in registers.
pub const MESSAGE_WORDS: usize = 6;
