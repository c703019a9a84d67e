//! Volumes and files.
//!
//! The configuration is looked for on the volume the loader came from, then on all others: QEMU's `-kernel` starts a
//! loader from a pseudo file system that has nothing else on it. If no volume known to the firmware has one, it is
//! asked to connect all its drivers and the search is done once more, since a firmware in a hurry connects only what
//! it boots from.

use crate::app::status_text;
use crate::memory::Pages;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot_core::config::CONFIG_PATHS;
use boot_core::error::{BootError, Fault, InFile};
use boot_core::front::{Block, FoundConfig, LoadedFile};
use boot_core::path::{FilePath, Volume as Place};
use boot_core::response::FileFacts;
use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol, SearchType};
use uefi::proto::ProtocolPointer;
use uefi::proto::device_path::media::PartitionSignature;
use uefi::proto::device_path::{DevicePath, DevicePathNodeEnum};
use uefi::proto::loaded_image::LoadedImage;
use uefi::proto::media::file::{
    File, FileAttribute, FileInfo, FileMode, FileSystemVolumeLabel, FileType, RegularFile,
};
use uefi::proto::media::fs::SimpleFileSystem;
use uefi::{CString16, Handle, Status};

/// Larger than any sensible configuration.
const MAX_CONFIG: u64 = 1 << 20;
/// Bytes asked for at once; some firmware fails on very large reads.
const CHUNK: usize = 1 << 20;

/// A file system the firmware can read.
#[derive(Clone, Debug)]
pub struct Volume {
    handle: Handle,
    /// Device path down to the disk, for "another partition of the same disk".
    disk: Vec<u8>,
    partition: u32,
    signature: PartitionSignature,
}

/// Opens a protocol without claiming it: the firmware's own drivers and console go on using it.
pub fn open<P: ProtocolPointer + ?Sized>(handle: Handle) -> uefi::Result<ScopedProtocol<P>> {
    let params = OpenProtocolParams {
        handle,
        agent: boot::image_handle(),
        controller: None,
    };
    // SAFETY: the loader is a boot application: nothing disconnects drivers or unloads images while it runs, but for
    // its own call to `connect_controller`, during which no protocol is held open.
    unsafe { boot::open_protocol(params, OpenProtocolAttributes::GetProtocol) }
}

impl Volume {
    fn new(handle: Handle) -> Self {
        let mut this = Self {
            handle,
            disk: Vec::new(),
            partition: 0,
            signature: PartitionSignature::None,
        };
        if let Ok(path) = open::<DevicePath>(handle) {
            for node in path.node_iter() {
                if let Ok(DevicePathNodeEnum::MediaHardDrive(drive)) = node.as_enum() {
                    this.partition = drive.partition_number();
                    this.signature = drive.partition_signature();
                    break;
                }
                this.disk.extend_from_slice(node.data());
            }
        }
        this
    }

    /// What to call it in messages.
    pub fn name(&self) -> String {
        match &self.signature {
            PartitionSignature::Guid(guid) => format!("partition {} ({guid})", self.partition),
            _ if self.partition != 0 => format!("partition {}", self.partition),
            _ => "an unpartitioned volume".to_owned(),
        }
    }

    fn label(&self) -> Option<String> {
        let mut root = open::<SimpleFileSystem>(self.handle)
            .ok()?
            .open_volume()
            .ok()?;
        Some(
            root.get_boxed_info::<FileSystemVolumeLabel>()
                .ok()?
                .volume_label()
                .to_string(),
        )
    }

    fn open(&self, path: &str) -> Result<(RegularFile, u64), Fault> {
        let failed = |e: uefi::Error| match e.status() {
            Status::NOT_FOUND => Fault::NotFound,
            _ => Fault::ReadFailed(status_text(&e)),
        };
        let name =
            CString16::try_from(path.replace('/', "\\").as_str()).map_err(|_| Fault::BadPath)?;
        let mut root = open::<SimpleFileSystem>(self.handle)
            .and_then(|mut fs| fs.open_volume())
            .map_err(failed)?;
        let file = root
            .open(&name, FileMode::Read, FileAttribute::empty())
            .map_err(failed)?;
        match file.into_type().map_err(failed)? {
            FileType::Dir(_) => Err(Fault::IsFolder),
            FileType::Regular(mut file) => {
                let size = file
                    .get_boxed_info::<FileInfo>()
                    .map_err(failed)?
                    .file_size();
                Ok((file, size))
            }
        }
    }

