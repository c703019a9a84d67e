//! What is done about flaws of CPUs that leak by speculation: decided once, at boot, from what the CPU says of itself.
//!
//! The decision is plain arithmetic on a few bits, so it is made here, where a host test can try every kind of CPU; who
//! acts on it (the entry paths, the control registers, the change of page tables) asks for [`decisions`]. What each flaw is and
//! what is done about it: docs, chapter on mitigations.

use spin::Once;

/// What the command line asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// What this CPU needs.
    Auto,
    /// Nothing.
    Off,
    /// All that this CPU can do, needed or not.
    On,
}

/// What a CPU says of its flaws. Bits of CPUID leaf 7 EDX and of IA32_ARCH_CAPABILITIES (Intel SDM vol. 2A, CPUID; vol. 4, MSR
/// 10AH), and their like on AMD's CPUs (AMD64 APM vol. 3, appendix E).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one bit with its own name"
)]
pub struct Speculation {
    /// AMD or Hygon, whose CPUs check rights before they forward data.
    pub amd: bool,
    /// RDCL_NO: not vulnerable to Meltdown (CVE-2017-5754).
    pub rdcl_no: bool,
    /// MD_CLEAR: VERW overwrites the buffers that MDS reads.
    pub md_clear: bool,
    /// MDS_NO: not vulnerable to MDS (CVE-2018-12126 and its kin).
    pub mds_no: bool,
    /// RTM, the transactions through which TAA reads the same buffers.
    pub transactions: bool,
    /// TAA_NO: not vulnerable to that (CVE-2019-11135).
    pub taa_no: bool,
    /// FB_CLEAR: VERW overwrites the fill buffers as well. Where it is, stale data of MMIO reads may be in them (CVE-2022-21123).
    pub fb_clear: bool,
    /// SBDR_SSDP_NO, FBSDP_NO and PSDP_NO, all of them: not vulnerable to that.
    pub mmio_no: bool,
    /// RFDS_CLEAR: VERW overwrites stale vector registers (CVE-2023-28746).
    pub rfds_clear: bool,
    /// RFDS_NO: not vulnerable to that.
    pub rfds_no: bool,
    /// IBRS_ALL: one bit in IA32_SPEC_CTRL, set once, keeps branch predictions of user mode out of the kernel.
    pub ibrs_all: bool,
    /// The same by a bit in EFER, on AMD's CPUs (Automatic IBRS).
    pub automatic_ibrs: bool,
    /// IBPB: a write to IA32_PRED_CMD makes the CPU forget its indirect branch predictions.
    pub ibpb: bool,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a decision of its own"
)]
pub struct Decisions {
    /// User mode runs on page tables without the kernel.
    pub isolation: bool,
    /// VERW is the last thing before each return to user mode.
    pub clear_buffers: bool,
    /// Restricted branch speculation in the kernel, by IA32_SPEC_CTRL.
    pub ibrs: bool,
    /// The same, by EFER.
    pub automatic_ibrs: bool,
    /// Branch predictions are forgotten when a CPU goes from one address space to another.
    pub barrier: bool,
}

/// What is done on a CPU that says this of itself, if so much is asked for.
pub const fn decide(choice: Choice, cpu: &Speculation) -> Decisions {
    let needs_clearing = cpu.md_clear && (!cpu.mds_no || cpu.transactions && !cpu.taa_no)
        || cpu.fb_clear && !cpu.mmio_no
        || cpu.rfds_clear && !cpu.rfds_no;
    match choice {
        Choice::Off => Decisions {
            isolation: false,
            clear_buffers: false,
            ibrs: false,
            automatic_ibrs: false,
            barrier: false,
        },
        Choice::Auto => Decisions {
            isolation: !cpu.amd && !cpu.rdcl_no,
            clear_buffers: !cpu.amd && needs_clearing,
            ibrs: cpu.ibrs_all,
            automatic_ibrs: cpu.automatic_ibrs,
            // Thousands of cycles at each change of address spaces: only for who asks.
            barrier: false,
        },
        Choice::On => Decisions {
            isolation: true,
            // VERW without MD_CLEAR looks at a selector and does nothing else.
            clear_buffers: true,
            ibrs: cpu.ibrs_all,
            automatic_ibrs: cpu.automatic_ibrs,
            barrier: cpu.ibpb,
        },
    }
}

