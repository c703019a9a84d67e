//! What a call is given: what it expects, or nearly.

use abi::{Call, ContextPart, Rights};
use grind::random::Random;
use rt::sys;

use crate::entry::nap;

/// What a place expects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A handle to anything.
    Handle,
    /// A handle to an object of this class.
    Of(Class),
    /// Rights.
    Rights,
    /// Memory of the program's that the kernel reads or writes.
    Pointer,
    /// Where something is mapped, or is to be.
    Address,
    /// How many bytes.
    Bytes,
    /// Where a thread begins.
    Code,
    /// How many bytes a part of a thread's state has.
    PartBytes,
    /// A small number, a choice, a bit.
    Number,
    /// Nobody looks.
    Nothing,
}

/// What a handle is for, as far as is known from the call that gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Endpoint,
    Notification,
    Memory,
    Process,
    Thread,
    Reply,
    Other,
}

impl Class {
    /// The class of the handle that a call gave, `source` being that of its first argument.
    pub const fn given_by(call: Call, source: Class) -> Class {
        match call {
            Call::EndpointCreate | Call::EndpointMint => Self::Endpoint,
            Call::NotificationCreate => Self::Notification,
            Call::MemoryCreate | Call::MemoryClone | Call::MemoryCreatePaged => Self::Memory,
            Call::ProcessCreate | Call::ProcessSelf => Self::Process,
            Call::ThreadCreate | Call::ThreadSelf | Call::ProcessThread => Self::Thread,
            Call::HandleDuplicate => source,
            _ => Self::Other,
        }
    }
}

use Class::{Endpoint, Memory, Notification, Process, Thread};
use Kind::{Address, Bytes, Code, Handle, Nothing, Number, Of, PartBytes, Pointer};

/// What each place of a call expects. A call that is not here is given handles, pointers and numbers.
pub const fn shape(call: Call) -> [Kind; 6] {
    match call {
        Call::Signal => [Of(Notification), Number, Nothing, Nothing, Nothing, Nothing],
        Call::SignalWait => [
            Of(Notification),
            Number,
            Of(Notification),
            Nothing,
            Nothing,
            Nothing,
        ],
        Call::Wait | Call::NotificationBind => [
            Of(Notification),
            Nothing,
            Nothing,
            Nothing,
            Nothing,
            Nothing,
        ],
        Call::Call | Call::Send | Call::Recv | Call::ReplyRecv | Call::Reply => {
            [Of(Endpoint), Number, Number, Number, Number, Number]
        }
        Call::HandleClose => [Handle, Nothing, Nothing, Nothing, Nothing, Nothing],
        Call::HandleDuplicate => [Handle, Kind::Rights, Nothing, Nothing, Nothing, Nothing],
        Call::HandleGrant => [Of(Process), Handle, Kind::Rights, Nothing, Nothing, Nothing],
        Call::HandleQuery => [Handle, Pointer, Nothing, Nothing, Nothing, Nothing],
        Call::EndpointMint => [
            Of(Endpoint),
            Number,
            Kind::Rights,
            Nothing,
            Nothing,
            Nothing,
        ],
        Call::MemoryCreate => [Bytes, Number, Nothing, Nothing, Nothing, Nothing],
        Call::MemoryClone => [Of(Memory), Number, Nothing, Nothing, Nothing, Nothing],
        Call::MemoryMap => [Of(Process), Of(Memory), Address, Bytes, Bytes, Number],
        Call::MemoryMapNew => [Of(Process), Address, Bytes, Number, Pointer, Bytes],
        Call::MemoryUnmap => [Of(Process), Address, Bytes, Nothing, Nothing, Nothing],
        Call::MemoryProtect => [Of(Process), Address, Bytes, Number, Nothing, Nothing],
        Call::MemoryCreatePaged => [Bytes, Of(Endpoint), Number, Nothing, Nothing, Nothing],
        Call::MemoryTakeBack => [Of(Memory), Bytes, Pointer, Nothing, Nothing, Nothing],
        Call::MemoryRead | Call::MemoryWrite | Call::MemorySupply => {
            [Of(Memory), Bytes, Pointer, Bytes, Nothing, Nothing]
        }
        Call::ProcessCreate => [Pointer, Number, Number, Number, Nothing, Nothing],
        Call::ProcessKill | Call::ProcessThread => {
            [Of(Process), Number, Nothing, Nothing, Nothing, Nothing]
        }
        Call::ProcessQuota | Call::ProcessSetQuota | Call::ProcessInfo => {
            [Of(Process), Pointer, Nothing, Nothing, Nothing, Nothing]
        }
        Call::ProcessWatch => [
            Of(Process),
            Of(Notification),
            Number,
            Nothing,
            Nothing,
            Nothing,
        ],
        Call::ThreadCreate => [Of(Process), Code, Pointer, Number, Number, Nothing],
        Call::ThreadStart
        | Call::ThreadKill
        | Call::ThreadSetPriority
        | Call::ThreadSuspend
        | Call::ThreadResume
        | Call::ThreadCancel
        | Call::ThreadJoin
        | Call::ThreadSetBudget
        | Call::ThreadSetTls => [Of(Thread), Number, Number, Nothing, Nothing, Nothing],
        Call::ReportTo => [Of(Thread), Number, Of(Endpoint), Number, Nothing, Nothing],
        Call::ProcessRead | Call::ProcessWrite => {
            [Of(Process), Pointer, Pointer, Bytes, Nothing, Nothing]
        }
        Call::ThreadInfo => [Of(Thread), Pointer, Nothing, Nothing, Nothing, Nothing],
        Call::ThreadSetAffinity | Call::ThreadGetAffinity => {
            [Of(Thread), Pointer, Bytes, Nothing, Nothing, Nothing]
        }
        Call::ThreadGetContext | Call::ThreadSetContext => {
            [Of(Thread), Number, Pointer, PartBytes, Nothing, Nothing]
        }
        Call::LogRead => [Handle, Number, Pointer, Bytes, Nothing, Nothing],
        Call::LogWrite => [Handle, Pointer, Bytes, Nothing, Nothing, Nothing],
        Call::SystemQuery => [Handle, Number, Number, Pointer, Bytes, Nothing],
        Call::IrqBind | Call::LogTake => {
            [Handle, Of(Notification), Number, Nothing, Nothing, Nothing]
        }
        _ => [Handle, Handle, Number, Pointer, Bytes, Number],
    }
}

