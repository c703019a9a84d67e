//! Memory objects as page-aligned host memory. A mapping is the object's own address, whatever address was asked for.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;

use abi::layout::PAGE_SIZE;
use abi::{Error, Protection, Rights};

use super::table;
use super::table::Object;

/// The pages of an object; freed with the last handle and mapping.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Pages {
    address: usize,
    bytes: usize,
}

impl Pages {
    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes, PAGE_SIZE as usize).ok()
    }

    /// Its size.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the part from `offset` on is, if `bytes` of it are inside.
    fn part(&self, offset: u64, bytes: u64) -> Result<usize, Error> {
        let end = offset.checked_add(bytes).ok_or(Error::OutOfRange)?;
        if end > self.bytes as u64 {
            Err(Error::OutOfRange)
        } else {
            Ok(self.address + offset as usize)
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(layout) = Pages::layout(self.bytes) {
            // SAFETY: allocated by `create` with this layout; the last handle and mapping are gone.
            unsafe { dealloc(self.address as *mut u8, layout) };
        }
    }
}

pub(super) fn create(bytes: u64) -> Result<u64, Error> {
    if bytes == 0 {
        return Err(Error::BadArgument);
    }
    let bytes = crate::memory::page_up(bytes).ok_or(Error::NoMemory)? as usize;
    let layout = Pages::layout(bytes).ok_or(Error::NoMemory)?;
    // SAFETY: the layout is not empty.
    let address = unsafe { alloc_zeroed(layout) } as usize;
    if address == 0 {
        return Err(Error::NoMemory);
    }
    Ok(table().insert(
        Object::Memory(Arc::new(Pages { address, bytes })),
        Rights::ALL,
        0,
    ))
}

fn pages(handle: u64, rights: Rights) -> Result<Arc<Pages>, Error> {
    match table().find(handle, rights)?.object {
        Object::Memory(pages) => Ok(pages),
        _ => Err(Error::WrongObject),
    }
}

pub(super) fn map([_, memory, _, offset, bytes, protection]: [u64; 6]) -> Result<u64, Error> {
    let protection = Protection::from_bits(protection).ok_or(Error::BadArgument)?;
    if bytes == 0 || bytes % PAGE_SIZE != 0 || offset % PAGE_SIZE != 0 {
        return Err(Error::BadArgument);
    }
    let pages = pages(memory, protection.needs())?;
    let address = pages.part(offset, bytes)? as u64;
    table().mappings.push((address, pages));
    Ok(address)
}

pub(super) fn unmap(address: u64) -> Result<(), Error> {
    let mut table = table();
    let index = table
        .mappings
        .iter()
        .position(|mapping| mapping.0 == address)
        .ok_or(Error::NotMapped)?;
    table.mappings.swap_remove(index);
    Ok(())
}

/// # Safety
/// `pointer` is good to write `bytes` to.
pub(super) unsafe fn read(memory: u64, offset: u64, pointer: u64, bytes: u64) -> Result<(), Error> {
    let pages = pages(memory, Rights::READ)?;
    let from = pages.part(offset, bytes)? as *const u8;
    // SAFETY: inside of the object, which `pages` keeps; the caller's promise for the other side.
    unsafe { from.copy_to(pointer as usize as *mut u8, bytes as usize) };
    Ok(())
}

/// # Safety
/// `pointer` is good to read `bytes` from.
pub(super) unsafe fn write(
    memory: u64,
    offset: u64,
    pointer: u64,
    bytes: u64,
) -> Result<(), Error> {
    let pages = pages(memory, Rights::WRITE)?;
    let to = pages.part(offset, bytes)? as *mut u8;
    // SAFETY: as above.
    unsafe { (pointer as usize as *const u8).copy_to(to, bytes as usize) };
    Ok(())
}
