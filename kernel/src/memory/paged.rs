//! Memory with a pager: a server that supplies its pages when they are touched first, so that files can be mapped.
//!
//! Such an object is an ordinary one, but for where its pages come from: a page that it has not is not made of zeros but asked for. The thread that touches it
//! sends a message to the object's endpoint, as if it had made a call there, and waits for the answer (`fault.rs`); whoever serves that endpoint supplies the page
//! and answers. A page comes as a whole, with all of its contents, and stays until the object's end, or until the pager takes it back, if the object was made for that.
//!
//! ```text
//! take back                                   meanwhile, on another CPU
//! lock of the changes (cloning.rs)
//!   change = page: nobody maps it any more    who faults on it waits for the lock
//!   every space lets go of it
//!   the frame is hidden, if it was written    a copy of the kernel's own that held the object's lock is over
//!   change = none                             who faults on it asks the pager
//! what was written goes to the pager          who supplies it, or takes it back, is told to try again
//! the frame leaves the array, and is free
//! ```
//!
//! Such an object knows the spaces that map it, as one that can be cloned does. A page of it is mapped for reading alone until somebody writes to it: that is how it is known
//! whether there is anything to tell the pager. Nobody has the frame when its contents are copied out, so nothing that was written is missing in them.
//!
//! The kernel itself does not wait for a page: no copy of its own, from or to such memory, asks anybody. It ends with [`Error::NotSupplied`].
//!
//! What may go wrong: two threads that touch a page ask both, and the pager that supplies it for the second time finds that it is there. A pager that answers without
//! having supplied anything is asked again at once, by a thread that can be killed; one that needs a page of its own object to supply it is refused by name.

use core::sync::atomic::Ordering::Relaxed;

use abi::pager::TakenBack;
use abi::{Error, MemoryFlags};
use arch::addr::PhysAddr;
use arch::memory::phys_to_virt;
use arch::paging::PAGE_BYTES;

use super::account::{self, Account};
use super::cloning::{Change, Sharing};
use super::frames::{self, FrameKind};
use super::object::{Anonymous, Backing, Contents, MemoryObject};
use super::user::{Direction, UserSlice};
use crate::ipc::Listener;
use crate::object::Ref;

