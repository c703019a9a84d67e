//! Finding the ACPI tables.
//!
//! The layouts are the `acpi` crate's. Its own way in is not used, for three reasons: its mapper can't fail, it trusts the
//! length in a table's header (a MADT shorter than its fixed part, or an entry of length 0, ends in a wrapped
//! subtraction or an endless loop), and it takes the XSDT alone where a broken one could be replaced by the RSDT.
//! So here the table is mapped, its length and checksum are checked, and only then it is looked at through the crate's
//! types.
//!
//! A table that the root lists twice counts once, the first sound one. A listed table that can't be mapped, or
//! whose header is nonsense, is passed over: it must not hide the others.

use core::fmt;

use acpi::{hpet::HpetInfo, hpet::PageProtection, rsdp::Rsdp};

use super::{Cache, PhysicalMap, fadt::Fixed, madt::Madt, sleep_state};
use crate::addr::PhysAddr;

/// Bytes of the header that all tables share (ACPI 6.5 §5.2.6).
pub const HEADER_BYTES: usize = 36;
/// Bytes of the RSDP in ACPI 1.0 and from 2.0 on (ACPI 6.5 §5.2.5.3).
const RSDP_BYTES_V1: usize = 20;
const RSDP_BYTES_V2: usize = 36;
/// Where the RSDP has its revision.
const RSDP_REVISION: usize = 15;
/// A table longer than this is taken for nonsense. The largest in the field are DSDTs of about a megabyte.
const LONGEST_TABLE: u32 = 16 << 20;
/// Bytes of the HPET table (IA-PC HPET specification 1.0a §3.2.4).
const HPET_BYTES: usize = 56;

/// A table's four letters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 4]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(f, "{}", byte.escape_ascii()))
    }
}

/// The tables that are looked for by name.
pub mod signature {
    use super::Signature;

    /// The extended root table, with 64-bit addresses.
    pub const XSDT: Signature = Signature(*b"XSDT");
    /// The old root table, with 32-bit addresses.
    pub const RSDT: Signature = Signature(*b"RSDT");
    /// Interrupt controllers and CPUs.
    pub const MADT: Signature = Signature(*b"APIC");
    /// Fixed hardware: power management registers, reset register.
    pub const FADT: Signature = Signature(*b"FACP");
    /// The high precision event timer.
    pub const HPET: Signature = Signature(*b"HPET");
    /// The first table of AML code.
    pub const DSDT: Signature = Signature(*b"DSDT");
    /// Further tables of AML code.
    pub const SSDT: Signature = Signature(*b"SSDT");
}

/// What is wrong with the firmware's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// This physical address could not be mapped.
    NotMapped(PhysAddr),
    /// There is no "RSD PTR " at the address that the boot loader gave.
    RsdpSignature,
    /// The RSDP's bytes don't add up to 0.
    RsdpChecksum,
    /// The RSDP says that it is this long.
    RsdpLength(u32),
    /// The RSDP names neither an XSDT nor an RSDT.
    NoRootTable,
    /// Another table was found where this one should be.
    WrongSignature {
        /// What should be there.
        expected: Signature,
        /// What is.
        found: Signature,
    },
    /// A table whose length, in bytes, can't be.
    Length(Signature, u32),
    /// A table whose bytes don't add up to 0.
    Checksum(Signature),
    /// The machine has no such table.
    Missing(Signature),
    /// A MADT entry that is shorter than its kind, or reaches past the table's end.
    MadtEntry {
        /// Where it starts in the table.
        offset: usize,
        /// Its kind.
        kind: u8,
        /// The length it claims.
        length: u8,
    },
    /// The override of this ISA line has reserved flags.
    OverrideFlags {
        /// The ISA line.
        line: u8,
        /// Its flags.
        flags: u16,
    },
    /// The HPET is not in memory, or its address is 0.
    HpetAddress,
    /// The FADT names no DSDT.
    NoDsdt,
    /// No `_S5_` package was found in the DSDT or any SSDT.
    NoSleepState,
    /// There is a `_S5_` package, but it is not two small numbers.
    BadSleepState,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMapped(address) => {
                write!(f, "ACPI memory at {:#x} can't be mapped", address.as_u64())
            }
            Self::RsdpSignature => f.write_str("no ACPI root pointer at the given address"),
            Self::RsdpChecksum => f.write_str("the ACPI root pointer has a bad checksum"),
            Self::RsdpLength(length) => write!(f, "the ACPI root pointer claims {length} bytes"),
            Self::NoRootTable => f.write_str("the ACPI root pointer names no root table"),
            Self::WrongSignature { expected, found } => {
                write!(f, "ACPI table {found} found where {expected} should be")
            }
            Self::Length(table, length) => write!(f, "ACPI table {table} claims {length} bytes"),
            Self::Checksum(table) => write!(f, "ACPI table {table} has a bad checksum"),
            Self::Missing(table) => write!(f, "there is no ACPI table {table}"),
            Self::MadtEntry {
                offset,
                kind,
                length,
            } => {
                write!(
                    f,
                    "MADT entry at {offset:#x} of kind {kind} has a bad length of {length}"
                )
            }
            Self::OverrideFlags { line, flags } => {
                write!(
                    f,
                    "MADT override of ISA line {line} has reserved flags {flags:#x}"
                )
            }
            Self::HpetAddress => f.write_str("the HPET table gives no memory address"),
            Self::NoDsdt => f.write_str("the FADT names no DSDT"),
            Self::NoSleepState => f.write_str("no _S5_ package in the DSDT or an SSDT"),
            Self::BadSleepState => f.write_str("the _S5_ package does not hold two sleep types"),
        }
    }
}

