//! Pages of 2 MiB: fewer faults, and one entry of the TLB where there would be 512.
//!
//! Where 2 MiB of an object lie in a row at a border of 2 MiB, and a mapping has them at such a border as well, a fault maps them as
//! one page. So it is with device memory, and with [memory in a row](super::contiguous), by themselves. Ordinary memory gets its frames
//! one by one, which lie anywhere; only an object that was made to have large pages gets 2 MiB at once, when a program first
//! touches them. Zeroing them takes long, so it is done in pieces, without a lock, and by the one who touched: others who do the same
//! meanwhile have done it in vain.
//!
//! In an object that can be [cloned](super::cloning) a large page is shared as a whole, and mapped as one for reading. A write to it takes that entry
//! out and gives the writer's object a table of small pages, of which one is a copy; so a write copies 4 KiB, and not 2 MiB without a pause. The table is
//! charged with the large page, as a write to what is shared needs no quota but for a page table, if the space had none there.
//!
//! Nothing else needs to know of it: [page tables are a cache](super::space). When a part of a large page is unmapped or gets other
//! rights, the whole entry goes, and what is left comes back by faults, in small pages.

use abi::Error;
use arch::addr::PhysAddr;
use arch::paging::{PAGE_BYTES, PageSize};

use super::account;
use super::cloning::Change;
use super::frames::{self, FrameKind};
use super::object::{Anonymous, Backing, Contents, MemoryObject, copy};

/// Small pages in a large one.
const PAGES: u64 = PageSize::Size2M.bytes() / PAGE_BYTES;
/// Order of the block of frames that it takes.
const ORDER: u8 = PAGES.trailing_zeros() as u8;

/// What there is for a large page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Large {
    /// Its first frame.
    Frame(PhysAddr),
    /// Nothing yet, but it can be [made](MemoryObject::fill_large).
    ToBeFilled,
    /// Only small pages.
    No,
}

impl MemoryObject {
    /// What there is for the large page that page `index` is in; `for_writing`: to be mapped so that it can be written.
    pub(super) fn large_page(&self, index: u64, for_writing: bool) -> Large {
        let first = index - index % PAGES;
        if first + PAGES > self.pages {
            return Large::No;
        }
        match &self.backing {
            Backing::Physical { start, .. } => {
                let frame = *start + first * PAGE_BYTES;
                if frame.is_aligned(PageSize::Size2M.bytes()) {
                    Large::Frame(frame)
                } else {
                    Large::No
                }
            }
            Backing::Anonymous(anonymous) if anonymous.large => {
                let contents = anonymous.contents.lock();
                // A page of it that is about to have another frame must not be mapped.
                if matches!(contents.change, Change::Page(page) if page - page % PAGES == first) {
                    return Large::No;
                }
                match contents.radix.get_large(first) {
                    Some(_) if for_writing && !anonymous.owns_large(&contents, first) => Large::No,
                    Some(frame) => Large::Frame(frame),
                    None if contents.radix.is_void(first) => Large::ToBeFilled,
                    None => Large::No,
                }
            }
            Backing::Anonymous(_) => Large::No,
        }
    }

    /// Makes a large page, all zero, where there is nothing yet, with calls of `pause` in between. No lock may be held. If somebody else was
    /// faster, or it is no such object, nothing is changed.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`]; [`Error::NoMemory`] if no 2 MiB lie in a row.
    pub(super) fn fill_large(&self, index: u64, pause: &mut dyn FnMut()) -> Result<(), Error> {
        let Backing::Anonymous(anonymous) = &self.backing else {
            return Ok(());
        };
        let account = anonymous.account.as_ref();
        let charge = anonymous.large_charge();
        account::charge(account, charge)?;
        let Some(block) = frames::allocate_order(ORDER, FrameKind::User) else {
            account::uncharge(account, charge);
            return Err(Error::NoMemory);
        };
        frames::zero_run(block, PAGES, pause);
        let put = anonymous.put_large(index - index % PAGES, block);
        if !matches!(put, Ok(true)) {
            frames::free_frame(block);
            account::uncharge(account, charge);
        }
        put.map(drop)
    }
}

impl Anonymous {
    /// Frames that a large page costs: itself, and the table in its place if a part of it is written that is shared.
    fn large_charge(&self) -> u64 {
        PAGES + u64::from(self.sharing.is_some())
    }

    /// Whether all of a large page can be mapped for writing.
    fn owns_large(&self, contents: &Contents, first: u64) -> bool {
        self.sharing.is_none()
            || contents.change == Change::None && contents.radix.owns_large(first)
    }

    fn put_large(&self, first: u64, block: PhysAddr) -> Result<bool, Error> {
        let mut contents = self.contents.lock();
        let put = contents.radix.insert_large(
            first,
            block,
            self.sharing.is_some(),
            &mut |kind| self.make(kind),
            &mut copy,
        )?;
        if put {
            self.add_charged(self.large_charge());
        }
        Ok(put)
    }
}
