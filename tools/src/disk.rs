//! Makes the disk: a GPT with a protective MBR and one EFI system partition. The file is the image QEMU boots and the
//! image that goes on a USB stick.
//!
//! All identifiers are derived from the contents, so that equal files make an equal image. The file is written under
//! another name and moved into place, so that a reader never sees half an image. What may go wrong: the second table
//! lies at the end of the *image*, so on a bigger stick tools may offer to move it; firmware does not care.

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fscommon::{BufStream, StreamSlice};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types;
use uuid::Uuid;

use crate::esp::{self, SECTOR};
use crate::initrd::Files;

/// First sector of the partition: 1 MiB, where every partitioning tool aligns.
pub const FIRST_SECTOR: u64 = (1 << 20) / SECTOR;
/// Room after the partition for the second table, rounded up to 1 MiB.
const TAIL: u64 = 1 << 20;
/// Size of an image in bytes.
pub const SIZE: u64 = (1 << 20) + esp::SIZE + TAIL;

/// Namespace of the identifiers made here (a version 4 UUID drawn once for this project).
const NAMESPACE: Uuid = Uuid::from_u128(0x9b1c7f0e_52a4_4b0d_8c35_6d1f7a2e9c48);

/// An identifier of `files` and of the way this file lays them out.
pub fn fingerprint(files: &Files) -> Uuid {
    let mut all = format!("layout 1, {SIZE} {}", esp::SIZE).into_bytes();
    for (name, bytes) in files {
        all.extend_from_slice(&(name.len() as u64).to_le_bytes());
        all.extend_from_slice(name.as_bytes());
        all.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        all.extend_from_slice(bytes);
    }
    Uuid::new_v5(&NAMESPACE, &all)
}

/// Writes an image of `files` to `path`.
///
/// # Errors
/// If the files don't fit, or the image can't be written.
pub fn write(path: &Path, files: &Files) -> Result<()> {
    let folder = path.parent().context("an image needs a folder")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut file = tempfile::NamedTempFile::new_in(folder).context("temporary image")?;
    file.as_file().set_len(SIZE).context("sizing the image")?;
    let print = fingerprint(files);
    write_table(file.as_file_mut(), print)?;
    let volume = StreamSlice::new(
        file.as_file_mut(),
        FIRST_SECTOR * SECTOR,
        FIRST_SECTOR * SECTOR + esp::SIZE,
    )?;
    let serial = (print.as_u128() >> 96) as u32;
    esp::write(BufStream::new(volume), files, serial, FIRST_SECTOR)?;
    file.as_file_mut().flush()?;
    let file = file
        .persist(path)
        .with_context(|| path.display().to_string())?;
    make_readable(&file)
}

/// Temporary files are their owner's alone; an image is an ordinary file.
fn make_readable(file: &std::fs::File) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
        .context("permissions of the image")
}

fn write_table(file: &mut std::fs::File, print: Uuid) -> Result<()> {
    let last =
        u32::try_from(SIZE / SECTOR - 1).context("the image is too big for a protective MBR")?;
    ProtectiveMBR::with_lb_size(last)
        .overwrite_lba0(file)
        .context("protective MBR")?;
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, Some(Uuid::new_v5(&print, b"disk")))
        .context("partition table")?;
    let partition = Partition {
        part_type_guid: partition_types::EFI,
        part_guid: Uuid::new_v5(&print, b"partition"),
        first_lba: FIRST_SECTOR,
        last_lba: FIRST_SECTOR + esp::SIZE / SECTOR - 1,
        flags: 0,
        name: "EFI system partition".into(),
    };
    disk.update_partitions(BTreeMap::from([(1, partition)]))
        .context("partition table")?;
    disk.write().context("partition table")?;
    Ok(())
}

/// Reads an image's files back, after checking its tables.
///
/// # Errors
/// If the image has no sound GPT with one EFI system partition, or that holds no FAT32 volume.
pub fn read(path: &Path) -> Result<Files> {
    let mut file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut sector = [0; SECTOR as usize];
    file.read_exact(&mut sector)?;
    ensure!(
        sector[510..] == [0x55, 0xaa] && sector[450] == 0xee,
        "{}: no protective MBR",
        path.display()
    );
    file.rewind()?;
    let disk = gpt::GptConfig::new()
        .writable(false)
        .logical_block_size(LogicalBlockSize::Lb512)
        .open_from_device(file)
        .context("partition table")?;
    let mut used = disk.partitions().values().filter(|p| p.is_used());
    let partition = used.next().context("no partition")?;
    ensure!(used.next().is_none(), "more than one partition");
    ensure!(
        partition.part_type_guid == partition_types::EFI,
        "the partition is no EFI system partition"
    );
    let (first, last) = (partition.first_lba, partition.last_lba);
    drop(disk);
    // `fatfs` asks for a writer even to read; nothing is written without `unmount` of a changed volume.
    let mut copy = Vec::new();
    let mut file = std::fs::File::open(path)?;
    file.seek(std::io::SeekFrom::Start(first * SECTOR))?;
    file.take((last + 1 - first) * SECTOR)
        .read_to_end(&mut copy)?;
    esp::read(std::io::Cursor::new(copy))
}
