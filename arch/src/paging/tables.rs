//! A tree of page tables and the operations on it.

use x86_64::structures::paging::PageTableFlags as Flags;
use x86_64::structures::paging::page_table::PageTableEntry;

use super::{ADDRESS_MASK, Attributes, ENTRIES, KERNEL_HALF, PAGE_BYTES, PageSize, user_root};
use crate::addr::{PhysAddr, VirtAddr};
use crate::memory::phys_to_virt;

/// Where tables come from.
pub trait FrameSource {
    /// A zeroed frame for a table, if there is one.
    fn allocate_table(&mut self) -> Option<PhysAddr>;
}

/// Why a page could not be mapped, unmapped or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// A page (of this or another size) is mapped there.
    AlreadyMapped,
    /// No page is mapped there.
    NotMapped,
    /// A page of another size is mapped there.
    OtherSize,
    /// An address is no multiple of the page size.
    Unaligned,
    /// No frame for a table.
    NoMemory,
}

impl From<MapError> for abi::Error {
    fn from(error: MapError) -> abi::Error {
        match error {
            MapError::AlreadyMapped => abi::Error::AlreadyMapped,
            MapError::NotMapped => abi::Error::NotMapped,
            MapError::OtherSize | MapError::Unaligned => abi::Error::BadArgument,
            MapError::NoMemory => abi::Error::NoMemory,
        }
    }
}

/// What an address is mapped to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The physical address of the very byte.
    pub physical: PhysAddr,
    /// The size of the page.
    pub size: PageSize,
    /// What the page allows.
    pub attributes: Attributes,
}

/// A tree of page tables, named by its root. Copies of the name name the same tree; whoever changes it holds
/// the lock of the address space.
#[derive(PartialEq, Eq, Debug)]
pub struct PageTables {
    root: PhysAddr,
    /// Whether user mode has a root of its own, in the frame behind.
    apart: bool,
    /// The lowest table that was looked for last, and the first address that it maps. It is forgotten when tables are taken out.
    recent: (u64, PhysAddr),
}

/// No table was looked for: no such address is at a table's border.
const NOT_RECENT: (u64, PhysAddr) = (1, PhysAddr::zero());

/// Level of the root table.
const ROOT_LEVEL: u32 = 4;

impl PageTables {
    /// The tree with this root.
    ///
    /// # Safety
    /// `root` must be a table whose present entries lead to tables, all within the direct map, and nobody else may change it
    /// while this value is used.
    pub unsafe fn from_root(root: PhysAddr) -> PageTables {
        PageTables {
            root,
            apart: false,
            recent: NOT_RECENT,
        }
    }

    /// The tree with two roots of which this is the kernel's; user mode's is in the frame behind.
    ///
    /// # Safety
    /// As for [`from_root`](Self::from_root), for both.
    pub unsafe fn from_roots(root: PhysAddr) -> PageTables {
        debug_assert!(root.is_aligned(2 * PAGE_BYTES));
        PageTables {
            root,
            apart: true,
            recent: NOT_RECENT,
        }
    }

    /// An empty tree.
    ///
    /// # Errors
    /// [`MapError::NoMemory`]
    pub fn new(frames: &mut impl FrameSource) -> Result<PageTables, MapError> {
        Ok(PageTables {
            root: frames.allocate_table().ok_or(MapError::NoMemory)?,
            apart: false,
            recent: NOT_RECENT,
        })
    }

    /// A tree with an empty user half and `kernel`'s upper half. The kernel's upper root entries are all
    /// filled at boot and never change, so that copying them once shares the whole half.
    ///
    /// # Errors
    /// [`MapError::NoMemory`]
    pub fn with_kernel_half_of(
        kernel: &PageTables,
        frames: &mut impl FrameSource,
    ) -> Result<PageTables, MapError> {
        let tables = PageTables::new(frames)?;
        tables.share_kernel_half(kernel);
        Ok(tables)
    }

    /// Copies the upper 256 root entries of `kernel`.
    pub fn share_kernel_half(&self, kernel: &PageTables) {
        debug_assert!(
            (ENTRIES / 2..ENTRIES).all(|index| read(kernel.root, index) != 0),
            "the kernel half is filled before it is shared"
        );
        copy_kernel_half(kernel.root, self.root);
    }

    /// Copies the upper 256 root entries of `entry` into user mode's own root: all that it sees of the kernel.
    ///
    /// # Panics
    /// In builds with debug assertions, if there is no such root.
    pub fn share_entry_half(&self, entry: &PageTables) {
        debug_assert!(self.apart, "one root serves both modes");
        copy_kernel_half(entry.root, user_root(self.root));
    }

