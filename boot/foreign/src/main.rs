//! A kernel that boots, checks everything its loader promised, says what held, and ends the machine.
//!
//! It is written from the text of the Limine boot protocol and shares no code with the loader or with any Limine
//! library, so that a misreading on one side cannot hide behind the same misreading on the other. It prints a line
//! `PASS name` or `FAIL name: why` for each promise on the first serial port, then `N passed, N failed`, and ends
//! QEMU through its isa-debug-exit device: status 33 if all held, 35 if not.
//!
//! Its command line tells what to expect of the machine: `framebuffer=yes` or `framebuffer=no`, and `modules=yes` if
//! the two modules of boot/README.md are there. It runs on one CPU with interrupts off and on the loader's stack,
//! page tables and descriptor tables; that those work is half of what is checked.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod features;
#[cfg(target_os = "none")]
mod files;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod port;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod requests;
#[cfg(target_os = "none")]
mod walk;

/// On a host there is nothing to check.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("this program is a kernel: build it with --target x86_64-unknown-none");
}
