//! Interrupts of real devices: messages and lines, which CPU they come to, what becomes of too many, and of those without an owner.

use abi::irq::{IrqInfo, Rate};
use abi::{Call, Error};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::{AsHandle, Irq, Notification, thread};

use super::probe::{soon, until};
use super::tests;
use crate::devices::{Card, Edu};
use crate::kernel_calls::refused;
use crate::roles::Role;
use crate::verdict::{Verdict, Why};
use crate::world::World;
use crate::{check, fail, must, same, skip};

tests! {
    a_message_comes_to_the_cpu_that_was_chosen: 40,
    a_message_goes_to_another_cpu_while_it_comes: 60,
    a_message_that_comes_too_fast_is_held_back_and_counted: 60,
    a_message_with_a_mask_waits_for_its_acknowledgement: 40,
    a_masked_message_that_comes_too_fast_is_held_back: 40,
    a_line_waits_for_its_acknowledgement_on_each_cpu: 60,
    interrupts_of_the_dead_harm_nobody: 60,
    senseless_interrupts_are_refused: 40,
}

/// What the tests start.
pub const ROLES: &[Role] = &[Role {
    name: "storm",
    run: storm,
}];

/// So few that any machine comes to it.
const FEW: u32 = 5;
const LONG: Duration = Duration::from_nanos(Rate::LONGEST_NS);

fn edu(world: &World) -> Result<Edu, Why> {
    match must!(Edu::open(&world.system)) {
        Some(edu) => Ok(edu),
        None => skip!("this machine has no such device"),
    }
}

fn card(world: &World) -> Result<Card, Why> {
    match must!(Card::open(&world.system)) {
        Some(card) => Ok(card),
        None => skip!("this machine has no such device"),
    }
}

fn a_message_comes_to_the_cpu_that_was_chosen(world: &'static World) -> Verdict {
    let edu = edu(world)?;
    for cpu in 0..world.cpus {
        let (irq, message) = must!(Irq::create_message(&world.system, cpu, None));
        let notification = must!(Notification::create());
        edu.send(message);
        must!(irq.bind(&notification, 1 << cpu));
        for round in 1..=20 {
            edu.raise();
            same!(must!(notification.wait(soon())), 1 << cpu);
            edu.quieten();
            let info = must!(irq.info());
            same!((info.arrived, info.cpu, info.last_cpu), (round, cpu, cpu));
        }
        let info = must!(irq.info());
        same!(info.flags, IrqInfo::MESSAGE | IrqInfo::BOUND);
        same!((info.address, info.data), (message.address, message.data));
        same!((info.missed, info.storms), (0, 0));
    }
    Ok(())
}

/// A device that one thread has interrupt on and on.
struct Firing {
    edu: Edu,
    irq: Irq,
    notification: Notification,
    stop: AtomicBool,
    raised: AtomicU64,
}

impl Firing {
    /// Each interrupt is one signal, wherever it comes: none is lost.
    fn fire(&self) -> rt::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            self.edu.raise();
            self.raised.fetch_add(1, Ordering::Relaxed);
            self.notification.wait(soon())?;
        }
        Ok(())
    }

    /// Has it come to one CPU after the other.
    fn moves(&self, cpus: u32) -> Verdict {
        const MOVES: u32 = 40;
        for number in 1..=MOVES {
            let cpu = number % cpus;
            self.edu.send(must!(self.irq.route(cpu)));
            let before = must!(self.irq.info()).arrived;
            until(&format!("it comes to CPU {cpu}"), || {
                let info = self.irq.info()?;
                Ok(info.last_cpu == cpu && info.arrived > before)
            })?;
        }
        Ok(())
    }
}

