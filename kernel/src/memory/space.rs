//! User address spaces.
//!
//! A space is a sorted set of [regions](super::regions), which say what is mapped where, and page tables, which are a
//! cache of that: a page's entry is made when it is first touched, and any entry may be taken out again as long
//! as the region stays. So mapping costs the same for a page and for a gigabyte, and unmapping and restricting take whole
//! tables out of the tree and let the pages fault in again.
//!
//! What holds when a call returns: what was unmapped or restricted is so on every CPU. The lock of the space is held
//! across the shoot-down, and the memory objects are let go, and tables freed, after it.
//!
//! IPC areas are different: their two frames belong to the space, are mapped from the start and never fault, and the
//! stretch they lie in is closed to all other calls. The [landing page](crate::landing) is a region that stays.
//!
//! What may go wrong: a copy from or to user memory faults into [`Space::handle_page_fault`], which takes the lock of the
//! space; so nobody copies while holding it.

mod end;
mod faults;
mod protect;
mod room;

pub use faults::Fault;

use core::marker::PhantomPinned;

use abi::landing::{BYTES as LANDING_BYTES, IMAGE_OFFSET};
use abi::layout::USER_START;
use abi::{Error, Protection, Rights};
use arch::addr::{PhysAddr, VirtAddr};
use arch::mitigations::decisions;
use arch::paging::{Access, FrameSource, PAGE_BYTES, PageSize, PageTables};
use arch::tlb;

use super::account::{self, Account};
use super::cloning::{Mapper, Place};
use super::discard::{Discard, Leaves};
use super::frames::{self, FrameKind};
pub use super::ipc_area::{IpcArea, max_ipc_areas};
pub use super::mode::Mode;
use super::object::MemoryObject;
use super::regions::{Region, Regions, access_of};
use super::{Progress, kernel_space};
use crate::landing;
use crate::object::Ref;
use crate::sync::{Mutex, level};

/// A user address space.
pub struct Space {
    /// The space as CPUs load it.
    pub(super) tlb: tlb::Space,
    pub(super) mode: Mode,
    /// Start of the landing page's two pages; 0 if it has none.
    pub(super) landing: u64,
    pub(super) account: Option<Ref<Account>>,
    pub(super) inner: Mutex<{ level::SPACE }, Inner>,
    /// Objects that can be cloned know by address who maps them, and look in also while the space's end takes its mappings back.
    _pinned: PhantomPinned,
}

pub(super) struct Inner {
    pub(super) tables: PageTables,
    mode: Mode,
    pub(super) regions: Regions,
    /// Tables that were taken out and are not yet freed.
    discard: Discard,
    /// Where to look first for room.
    next: u64,
    /// Frames of the root: one, or two if user mode has tables of its own.
    roots: u64,
    /// Frames charged: tables and IPC areas.
    pub(super) charged: u64,
    life: Life,
}

/// How far the end of a space has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Alive,
    /// No CPU has it loaded; regions go.
    Evicted,
    /// All tables but the root are in `discard`.
    Unlinked,
    /// Nothing is left.
    Gone,
}

/// Regions that one piece of work lets go, or changes.
const REGIONS_A_PIECE: usize = 16;
/// Table entries that one piece of work looks at.
const ENTRIES_A_PIECE: usize = 160;
/// What one table of the lowest level maps.
pub(super) const TABLE_SPAN: u64 = 1 << 21;

/// A part of a memory object.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its first byte.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Page tables that the space's account pays.
pub(super) struct ChargedTables<'a> {
    pub(super) account: Option<&'a Ref<Account>>,
    pub(super) charged: &'a mut u64,
    pub(super) refused: Option<Error>,
}

impl FrameSource for ChargedTables<'_> {
    fn allocate_table(&mut self) -> Option<PhysAddr> {
        match charged_frame(self.account, FrameKind::PageTable) {
            Ok(frame) => {
                *self.charged += 1;
                Some(frame)
            }
            Err(error) => {
                self.refused = Some(error);
                None
            }
        }
    }
}

/// A zeroed frame that `account` pays.
pub(super) fn charged_frame(
    account: Option<&Ref<Account>>,
    kind: FrameKind,
) -> Result<PhysAddr, Error> {
    account::charge(account, 1)?;
    frames::allocate_zeroed(kind).ok_or_else(|| {
        account::uncharge(account, 1);
        Error::NoMemory
    })
}

