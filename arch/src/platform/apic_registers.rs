//! The local APIC's registers, and the words that go into them (Intel SDM vol. 3A §11.4 to §11.12).
//!
//! In xAPIC mode the registers are a page of memory, in x2APIC mode model-specific registers; the number of the
//! one follows from the offset of the other, except that the interrupt command register is two in xAPIC mode and one of 64
//! bits in x2APIC mode, and that a destination is 8 bits in the *top* byte of its word in xAPIC mode and the whole word in
//! x2APIC mode. What is computed here is tested on the host.
//!
//! `x2apic` 0.5 passes a destination unshifted in both modes: its `send_ipi(vector, dest)`, `send_nmi`, `send_init_ipi`
//! and `send_sipi` put `dest` into bits 32 to 63 of the command as it is, and in xAPIC mode write these as the upper word.
//! Unshifted, an id lands in reserved bits and the message goes to APIC 0. So whoever calls it passes
//! [`destination_word`], which is right for either mode.

use crate::addr::ApicId;

/// Offsets of registers in xAPIC mode's page (Intel SDM vol. 3A, table 11-1).
pub mod offset {
    /// Task priority.
    pub const TASK_PRIORITY: u32 = 0x080;
    /// End of interrupt.
    pub const END_OF_INTERRUPT: u32 = 0x0B0;
    /// Spurious interrupt vector, and the software enable bit.
    pub const SPURIOUS: u32 = 0x0F0;
    /// The first of the eight in-service registers.
    pub const IN_SERVICE: u32 = 0x100;
    /// Error status.
    pub const ERROR_STATUS: u32 = 0x280;
    /// Corrected machine check errors in the local vector table.
    pub const LVT_CMCI: u32 = 0x2F0;
    /// Interrupt command, lower word; the whole in x2APIC mode.
    pub const COMMAND: u32 = 0x300;
    /// Interrupt command, upper word: the destination. Not in x2APIC mode.
    pub const COMMAND_HIGH: u32 = 0x310;
    /// Timer in the local vector table.
    pub const LVT_TIMER: u32 = 0x320;
    /// Thermal sensor in the local vector table.
    pub const LVT_THERMAL: u32 = 0x330;
    /// Performance counters in the local vector table.
    pub const LVT_PERFORMANCE: u32 = 0x340;
    /// Pin LINT0 in the local vector table: usually the 8259s.
    pub const LVT_LINT0: u32 = 0x350;
    /// Pin LINT1 in the local vector table: usually NMI.
    pub const LVT_LINT1: u32 = 0x360;
    /// Errors in the local vector table.
    pub const LVT_ERROR: u32 = 0x370;
    /// The timer's initial count; writing it starts the timer, writing 0 stops it.
    pub const TIMER_INITIAL: u32 = 0x380;
    /// The timer's current count.
    pub const TIMER_CURRENT: u32 = 0x390;
}

/// Software enable, in the spurious interrupt vector register.
pub const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Masked, in an entry of the local vector table.
pub const LVT_MASKED: u32 = 1 << 16;
/// Delivery as NMI, in an entry of the local vector table.
pub const LVT_NMI: u32 = 0b100 << 8;
/// The command has not been delivered yet (xAPIC mode only).
pub const COMMAND_PENDING: u32 = 1 << 12;
/// Level "assert", in the interrupt command register: set for everything but a deassertion of INIT.
const COMMAND_ASSERT: u32 = 1 << 14;

/// IA32_APIC_BASE.
pub const BASE_MSR: u32 = 0x1B;
/// In [`BASE_MSR`]: the APIC is on.
pub const BASE_ENABLE: u64 = 1 << 11;
/// In [`BASE_MSR`]: it is in x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// In [`BASE_MSR`]: where the registers are in xAPIC mode.
pub const BASE_ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// How a local APIC is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Through memory, ids of 8 bits.
    XApic,
    /// Through model-specific registers, ids of 32 bits.
    X2Apic,
}

/// The model-specific register that is `offset` in x2APIC mode (Intel SDM vol. 3A §11.12.1.2).
#[must_use]
pub const fn msr(offset: u32) -> u32 {
    0x800 + (offset >> 4)
}

