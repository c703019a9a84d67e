//! Copying between two places of the kernel's own view, word by word.
//!
//! Most copies are short (the bytes of a message), so what counts is what stands around the copying itself: this is one string
//! instruction for the words and one for the rest, without a look at how either place is aligned, or at what the CPU does best. On
//! CPUs with fast strings (CPUID.07H:EBX bit 9, Intel SDM vol. 1 §7.3.9.3) both are moved by lines from some 100 bytes on.

use core::arch::asm;

/// Copies `bytes` bytes.
///
/// # Safety
/// As for [`core::ptr::copy_nonoverlapping`], of less than 4 GiB; but that somebody else may write to either place meanwhile: then what arrives is any mixture.
#[inline(always)]
pub unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise: reads and writes `bytes` bytes. Flags: DF is clear in the kernel, as the C convention has it, and MOVS
    // changes none.
    unsafe {
        asm!(
            "mov ecx, {bytes:e}",
            "shr ecx, 3",
            "rep movsq",
            "mov ecx, {bytes:e}",
            "and ecx, 7",
            "rep movsb",
            bytes = in(reg) bytes,
            out("ecx") _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_copied_and_no_more() {
        let from: [u8; 96] = core::array::from_fn(|i| i as u8 + 1);
        for (bytes, offset) in (0..=80).flat_map(|bytes| (0..8).map(move |offset| (bytes, offset)))
        {
            let mut to = [0; 96];
            // SAFETY: `offset + bytes` is below the length of both.
            unsafe {
                copy(
                    from.as_ptr().add(offset),
                    to.as_mut_ptr().add(7 - offset),
                    bytes,
                );
            };
            let mut expected = [0; 96];
            expected[7 - offset..][..bytes].copy_from_slice(&from[offset..][..bytes]);
            assert_eq!(to, expected, "{bytes} bytes from {offset}");
        }
    }
}
