//! The mappings of an address space, sorted by address.
//!
//! A tree of two levels that is made of frames: a directory of leaves, and leaves of about a hundred regions each. Both are
//! sorted arrays, so that a look-up is two binary searches and an insertion moves at most a frame's contents; nothing here takes
//! longer. A frame has room for [`MAX_LEAVES`] leaves, and a leaf is at least half full when a second one is made of
//! it, which bounds the number of regions of a process to some thousands.
//!
//! Who pays for the space pays for these frames. A region may be all that is left of its object, to which no handle is needed any more: so
//! a leaf is charged with what the objects behind its regions take in the kernel, too.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use abi::{Error, Protection, Rights};
use arch::memory::{direct_virt_to_phys, phys_to_virt};
use arch::paging::Access;

use super::PAGE_BYTES;
use super::account::{self, Account};
use super::frames::{self, FrameKind};
use super::object::MemoryObject;
use crate::object::{Ref, Slot};

/// A stretch of addresses that is mapped to a part of one memory object.
pub(super) struct Region {
    /// First address.
    pub(super) start: u64,
    /// One past the last.
    pub(super) end: u64,
    /// Where in the object `start` is, in bytes.
    pub(super) offset: u64,
    pub(super) object: Ref<MemoryObject>,
    /// What is allowed now.
    pub(super) access: Access,
    /// What the handle allowed when it was mapped.
    pub(super) limit: Rights,
}

impl Region {
    /// What must be added to an offset in the object to have its address.
    pub(super) fn delta(&self) -> u64 {
        self.start.wrapping_sub(self.offset)
    }

    /// Cuts off the part from `address` on and gives it; `address` lies inside.
    fn split_off(&mut self, address: u64) -> Region {
        debug_assert!(self.start < address && address < self.end);
        let tail = Region {
            start: address,
            end: self.end,
            offset: self.offset + (address - self.start),
            object: self.object.clone(),
            access: self.access,
            limit: self.limit,
        };
        self.end = address;
        tail
    }
}

/// How a protection is mapped.
pub(super) fn access_of(protection: Protection) -> Access {
    if protection.executable() {
        Access::ReadExecute
    } else if protection.writable() {
        Access::ReadWrite
    } else {
        Access::Read
    }
}

const LEAF_REGIONS: usize = (PAGE_BYTES as usize - size_of::<usize>()) / size_of::<Region>();
/// How many leaves a directory has room for.
const MAX_LEAVES: usize =
    (PAGE_BYTES as usize - size_of::<usize>()) / size_of::<(u64, NonNull<Leaf>)>();

/// Frames that a leaf is charged with: its own, and as many as the objects of all of its regions fill. What an object needs besides, so that it
/// can be cloned, is charged where it is made.
const LEAF_CHARGE: u64 =
    1 + (LEAF_REGIONS * size_of::<Slot<MemoryObject>>()).div_ceil(PAGE_BYTES as usize) as u64;
/// Frames that the directory is charged with.
const DIRECTORY_CHARGE: u64 = 1;

#[repr(C)]
struct Leaf {
    count: usize,
    regions: [MaybeUninit<Region>; LEAF_REGIONS],
}

#[repr(C)]
struct Directory {
    count: usize,
    leaves: [MaybeUninit<NonNull<Leaf>>; MAX_LEAVES],
    /// The start of each leaf's first region, kept here so that a search reads one leaf.
    firsts: [u64; MAX_LEAVES],
}

const _: () = assert!(
    size_of::<Leaf>() <= PAGE_BYTES as usize && size_of::<Directory>() <= PAGE_BYTES as usize
);

/// Where a region stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Position {
    leaf: usize,
    index: usize,
}

/// A sorted set of regions that don't overlap.
pub(super) struct Regions {
    directory: Option<NonNull<Directory>>,
    count: usize,
    /// Who pays for the frames.
    account: Option<Ref<Account>>,
    /// Where a region was put or taken last. What is mapped next is often near, and what is unmapped next the same.
    hint: Position,
}

// SAFETY: the frames behind the pointers belong to this value alone.
unsafe impl Send for Regions {}

