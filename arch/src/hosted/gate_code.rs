//! The code of a gate: into user code and back, with every register kept.
//!
//! It is a template. Each gate has a copy of it, and right behind the copy its [`GateData`](super::gate::GateData), which the code
//! addresses relative to the instruction pointer: so it needs no register to find it. For the same reason it may refer to
//! nothing outside of itself and its data.
//!
//! | label | who comes there |
//! |---|---|
//! | `switchyard_gate_enter` | the host, by a call of a C function without arguments |
//! | `switchyard_gate_entry` | user code, by `call` in place of `syscall` |
//! | `switchyard_gate_landing` | the signal handler's return, after a fault in user code |
//!
//! What may go wrong: a signal can come at any instruction here, with either side's FS base in force and RSP in the gate's
//! data. The handler has a stack of its own and asks the gate, not FS ([`signals`](super::signals)). Only the
//! first instruction of the entry may fault, and then nothing has been changed yet.

use core::arch::{asm, naked_asm};

use super::gate::{CODE_BYTES, at};
use crate::fpu::Method;

/// `arch_prctl`'s number and two of its functions (Linux, `arch/x86/include/uapi/asm/prctl.h`).
pub(super) const SYS_ARCH_PRCTL: u32 = 158;
pub(super) const ARCH_SET_GS: u32 = 0x1001;
pub(super) const ARCH_SET_FS: u32 = 0x1002;

/// Flags that neither side may inherit from the other and that take `popfq` or `iretq` to change: TF, DF, NT, AC and ID.
const UNSHARED: u32 = 1 << 8 | 1 << 10 | 1 << 14 | 1 << 18 | 1 << 21;
/// Flags that the quick way into user code can't set: all but CF, PF, AF, ZF, SF, OF, and IF and bit 1, which are set anyway.
const UNUSUAL: i32 = !(0x8D5 | 0x202);
/// The control bits of MXCSR; the rest tells what happened (Intel SDM vol. 1 §10.2.3).
const MXCSR_CONTROL: u32 = 0xFFC0;

/// Assembly, a line an argument.
macro_rules! lines {
    ($($line:expr),* $(,)?) => {
        concat!($($line, "\n"),*)
    };
}

/// Loads all general registers but RSP from the context. Changes no flag.
macro_rules! load_general {
    () => {
        "mov r15, [rip + switchyard_gate + {r15}]
         mov r14, [rip + switchyard_gate + {r14}]
         mov r13, [rip + switchyard_gate + {r13}]
         mov r12, [rip + switchyard_gate + {r12}]
         mov rbp, [rip + switchyard_gate + {rbp}]
         mov rbx, [rip + switchyard_gate + {rbx}]
         mov r11, [rip + switchyard_gate + {r11}]
         mov r10, [rip + switchyard_gate + {r10}]
         mov r9, [rip + switchyard_gate + {r9}]
         mov r8, [rip + switchyard_gate + {r8}]
         mov rax, [rip + switchyard_gate + {rax}]
         mov rcx, [rip + switchyard_gate + {rcx}]
         mov rdx, [rip + switchyard_gate + {rdx}]
         mov rsi, [rip + switchyard_gate + {rsi}]
         mov rdi, [rip + switchyard_gate + {rdi}]"
    };
}

/// Stores all general registers but RSP into the context.
macro_rules! store_general {
    () => {
        "mov [rip + switchyard_gate + {r15}], r15
         mov [rip + switchyard_gate + {r14}], r14
         mov [rip + switchyard_gate + {r13}], r13
         mov [rip + switchyard_gate + {r12}], r12
         mov [rip + switchyard_gate + {rbp}], rbp
         mov [rip + switchyard_gate + {rbx}], rbx
         mov [rip + switchyard_gate + {r11}], r11
         mov [rip + switchyard_gate + {r10}], r10
         mov [rip + switchyard_gate + {r9}], r9
         mov [rip + switchyard_gate + {r8}], r8
         mov [rip + switchyard_gate + {rax}], rax
         mov [rip + switchyard_gate + {rcx}], rcx
         mov [rip + switchyard_gate + {rdx}], rdx
         mov [rip + switchyard_gate + {rsi}], rsi
         mov [rip + switchyard_gate + {rdi}], rdi"
    };
}

