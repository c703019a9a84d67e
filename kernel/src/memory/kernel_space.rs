//! The kernel's own address space: the upper half that all address spaces share.
//!
//! | from | what |
//! |---|---|
//! | `0xFFFF_8000_0000_0000` | direct map of all RAM, never executable |
//! | `0xFFFF_C000_0000_0000` | kernel stacks, each with an unmapped page below it |
//! | `0xFFFF_D000_0000_0000` | devices and firmware tables, mapped when asked for |
//! | `0xFFFF_E000_0000_0000` | kernel memory between unmapped pages: per-CPU blocks, interrupt stacks |
//! | `0xFFFF_FFFF_8000_0000` | the kernel's image: code not writable, data not executable |
//!
//! All 256 upper entries of the root table are filled at boot, so that a mapping made here later is seen by every
//! address space without being copied. Nothing of the kernel half is ever unmapped again; so nothing here needs a TLB flush,
//! except for the page through which other CPUs start, which is mapped at its physical address in tables of its own.
//!
//! What may go wrong: RAM and devices must not be mapped with different memory types at once. So the direct map holds RAM
//! only, by kind, and devices are mapped by request only.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Error;
use arch::addr::{PhysAddr, VirtAddr};
use arch::memory::DIRECT_MAP_START;
use arch::paging::{
    Access, Attributes, Cache, MapError, PAGE_BYTES, PageSize, PageTables, user_root,
};
use arch::tlb;
use spin::Once;

use super::frames::{self, FrameKind, TableFrames};
use super::map::MemoryRange;
use crate::sync::{Mutex, level};

const DEVICES: Range<u64> = 0xFFFF_D000_0000_0000..0xFFFF_E000_0000_0000;
const GUARDED: Range<u64> = 0xFFFF_E000_0000_0000..0xFFFF_F000_0000_0000;

/// Where the kernel's image lies and what its parts are. All bounds are virtual and page-aligned.
#[derive(Clone, Debug)]
pub struct KernelImage {
    /// Physical address of `start`.
    pub physical: PhysAddr,
    /// First address of the image.
    pub start: u64,
    /// Code.
    pub text: Range<u64>,
    /// The part of it through which the kernel is entered and left.
    pub entries: Range<u64>,
    /// Constants.
    pub rodata: Range<u64>,
    /// All that is written: initialised or not.
    pub data: Range<u64>,
    /// Pages of `data` that are mapped nowhere in the image: below the boot stack.
    pub guard: Range<u64>,
}

impl KernelImage {
    /// The image of the running kernel, loaded at `physical`.
    #[cfg(target_os = "none")]
    pub fn running(physical: PhysAddr) -> KernelImage {
        // The linker script's; each is page-aligned.
        unsafe extern "C" {
            static __kernel_start: u8;
            static __text_start: u8;
            static __text_end: u8;
            static __entry_start: u8;
            static __entry_pages_end: u8;
            static __rodata_start: u8;
            static __rodata_end: u8;
            static __data_start: u8;
            static __kernel_end: u8;
        }
        let at = |symbol: *const u8| symbol as u64;
        KernelImage {
            physical,
            start: at(&raw const __kernel_start),
            text: at(&raw const __text_start)..at(&raw const __text_end),
            entries: at(&raw const __entry_start)..at(&raw const __entry_pages_end),
            rodata: at(&raw const __rodata_start)..at(&raw const __rodata_end),
            data: at(&raw const __data_start)..at(&raw const __kernel_end),
            guard: crate::boot::stack_guard(),
        }
    }
}

struct KernelSpace {
    tables: PageTables,
    /// All that user mode's own tables have of the kernel half, if there are such.
    entry: Option<PageTables>,
    next_device: u64,
    next_guarded: u64,
}

static SPACE: Mutex<{ level::KERNEL_SPACE }, Option<KernelSpace>> = Mutex::new(None);
static ROOT: AtomicU64 = AtomicU64::new(0);
static AS_LOADED: Once<tlb::Space> = Once::new();

