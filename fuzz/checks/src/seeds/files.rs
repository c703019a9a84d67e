//! ELF files of a few hundred bytes. Only the fields that somebody reads are set.

/// Types and numbers of the ELF specification.
const EXEC: u16 = 2;
const DYN: u16 = 3;
const X86_64: u16 = 62;
const I386: u16 = 3;
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERP: u32 = 3;
const TLS: u32 = 7;
const R: u32 = 4;
const W: u32 = 2;
const X: u32 = 1;

/// Bytes of every file, all headers and contents.
const BYTES: u64 = 0x300;
/// Where contents begin.
const CONTENTS: u64 = 0x200;
/// Where a program may be linked to, and a kernel.
const PROGRAM: u64 = 0x20_0000;
const KERNEL: u64 = 0xFFFF_FFFF_8020_0000;
const PAGE: u64 = 0x1000;

/// A program header: type, flags, offset, address, bytes in the file and in memory.
type Header = (u32, u32, u64, u64, u64, u64);

/// A 64-bit file.
fn file(kind: u16, entry: u64, headers: &[Header]) -> Vec<u8> {
    let mut file = b"\x7FELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    put(&mut file, &[kind.into(), X86_64.into()], 2);
    put(&mut file, &[1], 4);
    put(&mut file, &[entry, 64, 0], 8);
    put(&mut file, &[0], 4);
    put(&mut file, &[64, 56, headers.len() as u64, 64, 0, 0], 2);
    for &(kind, flags, offset, address, in_file, in_memory) in headers {
        put(&mut file, &[kind.into(), flags.into()], 4);
        // Of no alignment, so that pages of the file need not be as large as those of memory.
        put(
            &mut file,
            &[offset, address, address, in_file, in_memory, 1],
            8,
        );
    }
    file.resize(BYTES as usize, 0);
    file
}

/// A 32-bit file.
fn file32(kind: u16, entry: u64, headers: &[Header]) -> Vec<u8> {
    let mut file = b"\x7FELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    put(&mut file, &[kind.into(), I386.into()], 2);
    put(&mut file, &[1, entry, 52, 0, 0], 4);
    put(&mut file, &[52, 32, headers.len() as u64, 40, 0, 0], 2);
    for &(kind, flags, offset, address, in_file, in_memory) in headers {
        let words = [kind.into(), offset, address, address, in_file, in_memory];
        put(&mut file, &words, 4);
        put(&mut file, &[flags.into(), 1], 4);
    }
    file.resize(BYTES as usize, 0);
    file
}

/// Appends numbers of so many bytes.
fn put(file: &mut Vec<u8>, numbers: &[u64], bytes: usize) {
    for number in numbers {
        file.extend(&number.to_le_bytes()[..bytes]);
    }
}

/// Writes words over the file's contents.
fn write(mut file: Vec<u8>, words: &[(u64, u64)], bytes: usize) -> Vec<u8> {
    for (at, word) in words {
        file[*at as usize..*at as usize + bytes].copy_from_slice(&word.to_le_bytes()[..bytes]);
    }
    file
}

fn text(address: u64) -> Header {
    (LOAD, R | X, CONTENTS, address, 0x80, 0x80)
}

fn data(address: u64) -> Header {
    (LOAD, R | W, CONTENTS + 0x80, address, 0x80, 0x1800)
}

/// A program with its first header changed.
fn program(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut headers = [text(PROGRAM), data(PROGRAM + PAGE)];
    change(&mut headers[0]);
    file(EXEC, PROGRAM, &headers)
}

/// A kernel with Limine requests: words of its text.
fn kernel(words: &[(u64, u64)]) -> Vec<u8> {
    let file = file(EXEC, KERNEL, &[text(KERNEL), data(KERNEL + PAGE)]);
    write(file, words, 8)
}

/// A kernel that can be put anywhere, with these words in its dynamic section.
fn movable(words: &[(u64, u64)]) -> Vec<u8> {
    let dynamic = (DYNAMIC, R | W, CONTENTS + 0x80, PAGE, 0x60, 0x60);
    let file = file(DYN, 0, &[text(0), data(PAGE), dynamic]);
    // RELA at the end of the text: one word of the data is to be moved. Its table's address, bytes and entry's bytes.
    let table = CONTENTS + 0x40;
    let all = [(table, PAGE + 0x70), (table + 8, 8), (table + 16, 0x10)];
    let section = CONTENTS + 0x80;
    let tags = [
        (section, 7),
        (section + 8, 0x40),
        (section + 16, 8),
        (section + 24, 24),
    ];
    let more = [(section + 32, 9), (section + 40, 24)];
    let file = write(write(file, &all, 8), &tags, 8);
    write(write(file, &more, 8), words, 8)
}

/// A 32-bit program that can be put anywhere, with these words changed.
fn movable32(words: &[(u64, u64)]) -> Vec<u8> {
    let dynamic = (DYNAMIC, R | W, CONTENTS + 0x80, PAGE, 0x18, 0x18);
    let file = file32(DYN, 0, &[text(0), data(PAGE), dynamic]);
    // REL at 0x40, one entry of 8 bytes: type 8 adds the base to the word at 0x1070.
    let table = [(CONTENTS + 0x40, PAGE + 0x70), (CONTENTS + 0x44, 8)];
    let section = CONTENTS + 0x80;
    let tags = [
        (section, 17),
        (section + 4, 0x40),
        (section + 8, 18),
        (section + 12, 8),
    ];
    write(write(write(file, &table, 4), &tags, 4), words, 4)
}

