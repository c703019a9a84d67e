//! The state of the machine at the first instruction (protocol: Machine State at Entry, x86-64).

use crate::entry::AT_ENTRY;
use crate::port::inb;
use crate::report::Report;
use crate::requests::{STACK, loaded_revision};
use crate::walk::{hhdm, root, translate, word};
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::cell::UnsafeCell;

macro_rules! read_register {
    ($name:ident, $instruction:literal) => {
        fn $name() -> u64 {
            let value: u64;
            // SAFETY: reading this register changes nothing.
            unsafe { asm!($instruction, out(reg) value, options(nomem, nostack, preserves_flags)) }
            value
        }
    };
}

read_register!(cr0, "mov {}, cr0");
read_register!(cr4, "mov {}, cr4");
read_register!(cs, "mov {}, cs");
read_register!(ds, "mov {}, ds");
read_register!(es, "mov {}, es");
read_register!(ss, "mov {}, ss");
read_register!(fs, "mov {}, fs");
read_register!(gs, "mov {}, gs");
read_register!(tr, "str {}");
read_register!(ldtr, "sldt {}");

fn rdmsr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: only MSRs that every CPU with long mode has are read here.
    unsafe {
        asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Limit and base of a descriptor table.
fn table(store: unsafe fn(*mut u8)) -> (u64, u64) {
    let mut bytes = [0_u8; 10];
    // SAFETY: both instructions store ten bytes.
    unsafe { store(bytes.as_mut_ptr()) };
    let base = u64::from_le_bytes([
        bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7], bytes[8], bytes[9],
    ]);
    (u64::from(u16::from_le_bytes([bytes[0], bytes[1]])), base)
}

unsafe fn sgdt(to: *mut u8) {
    // SAFETY: the caller gives room for ten bytes.
    unsafe { asm!("sgdt [{}]", in(reg) to, options(nostack, preserves_flags)) }
}

unsafe fn sidt(to: *mut u8) {
    // SAFETY: the caller gives room for ten bytes.
    unsafe { asm!("sidt [{}]", in(reg) to, options(nostack, preserves_flags)) }
}

/// Checks all of it.
pub fn check(report: &mut Report) {
    let strict = loaded_revision() >= 5;
    general_registers(report, strict);
    control_registers(report, strict);
    segments(report, strict);
    stack(report);
    interrupts(report, strict);
}

fn general_registers(report: &mut Report, strict: bool) {
    let at_entry = AT_ENTRY.get();
    let dirty = at_entry[..15].iter().filter(|r| **r != 0).count();
    report.check(
        "registers_are_zero",
        dirty == 0,
        format_args!("{dirty} of 15 are not"),
    );
    let flags = at_entry[16];
    if strict {
        report.equal("rflags_is_2", flags, 2);
    } else {
        // IF 9, DF 10, VM 17.
        report.check(
            "if_df_vm_are_clear",
            flags & (1 << 9 | 1 << 10 | 1 << 17) == 0,
            format_args!("{flags:#x}"),
        );
    }
}

fn control_registers(report: &mut Report, strict: bool) {
    let extended = __cpuid(0x8000_0001).edx;
    let nxe = u64::from(extended >> 20 & 1) << 11;
    let efer = rdmsr(0xc000_0080);
    // PE 0, ET 4, WP 16, PG 31; PAE 5; LME 8, LMA 10, NXE 11.
    let (want0, want4, want_efer) = (0x8001_0011, 1 << 5, 1 << 8 | 1 << 10 | nxe);
    if strict {
        report.equal("cr0_is_exact", cr0(), want0);
        report.equal("cr4_is_exact", cr4(), want4);
        report.equal("efer_is_exact", efer, want_efer);
    } else {
        report.equal("cr0_has_its_bits", cr0() & want0, want0);
        report.equal("cr4_has_its_bits", cr4() & want4, want4);
        report.equal("efer_has_its_bits", efer & want_efer, want_efer);
    }
    report.equal("no_5_level_paging", cr4() >> 12 & 1, 0);
    // WB WT UC- UC WP WC, the last two open.
    report.equal(
        "pat_layout",
        rdmsr(0x277) & 0xffff_ffff_ffff,
        0x0105_0007_0406,
    );
}

fn segments(report: &mut Report, strict: bool) {
    report.equal("cs_is_28", cs(), 0x28);
    let data = [ds(), es(), ss(), fs(), gs()];
    report.check(
        "data_segments_are_30",
        data.iter().all(|s| *s == 0x30),
        format_args!("{data:x?}"),
    );
    report.equal("fs_base_is_0", rdmsr(0xc000_0100), 0);
    report.equal("gs_base_is_0", rdmsr(0xc000_0101), 0);

    let (limit, base) = table(sgdt);
    report.check(
        "gdt_has_7_descriptors",
        limit >= 7 * 8 - 1,
        format_args!("limit {limit:#x}"),
    );
    // Without the accessed bit, which is the CPU's.
    let wanted = [
        0,
        0x0000_9a00_0000_ffff,
        0x0000_9200_0000_ffff,
        0x00cf_9a00_0000_ffff,
        0x00cf_9200_0000_ffff,
    ];
    for (n, want) in wanted.iter().enumerate() {
        let found = word(base + n as u64 * 8) & !(1 << 40);
        if found != *want {
            report.equal("gdt_descriptor", found, *want);
        }
    }
    // Code: present, long, ring 0, readable; data: present, ring 0, writable.
    let code = word(base + 5 * 8);
    let data = word(base + 6 * 8);
    report.check(
        "gdt_64_bit_code",
        code >> 40 & 0xfa == 0x9a && code >> 53 & 3 == 1,
        format_args!("{code:#x}"),
    );
    report.check(
        "gdt_64_bit_data",
        data >> 40 & 0xfa == 0x92,
        format_args!("{data:#x}"),
    );
    if strict {
        let (limit, base_idt) = table(sidt);
        report.check(
            "idt_is_empty",
            limit == 0 && base_idt == 0,
            format_args!("{base_idt:#x} limit {limit:#x}"),
        );
        report.equal("ldtr_is_null", ldtr() & 0xffff, 0);
        let selector = tr() & 0xfff8;
        let descriptor = word(base + selector);
        let limit = descriptor & 0xffff | descriptor >> 32 & 0xf_0000;
        let low = descriptor >> 16 & 0xff_ffff | descriptor >> 56 << 24;
        let empty = selector == 0 || limit == 0 && low == 0 && word(base + selector + 8) == 0;
        report.check(
            "task_register_is_empty",
            empty,
            format_args!("selector {selector:#x}: {descriptor:#x}"),
        );
    }
}

