//! Where SMBIOS keeps its entry point and its table, so that both can be promised to be mapped (base revision 5).
//!
//! Layouts: DMTF DSP0134 (SMBIOS 3.6) §5.2.1 and §5.2.2.

use crate::acpi::{Extent, PhysMemory};
use crate::addr::{PhysAddr, dword_at, half_at, word_at};

/// Finds the entry points where there is no UEFI to say where they are, the 32-bit one first: on a boundary of 16 bytes
/// from F0000h to FFFFFh, with a checksum that is right.
#[must_use]
pub fn find(memory: &dyn PhysMemory) -> [Option<PhysAddr>; 2] {
    // Each has its length in the byte after the checksum, which is after the anchor.
    [(&b"_SM_"[..], 5), (&b"_SM3_"[..], 6)].map(|(anchor, length_at)| {
        (0xf_0000..0x10_0000).step_by(16).map(PhysAddr).find(|at| {
            memory
                .bytes(*at, 16)
                .filter(|b| b.starts_with(anchor))
                .and_then(|b| memory.bytes(*at, b[length_at].into()))
                .is_some_and(|b| {
                    b.len() > 16 && b.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)) == 0
                })
        })
    })
}

/// Entry point and structure table of a 32-bit SMBIOS entry point.
#[must_use]
pub fn extents_32(memory: &dyn PhysMemory, entry: PhysAddr) -> Option<[Extent; 2]> {
    let b = memory
        .bytes(entry, 0x1f)
        .filter(|b| b.starts_with(b"_SM_"))?;
    let table = Extent {
        base: PhysAddr(dword_at(b, 0x18)?.into()),
        length: half_at(b, 0x16)?.into(),
    };
    Some([
        Extent {
            base: entry,
            length: b[5].max(0x1f).into(),
        },
        table,
    ])
}

/// Entry point and structure table of a 64-bit SMBIOS entry point.
#[must_use]
pub fn extents_64(memory: &dyn PhysMemory, entry: PhysAddr) -> Option<[Extent; 2]> {
    let b = memory
        .bytes(entry, 0x18)
        .filter(|b| b.starts_with(b"_SM3_"))?;
    let table = Extent {
        base: PhysAddr(word_at(b, 0x10)?),
        length: dword_at(b, 0x0c)?.into(),
    };
    Some([
        Extent {
            base: entry,
            length: b[6].max(0x18).into(),
        },
        table,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::tests::Flat;
    use alloc::vec;

    #[test]
    fn entry_points_are_found_by_anchor_and_checksum() {
        let mut bytes = vec![0; 0x1_0000];
        // A text that only looks like one; the real one; and a 64-bit one.
        for (at, anchor, length) in [
            (0x20, &b"_SM_"[..], 0x1f_u8),
            (0x40, &b"_SM_"[..], 0x1f),
            (0xfff0 - 0x10, &b"_SM3_"[..], 0x18),
        ] {
            bytes[at..at + anchor.len()].copy_from_slice(anchor);
            bytes[at + anchor.len() + 1] = length;
            let sum = bytes[at..at + length as usize]
                .iter()
                .fold(0_u8, |s, b| s.wrapping_add(*b));
            bytes[at + anchor.len()] = if at == 0x20 { 1 } else { sum.wrapping_neg() };
        }
        let memory = Flat {
            base: 0xf_0000,
            bytes,
        };
        assert_eq!(
            find(&memory),
            [Some(PhysAddr(0xf_0040)), Some(PhysAddr(0xf_ffe0))]
        );
    }

    #[test]
    fn both_entry_points_name_their_tables() {
        let mut bytes = vec![0; 0x100];
        bytes[..4].copy_from_slice(b"_SM_");
        bytes[0x16..0x18].copy_from_slice(&[0x34, 0x12]);
        bytes[0x18..0x1c].copy_from_slice(&0x5000_u32.to_le_bytes());
        bytes[0x40..0x45].copy_from_slice(b"_SM3_");
        bytes[0x4c..0x50].copy_from_slice(&0x77_u32.to_le_bytes());
        bytes[0x50..0x58].copy_from_slice(&0x1_0000_0000_u64.to_le_bytes());
        let memory = Flat {
            base: 0x1000,
            bytes,
        };
        let [e, t] = extents_32(&memory, PhysAddr(0x1000)).unwrap();
        assert_eq!(
            (e.length, t),
            (
                0x1f,
                Extent {
                    base: PhysAddr(0x5000),
                    length: 0x1234
                }
            )
        );
        let [_, t] = extents_64(&memory, PhysAddr(0x1040)).unwrap();
        assert_eq!(
            t,
            Extent {
                base: PhysAddr(0x1_0000_0000),
                length: 0x77
            }
        );
        assert_eq!(extents_32(&memory, PhysAddr(0x1040)), None);
        assert_eq!(extents_64(&memory, PhysAddr(0x10f0)), None);
    }
}
