//! One object of each kind, and every call that takes a handle with what it wants of it.

use abi::{Call, Rights};
use alloc::vec::Vec;
use rt::{AsHandle, Endpoint, Memory, Notification, Process, Thread};

use crate::world::World;

/// What a call wants where its handle is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Endpoint,
    Notification,
    Memory,
    Process,
    Thread,
    Irq,
    Ports,
    Log,
    System,
    Any,
}

/// An argument that a call takes.
#[derive(Clone, Copy)]
pub(super) enum Argument {
    /// A good value.
    Value(u64),
    /// A handle of a kind, and the rights that it must have.
    Handle(Kind, Rights),
    /// Our own good memory.
    Pointer,
}

use Argument::{Handle as H, Pointer as P, Value as V};

pub(super) const NONE: Rights = Rights::NONE;

/// Every call that takes a handle, with arguments that are good otherwise. None of them does anything that this test's
/// process would miss, should it be let through by mistake.
const CALLS: &[(Call, &[Argument])] = &[
    (Call::Call, &[H(Kind::Endpoint, Rights::SEND)]),
    (Call::Send, &[H(Kind::Endpoint, Rights::SEND)]),
    (Call::Recv, &[H(Kind::Endpoint, Rights::RECEIVE)]),
    (Call::ReplyRecv, &[H(Kind::Endpoint, Rights::RECEIVE)]),
    (Call::Signal, &[H(Kind::Notification, Rights::SIGNAL), V(1)]),
    (Call::Wait, &[H(Kind::Notification, Rights::WAIT)]),
    (
        Call::SignalWait,
        &[
            H(Kind::Notification, Rights::SIGNAL),
            V(1),
            H(Kind::Notification, Rights::WAIT),
        ],
    ),
    (
        Call::HandleDuplicate,
        &[H(Kind::Any, Rights::DUPLICATE), V(0)],
    ),
    (Call::HandleQuery, &[H(Kind::Any, NONE), P]),
    (
        Call::HandleGrant,
        &[
            H(Kind::Process, Rights::MANAGE),
            H(Kind::Any, Rights::TRANSFER),
            V(0),
        ],
    ),
    (
        Call::EndpointMint,
        &[H(Kind::Endpoint, Rights::MINT), V(7), V(0)],
    ),
    (
        Call::NotificationBind,
        &[H(Kind::Notification, Rights::WAIT)],
    ),
    (
        Call::MemoryCreatePhysical,
        &[H(Kind::System, Rights::HARDWARE), V(0xB8000), V(4096), V(0)],
    ),
    (
        Call::MemoryCreateContiguous,
        &[H(Kind::System, Rights::HARDWARE), V(4096), V(0), V(0)],
    ),
    (
        Call::MemoryPhysical,
        &[
            H(Kind::System, Rights::HARDWARE),
            H(Kind::Memory, Rights::NONE),
            V(0),
        ],
    ),
    (
        Call::MemoryMap,
        &[
            H(Kind::Process, Rights::MANAGE),
            H(Kind::Memory, Rights::READ),
            V(0),
            V(0),
            V(4096),
            V(1),
        ],
    ),
    (
        Call::MemoryMapNew,
        &[
            H(Kind::Process, Rights::MANAGE),
            V(0),
            V(4096),
            V(3),
            P,
            V(8),
        ],
    ),
    (
        Call::MemoryUnmap,
        &[
            H(Kind::Process, Rights::MANAGE),
            V(0x6000_0000_0000),
            V(4096),
        ],
    ),
    (
        Call::MemoryProtect,
        &[
            H(Kind::Process, Rights::MANAGE),
            V(0x6000_0000_0000),
            V(4096),
            V(1),
        ],
    ),
    (
        Call::MemoryRead,
        &[H(Kind::Memory, Rights::READ), V(0), P, V(8)],
    ),
    (
        Call::MemoryWrite,
        &[H(Kind::Memory, Rights::WRITE), V(0), P, V(8)],
    ),
    (Call::MemoryClone, &[H(Kind::Memory, Rights::READ), V(0)]),
    (
        Call::MemoryCreatePaged,
        &[V(4096), H(Kind::Endpoint, Rights::SEND), V(0)],
    ),
    (
        Call::MemorySupply,
        &[H(Kind::Memory, Rights::MANAGE), V(0), P, V(8)],
    ),
    (
        Call::MemoryTakeBack,
        &[H(Kind::Memory, Rights::MANAGE), V(0), P],
    ),
    (Call::ProcessKill, &[H(Kind::Process, Rights::MANAGE), V(9)]),
    (
        Call::ProcessWatch,
        &[
            H(Kind::Process, Rights::QUERY),
            H(Kind::Notification, Rights::SIGNAL),
            V(1),
        ],
    ),
    (Call::ProcessInfo, &[H(Kind::Process, Rights::QUERY), P]),
    (
        Call::ThreadCreate,
        &[
            H(Kind::Process, Rights::MANAGE),
            V(0x40_0000),
            V(0x80_0000),
            V(0),
            V(0),
        ],
    ),
    (Call::ProcessQuota, &[H(Kind::Process, Rights::QUERY), P]),
    (
        Call::ProcessSetQuota,
        &[H(Kind::Process, Rights::MANAGE), P],
    ),
    (Call::ThreadStart, &[H(Kind::Thread, Rights::MANAGE)]),
    (Call::ThreadKill, &[H(Kind::Thread, Rights::MANAGE)]),
    (Call::ThreadCancel, &[H(Kind::Thread, Rights::MANAGE)]),
    (
        Call::ThreadSetPriority,
        &[H(Kind::Thread, Rights::MANAGE), V(1)],
    ),
    (
        Call::ThreadSetAffinity,
        &[H(Kind::Thread, Rights::MANAGE), P, V(64)],
    ),
    (
        Call::ThreadGetAffinity,
        &[H(Kind::Thread, Rights::QUERY), P, V(64)],
    ),
    (Call::ThreadInfo, &[H(Kind::Thread, Rights::QUERY), P]),
    (
        Call::ThreadSuspend,
        &[H(Kind::Thread, Rights::MANAGE), V(0)],
    ),
    (Call::ThreadResume, &[H(Kind::Thread, Rights::MANAGE)]),
    (Call::ThreadJoin, &[H(Kind::Thread, Rights::QUERY)]),
    (
        Call::ThreadSetBudget,
        &[H(Kind::Thread, Rights::MANAGE), V(0), V(0)],
    ),
    (
        Call::IrqCreate,
        &[H(Kind::System, Rights::HARDWARE), V(3), V(1)],
    ),
    (
        Call::IrqBind,
        &[
            H(Kind::Irq, Rights::MANAGE),
            H(Kind::Notification, Rights::SIGNAL),
            V(1),
        ],
    ),
    (Call::IrqAcknowledge, &[H(Kind::Irq, Rights::MANAGE)]),
    (
        Call::MsiCreate,
        &[H(Kind::System, Rights::HARDWARE), V(0), V(0), V(0)],
    ),
    (Call::IrqRoute, &[H(Kind::Irq, Rights::MANAGE), V(0)]),
    (Call::IrqInfo, &[H(Kind::Irq, Rights::QUERY), P]),
    (
        Call::IrqLimit,
        &[H(Kind::Irq, Rights::MANAGE), V(1), V(1_000_000_000)],
    ),
    (
        Call::IoPortsCreate,
        &[H(Kind::System, Rights::HARDWARE), V(0x80), V(1)],
    ),
    (Call::IoPortsEnable, &[H(Kind::Ports, Rights::MANAGE)]),
    (Call::LogWrite, &[H(Kind::Log, Rights::WRITE), P, V(0)]),
    (Call::LogRead, &[H(Kind::Log, Rights::READ), V(0), P, V(8)]),
    (
        Call::LogTake,
        &[
            H(Kind::Log, Rights::MANAGE),
            H(Kind::Notification, Rights::SIGNAL),
            V(1),
        ],
    ),
    (
        Call::SystemQuery,
        &[H(Kind::System, Rights::QUERY), V(2), V(0), P, V(64)],
    ),
    (Call::SystemPower, &[H(Kind::System, Rights::POWER), V(0)]),
    (Call::SystemTrace, &[H(Kind::System, Rights::QUERY), V(0)]),
    (
        Call::SystemTraceRead,
        &[H(Kind::System, Rights::QUERY), V(0), V(0), P, V(80)],
    ),
];