fn stack(report: &mut Report) {
    let rsp = AT_ENTRY.get()[15];
    report.equal("return_address_is_0", word(rsp), 0);
    report.equal("stack_is_aligned_as_in_a_call", rsp % 16, 8);
    // All of what was asked for is there and can be written: mapped, and not the read-only kind.
    let low = rsp + 8 - STACK;
    let missing = (low..rsp)
        .step_by(4096)
        .filter(|at| !translate(*at).is_some_and(|m| m.write))
        .count();
    report.check(
        "stack_has_the_requested_size",
        missing == 0,
        format_args!("{missing} pages missing"),
    );
}

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: one CPU.
unsafe impl Sync for Table {}

static POINTERS: Table = Table(UnsafeCell::new([0; 512]));
static DIRECTORY: Table = Table(UnsafeCell::new([0; 512]));
/// The root table's entry under which device registers get mapped: for addresses that no machine has anything at, so no
/// loader uses it, even one that maps everything at its own address.
pub const DEVICES_SLOT: u64 = 200;
const DEVICES: u64 = DEVICES_SLOT << 39;
const IO_APIC: u64 = DEVICES;
const LOCAL_APIC: u64 = DEVICES + (2 << 20);

/// Maps the 2 MiB with QEMU's I/O APIC and those with the local APIC, uncached.
fn map_devices() -> bool {
    let (Some(pointers), Some(directory)) = (
        translate(POINTERS.0.get() as u64),
        translate(DIRECTORY.0.get() as u64),
    ) else {
        return false;
    };
    // SAFETY: both tables are this kernel's own and unused so far. The root is in bootloader-reclaimable memory, which
    // the direct map shows writable, and its entry is seen to be empty, so no TLB holds anything of it.
    unsafe {
        let directory_words = DIRECTORY.0.get().cast::<u64>();
        // Present, writable, write-through and cache-disabled (PAT 3, UC), 2 MiB.
        directory_words.write_volatile(0xfec0_0000 | 0x9b);
        directory_words.add(1).write_volatile(0xfee0_0000 | 0x9b);
        POINTERS
            .0
            .get()
            .cast::<u64>()
            .write_volatile(directory.phys | 3);
        let slot = (hhdm() + root() + DEVICES_SLOT * 8) as *mut u64;
        if slot.read_volatile() != 0 {
            return false;
        }
        slot.write_volatile(pointers.phys | 3);
    }
    true
}

fn register(at: u64) -> u32 {
    // SAFETY: `map_devices` mapped the two devices' registers.
    unsafe { (at as *const u32).read_volatile() }
}

fn interrupts(report: &mut Report, strict: bool) {
    report.equal("pic_1_is_masked", inb(0x21).into(), 0xff);
    report.equal("pic_2_is_masked", inb(0xa1).into(), 0xff);
    if !map_devices() {
        report.check(
            "devices_can_be_mapped",
            false,
            format_args!("page tables are not as promised"),
        );
        return;
    }
    let io_apic = |index: u32| {
        // SAFETY: as for `register`; selecting a register has no other effect.
        unsafe { (IO_APIC as *mut u32).write_volatile(index) };
        register(IO_APIC + 0x10)
    };
    let last = io_apic(1) >> 16 & 0xff;
    let open = (0..=last).filter(|n| {
        let entry = io_apic(0x10 + 2 * n);
        let ours = matches!(entry >> 8 & 7, 0 | 1) || strict && matches!(entry >> 8 & 7, 4 | 7);
        ours && entry & 1 << 16 == 0
    });
    let open = open.count();
    report.check(
        "io_apic_is_masked",
        open == 0,
        format_args!("{open} entries are not"),
    );
    // With x2APIC on, the registers are not in memory.
    if strict && rdmsr(0x1b) & 1 << 10 == 0 {
        report.equal("local_apic_is_enabled", rdmsr(0x1b) >> 11 & 1, 1);
        report.equal("spurious_vector", register(LOCAL_APIC + 0xf0).into(), 0x1ff);
        report.equal("task_priority", register(LOCAL_APIC + 0x80).into(), 0);
        for offset in [0x320, 0x350, 0x360, 0x370] {
            let entry = register(LOCAL_APIC + offset);
            let ours = matches!(entry >> 8 & 7, 0 | 1 | 4 | 7);
            report.check(
                "lvt_is_masked",
                !ours || entry & 1 << 16 != 0,
                format_args!("{offset:#x}: {entry:#x}"),
            );
        }
    }
}
