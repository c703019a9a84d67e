//! Page tables for the kernel's first address space: four levels, built in a block of memory as bytes.
//!
//! What is mapped is decided elsewhere; here a run of virtual pages is made to show a run of physical ones, with the
//! largest page size that fits (4 KiB, 2 MiB, and 1 GiB where the CPU has it). A later mapping replaces an earlier
//! one, splitting its large pages where they only partly meet, so a framebuffer can be cut out of a direct map.
//! Formats are those of the Intel SDM vol. 3A §4.5.

use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr, word_at};
use crate::error::Fault;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const LARGE: u64 = 1 << 7;
/// PAT index bit 2 in a 4 KiB entry, the place of `LARGE` in others.
const PAT_SMALL: u64 = 1 << 7;
/// PAT index bit 2 in a large entry.
const PAT_LARGE: u64 = 1 << 12;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: u64 = 512;

/// How a mapping is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Write-back: PAT entry 0.
    WriteBack,
    /// Write-combining: PAT entry 5 of the protocol's layout.
    WriteCombining,
}

/// What may be done through a mapping. Reading always may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
    /// How it is cached.
    pub cache: Cache,
}

impl Access {
    /// Direct map: all rights, write-back (Limine PROTOCOL, Memory Layout at Entry).
    pub const DIRECT: Self = Self {
        write: true,
        execute: true,
        cache: Cache::WriteBack,
    };
    /// Direct map of a framebuffer.
    pub const FRAMEBUFFER: Self = Self {
        write: true,
        execute: true,
        cache: Cache::WriteCombining,
    };
}

/// What the CPU can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Has the no-execute bit (CPUID 80000001h EDX bit 20).
    pub no_execute: bool,
    /// Has 1 GiB pages (CPUID 80000001h EDX bit 26).
    pub gib_pages: bool,
}

/// A root table: the number of its page in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root(usize);

/// Page tables in a block of physical memory.
#[derive(Debug)]
pub struct PageTables<'a> {
    block: &'a mut [u8],
    phys: PhysAddr,
    used: usize,
    features: Features,
}

/// Tables that mapping `length` bytes at `virt` can need at most, when the physical address differs from the virtual
/// one by a multiple of `alignment`.
#[must_use]
pub fn tables_for(virt: VirtAddr, length: u64, alignment: u64, gib_pages: bool) -> u64 {
    if length == 0 {
        return 0;
    }
    let last = virt.0.saturating_add(length - 1);
    let span = |shift: u32| (last >> shift) - (virt.0 >> shift) + 1;
    // With matching alignment only the ends of a run need tables of smaller pages.
    let (gib, mib) = (1 << 30, 2 << 20);
    let directories = if gib_pages && alignment.is_multiple_of(gib) {
        span(30).min(2)
    } else {
        span(30)
    };
    let tables = if alignment.is_multiple_of(mib) {
        span(21).min(2)
    } else {
        span(21)
    };
    span(39) + directories + tables
}

impl<'a> PageTables<'a> {
    /// An empty set of tables over `block`, which lies at `phys`, a page boundary.
    pub fn new(block: &'a mut [u8], phys: PhysAddr, features: Features) -> Self {
        Self {
            block,
            phys,
            used: 0,
            features,
        }
    }

    /// Pages taken so far.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// The physical address of a root: what CR3 takes.
    #[must_use]
    pub fn cr3(&self, root: Root) -> PhysAddr {
        self.table_phys(root.0)
    }

    /// A new, empty root.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`].
    pub fn new_root(&mut self) -> Result<Root, Fault> {
        self.new_table().map(Root)
    }

    /// A new root with what `other` has now in the upper half, which the two then share; its lower half is empty.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`].
    pub fn upper_half_of(&mut self, other: Root) -> Result<Root, Fault> {
        let root = self.new_table()?;
        for index in ENTRIES / 2..ENTRIES {
            let entry = self.entry(other.0, index);
            self.set_entry(root, index, entry);
        }
        Ok(Root(root))
    }

    fn new_table(&mut self) -> Result<usize, Fault> {
        let start = self.used * PAGE_SIZE as usize;
        let page = self
            .block
            .get_mut(start..start + PAGE_SIZE as usize)
            .ok_or(Fault::ArenaFull {
                what: "page tables",
            })?;
        page.fill(0);
        self.used += 1;
        Ok(self.used - 1)
    }

    fn table_phys(&self, table: usize) -> PhysAddr {
        PhysAddr(self.phys.0 + table as u64 * PAGE_SIZE)
    }

    /// The number of the table that `entry` points to. All tables are this block's own.
    fn table_of(&self, entry: u64) -> usize {
        (((entry & ADDRESS) - self.phys.0) / PAGE_SIZE) as usize
    }

