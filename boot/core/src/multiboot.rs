//! What a Multiboot loader says of the machine (Multiboot Specification 0.6.96, "Boot information format").
//!
//! GRUB and QEMU's `-kernel` leave one structure in memory that points to others. All of it is copied out before anything
//! else is done, since nothing says that it stays: it lies in memory that the map calls free. Every address in it is
//! only believed as far as [`PhysMemory`] lets it be read, and every count is bounded. That a module lies in memory at all
//! is looked up in the map: QEMU does not mind if it gave the machine less than it is to load.
//!
//! Modules are the files of the boot. A module's name is the last word of its string: QEMU puts the path on the host in
//! front of it, GRUB gives what the user wrote.

use crate::acpi::{Extent, PhysMemory};
use crate::addr::{PAGE_SIZE, PhysAddr, dword_at, half_at, page_down, page_up, word_at};
use crate::error::{BootError, Fault, InFile};
use crate::frames::Frames;
use crate::load::MACHINE;
use crate::memmap::{Kind, MemoryMap, Paint, Region, capacity_for};
use crate::response::{FramebufferFacts, PixelLayout, VideoMode};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

/// What a Multiboot loader leaves in EAX.
pub const LOADER_MAGIC: u32 = 0x2bad_b002;

// Bits of the first word: which parts are there.
const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;
const HAS_FRAMEBUFFER: u32 = 1 << 12;

/// Bytes of the structure up to the framebuffer's colours, and of its part that every loader gives.
const LONG: u64 = 118;
/// Where the colours may begin. The specification's table has them right after the type; the structure in its own example,
/// which GRUB is built with, has a C compiler's padding before them.
const COLOURS_AT: [usize; 2] = [110, 112];
const SHORT: u64 = 72;
/// Bytes of a module's entry.
const MODULE_BYTES: u32 = 16;
/// More than any boot has.
const MAX_MODULES: u32 = 64;
/// Bytes of memory map that are believed: some two thousand entries.
const MAX_MAP: u32 = 48 * 1024;
/// Bytes of a string that are read.
const MAX_TEXT: u64 = 1024;

/// Types of the memory map (Multiboot Specification, "mmap_*"; the numbers are those of ACPI specification 6.5 §15.3).
const AVAILABLE: u32 = 1;
const ACPI_RECLAIMABLE: u32 = 3;
const ACPI_NVS: u32 = 4;
const BAD: u32 = 5;

/// A stretch of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Where.
    pub extent: Extent,
    /// What it is.
    pub kind: Kind,
}

/// A file that the loader brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Where it lies.
    pub extent: Extent,
    /// The last word of its string.
    pub name: String,
}

/// How the loader left the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Display {
    /// VGA text, or nothing that is known.
    Text,
    /// A linear framebuffer.
    Linear(FramebufferFacts),
    /// A graphics mode with no pixels to write to directly.
    Other,
}

/// Everything that is of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The loader's name, or nothing.
    pub loader: String,
    /// The command line given to this program.
    pub command_line: String,
    /// The memory map, as it came.
    pub map: Vec<MapEntry>,
    /// The modules, in order.
    pub modules: Vec<Module>,
    /// The screen.
    pub display: Display,
    /// Places that hold the structure and all it points to, but for the modules themselves.
    pub own: Vec<Extent>,
}

/// The fault of information that cannot be used.
fn bad(what: &'static str) -> Fault {
    Fault::Multiboot { what }
}

impl Info {
    /// Reads the structure at `at`.
    ///
    /// # Errors
    /// [`Fault::Multiboot`] if it cannot be read, gives no memory map, or a map or a list of modules that makes no sense.
    pub fn read(memory: &dyn PhysMemory, at: PhysAddr) -> Result<Self, Fault> {
        let short = memory
            .bytes(at, SHORT)
            .ok_or_else(|| bad("lies where no memory is"))?;
        let flags = field(short, 0);
        let mut this = Self {
            loader: String::new(),
            command_line: String::new(),
            map: Vec::new(),
            modules: Vec::new(),
            display: Display::Text,
            own: Vec::new(),
        };
        this.own.push(Extent {
            base: at,
            length: if flags & HAS_FRAMEBUFFER != 0 {
                LONG
            } else {
                SHORT
            },
        });
        if flags & HAS_LOADER_NAME != 0 {
            this.loader = this.text(memory, field(short, 64));
        }
        if flags & HAS_COMMAND_LINE != 0 {
            this.command_line = this.text(memory, field(short, 16));
        }
        if flags & HAS_MAP != 0 {
            this.read_map(memory, field(short, 48), field(short, 44))?;
        } else if flags & HAS_MEMORY != 0 {
            // KiB from 0 and from 1 MiB.
            for (base, kib) in [(0, field(short, 4)), (1 << 20, field(short, 8))] {
                this.map.push(MapEntry {
                    extent: Extent {
                        base: PhysAddr(base),
                        length: u64::from(kib) << 10,
                    },
                    kind: Kind::Usable,
                });
            }
        }
        if !this.map.iter().any(|e| e.kind == Kind::Usable) {
            return Err(bad("gives no memory map"));
        }
        if flags & HAS_MODULES != 0 {
            this.read_modules(memory, field(short, 24), field(short, 20))?;
        }
        if flags & HAS_FRAMEBUFFER != 0 {
            this.display = memory.bytes(at, LONG).map_or(Display::Text, display);
        }
        Ok(this)
    }

