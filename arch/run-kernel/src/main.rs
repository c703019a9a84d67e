//! A kernel that runs contexts and does nothing else: the test of `arch::entry::run` on a machine, and an example of `arch` as
//! another kernel's library.
//!
//! It has no scheduler, no objects and no memory management: one CPU, one thread, two pages for user code. All its hooks lead
//! back to `run`, so its checks are ordinary functions that run a context, look at what came back, and run it again. It prints a line
//! `PASS name` or `FAIL name: why` for each on the first serial port, then `N passed, N failed`, and ends QEMU through its
//! isa-debug-exit device: status 33 if all held, 35 if not.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod checks;
#[cfg(target_os = "none")]
mod hooks;
#[cfg(target_os = "none")]
mod programs;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod user_space;

/// On a host there is nothing to run.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("this program is a kernel: build it with --target x86_64-unknown-none");
}
