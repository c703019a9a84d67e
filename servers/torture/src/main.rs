//! The torture of threads: many more than CPUs, each with its own pattern in every register that user code has, disturbed in every way
//! that user code can be disturbed, while others are killed and made anew around it; and not one wrong bit.
//!
//! The tortured threads are a few hundred instructions of machine code in processes that have nothing else
//! ([`worker64`], [`worker32`]). They check themselves, and say in a page that they share with this program what they found. This
//! program makes them ([`shop`]), ends them at random ([`control`]), judges how they ended ([`life`]), and first shows that it notices damage of
//! every kind ([`selftest`]).
//!
//! What comes of it goes to the log as machine tests have it: `test NAME ... ok` or `... FAILED: why`, at last `suite done: ...`; then
//! the machine is switched off. All chance comes from a seed, which is logged and can be given again (`torture=seed=N` on the kernel's
//! command line): the same patterns, steps and decisions, though not the same moments.

#![cfg_attr(target_env = "musl", no_std, no_main)]

extern crate alloc;

#[cfg(target_env = "musl")]
mod control;
#[cfg(target_env = "musl")]
mod features;
#[cfg(target_env = "musl")]
mod life;
#[cfg(target_env = "musl")]
mod run;
#[cfg(target_env = "musl")]
mod selftest;
#[cfg(target_env = "musl")]
mod servers;
#[cfg(target_env = "musl")]
mod shop;
#[cfg(target_env = "musl")]
mod worker;
#[cfg(target_env = "musl")]
mod worker32;
#[cfg(target_env = "musl")]
mod worker64;
#[cfg(target_env = "musl")]
use torture::{BAD, Code, page};

#[cfg(target_env = "musl")]
rt::entry!(start);

#[cfg(target_env = "musl")]
fn start() -> Result<(), alloc::string::String> {
    run::run(rt::start::argument())
}

#[cfg(not(target_env = "musl"))]
fn main() {
    eprintln!("torture tests a Switchyard kernel: it runs there only");
    std::process::exit(2);
}
