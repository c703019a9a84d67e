//! Switching the machine off and restarting it.
//!
//! Both are needed when little else works, in a panic among other times, so all that must be read or mapped for them is
//! prepared by [`prepare`], and doing them takes no lock, no memory and no table. They return only if the machine didn't
//! obey.
//!
//! What may go wrong: the registers are only listened to in ACPI mode, which is asked of the firmware through a port; some
//! machines take some time over it, some never answer. And of the ways to restart, each is missing on some machine, so they are
//! tried in turn, the last being a triple fault, which no CPU survives.

use core::fmt;

use spin::Once;
use x86_64::instructions::port::Port;

use super::{
    Cache, PhysicalMap,
    acpi::{AcpiError, Tables},
    fadt::{Fixed, Register},
    hypervisor,
    sleep_state::SleepTypes,
};
use crate::time;

/// PM1 control: the hardware is in ACPI mode (ACPI 6.5 §4.8.3.2.1).
const SCI_ENABLE: u16 = 1;
/// PM1 control: the field for the sleep type, and the bit that starts sleeping.
const SLEEP_TYPE: u16 = 0b111 << 10;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;
/// The sleep control register of hardware-reduced machines (ACPI 6.5 §4.8.3.7).
const REDUCED_TYPE_SHIFT: u8 = 2;
const REDUCED_ENABLE: u8 = 1 << 5;
/// How long a machine may take to enter ACPI mode: Linux grants three seconds.
const MODE_PATIENCE_NS: u64 = 3_000_000_000;
/// How long a machine may take to obey.
const OBEY_PATIENCE_NS: u64 = 500_000_000;
const POLL_NS: u64 = 1_000_000;

/// The keyboard controller's command port; its status can be read there.
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_BUSY: u8 = 1 << 1;
const KEYBOARD_RESET: u8 = 0xFE;
/// The chip set's reset control register.
const RESET_CONTROL: u16 = 0xCF9;
/// Which kind of reset: hard, and with power taken away.
const RESET_HARD: u8 = 0b0000_0010;
const RESET_NOW: u8 = 0b0000_0110;

/// QEMU's `isa-debug-exit` device, as the recipes configure it.
const DEBUG_EXIT: u16 = 0xF4;

/// A register that can be reached.
#[derive(Clone, Copy)]
enum Reached {
    Port(u16),
    /// The mapped address.
    Memory(usize),
}

impl Reached {
    /// Maps the register if it is in memory.
    fn new(register: Register, map: &dyn PhysicalMap) -> Option<Reached> {
        Some(match register {
            Register::Port(port) => Reached::Port(port),
            Register::Memory(address) => {
                Reached::Memory(map.map(address, 4, Cache::Uncached)?.as_ptr() as usize)
            }
        })
    }

    /// # Safety
    /// The register must be 16 bits wide, and reading it harmless.
    unsafe fn read_u16(self) -> u16 {
        // SAFETY: the port or mapping is the register's, the rest is the caller's promise.
        unsafe {
            match self {
                Reached::Port(port) => Port::new(port).read(),
                Reached::Memory(address) => (address as *const u16).read_volatile(),
            }
        }
    }

    /// # Safety
    /// The register must be 16 bits wide, and the value right for it.
    unsafe fn write_u16(self, value: u16) {
        // SAFETY: as above.
        unsafe {
            match self {
                Reached::Port(port) => Port::new(port).write(value),
                Reached::Memory(address) => (address as *mut u16).write_volatile(value),
            }
        }
    }

    /// # Safety
    /// The register must be 8 bits wide, and the value right for it.
    unsafe fn write_u8(self, value: u8) {
        // SAFETY: as above.
        unsafe {
            match self {
                Reached::Port(port) => Port::new(port).write(value),
                Reached::Memory(address) => (address as *mut u8).write_volatile(value),
            }
        }
    }
}

/// How this machine is switched off.
#[derive(Clone, Copy)]
enum Off {
    /// Through the PM1 control registers.
    Pm1 {
        a: Reached,
        b: Option<Reached>,
        types: SleepTypes,
        enable: Option<(u16, u8)>,
    },
    /// Through the sleep control register.
    Reduced { control: Reached, value: u8 },
}

