//! A thread as the switch knows it, and what may be changed about one that does not run.
//!
//! A thread that is not running is its user context at the top of its kernel stack, what it was doing in the kernel below that, and a
//! [`ThreadState`], which says where that ends. So a new thread is made by hand: a context, and below it what
//! [`exchange_stacks`](super::exchange_stacks) would have left.
//!
//! What may go wrong: a context that is changed while its thread runs, whose registers are in the CPU; and one that nobody checked, which
//! would fault in the kernel on the way out.

use core::cell::Cell;
use core::mem::offset_of;

use abi::segment::TLS_SLOTS;
use abi::{DebugRegisters, UserContext};

use super::first_run;
use crate::context::{self, BadContext};
use crate::cpu::features;
use crate::debug_registers::{self, BadDebugRegisters};
use crate::entry::context_at;
use crate::extras::{self, Extras};
use crate::fpu::FpuState;
use crate::segments::{BadDescriptor, TlsSlots};
use crate::tlb::Space;

/// What the switch knows of a thread.
///
/// It belongs to the CPU on which the thread runs or is queued.
#[repr(C)]
pub struct ThreadState {
    /// Stack pointer while the thread is not running. First, where [`exchange_stacks`](super::exchange_stacks) expects it.
    pub(super) rsp: Cell<u64>,
    /// Top of its kernel stack; the thread's user context lies right below.
    pub(super) stack_top: u64,
    /// Its address space.
    pub(super) space: *const Space,
    pub(crate) fpu: FpuState,
    /// What few threads have.
    pub(super) extras: Extras,
    /// Whether it ever runs in user mode; a CPU's idle thread does not.
    pub(super) user: bool,
}

// SAFETY: the cells are touched by one CPU at a time, as the type's documentation says; the scheduler sees to it.
unsafe impl Sync for ThreadState {}
// SAFETY: it is data; the pointers in it are valid on every CPU.
unsafe impl Send for ThreadState {}

/// What [`exchange_stacks`](super::exchange_stacks) pops at a thread's first switch: six registers and the address to "return" to.
#[repr(C)]
struct FirstFrame {
    callee_saved: [u64; 6],
    return_address: u64,
}

const _: () = assert!(offset_of!(ThreadState, rsp) == 0);

impl ThreadState {
    /// A user thread that has not run: its first switch leads to user mode with `context`.
    ///
    /// # Safety
    /// `stack_top` is the 16-byte aligned top of a mapped stack of the thread's own; `space` maps the kernel; `context` was
    /// checked (`context::sanitise`). The thread must not outlive stack and space; of its state without them, only the floating-point area may be used.
    #[inline(always)]
    pub unsafe fn for_user(
        stack_top: u64,
        space: &Space,
        fpu: FpuState,
        context: UserContext,
    ) -> ThreadState {
        let place = context_at(stack_top);
        let frame = (place as u64 - size_of::<FirstFrame>() as u64) as *mut FirstFrame;
        // SAFETY: the stack is the caller's and large enough.
        unsafe {
            place.write(context);
            frame.write(FirstFrame {
                callee_saved: [0; 6],
                return_address: first_run as *const () as u64,
            });
        }
        let extras = Extras::none();
        extras.mark(extras::BASES_BY_MSR, !features().fsgsbase);
        extras.mark(extras::SELECTORS, has_selectors(&context));
        ThreadState {
            rsp: Cell::new(frame as u64),
            stack_top,
            space,
            fpu,
            extras,
            user: true,
        }
    }

    /// The state of a thread that is already running: a CPU's idle thread, which never sees user mode.
    pub const fn for_idle(stack_top: u64, space: &'static Space) -> ThreadState {
        ThreadState {
            rsp: Cell::new(0),
            stack_top,
            space,
            fpu: FpuState::none(),
            extras: Extras::idle(),
            user: false,
        }
    }

    /// The thread's user context, as its last entry left it. Bases and selectors are right while it is not running.
    #[inline]
    pub fn context(&self) -> *mut UserContext {
        context_at(self.stack_top)
    }

    /// Top of its kernel stack.
    pub fn stack_top(&self) -> u64 {
        self.stack_top
    }

