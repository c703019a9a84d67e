//! A thread's floating-point state for others to see and set: a debugger, a supervisor, a checkpoint.
//!
//! The form outside is always the standard XSAVE format, whatever the machine saves with (512 bytes as FXSAVE writes them where there is
//! no XSAVE): legacy region, header, then each component at the place that CPUID gives. What is set is checked bit by bit,
//! because the CPU would fault on it in the kernel (Intel SDM vol. 1 §13.8.1): reserved bits of MXCSR, components that are not enabled,
//! a compacted header, reserved bytes of the header.

use super::area::{
    COMPACTED, INITIAL_FCW, INITIAL_MXCSR, MXCSR, XCOMP_BV, XSTATE_BV, read_u32, read_u64,
};
use super::layout::{HEADER_END, LEGACY_BYTES, Layout};

/// Why a state can't be read or set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// It has not [`image_bytes`](super::image_bytes) bytes.
    Size,
    /// MXCSR has a bit that this CPU does not have.
    Mxcsr,
    /// It has a component that is not enabled.
    Components,
    /// It is compacted, or reserved bytes of its header are not zero.
    Header,
    /// The thread has no area to put it in; see [`provide`](super::provide).
    NoArea,
}

/// The x87 part of the legacy region: control, status, tags, last instruction; the register stack.
const X87: [(usize, usize); 2] = [(0, MXCSR), (32, 160)];
/// The sixteen XMM registers.
const XMM: (usize, usize) = (160, 416);
const X87_BIT: u64 = 1;
const SSE_BIT: u64 = 2;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Writes the state in `area` to `image` in the standard format. Components in their initial state are written as such, whatever
/// bytes lie in the area.
///
/// # Errors
/// [`ImageError::Size`]
pub(super) fn export(layout: &Layout, area: &[u8], image: &mut [u8]) -> Result<(), ImageError> {
    if image.len() != layout.standard_bytes as usize {
        return Err(ImageError::Size);
    }
    if !layout.has_header() {
        image.copy_from_slice(&area[..LEGACY_BYTES]);
        return Ok(());
    }
    let in_use = read_u64(area, XSTATE_BV);
    image.fill(0);
    put(image, 0, &INITIAL_FCW.to_le_bytes());
    let mut copy = |from: usize, to: usize, bytes: usize| {
        image[to..to + bytes].copy_from_slice(&area[from..from + bytes]);
    };
    if in_use & X87_BIT != 0 {
        for (start, end) in X87 {
            copy(start, start, end - start);
        }
    }
    if in_use & SSE_BIT != 0 {
        copy(XMM.0, XMM.0, XMM.1 - XMM.0);
    }
    for component in layout.extended() {
        if in_use >> component.bit & 1 != 0 {
            copy(
                component.offset as usize,
                component.standard as usize,
                component.bytes as usize,
            );
        }
    }
    // The standard format always holds MXCSR; the compacted one treats it as a part of SSE (Intel SDM vol. 1 §13.8.2).
    if !layout.method.is_compacted() || in_use & SSE_BIT != 0 {
        copy(MXCSR, MXCSR, 4);
    } else {
        put(image, MXCSR, &INITIAL_MXCSR.to_le_bytes());
    }
    put(image, XSTATE_BV, &in_use.to_le_bytes());
    Ok(())
}

/// Writes the state of a thread that has not used the FPU to `image`.
///
/// # Errors
/// [`ImageError::Size`]
#[cfg_attr(
    not(target_os = "none"),
    allow(dead_code, reason = "its caller knows threads")
)]
pub(super) fn export_initial(layout: &Layout, image: &mut [u8]) -> Result<(), ImageError> {
    if image.len() != layout.standard_bytes as usize {
        return Err(ImageError::Size);
    }
    image.fill(0);
    put(image, 0, &INITIAL_FCW.to_le_bytes());
    put(image, MXCSR, &INITIAL_MXCSR.to_le_bytes());
    Ok(())
}

/// Whether a state may be set.
///
/// # Errors
/// What the CPU would not accept.
pub(super) fn check(layout: &Layout, mxcsr_mask: u32, image: &[u8]) -> Result<(), ImageError> {
    if image.len() != layout.standard_bytes as usize {
        return Err(ImageError::Size);
    }
    if read_u32(image, MXCSR) & !mxcsr_mask != 0 {
        return Err(ImageError::Mxcsr);
    }
    if !layout.has_header() {
        return Ok(());
    }
    if read_u64(image, XSTATE_BV) & !layout.xcr0 != 0 {
        return Err(ImageError::Components);
    }
    if image[XCOMP_BV..HEADER_END].iter().any(|&byte| byte != 0) {
        return Err(ImageError::Header);
    }
    Ok(())
}

/// Puts a state that passed [`check`] into an area.
pub(super) fn import(layout: &Layout, image: &[u8], area: &mut [u8]) {
    area.fill(0);
    if !layout.has_header() {
        area[..LEGACY_BYTES].copy_from_slice(image);
        return;
    }
    let mut in_use = read_u64(image, XSTATE_BV);
    let mut copy = |from: usize, to: usize, bytes: usize| {
        area[to..to + bytes].copy_from_slice(&image[from..from + bytes]);
    };
    if in_use & X87_BIT != 0 {
        for (start, end) in X87 {
            copy(start, start, end - start);
        }
    }
    if in_use & SSE_BIT != 0 {
        copy(XMM.0, XMM.0, XMM.1 - XMM.0);
    }
    copy(MXCSR, MXCSR, 4);
    for component in layout.extended() {
        if in_use >> component.bit & 1 != 0 {
            copy(
                component.standard as usize,
                component.offset as usize,
                component.bytes as usize,
            );
        }
    }
    if layout.method.is_compacted() {
        // MXCSR is loaded only with SSE there; its registers are zero then, as they would be initially.
        if read_u32(image, MXCSR) != INITIAL_MXCSR {
            in_use |= SSE_BIT;
        }
        put(area, XCOMP_BV, &(COMPACTED | layout.xcr0).to_le_bytes());
    }
    put(area, XSTATE_BV, &in_use.to_le_bytes());
}