    /// Each entry says how long it is, not counting the word that says so.
    fn read_map(&mut self, memory: &dyn PhysMemory, at: u32, length: u32) -> Result<(), Fault> {
        let length = length.min(MAX_MAP);
        let bytes = memory
            .bytes(PhysAddr(at.into()), length.into())
            .ok_or_else(|| bad("has its memory map where no memory is"))?;
        self.own.push(Extent {
            base: PhysAddr(at.into()),
            length: length.into(),
        });
        let mut rest = bytes;
        while let (Some(size), Some(base), Some(length), Some(kind)) = (
            dword_at(rest, 0),
            word_at(rest, 4),
            word_at(rest, 12),
            dword_at(rest, 20),
        ) {
            self.map.push(MapEntry {
                extent: Extent {
                    base: PhysAddr(base),
                    length,
                },
                kind: match kind {
                    AVAILABLE => Kind::Usable,
                    ACPI_RECLAIMABLE => Kind::AcpiReclaimable,
                    ACPI_NVS => Kind::AcpiNvs,
                    BAD => Kind::BadMemory,
                    _ => Kind::Reserved,
                },
            });
            let step = (size as usize).saturating_add(4);
            if step < 24 {
                return Err(bad("has a memory map with an entry that is too short"));
            }
            rest = rest.get(step..).unwrap_or(&[]);
        }
        Ok(())
    }

    fn read_modules(&mut self, memory: &dyn PhysMemory, at: u32, count: u32) -> Result<(), Fault> {
        if count == 0 {
            return Ok(());
        }
        if count > MAX_MODULES {
            return Err(bad("lists more than 64 modules"));
        }
        let list = Extent {
            base: PhysAddr(at.into()),
            length: u64::from(count * MODULE_BYTES),
        };
        let bytes = memory
            .bytes(list.base, list.length)
            .ok_or_else(|| bad("has its list of modules where no memory is"))?;
        self.own.push(list);
        for entry in bytes.chunks_exact(MODULE_BYTES as usize) {
            let (start, end) = (field(entry, 0), field(entry, 4));
            let length = end
                .checked_sub(start)
                .ok_or_else(|| bad("lists a module that ends before it begins"))?;
            let extent = Extent {
                base: PhysAddr(start.into()),
                length: length.into(),
            };
            if length > 0 && memory.bytes(extent.base, extent.length).is_none() {
                return Err(bad("lists a module where no memory is"));
            }
            let string = self.text(memory, field(entry, 8));
            let name = string.split_whitespace().next_back().unwrap_or("");
            self.modules.push(Module {
                extent,
                name: name.to_owned(),
            });
        }
        Ok(())
    }

    /// The memory map with everything that is taken: what the Multiboot loader left, this program at `image`, and the blocks
    /// in `taken`. In no order, and with overlaps.
    #[must_use]
    pub fn regions(&self, image: Extent, taken: &[Extent]) -> Vec<Region> {
        // The BIOS's data area: firmware that runs behind the system's back may still look at it.
        let first_page = Extent {
            base: PhysAddr(0),
            length: PAGE_SIZE,
        };
        let mut regions = self.bare_regions();
        regions.push(whole_pages(first_page, Kind::Reserved));
        let loaded = self.modules.iter().map(|m| m.extent);
        regions.extend(
            loaded
                .chain(self.own.iter().copied())
                .chain([image])
                .chain(taken.iter().copied())
                .filter(|e| e.length > 0)
                .map(|e| whole_pages(e, Kind::BootloaderReclaimable)),
        );
        regions
    }

    fn bare_regions(&self) -> Vec<Region> {
        self.map
            .iter()
            .map(|e| Region {
                base: e.extent.base.0,
                end: end_of(e.extent),
                kind: e.kind,
            })
            .collect()
    }

