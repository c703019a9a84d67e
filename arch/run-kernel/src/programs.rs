//! User code. Each program is position-independent and is copied to the user's page before it runs.

use core::arch::global_asm;

/// Dumps flags and registers to the stack, inverts every register but RSP, sets the flags to `[rsp + 8]` and leaves by
/// `$leave`. `not`, `lea` and `push` change no flag. Behind it the same again.
macro_rules! dump {
    ($name:literal, $leave:literal) => {
        concat!(
            "switchyard_user_",
            $name,
            ":
             pushfq
             push rdi
             push rsi
             push rdx
             push rcx
             push rax
             push r8
             push r9
             push r10
             push r11
             push rbx
             push rbp
             push r12
             push r13
             push r14
             push r15
             not rdi
             not rsi
             not rdx
             not rcx
             not rax
             not r8
             not r9
             not r10
             not r11
             not rbx
             not rbp
             not r12
             not r13
             not r14
             not r15
             push qword ptr [rsp + 128 + 8]
             popfq
             ",
            $leave,
            "
             switchyard_user_",
            $name,
            "_return:
             lea rsp, [rsp + 128]
             jmp switchyard_user_",
            $name,
            "
             switchyard_user_",
            $name,
            "_end:"
        )
    };
}

global_asm!(
    dump!("dump_syscall", "syscall"),
    dump!("dump_int80", "int 0x80"),
    // Says what it finds through FS and GS and calls; then sets both bases to RSI and RDX and calls.
    "switchyard_user_bases:
     mov rax, fs:[0]
     mov rbx, gs:[8]
     int 0x80
     wrfsbase rsi
     wrgsbase rdx
     int 0x80
     switchyard_user_bases_end:",
    // Calls for ever.
    "switchyard_user_call:
     syscall
     jmp switchyard_user_call
     switchyard_user_call_end:",
    // Counts for ever.
    "switchyard_user_spin:
     inc rax
     jmp switchyard_user_spin
     switchyard_user_spin_end:",
    // Raises a vector that is the kernel's.
    "switchyard_user_interrupt:
     int 0x55
     ud2
     switchyard_user_interrupt_end:",
    // Keeps RSI in an SSE register across calls.
    "switchyard_user_sse:
     movq xmm3, rsi
     int 0x80
     movq rdi, xmm3
     int 0x80
     switchyard_user_sse_end:",
    // Two instructions to be stepped over, one of them a call.
    "switchyard_user_steps:
     inc rbx
     mov eax, 100
     syscall
     inc rbx
     inc rbx
     switchyard_user_steps_end:",
    // 32-bit code: `inc ebx` is 0x43 ff /0 in either mode; calls by `int 0x80`.
    ".code32
     switchyard_user_compat:
     inc ebx
     mov eax, 0x1234
     int 0x80
     inc ebx
     ud2
     switchyard_user_compat_end:
     .code64",
);

/// A program of faulting instructions.
macro_rules! fault_programs {
    ($($name:literal: $code:literal;)*) => {
        global_asm!($(concat!(
            "switchyard_user_", $name, ":\n", $code, "\nswitchyard_user_", $name, "_end:\n"
        )),*);
    };
}

fault_programs! {
    "divide": "div ecx";
    "breakpoint": "int3";
    "invalid": "ud2";
    "protection": "hlt";
    "read": "mov eax, [rbx]";
    "write": "mov [rbx], eax";
    "fetch": "jmp rbx";
}

/// The bytes of a program.
macro_rules! program {
    ($name:ident) => {{
        unsafe extern "C" {
            #[link_name = concat!("switchyard_user_", stringify!($name))]
            static START: u8;
            #[link_name = concat!("switchyard_user_", stringify!($name), "_end")]
            static END: u8;
        }
        let (start, end) = (&raw const START, &raw const END);
        // SAFETY: the labels enclose the program's text, which is never written to.
        unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
    }};
}

/// Where a dumping program goes on after its call.
macro_rules! return_address {
    ($name:ident) => {{
        unsafe extern "C" {
            #[link_name = concat!("switchyard_user_", stringify!($name), "_return")]
            static RETURN: u8;
        }
        let start = $crate::programs::program!($name).as_ptr() as u64;
        $crate::user_space::CODE + (&raw const RETURN) as u64 - start
    }};
}

pub(crate) use {program, return_address};
