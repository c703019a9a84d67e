//! Hardware that a driver is given: interrupt lines and I/O ports.

use abi::{Call, Handle};

use crate::handle::object;
use crate::{AsHandle, Notification, OwnedHandle, Result, System, sys};

object! {
    /// An interrupt line.
    Irq
}

object! {
    /// A range of I/O ports.
    IoPorts
}

impl Irq {
    /// The object of an interrupt line: an ISA line number, or else a global system interrupt.
    ///
    /// # Errors
    /// `NoRight` without HARDWARE, `OutOfRange` or `NotSupported` for a line that the machine doesn't have, `Busy`.
    pub fn create(system: &System, line: u64, isa: bool) -> Result<Irq> {
        // SAFETY: touches no memory.
        let values = unsafe {
            sys::call(
                Call::IrqCreate,
                [system.handle().0, line, u64::from(isa), 0, 0, 0],
            )
        }?;
        Ok(Irq(OwnedHandle::from_raw(Handle(values[0]))))
    }

    /// Has `bits` signalled at each interrupt, and unmasks the line.
    ///
    /// # Errors
    /// `NoRight` without MANAGE here or SIGNAL there.
    pub fn bind(&self, notification: &Notification, bits: u64) -> Result<()> {
        // SAFETY: touches no memory.
        unsafe {
            sys::call(
                Call::IrqBind,
                [self.handle().0, notification.handle().0, bits, 0, 0, 0],
            )
        }
        .map(|_| ())
    }

    /// The interrupt was handled: unmasks the line again.
    ///
    /// # Errors
    /// `NoRight` without MANAGE.
    pub fn acknowledge(&self) -> Result<()> {
        // SAFETY: touches no memory.
        unsafe { sys::call(Call::IrqAcknowledge, [self.handle().0, 0, 0, 0, 0, 0]) }.map(|_| ())
    }
}

impl IoPorts {
    /// The object of the ports from `first` on.
    ///
    /// # Errors
    /// `NoRight` without HARDWARE, `OutOfRange`, `Busy`.
    pub fn create(system: &System, first: u16, count: u32) -> Result<IoPorts> {
        let arguments = [
            system.handle().0,
            u64::from(first),
            u64::from(count),
            0,
            0,
            0,
        ];
        // SAFETY: touches no memory.
        let values = unsafe { sys::call(Call::IoPortsCreate, arguments) }?;
        Ok(IoPorts(OwnedHandle::from_raw(Handle(values[0]))))
    }

    /// Lets this process's threads use the ports by `in` and `out`.
    ///
    /// # Errors
    /// `NoRight` without MANAGE, `NoMemory`.
    pub fn enable(&self) -> Result<()> {
        // SAFETY: touches no memory; what the ports do to the machine is their driver's to know.
        unsafe { sys::call(Call::IoPortsEnable, [self.handle().0, 0, 0, 0, 0, 0]) }.map(|_| ())
    }

    /// Takes the ports back from a process. On return none of its threads can use them, on any CPU.
    ///
    /// # Errors
    /// `NoRight` without MANAGE on both.
    pub fn disable(&self, process: &impl AsHandle) -> Result<()> {
        let arguments = [process.handle().0, self.handle().0, 0, 0, 0, 0];
        // SAFETY: touches no memory.
        unsafe { sys::call(Call::IoPortsDisable, arguments) }.map(|_| ())
    }
}
