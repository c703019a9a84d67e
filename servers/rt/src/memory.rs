//! Memory objects, and mappings of them into this process.
//!
//! A mapping keeps its pages alive by itself: the handle can be closed. What is shared can change under a reader's
//! hands, which is why a mapping gives out raw pointers, and slices only to a caller who vouches for the peace.

use abi::layout::PAGE_SIZE;
use abi::pager::TakenBack;
use abi::{Call, Error, Handle, MemoryFlags, Protection};

use crate::handle::object;
use crate::{AsHandle, Endpoint, OwnedHandle, Result, System, process, sys};

object! {
    /// A run of pages, zeroed on demand, or device memory.
    Memory
}

impl Memory {
    /// New memory of `bytes`, rounded up to whole pages.
    ///
    /// # Errors
    /// `BadArgument` for 0, `NoMemory`, `QuotaExceeded`.
    pub fn create(bytes: u64) -> Result<Memory> {
        Memory::create_with(bytes, MemoryFlags::NONE)
    }

    /// New memory of a particular kind.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(bytes: u64, flags: MemoryFlags) -> Result<Memory> {
        let arguments = [bytes, u64::from(flags.0), 0, 0, 0, 0];
        // SAFETY: makes an object that nothing maps yet.
        let values = unsafe { sys::call(Call::MemoryCreate, arguments) }?;
        Ok(Memory(OwnedHandle::from_raw(Handle(values[0]))))
    }

    /// An object with the contents that this one has now. The two share their memory until one of them is written, and this process
    /// pays for the new one as if they did not.
    ///
    /// # Errors
    /// `NotSupported` unless it was made with [`MemoryFlags::CLONABLE`] or is such a clone, `NoRight` without READ, `NoMemory`,
    /// `QuotaExceeded`.
    pub fn clone_on_write(&self) -> Result<Memory> {
        // SAFETY: makes an object that nothing maps yet.
        let values = unsafe { sys::call(Call::MemoryClone, [self.handle().0, 0, 0, 0, 0, 0]) }?;
        Ok(Memory(OwnedHandle::from_raw(Handle(values[0]))))
    }

    /// Zeroed memory for a device, at physical addresses in a row of which the first is given as well: a multiple of `alignment`, all
    /// below `limit`. 0 stands for a page, and for no limit.
    ///
    /// # Errors
    /// `NoRight` without HARDWARE, `BadArgument` for 0 bytes or an alignment that is none, `OutOfRange` above 4 MiB, `NoMemory`,
    /// `QuotaExceeded`.
    pub fn create_contiguous(
        system: &System,
        bytes: u64,
        alignment: u64,
        limit: u64,
    ) -> Result<(Memory, u64)> {
        let arguments = [system.handle().0, bytes, alignment, limit, 0, 0];
        // SAFETY: makes an object that nothing maps yet.
        let values = unsafe { sys::call(Call::MemoryCreateContiguous, arguments) }?;
        let memory = Memory(OwnedHandle::from_raw(Handle(values[0])));
        Ok((memory, values[1]))
    }

    /// The physical address of the byte at `offset`, and how many bytes lie in a row from there.
    ///
    /// # Errors
    /// `NotSupported` for memory that need not stay where it is, `NoRight` without HARDWARE, `OutOfRange` past its end.
    pub fn physical(&self, system: &System, offset: u64) -> Result<(u64, u64)> {
        let arguments = [system.handle().0, self.handle().0, offset, 0, 0, 0];
        // SAFETY: touches no memory.
        let values = unsafe { sys::call(Call::MemoryPhysical, arguments) }?;
        Ok((values[0], values[1]))
    }

    /// Memory of `bytes`, rounded up to whole pages, whose pages are asked for at an endpoint when they are touched first ([`PageWanted`](crate::report::PageWanted)), and which
    /// [`supply`](Self::supply) brings. Whoever is given a handle to it to map should have neither MANAGE nor more than it needs.
    ///
    /// # Errors
    /// `BadArgument` for 0, `NoRight` without SEND on the endpoint, `NoMemory`, `QuotaExceeded`.
    pub fn create_paged(bytes: u64, pager: &Endpoint) -> Result<Memory> {
        Memory::create_paged_with(bytes, pager, MemoryFlags::NONE)
    }

    /// The same, with [`MemoryFlags::RECLAIMABLE`] if its pages shall be [taken back](Self::take_back).
    ///
    /// # Errors
    /// As [`create_paged`](Self::create_paged); `BadArgument` for other flags.
    pub fn create_paged_with(bytes: u64, pager: &Endpoint, flags: MemoryFlags) -> Result<Memory> {
        let arguments = [bytes, pager.handle().0, u64::from(flags.0), 0, 0, 0];
        // SAFETY: makes an object that nothing maps yet.
        let values = unsafe { sys::call(Call::MemoryCreatePaged, arguments) }?;
        Ok(Memory(OwnedHandle::from_raw(Handle(values[0]))))
    }

    /// Supplies pages of such memory from `offset`, a multiple of the page size, on: those that are not there yet. Gives how many these were.
    ///
    /// # Errors
    /// `NotSupported` for other memory, `NoRight` without MANAGE, `OutOfRange`, `BadArgument` for no bytes or another offset, `NoMemory`, `QuotaExceeded`; `Busy` while another
    /// thread [takes](Self::take_back) a written page back: what is supplied should be what that thread gets.
    pub fn supply(&self, offset: u64, from: &[u8]) -> Result<u64> {
        let arguments = [
            self.handle().0,
            offset,
            from.as_ptr() as u64,
            from.len() as u64,
            0,
            0,
        ];
        // SAFETY: the kernel reads `from`. As in `write`.
        unsafe { sys::call(Call::MemorySupply, arguments) }.map(|values| values[0])
    }

    /// Takes back the page at `offset`, a multiple of the page size: afterwards nobody has it mapped, and who touches it asks for it again. What was written
    /// to it since it was supplied is put to `into`, if there is one; else it is lost.
    ///
    /// # Errors
    /// `NotSupported` unless it was made with [`MemoryFlags::RECLAIMABLE`], `NoRight` without MANAGE, `OutOfRange`, `BadArgument` for another offset, `Busy` while another
    /// thread takes it back.
    pub fn take_back(
        &self,
        offset: u64,
        into: Option<&mut [u8; PAGE_SIZE as usize]>,
    ) -> Result<TakenBack> {
        let pointer = into.map_or(0, |into| into.as_mut_ptr() as u64);
        let arguments = [self.handle().0, offset, pointer, 0, 0, 0];
        // SAFETY: the kernel writes a page to `into` at most. That the page goes is nothing to whoever maps it: it is asked for again.
        let values = unsafe { sys::call(Call::MemoryTakeBack, arguments) }?;
        TakenBack::from_number(values[0]).ok_or(Error::NotSupported)
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn size(&self) -> Result<u64> {
        self.query().map(|info| info.size)
    }

    /// Copies from the object, beginning at `offset`.
    ///
    /// # Errors
    /// `OutOfRange` past its end, `NoRight` without READ.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let arguments = [
            self.handle().0,
            offset,
            into.as_mut_ptr() as u64,
            into.len() as u64,
            0,
            0,
        ];
        // SAFETY: the kernel writes into `into` and nowhere else.
        unsafe { sys::call(Call::MemoryRead, arguments) }.map(|_| ())
    }

    /// Copies into the object, beginning at `offset`.
    ///
    /// # Errors
    /// `OutOfRange` past its end, `NoRight` without WRITE.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        let arguments = [
            self.handle().0,
            offset,
            from.as_ptr() as u64,
            from.len() as u64,
            0,
            0,
        ];
        // SAFETY: the kernel reads `from`. Whoever maps the object sees it change; that is what sharing means, and no
        // reference into a mapping exists without an unsafe promise (`Mapping::as_slice`).
        unsafe { sys::call(Call::MemoryWrite, arguments) }.map(|_| ())
    }

    /// Maps all of it into this process, where there is room.
    ///
    /// # Errors
    /// `NoRight` if the handle doesn't allow the protection, `NoMemory`, `QuotaExceeded`.
    pub fn map(&self, protection: Protection) -> Result<Mapping> {
        let bytes = self.size()?;
        self.map_part(0, bytes, protection)
    }

    /// Maps `bytes` of it from `offset` on, both multiples of the page size.
    ///
    /// # Errors
    /// `BadArgument` if unaligned, `OutOfRange`, `NoRight`, `NoMemory`, `QuotaExceeded`.
    pub fn map_part(&self, offset: u64, bytes: u64, protection: Protection) -> Result<Mapping> {
        let address = process::current().map(self, 0, offset, bytes, protection)?;
        Ok(Mapping {
            address: address as usize as *mut u8,
            bytes: bytes as usize,
        })
    }
}

