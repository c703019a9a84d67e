//! Interrupts of devices as objects: lines of the I/O APICs, and messages that devices send themselves (MSI, MSI-X).
//!
//! Each has a vector, the same on all CPUs, and a line of one table says which object the vector belongs to. So it can go to another
//! CPU and keep its vector, and one that is still on its way to the former CPU is taken as well.
//!
//! A level-triggered line is masked from its interrupt until it is acknowledged, so a device that is not served can't storm. So
//! is a message if the kernel was told of the bit by which its device holds it back. An edge-triggered line is not: an edge that
//! comes while it is masked would be lost. What comes too fast ([`gate`]) is held back for a while, whichever it is: masked where
//! that can be done, and passed on as one signal afterwards.
//!
//! What may go wrong: the interrupt of an object that is gone may still be on its way when its vector has a new owner. Vectors are
//! therefore given out in turn, so that this one's is the last that is used again; and a driver must bear an interrupt for nothing.

#[cfg(target_os = "none")]
mod controller;
#[cfg(not(target_os = "none"))]
#[path = "irq/controller_hosted.rs"]
mod controller;
mod gate;

use core::sync::atomic::{AtomicBool, Ordering};

use abi::Error;
use abi::irq::{IrqInfo, Message, Rate};
use arch::platform::msi::MaskBit;

use crate::ipc::{Notification, Signaller};
use crate::object::{Object, Ref, Slab, Waking};
use crate::sync::{Mutex, level};
use gate::{Gate, Passage};

/// First vector that devices use: above the exceptions and the legacy controllers' remapped sixteen.
pub const FIRST_VECTOR: u8 = 0x30;
/// One past the last.
pub const END_VECTOR: u8 = 0xF0;
/// Never given to a device: user code may raise it by `int 0x80`.
const SYSTEM_CALL_VECTOR: u8 = 0x80;
const VECTORS: usize = (END_VECTOR - FIRST_VECTOR) as usize;

/// A line's electrical properties and number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Global system interrupt.
    pub gsi: u32,
    /// Whether it is active low.
    pub active_low: bool,
    /// Whether it is level-triggered.
    pub level_triggered: bool,
}

/// Where interrupts come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Line(Line),
    /// A message, and the bit by which its device holds it back.
    Message(Option<MaskBit>),
}

impl Source {
    /// Whether it is masked from an interrupt until that is acknowledged.
    fn waits(self) -> bool {
        match self {
            Source::Line(line) => line.level_triggered,
            Source::Message(bit) => bit.is_some(),
        }
    }

    fn mask(self, masked: bool) {
        match self {
            Source::Line(line) => controller::mask(line.gsi, masked),
            Source::Message(Some(bit)) => bit.set(masked),
            Source::Message(None) => {}
        }
    }

    /// Whether an interrupt may be lost while it is masked.
    fn forgets(self) -> bool {
        matches!(self, Source::Line(line) if !line.level_triggered)
    }
}

/// An interrupt line, or a message.
pub struct Irq {
    vector: u8,
    /// Those who waited for it, and are many: from its last reference on.
    waking: Mutex<{ level::IRQ }, Option<Waking>>,
}

/// What belongs to a vector.
struct Binding {
    source: Source,
    cpu: u32,
    /// Where it came last.
    last_cpu: u32,
    notification: Option<(Signaller, u64)>,
    /// It is masked until it is acknowledged, or bound at first.
    waits: bool,
    gate: Gate,
}

impl Binding {
    /// Masks the source, or lets it in, as it should be now.
    fn settle(&self) {
        self.source
            .mask(self.waits || self.gate.until_ns().is_some());
    }

    /// Signalled under the table's lock, so that the notification can't go meanwhile; notifications come later in the order.
    fn signal(&self) {
        if let Some((notification, bits)) = &self.notification {
            notification.signal(*bits);
        }
    }
}

struct Table {
    /// What each vector belongs to; `None`: free.
    bindings: [Option<Binding>; VECTORS],
    /// Where the search for a free one begins.
    next: usize,
}

impl Table {
    fn has_line(&self, gsi: u32) -> bool {
        let is =
            |binding: &Binding| matches!(binding.source, Source::Line(line) if line.gsi == gsi);
        self.bindings.iter().flatten().any(is)
    }

    /// Gives a vector to a source, which is masked as long as nobody is bound to it.
    fn take(&mut self, source: Source, cpu: u32) -> Option<u8> {
        let index = (0..VECTORS)
            .map(|offset| (self.next + offset) % VECTORS)
            .find(|&index| {
                self.bindings[index].is_none()
                    && index != usize::from(SYSTEM_CALL_VECTOR - FIRST_VECTOR)
            })?;
        self.next = index + 1;
        self.bindings[index] = Some(Binding {
            source,
            cpu,
            last_cpu: cpu,
            notification: None,
            waits: true,
            gate: Gate::new(),
        });
        let vector = FIRST_VECTOR + index as u8;
        TOLD[usize::from(vector)].store(false, Ordering::Relaxed);
        Some(vector)
    }

