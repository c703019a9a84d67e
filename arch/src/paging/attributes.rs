//! What a page allows and how it is cached, and the bits that say so.

use x86_64::structures::paging::PageTableFlags as Flags;

/// The page attribute table that every CPU loads: WB, WT, UC-, UC, WP, WC, UC-, UC from entry 0 up.
///
/// Entries 0 to 3 are the CPU's own at reset (Intel SDM vol. 3A §12.12.4), so that tables that know nothing of PAT mean the
/// same; entries 4 and 5 are as the Limine protocol lays them out, so that the loader's framebuffer mapping keeps
/// its meaning when the kernel loads the register.
pub const PAT_VALUE: u64 = {
    const UC: u64 = 0;
    const WC: u64 = 1;
    const WT: u64 = 4;
    const WP: u64 = 5;
    const WB: u64 = 6;
    const UC_MINUS: u64 = 7;
    WB | WT << 8 | UC_MINUS << 16 | UC << 24 | WP << 32 | WC << 40 | UC_MINUS << 48 | UC << 56
};

/// How the CPU caches a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Cache {
    /// Write-back: RAM.
    #[default]
    WriteBack,
    /// Write-through.
    WriteThrough,
    /// Uncached, also where an MTRR says write-combining: device registers.
    Uncached,
    /// Write-combining: framebuffers.
    WriteCombining,
}

impl Cache {
    /// Index of the entry of [`PAT_VALUE`] that is this type.
    const fn pat_index(self) -> u64 {
        match self {
            Cache::WriteBack => 0,
            Cache::WriteThrough => 1,
            Cache::Uncached => 3,
            Cache::WriteCombining => 5,
        }
    }

    /// The PWT, PCD and PAT bits of a leaf entry (Intel SDM vol. 3A §4.9.2): PAT is bit 7 of a 4 KiB page's entry and
    /// bit 12 of a larger one's.
    pub(super) const fn bits(self, size: PageSize) -> u64 {
        let index = self.pat_index();
        let pat_shift = match size {
            PageSize::Size4K => 7,
            PageSize::Size2M | PageSize::Size1G => 12,
        };
        (index & 3) << 3 | (index >> 2) << pat_shift
    }

    pub(super) const fn from_entry(entry: u64, size: PageSize) -> Cache {
        let pat_shift = match size {
            PageSize::Size4K => 7,
            PageSize::Size2M | PageSize::Size1G => 12,
        };
        match entry >> 3 & 3 | (entry >> pat_shift & 1) << 2 {
            0 => Cache::WriteBack,
            1 => Cache::WriteThrough,
            5 => Cache::WriteCombining,
            _ => Cache::Uncached,
        }
    }
}

/// What may be done with a page. There is no kind that is both writable and executable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

impl Access {
    /// Whether this allows all that `other` allows.
    pub const fn allows(self, other: Access) -> bool {
        matches!(
            (self, other),
            (_, Access::Read)
                | (Access::ReadWrite, Access::ReadWrite)
                | (Access::ReadExecute, Access::ReadExecute)
        )
    }
}

/// Whose page it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Owner {
    /// User code may use it; it belongs to one address space.
    User,
    /// The kernel's alone, the same in all address spaces, kept in the TLB across their switches (global).
    Kernel,
    /// The kernel's alone, but in one set of tables only (the identity map through which CPUs start).
    KernelLocal,
}

/// Size of a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageSize {
    /// 4 KiB.
    Size4K,
    /// 2 MiB.
    Size2M,
    /// 1 GiB, where the CPU has it.
    Size1G,
}

impl PageSize {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            PageSize::Size4K => 1 << 12,
            PageSize::Size2M => 1 << 21,
            PageSize::Size1G => 1 << 30,
        }
    }

    /// The level of the table whose entries map pages of this size: 1 to 3.
    pub(super) const fn level(self) -> u32 {
        match self {
            PageSize::Size4K => 1,
            PageSize::Size2M => 2,
            PageSize::Size1G => 3,
        }
    }

    pub(super) const fn of_level(level: u32) -> PageSize {
        match level {
            1 => PageSize::Size4K,
            2 => PageSize::Size2M,
            _ => PageSize::Size1G,
        }
    }
}

/// All that is said about a page besides its address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attributes {
    /// What may be done with it.
    pub access: Access,
    /// How it is cached.
    pub cache: Cache,
    /// Whose it is.
    pub owner: Owner,
}

impl Attributes {
    /// A page of RAM for the kernel.
    pub const fn kernel(access: Access) -> Attributes {
        Attributes {
            access,
            cache: Cache::WriteBack,
            owner: Owner::Kernel,
        }
    }

    /// A page of RAM for user code.
    pub const fn user(access: Access) -> Attributes {
        Attributes {
            access,
            cache: Cache::WriteBack,
            owner: Owner::User,
        }
    }

    /// The same with another memory type.
    #[must_use]
    pub const fn cached(self, cache: Cache) -> Attributes {
        Attributes { cache, ..self }
    }

    /// The low and high flag bits of a leaf entry.
    #[inline]
    pub(super) fn leaf_bits(self, size: PageSize) -> u64 {
        let mut flags = Flags::PRESENT;
        match self.access {
            Access::Read => flags |= Flags::NO_EXECUTE,
            Access::ReadWrite => flags |= Flags::WRITABLE | Flags::NO_EXECUTE,
            Access::ReadExecute => {}
        }
        match self.owner {
            Owner::User => flags |= Flags::USER_ACCESSIBLE,
            Owner::Kernel => flags |= Flags::GLOBAL,
            Owner::KernelLocal => {}
        }
        if size != PageSize::Size4K {
            flags |= Flags::HUGE_PAGE;
        }
        flags.bits() | self.cache.bits(size)
    }

    pub(super) fn from_entry(entry: u64, size: PageSize) -> Attributes {
        let flags = Flags::from_bits_retain(entry);
        let access = if flags.contains(Flags::WRITABLE) {
            Access::ReadWrite
        } else if flags.contains(Flags::NO_EXECUTE) {
            Access::Read
        } else {
            Access::ReadExecute
        };
        let owner = if flags.contains(Flags::USER_ACCESSIBLE) {
            Owner::User
        } else if flags.contains(Flags::GLOBAL) {
            Owner::Kernel
        } else {
            Owner::KernelLocal
        };
        Attributes {
            access,
            cache: Cache::from_entry(entry, size),
            owner,
        }
    }
}
