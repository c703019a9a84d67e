//! Clones of memory objects: frames that several objects share until one of them writes.
//!
//! A clone takes over the [array](super::radix) of frames as it is, which costs the same for any size. What is shared may be mapped
//! for reading alone, and changes its frame when its object is written. So an object that can be cloned knows the address spaces that
//! map it, and can have pages taken out of their tables, which are [a cache](super::space): they come back by a fault.
//!
//! ```text
//! clone                                     a write to a shared page
//! lock of the changes                       lock of the changes
//!   change = all: nobody maps for writing     change = page: nobody maps it at all
//!   every space lets go of what it maps       every space lets go of the page
//!   the array is shared                       the page gets a frame of its own, with the same contents
//!   change = none                             change = none
//! ```
//!
//! Whoever faults on what is about to change waits for the lock of the changes, without a lock of his own, and tries again. So the clone is
//! the contents at one moment: no write that is made after it, on whatever CPU, reaches what is shared, and none made before is missing.
//! The kernel's own reads and writes hold the object's lock, by way of a buffer if the other side is user memory.
//!
//! Both objects are charged for all that they refer to, shared or not, so that a write to what is shared needs no quota and whoever
//! dies leaves nobody else's bill. All this is done without a preemption point, so the places where such an object is mapped are few: [`MAX_PLACES`]; and
//! before a clone they let go one by one, with such points between ([`MemoryObject::let_go_ahead`]), so that as a rule there is nothing left. All of a space's mappings
//! that have the same distance between address and offset are one place, so that a page is at one address there, if it is there at all.
//!
//! What may go wrong: a space that dies while it is asked to let go. It takes its mappings back one by one, each under the lock of
//! the changes, before it goes.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::{Error, MemoryFlags};
use arch::addr::PhysAddr;
use arch::paging::PAGE_BYTES;

use super::account::{self, Account};
use super::object::{Anonymous, Backing, MemoryObject};
use super::radix::Found;
use super::space::Space;
use crate::object::{Object, Ref, Slab, Slot};
use crate::sync::{Guard, Mutex, level};

/// Places where an object can be mapped that can be cloned, in all address spaces.
pub const MAX_PLACES: usize = 32;

/// What is about to change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    None,
    /// A page gets another frame.
    Page(u64),
    /// What the object has alone becomes shared.
    All,
}

/// What can be mapped for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Page {
    /// This, as the mapping allows.
    Own(PhysAddr),
    /// This, but not for writing.
    Shared(PhysAddr),
    /// Nothing now: it must be made the object's own first.
    ToBeOwned,
    /// Nothing now: it is about to change.
    Changing,
}

/// Who maps an object.
pub struct Sharing {
    /// The lock of the changes. Spaces come and go under it as well.
    changes: Mutex<{ level::CHANGES }, ()>,
    /// Who pays for this: [`CHARGE`].
    account: Option<Ref<Account>>,
    mappers: [Mapper; MAX_PLACES],
}

/// A place where a space maps it. Space and distance are written under the lock of the changes, the bounds under the space's lock.
pub(super) struct Mapper {
    space: AtomicPtr<Space>,
    /// What must be added to an offset in the object to have its address.
    delta: AtomicU64,
    /// Mappings, counting those that are about to be.
    count: AtomicU32,
    /// Where they are: all lie between these. Nowhere if the first is not below the second.
    low: AtomicU64,
    high: AtomicU64,
}

/// Where a space may map what it shall let go of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Nowhere,
    /// At this address alone.
    Page(u64),
    /// Anywhere from the first to below the second.
    Between(u64, u64),
}

/// Frames that a [`Sharing`] is charged with. It is some part of one, but needs no handle, and what an object needs without it is charged with
/// its mappings.
const CHARGE: u64 = 1;
const _: () = assert!(size_of::<Slot<Sharing>>() as u64 <= CHARGE * PAGE_BYTES);

impl Sharing {
    /// Of an object that nobody maps; `account` pays.
    ///
    /// # Errors
    /// [`Error::NoMemory`], [`Error::QuotaExceeded`]
    pub(super) fn create(account: Option<Ref<Account>>) -> Result<Ref<Sharing>, Error> {
        account::charge(account.as_ref(), CHARGE)?;
        // From here on its drop gives that back.
        Ref::try_new(Sharing {
            changes: Mutex::new(()),
            account,
            mappers: [const {
                Mapper {
                    space: AtomicPtr::new(ptr::null_mut()),
                    delta: AtomicU64::new(0),
                    count: AtomicU32::new(0),
                    low: AtomicU64::new(u64::MAX),
                    high: AtomicU64::new(0),
                }
            }; MAX_PLACES],
        })
    }

    /// The place of a space that has this distance.
    fn mapper(&self, space: *const Space, delta: u64) -> Option<&Mapper> {
        self.mappers.iter().find(|mapper| {
            ptr::eq(mapper.space.load(Relaxed), space) && mapper.delta.load(Relaxed) == delta
        })
    }

