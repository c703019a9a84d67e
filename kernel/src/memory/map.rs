//! The machine's memory map.

/// What a range of physical memory is, as the boot protocol tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// Free RAM.
    Usable,
    /// RAM that the boot loader still uses; free once the kernel has left it behind.
    Reclaimable,
    /// RAM with ACPI tables.
    AcpiReclaimable,
    /// RAM with the kernel and the modules.
    Kernel,
    /// RAM or not, the firmware's: never touched.
    Reserved,
    /// Memory that firmware uses across sleep.
    AcpiNonVolatile,
    /// Broken RAM.
    Bad,
    /// A framebuffer.
    Framebuffer,
}

impl MemoryKind {
    /// Whether the direct map holds it: RAM that the kernel may read and write.
    pub const fn in_direct_map(self) -> bool {
        matches!(
            self,
            Self::Usable | Self::Reclaimable | Self::AcpiReclaimable | Self::Kernel
        )
    }

    /// Whether its frames are, or will be, the frame allocator's.
    pub const fn is_managed(self) -> bool {
        matches!(self, Self::Usable | Self::Reclaimable)
    }
}

/// A range of frames of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRange {
    /// Number of the first frame: its physical address in units of 4 KiB.
    pub start: u64,
    /// How many.
    pub frames: u64,
    /// What they are.
    pub kind: MemoryKind,
}

impl MemoryRange {
    /// One past the last frame.
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.frames)
    }
}
