//! Firmware tables, sound and broken, in a memory made for the test.

use core::ptr::NonNull;
use std::cell::Cell;

use proptest::prelude::*;

use super::{
    Cache, PhysicalMap,
    acpi::{AcpiError, HEADER_BYTES, Tables, signature},
    fadt::Register,
    madt::{Cpu, Polarity, Trigger},
    sleep_state::SleepTypes,
};
use crate::addr::{ApicId, PhysAddr};

/// Physical memory from `BASE` on, leaked, since mappings stay for good.
const BASE: u64 = 0x7FF0_0000;

struct Memory {
    bytes: Vec<u8>,
}

struct Frozen {
    bytes: &'static [u8],
    mappings: Cell<u32>,
}

impl PhysicalMap for Frozen {
    fn map(&self, phys: PhysAddr, bytes: u64, _: Cache) -> Option<NonNull<u8>> {
        self.mappings.set(self.mappings.get() + 1);
        let offset = usize::try_from(phys.as_u64().checked_sub(BASE)?).ok()?;
        let range = offset..offset.checked_add(usize::try_from(bytes).ok()?)?;
        NonNull::new(self.bytes.get(range)?.as_ptr().cast_mut())
    }
}

fn fix_sum(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    bytes[at] = bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg();
}

fn table(name: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..4].copy_from_slice(&name);
    bytes[4..8].copy_from_slice(&((HEADER_BYTES + body.len()) as u32).to_le_bytes());
    bytes[8] = revision;
    bytes.extend_from_slice(body);
    fix_sum(&mut bytes, 9);
    bytes
}

impl Memory {
    fn new() -> Memory {
        Memory { bytes: vec![0; 16] }
    }

    /// Puts bytes somewhere and returns the address.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let address = BASE + self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        address
    }

    fn xsdt(&mut self, tables: &[u64]) -> u64 {
        let body: Vec<u8> = tables
            .iter()
            .flat_map(|table| table.to_le_bytes())
            .collect();
        self.put(&table(*b"XSDT", 1, &body))
    }

    fn rsdt(&mut self, tables: &[u64]) -> u64 {
        let body: Vec<u8> = tables
            .iter()
            .flat_map(|table| (*table as u32).to_le_bytes())
            .collect();
        self.put(&table(*b"RSDT", 1, &body))
    }

    fn rsdp(&mut self, revision: u8, rsdt: u64, xsdt: u64) -> PhysAddr {
        let mut bytes = [0u8; 36];
        bytes[..8].copy_from_slice(b"RSD PTR ");
        bytes[15] = revision;
        bytes[16..20].copy_from_slice(&(rsdt as u32).to_le_bytes());
        fix_sum(&mut bytes[..20], 8);
        if revision >= 2 {
            bytes[20..24].copy_from_slice(&36u32.to_le_bytes());
            bytes[24..32].copy_from_slice(&xsdt.to_le_bytes());
            fix_sum(&mut bytes, 32);
        }
        PhysAddr::new(self.put(&bytes))
    }

    fn freeze(self) -> Frozen {
        Frozen {
            bytes: self.bytes.leak(),
            mappings: Cell::new(0),
        }
    }
}

/// A machine with only these tables, through an XSDT.
fn machine(tables: &[Vec<u8>]) -> (Frozen, PhysAddr) {
    let mut memory = Memory::new();
    let addresses: Vec<u64> = tables.iter().map(|table| memory.put(table)).collect();
    let xsdt = memory.xsdt(&addresses);
    let rsdp = memory.rsdp(2, 0, xsdt);
    (memory.freeze(), rsdp)
}

fn open(memory: &Frozen, rsdp: PhysAddr) -> Result<Tables<'_>, AcpiError> {
    // SAFETY: the memory was leaked and is not written to.
    unsafe { Tables::from_rsdp(rsdp, memory) }
}

fn madt(entries: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![0x00, 0x00, 0xE0, 0xFE, 1, 0, 0, 0];
    for entry in entries {
        body.extend_from_slice(entry);
    }
    table(*b"APIC", 4, &body)
}

fn local_apic(uid: u8, id: u8, flags: u8) -> [u8; 8] {
    [0, 8, uid, id, flags, 0, 0, 0]
}

