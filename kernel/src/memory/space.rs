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

use core::marker::PhantomPinned;

use abi::landing::{BYTES as LANDING_BYTES, IMAGE_OFFSET};
use abi::layout::{USER_END, USER_START};
use abi::{Error, Protection, Rights};
use arch::addr::{PhysAddr, VirtAddr};
use arch::mitigations::decisions;
use arch::paging::{Access, Attributes, FrameSource, PAGE_BYTES, PageSize, PageTables};
use arch::tlb;

use super::account::{self, Account};
use super::cloning::{Mapper, Page, Place};
use super::discard::{Discard, Leaves};
use super::frames::{self, FrameKind};
pub use super::ipc_area::{IpcArea, max_ipc_areas};
use super::large::Large;
pub use super::mode::Mode;
use super::object::MemoryObject;
use super::regions::{Region, Regions, access_of};
use super::{Progress, kernel_space};
use crate::landing;
use crate::object::{Object, Ref, Slab};
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

/// What became of a page fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Fault {
    /// The access can be tried again.
    Resolved,
    /// The address is not mapped, or not for this access.
    NotMine,
    /// It is mapped, but no memory could be had: [`Error::NoMemory`] or [`Error::QuotaExceeded`].
    Failed(Error),
    /// It is mapped, and its pager has not supplied it.
    Unsupplied,
}

/// What one look at a fault came to.
enum Attempt {
    /// This.
    Over(Fault),
    /// There can be a large page, which must be filled first.
    Fill(Ref<MemoryObject>, u64),
    /// The page must become its object's own first.
    Own(Ref<MemoryObject>, u64),
    /// Something about the object is changing: wait for it, and look again.
    Wait(Ref<MemoryObject>),
}

