//! What the loader needs to know from ACPI, and where all of ACPI's tables lie.
//!
//! The protocol promises that every table is mapped (base revision 4 and later), that I/O APICs are masked, that the
//! first CPU's NMI inputs are set up and IOMMUs are off (base revision 5 and later); so the loader must know each
//! table's place, which a parser that hands out parsed tables does not tell. This walk reads little and believes
//! nothing: every address goes through [`PhysMemory`], lengths are bounded, counts are capped, and what makes no
//! sense is skipped, since a kernel can often do without it.

use crate::addr::{PhysAddr, dword_at, half_at, word_at};
use alloc::vec::Vec;

/// Physical memory as the loader can see it.
pub trait PhysMemory {
    /// The `length` bytes at `at`, or `None` if there cannot be memory there.
    fn bytes(&self, at: PhysAddr, length: u64) -> Option<&[u8]>;
}

/// A table or structure that the firmware left in memory: its place and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub base: PhysAddr,
    /// Bytes.
    pub length: u64,
}

/// A local APIC input that is wired to NMI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NmiInput {
    /// ACPI's number of the processor, or `None` for all.
    pub processor: Option<u32>,
    /// LINT0 or LINT1.
    pub lint: u8,
    /// MPS INTI flags: polarity in bits 0-1, trigger mode in bits 2-3.
    pub flags: u16,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcpiFacts {
    /// Every table, the RSDP among them.
    pub tables: Vec<Extent>,
    /// The I/O APICs' registers.
    pub io_apics: Vec<PhysAddr>,
    /// NMI wiring.
    pub nmi_inputs: Vec<NmiInput>,
    /// ACPI's number and the APIC ID of each processor.
    pub processors: Vec<(u32, u32)>,
    /// Registers of the Intel VT-d units.
    pub vtd_units: Vec<PhysAddr>,
    /// Registers of the AMD-Vi units.
    pub amd_vi_units: Vec<PhysAddr>,
}

/// More tables than any machine has; what follows is taken for rubbish.
const MAX_TABLES: usize = 512;
/// Larger than any table.
const MAX_TABLE: u64 = 16 << 20;
/// Bytes of the header that every table but the RSDP and FACS has (ACPI specification 6.5 §5.2.6).
const HEADER: usize = 36;

/// Where a BIOS keeps its tables: the last part of the first MiB (ACPI specification 6.5 §5.2.5.1).
const BIOS_AREA: (u64, u64) = (0xe_0000, 0x10_0000);
/// Where the BIOS says in which segment its extended data area is; its first KiB may hold the RSDP.
const EBDA_SEGMENT_AT: u64 = 0x40e;

/// Finds the RSDP where there is no UEFI to say where it is: on a boundary of 16 bytes in the first KiB of the extended
/// BIOS data area, or in the BIOS's read-only memory, with a checksum that is right.
pub fn find_rsdp(memory: &dyn PhysMemory) -> Option<PhysAddr> {
    let ebda = memory
        .bytes(PhysAddr(EBDA_SEGMENT_AT), 2)
        .and_then(|b| half_at(b, 0))
        .map_or(0, |segment| u64::from(segment) << 4);
    [(ebda, ebda + 1024), BIOS_AREA]
        .into_iter()
        .filter(|(start, _)| *start != 0)
        .flat_map(|(start, end)| (start..end).step_by(16))
        .map(PhysAddr)
        .find(|at| is_rsdp(memory, *at))
}

/// The first 20 bytes of an RSDP add up to 0; from revision 2 on, so does the whole (ACPI specification 6.5 §5.2.5.3).
fn is_rsdp(memory: &dyn PhysMemory, at: PhysAddr) -> bool {
    let sums = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)) == 0;
    let Some(head) = memory
        .bytes(at, 20)
        .filter(|b| b.starts_with(b"RSD PTR ") && sums(b))
    else {
        return false;
    };
    head[15] < 2
        || memory
            .bytes(at, 36)
            .and_then(|b| dword_at(b, 20))
            .filter(|length| (36..=4096).contains(length))
            .and_then(|length| memory.bytes(at, length.into()))
            .is_some_and(sums)
}

/// Walks the tables from the RSDP at `rsdp`.
pub fn walk(memory: &dyn PhysMemory, rsdp: PhysAddr) -> AcpiFacts {
    let mut facts = AcpiFacts::default();
    let Some(head) = memory
        .bytes(rsdp, 20)
        .filter(|b| b.starts_with(b"RSD PTR "))
    else {
        return facts;
    };
    let revision = head[15];
    let rsdt = dword_at(head, 16).unwrap_or(0);
    let long = (revision >= 2).then(|| memory.bytes(rsdp, 36)).flatten();
    let length = long
        .and_then(|b| dword_at(b, 20))
        .map_or(20, |n| u64::from(n.clamp(20, 4096)));
    let xsdt = long.and_then(|b| word_at(b, 24)).unwrap_or(0);
    facts.tables.push(Extent { base: rsdp, length });

    // Tables listed in either are promised to be mapped; most firmware lists the same in both.
    facts.walk_list(memory, PhysAddr(xsdt), *b"XSDT", 8);
    facts.walk_list(memory, PhysAddr(rsdt.into()), *b"RSDT", 4);
    facts
}

