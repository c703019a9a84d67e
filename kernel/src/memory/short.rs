//! The short way to map and unmap one page.
//!
//! What programs do most, a page of ordinary memory that has its frame, beside others, is done here and nowhere else: the region
//! is put where the last one was put or taken, and the page into the table at once, so that no fault has to follow. All
//! else is left to [`Space::map`] and [`Space::unmap`], errors included: these functions say that they did it, or have changed nothing.
//!
//! What a call's end means is the same: after an unmapping no CPU has the page. A CPU that has another space loaded is not asked.

use abi::layout::USER_START;
use abi::{Protection, Rights};
use arch::addr::{PhysAddr, VirtAddr};
use arch::paging::{Attributes, PAGE_BYTES};
use arch::tlb;

use super::object::{Backing, MemoryObject};
use super::regions::{Region, access_of};
use super::space::{Space, TABLE_SPAN};
use crate::object::Ref;

impl Space {
    /// Maps one page of `object` from `offset` on at `address`. `rights` are those of the handle. Whether it did.
    #[inline]
    pub fn map_page(
        &self,
        object: &Ref<MemoryObject>,
        rights: Rights,
        address: u64,
        offset: u64,
        protection: Protection,
    ) -> bool {
        if !(address | offset).is_multiple_of(PAGE_BYTES)
            || address < USER_START
            || address >= self.mode.areas_start()
            || !rights.contains(protection.needs())
        {
            return false;
        }
        let Some(frame) = object.settled_frame(offset / PAGE_BYTES) else {
            return false;
        };
        let access = access_of(protection);
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if inner.must_live().is_err() {
            return false;
        }
        let region = Region {
            start: address,
            end: address + PAGE_BYTES,
            offset,
            object: object.clone(),
            access,
            limit: rights,
        };
        if inner.regions.insert_simply(region).is_err() {
            return false;
        }
        let at = VirtAddr::new_truncate(address);
        // If a table is missing, a fault makes it.
        // SAFETY: the frame stays the object's as long as the region refers to it; the rights are the region's.
        let _ = unsafe { inner.tables.map_simply(at, frame, Attributes::user(access)) };
        true
    }

    /// Unmaps the page at `address` of the space that this CPU has loaded, if that is a mapping of its own beside others. Whether it did.
    #[inline]
    pub fn unmap_page(&self, address: u64) -> bool {
        if !address.is_multiple_of(PAGE_BYTES)
            || address >= self.mode.areas_start()
            || self.is_landing(address)
        {
            return false;
        }
        let mut inner = self.inner.lock();
        let state = &mut *inner;
        let table = address & !(TABLE_SPAN - 1);
        let taken =
            state
                .regions
                .take_simply(address, address + PAGE_BYTES, |region, before, after| {
                    // The table must be needed by another: nobody looks whether it is empty.
                    let needed = before.end > table
                        || after.is_some_and(|after| after.start < table + TABLE_SPAN);
                    needed && region.object.is_settled()
                });
        let Some(region) = taken else {
            return false;
        };
        let at = VirtAddr::new_truncate(address);
        // SAFETY: user code gave the mapping up, and the object is let go of after the shoot-down.
        if unsafe { state.tables.unmap_simply(at) } {
            // It is the caller's space, so that this CPU has it loaded.
            tlb::shoot_down_page(&self.tlb, at);
        }
        drop(inner);
        drop(region);
        true
    }

    /// Whether an address is in the landing page's two pages, or would be if there is none: the page at 0 is never mapped.
    #[inline]
    fn is_landing(&self, address: u64) -> bool {
        address.wrapping_sub(self.landing) < abi::landing::BYTES
    }
}

impl MemoryObject {
    /// Whether it is ordinary memory whose frames, once there, stay, one by one.
    #[inline]
    fn is_settled(&self) -> bool {
        matches!(&self.backing, Backing::Anonymous(a) if a.sharing.is_none() && !a.large)
    }

    /// The frame of page `index`, if there is one and it stays.
    #[inline(always)]
    fn settled_frame(&self, index: u64) -> Option<PhysAddr> {
        match &self.backing {
            Backing::Anonymous(anonymous) if self.is_settled() && index < self.pages => {
                anonymous.contents.lock().radix.get(index)
            }
            _ => None,
        }
    }
}