fn local_x2apic(uid: u32, id: u32, flags: u8) -> Vec<u8> {
    let mut entry = vec![9, 16, 0, 0];
    entry.extend_from_slice(&id.to_le_bytes());
    entry.extend_from_slice(&[flags, 0, 0, 0]);
    entry.extend_from_slice(&uid.to_le_bytes());
    entry
}

fn io_apic(id: u8, address: u32, base: u32) -> Vec<u8> {
    let mut entry = vec![1, 12, id, 0];
    entry.extend_from_slice(&address.to_le_bytes());
    entry.extend_from_slice(&base.to_le_bytes());
    entry
}

fn isa_override(line: u8, gsi: u32, flags: u16) -> Vec<u8> {
    let mut entry = vec![2, 10, 0, line];
    entry.extend_from_slice(&gsi.to_le_bytes());
    entry.extend_from_slice(&flags.to_le_bytes());
    entry
}

fn fadt(bytes: usize, revision: u8, set: impl FnOnce(&mut [u8])) -> Vec<u8> {
    // Long enough for every field to be set, then cut.
    let mut body = vec![0; 276];
    set(&mut body);
    table(*b"FACP", revision, &body[HEADER_BYTES..bytes])
}

/// Sets the fields of 1.0 to what QEMU's older machine has.
fn old_fields(bytes: &mut [u8]) {
    bytes[48..52].copy_from_slice(&0xB2u32.to_le_bytes());
    bytes[52] = 0xF1;
    bytes[64..68].copy_from_slice(&0x604u32.to_le_bytes());
    bytes[76..80].copy_from_slice(&0x608u32.to_le_bytes());
    bytes[89] = 2;
    bytes[91] = 4;
}

#[test]
fn cpus_of_both_kinds_are_listed_once_and_only_if_enabled() {
    let table = madt(&[
        &local_apic(0, 0, 1),
        &local_apic(1, 2, 0),
        &local_apic(2, 4, 2),
        &local_apic(3, 0xFF, 1),
        &local_apic(4, 6, 1),
        &local_x2apic(4, 6, 1),
        &local_x2apic(5, 0x100, 1),
        &local_x2apic(6, u32::MAX, 1),
        &local_x2apic(7, 0x101, 0),
    ]);
    let (memory, rsdp) = machine(&[table]);
    let madt = open(&memory, rsdp)
        .and_then(|tables| tables.madt())
        .expect("sound");
    let cpus: Vec<Cpu> = madt.cpus().collect();
    let ids: Vec<u32> = cpus.iter().map(|cpu| cpu.apic_id.0).collect();
    assert_eq!(ids, [0, 6, 0x100]);
    assert_eq!(
        cpus[2],
        Cpu {
            apic_id: ApicId(0x100),
            uid: 5
        }
    );
}

#[test]
fn more_cpus_than_any_fixed_table_are_listed() {
    let entries: Vec<Vec<u8>> = (0..3000).map(|id| local_x2apic(id, id * 2, 1)).collect();
    let slices: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
    let (memory, rsdp) = machine(&[madt(&slices)]);
    let madt = open(&memory, rsdp)
        .and_then(|tables| tables.madt())
        .expect("sound");
    assert_eq!(madt.cpus().count(), 3000);
    assert_eq!(
        madt.cpus().last().map(|cpu| cpu.apic_id),
        Some(ApicId(5998))
    );
}