/// Builds the kernel's tables; they are not yet in use. Called once, with the frame allocator running. `large_pages` says
/// whether the CPUs have 1 GiB pages, `isolated` whether user mode shall have tables of its own.
///
/// # Errors
/// [`Error::NoMemory`]; [`Error::BadArgument`] if the image's bounds are unaligned or the image overlaps itself;
/// [`Error::WrongState`] the second time.
pub fn build(
    map: impl Iterator<Item = MemoryRange>,
    image: &KernelImage,
    large_pages: bool,
    isolated: bool,
) -> Result<PhysAddr, Error> {
    let mut space = SPACE.lock();
    if space.is_some() {
        return Err(Error::WrongState);
    }
    let root = root_pair().ok_or(Error::NoMemory)?;
    // SAFETY: the frame is fresh and zeroed.
    let mut tables = unsafe { PageTables::from_root(root) };
    tables.fill_kernel_half(&mut TableFrames)?;
    map_constant_ram(&mut tables, image)?;
    map_ram(&mut tables, map, large_pages)?;
    map_image(&mut tables, image)?;
    let mut entry = None;
    if isolated {
        // SAFETY: the second frame of the pair is fresh and zeroed as well.
        let mut tables = unsafe { PageTables::from_root(user_root(root)) };
        map_part(&mut tables, image, &image.entries, Access::ReadExecute)?;
        entry = Some(tables);
    }
    *space = Some(KernelSpace {
        tables,
        entry,
        next_device: DEVICES.start,
        next_guarded: GUARDED.start,
    });
    ROOT.store(root.as_u64(), Ordering::Release);
    AS_LOADED.call_once(|| tlb::Space::of_kernel(root));
    Ok(root)
}

/// Begins to use the tables that [`build`] built, on the first CPU, and with them the kernel's own direct map.
///
/// # Safety
/// The stack must lie in the kernel's image (the loader's stack is gone afterwards), NX must be on (EFER.NXE), and no pointer
/// into the loader's mappings may be used any more: what is needed of them must have been copied.
#[cfg(target_os = "none")]
#[inline(never)]
pub unsafe fn activate() {
    // SAFETY: the tables map the image, in which code, stack and statics lie, as before; the direct map is not touched between
    // the two steps.
    unsafe {
        arch::paging::load_root(root());
        arch::memory::set_direct_map(DIRECT_MAP_START);
    }
}

/// The root of the kernel's tables, whose lower half is empty: for CPUs without a user thread.
///
/// # Panics
/// In builds with debug assertions, before [`build`].
#[inline]
pub fn root() -> PhysAddr {
    let root = ROOT.load(Ordering::Acquire);
    debug_assert!(root != 0, "the kernel's tables are not built yet");
    PhysAddr::new(root)
}

/// The kernel's own space as CPUs load it.
///
/// # Panics
/// Before [`build`]: a kernel bug.
pub fn as_loaded() -> &'static tlb::Space {
    AS_LOADED
        .get()
        .expect("the kernel's tables are built before any CPU is set up")
}

/// Two zeroed frames for the roots of a tree, aligned to their size: the kernel's, and behind it user mode's. Given back by
/// the first.
fn root_pair() -> Option<PhysAddr> {
    let pair = frames::allocate_order(1, FrameKind::PageTable)?;
    frames::zero(pair);
    frames::zero(user_root(pair));
    Some(pair)
}

/// Whether roots are made of one frame each, as they are unless user mode has page tables of its own, and can be made.
pub(super) fn has_simple_roots() -> bool {
    !arch::mitigations::decisions().isolation && ROOT.load(Ordering::Acquire) != 0
}

/// Makes a zeroed frame that is the caller's into a root: an empty lower half and the kernel's upper half.
pub(super) fn fill_root(frame: PhysAddr) {
    let _ = new_user_tables(frame, false);
}

