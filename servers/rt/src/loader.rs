//! Programs: what an ELF file asks for, checked, and put into a new process.
//!
//! The checks come first and are pure ([`Plan::new`]), so that a bad file costs nothing and is named. The file's words are
//! believed only after that: sums are checked for wrap-around, segments for bounds, order and shared pages, and a segment
//! that is writable and executable at once is refused. What a program is given beside its image is a stack with an
//! unmapped page below it, and its start block.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use abi::layout::{PAGE_SIZE, USER_START};
use abi::{Error, Protection};
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PF_R, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_TLS};
use elf::endian::LittleEndian;
use elf::file::Class;

use crate::{Memory, Process, Result, Thread, memory, start};

/// One past the highest address of an image; stack, start block, heap and mappings lie above.
pub const IMAGE_END: u64 = 0x0000_0700_0000_0000;
/// Where the start block is mapped.
pub const START_BLOCK: u64 = 0x0000_0700_0000_0000;
/// One past the first thread's stack. Nothing is ever mapped between the start block and the stack's lowest page.
pub const STACK_TOP: u64 = 0x0000_07F0_0000_0000;
/// The first thread's stack in bytes, unless asked for otherwise.
pub const STACK_BYTES: u64 = 256 * 1024;
/// Largest image in bytes, all segments together.
pub const MOST_BYTES: u64 = 1 << 30;

/// Why a file is not a program that can be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElfError {
    /// It does not begin with the ELF magic number.
    NotElf,
    /// Its header or table of segments is cut off or senseless.
    Malformed,
    /// It is not 64-bit.
    Not64Bit,
    /// It is not for x86-64.
    WrongMachine,
    /// It is not a program of fixed address (a library, an object file, a position-independent program).
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
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElfError::NotElf => f.write_str("not an ELF file"),
            ElfError::Malformed => f.write_str("ELF header or segment table is malformed"),
            ElfError::Not64Bit => f.write_str("not a 64-bit little-endian ELF file"),
            ElfError::WrongMachine => f.write_str("not an x86-64 program"),
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
    const fn first_page(&self) -> u64 {
        self.address & !(PAGE_SIZE - 1)
    }

    /// One past its last page. Checked not to wrap when the plan was made.
    const fn pages_end(&self) -> u64 {
        (self.address + self.memory_bytes + PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
    }
}

/// What a program's file asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The first instruction's address.
    pub entry: u64,
    /// What to load, by rising address.
    pub segments: Vec<Segment>,
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
        // Class and byte order by hand first: the parser would call a 32-bit file malformed.
        if file.get(4).is_some_and(|class| *class != 2)
            || file.get(5).is_some_and(|order| *order != 1)
        {
            return Err(ElfError::Not64Bit);
        }
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| ElfError::Malformed)?;
        if elf.ehdr.class != Class::ELF64 {
            return Err(ElfError::Not64Bit);
        }
        if elf.ehdr.e_machine != EM_X86_64 {
            return Err(ElfError::WrongMachine);
        }
        if elf.ehdr.e_type != ET_EXEC {
            return Err(ElfError::NotStatic);
        }
        let mut segments: Vec<Segment> = Vec::new();
        let mut total = 0_u64;
        for (number, header) in elf.segments().into_iter().flatten().enumerate() {
            match header.p_type {
                PT_LOAD if header.p_memsz != 0 => {}
                PT_INTERP | PT_DYNAMIC => return Err(ElfError::NotStatic),
                PT_TLS if header.p_memsz != 0 => return Err(ElfError::ThreadLocal),
                _ => continue,
            }
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
            let end = header
                .p_vaddr
                .checked_add(header.p_memsz)
                .ok_or(ElfError::SegmentWraps(number))?;
            if header.p_vaddr < USER_START || end > IMAGE_END {
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
            let segment = Segment {
                address: header.p_vaddr,
                file_offset: header.p_offset as usize,
                file_bytes: header.p_filesz as usize,
                memory_bytes: header.p_memsz,
                protection,
            };
            if segments
                .last()
                .is_some_and(|last| segment.first_page() < last.pages_end())
            {
                return Err(ElfError::SegmentsOverlap(number));
            }
            // Neither term is above IMAGE_END, and the sum is checked each time.
            total += segment.pages_end() - segment.first_page();
            if total > MOST_BYTES {
                return Err(ElfError::TooLarge);
            }
            segments.push(segment);
        }
        if segments.is_empty() {
            return Err(ElfError::NoSegments);
        }
        let entry = elf.ehdr.e_entry;
        let in_text = |segment: &Segment| {
            segment.protection.executable()
                && entry >= segment.address
                && entry - segment.address < segment.memory_bytes
        };
        if !segments.iter().any(in_text) {
            return Err(ElfError::BadEntry);
        }
        Ok(Plan { entry, segments })
    }

    /// Puts the program's image into an empty process. `file` is the one that the plan was made of.
    ///
    /// # Errors
    /// `NoMemory`, `QuotaExceeded`, `NoRight`; `OutOfRange` with another file.
    pub fn load(&self, file: &[u8], process: &Process) -> Result<()> {
        for segment in &self.segments {
            let bytes = segment.pages_end() - segment.first_page();
            let end = segment
                .file_offset
                .checked_add(segment.file_bytes)
                .ok_or(Error::OutOfRange)?;
            let contents = file
                .get(segment.file_offset..end)
                .ok_or(Error::OutOfRange)?;
            let object = Memory::create(bytes)?;
            if !contents.is_empty() {
                object.write(segment.address - segment.first_page(), contents)?;
            }
            process.map(&object, segment.first_page(), 0, bytes, segment.protection)?;
        }
        Ok(())
    }
}

