//! What pixels are written to.

/// A row of 32-bit pixels that can be written and never read.
pub trait Surface {
    /// How many pixels there are.
    fn len(&self) -> usize;

    /// Whether there is no pixel.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes pixels from index `at` on. What lies past the end is dropped.
    fn write(&mut self, at: usize, pixels: &[u32]);
}

/// A plain slice: what tests draw on.
impl Surface for [u32] {
    fn len(&self) -> usize {
        <[u32]>::len(self)
    }

    fn write(&mut self, at: usize, pixels: &[u32]) {
        if let Some(room) = self.get_mut(at..) {
            for (place, pixel) in room.iter_mut().zip(pixels) {
                *place = *pixel;
            }
        }
    }
}

impl<S: Surface + ?Sized> Surface for &mut S {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn write(&mut self, at: usize, pixels: &[u32]) {
        (**self).write(at, pixels);
    }
}

/// A framebuffer in memory: volatile writes, no reads.
#[derive(Debug)]
pub struct MappedSurface {
    base: *mut u32,
    length: usize,
}

// SAFETY: it is an exclusive right to write to memory (the contract of `new`) that is not tied to a thread.
unsafe impl Send for MappedSurface {}

impl MappedSurface {
    /// The `length` pixels at `base`.
    ///
    /// # Safety
    /// `base` is aligned to 4 and `length * 4` bytes from it are mapped writable, for as long as the surface
    /// lives or until [`MappedSurface::rebase`]; nothing that the compiler knows of lies there; nobody else
    /// relies on what is written there.
    pub const unsafe fn new(base: *mut u32, length: usize) -> MappedSurface {
        MappedSurface { base, length }
    }

    /// The same framebuffer is now mapped elsewhere.
    ///
    /// # Safety
    /// As for [`MappedSurface::new`], with the length given there.
    pub const unsafe fn rebase(&mut self, base: *mut u32) {
        self.base = base;
    }
}

impl Surface for MappedSurface {
    fn len(&self) -> usize {
        self.length
    }

    fn write(&mut self, at: usize, pixels: &[u32]) {
        let room = self.length.saturating_sub(at);
        for (i, pixel) in pixels.iter().take(room).enumerate() {
            // SAFETY: `i` is below `room`, so `at + i` is below `length`: inside what `new` was promised.
            unsafe { self.base.add(at + i).write_volatile(*pixel) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_past_the_end_are_dropped() {
        let mut memory = [0u32; 6];
        // SAFETY: four pixels of a live array that is not used until the surface is gone.
        let mut mapped = unsafe { MappedSurface::new(memory.as_mut_ptr(), 4) };
        mapped.write(3, &[1, 2]);
        mapped.write(4, &[3]);
        mapped.write(usize::MAX, &[4]);
        assert_eq!(memory, [0, 0, 0, 1, 0, 0]);

        let mut slice = [0u32; 4];
        slice.as_mut_slice().write(3, &[1, 2]);
        slice.as_mut_slice().write(usize::MAX, &[3]);
        assert_eq!(slice, [0, 0, 0, 1]);
    }
}
