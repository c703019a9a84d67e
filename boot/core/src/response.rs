//! Writing the answers.
//!
//! Each response is a C structure that holds addresses of others, all in bootloader-reclaimable memory and all seen
//! through the direct map (Limine PROTOCOL, General Notes). They are written while the firmware is still there, so
//! that a lack of room can still be reported; only the memory map, which is not final before boot services end, gets
//! its room now and its contents later ([`Late`]).

use crate::addr::{Hhdm, PhysAddr, VirtAddr};
use crate::arena::{Arena, Place};
use crate::error::Fault;
use crate::front::FirmwareType;
use crate::memmap::Region;
use crate::protocol::{FRAMEBUFFER_RGB, Feature, PAGING_4LEVEL};
use crate::request::Requests;
use alloc::string::String;
use alloc::vec::Vec;

/// Where a file came from and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// Physical address of its first byte, a page boundary.
    pub address: PhysAddr,
    /// Its size in bytes.
    pub size: u64,
    /// Its path within the volume.
    pub path: String,
    /// The string the configuration gives with it.
    pub string: String,
    /// Number of its partition from 1, or 0.
    pub partition: u32,
    /// Signature of an MBR disk, or 0.
    pub mbr_disk: u32,
    /// GPT identifier of its partition as it lies on disk, or zeros.
    pub gpt_partition: [u8; 16],
}

/// Where the colours of a pixel are: (bits, position of the lowest bit) of red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelLayout {
    /// Red.
    pub red: (u8, u8),
    /// Green.
    pub green: (u8, u8),
    /// Blue.
    pub blue: (u8, u8),
}

impl PixelLayout {
    /// The layout of three contiguous masks, `None` if one is empty or has holes.
    #[must_use]
    pub fn from_masks(red: u32, green: u32, blue: u32) -> Option<Self> {
        let field = |mask: u32| {
            let (bits, shift) = (mask.count_ones(), mask.trailing_zeros());
            (mask != 0 && (mask >> shift).trailing_ones() == bits)
                .then_some((bits as u8, shift as u8))
        };
        Some(Self {
            red: field(red)?,
            green: field(green)?,
            blue: field(blue)?,
        })
    }
}

/// A display mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoMode {
    /// Bytes from one line to the next.
    pub pitch: u64,
    /// Pixels across.
    pub width: u64,
    /// Pixels down.
    pub height: u64,
    /// Bits a pixel.
    pub bpp: u16,
    /// Where its colours are.
    pub layout: PixelLayout,
}

/// A framebuffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FramebufferFacts {
    /// Physical address of its first pixel.
    pub address: PhysAddr,
    /// Its mode.
    pub mode: VideoMode,
    /// The display's EDID, empty if unknown.
    pub edid: Vec<u8>,
    /// All modes it can have.
    pub modes: Vec<VideoMode>,
}

/// Everything that responses are made of.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The loader's name and version.
    pub loader: (&'a str, &'a str),
    /// What firmware the machine has.
    pub firmware: FirmwareType,
    /// The kernel's file; its string is the command line.
    pub kernel: FileFacts,
    /// The modules.
    pub modules: Vec<FileFacts>,
    /// The framebuffer, if there is one.
    pub framebuffer: Option<FramebufferFacts>,
    /// ACPI's root pointer.
    pub rsdp: Option<PhysAddr>,
    /// The 32-bit SMBIOS entry point.
    pub smbios_32: Option<PhysAddr>,
    /// The 64-bit SMBIOS entry point.
    pub smbios_64: Option<PhysAddr>,
    /// The EFI system table.
    pub system_table: Option<PhysAddr>,
    /// UNIX time now.
    pub date: Option<i64>,
    /// Where the image lies.
    pub image: (PhysAddr, VirtAddr),
    /// Where physical memory is seen.
    pub hhdm: Hhdm,
    /// Regions that the memory map can come to have.
    pub map_capacity: usize,
}

/// What the EFI memory map is made of, once it is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EfiMapFacts {
    /// Physical address of the first descriptor.
    pub address: PhysAddr,
    /// Bytes of all descriptors.
    pub size: u64,
    /// Bytes from one descriptor to the next.
    pub descriptor_size: u64,
    /// The descriptors' version.
    pub descriptor_version: u64,
}

/// Room for what is known only after boot services have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Late {
    map: Option<(Place, Place, usize)>,
    efi_map: Option<Place>,
}

/// Bytes of arena that [`write`] can need for `facts`, generously.
#[must_use]
pub fn room_for(facts: &Facts<'_>) -> usize {
    let file = |f: &FileFacts| 160 + f.path.len() + f.string.len();
    let frame = facts
        .framebuffer
        .as_ref()
        .map_or(0, |f| 160 + f.edid.len() + f.modes.len() * 48);
    4096 + file(&facts.kernel)
        + facts.modules.iter().map(file).sum::<usize>()
        + frame
        + facts.map_capacity * 32
}