impl Space {
    /// A space with nothing but the landing page. `account` pays for its tables.
    ///
    /// # Errors
    /// [`Error::NoMemory`], [`Error::QuotaExceeded`]
    pub fn create(account: Option<Ref<Account>>, mode: Mode) -> Result<Ref<Space>, Error> {
        Ref::try_new(Self::new(account, mode)?)
    }

    /// [`create`](Self::create), for a space that must not be moved any more once an object that can be cloned is mapped in it.
    pub(super) fn new(account: Option<Ref<Account>>, mode: Mode) -> Result<Space, Error> {
        Self::new_with(account, mode, decisions().isolation)
    }

    /// [`new`](Self::new); `isolated`: user mode has tables of its own.
    pub(super) fn new_with(
        account: Option<Ref<Account>>,
        mode: Mode,
        isolated: bool,
    ) -> Result<Space, Error> {
        let roots = if isolated { 2 } else { 1 };
        account::charge(account.as_ref(), roots)?;
        let tables = kernel_space::user_tables(isolated).ok_or_else(|| {
            account::uncharge(account.as_ref(), roots);
            Error::NoMemory
        })?;
        let root = tables.root();
        let inner = Inner {
            tables,
            mode,
            regions: Regions::new(account.clone()),
            discard: Discard::new(),
            next: mode.map_start(),
            roots,
            charged: roots,
            life: Life::Alive,
        };
        let mut space = Space {
            tlb: tlb::Space::new(root),
            mode,
            landing: 0,
            account,
            inner: Mutex::new(inner),
            _pinned: PhantomPinned,
        };
        if let Some(object) = landing::object_for(mode) {
            space.landing = space.inner.get_mut().map_landing(object)?;
        }
        Ok(space)
    }

    /// What addresses its programs can use.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where the landing page's image is; 0 if it has none.
    pub fn landing_image(&self) -> u64 {
        match self.landing {
            0 => 0,
            start => start + IMAGE_OFFSET,
        }
    }

    /// Checks a range of whole pages that shall be unmapped or changed, and gives its end.
    fn check_change(&self, address: u64, bytes: u64) -> Result<u64, Error> {
        if bytes == 0 || !(bytes | address).is_multiple_of(PAGE_BYTES) {
            return Err(Error::BadArgument);
        }
        let end = check_range(self.mode, address, bytes)?;
        if self.landing != 0 && address < self.landing + LANDING_BYTES && end > self.landing {
            return Err(Error::Reserved);
        }
        Ok(end)
    }

    /// The space as CPUs load it.
    #[inline]
    pub fn tlb(&self) -> &tlb::Space {
        &self.tlb
    }

    /// Makes it the space of this CPU.
    ///
    /// # Safety
    /// The space must stay alive, and where it is, until this CPU has loaded another, or was made to by the space's end.
    #[inline]
    pub unsafe fn activate(&self) {
        // SAFETY: the tables hold the kernel half; the caller promises their life.
        unsafe { tlb::activate(&self.tlb) };
    }

    /// Who pays for it.
    pub fn account(&self) -> Option<&Ref<Account>> {
        self.account.as_ref()
    }

    /// [`map_with`](Self::map_with) with nobody else on the CPU meanwhile: for an address that is given, and for spaces of few mappings.
    ///
    /// # Errors
    /// As there.
    pub fn map(
        &self,
        object: &Ref<MemoryObject>,
        rights: Rights,
        address: u64,
        offset: u64,
        bytes: u64,
        protection: Protection,
    ) -> Result<u64, Error> {
        let part = Part { offset, bytes };
        self.map_with(object, rights, address, part, protection, &mut || {})
    }

