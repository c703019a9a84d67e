//! Faults of user code: the signals that the host's kernel makes of them, and the way back to `run`.
//!
//! A signal leaves FS and GS as they are, so a handler may find the user's bases in force: it must not touch thread-local
//! storage, which compiled code may do anywhere, before it has put the host's back. And it can't look up in
//! thread-local storage what the host's are. So each host thread has a signal stack of its own with a [`SignalStack`] at its
//! lowest address, and the handler begins in assembly: it takes the stack's address from the signal frame, where the
//! kernel notes it (`uc_stack`), and from there the thread's bases and the gate that is run. It is what the IST stacks are on
//! bare metal, with the per-CPU block's address at their tops.
//!
//! A fault in user code is turned into a return: the user's registers go from the signal frame into the context, the frame is made
//! to lead to the gate's landing, and the host's kernel does the rest.
//!
//! What may go wrong: a fault of host code must go on to whoever handled it before (Rust's own handler reports
//! stack overflows), also on threads that never run a context, whose signal stack is somebody else's.

use core::arch::naked_asm;
use core::mem::{offset_of, zeroed};
use core::ptr;

use libc::{c_int, c_void, siginfo_t, ucontext_t};
use spin::Once;

use super::HostError;
use super::gate::{GateData, offset_in_code};
use super::gate_code::{self, ARCH_SET_FS, ARCH_SET_GS, SYS_ARCH_PRCTL};
use crate::context::NO_CALL;

/// The signals that a fault may become.
pub(super) const FAULTS: [c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
];

const PAGE_BYTES: usize = 4096;
/// Bytes of a signal stack, an unusual number on purpose: a frame with another one was not ours. The frame alone may take
/// 12 KiB on a CPU with AVX-512 and AMX, and a handler that is called for the host's own faults prints a report.
pub(super) const STACK_BYTES: usize = 25 * PAGE_BYTES;

/// `arch_prctl`'s functions that read (see [`gate_code`]).
const ARCH_GET_FS: u32 = 0x1003;
const ARCH_GET_GS: u32 = 0x1004;
const AC: u32 = 1 << 18;
const TF: i64 = 1 << 8;
/// IF and the bit that is always one.
const HOST_FLAGS: i64 = 0x202;
/// DR6's bit for a single step (Intel SDM vol. 3B §17.2.3).
const SINGLE_STEP: u64 = 1 << 14;
/// `si_code` of a single step (Linux, `include/uapi/asm-generic/siginfo.h`).
const TRAP_TRACE: c_int = 2;
const DEBUG: i64 = 1;
const PAGE_FAULT: i64 = 14;

/// What lies at the lowest address of a host thread's signal stack.
#[repr(C)]
pub(super) struct SignalStack {
    /// The data of the gate that is run; null while host code runs. Written by the gate's code.
    running: *mut GateData,
    /// Its own address.
    itself: *const SignalStack,
    host_fs: u64,
    host_gs: u64,
    fsgsbase: u8,
}

const _: () = assert!(offset_of!(SignalStack, running) == 0);