fn a_message_goes_to_another_cpu_while_it_comes(world: &'static World) -> Verdict {
    let edu = edu(world)?;
    let (irq, message) = must!(Irq::create_message(&world.system, 0, None));
    let notification = must!(Notification::create());
    edu.send(message);
    must!(irq.bind(&notification, 1));
    let firing = Arc::new(Firing {
        edu,
        irq,
        notification,
        stop: AtomicBool::new(false),
        raised: AtomicU64::new(0),
    });
    let fires = Arc::clone(&firing);
    let fires = must!(thread::spawn(move || fires.fire()));
    let moved = firing.moves(world.cpus);
    firing.stop.store(true, Ordering::Relaxed);
    must!(must!(fires.join(soon())));
    moved?;
    let info = must!(firing.irq.info());
    let raised = firing.raised.load(Ordering::Relaxed);
    same!(info.arrived, raised);
    Ok(())
}

/// Raises it, and waits until it has come.
fn raise(edu: &Edu, irq: &Irq) -> Result<IrqInfo, Why> {
    let before = must!(irq.info()).arrived;
    edu.raise();
    until("it has come", || Ok(irq.info()?.arrived > before))?;
    Ok(must!(irq.info()))
}

fn a_message_that_comes_too_fast_is_held_back_and_counted(world: &'static World) -> Verdict {
    let edu = edu(world)?;
    for cpu in [0, world.cpus - 1] {
        let (irq, message) = must!(Irq::create_message(&world.system, cpu, None));
        let notification = must!(Notification::create());
        edu.send(message);
        must!(irq.bind(&notification, 1));
        must!(irq.limit(FEW, LONG));
        for _ in 0..FEW {
            same!(raise(&edu, &irq)?.storms, 0);
            same!(must!(notification.poll()), 1);
        }
        for storm in 1..=3 {
            // One too many. After a hold the count begins anew.
            let start = must!(irq.info()).arrived;
            let mut info = must!(irq.info());
            while info.storms < storm {
                check!(info.arrived - start <= u64::from(FEW), "{info:?}");
                info = raise(&edu, &irq)?;
            }
            // It goes on; that is counted, and makes one signal when the hold is over, which on a slow machine it may be already.
            let missed = info.missed;
            let mut more = 0;
            while info.flags & IrqInfo::HELD != 0 && more < 20 {
                info = raise(&edu, &irq)?;
                more += 1;
            }
            check!(info.missed - missed <= more, "{info:?}");
            until("the hold is over", || {
                Ok(irq.info()?.flags & IrqInfo::HELD == 0)
            })?;
            let _ = must!(notification.wait(soon()));
        }
        // Its first storm is in the log, and no other: see the host's tests. With the rate of all it goes on as ever.
        let highest = Duration::from_nanos(Rate::HIGHEST.period_ns);
        must!(irq.limit(Rate::HIGHEST.count, highest));
        let storms = must!(irq.info()).storms;
        for _ in 0..2 * FEW {
            raise(&edu, &irq)?;
            same!(must!(notification.wait(soon())), 1);
        }
        same!(must!(irq.info()).storms, storms);
    }
    Ok(())
}

/// Serves it until nothing more comes. (The card spaces its messages out by a timer of its own, and may send one more for that, also
/// later. A signal that is taken must be acknowledged, or it was the last.)
fn comes_to_rest(card: &Card, irq: &Irq, notification: &Notification) -> Verdict {
    until("it is let in again", || {
        irq.acknowledge()?;
        Ok(notification.poll()? == 0 && !card.is_masked())
    })
}

fn a_message_with_a_mask_waits_for_its_acknowledgement(world: &'static World) -> Verdict {
    let card = card(world)?;
    for cpu in 0..world.cpus {
        let mask = Some((card.mask, 0));
        let (irq, message) = must!(Irq::create_message(&world.system, cpu, mask));
        check!(card.is_masked(), "nobody is bound to it");
        let notification = must!(Notification::create());
        card.send(message);
        must!(irq.bind(&notification, 1));
        comes_to_rest(&card, &irq, &notification)?;
        for round in 1..=5 {
            card.raise();
            same!(must!(notification.wait(soon())), 1);
            // The next one waits at the device, and is not lost.
            card.raise();
            check!(card.is_masked(), "it was not acknowledged");
            let info = must!(irq.info());
            check!(info.flags & IrqInfo::WAITS != 0, "{info:?}");
            must!(irq.acknowledge());
            same!(must!(notification.wait(soon())), 1);
            let info = must!(irq.info());
            check!(info.arrived >= 2 * round, "{info:?}");
            same!((info.last_cpu, info.storms), (cpu, 0));
            comes_to_rest(&card, &irq, &notification)?;
        }
        drop(irq);
        check!(card.is_masked(), "nobody serves it");
    }
    Ok(())
}

