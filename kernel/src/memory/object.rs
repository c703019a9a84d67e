//! Memory objects: what can be mapped.
//!
//! An object is a number of pages that exist from the start as zeros and get a frame when they are first touched, so
//! a large one costs nothing until it is used. Or it is a stretch of physical addresses: a device's registers, a framebuffer, a boot
//! module. A page, once it has a frame, keeps it until the object dies; so a frame's address, once looked up, is
//! good for as long as the object is referred to, without a lock. That is not so in objects that can be [cloned](super::cloning), or whose
//! pager can [take pages back](super::paged): there a frame
//! is good as long as the object's lock is held, or a lock that [`cloning`](super::cloning) takes before it replaces the frame.
//!
//! What may go wrong: memory runs out, or the paying process's quota, at the first touch of a page. Then the toucher gets the
//! error (a system call) or faults (user code). Frames are charged when they are committed, tables included.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::layout::{USER_END, USER_START};
use abi::{Error, MemoryFlags};
use arch::addr::PhysAddr;
use arch::memory::phys_to_virt;
use arch::paging::{Cache, PAGE_BYTES};

use super::Progress;
use super::account::{self, Account};
use super::cloning::{Change, Sharing};
use super::contiguous::Run;
use super::discard::Discard;
use super::frames::{self, FrameKind};
use super::radix::Radix;
use super::user::{Direction, UserSlice};
use crate::ipc::Listener;
use crate::object::{Object, Ref, Slab};
use crate::sync::{Mutex, level};

/// A memory object.
pub struct MemoryObject {
    pub(super) pages: u64,
    pub(super) backing: Backing,
}

pub(super) enum Backing {
    Anonymous(Anonymous),
    Physical {
        start: PhysAddr,
        cache: Cache,
        /// Whether the kernel sees it in the direct map.
        is_ram: bool,
        /// If the frames are the object's.
        owned: Option<Run>,
    },
}

pub(super) struct Anonymous {
    pub(super) contents: Mutex<{ level::MEMORY }, Contents>,
    /// If its pages can get other frames, or lose them: who maps it.
    pub(super) sharing: Option<Ref<Sharing>>,
    /// Whether programs get 2 MiB at a time where they touch it first.
    pub(super) large: bool,
    /// Who supplies its pages, which it has not by itself then.
    pub(super) pager: Option<Ref<Listener>>,
    /// Used at the end only.
    discard: Discard,
    pub(super) account: Option<Ref<Account>>,
    /// Frames charged: contents and tables, also those that it shares with clones.
    pub(super) charged: AtomicU64,
}

pub(super) struct Contents {
    pub(super) radix: Radix,
    /// What is about to change, if anything is.
    pub(super) change: Change,
}

/// Entries that one piece of an object's end looks at.
const TEAR_DOWN_BUDGET: usize = 160;
/// Bytes that one piece of a copy moves.
pub const COPY_PIECE: usize = 4 * PAGE_BYTES as usize;
/// Bytes that go over the stack at once where a frame may be replaced while user memory is touched.
const BOUNCE_BYTES: usize = 1024;
/// What reads of pages without a frame see.
static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

impl MemoryObject {
    /// Memory of `bytes` bytes, rounded up to whole pages, zeroed on demand. `account` pays; the kernel's own objects have none.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for no bytes; [`Error::OutOfRange`] for more than an address space holds; [`Error::NoMemory`];
    /// [`Error::QuotaExceeded`] with flags for which something is charged at once.
    pub fn create(bytes: u64, account: Option<Ref<Account>>) -> Result<Ref<MemoryObject>, Error> {
        MemoryObject::create_with(bytes, MemoryFlags::NONE, account)
    }