    /// The free memory between 1 MiB and `high`, after a check that this program, which lies at `image`, and the modules
    /// are in memory.
    ///
    /// # Errors
    /// [`Fault::OutOfMemory`] or, for a module, [`Fault::NoMemory`] if it was put where the map has no memory, as QEMU does
    /// when the machine has too little.
    pub fn frames(&self, image: Extent, high: u64) -> Result<Frames, BootError> {
        let bare = drawn(&self.bare_regions()).in_file(MACHINE)?;
        let in_memory = |e: &Extent| {
            bare.iter()
                .any(|r| r.kind == Kind::Usable && r.base <= e.base.0 && end_of(*e) <= r.end)
        };
        if !in_memory(&image) {
            return Err(Fault::OutOfMemory {
                what: "the loader",
                bytes: image.length,
            })
            .in_file(MACHINE);
        }
        for module in self.modules.iter().filter(|m| m.extent.length > 0) {
            if !in_memory(&module.extent) {
                return Err(Fault::NoMemory {
                    bytes: module.extent.length,
                })
                .in_file(&alloc::format!("boot():{}", module.name));
            }
        }
        let map = drawn(&self.regions(image, &[])).in_file(MACHINE)?;
        Ok(Frames::new(&map, 1 << 20, high))
    }

    /// The text at `at` up to its 0. One that cannot be read is nothing.
    fn text(&mut self, memory: &dyn PhysMemory, at: u32) -> String {
        let at = PhysAddr(at.into());
        let mut text = Vec::new();
        for n in 0..MAX_TEXT {
            match memory.bytes(PhysAddr(at.0 + n), 1) {
                Some([byte]) if *byte != 0 => text.push(*byte),
                _ => break,
            }
        }
        self.own.push(Extent {
            base: at,
            length: text.len() as u64 + 1,
        });
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn end_of(extent: Extent) -> u64 {
    extent.base.0.saturating_add(extent.length)
}

/// A stretch as the pages that hold it.
fn whole_pages(extent: Extent, kind: Kind) -> Region {
    let end = end_of(extent);
    Region {
        base: page_down(extent.base.0),
        end: page_up(end).unwrap_or(page_down(end)),
        kind,
    }
}

/// Sorted and without overlap.
fn drawn(regions: &[Region]) -> Result<Vec<Region>, Fault> {
    let none = Region {
        base: 0,
        end: 0,
        kind: Kind::Usable,
    };
    let mut room = alloc::vec![none; capacity_for(regions.len())];
    let mut map = MemoryMap::new(&mut room);
    for r in regions {
        map.add(r.base, r.end - r.base, r.kind, Paint::ByKind)?;
    }
    Ok(map.regions().to_vec())
}

/// A double word within a structure that was found to be long enough.
fn field(bytes: &[u8], at: usize) -> u32 {
    dword_at(bytes, at).unwrap_or(0)
}

/// The colours from byte `at` on, as position and size of red, green and blue, if they make sense.
fn colours(bytes: &[u8], at: usize, bpp: u8) -> Option<PixelLayout> {
    let field = |n: usize| {
        let (position, size) = (*bytes.get(at + 2 * n)?, *bytes.get(at + 2 * n + 1)?);
        (size > 0 && u16::from(position) + u16::from(size) <= u16::from(bpp))
            .then_some((size, position))
    };
    Some(PixelLayout {
        red: field(0)?,
        green: field(1)?,
        blue: field(2)?,
    })
}

/// The framebuffer's part: address at 88, pitch 96, width 100, height 104, bits 108, type 109, then the colours.
fn display(bytes: &[u8]) -> Display {
    const RGB: u8 = 1;
    const TEXT: u8 = 2;
    let (Some(address), Some(bits)) = (word_at(bytes, 88), half_at(bytes, 108)) else {
        return Display::Text;
    };
    let [bpp, kind] = bits.to_le_bytes();
    if kind == TEXT {
        return Display::Text;
    }
    let Some(layout) = COLOURS_AT
        .into_iter()
        .find_map(|at| colours(bytes, at, bpp))
        .filter(|_| kind == RGB)
    else {
        return Display::Other;
    };
    let mode = VideoMode {
        pitch: field(bytes, 96).into(),
        width: field(bytes, 100).into(),
        height: field(bytes, 104).into(),
        bpp: bpp.into(),
        layout,
    };
    let sane = address != 0
        && mode.width > 0
        && mode.height > 0
        && mode.pitch >= mode.width * u64::from(bpp) / 8;
    if !sane {
        return Display::Other;
    }
    Display::Linear(FramebufferFacts {
        address: PhysAddr(address),
        mode,
        edid: Vec::new(),
        modes: Vec::from([mode]),
    })
}

#[cfg(test)]
#[path = "multiboot_tests.rs"]
mod tests;