impl MemoryObject {
    /// Memory of `bytes` bytes, rounded up to whole pages, that `pager` supplies. `account` pays. With the flag `RECLAIMABLE` it can [take pages back](MemoryObject::take_back).
    ///
    /// # Errors
    /// As [`create`](MemoryObject::create); [`Error::BadArgument`] for flags of other memory.
    pub fn create_paged(
        bytes: u64,
        flags: MemoryFlags,
        pager: Ref<Listener>,
        account: Option<Ref<Account>>,
    ) -> Result<Ref<MemoryObject>, Error> {
        if flags != MemoryFlags::NONE && flags != MemoryFlags::RECLAIMABLE {
            return Err(Error::BadArgument);
        }
        let mut object = MemoryObject::new_with(bytes, flags, account)?;
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
    /// [`Error::NotSupported`] if it has no pager; [`Error::OutOfRange`]; [`Error::Busy`] while what was written to the page is being told as it is
    /// [taken back](Self::take_back): supplied now it would be what it was before; [`Error::QuotaExceeded`], [`Error::NoMemory`]; those of the copy. Nothing has changed then.
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
        if Anonymous::has(&mut anonymous.contents.lock(), index)? {
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

    /// Takes page `index` back, and gives up its frame. What was written to it since it was supplied is copied to `into`, if that is there, which is a page long at
    /// most. When this returns no CPU has the page. No lock may be held.
    ///
    /// # Errors
    /// [`Error::NotSupported`] if its pager can't; [`Error::OutOfRange`]; [`Error::Busy`] while somebody else takes the page back; those of the copy: then the page is
    /// there as it was.
    pub fn take_back(&self, index: u64, into: Option<UserSlice>) -> Result<TakenBack, Error> {
        let (Some(anonymous), Some(sharing)) = (self.changeable(), self.sharing()) else {
            return Err(Error::NotSupported);
        };
        if anonymous.pager.is_none() {
            return Err(Error::NotSupported);
        }
        if index >= self.pages {
            return Err(Error::OutOfRange);
        }
        match (
            anonymous.begin_to_take(sharing, index, into.is_some())?,
            into,
        ) {
            (Taken::Frame(frame, taken), _) => {
                anonymous.give_up(frame);
                Ok(taken)
            }
            (Taken::Hidden(frame), Some(into)) => {
                let into = into.first(PAGE_BYTES as usize);
                // SAFETY: the frame is a whole page in the direct map, which nobody else has any more.
                let told = unsafe { into.copy_raw(phys_to_virt(frame), Direction::ToUser) };
                anonymous.end_to_take(index, told)
            }
            (Taken::Hidden(_), None) => anonymous.end_to_take(index, Ok(())),
            (Taken::Nothing, _) => Ok(TakenBack::Nothing),
        }
    }
}

/// What a page was that nobody has mapped any more.
enum Taken {
    Nothing,
    /// Its frame is out of the array.
    Frame(PhysAddr, TakenBack),
    /// It was written, and its pager wants to know what: the frame is hidden until that is told.
    Hidden(PhysAddr),
}

impl Anonymous {
    /// Has everybody let go of page `index`. If what was written is to be `told`, it stays in the array, hidden.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is hidden: somebody else is telling.
    fn begin_to_take(&self, sharing: &Sharing, index: u64, told: bool) -> Result<Taken, Error> {
        let _changes = sharing.lock();
        self.contents.lock().change = Change::Page(index);
        sharing.let_go(Some(index));
        let mut contents = self.contents.lock();
        contents.change = Change::None;
        if contents.radix.is_hidden(index) {
            return Err(Error::Busy);
        }
        let written = contents.radix.is_marked(index);
        if let (true, true, Some(frame)) = (written, told, contents.radix.get(index)) {
            contents.radix.hide(index);
            return Ok(Taken::Hidden(frame));
        }
        let taken = if written {
            TakenBack::Written
        } else {
            TakenBack::Unchanged
        };
        let frame = contents.radix.take(index);
        Ok(frame.map_or(Taken::Nothing, |frame| Taken::Frame(frame, taken)))
    }

    /// The end of what [`begin_to_take`](Self::begin_to_take) hid: it goes if it was `told` what was written, else it is there as it was.
    ///
    /// # Errors
    /// `told`
    fn end_to_take(&self, index: u64, told: Result<(), Error>) -> Result<TakenBack, Error> {
        let frame = {
            let mut contents = self.contents.lock();
            if told.is_err() {
                contents.radix.show(index);
                None
            } else {
                contents.radix.take(index)
            }
        };
        if let Some(frame) = frame {
            self.give_up(frame);
        }
        told.map(|()| TakenBack::Written)
    }

    /// Frees a frame that was taken out of the array.
    fn give_up(&self, frame: PhysAddr) {
        frames::free_frame(frame);
        self.charged.fetch_sub(1, Relaxed);
        account::uncharge(self.account.as_ref(), 1);
    }

    /// Whether page `index` is there.
    ///
    /// # Errors
    /// [`Error::Busy`] while it is being taken back.
    fn has(contents: &mut Contents, index: u64) -> Result<bool, Error> {
        if contents.radix.is_hidden(index) {
            return Err(Error::Busy);
        }
        Ok(contents.radix.get(index).is_some())
    }

    /// Puts a frame that was charged in as page `index`; false if there is one.
    ///
    /// # Errors
    /// As [`has`](Self::has); [`Error::QuotaExceeded`], [`Error::NoMemory`] for tables.
    fn put(&self, index: u64, frame: PhysAddr) -> Result<bool, Error> {
        let mut contents = self.contents.lock();
        if Self::has(&mut contents, index)? {
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
