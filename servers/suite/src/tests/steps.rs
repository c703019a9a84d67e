//! The trap flag over each kind of entry: the step ends in user code, and the kernel never steps.

use abi::{Call, FaultKind};

use super::contexts::{START, prepared};
use super::tests;
use crate::bare::{STACK_BOTTOM, STACK_TOP};
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, must, same};

tests! {
    single_steps_over_entries_stop_in_user_code: 40,
    single_steps_behind_a_load_of_ss_stop_in_user_code: 40,
}

const TRAP: u64 = 1 << 8;
/// DR6: single step.
const STEP: u64 = 1 << 14;

/// Steps over the first instruction of `code`, and tells where and by what it stopped.
fn step(code: &[u8]) -> rt::Result<abi::info::ProcessInfo> {
    prepared(code, |context| {
        context.rflags |= TRAP;
        context.rax = Call::Null as u64;
        context.rdi = STACK_TOP - 128;
        context.rsi = STACK_BOTTOM + 8;
    })?
    .run()
}

fn single_steps_over_entries_stop_in_user_code(_: &'static World) -> Verdict {
    // The code; offsets from its start behind which the step may end. A return with the trap flag set stops either at once or
    // after one more instruction.
    let cases: [(&str, &[u8], &[u64]); 6] = [
        ("syscall", code!("syscall", "nop", "nop", "ud2"), &[2, 3]),
        ("int 0x80", code!("int 0x80", "nop", "nop", "ud2"), &[2, 3]),
        (
            "a page fault",
            code!("mov [rsi], rax", "nop", "nop", "ud2"),
            &[3],
        ),
        (
            "a first use of the FPU",
            code!("pxor xmm0, xmm0", "nop", "nop", "ud2"),
            &[4],
        ),
        ("an access", code!("mov rax, [rdi]", "nop", "ud2"), &[3]),
        ("pushf", code!("pushfq", "nop", "ud2"), &[1]),
    ];
    for (name, code, stops) in cases {
        let info = must!(step(code));
        check!(
            info.context.vector == 1 && stops.contains(&info.context.rip.wrapping_sub(START)),
            "{name}: {}",
            ending(&info)
        );
        same!(info.context.debug_status, STEP);
        check!(info.context.rflags & TRAP != 0, "{name}: TF is gone");
    }
    // An instruction that faults does not end, so there is no step behind it.
    let info = must!(step(code!("ud2")));
    same!(
        (
            FaultKind::from_vector(info.context.vector),
            info.context.rip
        ),
        (FaultKind::InvalidInstruction, START)
    );
    Ok(())
}

fn single_steps_behind_a_load_of_ss_stop_in_user_code(_: &'static World) -> Verdict {
    // The step over the load is held back to behind the next instruction, which enters the kernel.
    let cases: [(&str, &[u8]); 7] = [
        (
            "mov ss, syscall",
            code!("mov ss, [rdi]", "syscall", "nop", "nop", "ud2"),
        ),
        (
            "mov ss, int 0x80",
            code!("mov ss, [rdi]", "int 0x80", "nop", "nop", "ud2"),
        ),
        ("mov ss, int3", code!("mov ss, [rdi]", "int3", "nop", "ud2")),
        (
            "mov ss, int1",
            code!("mov ss, [rdi]", ".byte 0xF1", "nop", "ud2"),
        ),
        (
            "mov ss, sysenter",
            code!("mov ss, [rdi]", "sysenter", "nop", "ud2"),
        ),
        // `pop ss`, which 64-bit code does not have.
        (
            "pop ss, int 0x80",
            code!(".byte 0x17", "int 0x80", "nop", "nop", "ud2"),
        ),
        (
            "pop ss, syscall",
            code!(".byte 0x17", "syscall", "nop", "nop", "ud2"),
        ),
    ];
    for (name, code) in cases {
        for narrow in [false, true] {
            let bare = must!(prepared(code, |context| {
                context.rflags |= TRAP;
                context.rax = Call::Null as u64;
                context.rdi = STACK_TOP - 128;
                context.rsp = STACK_TOP - 128;
                if narrow {
                    (context.cs, context.ds, context.es) = (0x1B, 0x23, 0x23);
                }
            }));
            must!(
                bare.stack
                    .write(STACK_TOP - 128 - STACK_BOTTOM, &0x23_u64.to_le_bytes())
            );
            let info = must!(bare.run());
            // `sysenter` leaves no address to come back to.
            let there = info.context.rip.wrapping_sub(START) < code.len() as u64;
            check!(
                info.state == abi::info::ProcessState::Faulted as u32
                    && (there || name.ends_with("sysenter")),
                "{name}, {narrow}: {}",
                ending(&info)
            );
        }
    }
    Ok(())
}
