//! A thread's part in the machine: kernel stack, switch state, FPU state. On the host, a context alone.

#[cfg(target_os = "none")]
pub use bare::Machine;
#[cfg(not(target_os = "none"))]
pub use hosted::Machine;

#[cfg(target_os = "none")]
mod bare {
    use abi::{Error, UserContext};
    use arch::addr::PhysAddr;
    use arch::fpu::FpuState;
    use arch::switch::ThreadState;

    use crate::memory::frames::{self, FrameKind};
    use crate::memory::stacks::{self, KernelStack};

    /// Stack, switch state and FPU state.
    pub struct Machine {
        pub(crate) state: ThreadState,
        stack: Option<KernelStack>,
        fpu: PhysAddr,
    }

    impl Machine {
        /// The machine part of a thread that begins with `context` in the address space `root`.
        ///
        /// # Errors
        /// [`Error::NoMemory`]; nothing is held then.
        ///
        /// # Safety
        /// The context was checked (`arch::context::sanitise`), and the address space lives as long as the thread.
        pub unsafe fn new(root: PhysAddr, context: UserContext) -> Result<Machine, Error> {
            let stack = stacks::allocate()?;
            let Some(fpu) = frames::allocate_zeroed(FrameKind::Kernel) else {
                stacks::free(stack);
                return Err(Error::NoMemory);
            };
            // SAFETY: stack and frame are fresh and this thread's alone; the rest is the caller's promise.
            let state = unsafe {
                ThreadState::for_user(stack.top().as_u64(), root, FpuState::new(fpu), context)
            };
            Ok(Machine {
                state,
                stack: Some(stack),
                fpu,
            })
        }

        /// The thread's saved user registers.
        #[inline]
        pub(crate) fn context(&self) -> *mut UserContext {
            self.state.context()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            frames::free_frame(self.fpu);
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