/// The destination word of an interrupt command for one CPU: what x2APIC mode has in bits 32 to 63 and xAPIC mode in the
/// upper register. `None` if this mode can't name that CPU (in each mode the highest id means "all").
#[must_use]
pub const fn destination_word(mode: Mode, target: ApicId) -> Option<u32> {
    match mode {
        Mode::XApic if target.0 < 0xFF => Some(target.0 << 24),
        Mode::X2Apic if target.0 != u32::MAX => Some(target.0),
        _ => None,
    }
}

/// The lower word of the command that sends an ordinary interrupt to one CPU, physical destination.
#[must_use]
pub const fn fixed_command(vector: u8) -> u32 {
    COMMAND_ASSERT | vector as u32
}

/// The page that a start-up message makes a CPU begin at, as its vector: `None` unless it is page-aligned, below 1 MiB
/// and not in the range A0000h to BFFFFh, which is reserved (Intel SDM vol. 3A §9.4.4).
#[must_use]
pub const fn startup_vector(page: u64) -> Option<u8> {
    if page & 0xFFF != 0 || page >= 0x10_0000 || (page >= 0xA_0000 && page < 0xC_0000) {
        return None;
    }
    Some((page >> 12) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xapic_destination_sits_in_the_top_byte() {
        assert_eq!(destination_word(Mode::XApic, ApicId(3)), Some(0x0300_0000));
        assert_eq!(
            destination_word(Mode::XApic, ApicId(254)),
            Some(0xFE00_0000)
        );
    }

    #[test]
    fn an_x2apic_destination_is_the_whole_word() {
        assert_eq!(destination_word(Mode::X2Apic, ApicId(3)), Some(3));
        assert_eq!(
            destination_word(Mode::X2Apic, ApicId(0x1_0000)),
            Some(0x1_0000)
        );
    }

    #[test]
    fn ids_that_a_mode_cannot_name_are_refused() {
        assert_eq!(destination_word(Mode::XApic, ApicId(255)), None);
        assert_eq!(destination_word(Mode::XApic, ApicId(256)), None);
        assert_eq!(destination_word(Mode::X2Apic, ApicId(u32::MAX)), None);
    }

    #[test]
    fn register_numbers_are_those_of_the_manual() {
        assert_eq!(msr(offset::END_OF_INTERRUPT), 0x80B);
        assert_eq!(msr(offset::COMMAND), 0x830);
        assert_eq!(msr(offset::TIMER_INITIAL), 0x838);
        assert_eq!(msr(offset::LVT_CMCI), 0x82F);
    }

    #[test]
    fn an_ordinary_command_asserts_and_carries_its_vector() {
        assert_eq!(fixed_command(0xF0), 0x40F0);
    }

    #[test]
    fn only_low_free_pages_can_be_started_at() {
        assert_eq!(startup_vector(0x8000), Some(0x08));
        assert_eq!(startup_vector(0x9_F000), Some(0x9F));
        for bad in [0x8001, 0xA_0000, 0xB_F000, 0x10_0000, !0xFFF] {
            assert_eq!(startup_vector(bad), None, "{bad:#x}");
        }
    }

    /// The crate's command, taken from the register page it writes to: it has the destination word as it was given, so it
    /// must be given the shifted one. (Only where the test's own CPU has no x2APIC can the crate be put into xAPIC mode.)
    #[test]
    fn the_crates_builder_follows_the_cpu_and_wants_a_base_without_x2apic() {
        let has_x2apic = super::super::hypervisor::cpuid()
            .get_feature_info()
            .is_some_and(|features| features.has_x2apic());
        let mut page = vec![0u32; 0x400];
        let mut builder = x2apic::lapic::LocalApicBuilder::new();
        builder
            .timer_vector(0xFD)
            .error_vector(0xFE)
            .spurious_vector(0xFF);
        assert_eq!(builder.build().is_ok(), has_x2apic);
        builder.set_xapic_base(page.as_mut_ptr() as u64);
        let mut local = builder.build().expect("all is set");
        if has_x2apic {
            eprintln!(
                "SKIPPED: this CPU has x2APIC, so the crate's xAPIC writes can't be seen here"
            );
            return;
        }
        let word = destination_word(Mode::XApic, ApicId(5)).expect("a small id");
        // SAFETY: the register page is the vector above, large enough for every register.
        unsafe { local.send_init_ipi(word) };
        assert_eq!(page[offset::COMMAND_HIGH as usize / 4], 0x0500_0000);
        assert_eq!(page[offset::COMMAND as usize / 4] & 0x7FF, 0x500);
    }
}
