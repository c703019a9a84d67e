//! The switch of registers: one stack is left, another one goes on.
//!
//! The last step of `switch_to`. Its instructions are in a file of their own because they need no machine: the kernel's routine in
//! `switch/mod.rs` and the one here are the same text, and this one is tested and timed in an ordinary process. Only what a C function must
//! keep is saved; the caller has saved the rest already, as for any call. Vector registers and control words are not here: the kernel
//! uses none, and a thread's own are the FPU's affair (`fpu`).

/// The body of a naked function that exchanges stacks.
///
/// In: RDI where the RSP of the side that is left goes, RSI where that of the other side is. Out: returns on the other stack, with
/// its callee-saved registers; RAX and RDX are zero. Flags are not kept. Clobbers what a C call may.
///
/// ```text
/// stack of the one that leaves:  return address | rbp rbx r12 r13 r14 r15   <- its RSP
/// ```
macro_rules! exchange_code {
    () => {
        core::arch::naked_asm!(
            // ANCHOR: exchange_stacks
            "push rbp",
            "push rbx",
            "push r12",
            "push r13",
            "push r14",
            "push r15",
            "mov [rdi], rsp",
            "mov rsp, [rsi]",
            "xor eax, eax",
            "xor edx, edx",
            "pop r15",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop rbx",
            "pop rbp",
            "ret",
            // ANCHOR_END: exchange_stacks
        )
    };
}

#[cfg(target_os = "none")]
pub(crate) use exchange_code;

/// Leaves the current stack, whose RSP goes to `*previous`, and goes on where `*next` says.
///
/// # Safety
/// `*next` is an RSP that this function stored, or one with a like frame below a place to return to, and nobody goes on with it
/// a second time. `previous` can be written.
#[cfg(not(target_os = "none"))]
#[unsafe(naked)]
pub unsafe extern "C" fn exchange_stacks(previous: *mut u64, next: *const u64) {
    exchange_code!()
}

#[cfg(test)]
mod tests {
    use core::arch::{asm, naked_asm};

    use super::*;

    static mut THIS_SIDE: u64 = 0;
    static mut OTHER_SIDE: u64 = 0;
    static mut TURNS: u64 = 0;

    /// Counts its turns, fills every callee-saved register, and goes back.
    #[unsafe(naked)]
    unsafe extern "C" fn other_side() -> ! {
        naked_asm!(
            "2:",
            "inc qword ptr [rip + {turns}]",
            "mov rbx, -1",
            "mov rbp, -1",
            "mov r12, -1",
            "mov r13, -1",
            "mov r14, -1",
            "mov r15, -1",
            "lea rdi, [rip + {other}]",
            "lea rsi, [rip + {this}]",
            "call {exchange}",
            // The next turn begins with what was filled in.
            "and r12, r13",
            "and r14, r15",
            "and r12, r14",
            "and r12, rbx",
            "and r12, rbp",
            "inc r12",
            "jz 2b",
            "ud2",
            turns = sym TURNS,
            this = sym THIS_SIDE,
            other = sym OTHER_SIDE,
            exchange = sym exchange_stacks,
        )
    }

    #[test]
    fn callee_saved_registers_and_stack_survive_the_other_side() {
        let mut stack = vec![0u64; 4096];
        // Six registers and the address to "return" to.
        let frame = stack.len() - 64;
        stack[frame + 6] = other_side as *const () as u64;
        // SAFETY: one test uses the statics; the frame is as the function wants it, and the stack outlives the loop.
        unsafe {
            (&raw mut OTHER_SIDE).write((&raw const stack[frame]) as u64);
            for turn in 1..=1000u64 {
                let (r12, r13, r14, r15): (u64, u64, u64, u64);
                asm!(
                    "call {exchange}",
                    exchange = sym exchange_stacks,
                    inout("rdi") &raw mut THIS_SIDE => _,
                    inout("rsi") &raw const OTHER_SIDE => _,
                    inout("r12") turn => r12,
                    inout("r13") turn + 1 => r13,
                    inout("r14") turn + 2 => r14,
                    inout("r15") turn + 3 => r15,
                    clobber_abi("C"),
                );
                assert_eq!((r12, r13, r14, r15), (turn, turn + 1, turn + 2, turn + 3));
                assert_eq!((&raw const TURNS).read(), turn);
            }
        }
    }
}
