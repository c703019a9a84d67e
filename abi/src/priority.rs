//! Thread priorities.

/// A thread's priority: 0 (lowest) to 63 (highest).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Priority(u8);

impl Priority {
    /// How many there are.
    pub const LEVELS: usize = 64;
    /// The lowest.
    pub const LOWEST: Priority = Priority(0);
    /// What a program gets unless the manifest says otherwise.
    pub const NORMAL: Priority = Priority(16);
    /// The highest.
    pub const HIGHEST: Priority = Priority(63);

    /// The priority with this number, `None` above 63.
    pub const fn new(level: u64) -> Option<Priority> {
        if level < Self::LEVELS as u64 {
            Some(Priority(level as u8))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn level(self) -> u8 {
        self.0
    }
}
