//! What is left of the hardware's own tasks in 64-bit mode, as far as user code can reach it: a flag that nobody may fall over, and a
//! segment that is not for it. (What takes the kernel's privileges to try is tried by `arch/run-kernel`, in `checks/tasks.rs`.)

use abi::info::ProcessInfo;
use abi::{Call, FaultKind};
use core::arch::asm;
use rt::{Memory, Protection};

use super::contexts::START;
use super::faults::faulted;
use super::tests;
use crate::bare::{self, Bare};
use crate::registers::*;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{code, code32, must, same};

tests! {
    nested_task_flag_survives_every_way_through_the_kernel: 40,
    nested_task_flag_makes_iret_a_fault_of_the_program: 40,
    task_segment_is_no_segment_of_user_code: 40,
    task_segment_is_nowhere_to_go: 40,
    task_register_says_nothing_of_the_machine: 40,
}

/// The selector of the task segment, with the user's privilege level. Error codes have 0 in place of the level.
const TASK: u64 = 0x33;
/// What an error code says of it.
const TASK_CODE: u64 = 0x30;

/// `iretq` with NT set faults in the kernel. So each entry has to clear it, and whoever had it set gets it back.
fn nested_task_flag_survives_every_way_through_the_kernel(_: &'static World) -> Verdict {
    let nested = |seed| Registers {
        flags: BASE_FLAGS | NESTED,
        ..pattern(seed)
    };
    for number in [
        Call::Null as u64,
        Call::Yield as u64,
        Call::ClockNow as u64,
        999,
    ] {
        let before = Registers {
            rax: number,
            ..nested(number)
        };
        let mut after = before;
        // SAFETY: these calls do nothing.
        unsafe { through_syscall(&mut after) };
        same!(after.flags, before.flags);
        let mut after = before;
        // SAFETY: as above.
        unsafe { through_interrupt(&mut after) };
        same!(after.flags, before.flags);
    }
    // A page that is not there yet.
    let mapping = must!(must!(Memory::create(4096)).map(Protection::READ_WRITE));
    let before = Registers {
        rbx: mapping.as_ptr() as u64,
        ..nested(1)
    };
    let mut after = before;
    // SAFETY: the page is the test's.
    unsafe { through_write(&mut after) };
    same!(after, before);
    // A fault that ends the program.
    let info = must!(bare::run(code!("push 0x4202", "popfq", "ud2")));
    faulted("ud2", &info, FaultKind::InvalidInstruction)?;
    same!(info.context.rflags & NESTED, NESTED);
    Ok(())
}

fn nested_task_flag_makes_iret_a_fault_of_the_program(_: &'static World) -> Verdict {
    // A frame that leads to `ud2`, which is never reached.
    let long = must!(bare::run(code!(
        "mov rax, rsp",
        "lea rbx, [rip + 2f]",
        "push 0x23",
        "push rax",
        "push 0x202",
        "push 0x2B",
        "push rbx",
        "push 0x4202",
        "popfq",
        "3:",
        "iretq",
        "2:",
        "ud2",
    )));
    faulted("iretq with NT", &long, FaultKind::Protection)?;
    same!(long.context.error_code, 0);
    // Compatibility mode is long mode, too.
    let short = code32!("push 0x4202", "popfd", "iretd");
    let short = must!(must!(Bare::new32(short, &bare::pattern32())).run());
    faulted("iretd with NT", &short, FaultKind::Protection)?;
    same!((short.context.error_code, short.context.cs), (0, 0x1B));
    for info in [long, short] {
        same!(info.context.rflags & NESTED, NESTED);
    }
    Ok(())
}

/// Says so unless the program ended by a protection fault that names the task segment.
fn refused(what: &str, info: &ProcessInfo) -> Verdict {
    faulted(what, info, FaultKind::Protection)?;
    same!(info.context.error_code, TASK_CODE);
    Ok(())
}

fn task_segment_is_no_segment_of_user_code(_: &'static World) -> Verdict {
    for (register, code) in [
        ("ds", code!("mov eax, 0x33", "mov ds, eax", "ud2")),
        ("es", code!("mov eax, 0x33", "mov es, eax", "ud2")),
        ("fs", code!("mov eax, 0x33", "mov fs, eax", "ud2")),
        ("gs", code!("mov eax, 0x33", "mov gs, eax", "ud2")),
        ("ss", code!("mov eax, 0x33", "mov ss, eax", "ud2")),
        ("ds, level 0", code!("mov eax, 0x30", "mov ds, eax", "ud2")),
    ] {
        let info = must!(bare::run(code));
        refused(register, &info)?;
        // The register is as it was.
        same!(info.context.ds, 0);
    }
    // Its descriptor is of privilege level 0, so it can't even be asked for.
    for selector in [TASK as u32, TASK_CODE as u32, TASK as u32 + 8] {
        let (rights, limit, reads, writes): (u8, u8, u8, u8);
        // SAFETY: the four look at a descriptor and change ZF; what a failed one would have given is not used.
        unsafe {
            asm!(
                "lar {t:e}, {selector:e}",
                "setz {rights}",
                "lsl {t:e}, {selector:e}",
                "setz {limit}",
                "verr {selector:x}",
                "setz {reads}",
                "verw {selector:x}",
                "setz {writes}",
                selector = in(reg) selector,
                t = out(reg) _,
                rights = out(reg_byte) rights,
                limit = out(reg_byte) limit,
                reads = out(reg_byte) reads,
                writes = out(reg_byte) writes,
                options(nomem, nostack),
            );
        }
        same!((rights, limit, reads, writes), (0, 0, 0, 0));
    }
    Ok(())
}

fn task_segment_is_nowhere_to_go(_: &'static World) -> Verdict {
    // With tasks of the hardware's own each of these would be a switch.
    for (name, code) in [
        (
            "far call",
            code!("push 0x33", "push 0", "call fword ptr [rsp + 4]", "ud2"),
        ),
        (
            "far jump",
            code!("push 0x33", "push 0", "jmp fword ptr [rsp + 4]", "ud2"),
        ),
    ] {
        refused(name, &must!(bare::run(code)))?;
    }
    // The 32-bit forms: opcode, offset, selector (Intel SDM vol. 2A, CALL and JMP).
    for (name, code) in [
        (
            "32-bit far call",
            code32!(".byte 0x9A", ".long 0", ".word 0x33", "ud2"),
        ),
        (
            "32-bit far jump",
            code32!(".byte 0xEA", ".long 0", ".word 0x33", "ud2"),
        ),
    ] {
        let info = must!(must!(Bare::new32(code, &bare::pattern32())).run());
        refused(name, &info)?;
        same!(info.context.cs, 0x1B);
    }
    Ok(())
}

fn task_register_says_nothing_of_the_machine(_: &'static World) -> Verdict {
    // Refused where the CPU has UMIP; otherwise it is the same on every CPU.
    let info = must!(bare::run(code!("xor eax, eax", "str eax", "ud2")));
    if faulted("str", &info, FaultKind::Protection).is_ok() {
        same!(info.context.rip, START + 2);
        return Ok(());
    }
    faulted("ud2", &info, FaultKind::InvalidInstruction)?;
    same!(info.context.rax, TASK_CODE);
    Ok(())
}
