//! `memcpy`, `memmove`, `memset`, `memcmp` and `bcmp`, which compiled code calls on its own.
//!
//! They are written in assembly, since a loop in Rust that copies or fills is just what the compiler turns into a call
//! of `memcpy` or `memset`: these would call themselves. They use general registers only: a program that never touches a
//! vector register costs no FPU state at a switch. Up to 16 bytes go by two overlapping moves, more by `rep movsq`, which
//! is quick on hardware from some dozen bytes on and counts one instruction for eight bytes under an emulator.
//!
//! All keep rbx, rbp, r12-r15 (System V ABI), need no stack, and leave the direction flag clear.

use core::arch::naked_asm;

/// In: rdi destination, rsi source, rdx bytes. Out: rax = destination. Clobbers rcx, rdx, rsi, rdi, r8, r9, flags.
#[unsafe(naked)]
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
unsafe extern "C" fn memcpy(destination: *mut u8, source: *const u8, bytes: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "ja 5f",
        // 8 to 16: the first eight and the last eight, both loaded before either is stored (memmove relies on it).
        "cmp rdx, 8",
        "jb 2f",
        "mov r8, [rsi]",
        "mov r9, [rsi + rdx - 8]",
        "mov [rdi], r8",
        "mov [rdi + rdx - 8], r9",
        "ret",
        "2:", // 4 to 7
        "cmp edx, 4",
        "jb 3f",
        "mov r8d, [rsi]",
        "mov r9d, [rsi + rdx - 4]",
        "mov [rdi], r8d",
        "mov [rdi + rdx - 4], r9d",
        "ret",
        "3:", // 1 to 3: first, middle, last byte
        "test edx, edx",
        "jz 4f",
        "mov ecx, edx",
        "shr ecx, 1",
        "movzx r8d, byte ptr [rsi]",
        "movzx r9d, byte ptr [rsi + rcx]",
        "movzx esi, byte ptr [rsi + rdx - 1]",
        "mov [rdi], r8b",
        "mov [rdi + rcx], r9b",
        "mov [rdi + rdx - 1], sil",
        "4:",
        "ret",
        "5:",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep movsb",
        "ret",
    )
}

/// In: rdi destination, rsi source, rdx bytes, which may overlap. Out: rax = destination. Clobbers rcx, rdx, rsi, rdi,
/// r8, r9, flags.
#[unsafe(naked)]
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
unsafe extern "C" fn memmove(destination: *mut u8, source: *const u8, bytes: usize) -> *mut u8 {
    naked_asm!(
        // Forward is right if the destination is below the source or past its end: destination - source, unsigned,
        // not below the count. Up to 16 bytes memcpy loads all before it stores.
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jae {memcpy}",
        "cmp rdx, 16",
        "jbe {memcpy}",
        // Backward, eight at a time from the end; `std` with `rep` is slow on all hardware.
        "mov rax, rdi",
        "2:",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi + rdx - 8], r8",
        "sub rdx, 8",
        "cmp rdx, 8",
        "jae 2b",
        "3:",
        "test rdx, rdx",
        "jz 4f",
        "movzx r8d, byte ptr [rsi + rdx - 1]",
        "mov [rdi + rdx - 1], r8b",
        "dec rdx",
        "jmp 3b",
        "4:",
        "ret",
        memcpy = sym memcpy,
    )
}

/// In: rdi destination, sil byte, rdx bytes. Out: rax = destination. Clobbers rcx, rdi, r8, r9, flags.
#[unsafe(naked)]
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
unsafe extern "C" fn memset(destination: *mut u8, byte: i32, bytes: usize) -> *mut u8 {
    naked_asm!(
        "mov r9, rdi",
        "movzx eax, sil",
        "mov r8, 0x0101010101010101",
        "imul rax, r8", // the byte, eight times
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep stosq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep stosb",
        "mov rax, r9",
        "ret",
    )
}

