//! The machine's own way to save and to load a state, without a choice: its instructions are put in at boot.
//!
//! There are five instructions that save and three that load, and each of them is four bytes long when the area's address is in RDI. So
//! nothing is compared at a switch: [`patch`] writes the one that fits over each `fxsave64` and `fxrstor64` that is assembled here. What
//! each does, and what may go wrong, is said in `area.rs` and `layout.rs`. On CPUs that keep the x87's pointers a load makes a
//! detour, for which a `call` takes the place of the instruction before it.
//!
//! The places are listed by two sections that the linker script gathers, `.fpu_saves` and `.fpu_loads`; the second one also says where to go
//! on if the CPU refuses a state.

use core::arch::{asm, naked_asm};
use core::slice;

use super::area::Damaged;
use super::layout::{KNOWN, Layout, Method};

/// A place where a state is loaded.
#[repr(C)]
struct Load {
    /// `mov eax, KNOWN`
    begin: u64,
    /// `fxrstor64 [rdi]`, or what has taken its place.
    instruction: u64,
    /// Where to go on after a #GP there.
    refused: u64,
}

unsafe extern "C" {
    static __fpu_saves: u64;
    static __fpu_saves_end: u64;
    static __fpu_loads: Load;
    static __fpu_loads_end: Load;
}

/// The addresses of all instructions that save.
fn saves() -> &'static [u64] {
    let (start, end) = (&raw const __fpu_saves, &raw const __fpu_saves_end);
    // SAFETY: the linker script puts one before and one behind the section's words.
    unsafe { slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// All places that load.
fn loads() -> &'static [Load] {
    let (start, end) = (&raw const __fpu_loads, &raw const __fpu_loads_end);
    // SAFETY: as above.
    unsafe { slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
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
/// The first byte of a `jmp` and of a `call`, both with a displacement of four bytes.
const JMP: u8 = 0xE9;
const CALL: u8 = 0xE8;

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
    for &place in saves() {
        replace(place as *const u8, &FXSAVE, &save);
    }
    for place in loads() {
        replace(place.instruction as *const u8, &FXRSTOR, &load);
        if layout.keeps_x87_pointers {
            let mut call = jump(place.begin, overwrite_x87_pointers as *const () as u64);
            debug_assert!(call[0] == JMP, "it differs from a call in that byte alone");
            call[0] = CALL;
            replace(place.begin as *const u8, &MOV_KNOWN, &call);
        }
    }
}

/// Where to go on after a #GP at `rip`, if that is a place which loads a state.
pub(super) fn fixup(rip: u64) -> Option<u64> {
    let place = loads().iter().find(|place| place.instruction == rip)?;
    Some(place.refused)
}

/// Saves the registers. They stay as they are.
///
/// # Safety
/// `area` has room for this machine's layout and is aligned to 64; CR0.TS is clear; [`patch`] was called.
#[inline(always)]
pub(super) unsafe fn save(area: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "2:",
            "fxsave64 [rdi]",
            ".pushsection .fpu_saves, \"a\"",
            ".quad 2b",
            ".popsection",
            in("rdi") area, in("eax") KNOWN as u32, in("edx") 0, options(nostack, preserves_flags),
        );
    }
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
    // SAFETY: the caller's promise. The FPU registers, which it changes, the kernel does not use. After a #GP the registers are as
    // they were before the instruction, and it goes on in the block. The detour uses the stack, and the kernel is built without a red
    // zone.
    unsafe {
        asm!(
            "2:",
            "mov eax, {known}",
            "xor edx, edx",
            "3:",
            "fxrstor64 [rdi]",
            ".pushsection .fpu_loads, \"a\"",
            ".quad 2b, 3b, {refused}",
            ".popsection",
            refused = label { return Err(Damaged) },
            known = const KNOWN,
            in("rdi") area, out("eax") _, out("edx") _,
        );
    }
    Ok(())
}

/// What a load begins with on CPUs that leave the addresses of the x87's last instruction and operand alone unless an exception
/// is pending (`area::overwrite_x87_pointers` says which): drops what is pending, empties the x87's stack, and overwrites the
/// addresses by a load of its own. Out: EAX as the load needs it. Changes the FPU registers and nothing else; flags are kept.
#[unsafe(naked)]
unsafe extern "sysv64" fn overwrite_x87_pointers() {
    naked_asm!(
        "fnclex",
        "emms",
        "fild dword ptr [rip + {zero}]",
        "mov eax, {known}",
        "ret",
        zero = sym ZERO,
        known = const KNOWN,
    )
}

static ZERO: u32 = 0;