/// Memory mapped into this process; dropping it unmaps it.
#[derive(Debug)]
pub struct Mapping {
    address: *mut u8,
    bytes: usize,
}

// SAFETY: a mapping is an address range of the process, which all of its threads share; every access through it is the
// unsafe promise of whoever makes it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Where it begins.
    pub const fn as_ptr(&self) -> *mut u8 {
        self.address
    }

    /// Its length in bytes, a multiple of the page size.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its contents.
    ///
    /// # Safety
    /// Nobody, in any process, writes to the object while the slice lives.
    pub const unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped readable while self lives (all protections read); the rest is the caller's promise.
        unsafe { core::slice::from_raw_parts(self.address, self.bytes) }
    }

    /// Its contents, to write.
    ///
    /// # Safety
    /// It was mapped writable, and nobody else, in any process, reads or writes the object while the slice lives.
    pub const unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: mapped while self lives; the rest is the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(self.address, self.bytes) }
    }

    /// Leaves it mapped for the rest of the process's life.
    pub fn leak(self) -> *mut u8 {
        core::mem::ManuallyDrop::new(self).address
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped for this value alone, and slices of it can't outlive it.
        let _ = unsafe { process::current().unmap(self.address as u64, self.bytes as u64) };
    }
}

/// Rounds up to whole pages; `None` if that is past 2^64.
pub(crate) const fn page_up(bytes: u64) -> Option<u64> {
    match bytes.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(sum & !(PAGE_SIZE - 1)),
        None => None,
    }
}