    fn read_config(&self, path: &str) -> Result<Vec<u8>, Fault> {
        let (mut file, size) = self.open(path)?;
        if size > MAX_CONFIG {
            return Err(Fault::ReadFailed("larger than 1 MiB".to_owned()));
        }
        let mut contents = alloc::vec![0; size as usize];
        read_all(&mut file, &mut contents)?;
        Ok(contents)
    }
}

fn read_all(file: &mut RegularFile, into: &mut [u8]) -> Result<(), Fault> {
    let mut done = 0;
    while done < into.len() {
        let end = into.len().min(done + CHUNK);
        let got = file
            .read(&mut into[done..end])
            .map_err(|e| Fault::ReadFailed(status_text(&e)))?;
        if got == 0 {
            return Err(Fault::ReadFailed(format!(
                "it ends at byte {done} of {}",
                into.len()
            )));
        }
        done += got;
    }
    Ok(())
}

/// All volumes, the one the loader came from first.
fn volumes() -> Vec<Volume> {
    let own = open::<LoadedImage>(boot::image_handle())
        .ok()
        .and_then(|image| image.device());
    let mut handles = boot::find_handles::<SimpleFileSystem>().unwrap_or_default();
    handles.sort_by_key(|handle| Some(*handle) != own);
    handles.into_iter().map(Volume::new).collect()
}

fn connect_everything() {
    let Ok(handles) = boot::locate_handle_buffer(SearchType::AllHandles) else {
        return;
    };
    for handle in handles.iter() {
        // Most handles are no controllers, and say so.
        let _ = boot::connect_controller(*handle, &[None], None, true);
    }
}

/// Finds the configuration file.
///
/// # Errors
/// [`Fault::NoConfig`] if there is none, or what is wrong with the first one found.
pub fn find_config() -> Result<FoundConfig<Volume>, BootError> {
    for round in 0..2 {
        for volume in volumes() {
            for path in CONFIG_PATHS {
                match volume.read_config(path) {
                    Ok(contents) => {
                        return Ok(FoundConfig {
                            volume_name: volume.name(),
                            volume,
                            path: (*path).to_owned(),
                            contents,
                        });
                    }
                    // QEMU's pseudo file system and others answer a missing file in several ways.
                    Err(Fault::NotFound | Fault::IsFolder) => {}
                    Err(fault) => {
                        crate::say!(
                            "switchyard boot: warning: {path} on {}: {fault}",
                            volume.name()
                        );
                    }
                }
            }
        }
        if round == 0 {
            connect_everything();
        }
    }
    Err(Fault::NoConfig).in_file("limine.conf")
}

/// Reads a file whole into pages of its own.
///
/// # Errors
/// What is wrong with it.
pub fn read(home: &Volume, path: &FilePath) -> Result<LoadedFile<Pages>, Fault> {
    let volume = find_volume(home, &path.volume)?;
    let (mut file, size) = volume.open(&path.path)?;
    if size == 0 {
        return Err(Fault::Empty);
    }
    let mut pages = Pages::new(size).ok_or(Fault::NoMemory { bytes: size })?;
    read_all(&mut file, &mut pages.bytes_mut()[..size as usize])?;

    let (mut gpt_partition, mut mbr_disk) = ([0; 16], 0);
    match &volume.signature {
        PartitionSignature::Guid(guid) => gpt_partition = guid.to_bytes(),
        PartitionSignature::Mbr(id) => mbr_disk = u32::from_le_bytes(*id),
        _ => {}
    }
    Ok(LoadedFile {
        facts: FileFacts {
            address: pages.phys(),
            size,
            path: path.path.clone(),
            string: String::new(),
            partition: volume.partition,
            mbr_disk,
            gpt_partition,
        },
        pages,
    })
}

fn find_volume(home: &Volume, place: &Place) -> Result<Volume, Fault> {
    let found = match place {
        Place::Config => Some(home.clone()),
        Place::Partition(n) => volumes()
            .into_iter()
            .find(|v| v.partition == *n && v.disk == home.disk),
        Place::Guid(wanted) => volumes().into_iter().find(|v| match &v.signature {
            PartitionSignature::Guid(guid) => guid.to_string() == *wanted,
            _ => false,
        }),
        Place::Label(wanted) => volumes().into_iter().find(|v| {
            v.label()
                .is_some_and(|label| label.eq_ignore_ascii_case(wanted))
        }),
    };
    found.ok_or(Fault::NoSuchVolume)
}
