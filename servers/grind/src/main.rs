//! The grinder: system calls with random arguments, nearly valid ones above all, by several threads of several programs on all CPUs, for
//! as long as one likes; the kernel lives on, says nothing but errors that there are, and nothing is left behind.
//!
//! First every call is made with every kind of bad value in every place ([`arguments`]). Then programs grind at random ([`worker`]). They are there
//! to be ruined: they end in any way, and are made anew ([`run`]) until so many calls were made. At last the counts of all kinds
//! of objects and of frames are what they were. The kernel's own checks are what finds most: it is to be built with them.
//!
//! What comes of it goes to the log as machine tests have it: `test NAME ... ok` or `... FAILED: why`, at last `suite done: ...`; then
//! the machine is switched off. All chance comes from a seed, which is logged and can be given again (`grind=seed=N,calls=N` on the kernel's
//! command line). With one CPU under `-icount` the whole run is the same again, moment by moment.

#![cfg_attr(target_env = "musl", no_std, no_main)]

extern crate alloc;

#[cfg(target_env = "musl")]
mod arguments;
#[cfg(target_env = "musl")]
mod entry;
#[cfg(target_env = "musl")]
mod report;
#[cfg(target_env = "musl")]
mod run;
#[cfg(target_env = "musl")]
mod worker;

#[cfg(target_env = "musl")]
rt::entry!(start);

#[cfg(target_env = "musl")]
fn start() -> Result<(), alloc::string::String> {
    match rt::start::argument().strip_prefix("worker ") {
        Some(role) => worker::run(role),
        None => run::run(rt::start::argument()),
    }
}

#[cfg(not(target_env = "musl"))]
fn main() {
    eprintln!("grind tests a Switchyard kernel: it runs there only");
    std::process::exit(2);
}
