//! Where SMBIOS keeps its entry point and its table, so that both can be promised to be mapped (base revision 5).
//!
//! Layouts: DMTF DSP0134 (SMBIOS 3.6) §5.2.1 and §5.2.2.

use crate::acpi::{Extent, PhysMemory};
use crate::addr::{PhysAddr, dword_at, half_at, word_at};

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
