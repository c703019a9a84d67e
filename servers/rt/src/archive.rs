//! The initrd: files by name out of a tar archive.
//!
//! The archive is checked as a whole when it is opened; a file whose name is not UTF-8 is passed over. It is read where
//! the loader put it, and never copied: it may be larger than a program's heap can get.

use alloc::format;
use alloc::string::String;
use core::fmt;

use abi::{Protection, Rights};
use tar_no_std::TarArchiveRef;

use crate::{AsHandle, Memory, handle};

/// An archive that can't be mapped, or is no tar file; the reason is the kernel's or the reader's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchiveError(String);

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ArchiveError {}

/// An archive.
#[derive(Debug)]
pub struct Archive<'a> {
    tar: TarArchiveRef<'a>,
}

/// A file of an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File<'a> {
    /// Its path in the archive.
    pub name: String,
    /// Its contents.
    pub contents: &'a [u8],
}

impl Archive<'static> {
    /// Maps the boot archive, of which the first `bytes` bytes are the file, for the rest of the process's life.
    ///
    /// # Errors
    /// If the handle can't be queried or mapped, or allows writing, which no handle to the boot archive does; and as for
    /// [`Archive::new`].
    pub fn map(memory: &Memory, bytes: u64) -> Result<Archive<'static>, ArchiveError> {
        let kernel = |error| ArchiveError(format!("can't map it: {error}"));
        let info = handle::query(memory.handle()).map_err(kernel)?;
        if Rights(info.rights).contains(Rights::WRITE) {
            return Err(ArchiveError("it could be written to".into()));
        }
        let mapping = memory.map(Protection::READ).map_err(kernel)?;
        let length = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(mapping.bytes());
        // SAFETY: mapped for as long as the process lives (it is leaked here) and readable. Nobody writes to it: the kernel
        // gives the boot archive to `init` without the right to, rights only ever get fewer, and this handle has none.
        let contents = unsafe { core::slice::from_raw_parts(mapping.leak(), length) };
        Archive::new(contents)
    }
}

impl<'a> Archive<'a> {
    /// Checks an archive and opens it. Bytes after the last whole block of 512 are passed over, since memory comes in
    /// pages.
    ///
    /// # Errors
    /// If it is no tar archive, or is cut off.
    pub fn new(bytes: &'a [u8]) -> Result<Archive<'a>, ArchiveError> {
        let whole = &bytes[..bytes.len() & !511];
        let tar = TarArchiveRef::new(whole).map_err(|error| ArchiveError(format!("{error}")))?;
        Ok(Archive { tar })
    }

    /// All regular files, in the archive's order.
    pub fn files(&self) -> impl Iterator<Item = File<'a>> + use<'a> {
        self.tar.entries().filter_map(|entry| {
            let name = entry.filename();
            let name = name.as_str().ok()?;
            Some(File {
                name: String::from(name.trim_start_matches("./")),
                contents: entry.data(),
            })
        })
    }

    /// The file of this name; a leading `/` or `./` is passed over.
    pub fn find(&self, name: &str) -> Option<&'a [u8]> {
        let name = name.trim_start_matches("./").trim_start_matches('/');
        self.files()
            .find(|file| file.name == name)
            .map(|file| file.contents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A tar header (POSIX.1-1988 ustar: offsets of name, mode, size, checksum, type, magic) and its file.
    fn member(name: &str, kind: u8, contents: &[u8]) -> Vec<u8> {
        let mut block = std::vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(std::format!("{:011o}\0", contents.len()).as_bytes());
        block[136..148].copy_from_slice(b"00000000000\0");
        block[148..156].fill(b' ');
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(std::format!("{sum:06o}\0 ").as_bytes());
        block.extend(contents);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    }

    fn sample() -> Vec<u8> {
        let mut archive = member("bin/echo", b'0', b"\x7FELF");
        archive.extend(member("files", b'5', b""));
        archive.extend(member("./motd", b'0', &[b'x'; 1000]));
        archive.resize(archive.len() + 1024, 0);
        archive
    }

    #[test]
    fn files_are_listed_and_found_by_name() {
        let mut bytes = sample();
        bytes.extend([0; 100]);
        let archive = Archive::new(&bytes).unwrap();
        let names: Vec<_> = archive
            .files()
            .map(|file| (file.name, file.contents.len()))
            .collect();
        assert_eq!(names, [("bin/echo".into(), 4), ("motd".into(), 1000)]);
        assert_eq!(archive.find("/bin/echo"), Some(&b"\x7FELF"[..]));
        assert_eq!(archive.find("./motd").map(<[u8]>::len), Some(1000));
        assert_eq!(archive.find("bin"), None);
    }

    #[test]
    fn archive_is_mapped_only_if_it_can_not_be_written_to() {
        let bytes = sample();
        let memory = Memory::create(bytes.len() as u64).unwrap();
        memory.write(0, &bytes).unwrap();
        assert!(Archive::map(&memory, bytes.len() as u64).is_err());
        let shared = memory.duplicate(Rights::READ | Rights::QUERY).unwrap();
        // More than there is counts as all there is.
        for length in [bytes.len() as u64, u64::MAX] {
            let archive = Archive::map(&shared, length).unwrap();
            assert_eq!(archive.find("motd").map(<[u8]>::len), Some(1000));
        }
        assert!(Archive::map(&shared, 0).is_err());
        let unreadable = memory.duplicate(Rights::QUERY).unwrap();
        assert!(Archive::map(&unreadable, bytes.len() as u64).is_err());
    }

    #[test]
    fn truncated_or_changed_archives_are_refused_or_whole() {
        let bytes = sample();
        for length in 0..bytes.len() {
            // Whatever is accepted can be walked.
            if let Ok(archive) = Archive::new(&bytes[..length]) {
                assert!(archive.files().count() <= 2);
                assert!(length >= bytes.len() - 511);
            }
        }
        for offset in 0..512 {
            let mut changed = bytes.clone();
            changed[offset] ^= 0x81;
            if let Ok(archive) = Archive::new(&changed) {
                assert!(archive.files().count() <= 2);
            }
        }
        assert!(Archive::new(&[0x55; 4096]).is_err());
        assert!(Archive::new(b"").is_err());
    }
}