/// Writes the response to every request that can be served and points the requests in `image` at them.
///
/// # Errors
/// [`Fault::ArenaFull`].
pub fn write(
    requests: &Requests,
    facts: &Facts<'_>,
    arena: &mut Arena<'_>,
    image: &mut [u8],
) -> Result<Late, Fault> {
    requests.answer_tag(image);
    let mut writer = Writer {
        requests,
        facts,
        arena,
        image,
    };
    writer.loader()?;
    writer.files()?;
    writer.framebuffer()?;
    writer.firmware()?;
    writer.late()
}

struct Writer<'w, 'a> {
    requests: &'w Requests,
    facts: &'w Facts<'w>,
    arena: &'w mut Arena<'a>,
    image: &'w mut [u8],
}

impl Writer<'_, '_> {
    /// Answers `feature` with a structure of `words` after its revision.
    fn answer(&mut self, feature: Feature, revision: u64, words: &[u64]) -> Result<(), Fault> {
        if self.requests.has(feature) {
            self.place(feature, revision, words)?;
        }
        Ok(())
    }

    fn place(&mut self, feature: Feature, revision: u64, words: &[u64]) -> Result<Place, Fault> {
        let mut all = Vec::with_capacity(words.len() + 1);
        all.push(revision);
        all.extend_from_slice(words);
        let place = self.arena.put_words(&all, "responses")?;
        self.requests
            .respond(self.image, feature, self.arena.virt(place));
        Ok(place)
    }

    fn text(&mut self, text: &str) -> Result<u64, Fault> {
        let place = self.arena.put_text(text, "strings")?;
        Ok(self.arena.virt(place).0)
    }

    fn words(&mut self, words: &[u64]) -> Result<u64, Fault> {
        let place = self.arena.put_words(words, "responses")?;
        Ok(self.arena.virt(place).0)
    }

    fn loader(&mut self) -> Result<(), Fault> {
        let (name, version) = self.facts.loader;
        let strings = [self.text(name)?, self.text(version)?];
        self.answer(Feature::BootloaderInfo, 0, &strings)?;
        self.answer(Feature::FirmwareType, 0, &[self.facts.firmware as u64])?;
        self.answer(Feature::StackSize, 0, &[])?;
        self.answer(Feature::EntryPoint, 0, &[])?;
        self.answer(Feature::KeepIommu, 0, &[])?;
        self.answer(Feature::Hhdm, 0, &[self.facts.hhdm.0])?;
        self.answer(Feature::PagingMode, 0, &[PAGING_4LEVEL])?;
        let (phys, virt) = self.facts.image;
        self.answer(Feature::ExecutableAddress, 0, &[phys.0, virt.0])?;
        if let Some(date) = self.facts.date {
            self.answer(Feature::DateAtBoot, 0, &[date as u64])?;
        }
        Ok(())
    }

