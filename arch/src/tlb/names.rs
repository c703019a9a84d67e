//! Names for address spaces in a CPU's TLB (process-context identifiers, PCIDs), so that a space finds what it left there when it
//! comes back.
//!
//! A CPU has a small table of its own, in which each space has one place, by its number. The place says whose entries the name
//! stands for and how old they may be. So there are two ways for entries to have become useless, and one check finds
//! both: the place is another space's now, or the space's *generation* has grown since. Either way the name is flushed
//! as it is loaded.
//!
//! Numbers of spaces are never used twice, generations only grow, both have 64 bits: nothing wraps, and a space that died needs
//! no clearing up. Without the check a name that is used again, or one whose space lost pages while another was loaded here,
//! would bring back entries for frames that have another owner by now.

use core::sync::atomic::Ordering;

use super::protocol::{Space, Word};

/// How many names a CPU uses besides that of the kernel's own space, of the 4095 that there are (Intel SDM vol. 3A §4.10.1; half as
/// many if the kernel is kept apart, as each space then has two). More would take memory, and find little left in the TLB.
pub(super) const NAMES: usize = if cfg!(test) { 3 } else { 32 };

/// The number of the kernel's own space, which no other space has.
pub(super) const KERNEL_ID: u64 = 0;
/// Nobody's number.
const NOBODY: u64 = u64::MAX;

/// A name: bits 11 to 0 of CR3. 0 is the kernel's own space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name(pub u16);

/// What is behind one name.
#[derive(Debug)]
struct Place<W> {
    id: W,
    /// Nothing in the TLB under this name is older than this generation of the space.
    generation: W,
}

/// One CPU's table. Read and written by its own CPU only.
#[derive(Debug)]
pub(super) struct Names<W> {
    places: [Place<W>; NAMES],
}

impl Names<core::sync::atomic::AtomicU64> {
    pub(super) const fn new() -> Self {
        use core::sync::atomic::AtomicU64;
        Names {
            places: [const {
                Place {
                    id: AtomicU64::new(NOBODY),
                    generation: AtomicU64::new(0),
                }
            }; NAMES],
        }
    }
}

impl<W: Word> Names<W> {
    #[cfg(test)]
    pub(super) fn of(word: &impl Fn(u64) -> W) -> Names<W> {
        Names {
            places: core::array::from_fn(|_| Place {
                id: word(NOBODY),
                generation: word(0),
            }),
        }
    }

    fn index(id: u64) -> usize {
        (id % NAMES as u64) as usize
    }

    /// The name under which `space` is to be loaded, and whether what the TLB holds under it may stay. To be called with the space
    /// published and a fence behind that: the generation that is read here must be no older.
    #[inline]
    pub(super) fn take(&self, space: &Space<W>) -> (Name, bool) {
        if space.id() == KERNEL_ID {
            // Nothing is ever taken away from it.
            return (Name(0), true);
        }
        let index = Self::index(space.id());
        let place = &self.places[index];
        // Read before the flush that may follow, so that the flush is the younger.
        let generation = space.generation(Ordering::Acquire);
        let keep = place.id.load(Ordering::Relaxed) == space.id()
            && place.generation.load(Ordering::Relaxed) == generation;
        if !keep {
            place.id.store(space.id(), Ordering::Relaxed);
            place.generation.store(generation, Ordering::Relaxed);
        }
        (Name(index as u16 + 1), keep)
    }

    /// Notes that nothing under the name of the space with this number is older than `generation`.
    pub(super) fn renew(&self, id: u64, generation: u64) {
        let place = &self.places[Self::index(id)];
        if place.id.load(Ordering::Relaxed) == id {
            place.generation.store(generation, Ordering::Relaxed);
        }
    }

    /// How old entries under that name may be; `None` if the space has none here.
    pub(super) fn generation(&self, id: u64) -> Option<u64> {
        let place = &self.places[Self::index(id)];
        (place.id.load(Ordering::Relaxed) == id).then(|| place.generation.load(Ordering::Relaxed))
    }

    /// Lets the name of the space with this number be flushed when it is loaded next.
    pub(super) fn forget(&self, id: u64) {
        let place = &self.places[Self::index(id)];
        if place.id.load(Ordering::Relaxed) == id {
            place.id.store(NOBODY, Ordering::Relaxed);
        }
    }
}
