//! The machine's own way to save and to load a state: one routine each, whose one instruction is put in at boot.
//!
//! There are five instructions that save and three that load, and each of them is four bytes long when the area's address is in RDI. So
//! nothing is compared at a switch: [`patch`] writes the one that fits over the `fxsave64` and `fxrstor64` that are assembled. What
//! each does, and what may go wrong, is said in `area.rs` and `layout.rs`. CPUs that keep the x87's pointers come by a longer way, to
//! which a `jmp` at the beginning of the routine leads.

use core::arch::{asm, naked_asm};

use super::area::Damaged;
use super::layout::{KNOWN, Layout, Method};

unsafe extern "C" {
    // The two instructions, and the first one of the routine that loads. They are labels, not data.
    static switchyard_fpu_save: u8;
    static switchyard_fpu_load: u8;
    static switchyard_fpu_load_begin: u8;
}

/// `fxsave64 [rdi]` (Intel SDM vol. 2A, FXSAVE; the others' encodings are in vol. 2D, XSAVE to XSAVES)
const FXSAVE: [u8; 4] = [0x48, 0x0F, 0xAE, 0x07];
const XSAVE: [u8; 4] = [0x48, 0x0F, 0xAE, 0x27];
const XSAVEOPT: [u8; 4] = [0x48, 0x0F, 0xAE, 0x37];
const XSAVEC: [u8; 4] = [0x48, 0x0F, 0xC7, 0x27];
const XSAVES: [u8; 4] = [0x48, 0x0F, 0xC7, 0x2F];
/// `fxrstor64 [rdi]`
const FXRSTOR: [u8; 4] = [0x48, 0x0F, 0xAE, 0x0F];
const XRSTOR: [u8; 4] = [0x48, 0x0F, 0xAE, 0x2F];
const XRSTORS: [u8; 4] = [0x48, 0x0F, 0xC7, 0x1F];

/// `mov eax, KNOWN`
const MOV_KNOWN: [u8; 5] = {
    let [a, b, c, d] = (KNOWN as u32).to_le_bytes();
    [0xB8, a, b, c, d]
};

/// Something that changes the text: it is given a place, what that holds and what it shall hold. (What that takes is said where the
/// entry paths are patched, in `entry/alternatives.rs`.)
pub(crate) trait Replace: Fn(*const u8, &[u8], &[u8]) {}

impl<F: Fn(*const u8, &[u8], &[u8])> Replace for F {}

/// Puts the instructions for a layout in, by `replace`; `jump` makes the `jmp` from one address to another.
pub(crate) fn patch(layout: &Layout, replace: impl Replace, jump: fn(u64, u64) -> [u8; 5]) {
    let (save, load) = match layout.method {
        Method::Fxsave => (FXSAVE, FXRSTOR),
        Method::Xsave => (XSAVE, XRSTOR),
        Method::Xsaveopt => (XSAVEOPT, XRSTOR),
        Method::Xsavec => (XSAVEC, XRSTOR),
        Method::Xsaves => (XSAVES, XRSTORS),
    };
    replace(&raw const switchyard_fpu_save, &FXSAVE, &save);
    replace(&raw const switchyard_fpu_load, &FXRSTOR, &load);
    if layout.keeps_x87_pointers {
        let begin = &raw const switchyard_fpu_load_begin;
        let to = overwrite_x87_pointers as *const () as u64;
        replace(begin, &MOV_KNOWN, &jump(begin as u64, to));
    }
}

/// Saves the registers. They stay as they are.
///
/// # Safety
/// `area` has room for this machine's layout and is aligned to 64; CR0.TS is clear; [`patch`] was called.
#[inline(always)]
pub(super) unsafe fn save(area: *mut u8) {
    // SAFETY: the caller's promise; the routine changes what is said here and nothing else.
    unsafe { asm!("call {}", sym save_routine, in("rdi") area, out("eax") _, out("edx") _) };
}

/// Loads the registers.
///
/// # Errors
/// [`Damaged`]; then the registers are in no state that may be shown to anybody.
///
/// # Safety
/// `area` was written for this machine's layout; CR0.TS is clear; [`patch`] was called.
#[inline(always)]
pub(super) unsafe fn restore(area: *const u8) -> Result<(), Damaged> {
    let failed: u32;
    // SAFETY: the caller's promise; the routine changes what is said here, the FPU registers, which the kernel does not use, and
    // nothing else.
    unsafe {
        asm!("call {}", sym load_routine, in("rdi") area, out("eax") failed, out("edx") _);
    }
    if failed == 0 { Ok(()) } else { Err(Damaged) }
}

/// In: RDI the area. Lost: RAX, RDX, flags. The stack is not used.
#[unsafe(naked)]
unsafe extern "sysv64" fn save_routine(area: *mut u8) {
    naked_asm!(
        "mov eax, {known}",
        "xor edx, edx",
        ".globl switchyard_fpu_save",
        "switchyard_fpu_save:",
        "fxsave64 [rdi]",
        "ret",
        known = const KNOWN,
    )
}

/// In: RDI the area. Out: EAX 0, or 1 if the CPU refused it ([`super::fixup`]). Lost: RDX, flags, all FPU registers. The stack is not
/// used.
#[unsafe(naked)]
unsafe extern "sysv64" fn load_routine(area: *const u8) -> u32 {
    naked_asm!(
        ".globl switchyard_fpu_load_begin",
        "switchyard_fpu_load_begin:",
        "mov eax, {known}",
        ".globl switchyard_fpu_load_go_on",
        "switchyard_fpu_load_go_on:",
        "xor edx, edx",
        ".globl switchyard_fpu_load",
        "switchyard_fpu_load:",
        "fxrstor64 [rdi]",
        "xor eax, eax",
        "ret",
        ".globl switchyard_fpu_load_fixup",
        "switchyard_fpu_load_fixup:",
        "mov eax, 1",
        "ret",
        known = const KNOWN,
    )
}

/// The detour of [`load_routine`] on CPUs that leave the addresses of the x87's last instruction and operand alone unless an exception
/// is pending (`area::overwrite_x87_pointers` says which): drops what is pending, empties the x87's stack, and overwrites the
/// addresses by a load of its own. Changes what `load_routine` may, and does its first instruction in the end.
#[unsafe(naked)]
unsafe extern "sysv64" fn overwrite_x87_pointers() {
    naked_asm!(
        "fnclex",
        "emms",
        "fild dword ptr [rip + {zero}]",
        "mov eax, {known}",
        "jmp switchyard_fpu_load_go_on",
        zero = sym ZERO,
        known = const KNOWN,
    )
}

static ZERO: u32 = 0;
