//! Work for `just bench-stretches`: memory whose pages may change while they are mapped. A clone shares them, a write to what is shared gives one another frame,
//! and a pager takes them back. Each time every space that maps the object lets go of what may be wrong, without a preemption point.
//!
//! That is one page at each place where the object is mapped, or all of it for a clone.

use abi::{CpuSet, MemoryFlags, Protection};
use alloc::vec::Vec;
use rt::{AsHandle, Endpoint, Mapping, Memory, Process, Rights, time};

use crate::messages::SETTLING;
use crate::partner::{Role, Starter};
use crate::stretches::{LARGE, PAGE};

/// Programs that map an object at two places and have touched all of it at both.
const SPACES: usize = 4;

/// Writes one byte of each page.
pub fn touch(mapping: &Mapping) {
    for page in 0..mapping.bytes() / PAGE {
        // SAFETY: within the mapping, which whoever made it uses for nothing else.
        unsafe { mapping.as_ptr().add(page * PAGE).write_volatile(1) };
    }
}

/// An object is cloned while it is mapped, and all of it is written on both sides.
pub fn clones() -> rt::Result<()> {
    for flags in [
        MemoryFlags::CLONABLE.0,
        MemoryFlags::CLONABLE.0 | MemoryFlags::LARGE_PAGES.0,
    ] {
        let memory = Memory::create_with(2 * LARGE, MemoryFlags(flags))?;
        let mapping = memory.map(Protection::READ_WRITE)?;
        touch(&mapping);
        let clone = memory.clone_on_write()?;
        let cloned = clone.map(Protection::READ_WRITE)?;
        touch(&cloned);
        touch(&mapping);
        drop(memory.clone_on_write()?);
    }
    time::sleep(SETTLING)
}

/// Pages of 2 MiB are filled, taken apart by a change of protection in their middle, and given back.
pub fn large_pages() -> rt::Result<()> {
    let memory = Memory::create_with(2 * LARGE, MemoryFlags::LARGE_PAGES)?;
    let mapping = memory.map(Protection::READ_WRITE)?;
    touch(&mapping);
    let middle = mapping.as_ptr() as u64 + LARGE / 2;
    // SAFETY: nobody uses the mapping from here on.
    unsafe { rt::process::current().protect(middle, PAGE as u64, Protection::READ) }?;
    drop(mapping);
    drop(memory);
    time::sleep(SETTLING)
}

/// Memory of which all pages are there and can be taken back, and the endpoint at which nobody asks for them.
fn reclaimable() -> rt::Result<(Memory, Endpoint)> {
    let pager = Endpoint::create()?;
    let memory = Memory::create_paged_with(LARGE, &pager, MemoryFlags::RECLAIMABLE)?;
    for page in 0..LARGE / PAGE as u64 {
        memory.supply(page * PAGE as u64, &[1; PAGE])?;
    }
    Ok((memory, pager))
}

/// A pager takes back pages that were written, and are mapped once.
pub fn taken_back() -> rt::Result<()> {
    let (memory, _pager) = reclaimable()?;
    let mapping = memory.map(Protection::READ_WRITE)?;
    touch(&mapping);
    let mut contents = [0; PAGE];
    for page in 0..LARGE / PAGE as u64 {
        memory.take_back(page * PAGE as u64, Some(&mut contents))?;
    }
    Ok(())
}

/// The same where the object is mapped at two places of one space.
pub fn taken_back_scattered() -> rt::Result<()> {
    let (memory, _pager) = reclaimable()?;
    let (first, second) = (
        memory.map(Protection::READ_WRITE)?,
        memory.map(Protection::READ_WRITE)?,
    );
    touch(&first);
    touch(&second);
    memory.take_back(0, None).map(drop)
}

/// The same where several programs have mapped it so.
pub fn taken_back_everywhere(starter: &Starter) -> rt::Result<()> {
    let (memory, _pager) = reclaimable()?;
    let rights = Rights::READ.with(Rights::WRITE).with(Rights::QUERY);
    let given = [("memory", memory.handle(), rights)];
    let all: Vec<Process> = (0..SPACES)
        .map(|_| starter.start_on(&CpuSet::ALL, Role::Touch, &given))
        .collect::<rt::Result<_>>()?;
    time::sleep(SETTLING)?;
    memory.take_back(0, None)?;
    all.iter().try_for_each(|process| process.kill(0))
}

/// A page is written that a clone shares, of an object that is mapped at two places.
pub fn clone_scattered() -> rt::Result<()> {
    let memory = Memory::create_with(LARGE, MemoryFlags::CLONABLE)?;
    let (first, second) = (
        memory.map(Protection::READ_WRITE)?,
        memory.map(Protection::READ)?,
    );
    touch(&first);
    let clone = memory.clone_on_write()?;
    for page in 0..second.bytes() / PAGE {
        // SAFETY: within the mapping.
        unsafe { second.as_ptr().add(page * PAGE).read_volatile() };
    }
    // SAFETY: as above.
    unsafe { first.as_ptr().write_volatile(2) };
    drop(clone);
    Ok(())
}

/// An object is cloned that is mapped at as many places as can be, and whose pages are all in the tables there.
pub fn clone_everywhere() -> rt::Result<()> {
    const PLACES: usize = 32;
    let memory = Memory::create_with(LARGE, MemoryFlags::CLONABLE)?;
    let mut mappings = Vec::with_capacity(PLACES);
    for _ in 0..PLACES {
        let mapping = memory.map(Protection::READ_WRITE)?;
        touch(&mapping);
        mappings.push(mapping);
    }
    drop(memory.clone_on_write()?);
    drop(mappings);
    time::sleep(SETTLING)
}
