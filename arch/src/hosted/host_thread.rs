//! A host thread that runs contexts: what a CPU is on bare metal.
//!
//! It knows the thread's own FS and GS base, gives it a signal stack, and keeps signals with handlers of others away while it
//! lives, as those would run with the user's FS base.

use core::arch::asm;
use core::marker::PhantomData;
use core::mem::zeroed;
use core::ptr;

use super::gate_code;
use super::hosted_context::HostedContext;
use super::signals::{self, FAULTS, STACK_BYTES, SignalStack};
use super::{BadContext, HostError};
use crate::context::{FIXED_FLAGS, USER_CODE64, USER_DATA, USER_FLAGS, is_canonical};
use crate::run::Trap;
use abi::UserContext;
use abi::layout::USER_END;

/// How FS and GS bases are changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BaseSwitch {
    /// By `wrfsbase` and `wrgsbase`, which the host's kernel must have allowed.
    Instructions,
    /// By the system call `arch_prctl`, which every Linux has.
    ArchPrctl,
}

impl BaseSwitch {
    /// The better one that this machine allows: Linux says so in bit 1 of AT_HWCAP2
    /// (Documentation/arch/x86/x86_64/fsgs.rst).
    pub fn best() -> BaseSwitch {
        const FSGSBASE: u64 = 1 << 1;
        // SAFETY: it only reads what the process was given at its start.
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & FSGSBASE != 0 {
            BaseSwitch::Instructions
        } else {
            BaseSwitch::ArchPrctl
        }
    }
}

/// The calling thread, ready to run contexts, until this is dropped.
///
/// While it lives, signals for which the process has a handler at [`enter`](Self::enter) are blocked in this thread, faults
/// excepted: such a handler would find the user's FS base. Signals without a handler do what they always do.
pub struct HostThread {
    stack: *mut SignalStack,
    fs: u64,
    gs: u64,
    bases: BaseSwitch,
    stack_before: libc::stack_t,
    /// What `enter` has blocked.
    blocked: libc::sigset_t,
    /// It belongs to the thread that made it.
    not_send: PhantomData<*mut ()>,
}

impl HostThread {
    /// Prepares the calling thread.
    ///
    /// # Errors
    /// [`HostError::AlreadyEntered`] if the thread has one already, [`HostError::ShadowStack`] if it has a shadow stack,
    /// [`HostError::NoLahf`] if its CPU is older than `lahf` in 64-bit mode, [`HostError::Os`] if memory or signals can't be set up.
    pub fn enter() -> Result<HostThread, HostError> {
        HostThread::enter_with(BaseSwitch::best())
    }

    /// As [`enter`](Self::enter), with a choice of how bases are changed.
    ///
    /// # Errors
    /// As [`enter`](Self::enter), and [`HostError::NoFsgsbase`] if the choice is not to be had.
    pub fn enter_with(bases: BaseSwitch) -> Result<HostThread, HostError> {
        if bases == BaseSwitch::Instructions && BaseSwitch::best() != bases {
            return Err(HostError::NoFsgsbase);
        }
        if has_shadow_stack() {
            return Err(HostError::ShadowStack);
        }
        if !has_lahf() {
            return Err(HostError::NoLahf);
        }
        // SAFETY: all zeros are a valid stack description.
        let mut stack_before: libc::stack_t = unsafe { zeroed() };
        // SAFETY: it only reads.
        if unsafe { libc::sigaltstack(ptr::null(), &raw mut stack_before) } != 0 {
            return Err(HostError::last("sigaltstack"));
        }
        // SAFETY: the description is the kernel's.
        if unsafe { SignalStack::is_ours(&stack_before) } {
            return Err(HostError::AlreadyEntered);
        }
        signals::install()?;
        let fs = read_base(ARCH_GET_FS)?;
        let gs = read_base(ARCH_GET_GS)?;
        let stack = SignalStack::map(fs, gs, bases == BaseSwitch::Instructions)?;
        let description = libc::stack_t {
            ss_sp: stack.cast(),
            ss_flags: 0,
            ss_size: STACK_BYTES,
        };
        // SAFETY: the stack is fresh and stays until it is taken back.
        if unsafe { libc::sigaltstack(&raw const description, ptr::null_mut()) } != 0 {
            let error = HostError::last("sigaltstack");
            // SAFETY: it has not become the signal stack.
            unsafe { SignalStack::unmap(stack) };
            return Err(error);
        }
        Ok(HostThread {
            stack,
            fs,
            gs,
            bases,
            stack_before,
            blocked: block_handled_signals(),
            not_send: PhantomData,
        })
    }

    /// How bases are changed.
    pub fn bases(&self) -> BaseSwitch {
        self.bases
    }

