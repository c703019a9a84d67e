//! The landing page's images: the small shared libraries that the kernel maps into processes.
//!
//! They are written as ELF files by hand, in the assembler: a program header that loads the page, a dynamic section, a hash table with
//! one bucket, symbols and their names. That is all a dynamic linker reads of a vDSO, and it needs no linker of our own at
//! build time. What they do is laid down in [`abi::landing`]. They are data here; the kernel copies them into memory of their
//! own, once, and maps that.
//!
//! What may go wrong: code in an image must reach nothing outside of the image and the data page in front of it, since both lie
//! elsewhere in each process.

mod image32;
mod image64;

pub use image32::{Vsyscall, image32};
pub use image64::image64;

/// Bytes of an image.
pub const IMAGE_BYTES: usize = 4096;

/// What the time-stamp counters and this CPU's features make of the data page.
#[cfg(target_os = "none")]
pub fn data() -> abi::landing::LandingData {
    use abi::landing::{LandingData, flags};

    let features = crate::cpu::features();
    let clock = crate::time::published();
    let mut data = LandingData::default();
    if let Some((epoch, scale)) = clock {
        data.flags |= flags::CLOCK;
        (data.epoch, data.scale) = (epoch, scale);
    }
    if features.rdtscp {
        data.flags |= flags::RDTSCP;
    }
    if features.rdtscp && features.rdpid {
        data.flags |= flags::RDPID;
    }
    data
}

/// The way into the kernel that suits this machine's CPUs.
#[cfg(target_os = "none")]
pub fn vsyscall() -> Vsyscall {
    let features = crate::cpu::features();
    if features.intel {
        Vsyscall::Sysenter
    } else if features.amd {
        Vsyscall::Syscall
    } else {
        Vsyscall::Interrupt
    }
}

#[cfg(target_os = "none")]
const _: () = assert!(crate::cpu::CPU_NUMBER == abi::landing::CPU_NUMBER_SELECTOR);

#[cfg(test)]
mod tests;