impl AcpiFacts {
    fn walk_list(
        &mut self,
        memory: &dyn PhysMemory,
        at: PhysAddr,
        signature: [u8; 4],
        width: usize,
    ) {
        let Some(list) = self.take(memory, at) else {
            return;
        };
        if !list.starts_with(&signature) {
            return;
        }
        for entry in list[HEADER..].chunks_exact(width).take(MAX_TABLES) {
            let table = if width == 8 {
                word_at(entry, 0)
            } else {
                dword_at(entry, 0).map(u64::from)
            };
            let Some(table) = table.map(PhysAddr) else {
                continue;
            };
            let Some(bytes) = self.take(memory, table) else {
                continue;
            };
            match &bytes[..4] {
                b"FACP" => self.read_fadt(memory, bytes),
                b"APIC" => self.read_madt(bytes),
                b"DMAR" => self.read_dmar(bytes),
                b"IVRS" => self.read_ivrs(bytes),
                _ => {}
            }
        }
    }

    /// The table at `at`, noted, unless it was seen before or makes no sense.
    fn take<'m>(&mut self, memory: &'m dyn PhysMemory, at: PhysAddr) -> Option<&'m [u8]> {
        if at.0 == 0 || self.tables.len() >= MAX_TABLES || self.tables.iter().any(|t| t.base == at)
        {
            return None;
        }
        let length = u64::from(dword_at(memory.bytes(at, 8)?, 4)?);
        if !(HEADER as u64..=MAX_TABLE).contains(&length) {
            return None;
        }
        let bytes = memory.bytes(at, length)?;
        self.tables.push(Extent { base: at, length });
        Some(bytes)
    }

    /// FACS and DSDT hang off the FADT, each with a 32-bit and a 64-bit address (ACPI specification 6.5 §5.2.9).
    fn read_fadt(&mut self, memory: &dyn PhysMemory, fadt: &[u8]) {
        let short = |at| dword_at(fadt, at).map_or(0, u64::from);
        let long = |at| word_at(fadt, at).unwrap_or(0);
        for dsdt in [short(40), long(140)] {
            self.take(memory, PhysAddr(dsdt));
        }
        for facs in [short(36), long(132)].map(PhysAddr) {
            if facs.0 == 0 || self.tables.iter().any(|t| t.base == facs) {
                continue;
            }
            // A FACS has a length but no other part of the common header; it is at least 64 bytes.
            let length = memory
                .bytes(facs, 8)
                .filter(|b| b.starts_with(b"FACS"))
                .and_then(|b| dword_at(b, 4));
            if let Some(length @ 64..=4096) = length {
                self.tables.push(Extent {
                    base: facs,
                    length: length.into(),
                });
            }
        }
    }

    /// ACPI specification 6.5 §5.2.12.
    fn read_madt(&mut self, madt: &[u8]) {
        for_each_structure(madt, 44, |kind, s| match kind {
            0 => {
                if let (Some(uid), Some(id)) = (s.get(2), s.get(3)) {
                    self.processors.push(((*uid).into(), (*id).into()));
                }
            }
            1 => self
                .io_apics
                .extend(dword_at(s, 4).map(|at| PhysAddr(at.into()))),
            4 => {
                if let (Some(uid), Some(flags), Some(lint)) = (s.get(2), half_at(s, 3), s.get(5)) {
                    let processor = (*uid != 0xff).then_some((*uid).into());
                    self.nmi_inputs.push(NmiInput {
                        processor,
                        lint: *lint,
                        flags,
                    });
                }
            }
            9 => {
                if let (Some(id), Some(uid)) = (dword_at(s, 4), dword_at(s, 12)) {
                    self.processors.push((uid, id));
                }
            }
            0x0a => {
                if let (Some(flags), Some(uid), Some(lint)) =
                    (half_at(s, 2), dword_at(s, 4), s.get(8))
                {
                    let processor = (uid != u32::MAX).then_some(uid);
                    self.nmi_inputs.push(NmiInput {
                        processor,
                        lint: *lint,
                        flags,
                    });
                }
            }
            _ => {}
        });
    }

    /// DMA remapping units: structure type 0, register base at 8 (Intel VT-d specification §8.3).
    fn read_dmar(&mut self, dmar: &[u8]) {
        let mut rest = dmar.get(48..).unwrap_or(&[]);
        while let (Some(kind), Some(length)) = (half_at(rest, 0), half_at(rest, 2)) {
            if length < 4 || usize::from(length) > rest.len() {
                break;
            }
            let (structure, next) = rest.split_at(length.into());
            if kind == 0 && self.vtd_units.len() < MAX_TABLES {
                self.vtd_units
                    .extend(word_at(structure, 8).filter(|b| *b != 0).map(PhysAddr));
            }
            rest = next;
        }
    }

    /// I/O virtualisation hardware definition blocks of types 10h, 11h and 40h, register base at 8; several may
    /// describe one unit (AMD IOMMU specification §5.2.2).
    fn read_ivrs(&mut self, ivrs: &[u8]) {
        let mut rest = ivrs.get(48..).unwrap_or(&[]);
        while let (Some(kind), Some(length)) = (rest.first(), half_at(rest, 2)) {
            if length < 4 || usize::from(length) > rest.len() {
                break;
            }
            let (structure, next) = rest.split_at(length.into());
            if matches!(kind, 0x10 | 0x11 | 0x40)
                && let Some(base) = word_at(structure, 8).filter(|b| *b != 0).map(PhysAddr)
                && !self.amd_vi_units.contains(&base)
            {
                self.amd_vi_units.push(base);
            }
            rest = next;
        }
    }
}

/// Calls `f` with type and bytes of each structure of a table whose structures start at `start`.
fn for_each_structure(table: &[u8], start: usize, mut f: impl FnMut(u8, &[u8])) {
    let mut rest = table.get(start..).unwrap_or(&[]);
    while let [kind, length, ..] = rest {
        let (kind, length) = (*kind, usize::from(*length));
        if length < 2 || length > rest.len() {
            break;
        }
        f(kind, &rest[..length]);
        rest = &rest[length..];
    }
}

#[cfg(test)]
#[path = "acpi_tests.rs"]
pub(crate) mod tests;