struct Power {
    off: Result<Off, PowerError>,
    reset: Option<(Reached, u8)>,
    has_keyboard_controller: bool,
}

static POWER: Once<Power> = Once::new();

/// Why the machine can't be switched off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerError {
    /// [`prepare`] was not called.
    NotPrepared,
    /// There are no ACPI tables.
    NoTables,
    /// The tables don't say how.
    Acpi(AcpiError),
    /// The tables give no register for it, or it can't be mapped.
    NoRegister,
    /// The firmware does not enter ACPI mode.
    NoAcpiMode,
    /// The machine was told and is still on.
    StillOn,
}

impl fmt::Display for PowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrepared => f.write_str("power-off was not prepared"),
            Self::NoTables => f.write_str("there are no ACPI tables"),
            Self::Acpi(error) => error.fmt(f),
            Self::NoRegister => f.write_str("the firmware gives no register for power-off"),
            Self::NoAcpiMode => f.write_str("the firmware does not enter ACPI mode"),
            Self::StillOn => f.write_str("the machine ignored the power-off"),
        }
    }
}

impl core::error::Error for PowerError {}

/// Finds out, from the tables, how this machine is switched off and restarted.
///
/// # Errors
/// It can't be switched off, and why; restarting is prepared all the same.
///
/// # Safety
/// Once, with this machine's tables.
pub unsafe fn prepare(
    tables: Option<&Tables<'_>>,
    map: &dyn PhysicalMap,
) -> Result<(), PowerError> {
    let fixed = match tables {
        Some(tables) => tables.fixed().map_err(PowerError::Acpi),
        None => Err(PowerError::NoTables),
    };
    let power = POWER.call_once(|| {
        let off = match (tables, fixed) {
            (Some(tables), Ok(fixed)) => off(tables, &fixed, map),
            (_, Err(error)) => Err(error),
            (None, Ok(_)) => Err(PowerError::NoTables),
        };
        let reset = fixed.ok().and_then(|fixed| fixed.reset);
        Power {
            off,
            reset: reset.and_then(|(register, value)| Some((Reached::new(register, map)?, value))),
            has_keyboard_controller: fixed.map_or(true, |fixed| fixed.has_keyboard_controller),
        }
    });
    power.off.map(|_| ())
}

fn off(tables: &Tables<'_>, fixed: &Fixed, map: &dyn PhysicalMap) -> Result<Off, PowerError> {
    let types = tables.soft_off().map_err(PowerError::Acpi)?;
    let reach = |register: Option<Register>| register.and_then(|found| Reached::new(found, map));
    if fixed.hardware_reduced {
        return Ok(Off::Reduced {
            control: reach(fixed.sleep_control).ok_or(PowerError::NoRegister)?,
            value: types.a << REDUCED_TYPE_SHIFT | REDUCED_ENABLE,
        });
    }
    Ok(Off::Pm1 {
        a: reach(fixed.pm1a_control).ok_or(PowerError::NoRegister)?,
        b: reach(fixed.pm1b_control),
        types,
        enable: fixed.enable,
    })
}

/// Waits, bounded, in steps of a millisecond, until `done`.
fn wait(patience_ns: u64, mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..patience_ns / POLL_NS {
        if done() {
            return true;
        }
        time::delay_ns(POLL_NS);
    }
    done()
}