impl SignalStack {
    /// Maps a stack above an inaccessible page.
    ///
    /// # Errors
    /// [`HostError::Os`].
    pub(super) fn map(fs: u64, gs: u64, fsgsbase: bool) -> Result<*mut SignalStack, HostError> {
        // SAFETY: a fresh mapping, whose lowest page becomes inaccessible and whose second holds the header.
        unsafe {
            let pages = libc::mmap(
                ptr::null_mut(),
                PAGE_BYTES + STACK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if pages == libc::MAP_FAILED {
                return Err(HostError::last("mmap"));
            }
            let stack: *mut SignalStack = pages.byte_add(PAGE_BYTES).cast();
            stack.write(SignalStack {
                running: ptr::null_mut(),
                itself: stack,
                host_fs: fs,
                host_gs: gs,
                fsgsbase: u8::from(fsgsbase),
            });
            if libc::mprotect(pages, PAGE_BYTES, libc::PROT_NONE) != 0 {
                let error = HostError::last("mprotect");
                SignalStack::unmap(stack);
                return Err(error);
            }
            Ok(stack)
        }
    }

    /// Unmaps a stack.
    ///
    /// # Safety
    /// It came from [`map`](Self::map) and is no thread's signal stack any more.
    pub(super) unsafe fn unmap(stack: *mut SignalStack) {
        // SAFETY: the caller's promise.
        unsafe { libc::munmap(stack.byte_sub(PAGE_BYTES).cast(), PAGE_BYTES + STACK_BYTES) };
    }

    /// Whether a thread's signal stack is one of ours.
    ///
    /// # Safety
    /// `stack` must be what `sigaltstack` told.
    pub(super) unsafe fn is_ours(stack: &libc::stack_t) -> bool {
        stack.ss_flags & libc::SS_DISABLE == 0
            && stack.ss_size == STACK_BYTES
            // SAFETY: a signal stack's lowest bytes are mapped.
            && unsafe { (*stack.ss_sp.cast::<SignalStack>()).itself.cast() == stack.ss_sp.cast_const() }
    }
}

/// Who handled the faults before, in the order of [`FAULTS`].
static BEFORE: Once<Result<[libc::sigaction; FAULTS.len()], HostError>> = Once::new();

/// Installs the handler, once in a process.
///
/// # Errors
/// [`HostError::Os`].
pub(super) fn install() -> Result<(), HostError> {
    let install = || {
        // SAFETY: all zeros are a valid `sigaction`.
        let mut before: [libc::sigaction; FAULTS.len()] = unsafe { zeroed() };
        for (signal, before) in FAULTS.into_iter().zip(&mut before) {
            // SAFETY: as above; the handler is made for any thread, at any instruction.
            unsafe {
                let mut action: libc::sigaction = zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                if libc::sigaction(signal, &raw const action, before) != 0 {
                    return Err(HostError::last("sigaction"));
                }
            }
        }
        Ok(before)
    };
    match BEFORE.call_once(install) {
        Ok(_) => Ok(()),
        Err(error) => Err(*error),
    }
}

/// Calls the host's kernel for a base. Loses RAX, RCX, RDI, RSI, R11.
macro_rules! arch_prctl {
    ($function:literal, $load_rsi:literal) => {
        concat!(
            "mov edi, ",
            $function,
            "\n",
            $load_rsi,
            "\nmov eax, {arch_prctl}\nsyscall"
        )
    };
}

/// The handler: puts the host's bases back if a run is under way on this thread, and goes on in Rust.
///
/// In: by the C convention, RDI signal, RSI its information, RDX the signal frame; either side's FS and GS base; flags as the
/// interrupted code had them but for DF and TF (Linux clears those, not AC). RSP on the thread's signal stack, or, if it
/// has none, on the interrupted one, which is host code's then. Out: returns to the host kernel's trampoline. The bases are
/// the host's then if the frame leads to the gate's landing, else as they were.
///
/// ```text
/// return address | rbx r12 r13 r14 | unused, GS base found, FS base found   <- rsp, 16-byte aligned
/// ```
#[unsafe(naked)]
unsafe extern "C" fn handler(signal: c_int, info: *mut siginfo_t, frame: *mut ucontext_t) {
    naked_asm!(
        "mov rax, [rdx + {stack_address}]",
        "test dword ptr [rdx + {stack_flags}], {disabled}",
        "jnz {host_fault}",
        "cmp qword ptr [rdx + {stack_size}], {bytes}",
        "jne {host_fault}",
        "cmp [rax + {itself}], rax",
        "jne {host_fault}",
        "cmp qword ptr [rax + {running}], 0",
        "je {host_fault}",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "sub rsp, 24",
        "pushfq",
        "and dword ptr [rsp], {not_ac}",
        "popfq",
        "mov rbx, rax",
        "mov r12, rdi",
        "mov r13, rsi",
        "mov r14, rdx",
        "cmp byte ptr [rbx + {fsgsbase}], 0",
        "je 3f",
        "rdfsbase rax",
        "mov [rsp], rax",
        "rdgsbase rax",
        "mov [rsp + 8], rax",
        "mov rax, [rbx + {host_fs}]",
        "wrfsbase rax",
        "mov rax, [rbx + {host_gs}]",
        "wrgsbase rax",
        "2:",
        "mov rdi, r12",
        "mov rsi, r13",
        "mov rdx, r14",
        "mov rcx, rbx",
        "mov r8, [rsp]",
        "mov r9, [rsp + 8]",
        "call {in_run}",
        "test al, al",
        "jnz 5f",
        "cmp byte ptr [rbx + {fsgsbase}], 0",
        "je 4f",
        "mov rax, [rsp]",
        "wrfsbase rax",
        "mov rax, [rsp + 8]",
        "wrgsbase rax",
        "5:",
        "add rsp, 24",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "ret",

        // The same by `arch_prctl`.
        "3:",
        arch_prctl!("{get_fs}", "mov rsi, rsp"),
        arch_prctl!("{get_gs}", "lea rsi, [rsp + 8]"),
        arch_prctl!("{set_fs}", "mov rsi, [rbx + {host_fs}]"),
        arch_prctl!("{set_gs}", "mov rsi, [rbx + {host_gs}]"),
        "jmp 2b",
        "4:",
        arch_prctl!("{set_fs}", "mov rsi, [rsp]"),
        arch_prctl!("{set_gs}", "mov rsi, [rsp + 8]"),
        "jmp 5b",

        stack_address = const offset_of!(ucontext_t, uc_stack) + offset_of!(libc::stack_t, ss_sp),
        stack_flags = const offset_of!(ucontext_t, uc_stack) + offset_of!(libc::stack_t, ss_flags),
        stack_size = const offset_of!(ucontext_t, uc_stack) + offset_of!(libc::stack_t, ss_size),
        disabled = const libc::SS_DISABLE,
        bytes = const STACK_BYTES,
        itself = const offset_of!(SignalStack, itself),
        running = const offset_of!(SignalStack, running),
        host_fs = const offset_of!(SignalStack, host_fs),
        host_gs = const offset_of!(SignalStack, host_gs),
        fsgsbase = const offset_of!(SignalStack, fsgsbase),
        not_ac = const !AC as i32,
        arch_prctl = const SYS_ARCH_PRCTL,
        get_fs = const ARCH_GET_FS,
        get_gs = const ARCH_GET_GS,
        set_fs = const ARCH_SET_FS,
        set_gs = const ARCH_SET_GS,
        host_fault = sym host_fault,
        in_run = sym in_run,
    )
}

/// A signal came while a gate is run. Returns whether the frame now leads to the host's side.
///
/// # Safety
/// The arguments are the handler's; the bases found are `fs` and `gs`, and those in force are the host's.
unsafe extern "C" fn in_run(
    signal: c_int,
    info: *mut siginfo_t,
    frame: *mut ucontext_t,
    stack: *mut SignalStack,
    fs: u64,
    gs: u64,
) -> bool {
    // SAFETY: the kernel gives valid information and frame to a handler with SA_SIGINFO, and the gate is alive while it is run.
    unsafe {
        let data = (*stack).running;
        let registers = &mut (*frame).uc_mcontext.gregs;
        let vector = registers[libc::REG_TRAPNO as usize];
        let flags = &mut registers[libc::REG_EFL as usize];
        let place = offset_in_code(data, registers_rip(frame));
        // Sent by a process, or a fault of another signal's handler, which also runs on this stack: not of the user's making.
        let by_the_cpu = (*info).si_code > 0 && (*frame).uc_stack.ss_flags & libc::SS_ONSTACK == 0;
        match place {
            _ if !by_the_cpu => {}
            // The user single-stepped over the call of the entry: the gate's code is not to be seen step by step.
            Some(_) if vector == DEBUG && *flags & TF != 0 => {
                *flags &= !TF;
                (*data).stepped = true;
                return false;
            }
            // The entry's first instruction found no return address: nothing has changed yet, the user's call was the fault.
            Some(offset) if offset != gate_code::entry() => {}
            _ => {
                take_registers(data, info, frame, fs, gs);
                return true;
            }
        }
        host_fault(signal, info, frame);
    }
    false
}

/// # Safety
/// `frame` is a signal frame.
unsafe fn registers_rip(frame: *const ucontext_t) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { (*frame).uc_mcontext.gregs[libc::REG_RIP as usize] as u64 }
}

