//! Tests of the ACPI walk over tables made by hand.

use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// A piece of physical memory.
pub struct Flat {
    pub base: u64,
    pub bytes: Vec<u8>,
}

impl PhysMemory for Flat {
    fn bytes(&self, at: PhysAddr, length: u64) -> Option<&[u8]> {
        let start = at.0.checked_sub(self.base)? as usize;
        self.bytes.get(start..start.checked_add(length as usize)?)
    }
}

fn table(signature: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut t = signature.to_vec();
    t.extend((36 + body.len() as u32).to_le_bytes());
    t.resize(36, 0);
    t.extend(body);
    t
}

/// RSDP at 0x1000, RSDT at 0x1100, XSDT at 0x1200, and each table at 0x2000 apart.
fn machine(tables: &[Vec<u8>]) -> Flat {
    let mut bytes = vec![0; 0x20000];
    let at = |n: usize| 0x2000 + n as u64 * 0x1000;
    let mut put = |at: u64, b: &[u8]| bytes[at as usize - 0x1000..][..b.len()].copy_from_slice(b);
    let mut rsdp = b"RSD PTR ".to_vec();
    rsdp.extend([0; 7]);
    rsdp.push(2);
    rsdp.extend(0x1100_u32.to_le_bytes());
    rsdp.extend(36_u32.to_le_bytes());
    rsdp.extend(0x1200_u64.to_le_bytes());
    rsdp.extend([0; 4]);
    put(0x1000, &rsdp);
    let short: Vec<u8> = (0..tables.len())
        .flat_map(|n| (at(n) as u32).to_le_bytes())
        .collect();
    let long: Vec<u8> = (0..tables.len())
        .flat_map(|n| at(n).to_le_bytes())
        .collect();
    put(0x1100, &table(*b"RSDT", &short));
    put(0x1200, &table(*b"XSDT", &long));
    for (n, t) in tables.iter().enumerate() {
        put(at(n), t);
    }
    Flat {
        base: 0x1000,
        bytes,
    }
}

#[test]
fn every_table_is_noted_once() {
    let facts = walk(
        &machine(&[table(*b"HPET", &[0; 20]), table(*b"MCFG", &[0; 8])]),
        PhysAddr(0x1000),
    );
    let mut bases: Vec<_> = facts.tables.iter().map(|t| (t.base.0, t.length)).collect();
    bases.sort_unstable();
    assert_eq!(
        bases,
        [
            (0x1000, 36),
            (0x1100, 44),
            (0x1200, 52),
            (0x2000, 56),
            (0x3000, 44)
        ]
    );
}

#[test]
fn fadt_leads_to_dsdt_and_facs() {
    let mut fadt = table(*b"FACP", &[0; 240]);
    fadt[36..40].copy_from_slice(&0x4000_u32.to_le_bytes());
    fadt[140..148].copy_from_slice(&0x5000_u64.to_le_bytes());
    let mut memory = machine(&[fadt]);
    memory.bytes[0x3000..0x3008].copy_from_slice(b"FACS\x40\0\0\0");
    memory.bytes[0x4000..0x4024].copy_from_slice(&table(*b"DSDT", &[]));
    let facts = walk(&memory, PhysAddr(0x1000));
    assert!(facts.tables.contains(&Extent {
        base: PhysAddr(0x4000),
        length: 64
    }));
    assert!(facts.tables.contains(&Extent {
        base: PhysAddr(0x5000),
        length: 36
    }));
}

#[test]
fn madt_names_io_apics_processors_and_nmi_inputs() {
    let mut body = vec![0; 8];
    body.extend([0, 8, 3, 7, 1, 0, 0, 0]);
    body.extend([1, 12, 0, 0]);
    body.extend(0xfec0_0000_u32.to_le_bytes());
    body.extend([0; 4]);
    body.extend([4, 6, 0xff, 5, 0, 1]);
    body.extend([4, 6, 3, 0, 0, 0]);
    let facts = walk(&machine(&[table(*b"APIC", &body)]), PhysAddr(0x1000));
    assert_eq!(facts.io_apics, [PhysAddr(0xfec0_0000)]);
    assert_eq!(facts.processors, [(3, 7)]);
    assert_eq!(
        facts.nmi_inputs,
        [
            NmiInput {
                processor: None,
                lint: 1,
                flags: 5
            },
            NmiInput {
                processor: Some(3),
                lint: 0,
                flags: 0
            }
        ]
    );
}

