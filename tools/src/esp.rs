//! Makes the EFI system partition: a FAT32 volume with the loader, its configuration, the kernel and its modules.
//!
//! It must be *real* FAT32: a volume with fewer than 65,525 clusters is FAT16 by Microsoft's rule, whatever its header
//! claims, and firmware of real machines reads it as such. Hence the size and the cluster of one sector. Contents decide
//! the bytes: the volume's serial number comes from the caller, and the `fatfs` crate without its clock writes one fixed
//! date.

use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result, ensure};

use crate::initrd::Files;

/// Bytes of a sector, here and on the disk.
pub const SECTOR: u64 = 512;
/// Size of the volume in bytes. Only what is used takes room in the image's file.
pub const SIZE: u64 = 64 << 20;

/// Microsoft's FAT specification, "Hidden sectors": how many sectors lie before the volume.
const HIDDEN_SECTORS_AT: u64 = 0x1c;
/// The FAT32 copy of the boot sector, as `fatfs` lays it out.
const BACKUP_BOOT_SECTOR: u64 = 6;

/// Formats `volume` (of [`SIZE`] bytes, zeroed) and writes `files` to it.
///
/// `serial` is the volume's serial number; `first_sector` is where the volume starts on its disk.
///
/// # Errors
/// If the files don't fit or the volume can't be written.
pub fn write<V: Read + Write + Seek>(
    mut volume: V,
    files: &Files,
    serial: u32,
    first_sector: u64,
) -> Result<()> {
    let bytes: u64 = files.values().map(|f| f.len() as u64).sum();
    ensure!(
        bytes < SIZE - (4 << 20),
        "the image's files take {bytes} bytes, more than fit the EFI system partition of {SIZE}"
    );
    let options = fatfs::FormatVolumeOptions::new()
        .fat_type(fatfs::FatType::Fat32)
        .bytes_per_sector(SECTOR as u16)
        .bytes_per_cluster(SECTOR as u32)
        .total_sectors((SIZE / SECTOR) as u32)
        .volume_id(serial)
        .volume_label(*b"SWITCHYARD ");
    fatfs::format_volume(&mut volume, options).context("formatting the EFI system partition")?;
    for sector in [0, BACKUP_BOOT_SECTOR] {
        volume.seek(SeekFrom::Start(sector * SECTOR + HIDDEN_SECTORS_AT))?;
        volume.write_all(&(first_sector as u32).to_le_bytes())?;
    }
    volume.rewind()?;

    let fs = fatfs::FileSystem::new(&mut volume, fatfs::FsOptions::new())
        .context("the new EFI system partition")?;
    for (name, bytes) in files {
        let mut folder = fs.root_dir();
        let mut parts = name.split('/').filter(|p| !p.is_empty()).peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_some() {
                folder = folder
                    .create_dir(part)
                    .with_context(|| format!("folder {part} of {name}"))?;
            } else {
                let mut file = folder.create_file(part).with_context(|| name.clone())?;
                file.truncate()?;
                file.write_all(bytes).with_context(|| name.clone())?;
                file.flush()?;
            }
        }
    }
    fs.unmount().context("closing the EFI system partition")?;
    Ok(())
}

/// Reads all files of a volume back, by their path from the root (`EFI/BOOT/BOOTX64.EFI`).
///
/// # Errors
/// If the volume is no FAT32 volume or can't be read.
pub fn read<V: Read + Write + Seek>(volume: V) -> Result<Files> {
    let fs =
        fatfs::FileSystem::new(volume, fatfs::FsOptions::new()).context("EFI system partition")?;
    ensure!(
        fs.fat_type() == fatfs::FatType::Fat32,
        "the EFI system partition is {:?}, not FAT32",
        fs.fat_type()
    );
    let mut files = Files::new();
    read_below(&fs.root_dir(), "", &mut files)?;
    Ok(files)
}

fn read_below<V: Read + Write + Seek>(
    folder: &fatfs::Dir<V>,
    prefix: &str,
    files: &mut Files,
) -> Result<()> {
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        let full = format!("{prefix}{name}");
        if entry.is_dir() {
            read_below(&entry.to_dir(), &format!("{full}/"), files)?;
        } else {
            let mut bytes = Vec::new();
            entry.to_file().read_to_end(&mut bytes)?;
            files.insert(full, bytes);
        }
    }
    Ok(())
}
