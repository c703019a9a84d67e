//! Interrupt lines as objects.
//!
//! A level-triggered line is masked from its interrupt until it is acknowledged, so a device that is not served can't storm. An
//! edge-triggered one is not: an edge that comes while it is masked would be lost. Each line that
//! is in use has a vector, and a line of this table says which object the vector belongs to.

use abi::Error;

use crate::ipc::Notification;
use crate::object::{Object, Ref, Slab};
use crate::sync::{Mutex, level};

/// First vector that lines use: above the exceptions and the legacy controllers' remapped sixteen.
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

/// An interrupt line.
pub struct Irq {
    line: Line,
    vector: u8,
}

struct Binding {
    gsi: u32,
    level_triggered: bool,
    notification: Option<(Ref<Notification>, u64)>,
}

/// What each vector belongs to; `None`: free.
static BINDINGS: Mutex<{ level::IRQ }, [Option<Binding>; VECTORS]> =
    Mutex::new([const { None }; VECTORS]);
static SLAB: Slab<Irq> = Slab::new();

impl Object for Irq {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    fn last_reference(&self) {
        controller::mask(self.line.gsi);
        let former = BINDINGS.lock()[usize::from(self.vector - FIRST_VECTOR)].take();
        drop(former);
    }
}

impl Irq {
    /// Takes a line, masked.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody has it, or all vectors are in use; [`Error::NotSupported`] if no I/O APIC has it;
    /// [`Error::NoMemory`].
    pub fn create(line: Line) -> Result<Ref<Irq>, Error> {
        if !controller::has(line.gsi) {
            return Err(Error::NotSupported);
        }
        let vector = {
            let mut bindings = BINDINGS.lock();
            if bindings
                .iter()
                .flatten()
                .any(|binding| binding.gsi == line.gsi)
            {
                return Err(Error::Busy);
            }
            let index = (0..VECTORS)
                .find(|&index| {
                    bindings[index].is_none()
                        && index != usize::from(SYSTEM_CALL_VECTOR - FIRST_VECTOR)
                })
                .ok_or(Error::Busy)?;
            bindings[index] = Some(Binding {
                gsi: line.gsi,
                level_triggered: line.level_triggered,
                notification: None,
            });
            FIRST_VECTOR + index as u8
        };
        let free = |error| {
            let former = BINDINGS.lock()[usize::from(vector - FIRST_VECTOR)].take();
            drop(former);
            error
        };
        controller::route(line, vector).map_err(free)?;
        Ref::try_new(Irq { line, vector }).map_err(free)
    }

    /// Signals `bits` of a notification at each interrupt, and lets the line in.
    pub fn bind(&self, notification: Ref<Notification>, bits: u64) {
        let former = match &mut BINDINGS.lock()[usize::from(self.vector - FIRST_VECTOR)] {
            Some(binding) => binding.notification.replace((notification, bits)),
            None => None,
        };
        drop(former);
        controller::unmask(self.line.gsi);
    }

    /// The device was served: lets the line in again.
    pub fn acknowledge(&self) {
        controller::unmask(self.line.gsi);
    }
}

/// An interrupt came on a line's vector: masks the line and signals whoever is bound. False if the vector is nobody's.
pub fn arrived(vector: u8) -> bool {
    if !(FIRST_VECTOR..END_VECTOR).contains(&vector) {
        return false;
    }
    let bindings = BINDINGS.lock();
    let Some(binding) = &bindings[usize::from(vector - FIRST_VECTOR)] else {
        return false;
    };
    if binding.level_triggered {
        controller::mask(binding.gsi);
    }
    if let Some((notification, bits)) = &binding.notification {
        // Signalled under the lock, so that the notification can't go meanwhile; notifications come later in the order.
        notification.signal(*bits);
    }
    true
}

#[cfg(target_os = "none")]
mod controller {
    use abi::Error;
    use arch::platform::ioapic;
    use arch::platform::madt::{Polarity, Trigger};

    use super::Line;

    pub(super) fn has(gsi: u32) -> bool {
        ioapic::has(gsi)
    }

    pub(super) fn route(line: Line, vector: u8) -> Result<(), Error> {
        let polarity = if line.active_low {
            Polarity::Low
        } else {
            Polarity::High
        };
        let trigger = if line.level_triggered {
            Trigger::Level
        } else {
            Trigger::Edge
        };
        // Interrupts go to the first CPU until they can be placed.
        let target = crate::cpu::by_index(0).apic_id();
        // SAFETY: the vector has a handler, and is this line's alone.
        unsafe { ioapic::route(line.gsi, vector, target, polarity, trigger) }
            .map_err(|_| Error::NotSupported)
    }

    pub(super) fn mask(gsi: u32) {
        // It fails only for lines that no controller has, and those are not made.
        let _ = ioapic::mask(gsi);
    }

    pub(super) fn unmask(gsi: u32) {
        let _ = ioapic::unmask(gsi);
    }
}

#[cfg(not(target_os = "none"))]
mod controller {
    //! On the host there is a controller that notes what is asked of it. It has more lines than there are vectors.

    use core::sync::atomic::{AtomicU32, Ordering};

    use abi::Error;

    use super::Line;

    /// Lines that there are.
    pub(super) const LINES: u32 = 256;
    /// A line that can't be routed.
    pub(super) const BROKEN: u32 = 255;

    const MASKED: u32 = 1 << 8;

    /// The vector and the mask of each line.
    static STATES: [AtomicU32; LINES as usize] = [const { AtomicU32::new(MASKED) }; LINES as usize];

    pub(super) fn has(gsi: u32) -> bool {
        gsi < LINES
    }

    pub(super) fn route(line: Line, vector: u8) -> Result<(), Error> {
        if line.gsi == BROKEN {
            return Err(Error::NotSupported);
        }
        STATES[line.gsi as usize].store(MASKED | u32::from(vector), Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn mask(gsi: u32) {
        STATES[gsi as usize].fetch_or(MASKED, Ordering::Relaxed);
    }

    pub(super) fn unmask(gsi: u32) {
        STATES[gsi as usize].fetch_and(!MASKED, Ordering::Relaxed);
    }

    /// The vector that a line was routed to last, and whether it is masked.
    #[cfg(test)]
    pub(super) fn state(gsi: u32) -> (u8, bool) {
        let state = STATES[gsi as usize].load(Ordering::Relaxed);
        (state as u8, state & MASKED != 0)
    }
}

#[cfg(test)]
mod tests;
