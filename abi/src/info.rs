//! The structures that system calls fill in.

use crate::UserContext;

/// What kind of object a handle names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ObjectKind {
    /// An endpoint.
    Endpoint = 1,
    /// A one-shot reply.
    Reply = 2,
    /// A notification.
    Notification = 3,
    /// A memory object.
    Memory = 4,
    /// A process.
    Process = 5,
    /// A thread.
    Thread = 6,
    /// An interrupt line.
    Irq = 7,
    /// A range of I/O ports.
    IoPorts = 8,
    /// The kernel's log.
    Log = 9,
    /// The machine as a whole: hardware, introspection, power, as its rights say.
    System = 10,
}

/// What [`Call::HandleQuery`](crate::Call::HandleQuery) tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct HandleInfo {
    /// An [`ObjectKind`].
    pub kind: u32,
    /// The handle's [`Rights`](crate::Rights).
    pub rights: u32,
    /// The handle's badge.
    pub badge: u64,
    /// Size of a memory object in bytes; else 0.
    pub size: u64,
}

/// How a process stands or ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ProcessState {
    /// It has threads, or none was ever started.
    Alive = 0,
    /// It ended by itself; `code` is its exit code.
    Exited = 1,
    /// Somebody ended it; `code` is theirs.
    Killed = 2,
    /// A fault ended it; `context` holds the registers.
    Faulted = 3,
}

/// How much of each a process may use, with those that it makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Quota {
    /// Pages of memory.
    pub pages: u64,
    /// Places in handle tables, which grow by up to 64 at a time.
    pub handles: u64,
    /// Threads, until the last handle to an ended one is closed.
    pub threads: u64,
}

/// What [`Call::ProcessQuota`](crate::Call::ProcessQuota) tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct QuotaInfo {
    /// What is in use, parts that were given away included.
    pub used: Quota,
    /// What may be. A process without a part of its own has this together with others.
    pub limit: Quota,
}

/// What [`Call::ProcessInfo`](crate::Call::ProcessInfo) tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct ProcessInfo {
    /// Its number, unique since boot.
    pub id: u64,
    /// A [`ProcessState`].
    pub state: u32,
    /// Threads alive.
    pub threads: u32,
    /// Exit code.
    pub code: u64,
    /// Pages of memory charged to it.
    pub pages: u64,
    /// Handles in its table.
    pub handles: u64,
    /// Rights to answer that its threads hold by themselves, beside those in the table.
    pub held: u64,
    /// Address of its [landing page's](crate::landing) image; 0 if it has none.
    pub landing: u64,
    /// Address of `__kernel_vsyscall` in a 32-bit process, else 0.
    pub vsyscall: u64,
    /// The registers at the fault that ended it.
    pub context: UserContext,
}

/// What [`Call::SystemQuery`](crate::Call::SystemQuery) can list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum SystemQuery {
    /// One [`CpuInfo`] for each CPU.
    Cpus = 0,
    /// One [`ThreadInfo`] for each thread.
    Threads = 1,
    /// One [`MemoryInfo`].
    Memory = 2,
    /// One [`MachineInfo`].
    Machine = 3,
    /// One [`ProcessEntry`] for each process, those that have ended among them as long as somebody has a handle to them.
    Processes = 4,
    /// One [`EndpointInfo`] for each endpoint.
    Endpoints = 5,
    /// One [`ObjectsInfo`].
    Objects = 16,
}

impl SystemQuery {
    /// The query with this number.
    pub const fn from_number(number: u64) -> Option<SystemQuery> {
        match number {
            0 => Some(SystemQuery::Cpus),
            1 => Some(SystemQuery::Threads),
            2 => Some(SystemQuery::Memory),
            3 => Some(SystemQuery::Machine),
            4 => Some(SystemQuery::Processes),
            5 => Some(SystemQuery::Endpoints),
            16 => Some(SystemQuery::Objects),
            _ => None,
        }
    }
}

/// One CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct CpuInfo {
    /// Its index, counted from 0 in the order of starting.
    pub index: u32,
    /// Its local APIC id.
    pub apic_id: u32,
    /// Nanoseconds it spent on threads (not idle).
    pub busy_ns: u64,
    /// Nanoseconds since it started.
    pub up_ns: u64,
    /// Switches from one thread to another.
    pub switches: u64,
    /// Interrupts taken.
    pub interrupts: u64,
    /// Interprocessor interrupts sent.
    pub ipis_sent: u64,
    /// Threads ready or running there.
    pub runnable: u32,
    /// Machine checks that were survived.
    pub machine_checks: u32,
    /// NMIs taken.
    pub nmis: u64,
    /// Nanoseconds it had no thread to run.
    pub idle_ns: u64,
    /// Interrupts of its timer.
    pub timer_ticks: u64,
    /// Threads that came to it from another CPU.
    pub migrations_in: u64,
    /// Threads that it gave to another CPU.
    pub migrations_out: u64,
    /// Of those that came: threads that waited for their turn elsewhere while it was idle.
    pub steals: u64,
    /// What it did about floating-point state.
    pub fpu: FpuCounters,
}

