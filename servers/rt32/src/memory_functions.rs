//! The memory functions that compiled code calls and the target's `core` lacks, by string instructions.
//!
//! In plain Rust the compiler would make calls to themselves of them.

use core::arch::asm;

/// C's `memcpy`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's promise; the direction flag is clear in compiled code. ESI can't be an operand, so it is exchanged.
    unsafe {
        asm!("xchg esi, {from}", "rep movsb", "mov esi, {from}", from = inout(reg) from => _,
            inout("edi") to => _, inout("ecx") bytes => _, options(nostack, preserves_flags));
    }
    to
}

/// C's `memmove`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= bytes {
        // SAFETY: what is read is not written before.
        return unsafe { memcpy(to, from, bytes) };
    }
    // SAFETY: the caller's promise; backwards, from the last byte on, and the direction flag is cleared again.
    unsafe {
        let (last_to, last_from) = (to.add(bytes).sub(1), from.add(bytes).sub(1));
        asm!("xchg esi, {from}", "std", "rep movsb", "cld", "mov esi, {from}", from = inout(reg) last_from => _,
            inout("edi") last_to => _, inout("ecx") bytes => _, options(nostack));
    }
    to
}

/// C's `memset`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep stosb", inout("edi") to => _, inout("ecx") bytes => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// C's `memcmp`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    for index in 0..bytes {
        // SAFETY: the caller's promise. Volatile, so that the compiler does not see a `memcmp` in the loop.
        let (a, b) = unsafe {
            (
                left.add(index).read_volatile(),
                right.add(index).read_volatile(),
            )
        };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// `memcmp` where only equality counts, which compiled code calls by this name.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(left, right, bytes) }
}