    /// Writes an entry; of the user half of the root both, if there are two. Only user mode may execute what it leads to then.
    fn set(&self, table: PhysAddr, index: usize, entry: u64) {
        if self.apart && table == self.root && index < ENTRIES / 2 {
            write(user_root(table), index, entry);
            let kernels = if entry == 0 {
                0
            } else {
                entry | Flags::NO_EXECUTE.bits()
            };
            write(table, index, kernels);
        } else {
            write(table, index, entry);
        }
    }

    /// The root table.
    #[inline]
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// Puts an empty table behind every upper root entry that has none.
    ///
    /// # Errors
    /// [`MapError::NoMemory`]
    pub fn fill_kernel_half(&mut self, frames: &mut impl FrameSource) -> Result<(), MapError> {
        for index in ENTRIES / 2..ENTRIES {
            if read(self.root, index) == 0 {
                let table = frames.allocate_table().ok_or(MapError::NoMemory)?;
                write(self.root, index, table_entry(table, false));
            }
        }
        Ok(())
    }

    /// Maps a page. On an error nothing is mapped; tables made on the way stay, empty.
    ///
    /// # Errors
    /// [`MapError::Unaligned`], [`MapError::AlreadyMapped`], [`MapError::NoMemory`]
    ///
    /// # Safety
    /// If the tables are in use, nothing may rely on `at` being unmapped, and what the mapping lets anyone do to the frame must
    /// be sound as long as the mapping is there.
    pub unsafe fn map(
        &mut self,
        at: VirtAddr,
        frame: PhysAddr,
        size: PageSize,
        attributes: Attributes,
        frames: &mut impl FrameSource,
    ) -> Result<(), MapError> {
        if !at.is_aligned(size.bytes()) || !frame.is_aligned(size.bytes()) {
            return Err(MapError::Unaligned);
        }
        let user = at.as_u64() < KERNEL_HALF;
        let mut table = self.root;
        let mut level = ROOT_LEVEL;
        while level > size.level() {
            let index = index_at(at.as_u64(), level);
            let entry = read(table, index);
            table = if entry == 0 {
                let next = frames.allocate_table().ok_or(MapError::NoMemory)?;
                self.set(table, index, table_entry(next, user));
                next
            } else if is_leaf(entry, level) {
                return Err(MapError::AlreadyMapped);
            } else {
                address_of(entry)
            };
            level -= 1;
        }
        let index = index_at(at.as_u64(), level);
        if read(table, index) != 0 {
            return Err(MapError::AlreadyMapped);
        }
        write(table, index, frame.as_u64() | attributes.leaf_bits(size));
        Ok(())
    }

    /// Maps a small page if all tables on the way are there and no page is; whether it did.
    ///
    /// # Safety
    /// As for [`map`](Self::map).
    #[inline]
    pub unsafe fn map_simply(
        &mut self,
        at: VirtAddr,
        frame: PhysAddr,
        attributes: Attributes,
    ) -> bool {
        let Some(table) = self.lowest_table(at) else {
            return false;
        };
        let index = index_at(at.as_u64(), 1);
        if read(table, index) != 0 {
            return false;
        }
        let bits = attributes.leaf_bits(PageSize::Size4K);
        write(table, index, frame.as_u64() | bits);
        true
    }

    /// Maps two small pages in a row if all tables on the way are there, one table serves for both, and neither page is; whether it did.
    ///
    /// # Safety
    /// As for [`map`](Self::map).
    #[inline]
    pub unsafe fn map_two_simply(
        &mut self,
        at: VirtAddr,
        frames: [PhysAddr; 2],
        attributes: Attributes,
    ) -> bool {
        let Some(table) = self.lowest_table(at) else {
            return false;
        };
        let index = index_at(at.as_u64(), 1);
        if index + 1 == ENTRIES || read(table, index) | read(table, index + 1) != 0 {
            return false;
        }
        let bits = attributes.leaf_bits(PageSize::Size4K);
        write(table, index, frames[0].as_u64() | bits);
        write(table, index + 1, frames[1].as_u64() | bits);
        true
    }

    /// Takes a small page out, if it is there; whether it was. TLBs may still hold it.
    ///
    /// # Safety
    /// As for [`unmap`](Self::unmap).
    #[inline]
    pub unsafe fn unmap_simply(&mut self, at: VirtAddr) -> bool {
        let Some(table) = self.lowest_table(at) else {
            return false;
        };
        let index = index_at(at.as_u64(), 1);
        let there = read(table, index) != 0;
        if there {
            write(table, index, 0);
        }
        there
    }