#[test]
fn iommus_are_found() {
    let mut dmar = vec![0; 12];
    dmar.extend([0, 0, 16, 0, 0, 0, 0, 0]);
    dmar.extend(0xfed9_0000_u64.to_le_bytes());
    let mut ivrs = vec![0; 12];
    for kind in [0x10_u8, 0x11] {
        ivrs.extend([kind, 0, 24, 0, 0, 0, 0, 0]);
        ivrs.extend(0xfeb8_0000_u64.to_le_bytes());
        ivrs.extend([0; 8]);
    }
    let facts = walk(
        &machine(&[table(*b"DMAR", &dmar), table(*b"IVRS", &ivrs)]),
        PhysAddr(0x1000),
    );
    assert_eq!(facts.vtd_units, [PhysAddr(0xfed9_0000)]);
    assert_eq!(facts.amd_vi_units, [PhysAddr(0xfeb8_0000)]);
}

#[test]
fn no_root_pointer_means_no_facts() {
    assert_eq!(walk(&machine(&[]), PhysAddr(0x1100)), AcpiFacts::default());
}

proptest! {
    #[test]
    fn random_tables_never_panic(noise in proptest::collection::vec(any::<u8>(), 0..200), which in 0usize..6) {
        let signature: [u8; 4] = *[b"FACP", b"APIC", b"DMAR", b"IVRS", b"SSDT", b"XSDT"][which];
        let _ = walk(&machine(&[table(signature, &noise)]), PhysAddr(0x1000));
        let _ = walk(&Flat { base: 0, bytes: noise }, PhysAddr(0));
    }
}

/// The last part of the first MiB, with the BIOS's data area, an extended data area at 9FC00h and an RSDP of `revision` at
/// each of `places`.
fn first_mib(revision: u8, places: &[usize]) -> Flat {
    let mut bytes = vec![0; 1 << 20];
    bytes[0x40e..0x410].copy_from_slice(&0x9fc0_u16.to_le_bytes());
    for &at in places {
        let length = if revision < 2 { 20 } else { 36 };
        bytes[at..at + 8].copy_from_slice(b"RSD PTR ");
        bytes[at + 15] = revision;
        bytes[at + 20] = length as u8;
        for (sum_at, length) in [(8, 20), (32, length)] {
            if length == 20 && sum_at != 8 {
                continue;
            }
            let sum = bytes[at..at + length]
                .iter()
                .fold(0_u8, |s, b| s.wrapping_add(*b));
            bytes[at + sum_at] = sum.wrapping_neg();
        }
    }
    Flat {
        base: 0x400,
        bytes: bytes.split_off(0x400),
    }
}

#[test]
fn root_pointer_is_found_where_a_bios_keeps_it() {
    for revision in [0, 2] {
        let find = |places: &[usize]| find_rsdp(&first_mib(revision, places)).map(|at| at.0);
        assert_eq!(find(&[0xf_5a30]), Some(0xf_5a30));
        assert_eq!(find(&[0xe_0000]), Some(0xe_0000));
        assert_eq!(find(&[0x9_fc10, 0xf_0000]), Some(0x9_fc10));
        // Not on a boundary, past the first KiB of the data area, elsewhere.
        assert_eq!(find(&[0xf_0008, 0xa_0000, 0xd_0000]), None);
    }
}

#[test]
fn root_pointer_with_a_wrong_sum_is_none() {
    for (revision, at) in [(0, 0xf_0010), (2, 0xf_0010), (2, 0xf_001a)] {
        let mut memory = first_mib(revision, &[0xf_0000]);
        memory.bytes[at - 0x400] ^= 1;
        assert_eq!(find_rsdp(&memory), None);
    }
}