    /// Takes the lock of the changes.
    pub(super) fn lock(&self) -> Guard<'_, { level::CHANGES }, ()> {
        self.changes.lock()
    }

    /// Has every space let go of a page, or of all. The lock of the changes is held.
    pub(super) fn let_go(&self, page: Option<u64>) {
        for mapper in &self.mappers {
            Self::let_go_at(mapper, page);
        }
    }

    /// The same of the space at one place; whether there is one.
    fn let_go_at(mapper: &Mapper, page: Option<u64>) -> bool {
        let space = mapper.space.load(Relaxed);
        if space.is_null() {
            return false;
        }
        // SAFETY: a space is in the list as long as it has a mapping of the object or is about to, so it is not at its end; it
        // leaves under the lock of the changes, which is held; and it does not move (`Space::create`).
        unsafe { &*space }.let_go(mapper, page);
        true
    }
}

impl Mapper {
    /// Where `page`, or all of the object, may be mapped. The space's lock is held.
    pub(super) fn place(&self, page: Option<u64>) -> Place {
        let (low, high) = (self.low.load(Relaxed), self.high.load(Relaxed));
        match page {
            _ if low >= high => Place::Nowhere,
            Some(page) => {
                let address = (page * PAGE_BYTES).wrapping_add(self.delta.load(Relaxed));
                if (low..high).contains(&address) {
                    Place::Page(address)
                } else {
                    Place::Nowhere
                }
            }
            None => Place::Between(low, high),
        }
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        account::uncharge(self.account.as_ref(), CHARGE);
    }
}

impl Object for Sharing {
    fn slab() -> &'static Slab<Self> {
        static SLAB: Slab<Sharing> = Slab::new();
        &SLAB
    }
}

impl MemoryObject {
    /// Has every space let go of what it maps of an object that can be cloned, a place at a time, with a call of `pause` behind each: then little is
    /// left for the [clone](Self::clone_for) that follows, which lets go of all places at once. What has come back by a fault meanwhile is left.
    pub fn let_go_ahead(&self, pause: &mut dyn FnMut()) {
        let sharing = self.changeable().filter(|from| from.pager.is_none());
        let Some(sharing) = sharing.and_then(|from| from.sharing.as_ref()) else {
            return;
        };
        for mapper in &sharing.mappers {
            let changes = sharing.lock();
            let any = Sharing::let_go_at(mapper, None);
            drop(changes);
            if any {
                pause();
            }
        }
    }

    /// An object with the same contents, whose frames are this one's until one of the two is written. `account` pays for all of it.
    ///
    /// # Errors
    /// [`Error::NotSupported`] if this was not made to be cloned; [`Error::NoMemory`]; [`Error::QuotaExceeded`].
    pub fn clone_for(&self, account: Option<Ref<Account>>) -> Result<Ref<MemoryObject>, Error> {
        let from = self
            .changeable()
            .filter(|anonymous| anonymous.pager.is_none())
            .ok_or(Error::NotSupported)?;
        let large = if from.large {
            MemoryFlags::LARGE_PAGES
        } else {
            MemoryFlags::NONE
        };
        let flags = MemoryFlags(MemoryFlags::CLONABLE.0 | large.0);
        let clone = MemoryObject::create_with(self.bytes(), flags, account)?;
        let to = clone.changeable().ok_or(Error::NotSupported)?;
        let sharing = from.sharing.as_ref().ok_or(Error::NotSupported)?;
        let changes = sharing.changes.lock();
        from.contents.lock().change = Change::All;
        sharing.let_go(None);
        let mut contents = from.contents.lock();
        contents.change = Change::None;
        let frames = from.charged.load(Relaxed);
        account::charge(to.account.as_ref(), frames)?;
        let radix = contents.radix.share();
        drop(contents);
        drop(changes);
        to.contents.lock().radix = radix;
        to.charged.store(frames, Relaxed);
        Ok(clone)
    }

    /// What is particular to an object whose pages can get other frames, or lose them, if it is one: it can be cloned, or its pager can take
    /// pages back.
    #[inline]
    pub(super) fn changeable(&self) -> Option<&Anonymous> {
        match &self.backing {
            Backing::Anonymous(anonymous) if anonymous.sharing.is_some() => Some(anonymous),
            _ => None,
        }
    }

    /// A space is about to map it, with this distance between address and offset.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] if it is mapped at too many places, and can be cloned.
    pub(super) fn attach(&self, space: &Space, delta: u64) -> Result<(), Error> {
        let Some(sharing) = self.sharing() else {
            return Ok(());
        };
        let _changes = sharing.changes.lock();
        if let Some(mapper) = sharing.mapper(space, delta) {
            mapper.count.fetch_add(1, Relaxed);
            return Ok(());
        }
        let is_free = |mapper: &&Mapper| mapper.space.load(Relaxed).is_null();
        let mapper = sharing.mappers.iter().find(is_free);
        let mapper = mapper.ok_or(Error::QuotaExceeded)?;
        mapper.delta.store(delta, Relaxed);
        mapper.count.store(1, Relaxed);
        mapper.low.store(u64::MAX, Relaxed);
        mapper.high.store(0, Relaxed);
        mapper.space.store(ptr::from_ref(space).cast_mut(), Relaxed);
        Ok(())
    }

