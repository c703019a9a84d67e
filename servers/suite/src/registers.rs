//! Going through the kernel with every general register known, and looking at all of them afterwards.

use abi::SHORT_CALLS;
use core::arch::naked_asm;

/// The general registers and flags before and after.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub flags: u64,
}

/// Offset of each register, for the assembly.
mod at {
    use super::Registers;
    use core::mem::offset_of;
    pub(super) const RAX: usize = offset_of!(Registers, rax);
    pub(super) const RBX: usize = offset_of!(Registers, rbx);
    pub(super) const RCX: usize = offset_of!(Registers, rcx);
    pub(super) const RDX: usize = offset_of!(Registers, rdx);
    pub(super) const RSI: usize = offset_of!(Registers, rsi);
    pub(super) const RDI: usize = offset_of!(Registers, rdi);
    pub(super) const RBP: usize = offset_of!(Registers, rbp);
    pub(super) const R8: usize = offset_of!(Registers, r8);
    pub(super) const R9: usize = offset_of!(Registers, r9);
    pub(super) const R10: usize = offset_of!(Registers, r10);
    pub(super) const R11: usize = offset_of!(Registers, r11);
    pub(super) const R12: usize = offset_of!(Registers, r12);
    pub(super) const R13: usize = offset_of!(Registers, r13);
    pub(super) const R14: usize = offset_of!(Registers, r14);
    pub(super) const R15: usize = offset_of!(Registers, r15);
    pub(super) const FLAGS: usize = offset_of!(Registers, flags);
}

/// Makes a function that loads all registers and flags, runs some instructions, and stores them again.
///
/// In: rdi = [`Registers`]. Out: the same, changed. Stack: six saved registers, the pointer, one word. Flags: as C wants
/// them. The instructions may change any register but rsp; label `2:` in them is theirs.
macro_rules! passage {
    ($(#[$doc:meta])* $name:ident, $($line:literal),+) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(registers: &mut Registers) {
            naked_asm!(
                "push rbx",
                "push rbp",
                "push r12",
                "push r13",
                "push r14",
                "push r15",
                "push rdi",
                "push qword ptr [rdi + {flags}]",
                "mov rax, [rdi + {rax}]",
                "mov rbx, [rdi + {rbx}]",
                "mov rcx, [rdi + {rcx}]",
                "mov rdx, [rdi + {rdx}]",
                "mov rsi, [rdi + {rsi}]",
                "mov rbp, [rdi + {rbp}]",
                "mov r8,  [rdi + {r8}]",
                "mov r9,  [rdi + {r9}]",
                "mov r10, [rdi + {r10}]",
                "mov r11, [rdi + {r11}]",
                "mov r12, [rdi + {r12}]",
                "mov r13, [rdi + {r13}]",
                "mov r14, [rdi + {r14}]",
                "mov r15, [rdi + {r15}]",
                "mov rdi, [rdi + {rdi}]",
                "popfq",
                $($line,)+
                "pushfq",
                "xchg rdi, [rsp + 8]", // the pointer; rdi is kept there
                "mov [rdi + {rax}], rax",
                "pop rax",
                "mov [rdi + {flags}], rax",
                "mov [rdi + {rbx}], rbx",
                "mov [rdi + {rcx}], rcx",
                "mov [rdi + {rdx}], rdx",
                "mov [rdi + {rsi}], rsi",
                "mov [rdi + {rbp}], rbp",
                "mov [rdi + {r8}], r8",
                "mov [rdi + {r9}], r9",
                "mov [rdi + {r10}], r10",
                "mov [rdi + {r11}], r11",
                "mov [rdi + {r12}], r12",
                "mov [rdi + {r13}], r13",
                "mov [rdi + {r14}], r14",
                "mov [rdi + {r15}], r15",
                "pop rax",
                "mov [rdi + {rdi}], rax",
                // What Rust expects: direction up, no alignment checks, no nested task.
                "push 2",
                "popfq",
                "pop r15",
                "pop r14",
                "pop r13",
                "pop r12",
                "pop rbp",
                "pop rbx",
                "ret",
                rax = const at::RAX, rbx = const at::RBX, rcx = const at::RCX, rdx = const at::RDX,
                rsi = const at::RSI, rdi = const at::RDI, rbp = const at::RBP, r8 = const at::R8,
                r9 = const at::R9, r10 = const at::R10, r11 = const at::R11, r12 = const at::R12,
                r13 = const at::R13, r14 = const at::R14, r15 = const at::R15, flags = const at::FLAGS,
            )
        }
    };
}

passage! {
    /// Through `syscall`; rcx becomes the address behind it, r11 the flags.
    ///
    /// # Safety
    /// The registers are a system call that does no harm.
    through_syscall, "syscall"
}
passage! {
    /// Through `int 0x80`.
    ///
    /// # Safety
    /// The registers are a system call that does no harm.
    through_interrupt, "int 0x80"
}
passage! {
    /// Writes rax where rbx points.
    ///
    /// # Safety
    /// rbx points to eight bytes that are nobody else's.
    through_write, "mov [rbx], rax"
}
passage! {
    /// Uses a vector register.
    ///
    /// # Safety
    /// None is needed: xmm0 is the caller's to lose.
    through_fpu, "pxor xmm0, xmm0"
}
passage! {
    /// Spins rcx times, in which the timer comes; rcx is 0 afterwards and the flags are untouched (`loop` sets none).
    ///
    /// # Safety
    /// None is needed.
    through_time, "2:", "loop 2b"
}

/// Every register different and in no way a kernel's value.
pub fn pattern(seed: u64) -> Registers {
    let value = |number: u64| 0x0123_4567_0000_0000 ^ seed.rotate_left(17) ^ (number * 0x1111_0001);
    Registers {
        rax: value(1),
        rbx: value(2),
        rcx: value(3),
        rdx: value(4),
        rsi: value(5),
        rdi: value(6),
        rbp: value(7),
        r8: value(8),
        r9: value(9),
        r10: value(10),
        r11: value(11),
        r12: value(12),
        r13: value(13),
        r14: value(14),
        r15: value(15),
        flags: BASE_FLAGS,
    }
}

/// What a call without a result leaves: a short one clears the registers that it need not keep.
pub fn done(number: u64, before: Registers) -> Registers {
    let after = Registers { rax: 0, ..before };
    if number >= SHORT_CALLS {
        return after;
    }
    Registers {
        rdi: 0,
        rsi: 0,
        rdx: 0,
        r8: 0,
        r9: 0,
        r10: 0,
        ..after
    }
}

/// IF and the bit that is always one: what user mode can't clear.
pub const BASE_FLAGS: u64 = 0x202;
/// Arithmetic flags.
pub const ARITHMETIC: u64 = 0x8D5;
/// Direction flag.
pub const DIRECTION: u64 = 1 << 10;
/// Nested task.
pub const NESTED: u64 = 1 << 14;
/// Alignment check.
pub const ALIGNMENT: u64 = 1 << 18;
/// CPUID may be used.
pub const ID: u64 = 1 << 21;