/// One object of each kind, and our own memory for results.
pub(super) struct Things {
    pub(super) endpoint: Endpoint,
    pub(super) notification: Notification,
    pub(super) memory: Memory,
    pub(super) process: Process,
    pub(super) thread: Thread,
    pub(super) irq: rt::Irq,
    pub(super) ports: rt::IoPorts,
    pub(super) room: [u64; 64],
}

impl Things {
    pub(super) fn new(world: &World) -> rt::Result<Things> {
        let process = Process::create("nobody")?;
        // SAFETY: the process is not this one.
        let thread = unsafe { process.create_thread(0x40_0000, 0x80_0000, 0) }?;
        Ok(Things {
            endpoint: Endpoint::create()?,
            notification: Notification::create()?,
            memory: Memory::create(4096)?,
            thread,
            process,
            irq: rt::Irq::create(&world.system, 3, true)?,
            ports: rt::IoPorts::create(&world.system, 0x80, 1)?,
            room: [0; 64],
        })
    }

    pub(super) fn handle(&self, world: &World, kind: Kind) -> u64 {
        match kind {
            Kind::Endpoint => self.endpoint.handle(),
            Kind::Notification => self.notification.handle(),
            Kind::Memory | Kind::Any => self.memory.handle(),
            Kind::Process => self.process.handle(),
            Kind::Thread => self.thread.handle(),
            Kind::Irq => self.irq.handle(),
            Kind::Ports => self.ports.handle(),
            Kind::Log => world.log.handle(),
            Kind::System => world.system.handle(),
        }
        .0
    }

    fn good(&self, world: &World, arguments: &[Argument]) -> Vec<u64> {
        let one = |argument: &Argument| match *argument {
            V(value) => value,
            H(kind, _) => self.handle(world, kind),
            P => self.room.as_ptr() as u64,
        };
        arguments.iter().map(one).collect()
    }

    /// Each place where a call takes a handle, with good arguments otherwise.
    pub(super) fn places(&self, world: &World) -> Vec<(Call, usize, Kind, Rights, Vec<u64>)> {
        let mut places = Vec::new();
        for (call, arguments) in CALLS {
            for (index, argument) in arguments.iter().enumerate() {
                if let H(kind, rights) = *argument {
                    places.push((*call, index, kind, rights, self.good(world, arguments)));
                }
            }
        }
        places
    }
}
