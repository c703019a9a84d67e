//! The console: text out and keys in, on the serial port and the screen at once.
//!
//! It owns both through handles alone: the port's registers by a port range, its interrupt by a notification that is bound
//! to the one thread, the pixels by a memory object. Either may be missing, and then the other is the console. The
//! kernel's log goes through here too, once the console has taken it over: log lines come between the lines of
//! clients, never into one.
//!
//! Later devices (a keyboard) are further sources of the same input bytes: [`input::Input`] doesn't ask where they are
//! from.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod input;
pub mod output;
pub mod serial;
pub mod server;
pub mod terminal;
