//! The start block: what a program finds at its first instruction.
//!
//! Whoever makes a process (the kernel for `init`, `init` for all others) maps a start block read-only into it and
//! gives its address as the first thread's argument (`rdi`). It names each handle that the process was given, so that
//! a program finds its endpoints by name and never by number, and carries its argument string.
//!
//! Layout: [`StartHeader`], then `count` times [`StartEntry`], then the argument bytes (UTF-8).

use crate::Handle;

/// First word of a start block: "SWYDSTRT" in ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SWYDSTRT");
/// Layout version.
pub const VERSION: u32 = 1;
/// Longest entry name in bytes.
pub const NAME_BYTES: usize = 32;

/// Head of the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct StartHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Entries that follow.
    pub count: u32,
    /// Bytes of the argument string, after the entries.
    pub argument_bytes: u64,
}

/// One handle and its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct StartEntry {
    /// Its name, UTF-8, padded with zeros.
    pub name: [u8; NAME_BYTES],
    /// The handle's value; 0 if the entry is a plain value.
    pub handle: u64,
    /// A value that belongs to it: the size in bytes for memory, else 0.
    pub value: u64,
}

impl StartEntry {
    /// An entry. The name is cut at [`NAME_BYTES`].
    pub const fn new(name: &str, handle: Handle, value: u64) -> StartEntry {
        let mut padded = [0; NAME_BYTES];
        let bytes = name.as_bytes();
        let mut i = 0;
        while i < bytes.len() && i < NAME_BYTES {
            padded[i] = bytes[i];
            i += 1;
        }
        StartEntry {
            name: padded,
            handle: handle.0,
            value,
        }
    }
}

/// Names of the entries that the kernel gives to `init`. Its argument string is the kernel's command line.
pub mod init {
    /// The system handle, with all rights.
    pub const SYSTEM: &str = "system";
    /// The kernel's log, with all rights.
    pub const LOG: &str = "log";
    /// The initrd, a read-only memory object; the value is its size in bytes.
    pub const INITRD: &str = "initrd";
}

/// Names that `init` uses for all programs.
pub mod names {
    /// The process's own handle.
    pub const PROCESS: &str = "process";
    /// A value: address of the [landing page's](crate::landing) image, as a dynamic linker's `AT_SYSINFO_EHDR`.
    pub const SYSINFO_EHDR: &str = "at_sysinfo_ehdr";
    /// A value, in 32-bit processes: address of `__kernel_vsyscall`, as `AT_SYSINFO`.
    pub const SYSINFO: &str = "at_sysinfo";
}

const _: () = {
    assert!(size_of::<StartHeader>() == 24);
    assert!(size_of::<StartEntry>() == 48);
};
