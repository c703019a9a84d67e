//! Interrupts of devices: how fast they may come, and what a device is told so that it sends them.

/// Nanoseconds for which an interrupt that comes too fast is held back.
pub const HOLD_NS: u64 = 50_000_000;

/// How fast an interrupt may come: so many times in so long a while. One more, and it is a storm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// How many times. Not 0.
    pub count: u32,
    /// In how many nanoseconds.
    pub period_ns: u64,
}

impl Rate {
    /// What an interrupt has from the beginning, and the fastest that there is: 200,000 a second.
    pub const HIGHEST: Rate = Rate {
        count: 2000,
        period_ns: 10_000_000,
    };
    /// The longest while.
    pub const LONGEST_NS: u64 = 10_000_000_000;

    /// The rate with these numbers, if there may be such a one: not faster than [`HIGHEST`](Rate::HIGHEST), nor over a longer while
    /// than [`LONGEST_NS`](Rate::LONGEST_NS).
    pub const fn new(count: u64, period_ns: u64) -> Option<Rate> {
        let highest = Rate::HIGHEST;
        if count == 0 || count > u32::MAX as u64 || period_ns > Rate::LONGEST_NS {
            return None;
        }
        // Both products are below 2^64: a count has 32 bits, a while 34.
        if count * highest.period_ns > highest.count as u64 * period_ns {
            return None;
        }
        Some(Rate {
            count: count as u32,
            period_ns,
        })
    }
}

/// What a device writes where to send its interrupt (MSI and MSI-X; Intel SDM vol. 3A §11.11): the driver programs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// Physical address.
    pub address: u64,
    /// The 32-bit word.
    pub data: u64,
}

/// What [`Call::IrqInfo`](crate::Call::IrqInfo) tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct IrqInfo {
    /// Times that it came.
    pub arrived: u64,
    /// Of those: while it was held back as too fast.
    pub missed: u64,
    /// Times that it came too fast, and was held back.
    pub storms: u64,
    /// How fast it may come: times in [`period_ns`](Self::period_ns).
    pub rate_count: u64,
    /// See [`rate_count`](Self::rate_count).
    pub period_ns: u64,
    /// For a message: its address. Else 0.
    pub address: u64,
    /// For a message: its data. Else 0.
    pub data: u64,
    /// For a line: its global system interrupt. Else 0.
    pub line: u32,
    /// Index of the CPU that it goes to.
    pub cpu: u32,
    /// [`MESSAGE`](Self::MESSAGE), [`WAITS`](Self::WAITS), [`HELD`](Self::HELD), [`BOUND`](Self::BOUND), [`MASKABLE`](Self::MASKABLE).
    pub flags: u32,
    /// Index of the CPU that it came to last.
    pub last_cpu: u32,
}

impl IrqInfo {
    /// In `flags`: it is a message (MSI, MSI-X), not a line.
    pub const MESSAGE: u32 = 1;
    /// In `flags`: it is masked until it is acknowledged (or bound, at first).
    pub const WAITS: u32 = 2;
    /// In `flags`: it came too fast and is held back.
    pub const HELD: u32 = 4;
    /// In `flags`: it has a notification.
    pub const BOUND: u32 = 8;
    /// In `flags`: it can be masked. A message for which no mask bit was given can't.
    pub const MASKABLE: u32 = 16;
}

const _: () = assert!(size_of::<IrqInfo>() == 72);
