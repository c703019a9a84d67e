//! A thread's part in the machine: kernel stack, switch state, FPU state. On the host, a context and its marks alone.

#[cfg(target_os = "none")]
pub use bare::Machine;
#[cfg(not(target_os = "none"))]
pub use hosted::Machine;

#[cfg(target_os = "none")]
mod bare {
    use core::sync::atomic::AtomicU32;

    use abi::{Error, UserContext};
    use arch::fpu::{self, FpuState, ImageError};
    use arch::switch::ThreadState;
    use arch::tlb::Space;

    use crate::memory::fpu_areas;
    use crate::memory::stacks::KernelStack;

    /// Stack, switch state and FPU state.
    #[repr(C)]
    pub struct Machine {
        pub(crate) state: ThreadState,
        stack: Option<KernelStack>,
    }

    const _: () = assert!(core::mem::offset_of!(Machine, state) == 0);

    impl Machine {
        /// The machine part of a thread that begins with `context` in the address space `space`, on a stack that is its alone.
        ///
        /// # Safety
        /// The context was checked (`arch::context::sanitise`), and the address space lives as long as the thread.
        #[inline(always)]
        pub unsafe fn new(stack: KernelStack, space: &Space, context: UserContext) -> Machine {
            // SAFETY: the stack is nobody else's and this thread's alone; the rest is the caller's promise.
            let state = unsafe {
                ThreadState::for_user(stack.top().as_u64(), space, FpuState::new(), context)
            };
            Machine {
                state,
                stack: Some(stack),
            }
        }

        /// Its stack, for another thread, after all else that it has. For whoever drops it: nothing of it is used any more.
        pub(crate) fn take_stack(&mut self) -> Option<KernelStack> {
            self.free_fpu_area();
            self.stack.take()
        }

        fn free_fpu_area(&self) {
            // SAFETY: the thread is gone, and its area came from there.
            unsafe {
                if let Some(area) = fpu::take_area(&self.state) {
                    fpu_areas::free(area);
                }
            }
        }

        /// Gives the thread the memory that its floating-point state needs, at its first use of the FPU.
        ///
        /// # Errors
        /// [`Error::NoMemory`]; [`Error::WrongState`] if it has it already.
        ///
        /// # Safety
        /// The thread is this CPU's current one, or runs nowhere.
        pub(crate) unsafe fn provide_fpu_area(&self) -> Result<(), Error> {
            if !fpu::lacks_area(&self.state) {
                return Err(Error::WrongState);
            }
            let area = fpu_areas::allocate(fpu::area_bytes()).ok_or(Error::NoMemory)?;
            // SAFETY: the area is fresh, zeroed and large enough; the rest is the caller's promise.
            unsafe { fpu::provide(&self.state, area) };
            Ok(())
        }

        /// Writes the thread's floating-point state to `image`, in the standard format.
        ///
        /// # Errors
        /// [`Error::OutOfRange`] if the image has another size than such a state.
        ///
        /// # Safety
        /// The thread is this CPU's current one, or runs nowhere.
        pub(crate) unsafe fn read_fpu(&self, image: &mut [u8]) -> Result<(), Error> {
            // SAFETY: the caller's promise.
            unsafe { fpu::read_state(&self.state, image) }.map_err(bad_image)
        }

        /// Sets the thread's floating-point state.
        ///
        /// # Errors
        /// [`Error::BadArgument`] for what the CPU would not accept, [`Error::OutOfRange`] for another size, [`Error::NoMemory`];
        /// nothing is changed then.
        ///
        /// # Safety
        /// As [`read_fpu`](Self::read_fpu).
        pub(crate) unsafe fn write_fpu(&self, image: &[u8]) -> Result<(), Error> {
            // SAFETY: the caller's promise.
            unsafe {
                match fpu::write_state(&self.state, image) {
                    Err(ImageError::NoArea) => {
                        self.provide_fpu_area()?;
                        fpu::write_state(&self.state, image)
                    }
                    done => done,
                }
            }
            .map_err(bad_image)
        }

        /// The word of the thread's marks, where the switch sees it.
        #[inline]
        pub(crate) fn marks(&self) -> &AtomicU32 {
            self.state.extras().marks()
        }

        /// The thread's saved user registers.
        #[inline]
        pub(crate) fn context(&self) -> *mut UserContext {
            self.state.context()
        }
    }

    fn bad_image(error: ImageError) -> Error {
        match error {
            ImageError::Size => Error::OutOfRange,
            ImageError::Mxcsr | ImageError::Components | ImageError::Header => Error::BadArgument,
            ImageError::NoArea => Error::NoMemory,
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            self.free_fpu_area();
        }
    }
}

#[cfg(not(target_os = "none"))]
mod hosted {
    use core::cell::UnsafeCell;
    use core::sync::atomic::AtomicU32;

    use abi::UserContext;

    /// A context.
    pub struct Machine {
        context: UnsafeCell<UserContext>,
        marks: AtomicU32,
    }

    impl Machine {
        /// The machine part of a thread with this context.
        pub const fn new(context: UserContext) -> Machine {
            Machine {
                context: UnsafeCell::new(context),
                marks: AtomicU32::new(0),
            }
        }

        pub(crate) fn marks(&self) -> &AtomicU32 {
            &self.marks
        }

        pub(crate) fn context(&self) -> *mut UserContext {
            self.context.get()
        }
    }
}
