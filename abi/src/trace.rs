//! Traces: what a CPU notes of what it does, while it is asked to.

/// What is noted. Each has a bit in a set: `1 << kind`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum TraceKind {
    /// A thread got the CPU (thread 0: nobody did, and the CPU is idle). `a`: the thread that had it, 0 for none; `b`: the priority.
    Switch = 0,
    /// A thread made a call on an endpoint, a reply or a notification. `a`: the call's number; `b`: its first argument.
    Ipc = 1,
    /// An interrupt came. `a`: its vector; `b`: how many there were.
    Interrupt = 2,
    /// User code faulted. `a`: the vector, and the error code in the upper half; `b`: the address that it was about for a page fault,
    /// else the instruction's.
    Fault = 3,
    /// A thread was given to another CPU. `a`: which; `b`: 1 if it was ready.
    Migration = 4,
}

impl TraceKind {
    /// All kinds.
    pub const ALL: [TraceKind; 5] = [
        TraceKind::Switch,
        TraceKind::Ipc,
        TraceKind::Interrupt,
        TraceKind::Fault,
        TraceKind::Migration,
    ];
    /// The set of all kinds.
    pub const EVERY: u32 = (1 << TraceKind::ALL.len()) - 1;

    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<TraceKind> {
        TraceKind::ALL.get(number as usize).copied()
    }

    /// Its bit in a set.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// One word for it.
    pub const fn text(self) -> &'static str {
        match self {
            TraceKind::Switch => "switch",
            TraceKind::Ipc => "ipc",
            TraceKind::Interrupt => "interrupt",
            TraceKind::Fault => "fault",
            TraceKind::Migration => "migration",
        }
    }
}

/// What a CPU noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TraceRecord {
    /// When: ticks of the time-stamp counter since boot, which all CPUs share.
    pub ticks: u64,
    /// The number of the thread that it is about, or that ran; 0 for none.
    pub thread: u64,
    /// See [`TraceKind`].
    pub a: u64,
    /// See [`TraceKind`].
    pub b: u64,
    /// A [`TraceKind`].
    pub kind: u32,
    /// Index of the CPU.
    pub cpu: u32,
}

const _: () = assert!(size_of::<TraceRecord>() == 40);
