//! A PC as a Multiboot loader hands it over, behind the interface that the core asks of every front end.
//!
//! The modules are the files of one volume. They stay where they are: only one that does not begin on a page boundary, or
//! is wanted twice, is copied.

use crate::memory::{Pages, REACH, Reach};
use crate::{clock, console, display, entry};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use boot_core::acpi::{self, Extent};
use boot_core::addr::{PAGE_SIZE, PhysAddr, page_down, page_up};
use boot_core::config::{CONFIG_PATHS, Resolution};
use boot_core::error::{BootError, Fault, InFile};
use boot_core::frames::Frames;
use boot_core::front::{Block, Firmware, FirmwareType, FoundConfig, FrontEnd, LoadedFile, Screen};
use boot_core::memmap::{Kind, MemoryMap, Paint, Region, capacity_for};
use boot_core::multiboot::{Display, Info, Module};
use boot_core::paging::Features;
use boot_core::path::{FilePath, Volume};
use boot_core::protocol::BaseRevision;
use boot_core::response::FileFacts;
use boot_core::smbios;
use core::fmt;

/// Larger than any sensible configuration, and small enough for the heap.
const MAX_CONFIG: u64 = 64 << 10;
/// Where memory for the loader begins.
const FIRST_MIB: u64 = 1 << 20;

/// The front end.
#[derive(Debug)]
pub struct Pc {
    began: u64,
    info: Info,
    /// The modules that were handed out in place.
    given: Vec<PhysAddr>,
    frames: Frames,
}

/// A stretch as whole pages, of a kind.
fn region(extent: Extent, kind: Kind) -> Region {
    let end = extent.base.0.saturating_add(extent.length);
    Region {
        base: page_down(extent.base.0),
        end: page_up(end).unwrap_or(page_down(end)),
        kind,
    }
}

/// What the Multiboot loader said of memory, and what this program takes of it.
fn regions(info: &Info, taken: &[Extent]) -> Vec<Region> {
    let (start, end) = entry::image();
    let own = Extent {
        base: PhysAddr(start),
        length: end - start,
    };
    // The BIOS's data area: firmware that runs behind the system's back may still look at it.
    let first_page = Extent {
        base: PhysAddr(0),
        length: PAGE_SIZE,
    };
    let mut regions = Vec::from([
        region(first_page, Kind::Reserved),
        region(own, Kind::BootloaderReclaimable),
    ]);
    regions.extend(info.map.iter().map(|e| Region {
        base: e.extent.base.0,
        end: e.extent.base.0.saturating_add(e.extent.length),
        kind: e.kind,
    }));
    let loaded = info.modules.iter().map(|m| m.extent);
    let left = info.own.iter().copied();
    regions.extend(
        loaded
            .chain(left)
            .chain(taken.iter().copied())
            .filter(|e| e.length > 0)
            .map(|e| region(e, Kind::BootloaderReclaimable)),
    );
    regions
}

impl Pc {
    /// A machine as `info` has it.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`], which would be a mistake in here.
    pub fn new(began: u64, info: Info) -> Result<Self, Fault> {
        let regions = regions(&info, &[]);
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
        Ok(Self {
            began,
            frames: Frames::new(map.regions(), FIRST_MIB, REACH),
            info,
            given: Vec::new(),
        })
    }

    /// The memory map after everything was taken.
    pub fn final_regions(&self) -> Vec<Region> {
        regions(&self.info, self.frames.taken())
    }

    fn module(&self, path: &str) -> Result<&Module, Fault> {
        let named = |m: &&Module| m.name == path;
        let below = |m: &Module| {
            m.name
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        match self.info.modules.iter().find(named) {
            Some(module) => Ok(module),
            None if self.info.modules.iter().any(below) => Err(Fault::IsFolder),
            None => Err(Fault::NotFound),
        }
    }

    fn read_config(&self, path: &str) -> Result<Vec<u8>, Fault> {
        let extent = self.module(path)?.extent;
        if extent.length > MAX_CONFIG {
            return Err(Fault::ReadFailed("larger than 64 KiB".to_owned()));
        }
        Ok(contents(extent).to_owned())
    }
}

/// A module's bytes; `Info` checked that they can be read.
fn contents(extent: Extent) -> &'static [u8] {
    static MEMORY: Reach = Reach;
    acpi::PhysMemory::bytes(&MEMORY, extent.base, extent.length).unwrap_or(&[])
}

impl FrontEnd for Pc {
    type Block = Pages;
    type Volume = ();

    const FIRMWARE: FirmwareType = FirmwareType::Bios;

    fn say(&mut self, text: fmt::Arguments<'_>) {
        console::line(text);
    }

    fn wait_for_key(&mut self, tenths: Option<u32>) {
        console::wait_for_key(tenths);
    }

