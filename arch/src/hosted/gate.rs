//! A gate: the pages through which one user context leaves and enters its host thread.
//!
//! When user code calls the gate's entry, every register is the user's: neither a general register nor FS nor GS leads to
//! anything of the host's, and the user's stack and thread-local storage are not ours to write to. What is left is
//! the instruction pointer. So each context has a page of code of its own, a copy of [`gate_code`](super::gate_code), and
//! right behind it its data, which the code reaches by its distance alone:
//!
//! ```text
//! pages ->  code, a page (read, execute)   the same bytes in every gate
//!           data (read, write)             GateData: the user's context, the host's stack pointer and bases, FPU state
//! ```
//!
//! The gate belongs to the context and not to the host thread, so the entry's address stays the same when the context
//! is run by another thread.

use core::mem::{MaybeUninit, offset_of};
use core::ptr::NonNull;

use abi::UserContext;

use super::HostError;
use super::gate_code;
use super::signals::SignalStack;
use crate::fpu::hosted::State;

/// Bytes of the code's page; the data begin right behind it.
pub(super) const CODE_BYTES: usize = 4096;
/// Bytes of the data's pages. The last ones are touched only where the user has FPU registers of its own.
const DATA_BYTES: usize = size_of::<GateData>().next_multiple_of(4096);

/// What the gate's code works on.
#[repr(C, align(64))]
pub(super) struct GateData {
    /// The user's registers.
    pub(super) context: UserContext,
    /// Where `switchyard_gate_entry` is: for the entry that finds it through GS.
    pub(super) entry: u64,
    /// The host's RSP during a run; its callee-saved registers lie there.
    pub(super) host_rsp: u64,
    /// The host thread's FS base.
    pub(super) host_fs: u64,
    /// The host thread's GS base.
    pub(super) host_gs: u64,
    /// The host thread's signal stack, which says what is run.
    pub(super) signal_stack: *mut SignalStack,
    /// What `iretq` pops: RIP, CS, RFLAGS, RSP, SS.
    pub(super) iret: [u64; 5],
    /// MXCSR of the host during a run.
    pub(super) host_mxcsr: u32,
    /// Scratch word for the user's MXCSR and x87 control word.
    pub(super) user_control: u32,
    /// x87 control word of the host during a run.
    pub(super) host_fcw: u16,
    /// Whether bases are changed by instructions; else by `arch_prctl`.
    pub(super) fsgsbase: u8,
    /// Whether the user has FPU registers of its own.
    pub(super) own_fpu: u8,
    /// Whether the user single-stepped into the gate: the handler has cleared TF, which belongs into the context.
    pub(super) stepped: bool,
    /// The instruction that saves the user's FPU registers: a [`Method`](crate::fpu::Method).
    pub(super) method: u8,
    /// The components that it saves; none of `fxsave`'s.
    pub(super) components: u32,
    /// The user's FPU registers while it is not running. There only if it has its own.
    pub(super) fpu: MaybeUninit<State>,
}

/// Distances from the gate's first byte to the fields of its data, for the assembly.
pub(super) mod at {
    use super::{CODE_BYTES, GateData, UserContext, offset_of};

    macro_rules! field {
        ($($name:ident = $field:ident),* $(,)?) => {
            $(pub(in super::super) const $name: usize = CODE_BYTES + offset_of!(GateData, $field);)*
        };
    }
    macro_rules! register {
        ($($name:ident = $field:ident),* $(,)?) => {
            $(pub(in super::super) const $name: usize = CONTEXT + offset_of!(UserContext, $field);)*
        };
    }

