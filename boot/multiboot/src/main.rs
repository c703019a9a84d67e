//! Switchyard's loader for machines without UEFI.
//!
//! A Multiboot loader (GRUB from a BIOS, or QEMU's `-kernel`) brings this program and, as modules, the files of the boot:
//! `limine.conf`, the kernel, what the kernel's modules are made of. From there on it is the loader that UEFI machines
//! know: `boot-core` reads the configuration, loads the kernel and answers its requests, `boot-machine` makes the jump.
//! What is here is the rest: the way from 32-bit protected mode to long mode, a console, memory, and the tables and
//! clocks that a PC has instead of firmware services.
//!
//! Every failure is one message, on the first serial port and on the screen, that names the file and the fault. There is
//! no firmware to go back to, so the machine then stands still.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod app;
#[cfg(target_os = "none")]
mod clock;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod display;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod fault;
#[cfg(target_os = "none")]
mod front;
#[cfg(target_os = "none")]
mod memory;

/// A host has nothing to start it.
#[cfg(not(target_os = "none"))]
fn main() {
    println!(
        "this program is started by a Multiboot loader: build it with --target x86_64-unknown-none"
    );
}