    /// Maps a part of `object` at `address`, or where there is room if that is 0. `rights` are those of
    /// the handle, now and for later changes. On an error nothing has changed. `pause` is called between pieces of a search for
    /// room, without a lock.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for no or unaligned bytes, address or offset; [`Error::OutOfRange`] past the end of the object, or
    /// outside the part of the address space that can be mapped; [`Error::NoRight`]; [`Error::AlreadyMapped`];
    /// [`Error::NoMemory`] (of the kernel, or no room); [`Error::QuotaExceeded`] for too many mappings; [`Error::Ended`].
    pub fn map_with(
        &self,
        object: &Ref<MemoryObject>,
        rights: Rights,
        address: u64,
        part: Part,
        protection: Protection,
        pause: &mut dyn FnMut(),
    ) -> Result<u64, Error> {
        let Part { offset, bytes } = part;
        if bytes == 0 || !(bytes | address | offset).is_multiple_of(PAGE_BYTES) {
            return Err(Error::BadArgument);
        }
        if offset
            .checked_add(bytes)
            .is_none_or(|end| end > object.bytes())
        {
            return Err(Error::OutOfRange);
        }
        if !rights.contains(protection.needs()) {
            return Err(Error::NoRight);
        }
        if address != 0 {
            check_range(self.mode, address, bytes)?;
        }
        let region = |start| Region {
            start,
            end: start + bytes,
            offset,
            object: object.clone(),
            access: access_of(protection),
            limit: rights,
        };
        loop {
            let start = match address {
                0 => self.find_room(bytes, pause)?,
                _ => address,
            };
            let delta = start.wrapping_sub(offset);
            // It is told before where it will be mapped.
            object.attach(self, delta)?;
            match self.insert(region(start)) {
                Ok(start) => return Ok(start),
                // Another thread was faster there, and has its mapping.
                Err(Error::AlreadyMapped) if address == 0 => object.detach(self, delta),
                Err(error) => {
                    object.detach(self, delta);
                    return Err(error);
                }
            }
            pause();
        }
    }

    /// Puts a region in; gives where.
    fn insert(&self, region: Region) -> Result<u64, Error> {
        let mut inner = self.inner.lock();
        inner.must_live()?;
        let overlaps = |next: &Region| next.start < region.end;
        if inner
            .regions
            .ending_after(region.start)
            .is_some_and(overlaps)
        {
            return Err(Error::AlreadyMapped);
        }
        let (start, end, delta) = (region.start, region.end, region.delta());
        let object = region.object.clone();
        inner.regions.insert(region)?;
        object.mapped(self, start, end, delta);
        Ok(start)
    }

    /// Cuts the region that spans an address, if there is one.
    fn cut(&self, inner: &mut Inner, address: u64) -> Result<(), Error> {
        if let Some(tail) = inner.regions.cut(address)? {
            tail.object.mapping_cut(self, tail.delta());
        }
        Ok(())
    }

    /// Lets go of what it maps of a page of an object that can be cloned, or of all of it. When this returns no CPU has it; what is
    /// mapped still comes back by a fault.
    pub(super) fn let_go(&self, mapper: &Mapper, page: Option<u64>) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        match mapper.place(page) {
            Place::Nowhere => {}
            Place::Page(address) => {
                let address = VirtAddr::new(address);
                // It may be mapped as a part of a large page.
                let size = inner
                    .tables
                    .translate(address)
                    .map_or(PageSize::Size4K, |found| found.size);
                let address = VirtAddr::new(address.as_u64() & !(size.bytes() - 1));
                // SAFETY: the object keeps the frame until this returned; user code finds the page again by a fault.
                if unsafe { inner.tables.unmap(address, size) }.is_ok() {
                    tlb::shoot_down(&self.tlb, address, 1);
                }
            }
            Place::Between(low, high) => {
                inner.unlink(&self.tlb, low, high);
                let _ = self.free_some(inner);
            }
        }
    }

    /// Unmaps whatever is mapped in a range, a piece at a time: the caller repeats the same call after a preemption point
    /// while it says [`Progress::More`]. On an error nothing has changed.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for no or unaligned bytes or address; [`Error::OutOfRange`] outside the part that can be
    /// mapped; [`Error::Reserved`] for the landing page; [`Error::NoMemory`] and [`Error::QuotaExceeded`] if a mapping must be cut in two and can't.
    pub fn unmap(&self, address: u64, bytes: u64) -> Result<Progress, Error> {
        let end = self.check_change(address, bytes)?;
        let mut inner = self.inner.lock();
        self.cut(&mut inner, address)?;
        self.cut(&mut inner, end)?;
        let mut taken = [const { None }; REGIONS_A_PIECE];
        let mut count = 0;
        while count < REGIONS_A_PIECE
            && let Some(region) = inner.regions.take_inside(address, end)
        {
            taken[count] = Some(region);
            count += 1;
        }
        if let (Some(first), Some(last)) =
            (&taken[0], taken[..count].last().and_then(Option::as_ref))
        {
            let (start, end) = (first.start, last.end);
            inner.unlink(&self.tlb, start, end);
        }
        let freeing = self.free_some(&mut inner);
        let more = inner
            .regions
            .ending_after(address)
            .is_some_and(|region| region.start < end);
        drop(inner);
        // Only now, after the shoot-down, may the objects and their frames go.
        for region in taken.into_iter().flatten() {
            region.object.detach(self, region.delta());
        }
        Ok(if more || freeing == Progress::More {
            Progress::More
        } else {
            Progress::Done
        })
    }

    /// The object that is mapped at an address, and which byte of it.
    pub fn mapped_at(&self, address: u64) -> Option<(Ref<MemoryObject>, u64)> {
        let inner = self.inner.lock();
        inner.regions.find(address).map(|region| {
            let offset = region.offset + (address - region.start);
            (region.object.clone(), offset)
        })
    }

    /// Frames charged for tables and IPC areas, and the number of mappings.
    pub fn statistics(&self) -> (u64, usize) {
        let inner = self.inner.lock();
        (inner.charged, inner.regions.count())
    }

    /// Frees some of the tables that were taken out.
    fn free_some(&self, inner: &mut Inner) -> Progress {
        let mut freed = 0;
        let progress = inner.discard.step(ENTRIES_A_PIECE, &mut freed);
        inner.charged -= freed;
        account::uncharge(self.account.as_ref(), freed);
        progress
    }
}

