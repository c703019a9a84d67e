//! Numbers that the Limine boot protocol dictates (Limine PROTOCOL, Feature List).

/// The highest base revision this loader gives.
pub const MAX_BASE_REVISION: u64 = 6;
/// First two words of the base revision tag.
pub const BASE_REVISION_MAGIC: [u64; 2] = [0xf9562b2d5c95a6c8, 0x6a7b384944536bdc];
/// The marker before the requests.
pub const START_MARKER: [u64; 4] = [
    0xf6b8f4b39de7d1ae,
    0xfab91a6940fcb9cf,
    0x785c6ed015d3e316,
    0x181e920a7852b9d9,
];
/// The marker after the requests.
pub const END_MARKER: [u64; 2] = [0xadc0e0531bb10d03, 0x9572709f31764c62];
/// First two words of every request.
pub const COMMON_MAGIC: [u64; 2] = [0xc7b1dd30df4c8b88, 0x0a82e883a194f07b];

/// The lowest address a kernel may be loaded at (Limine PROTOCOL, Memory Layout at Entry).
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where this loader puts the higher half direct map: the lowest address of the upper half under 4-level paging.
pub const HHDM_BASE: u64 = 0xffff_8000_0000_0000;
/// One past the highest physical address that fits between the direct map's base and the kernel.
pub const HHDM_LIMIT: u64 = KERNEL_BASE - HHDM_BASE;
/// The least stack a kernel gets, in bytes (Limine PROTOCOL, Machine State at Entry).
pub const MIN_STACK: u64 = 64 * 1024;
/// The largest stack that this loader believes is meant.
pub const MAX_STACK: u64 = 256 << 20;
/// Byte offset of a request's response pointer.
pub const RESPONSE_OFFSET: usize = 40;

/// `LIMINE_PAGING_MODE_X86_64_4LVL`.
pub const PAGING_4LEVEL: u64 = 0;
/// `LIMINE_FRAMEBUFFER_RGB`.
pub const FRAMEBUFFER_RGB: u8 = 1;

/// The value that IA32_PAT has at entry: WB, WT, UC-, UC, WP, WC, and UC twice where the protocol leaves it open
/// (Limine PROTOCOL, Caching; encodings: Intel SDM vol. 3A §12.12.2).
pub const PAT: u64 = 0x0000_0105_0007_0406;

/// The GDT at entry: the protocol's seven descriptors, then a task state segment of base 0 and limit 0, since the
/// task register cannot be loaded with a null selector (Intel SDM vol. 2A, LTR).
pub const GDT: [u64; 9] = [
    0,
    0x0000_9b00_0000_ffff,
    0x0000_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x0020_9b00_0000_0000,
    0x0000_9300_0000_0000,
    0x0000_8900_0000_0000,
    0,
];

/// A feature that a kernel can request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the protocol's")]
pub enum Feature {
    BootloaderInfo,
    Cmdline,
    FirmwareType,
    StackSize,
    Hhdm,
    Framebuffer,
    PagingMode,
    Mp,
    MemoryMap,
    EntryPoint,
    ExecutableFile,
    Module,
    Rsdp,
    Smbios,
    EfiSystemTable,
    EfiMemoryMap,
    DateAtBoot,
    ExecutableAddress,
    Dtb,
    KeepIommu,
}

