//! Memory for a front end whose firmware has no allocator: whole pages out of the memory map.
//!
//! Pages are taken from the top down, so that what ordinary code likes to have low (the first MiB, memory for DMA of old
//! devices) stays free for the kernel, and each block is remembered, since the kernel's memory map has to list it. Nothing
//! is ever given back: a boot either succeeds, and then the kernel owns everything, or the machine starts anew.

use crate::acpi::Extent;
use crate::addr::{PAGE_SIZE, PhysAddr, page_down, pages_for};
use crate::memmap::{Kind, Region};
use alloc::vec::Vec;

/// Free memory, and what was taken of it.
#[derive(Debug)]
pub struct Frames {
    /// By address, without overlap.
    free: Vec<(u64, u64)>,
    taken: Vec<Extent>,
}

impl Frames {
    /// All usable memory from `low` to `high` in a finished memory map.
    #[must_use]
    pub fn new(map: &[Region], low: u64, high: u64) -> Self {
        let free = map
            .iter()
            .filter(|r| r.kind == Kind::Usable)
            .map(|r| (r.base.max(low), r.end.min(page_down(high))))
            .filter(|(base, end)| base < end)
            .collect();
        Self {
            free,
            taken: Vec::new(),
        }
    }

    /// Takes pages for `bytes` bytes, at least one, in one piece.
    pub fn take(&mut self, bytes: u64) -> Option<Extent> {
        let length = pages_for(bytes).max(1).checked_mul(PAGE_SIZE)?;
        let room = self
            .free
            .iter_mut()
            .rev()
            .find(|(base, end)| end - base >= length)?;
        room.1 -= length;
        let extent = Extent {
            base: PhysAddr(room.1),
            length,
        };
        self.taken.push(extent);
        Some(extent)
    }

    /// Bytes that are free.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(|(base, end)| end - base).sum()
    }

    /// What was taken so far.
    #[must_use]
    pub fn taken(&self) -> &[Extent] {
        &self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memmap::Region;
    use proptest::prelude::*;

    const fn region(base: u64, end: u64, kind: Kind) -> Region {
        Region { base, end, kind }
    }

    #[test]
    fn pages_come_from_the_top_of_what_is_usable_and_allowed() {
        let map = [
            region(0, 0x10_0000, Kind::Usable),
            region(0x10_0000, 0x20_0000, Kind::Usable),
            region(0x20_0000, 0x30_0000, Kind::Reserved),
            region(0x30_0000, 0x40_0000, Kind::Usable),
        ];
        let mut frames = Frames::new(&map, 0x10_0000, 0x30_2fff);
        assert_eq!(frames.take(1).unwrap().base, PhysAddr(0x30_1000));
        // Too big for what is left up there.
        assert_eq!(frames.take(0x2000).unwrap().base, PhysAddr(0x1f_e000));
        assert_eq!(frames.take(0).unwrap().length, PAGE_SIZE);
        assert_eq!(frames.take(0x10_0000), None);
        assert_eq!(frames.take(u64::MAX), None);
        assert_eq!(frames.taken().len(), 3);
        assert_eq!(frames.free_bytes(), 0xf_d000 + 0x1000);
    }

    proptest! {
        #[test]
        fn blocks_are_usable_and_apart(sizes in proptest::collection::vec(1..0x2_0000_u64, 1..40)) {
            let map = [
                region(0x1000, 0x8000, Kind::Usable),
                region(0x8000, 0x9000, Kind::AcpiNvs),
                region(0x9000, 0x10_0000, Kind::Usable),
            ];
            let mut frames = Frames::new(&map, 0, u64::MAX);
            for size in sizes {
                if let Some(e) = frames.take(size) {
                    prop_assert!(e.length >= size && e.length % PAGE_SIZE == 0);
                    let end = e.base.0 + e.length;
                    prop_assert!(map.iter().any(|r| r.kind == Kind::Usable && r.base <= e.base.0 && end <= r.end));
                }
            }
            let taken = frames.taken();
            for (n, a) in taken.iter().enumerate() {
                for b in &taken[n + 1..] {
                    prop_assert!(a.base.0 + a.length <= b.base.0 || b.base.0 + b.length <= a.base.0);
                }
            }
        }
    }
}
