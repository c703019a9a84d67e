//! System calls with all registers that any call has, by either way in.

use abi::Call;
use core::arch::{asm, naked_asm};

/// The registers in which a call finds its arguments and leaves its results: `rdi`, `rsi`, `rdx`, `r10`, `r8`, `r9`, `r12` to `r15`.
pub type Registers = [u64; 10];

/// How the kernel is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// By `syscall`.
    Syscall,
    /// By `int 0x80`.
    Interrupt,
}

macro_rules! enter {
    ($instruction:literal, $number:ident, $registers:ident) => {{
        let status;
        asm!(
            $instruction,
            inlateout("rax") $number => status,
            inlateout("rdi") $registers[0],
            inlateout("rsi") $registers[1],
            inlateout("rdx") $registers[2],
            inlateout("r10") $registers[3],
            inlateout("r8") $registers[4],
            inlateout("r9") $registers[5],
            inlateout("r12") $registers[6],
            inlateout("r13") $registers[7],
            inlateout("r14") $registers[8],
            inlateout("r15") $registers[9],
            lateout("rcx") _,
            lateout("r11") _,
        );
        status
    }};
}

/// Makes a call; returns `rax`.
///
/// # Safety
/// As for [`rt::sys::raw`]: what the call does to this program's memory and threads is the caller's word.
pub unsafe fn enter(way: Way, number: u64, registers: &mut Registers) -> u64 {
    match way {
        // SAFETY: registers as `abi::register` lays down for any call; rcx and r11 are overwritten by `syscall` itself.
        Way::Syscall => unsafe { enter!("syscall", number, registers) },
        // SAFETY: the same registers by the other way in, which keeps rcx and r11.
        Way::Interrupt => unsafe { enter!("int 0x80", number, registers) },
    }
}

/// Where threads begin that were made at random: it ends them. In: nothing. Uses no stack. Out: never.
#[unsafe(naked)]
pub extern "C" fn nap() -> ! {
    naked_asm!(
        "mov eax, {exit}",
        "xor edi, edi",
        "syscall",
        "ud2",
        exit = const Call::ThreadExit as u64,
    )
}
