//! The two kinds of user address space, by what their programs can address.

use core::ops::Range;

use abi::layout::{
    IPC_AREAS_START, IPC_AREAS_START_32, MAP_START, MAP_START_32, USER_END, USER_END_32,
};

/// What addresses a process's programs can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// All of the user half.
    Long,
    /// Those below 4 GiB: its threads begin in 32-bit code.
    Compat,
}

impl Mode {
    /// The mode with this number in a system call.
    pub const fn from_number(number: u64) -> Option<Mode> {
        match number {
            0 => Some(Mode::Long),
            1 => Some(Mode::Compat),
            _ => None,
        }
    }

    /// Where to look for room first.
    pub const fn map_start(self) -> u64 {
        match self {
            Mode::Long => MAP_START,
            Mode::Compat => MAP_START_32,
        }
    }

    /// Where the IPC areas begin, and with that the end of what can be mapped.
    pub const fn areas_start(self) -> u64 {
        match self {
            Mode::Long => IPC_AREAS_START,
            Mode::Compat => IPC_AREAS_START_32,
        }
    }

    /// One past the highest address.
    pub const fn end(self) -> u64 {
        match self {
            Mode::Long => USER_END,
            Mode::Compat => USER_END_32,
        }
    }

    /// Where the landing page may be put: away from where programs and the kernel put other things, and large enough that its
    /// place takes more than a few tries to guess (28 bits; in 32-bit processes 17).
    pub const fn landing_window(self) -> Range<u64> {
        match self {
            Mode::Long => 0x7E00_0000_0000..0x7F00_0000_0000,
            Mode::Compat => 0xD000_0000..0xF000_0000,
        }
    }
}

const _: () = {
    assert!(Mode::Long.landing_window().end <= IPC_AREAS_START);
    assert!(Mode::Compat.landing_window().end <= IPC_AREAS_START_32);
};
