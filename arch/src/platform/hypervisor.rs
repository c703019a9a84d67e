//! Whether this machine is a virtual one.
//!
//! Asked where bare hardware needs a delay or forbids a port that an emulator offers.

use raw_cpuid::{CpuId, CpuIdReaderNative};

/// The CPU's identification registers.
#[must_use]
pub fn cpuid() -> CpuId<CpuIdReaderNative> {
    CpuId::new()
}

/// Whether a hypervisor or emulator says that it is there (CPUID leaf 1, ECX bit 31: reserved for this use and 0 on
/// hardware, Intel SDM vol. 2A, CPUID; AMD APM vol. 3 §E.3.2).
#[must_use]
pub fn present() -> bool {
    cpuid()
        .get_feature_info()
        .is_some_and(|features| features.has_hypervisor())
}
