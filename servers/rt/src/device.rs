//! Hardware that a driver is given: interrupt lines and I/O ports.

use abi::irq::{IrqInfo, Message};
use abi::{Call, Error, Handle};

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

    /// An interrupt that a device sends as a message (MSI, MSI-X) to `cpu`, and what the device must be programmed with to send
    /// it. `mask`: physical address of the 32-bit register, and the bit in it, by which the device holds it back; the kernel has set it.
    ///
    /// # Errors
    /// `NoRight` without HARDWARE; `OutOfRange` for a CPU or a bit that there is not; `NotSupported` for a CPU that can't be reached;
    /// `BadArgument` for an unaligned address; `Busy` for one in RAM, or if all vectors are in use; `NoMemory`.
    pub fn create_message(
        system: &System,
        cpu: u32,
        mask: Option<(u64, u32)>,
    ) -> Result<(Irq, Message)> {
        let (address, bit) = mask.unwrap_or_default();
        let arguments = [
            system.handle().0,
            u64::from(cpu),
            address,
            u64::from(bit),
            0,
            0,
        ];
        // SAFETY: touches no memory of the caller's.
        let [handle, address, data] = unsafe { sys::call(Call::MsiCreate, arguments) }?;
        let irq = Irq(OwnedHandle::from_raw(Handle(handle)));
        Ok((irq, Message { address, data }))
    }

    /// Sends it to `cpu` from now on; for a message, when the device is programmed with what is returned.
    ///
    /// # Errors
    /// `NoRight` without MANAGE; `OutOfRange` for a CPU that there is not; `NotSupported` for one that can't be reached.
    pub fn route(&self, cpu: u32) -> Result<Message> {
        let arguments = [self.handle().0, u64::from(cpu), 0, 0, 0, 0];
        // SAFETY: touches no memory.
        let [_, address, data] = unsafe { sys::call(Call::IrqRoute, arguments) }?;
        Ok(Message { address, data })
    }

    /// Bounds how fast it may come: `count` times in so long a while, at most [`Rate::HIGHEST`](abi::irq::Rate::HIGHEST). What is faster is held back for
    /// [`HOLD_NS`](abi::irq::HOLD_NS), and what comes meanwhile signalled as one.
    ///
    /// # Errors
    /// `NoRight` without MANAGE; `OutOfRange`.
    pub fn limit(&self, count: u32, period: core::time::Duration) -> Result<()> {
        let period_ns = u64::try_from(period.as_nanos()).map_err(|_| Error::OutOfRange)?;
        let arguments = [self.handle().0, u64::from(count), period_ns, 0, 0, 0];
        // SAFETY: touches no memory.
        unsafe { sys::call(Call::IrqLimit, arguments) }.map(|_| ())
    }

    /// How often it came, and how it is served.
    ///
    /// # Errors
    /// `NoRight` without QUERY.
    pub fn info(&self) -> Result<IrqInfo> {
        let mut info = IrqInfo::default();
        let arguments = [self.handle().0, &raw mut info as u64, 0, 0, 0, 0];
        // SAFETY: the kernel writes exactly this structure.
        unsafe { sys::call(Call::IrqInfo, arguments) }?;
        Ok(info)
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
