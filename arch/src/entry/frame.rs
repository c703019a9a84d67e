//! The layout of [`UserContext`] as the assembly sees it.

use core::mem::offset_of;

use abi::UserContext;

/// Offset of the selectors' quadword.
pub(super) const SELECTORS: usize = offset_of!(UserContext, ds);
/// Offset of DR6.
pub(super) const DEBUG_STATUS: usize = offset_of!(UserContext, debug_status);
/// Offset of CR2.
pub(super) const CR2: usize = offset_of!(UserContext, cr2);
/// Offset of the call number.
pub(super) const CALL_NUMBER: usize = offset_of!(UserContext, call_number);
/// Offset of the vector.
pub(super) const VECTOR: usize = offset_of!(UserContext, vector);
/// Offset of the first general register above the saved ones: where `rdi` ends.
pub(super) const AFTER_GENERAL: usize = offset_of!(UserContext, fs_base);
/// Offset of RIP.
pub(super) const RIP: usize = offset_of!(UserContext, rip);
/// Offset of RFLAGS.
pub(super) const RFLAGS: usize = offset_of!(UserContext, rflags);
/// Offset of RSP.
pub(super) const RSP: usize = offset_of!(UserContext, rsp);
/// Offset of CS.
pub(super) const CS: usize = offset_of!(UserContext, cs);
/// Bytes between the general registers and the vector: bases, selectors, debug status, CR2, call number.
pub(super) const MIDDLE: usize = VECTOR - AFTER_GENERAL;
/// Bytes of the whole.
pub(super) const BYTES: usize = size_of::<UserContext>();

const _: () = {
    // What the CPU pushes, from the top down: SS, RSP, RFLAGS, CS, RIP, error code.
    assert!(offset_of!(UserContext, ss) == BYTES - 8);
    assert!(RSP == BYTES - 16);
    assert!(RFLAGS == BYTES - 24);
    assert!(CS == BYTES - 32);
    assert!(RIP == BYTES - 40);
    assert!(offset_of!(UserContext, error_code) == BYTES - 48);
    assert!(VECTOR == BYTES - 56);
    assert!(CALL_NUMBER == VECTOR - 8);
    assert!(CR2 == VECTOR - 16);
    assert!(DEBUG_STATUS == VECTOR - 24);
    assert!(SELECTORS == VECTOR - 32);
    // The general registers, in the order of the pushes below.
    assert!(offset_of!(UserContext, r15) == 0);
    assert!(offset_of!(UserContext, r14) == 8);
    assert!(offset_of!(UserContext, r13) == 16);
    assert!(offset_of!(UserContext, r12) == 24);
    assert!(offset_of!(UserContext, rbp) == 32);
    assert!(offset_of!(UserContext, rbx) == 40);
    assert!(offset_of!(UserContext, r11) == 48);
    assert!(offset_of!(UserContext, r10) == 56);
    assert!(offset_of!(UserContext, r9) == 64);
    assert!(offset_of!(UserContext, r8) == 72);
    assert!(offset_of!(UserContext, rax) == 80);
    assert!(offset_of!(UserContext, rcx) == 88);
    assert!(offset_of!(UserContext, rdx) == 96);
    assert!(offset_of!(UserContext, rsi) == 104);
    assert!(offset_of!(UserContext, rdi) == 112);
    assert!(AFTER_GENERAL == 120);
    // The stack is 16-byte aligned at a `call` right below a whole context.
    assert!(BYTES.is_multiple_of(16));
};

/// Pushes the fifteen general registers, `rdi` first.
macro_rules! push_general {
    () => {
        "push rdi
         push rsi
         push rdx
         push rcx
         push rax
         push r8
         push r9
         push r10
         push r11
         push rbx
         push rbp
         push r12
         push r13
         push r14
         push r15"
    };
}

/// Pops the fifteen general registers.
macro_rules! pop_general {
    () => {
        "pop r15
         pop r14
         pop r13
         pop r12
         pop rbp
         pop rbx
         pop r11
         pop r10
         pop r9
         pop r8
         pop rax
         pop rcx
         pop rdx
         pop rsi
         pop rdi"
    };
}

pub(super) use {pop_general, push_general};
