//! The machine tests: one program that runs them all, on the machine itself.
//!
//! Started by `init` it works through [`tests::ALL`], each test in a process of its own, which is this same program started
//! with the argument `test NAME`. So a test may crash, hang or use up what it has: it fails alone, and what it held is
//! free again for the next. Tests that need partners start this program once more, in a role ([`roles`]), or run a few bytes
//! of machine code in an otherwise empty process ([`bare`]).
//!
//! What it says goes to the kernel's log, a line a test: `test NAME ... ok`, `... FAILED: why` or `... skipped: why`, then
//! `suite done: N passed, N failed, N skipped`; then the machine is switched off. A machine that stays on, or says
//! nothing, has failed: that is for who reads the log to see.

#![cfg_attr(target_env = "musl", no_std, no_main)]

#[cfg(target_env = "musl")]
extern crate alloc;

#[cfg(target_env = "musl")]
mod bare;
#[cfg(target_env = "musl")]
mod clock;
#[cfg(target_env = "musl")]
mod devices;
#[cfg(target_env = "musl")]
mod kernel_calls;
#[cfg(target_env = "musl")]
mod registers;
#[cfg(target_env = "musl")]
mod roles;
#[cfg(target_env = "musl")]
mod runner;
#[cfg(target_env = "musl")]
mod tests;
#[cfg(target_env = "musl")]
mod verdict;
#[cfg(target_env = "musl")]
mod world;

#[cfg(target_env = "musl")]
rt::entry!(run);

#[cfg(target_env = "musl")]
fn run() -> u64 {
    runner::run(rt::start::argument())
}

#[cfg(not(target_env = "musl"))]
fn main() {
    eprintln!("suite tests a Switchyard kernel: it runs there only");
    std::process::exit(2);
}