    /// A space that is attached there maps it from `start` to `end`, with this distance. The space's lock is held.
    pub(super) fn mapped(&self, space: &Space, start: u64, end: u64, delta: u64) {
        if let Some(mapper) = self.place_of(space, delta) {
            mapper.low.fetch_min(start, Relaxed);
            mapper.high.fetch_max(end, Relaxed);
        }
    }

    /// One mapping of a space became two. The space's lock is held.
    pub(super) fn mapping_cut(&self, space: &Space, delta: u64) {
        if let Some(mapper) = self.place_of(space, delta) {
            mapper.count.fetch_add(1, Relaxed);
        }
    }

    /// The place where a space has a mapping with this distance, or is about to: so it stays one.
    fn place_of(&self, space: &Space, delta: u64) -> Option<&Mapper> {
        self.sharing()?.mapper(space, delta)
    }

    /// A mapping of a space is gone, or was not to be. No lock of a space's level or above may be held.
    pub(super) fn detach(&self, space: &Space, delta: u64) {
        let Some(sharing) = self.sharing() else {
            return;
        };
        let _changes = sharing.changes.lock();
        let Some(mapper) = sharing.mapper(space, delta) else {
            debug_assert!(false, "a space that has a mapping is in the list");
            return;
        };
        if mapper.count.fetch_sub(1, Relaxed) == 1 {
            mapper.space.store(ptr::null_mut(), Relaxed);
        }
    }

    pub(super) fn sharing(&self) -> Option<&Ref<Sharing>> {
        self.changeable()?.sharing.as_ref()
    }

    /// Waits until what is about to change has changed. No lock of a space's level or above may be held.
    pub(super) fn wait_for_change(&self) {
        if let Some(sharing) = self.sharing() {
            drop(sharing.changes.lock());
        }
    }

    /// Makes a page the object's own. No lock of a space's level or above may be held.
    ///
    /// # Errors
    /// [`Error::NoMemory`]; [`Error::QuotaExceeded`] if the page had no frame at all.
    pub(super) fn own_page(&self, index: u64) -> Result<(), Error> {
        self.changeable()
            .map_or(Ok(()), |anonymous| anonymous.with_own_page(index, |_| ()))
    }
}

impl Anonymous {
    /// What can be mapped for page `index` of an object that can be cloned, which is committed now if it was not.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], [`Error::NoMemory`]; [`Error::NotSupplied`] if that is its pager's.
    pub(super) fn page(&self, index: u64, for_writing: bool) -> Result<Page, Error> {
        let mut contents = self.contents.lock();
        let contents = &mut *contents;
        if contents.change == Change::Page(index) || contents.change == Change::All && for_writing {
            return Ok(Page::Changing);
        }
        let mut found = contents.radix.find(index);
        if found == Found::Nothing {
            if self.pager.is_some() {
                return Err(Error::NotSupplied);
            }
            self.insert(contents, index)?;
            found = contents.radix.find(index);
        }
        if self.pager.is_some() {
            // Mapped for reading alone until it is written, so that the pager can be told.
            return Ok(match found {
                Found::Own(frame) | Found::Shared(frame) if for_writing => {
                    contents.radix.mark(index);
                    Page::Own(frame)
                }
                Found::Own(frame) | Found::Shared(frame) if contents.radix.is_marked(index) => {
                    Page::Own(frame)
                }
                Found::Own(frame) | Found::Shared(frame) => Page::Shared(frame),
                Found::Nothing => Page::Changing,
            });
        }
        Ok(match found {
            Found::Own(frame) if contents.change != Change::All => Page::Own(frame),
            Found::Nothing => Page::Changing,
            _ if for_writing => Page::ToBeOwned,
            Found::Own(frame) | Found::Shared(frame) => Page::Shared(frame),
        })
    }

    /// Makes a page the object's own, and does something with its frame under the object's lock.
    ///
    /// # Errors
    /// As [`own_page`](MemoryObject::own_page).
    pub(super) fn with_own_page<R>(
        &self,
        index: u64,
        act: impl FnOnce(PhysAddr) -> R,
    ) -> Result<R, Error> {
        {
            // Not shared, or nobody can have it mapped: as good as always. While all is about to become shared it is not yet.
            let mut contents = self.contents.lock();
            if self.pager.is_some() {
                let frame = contents.radix.get(index).ok_or(Error::NotSupplied)?;
                contents.radix.mark(index);
                return Ok(act(frame));
            }
            if !matches!(contents.radix.find(index), Found::Shared(_)) {
                return Ok(act(self.own(&mut contents, index)?));
            }
        }
        let Some(sharing) = &self.sharing else {
            return Err(Error::NotSupported);
        };
        let _changes = sharing.changes.lock();
        self.contents.lock().change = Change::Page(index);
        sharing.let_go(Some(index));
        let mut contents = self.contents.lock();
        contents.change = Change::None;
        Ok(act(self.own(&mut contents, index)?))
    }
}