/// Looks that one fault is given at most.
const FAULT_TRIES: u32 = 4;
/// Regions that one piece of work lets go.
const REGIONS_A_PIECE: usize = 16;
/// Table entries that one piece of work looks at.
const ENTRIES_A_PIECE: usize = 256;
/// What one table of the lowest level maps.
pub(super) const TABLE_SPAN: u64 = 1 << 21;

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
        let root = if isolated {
            kernel_space::root_pair()
        } else {
            frames::allocate_zeroed(FrameKind::PageTable)
        };
        let root = root.ok_or_else(|| {
            account::uncharge(account.as_ref(), roots);
            Error::NoMemory
        })?;
        let inner = Inner {
            tables: kernel_space::new_user_tables(root, isolated),
            mode,
            regions: Regions::new(),
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

    /// Maps `bytes` bytes of `object` from `offset` on at `address`, or where there is room if that is 0. `rights` are those of
    /// the handle, now and for later changes. On an error nothing has changed.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for no or unaligned bytes, address or offset; [`Error::OutOfRange`] past the end of the object, or
    /// outside the part of the address space that can be mapped; [`Error::NoRight`]; [`Error::AlreadyMapped`];
    /// [`Error::NoMemory`] (of the kernel, or no room); [`Error::QuotaExceeded`] for too many mappings; [`Error::Ended`].
    pub fn map(
        &self,
        object: &Ref<MemoryObject>,
        rights: Rights,
        address: u64,
        offset: u64,
        bytes: u64,
        protection: Protection,
    ) -> Result<u64, Error> {
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
        object.attach(self)?;
        let region = Region {
            start: address,
            end: address + bytes,
            offset,
            object: object.clone(),
            access: access_of(protection),
            limit: rights,
        };
        self.insert(region).inspect_err(|_| object.detach(self))
    }

    /// Puts a region in, where there is room if its start is 0; gives where.
    fn insert(&self, mut region: Region) -> Result<u64, Error> {
        let mut inner = self.inner.lock();
        inner.must_live()?;
        let (start, bytes) = (region.start, region.end - region.start);
        if start == 0 {
            region.start = inner.choose(bytes)?;
            region.end = region.start + bytes;
            inner.next = region.end + PAGE_BYTES;
        } else if inner
            .regions
            .ending_after(start)
            .is_some_and(|next| next.start < region.end)
        {
            return Err(Error::AlreadyMapped);
        }
        let (start, end, offset) = (region.start, region.end, region.offset);
        let object = region.object.clone();
        inner.regions.insert(region)?;
        object.mapped(self, start, end, offset);
        Ok(start)
    }

    /// Cuts the region that spans an address, if there is one.
    fn cut(&self, inner: &mut Inner, address: u64) -> Result<(), Error> {
        if let Some(tail) = inner.regions.cut(address)? {
            tail.object.mapping_cut(self);
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
            region.object.detach(self);
        }
        Ok(if more || freeing == Progress::More {
            Progress::More
        } else {
            Progress::Done
        })
    }

    /// Changes what is allowed in a range that is wholly mapped. On an error nothing has changed.
    ///
    /// # Errors
    /// [`Error::BadArgument`], [`Error::OutOfRange`] and [`Error::Reserved`] as for [`unmap`](Self::unmap); [`Error::NotMapped`] if a page is not;
    /// [`Error::NoRight`] if the handle of one did not allow this; [`Error::NoMemory`], [`Error::QuotaExceeded`].
    pub fn protect(&self, address: u64, bytes: u64, protection: Protection) -> Result<(), Error> {
        let end = self.check_change(address, bytes)?;
        let access = access_of(protection);
        let mut inner = self.inner.lock();
        let mut restricts = false;
        let mut at = address;
        while at < end {
            let region = inner.regions.find(at).ok_or(Error::NotMapped)?;
            if !region.limit.contains(protection.needs()) {
                return Err(Error::NoRight);
            }
            restricts |= !access.allows(region.access);
            at = region.end;
        }
        // A cut alone changes no mapping, so failing at the second leaves nothing to undo.
        self.cut(&mut inner, address)?;
        self.cut(&mut inner, end)?;
        let mut at = address;
        while at < end {
            let region = inner.regions.ending_after_mut(at).ok_or(Error::NotMapped)?;
            region.access = access;
            at = region.end;
        }
        if restricts {
            inner.unlink(&self.tlb, address, end);
            let _ = self.free_some(&mut inner);
        }
        Ok(())
    }

    /// Tries to make an access possible that faulted. `access` is what was tried: [`Access::ReadWrite`] for a write,
    /// [`Access::ReadExecute`] for a fetch.
    ///
    /// Only for faults of user code, and of the kernel at an instruction that has a
    /// [fix-up](arch::user_copy::fixup): any other access of the kernel's to a mapped user page faults by SMAP and
    /// would be called resolved for ever. Faults with a reserved bit in the tables are not for this function either.
    pub fn handle_page_fault(&self, address: u64, access: Access) -> Fault {
        self.resolve(address, access, None)
    }

    /// [`handle_page_fault`](Self::handle_page_fault) for a fault of user code, in which others may have the CPU: `pause` is called between
    /// pieces of long work, without a lock.
    pub fn handle_user_fault(
        &self,
        address: u64,
        access: Access,
        pause: &mut dyn FnMut(),
    ) -> Fault {
        self.resolve(address, access, Some(pause))
    }

    fn resolve(&self, address: u64, access: Access, mut pause: Option<&mut dyn FnMut()>) -> Fault {
        for _ in 0..FAULT_TRIES {
            let failed = match self.try_page_fault(address, access, pause.is_some()) {
                Attempt::Over(fault) => return fault,
                Attempt::Fill(object, page) => {
                    let filled = match &mut pause {
                        Some(pause) => object.fill_large(page, *pause),
                        None => Ok(()),
                    };
                    // For want of so much, or of so much in a row, there may be a small page.
                    if filled.is_err() {
                        pause = None;
                    }
                    Ok(())
                }
                Attempt::Own(object, page) => object.own_page(page),
                Attempt::Wait(object) => {
                    object.wait_for_change();
                    Ok(())
                }
            };
            if let Err(error) = failed {
                return Fault::Failed(error);
            }
        }
        // The access is tried again, and faults again. In between there may be interrupts.
        Fault::Resolved
    }

    /// Tries once, under the lock of the space. `may_fill`: whether there is time to make a large page.
    fn try_page_fault(&self, address: u64, access: Access, may_fill: bool) -> Attempt {
        if !(USER_START..self.mode.areas_start()).contains(&address) {
            return Attempt::Over(Fault::NotMine);
        }
        let page = VirtAddr::new(address & !(PAGE_BYTES - 1));
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(region) = inner
            .regions
            .find(address)
            .filter(|region| region.access.allows(access))
        else {
            return Attempt::Over(Fault::NotMine);
        };
        let index = (page.as_u64() - region.start + region.offset) / PAGE_BYTES;
        let mut allowed = region.access;
        let mut known = None;
        if let Some(anonymous) = region.object.changeable() {
            if may_fill
                && let Some((_, first)) = large_place(region, address)
                && region.object.large_page(first, false) == Large::ToBeFilled
            {
                return Attempt::Fill(region.object.clone(), first);
            }
            match anonymous.page(index, access == Access::ReadWrite) {
                Ok(Page::Own(frame)) => known = Some(frame),
                Ok(Page::Shared(frame)) => {
                    known = Some(frame);
                    if allowed == Access::ReadWrite {
                        allowed = Access::Read;
                    }
                }
                Ok(Page::ToBeOwned) => return Attempt::Own(region.object.clone(), index),
                Ok(Page::Changing) => return Attempt::Wait(region.object.clone()),
                Err(Error::NotSupplied) => return Attempt::Over(Fault::Unsupplied),
                Err(error) => return Attempt::Over(Fault::Failed(error)),
            }
        }
        let attributes = Attributes::user(allowed).cached(region.object.cache());
        let mut found = inner.tables.translate(page);
        if let Some(large) = found
            && large.size != PageSize::Size4K
            && large.attributes != attributes
        {
            // A part of it, or all, is allowed otherwise by now.
            let start = VirtAddr::new(address & !(large.size.bytes() - 1));
            // SAFETY: user code finds the page again by a fault; the frames stay the object's.
            if unsafe { inner.tables.unmap(start, large.size) }.is_ok() {
                tlb::shoot_down(&self.tlb, start, 1);
            }
            found = None;
        }
        match found {
            Some(found) if found.attributes == attributes => {}
            Some(found) => {
                debug_assert!(
                    known.is_none_or(|frame| frame == found.physical),
                    "a page is mapped that its object has not any more"
                );
                // The page was mapped before more was allowed.
                // SAFETY: the entry maps the page of the region's object already, and gets the region's rights.
                if let Err(error) = unsafe { inner.tables.protect(page, attributes) } {
                    return Attempt::Over(Fault::Failed(error.into()));
                }
            }
            None => {
                match self.map_large(inner, address, attributes, may_fill) {
                    Ok(true) => return Attempt::Over(Fault::Resolved),
                    Ok(false) => {}
                    Err(attempt) => return attempt,
                }
                let Some(region) = inner.regions.find(address) else {
                    return Attempt::Over(Fault::NotMine);
                };
                let frame = match known.map_or_else(|| region.object.frame(index), Ok) {
                    Ok(frame) => frame,
                    Err(Error::NotSupplied) => return Attempt::Over(Fault::Unsupplied),
                    Err(error) => return Attempt::Over(Fault::Failed(error)),
                };
                let mut source = ChargedTables {
                    account: self.account.as_ref(),
                    charged: &mut inner.charged,
                    refused: None,
                };
                // SAFETY: the frame stays the object's as long as the region refers to it, or until the object has had the page taken
                // out; the rights are the region's.
                let mapped = unsafe {
                    inner
                        .tables
                        .map(page, frame, PageSize::Size4K, attributes, &mut source)
                };
                if let Err(error) = mapped {
                    return Attempt::Over(Fault::Failed(source.refused.unwrap_or(error.into())));
                }
            }
        }
        // This CPU may hold the former, lesser entry; another one finds out by a fault of its own.
        tlb::forget_here(page);
        Attempt::Over(Fault::Resolved)
    }

    /// Maps the large page around an address, which a region holds; whether there is one and it could be.
    ///
    /// # Errors
    /// The attempt's end, if it must be filled first.
    fn map_large(
        &self,
        inner: &mut Inner,
        address: u64,
        attributes: Attributes,
        may_fill: bool,
    ) -> Result<bool, Attempt> {
        let Some(region) = inner.regions.find(address) else {
            return Ok(false);
        };
        let Some((start, index)) = large_place(region, address) else {
            return Ok(false);
        };
        let for_writing = attributes.access == Access::ReadWrite;
        let frame = match region.object.large_page(index, for_writing) {
            Large::Frame(frame) => frame,
            Large::ToBeFilled if may_fill => {
                return Err(Attempt::Fill(region.object.clone(), index));
            }
            Large::ToBeFilled | Large::No => return Ok(false),
        };
        let mut source = ChargedTables {
            account: self.account.as_ref(),
            charged: &mut inner.charged,
            refused: None,
        };
        // SAFETY: the frames stay the object's as long as the region refers to it; the rights are the region's.
        let mapped = unsafe {
            inner.tables.map(
                VirtAddr::new(start),
                frame,
                PageSize::Size2M,
                attributes,
                &mut source,
            )
        };
        // Small pages may be mapped there, whose table stays; or there is no memory for a table, of which a small page tells.
        if mapped.is_ok() {
            tlb::forget_here(VirtAddr::new(address & !(PAGE_BYTES - 1)));
        }
        Ok(mapped.is_ok())
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

    /// Frees a bounded piece of the space, which nobody refers to any more; false if something is left. The first call
    /// makes every CPU leave it.
    pub fn tear_down(&mut self) -> bool {
        let root = self.tlb.root();
        if self.inner.get_mut().life == Life::Evicted && !self.take_back_some() {
            return false;
        }
        let inner = self.inner.get_mut();
        match inner.life {
            Life::Alive => {
                tlb::evict(&self.tlb);
                inner.life = Life::Evicted;
            }
            Life::Evicted => {
                inner.unlink_all();
                inner.life = Life::Unlinked;
            }
            Life::Unlinked => {
                let mut freed = 0;
                let progress = inner.discard.step(ENTRIES_A_PIECE, &mut freed);
                inner.charged -= freed;
                account::uncharge(self.account.as_ref(), freed);
                if progress == Progress::Done {
                    debug_assert_eq!(inner.charged, inner.roots, "frames were lost");
                    frames::free_frame(root);
                    account::uncharge(self.account.as_ref(), inner.roots);
                    inner.charged = 0;
                    inner.life = Life::Gone;
                }
            }
            Life::Gone => return true,
        }
        inner.life == Life::Gone
    }

    /// Takes some mappings back, for good; whether none is left. Objects that can be cloned may look in meanwhile, so it is
    /// done under the lock.
    fn take_back_some(&self) -> bool {
        for _ in 0..REGIONS_A_PIECE {
            let region = self.inner.lock().regions.take_inside(0, USER_END);
            match region {
                Some(region) => region.object.detach(self),
                None => return true,
            }
        }
        false
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

    /// A free stretch of `bytes` bytes.
    fn choose(&self, bytes: u64) -> Result<u64, Error> {
        // Large mappings are aligned so that large pages can serve them one day.
        let align = if bytes >= TABLE_SPAN {
            TABLE_SPAN
        } else {
            PAGE_BYTES
        };
        self.first_fit(self.next, bytes, align)
            .or_else(|| self.first_fit(self.mode.map_start(), bytes, align))
            .or_else(|| self.first_fit(USER_START, bytes, PAGE_BYTES))
            .ok_or(Error::NoMemory)
    }

    /// The first free stretch from `from` on.
    fn first_fit(&self, from: u64, bytes: u64, align: u64) -> Option<u64> {
        let mut start = from.next_multiple_of(align);
        loop {
            let end = start
                .checked_add(bytes)
                .filter(|&end| end <= self.mode.areas_start())?;
            match self.regions.ending_after(start) {
                // A page stays free between mappings whose place the kernel chose, so that running over an end faults.
                Some(region) if region.start < end => {
                    start = (region.end + PAGE_BYTES).next_multiple_of(align);
                }
                _ => return Some(start),
            }
        }
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

    /// Takes all tables below the root out. No CPU may use the root.
    fn unlink_all(&mut self) {
        let discard = &mut self.discard;
        // SAFETY: no CPU uses the tables.
        unsafe {
            // What IPC areas are left go with their frames.
            self.tables.unlink(
                self.mode.areas_start(),
                self.mode.end().next_multiple_of(TABLE_SPAN),
                &mut |table, level| discard.push(table, level, Leaves::Owned),
            );
            self.tables
                .unlink_user_half(&mut |table, level| discard.push(table, level, Leaves::Foreign));
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Nothing is left, unless the space never came to life.
        while !self.tear_down() {}
    }
}

impl Object for Space {
    fn slab() -> &'static Slab<Self> {
        static SLAB: Slab<Space> = Slab::new();
        &SLAB
    }

    fn tear_down(&mut self) -> bool {
        Space::tear_down(self)
    }
}

/// Where a large page around an address of a region would begin, and with which page of the object; `None` if it does not fit there.
fn large_place(region: &Region, address: u64) -> Option<(u64, u64)> {
    const BYTES: u64 = PageSize::Size2M.bytes();
    let start = address & !(BYTES - 1);
    let fits = region.start <= start
        && start + BYTES <= region.end
        && (start - region.start + region.offset).is_multiple_of(BYTES);
    fits.then(|| (start, (start - region.start + region.offset) / PAGE_BYTES))
}

/// The end of a range that lies in the part of the address space where things can be mapped.
fn check_range(mode: Mode, address: u64, bytes: u64) -> Result<u64, Error> {
    match address.checked_add(bytes) {
        Some(end) if address >= USER_START && end <= mode.areas_start() => Ok(end),
        _ => Err(Error::OutOfRange),
    }
}
