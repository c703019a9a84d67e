//! A program that is started more than once: what its processes can't write to, they share.
//!
//! Read-only segments are memory objects that are filled once and mapped into each process; of the others each process has its own,
//! which is made of the file's bytes.
//!
//! What is shared is mapped by handles without the right WRITE: a process may change how its mappings are protected as far as the handle allowed, and would write to
//! what others execute. So no debugger writes to it either; a program that is to have breakpoints is started by [`Plan::load`].

use alloc::vec::Vec;

use abi::layout::PAGE_SIZE;
use abi::{Error, Priority};

use super::plan::{Plan, Segment};
use crate::process::Made;
use crate::{Memory, Process, Result};

/// A program's segments in memory.
#[derive(Debug)]
pub struct Image<'a> {
    plan: &'a Plan,
    file: &'a [u8],
    /// One for each segment that can't be written to, in the plan's order.
    shared: Vec<Option<Memory>>,
}

impl<'a> Image<'a> {
    /// Puts what can be shared into memory. `file` is the one that the plan was made of.
    ///
    /// # Errors
    /// `NoMemory`, `QuotaExceeded`; `OutOfRange` with another file.
    pub fn new(plan: &'a Plan, file: &'a [u8]) -> Result<Image<'a>> {
        let mut shared = Vec::with_capacity(plan.segments.len());
        for segment in &plan.segments {
            shared.push(if segment.protection.writable() {
                None
            } else {
                let memory = plan.fill(segment, file)?;
                Some(memory.duplicate(segment.protection.needs())?)
            });
        }
        Ok(Image { plan, file, shared })
    }

    /// A process with the program in it and no thread: see [`Plan::process`].
    ///
    /// # Errors
    /// `NoMemory`, `QuotaExceeded`, `NoRight`, and those of [`Plan::process`].
    pub fn process(&self, name: &str, highest: Priority) -> Result<Made> {
        let process = self.plan.process(name, highest)?;
        for (segment, shared) in self.plan.segments.iter().zip(&self.shared) {
            match shared {
                Some(memory) => segment.map(memory, &process)?,
                None => self.plan.put(segment, self.file, &process)?,
            }
        }
        Ok(process)
    }
}

impl Segment {
    /// Its size in whole pages, in bytes.
    const fn page_bytes(&self) -> u64 {
        self.pages_end() - self.first_page()
    }

    /// What the file has for it.
    fn contents<'a>(&self, file: &'a [u8]) -> Result<&'a [u8]> {
        let end = self.file_offset.checked_add(self.file_bytes);
        end.and_then(|end| file.get(self.file_offset..end))
            .ok_or(Error::OutOfRange)
    }

    /// Maps its memory where it belongs.
    pub(super) fn map(&self, memory: &Memory, process: &Process) -> Result<()> {
        process
            .map(
                memory,
                self.first_page(),
                0,
                self.page_bytes(),
                self.protection,
            )
            .map(drop)
    }
}

impl Plan {
    /// Maps new memory with what the file has for a segment of this plan.
    ///
    /// # Errors
    /// As [`fill`](Self::fill), and those of a mapping.
    pub(super) fn put(&self, segment: &Segment, file: &[u8], process: &Process) -> Result<()> {
        if segment.address != segment.first_page() || self.is_relocated() {
            return segment.map(&self.fill(segment, file)?, process);
        }
        process
            .map_new(
                segment.address,
                segment.page_bytes(),
                segment.protection,
                segment.contents(file)?,
            )
            .map(drop)
    }

    /// New memory with what the file has for a segment of this plan.
    ///
    /// # Errors
    /// `NoMemory`, `QuotaExceeded`; `OutOfRange` with another file.
    pub(super) fn fill(&self, segment: &Segment, file: &[u8]) -> Result<Memory> {
        let contents = segment.contents(file)?;
        let end = segment.file_offset + contents.len();
        let memory = Memory::create(segment.page_bytes())?;
        let within = segment.address % PAGE_SIZE;
        if !contents.is_empty() {
            memory.write(within, contents)?;
        }
        for (place, word) in self.relocated(file) {
            // The plan has only words that lie wholly in one segment.
            if (segment.file_offset..end).contains(&place) {
                let offset = (place - segment.file_offset) as u64;
                memory.write(within + offset, &word.to_le_bytes())?;
            }
        }
        Ok(memory)
    }
}