    fn of(&mut self, vector: u8) -> Option<&mut Binding> {
        let index = vector.checked_sub(FIRST_VECTOR)?;
        self.bindings.get_mut(usize::from(index))?.as_mut()
    }
}

static TABLE: Mutex<{ level::IRQ }, Table> = Mutex::new(Table {
    bindings: [const { None }; VECTORS],
    next: 0,
});
/// Vectors of nobody, of whose interrupts the log has been told.
static TOLD: [AtomicBool; 256] = [const { AtomicBool::new(false) }; 256];
static SLAB: Slab<Irq> = Slab::new();

impl Object for Irq {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    fn last_reference(&self) {
        // The first few at once, and the others by pieces.
        let waking = release_vector(self.vector).filter(Waking::wake_some);
        if waking.is_some() {
            *self.waking.lock() = waking;
        }
    }

    fn tear_down(&mut self) -> bool {
        let waking = self.waking.get_mut();
        if waking.as_ref().is_some_and(Waking::wake_some) {
            return false;
        }
        *waking = None;
        true
    }
}

/// Masks what belongs to a vector, and frees the vector. Then those are to be woken who waited for its interrupt and nothing else. No lock may be held.
fn release_vector(vector: u8) -> Option<Waking> {
    let former = {
        let mut table = TABLE.lock();
        if let Some(binding) = table.of(vector) {
            binding.source.mask(true);
        }
        table.bindings[usize::from(vector - FIRST_VECTOR)].take()
    };
    // Its notification goes without the lock.
    let (notification, _) = former?.notification?;
    notification.give_up()
}

impl Irq {
    fn of(vector: u8) -> Irq {
        Irq {
            vector,
            waking: Mutex::new(None),
        }
    }

    /// Takes a line, masked. It goes to the first CPU.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody has it, or all vectors are in use; [`Error::NotSupported`] if no I/O APIC has it, or
    /// none reaches the first CPU; [`Error::NoMemory`].
    pub fn create(line: Line) -> Result<Ref<Irq>, Error> {
        if !controller::has(line.gsi) {
            return Err(Error::NotSupported);
        }
        let vector = {
            let mut table = TABLE.lock();
            if table.has_line(line.gsi) {
                return Err(Error::Busy);
            }
            table.take(Source::Line(line), 0).ok_or(Error::Busy)?
        };
        let free = |error| {
            let waking = release_vector(vector);
            debug_assert!(waking.is_none(), "nobody was bound to it");
            error
        };
        controller::route(line, vector, 0).map_err(free)?;
        Ref::try_new(Irq::of(vector)).map_err(free)
    }

    /// A message for `cpu`, and what a device must be programmed with to send it. `mask`: physical address, checked to be a device's,
    /// and bit of the register that holds it back; it is set already.
    ///
    /// # Errors
    /// [`Error::Busy`] if all vectors are in use; [`Error::OutOfRange`] for a CPU that there is not; [`Error::NotSupported`] for one
    /// that can't be reached; [`Error::NoMemory`].
    pub fn create_message(
        cpu: u32,
        mask: Option<(u64, u32)>,
    ) -> Result<(Ref<Irq>, Message), Error> {
        // Before anything is mapped.
        controller::message(FIRST_VECTOR, cpu)?;
        let bit = mask
            .map(|(address, bit)| controller::mask_bit(address, bit))
            .transpose()?;
        let vector = {
            let mut table = TABLE.lock();
            let vector = table.take(Source::Message(bit), cpu).ok_or(Error::Busy)?;
            if let Some(binding) = table.of(vector) {
                binding.settle();
            }
            vector
        };
        let free = |error| {
            let waking = release_vector(vector);
            debug_assert!(waking.is_none(), "nobody was bound to it");
            error
        };
        let message = controller::message(vector, cpu).map_err(free)?;
        let irq = Ref::try_new(Irq::of(vector)).map_err(free)?;
        Ok((irq, message))
    }

    /// Does something with what belongs to the vector. It is there as long as the object is.
    fn with<R>(&self, act: impl FnOnce(&mut Binding) -> R) -> Result<R, Error> {
        TABLE.lock().of(self.vector).map(act).ok_or(Error::Ended)
    }

    /// Signals `bits` of a notification at each interrupt, and lets it in. Who waited for the notification that was bound before, and for nothing else, is woken: others may
    /// have the CPU in between. No lock may be held, and of objects counted references only.
    ///
    /// # Errors
    /// None while the object is there.
    pub fn bind(&self, notification: Ref<Notification>, bits: u64) -> Result<(), Error> {
        let signaller = Signaller::new(notification);
        let former = self.with(|binding| {
            let former = binding.notification.replace((signaller, bits));
            binding.waits = false;
            binding.settle();
            former
        })?;
        if let Some((notification, _)) = former {
            notification.end();
        }
        Ok(())
    }

