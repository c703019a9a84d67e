//! Memory with a pager: a server that supplies its pages when they are touched first, so that files can be mapped.
//!
//! Such an object is an ordinary one, but for where its pages come from: a page that it has not is not made of zeros but asked for. The thread that touches it
//! sends a message to the object's endpoint, as if it had made a call there, and waits for the answer (`fault.rs`); whoever serves that endpoint supplies the page
//! and answers. A page comes as a whole, with all of its contents, and stays until the object's end.
//!
//! The kernel itself does not wait for a page: no copy of its own, from or to such memory, asks anybody. It ends with [`Error::NotSupplied`].
//!
//! What may go wrong: two threads that touch a page ask both, and the pager that supplies it for the second time finds that it is there. A pager that answers without
//! having supplied anything is asked again at once, by a thread that can be killed; one that needs a page of its own object to supply it is refused by name.

use abi::{Error, MemoryFlags};
use arch::addr::PhysAddr;
use arch::memory::phys_to_virt;
use arch::paging::PAGE_BYTES;

use super::account::{self, Account};
use super::frames::{self, FrameKind};
use super::object::{Anonymous, Backing, MemoryObject};
use super::radix::Found;
use super::user::{Direction, UserSlice};
use crate::ipc::Listener;
use crate::object::Ref;

impl MemoryObject {
    /// Memory of `bytes` bytes, rounded up to whole pages, that `pager` supplies. `account` pays.
    ///
    /// # Errors
    /// As [`create`](MemoryObject::create).
    pub fn create_paged(
        bytes: u64,
        pager: Ref<Listener>,
        account: Option<Ref<Account>>,
    ) -> Result<Ref<MemoryObject>, Error> {
        let mut object = MemoryObject::new_with(bytes, MemoryFlags::NONE, account)?;
        if let Backing::Anonymous(anonymous) = &mut object.backing {
            anonymous.pager = Some(pager);
        }
        Ref::try_new(object)
    }

    /// Who supplies its pages, if it has a pager.
    #[inline]
    pub fn pager(&self) -> Option<&Ref<Listener>> {
        match &self.backing {
            Backing::Anonymous(anonymous) => anonymous.pager.as_ref(),
            Backing::Physical { .. } => None,
        }
    }

    /// Supplies page `index` with the begin of `from`, at most a page of it, and zeros behind; whether it is new. No lock may be held.
    ///
    /// # Errors
    /// [`Error::NotSupported`] if it has no pager; [`Error::OutOfRange`]; [`Error::QuotaExceeded`], [`Error::NoMemory`]; those of the copy. Nothing has changed then.
    pub fn supply(&self, index: u64, from: UserSlice) -> Result<bool, Error> {
        let Backing::Anonymous(anonymous) = &self.backing else {
            return Err(Error::NotSupported);
        };
        if anonymous.pager.is_none() {
            return Err(Error::NotSupported);
        }
        if index >= self.pages {
            return Err(Error::OutOfRange);
        }
        if anonymous.contents.lock().radix.get(index).is_some() {
            return Ok(false);
        }
        let account = anonymous.account.as_ref();
        account::charge(account, 1)?;
        let Some(frame) = frames::allocate_zeroed(FrameKind::User) else {
            account::uncharge(account, 1);
            return Err(Error::NoMemory);
        };
        let from = from.first(PAGE_BYTES as usize);
        // SAFETY: the frame is a whole page in the direct map that nobody else knows yet.
        let put = unsafe { from.copy_raw(phys_to_virt(frame), Direction::FromUser) }
            .and_then(|()| anonymous.put(index, frame));
        if !matches!(put, Ok(true)) {
            frames::free_frame(frame);
            account::uncharge(account, 1);
        }
        put
    }
}

impl Anonymous {
    /// Puts a frame that was charged in as page `index`; false if there is one.
    fn put(&self, index: u64, frame: PhysAddr) -> Result<bool, Error> {
        let mut contents = self.contents.lock();
        if contents.radix.find(index) != Found::Nothing {
            return Ok(false);
        }
        contents.radix.get_or_insert(
            index,
            &mut |kind| match kind {
                FrameKind::User => Ok(frame),
                _ => self.make(kind),
            },
            &mut |_| Err(Error::NotSupported),
        )?;
        self.add_charged(1);
        Ok(true)
    }
}

#[cfg(test)]
#[path = "paged_tests.rs"]
mod tests;
