//! The torture of threads: what they hold, what is done to them, and what must be so afterwards.
//!
//! This part is data: the page that a tortured thread works on ([`page`]), what is put into it ([`plan`]), how damage is made on
//! purpose ([`damage`]), and how what was found is named ([`judge`]). The program over it makes and ends the threads.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod damage;
pub mod fpu;
pub mod judge;
pub mod options;
pub mod page;
pub mod plan;
pub mod random;
pub mod segments;

/// Exit code of a process whose thread found something wrong.
pub const BAD: u64 = 0xBAD;
/// Exit code of one that ended as it was told.
pub const DONE: u64 = 0x60;

/// The machine code of a tortured thread, and what is where in it, from the start of the text.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// The bytes.
    pub text: &'static [u8],
    /// Where a `syscall` returns to; in 32-bit code, where `__kernel_vsyscall` does.
    pub after_call: u64,
    /// Where an `int 0x80` does.
    pub after_interrupt: u64,
    /// Where a yield in a row returns to.
    pub after_yield: u64,
    /// The use of a port.
    pub port: u64,
    /// The first of two instructions that breakpoints watch, the second of which writes the word that they watch.
    pub watched: u64,
    /// Behind them.
    pub after_watched: u64,
    /// The `ud2`.
    pub invalid: u64,
    /// The load of SS that is refused.
    pub stack: u64,
}