#[test]
fn io_apics_and_overrides_are_read() {
    let table = madt(&[
        &io_apic(1, 0xFEC0_0000, 0),
        &io_apic(2, 0xFEC1_0000, 24),
        &isa_override(0, 2, 0),
        &isa_override(9, 9, 0b1111),
        &isa_override(4, 20, 0b0111),
        &isa_override(5, 21, 0b0010),
        &isa_override(6, 22, 0b1000),
        // An unknown kind is passed over.
        &[0x7E, 4, 0xAA, 0xAA],
        // The local APICs' address in 64 bits.
        &[5, 12, 0, 0, 0, 0, 0, 0xFD, 0, 0, 0, 0],
    ]);
    let (memory, rsdp) = machine(&[table]);
    let madt = open(&memory, rsdp)
        .and_then(|tables| tables.madt())
        .expect("sound");
    let bases: Vec<u32> = madt.io_apics().map(|entry| entry.gsi_base).collect();
    assert_eq!(bases, [0, 24]);
    let line = |line| {
        madt.isa_to_gsi(line)
            .map(|found| (found.gsi, found.polarity, found.trigger))
    };
    assert_eq!(line(0), Ok((2, Polarity::High, Trigger::Edge)));
    assert_eq!(line(9), Ok((9, Polarity::Low, Trigger::Level)));
    assert_eq!(line(4), Ok((20, Polarity::Low, Trigger::Edge)));
    assert_eq!(line(1), Ok((1, Polarity::High, Trigger::Edge)));
    assert_eq!(
        line(5),
        Err(AcpiError::OverrideFlags {
            line: 5,
            flags: 0b0010
        })
    );
    assert_eq!(
        line(6),
        Err(AcpiError::OverrideFlags {
            line: 6,
            flags: 0b1000
        })
    );
    assert_eq!(madt.local_apic().as_u64(), 0xFD00_0000);
    assert!(madt.has_pic());
}

#[test]
fn madt_entries_of_impossible_length_are_refused_by_name() {
    let bad: [(&[u8], u8, u8); 4] = [
        // Length 0 would never end.
        (&[0, 0, 0, 0, 1, 0, 0, 0], 0, 0),
        // Shorter than its kind.
        (&[9, 8, 0, 0, 0, 0, 0, 0], 9, 8),
        // Past the table's end.
        (&[0, 9, 0, 0, 1, 0, 0, 0], 0, 9),
        // Only its first byte is there.
        (&[0x7F], 0x7F, 0),
    ];
    for (entry, kind, length) in bad {
        let (memory, rsdp) = machine(&[madt(&[&local_apic(0, 0, 1), entry])]);
        let found = open(&memory, rsdp).and_then(|tables| tables.madt()).err();
        assert_eq!(
            found,
            Some(AcpiError::MadtEntry {
                offset: 52,
                kind,
                length
            })
        );
    }
}

#[test]
fn a_madt_without_its_fixed_part_is_refused_by_name() {
    let (memory, rsdp) = machine(&[table(*b"APIC", 4, &[0; 4])]);
    let found = open(&memory, rsdp).and_then(|tables| tables.madt()).err();
    assert_eq!(found, Some(AcpiError::Length(signature::MADT, 40)));
}

#[test]
fn missing_tables_are_named() {
    let (memory, rsdp) = machine(&[]);
    let tables = open(&memory, rsdp).expect("an empty list is sound");
    assert_eq!(
        tables.madt().err(),
        Some(AcpiError::Missing(signature::MADT))
    );
    assert_eq!(
        tables.hpet().err(),
        Some(AcpiError::Missing(signature::HPET))
    );
    assert_eq!(
        tables.soft_off().err(),
        Some(AcpiError::Missing(signature::FADT))
    );
}

#[test]
fn a_bad_checksum_is_named_and_a_second_sound_table_is_taken() {
    let mut bad = madt(&[&local_apic(0, 7, 1)]);
    bad[9] = bad[9].wrapping_add(1);
    let (memory, rsdp) = machine(&[bad.clone()]);
    let found = open(&memory, rsdp).and_then(|tables| tables.madt()).err();
    assert_eq!(found, Some(AcpiError::Checksum(signature::MADT)));
    let (memory, rsdp) = machine(&[bad, madt(&[&local_apic(0, 8, 1)])]);
    let madt = open(&memory, rsdp)
        .and_then(|tables| tables.madt())
        .expect("the second");
    assert_eq!(madt.cpus().next().map(|cpu| cpu.apic_id), Some(ApicId(8)));
}

#[test]
fn listed_tables_that_cannot_be_are_passed_over() {
    let mut memory = Memory::new();
    let good = memory.put(&madt(&[&local_apic(0, 3, 1)]));
    let mut short = table(*b"APIC", 4, &[]);
    short[4..8].copy_from_slice(&35u32.to_le_bytes());
    let short = memory.put(&short);
    let mut huge = table(*b"APIC", 4, &[]);
    huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let huge = memory.put(&huge);
    let xsdt = memory.xsdt(&[0, 1, u64::MAX, BASE - 10, short, huge, good]);
    let rsdp = memory.rsdp(2, 0, xsdt);
    let memory = memory.freeze();
    let madt = open(&memory, rsdp)
        .and_then(|tables| tables.madt())
        .expect("the good one");
    assert_eq!(madt.cpus().count(), 1);
}

