//! Copies between the kernel and user memory that survive a fault.
//!
//! A user's page may be absent, read-only or vanish on another CPU while it is copied. So a copy is not preceded by a
//! look at the tables; it is done, and if it faults (#PF, or #GP for an address outside the canonical range), the
//! trap handler first lets the address space bring the page in, and if that fails continues at the address that
//! [`fixup`] names for the faulting instruction. The copy then returns how many bytes it did not copy.
//!
//! Only the instructions between the exported labels may touch user memory. With SMAP (Intel SDM vol. 3A §4.6) they run with
//! EFLAGS.AC set, and AC is cleared on both ways out, since a fix-up returns with the flags of the fault.
//!
//! What may go wrong: a lock held across a copy whose page fault wants it too. The callers hold no lock at or
//! above the level of an address space.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, Ordering};

static SMAP: AtomicBool = AtomicBool::new(false);

/// Tells that the CPUs run with CR4.SMAP. Called by the first CPU's set-up, once it has set the bit; all others
/// set it too.
pub fn set_smap(on: bool) {
    SMAP.store(on, Ordering::Relaxed);
}

/// Some bytes could not be copied: the user's part is not mapped, or not as the copy needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faulted {
    /// Bytes at the end that were not copied.
    pub left: usize,
}

/// Copies `bytes` bytes, of which one side is user memory.
///
/// # Errors
/// [`Faulted`]; all bytes but the last `left` were copied.
///
/// # Safety
/// The kernel's side must be valid for the whole copy. The user's side must lie wholly below the kernel half; it need not be
/// mapped. The sides must not overlap. No lock may be held that the page fault handler takes.
#[inline]
pub unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) -> Result<(), Faulted> {
    let left = if SMAP.load(Ordering::Relaxed) {
        // SAFETY: the caller's promise; AC may be set, as the CPU has SMAP.
        unsafe { copy_smap(to, from, bytes) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { copy_plain(to, from, bytes) }
    };
    if left == 0 {
        Ok(())
    } else {
        Err(Faulted { left })
    }
}

/// Where to go on after a fault at `rip`, if it is one of the instructions that touch user memory.
///
/// The handler sets the frame's instruction pointer to the result, changes nothing else and returns.
pub fn fixup(rip: u64) -> Option<u64> {
    let at = |label: unsafe extern "C" fn()| label as usize as u64;
    [
        (at(user_copy_plain_words), at(user_copy_plain_words_fixup)),
        (at(user_copy_plain_bytes), at(user_copy_plain_bytes_fixup)),
        (at(user_copy_smap_words), at(user_copy_smap_words_fixup)),
        (at(user_copy_smap_bytes), at(user_copy_smap_bytes_fixup)),
    ]
    .into_iter()
    .find_map(|(faulting, landing)| (rip == faulting).then_some(landing))
}

unsafe extern "C" {
    // The instructions that may fault, and where each goes on. They are labels, not functions.
    fn user_copy_plain_words();
    fn user_copy_plain_words_fixup();
    fn user_copy_plain_bytes();
    fn user_copy_plain_bytes_fixup();
    fn user_copy_smap_words();
    fn user_copy_smap_words_fixup();
    fn user_copy_smap_bytes();
    fn user_copy_smap_bytes_fixup();
}

/// Copies eight bytes a step, then the rest byte by byte.
///
/// In: `rdi` to, `rsi` from, `rdx` bytes. Out: `rax` bytes not copied. Lost: `rcx`, `rdx`, `rsi`, `rdi`, flags. DF must be
/// clear (the ABI's promise). The stack is not used. A `rep` instruction that faults leaves in `rcx` the steps that are still to
/// do (Intel SDM vol. 2B, REP), so the fix-ups can say what is left.
#[unsafe(naked)]
unsafe extern "sysv64" fn copy_plain(to: *mut u8, from: *const u8, bytes: usize) -> usize {
    naked_asm!(
        "mov rcx, rdx",
        "shr rcx, 3",
        "and edx, 7",
        ".global user_copy_plain_words",
        "user_copy_plain_words:",
        "rep movsq",
        "mov ecx, edx",
        ".global user_copy_plain_bytes",
        "user_copy_plain_bytes:",
        "rep movsb",
        "xor eax, eax",
        "ret",
        ".global user_copy_plain_words_fixup",
        "user_copy_plain_words_fixup:",
        "lea rax, [rcx * 8 + rdx]",
        "ret",
        ".global user_copy_plain_bytes_fixup",
        "user_copy_plain_bytes_fixup:",
        "mov rax, rcx",
        "ret",
    )
}

/// As [`copy_plain`], with EFLAGS.AC set while user memory is touched. In, out and lost registers are the same; AC is clear
/// on return.
#[unsafe(naked)]
unsafe extern "sysv64" fn copy_smap(to: *mut u8, from: *const u8, bytes: usize) -> usize {
    naked_asm!(
        "mov rcx, rdx",
        "shr rcx, 3",
        "and edx, 7",
        "stac",
        ".global user_copy_smap_words",
        "user_copy_smap_words:",
        "rep movsq",
        "mov ecx, edx",
        ".global user_copy_smap_bytes",
        "user_copy_smap_bytes:",
        "rep movsb",
        "clac",
        "xor eax, eax",
        "ret",
        ".global user_copy_smap_words_fixup",
        "user_copy_smap_words_fixup:",
        "clac",
        "lea rax, [rcx * 8 + rdx]",
        "ret",
        ".global user_copy_smap_bytes_fixup",
        "user_copy_smap_bytes_fixup:",
        "clac",
        "mov rax, rcx",
        "ret",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_alignment_is_copied_whole() {
        let source: Vec<u8> = (0..64).map(|i| i as u8 + 1).collect();
        for offset in 0..8 {
            for length in 0..40 {
                let mut target = [0u8; 64];
                // SAFETY: both sides are valid; no SMAP in a host process.
                let result = unsafe {
                    copy(
                        target.as_mut_ptr().add(offset),
                        source.as_ptr().add(3),
                        length,
                    )
                };
                assert_eq!(result, Ok(()));
                assert_eq!(&target[offset..offset + length], &source[3..3 + length]);
                assert!(
                    target[..offset]
                        .iter()
                        .chain(&target[offset + length..])
                        .all(|&byte| byte == 0)
                );
            }
        }
    }

    #[test]
    fn only_the_copying_instructions_have_a_fixup() {
        let words = user_copy_plain_words as *const () as u64;
        assert_eq!(
            fixup(words),
            Some(user_copy_plain_words_fixup as *const () as u64)
        );
        assert_eq!(fixup(words - 1), None);
        // `rep movsq` is three bytes, `mov ecx, edx` two.
        assert_eq!(fixup(words + 3), None);
        assert_eq!(
            fixup(words + 5),
            Some(user_copy_plain_bytes_fixup as *const () as u64)
        );
        assert_eq!(fixup(0), None);
    }
}
