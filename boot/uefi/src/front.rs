//! UEFI behind the interface that the core asks of every front end.

use crate::files::{self, Volume};
use crate::memory::{Pages, snapshot};
use crate::{console, facts, screen};
use boot_core::config::Resolution;
use boot_core::error::{BootError, Fault};
use boot_core::front::{Firmware, FirmwareType, FoundConfig, FrontEnd, LoadedFile, Screen};
use boot_core::memmap::Region;
use boot_core::paging::Features;
use boot_core::path::FilePath;
use boot_core::protocol::BaseRevision;
use core::fmt;

/// The front end.
#[derive(Debug)]
pub struct Uefi {
    /// The time-stamp counter at the first line.
    pub began: u64,
}

impl FrontEnd for Uefi {
    type Block = Pages;
    type Volume = Volume;

    const FIRMWARE: FirmwareType = FirmwareType::Efi64;

    fn say(&mut self, text: fmt::Arguments<'_>) {
        console::line(text);
    }

    fn wait_for_key(&mut self, tenths: Option<u32>) {
        console::wait_for_key(tenths);
    }

    fn ticks(&self) -> u64 {
        boot_machine::time_stamp().wrapping_sub(self.began)
    }

    fn find_config(&mut self) -> Result<FoundConfig<Volume>, BootError> {
        files::find_config()
    }

    fn read(&mut self, home: &Volume, path: &FilePath) -> Result<LoadedFile<Pages>, Fault> {
        files::read(home, path)
    }

    fn pages(&mut self, bytes: u64) -> Option<Pages> {
        Pages::new(bytes)
    }

    fn check_machine(&mut self) -> Result<(), Fault> {
        if boot_machine::firmware_has_five_levels() {
            Err(Fault::FirmwarePaging)
        } else {
            Ok(())
        }
    }

    fn paging_features(&self) -> Features {
        boot_machine::paging_features()
    }

    fn regions(&mut self, revision: BaseRevision) -> Result<alloc::vec::Vec<Region>, Fault> {
        snapshot(revision)
    }

    fn firmware(&mut self, regions: &[Region]) -> Firmware {
        facts::gather(regions)
    }

    fn screen(&mut self, wanted: Option<Resolution>) -> Option<Screen> {
        screen::find(wanted)
    }

    fn date(&mut self) -> Option<i64> {
        facts::date()
    }
}
