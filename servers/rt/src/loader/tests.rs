//! Files good and bad, made byte by byte.

use alloc::vec;
use alloc::vec::Vec;

use abi::Protection;
use abi::layout::USER_START;
use elf::abi::{
    DT_REL, DT_RELSZ, EM_386, EM_X86_64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_DYNAMIC, PT_INTERP,
    PT_LOAD, PT_TLS,
};

use super::plan::PIE_BASE;
use super::*;

const IMAGE_END: u64 = places(Mode::Long).image_end;

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
    assert_eq!(change(4, 3), ElfError::UnknownClass);
    assert_eq!(change(5, 2), ElfError::UnknownClass);
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
                    assert!(segment.first_page() >= USER_START && segment.pages_end() <= IMAGE_END);
                    assert!(segment.file_offset + segment.file_bytes <= file.len());
                }
            }
        }
    }
}

/// A 32-bit file with the given segments, as [`file`] makes 64-bit ones; `words` are put at their offsets.
fn file32(
    kind: u16,
    segments: &[(u32, u32, u32, u32, u32, u32)],
    entry: u32,
    words: &[(usize, u32)],
) -> Vec<u8> {
    let mut file = vec![0x7F, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [kind, EM_386] {
        file.extend(half.to_le_bytes());
    }
    for word in [1, entry, 52, 0, 0] {
        file.extend(u32::to_le_bytes(word));
    }
    for half in [52, 32, segments.len() as u16, 40, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for (kind, flags, offset, address, in_file, in_memory) in segments {
        for word in [
            kind, offset, address, address, in_file, in_memory, flags, &4096,
        ] {
            file.extend(word.to_le_bytes());
        }
    }
    file.resize(0x3000, 0xCC);
    for (offset, word) in words {
        file[*offset..*offset + 4].copy_from_slice(&word.to_le_bytes());
    }
    file
}

/// A position-independent program with two words to relocate; `words` change it.
fn pie(words: &[(usize, u32)]) -> Vec<u8> {
    let mut all = vec![
        // The dynamic section: where the relocations are, and their size.
        (0x1000, DT_REL as u32),
        (0x1004, 0x900),
        (0x1008, DT_RELSZ as u32),
        (0x100C, 16),
        (0x1010, 0),
        (0x1014, 0),
        // The relocations, and the words that they are for.
        (0x900, 0x2104),
        (0x904, 8),
        (0x908, 0x2110),
        (0x90C, 8),
        (0x1104, 0x810),
        (0x1110, 0xFFFF_FFFF),
    ];
    all.extend(words);
    file32(
        ET_DYN,
        &[
            (PT_LOAD, R, 0, 0, 0xA00, 0xA00),
            (PT_LOAD, RX, 0xA00, 0x1A00, 0x100, 0x100),
            (PT_LOAD, RW, 0x1000, 0x2000, 0x200, 0x1000),
            (PT_DYNAMIC, RW, 0x1000, 0x2000, 24, 24),
        ],
        0x1A10,
        &all,
    )
}

#[test]
fn a_32_bit_program_makes_a_32_bit_process() {
    let text = (PT_LOAD, RX, 0, 0x0804_8000, 0x100, 0x100);
    let plan = Plan::new(&file32(ET_EXEC, &[text], 0x0804_8010, &[])).unwrap();
    assert_eq!((plan.mode, plan.entry), (Mode::Compat, 0x0804_8010));
    assert_eq!(Plan::new(&good()).unwrap().mode, Mode::Long);
    let end = places(Mode::Compat).image_end as u32;
    let high = (PT_LOAD, RX, 0, end - 0x80, 0x100, 0x100);
    assert_eq!(
        Plan::new(&file32(ET_EXEC, &[high], end - 0x80, &[])),
        Err(ElfError::SegmentOutside(0))
    );
    let mut wrong = file32(ET_EXEC, &[text], 0x0804_8010, &[]);
    wrong[18] = EM_X86_64 as u8;
    assert_eq!(Plan::new(&wrong), Err(ElfError::WrongMachine));
}

#[test]
fn a_position_independent_program_is_moved_with_its_words() {
    let file = pie(&[]);
    let plan = Plan::new(&file).unwrap();
    assert_eq!(plan.entry, PIE_BASE + 0x1A10);
    assert_eq!(plan.segments[2].address, PIE_BASE + 0x2000);
    let words = plan.relocated(&file);
    let base = PIE_BASE as u32;
    assert_eq!(words, [(0x1104, 0x810 + base), (0x1110, base - 1)]);
}

#[test]
fn bad_relocations_are_named() {
    let error = |words: &[(usize, u32)]| Plan::new(&pie(words)).unwrap_err();
    assert_eq!(error(&[(0x904, 1)]), ElfError::Relocation(1));
    assert_eq!(error(&[(0x904, 0x0000_0106)]), ElfError::Relocation(6));
    // The word is not in the file, or not wholly; or the table is not.
    assert_eq!(error(&[(0x900, 0x2300)]), ElfError::BadRelocation);
    assert_eq!(error(&[(0x900, 0x21FD)]), ElfError::BadRelocation);
    assert_eq!(error(&[(0x900, 0xFFFF_FFFE)]), ElfError::BadRelocation);
    assert_eq!(error(&[(0x1004, 0x9F8)]), ElfError::BadRelocation);
    assert_eq!(error(&[(0x100C, u32::MAX)]), ElfError::BadRelocation);
    assert_eq!(error(&[(0x1010, 1)]), ElfError::NotStatic);
}

#[test]
fn any_changed_byte_of_a_32_bit_file_gives_an_error_or_a_sound_plan() {
    let whole = pie(&[]);
    for offset in (0..52 + 4 * 32).chain(0x900..0x910).chain(0x1000..0x1018) {
        for value in [0, 1, 0x7F, 0x80, 0xFF] {
            let mut file = whole.clone();
            file[offset] = value;
            if let Ok(plan) = Plan::new(&file) {
                let end = places(plan.mode).image_end;
                for segment in &plan.segments {
                    assert!(segment.first_page() >= USER_START && segment.pages_end() <= end);
                    assert!(segment.file_offset + segment.file_bytes <= file.len());
                }
                let _ = plan.relocated(&file);
            }
        }
    }
}