    /// [`create`](Self::create) with flags.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(
        bytes: u64,
        flags: MemoryFlags,
        account: Option<Ref<Account>>,
    ) -> Result<Ref<MemoryObject>, Error> {
        if flags.contains(MemoryFlags::RECLAIMABLE) {
            // Of whom would its pages be wanted again?
            return Err(Error::BadArgument);
        }
        Ref::try_new(MemoryObject::new_with(bytes, flags, account)?)
    }

    pub(super) fn new_with(
        bytes: u64,
        flags: MemoryFlags,
        account: Option<Ref<Account>>,
    ) -> Result<MemoryObject, Error> {
        if bytes == 0 {
            return Err(Error::BadArgument);
        }
        if bytes > USER_END - USER_START {
            return Err(Error::OutOfRange);
        }
        if flags.contains(MemoryFlags::RECLAIMABLE) && flags != MemoryFlags::RECLAIMABLE {
            return Err(Error::BadArgument);
        }
        let large = flags.contains(MemoryFlags::LARGE_PAGES);
        let changes = MemoryFlags(MemoryFlags::CLONABLE.0 | MemoryFlags::RECLAIMABLE.0);
        let pages = bytes.div_ceil(PAGE_BYTES);
        let sharing = if flags.0 & changes.0 != 0 {
            Some(Sharing::create(account.clone())?)
        } else {
            None
        };
        Ok(MemoryObject {
            pages,
            backing: Backing::Anonymous(Anonymous {
                contents: Mutex::new(Contents {
                    radix: Radix::new(pages),
                    change: Change::None,
                }),
                sharing,
                large,
                pager: None,
                discard: Discard::new(),
                account,
                charged: AtomicU64::new(0),
            }),
        })
    }

    /// Device memory: `bytes` bytes from physical address `start`, both whole pages.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for no or unaligned bytes; [`Error::OutOfRange`] past the physical addresses that there can be;
    /// [`Error::Busy`] if any of it is RAM that the frame allocator manages; [`Error::NoMemory`].
    pub fn create_device(start: u64, bytes: u64, cache: Cache) -> Result<Ref<MemoryObject>, Error> {
        let end = check_physical(start, bytes)?;
        if frames::overlaps_managed(start, end) {
            return Err(Error::Busy);
        }
        MemoryObject::physical(start, bytes, cache, false)
    }

    /// RAM that the frame allocator does not hand out (a boot module), or that is lent for ever, as an object.
    ///
    /// # Errors
    /// As [`create_device`](Self::create_device), but for the check against RAM.
    ///
    /// # Safety
    /// It must be in the direct map, and nothing but the object's users may rely on the contents as long as the object lives.
    pub unsafe fn create_from_ram(start: u64, bytes: u64) -> Result<Ref<MemoryObject>, Error> {
        check_physical(start, bytes)?;
        MemoryObject::physical(start, bytes, Cache::WriteBack, true)
    }

    fn physical(
        start: u64,
        bytes: u64,
        cache: Cache,
        is_ram: bool,
    ) -> Result<Ref<MemoryObject>, Error> {
        let backing = Backing::Physical {
            start: PhysAddr::new(start),
            cache,
            is_ram,
            owned: None,
        };
        Ref::try_new(MemoryObject {
            pages: bytes / PAGE_BYTES,
            backing,
        })
    }

    /// Whether it is memory that the kernel can read and write as well; device memory it can't.
    pub fn is_ram(&self) -> bool {
        !matches!(self.backing, Backing::Physical { is_ram: false, .. })
    }

    /// Its size in bytes, a multiple of the page size.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES
    }

    /// Its size in pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How its pages are cached.
    pub fn cache(&self) -> Cache {
        match &self.backing {
            Backing::Anonymous(_) => Cache::WriteBack,
            Backing::Physical { cache, .. } => *cache,
        }
    }

    /// Frames that are charged for it: contents and tables, also those that it shares with clones.
    pub fn committed(&self) -> u64 {
        match &self.backing {
            Backing::Anonymous(anonymous) => anonymous.charged.load(Relaxed),
            Backing::Physical { owned, .. } => owned.as_ref().map_or(0, Run::frames),
        }
    }

    /// The frame of page `index`, committed now if it was not.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::QuotaExceeded`] and [`Error::NoMemory`] when the page must be committed; [`Error::NotSupplied`] when that is its pager's.
    pub fn frame(&self, index: u64) -> Result<PhysAddr, Error> {
        if index >= self.pages {
            return Err(Error::OutOfRange);
        }
        match &self.backing {
            Backing::Physical { start, .. } => Ok(*start + index * PAGE_BYTES),
            Backing::Anonymous(anonymous) => {
                let mut contents = anonymous.contents.lock();
                if anonymous.pager.is_some() {
                    return contents.radix.get(index).ok_or(Error::NotSupplied);
                }
                anonymous.insert(&mut contents, index)
            }
        }
    }

    /// The frame of page `index`, if it has one.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]
    pub fn frame_if_committed(&self, index: u64) -> Result<Option<PhysAddr>, Error> {
        if index >= self.pages {
            return Err(Error::OutOfRange);
        }
        match &self.backing {
            Backing::Physical { start, .. } => Ok(Some(*start + index * PAGE_BYTES)),
            Backing::Anonymous(anonymous) => Ok(anonymous.contents.lock().radix.get(index)),
        }
    }

    /// Copies a piece (at most [`COPY_PIECE`] bytes) between the object from `offset` on and the start of `user`. Returns the
    /// bytes copied; the caller goes on with the rest after a preemption point. No lock may be held.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if `user.len()` bytes from `offset` are not all in the object; [`Error::NotSupported`] for device
    /// memory; [`Error::BadPointer`]; [`Error::QuotaExceeded`] and [`Error::NoMemory`] for pages to be written.
    pub fn copy_piece(
        &self,
        offset: u64,
        user: UserSlice,
        direction: Direction,
    ) -> Result<usize, Error> {
        self.check_range(offset, user.len())?;
        let mut done = 0;
        let total = user.len().min(COPY_PIECE);
        if self.changeable().is_some() {
            return self.copy_over_stack(offset, user.first(total), direction);
        }
        while done < total {
            let (place, bytes) = self.place(
                offset + done as u64,
                total - done,
                direction == Direction::FromUser,
            )?;
            // SAFETY: the place is valid for `bytes` bytes: part of a frame that the object, which the caller refers to, keeps, or
            // of the page of zeros, which is only read.
            unsafe { user.after(done).first(bytes).copy_raw(place, direction) }?;
            done += bytes;
        }
        Ok(done)
    }

    /// Copies all of `user`, by way of the stack: the frame may change while user memory is touched, but not under the object's lock.
    fn copy_over_stack(
        &self,
        offset: u64,
        user: UserSlice,
        direction: Direction,
    ) -> Result<usize, Error> {
        let mut bounce = [0; BOUNCE_BYTES];
        let mut done = 0;
        while done < user.len() {
            let rest = user.after(done);
            let part = &mut bounce[..rest.len().min(BOUNCE_BYTES)];
            let rest = rest.first(part.len());
            match direction {
                Direction::ToUser => {
                    self.read(offset + done as u64, part)?;
                    rest.copy_out(part)?;
                }
                Direction::FromUser => {
                    rest.copy_in(part)?;
                    self.write(offset + done as u64, part)?;
                }
            }
            done += part.len();
        }
        Ok(done)
    }

    /// Copies from the object into the kernel's `to`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::NotSupported`] for device memory.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Error> {
        self.check_range(offset, to.len())?;
        let mut done = 0;
        while done < to.len() {
            if let Some(anonymous) = self.changeable() {
                done += anonymous.read_page(offset + done as u64, &mut to[done..])?;
                continue;
            }
            let (place, bytes) = self.place(offset + done as u64, to.len() - done, false)?;
            // SAFETY: as in `copy_piece`; `to` is the kernel's own and can't overlap.
            unsafe { place.copy_to_nonoverlapping(to[done..].as_mut_ptr(), bytes) };
            done += bytes;
        }
        Ok(())
    }

    /// Copies the kernel's `from` into the object.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::NotSupported`] for device memory; [`Error::QuotaExceeded`] and [`Error::NoMemory`].
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), Error> {
        self.check_range(offset, from.len())?;
        let mut done = 0;
        while done < from.len() {
            if let Some(anonymous) = self.changeable() {
                done += anonymous.write_page(offset + done as u64, &from[done..])?;
                continue;
            }
            let (place, bytes) = self.place(offset + done as u64, from.len() - done, true)?;
            // SAFETY: as in `read`.
            unsafe { place.copy_from_nonoverlapping(from[done..].as_ptr(), bytes) };
            done += bytes;
        }
        Ok(())
    }

    fn check_range(&self, offset: u64, bytes: usize) -> Result<(), Error> {
        if !self.is_ram() {
            return Err(Error::NotSupported);
        }
        match offset.checked_add(bytes as u64) {
            Some(end) if end <= self.bytes() => Ok(()),
            _ => Err(Error::OutOfRange),
        }
    }

    /// Where the byte at `offset` lies, and how many of `bytes` lie there in a row.
    fn place(
        &self,
        offset: u64,
        bytes: usize,
        for_writing: bool,
    ) -> Result<(*mut u8, usize), Error> {
        let (index, within) = (offset / PAGE_BYTES, offset % PAGE_BYTES);
        let bytes = bytes.min((PAGE_BYTES - within) as usize);
        let frame = if for_writing {
            Some(self.frame(index)?)
        } else {
            self.frame_if_committed(index)?
        };
        if frame.is_none() && self.pager().is_some() {
            return Err(Error::NotSupplied);
        }
        let page = frame.map_or(ZEROS.as_ptr().cast_mut(), phys_to_virt);
        Ok((page.wrapping_add(within as usize), bytes))
    }
}