/// What a CPU did about the floating-point state of threads, since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FpuCounters {
    /// States saved when their thread left.
    pub saves: u64,
    /// States loaded.
    pub restores: u64,
    /// First FPU instructions of a slice that trapped (#NM).
    pub traps: u64,
    /// Loads that were not needed, as the registers still held the thread's state.
    pub skipped: u64,
    /// States loaded when their thread came, before it used them: a part of `restores`.
    pub preloads: u64,
    /// Times that the registers were cleared for a thread without a state; with eager loading only.
    pub scrubs: u64,
    /// Writes of CR0, each of which changed CR0.TS.
    pub ts_changes: u64,
}

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ThreadState {
    /// Created, not started.
    New = 0,
    /// Waits for its turn.
    Ready = 1,
    /// On its CPU.
    Running = 2,
    /// Blocked in `call` or `send`, not yet received.
    Sending = 3,
    /// Blocked in `recv`.
    Receiving = 4,
    /// Blocked until its call is answered.
    AwaitingReply = 5,
    /// Blocked on a notification.
    Waiting = 6,
    /// Blocked until a deadline.
    Sleeping = 7,
    /// Ended.
    Ended = 8,
    /// Suspended, between two instructions of user code.
    Suspended = 9,
    /// Waits for the next period of its budget.
    Throttled = 10,
    /// Blocked until another thread has ended, or stands still.
    Joining = 11,
}

impl ThreadState {
    /// The state with this number.
    pub const fn from_number(number: u32) -> Option<ThreadState> {
        match number {
            0 => Some(ThreadState::New),
            1 => Some(ThreadState::Ready),
            2 => Some(ThreadState::Running),
            3 => Some(ThreadState::Sending),
            4 => Some(ThreadState::Receiving),
            5 => Some(ThreadState::AwaitingReply),
            6 => Some(ThreadState::Waiting),
            7 => Some(ThreadState::Sleeping),
            8 => Some(ThreadState::Ended),
            9 => Some(ThreadState::Suspended),
            10 => Some(ThreadState::Throttled),
            11 => Some(ThreadState::Joining),
            _ => None,
        }
    }

    /// One word for it.
    pub const fn text(self) -> &'static str {
        match self {
            ThreadState::New => "new",
            ThreadState::Ready => "ready",
            ThreadState::Running => "running",
            ThreadState::Sending => "sending",
            ThreadState::Receiving => "receiving",
            ThreadState::AwaitingReply => "calling",
            ThreadState::Waiting => "waiting",
            ThreadState::Sleeping => "sleeping",
            ThreadState::Ended => "ended",
            ThreadState::Suspended => "suspended",
            ThreadState::Throttled => "throttled",
            ThreadState::Joining => "joining",
        }
    }
}

/// How a thread ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum ThreadEnd {
    /// By itself, with the code that it gave.
    Exited = 0,
    /// It was killed, or its process ended; the code is the process's, 0 if that goes on.
    Killed = 1,
    /// By a fault of its own; the code is the exception's vector.
    Faulted = 2,
}

impl ThreadEnd {
    /// The end with this number.
    pub const fn from_number(number: u64) -> Option<ThreadEnd> {
        match number {
            0 => Some(ThreadEnd::Exited),
            1 => Some(ThreadEnd::Killed),
            2 => Some(ThreadEnd::Faulted),
            _ => None,
        }
    }
}

/// Longest process name in bytes.
pub const NAME_BYTES: usize = 32;

/// One thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct ThreadInfo {
    /// The process's number.
    pub process: u64,
    /// The thread's number, unique since boot.
    pub thread: u64,
    /// CPU index on which it runs or last ran.
    pub cpu: u32,
    /// A [`ThreadState`].
    pub state: u32,
    /// Its effective priority.
    pub priority: u32,
    /// Bytes of `name` in use.
    pub name_bytes: u32,
    /// Nanoseconds of CPU time.
    pub cpu_ns: u64,
    /// The process's name, UTF-8.
    pub name: [u8; NAME_BYTES],
    /// How often it was given a CPU.
    pub switches: u64,
    /// How often it went from one CPU to another.
    pub migrations: u64,
    /// Its base priority.
    pub base_priority: u32,
    /// Zero.
    pub reserved: u32,
    /// What it waits for: the number of an endpoint (in the states `Sending` and `Receiving`), of the thread that is to answer (`AwaitingReply`; 0 if that is not
    /// known), or of another thread (`Joining`); else 0. All that name an endpoint are its queue.
    pub waits_for: u64,
    /// The address of its IPC area in its process.
    pub area: u64,
}

/// One process in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct ProcessEntry {
    /// Its number, unique since boot.
    pub id: u64,
    /// A [`ProcessState`].
    pub state: u32,
    /// Threads alive.
    pub threads: u32,
    /// Pages of memory charged to it.
    pub pages: u64,
    /// Handles in its table.
    pub handles: u64,
    /// Exit code.
    pub code: u64,
    /// 1 for a 32-bit process, else 0.
    pub is_32_bit: u32,
    /// Bytes of `name` in use.
    pub name_bytes: u32,
    /// Its name, UTF-8.
    pub name: [u8; NAME_BYTES],
}