/// Tables for a user address space, made anew or [prepared](super::prepared) before. Their root is the caller's, to be given back.
pub(super) fn user_tables(isolated: bool) -> Option<PageTables> {
    if isolated {
        return Some(new_user_tables(root_pair()?, true));
    }
    if let Some(root) = super::prepared::take_root() {
        // SAFETY: a root that was filled for whoever takes it.
        return Some(unsafe { PageTables::from_root(root) });
    }
    let root = frames::allocate_zeroed(FrameKind::PageTable)?;
    Some(new_user_tables(root, false))
}

/// New tables for a user address space: an empty lower half and the kernel's upper half. `isolated`: `root` is the first of a
/// [pair](root_pair).
pub(super) fn new_user_tables(root: PhysAddr, isolated: bool) -> PageTables {
    // SAFETY: the kernel's root is a valid tree, and only its upper entries are read, which are constant.
    let kernel = unsafe { PageTables::from_root(self::root()) };
    if isolated {
        // SAFETY: the caller's fresh, zeroed tables.
        let tables = unsafe { PageTables::from_roots(root) };
        tables.share_kernel_half(&kernel);
        // SAFETY: as for the kernel's root. Its upper entries are constant once the first CPU is set up.
        tables.share_entry_half(&unsafe { PageTables::from_root(user_root(self::root())) });
        tables
    } else {
        // SAFETY: the caller's fresh, zeroed table.
        let tables = unsafe { PageTables::from_root(root) };
        tables.share_kernel_half(&kernel);
        tables
    }
}

/// Lets user mode's own tables, if there are such, have some pages of the kernel half as well, which stay the kernel's: what a CPU
/// needs while it changes tables.
///
/// # Errors
/// [`Error::NoMemory`]; [`Error::NotMapped`] if a page is not mapped.
pub fn share_with_entries(start: VirtAddr, pages: u64) -> Result<(), Error> {
    let mut space = SPACE.lock();
    let space = space.as_mut().ok_or(Error::WrongState)?;
    let Some(entry) = &mut space.entry else {
        return Ok(());
    };
    for page in 0..pages {
        let at = start + page * PAGE_BYTES;
        let frame = space.tables.translate(at).ok_or(Error::NotMapped)?.physical;
        // SAFETY: the same frame is the kernel's at the same address with the same rights.
        unsafe {
            entry.map(
                at,
                frame,
                PageSize::Size4K,
                Attributes::kernel(Access::ReadWrite),
                &mut TableFrames,
            )
        }?;
    }
    Ok(())
}

/// Maps `bytes` bytes of device memory or firmware tables from `physical` on, for ever. Neither needs to be aligned; the
/// result points to the very byte.
///
/// # Errors
/// [`Error::BadArgument`] for no bytes; [`Error::OutOfRange`] if the range is past the CPU's physical addresses or the area is
/// used up; [`Error::NoMemory`]; [`Error::WrongState`] before [`build`].
pub fn map_device(physical: PhysAddr, bytes: u64, cache: Cache) -> Result<VirtAddr, Error> {
    if bytes == 0 {
        return Err(Error::BadArgument);
    }
    let start = physical.as_u64() & !(PAGE_BYTES - 1);
    let end = physical
        .as_u64()
        .checked_add(bytes)
        .filter(|&end| end <= 1 << arch::paging::physical_address_bits())
        .ok_or(Error::OutOfRange)?
        .next_multiple_of(PAGE_BYTES);
    let mut space = SPACE.lock();
    let space = space.as_mut().ok_or(Error::WrongState)?;
    let at = space.next_device;
    // One page stays unmapped after each.
    let next = at
        .checked_add(end - start + PAGE_BYTES)
        .filter(|&next| next <= DEVICES.end)
        .ok_or(Error::OutOfRange)?;
    let attributes = Attributes::kernel(Access::ReadWrite).cached(cache);
    for offset in (0..end - start).step_by(PAGE_BYTES as usize) {
        let (page, frame) = (VirtAddr::new(at + offset), PhysAddr::new(start + offset));
        // SAFETY: the area is this function's own and unused from `at` on; what is behind the mapping is the caller's to know.
        unsafe {
            space
                .tables
                .map(page, frame, PageSize::Size4K, attributes, &mut TableFrames)
        }
        .inspect_err(|_| {
            // Pages before it stay mapped, and their addresses are not used again.
            space.next_device = next;
        })?;
    }
    space.next_device = next;
    Ok(VirtAddr::new(at + physical.as_u64() % PAGE_BYTES))
}