impl Anonymous {
    /// A charged, zeroed frame.
    pub(super) fn make(&self, kind: FrameKind) -> Result<PhysAddr, Error> {
        account::charge(self.account.as_ref(), 1)?;
        let Some(frame) = frames::allocate_zeroed(kind) else {
            account::uncharge(self.account.as_ref(), 1);
            return Err(Error::NoMemory);
        };
        self.charged.fetch_add(1, Relaxed);
        Ok(frame)
    }

    /// So many frames more were charged to its account.
    pub(super) fn add_charged(&self, frames: u64) {
        self.charged.fetch_add(frames, Relaxed);
    }

    /// The frame of a page, committed now if it was not.
    pub(super) fn insert(&self, contents: &mut Contents, index: u64) -> Result<PhysAddr, Error> {
        contents
            .radix
            .get_or_insert(index, &mut |kind| self.make(kind), &mut copy)
    }

    /// The frame of a page, for the object alone: committed if there was none, replaced if it was shared. In the second case no CPU may
    /// have it mapped through this object.
    pub(super) fn own(&self, contents: &mut Contents, index: u64) -> Result<PhysAddr, Error> {
        contents
            .radix
            .own(index, &mut |kind| self.make(kind), &mut copy)
    }

    /// Copies to `to` from `offset` on, up to the end of the page; gives how many bytes.
    fn read_page(&self, offset: u64, to: &mut [u8]) -> Result<usize, Error> {
        let (index, within) = (offset / PAGE_BYTES, offset % PAGE_BYTES);
        let bytes = to.len().min((PAGE_BYTES - within) as usize);
        let contents = self.contents.lock();
        let frame = contents.radix.get(index);
        if frame.is_none() && self.pager.is_some() {
            return Err(Error::NotSupplied);
        }
        let page = frame.map_or(ZEROS.as_ptr().cast_mut(), phys_to_virt);
        // SAFETY: the frame is the object's as long as the lock is held; `to` is the kernel's own and can't overlap.
        unsafe {
            page.add(within as usize)
                .copy_to_nonoverlapping(to.as_mut_ptr(), bytes);
        }
        Ok(bytes)
    }