/// Switches the machine off (ACPI S5). Returns only if that failed, and why.
///
/// # Safety
/// Nothing must be left to do: memory and unwritten data of devices are lost.
pub unsafe fn power_off() -> PowerError {
    let Some(power) = POWER.get() else {
        return PowerError::NotPrepared;
    };
    match power.off {
        Err(error) => error,
        Ok(Off::Reduced { control, value }) => {
            // SAFETY: the sleep control register is 8 bits wide, the value is the one for S5.
            unsafe { control.write_u8(value) };
            time::delay_ns(OBEY_PATIENCE_NS);
            PowerError::StillOn
        }
        Ok(Off::Pm1 {
            a,
            b,
            types,
            enable,
        }) => {
            // SAFETY: PM1 control registers are 16 bits wide; all bits but the sleep type's are kept. The
            // enable port and value are the firmware's.
            unsafe {
                if a.read_u16() & SCI_ENABLE == 0
                    && let Some((port, value)) = enable
                {
                    Port::new(port).write(value);
                    if !wait(MODE_PATIENCE_NS, || a.read_u16() & SCI_ENABLE != 0) {
                        return PowerError::NoAcpiMode;
                    }
                }
                let with = |register: Reached, kind: u8| {
                    register.read_u16() & !(SLEEP_TYPE | SLEEP_ENABLE)
                        | u16::from(kind) << SLEEP_TYPE_SHIFT
                };
                // The type first, then the bit, as the specification has it for machines with two registers.
                let value_a = with(a, types.a);
                let value_b = b.map(|b| (b, with(b, types.b)));
                a.write_u16(value_a);
                if let Some((b, value)) = value_b {
                    b.write_u16(value);
                }
                a.write_u16(value_a | SLEEP_ENABLE);
                if let Some((b, value)) = value_b {
                    b.write_u16(value | SLEEP_ENABLE);
                }
            }
            time::delay_ns(OBEY_PATIENCE_NS);
            PowerError::StillOn
        }
    }
}

/// Restarts the machine: by the FADT's reset register, else the keyboard controller, else the chip set, else a triple fault.
///
/// # Safety
/// Nothing must be left to do: memory and unwritten data of devices are lost.
pub unsafe fn restart() -> ! {
    x86_64::instructions::interrupts::disable();
    let power = POWER.get();
    if let Some((register, value)) = power.and_then(|power| power.reset) {
        // SAFETY: the reset register is 8 bits wide (ACPI 6.5 §4.8.3.6), the value is the firmware's.
        unsafe { register.write_u8(value) };
        time::delay_ns(OBEY_PATIENCE_NS);
    }
    if power.is_none_or(|power| power.has_keyboard_controller) {
        let mut command = Port::<u8>::new(KEYBOARD_COMMAND);
        // SAFETY: the machine has this controller, or its tables don't tell; pulsing its reset line resets.
        unsafe {
            wait(OBEY_PATIENCE_NS / 10, || {
                command.read() & KEYBOARD_BUSY == 0
            });
            command.write(KEYBOARD_RESET);
        }
        time::delay_ns(OBEY_PATIENCE_NS);
    }
    // SAFETY: on chip sets that have this register, this resets; on others nothing is there.
    unsafe {
        Port::<u8>::new(RESET_CONTROL).write(RESET_HARD);
        time::delay_ns(POLL_NS);
        Port::<u8>::new(RESET_CONTROL).write(RESET_NOW);
    }
    time::delay_ns(OBEY_PATIENCE_NS);
    triple_fault()
}

/// With no interrupt table an exception can't be delivered, nor the double fault after it: the CPU shuts down, and the board
/// resets it.
fn triple_fault() -> ! {
    let nothing = x86_64::structures::DescriptorTablePointer {
        limit: 0,
        base: x86_64::VirtAddr::zero(),
    };
    loop {
        // SAFETY: that no exception can be handled any more is the purpose.
        unsafe {
            x86_64::instructions::tables::lidt(&nothing);
            core::arch::asm!("ud2", options(nomem, nostack));
        }
    }
}

/// Ends an emulator with a failing status, for a panic: QEMU's `isa-debug-exit` device exits with `code * 2 + 1`. On a
/// real PC that port may be something else's, so it is written only where a hypervisor says that it is there. Returns
/// if there is none, or it has no such device.
pub fn exit_emulator(code: u8) {
    if hypervisor::present() {
        // SAFETY: under an emulator this port is the exit device's or nothing's.
        unsafe { Port::<u32>::new(DEBUG_EXIT).write(u32::from(code)) };
    }
}