/// A program with a table of two symbols, of which this many bytes are in the names.
fn symbols(name_bytes: u64) -> Vec<u8> {
    let mut file = file(EXEC, PROGRAM, &[text(PROGRAM)]);
    let (table, names) = (CONTENTS, CONTENTS + 0x40);
    // Two symbols, the first one empty: name, info (a function), section, value, size.
    file[table as usize + 24] = 1;
    file[table as usize + 28] = 2;
    file[table as usize + 30] = 1;
    let symbol = [(table + 32, PROGRAM), (table + 40, 0x80)];
    let mut file = write(file, &symbol, 8);
    file[names as usize..][..7].copy_from_slice(b"\0begin\0");
    // Three sections: none, symbols (type 2, names in section 2), names (type 3).
    let headers: [[u64; 10]; 3] = [
        [0; 10],
        [0, 2, 0, 0, table, 48, 2, 1, 8, 24],
        [0, 3, 0, 0, names, name_bytes, 0, 0, 1, 0],
    ];
    file[40..48].copy_from_slice(&BYTES.to_le_bytes());
    file[60] = 3;
    for header in headers {
        for (index, word) in header.into_iter().enumerate() {
            // Name, type, link and info have four bytes, all others eight.
            let bytes = if matches!(index, 0 | 1 | 6 | 7) { 4 } else { 8 };
            put(&mut file, &[word], bytes);
        }
    }
    file
}

pub(super) fn all() -> Vec<(&'static str, Vec<u8>)> {
    // Limine PROTOCOL, Features: the common magic, and the ID of the stack size.
    let stack = [
        0xc7b1_dd30_df4c_8b88,
        0x0a82_e883_a194_f07b,
        0x224e_f046_0a8e_8926,
        0xe1cb_0fc2_5f46_ea3d,
    ];
    let request: Vec<(u64, u64)> = (0..).map(|n| CONTENTS + 8 * n).zip(stack).collect();
    let mut huge = request.clone();
    huge.push((CONTENTS + 0x30, u64::MAX));
    let mut cut = program(|_| ());
    cut.truncate(0x210);
    let mut headers_cut = program(|_| ());
    headers_cut.truncate(70);
    let mut other = program(|_| ());
    other[18] = 183;
    let mut big_endian = program(|_| ());
    big_endian[5] = 2;
    vec![
        ("program", program(|_| ())),
        ("program_cut_off", cut),
        ("headers_cut_off", headers_cut),
        ("other_machine", other),
        ("other_byte_order", big_endian),
        ("nothing_to_load", program(|one| one.5 = 0)),
        ("no_headers", file(EXEC, PROGRAM, &[])),
        ("segment_past_file", program(|one| one.4 = BYTES)),
        ("segment_offset_wraps", program(|one| one.2 = u64::MAX)),
        ("segment_shrinks", program(|one| one.5 = 0x10)),
        ("segment_wraps", program(|one| one.5 = u64::MAX)),
        ("segment_in_the_kernel", program(|one| one.3 = KERNEL)),
        ("segment_at_null", program(|one| one.3 = 0)),
        ("segment_of_a_gigabyte", program(|one| one.5 = 1 << 30)),
        ("segments_overlap", program(|one| one.5 = 0x2000)),
        (
            "segments_share_a_page",
            program(|one| one.3 = PROGRAM + PAGE - 0x80),
        ),
        ("writable_and_executable", program(|one| one.1 = R | W | X)),
        ("unreadable", program(|one| one.1 = X)),
        (
            "entry_in_data",
            file(EXEC, PROGRAM + PAGE, &[text(PROGRAM), data(PROGRAM + PAGE)]),
        ),
        (
            "entry_past_text",
            file(EXEC, PROGRAM + 0x80, &[text(PROGRAM)]),
        ),
        ("dynamic", program(|one| one.0 = DYNAMIC)),
        ("interpreter", program(|one| one.0 = INTERP)),
        ("thread_local", program(|one| one.0 = TLS)),
        (
            "program32",
            file32(EXEC, PROGRAM, &[text(PROGRAM), data(PROGRAM + PAGE)]),
        ),
        ("movable32", movable32(&[])),
        (
            "movable32_other_relocation",
            movable32(&[(CONTENTS + 0x44, 1)]),
        ),
        (
            "movable32_word_outside",
            movable32(&[(CONTENTS + 0x40, 0xFFFF_FFFE)]),
        ),
        (
            "movable32_table_outside",
            movable32(&[(CONTENTS + 0x84, 0x7C)]),
        ),
        (
            "movable32_table_wraps",
            movable32(&[(CONTENTS + 0x8C, 0xFFFF_FFFF)]),
        ),
        ("kernel", kernel(&request)),
        ("kernel_huge_stack", kernel(&huge)),
        ("kernel_in_lower_half", file(DYN, 0, &[text(PROGRAM)])),
        (
            "kernel_at_the_very_end",
            file(EXEC, 0, &[text(0xFFFF_FFFF_FFFF_F000)]),
        ),
        ("movable", movable(&[])),
        (
            "movable_other_relocation",
            movable(&[(CONTENTS + 0x48, 37)]),
        ),
        (
            "movable_word_outside",
            movable(&[(CONTENTS + 0x40, 0x2FF9)]),
        ),
        (
            "movable_table_outside",
            movable(&[(CONTENTS + 0x88, u64::MAX)]),
        ),
        ("symbols", symbols(7)),
        ("symbols_names_outside", symbols(u64::MAX)),
        ("symbols_names_too_short", symbols(3)),
        ("script", b"#!/bin/sh\n".to_vec()),
        ("nothing", Vec::new()),
    ]
}