    /// The device was served: lets the interrupt in again, at the end of its hold if it is held back.
    ///
    /// # Errors
    /// None while the object is there.
    pub fn acknowledge(&self) -> Result<(), Error> {
        self.with(|binding| {
            binding.waits = false;
            binding.settle();
        })
    }

    /// Sends it to `cpu` from now on; for a message, when the device is programmed with what is returned.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a CPU that there is not; [`Error::NotSupported`] for one that can't be reached. It goes where it
    /// went then.
    pub fn route(&self, cpu: u32) -> Result<Message, Error> {
        self.with(|binding| {
            let message = match binding.source {
                Source::Message(_) => controller::message(self.vector, cpu)?,
                Source::Line(line) => {
                    let routed = controller::route(line, self.vector, cpu);
                    // It may be masked now, whether that succeeded or not.
                    binding.settle();
                    routed?;
                    if binding.source.forgets() {
                        binding.signal();
                    }
                    Message::default()
                }
            };
            binding.cpu = cpu;
            Ok(message)
        })?
    }

    /// Bounds how fast it may come.
    ///
    /// # Errors
    /// None while the object is there.
    pub fn limit(&self, rate: Rate) -> Result<(), Error> {
        self.with(|binding| binding.gate.limit(rate))
    }

    /// What there is to know of it.
    ///
    /// # Errors
    /// None while the object is there.
    pub fn info(&self) -> Result<IrqInfo, Error> {
        self.with(|binding| {
            let gate = &binding.gate;
            let (line, message, is_message, maskable) = match binding.source {
                Source::Line(line) => (line.gsi, Message::default(), false, true),
                Source::Message(bit) => {
                    let message = controller::message(self.vector, binding.cpu);
                    (0, message.unwrap_or_default(), true, bit.is_some())
                }
            };
            let flag = |is: bool, flag: u32| if is { flag } else { 0 };
            IrqInfo {
                arrived: gate.arrived,
                missed: gate.missed,
                storms: gate.storms,
                rate_count: u64::from(gate.rate().count),
                period_ns: gate.rate().period_ns,
                address: message.address,
                data: message.data,
                line,
                cpu: binding.cpu,
                flags: flag(is_message, IrqInfo::MESSAGE)
                    | flag(binding.waits, IrqInfo::WAITS)
                    | flag(gate.until_ns().is_some(), IrqInfo::HELD)
                    | flag(binding.notification.is_some(), IrqInfo::BOUND)
                    | flag(maskable, IrqInfo::MASKABLE),
                last_cpu: binding.last_cpu,
            }
        })
    }
}

/// What an interrupt was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Arrival {
    /// Some object's.
    Taken,
    /// Some object's that comes too fast. It is held back: [`open_gates`] must be called at `until_ns`. `first`: it was not so before.
    Storm {
        /// When, in absolute nanoseconds.
        until_ns: u64,
        /// Whether it is this object's first.
        first: bool,
        /// What it was allowed.
        rate: Rate,
    },
    /// Nobody's. `first`: the first since the vector was somebody's.
    Nobodys {
        /// Whether it is the first.
        first: bool,
    },
}

/// An interrupt came on a device's vector, to `cpu` at `now_ns`: masks it where that is due, and signals whoever is bound.
pub fn arrived(vector: u8, cpu: u32, now_ns: u64) -> Arrival {
    let mut table = TABLE.lock();
    let Some(binding) = table.of(vector) else {
        let first = !TOLD[usize::from(vector)].swap(true, Ordering::Relaxed);
        return Arrival::Nobodys { first };
    };
    binding.last_cpu = cpu;
    let passage = binding.gate.arrive(now_ns);
    binding.waits |= binding.source.waits();
    if binding.waits || passage != Passage::Open {
        binding.settle();
    }
    if passage != Passage::Closed {
        binding.signal();
    }
    match passage {
        Passage::Last(until_ns) => Arrival::Storm {
            until_ns,
            first: binding.gate.storms == 1,
            rate: binding.gate.rate(),
        },
        Passage::Open | Passage::Closed => Arrival::Taken,
    }
}

/// Lets in again what was held back until now. When there is more to be let in, in absolute nanoseconds.
pub fn open_gates(now_ns: u64) -> Option<u64> {
    let mut table = TABLE.lock();
    let mut next = None;
    for binding in table.bindings.iter_mut().flatten() {
        if let Some(came) = binding.gate.open(now_ns) {
            binding.settle();
            if came || binding.source.forgets() {
                binding.signal();
            }
        } else if let Some(until) = binding.gate.until_ns() {
            next = Some(next.map_or(until, |next: u64| next.min(until)));
        }
    }
    next
}

#[cfg(test)]
mod tests;
