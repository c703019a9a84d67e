//! The Limine boot protocol's requests, and their answers in a form that outlives the loader's memory.
//!
//! The kernel asks for base revision 6 and takes what it is given, from 2 on. So it assumes what all of these promise and
//! no more: the RSDP's address may be physical or in the direct map, tables and devices may be in no map, and all but
//! the kernel and the modules will be reclaimed.

use abi::Error;
use abi::info::FramebufferInfo;
use arch::addr::PhysAddr;
use arch::memory::phys_to_virt;
use limine::BaseRevision;
use limine::memory_map::{Entry, EntryType};
use limine::request::{
    BootloaderInfoRequest, DateAtBootRequest, ExecutableAddressRequest, ExecutableCmdlineRequest,
    ExecutableFileRequest, FramebufferRequest, HhdmRequest, MemoryMapRequest, ModuleRequest,
    RequestsEndMarker, RequestsStartMarker, RsdpRequest, StackSizeRequest,
};

use crate::memory::PAGE_BYTES;
use crate::memory::frames::{self, FrameKind};
use crate::memory::map::{MemoryKind, MemoryRange};

const REVISION: u64 = 6;
/// The lowest revision that will do.
const LOWEST_REVISION: u64 = 2;

#[used]
#[unsafe(link_section = ".limine_requests_start")]
static START: RequestsStartMarker = RequestsStartMarker::new();
#[used]
#[unsafe(link_section = ".limine_requests_end")]
static END: RequestsEndMarker = RequestsEndMarker::new();

macro_rules! requests {
    ($($name:ident: $type:ty = $value:expr;)*) => {$(
        #[used]
        #[unsafe(link_section = ".limine_requests")]
        static $name: $type = $value;
    )*};
}

requests! {
    BASE: BaseRevision = BaseRevision::with_revision(REVISION);
    LOADER: BootloaderInfoRequest = BootloaderInfoRequest::new();
    STACK: StackSizeRequest = StackSizeRequest::new().with_size(64 * 1024);
    DIRECT_MAP: HhdmRequest = HhdmRequest::new();
    MEMORY: MemoryMapRequest = MemoryMapRequest::new();
    FRAMEBUFFER: FramebufferRequest = FramebufferRequest::new();
    RSDP: RsdpRequest = RsdpRequest::new();
    ADDRESS: ExecutableAddressRequest = ExecutableAddressRequest::new();
    FILE: ExecutableFileRequest = ExecutableFileRequest::new();
    COMMAND_LINE: ExecutableCmdlineRequest = ExecutableCmdlineRequest::new();
    MODULES: ModuleRequest = ModuleRequest::new();
    DATE: DateAtBootRequest = DateAtBootRequest::new();
}

/// Bytes of the command line that are kept.
const COMMAND_LINE_BYTES: usize = 1024;

/// A stretch of physical RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    pub(super) start: PhysAddr,
    pub(super) bytes: u64,
}

impl Extent {
    /// The bytes, through the direct map in force.
    ///
    /// # Safety
    /// The extent must be RAM in the direct map that nobody writes to, as long as the direct map stays.
    pub(super) unsafe fn contents(self) -> &'static [u8] {
        // SAFETY: the caller's promise.
        unsafe { core::slice::from_raw_parts(phys_to_virt(self.start), self.bytes as usize) }
    }
}

/// What the loader told, copied out of its memory.
pub(super) struct Answers {
    pub(super) revision: u64,
    pub(super) direct_map: u64,
    pub(super) kernel: PhysAddr,
    pub(super) kernel_file: Option<Extent>,
    pub(super) init: Option<Extent>,
    pub(super) initrd: Option<Extent>,
    pub(super) rsdp: Option<PhysAddr>,
    pub(super) boot_seconds: u64,
    pub(super) framebuffer: Option<FramebufferInfo>,
    pub(super) loader: Text<64>,
    pub(super) command_line: Text<COMMAND_LINE_BYTES>,
}

/// Text of bounded length.
pub(super) struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
    /// Whether some of it did not fit, or was no UTF-8.
    pub(super) cut: bool,
}

impl<const N: usize> Text<N> {
    fn new(from: &[u8]) -> Text<N> {
        let fits = &from[..from.len().min(N)];
        let valid = match core::str::from_utf8(fits) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&fits[..error.valid_up_to()]).unwrap_or(""),
        };
        let mut bytes = [0; N];
        bytes[..valid.len()].copy_from_slice(valid.as_bytes());
        Text {
            bytes,
            length: valid.len(),
            cut: valid.len() < from.len(),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
    }
}

/// Why the loader's answers will not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unusable {
    Revision(u64),
    NoDirectMap,
    NoMemoryMap,
    NoKernelAddress,
}

impl core::fmt::Display for Unusable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Unusable::Revision(revision) => {
                write!(
                    f,
                    "the boot loader gave base revision {revision}; {LOWEST_REVISION} or later is needed"
                )
            }
            Unusable::NoDirectMap => f.write_str("the boot loader gave no direct map"),
            Unusable::NoMemoryMap => f.write_str("the boot loader gave no memory map"),
            Unusable::NoKernelAddress => {
                f.write_str("the boot loader did not say where it put the kernel")
            }
        }
    }
}

