//! What a handle allows, and how memory is mapped.

use core::ops::{BitAnd, BitOr, Sub};

/// A set of rights. Rights only shrink: a duplicate, a grant or a transfer never has more than its source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Rights(pub u32);

impl Rights {
    /// No right at all.
    pub const NONE: Rights = Rights(0);
    /// Make a second handle in the same table.
    pub const DUPLICATE: Rights = Rights(1 << 0);
    /// Send the handle in a message, or grant it to another process.
    pub const TRANSFER: Rights = Rights(1 << 1);
    /// Ask about the object.
    pub const QUERY: Rights = Rights(1 << 2);
    /// Endpoint: `call` and `send`.
    pub const SEND: Rights = Rights(1 << 3);
    /// Endpoint: `recv`.
    pub const RECEIVE: Rights = Rights(1 << 4);
    /// Endpoint: mint badged handles.
    pub const MINT: Rights = Rights(1 << 5);
    /// Notification: `signal`.
    pub const SIGNAL: Rights = Rights(1 << 6);
    /// Notification: `wait` and bind.
    pub const WAIT: Rights = Rights(1 << 7);
    /// Memory, log: read.
    pub const READ: Rights = Rights(1 << 8);
    /// Memory, log: write.
    pub const WRITE: Rights = Rights(1 << 9);
    /// Memory: map executable.
    pub const EXECUTE: Rights = Rights(1 << 10);
    /// Process, thread, irq, ports, log: change it.
    pub const MANAGE: Rights = Rights(1 << 11);
    /// System: make irq, port and device memory objects. Whoever has it can reach all of the machine.
    pub const HARDWARE: Rights = Rights(1 << 12);
    /// System: power off and restart.
    pub const POWER: Rights = Rights(1 << 13);
    /// Process: read and write its memory, and reach its threads.
    pub const DEBUG: Rights = Rights(1 << 14);
    /// All rights there are.
    pub const ALL: Rights = Rights((1 << 15) - 1);

    /// Whether every right of `other` is among these.
    pub const fn contains(self, other: Rights) -> bool {
        self.0 & other.0 == other.0
    }

    /// The union, usable in constants.
    #[must_use]
    pub const fn with(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }
}

impl BitOr for Rights {
    type Output = Rights;
    fn bitor(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }
}

impl BitAnd for Rights {
    type Output = Rights;
    fn bitand(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }
}

impl Sub for Rights {
    type Output = Rights;
    fn sub(self, other: Rights) -> Rights {
        Rights(self.0 & !other.0)
    }
}

/// What kind of memory object is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct MemoryFlags(pub u32);

impl MemoryFlags {
    /// Nothing particular.
    pub const NONE: MemoryFlags = MemoryFlags(0);
    /// It can be cloned. It can be mapped at 32 places at a time: those mappings of an address space that have the same distance between address and
    /// offset are one.
    pub const CLONABLE: MemoryFlags = MemoryFlags(1);
    /// Where a program touches it first, it gets 2 MiB at once that lie in a row, if there are any and they fit: mapped so that addresses
    /// and offsets differ by a multiple of 2 MiB, it needs fewer faults and less of the TLB.
    pub const LARGE_PAGES: MemoryFlags = MemoryFlags(2);
    /// Its pager can take pages back ([`Call::MemoryTakeBack`](crate::Call::MemoryTakeBack)). It can be mapped at 32 places at a time, as what can be cloned. For memory with a
    /// pager only, and that takes no other flag.
    pub const RECLAIMABLE: MemoryFlags = MemoryFlags(4);
    /// All flags there are.
    pub const ALL: MemoryFlags = MemoryFlags(7);

    /// The flags with these bits; `None` if there are others among them.
    pub const fn from_bits(bits: u64) -> Option<MemoryFlags> {
        if bits & !(Self::ALL.0 as u64) == 0 {
            Some(MemoryFlags(bits as u32))
        } else {
            None
        }
    }

    /// Whether every flag of `other` is among these.
    pub const fn contains(self, other: MemoryFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How pages are mapped. Write and execute together are refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Protection(pub u32);

impl Protection {
    /// Readable.
    pub const READ: Protection = Protection(1);
    /// Readable and writable.
    pub const READ_WRITE: Protection = Protection(3);
    /// Readable and executable.
    pub const READ_EXECUTE: Protection = Protection(5);

    /// The protection with these bits, if it is one of the three that exist.
    pub const fn from_bits(bits: u64) -> Option<Protection> {
        match bits {
            1 => Some(Protection::READ),
            3 => Some(Protection::READ_WRITE),
            5 => Some(Protection::READ_EXECUTE),
            _ => None,
        }
    }

    /// Whether pages can be written.
    pub const fn writable(self) -> bool {
        self.0 & 2 != 0
    }

    /// Whether pages can be executed.
    pub const fn executable(self) -> bool {
        self.0 & 4 != 0
    }

    /// The rights that a memory handle must have to be mapped so.
    pub const fn needs(self) -> Rights {
        let mut rights = Rights::READ;
        if self.writable() {
            rights = rights.with(Rights::WRITE);
        }
        if self.executable() {
            rights = rights.with(Rights::EXECUTE);
        }
        rights
    }
}
