//! What an ELF file asks for, and whether it may have that.
//!
//! The file's words are believed only after they were checked: sums for wrap-around, segments for bounds, order and shared
//! pages; a segment that is writable and executable at once is refused. A 32-bit program may be position-independent: then it
//! is put at [`PIE_BASE`], and its relocations, which may only add that base to words of the file, are done when it is loaded.

use alloc::vec::Vec;
use core::fmt;

use abi::Protection;
use abi::layout::{PAGE_SIZE, USER_START};
use elf::ElfBytes;
use elf::abi::{
    DT_JMPREL, DT_NEEDED, DT_REL, DT_RELA, DT_RELSZ, EM_386, EM_X86_64, ET_DYN, ET_EXEC, PF_R,
    PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_TLS,
};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;

use super::places;
use crate::process::Mode;
use crate::{Process, Result};

/// Largest image in bytes, all segments together.
pub const MOST_BYTES: u64 = 1 << 30;
/// Where a position-independent program is put.
pub const PIE_BASE: u64 = 0x0040_0000;

/// The relocation that adds the base (System V ABI, Intel386 supplement): the only one that a static program needs.
const R_386_RELATIVE: u32 = 8;
/// Bytes of an entry of a 32-bit table of relocations.
const REL_BYTES: usize = 8;

/// Why a file is not a program that can be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElfError {
    /// It does not begin with the ELF magic number.
    NotElf,
    /// Its header or table of segments is cut off or senseless.
    Malformed,
    /// It is neither 64-bit nor 32-bit little-endian.
    UnknownClass,
    /// It is not for x86-64, or, if it is 32-bit, not for the 386 and its successors.
    WrongMachine,
    /// It is not a program that is complete by itself (a library, an object file, or it wants a dynamic linker); or it is a
    /// position-independent one of 64 bits.
    NotStatic,
    /// It wants thread-local storage, which the SDK doesn't offer.
    ThreadLocal,
    /// It has nothing to load.
    NoSegments,
    /// Segment number *n* reaches past the end of the file.
    SegmentPastFile(usize),
    /// Segment *n* is smaller in memory than in the file.
    SegmentShrinks(usize),
    /// The end of segment *n* wraps around.
    SegmentWraps(usize),
    /// Segment *n* is outside of where programs may lie.
    SegmentOutside(usize),
    /// Segment *n* shares a page with another or is out of order.
    SegmentsOverlap(usize),
    /// Segment *n* is writable and executable.
    WritableAndExecutable(usize),
    /// Segment *n* can't be read.
    Unreadable(usize),
    /// All segments together are larger than [`MOST_BYTES`].
    TooLarge,
    /// The entry point is in no executable segment.
    BadEntry,
    /// The table of relocations is not in the file, or one is for a word that is not.
    BadRelocation,
    /// A relocation of this type, which only a dynamic linker could do.
    Relocation(u32),
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElfError::NotElf => f.write_str("not an ELF file"),
            ElfError::Malformed => f.write_str("ELF header or segment table is malformed"),
            ElfError::UnknownClass => f.write_str("not a little-endian ELF file of 64 or 32 bits"),
            ElfError::WrongMachine => f.write_str("not an x86 program"),
            ElfError::NotStatic => f.write_str("not a static program of fixed address"),
            ElfError::ThreadLocal => f.write_str("wants thread-local storage"),
            ElfError::NoSegments => f.write_str("has nothing to load"),
            ElfError::SegmentPastFile(n) => {
                write!(f, "segment {n} reaches past the end of the file")
            }
            ElfError::SegmentShrinks(n) => {
                write!(f, "segment {n} is smaller in memory than in the file")
            }
            ElfError::SegmentWraps(n) => write!(f, "segment {n} wraps around the address space"),
            ElfError::SegmentOutside(n) => write!(f, "segment {n} is outside of the program area"),
            ElfError::SegmentsOverlap(n) => write!(f, "segment {n} overlaps the one before it"),
            ElfError::WritableAndExecutable(n) => {
                write!(f, "segment {n} is writable and executable")
            }
            ElfError::Unreadable(n) => write!(f, "segment {n} can't be read"),
            ElfError::TooLarge => f.write_str("larger than 1 GiB"),
            ElfError::BadEntry => f.write_str("entry point is in no executable segment"),
            ElfError::BadRelocation => f.write_str("a relocation is for what is not in the file"),
            ElfError::Relocation(kind) => {
                write!(f, "a relocation of type {kind} needs a dynamic linker")
            }
        }
    }
}