fn a_masked_message_that_comes_too_fast_is_held_back(world: &'static World) -> Verdict {
    let card = card(world)?;
    let cpu = world.cpus - 1;
    let (irq, message) = must!(Irq::create_message(
        &world.system,
        cpu,
        Some((card.mask, 0))
    ));
    let notification = must!(Notification::create());
    card.send(message);
    must!(irq.bind(&notification, 1));
    must!(irq.limit(FEW, LONG));
    let mut info = must!(irq.info());
    while info.storms < 3 {
        card.raise();
        // Also the one that waits for the end of a hold.
        same!(must!(notification.wait(soon())), 1);
        must!(irq.acknowledge());
        let before = must!(irq.info());
        let masked = card.is_masked();
        info = must!(irq.info());
        let held = before.flags & info.flags & IrqInfo::HELD != 0 && before.storms == info.storms;
        check!(masked || !held, "it is held back, and not masked: {info:?}");
        check!(info.arrived <= 10 * u64::from(FEW), "{info:?}");
    }
    comes_to_rest(&card, &irq, &notification)
}

/// The global interrupts to which QEMU's chipset may lead a device's line.
const LINES: core::ops::Range<u64> = 16..24;

fn a_line_waits_for_its_acknowledgement_on_each_cpu(world: &'static World) -> Verdict {
    let mut edu = edu(world)?;
    let notification = must!(Notification::create());
    let mut lines = Vec::new();
    for line in LINES {
        // One that a driver has is not this device's, or it could not be tried.
        if let Ok(irq) = Irq::create(&world.system, line, false) {
            must!(irq.bind(&notification, 1 << line));
            lines.push((line, irq));
        }
    }
    edu.use_line(true);
    edu.raise();
    let bits = notification.wait(soon());
    edu.quieten();
    let found = must!(bits).trailing_zeros();
    let Some((_, irq)) = lines.iter().find(|(line, _)| *line == u64::from(found)) else {
        fail!("the signal is no line's: {found}");
    };
    must!(irq.acknowledge());
    for cpu in 0..world.cpus {
        must!(irq.route(cpu));
        edu.raise();
        same!(must!(notification.wait(soon())), 1 << found);
        let info = must!(irq.info());
        same!((info.cpu, info.last_cpu, info.line), (cpu, cpu, found));
        check!(info.flags & IrqInfo::WAITS != 0, "{info:?}");
        // A device that was not served comes again, and no sooner than the line is let in.
        same!(must!(notification.poll()), 0);
        must!(irq.acknowledge());
        same!(must!(notification.wait(soon())), 1 << found);
        edu.quieten();
        must!(irq.acknowledge());
    }
    // A driver that never serves it, and says that it did.
    must!(irq.limit(FEW, LONG));
    let storms = must!(irq.info()).storms;
    edu.raise();
    until("it is held back", || {
        irq.acknowledge()?;
        Ok(irq.info()?.storms > storms)
    })?;
    edu.quieten();
    must!(irq.acknowledge());
    until("the hold is over", || {
        Ok(irq.info()?.flags & IrqInfo::HELD == 0)
    })?;
    edu.use_line(false);
    Ok(())
}

/// Takes the device and has it interrupt without end, until somebody ends that.
fn storm(world: &'static World, _: &str) -> u64 {
    let ready = rt::start::take::<Notification>("ready");
    let (Ok(ready), Ok(Some(edu))) = (ready, Edu::open(&world.system)) else {
        return 1;
    };
    let cpu = world.cpus - 1;
    let (Ok((irq, message)), Ok(notification)) = (
        Irq::create_message(&world.system, cpu, None),
        Notification::create(),
    ) else {
        return 1;
    };
    edu.send(message);
    if irq.bind(&notification, 1).is_err() || irq.limit(FEW, LONG).is_err() {
        return 1;
    }
    let mut told = false;
    loop {
        edu.raise();
        // Those that come faster than the other CPU takes them are one.
        core::hint::spin_loop();
        if !told && irq.info().is_ok_and(|info| info.storms >= 1) {
            told = ready.signal(1).is_ok();
        }
    }
}