/// Gives `pages` pages of zeroed kernel memory, with an unmapped page before and behind, for ever.
///
/// # Errors
/// [`Error::NoMemory`]; [`Error::OutOfRange`] if the area is used up; [`Error::WrongState`] before [`build`].
pub fn allocate_guarded(pages: u64) -> Result<VirtAddr, Error> {
    let mut space = SPACE.lock();
    let space = space.as_mut().ok_or(Error::WrongState)?;
    let at = space.next_guarded + PAGE_BYTES;
    let bytes = pages.checked_mul(PAGE_BYTES).ok_or(Error::OutOfRange)?;
    let next = at
        .checked_add(bytes)
        .filter(|next| *next < GUARDED.end)
        .ok_or(Error::OutOfRange)?;
    map_fresh(&mut space.tables, at, pages, FrameKind::Kernel)?;
    space.next_guarded = next;
    Ok(VirtAddr::new(at))
}

/// Puts zeroed frames behind `pages` pages of the kernel half from `at` on; those that have one already keep it. So
/// after an error the caller can try the same pages again, and nothing is ever unmapped.
pub(super) fn map_stack(at: u64, pages: u64) -> Result<(), Error> {
    let mut space = SPACE.lock();
    let space = space.as_mut().ok_or(Error::WrongState)?;
    map_fresh(&mut space.tables, at, pages, FrameKind::Stack)
}

/// What an address of the kernel half is mapped to.
pub fn translate(address: VirtAddr) -> Option<arch::paging::Translation> {
    SPACE.lock().as_ref()?.tables.translate(address)
}

fn map_fresh(tables: &mut PageTables, at: u64, pages: u64, kind: FrameKind) -> Result<(), Error> {
    for page in 0..pages {
        let page = VirtAddr::new(at + page * PAGE_BYTES);
        if tables.translate(page).is_some() {
            continue;
        }
        let frame = frames::allocate_zeroed(kind).ok_or(Error::NoMemory)?;
        // SAFETY: the page is of an area that only this file hands out, and the frame is fresh.
        let mapped = unsafe {
            tables.map(
                page,
                frame,
                PageSize::Size4K,
                Attributes::kernel(Access::ReadWrite),
                &mut TableFrames,
            )
        };
        if let Err(error) = mapped {
            frames::free_frame(frame);
            return Err(error.into());
        }
    }
    Ok(())
}