/// Into user code. Labels 20 to 24, 30, 50 to 52.
macro_rules! enter_user_code {
    () => {
        lines!(
            "push rbx",
            "push rbp",
            "push r12",
            "push r13",
            "push r14",
            "push r15",
            "pushfq",
            "mov [rip + switchyard_gate + {host_rsp}], rsp",
            // From here on a signal finds this gate's data.
            "lea rcx, [rip + switchyard_gate + {data}]",
            "mov rax, [rip + switchyard_gate + {signal_stack}]",
            "mov [rax], rcx",
            "stmxcsr [rip + switchyard_gate + {host_mxcsr}]",
            "fnstcw [rip + switchyard_gate + {host_fcw}]",
            "cmp byte ptr [rip + switchyard_gate + {own_fpu}], 0",
            "jne 20f",
            "50:",
            "mov rsi, [rip + switchyard_gate + {fs_base}]",
            "cmp rsi, [rip + switchyard_gate + {host_fs}]",
            "je 51f",
            "cmp byte ptr [rip + switchyard_gate + {fsgsbase}], 0",
            "je 21f",
            "wrfsbase rsi",
            "51:",
            "mov rsi, [rip + switchyard_gate + {gs_base}]",
            "cmp rsi, [rip + switchyard_gate + {host_gs}]",
            "jne 22f",
            "52:",
            "mov eax, [rip + switchyard_gate + {rflags}]",
            "test dword ptr [rsp], {unshared}",
            "jnz 24f",
            "test eax, {unusual}",
            "jnz 24f",
            // `popfq` takes some twenty times as long as this. OF: 0x80 + 0x80 overflows, 0 + 0 does not; the rest by `sahf`.
            "mov ecx, eax",
            "shr ecx, 4",
            "and ecx, 0x80",
            "mov ah, al",
            "add cl, cl",
            "sahf",
            load_general!(),
            "mov rsp, [rip + switchyard_gate + {rsp}]",
            "jmp qword ptr [rip + switchyard_gate + {rip}]",
            // FPU registers of the user's own.
            "20:",
            "mov eax, [rip + switchyard_gate + {components}]",
            "xor edx, edx",
            "test eax, eax",
            "jz 30f",
            "xrstor64 [rip + switchyard_gate + {fpu}]",
            "jmp 50b",
            "30:",
            "fxrstor64 [rip + switchyard_gate + {fpu}]",
            "jmp 50b",
            // Without FSGSBASE the host's kernel sets the bases. It loses RCX and R11, and needs no stack and no thread-local storage.
            "21:",
            "mov edi, {set_fs}",
            "mov eax, {arch_prctl}",
            "syscall",
            "jmp 51b",
            "22:",
            "cmp byte ptr [rip + switchyard_gate + {fsgsbase}], 0",
            "je 23f",
            "wrgsbase rsi",
            "jmp 52b",
            "23:",
            "mov edi, {set_gs}",
            "mov eax, {arch_prctl}",
            "syscall",
            "jmp 52b",
            // Flags that only `iretq` sets without consequences for this code: TF would stop after the next instruction.
            "24:",
            "mov [rip + switchyard_gate + {iret} + 16], rax",
            "mov rax, [rip + switchyard_gate + {rip}]",
            "mov [rip + switchyard_gate + {iret}], rax",
            "mov rax, [rip + switchyard_gate + {rsp}]",
            "mov [rip + switchyard_gate + {iret} + 24], rax",
            load_general!(),
            "lea rsp, [rip + switchyard_gate + {iret}]",
            "iretq",
        )
    };
}

