//! A user context with the gate through which it runs.

use abi::UserContext;

use super::HostError;
use super::gate::Gate;
use super::gate_code;
use crate::fpu::ImageError;
use crate::fpu::hosted::State;

/// Whose the FPU registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fpu {
    /// One set for both sides, as in a function call: what user code finds in them is the host's, and the other way round. MXCSR's
    /// control bits and the x87 control word are put back for the host.
    Shared,
    /// User code has its own: x87, SSE, AVX and AVX-512 are kept from run to run, and the host's control words are put back.
    Own,
}

/// A user context that runs in this process.
///
/// It may be moved to another thread and run there; its entry stays where it is.
pub struct HostedContext {
    gate: Gate,
}

impl HostedContext {
    /// Makes a gate for `context`, whose selectors and flags are as on bare metal (`arch::context::fresh` makes one that may run).
    ///
    /// # Errors
    /// [`HostError::Os`] if the gate's pages can't be had, or not be made executable.
    pub fn new(context: UserContext, fpu: Fpu) -> Result<HostedContext, HostError> {
        Gate::new(context, fpu == Fpu::Own).map(|gate| HostedContext { gate })
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The address that this context's user code calls in place of `syscall`. It keeps every register; the call's
    /// return address is on the user's stack for as long as the call instruction takes.
    pub fn entry(&self) -> u64 {
        self.gate.address_of(gate_code::entry())
    }

    /// The GS base with which this context's user code can call [`switchyard_hosted_entry`](super::switchyard_hosted_entry), which is
    /// one address for all contexts. For those whose code has no use of its own for GS.
    pub fn gs_of_entry(&self) -> u64 {
        self.gate.data() as u64
    }

    /// The registers.
    pub fn context(&self) -> &UserContext {
        // SAFETY: the data are the gate's, and no run is under way, as that borrows `self` exclusively.
        unsafe { &(*self.gate.data()).context }
    }

    /// The registers. They are checked when they are run.
    pub fn context_mut(&mut self) -> &mut UserContext {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { &mut (*self.gate.data()).context }
    }

    /// The FPU registers, if user code has its own.
    pub fn fpu(&self) -> Option<&State> {
        // SAFETY: as for `context`; the state was written when the gate was made.
        unsafe {
            let data = &*self.gate.data();
            (data.own_fpu != 0).then(|| data.fpu.assume_init_ref())
        }
    }

    /// Sets the FPU registers from an image in the standard XSAVE format, `fpu().image_bytes()` long.
    ///
    /// # Errors
    /// What the CPU would not accept, or [`ImageError::NoArea`] if they are shared; nothing is changed then.
    pub fn set_fpu(&mut self, image: &[u8]) -> Result<(), ImageError> {
        // SAFETY: as for `context_mut`. The state stays the one that the gate's code knows: only its contents change.
        unsafe {
            let data = &mut *self.gate.data();
            if data.own_fpu == 0 {
                return Err(ImageError::NoArea);
            }
            data.fpu.assume_init_mut().write(image)
        }
    }
}