    /// `struct limine_file` (Limine PROTOCOL, File Structure).
    fn file(&mut self, file: &FileFacts, string: u64) -> Result<u64, Fault> {
        let path = self.text(&file.path)?;
        let half = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        let word = |n: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&file.gpt_partition[n * 8..n * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        self.words(&[
            0,
            self.facts.hhdm.virt(file.address).0,
            file.size,
            path,
            string,
            // Media type generic, unused; no TFTP address and port.
            0,
            0,
            half(file.partition, file.mbr_disk),
            // The disk's own identifier is not known to this loader.
            0,
            0,
            word(0),
            word(1),
            0,
            0,
        ])
    }

    fn files(&mut self) -> Result<(), Fault> {
        // One copy of the command line: both features promise the same memory.
        let cmdline = self.text(&self.facts.kernel.string)?;
        self.answer(Feature::Cmdline, 0, &[cmdline])?;
        if self.requests.has(Feature::ExecutableFile) {
            let file = self.file(&self.facts.kernel, cmdline)?;
            self.answer(Feature::ExecutableFile, 0, &[file])?;
        }
        // Without modules the request stays unanswered, as the protocol has it.
        if self.requests.has(Feature::Module) && !self.facts.modules.is_empty() {
            let mut pointers = Vec::new();
            for module in &self.facts.modules {
                let string = self.text(&module.string)?;
                pointers.push(self.file(module, string)?);
            }
            let array = self.words(&pointers)?;
            // Revision 0: modules that the kernel itself names are not loaded.
            self.answer(Feature::Module, 0, &[pointers.len() as u64, array])?;
        }
        Ok(())
    }

    fn framebuffer(&mut self) -> Result<(), Fault> {
        let Some(frame) = self
            .facts
            .framebuffer
            .as_ref()
            .filter(|_| self.requests.has(Feature::Framebuffer))
        else {
            return Ok(());
        };
        let mut modes = Vec::new();
        for mode in &frame.modes {
            let [first, second] = pixel_words(mode);
            modes.push(self.words(&[mode.pitch, mode.width, mode.height, first, second])?);
        }
        let array = self.words(&modes)?;
        let edid = if frame.edid.is_empty() {
            0
        } else {
            let place = self.arena.put(&frame.edid, 8, "EDID")?;
            self.arena.virt(place).0
        };
        let [first, second] = pixel_words(&frame.mode);
        let buffer = self.words(&[
            self.facts.hhdm.virt(frame.address).0,
            frame.mode.width,
            frame.mode.height,
            frame.mode.pitch,
            first,
            second,
            frame.edid.len() as u64,
            edid,
            modes.len() as u64,
            array,
        ])?;
        let pointer = self.words(&[buffer])?;
        self.answer(Feature::Framebuffer, 1, &[1, pointer])
    }

    fn firmware(&mut self) -> Result<(), Fault> {
        let (base, hhdm) = (self.requests.base, self.facts.hhdm);
        let address = |at: PhysAddr, physical: bool| if physical { at.0 } else { hhdm.virt(at).0 };
        if let Some(rsdp) = self.facts.rsdp {
            self.answer(Feature::Rsdp, 0, &[address(rsdp, base.rsdp_is_physical())])?;
        }
        let physical = base.firmware_tables_are_physical();
        let (short, long) = (self.facts.smbios_32, self.facts.smbios_64);
        if short.is_some() || long.is_some() {
            let entries = [short, long].map(|at| at.map_or(0, |at| address(at, physical)));
            self.answer(Feature::Smbios, 0, &entries)?;
        }
        if let Some(table) = self.facts.system_table {
            self.answer(Feature::EfiSystemTable, 0, &[address(table, physical)])?;
        }
        Ok(())
    }

    fn late(&mut self) -> Result<Late, Fault> {
        let mut late = Late::default();
        let capacity = self.facts.map_capacity;
        if self.requests.has(Feature::MemoryMap) {
            let entries = self.arena.take(capacity * 24, 8, "the memory map")?;
            let mut pointers = Vec::with_capacity(capacity);
            let first = self.arena.virt(entries).0;
            pointers.extend((0..capacity as u64).map(|n| first + n * 24));
            let array = self.words(&pointers)?;
            let response = self.place(Feature::MemoryMap, 0, &[0, array])?;
            late.map = Some((response, entries, capacity));
        }
        let efi = self.facts.firmware == FirmwareType::Efi64;
        if efi && self.requests.has(Feature::EfiMemoryMap) {
            late.efi_map = Some(self.place(Feature::EfiMemoryMap, 0, &[0, 0, 0, 0])?);
        }
        Ok(late)
    }
}

/// Bits a pixel, memory model and the masks, as they are packed in both framebuffer structures, padded to 16 bytes.
fn pixel_words(mode: &VideoMode) -> [u64; 2] {
    let PixelLayout { red, green, blue } = mode.layout;
    let [low, high] = mode.bpp.to_le_bytes();
    let first = [
        low,
        high,
        FRAMEBUFFER_RGB,
        red.0,
        red.1,
        green.0,
        green.1,
        blue.0,
    ];
    [u64::from_le_bytes(first), u64::from(blue.1)]
}

impl Late {
    /// Fills in the memory map.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`] if there are more regions than room was taken for.
    pub fn fill_map(&self, arena: &mut Arena<'_>, regions: &[Region]) -> Result<(), Fault> {
        let Some((response, entries, capacity)) = self.map else {
            return Ok(());
        };
        if regions.len() > capacity {
            return Err(Fault::ArenaFull {
                what: "the memory map",
            });
        }
        for (n, region) in regions.iter().enumerate() {
            arena.set_word(entries, n * 3, region.base);
            arena.set_word(entries, n * 3 + 1, region.end - region.base);
            arena.set_word(entries, n * 3 + 2, region.kind.number());
        }
        arena.set_word(response, 1, regions.len() as u64);
        Ok(())
    }

    /// Fills in the EFI memory map.
    pub fn fill_efi_map(&self, arena: &mut Arena<'_>, hhdm: Hhdm, map: EfiMapFacts) {
        let Some(response) = self.efi_map else { return };
        let words = [
            hhdm.virt(map.address).0,
            map.size,
            map.descriptor_size,
            map.descriptor_version,
        ];
        for (n, word) in words.into_iter().enumerate() {
            arena.set_word(response, n + 1, word);
        }
    }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
