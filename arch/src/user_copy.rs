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

    /// Stands for the kernel's trap handler: goes on at the fix-up, or ends the process.
    extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel of the host gives a valid context to a handler with SA_SIGINFO; nothing here allocates.
        unsafe {
            let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
            let rip = &mut registers[libc::REG_RIP as usize];
            match fixup(*rip as u64) {
                Some(landing) => *rip = landing as i64,
                None => libc::abort(),
            }
        }
    }

    #[test]
    fn a_fault_ends_the_copy_and_tells_what_is_left() {
        const PAGE: usize = 4096;
        let mut kernel = [0x5Au8; 64];
        // SAFETY: fresh mappings of our own; the handler is only for faults of the copies below.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(
                libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()),
                0
            );
            let none = std::ptr::null_mut();
            let pages = libc::mmap(
                none,
                2 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                0x22,
                -1,
                0,
            )
            .cast::<u8>();
            assert_ne!(pages.cast(), libc::MAP_FAILED);
            assert_eq!(
                libc::mprotect(pages.add(PAGE).cast(), PAGE, libc::PROT_NONE),
                0
            );
            let edge = pages.add(PAGE);

            // Both the steps of eight bytes and those of one meet the edge, on either side of the copy.
            for (before, bytes) in [
                (0, 1),
                (0, 64),
                (3, 5),
                (8, 64),
                (13, 64),
                (63, 64),
                (5, 7),
                (16, 17),
            ] {
                // A step of eight that would cross the edge copies nothing.
                let copied = if before < bytes / 8 * 8 {
                    before / 8 * 8
                } else {
                    before
                };
                let left = Err(Faulted {
                    left: bytes - copied,
                });
                edge.sub(before).write_bytes(0, before);
                assert_eq!(
                    copy(edge.sub(before), kernel.as_ptr(), bytes),
                    left,
                    "{before} of {bytes} to"
                );
                let written = std::slice::from_raw_parts(edge.sub(before), before);
                assert!(written[..copied].iter().all(|&byte| byte == 0x5A));
                assert!(written[copied..].iter().all(|&byte| byte == 0));
                assert_eq!(
                    copy(kernel.as_mut_ptr(), edge.sub(before), bytes),
                    left,
                    "{before} of {bytes} from"
                );
                kernel.fill(0x5A);
                assert_eq!(copy(edge.sub(before), kernel.as_ptr(), before), Ok(()));
            }
            // An address outside the canonical range is a #GP, not a #PF.
            let hole = (1u64 << 47) as *mut u8;
            assert_eq!(copy(hole, kernel.as_ptr(), 9), Err(Faulted { left: 9 }));
            assert_eq!(copy(kernel.as_mut_ptr(), hole, 3), Err(Faulted { left: 3 }));
        }
    }
}