    /// Copies from `from` to `offset` on, up to the end of the page; gives how many bytes.
    fn write_page(&self, offset: u64, from: &[u8]) -> Result<usize, Error> {
        let (index, within) = (offset / PAGE_BYTES, offset % PAGE_BYTES);
        let bytes = from.len().min((PAGE_BYTES - within) as usize);
        self.with_own_page(index, |frame| {
            // SAFETY: the frame is this object's alone, and its lock is held; `from` is the kernel's own and can't overlap.
            unsafe {
                phys_to_virt(frame)
                    .add(within as usize)
                    .copy_from_nonoverlapping(from.as_ptr(), bytes);
            }
        })?;
        Ok(bytes)
    }

    fn tear_down(&mut self, budget: usize) -> Progress {
        self.contents.get_mut().radix.discard(&mut self.discard);
        let mut freed = 0;
        let progress = self.discard.step(budget, &mut freed);
        let charged = self.charged.get_mut();
        let back = match progress {
            // As it goes: a large object's end takes long, and what is free again must not be missing in a quota until then.
            Progress::More => freed.min(*charged),
            // Also what others go on sharing: they have paid for it as well.
            Progress::Done => *charged,
        };
        *charged -= back;
        account::uncharge(self.account.as_ref(), back);
        progress
    }
}