    fn entry(&self, table: usize, index: u64) -> u64 {
        let at = table * PAGE_SIZE as usize + index as usize * 8;
        // Always within: tables come from `new_table`, indices are below 512.
        word_at(self.block, at).unwrap_or(0)
    }

    fn set_entry(&mut self, table: usize, index: u64, entry: u64) {
        let at = table * PAGE_SIZE as usize + index as usize * 8;
        self.block[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }

    /// Makes `length` bytes at `virt` show those at `phys`. All three are whole pages; `virt` is canonical and the
    /// run stays in its half of the address space.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`].
    pub fn map(
        &mut self,
        root: Root,
        virt: VirtAddr,
        phys: PhysAddr,
        length: u64,
        access: Access,
    ) -> Result<(), Fault> {
        debug_assert_eq!((virt.0 | phys.0 | length) % PAGE_SIZE, 0);
        let mut done = 0;
        while done < length {
            let (v, p) = (virt.0 + done, phys.0 + done);
            let level = self.largest_level(v | p, length - done);
            self.map_one(root, v, p, level, access)?;
            done += page_bytes(level);
        }
        Ok(())
    }

    /// 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
    fn largest_level(&self, alignment: u64, left: u64) -> u32 {
        let fits = |level| alignment.is_multiple_of(page_bytes(level)) && left >= page_bytes(level);
        if self.features.gib_pages && fits(3) {
            3
        } else if fits(2) {
            2
        } else {
            1
        }
    }

    fn map_one(
        &mut self,
        root: Root,
        virt: u64,
        phys: u64,
        level: u32,
        access: Access,
    ) -> Result<(), Fault> {
        let mut table = root.0;
        for above in (level + 1..=4).rev() {
            let index = index_of(virt, above);
            let mut entry = self.entry(table, index);
            if entry & PRESENT == 0 {
                let below = self.new_table()?;
                entry = self.table_phys(below).0 | PRESENT | WRITABLE;
                self.set_entry(table, index, entry);
            } else if above < 4 && entry & LARGE != 0 {
                entry = self.split(entry, above)?;
                self.set_entry(table, index, entry);
            }
            table = self.table_of(entry);
        }
        let mut flags = PRESENT;
        if access.write {
            flags |= WRITABLE;
        }
        if !access.execute && self.features.no_execute {
            flags |= NO_EXECUTE;
        }
        if level > 1 {
            flags |= LARGE;
        }
        if access.cache == Cache::WriteCombining {
            // PAT index 5: bit 2 (PAT) and bit 0 (PWT).
            flags |= WRITE_THROUGH | if level > 1 { PAT_LARGE } else { PAT_SMALL };
        }
        self.set_entry(table, index_of(virt, level), phys | flags);
        Ok(())
    }

    /// A table of smaller pages that shows what the large page `entry` at `level` shows; returns the entry for it.
    fn split(&mut self, entry: u64, level: u32) -> Result<u64, Fault> {
        let below = self.new_table()?;
        let base = entry & ADDRESS & !(page_bytes(level) - 1);
        let mut flags = entry & !ADDRESS;
        if level == 2 {
            // 4 KiB entries have no size bit; its place is that of their PAT bit.
            flags &= !LARGE;
            if entry & PAT_LARGE != 0 {
                flags |= PAT_SMALL;
            }
        } else {
            flags |= entry & PAT_LARGE;
        }
        for n in 0..ENTRIES {
            self.set_entry(below, n, (base + n * page_bytes(level - 1)) | flags);
        }
        Ok(self.table_phys(below).0 | PRESENT | WRITABLE)
    }

    /// What `virt` shows: its physical address and how, or `None` if it is not mapped.
    #[must_use]
    pub fn translate(&self, root: Root, virt: VirtAddr) -> Option<(PhysAddr, Access)> {
        let mut table = root.0;
        for level in (1..=4).rev() {
            let entry = self.entry(table, index_of(virt.0, level));
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 1 || level < 4 && entry & LARGE != 0 {
                let within = virt.0 & (page_bytes(level) - 1);
                let base = entry & ADDRESS & !(page_bytes(level) - 1);
                let combining = WRITE_THROUGH | if level > 1 { PAT_LARGE } else { PAT_SMALL };
                let access = Access {
                    write: entry & WRITABLE != 0,
                    execute: entry & NO_EXECUTE == 0,
                    cache: if entry & combining == combining {
                        Cache::WriteCombining
                    } else {
                        Cache::WriteBack
                    },
                };
                return Some((PhysAddr(base + within), access));
            }
            table = self.table_of(entry);
        }
        None
    }
}

/// Bytes that an entry of a table at `level` covers.
const fn page_bytes(level: u32) -> u64 {
    PAGE_SIZE << (9 * (level - 1))
}

const fn index_of(virt: u64, level: u32) -> u64 {
    virt >> (12 + 9 * (level - 1)) & (ENTRIES - 1)
}

#[cfg(test)]
#[path = "paging_tests.rs"]
mod tests;