#[test]
fn the_rsdt_serves_where_there_is_no_sound_xsdt() {
    for (revision, has_bad_xsdt) in [(0, false), (2, false), (2, true)] {
        let mut memory = Memory::new();
        let table = memory.put(&madt(&[&local_apic(0, 9, 1)]));
        let rsdt = memory.rsdt(&[table]);
        let xsdt = memory.xsdt(&[]);
        let at = (xsdt - BASE) as usize + 9;
        memory.bytes[at] ^= 0x55;
        let rsdp = memory.rsdp(revision, rsdt, if has_bad_xsdt { xsdt } else { 0 });
        let memory = memory.freeze();
        let madt = open(&memory, rsdp)
            .and_then(|tables| tables.madt())
            .expect("through the RSDT");
        assert_eq!(madt.cpus().next().map(|cpu| cpu.apic_id), Some(ApicId(9)));
    }
}

#[test]
fn bad_root_pointers_are_refused_by_name() {
    let mut memory = Memory::new();
    let nothing = PhysAddr::new(memory.put(&[0; 64]));
    let no_root = memory.rsdp(2, 0, 0);
    let unmapped_root = memory.rsdp(2, 0, 0x1000);
    let xsdt = memory.xsdt(&[]);
    let bad_sum = memory.rsdp(2, 0, xsdt);
    let at = (bad_sum.as_u64() - BASE) as usize;
    memory.bytes[at + 8] ^= 1;
    let bad_long_sum = memory.rsdp(2, 0, xsdt);
    let at = (bad_long_sum.as_u64() - BASE) as usize;
    memory.bytes[at + 33] ^= 1;
    let bad_length = memory.rsdp(2, 0, xsdt);
    let at = (bad_length.as_u64() - BASE) as usize;
    memory.bytes[at + 20..at + 24].copy_from_slice(&u32::MAX.to_le_bytes());
    let wrong = memory.rsdt(&[]);
    let wrong_root = memory.rsdp(2, 0, wrong);
    let memory = memory.freeze();
    let error = |rsdp| open(&memory, rsdp).err();
    assert_eq!(error(nothing), Some(AcpiError::RsdpSignature));
    assert_eq!(error(no_root), Some(AcpiError::NoRootTable));
    assert_eq!(
        error(unmapped_root),
        Some(AcpiError::NotMapped(PhysAddr::new(0x1000)))
    );
    assert_eq!(error(bad_sum), Some(AcpiError::RsdpChecksum));
    assert_eq!(error(bad_long_sum), Some(AcpiError::RsdpChecksum));
    assert_eq!(error(bad_length), Some(AcpiError::RsdpLength(u32::MAX)));
    assert_eq!(
        error(wrong_root),
        Some(AcpiError::WrongSignature {
            expected: signature::XSDT,
            found: signature::RSDT
        })
    );
    assert_eq!(
        error(PhysAddr::new(0)),
        Some(AcpiError::NotMapped(PhysAddr::new(0)))
    );
}

#[test]
fn an_acpi_1_fadt_gives_ports_and_nothing_it_does_not_have() {
    let (memory, rsdp) = machine(&[fadt(116, 1, old_fields)]);
    let fixed = open(&memory, rsdp)
        .and_then(|tables| tables.fixed())
        .expect("sound");
    assert_eq!(fixed.pm1a_control, Some(Register::Port(0x604)));
    assert_eq!(fixed.pm1b_control, None);
    assert_eq!(fixed.enable, Some((0xB2, 0xF1)));
    assert_eq!(
        fixed.pm_timer.map(|timer| (timer.register, timer.wide)),
        Some((Register::Port(0x608), false))
    );
    assert_eq!(fixed.reset, None);
    assert!(fixed.has_keyboard_controller && !fixed.hardware_reduced);
    assert_eq!(fixed.dsdt, None);
}

