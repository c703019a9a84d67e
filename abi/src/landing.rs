//! The landing page: what the kernel maps into every process for it to call.
//!
//! Two pages at an address of the process's own, chosen at random when it is made, which can't be unmapped or changed: a page of
//! data ([`LandingData`], read-only), and right behind it an ELF image of one page (read and execute), 64-bit in a 64-bit
//! process and 32-bit in a 32-bit one. The image is a shared library in the form that dynamic linkers expect of a vDSO: its symbols
//! are found through its dynamic section, and nothing in it needs relocation.
//!
//! | image | symbol | what it does |
//! |---|---|---|
//! | 64-bit | `__vdso_clock_now` | `rax` = monotonic nanoseconds, as [`Call::ClockNow`](crate::Call::ClockNow) gives them. By the C convention, but for the vector registers, which it does not touch |
//! | 64-bit | `__vdso_cpu_number` | `eax` = index of the CPU that the thread runs on at that moment. The same convention; changes `rax`, `rcx`, `rdx` only |
//! | 32-bit | `__kernel_vsyscall` | a system call by the register map of [`compat`](crate::compat), by the entry that this CPU is best at. Changes no register but for the results and `eax` |
//!
//! `__kernel_vsyscall` is also the image's entry point. A process learns the image's address (`AT_SYSINFO_EHDR`), and a
//! 32-bit one that of `__kernel_vsyscall` (`AT_SYSINFO`), from its [start block](crate::start::names).

use crate::layout::PAGE_SIZE;

/// What the data page holds. It may grow at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct LandingData {
    /// Bits of [`flags`].
    pub flags: u64,
    /// The time-stamp counter at time 0.
    pub epoch: u64,
    /// Nanoseconds a tick of the time-stamp counter, times 2 to the 32nd.
    pub scale: u64,
}

/// Bits of [`LandingData::flags`].
pub mod flags {
    /// The time-stamp counters are in step on all CPUs, so that time can be read without a call.
    pub const CLOCK: u64 = 1;
    /// `rdtscp` gives the CPU's index.
    pub const RDTSCP: u64 = 2;
    /// `rdpid` gives the CPU's index.
    pub const RDPID: u64 = 4;
}

/// A segment selector whose limit, read by `lsl`, is the index of the CPU.
pub const CPU_NUMBER_SELECTOR: u16 = 0x5B;

/// Bytes from the data page's start to the image's.
pub const IMAGE_OFFSET: u64 = PAGE_SIZE;
/// Bytes of both pages.
pub const BYTES: u64 = 2 * PAGE_SIZE;

/// The image's symbols.
pub mod symbol {
    /// Monotonic time, 64-bit.
    pub const CLOCK_NOW: &str = "__vdso_clock_now";
    /// The CPU's index, 64-bit.
    pub const CPU_NUMBER: &str = "__vdso_cpu_number";
    /// A system call, 32-bit.
    pub const VSYSCALL: &str = "__kernel_vsyscall";
}

const _: () = assert!(size_of::<LandingData>() == 24);
