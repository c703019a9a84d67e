//! Room for a mapping whose place the kernel chooses.
//!
//! It is behind the last one that was chosen, or the first from where such mappings begin, or the first at all. A space may have thousands of
//! mappings in a row, so the search goes by pieces, and others may have the CPU in between.
//!
//! What may go wrong: others map and unmap meanwhile. Who takes what was found may come too late, and searches again. Room that comes to be where
//! the search has been already is not found by that pass.

use abi::Error;
use abi::layout::USER_START;
use arch::paging::PAGE_BYTES;

use super::{Inner, Space, TABLE_SPAN};

/// Mappings that one piece of a search passes over.
const PASSED_A_PIECE: usize = 32;

/// How far a search for room has come.
struct Search {
    bytes: u64,
    pass: Pass,
    /// Where it goes on.
    start: u64,
}

/// Where a search looks, one after the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// From the last mapping on whose place was chosen.
    Next,
    /// From where mappings are put that the kernel chooses.
    Chosen,
    /// Everywhere.
    Anywhere,
}

/// What a piece of a search came to.
enum Found {
    Room(u64),
    /// Not yet.
    More,
}

impl Space {
    /// Where there is room for a mapping of `bytes` bytes; the next one is looked for behind it. `pause` is called between pieces,
    /// without a lock.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if there is none.
    pub(super) fn find_room(&self, bytes: u64, pause: &mut dyn FnMut()) -> Result<u64, Error> {
        let mut search: Option<Search> = None;
        loop {
            let mut inner = self.inner.lock();
            let search = search.get_or_insert_with(|| Search::new(bytes, inner.next));
            if let Found::Room(start) = inner.search(search)? {
                inner.next = start + bytes + PAGE_BYTES;
                return Ok(start);
            }
            drop(inner);
            pause();
        }
    }
}

impl Search {
    fn new(bytes: u64, next: u64) -> Search {
        let mut search = Search {
            bytes,
            pass: Pass::Next,
            start: 0,
        };
        search.go_on_at(next);
        search
    }

    /// The next place to look at is the first from `address` on.
    fn go_on_at(&mut self, address: u64) {
        // Large mappings are aligned so that large pages can serve them; without regard to that only if there is no other room.
        let align = if self.bytes >= TABLE_SPAN && self.pass != Pass::Anywhere {
            TABLE_SPAN
        } else {
            PAGE_BYTES
        };
        self.start = address.next_multiple_of(align);
    }
}

impl Inner {
    /// Looks for room for a while.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: there is none.
    fn search(&self, search: &mut Search) -> Result<Found, Error> {
        for _ in 0..PASSED_A_PIECE {
            let end = search
                .start
                .checked_add(search.bytes)
                .filter(|&end| end <= self.mode.areas_start());
            let Some(end) = end else {
                let from;
                (search.pass, from) = match search.pass {
                    Pass::Next => (Pass::Chosen, self.mode.map_start()),
                    Pass::Chosen => (Pass::Anywhere, USER_START),
                    Pass::Anywhere => return Err(Error::NoMemory),
                };
                search.go_on_at(from);
                continue;
            };
            match self.regions.ending_after(search.start) {
                // A page stays free between mappings whose place the kernel chose, so that running over an end faults.
                Some(region) if region.start < end => search.go_on_at(region.end + PAGE_BYTES),
                _ => return Ok(Found::Room(search.start)),
            }
        }
        Ok(Found::More)
    }
}
