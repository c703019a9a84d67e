//! Page faults of an address space: what is mapped, filled, made an object's own, or waited for, so that the access can be tried again.
//!
//! A fault is looked at under the lock of the space, and what takes long, or needs another lock, is done without it; then it is looked at again. After a few
//! looks the access itself is tried again, so that a CPU never stays here.
//!
//! What may go wrong: two CPUs fault on one page. The second finds the entry, or makes the same.

use abi::Error;
use abi::layout::USER_START;
use arch::addr::VirtAddr;
use arch::paging::{Access, Attributes, PAGE_BYTES, PageSize};
use arch::tlb;

use super::super::cloning::Page;
use super::super::large::Large;
use super::super::object::MemoryObject;
use super::super::regions::Region;
use super::{ChargedTables, Inner, Space};
use crate::object::Ref;

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

impl Space {
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
