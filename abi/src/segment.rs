//! Segments that a program may have of its own: the three thread-area slots of each thread.
//!
//! 64-bit code needs none: it has the FS and GS bases. 32-bit code reaches its thread's data through a segment, whose
//! descriptor lies in one of these slots and whose selector it loads into FS or GS. A thread has its slots to itself; the
//! kernel carries them into the descriptor table of whatever CPU the thread runs on.

/// Slots that a thread has.
pub const TLS_SLOTS: usize = 3;

/// The selector of the first slot, RPL 3. The next slots follow at distances of 8.
pub const TLS_FIRST_SELECTOR: u16 = 0x40 | 3;

/// The selector of a slot, RPL 3; `None` past the last.
pub const fn tls_selector(slot: usize) -> Option<u16> {
    if slot < TLS_SLOTS {
        Some(TLS_FIRST_SELECTOR + 8 * slot as u16)
    } else {
        None
    }
}

/// A data segment, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataSegment {
    /// Linear address of its first byte.
    pub base: u32,
    /// Its last offset, in bytes or in pages of 4096; 20 bits.
    pub limit: u32,
    /// Whether `limit` counts pages.
    pub limit_in_pages: bool,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether its valid offsets are those *above* the limit.
    pub expand_down: bool,
}

impl DataSegment {
    /// A writable segment from `base` to the end of the 32-bit address space and around.
    pub const fn flat(base: u32) -> DataSegment {
        DataSegment {
            base,
            limit: 0xF_FFFF,
            limit_in_pages: true,
            writable: true,
            expand_down: false,
        }
    }

    /// The segment as the descriptor table has it (Intel SDM vol. 3A §3.4.5): present, DPL 3, 32-bit, accessed. Bits of `limit`
    /// past the twentieth are dropped.
    pub const fn descriptor(self) -> u64 {
        let base = self.base as u64;
        let limit = self.limit as u64;
        limit & 0xFFFF
            | (base & 0xFF_FFFF) << 16
            | (0xF1 | (self.writable as u64) << 1 | (self.expand_down as u64) << 2) << 40
            | (limit >> 16 & 0xF) << 48
            | 1 << 54
            | (self.limit_in_pages as u64) << 55
            | (base >> 24) << 56
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_has_its_fields_where_the_manual_has_them() {
        // The flat user data segment of any 32-bit system.
        assert_eq!(DataSegment::flat(0).descriptor(), 0x00CF_F300_0000_FFFF);
        let small = DataSegment {
            base: 0x1234_5678,
            limit: 0x9_ABCD,
            limit_in_pages: false,
            writable: false,
            expand_down: true,
        };
        assert_eq!(small.descriptor(), 0x1249_F534_5678_ABCD);
    }

    #[test]
    fn there_are_three_selectors() {
        assert_eq!(
            [0, 1, 2, 3].map(tls_selector),
            [Some(0x43), Some(0x4B), Some(0x53), None]
        );
    }
}