impl core::error::Error for AcpiError {}

/// Whether these bytes add up to 0, as a sound table's do.
fn adds_up(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |word| u32::from_le_bytes(*word))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |word| u64::from_le_bytes(*word))
}

/// `length` bytes of firmware memory from `phys` on.
///
/// # Safety
/// If the range can be mapped at all, it must be memory that can be read and that nothing writes to any more.
unsafe fn firmware_bytes(
    map: &dyn PhysicalMap,
    phys: u64,
    length: usize,
) -> Result<&'static [u8], AcpiError> {
    let bad = || AcpiError::NotMapped(PhysAddr::new_truncate(phys));
    let address = PhysAddr::try_new(phys).map_err(|_| bad())?;
    if phys == 0 || phys.checked_add(length as u64).is_none() {
        return Err(bad());
    }
    let start = map
        .map(address, length as u64, Cache::WriteBack)
        .ok_or_else(bad)?;
    // SAFETY: the map shows `length` bytes of the range from `start` on, for good; the caller vouches that they are
    // memory and don't change.
    Ok(unsafe { core::slice::from_raw_parts(start.as_ptr(), length) })
}

/// The signature and the length of the table at `phys`, if that length can be.
///
/// # Safety
/// As for [`firmware_bytes`].
unsafe fn header(map: &dyn PhysicalMap, phys: u64) -> Result<(Signature, u32), AcpiError> {
    // SAFETY: passed on to the caller.
    let bytes = unsafe { firmware_bytes(map, phys, HEADER_BYTES)? };
    let signature = Signature([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let length = u32_at(bytes, 4);
    if (length as usize) < HEADER_BYTES || length > LONGEST_TABLE {
        return Err(AcpiError::Length(signature, length));
    }
    Ok((signature, length))
}

/// The whole table at `phys`, which must have this signature; its checksum is not looked at.
///
/// # Safety
/// As for [`firmware_bytes`].
unsafe fn table_unsummed(
    map: &dyn PhysicalMap,
    phys: u64,
    expected: Signature,
) -> Result<&'static [u8], AcpiError> {
    // SAFETY: passed on to the caller.
    let (found, length) = unsafe { header(map, phys)? };
    if found != expected {
        return Err(AcpiError::WrongSignature { expected, found });
    }
    // SAFETY: passed on to the caller.
    unsafe { firmware_bytes(map, phys, length as usize) }
}

/// The whole table at `phys`, which must have this signature and a right checksum.
///
/// # Safety
/// As for [`firmware_bytes`].
unsafe fn table(
    map: &dyn PhysicalMap,
    phys: u64,
    expected: Signature,
) -> Result<&'static [u8], AcpiError> {
    // SAFETY: passed on to the caller.
    let bytes = unsafe { table_unsummed(map, phys, expected)? };
    if adds_up(bytes) {
        Ok(bytes)
    } else {
        Err(AcpiError::Checksum(expected))
    }
}

