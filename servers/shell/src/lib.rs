//! The shell: a prompt on the console, and commands that show the system at work.
//!
//! What a command asks of the system goes through one trait, [`world::World`], so that the whole shell, from typed bytes
//! to what is written, also runs in host tests. Input is bytes from a person, a pipe or a noisy line: whatever comes, the
//! line editor keeps a bounded line of printable characters.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod command;
pub mod editor;
pub mod keys;
pub mod machine;
pub mod run;
pub mod session;
pub mod show;
pub mod table;
pub mod units;
pub mod watch;
pub mod world;
