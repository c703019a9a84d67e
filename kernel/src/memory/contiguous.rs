//! Memory that lies in a row and stays where it is, for devices that read and write memory themselves (DMA).
//!
//! All of it is there from the start, so that a device finds it, and zero. It may have to lie below an address, as many devices
//! know 32 bits or fewer, and on a border.
//!
//! What may go wrong: a device that goes on writing when the object is gone, and its frames are somebody else's. Without an
//! IOMMU nothing holds it: whoever has the right to ask for physical addresses answers for the device.

use abi::Error;
use arch::addr::PhysAddr;
use arch::paging::{Cache, PAGE_BYTES};

use super::account::{self, Account};
use super::frames::{self, FrameKind};
use super::object::{Backing, MemoryObject};
use crate::object::Ref;

/// The largest there are, and the largest alignment.
const MOST_BYTES: u64 = 4 << 20;

/// Frames in a row that belong to an object.
pub(super) struct Run {
    start: PhysAddr,
    frames: u64,
    account: Option<Ref<Account>>,
}

impl Run {
    /// How many.
    pub(super) const fn frames(&self) -> u64 {
        self.frames
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A handful of blocks at most.
        frames::free_run(self.start, self.frames);
        account::uncharge(self.account.as_ref(), self.frames);
    }
}

impl MemoryObject {
    /// Memory of `bytes` bytes, rounded up to whole pages, at physical addresses in a row, and the first of these. It is a multiple of
    /// `alignment`, and all lies below `limit`; 0 stands for a page and for no limit. It is zeroed with calls of `pause` in between, and no
    /// lock may be held. `account` pays.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for no bytes, or an alignment that is no power of two or less than a page; [`Error::OutOfRange`]
    /// for more than 4 MiB of either; [`Error::NoMemory`] if there is no such place; [`Error::QuotaExceeded`].
    pub fn create_contiguous(
        bytes: u64,
        alignment: u64,
        limit: u64,
        account: Option<Ref<Account>>,
        pause: &mut dyn FnMut(),
    ) -> Result<(Ref<MemoryObject>, PhysAddr), Error> {
        let alignment = if alignment == 0 {
            PAGE_BYTES
        } else {
            alignment
        };
        if bytes == 0 || !alignment.is_power_of_two() || alignment < PAGE_BYTES {
            return Err(Error::BadArgument);
        }
        if bytes > MOST_BYTES || alignment > MOST_BYTES {
            return Err(Error::OutOfRange);
        }
        let limit = if limit == 0 { u64::MAX } else { limit };
        let pages = bytes.div_ceil(PAGE_BYTES);
        let align = (alignment / PAGE_BYTES).trailing_zeros() as u8;
        account::charge(account.as_ref(), pages)?;
        let Some(start) = frames::allocate_run(pages, align, limit, FrameKind::User) else {
            account::uncharge(account.as_ref(), pages);
            return Err(Error::NoMemory);
        };
        let run = Run {
            start,
            frames: pages,
            account,
        };
        frames::zero_run(start, pages, pause);
        let object = Ref::try_new(MemoryObject {
            pages,
            backing: Backing::Physical {
                start,
                cache: Cache::WriteBack,
                is_ram: true,
                owned: Some(run),
            },
        })?;
        Ok((object, start))
    }

    /// Where the byte at `offset` lies for good, and how many bytes lie in a row from there.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] past the end; [`Error::NotSupported`] for memory that may lie anywhere, and not stay there.
    pub fn physical_at(&self, offset: u64) -> Result<(PhysAddr, u64), Error> {
        let Backing::Physical { start, .. } = &self.backing else {
            return Err(Error::NotSupported);
        };
        if offset >= self.bytes() {
            return Err(Error::OutOfRange);
        }
        Ok((*start + offset, self.bytes() - offset))
    }
}