/// The list of tables: addresses behind a header.
#[derive(Clone, Copy)]
struct Root {
    entries: &'static [u8],
    entry_bytes: usize,
}

impl Root {
    fn addresses(self) -> impl Iterator<Item = u64> {
        self.entries
            .chunks_exact(self.entry_bytes)
            .map(|entry| match entry.len() {
                4 => u64::from(u32_at(entry, 0)),
                _ => u64_at(entry, 0),
            })
            .filter(|address| *address != 0)
    }
}

/// A high precision event timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hpet {
    /// Where its registers are: one page is enough.
    pub registers: PhysAddr,
    /// Whether its counter is 64 bits wide, as the table has it (the register decides).
    pub wide: bool,
}

/// The machine's ACPI tables, checked.
pub struct Tables<'m> {
    map: &'m dyn PhysicalMap,
    root: Root,
    madt: Result<&'static [u8], AcpiError>,
    fadt: Result<&'static [u8], AcpiError>,
    hpet: Result<&'static [u8], AcpiError>,
}

impl<'m> Tables<'m> {
    /// Finds the tables, from the physical address of the RSDP on. The XSDT is preferred; if there is none or it is
    /// broken, the RSDT is taken.
    ///
    /// # Errors
    /// The RSDP is not one, or neither root table is sound. What is wrong with a single table is told by the method
    /// that asks for it.
    ///
    /// # Safety
    /// `rsdp` must be what the firmware or the boot loader gave, and the tables it leads to must no longer be written to.
    pub unsafe fn from_rsdp(
        rsdp: PhysAddr,
        map: &'m dyn PhysicalMap,
    ) -> Result<Tables<'m>, AcpiError> {
        // SAFETY: the caller vouches for the RSDP and all that it leads to.
        let root = unsafe { Self::root(rsdp.as_u64(), map)? };
        let missing = |signature| Err(AcpiError::Missing(signature));
        let mut tables = Tables {
            map,
            root,
            madt: missing(signature::MADT),
            fadt: missing(signature::FADT),
            hpet: missing(signature::HPET),
        };
        for address in root.addresses() {
            // SAFETY: the caller vouches for the tables.
            let Ok((name, _)) = (unsafe { header(map, address) }) else {
                continue;
            };
            let slot = match name {
                signature::MADT => &mut tables.madt,
                signature::FADT => &mut tables.fadt,
                signature::HPET => &mut tables.hpet,
                _ => continue,
            };
            if slot.is_err() {
                // SAFETY: the caller vouches for the tables.
                *slot = unsafe { table(map, address, name) };
            }
        }
        Ok(tables)
    }

    /// # Safety
    /// As for [`Tables::from_rsdp`].
    unsafe fn root(rsdp: u64, map: &dyn PhysicalMap) -> Result<Root, AcpiError> {
        // SAFETY: passed on to the caller.
        let first = unsafe { firmware_bytes(map, rsdp, RSDP_BYTES_V1)? };
        if !first.starts_with(b"RSD PTR ") {
            return Err(AcpiError::RsdpSignature);
        }
        if !adds_up(first) {
            return Err(AcpiError::RsdpChecksum);
        }
        // The fields of ACPI 2.0 stay 0 where the firmware is older than they are.
        let mut copy = [0u8; RSDP_BYTES_V2];
        copy[..RSDP_BYTES_V1].copy_from_slice(first);
        if first[RSDP_REVISION] >= 2 {
            // SAFETY: passed on to the caller.
            let all = unsafe { firmware_bytes(map, rsdp, RSDP_BYTES_V2)? };
            let length = u32_at(all, 20);
            if (length as usize) < RSDP_BYTES_V2 || length > 4096 {
                return Err(AcpiError::RsdpLength(length));
            }
            // SAFETY: passed on to the caller.
            if !adds_up(unsafe { firmware_bytes(map, rsdp, length as usize)? }) {
                return Err(AcpiError::RsdpChecksum);
            }
            copy.copy_from_slice(all);
        }
        const { assert!(size_of::<Rsdp>() == RSDP_BYTES_V2 && align_of::<Rsdp>() == 1) };
        // SAFETY: `Rsdp` is a packed structure of as many bytes, of integers and byte arrays only, so any bytes are a
        // value of it.
        let pointer: Rsdp = unsafe { core::mem::transmute(copy) };
        let rsdt = u64::from(pointer.rsdt_address());
        let xsdt = match pointer.revision() {
            0 | 1 => 0,
            _ => pointer.xsdt_address(),
        };
        let extended = match xsdt {
            0 => Err(AcpiError::NoRootTable),
            // SAFETY: passed on to the caller.
            _ => unsafe { Self::root_at(map, xsdt, signature::XSDT, 8) },
        };
        match (extended, rsdt) {
            (Ok(root), _) => Ok(root),
            (Err(error), 0) => Err(error),
            // SAFETY: passed on to the caller.
            (Err(_), _) => unsafe { Self::root_at(map, rsdt, signature::RSDT, 4) },
        }
    }

    /// # Safety
    /// As for [`Tables::from_rsdp`].
    unsafe fn root_at(
        map: &dyn PhysicalMap,
        address: u64,
        name: Signature,
        entry_bytes: usize,
    ) -> Result<Root, AcpiError> {
        // SAFETY: passed on to the caller.
        let bytes = unsafe { table(map, address, name)? };
        Ok(Root {
            entries: &bytes[HEADER_BYTES..],
            entry_bytes,
        })
    }

    /// CPUs and interrupt controllers.
    ///
    /// # Errors
    /// There is no MADT, or it is malformed.
    pub fn madt(&self) -> Result<Madt, AcpiError> {
        Madt::new(self.madt?)
    }

    /// Power management registers, the PM timer, the reset register.
    ///
    /// # Errors
    /// There is no FADT, or it is too short to be one.
    pub fn fixed(&self) -> Result<Fixed, AcpiError> {
        Fixed::new(self.fadt?)
    }

    /// The high precision event timer.
    ///
    /// # Errors
    /// There is no HPET table, or it is malformed.
    pub fn hpet(&self) -> Result<Hpet, AcpiError> {
        let bytes = self.hpet?;
        if bytes.len() < HPET_BYTES {
            return Err(AcpiError::Length(signature::HPET, bytes.len() as u32));
        }
        let (space, address) = (bytes[40], u64_at(bytes, 44));
        let info = HpetInfo {
            event_timer_block_id: u32_at(bytes, 36),
            base_address: address as usize,
            hpet_number: bytes[52],
            clock_tick_unit: u16::from_le_bytes([bytes[53], bytes[54]]),
            page_protection: PageProtection::Other,
        };
        match PhysAddr::try_new(address) {
            Ok(registers) if space == 0 && address != 0 => Ok(Hpet {
                registers,
                wide: info.main_counter_is_64bits(),
            }),
            _ => Err(AcpiError::HpetAddress),
        }
    }

    /// The sleep types of state S5, soft off, from a bounded look through the DSDT and then the SSDTs.
    ///
    /// # Errors
    /// There is no FADT, no DSDT, or no sound `_S5_` package in any of them.
    pub fn soft_off(&self) -> Result<sleep_state::SleepTypes, AcpiError> {
        let fixed = self.fixed()?;
        let mut result = match fixed.dsdt {
            None => Err(AcpiError::NoDsdt),
            // SAFETY: `from_rsdp`'s caller vouched for the tables. The checksum is not asked for: a DSDT that was
            // patched by the firmware after summing still names its sleep states.
            Some(dsdt) => unsafe { table_unsummed(self.map, dsdt.as_u64(), signature::DSDT) }
                .and_then(|dsdt| sleep_state::find(&dsdt[HEADER_BYTES..])),
        };
        for address in self.root.addresses() {
            if result.is_ok() {
                break;
            }
            // SAFETY: as above.
            if let Ok(ssdt) = unsafe { table_unsummed(self.map, address, signature::SSDT) }
                && let Ok(found) = sleep_state::find(&ssdt[HEADER_BYTES..])
            {
                result = Ok(found);
            }
        }
        result
    }
}