    fn ticks(&self) -> u64 {
        boot_machine::time_stamp().wrapping_sub(self.began)
    }

    fn find_config(&mut self) -> Result<FoundConfig<()>, BootError> {
        for path in CONFIG_PATHS {
            match self.read_config(path) {
                Ok(contents) => {
                    return Ok(FoundConfig {
                        volume: (),
                        volume_name: format!("the {} modules", self.info.modules.len()),
                        path: (*path).to_owned(),
                        contents,
                    });
                }
                Err(Fault::NotFound | Fault::IsFolder) => {}
                Err(fault) => {
                    crate::say!("switchyard boot: warning: {path} among the modules: {fault}");
                }
            }
        }
        Err(Fault::NoConfig).in_file("limine.conf")
    }

    fn read(&mut self, (): &(), path: &FilePath) -> Result<LoadedFile<Pages>, Fault> {
        if path.volume != Volume::Config {
            return Err(Fault::NoSuchVolume);
        }
        let extent = self.module(&path.path)?.extent;
        let size = extent.length;
        if size == 0 {
            return Err(Fault::Empty);
        }
        let in_place =
            extent.base.0.is_multiple_of(PAGE_SIZE) && !self.given.contains(&extent.base);
        let pages = if in_place {
            self.given.push(extent.base);
            // SAFETY: the Multiboot loader put a module there, which `Info` found to be below 4 GiB; it begins on a page
            // boundary; `frames` gives out nothing of it, and `given` sees to it that it is handed out once.
            unsafe { Pages::holding(extent) }
        } else {
            let mut pages = self.pages(size).ok_or(Fault::NoMemory { bytes: size })?;
            pages.bytes_mut()[..size as usize].copy_from_slice(contents(extent));
            pages
        };
        Ok(LoadedFile {
            facts: FileFacts {
                address: pages.phys(),
                size,
                path: path.path.clone(),
                string: String::new(),
                partition: 0,
                mbr_disk: 0,
                gpt_partition: [0; 16],
            },
            pages,
        })
    }

    fn pages(&mut self, bytes: u64) -> Option<Pages> {
        let extent = self.frames.take(bytes)?;
        // SAFETY: `frames` gives out each page of free memory below 4 GiB once, and knows of everything that this program
        // and the Multiboot loader have put anywhere.
        let mut pages = unsafe { Pages::holding(extent) };
        pages.bytes_mut().fill(0);
        Some(pages)
    }

    fn check_machine(&mut self) -> Result<(), Fault> {
        // Four levels of paging are this loader's own making, and long mode was asked for at the entry.
        Ok(())
    }

    fn paging_features(&self) -> Features {
        boot_machine::paging_features()
    }

    fn regions(&mut self, _: BaseRevision) -> Result<Vec<Region>, Fault> {
        Ok(self.final_regions())
    }

    fn firmware(&mut self, _: &[Region]) -> Firmware {
        let rsdp = acpi::find_rsdp(&Reach);
        let [smbios_32, smbios_64] = smbios::find(&Reach);
        let short = smbios_32.and_then(|at| smbios::extents_32(&Reach, at));
        let long = smbios_64.and_then(|at| smbios::extents_64(&Reach, at));
        Firmware {
            acpi: rsdp.map_or_else(Default::default, |at| acpi::walk(&Reach, at)),
            rsdp,
            smbios_32,
            smbios_64,
            system_table: None,
            extents: short.into_iter().chain(long).flatten().collect(),
        }
    }

    fn screen(&mut self, wanted: Option<Resolution>) -> Option<Screen> {
        let given = match &self.info.display {
            Display::Linear(facts) => Some(facts),
            _ => None,
        };
        let suits = |facts: &boot_core::response::FramebufferFacts| {
            wanted.is_none_or(|w| {
                (facts.mode.width, facts.mode.height, facts.mode.bpp)
                    == (w.width.into(), w.height.into(), w.bpp as u16)
            })
        };
        if let Some(facts) = given.filter(|f| suits(f)) {
            return Some(screen_of(facts));
        }
        if let Some(screen) = display::find(wanted) {
            console::on_framebuffer(&screen.facts, false);
            return Some(screen);
        }
        if let (Some(_), Some(w)) = (given, wanted) {
            crate::say!(
                "switchyard boot: warning: no display mode {}x{}x{}, the given one stays",
                w.width,
                w.height,
                w.bpp
            );
        }
        given.map(screen_of)
    }

    fn date(&mut self) -> Option<i64> {
        clock::date()
    }
}

fn screen_of(facts: &boot_core::response::FramebufferFacts) -> Screen {
    Screen {
        bytes: facts.mode.pitch * facts.mode.height,
        facts: facts.clone(),
    }
}
