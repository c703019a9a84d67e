//! Switchyard's loader: a UEFI application that boots a kernel by the Limine boot protocol.
//!
//! It reads `limine.conf`, brings the kernel and its modules into memory, answers the kernel's requests, ends the
//! firmware's boot services and jumps. All that can be decided without firmware is in `boot-core`, the jump in
//! `boot-machine`; this crate asks the firmware.
//!
//! Until boot services end, every failure is one message on the console, naming the file and the fault, and a return
//! to the firmware with an error status. After that nothing can fail for want of room, since all of it was measured
//! and taken before; what cannot be, resets the machine with a message on the first serial port.
#![cfg_attr(target_os = "uefi", no_std, no_main)]

#[cfg(target_os = "uefi")]
extern crate alloc;

#[cfg(target_os = "uefi")]
mod app;
#[cfg(target_os = "uefi")]
mod console;
#[cfg(target_os = "uefi")]
mod facts;
#[cfg(target_os = "uefi")]
mod files;
#[cfg(target_os = "uefi")]
mod front;
#[cfg(target_os = "uefi")]
mod memory;
#[cfg(target_os = "uefi")]
mod screen;

/// A host has no firmware to ask.
#[cfg(not(target_os = "uefi"))]
fn main() {
    println!("this program is a UEFI application: build it with --target x86_64-unknown-uefi");
}
