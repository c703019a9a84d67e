//! Programs: what an ELF file asks for, checked, and put into a new process.
//!
//! The checks come first and are pure ([`Plan::new`]), so that a bad file costs nothing and is named. What a program is given
//! beside its image is a stack with an unmapped page below it, and its start block, which also says where the kernel has put
//! the landing page.
//!
//! A file is 64-bit or 32-bit, and with it the process that is made of it ([`Plan::process`]).

mod image;
mod plan;
#[cfg(test)]
mod tests;

use abi::info::Quota;
use abi::layout::{MAP_START_32, PAGE_SIZE};
use abi::start::names;
use abi::{Error, Priority, Protection};

pub use image::Image;
pub use plan::{ElfError, MOST_BYTES, Plan, Segment};

use crate::process::{Made, Mode};
use crate::{Process, Result, Thread, memory, start};

/// Where things lie in a new process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    /// One past the highest address of an image; start block, stack, heap and mappings lie above.
    pub image_end: u64,
    /// Where the start block is mapped.
    pub start_block: u64,
    /// One past the first thread's stack. Nothing is ever mapped between the start block and the stack's lowest page.
    pub stack_top: u64,
    /// The largest stack in bytes.
    pub most_stack: u64,
}

/// The places in a process of this mode.
pub const fn places(mode: Mode) -> Places {
    match mode {
        Mode::Long => Places {
            image_end: 0x0000_0700_0000_0000,
            start_block: 0x0000_0700_0000_0000,
            stack_top: 0x0000_07F0_0000_0000,
            most_stack: 1 << 30,
        },
        Mode::Compat => Places {
            image_end: 0x2000_0000,
            start_block: 0x2000_0000,
            // A little below where the kernel puts mappings, so that running over the end faults.
            stack_top: MAP_START_32 - (1 << 20),
            most_stack: 1 << 28,
        },
    }
}

/// The first thread's stack in bytes, unless asked for otherwise.
pub const STACK_BYTES: u64 = 256 * 1024;

impl Plan {
    /// An empty process for the program: of the file's mode, with a name for lists and a highest priority
    /// ([`Priority::LOWEST`] stands for the caller's own).
    ///
    /// # Errors
    /// As [`Process::create_below`].
    pub fn process(&self, name: &str, highest: Priority) -> Result<Made> {
        self.process_with(name, highest, None)
    }

    /// The same, with a part of the caller's quota, which pays for the image as well.
    ///
    /// # Errors
    /// As [`process`](Self::process), and `QuotaExceeded` if the caller has not so much left.
    pub fn process_with(
        &self,
        name: &str,
        highest: Priority,
        quota: Option<&Quota>,
    ) -> Result<Made> {
        Process::make_with(self.mode, name, highest, quota)
    }
}

/// Gives a loaded program its stack and start block, and makes its first thread, not yet started.
///
/// # Errors
/// `NoMemory`, `QuotaExceeded`, `NoRight`, `OutOfRange` for a stack above 1 GiB (256 MiB in a 32-bit process).
pub fn first_thread(
    process: &Made,
    plan: &Plan,
    stack_bytes: u64,
    block: &start::Builder,
    argument: &str,
) -> Result<Thread> {
    let begin = prepare(process, plan, stack_bytes, block, argument)?;
    // SAFETY: the process is not this one: it was made empty, and what it runs reaches only what it is given.
    unsafe { process.create_thread(begin.entry, begin.stack_top, begin.start_block) }
}

/// The same of a thread that runs at once.
///
/// # Errors
/// As for [`first_thread`]; then there is none.
pub fn start(
    process: &Made,
    plan: &Plan,
    stack_bytes: u64,
    block: &start::Builder,
    argument: &str,
) -> Result<Thread> {
    let begin = prepare(process, plan, stack_bytes, block, argument)?;
    // SAFETY: as above.
    unsafe { process.start_thread(begin.entry, begin.stack_top, begin.start_block) }
}

/// What a first thread begins with.
struct Begin {
    entry: u64,
    stack_top: u64,
    start_block: u64,
}

/// Maps a first thread's stack and start block.
fn prepare(
    process: &Made,
    plan: &Plan,
    stack_bytes: u64,
    block: &start::Builder,
    argument: &str,
) -> Result<Begin> {
    let places = places(plan.mode);
    let stack_bytes = memory::page_up(stack_bytes.max(PAGE_SIZE)).ok_or(Error::OutOfRange)?;
    if stack_bytes > places.most_stack {
        return Err(Error::OutOfRange);
    }
    let stack = places.stack_top - stack_bytes;
    process.map_new(stack, stack_bytes, Protection::READ_WRITE, &[])?;
    let bytes = block.build_with(argument, &landing_of(process))?;
    let padded = memory::page_up(bytes.len() as u64).ok_or(Error::OutOfRange)?;
    process.map_new(places.start_block, padded, Protection::READ, &bytes)?;
    Ok(Begin {
        entry: plan.entry,
        stack_top: places.stack_top,
        start_block: places.start_block,
    })
}

/// What a start block says of the landing page, by name.
const fn landing_of(made: &Made) -> [(&'static str, u64); 2] {
    [
        (names::SYSINFO_EHDR, made.landing),
        (names::SYSINFO, made.vsyscall),
    ]
}