/// A frame in place of a shared one, which was charged when it began to be shared.
pub(super) fn copy(kind: FrameKind) -> Result<PhysAddr, Error> {
    frames::allocate(kind).ok_or(Error::NoMemory)
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        // Nothing is left, unless the object was never put into its slab.
        while self.tear_down(TEAR_DOWN_BUDGET) == Progress::More {}
        debug_assert_eq!(*self.charged.get_mut(), 0, "frames were lost");
    }
}

impl Object for MemoryObject {
    fn slab() -> &'static Slab<Self> {
        static SLAB: Slab<MemoryObject> = Slab::new();
        &SLAB
    }

    fn tear_down(&mut self) -> bool {
        match &mut self.backing {
            Backing::Anonymous(anonymous) => {
                anonymous.tear_down(TEAR_DOWN_BUDGET) == Progress::Done
            }
            Backing::Physical { .. } => true,
        }
    }
}

/// The end of a physical range of whole pages.
fn check_physical(start: u64, bytes: u64) -> Result<u64, Error> {
    if bytes == 0 || !bytes.is_multiple_of(PAGE_BYTES) || !start.is_multiple_of(PAGE_BYTES) {
        return Err(Error::BadArgument);
    }
    match start.checked_add(bytes) {
        // A page table entry with an address bit that the CPU does not have faults for ever.
        Some(end) if end <= 1 << arch::paging::physical_address_bits() => Ok(end),
        _ => Err(Error::OutOfRange),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn what_is_free_again_is_charged_no_more_before_an_objects_end_is_over() {
        testing::machine();
        let account = Account::create(1000).unwrap();
        let flags = MemoryFlags::NONE;
        let mut object = MemoryObject::new_with(900 * 4096, flags, Some(account.clone())).unwrap();
        for page in 0..900 {
            object.frame(page).unwrap();
        }
        let mut used = vec![account.used()];
        while !Object::tear_down(&mut object) {
            used.push(account.used());
        }
        assert_eq!(account.used(), 0);
        let goes = |pair: &[u64]| pair[1] <= pair[0] && pair[0] - pair[1] < 100;
        assert!(used.windows(2).all(goes), "{used:?}");
        used.dedup();
        assert!(used.len() > 10, "{used:?}");
    }
}