/// Gives a loaded program its stack and start block, and makes its first thread, not yet started.
///
/// # Errors
/// `NoMemory`, `QuotaExceeded`, `NoRight`, `OutOfRange` for a stack above 1 GiB.
pub fn first_thread(
    process: &Process,
    plan: &Plan,
    stack_bytes: u64,
    block: &start::Builder,
    argument: &str,
) -> Result<Thread> {
    let stack_bytes = memory::page_up(stack_bytes.max(PAGE_SIZE)).ok_or(Error::OutOfRange)?;
    if stack_bytes > 1 << 30 {
        return Err(Error::OutOfRange);
    }
    let stack = Memory::create(stack_bytes)?;
    process.map(
        &stack,
        STACK_TOP - stack_bytes,
        0,
        stack_bytes,
        Protection::READ_WRITE,
    )?;
    let mut bytes = block.build(argument);
    let padded = memory::page_up(bytes.len() as u64).ok_or(Error::OutOfRange)?;
    bytes.extend(vec![0; padded as usize - bytes.len()]);
    let object = Memory::create(padded)?;
    object.write(0, &bytes)?;
    process.map(&object, START_BLOCK, 0, padded, Protection::READ)?;
    // SAFETY: the process is not this one: it was made empty, and what it runs reaches only what it is given.
    let (thread, _) = unsafe { process.create_thread(plan.entry, STACK_TOP, START_BLOCK) }?;
    Ok(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: u32 = PF_R;
    const RX: u32 = PF_R | PF_X;
    const RW: u32 = PF_R | PF_W;

    /// A file with the given segments: (type, flags, offset, address, bytes in the file, bytes in memory).
    fn file(segments: &[(u32, u32, u64, u64, u64, u64)], entry: u64) -> Vec<u8> {
        let mut file = vec![0x7F, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for half in [ET_EXEC, EM_X86_64] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes());
        for word in [entry, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64, 56, segments.len() as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        for (kind, flags, offset, address, in_file, in_memory) in segments {
            file.extend(kind.to_le_bytes());
            file.extend(flags.to_le_bytes());
            for word in [*offset, *address, *address, *in_file, *in_memory, 4096] {
                file.extend(word.to_le_bytes());
            }
        }
        file.resize(0x3000, 0xCC);
        file
    }

    fn good() -> Vec<u8> {
        file(
            &[
                (PT_LOAD, R, 0, 0x20_0000, 0x800, 0x800),
                (PT_LOAD, RX, 0x800, 0x20_1800, 0x100, 0x100),
                (PT_LOAD, RW, 0x900, 0x20_2900, 0x80, 0x5000),
            ],
            0x20_1810,
        )
    }

    #[test]
    fn good_file_gives_its_segments_in_order() {
        let plan = Plan::new(&good()).unwrap();
        assert_eq!(plan.entry, 0x20_1810);
        let protections: Vec<_> = plan
            .segments
            .iter()
            .map(|segment| segment.protection)
            .collect();
        assert_eq!(
            protections,
            [
                Protection::READ,
                Protection::READ_EXECUTE,
                Protection::READ_WRITE
            ]
        );
        assert_eq!(
            (plan.segments[2].file_bytes, plan.segments[2].memory_bytes),
            (0x80, 0x5000)
        );
        assert_eq!(
            (plan.segments[2].first_page(), plan.segments[2].pages_end()),
            (0x20_2000, 0x20_8000)
        );
    }

    #[test]
    fn what_is_no_program_is_named() {
        assert_eq!(Plan::new(b""), Err(ElfError::NotElf));
        assert_eq!(Plan::new(b"#!/bin/sh"), Err(ElfError::NotElf));
        let change = |offset: usize, value: u8| {
            let mut file = good();
            file[offset] = value;
            Plan::new(&file).unwrap_err()
        };
        assert_eq!(change(4, 1), ElfError::Not64Bit);
        assert_eq!(change(5, 2), ElfError::Not64Bit);
        assert_eq!(change(16, 3), ElfError::NotStatic);
        assert_eq!(change(16, 1), ElfError::NotStatic);
        assert_eq!(change(18, 183), ElfError::WrongMachine);
    }

    #[test]
    fn truncated_elf_is_refused_by_name() {
        let file = good();
        for length in 4..0x980 {
            let error = Plan::new(&file[..length]).unwrap_err();
            assert!(
                matches!(error, ElfError::Malformed | ElfError::SegmentPastFile(_)),
                "{length} bytes: {error}"
            );
        }
        assert!(Plan::new(&file[..0x980]).is_ok());
    }

    #[test]
    fn bad_segments_are_named_with_their_number() {
        let text = (PT_LOAD, RX, 0, 0x20_0000, 0x100, 0x100);
        let with = |segment| Plan::new(&file(&[text, segment], 0x20_0000)).unwrap_err();
        assert_eq!(
            with((PT_LOAD, RW, 0, 0x20_1000, 0x3001, 0x3001)),
            ElfError::SegmentPastFile(1)
        );
        assert_eq!(
            with((PT_LOAD, RW, u64::MAX, 0x20_1000, 2, 2)),
            ElfError::SegmentPastFile(1)
        );
        assert_eq!(
            with((PT_LOAD, RW, 0, 0x20_1000, 2, 1)),
            ElfError::SegmentShrinks(1)
        );
        assert_eq!(
            with((PT_LOAD, RW, 0, u64::MAX - 5, 0, 0x100)),
            ElfError::SegmentWraps(1)
        );
        assert_eq!(
            with((PT_LOAD, RW, 0, 0xFFFF_FFFF_8000_0000, 0, 0x100)),
            ElfError::SegmentOutside(1)
        );
        assert_eq!(
            with((PT_LOAD, RW, 0, 0x1000, 0, 0x100)),
            ElfError::SegmentOutside(1)
        );
        assert_eq!(
            with((PT_LOAD, RW, 0, IMAGE_END - 8, 0, 0x100)),
            ElfError::SegmentOutside(1)
        );
        assert_eq!(
            with((PT_LOAD, RW, 0, 0x20_0800, 0, 0x100)),
            ElfError::SegmentsOverlap(1)
        );
        assert_eq!(
            with((PT_LOAD, RW | PF_X, 0, 0x20_1000, 0, 0x100)),
            ElfError::WritableAndExecutable(1)
        );
        assert_eq!(
            with((PT_LOAD, PF_W, 0, 0x20_1000, 0, 0x100)),
            ElfError::Unreadable(1)
        );
        assert_eq!(
            with((PT_LOAD, RW, 0, 0x20_1000, 0, MOST_BYTES)),
            ElfError::TooLarge
        );
        assert_eq!(with((PT_TLS, R, 0, 0x20_1000, 0, 8)), ElfError::ThreadLocal);
        assert_eq!(
            with((PT_INTERP, R, 0, 0x20_1000, 8, 8)),
            ElfError::NotStatic
        );
    }

    #[test]
    fn entry_must_be_in_text() {
        for entry in [0, 0x20_00FF + 1, 0x20_1000] {
            let bad = file(
                &[
                    (PT_LOAD, RX, 0, 0x20_0000, 0x100, 0x100),
                    (PT_LOAD, RW, 0, 0x20_1000, 0, 0x100),
                ],
                entry,
            );
            assert_eq!(Plan::new(&bad), Err(ElfError::BadEntry), "{entry:#x}");
        }
        assert_eq!(Plan::new(&file(&[], 0x20_0000)), Err(ElfError::NoSegments));
    }

    #[test]
    fn any_changed_byte_of_the_headers_gives_an_error_or_a_sound_plan() {
        let whole = good();
        for offset in 0..64 + 3 * 56 {
            for value in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut file = whole.clone();
                file[offset] = value;
                if let Ok(plan) = Plan::new(&file) {
                    for segment in &plan.segments {
                        assert!(
                            segment.first_page() >= USER_START && segment.pages_end() <= IMAGE_END
                        );
                        assert!(segment.file_offset + segment.file_bytes <= file.len());
                    }
                }
            }
        }
    }
}
