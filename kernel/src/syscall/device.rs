//! Calls on interrupt lines and I/O ports.

use abi::{Error, Rights};

use super::Caller;
use crate::io_ports::{self, IoPorts};
use crate::ipc::Notification;
use crate::irq::{Irq, Line};
use crate::machine;
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
    irq.bind(notification, caller.argument(2));
    Ok(())
}

/// `irq_acknowledge`.
pub(super) fn acknowledge_irq(caller: Caller) -> Result<(), Error> {
    caller
        .hold::<Irq>(caller.handle(0), Rights::MANAGE)?
        .acknowledge();
    Ok(())
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