    /// The lowest table for an address, if there is one.
    #[inline]
    fn lowest_table(&mut self, address: VirtAddr) -> Option<PhysAddr> {
        let first = address.as_u64() & !(PageSize::Size2M.bytes() - 1);
        if self.recent.0 == first {
            return Some(self.recent.1);
        }
        let table = self.find_lowest_table(address)?;
        self.recent = (first, table);
        Some(table)
    }

    fn find_lowest_table(&self, address: VirtAddr) -> Option<PhysAddr> {
        let mut table = self.root;
        for level in [4, 3, 2] {
            let entry = read(table, index_at(address.as_u64(), level));
            if entry == 0 || is_leaf(entry, level) {
                return None;
            }
            table = address_of(entry);
        }
        Some(table)
    }

    /// Takes one page out and tells what it was. TLBs may still hold it.
    ///
    /// # Errors
    /// [`MapError::NotMapped`]; [`MapError::OtherSize`] if a page of another size is there.
    ///
    /// # Safety
    /// Nothing may use the mapping any more, and the frame may be reused only after all TLBs forgot it.
    pub unsafe fn unmap(&mut self, at: VirtAddr, size: PageSize) -> Result<PhysAddr, MapError> {
        let (table, level) = self.leaf_table(at).ok_or(MapError::NotMapped)?;
        if level != size.level() {
            return Err(MapError::OtherSize);
        }
        let index = index_at(at.as_u64(), level);
        let frame = frame_of(read(table, index), level);
        write(table, index, 0);
        Ok(frame)
    }

    /// Changes what a mapped page allows. TLBs may still hold the former rights.
    ///
    /// # Errors
    /// [`MapError::NotMapped`]
    ///
    /// # Safety
    /// As for [`map`](Self::map), for what the page allows now.
    pub unsafe fn protect(&mut self, at: VirtAddr, attributes: Attributes) -> Result<(), MapError> {
        let (table, level) = self.leaf_table(at).ok_or(MapError::NotMapped)?;
        let index = index_at(at.as_u64(), level);
        let frame = frame_of(read(table, index), level);
        write(
            table,
            index,
            frame.as_u64() | attributes.leaf_bits(PageSize::of_level(level)),
        );
        Ok(())
    }

    /// What `address` is mapped to.
    pub fn translate(&self, address: VirtAddr) -> Option<Translation> {
        let (table, level) = self.leaf_table(address)?;
        let entry = read(table, index_at(address.as_u64(), level));
        let size = PageSize::of_level(level);
        let offset = address.as_u64() & (size.bytes() - 1);
        Some(Translation {
            physical: frame_of(entry, level) + offset,
            size,
            attributes: Attributes::from_entry(entry, size),
        })
    }

    /// Takes everything in `start..end` out. Tables that lie wholly in the range go as a whole, with one write: their
    /// frames and levels (1 to 3) are told to `taken`, and the tree below them is left as it was. So the
    /// work is bounded by the edges of the range (some thousand entries), however much is mapped in it. A large page that an edge cuts goes
    /// as well.
    ///
    /// Returns whether anything was taken out; then TLBs and page walkers may still use it, and the tables
    /// must stay as they are until those were flushed.
    ///
    /// # Panics
    /// In builds with debug assertions, if a bound is unaligned.
    ///
    /// # Safety
    /// Nothing may use the mappings any more, and what they mapped may be reused only after all TLBs forgot it.
    pub unsafe fn unlink(
        &mut self,
        start: u64,
        end: u64,
        taken: &mut dyn FnMut(PhysAddr, u32),
    ) -> bool {
        debug_assert!(start.is_multiple_of(PAGE_BYTES) && end.is_multiple_of(PAGE_BYTES));
        debug_assert!(end <= 1 << 47, "only the user half is ever unlinked");
        self.recent = NOT_RECENT;
        start < end && self.unlink_in(self.root, ROOT_LEVEL, start, end, taken)
    }

    /// Takes the tables below all lower root entries out, as [`unlink`](Self::unlink) does for a range.
    ///
    /// # Safety
    /// As for [`unlink`](Self::unlink).
    pub unsafe fn unlink_user_half(&mut self, taken: &mut dyn FnMut(PhysAddr, u32)) {
        self.recent = NOT_RECENT;
        for index in 0..ENTRIES / 2 {
            let entry = read(self.root, index);
            if entry != 0 {
                self.set(self.root, index, 0);
                taken(address_of(entry), ROOT_LEVEL - 1);
            }
        }
    }

