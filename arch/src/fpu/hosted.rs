//! Floating-point states inside an ordinary process, by the code that the kernel runs.
//!
//! A process can't trap its first FPU instruction, so here states are saved and loaded when asked, all of what the operating system
//! has enabled and the kernel knows. The privileged XSAVES is left out; XSAVEC stands for its format.

use super::area::{self, Damaged};
use super::image::{self, ImageError};
use super::layout::{IMAGE_ROOM, Layout, Method};

/// A state in memory.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct State {
    area: [u8; IMAGE_ROOM],
    layout: Layout,
    mxcsr_mask: u32,
}

impl State {
    /// The initial state, to be saved by the best instruction that this machine gives to a process.
    pub fn new() -> State {
        State::with(Layout::hosted())
    }

    /// The initial state, to be saved by another instruction.
    ///
    /// None if this machine does not have it, or not for a process.
    pub fn by(method: Method) -> Option<State> {
        Layout::hosted_by(method).map(State::with)
    }

    fn with(layout: Layout) -> State {
        let mut state = State {
            area: [0; IMAGE_ROOM],
            layout,
            mxcsr_mask: area::mxcsr_mask(),
        };
        // SAFETY: the area is zeroed, aligned and large enough.
        unsafe { area::initialise(&layout, state.area.as_mut_ptr()) };
        state
    }

    /// How it lies in memory.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Saves the registers as they are. What the caller's compiler keeps in them is the caller's business.
    #[inline]
    pub fn save(&mut self) {
        // SAFETY: the area is large enough for its layout, whose instruction this machine has.
        unsafe { area::save(self.layout.method, self.area.as_mut_ptr()) };
    }

    /// Loads the registers.
    ///
    /// # Errors
    /// [`Damaged`], where something goes on at [`fixup`](super::fixup) after the CPU's fault; then they hold something undefined.
    ///
    /// # Safety
    /// The caller keeps nothing in FPU registers, MXCSR and the x87 control word that is needed afterwards.
    #[inline]
    pub unsafe fn restore(&self) -> Result<(), Damaged> {
        // SAFETY: the area was written for its layout; the rest is the caller's promise.
        unsafe {
            area::restore(
                self.layout.method,
                self.layout.keeps_x87_pointers,
                self.area.as_ptr(),
            )
        }
    }

    /// Writes the state in the standard XSAVE format.
    ///
    /// # Errors
    /// [`ImageError::Size`]
    pub fn read(&self, image: &mut [u8]) -> Result<(), ImageError> {
        image::export(&self.layout, &self.area, image)
    }

    /// Sets the state from an image in the standard XSAVE format.
    ///
    /// # Errors
    /// What the CPU would not accept; nothing is changed then.
    pub fn write(&mut self, image: &[u8]) -> Result<(), ImageError> {
        image::check(&self.layout, self.mxcsr_mask, image)?;
        image::import(&self.layout, image, &mut self.area);
        Ok(())
    }

    /// Bytes of an image.
    pub fn image_bytes(&self) -> usize {
        self.layout.standard_bytes as usize
    }

    /// The area, to be spoilt by tests.
    #[cfg(test)]
    pub(super) fn area_mut(&mut self) -> &mut [u8] {
        &mut self.area
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}
