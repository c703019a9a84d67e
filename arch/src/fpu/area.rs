//! The memory of one floating-point state, and the instructions between it and the registers.
//!
//! What may go wrong, and why it does not here:
//!
//! - `xrstor` faults (#GP) on a header or an MXCSR that the CPU does not accept, in the kernel. An area is written by
//!   [`initialise`], by the save instructions and by [`image::import`](super::image::import), which checks; should one be damaged all the
//!   same, the fault goes on at [`fixup`], and [`restore`] says [`Damaged`].
//! - XSAVEOPT and XSAVES remember where the registers were last loaded from and leave out what is unchanged since (Intel SDM vol. 1
//!   §13.5.4). That memory is about an address: an area that was moved, copied or written meanwhile would stay as it is. So
//!   areas never move, a state is always loaded before it is saved for the first time, and who writes into an
//!   area makes sure that it is loaded again before it is saved (`policy.rs`).
//! - A component in its initial state is not written, and its former bytes stay in the area: they are the thread's own, as areas are
//!   zeroed before somebody gets them, and a reader does not get to see them (`image.rs`).

use core::arch::{asm, naked_asm};
use core::ptr;

use super::layout::{HEADER_END, KNOWN, LEGACY_BYTES, Layout, Method};

/// x87 control word after `fninit` (Intel SDM vol. 1 §8.1.5).
pub(super) const INITIAL_FCW: u16 = 0x037F;
/// MXCSR after reset (Intel SDM vol. 1 §10.2.3).
pub(super) const INITIAL_MXCSR: u32 = 0x1F80;
/// Where MXCSR lies.
pub(super) const MXCSR: usize = 24;
/// Where the mask of MXCSR's valid bits lies in what the CPU saves.
const MXCSR_MASK: usize = 28;
/// The valid bits if the CPU saves a mask of zero (Intel SDM vol. 1 §11.6.6).
const DEFAULT_MXCSR_MASK: u32 = 0xFFBF;
/// Where the header's first word lies: which components are not in their initial state.
pub(super) const XSTATE_BV: usize = 512;
/// Where its second word lies: which components have room, and whether the format is compacted.
pub(super) const XCOMP_BV: usize = 520;
/// The bit of XCOMP_BV that says compacted (Intel SDM vol. 1 §13.4.2).
pub(super) const COMPACTED: u64 = 1 << 63;

/// An area could not be loaded: the CPU does not accept its contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged;

/// Legacy region and header of a state in which everything is initial.
#[repr(C, align(64))]
struct Initial([u8; HEADER_END]);

impl Initial {
    const fn new(xcomp_bv: u64) -> Initial {
        let mut bytes = [0; HEADER_END];
        let control = INITIAL_FCW.to_le_bytes();
        (bytes[0], bytes[1]) = (control[0], control[1]);
        let (mxcsr, format) = (INITIAL_MXCSR.to_le_bytes(), xcomp_bv.to_le_bytes());
        let mut at = 0;
        while at < 4 {
            bytes[MXCSR + at] = mxcsr[at];
            at += 1;
        }
        at = 0;
        while at < 8 {
            bytes[XCOMP_BV + at] = format[at];
            at += 1;
        }
        Initial(bytes)
    }
}

static INITIAL_STANDARD: Initial = Initial::new(0);
/// No component has room in it, which is right, as none is loaded from it.
static INITIAL_COMPACTED: Initial = Initial::new(COMPACTED);

/// A state in which everything is initial, in the format of `method`. Its extended components may lie anywhere: they are not read.
fn initial(method: Method) -> &'static [u8; HEADER_END] {
    if method.is_compacted() {
        &INITIAL_COMPACTED.0
    } else {
        &INITIAL_STANDARD.0
    }
}

/// Makes a zeroed area the state of a thread that has not used the FPU.
///
/// # Safety
/// `area` must point to `layout.bytes` writable bytes, all zero, aligned to 64.
pub(super) unsafe fn initialise(layout: &Layout, area: *mut u8) {
    let bytes = if layout.has_header() {
        HEADER_END
    } else {
        LEGACY_BYTES
    };
    // SAFETY: the caller's promise; every layout has room for that.
    unsafe { ptr::copy_nonoverlapping(initial(layout.method).as_ptr(), area, bytes) };
}

/// Saves the registers. They stay as they are. (The kernel's switch has a shorter way: `chosen.rs`.)
///
/// # Safety
/// `area` must have room for this machine's layout and be aligned to 64; `method` must be that layout's. CR0.TS is clear (on the host it
/// is none of our business).
#[cfg(not(target_os = "none"))]
pub(super) unsafe fn save(method: Method, area: *mut u8) {
    macro_rules! with_mask {
        ($instruction:literal) => {
            asm!(concat!($instruction, " [{}]"), in(reg) area, in("eax") KNOWN as u32, in("edx") 0,
                options(nostack, preserves_flags))
        };
    }
    // SAFETY: the caller's promise. Saving changes no register.
    unsafe {
        match method {
            Method::Fxsave => {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
            }
            Method::Xsave => with_mask!("xsave64"),
            Method::Xsaveopt => with_mask!("xsaveopt64"),
            Method::Xsavec => with_mask!("xsavec64"),
            Method::Xsaves => with_mask!("xsaves64"),
        }
    }
}

