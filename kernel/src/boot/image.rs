//! Checks an ELF file before anything of it is mapped.
//!
//! The kernel loads one program, `init`, but that one comes from a disk and may be anything: every field that is used is
//! checked, and each fault has a name.

use core::fmt;

use abi::Protection;
use abi::layout::{PAGE_SIZE, USER_END, USER_START};
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PF_R, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD};
use elf::endian::LittleEndian;

/// What is wrong with an ELF file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// It is not an ELF file, or not a little-endian 64-bit one, or cut off.
    NotElf,
    /// It is for another machine.
    WrongMachine,
    /// It is not a statically linked executable.
    NotStatic,
    /// It has nothing to load.
    NoSegments,
    /// A segment's bytes are not all in the file, or it is larger in the file than in memory.
    BadSegmentSize,
    /// A segment lies outside the addresses of programs, or wraps.
    BadAddress,
    /// A segment's address and its place in the file don't agree within a page.
    Misaligned,
    /// A segment is writable and executable, or can't be read.
    BadRights,
    /// Two segments share a page.
    Overlap,
    /// The entry point is in no executable segment.
    BadEntry,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ImageError::NotElf => "not a whole 64-bit ELF file",
            ImageError::WrongMachine => "not for x86-64",
            ImageError::NotStatic => "not a statically linked executable",
            ImageError::NoSegments => "it has nothing to load",
            ImageError::BadSegmentSize => "a segment is larger than what the file holds",
            ImageError::BadAddress => "a segment lies outside the addresses of programs",
            ImageError::Misaligned => "a segment is not aligned to pages",
            ImageError::BadRights => "a segment is writable and executable, or not readable",
            ImageError::Overlap => "two segments share a page",
            ImageError::BadEntry => "the entry point is in no executable segment",
        })
    }
}

impl core::error::Error for ImageError {}

/// A segment to load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// Page-aligned address.
    pub address: u64,
    /// Bytes in memory, whole pages.
    pub bytes: u64,
    /// Where in the first page the contents begin.
    pub skip: u64,
    /// The contents; zeros follow.
    pub contents: &'a [u8],
    /// How it is mapped.
    pub protection: Protection,
}

/// A program that may be loaded.
pub struct Image<'a> {
    file: ElfBytes<'a, LittleEndian>,
    bytes: &'a [u8],
    entry: u64,
}

impl<'a> Image<'a> {
    /// Checks a file.
    ///
    /// # Errors
    /// The first fault that was found.
    pub fn parse(bytes: &'a [u8]) -> Result<Image<'a>, ImageError> {
        let file =
            ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(|_| ImageError::NotElf)?;
        if file.ehdr.e_machine != EM_X86_64 || file.ehdr.class != elf::file::Class::ELF64 {
            return Err(ImageError::WrongMachine);
        }
        if file.ehdr.e_type != ET_EXEC {
            return Err(ImageError::NotStatic);
        }
        let headers = file.segments().ok_or(ImageError::NoSegments)?;
        if headers
            .iter()
            .any(|header| matches!(header.p_type, PT_INTERP | PT_DYNAMIC))
        {
            return Err(ImageError::NotStatic);
        }
        let image = Image {
            bytes,
            entry: file.ehdr.e_entry,
            file,
        };
        let (mut any, mut entry) = (false, false);
        for (index, segment) in image.checked().enumerate() {
            let segment = segment?;
            any = true;
            entry |= segment.protection.executable()
                && (segment.address + segment.skip..segment.address + segment.bytes)
                    .contains(&image.entry);
            for other in image.segments().skip(index + 1) {
                if segment.address < other.address + other.bytes
                    && other.address < segment.address + segment.bytes
                {
                    return Err(ImageError::Overlap);
                }
            }
        }
        if !any {
            return Err(ImageError::NoSegments);
        }
        if !entry {
            return Err(ImageError::BadEntry);
        }
        Ok(image)
    }

    /// Address of the first instruction.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// The segments. All were checked by [`parse`](Self::parse).
    pub fn segments(&self) -> impl Iterator<Item = Segment<'a>> {
        self.checked().filter_map(Result::ok)
    }

    fn checked(&self) -> impl Iterator<Item = Result<Segment<'a>, ImageError>> {
        let bytes = self.bytes;
        self.file
            .segments()
            .into_iter()
            .flat_map(|headers| headers.iter())
            .filter(|header| header.p_type == PT_LOAD && header.p_memsz != 0)
            .map(move |header| check(&header, bytes))
    }
}

