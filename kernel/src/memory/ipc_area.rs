//! The IPC areas of a process's threads.
//!
//! An area is two frames of the address space's own, mapped from the start and for good, so that the kernel can write a message
//! through the direct map without a fault and without a race with an unmapping. They lie in a stretch of
//! addresses that is closed to all other calls. What may go wrong is the order at the end: the kernel lets go of an area
//! before the area is unmapped, and its frames are freed only after the shoot-down.

use abi::{Error, ipc_area};
use arch::addr::{PhysAddr, VirtAddr};
use arch::paging::{Access, Attributes, MapError, PAGE_BYTES, PageSize};
use arch::tlb;

use super::account::{self, Account};
use super::frames::{self, FrameKind};
use super::mode::Mode;
use super::space::{ChargedTables, Inner, Space, charged_frame};
use crate::object::Ref;

/// A thread's IPC area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpcArea {
    /// Where the process sees it.
    pub address: u64,
    /// Its header page and its buffer page, zeroed when it is made.
    pub frames: [PhysAddr; 2],
}

/// From one IPC area to the next: an area, and as much unmapped, so that running over a buffer's end faults.
const IPC_STRIDE: u64 = 2 * ipc_area::AREA_BYTES;

/// How many IPC areas a space has room for.
pub const fn max_ipc_areas(mode: Mode) -> u32 {
    ((mode.end() - mode.areas_start()) / IPC_STRIDE) as u32
}

impl Space {
    /// Makes IPC area number `index`: two zeroed frames, mapped for good.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] from [`max_ipc_areas`] up; [`Error::AlreadyMapped`]; [`Error::NoMemory`];
    /// [`Error::QuotaExceeded`]; [`Error::Ended`].
    pub fn map_ipc_area(&self, index: u32) -> Result<IpcArea, Error> {
        let address = ipc_address(self.mode(), index)?;
        let mut inner = self.inner.lock();
        inner.must_live()?;
        if let Some(frames) = inner.map_two_owned(self.account.as_ref(), address) {
            return Ok(IpcArea { address, frames });
        }
        if inner.tables.translate(VirtAddr::new(address)).is_some() {
            return Err(Error::AlreadyMapped);
        }
        let mut made = [None; 2];
        for page in 0..2 {
            match inner.map_owned(self.account.as_ref(), address + page * PAGE_BYTES) {
                Ok(frame) => made[page as usize] = Some(frame),
                Err(error) => {
                    if page == 1 {
                        self.take_ipc_pages(&mut inner, address);
                    }
                    return Err(error);
                }
            }
        }
        match made {
            [Some(header), Some(buffer)] => Ok(IpcArea {
                address,
                frames: [header, buffer],
            }),
            _ => Err(Error::NoMemory),
        }
    }

    /// Whether there is an IPC area number `index`.
    pub fn has_ipc_area(&self, index: u32) -> bool {
        ipc_address(self.mode(), index).is_ok_and(|address| {
            let inner = self.inner.lock();
            inner.tables.translate(VirtAddr::new(address)).is_some()
        })
    }

    /// Ends IPC area number `index`: no CPU reaches its frames afterwards, and they are free.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::NotMapped`].
    ///
    /// # Safety
    /// The kernel may not use the area's frames any more.
    pub unsafe fn unmap_ipc_area(&self, index: u32) -> Result<(), Error> {
        let address = ipc_address(self.mode(), index)?;
        let mut inner = self.inner.lock();
        if inner.tables.translate(VirtAddr::new(address)).is_none() {
            return Err(Error::NotMapped);
        }
        self.take_ipc_pages(&mut inner, address);
        Ok(())
    }

    /// Unmaps those of an IPC area's two pages that are mapped, everywhere, and frees them.
    fn take_ipc_pages(&self, inner: &mut Inner, address: u64) {
        let mut frames = [None; 2];
        for (page, frame) in frames.iter_mut().enumerate() {
            let at = VirtAddr::new(address + page as u64 * PAGE_BYTES);
            // SAFETY: the kernel has given the area up, and the frame is freed after the shoot-down below.
            *frame = unsafe { inner.tables.unmap(at, PageSize::Size4K) }.ok();
        }
        tlb::shoot_down(&self.tlb, VirtAddr::new(address), 2);
        for frame in frames.into_iter().flatten() {
            frames::free_frame(frame);
            inner.charged -= 1;
            account::uncharge(self.account.as_ref(), 1);
        }
    }
}

impl Inner {
    /// Maps two fresh frames that belong to the space at once, if their tables are there and nothing else is. `None`, and nothing is done, otherwise.
    fn map_two_owned(&mut self, account: Option<&Ref<Account>>, at: u64) -> Option<[PhysAddr; 2]> {
        account::charge(account, 2).ok()?;
        let made = [(); 2].map(|()| frames::allocate_zeroed(FrameKind::User));
        if let [Some(header), Some(buffer)] = made {
            let attributes = Attributes::user(Access::ReadWrite);
            let frames = [header, buffer];
            // SAFETY: the frames are fresh, and freed only after they were unmapped everywhere.
            let mapped = unsafe {
                self.tables
                    .map_two_simply(VirtAddr::new(at), frames, attributes)
            };
            if mapped {
                self.charged += 2;
                return Some(frames);
            }
        }
        made.into_iter().flatten().for_each(frames::free_frame);
        account::uncharge(account, 2);
        None
    }

    /// Maps a fresh frame that belongs to the space.
    fn map_owned(&mut self, account: Option<&Ref<Account>>, at: u64) -> Result<PhysAddr, Error> {
        let frame = charged_frame(account, FrameKind::User)?;
        let mut source = ChargedTables {
            account,
            charged: &mut self.charged,
            refused: None,
        };
        let attributes = Attributes::user(Access::ReadWrite);
        // SAFETY: the frame is fresh, and freed only after it was unmapped everywhere.
        let mapped = unsafe {
            self.tables.map(
                VirtAddr::new(at),
                frame,
                PageSize::Size4K,
                attributes,
                &mut source,
            )
        };
        match mapped {
            Ok(()) => {
                self.charged += 1;
                Ok(frame)
            }
            Err(error) => {
                let error = source.refused.unwrap_or_else(|| MapError::into(error));
                frames::free_frame(frame);
                account::uncharge(account, 1);
                Err(error)
            }
        }
    }
}

fn ipc_address(mode: Mode, index: u32) -> Result<u64, Error> {
    if index < max_ipc_areas(mode) {
        Ok(mode.areas_start() + u64::from(index) * IPC_STRIDE)
    } else {
        Err(Error::OutOfRange)
    }
}