/// Addresses at which something ends: of the user half, of what is canonical, of what is mapped.
const EDGES: [u64; 12] = [
    0,
    1,
    0xFFF,
    0x6000_0000_0000,
    0x7FFF_FFFF_EFF8,
    0x7FFF_FFFF_F000,
    0x7FFF_FFFF_FFFF,
    0x8000_0000_0000,
    0xFFFF_7FFF_FFFF_FFFF,
    0xFFFF_8000_0000_0000,
    0xFFFF_FFFF_8000_0000,
    u64::MAX,
];

/// Values that are wrong nearly everywhere.
pub const BAD: [u64; 20] = [
    0,
    1,
    7,
    8,
    4095,
    4097,
    1 << 31,
    1 << 32,
    (1 << 32) + 1,
    1 << 47,
    1 << 63,
    0x6000_0000_0000,
    0x7FFF_FFFF_F000,
    0x7FFF_FFFF_FFF9,
    0x8000_0000_0000,
    0xFFFF_8000_0000_0000,
    0xFFFF_FFFF_8000_0000,
    i64::MIN as u64 + 1,
    u64::MAX - 7,
    u64::MAX,
];

/// Where a worker's random mappings go: nothing of its own is near.
const MAPPINGS: u64 = 0x5000_0000_0000;
const PAGE: u64 = 4096;

/// Handles that a thread has, or had: what was closed stays, and is stale.
pub struct Pool {
    handles: [(u64, Class); Pool::MOST],
    count: usize,
}

impl Pool {
    const MOST: usize = 48;

    /// With those that the thread begins with.
    pub fn new(first: &[(u64, Class)]) -> Pool {
        let mut pool = Pool {
            handles: [(0, Class::Other); Pool::MOST],
            count: 0,
        };
        for handle in first.iter().take(Pool::MOST) {
            pool.handles[pool.count] = *handle;
            pool.count += 1;
        }
        pool
    }

    /// One more; when there is no room, in place of another, but not of the first few.
    pub fn add(&mut self, handle: u64, class: Class, keep: usize, random: &mut Random) {
        if self.handles[..self.count]
            .iter()
            .any(|(other, _)| *other == handle)
        {
            return;
        }
        if self.count < Pool::MOST {
            self.handles[self.count] = (handle, class);
            self.count += 1;
        } else {
            let place = keep as u64 + random.below((Pool::MOST - keep) as u64);
            self.handles[place as usize] = (handle, class);
        }
    }

