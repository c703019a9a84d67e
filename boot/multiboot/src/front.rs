//! A PC as a Multiboot loader hands it over, behind the interface that the core asks of every front end.
//!
//! The modules are the files of one volume. They stay where they are: only one that does not begin on a page boundary, or
//! is wanted twice, is copied.

use crate::memory::{Pages, REACH, Reach, SECOND_HEAP, grow_heap};
use crate::{clock, console, display, entry};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use boot_core::acpi::{self, Extent};
use boot_core::addr::{PAGE_SIZE, PhysAddr};
use boot_core::config::{CONFIG_PATHS, Resolution};
use boot_core::error::{BootError, Fault, InFile};
use boot_core::frames::Frames;
use boot_core::front::{Block, Firmware, FirmwareType, FoundConfig, FrontEnd, LoadedFile, Screen};
use boot_core::memmap::Region;
use boot_core::multiboot::{Display, Info, Module};
use boot_core::paging::Features;
use boot_core::path::{FilePath, Volume};
use boot_core::protocol::BaseRevision;
use boot_core::response::{FileFacts, FramebufferFacts};
use boot_core::smbios;
use core::fmt;

/// Larger than any sensible configuration, and small enough for the heap.
const MAX_CONFIG: u64 = 64 << 10;

/// The front end.
#[derive(Debug)]
pub struct Pc {
    began: u64,
    info: Info,
    /// The modules that were handed out in place.
    given: Vec<PhysAddr>,
    frames: Frames,
}

/// Where this program lies.
fn own_image() -> Extent {
    let (start, end) = entry::image();
    Extent {
        base: PhysAddr(start),
        length: end - start,
    }
}

impl Pc {
    /// A machine as `info` has it.
    ///
    /// # Errors
    /// If the machine has too little memory for what was loaded.
    pub fn new(began: u64, info: Info) -> Result<Self, BootError> {
        let mut this = Self {
            began,
            frames: info.frames(own_image(), REACH)?,
            info,
            given: Vec::new(),
        };
        let room = SECOND_HEAP.min(this.frames.free_bytes() / 8);
        // Without it there is what the heap has already.
        if let Some(pages) = this.pages(room) {
            grow_heap(pages);
        }
        Ok(this)
    }

    /// The memory map after everything was taken.
    pub fn final_regions(&self) -> Vec<Region> {
        self.info.regions(own_image(), self.frames.taken())
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
        let suits = |facts: &FramebufferFacts| {
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

fn screen_of(facts: &FramebufferFacts) -> Screen {
    Screen {
        bytes: facts.mode.pitch * facts.mode.height,
        facts: facts.clone(),
    }
}