/// Out of it by the user's call. The first instruction reads the user's stack and may fault; it changes nothing before that.
/// Labels 31 to 36, 40 to 42.
macro_rules! leave_user_code {
    () => {
        lines!(
            "pop qword ptr [rip + switchyard_gate + {rip}]",
            "mov [rip + switchyard_gate + {rsp}], rsp",
            "lea rsp, [rip + switchyard_gate + {rflags} + 8]",
            "pushfq",
            store_general!(),
            "mov [rip + switchyard_gate + {call_number}], rax",
            "mov qword ptr [rip + switchyard_gate + {vector}], {syscall_vector}",
            "mov qword ptr [rip + switchyard_gate + {error_code}], 0",
            "mov rsp, [rip + switchyard_gate + {host_rsp}]",
            "mov eax, [rip + switchyard_gate + {rflags}]",
            "xor eax, [rsp]",
            "test eax, {unshared}",
            "jnz 40f",
            "31:",
            "cmp byte ptr [rip + switchyard_gate + {fsgsbase}], 0",
            "je 41f",
            // User code may have changed them.
            "rdfsbase rax",
            "mov [rip + switchyard_gate + {fs_base}], rax",
            "mov rcx, [rip + switchyard_gate + {host_fs}]",
            "cmp rax, rcx",
            "je 32f",
            "wrfsbase rcx",
            "32:",
            "rdgsbase rax",
            "mov [rip + switchyard_gate + {gs_base}], rax",
            "mov rcx, [rip + switchyard_gate + {host_gs}]",
            "cmp rax, rcx",
            "je 33f",
            "wrgsbase rcx",
            "33:",
            "cmp byte ptr [rip + switchyard_gate + {own_fpu}], 0",
            "jne 34f",
            // The C convention keeps the control bits alone (System V ABI, AMD64 supplement, §3.2.3): written only if they differ.
            "stmxcsr [rip + switchyard_gate + {user_control}]",
            "mov eax, [rip + switchyard_gate + {user_control}]",
            "xor eax, [rip + switchyard_gate + {host_mxcsr}]",
            "test eax, {mxcsr_control}",
            "jnz 35f",
            "fnstcw [rip + switchyard_gate + {user_control}]",
            "mov ax, [rip + switchyard_gate + {user_control}]",
            "cmp ax, [rip + switchyard_gate + {host_fcw}]",
            "jne 35f",
            "36:",
            "mov rax, [rip + switchyard_gate + {signal_stack}]",
            "mov qword ptr [rax], 0",
            "lea rsp, [rsp + 8]",
            "pop r15",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop rbp",
            "pop rbx",
            // Not `ret`: the CPU would predict the return address of the user's last `call`.
            "pop rcx",
            "jmp rcx",
            // User code had flags that the host has not, or the other way round.
            "40:",
            "push [rsp]",
            "popfq",
            "jmp 31b",
            // Without FSGSBASE user code can't change its bases, so they are still what the context says.
            "41:",
            "mov rsi, [rip + switchyard_gate + {host_fs}]",
            "cmp rsi, [rip + switchyard_gate + {fs_base}]",
            "je 42f",
            "mov edi, {set_fs}",
            "mov eax, {arch_prctl}",
            "syscall",
            "42:",
            "mov rsi, [rip + switchyard_gate + {host_gs}]",
            "cmp rsi, [rip + switchyard_gate + {gs_base}]",
            "je 33b",
            "mov edi, {set_gs}",
            "mov eax, {arch_prctl}",
            "syscall",
            "jmp 33b",
        )
    };
}

/// Out of it by the signal handler's return, and the end of every run with FPU registers of the user's own. `fninit` raises
/// no exception that the user left pending; `fldcw` would. Labels 34, 35, 37 to 39.
macro_rules! land {
    () => {
        lines!(
            "push [rsp]",
            "popfq",
            "cmp byte ptr [rip + switchyard_gate + {own_fpu}], 0",
            "je 35f",
            "34:",
            "mov eax, [rip + switchyard_gate + {components}]",
            "xor edx, edx",
            "cmp byte ptr [rip + switchyard_gate + {method}], {xsaveopt}",
            "jne 37f",
            "xsaveopt64 [rip + switchyard_gate + {fpu}]",
            "jmp 35f",
            "37:",
            "cmp byte ptr [rip + switchyard_gate + {method}], {xsavec}",
            "jne 38f",
            "xsavec64 [rip + switchyard_gate + {fpu}]",
            "jmp 35f",
            "38:",
            "cmp byte ptr [rip + switchyard_gate + {method}], {fxsave}",
            "je 39f",
            "xsave64 [rip + switchyard_gate + {fpu}]",
            "jmp 35f",
            "39:",
            "fxsave64 [rip + switchyard_gate + {fpu}]",
            "35:",
            "fninit",
            "fldcw [rip + switchyard_gate + {host_fcw}]",
            "ldmxcsr [rip + switchyard_gate + {host_mxcsr}]",
            "jmp 36b",
        )
    };
}