static DECISIONS: Once<Decisions> = Once::new();

/// Makes the decision for this machine. To be called on the first CPU, before it builds page tables, sets its control registers and
/// patches the entries. The first call counts.
pub fn choose(choice: Choice, cpu: &Speculation) -> Decisions {
    *DECISIONS.call_once(|| decide(choice, cpu))
}

/// What was decided; nothing, before it was.
#[inline]
pub fn decisions() -> Decisions {
    DECISIONS.get().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPUs as they say of themselves.
    const OLD_INTEL: Speculation = Speculation {
        amd: false,
        rdcl_no: false,
        md_clear: false,
        mds_no: false,
        transactions: false,
        taa_no: false,
        fb_clear: false,
        mmio_no: false,
        rfds_clear: false,
        rfds_no: false,
        ibrs_all: false,
        automatic_ibrs: false,
        ibpb: false,
    };
    const SKYLAKE: Speculation = Speculation {
        md_clear: true,
        transactions: true,
        ibpb: true,
        ..OLD_INTEL
    };
    const CASCADE_LAKE: Speculation = Speculation {
        rdcl_no: true,
        mds_no: true,
        ibrs_all: true,
        ..SKYLAKE
    };
    const ALDER_LAKE_E: Speculation = Speculation {
        rdcl_no: true,
        mds_no: true,
        taa_no: true,
        mmio_no: true,
        md_clear: true,
        fb_clear: true,
        rfds_clear: true,
        ibrs_all: true,
        ibpb: true,
        ..OLD_INTEL
    };
    const RECENT: Speculation = Speculation {
        rfds_no: true,
        ..ALDER_LAKE_E
    };
    const ZEN: Speculation = Speculation {
        amd: true,
        automatic_ibrs: true,
        ibpb: true,
        ..OLD_INTEL
    };

    #[test]
    fn tables_are_kept_apart_unless_the_cpu_is_known_to_be_safe() {
        for (cpu, isolation) in [
            (OLD_INTEL, true),
            (SKYLAKE, true),
            (CASCADE_LAKE, false),
            (RECENT, false),
            (ZEN, false),
        ] {
            assert_eq!(decide(Choice::Auto, &cpu).isolation, isolation, "{cpu:?}");
        }
    }

    #[test]
    fn buffers_are_cleared_where_one_of_the_flaws_is_and_the_cpu_can() {
        for (cpu, clear) in [
            // It can't, so VERW would cost and not help.
            (OLD_INTEL, false),
            (SKYLAKE, true),
            // By transactions, in spite of MDS_NO.
            (CASCADE_LAKE, true),
            (
                Speculation {
                    taa_no: true,
                    ..CASCADE_LAKE
                },
                false,
            ),
            (ALDER_LAKE_E, true),
            (RECENT, false),
            (ZEN, false),
        ] {
            assert_eq!(decide(Choice::Auto, &cpu).clear_buffers, clear, "{cpu:?}");
        }
    }

    #[test]
    fn off_does_nothing_and_on_does_all_that_the_cpu_can() {
        for cpu in [OLD_INTEL, SKYLAKE, CASCADE_LAKE, ALDER_LAKE_E, RECENT, ZEN] {
            assert_eq!(decide(Choice::Off, &cpu), Decisions::default());
            let on = decide(Choice::On, &cpu);
            assert!(on.isolation && on.clear_buffers);
            assert_eq!((on.ibrs, on.barrier), (cpu.ibrs_all, cpu.ibpb));
            assert_eq!(on.automatic_ibrs, cpu.automatic_ibrs);
        }
    }
}