/// Reads all answers and sets the direct map in force to the loader's.
///
/// # Safety
/// To be called first of all, with the loader's mappings in force and its memory untouched.
pub(super) unsafe fn read() -> Result<Answers, Unusable> {
    let revision = match BASE.loaded_revision() {
        Some(revision) => revision,
        // A loader before 8.3 does not say what it gave when it does not know what was asked for.
        None if BASE.is_supported() => REVISION,
        None => LOWEST_REVISION,
    };
    if revision < LOWEST_REVISION {
        return Err(Unusable::Revision(revision));
    }
    let direct_map = DIRECT_MAP
        .get_response()
        .ok_or(Unusable::NoDirectMap)?
        .offset();
    // SAFETY: the loader's direct map holds all RAM, by the protocol.
    unsafe { arch::memory::set_direct_map(direct_map) };
    let physical = |pointer: *const u8| {
        let address = pointer as u64;
        PhysAddr::new_truncate(if address >= direct_map {
            address - direct_map
        } else {
            address
        })
    };
    MEMORY.get_response().ok_or(Unusable::NoMemoryMap)?;
    let kernel = ADDRESS
        .get_response()
        .ok_or(Unusable::NoKernelAddress)?
        .physical_base();
    let extent = |file: &limine::file::File| Extent {
        start: physical(file.addr()),
        bytes: file.size(),
    };
    let module = |name: &str| {
        MODULES
            .get_response()
            .and_then(|response| {
                response
                    .modules()
                    .iter()
                    .find(|file| file.string().to_bytes() == name.as_bytes())
            })
            .map(|file| extent(file))
    };
    Ok(Answers {
        revision,
        direct_map,
        kernel: PhysAddr::new_truncate(kernel),
        kernel_file: FILE.get_response().map(|response| extent(response.file())),
        init: module("init"),
        initrd: module("initrd"),
        // Physical at revision 3, in the direct map at all others.
        rsdp: RSDP
            .get_response()
            .map(|response| physical(response.address() as *const u8)),
        boot_seconds: DATE
            .get_response()
            .map_or(0, |response| response.timestamp().as_secs()),
        framebuffer: framebuffer(&physical),
        loader: Text::new(
            LOADER
                .get_response()
                .map_or("?", |response| response.name())
                .as_bytes(),
        ),
        command_line: Text::new(
            COMMAND_LINE
                .get_response()
                .map_or(b"", |response| response.cmdline().to_bytes()),
        ),
    })
}

/// The first framebuffer of 32-bit pixels.
fn framebuffer(physical: &dyn Fn(*const u8) -> PhysAddr) -> Option<FramebufferInfo> {
    const BITS: u16 = 32;
    let response = FRAMEBUFFER.get_response()?;
    let found = response.framebuffers().find(|framebuffer| {
        framebuffer.bpp() == BITS
            && framebuffer.memory_model() == limine::framebuffer::MemoryModel::RGB
    })?;
    Some(FramebufferInfo {
        physical: physical(found.addr()).as_u64(),
        width: found.width() as u32,
        height: found.height() as u32,
        pitch: found.pitch() as u32,
        red_shift: found.red_mask_shift(),
        green_shift: found.green_mask_shift(),
        blue_shift: found.blue_mask_shift(),
        reserved: 0,
    })
}

fn kind(entry: &Entry) -> MemoryKind {
    match entry.entry_type {
        EntryType::USABLE => MemoryKind::Usable,
        EntryType::BOOTLOADER_RECLAIMABLE => MemoryKind::Reclaimable,
        EntryType::EXECUTABLE_AND_MODULES => MemoryKind::Kernel,
        EntryType::ACPI_RECLAIMABLE => MemoryKind::AcpiReclaimable,
        EntryType::ACPI_NVS => MemoryKind::AcpiNonVolatile,
        EntryType::BAD_MEMORY => MemoryKind::Bad,
        EntryType::FRAMEBUFFER => MemoryKind::Framebuffer,
        _ => MemoryKind::Reserved,
    }
}

/// The memory map, straight from the loader's memory. Only while its mappings are in force.
pub(super) fn memory_map() -> impl Iterator<Item = MemoryRange> + Clone {
    MEMORY
        .get_response()
        .into_iter()
        .flat_map(|response| response.entries().iter())
        .map(|entry| MemoryRange {
            // Usable and reclaimable entries are page-aligned by the protocol; others are not counted on.
            start: entry.base / PAGE_BYTES,
            frames: entry.length / PAGE_BYTES,
            kind: kind(entry),
        })
}

/// The memory map, in memory of the kernel's own.
#[derive(Clone, Copy)]
pub(super) struct MemoryMap {
    block: PhysAddr,
    count: usize,
}

impl MemoryMap {
    /// Copies the map out of the loader's memory.
    pub(super) fn copy() -> Result<MemoryMap, Error> {
        let count = memory_map().count();
        let bytes = count * size_of::<MemoryRange>();
        let order = bytes
            .div_ceil(PAGE_BYTES as usize)
            .next_power_of_two()
            .trailing_zeros() as u8;
        let block = frames::allocate_order(order, FrameKind::Kernel).ok_or(Error::NoMemory)?;
        for (index, range) in memory_map().enumerate() {
            // SAFETY: the block is ours and holds `count` ranges.
            unsafe {
                phys_to_virt(block)
                    .cast::<MemoryRange>()
                    .add(index)
                    .write(range);
            };
        }
        Ok(MemoryMap { block, count })
    }

    /// The ranges, through the direct map in force.
    pub(super) fn ranges(&self) -> &[MemoryRange] {
        // SAFETY: `copy` filled the block, which is the map's own.
        unsafe { core::slice::from_raw_parts(phys_to_virt(self.block).cast(), self.count) }
    }

    /// Gives the memory back.
    pub(super) fn free(self) {
        frames::free_frame(self.block);
    }
}
