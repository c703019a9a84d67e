//! Handles and badges.

/// A name for an object in one process's handle table: slot index in the low 32 bits, generation in the high 32.
///
/// A slot's generation grows at each close, and a slot whose generation is used up is never used again, so that a
/// stale handle can't reach a later object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Handle(pub u64);

impl Handle {
    /// No handle. No slot ever has generation 0.
    pub const NONE: Handle = Handle(0);

    /// The handle of slot `index` in its `generation`.
    pub const fn new(index: u32, generation: u32) -> Handle {
        Handle(index as u64 | (generation as u64) << 32)
    }

    /// The slot.
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// The generation.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether this is [`Handle::NONE`].
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// What an endpoint's owner wrote on a handle when it minted it; each message through the handle carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Badge(pub u64);
