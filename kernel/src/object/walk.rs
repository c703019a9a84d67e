//! All objects of a type, one after another: for lists.
//!
//! Slots stay where they are for ever, so each has a number: how many came before it. An object keeps its slot, so whoever goes through the numbers
//! comes upon every object that is there all the while, and upon none twice, whatever comes and goes meanwhile. It takes no lock, and one can stop
//! anywhere and go on later, which is what keeps a list of ten thousand threads from holding up anybody: whoever walks does so in pieces, with preemption points
//! between.

use core::ptr;

use super::reference::Borrowed;
use super::slab::{Object, Slab, Slot};
use crate::object::Section;

/// A place among the slots of a slab.
pub(crate) struct Walk<T: Object> {
    /// The first slot of the frame; null before the first frame.
    frame: *const Slot<T>,
    /// The slot in the frame.
    index: usize,
    /// The number of the frame's first slot.
    base: u64,
}

/// What is at a place.
pub(crate) enum Step<'s, T: Object> {
    /// An object that was alive a moment ago.
    Object(Borrowed<'s, T>),
    /// Nothing.
    Free,
    /// The end of all slots that there are so far.
    End,
}

impl<T: Object> Walk<T> {
    /// The first place.
    pub(crate) fn begin() -> Walk<T> {
        Walk {
            frame: T::slab().frame_after(ptr::null()),
            index: 0,
            base: 0,
        }
    }

    /// The number of the slot that [`next`](Self::next) will look at.
    pub(crate) fn number(&self) -> u64 {
        self.base + self.index as u64
    }

    /// Goes forward to the slot `number`, past `most` frames at most; false if it has yet to go on. Behind the last slot it stays there.
    pub(crate) fn go_to(&mut self, number: u64, most: usize) -> bool {
        for _ in 0..most {
            let left = number.saturating_sub(self.base);
            if left < Slab::<T>::PER_FRAME as u64 {
                self.index = self.index.max(left as usize);
                return true;
            }
            if !self.go_to_next_frame() {
                self.index = Slab::<T>::PER_FRAME;
                return true;
            }
        }
        false
    }

    /// Looks at one slot, and goes on to the next.
    pub(crate) fn next<'s>(&mut self, section: &'s Section) -> Step<'s, T> {
        if self.index == Slab::<T>::PER_FRAME && !self.go_to_next_frame() || self.frame.is_null() {
            return Step::End;
        }
        let slot = self.frame.wrapping_add(self.index);
        self.index += 1;
        // SAFETY: the frame has as many slots, whose heads were written before it was linked.
        let (references, value) = unsafe { (&(*slot).references, &raw const (*slot).value) };
        if references.is_none() {
            return Step::Free;
        }
        // SAFETY: somebody counts it, so it is not retired; the value is the slot's.
        Step::Object(unsafe { Borrowed::from_ptr(value.cast(), section) })
    }

    fn go_to_next_frame(&mut self) -> bool {
        let next = T::slab().frame_after(self.frame);
        if next.is_null() {
            return false;
        }
        if !self.frame.is_null() {
            self.base += Slab::<T>::PER_FRAME as u64;
        }
        (self.frame, self.index) = (next, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing;
    use crate::object::Ref;

    /// Something of which several fit into a frame.
    struct Thing(u64, [u64; 100]);

    static SLAB: Slab<Thing> = Slab::new();

    impl Object for Thing {
        fn slab() -> &'static Slab<Self> {
            &SLAB
        }
    }

    /// The things from a slot on, at most so many: their numbers and those of the slots behind them.
    fn things(first: u64, most: usize) -> Vec<(u64, u64)> {
        // SAFETY: no quiescent point is declared in here.
        let section = unsafe { Section::enter() };
        let mut walk = Walk::<Thing>::begin();
        while !walk.go_to(first, 1) {}
        let mut found = Vec::new();
        while found.len() < most {
            match walk.next(&section) {
                Step::Object(thing) => found.push((thing.0, walk.number())),
                Step::Free => {}
                Step::End => break,
            }
        }
        found
    }

    #[test]
    fn a_walk_in_pieces_comes_upon_all_that_stay_once() {
        testing::machine();
        assert_eq!(things(0, 9), []);
        assert_eq!(things(77, 9), []);
        let mut all: Vec<Ref<Thing>> = (0..40)
            .map(|number| Ref::try_new(Thing(number, [0; 100])).ok().unwrap())
            .collect();
        assert!(SLAB.frames() > 5);
        let mut whole = things(0, 100);
        whole.sort_unstable();
        let numbers = |found: &[(u64, u64)]| found.iter().map(|thing| thing.0).collect::<Vec<_>>();
        assert_eq!(numbers(&whole), (0..40).collect::<Vec<_>>());
        // Each slot by itself, and where there is none any more.
        for &(number, behind) in &whole {
            assert_eq!(things(behind - 1, 1), [(number, behind)]);
        }
        assert_eq!(things(1 << 40, 1), []);
        // In pieces, while others come and go in between.
        for piece in [1, 2, 3, 7] {
            let stays = |number: u64| number.is_multiple_of(3);
            let mut seen = Vec::new();
            let mut cursor = 0;
            loop {
                let found = things(cursor, piece);
                let Some(&(_, next)) = found.last() else {
                    break;
                };
                cursor = next;
                seen.extend(numbers(&found));
                // Not for ever: what has gone is retired here and not destroyed, so each that comes has a slot of its own.
                if seen.len() > 30 {
                    continue;
                }
                let goes = all.iter().position(|thing| !stays(thing.0)).unwrap();
                drop(all.remove(goes));
                let comes = 100 + 3 * seen.len() as u64 + 1;
                all.push(Ref::try_new(Thing(comes, [0; 100])).ok().unwrap());
            }
            seen.retain(|&number| stays(number));
            seen.sort_unstable();
            let wanted: Vec<u64> = (0..40).filter(|&number| stays(number)).collect();
            assert_eq!(seen, wanted, "in pieces of {piece}");
        }
    }
}
