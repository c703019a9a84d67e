//! What the kernel's first operations cost, in guest instructions.
//!
//! Meant for QEMU's TCG with `-icount shift=0,sleep=off` and one CPU, where the time-stamp counter counts instructions
//! (each iteration of a `rep` instruction is one). It says `bench NAME INSTRUCTIONS` a line, the median of many, and
//! `bench done`, then switches the machine off. Elsewhere the figures are ticks of the counter, and worth little.
//!
//! Counted is everything between two readings of the counter but the reading itself, which is measured the same way and taken
//! off: so the program's own loads and stores around a system call are in, on both sides of a call and its answer.
//!
//! With the argument `scale` it measures how a switch's cost grows and what calls on several CPUs come to ([`scale`], [`cpus`]), with `sides`
//! it makes one call to another CPU, with `between-cpus` it measures such calls alone, with `crowd` and `crowd-cpus` it measures the operations, and calls on several
//! CPUs, on a machine full of objects ([`crowd`]), and with `stretches` it does what the kernel takes long for ([`stretches`]).

#![cfg_attr(target_env = "musl", no_std, no_main)]

#[cfg(target_env = "musl")]
extern crate alloc;

#[cfg(target_env = "musl")]
mod calls;
#[cfg(target_env = "musl")]
mod changing;
#[cfg(target_env = "musl")]
mod cpus;
#[cfg(target_env = "musl")]
mod creation;
#[cfg(target_env = "musl")]
mod crowd;
#[cfg(target_env = "musl")]
mod mapping;
#[cfg(target_env = "musl")]
mod measure;
#[cfg(target_env = "musl")]
mod messages;
#[cfg(target_env = "musl")]
mod operations;
#[cfg(target_env = "musl")]
mod partner;
#[cfg(target_env = "musl")]
mod scale;
#[cfg(target_env = "musl")]
mod stretches;

#[cfg(target_env = "musl")]
rt::entry!(run);

#[cfg(target_env = "musl")]
fn run() -> Result<(), alloc::string::String> {
    match rt::start::argument() {
        "" => operations::measure_all(),
        "crowd" => operations::measure_in_crowd(),
        "scale" => scale::measure_all(),
        "crowd-cpus" => scale::measure_cpus_in_crowd(),
        "between-cpus" => scale::measure_between_cpus(),
        "sides" => scale::call_other_cpu(),
        "stretches" => stretches::do_all(),
        role => partner::run(role),
    }
}

#[cfg(not(target_env = "musl"))]
fn main() {
    eprintln!("bench measures a Switchyard kernel: it runs there only");
    std::process::exit(2);
}