impl Inner {
    pub(super) fn must_live(&self) -> Result<(), Error> {
        if self.life == Life::Alive {
            Ok(())
        } else {
            Err(Error::Ended)
        }
    }

    /// Maps the landing page somewhere; returns where. The space is new, so the place is free.
    fn map_landing(&mut self, object: &Ref<MemoryObject>) -> Result<u64, Error> {
        let window = self.mode.landing_window();
        let places = (window.end - window.start - LANDING_BYTES) / PAGE_BYTES + 1;
        let start = window.start + arch::random::number() % places * PAGE_BYTES;
        for (offset, access) in [(0, Access::Read), (IMAGE_OFFSET, Access::ReadExecute)] {
            self.regions.insert(Region {
                start: start + offset,
                end: start + offset + PAGE_BYTES,
                offset,
                object: object.clone(),
                access,
                limit: Rights::READ,
            })?;
        }
        Ok(start)
    }

    /// Takes what is mapped in `start..end`, where no region is (any more) or pages shall fault in again, out of the tables
    /// of all CPUs.
    fn unlink(&mut self, space: &tlb::Space, start: u64, end: u64) {
        // The lowest tables at the edges go as well if nothing else is in them.
        let below = self
            .regions
            .before(start)
            .map_or(USER_START, |region| region.end);
        let above = self
            .regions
            .ending_after(end)
            .map_or(self.mode.areas_start(), |region| region.start);
        let table = start & !(TABLE_SPAN - 1);
        let table_end = end.next_multiple_of(TABLE_SPAN);
        let from = if below <= table { table } else { start };
        let to = if above >= table_end { table_end } else { end };
        let mut tables = Discard::new();
        // SAFETY: user code may not rely on mappings that it gave up, the kernel never does; everything goes to `discard` only
        // after the shoot-down.
        let changed = unsafe {
            self.tables.unlink(from, to, &mut |table, level| {
                tables.push(table, level, Leaves::Foreign);
            })
        };
        if changed {
            tlb::shoot_down(space, VirtAddr::new(from), (to - from) / PAGE_BYTES);
        }
        self.discard.append(tables);
    }
}

/// The end of a range that lies in the part of the address space where things can be mapped.
fn check_range(mode: Mode, address: u64, bytes: u64) -> Result<u64, Error> {
    match address.checked_add(bytes) {
        Some(end) if address >= USER_START && end <= mode.areas_start() => Ok(end),
        _ => Err(Error::OutOfRange),
    }
}