/// Loads the registers.
///
/// # Errors
/// [`Damaged`]; then the registers are in no state that may be shown to anybody.
///
/// # Safety
/// `area` must have been written by [`initialise`], [`save`] or `import` for the same layout. CR0.TS is clear. The caller's
/// own code must not keep anything in FPU registers.
#[inline]
pub(super) unsafe fn restore(
    method: Method,
    keeps_x87_pointers: bool,
    area: *const u8,
) -> Result<(), Damaged> {
    if keeps_x87_pointers {
        overwrite_x87_pointers();
    }
    // SAFETY: the caller's promise.
    let failed = unsafe {
        match method {
            Method::Fxsave => fxrstor(area),
            Method::Xsaves => xrstors(area),
            Method::Xsave | Method::Xsaveopt | Method::Xsavec => xrstor(area),
        }
    };
    if failed == 0 { Ok(()) } else { Err(Damaged) }
}

/// Brings the registers into the state of a thread that has not used the FPU, so that they hold nothing of anybody's.
///
/// # Safety
/// As [`restore`], and the method must be this machine's.
#[cfg_attr(
    not(target_os = "none"),
    allow(
        dead_code,
        reason = "a process has no others to hide its registers from"
    )
)]
pub(super) unsafe fn scrub(method: Method, keeps_x87_pointers: bool) {
    // SAFETY: the caller's promise. A state in which all is initial is read as far as its header.
    let done = unsafe { restore(method, keeps_x87_pointers, initial(method).as_ptr()) };
    debug_assert!(done == Ok(()), "the initial state can always be loaded");
}

/// AMD's CPUs before Zen 2 leave the addresses of the x87's last instruction and operand alone unless an exception is pending,
/// and the next thread could read another's (CVE-2006-1056). A harmless load overwrites them with the kernel's own.
fn overwrite_x87_pointers() {
    static ZERO: u32 = 0;
    // SAFETY: the x87 registers are about to be replaced; pending exceptions are dropped first, and the stack emptied.
    unsafe {
        asm!("fnclex", "emms", "fild dword ptr [{}]", in(reg) &raw const ZERO,
            options(readonly, nostack, preserves_flags));
    }
}

/// The bits of MXCSR that this CPU has.
pub(super) fn mxcsr_mask() -> u32 {
    let mut image = Initial([0; HEADER_END]);
    // SAFETY: 512 bytes, aligned; saving changes no register.
    unsafe {
        asm!("fxsave64 [{}]", in(reg) &raw mut image, options(nostack, preserves_flags));
    }
    match read_u32(&image.0, MXCSR_MASK) {
        0 => DEFAULT_MXCSR_MASK,
        mask => mask,
    }
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(read_u32(bytes, at)) | u64::from(read_u32(bytes, at + 4)) << 32
}

/// Where to go on after a #GP at `rip`, if that is an instruction which loads the registers.
///
/// The handler sets the frame's instruction pointer to the result, changes nothing else and returns.
pub fn fixup(rip: u64) -> Option<u64> {
    #[cfg(target_os = "none")]
    if let Some(landing) = super::chosen::fixup(rip) {
        return Some(landing);
    }
    let at = |label: unsafe extern "C" fn()| label as usize as u64;
    [
        (at(fpu_fxrstor), at(fpu_fxrstor_fixup)),
        (at(fpu_xrstor), at(fpu_xrstor_fixup)),
        (at(fpu_xrstors), at(fpu_xrstors_fixup)),
    ]
    .into_iter()
    .find_map(|(faulting, landing)| (rip == faulting).then_some(landing))
}

unsafe extern "C" {
    // The instructions that may fault, and where each goes on. They are labels, not functions.
    fn fpu_fxrstor();
    fn fpu_fxrstor_fixup();
    fn fpu_xrstor();
    fn fpu_xrstor_fixup();
    fn fpu_xrstors();
    fn fpu_xrstors_fixup();
}

/// Body of a routine that loads all components from the area in `rdi`.
///
/// In: `rdi` the area. Out: `eax` 0, or 1 if the CPU refused it. Lost: `rdx`, flags, and all FPU registers. The stack is not used.
macro_rules! load {
    ($name:literal, $instruction:literal) => {
        naked_asm!(
            "mov eax, {known}",
            "xor edx, edx",
            concat!(".global ", $name),
            concat!($name, ":"),
            concat!($instruction, " [rdi]"),
            "xor eax, eax",
            "ret",
            concat!(".global ", $name, "_fixup"),
            concat!($name, "_fixup:"),
            "mov eax, 1",
            "ret",
            known = const KNOWN,
        )
    };
}

/// See [`load`].
#[unsafe(naked)]
unsafe extern "sysv64" fn fxrstor(area: *const u8) -> u32 {
    load!("fpu_fxrstor", "fxrstor64")
}

/// See [`load`].
#[unsafe(naked)]
unsafe extern "sysv64" fn xrstor(area: *const u8) -> u32 {
    load!("fpu_xrstor", "xrstor64")
}

/// See [`load`].
#[unsafe(naked)]
unsafe extern "sysv64" fn xrstors(area: *const u8) -> u32 {
    load!("fpu_xrstors", "xrstors64")
}
