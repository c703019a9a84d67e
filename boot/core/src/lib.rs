//! The half of the loader that no firmware is needed for.
//!
//! Everything here is computation on bytes and numbers: reading the configuration, planning how an ELF file
//! comes to lie in memory, finding the kernel's Limine requests, writing the answers, sorting the firmware's
//! memory map into the protocol's terms, building page tables. A front end (`boot/uefi`, `boot/multiboot`)
//! brings the files, the memory and the machine behind one interface ([`front`]), and does what touches them. So all of
//! this is tested on the host, none of it needs `unsafe`, and a kernel sees the same loader whatever started it.
//!
//! What may go wrong here is bad input, and each kind has its name in [`error::Fault`]; nothing in this crate
//! panics on what a file or the firmware says.
//!
//! The facts of the protocol are those of `PROTOCOL.md` of the Limine boot protocol, base revisions 0 to 6;
//! "Limine PROTOCOL, NAME" in a comment names a section of it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod addr;
pub mod arena;
pub mod config;
pub mod date;
pub mod elf;
pub mod error;
pub mod frames;
pub mod front;
pub mod hash;
pub mod load;
pub mod map;
pub mod memmap;
pub mod multiboot;
pub mod paging;
pub mod path;
pub mod protocol;
pub mod reloc;
pub mod request;
pub mod response;
pub mod session;
pub mod smbios;
