//! Bringing interrupt hardware and IOMMUs to rest, as the protocol promises (Limine PROTOCOL, Machine State at
//! Entry).
//!
//! All of this runs after the firmware has been left, with interrupts off and page tables that show device registers at
//! their physical addresses. Every wait is bounded: a device that does not answer is left.

use crate::port::outb;
use boot_core::acpi::{AcpiFacts, NmiInput};
use boot_core::addr::PhysAddr;
use core::arch::x86_64::__cpuid;

/// Bounds every wait for a register bit.
const PATIENCE: u32 = 10_000_000;

/// Delivery modes, bits 8 to 10 of an LVT or redirection entry (Intel SDM vol. 3A §11.5.1, I/O APIC data sheet §3.2.4).
const FIXED: u32 = 0;
const LOWEST: u32 = 1;
const NMI: u32 = 4;
const EXTINT: u32 = 7;
const MASKED: u32 = 1 << 16;

fn delivery_mode(entry: u32) -> u32 {
    entry >> 8 & 7
}

/// A block of device registers.
#[derive(Clone, Copy)]
struct Registers(PhysAddr);

impl Registers {
    fn read(self, offset: u64) -> u32 {
        // SAFETY: the callers take the address from ACPI or the CPU as that of a device's registers, which the
        // firmware's page tables map; reads are aligned, and the offset is within the device's page.
        unsafe { ((self.0.0 + offset) as *const u32).read_volatile() }
    }

    fn write(self, offset: u64, value: u32) {
        // SAFETY: as for `read`. The loader is the only program on the machine, so nobody else uses the device.
        unsafe { ((self.0.0 + offset) as *mut u32).write_volatile(value) }
    }
}

