//! Archives.

/// Bytes of a block.
const BLOCK: usize = 512;

/// A header (POSIX.1-1988 ustar: offsets of name, mode, size, checksum, type, magic) and a file.
fn member(name: &[u8], kind: u8, contents: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    let size = format!("{:011o}\0", contents.len());
    block[124..136].copy_from_slice(size.as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block.extend(contents);
    block.resize(block.len().next_multiple_of(BLOCK), 0);
    block
}

/// Sums a header up.
fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Members, and the two empty blocks at the end.
fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = members.concat();
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

/// An archive of one file whose header is changed, and summed up again.
fn changed(at: usize, to: &[u8]) -> Vec<u8> {
    let mut bytes = archive(&[member(b"motd", b'0', b"hello\n")]);
    bytes[at..at + to.len()].copy_from_slice(to);
    seal(&mut bytes[..BLOCK]);
    bytes
}

pub(super) fn all() -> Vec<(&'static str, Vec<u8>)> {
    let motd = member(b"motd", b'0', b"hello\n");
    let two = archive(&[
        member(b"bin", b'5', b""),
        member(b"bin/echo", b'0', b"\x7FELF"),
        member(b"./motd", b'0', &[b'x'; 600]),
    ]);
    vec![
        ("empty", archive(&[])),
        ("two_files_and_a_folder", two),
        ("same_name_twice", archive(&[motd.clone(), motd.clone()])),
        ("absolute_name", archive(&[member(b"/motd", b'0', b"x")])),
        ("longest_name", archive(&[member(&[b'n'; 99], b'0', b"x")])),
        (
            "name_without_end",
            archive(&[member(&[b'n'; 100], b'0', b"x")]),
        ),
        ("name_not_utf8", archive(&[member(b"m\xFFtd", b'0', b"x")])),
        ("link", archive(&[member(b"motd", b'2', b"")])),
        ("size_past_the_end", changed(124, b"00000100000\0")),
        ("size_largest", changed(124, b"77777777777\0")),
        (
            "size_binary",
            changed(
                124,
                &[
                    0x80, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
                ],
            ),
        ),
        ("size_no_number", changed(124, b"hello\0")),
        ("mode_no_number", changed(100, b"rw-r--r\0")),
        ("no_magic", changed(257, &[0; 8])),
        ("prefix", changed(345, b"a/long/way")),
        ("no_end", motd.clone()),
        ("cut_off", motd[..700].to_vec()),
        ("no_archive", vec![0x55; 2 * BLOCK]),
        ("nothing", Vec::new()),
    ]
}