/// In: rdi, rsi the two ranges, rdx bytes. Out: eax below, equal or above 0 as the first differing byte of rdi's is.
/// Clobbers rcx, rdx, rsi, rdi, r8, flags.
#[unsafe(naked)]
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    naked_asm!(
        "2:",
        "cmp rdx, 8",
        "jb 3f",
        "mov rcx, [rdi]",
        "mov r8, [rsi]",
        "cmp rcx, r8",
        "jne 5f",
        "add rdi, 8",
        "add rsi, 8",
        "sub rdx, 8",
        "jmp 2b",
        "3:",
        "test rdx, rdx",
        "jz 4f",
        "movzx eax, byte ptr [rdi]",
        "movzx ecx, byte ptr [rsi]",
        "sub eax, ecx",
        "jnz 6f",
        "inc rdi",
        "inc rsi",
        "dec rdx",
        "jmp 3b",
        "4:",
        "xor eax, eax",
        "6:",
        "ret",
        "5:", // eight bytes that differ: as big-endian numbers they compare as the bytes do
        "bswap rcx",
        "bswap r8",
        "xor eax, eax",
        "cmp rcx, r8",
        "seta al",
        "sbb eax, 0", // above: 1 - 0; below: 0 - carry = -1
        "ret",
    )
}

/// As [`memcmp`]; only zero or not zero matters.
#[unsafe(naked)]
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    naked_asm!("jmp {memcmp}", memcmp = sym memcmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Bytes that differ from their neighbours.
    fn pattern(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|index| (index * 7 + 3) as u8).collect()
    }

    #[test]
    fn copies_of_every_length_and_alignment_are_whole_and_write_nothing_else() {
        for length in 0..100 {
            for shift in 0..9 {
                let from = pattern(128);
                let mut to = [0xEE_u8; 128];
                // SAFETY: both ranges are inside of their arrays.
                let result = unsafe {
                    memcpy(
                        to.as_mut_ptr().add(shift),
                        from.as_ptr().add(8 - shift),
                        length,
                    )
                };
                assert_eq!(result, to.as_mut_ptr().wrapping_add(shift));
                assert_eq!(
                    to[shift..shift + length],
                    from[8 - shift..8 - shift + length]
                );
                assert!(
                    to[..shift]
                        .iter()
                        .chain(&to[shift + length..])
                        .all(|byte| *byte == 0xEE)
                );
            }
        }
    }

    #[test]
    fn moves_that_overlap_either_way_keep_the_source() {
        for length in 0..80 {
            for from in 0..40 {
                for to in 0..40 {
                    let mut bytes = pattern(128);
                    let mut expected = bytes.clone();
                    expected.copy_within(from..from + length, to);
                    // SAFETY: both ranges are inside of the vector.
                    unsafe {
                        memmove(bytes.as_mut_ptr().add(to), bytes.as_ptr().add(from), length)
                    };
                    assert_eq!(bytes, expected, "{length} bytes from {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn fills_are_exact() {
        for length in 0..70 {
            let mut bytes = [1_u8; 80];
            // SAFETY: the range is inside of the array. Only the low byte of the argument counts.
            unsafe { memset(bytes.as_mut_ptr().add(5), 0x1A5, length) };
            assert!(bytes[5..5 + length].iter().all(|byte| *byte == 0xA5));
            assert!(
                bytes[..5]
                    .iter()
                    .chain(&bytes[5 + length..])
                    .all(|byte| *byte == 1)
            );
        }
    }

    #[test]
    fn comparison_agrees_with_slices_at_every_length_and_difference() {
        for length in 0..40 {
            let left = pattern(length);
            // SAFETY: both ranges are inside of their vectors.
            assert_eq!(unsafe { memcmp(left.as_ptr(), left.as_ptr(), length) }, 0);
            for place in 0..length {
                for change in [1_u8, 0x80, 0xFF] {
                    let mut right = left.clone();
                    right[place] = right[place].wrapping_add(change);
                    // A later difference the other way must not count.
                    right[length - 1] ^= if place + 1 < length { 0x55 } else { 0 };
                    // SAFETY: as above.
                    let (ours, same) = unsafe {
                        (
                            memcmp(left.as_ptr(), right.as_ptr(), length),
                            bcmp(left.as_ptr(), right.as_ptr(), length),
                        )
                    };
                    assert_eq!(
                        ours.cmp(&0),
                        left.cmp(&right),
                        "{length} bytes, difference at {place}"
                    );
                    assert_ne!(same, 0);
                }
            }
        }
    }
}