/// One endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct EndpointInfo {
    /// Its number, unique since boot.
    pub id: u64,
    /// The number of the process that has made it.
    pub creator: u64,
    /// The number of the thread that serves it alone; 0 if none does, or several.
    pub server: u64,
    /// The number of that thread's process.
    pub server_process: u64,
    /// Threads that serve it: those that have received there, and nowhere else since.
    pub servers: u32,
    /// Handles by which one can receive there.
    pub receive_handles: u32,
    /// Threads that wait there for a receiver.
    pub senders: u32,
    /// Threads that wait there for a message.
    pub receivers: u32,
}

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct MemoryInfo {
    /// All that the kernel manages.
    pub total: u64,
    /// Free now.
    pub free: u64,
    /// The kernel image.
    pub kernel_image: u64,
    /// Page tables, kernel stacks, objects and tables of the kernel.
    pub kernel: u64,
    /// Pages of user memory objects.
    pub user: u64,
    /// Got back from the boot loader.
    pub reclaimed: u64,
}

/// The kernel's objects: how many there are of each kind, those that have ended and are about to be taken away among them, and what is kept
/// for more of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct ObjectsInfo {
    /// Processes.
    pub processes: u64,
    /// Threads.
    pub threads: u64,
    /// Endpoints.
    pub endpoints: u64,
    /// Notifications.
    pub notifications: u64,
    /// Memory objects.
    pub memories: u64,
    /// Contents that memory objects share since one was cloned.
    pub sharings: u64,
    /// Address spaces.
    pub spaces: u64,
    /// Accounts by which memory is paid for.
    pub accounts: u64,
    /// Interrupt lines.
    pub irqs: u64,
    /// Ranges of I/O ports.
    pub io_ports: u64,
    /// Kernel stacks in use.
    pub stacks: u64,
    /// Bytes that were taken for objects, kernel stacks and floating-point state, in use or not: a part of
    /// [`MemoryInfo::kernel`] that is never given back.
    pub pooled: u64,
}

/// The machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct MachineInfo {
    /// CPUs that run.
    pub cpus: u32,
    /// CPUs that were listed and did not answer.
    pub cpus_failed: u32,
    /// Time-stamp counter ticks a second.
    pub tsc_hz: u64,
    /// Seconds since 1970 at boot, UTC; 0 if unknown.
    pub boot_seconds: u64,
    /// Nanoseconds from the kernel's first instruction to the start of the first program.
    pub kernel_boot_ns: u64,
    /// The framebuffer.
    pub framebuffer: FramebufferInfo,
    /// What the kernel decided at boot: [`EAGER_FPU`](Self::EAGER_FPU), [`TABLES_APART`](Self::TABLES_APART).
    pub decisions: u32,
    /// Zero.
    pub reserved: u32,
}

impl MachineInfo {
    /// In `decisions`: floating-point state is loaded when its thread comes; else at the thread's first use.
    pub const EAGER_FPU: u32 = 1;
    /// In `decisions`: user mode runs on page tables without the kernel.
    pub const TABLES_APART: u32 = 2;

    /// Whether the kernel decided so.
    pub const fn has_decided(&self, decision: u32) -> bool {
        self.decisions & decision != 0
    }
}

/// A linear framebuffer of 32-bit pixels; `physical` 0 if the machine has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FramebufferInfo {
    /// Physical address, page-aligned.
    pub physical: u64,
    /// Pixels a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bytes from one line to the next.
    pub pitch: u32,
    /// Bit position of red (8 bits wide).
    pub red_shift: u8,
    /// Bit position of green.
    pub green_shift: u8,
    /// Bit position of blue.
    pub blue_shift: u8,
    /// Zero.
    pub reserved: u8,
}

/// What [`Call::SystemPower`](crate::Call::SystemPower) does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum PowerAction {
    /// Power off (ACPI S5).
    Off = 0,
    /// Restart.
    Restart = 1,
}

impl PowerAction {
    /// The action with this number.
    pub const fn from_number(number: u64) -> Option<PowerAction> {
        match number {
            0 => Some(PowerAction::Off),
            1 => Some(PowerAction::Restart),
            _ => None,
        }
    }
}

const _: () = {
    assert!(size_of::<UserContext>() == 28 * 8);
    assert!(size_of::<HandleInfo>() == 24);
    assert!(size_of::<CpuInfo>() == 160);
    assert!(size_of::<ThreadInfo>() == 112);
    assert!(size_of::<ProcessEntry>() == 80);
    assert!(size_of::<EndpointInfo>() == 48);
    assert!(size_of::<MemoryInfo>() == 48);
    assert!(size_of::<ObjectsInfo>() == 96);
    assert!(size_of::<FramebufferInfo>() == 24);
    assert!(size_of::<MachineInfo>() == 64);
};