/// Masks both legacy PICs.
pub fn mask_pics() {
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

/// Masks the entries of all I/O APICs: fixed and lowest-priority ones, and if `strict` NMI and ExtINT ones too.
pub fn mask_io_apics(acpi: &AcpiFacts, strict: bool) {
    // Register select at 0, window at 10h; register 1 bits 16-23: highest entry; entry n: registers 10h + 2n.
    for chip in &acpi.io_apics {
        let chip = Registers(*chip);
        let read = |index: u32| {
            chip.write(0, index);
            chip.read(0x10)
        };
        let last = read(1) >> 16 & 0xff;
        for n in 0..=last {
            let entry = read(0x10 + 2 * n);
            let mode = delivery_mode(entry);
            if matches!(mode, FIXED | LOWEST) || strict && matches!(mode, NMI | EXTINT) {
                chip.write(0, 0x10 + 2 * n);
                chip.write(0x10, entry | MASKED);
            }
        }
    }
}

const IA32_APIC_BASE: u32 = 0x1b;
const APIC_ENABLED: u64 = 1 << 11;
const APIC_X2: u64 = 1 << 10;

/// The local APIC of this CPU, in either mode.
enum LocalApic {
    Mmio(Registers),
    X2,
}

impl LocalApic {
    /// The CPU's local APIC, enabled; `None` if it has none.
    fn enable() -> Option<Self> {
        // CPUID 1 EDX bit 9: the CPU has a local APIC.
        if __cpuid(1).edx & 1 << 9 == 0 {
            return None;
        }
        let base = rdmsr(IA32_APIC_BASE);
        if base & APIC_ENABLED == 0 {
            wrmsr(IA32_APIC_BASE, base | APIC_ENABLED);
        }
        let x2 = base & APIC_X2 != 0;
        Some(if x2 {
            Self::X2
        } else {
            Self::Mmio(Registers(PhysAddr(base & 0x000f_ffff_ffff_f000)))
        })
    }

    /// Offsets are those of the memory-mapped registers; in x2APIC mode register `n` is MSR 800h + n / 16 (Intel SDM
    /// vol. 3A §11.12.1.2).
    fn read(&self, offset: u32) -> u32 {
        match self {
            Self::Mmio(registers) => registers.read(offset.into()),
            Self::X2 => rdmsr(0x800 + offset / 16) as u32,
        }
    }

    fn write(&self, offset: u32, value: u32) {
        match self {
            Self::Mmio(registers) => registers.write(offset.into(), value),
            Self::X2 => wrmsr(0x800 + offset / 16, value.into()),
        }
    }

    fn id(&self) -> u32 {
        match self {
            Self::Mmio(_) => self.read(0x20) >> 24,
            Self::X2 => self.read(0x20),
        }
    }
}

const TPR: u32 = 0x80;
const SVR: u32 = 0xf0;
const LVT_CMCI: u32 = 0x2f0;
const LVT_TIMER: u32 = 0x320;
const LVT_THERMAL: u32 = 0x330;
const LVT_PERFORMANCE: u32 = 0x340;
const LVT_LINT0: u32 = 0x350;
const LVT_ERROR: u32 = 0x370;

/// Brings this CPU's local APIC to the state of base revision 5: enabled, spurious vector 0FFh, priority 0, all
/// local interrupts masked, NMI inputs set up as the MADT says.
pub fn init_local_apic(acpi: &AcpiFacts) {
    let Some(apic) = LocalApic::enable() else {
        return;
    };
    apic.write(SVR, 0x1ff);
    apic.write(TPR, 0);

    // Version register bits 16-23: number of the highest LVT entry, which tells the optional ones.
    let highest = apic.read(0x30) >> 16 & 0xff;
    let optional = [(LVT_PERFORMANCE, 4), (LVT_THERMAL, 5), (LVT_CMCI, 6)];
    let present = optional
        .iter()
        .filter(|(_, n)| highest >= *n)
        .map(|(at, _)| *at);
    for at in [LVT_TIMER, LVT_LINT0, LVT_LINT0 + 0x10, LVT_ERROR]
        .into_iter()
        .chain(present)
    {
        let entry = apic.read(at);
        if is_ours(entry) {
            apic.write(at, entry | MASKED);
        }
    }

    let id = apic.id();
    let this = acpi
        .processors
        .iter()
        .find(|(_, apic_id)| *apic_id == id)
        .map(|(uid, _)| *uid);
    for input in &acpi.nmi_inputs {
        if input.lint < 2 && (input.processor.is_none() || input.processor == this) {
            let at = LVT_LINT0 + 0x10 * u32::from(input.lint);
            if is_ours(apic.read(at)) {
                apic.write(at, nmi_entry(input));
            }
        }
    }
}

/// Entries with other delivery modes (SMI, INIT) are the firmware's.
fn is_ours(entry: u32) -> bool {
    matches!(delivery_mode(entry), FIXED | LOWEST | NMI | EXTINT)
}

/// A masked NMI entry with the polarity (bit 13) and trigger mode (bit 15) that the MPS INTI flags ask for.
fn nmi_entry(input: &NmiInput) -> u32 {
    let low = u32::from(input.flags & 3 == 3) << 13;
    let level = u32::from(input.flags >> 2 & 3 == 3) << 15;
    NMI << 8 | MASKED | low | level
}

/// Turns off DMA translation and interrupt remapping of all IOMMUs.
pub fn disable_iommus(acpi: &AcpiFacts) {
    // Intel VT-d: global command at 18h, global status at 1Ch; bits 31 translation, 25 interrupt remapping, 26 queued
    // invalidation. A command is the status without its one-shot bits, changed in one bit (VT-d specification §11.4.4).
    for unit in &acpi.vtd_units {
        let unit = Registers(*unit);
        for bit in [31, 25, 26] {
            let status = unit.read(0x1c);
            if status & 1 << bit == 0 {
                continue;
            }
            unit.write(0x18, status & 0x96ff_ffff & !(1 << bit));
            for _ in 0..PATIENCE {
                if unit.read(0x1c) & 1 << bit == 0 {
                    break;
                }
                core::hint::spin_loop();
            }
        }
    }
    // AMD-Vi: control register at 18h, bit 0 enables the unit (AMD IOMMU specification §3.4.1).
    for unit in &acpi.amd_vi_units {
        let unit = Registers(*unit);
        let control = unit.read(0x18);
        unit.write(0x18, control & !1);
    }
}

/// Reads an MSR that exists on every CPU with long mode and a local APIC.
fn rdmsr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the callers name MSRs that the CPU has; reading them changes nothing.
    unsafe {
        core::arch::asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

fn wrmsr(number: u32, value: u64) {
    // SAFETY: only the local APIC's MSRs are written, after the firmware has been left, when the loader owns the CPU.
    unsafe {
        core::arch::asm!(
            "wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags)
        );
    }
}
