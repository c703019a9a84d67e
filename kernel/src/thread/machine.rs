//! A thread's part in the machine: kernel stack, switch state, FPU state. On the host, a context alone.

#[cfg(target_os = "none")]
pub use bare::Machine;
#[cfg(not(target_os = "none"))]
pub use hosted::Machine;

#[cfg(target_os = "none")]
mod bare {
    use abi::{Error, UserContext};
    use arch::fpu::{self, FpuState};
    use arch::switch::ThreadState;
    use arch::tlb::Space;

    use crate::memory::fpu_areas;
    use crate::memory::stacks::{self, KernelStack};

    /// Stack, switch state and FPU state.
    pub struct Machine {
        pub(crate) state: ThreadState,
        stack: Option<KernelStack>,
    }

    impl Machine {
        /// The machine part of a thread that begins with `context` in the address space `space`.
        ///
        /// # Errors
        /// [`Error::NoMemory`]; nothing is held then.
        ///
        /// # Safety
        /// The context was checked (`arch::context::sanitise`), and the address space lives as long as the thread.
        pub unsafe fn new(space: &Space, context: UserContext) -> Result<Machine, Error> {
            let stack = stacks::allocate()?;
            // SAFETY: the stack is fresh and this thread's alone; the rest is the caller's promise.
            let state = unsafe {
                ThreadState::for_user(stack.top().as_u64(), space, FpuState::new(), context)
            };
            Ok(Machine {
                state,
                stack: Some(stack),
            })
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

        /// The thread's saved user registers.
        #[inline]
        pub(crate) fn context(&self) -> *mut UserContext {
            self.state.context()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            // SAFETY: the thread is gone, and its area came from there.
            unsafe {
                if let Some(area) = fpu::take_area(&self.state) {
                    fpu_areas::free(area);
                }
            }
            if let Some(stack) = self.stack.take() {
                stacks::free(stack);
            }
        }
    }
}

#[cfg(not(target_os = "none"))]
mod hosted {
    use core::cell::UnsafeCell;

    use abi::UserContext;

    /// A context.
    pub struct Machine {
        context: UnsafeCell<UserContext>,
    }

    impl Machine {
        /// The machine part of a thread with this context.
        pub const fn new(context: UserContext) -> Machine {
            Machine {
                context: UnsafeCell::new(context),
            }
        }

        pub(crate) fn context(&self) -> *mut UserContext {
            self.context.get()
        }
    }
}
