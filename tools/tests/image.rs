//! The image, written and read back: tables, volume and files are what firmware expects.

use std::io::{Read, Seek, SeekFrom};

use tools::initrd::Files;
use tools::{disk, esp, image};

fn some_files() -> Files {
    Files::from([
        (image::LOADER.into(), vec![7; 200_000]),
        (image::CONFIG.into(), b"timeout: 0\n".to_vec()),
        (
            image::KERNEL.into(),
            (0..2_000_001u32)
                .map(|n| (n.wrapping_mul(n) >> 3) as u8)
                .collect(),
        ),
        (image::INITRD.into(), Vec::new()),
    ])
}

#[test]
fn files_come_back_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    disk::write(&path, &some_files()).unwrap();
    assert_eq!(disk::read(&path).unwrap(), some_files());
}

#[test]
fn equal_files_make_equal_images_and_other_files_other_identifiers() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, files: &Files| {
        let path = folder.path().join(name);
        disk::write(&path, files).unwrap();
        std::fs::read(path).unwrap()
    };
    let first = write("a.img", &some_files());
    assert!(
        first == write("b.img", &some_files()),
        "two images of the same files differ"
    );
    let mut other = some_files();
    other.insert(image::INITRD.into(), vec![1]);
    let other = write("c.img", &other);
    // The disk's GUID in the GPT header (UEFI specification 2.10, §5.3.2).
    assert_ne!(first[512 + 56..512 + 72], other[512 + 56..512 + 72]);
}

#[test]
fn volume_is_real_fat32_that_starts_at_one_mebibyte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    disk::write(&path, &some_files()).unwrap();
    let mut file = std::fs::File::open(&path).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    let mut boot = [0; 512];
    file.read_exact(&mut boot).unwrap();
    let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let long = |at: usize| u64::from(u32::from_le_bytes(boot[at..at + 4].try_into().unwrap()));
    // Microsoft's FAT specification: bytes a sector, sectors a cluster, reserved, tables, sectors of a table.
    let (sector, cluster, reserved, tables, table) = (
        word(11),
        u64::from(boot[13]),
        word(14),
        u64::from(boot[16]),
        long(36),
    );
    assert_eq!(sector, esp::SECTOR);
    let clusters = (esp::SIZE / sector - reserved - tables * table) / cluster;
    assert!(clusters >= 65_525, "{clusters} clusters make it FAT16");
    assert_eq!(long(0x1c), disk::FIRST_SECTOR, "hidden sectors");
    assert_eq!(word(22), 0, "a FAT16 table size");
    // The protective MBR covers the whole disk from sector 1 on.
    file.rewind().unwrap();
    file.read_exact(&mut boot).unwrap();
    let long = |at: usize| u64::from(u32::from_le_bytes(boot[at..at + 4].try_into().unwrap()));
    assert_eq!(
        (boot[450], long(454), long(458)),
        (0xee, 1, disk::SIZE / 512 - 1)
    );
}

#[test]
fn image_is_written_again_only_if_its_contents_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("build/a.img");
    assert!(image::write_if_changed(&path, &some_files()).unwrap());
    assert!(!image::write_if_changed(&path, &some_files()).unwrap());
    let mut other = some_files();
    other.insert(image::CONFIG.into(), b"timeout: 1\n".to_vec());
    assert!(image::write_if_changed(&path, &other).unwrap());
    assert_eq!(disk::read(&path).unwrap(), other);
    std::fs::remove_file(&path).unwrap();
    assert!(image::write_if_changed(&path, &other).unwrap());
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    let files = Files::from([(image::INITRD.to_owned(), vec![0; esp::SIZE as usize])]);
    let error = disk::write(&path, &files).unwrap_err();
    assert!(error.to_string().contains("more than fit"), "{error}");
    assert!(!path.exists(), "half an image was left behind");
}

#[test]
fn damaged_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    disk::write(&path, &some_files()).unwrap();
    let good = std::fs::read(&path).unwrap();
    for (what, at) in [("protective MBR", 510), ("volume", (1 << 20) + 11)] {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        std::fs::write(&path, &bad).unwrap();
        assert!(disk::read(&path).is_err(), "{what}");
    }
    std::fs::write(&path, &good[..100]).unwrap();
    assert!(disk::read(&path).is_err(), "truncated");
    std::fs::write(&path, b"").unwrap();
    assert!(disk::read(&path).is_err(), "empty");
}
