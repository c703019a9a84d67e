//! The FADT: the fixed registers of power management (ACPI 6.5 §5.2.9).
//!
//! The table grew with every version, and firmware claims revisions whose fields its table is too short for. So it is
//! copied into a zeroed structure of the full length: a field that the table doesn't have is 0, which means "absent"
//! for all that are used here.

use acpi::{
    address::{AddressSpace, GenericAddress},
    fadt::Fadt,
};

use super::acpi::{AcpiError, signature};
use crate::addr::PhysAddr;

/// Bytes of the table in ACPI 1.0, the shortest there is.
const SHORTEST_BYTES: usize = 116;

/// The lengths of the PM1 event, PM1 control and PM2 control registers, and (past the PM timer's) of the general-purpose
/// events'.
const REGISTER_LENGTHS: core::ops::Range<usize> = 88..91;
const REGISTER_LENGTHS_2: core::ops::Range<usize> = 92..94;

/// Where a fixed register is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// At this I/O port.
    Port(u16),
    /// At this physical address.
    Memory(PhysAddr),
}

impl Register {
    /// The register that the firmware means; `None` for address 0 and for spaces that can't be reached from here.
    fn new(address: GenericAddress) -> Option<Register> {
        match address.address_space {
            _ if address.address == 0 => None,
            AddressSpace::SystemIo => u16::try_from(address.address).ok().map(Register::Port),
            AddressSpace::SystemMemory => PhysAddr::try_new(address.address)
                .ok()
                .map(Register::Memory),
            _ => None,
        }
    }
}

/// The power management timer: a counter at 3.579545 MHz.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PmTimer {
    /// Its register.
    pub register: Register,
    /// 32 bits wide, else 24.
    pub wide: bool,
}

/// What of the FADT is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fixed {
    /// The power management timer.
    pub pm_timer: Option<PmTimer>,
    /// The register, and the value for it, that reset the machine.
    pub reset: Option<(Register, u8)>,
    /// First PM1 control register; none on hardware-reduced machines.
    pub pm1a_control: Option<Register>,
    /// Second PM1 control register.
    pub pm1b_control: Option<Register>,
    /// The sleep control register of hardware-reduced machines.
    pub sleep_control: Option<Register>,
    /// The port and the value by which ACPI mode is asked for; none if the machine is in it from the start.
    pub enable: Option<(u16, u8)>,
    /// Whether the machine has no PM1 registers at all.
    pub hardware_reduced: bool,
    /// Whether there is a keyboard controller at ports 60h and 64h, by which to reset. Old tables don't tell; then yes.
    pub has_keyboard_controller: bool,
    /// The first table of AML code.
    pub dsdt: Option<PhysAddr>,
}

impl Fixed {
    /// Reads a whole table, whose length and checksum were found right.
    ///
    /// # Errors
    /// It is shorter than the first FADT ever was.
    pub(super) fn new(bytes: &[u8]) -> Result<Fixed, AcpiError> {
        if bytes.len() < SHORTEST_BYTES {
            return Err(AcpiError::Length(signature::FADT, bytes.len() as u32));
        }
        let mut copy = [0u8; size_of::<Fadt>()];
        let length = bytes.len().min(copy.len());
        copy[..length].copy_from_slice(&bytes[..length]);
        // The crate multiplies these lengths by 8 within a byte, which panics for nonsense. They aren't used.
        copy[REGISTER_LENGTHS].fill(0);
        copy[REGISTER_LENGTHS_2].fill(0);
        // SAFETY: `Fadt` is a packed structure of as many bytes, of integers only, so any bytes are a value of it.
        let fadt: Fadt = unsafe { core::mem::transmute(copy) };

        let flags = fadt.flags;
        let revision = bytes[8];
        let register = |address: Result<GenericAddress, _>| address.ok().and_then(Register::new);
        let optional = |address: Result<Option<GenericAddress>, _>| {
            address.ok().flatten().and_then(Register::new)
        };
        let reset = register(fadt.reset_register())
            .filter(|_| flags.supports_system_reset_via_fadt())
            .map(|register| (register, fadt.reset_value));
        let enable = u16::try_from(fadt.smi_cmd_port)
            .ok()
            .filter(|port| *port != 0 && fadt.acpi_enable != 0)
            .map(|port| (port, fadt.acpi_enable));
        let boot_flags = fadt.iapc_boot_arch;
        Ok(Fixed {
            pm_timer: optional(fadt.pm_timer_block()).map(|register| PmTimer {
                register,
                wide: flags.pm_timer_is_32_bit(),
            }),
            reset,
            pm1a_control: register(fadt.pm1a_control_block()),
            pm1b_control: optional(fadt.pm1b_control_block()),
            sleep_control: optional(fadt.sleep_control_register()),
            enable,
            hardware_reduced: flags.system_is_hw_reduced_acpi(),
            has_keyboard_controller: revision < 3 || boot_flags.motherboard_implements_8042(),
            dsdt: fadt
                .dsdt_address()
                .ok()
                .and_then(|address| PhysAddr::try_new(address as u64).ok()),
        })
    }
}