/// The template. It is not called where it stands, as there are no data behind it.
///
/// `switchyard_gate_enter`, in: a call by the C convention, no arguments; the context is valid and the host's fields of the
/// data are set. Leaves for user code with all registers as in the context.
///
/// `switchyard_gate_entry`, in: all registers the user's, the address to return to at RSP. Comes out where `enter` was called;
/// the context then holds all registers as they were, RIP the return address, RSP after its removal, vector 256 and the call number
/// that RAX held. Nothing is written to the user's stack, and no flag is lost.
///
/// `switchyard_gate_landing`, in: RSP and bases the host's, the context filled by the handler. Comes out where `enter` was
/// called.
///
/// The host's stack during a run:
///
/// ```text
/// return address | rbx rbp r12 r13 r14 r15 | flags   <- host_rsp
/// ```
#[unsafe(naked)]
unsafe extern "sysv64" fn code() {
    naked_asm!(
        ".balign 64",
        "switchyard_gate:",
        ".globl switchyard_gate_enter",
        "switchyard_gate_enter:",
        enter_user_code!(),
        ".balign 64",
        ".globl switchyard_gate_entry",
        "switchyard_gate_entry:",
        leave_user_code!(),
        ".globl switchyard_gate_landing",
        "switchyard_gate_landing:",
        land!(),
        ".globl switchyard_gate_end",
        "switchyard_gate_end:",
        data = const at::DATA,
        host_rsp = const at::HOST_RSP,
        host_fs = const at::HOST_FS,
        host_gs = const at::HOST_GS,
        signal_stack = const at::SIGNAL_STACK,
        iret = const at::IRET,
        host_mxcsr = const at::HOST_MXCSR,
        user_control = const at::USER_CONTROL,
        host_fcw = const at::HOST_FCW,
        fsgsbase = const at::FSGSBASE,
        own_fpu = const at::OWN_FPU,
        method = const at::METHOD,
        components = const at::COMPONENTS,
        fxsave = const Method::Fxsave as u8,
        xsaveopt = const Method::Xsaveopt as u8,
        xsavec = const Method::Xsavec as u8,
        fpu = const at::FPU,
        r15 = const at::R15,
        r14 = const at::R14,
        r13 = const at::R13,
        r12 = const at::R12,
        rbp = const at::RBP,
        rbx = const at::RBX,
        r11 = const at::R11,
        r10 = const at::R10,
        r9 = const at::R9,
        r8 = const at::R8,
        rax = const at::RAX,
        rcx = const at::RCX,
        rdx = const at::RDX,
        rsi = const at::RSI,
        rdi = const at::RDI,
        fs_base = const at::FS_BASE,
        gs_base = const at::GS_BASE,
        call_number = const at::CALL_NUMBER,
        vector = const at::VECTOR,
        error_code = const at::ERROR_CODE,
        rip = const at::RIP,
        rflags = const at::RFLAGS,
        rsp = const at::RSP,
        arch_prctl = const SYS_ARCH_PRCTL,
        set_fs = const ARCH_SET_FS,
        set_gs = const ARCH_SET_GS,
        unusual = const UNUSUAL,
        unshared = const UNSHARED,
        mxcsr_control = const MXCSR_CONTROL,
        syscall_vector = const crate::context::VECTOR_SYSCALL,
    )
}

unsafe extern "C" {
    // Places in the template: labels, not functions.
    fn switchyard_gate_enter();
    fn switchyard_gate_entry();
    fn switchyard_gate_landing();
    fn switchyard_gate_end();
}

fn offset(label: unsafe extern "C" fn()) -> usize {
    // `enter` is the template's first label.
    label as usize - switchyard_gate_enter as *const () as usize
}

/// Offset of the way in for the host: the template's first byte.
pub(super) fn enter() -> usize {
    offset(switchyard_gate_enter)
}

/// Offset of the way out for user code.
pub(super) fn entry() -> usize {
    offset(switchyard_gate_entry)
}

/// Offset of the way out for the signal handler.
pub(super) fn landing() -> usize {
    offset(switchyard_gate_landing)
}

/// The bytes that each gate begins with.
pub(super) fn template() -> &'static [u8] {
    let bytes = offset(switchyard_gate_end);
    assert!(bytes <= CODE_BYTES, "a gate's code has one page");
    // The labels do not tell the compiler that the function is used.
    core::hint::black_box(code as *const ());
    // SAFETY: the labels enclose the template's text, which is never written to.
    unsafe { core::slice::from_raw_parts(switchyard_gate_enter as *const u8, bytes) }
}

/// RIP, CS, RFLAGS, RSP and SS for `iretq`, with this process's own selectors; the rest is filled in at each use.
pub(super) fn iret_frame() -> [u64; 5] {
    let (cs, ss): (u64, u64);
    // SAFETY: reading selectors has no effect.
    unsafe {
        asm!("mov {:e}, cs", "mov {:e}, ss", out(reg) cs, out(reg) ss, options(nomem, nostack, preserves_flags));
    }
    [0, cs, 0, 0, ss]
}