#[test]
fn a_fadt_that_claims_a_revision_it_is_too_short_for_is_not_read_past_its_end() {
    // The bytes behind it would be taken for addresses.
    let mut memory = Memory::new();
    let short = memory.put(&fadt(132, 6, old_fields));
    memory.put(&[0xFF; 400]);
    let xsdt = memory.xsdt(&[short]);
    let rsdp = memory.rsdp(2, 0, xsdt);
    let memory = memory.freeze();
    let fixed = open(&memory, rsdp)
        .and_then(|tables| tables.fixed())
        .expect("sound");
    assert_eq!(fixed.pm1a_control, Some(Register::Port(0x604)));
    assert_eq!(fixed.sleep_control, None);
    assert_eq!(fixed.dsdt, None);
}

#[test]
fn extended_addresses_and_the_reset_register_are_preferred() {
    let table = fadt(276, 6, |bytes| {
        old_fields(bytes);
        // Flags: wide PM timer, reset register.
        bytes[112..116].copy_from_slice(&(1u32 << 8 | 1 << 10).to_le_bytes());
        bytes[116..128].copy_from_slice(&[1, 8, 0, 1, 0xF9, 0x0C, 0, 0, 0, 0, 0, 0]);
        bytes[128] = 0x0F;
        bytes[140..148].copy_from_slice(&0x1234_5000u64.to_le_bytes());
        // PM1a control in memory, the PM timer in a space that can't be reached.
        bytes[172..184].copy_from_slice(&[0, 16, 0, 2, 0, 0x10, 0xA0, 0xFE, 0, 0, 0, 0]);
        bytes[208..220].copy_from_slice(&[2, 32, 0, 3, 8, 0, 0, 0, 0, 0, 0, 0]);
    });
    let (memory, rsdp) = machine(&[table]);
    let fixed = open(&memory, rsdp)
        .and_then(|tables| tables.fixed())
        .expect("sound");
    assert_eq!(fixed.reset, Some((Register::Port(0xCF9), 0x0F)));
    assert_eq!(
        fixed.pm1a_control,
        Some(Register::Memory(PhysAddr::new(0xFEA0_1000)))
    );
    assert_eq!(fixed.pm_timer, None);
    assert_eq!(fixed.dsdt, Some(PhysAddr::new(0x1234_5000)));
    assert!(!fixed.has_keyboard_controller);
}

#[test]
fn nonsense_register_lengths_in_the_fadt_do_no_harm() {
    let table = fadt(276, 6, |bytes| {
        old_fields(bytes);
        bytes[88..91].fill(0xFF);
        bytes[92..94].fill(0xFF);
    });
    let (memory, rsdp) = machine(&[table]);
    let fixed = open(&memory, rsdp)
        .and_then(|tables| tables.fixed())
        .expect("sound");
    assert_eq!(fixed.pm1a_control, Some(Register::Port(0x604)));
    assert!(fixed.pm_timer.is_some());
}

#[test]
fn a_fadt_shorter_than_the_first_is_refused_by_name() {
    let (memory, rsdp) = machine(&[fadt(115, 1, |_| ())]);
    let found = open(&memory, rsdp).and_then(|tables| tables.fixed()).err();
    assert_eq!(found, Some(AcpiError::Length(signature::FADT, 115)));
}

#[test]
fn the_hpet_is_read_and_its_faults_are_named() {
    let hpet = |space: u8, address: u64, bytes: usize| {
        let mut body = vec![0x01, 0xA2, 0x86, 0x80, space, 64, 0, 0];
        body.extend_from_slice(&address.to_le_bytes());
        body.extend_from_slice(&[0, 0, 1, 0]);
        let (memory, rsdp) = machine(&[table(*b"HPET", 1, &body[..bytes])]);
        open(&memory, rsdp).and_then(|tables| tables.hpet())
    };
    let found = hpet(0, 0xFED0_0000, 20).expect("sound");
    assert_eq!(found.registers.as_u64(), 0xFED0_0000);
    assert!(found.wide);
    assert_eq!(hpet(1, 0xFED0_0000, 20), Err(AcpiError::HpetAddress));
    assert_eq!(hpet(0, 0, 20), Err(AcpiError::HpetAddress));
    assert_eq!(hpet(0, u64::MAX, 20), Err(AcpiError::HpetAddress));
    assert_eq!(
        hpet(0, 0xFED0_0000, 19),
        Err(AcpiError::Length(signature::HPET, 55))
    );
}