/// Every feature known here: itself, its name, the last two words of its ID, and the size of its request in bytes
/// up to the fields that this loader reads.
pub const FEATURES: &[(Feature, &str, [u64; 2], usize)] = &[
    (
        Feature::BootloaderInfo,
        "bootloader info",
        [0xf55038d8e2a1202f, 0x279426fcf5f59740],
        48,
    ),
    (
        Feature::Cmdline,
        "executable command line",
        [0x4b161536e598651e, 0xb390ad4a2f1f303a],
        48,
    ),
    (
        Feature::FirmwareType,
        "firmware type",
        [0x8c2f75d90bef28a8, 0x7045a4688eac00c3],
        48,
    ),
    (
        Feature::StackSize,
        "stack size",
        [0x224ef0460a8e8926, 0xe1cb0fc25f46ea3d],
        56,
    ),
    (
        Feature::Hhdm,
        "HHDM",
        [0x48dcf1cb8ad2b852, 0x63984e959a98244b],
        48,
    ),
    (
        Feature::Framebuffer,
        "framebuffer",
        [0x9d5827dcd881dd75, 0xa3148604f6fab11b],
        48,
    ),
    (
        Feature::PagingMode,
        "paging mode",
        [0x95c1a0edab0944cb, 0xa4e5cb3842f7488a],
        56,
    ),
    (
        Feature::Mp,
        "MP",
        [0x95a67b819a1b857e, 0xa0b61b723b6a73e0],
        48,
    ),
    (
        Feature::MemoryMap,
        "memory map",
        [0x67cf3d9d378a806f, 0xe304acdfc50c3c62],
        48,
    ),
    (
        Feature::EntryPoint,
        "entry point",
        [0x13d86c035a1cd3e1, 0x2b0caa89d8f3026a],
        56,
    ),
    (
        Feature::ExecutableFile,
        "executable file",
        [0xad97e90e83f1ed67, 0x31eb5d1c5ff23b69],
        48,
    ),
    (
        Feature::Module,
        "module",
        [0x3e7e279702be32af, 0xca1c4f3bd1280cee],
        48,
    ),
    (
        Feature::Rsdp,
        "RSDP",
        [0xc5e77b6b397e7b43, 0x27637845accdcf3c],
        48,
    ),
    (
        Feature::Smbios,
        "SMBIOS",
        [0x9e9046f11e095391, 0xaa4a520fefbde5ee],
        48,
    ),
    (
        Feature::EfiSystemTable,
        "EFI system table",
        [0x5ceba5163eaaf6d6, 0x0a6981610cf65fcc],
        48,
    ),
    (
        Feature::EfiMemoryMap,
        "EFI memory map",
        [0x7df62a431d6872d5, 0xa4fcdfb3e57306c8],
        48,
    ),
    (
        Feature::DateAtBoot,
        "date at boot",
        [0x502746e184c088aa, 0xfbc5ec83e6327893],
        48,
    ),
    (
        Feature::ExecutableAddress,
        "executable address",
        [0x71ba76863cc55f63, 0xb2644a48c516a487],
        48,
    ),
    (
        Feature::Dtb,
        "device tree blob",
        [0xb40ddb48fb54bac7, 0x545081493f81ffb7],
        48,
    ),
    (
        Feature::KeepIommu,
        "keep IOMMU",
        [0x8ebaabe51f490179, 0x2aa86a59ffb4ab0f],
        48,
    ),
];

/// A base revision from 0 to [`MAX_BASE_REVISION`], and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaseRevision(u64);

impl BaseRevision {
    /// The revision that a kernel asking for `requested` is given: that one, or the highest known.
    #[must_use]
    pub fn for_request(requested: u64) -> Self {
        Self(requested.min(MAX_BASE_REVISION))
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Whether physical memory is also mapped at its own address (0 only).
    #[must_use]
    pub const fn has_identity_map(self) -> bool {
        self.0 == 0
    }

    /// Whether the first 4 GiB are in the direct map whatever they hold (below 3).
    #[must_use]
    pub const fn maps_first_4_gib(self) -> bool {
        self.0 < 3
    }

    /// Whether page 0 may be called usable (3 and later).
    #[must_use]
    pub const fn page_zero_usable(self) -> bool {
        self.0 >= 3
    }

    /// Whether there is a memory type "reserved, mapped", and ACPI tables are promised to be mapped (4 and later).
    #[must_use]
    pub const fn maps_acpi_tables(self) -> bool {
        self.0 >= 4
    }

    /// Whether SMBIOS and EFI tables and runtime services are promised to be mapped (5 and later).
    #[must_use]
    pub const fn maps_firmware_tables(self) -> bool {
        self.0 >= 5
    }

    /// Whether the RSDP's address is given as a physical one (3 only).
    #[must_use]
    pub const fn rsdp_is_physical(self) -> bool {
        self.0 == 3
    }

    /// Whether SMBIOS and EFI system table addresses are given as physical ones (3 and 4).
    #[must_use]
    pub const fn firmware_tables_are_physical(self) -> bool {
        self.0 == 3 || self.0 == 4
    }

    /// Whether control registers, flags, local APIC and IOMMUs have a fully defined state at entry (5 and later).
    #[must_use]
    pub const fn strict_machine_state(self) -> bool {
        self.0 >= 5
    }
}
