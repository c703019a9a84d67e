//! What the CPU can do, read once on the first CPU.
//!
//! The other CPUs are compared with it (`init.rs`): a feature is used everywhere or nowhere.

use raw_cpuid::CpuId;
use spin::Once;

use crate::mitigations::Speculation;

use crate::fpu::Layout;

/// The features that change what the kernel does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one CPUID bit with its own name"
)]
pub struct Features {
    /// `rdfsbase` and its kin (CPUID 7.0 EBX bit 0).
    pub fsgsbase: bool,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// User-mode instruction prevention.
    pub umip: bool,
    /// XSAVE and XCR0.
    pub xsave: bool,
    /// 1 GiB pages.
    pub gigabyte_pages: bool,
    /// Global pages.
    pub global_pages: bool,
    /// Names for address spaces in the TLB (process-context identifiers).
    pub pcid: bool,
    /// INVPCID, which flushes by name.
    pub invpcid: bool,
    /// RDTSCP, and with it the TSC_AUX register.
    pub rdtscp: bool,
    /// RDPID, which reads TSC_AUX alone (CPUID 7.0 ECX bit 22).
    pub rdpid: bool,
    /// RDRAND.
    pub rdrand: bool,
    /// Memory type range registers.
    pub mtrr: bool,
    /// Runs under a hypervisor (CPUID 1 ECX bit 31).
    pub hypervisor: bool,
    /// Intel.
    pub intel: bool,
    /// AMD or Hygon: null selectors keep the segment's base.
    pub amd: bool,
    /// What it says of its flaws.
    pub speculation: Speculation,
    /// How floating-point state is saved: instruction, components, sizes.
    pub fpu: Layout,
}

/// IA32_ARCH_CAPABILITIES.
const ARCH_CAPABILITIES: super::Msr = super::Msr(0x10A);

static FEATURES: Once<Features> = Once::new();

/// The features of the first CPU.
///
/// # Panics
/// Before [`detect`](super::detect) ran on the first CPU: a kernel bug.
#[inline]
pub fn features() -> &'static Features {
    FEATURES
        .get()
        .expect("features are detected before they are asked for")
}

/// Reads the features of this CPU.
pub(super) fn read() -> Features {
    let cpuid = CpuId::new();
    let basic = cpuid.get_feature_info();
    let extended = cpuid.get_extended_feature_info();
    let processor = cpuid.get_extended_processor_and_feature_identifiers();
    let amd = cpuid
        .get_vendor_info()
        .is_some_and(|v| matches!(v.as_str(), "AuthenticAMD" | "HygonGenuine"));
    let intel = cpuid
        .get_vendor_info()
        .is_some_and(|v| v.as_str() == "GenuineIntel");
    let xsave = basic
        .as_ref()
        .is_some_and(raw_cpuid::FeatureInfo::has_xsave);
    Features {
        fsgsbase: extended
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedFeatures::has_fsgsbase),
        smep: extended
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedFeatures::has_smep),
        smap: extended
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedFeatures::has_smap),
        umip: extended
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedFeatures::has_umip),
        xsave,
        gigabyte_pages: processor
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedProcessorFeatureIdentifiers::has_1gib_pages),
        global_pages: basic.as_ref().is_some_and(raw_cpuid::FeatureInfo::has_pge),
        pcid: basic.as_ref().is_some_and(raw_cpuid::FeatureInfo::has_pcid),
        invpcid: extended
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedFeatures::has_invpcid),
        rdtscp: processor
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedProcessorFeatureIdentifiers::has_rdtscp),
        rdpid: extended
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedFeatures::has_rdpid),
        rdrand: basic
            .as_ref()
            .is_some_and(raw_cpuid::FeatureInfo::has_rdrand),
        mtrr: basic.as_ref().is_some_and(raw_cpuid::FeatureInfo::has_mtrr),
        hypervisor: basic
            .as_ref()
            .is_some_and(raw_cpuid::FeatureInfo::has_hypervisor),
        intel,
        amd,
        speculation: speculation(amd, extended.is_some()),
        fpu: Layout::detect(),
    }
}

/// Remembers the first CPU's features.
pub(super) fn remember(found: Features) -> &'static Features {
    FEATURES.call_once(|| found)
}

/// What the CPU says of its flaws; `leaf7`: whether it has CPUID leaf 7.
fn speculation(amd: bool, leaf7: bool) -> Speculation {
    let (ebx, edx) = if leaf7 {
        let leaf = raw_cpuid::cpuid!(7, 0);
        (leaf.ebx, leaf.edx)
    } else {
        (0, 0)
    };
    let highest = raw_cpuid::cpuid!(0x8000_0000).eax;
    let extended = |leaf: u32| (highest >= leaf).then(|| raw_cpuid::cpuid!(leaf));
    // CPUID 7.0 EDX bit 29: the register that lists what the CPU is not vulnerable to.
    let capabilities = if edx >> 29 & 1 != 0 {
        // SAFETY: CPUID says that the register exists.
        unsafe { ARCH_CAPABILITIES.read() }
    } else {
        0
    };
    let capable = |bit: u32| capabilities >> bit & 1 != 0;
    Speculation {
        amd,
        rdcl_no: capable(0),
        ibrs_all: capable(1) && edx >> 26 & 1 != 0,
        mds_no: capable(5),
        taa_no: capable(8),
        mmio_no: capable(13) && capable(14) && capable(15),
        fb_clear: capable(17),
        rfds_no: capable(27),
        rfds_clear: capable(28),
        md_clear: edx >> 10 & 1 != 0,
        transactions: ebx >> 11 & 1 != 0,
        // CPUID 80000021h EAX bit 8 (AMD64 APM vol. 3, appendix E.4.22).
        automatic_ibrs: amd && extended(0x8000_0021).is_some_and(|leaf| leaf.eax >> 8 & 1 != 0),
        // CPUID 7.0 EDX bit 26 on Intel's CPUs, 80000008h EBX bit 12 on AMD's.
        ibpb: !amd && edx >> 26 & 1 != 0
            || amd && extended(0x8000_0008).is_some_and(|leaf| leaf.ebx >> 12 & 1 != 0),
    }
}