const SLEEP: &[u8] =
    b"\x08_S5_\x12\x06\x04\x05\x05\x00\x00\x00\x08_S5_\x12\x06\x04\x01\x00\x00\x00";

/// A machine whose DSDT and SSDT hold this AML.
fn sleeper(dsdt: &[u8], ssdt: &[u8]) -> Result<SleepTypes, AcpiError> {
    let mut memory = Memory::new();
    let dsdt = memory.put(&table(*b"DSDT", 2, dsdt));
    let fadt = memory.put(&fadt(276, 6, |bytes| {
        bytes[40..44].copy_from_slice(&(dsdt as u32).to_le_bytes());
    }));
    let ssdt = memory.put(&table(*b"SSDT", 2, ssdt));
    let xsdt = memory.xsdt(&[fadt, ssdt]);
    let rsdp = memory.rsdp(2, 0, xsdt);
    let memory = memory.freeze();
    open(&memory, rsdp).and_then(|tables| tables.soft_off())
}

#[test]
fn soft_off_is_found_in_the_dsdt_or_else_in_an_ssdt() {
    assert_eq!(sleeper(SLEEP, b""), Ok(SleepTypes { a: 1, b: 0 }));
    assert_eq!(sleeper(b"\xA4\x00", SLEEP), Ok(SleepTypes { a: 1, b: 0 }));
    assert_eq!(sleeper(b"\xA4\x00", b""), Err(AcpiError::NoSleepState));
    assert_eq!(sleeper(&SLEEP[..8], b""), Err(AcpiError::BadSleepState));
}

#[test]
fn a_fadt_without_a_dsdt_is_named() {
    let (memory, rsdp) = machine(&[fadt(276, 6, |_| ())]);
    let found = open(&memory, rsdp)
        .and_then(|tables| tables.soft_off())
        .err();
    assert_eq!(found, Some(AcpiError::NoDsdt));
}

#[test]
fn opening_maps_each_table_a_few_times_only() {
    let (memory, rsdp) = machine(&[madt(&[&local_apic(0, 0, 1)]), fadt(276, 6, old_fields)]);
    let tables = open(&memory, rsdp).expect("sound");
    let opened = memory.mappings.get();
    assert!(opened < 16, "{opened}");
    let _ = (tables.madt(), tables.fixed(), tables.madt());
    assert_eq!(memory.mappings.get(), opened);
}

proptest! {
    /// Whatever is wrong with the bytes, asking for everything ends, without a panic.
    #[test]
    fn no_damage_to_the_tables_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        resum in any::<bool>(),
    ) {
        let mut tables = vec![
            madt(&[&local_apic(0, 0, 1), &local_x2apic(1, 1, 1), &isa_override(4, 4, 0), &io_apic(0, 0xFEC0_0000, 0)]),
            fadt(276, 6, old_fields),
            table(*b"HPET", 1, &[0; 20]),
            table(*b"SSDT", 1, SLEEP),
        ];
        for (index, value) in damage {
            let which = index.index(tables.len());
            let at = index.index(tables[which].len());
            tables[which][at] = value;
        }
        if resum {
            for table in &mut tables {
                fix_sum(table, 9);
            }
        }
        let (memory, rsdp) = machine(&tables);
        if let Ok(tables) = open(&memory, rsdp) {
            if let Ok(madt) = tables.madt() {
                let _ = (madt.cpus().count(), madt.io_apics().count(), madt.local_apic());
                let _ = (0..16).filter(|line| madt.isa_to_gsi(*line).is_ok()).count();
            }
            let _ = (tables.fixed(), tables.hpet(), tables.soft_off());
        }
    }

    #[test]
    fn no_damage_to_the_root_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        offset in 0u64..64,
    ) {
        let mut memory = Memory::new();
        memory.put(&bytes);
        let rsdp = memory.rsdp(2, BASE + offset, BASE + offset);
        let memory = memory.freeze();
        let _ = open(&memory, rsdp).map(|tables| tables.madt().map(|madt| madt.cpus().count()));
        let _ = open(&memory, PhysAddr::new(BASE + offset)).map(|_| ());
    }
}
