//! What a front end brings: the firmware it knows, behind one interface.
//!
//! A front end is a program for one kind of firmware. It finds files, gives out memory, knows what the firmware left in
//! the machine, and prints. What becomes of all that is the business of this crate, so that a kernel is booted the same
//! way, with the same answers and the same messages, whatever started the loader.

use crate::acpi::{AcpiFacts, Extent};
use crate::addr::PhysAddr;
use crate::config::Resolution;
use crate::error::{BootError, Fault};
use crate::memmap::Region;
use crate::paging::Features;
use crate::path::FilePath;
use crate::protocol::BaseRevision;
use crate::response::{FileFacts, FramebufferFacts};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Whole pages of memory that the kernel may keep, in one piece.
pub trait Block {
    /// Where they lie.
    fn phys(&self) -> PhysAddr;
    /// Their size in bytes, a multiple of the page size.
    fn size(&self) -> u64;
    /// Their contents.
    fn bytes(&self) -> &[u8];
    /// Their contents, to be written.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// A configuration file.
#[derive(Debug)]
pub struct FoundConfig<V> {
    /// Its volume.
    pub volume: V,
    /// What to call the volume in messages.
    pub volume_name: String,
    /// Its path there.
    pub path: String,
    /// Its bytes.
    pub contents: Vec<u8>,
}

/// A file in memory.
#[derive(Debug)]
pub struct LoadedFile<B> {
    /// The pages it begins with; what lies behind its `size` bytes is nobody's.
    pub pages: B,
    /// What the kernel is told about it, but for its string.
    pub facts: FileFacts,
}

impl<B: Block> LoadedFile<B> {
    /// Its contents.
    pub fn contents(&self) -> &[u8] {
        &self.pages.bytes()[..self.facts.size as usize]
    }
}

/// A framebuffer and the size of its memory.
#[derive(Clone, Debug)]
pub struct Screen {
    /// What the kernel is told.
    pub facts: FramebufferFacts,
    /// Bytes of video memory that belong to it.
    pub bytes: u64,
}

/// What the firmware left in memory.
#[derive(Debug, Default)]
pub struct Firmware {
    /// ACPI's root pointer.
    pub rsdp: Option<PhysAddr>,
    /// SMBIOS's 32-bit entry point.
    pub smbios_32: Option<PhysAddr>,
    /// SMBIOS's 64-bit entry point.
    pub smbios_64: Option<PhysAddr>,
    /// The EFI system table.
    pub system_table: Option<PhysAddr>,
    /// What ACPI says.
    pub acpi: AcpiFacts,
    /// Places of SMBIOS's and EFI's own structures.
    pub extents: Vec<Extent>,
}

/// The kind of firmware, by its number in the protocol (Limine PROTOCOL, Firmware Type Feature).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareType {
    /// A BIOS.
    Bios = 0,
    /// UEFI on a 64-bit machine.
    Efi64 = 2,
}

/// A front end.
pub trait FrontEnd {
    /// Memory it gives out.
    type Block: Block;
    /// A place files are on.
    type Volume;

    /// The firmware it is for.
    const FIRMWARE: FirmwareType;

    /// Prints one line.
    fn say(&mut self, text: fmt::Arguments<'_>);

    /// Waits for a key, at most `tenths` tenths of a second.
    fn wait_for_key(&mut self, tenths: Option<u32>);

    /// Ticks of the time-stamp counter since the loader's first line.
    fn ticks(&self) -> u64;

    /// Finds the configuration file.
    ///
    /// # Errors
    /// [`Fault::NoConfig`] if there is none, or what is wrong with the first one found.
    fn find_config(&mut self) -> Result<FoundConfig<Self::Volume>, BootError>;

    /// Reads a file whole. `home` is the volume that `boot()` means.
    ///
    /// # Errors
    /// What is wrong with it; [`Fault::Empty`] if it has no byte.
    fn read(
        &mut self,
        home: &Self::Volume,
        path: &FilePath,
    ) -> Result<LoadedFile<Self::Block>, Fault>;

    /// Takes zeroed pages for `bytes` bytes, at least one; `None` if there is not enough memory in one piece.
    fn pages(&mut self, bytes: u64) -> Option<Self::Block>;

    /// Whether the loader can work on this machine as the firmware left it.
    ///
    /// # Errors
    /// Why not.
    fn check_machine(&mut self) -> Result<(), Fault>;

    /// What page tables can use on this CPU.
    fn paging_features(&self) -> Features;

    /// The memory map as it is now, in any order.
    ///
    /// # Errors
    /// [`Fault::Firmware`].
    fn regions(&mut self, revision: BaseRevision) -> Result<Vec<Region>, Fault>;

    /// The firmware's tables; `regions` is the memory map.
    fn firmware(&mut self, regions: &[Region]) -> Firmware;

    /// Finds the framebuffer and sets the mode, if one is wanted.
    fn screen(&mut self, wanted: Option<Resolution>) -> Option<Screen>;

    /// UNIX time by the machine's clock.
    fn date(&mut self) -> Option<i64>;
}