    /// What few threads have.
    #[inline]
    pub fn extras(&self) -> &Extras {
        &self.extras
    }

    /// The thread's calls, by `syscall` and `int 0x80` of 64-bit code, come to the hook for calls that are reported from now on; or no more. For a thread that does
    /// not run.
    ///
    /// # Safety
    /// The caller holds the thread stopped.
    pub unsafe fn report_calls(&self, on: bool) {
        self.extras.set_reporting(on);
    }

    /// The thread's debug registers.
    pub fn debug_registers(&self) -> DebugRegisters {
        DebugRegisters {
            // SAFETY: the context lives as long as the thread.
            status: unsafe { (*self.context()).debug_status },
            ..self.extras.breakpoints()
        }
    }

    /// Changes the thread's debug registers. For a thread that does not run.
    ///
    /// # Errors
    /// What makes them unfit; nothing is changed then.
    ///
    /// # Safety
    /// The caller holds the thread stopped.
    pub unsafe fn set_debug_registers(
        &self,
        registers: &DebugRegisters,
    ) -> Result<(), BadDebugRegisters> {
        let checked = debug_registers::check(registers)?;
        // SAFETY: just checked; the caller is the only one who touches the context now.
        unsafe {
            self.extras.set_breakpoints(checked);
            (*self.context()).debug_status = checked.status;
        }
        Ok(())
    }

    /// Changes the thread's registers, but for what they say of its last entry. For a thread that does not run.
    ///
    /// # Errors
    /// What makes them unfit; nothing is changed then.
    ///
    /// # Safety
    /// The caller holds the thread stopped, on its way out of the kernel or before its first run.
    pub unsafe fn set_registers(&self, registers: &UserContext) -> Result<(), BadContext> {
        let mut registers = *registers;
        context::sanitise(&mut registers, &self.extras.tls())?;
        // SAFETY: the caller is the only one who touches the context now.
        let place = unsafe { &mut *self.context() };
        *place = UserContext {
            debug_status: place.debug_status,
            cr2: place.cr2,
            call_number: place.call_number,
            vector: place.vector,
            error_code: place.error_code,
            ..registers
        };
        self.selectors_changed();
        Ok(())
    }

    /// Changes one of the thread's own descriptors, and the bases that came with it. For a thread that does not run.
    ///
    /// # Errors
    /// What makes the descriptor unfit; nothing is changed then.
    ///
    /// # Safety
    /// The caller holds the thread stopped; its bases and selectors are in its context.
    pub unsafe fn set_tls(&self, slot: usize, descriptor: u64) -> Result<(), BadDescriptor> {
        let mut slots = self.extras.tls();
        slots.set(slot, descriptor)?;
        self.extras.set_tls(slots);
        // SAFETY: the caller is the only one who touches the context now.
        slots.renew_bases(slot, unsafe { &mut *self.context() });
        Ok(())
    }

    /// Changes all of the thread's own descriptors. For a thread that does not run.
    ///
    /// # Errors
    /// As [`set_tls`](Self::set_tls); nothing is changed then.
    ///
    /// # Safety
    /// As [`set_tls`](Self::set_tls).
    pub unsafe fn set_all_tls(&self, descriptors: &[u64; TLS_SLOTS]) -> Result<(), BadDescriptor> {
        let mut checked = TlsSlots::EMPTY;
        for (slot, &descriptor) in descriptors.iter().enumerate() {
            checked.set(slot, descriptor)?;
        }
        let before = self.extras.tls();
        for (slot, &descriptor) in checked.descriptors().iter().enumerate() {
            if before.descriptors()[slot] != descriptor {
                // SAFETY: the caller's promise.
                unsafe { self.set_tls(slot, descriptor) }?;
            }
        }
        Ok(())
    }

    /// Notes whether the thread has selectors, after they were saved or set.
    pub(super) fn selectors_changed(&self) {
        // SAFETY: the caller runs the thread in the kernel, or holds it stopped.
        let has = has_selectors(unsafe { &*self.context() });
        self.extras.mark(extras::SELECTORS, has);
    }
}

/// Whether a data selector is not null.
fn has_selectors(context: &UserContext) -> bool {
    (context.ds | context.es | context.fs | context.gs) != 0
}