/// Maps the frames of the kernel's code and constants in the direct map, before all other RAM and readable only: nothing that is
/// executable is writable anywhere.
fn map_constant_ram(tables: &mut PageTables, image: &KernelImage) -> Result<(), Error> {
    for page in image
        .text
        .clone()
        .chain(image.rodata.clone())
        .step_by(PAGE_BYTES as usize)
    {
        let frame = image.physical + page.checked_sub(image.start).ok_or(Error::BadArgument)?;
        let at = VirtAddr::new(DIRECT_MAP_START + frame.as_u64());
        // SAFETY: the tables are not in use yet; nobody writes to these frames any more.
        let mapped = unsafe {
            tables.map(
                at,
                frame,
                PageSize::Size4K,
                Attributes::kernel(Access::Read),
                &mut TableFrames,
            )
        };
        match mapped {
            // A page in two parts is refused when the image itself is mapped.
            Ok(()) | Err(MapError::AlreadyMapped) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Maps all RAM at its place in the direct map, with the largest pages that fit.
fn map_ram(
    tables: &mut PageTables,
    map: impl Iterator<Item = MemoryRange>,
    large_pages: bool,
) -> Result<(), Error> {
    // Neighbours of different kinds are joined, so that large pages fit more often.
    let mut joined: Option<Range<u64>> = None;
    for range in map.filter(|range| range.kind.in_direct_map() && range.frames != 0) {
        match &mut joined {
            Some(before) if before.end == range.start => before.end = range.end(),
            _ => {
                if let Some(before) = joined.replace(range.start..range.end()) {
                    map_ram_range(tables, before, large_pages)?;
                }
            }
        }
    }
    joined.map_or(Ok(()), |last| map_ram_range(tables, last, large_pages))
}

fn map_ram_range(
    tables: &mut PageTables,
    frames: Range<u64>,
    large_pages: bool,
) -> Result<(), Error> {
    let mut at = frames.start * PAGE_BYTES;
    let end = frames.end * PAGE_BYTES;
    let sizes = [PageSize::Size1G, PageSize::Size2M, PageSize::Size4K];
    while at < end {
        let fits = |size: &PageSize| {
            at.is_multiple_of(size.bytes())
                && size.bytes() <= end - at
                && (large_pages || *size != PageSize::Size1G)
        };
        let mut step = PAGE_BYTES;
        for size in sizes.into_iter().filter(fits) {
            let page = VirtAddr::new(DIRECT_MAP_START + at);
            let attributes = Attributes::kernel(Access::ReadWrite);
            // SAFETY: the tables are not in use yet; the direct map is raw memory to Rust.
            match unsafe { tables.map(page, PhysAddr::new(at), size, attributes, &mut TableFrames) }
            {
                Ok(()) => step = size.bytes(),
                // Firmware ranges may overlap: a smaller page may fit, and a small one is there already.
                Err(MapError::AlreadyMapped) if size != PageSize::Size4K => continue,
                Err(MapError::AlreadyMapped) => {}
                Err(error) => return Err(error.into()),
            }
            break;
        }
        at += step;
    }
    Ok(())
}

/// Maps the kernel's image with the rights of its parts.
fn map_image(tables: &mut PageTables, image: &KernelImage) -> Result<(), Error> {
    map_part(tables, image, &image.text, Access::ReadExecute)?;
    map_part(tables, image, &image.rodata, Access::Read)?;
    map_part(tables, image, &image.data, Access::ReadWrite)
}

/// Maps a part of the kernel's image, but for the page below the boot stack.
fn map_part(
    tables: &mut PageTables,
    image: &KernelImage,
    part: &Range<u64>,
    access: Access,
) -> Result<(), Error> {
    for page in part
        .clone()
        .step_by(PAGE_BYTES as usize)
        .filter(|page| !image.guard.contains(page))
    {
        let frame = image.physical + page.checked_sub(image.start).ok_or(Error::BadArgument)?;
        // SAFETY: the tables are not in use yet, and the rights are those that the part was linked for.
        unsafe {
            tables.map(
                VirtAddr::new(page),
                frame,
                PageSize::Size4K,
                Attributes::kernel(access),
                &mut TableFrames,
            )
        }
        // A page in two parts would have the rights of both.
        .map_err(|error| {
            if error == MapError::AlreadyMapped {
                Error::BadArgument
            } else {
                error.into()
            }
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing;

    fn at(address: u64) -> Option<arch::paging::Translation> {
        translate(VirtAddr::new(address))
    }

    #[test]
    fn ram_is_mapped_writable_never_executable_with_the_largest_pages() {
        testing::kernel_machine();
        let ram = |physical: u64| at(DIRECT_MAP_START + physical);
        for (physical, size) in [
            (0, PageSize::Size4K),
            (0x10_0000, PageSize::Size4K),
            (0x20_0000, PageSize::Size4K),
            (0x4F_F000, PageSize::Size4K),
            (testing::RAM_START, PageSize::Size2M),
            (1 << 40, PageSize::Size1G),
        ] {
            let found = ram(physical + 0x123).unwrap();
            assert_eq!(
                (found.physical.as_u64(), found.size),
                (physical + 0x123, size)
            );
            assert_eq!(found.attributes, Attributes::kernel(Access::ReadWrite));
        }
        // Holes, reserved ranges and what lies behind the end are not there.
        for physical in [
            0x9_F000,
            0x50_0000,
            0xA000_0000,
            (1 << 40) + (1 << 30),
            1 << 46,
        ] {
            assert_eq!(ram(physical), None, "{physical:#x}");
        }
    }

    #[test]
    fn code_and_constants_are_not_writable_in_the_direct_map_either() {
        testing::kernel_machine();
        for (offset, access) in [
            (0x0FFF, Access::ReadWrite),
            (0x1000, Access::Read),
            (0x4FFF, Access::Read),
            (0x5000, Access::Read),
            (0x6FFF, Access::Read),
            (0x7000, Access::ReadWrite),
        ] {
            let found = at(DIRECT_MAP_START + 0x20_0000 + offset).unwrap();
            assert_eq!(found.attributes.access, access, "{offset:#x}");
        }
    }

    #[test]
    fn the_image_has_the_rights_of_its_parts() {
        testing::kernel_machine();
        let start = 0xFFFF_FFFF_8000_0000;
        for (offset, access) in [
            (0x1000, Access::ReadExecute),
            (0x4FFF, Access::ReadExecute),
            (0x5000, Access::Read),
            (0x7000, Access::ReadWrite),
            (0x9FFF, Access::ReadWrite),
        ] {
            let found = at(start + offset).unwrap();
            assert_eq!(
                (found.physical.as_u64(), found.attributes.access),
                (0x20_0000 + offset, access)
            );
        }
        assert_eq!(at(start), None);
        assert_eq!(at(start + 0xA000), None);
        // The page below the boot stack.
        assert_eq!(at(start + 0x8000), None);
    }

    #[test]
    fn devices_are_mapped_to_the_byte_and_apart() {
        testing::kernel_machine();
        let first = map_device(PhysAddr::new(0xB000_0FFC), 8, Cache::Uncached).unwrap();
        let second = map_device(PhysAddr::new(0xB000_0FFC), 8, Cache::WriteBack).unwrap();
        for (mapped, cache) in [(first, Cache::Uncached), (second, Cache::WriteBack)] {
            for byte in 0..8 {
                let found = translate(mapped + byte).unwrap();
                assert_eq!(
                    (found.physical.as_u64(), found.attributes.cache),
                    (0xB000_0FFC + byte, cache)
                );
            }
        }
        assert!(second - first > 2 * PAGE_BYTES);
        assert_eq!(
            map_device(PhysAddr::new(0xB000_0000), 0, Cache::Uncached),
            Err(Error::BadArgument)
        );
        for bytes in [1 << 53, u64::MAX, u64::MAX - 0xB000_0000] {
            assert_eq!(
                map_device(PhysAddr::new(0xB000_0000), bytes, Cache::Uncached),
                Err(Error::OutOfRange)
            );
        }
    }

    #[test]
    fn guarded_memory_has_unmapped_pages_around_it() {
        testing::kernel_machine();
        for pages in [1, 3] {
            let memory = allocate_guarded(pages).unwrap();
            assert_eq!(translate(memory - 1), None);
            assert_eq!(translate(memory + pages * PAGE_BYTES), None);
            for page in 0..pages {
                assert_eq!(
                    translate(memory + page * PAGE_BYTES)
                        .unwrap()
                        .attributes
                        .access,
                    Access::ReadWrite
                );
            }
        }
        assert_eq!(allocate_guarded(u64::MAX), Err(Error::OutOfRange));
    }
}