fn check<'a>(
    header: &elf::segment::ProgramHeader,
    bytes: &'a [u8],
) -> Result<Segment<'a>, ImageError> {
    if header.p_filesz > header.p_memsz {
        return Err(ImageError::BadSegmentSize);
    }
    let end = header
        .p_offset
        .checked_add(header.p_filesz)
        .ok_or(ImageError::BadSegmentSize)?;
    let contents = usize::try_from(header.p_offset)
        .ok()
        .zip(usize::try_from(end).ok())
        .and_then(|(from, to)| bytes.get(from..to))
        .ok_or(ImageError::BadSegmentSize)?;
    let end = header
        .p_vaddr
        .checked_add(header.p_memsz)
        .ok_or(ImageError::BadAddress)?;
    let address = header.p_vaddr & !(PAGE_SIZE - 1);
    // The end is checked first: it can't wrap when it is rounded up then.
    if address < USER_START || end > USER_END {
        return Err(ImageError::BadAddress);
    }
    let end = end.next_multiple_of(PAGE_SIZE);
    if header.p_align > 1 && (header.p_vaddr ^ header.p_offset) & (PAGE_SIZE - 1) != 0 {
        return Err(ImageError::Misaligned);
    }
    let protection = match header.p_flags & (PF_R | PF_W | PF_X) {
        flags if flags == PF_R => Protection::READ,
        flags if flags == PF_R | PF_W => Protection::READ_WRITE,
        flags if flags == PF_R | PF_X => Protection::READ_EXECUTE,
        _ => return Err(ImageError::BadRights),
    };
    Ok(Segment {
        address,
        bytes: end - address,
        skip: header.p_vaddr - address,
        contents,
        protection,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Offset, size in file, address, size in memory, flags.
    type Header = (u64, u64, u64, u64, u32);

    fn file(entry: u64, headers: &[Header]) -> Vec<u8> {
        let mut bytes = vec![0x7F, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(62u16.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(entry.to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        for field in [64, 56, headers.len() as u16, 64, 0, 0] {
            bytes.extend(field.to_le_bytes());
        }
        for &(offset, in_file, address, in_memory, flags) in headers {
            bytes.extend(1u32.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            for field in [offset, address, address, in_file, in_memory, 4096] {
                bytes.extend(field.to_le_bytes());
            }
        }
        bytes.resize(0x3000, 0xCC);
        bytes
    }

    const TEXT: Header = (0x1000, 0x800, 0x20_0000, 0x800, 5);
    const DATA: Header = (0x2010, 0x100, 0x30_0010, 0x2000, 6);

    fn fault(entry: u64, headers: &[Header]) -> ImageError {
        Image::parse(&file(entry, headers)).err().expect("a fault")
    }

    #[test]
    fn a_sound_file_gives_its_segments() {
        let bytes = file(0x20_0010, &[TEXT, DATA]);
        let image = Image::parse(&bytes).unwrap();
        let segments: Vec<_> = image.segments().collect();
        assert_eq!(segments.len(), 2);
        assert_eq!(
            (segments[1].address, segments[1].skip, segments[1].bytes),
            (0x30_0000, 0x10, 0x3000)
        );
        assert_eq!(segments[1].contents.len(), 0x100);
        assert_eq!(image.entry(), 0x20_0010);
    }

    #[test]
    fn each_fault_has_its_name() {
        assert_eq!(Image::parse(b"MZ").err(), Some(ImageError::NotElf));
        assert_eq!(fault(0, &[]), ImageError::NoSegments);
        assert_eq!(fault(0x10, &[TEXT]), ImageError::BadEntry);
        assert_eq!(
            fault(0x30_0020, &[TEXT, DATA]),
            ImageError::BadEntry,
            "data is not executable"
        );
        assert_eq!(
            fault(0x20_0000, &[(0x2F00, 0x800, 0x20_0F00, 0x800, 5)]),
            ImageError::BadSegmentSize
        );
        assert_eq!(
            fault(0x20_0000, &[(0x1000, 0x800, 0x20_0000, 0x700, 5)]),
            ImageError::BadSegmentSize
        );
        assert_eq!(
            fault(0x20_0000, &[(u64::MAX - 0xFF, 0x200, 0x20_0F00, 0x800, 5)]),
            ImageError::BadSegmentSize
        );
        assert_eq!(
            fault(0, &[(0x1000, 0x10, 0, 0x10, 5)]),
            ImageError::BadAddress
        );
        assert_eq!(
            fault(0, &[(0x1000, 0x10, 0xFFFF_8000_0000_0000, 0x10, 5)]),
            ImageError::BadAddress
        );
        assert_eq!(
            fault(0, &[(0x1000, 0x10, USER_END - 0x1000, 0x1001, 5)]),
            ImageError::BadAddress
        );
        assert_eq!(
            fault(0, &[(0x1000, 0x10, 0x20_0000, u64::MAX, 5)]),
            ImageError::BadAddress
        );
        assert_eq!(
            fault(0x20_0000, &[(0x1008, 0x10, 0x20_0000, 0x10, 5)]),
            ImageError::Misaligned
        );
        assert_eq!(
            fault(0x20_0000, &[(0x1000, 0x10, 0x20_0000, 0x10, 7)]),
            ImageError::BadRights
        );
        assert_eq!(
            fault(0x20_0000, &[TEXT, (0x1800, 0x10, 0x20_0800, 0x10, 6)]),
            ImageError::Overlap
        );
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let whole = file(0x20_0010, &[TEXT, DATA]);
        for length in 0..whole.len() {
            let _ = Image::parse(&whole[..length]);
        }
        assert!(Image::parse(&whole[..0x1200]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(entry: u64, headers: Vec<(u64, u64, u64, u64, u32)>) {
            let bytes = file(entry, &headers[..headers.len().min(20)]);
            if let Ok(image) = Image::parse(&bytes) {
                for segment in image.segments() {
                    prop_assert!(segment.address + segment.bytes <= USER_END);
                    prop_assert!(segment.skip + segment.contents.len() as u64 <= segment.bytes);
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Image::parse(&bytes);
        }
    }
}
