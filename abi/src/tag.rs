//! The message tag: what a message carries beside its six words.
//!
//! | bits | field |
//! |---|---|
//! | 0..=12 | bytes in the IPC area's buffer, 0 to 4096 |
//! | 13..=15 | zero |
//! | 16..=18 | handles, 0 to 4 |
//! | 19 | zero |
//! | 20..=23 | bit *i*: handle *i* is moved, not copied |
//! | 24 | the receive half of this call takes handles: as many as [`IpcHeader::accept`](crate::ipc_area::IpcHeader::accept) says, else none |
//! | 25..=31 | zero |
//! | 32..=63 | label: the two sides' own (an operation, a result) |
//!
//! Bit 24 is for `call` and `reply_recv`; the receiver of a call sees by it whether an answer may bring handles. `recv`, which sends no
//! tag, takes what the IPC area says.

use crate::ipc_area::{BUFFER_BYTES, MAX_HANDLES};

/// A message's tag word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Tag(pub u64);

/// What a message carries beside its words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// Bytes, or nothing. The tag has a meaning.
    Bytes,
    /// One handle, which leaves the sender's table, and bytes or none. The tag has a meaning.
    OneMoved,
    /// Anything else, if it has a meaning.
    Other,
}

/// What is wrong with a tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TagError {
    /// More than 4096 bytes.
    TooManyBytes,
    /// More than four handles.
    TooManyHandles,
    /// A reserved bit is set, or a move bit for a handle that is not there.
    ReservedBits,
}

const BYTES_MASK: u64 = 0x1FFF;
const HANDLES_SHIFT: u32 = 16;
const MOVE_SHIFT: u32 = 20;
const TAKES: u64 = 1 << 24;
/// One handle, and it is moved.
const ONE_MOVED: u32 = 1 << HANDLES_SHIFT | 1 << MOVE_SHIFT;
const RESERVED: u64 = 0xFE08_E000;

impl Tag {
    /// A tag with a label, and neither bytes nor handles.
    pub const fn new(label: u32) -> Tag {
        Tag((label as u64) << 32)
    }

    /// The same tag with a count of buffer bytes; more than 4096 makes the tag invalid.
    #[must_use]
    pub const fn with_bytes(self, bytes: usize) -> Tag {
        let bytes = if bytes > BUFFER_BYTES {
            BYTES_MASK
        } else {
            bytes as u64
        };
        Tag(self.0 & !BYTES_MASK | bytes)
    }

    /// The same tag with a count of handles and a mask of those that are moved; too many make the tag invalid.
    #[must_use]
    pub const fn with_handles(self, handles: usize, moved: u8) -> Tag {
        let handles = if handles > MAX_HANDLES {
            7
        } else {
            handles as u64
        };
        Tag(self.0 & !0x00F7_0000 | handles << HANDLES_SHIFT | ((moved & 0xF) as u64) << MOVE_SHIFT)
    }

    /// The label.
    pub const fn label(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bytes in the buffer.
    pub const fn bytes(self) -> usize {
        (self.0 & BYTES_MASK) as usize
    }

    /// Handles carried.
    pub const fn handles(self) -> usize {
        (self.0 >> HANDLES_SHIFT & 7) as usize
    }

    /// Whether handle `index` leaves the sender's table.
    pub const fn moves(self, index: usize) -> bool {
        self.0 >> (MOVE_SHIFT as usize + index) & 1 != 0 && index < MAX_HANDLES
    }

    /// Of which kind the message is, by what it costs to carry.
    #[inline]
    pub const fn load(self) -> Load {
        let low = (self.0 & !TAKES) as u32;
        if low <= BUFFER_BYTES as u32 {
            Load::Bytes
        } else if low.wrapping_sub(ONE_MOVED) <= BUFFER_BYTES as u32 {
            Load::OneMoved
        } else {
            Load::Other
        }
    }

    /// The same tag for one that takes handles with what it receives.
    #[must_use]
    pub const fn taking_handles(self) -> Tag {
        Tag(self.0 | TAKES)
    }

    /// Whether its sender takes handles with what it receives.
    pub const fn takes_handles(self) -> bool {
        self.0 & TAKES != 0
    }

    /// Whether the message is its words alone, and its sender takes no more: the direct way is for these.
    #[inline]
    pub const fn is_plain(self) -> bool {
        self.0 as u32 == 0
    }

    /// The tag, if it has a meaning.
    ///
    /// # Errors
    /// Names the first field that has none.
    #[inline]
    pub const fn check(self) -> Result<Tag, TagError> {
        if matches!(self.load(), Load::Bytes | Load::OneMoved) {
            return Ok(self);
        }
        self.check_all()
    }

    const fn check_all(self) -> Result<Tag, TagError> {
        if self.bytes() > BUFFER_BYTES {
            return Err(TagError::TooManyBytes);
        }
        if self.handles() > MAX_HANDLES {
            return Err(TagError::TooManyHandles);
        }
        let moved = self.0 >> MOVE_SHIFT & 0xF;
        if self.0 & RESERVED != 0 || moved >> self.handles() != 0 {
            return Err(TagError::ReservedBits);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_they_were_put_in() {
        let tag = Tag::new(0xDEAD_BEEF)
            .with_bytes(4096)
            .with_handles(4, 0b1010);
        assert_eq!(tag.check(), Ok(tag));
        assert_eq!(
            (tag.label(), tag.bytes(), tag.handles()),
            (0xDEAD_BEEF, 4096, 4)
        );
        assert_eq!(
            [0, 1, 2, 3, 4].map(|i| tag.moves(i)),
            [false, true, false, true, false]
        );
        assert!(!tag.is_plain());
        assert!(Tag::new(7).is_plain());
        let takes = Tag::new(7).taking_handles();
        assert!(takes.takes_handles() && !takes.is_plain() && takes.check().is_ok());
    }

    #[test]
    fn what_costs_little_to_carry_is_told_from_all_else() {
        for handles in 0..=4 {
            for moved in 0..16_u8 {
                let tag = Tag::new(9).with_handles(handles, moved).with_bytes(4096);
                let load = match (handles, moved) {
                    (0, 0) => Load::Bytes,
                    (1, 1) => Load::OneMoved,
                    _ => Load::Other,
                };
                assert_eq!(tag.load(), load);
                assert_eq!(tag.taking_handles().load(), load);
                assert_eq!(tag.check().is_ok(), u32::from(moved) >> handles == 0);
                assert_eq!(tag.taking_handles().check().is_ok(), tag.check().is_ok());
                assert!(Tag(tag.0 + 1).check().is_err());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert_eq!(
            Tag::new(0).with_bytes(4097).check(),
            Err(TagError::TooManyBytes)
        );
        assert_eq!(
            Tag::new(0).with_handles(5, 0).check(),
            Err(TagError::TooManyHandles)
        );
        assert_eq!(
            Tag::new(0).with_handles(1, 0b10).check(),
            Err(TagError::ReservedBits)
        );
        for bit in [13, 14, 15, 19, 25, 31] {
            assert_eq!(
                Tag(1 << bit).check(),
                Err(TagError::ReservedBits),
                "bit {bit}"
            );
        }
    }
}
