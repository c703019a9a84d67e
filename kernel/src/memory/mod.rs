//! Memory: physical frames, the kernel's own address space, memory objects and user address spaces.
//!
//! | file | idea |
//! |---|---|
//! | `map` | the machine's memory map, as the boot sequence hands it over |
//! | `frame_table`, `buddy`, `frames` | what is known of each frame; which are free; the one allocator of the kernel |
//! | `prepared` | frames that idle CPUs have zeroed in advance, and roots of page tables |
//! | `discard` | trees of frames that wait to be freed, a bounded piece at a time |
//! | `radix` | a growable array of frames, made of frames |
//! | `kernel_space`, `stacks` | the kernel half: direct map, image, devices, kernel stacks |
//! | `fpu_areas` | where threads' floating-point state lies |
//! | `start_tables` | what other CPUs start on |
//! | `account`, `levels` | what a process is charged for; how charges go through accounts that share and lend |
//! | `object`, `cloning` | memory objects; those that share frames until one side writes |
//! | `contiguous`, `large` | memory in a row: for devices, and for large pages |
//! | `regions`, `space`, `short` | a process's mappings, and its page tables; the short way for one page |
//! | `inspect` | another process's memory, for whoever may look at it |
//! | `ipc_area` | the pinned pages through which a thread's messages travel |
//! | `user` | user memory as system calls see it: an allegation to be checked |
//!
//! Boot order: [`frames::init`], [`frames::reserve_low_page`], [`kernel_space::build`], `kernel_space::activate`, then
//! [`frames::add_region`] for what the boot loader left.

pub mod account;
mod buddy;
pub mod cloning;
#[cfg(test)]
mod cloning_tests;
mod contiguous;
mod discard;
pub mod fpu_areas;
mod frame_table;
pub mod frames;
mod inspect;
mod ipc_area;
pub mod kernel_space;
mod large;
#[cfg(test)]
mod large_tests;
mod levels;
pub mod map;
pub mod mode;
pub mod object;
mod paged;
pub mod prepared;
mod radix;
mod regions;
mod short;
pub mod space;
#[cfg(test)]
mod space_kinds_tests;
#[cfg(test)]
mod space_tests;
pub mod stacks;
pub mod start_tables;
#[cfg(test)]
pub(crate) mod testing;
pub mod user;

pub use account::Account;
pub use object::MemoryObject;
pub use space::{IpcArea, Space};
pub use start_tables::StartTables;
pub use user::UserSlice;

/// Bytes of a page and a frame.
pub const PAGE_BYTES: u64 = abi::layout::PAGE_SIZE;

/// How a piece of bounded work left things.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "work may be left to do"]
pub enum Progress {
    /// All is done.
    Done,
    /// There is more to do: call again.
    More,
}
