//! Calls on interrupt lines and I/O ports.

use abi::irq::{Message, Rate};
use abi::{Error, Rights};
use arch::paging::Cache;

use super::Caller;
use crate::io_ports::{self, IoPorts};
use crate::ipc::Notification;
use crate::irq::{Irq, Line};
use crate::machine;
use crate::memory::PAGE_BYTES;
use crate::memory::object::MemoryObject;
use crate::memory::user;
use crate::object::{AnyObject, Ref};
use crate::process::Process;

/// `irq_create`.
pub(super) fn create_irq(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), false, Rights::HARDWARE)?;
    let number = u32::try_from(caller.argument(1)).map_err(|_| Error::OutOfRange)?;
    let line = match caller.argument(2) {
        0 => Line {
            gsi: number,
            active_low: true,
            level_triggered: true,
        },
        1 => machine::isa_line(u8::try_from(number).map_err(|_| Error::OutOfRange)?)?,
        _ => return Err(Error::BadArgument),
    };
    caller.give(AnyObject::Irq(Irq::create(line)?), Rights::ALL)
}

/// `irq_bind`.
pub(super) fn bind_irq(caller: Caller) -> Result<(), Error> {
    let irq = caller.hold::<Irq>(caller.handle(0), Rights::MANAGE)?;
    let notification = caller.hold::<Notification>(caller.handle(1), Rights::SIGNAL)?;
    if caller.argument(2) == 0 {
        return Err(Error::BadArgument);
    }
    irq.bind(notification, caller.argument(2))
}

/// `irq_acknowledge`.
pub(super) fn acknowledge_irq(caller: Caller) -> Result<(), Error> {
    caller
        .hold::<Irq>(caller.handle(0), Rights::MANAGE)?
        .acknowledge()
}

/// A CPU as an argument names it.
fn cpu_of(caller: Caller, index: usize) -> Result<u32, Error> {
    u32::try_from(caller.argument(index)).map_err(|_| Error::OutOfRange)
}

/// `msi_create`.
pub(super) fn create_message(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), false, Rights::HARDWARE)?;
    let cpu = cpu_of(caller, 1)?;
    let (address, bit) = (caller.argument(2), caller.argument(3));
    let mask = if (address, bit) == (0, 0) {
        None
    } else {
        let bit = u32::try_from(bit)
            .ok()
            .filter(|bit| *bit < u32::BITS)
            .ok_or(Error::OutOfRange)?;
        if !address.is_multiple_of(4) {
            return Err(Error::BadArgument);
        }
        // The same may be named as for the driver's own view of the device, and no more.
        let page = address & !(PAGE_BYTES - 1);
        drop(MemoryObject::create_device(
            page,
            PAGE_BYTES,
            Cache::Uncached,
        )?);
        Some((address, bit))
    };
    let (irq, message) = Irq::create_message(cpu, mask)?;
    caller.give(AnyObject::Irq(irq), Rights::ALL)?;
    give_message(caller, message);
    Ok(())
}

/// Results 1 and 2: what a device is programmed with.
fn give_message(caller: Caller, message: Message) {
    caller.set_result(1, message.address);
    caller.set_result(2, message.data);
}

/// `irq_route`.
pub(super) fn route_irq(caller: Caller) -> Result<(), Error> {
    let irq = caller.hold::<Irq>(caller.handle(0), Rights::MANAGE)?;
    give_message(caller, irq.route(cpu_of(caller, 1)?)?);
    Ok(())
}

/// `irq_limit`.
pub(super) fn limit_irq(caller: Caller) -> Result<(), Error> {
    let irq = caller.hold::<Irq>(caller.handle(0), Rights::MANAGE)?;
    let rate = Rate::new(caller.argument(1), caller.argument(2)).ok_or(Error::OutOfRange)?;
    irq.limit(rate)
}

/// `irq_info`.
pub(super) fn irq_info(caller: Caller) -> Result<(), Error> {
    let irq = caller.hold::<Irq>(caller.handle(0), Rights::QUERY)?;
    user::write(caller.argument(1), &irq.info()?)
}

/// `io_ports_create`.
pub(super) fn create_ports(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), false, Rights::HARDWARE)?;
    let ports = IoPorts::new(caller.argument(1), caller.argument(2))?;
    caller.give(AnyObject::IoPorts(Ref::try_new(ports)?), Rights::ALL)
}

/// `io_ports_enable`.
pub(super) fn enable_ports(caller: Caller) -> Result<(), Error> {
    let ports = caller.hold::<IoPorts>(caller.handle(0), Rights::MANAGE)?;
    caller.process().ports().allow(&ports)?;
    caller.thread().use_ports();
    Ok(())
}

/// `io_ports_disable`.
pub(super) fn disable_ports(caller: Caller) -> Result<(), Error> {
    let process = caller.hold::<Process>(caller.handle(0), Rights::MANAGE)?;
    let ports = caller.hold::<IoPorts>(caller.handle(1), Rights::MANAGE)?;
    process.ports().forbid(&ports);
    io_ports::tell_cpus(process.ports().map());
    Ok(())
}