    /// What is known of a handle.
    pub fn class(&self, handle: u64) -> Class {
        let known = self.handles[..self.count]
            .iter()
            .find(|(other, _)| *other == handle);
        known.map_or(Class::Other, |(_, class)| *class)
    }

    fn one(&self, random: &mut Random) -> u64 {
        match random.below(16) {
            // The slot's next or last generation, another slot, or nothing like a handle.
            0 => self.any(random).wrapping_add(1 << 32),
            1 => self.any(random).wrapping_sub(1 << 32),
            2 => self.any(random) ^ (1 << random.below(16)),
            3 => random.below(70),
            _ => self.any(random),
        }
    }

    /// Mostly one of a class, the younger the likelier: what is old is often closed.
    fn one_of(&self, class: Class, random: &mut Random) -> u64 {
        if !random.one_in(8) {
            let begin = random.below(self.count as u64) as usize;
            let from_there = self.handles[begin..self.count]
                .iter()
                .chain(&self.handles[..begin]);
            if let Some((handle, _)) = from_there.into_iter().find(|(_, other)| *other == class) {
                return *handle;
            }
        }
        self.one(random)
    }

    fn any(&self, random: &mut Random) -> u64 {
        random.one_of(&self.handles[..self.count]).0
    }
}

/// What values are made of.
pub struct Source<'a> {
    /// The thread's handles.
    pub pool: &'a Pool,
    /// Memory of the program's, in pages, that may be read and written.
    pub room: u64,
    pub room_bytes: u64,
    /// The thread's IPC area.
    pub area: u64,
}

impl Source<'_> {
    /// A value for a place, mostly of the kind that belongs there.
    pub fn value(&self, kind: Kind, random: &mut Random) -> u64 {
        if random.one_in(12) {
            return random.one_of(&BAD);
        }
        if random.one_in(24) {
            return random.next();
        }
        match kind {
            Handle => self.pool.one(random),
            Of(class) => self.pool.one_of(class, random),
            PartBytes => {
                let part =
                    random.one_of(&[ContextPart::Registers, ContextPart::Debug, ContextPart::Tls]);
                part.bytes().unwrap_or(0) as u64
            }
            Kind::Rights => match random.below(4) {
                0 => u64::from(Rights::ALL.0),
                1 => 1 << random.below(16),
                _ => random.next() & u64::from(Rights::ALL.0),
            },
            Pointer => match random.below(12) {
                0 => random.one_of(&EDGES),
                1 => self.room + self.room_bytes - random.below(64),
                2 => self.area + random.below(8192),
                3 => nap as *const () as u64,
                _ => self.room + random.below(self.room_bytes) / 8 * 8,
            },
            Address => match random.below(8) {
                0 => random.one_of(&EDGES),
                1 => 0,
                2 => MAPPINGS + random.below(1 << 20),
                _ => MAPPINGS + random.below(16) * PAGE,
            },
            Bytes => match random.below(8) {
                0 => random.below(4097),
                1 => 1 << random.below(64),
                2 => u64::MAX - random.below(PAGE),
                3 => random.below(64) * 8,
                _ => random.below(4) * PAGE,
            },
            Code => match random.below(8) {
                0 => random.one_of(&EDGES),
                _ => nap as *const () as u64,
            },
            Number => match random.below(6) {
                0 => 1 << random.below(64),
                1 => random.below(256),
                _ => random.below(8),
            },
            Nothing => random.next(),
        }
    }

    /// Puts random handles into the IPC area, to be sent, and says how many are taken.
    pub fn prepare_area(&self, random: &mut Random) {
        let area = self.area as usize as *mut abi::ipc_area::IpcHeader;
        for slot in 0..abi::ipc_area::MAX_HANDLES {
            let handle = self.pool.one(random);
            // SAFETY: the calling thread's own area, which the kernel keeps mapped, and which nobody refers to.
            unsafe { (&raw mut (*area).handles_out[slot]).write(handle) };
        }
        let accept = random.below(6);
        // SAFETY: as above.
        unsafe { (&raw mut (*area).accept).write(accept) };
    }
}

/// A message's tag: one that is valid, or anything.
pub fn tag(random: &mut Random) -> u64 {
    if random.one_in(6) {
        return random.next();
    }
    let handles = random.below(5);
    let moved = random.next() & ((1 << handles) - 1);
    let bytes = if random.one_in(3) {
        random.below(4097)
    } else {
        0
    };
    bytes | handles << 16 | moved << 20 | random.below(4) << 32
}

/// The calling thread's IPC area. To be asked before FS base is changed.
pub fn area() -> u64 {
    sys::area() as u64
}