    /// Goes to user code with all registers as in the context, and comes back when user code calls the context's entry or commits a
    /// fault; the context then holds its registers, vector, error code and CR2.
    ///
    /// # Errors
    /// The first field of the context that user code can't have; nothing was run then.
    ///
    /// # Safety
    /// User code runs in this process with all its rights, so it has to be code that Rust may trust with what it
    /// touches. Besides:
    /// - it comes back by this context's entry only, and makes no system call of the host's that changes the thread's
    ///   bases, signal mask or signal stack;
    /// - it changes no segment selector;
    /// - without FPU registers of its own it leaves the x87 stack empty, as the C convention demands;
    /// - no handler runs on this thread meanwhile but those of signals that [`enter`](Self::enter) found none for and nobody gave one since;
    ///   and nobody has replaced the handlers of SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP;
    /// - the thread's own FS and GS base are what they were at [`enter`](Self::enter).
    pub unsafe fn run(&mut self, user: &mut HostedContext) -> Result<Trap, BadContext> {
        let gate = user.gate();
        let data = gate.data();
        // SAFETY: the gate is the context's, which is ours for now; its code is as its labels say. The rest is the caller's promise.
        unsafe {
            let context = &mut (*data).context;
            check(context)?;
            if (*data).signal_stack != self.stack {
                // The first run, or another host thread ran it before.
                (*data).signal_stack = self.stack;
                (*data).host_fs = self.fs;
                (*data).host_gs = self.gs;
                (*data).fsgsbase = u8::from(self.bases == BaseSwitch::Instructions);
            }
            let enter = gate.address_of(gate_code::enter()) as *const ();
            core::mem::transmute::<*const (), unsafe extern "sysv64" fn()>(enter)();
            let context = &mut (*data).context;
            if (*data).stepped {
                (*data).stepped = false;
                context.rflags |= TF;
            }
            Ok(Trap::of(context))
        }
    }
}

impl Drop for HostThread {
    fn drop(&mut self) {
        // SAFETY: the stack goes back to what it was before ours is unmapped, and only what was blocked is unblocked. None of
        // these fails with valid arguments; if the stack can't be taken back, it is left alone.
        unsafe {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.blocked, ptr::null_mut());
            // The kernel tells SS_ONSTACK and the like, which can't be set.
            self.stack_before.ss_flags &= libc::SS_DISABLE;
            if libc::sigaltstack(&raw const self.stack_before, ptr::null_mut()) == 0 {
                SignalStack::unmap(self.stack);
            }
        }
    }
}

/// What [`sanitise`](crate::context::sanitise) does on bare metal, for 64-bit code. DS, ES, FS and GS have no effect here, so they may be
/// anything; and `arch_prctl` refuses bases in the last page.
#[inline]
fn check(context: &mut UserContext) -> Result<(), BadContext> {
    if context.rip >= USER_END {
        return Err(BadContext::Rip);
    }
    if !is_canonical(context.rsp) {
        return Err(BadContext::Rsp);
    }
    if context.cs != u64::from(USER_CODE64) {
        return Err(BadContext::Cs);
    }
    if context.ss != u64::from(USER_DATA) {
        return Err(BadContext::Ss);
    }
    if context.fs_base >= USER_END || context.gs_base >= USER_END {
        return Err(BadContext::Base);
    }
    context.rflags = context.rflags & USER_FLAGS | FIXED_FLAGS;
    Ok(())
}

const TF: u64 = 1 << 8;
/// Functions of `arch_prctl` (see `gate_code.rs`).
const ARCH_GET_FS: i32 = 0x1003;
const ARCH_GET_GS: i32 = 0x1004;

fn read_base(function: i32) -> Result<u64, HostError> {
    let mut base = 0u64;
    // SAFETY: it writes eight bytes to `base`.
    match unsafe { libc::syscall(libc::SYS_arch_prctl, function, &raw mut base) } {
        0 => Ok(base),
        _ => Err(HostError::last("arch_prctl")),
    }
}

/// Whether returns are checked against a second stack, which the way out of a gate would not survive. `rdsspq` does nothing
/// where they are not (Intel SDM vol. 2B, RDSSP).
fn has_shadow_stack() -> bool {
    let pointer: u64;
    // SAFETY: it changes one register.
    unsafe {
        asm!("xor {0:e}, {0:e}", "rdsspq {0}", out(reg) pointer, options(nomem, nostack));
    }
    pointer != 0
}

fn has_lahf() -> bool {
    raw_cpuid::CpuId::new()
        .get_extended_processor_and_feature_identifiers()
        .is_some_and(|features| features.has_lahf_sahf())
}

/// Blocks all signals that somebody handles, faults excepted. Returns those that were not blocked before.
fn block_handled_signals() -> libc::sigset_t {
    // SAFETY: the sets are initialised by `sigemptyset`; the calls read dispositions and change this thread's mask.
    unsafe {
        let mut handled: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut handled);
        for signal in 1..=libc::SIGRTMAX() {
            let mut action: libc::sigaction = zeroed();
            // The C library keeps a few for itself and refuses to speak of them.
            let known = libc::sigaction(signal, ptr::null(), &raw mut action) == 0;
            let handler = action.sa_sigaction;
            if known
                && handler != libc::SIG_DFL
                && handler != libc::SIG_IGN
                && !FAULTS.contains(&signal)
            {
                libc::sigaddset(&raw mut handled, signal);
            }
        }
        let mut before: libc::sigset_t = zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const handled, &raw mut before);
        for signal in 1..=libc::SIGRTMAX() {
            if libc::sigismember(&raw const before, signal) == 1 {
                libc::sigdelset(&raw mut handled, signal);
            }
        }
        handled
    }
}
