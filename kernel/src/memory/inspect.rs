//! Another space's memory, for whoever may look at its process: a range is copied piece by piece, by what is mapped there.
//!
//! Not the page tables are asked but the regions, so that what was not touched yet is read as well, and no page needs to be in place: the copy is one from
//! the memory object. The IPC areas, which are no regions, are copied under the space's lock, by way of the stack.
//!
//! What may go wrong: an object that is mapped in several processes. A write is a write to the object, and all of them see it.

use abi::{Error, Rights};
use arch::addr::VirtAddr;
use arch::memory::phys_to_virt;

use super::PAGE_BYTES;
use super::space::Space;
use super::user::{Direction, UserSlice};

/// Bytes of an IPC area that are copied in one go.
const BOUNCE_BYTES: usize = 256;

impl Space {
    /// Copies a piece between this space from `address` on and the start of `user`, which is the caller's. Returns the bytes copied: the caller goes
    /// on with the rest after a preemption point. No lock may be held.
    ///
    /// What is mapped without WRITE can be written if the handle by which it was mapped allowed that.
    ///
    /// # Errors
    /// [`Error::NotMapped`]; [`Error::NoRight`] to write there; [`Error::BadPointer`] of the caller's; [`Error::NotSupported`] for device
    /// memory; [`Error::NoMemory`], [`Error::QuotaExceeded`] for pages to be written; [`Error::Ended`].
    pub fn copy_piece(
        &self,
        address: u64,
        user: UserSlice,
        direction: Direction,
    ) -> Result<usize, Error> {
        let found = {
            let inner = self.inner.lock();
            inner.must_live()?;
            inner.regions.find(address).map(|region| {
                (
                    region.object.clone(),
                    region.offset + (address - region.start),
                    region.end - address,
                    region.limit,
                )
            })
        };
        let Some((object, offset, bytes, limit)) = found else {
            return self.copy_owned(address, user, direction);
        };
        if direction == Direction::FromUser && !limit.contains(Rights::WRITE) {
            return Err(Error::NoRight);
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        object.copy_piece(offset, user.first(bytes), direction)
    }

    /// The same for a page that is the space's own: of an IPC area.
    fn copy_owned(
        &self,
        address: u64,
        user: UserSlice,
        direction: Direction,
    ) -> Result<usize, Error> {
        let mut bounce = [0; BOUNCE_BYTES];
        let in_page = (PAGE_BYTES - address % PAGE_BYTES) as usize;
        let user = user.first(in_page.min(BOUNCE_BYTES));
        let part = &mut bounce[..user.len()];
        if direction == Direction::FromUser {
            user.copy_in(part)?;
        }
        {
            let inner = self.inner.lock();
            inner.must_live()?;
            if !(self.mode().areas_start()..self.mode().end()).contains(&address) {
                return Err(Error::NotMapped);
            }
            let page = VirtAddr::new(address - address % PAGE_BYTES);
            let frame = inner.tables.translate(page).ok_or(Error::NotMapped)?;
            let place: *mut u8 = phys_to_virt(frame.physical).cast();
            // SAFETY: the page is the space's own as long as its lock is held, and mapped in the direct map; the piece ends with the page. Its program may
            // write to it meanwhile; then the bytes are its own to blame.
            unsafe {
                let place = place.add((address % PAGE_BYTES) as usize);
                match direction {
                    Direction::ToUser => {
                        place.copy_to_nonoverlapping(part.as_mut_ptr(), part.len());
                    }
                    Direction::FromUser => {
                        place.copy_from_nonoverlapping(part.as_ptr(), part.len());
                    }
                }
            }
        }
        if direction == Direction::ToUser {
            user.copy_out(part)?;
        }
        Ok(user.len())
    }
}