/// Moves the user's registers from the frame into the context, and lets the frame lead to the landing.
///
/// # Safety
/// As [`in_run`]; the frame holds the user's registers.
unsafe fn take_registers(
    data: *mut GateData,
    info: *const siginfo_t,
    frame: *mut ucontext_t,
    fs: u64,
    gs: u64,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let registers = &mut (*frame).uc_mcontext.gregs;
        let context = &mut (*data).context;
        let read = |register: c_int| registers[register as usize] as u64;
        context.r15 = read(libc::REG_R15);
        context.r14 = read(libc::REG_R14);
        context.r13 = read(libc::REG_R13);
        context.r12 = read(libc::REG_R12);
        context.rbp = read(libc::REG_RBP);
        context.rbx = read(libc::REG_RBX);
        context.r11 = read(libc::REG_R11);
        context.r10 = read(libc::REG_R10);
        context.r9 = read(libc::REG_R9);
        context.r8 = read(libc::REG_R8);
        context.rax = read(libc::REG_RAX);
        context.rcx = read(libc::REG_RCX);
        context.rdx = read(libc::REG_RDX);
        context.rsi = read(libc::REG_RSI);
        context.rdi = read(libc::REG_RDI);
        context.rip = read(libc::REG_RIP);
        context.rsp = read(libc::REG_RSP);
        context.rflags = read(libc::REG_EFL);
        context.fs_base = fs;
        context.gs_base = gs;
        context.call_number = NO_CALL;
        context.error_code = read(libc::REG_ERR);
        context.vector = read(libc::REG_TRAPNO);
        match context.vector as i64 {
            DEBUG => {
                let step = (*info).si_code == TRAP_TRACE;
                context.debug_status = if step { SINGLE_STEP } else { 0 };
            }
            PAGE_FAULT => context.cr2 = read(libc::REG_CR2),
            _ => {}
        }

        let code = data as i64 - super::gate::CODE_BYTES as i64;
        registers[libc::REG_RIP as usize] = code + gate_code::landing() as i64;
        registers[libc::REG_RSP as usize] = (*data).host_rsp as i64;
        registers[libc::REG_EFL as usize] = HOST_FLAGS;
        // CS, GS, FS and SS in one word: user code may have jumped into a 32-bit segment.
        let [_, cs, _, _, ss] = (*data).iret;
        let selectors = &mut registers[libc::REG_CSGSFS as usize];
        *selectors = *selectors & 0x0000_FFFF_FFFF_0000 | cs as i64 | (ss as i64) << 48;
    }
}