impl Regions {
    /// None. `account` pays for the frames of those that come.
    pub(super) const fn new(account: Option<Ref<Account>>) -> Regions {
        Regions {
            directory: None,
            count: 0,
            account,
            hint: Position { leaf: 0, index: 0 },
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The region that holds `address`.
    pub(super) fn find(&self, address: u64) -> Option<&Region> {
        self.before(address.checked_add(1)?)
            .filter(|region| address < region.end)
    }

    /// The last region that starts below `address`.
    pub(super) fn before(&self, address: u64) -> Option<&Region> {
        let position = self.position_before(address)?;
        Some(&self.leaf(position.leaf)[position.index])
    }

    /// The first region that ends above `address`.
    pub(super) fn ending_after(&self, address: u64) -> Option<&Region> {
        let position = self.position_ending_after(address)?;
        Some(&self.leaf(position.leaf)[position.index])
    }

    /// As [`ending_after`](Self::ending_after), to change what is not its place.
    pub(super) fn ending_after_mut(&mut self, address: u64) -> Option<&mut Region> {
        let position = self.position_ending_after(address)?;
        Some(&mut self.leaf_mut(position.leaf)[position.index])
    }

    /// Puts a region in. It must overlap none.
    ///
    /// # Errors
    /// [`Error::NoMemory`]; [`Error::QuotaExceeded`] if there are too many. Then the region is dropped.
    pub(super) fn insert(&mut self, region: Region) -> Result<(), Error> {
        debug_assert!(region.start < region.end);
        debug_assert!(
            self.ending_after(region.start)
                .is_none_or(|next| region.end <= next.start)
        );
        if self.directory.is_none() {
            self.make_directory()?;
        }
        let mut at = match self.position_before(region.start) {
            Some(position) => Position {
                index: position.index + 1,
                ..position
            },
            None => Position { leaf: 0, index: 0 },
        };
        if self.leaf(at.leaf).len() == LEAF_REGIONS {
            let kept = self.split_leaf(at.leaf)?;
            if at.index > kept {
                at = Position {
                    leaf: at.leaf + 1,
                    index: at.index - kept,
                };
            }
        }
        let start = region.start;
        // SAFETY: the directory exists now, and `at` lies in one of its leaves, which has room.
        unsafe {
            let leaf = self.leaf_pointer(at.leaf);
            let count = (*leaf).count;
            let place = (&raw mut (*leaf).regions).cast::<Region>().add(at.index);
            place.copy_to(place.add(1), count - at.index);
            place.write(region);
            (*leaf).count = count + 1;
        }
        if at.index == 0 {
            self.directory_mut().expect("it was made above").firsts[at.leaf] = start;
        }
        self.count += 1;
        Ok(())
    }

    /// Cuts the region that spans `address`, if there is one, into two that meet there, of which it gives the second. That changes no
    /// mapping.
    ///
    /// # Errors
    /// As [`insert`](Self::insert), and nothing is changed.
    pub(super) fn cut(&mut self, address: u64) -> Result<Option<&Region>, Error> {
        let Some(position) = self.position_before(address) else {
            return Ok(None);
        };
        let region = &mut self.leaf_mut(position.leaf)[position.index];
        if region.end <= address {
            return Ok(None);
        }
        let end = region.end;
        let tail = region.split_off(address);
        match self.insert(tail) {
            Ok(()) => Ok(self.find(address)),
            Err(error) => {
                self.ending_after_mut(address - 1)
                    .expect("the first part is there")
                    .end = end;
                Err(error)
            }
        }
    }

    /// Takes out the first region that starts at or after `start` and ends by `end`.
    pub(super) fn take_inside(&mut self, start: u64, end: u64) -> Option<Region> {
        let at = self.position_ending_after(start)?;
        let region = &self.leaf(at.leaf)[at.index];
        if region.start < start || region.end > end {
            return None;
        }
        // SAFETY: `at` is the place of a region; it is moved out, and those after it move up.
        let (region, left) = unsafe {
            let leaf = self.leaf_pointer(at.leaf);
            let place = (&raw mut (*leaf).regions).cast::<Region>().add(at.index);
            let region = place.read();
            (*leaf).count -= 1;
            place.copy_from(place.add(1), (*leaf).count - at.index);
            (region, (*leaf).count)
        };
        self.count -= 1;
        if left == 0 {
            self.remove_leaf(at.leaf);
        } else if at.index == 0 {
            let first = self.leaf(at.leaf)[0].start;
            self.directory_mut().expect("it holds a leaf").firsts[at.leaf] = first;
        }
        Some(region)
    }

    /// Puts a region in, if that moves nothing but the regions behind it in its leaf, and it overlaps none. Else gives it back.
    #[inline]
    pub(super) fn insert_simply(&mut self, region: Region) -> Result<(), Region> {
        let at = if self.fits(self.hint, &region) {
            self.hint
        } else {
            let searched = self.position_before(region.start).map(|before| Position {
                index: before.index + 1,
                ..before
            });
            match searched {
                Some(at) if self.fits(at, &region) => at,
                _ => return Err(region),
            }
        };
        // SAFETY: the leaf is there and has room, and `at` is at most its length.
        unsafe {
            let leaf = self.leaf_pointer(at.leaf);
            let count = (*leaf).count;
            let first = (&raw mut (*leaf).regions).cast::<Region>();
            for index in (at.index..count).rev() {
                first.add(index + 1).write(first.add(index).read());
            }
            first.add(at.index).write(region);
            (*leaf).count = count + 1;
        }
        self.count += 1;
        self.hint = at;
        Ok(())
    }

    /// Whether a region can be put there, with another before it in the leaf.
    #[inline]
    fn fits(&self, at: Position, region: &Region) -> bool {
        let Some(directory) = self.directory() else {
            return false;
        };
        if at.leaf >= directory.count {
            return false;
        }
        let leaf = self.leaf(at.leaf);
        if at.index == 0 || at.index > leaf.len() || leaf.len() == LEAF_REGIONS {
            return false;
        }
        let next = match leaf.get(at.index) {
            Some(next) => next.start,
            None if at.leaf + 1 < directory.count => directory.firsts[at.leaf + 1],
            None => u64::MAX,
        };
        leaf[at.index - 1].end <= region.start && region.end <= next
    }

    /// Takes out the region that is exactly this one, if `agrees` says so of it and of those beside it in its leaf, of which there is one
    /// before it.
    #[inline]
    pub(super) fn take_simply(
        &mut self,
        start: u64,
        end: u64,
        agrees: impl FnOnce(&Region, &Region, Option<&Region>) -> bool,
    ) -> Option<Region> {
        let directory = self.directory()?;
        let is_it = |at: Position| {
            at.leaf < directory.count
                && at.index != 0
                && self
                    .leaf(at.leaf)
                    .get(at.index)
                    .is_some_and(|region| region.start == start && region.end == end)
        };
        let at = if is_it(self.hint) {
            self.hint
        } else {
            let at = self.position_before(start + 1)?;
            if !is_it(at) {
                return None;
            }
            at
        };
        let leaf = self.leaf(at.leaf);
        if !agrees(&leaf[at.index], &leaf[at.index - 1], leaf.get(at.index + 1)) {
            return None;
        }
        // SAFETY: `at` is the place of a region that is not the leaf's only one; it is moved out, and those after it move up.
        let region = unsafe {
            let leaf = self.leaf_pointer(at.leaf);
            let first = (&raw mut (*leaf).regions).cast::<Region>();
            let region = first.add(at.index).read();
            (*leaf).count -= 1;
            for index in at.index..(*leaf).count {
                first.add(index).write(first.add(index + 1).read());
            }
            region
        };
        self.count -= 1;
        self.hint = at;
        Some(region)
    }

    #[inline]
    fn position_before(&self, address: u64) -> Option<Position> {
        let directory = self.directory()?;
        let leaf = directory.firsts[..directory.count]
            .partition_point(|&first| first < address)
            .checked_sub(1)?;
        let index = self
            .leaf(leaf)
            .partition_point(|region| region.start < address)
            .checked_sub(1)?;
        Some(Position { leaf, index })
    }

    fn position_ending_after(&self, address: u64) -> Option<Position> {
        let directory = self.directory()?;
        if let Some(at) = self.position_before(address.saturating_add(1)) {
            if self.leaf(at.leaf)[at.index].end > address {
                return Some(at);
            }
            let next = if at.index + 1 < self.leaf(at.leaf).len() {
                Position {
                    index: at.index + 1,
                    ..at
                }
            } else {
                Position {
                    leaf: at.leaf + 1,
                    index: 0,
                }
            };
            return (next.leaf < directory.count).then_some(next);
        }
        (self.count > 0).then_some(Position { leaf: 0, index: 0 })
    }

    #[inline]
    fn directory(&self) -> Option<&Directory> {
        // SAFETY: the directory is an initialised frame that belongs to this value.
        self.directory
            .map(|directory| unsafe { directory.as_ref() })
    }

    fn directory_mut(&mut self) -> Option<&mut Directory> {
        // SAFETY: as in `directory`, and borrowed exclusively.
        self.directory
            .map(|mut directory| unsafe { directory.as_mut() })
    }

    /// # Panics
    /// If there is no such leaf.
    #[inline]
    fn leaf_pointer(&self, leaf: usize) -> *mut Leaf {
        let directory = self.directory().expect("a position is in a directory");
        assert!(leaf < directory.count);
        // SAFETY: the first `count` entries are initialised.
        unsafe { directory.leaves[leaf].assume_init() }.as_ptr()
    }

    #[inline]
    fn leaf(&self, leaf: usize) -> &[Region] {
        let leaf = self.leaf_pointer(leaf);
        // SAFETY: the leaf's first `count` regions are initialised, and borrowed with this value.
        unsafe { core::slice::from_raw_parts((&raw const (*leaf).regions).cast(), (*leaf).count) }
    }

    fn leaf_mut(&mut self, leaf: usize) -> &mut [Region] {
        let leaf = self.leaf_pointer(leaf);
        // SAFETY: as in `leaf`, and borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut((&raw mut (*leaf).regions).cast(), (*leaf).count) }
    }

    /// Makes the directory with one empty leaf, which is filled at once.
    fn make_directory(&mut self) -> Result<(), Error> {
        account::charge(self.account.as_ref(), DIRECTORY_CHARGE + LEAF_CHARGE)?;
        let frames = zeroed::<Directory>().and_then(|directory| {
            let leaf = zeroed::<Leaf>();
            if leaf.is_none() {
                give_back(directory);
            }
            Some((directory, leaf?))
        });
        let Some((directory, leaf)) = frames else {
            account::uncharge(self.account.as_ref(), DIRECTORY_CHARGE + LEAF_CHARGE);
            return Err(Error::NoMemory);
        };
        // SAFETY: both are fresh, zeroed frames: counts of 0 and uninitialised arrays.
        unsafe {
            (*directory.as_ptr()).leaves[0].write(leaf);
            (*directory.as_ptr()).count = 1;
        }
        self.directory = Some(directory);
        Ok(())
    }

    /// Moves the upper half of a full leaf to a new one behind it; gives how many regions stay.
    fn split_leaf(&mut self, leaf: usize) -> Result<usize, Error> {
        let old = self.leaf_pointer(leaf);
        let count = self.directory().expect("a leaf is in a directory").count;
        if count == MAX_LEAVES {
            return Err(Error::QuotaExceeded);
        }
        let new: NonNull<Leaf> = self.new_frame(LEAF_CHARGE)?;
        let directory = self.directory_mut().expect("a leaf is in a directory");
        let kept = LEAF_REGIONS / 2;
        // SAFETY: the old leaf is full, the new one empty and of the same size; the regions are moved, not copied.
        let first = unsafe {
            let from = (&raw const (*old).regions).cast::<Region>().add(kept);
            from.copy_to_nonoverlapping(
                (&raw mut (*new.as_ptr()).regions).cast(),
                LEAF_REGIONS - kept,
            );
            (*new.as_ptr()).count = LEAF_REGIONS - kept;
            (*old).count = kept;
            (*from).start
        };
        directory.leaves.copy_within(leaf + 1..count, leaf + 2);
        directory.firsts.copy_within(leaf + 1..count, leaf + 2);
        directory.leaves[leaf + 1].write(new);
        directory.firsts[leaf + 1] = first;
        directory.count = count + 1;
        Ok(kept)
    }

    /// Frees an empty leaf, and the directory with the last one.
    fn remove_leaf(&mut self, leaf: usize) {
        // SAFETY: an entry below `count`, as `leaf_pointer` checks, is not null.
        let gone = unsafe { NonNull::new_unchecked(self.leaf_pointer(leaf)) };
        self.free(gone, LEAF_CHARGE);
        let directory = self.directory_mut().expect("a leaf is in a directory");
        let count = directory.count;
        directory.leaves.copy_within(leaf + 1..count, leaf);
        directory.firsts.copy_within(leaf + 1..count, leaf);
        directory.count = count - 1;
        if count == 1
            && let Some(directory) = self.directory.take()
        {
            self.free(directory, DIRECTORY_CHARGE);
        }
    }

    /// A zeroed frame as a `T`, for which the account is charged so many.
    fn new_frame<T>(&self, charge: u64) -> Result<NonNull<T>, Error> {
        account::charge(self.account.as_ref(), charge)?;
        zeroed().ok_or_else(|| {
            account::uncharge(self.account.as_ref(), charge);
            Error::NoMemory
        })
    }

    /// The opposite.
    fn free<T>(&self, frame: NonNull<T>, charge: u64) {
        give_back(frame);
        account::uncharge(self.account.as_ref(), charge);
    }
}

/// A zeroed frame as a `T`, for which nobody is charged.
fn zeroed<T>() -> Option<NonNull<T>> {
    let frame = frames::allocate_zeroed(FrameKind::Kernel)?;
    NonNull::new(phys_to_virt(frame).cast())
}

/// The opposite.
fn give_back<T>(frame: NonNull<T>) {
    frames::free_frame(direct_virt_to_phys(frame.as_ptr()));
}

impl Drop for Regions {
    fn drop(&mut self) {
        while self.take_inside(0, u64::MAX).is_some() {}
        debug_assert!(self.directory.is_none());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::testing;

    fn region(object: &Ref<MemoryObject>, start: u64, end: u64) -> Region {
        Region {
            start,
            end,
            offset: start,
            object: object.clone(),
            access: Access::Read,
            limit: Rights::READ,
        }
    }

    /// Compares all look-ups at all addresses of interest.
    fn check(regions: &Regions, model: &BTreeMap<u64, u64>, span: u64) {
        assert_eq!(regions.count(), model.len());
        for address in (0..span).step_by(3) {
            let before = model
                .range(..address)
                .next_back()
                .map(|(&start, &end)| (start, end));
            assert_eq!(regions.before(address).map(|r| (r.start, r.end)), before);
            let after = model
                .iter()
                .find(|&(_, &end)| end > address)
                .map(|(&start, &end)| (start, end));
            assert_eq!(
                regions.ending_after(address).map(|r| (r.start, r.end)),
                after
            );
            let here = after.filter(|&(start, _)| start <= address);
            assert_eq!(
                regions.find(address).map(|r| (r.start, r.end, r.offset)),
                here.map(|(s, e)| (s, e, s))
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn regions_agree_with_a_sorted_map(
            steps in prop::collection::vec((0u8..8, 0u64..3000, 1u64..12), 1..600)
        ) {
            testing::machine();
            let object = MemoryObject::create(1 << 20, None).unwrap();
            let mut regions = Regions::new(None);
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            for (what, start, length) in steps {
                let end = start + length;
                match what {
                    5 | 6 => {
                        let overlaps = model.range(..end).next_back().is_some_and(|(_, &other)| other > start);
                        let put = regions.insert_simply(region(&object, start, end)).is_ok();
                        prop_assert!(!put || !overlaps);
                        if put {
                            model.insert(start, end);
                        }
                    }
                    7 => {
                        let there = model.range(..end).next_back().map(|(&s, &e)| (s, e));
                        let (start, end) = there.unwrap_or((start, end));
                        let taken = regions.take_simply(start, end, |it, before, after| {
                            assert_eq!((it.start, it.end), (start, end));
                            assert!(before.end <= start && after.is_none_or(|after| after.start >= end));
                            length % 4 != 0
                        });
                        prop_assert!(taken.is_none() || there.is_some() && length % 4 != 0);
                        if taken.is_some() {
                            model.remove(&start);
                        }
                    }
                    0..=2 => {
                        let overlaps = model.range(..end).next_back().is_some_and(|(_, &other)| other > start);
                        if !overlaps {
                            regions.insert(region(&object, start, end)).unwrap();
                            model.insert(start, end);
                        }
                    }
                    3 => {
                        regions.cut(start).unwrap();
                        if let Some((&first, &last)) = model.range(..start).next_back()
                            && last > start
                        {
                            model.insert(first, start);
                            model.insert(start, last);
                        }
                    }
                    _ => {
                        let end = start + length * 40;
                        let expected = model.iter().find(|&(_, &e)| e > start).map(|(&s, &e)| (s, e));
                        let expected = expected.filter(|&(s, e)| s >= start && e <= end);
                        let taken = regions.take_inside(start, end).map(|r| (r.start, r.end));
                        prop_assert_eq!(taken, expected);
                        if let Some((first, _)) = expected {
                            model.remove(&first);
                        }
                    }
                }
            }
            check(&regions, &model, 3100);
        }
    }

    #[test]
    fn thousands_of_regions_fit_and_the_limit_is_an_error() {
        testing::machine();
        let object = MemoryObject::create(1 << 20, None).unwrap();
        let mut regions = Regions::new(None);
        let mut made = 0u64;
        let error = loop {
            match regions.insert(region(&object, made * 2, made * 2 + 1)) {
                Ok(()) => made += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error, Error::QuotaExceeded);
        assert!(made > 10_000, "only {made} regions");
        for number in (0..made).step_by(97) {
            assert_eq!(regions.find(number * 2).map(|r| r.start), Some(number * 2));
            assert!(regions.find(number * 2 + 1).is_none());
        }
    }
}