    fn unlink_in(
        &self,
        table: PhysAddr,
        level: u32,
        start: u64,
        end: u64,
        taken: &mut dyn FnMut(PhysAddr, u32),
    ) -> bool {
        let span = 1u64 << shift(level);
        let mut changed = false;
        let mut at = start;
        while at < end {
            let base = at & !(span - 1);
            let next = base + span;
            let index = index_at(at, level);
            let entry = read(table, index);
            if entry != 0 {
                let whole = base >= start && next <= end;
                if is_leaf(entry, level) {
                    self.set(table, index, 0);
                    changed = true;
                } else if whole {
                    self.set(table, index, 0);
                    taken(address_of(entry), level - 1);
                    changed = true;
                } else {
                    changed |=
                        self.unlink_in(address_of(entry), level - 1, at, next.min(end), taken);
                }
            }
            at = next;
        }
        changed
    }

    /// The table that holds the leaf entry of `address`, and its level.
    fn leaf_table(&self, address: VirtAddr) -> Option<(PhysAddr, u32)> {
        let mut table = self.root;
        let mut level = ROOT_LEVEL;
        loop {
            let entry = read(table, index_at(address.as_u64(), level));
            if entry == 0 {
                return None;
            }
            if is_leaf(entry, level) {
                return Some((table, level));
            }
            table = address_of(entry);
            level -= 1;
        }
    }
}

/// Copies the upper 256 entries of one root to another that is not yet in use.
fn copy_kernel_half(from: PhysAddr, to: PhysAddr) {
    let half = |root| phys_to_virt(root).cast::<u64>().wrapping_add(ENTRIES / 2);
    // SAFETY: both are tables in the direct map; nobody else uses the second, and the kernel half of the first never changes.
    unsafe { half(to).copy_from_nonoverlapping(half(from), ENTRIES / 2) };
}

/// Bits of an address below the index into a table of `level`.
#[inline]
const fn shift(level: u32) -> u32 {
    12 + 9 * (level - 1)
}

#[inline]
const fn index_at(address: u64, level: u32) -> usize {
    (address >> shift(level)) as usize & (ENTRIES - 1)
}

/// Whether a present entry of a table of `level` maps a page.
#[inline]
fn is_leaf(entry: u64, level: u32) -> bool {
    level == 1 || entry & Flags::HUGE_PAGE.bits() != 0
}

#[inline]
fn address_of(entry: u64) -> PhysAddr {
    PhysAddr::new(entry & ADDRESS_MASK)
}

/// The frame that a leaf entry of a table of `level` maps: bit 12 of a large page's entry is its PAT bit.
fn frame_of(entry: u64, level: u32) -> PhysAddr {
    PhysAddr::new(entry & ADDRESS_MASK & !(PageSize::of_level(level).bytes() - 1))
}

/// The entry that leads to a table: it allows everything, the leaf decides (Intel SDM vol. 3A §4.6).
fn table_entry(table: PhysAddr, user: bool) -> u64 {
    let mut flags = Flags::PRESENT | Flags::WRITABLE;
    if user {
        flags |= Flags::USER_ACCESSIBLE;
    }
    let mut entry = PageTableEntry::new();
    entry.set_addr(table, flags);
    entry.addr().as_u64() | entry.flags().bits()
}

#[expect(clippy::cast_ptr_alignment, reason = "a table is page-aligned")]
fn entry_at(table: PhysAddr, index: usize) -> *mut u64 {
    const { assert!(size_of::<PageTableEntry>() == 8) };
    debug_assert!(index < ENTRIES);
    phys_to_virt(table).cast::<u64>().wrapping_add(index)
}

/// Reads an entry.
#[inline]
fn read(table: PhysAddr, index: usize) -> u64 {
    // SAFETY: `table` is a table of a tree (the promise of whoever made the tree), so its frame is in the direct map;
    // the index is below 512. Volatile, as the CPU writes accessed and dirty bits.
    unsafe { entry_at(table, index).read_volatile() }
}

/// Writes an entry with one store, so that page walkers see the former or the new one.
#[inline]
fn write(table: PhysAddr, index: usize, entry: u64) {
    // SAFETY: as in `read`; the tree is changed by one CPU at a time.
    unsafe { entry_at(table, index).write_volatile(entry) };
}