    field!(
        CONTEXT = context,
        HOST_RSP = host_rsp,
        HOST_FS = host_fs,
        HOST_GS = host_gs,
        SIGNAL_STACK = signal_stack,
        IRET = iret,
        HOST_MXCSR = host_mxcsr,
        USER_CONTROL = user_control,
        HOST_FCW = host_fcw,
        FSGSBASE = fsgsbase,
        OWN_FPU = own_fpu,
        METHOD = method,
        COMPONENTS = components,
        FPU = fpu,
    );
    register!(
        R15 = r15,
        R14 = r14,
        R13 = r13,
        R12 = r12,
        RBP = rbp,
        RBX = rbx,
        R11 = r11,
        R10 = r10,
        R9 = r9,
        R8 = r8,
        RAX = rax,
        RCX = rcx,
        RDX = rdx,
        RSI = rsi,
        RDI = rdi,
        FS_BASE = fs_base,
        GS_BASE = gs_base,
        CALL_NUMBER = call_number,
        VECTOR = vector,
        ERROR_CODE = error_code,
        RIP = rip,
        RFLAGS = rflags,
        RSP = rsp,
    );
    /// The data's first byte.
    pub(in super::super) const DATA: usize = CODE_BYTES;
}

/// Offset of the entry's address in the data, as seen through GS.
pub(super) const ENTRY_OFFSET: usize = offset_of!(GateData, entry);

/// The pages of one context. Unmapped when dropped.
pub(super) struct Gate {
    pages: NonNull<u8>,
}

// SAFETY: it is memory that belongs to its owner; nothing in it is bound to a thread except during a run, which borrows it.
unsafe impl Send for Gate {}
// SAFETY: a shared reference allows nothing but reading.
unsafe impl Sync for Gate {}

impl Gate {
    /// Maps a gate.
    ///
    /// # Errors
    /// [`HostError::Os`] if the pages can't be had, or not be made executable.
    pub(super) fn new(context: UserContext, own_fpu: bool) -> Result<Gate, HostError> {
        let code = gate_code::template();
        // SAFETY: a fresh mapping, anywhere.
        let pages = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                CODE_BYTES + DATA_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if pages == libc::MAP_FAILED {
            return Err(HostError::last("mmap"));
        }
        let gate = Gate {
            pages: NonNull::new(pages.cast()).ok_or(HostError::Os("mmap", 0))?,
        };
        // SAFETY: the pages are ours, fresh, and large enough for code and data.
        unsafe {
            core::ptr::copy_nonoverlapping(code.as_ptr(), gate.pages.as_ptr(), code.len());
            gate.data().write(GateData {
                context,
                entry: gate.address_of(gate_code::entry()),
                host_rsp: 0,
                host_fs: 0,
                host_gs: 0,
                signal_stack: core::ptr::null_mut(),
                iret: gate_code::iret_frame(),
                host_mxcsr: 0,
                user_control: 0,
                host_fcw: 0,
                fsgsbase: 0,
                own_fpu: u8::from(own_fpu),
                stepped: false,
                method: 0,
                components: 0,
                fpu: MaybeUninit::uninit(),
            });
            if own_fpu {
                let state = State::new();
                (*gate.data()).method = state.layout().method as u8;
                (*gate.data()).components = state.layout().xcr0 as u32;
                (*gate.data()).fpu.write(state);
            }
            if libc::mprotect(pages, CODE_BYTES, libc::PROT_READ | libc::PROT_EXEC) != 0 {
                return Err(HostError::last("mprotect"));
            }
        }
        Ok(gate)
    }

    /// Where a place in the template is in this gate.
    pub(super) fn address_of(&self, place: usize) -> u64 {
        self.pages.as_ptr() as u64 + place as u64
    }

    /// The data. Valid as long as the gate.
    pub(super) fn data(&self) -> *mut GateData {
        // SAFETY: the data's page follows the code's in one mapping.
        unsafe { self.pages.as_ptr().add(CODE_BYTES).cast() }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no run is under way, as that would borrow the gate.
        unsafe { libc::munmap(self.pages.as_ptr().cast(), CODE_BYTES + DATA_BYTES) };
    }
}

/// Where in its gate's code an address lies, if it does.
///
/// # Safety
/// `data` must be a gate's.
pub(super) unsafe fn offset_in_code(data: *const GateData, address: u64) -> Option<usize> {
    let offset = address.wrapping_sub(data as u64 - CODE_BYTES as u64);
    (offset < CODE_BYTES as u64).then_some(offset as usize)
}