impl core::error::Error for ElfError {}

/// One segment to load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its first byte's address.
    pub address: u64,
    /// Where its bytes begin in the file.
    pub file_offset: usize,
    /// How many there are; the rest of it is zeros.
    pub file_bytes: usize,
    /// Its size in memory.
    pub memory_bytes: u64,
    /// How its pages are mapped.
    pub protection: Protection,
}

impl Segment {
    /// The address of its first page.
    pub(super) const fn first_page(&self) -> u64 {
        self.address & !(PAGE_SIZE - 1)
    }

    /// One past its last page. Checked not to wrap when the plan was made.
    pub(super) const fn pages_end(&self) -> u64 {
        (self.address + self.memory_bytes + PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
    }
}

/// What a program's file asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Whether the program is 64-bit or 32-bit.
    pub mode: Mode,
    /// The first instruction's address.
    pub entry: u64,
    /// What to load, by rising address.
    pub segments: Vec<Segment>,
    /// What was added to the file's addresses.
    base: u64,
    /// Offsets in the file of the 32-bit words to which it is added as well.
    relocations: Vec<usize>,
}

impl Plan {
    /// Checks a file.
    ///
    /// # Errors
    /// Names the first thing wrong with it.
    pub fn new(file: &[u8]) -> core::result::Result<Plan, ElfError> {
        if !file.starts_with(b"\x7FELF") {
            return Err(ElfError::NotElf);
        }
        // Class and byte order by hand first: the parser would call such a file malformed.
        if file.get(4).is_some_and(|class| !matches!(class, 1 | 2))
            || file.get(5).is_some_and(|order| *order != 1)
        {
            return Err(ElfError::UnknownClass);
        }
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| ElfError::Malformed)?;
        let (mode, machine) = match elf.ehdr.class {
            Class::ELF64 => (Mode::Long, EM_X86_64),
            Class::ELF32 => (Mode::Compat, EM_386),
        };
        if elf.ehdr.e_machine != machine {
            return Err(ElfError::WrongMachine);
        }
        let base = match (elf.ehdr.e_type, mode) {
            (ET_EXEC, _) => 0,
            (ET_DYN, Mode::Compat) => PIE_BASE,
            _ => return Err(ElfError::NotStatic),
        };
        let mut segments: Vec<Segment> = Vec::new();
        let mut total = 0_u64;
        for (number, header) in elf.segments().into_iter().flatten().enumerate() {
            match header.p_type {
                PT_LOAD if header.p_memsz != 0 => {}
                PT_DYNAMIC if base != 0 => continue,
                PT_INTERP | PT_DYNAMIC => return Err(ElfError::NotStatic),
                PT_TLS if header.p_memsz != 0 => return Err(ElfError::ThreadLocal),
                _ => continue,
            }
            let segment = segment(&header, number, file, mode, base)?;
            if segments
                .last()
                .is_some_and(|last| segment.first_page() < last.pages_end())
            {
                return Err(ElfError::SegmentsOverlap(number));
            }
            // Neither term is above the end of images, and the sum is checked each time.
            total += segment.pages_end() - segment.first_page();
            if total > MOST_BYTES {
                return Err(ElfError::TooLarge);
            }
            segments.push(segment);
        }
        if segments.is_empty() {
            return Err(ElfError::NoSegments);
        }
        let entry = elf
            .ehdr
            .e_entry
            .checked_add(base)
            .ok_or(ElfError::BadEntry)?;
        let in_text = |segment: &Segment| {
            segment.protection.executable()
                && entry >= segment.address
                && entry - segment.address < segment.memory_bytes
        };
        if !segments.iter().any(in_text) {
            return Err(ElfError::BadEntry);
        }
        let relocations = if base == 0 {
            Vec::new()
        } else {
            relocations(&elf, file, base, &segments)?
        };
        Ok(Plan {
            mode,
            entry,
            segments,
            base,
            relocations,
        })
    }

    /// Whether there are such words.
    pub(super) fn is_relocated(&self) -> bool {
        !self.relocations.is_empty()
    }

    /// The words that are other in memory than in the file: where each is in the file, and what it becomes.
    pub(super) fn relocated(&self, file: &[u8]) -> Vec<(usize, u32)> {
        let moved = |place: &usize| {
            let word = word32(file, *place)?;
            Some((*place, word.wrapping_add(self.base as u32)))
        };
        self.relocations.iter().filter_map(moved).collect()
    }

    /// Puts the program's image into an empty process. `file` is the one that the plan was made of.
    ///
    /// # Errors
    /// `NoMemory`, `QuotaExceeded`, `NoRight`; `OutOfRange` with another file.
    pub fn load(&self, file: &[u8], process: &Process) -> Result<()> {
        for segment in &self.segments {
            self.put(segment, file, process)?;
        }
        Ok(())
    }
}

