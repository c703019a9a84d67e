//! The end of an address space: bounded pieces, each of which leaves it such that the next can go on.
//!
//! First every CPU is made to leave it, then its mappings go one by one, as objects may look in meanwhile, then its tables, and its root last.

use abi::layout::USER_END;
use arch::tlb;

use super::super::discard::Leaves;
use super::super::{Progress, account, frames};
use super::{ENTRIES_A_PIECE, Inner, Life, REGIONS_A_PIECE, Space, TABLE_SPAN};
use crate::object::{Object, Slab};

impl Space {
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
                Some(region) => region.object.detach(self, region.delta()),
                None => return true,
            }
        }
        false
    }
}

impl Inner {
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
