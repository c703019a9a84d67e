//! What the CPU can do, read once on the first CPU.
//!
//! The other CPUs are compared with it (`init.rs`): a feature is used everywhere or nowhere.

use raw_cpuid::CpuId;
use spin::Once;

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
    /// The CPU says that it needs no page-table isolation (IA32_ARCH_CAPABILITIES.RDCL_NO), or is AMD's.
    pub meltdown_safe: bool,
    /// How floating-point state is saved: instruction, components, sizes.
    pub fpu: Layout,
}

/// IA32_ARCH_CAPABILITIES and its RDCL_NO bit.
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
    // CPUID 7.0 EDX bit 29: the register that lists what the CPU is not vulnerable to (Intel SDM vol. 2A, CPUID).
    let arch_capabilities = extended.is_some() && raw_cpuid::cpuid!(7, 0).edx >> 29 & 1 != 0;
    // SAFETY: CPUID says that the register exists.
    let meltdown_safe = amd || arch_capabilities && unsafe { ARCH_CAPABILITIES.read() } & 1 != 0;
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
        meltdown_safe,
        fpu: Layout::detect(),
    }
}

/// Remembers the first CPU's features.
pub(super) fn remember(found: Features) -> &'static Features {
    FEATURES.call_once(|| found)
}