/// Segment `number`, checked by itself.
fn segment(
    header: &ProgramHeader,
    number: usize,
    file: &[u8],
    mode: Mode,
    base: u64,
) -> core::result::Result<Segment, ElfError> {
    let file_end = header
        .p_offset
        .checked_add(header.p_filesz)
        .ok_or(ElfError::SegmentPastFile(number))?;
    if file_end > file.len() as u64 {
        return Err(ElfError::SegmentPastFile(number));
    }
    if header.p_filesz > header.p_memsz {
        return Err(ElfError::SegmentShrinks(number));
    }
    let address = header
        .p_vaddr
        .checked_add(base)
        .ok_or(ElfError::SegmentWraps(number))?;
    let end = address
        .checked_add(header.p_memsz)
        .ok_or(ElfError::SegmentWraps(number))?;
    if address < USER_START || end > places(mode).image_end {
        return Err(ElfError::SegmentOutside(number));
    }
    let protection = match header.p_flags & (PF_R | PF_W | PF_X) {
        flags if flags & PF_R == 0 => return Err(ElfError::Unreadable(number)),
        flags if flags & PF_W != 0 && flags & PF_X != 0 => {
            return Err(ElfError::WritableAndExecutable(number));
        }
        flags if flags & PF_W != 0 => Protection::READ_WRITE,
        flags if flags & PF_X != 0 => Protection::READ_EXECUTE,
        _ => Protection::READ,
    };
    Ok(Segment {
        address,
        file_offset: header.p_offset as usize,
        file_bytes: header.p_filesz as usize,
        memory_bytes: header.p_memsz,
        protection,
    })
}

/// The 32-bit word at an offset in the file.
fn word32(file: &[u8], offset: usize) -> Option<u32> {
    let bytes = file.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Where in the file a 32-bit program has the words to which its base must be added.
fn relocations(
    elf: &ElfBytes<'_, LittleEndian>,
    file: &[u8],
    base: u64,
    segments: &[Segment],
) -> core::result::Result<Vec<usize>, ElfError> {
    let Some(dynamic) = elf.dynamic().map_err(|_| ElfError::Malformed)? else {
        return Ok(Vec::new());
    };
    let (mut table, mut bytes) = (0, 0);
    for entry in dynamic.iter() {
        match entry.d_tag {
            DT_REL => table = entry.d_val(),
            DT_RELSZ => bytes = entry.d_val() as usize,
            DT_NEEDED | DT_JMPREL | DT_RELA => return Err(ElfError::NotStatic),
            _ => {}
        }
    }
    // Where in the file so many bytes at an address are, if they all are there.
    let find = |address: u64, bytes: usize| {
        let address = address.checked_add(base)?;
        segments.iter().find_map(|segment| {
            let within = usize::try_from(address.checked_sub(segment.address)?).ok()?;
            let end = within.checked_add(bytes)?;
            (end <= segment.file_bytes).then(|| segment.file_offset + within)
        })
    };
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let table = find(table, bytes)
        .and_then(|start| file.get(start..start + bytes))
        .ok_or(ElfError::BadRelocation)?;
    let mut places = Vec::new();
    for entry in table.chunks_exact(REL_BYTES) {
        let (address, info) = (word32(entry, 0), word32(entry, 4));
        let (Some(address), Some(info)) = (address, info) else {
            return Err(ElfError::BadRelocation);
        };
        match info & 0xFF {
            R_386_RELATIVE => {}
            other => return Err(ElfError::Relocation(other)),
        }
        places.push(find(u64::from(address), 4).ok_or(ElfError::BadRelocation)?);
    }
    Ok(places)
}