fn interrupts_of_the_dead_harm_nobody(world: &'static World) -> Verdict {
    drop(edu(world)?);
    for _ in 0..5 {
        let ready = must!(Notification::create());
        let child = must!(world.spawn("role storm", &[("ready", ready.handle())]));
        same!(must!(ready.wait(soon())), 1);
        must!(child.process.kill(7));
        same!(must!(child.end(super::probe::PATIENCE)).code, 7);
        // Its device still sends to the vector that it had, which nobody gets before all others.
        let Some(edu) = must!(Edu::open(&world.system)) else {
            fail!("the device has gone");
        };
        let (irq, message) = must!(Irq::create_message(&world.system, 0, None));
        let notification = must!(Notification::create());
        must!(irq.bind(&notification, 1));
        edu.send_as_before();
        edu.raise();
        edu.send(message);
        edu.raise();
        same!(must!(notification.wait(soon())), 1);
        same!(must!(irq.info()).arrived, 1);
    }
    // Each gives its vector back.
    let mut taken = Vec::new();
    let error = loop {
        match Irq::create_message(&world.system, 0, None) {
            Ok((irq, message)) => taken.push((irq, message.data)),
            Err(error) => break error,
        }
    };
    same!(error, Error::Busy);
    let all = taken.len();
    check!(all > 100, "only {all} vectors");
    check!(
        taken.iter().all(|(_, vector)| *vector != 0x80),
        "user code could raise it by `int 0x80`"
    );
    drop(taken);
    for _ in 0..2 * all {
        must!(Irq::create_message(&world.system, world.cpus - 1, None));
    }
    Ok(())
}

fn senseless_interrupts_are_refused(world: &'static World) -> Verdict {
    let system = world.system.handle().0;
    let cpus = u64::from(world.cpus);
    for cpu in [cpus, 1 << 32, u64::MAX] {
        refused(Call::MsiCreate, &[system, cpu, 0, 0], Error::OutOfRange)?;
    }
    let register = 0xFEB0_0000;
    for bit in [32, 1 << 32, u64::MAX] {
        let arguments = [system, 0, register, bit];
        refused(Call::MsiCreate, &arguments, Error::OutOfRange)?;
    }
    for address in [register + 1, register + 2, u64::MAX] {
        let arguments = [system, 0, address, 0];
        refused(Call::MsiCreate, &arguments, Error::BadArgument)?;
    }
    for address in [1 << 52, 1 << 63, 0xFFFF_8000_0000_0000] {
        let arguments = [system, 0, address, 0];
        refused(Call::MsiCreate, &arguments, Error::OutOfRange)?;
    }
    // Memory that programs may be given: the smallest machine here has some at 32 MiB.
    let arguments = [system, 0, 0x200_0000, 0];
    refused(Call::MsiCreate, &arguments, Error::Busy)?;
    let (irq, message) = must!(Irq::create_message(&world.system, 0, None));
    let handle = irq.handle().0;
    for cpu in [cpus, 1 << 32, u64::MAX] {
        refused(Call::IrqRoute, &[handle, cpu], Error::OutOfRange)?;
    }
    for (count, period) in [
        (0, 1),
        (1, 0),
        (2001, 10_000_000),
        (1 << 32, u64::MAX),
        (u64::MAX, Rate::LONGEST_NS),
        (1, Rate::LONGEST_NS + 1),
    ] {
        let arguments = [handle, count, period];
        refused(Call::IrqLimit, &arguments, Error::OutOfRange)?;
    }
    for address in [0, 1 << 47, 0xFFFF_8000_0000_0000] {
        refused(Call::IrqInfo, &[handle, address], Error::BadPointer)?;
    }
    let info = must!(irq.info());
    same!((info.address, info.data), (message.address, message.data));
    same!((info.rate_count, info.cpu), (2000, 0));
    Ok(())
}