/// A signal that is not a fault of user code: whoever handled it before gets it.
///
/// # Safety
/// The arguments are the handler's; the host's bases are in force.
unsafe extern "C" fn host_fault(signal: c_int, info: *mut siginfo_t, frame: *mut ucontext_t) {
    let before = match BEFORE.get() {
        Some(Ok(before)) => FAULTS
            .iter()
            .position(|&fault| fault == signal)
            .map(|i| &before[i]),
        _ => None,
    };
    // SAFETY: the information is the kernel's.
    let sent = unsafe { (*info).si_code <= 0 };
    let address = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    match (before, address) {
        (_, libc::SIG_IGN) if sent => {}
        // The default is the process's end, by the fault that comes again, or by the same signal.
        // SAFETY: both calls are allowed in a handler.
        (None, _) | (_, libc::SIG_DFL | libc::SIG_IGN) => unsafe {
            libc::signal(signal, libc::SIG_DFL);
            if sent {
                libc::raise(signal);
            }
        },
        // SAFETY: what was installed as a handler is one, of the kind that its flags say.
        (Some(before), address) => unsafe {
            if before.sa_flags & libc::SA_SIGINFO != 0 {
                type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
                core::mem::transmute::<usize, Handler>(address)(signal, info, frame.cast());
            } else {
                type Handler = extern "C" fn(c_int);
                core::mem::transmute::<usize, Handler>(address)(signal);
            }
        },
    }
}
