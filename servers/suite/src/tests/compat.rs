//! 32-bit programs: their entries into the kernel, their faults, and what they can't reach.
//!
//! What only 32-bit code can look at, `suite32` does, in a process of its own for each test.

use abi::FaultKind;
use abi::info::{ProcessInfo, ProcessState};
use alloc::format;
use core::time::Duration;

use super::faults::faulted;
use super::tests;
use crate::bare::{self, Bare, CODE, PREAMBLE32_BYTES, STACK_BOTTOM, STACK_TOP, reg};
use crate::registers::BASE_FLAGS;
use crate::verdict::{Verdict, Why};
use crate::world::{World, ending};
use crate::{check, code, code32, must, same, skip};

tests! {
    compat_registers_survive_every_entry: 40,
    compat_block_form_keeps_all_registers: 40,
    compat_bad_numbers_are_error_values: 40,
    compat_wide_values_travel: 40,
    compat_bad_stacks_are_error_values: 40,
    compat_landing_page_stays: 40,
    compat_mappings_stay_below_4_gib: 40,
    compat_messages_travel_whole: 60,
    compat_threads_have_storage_of_their_own: 60,
    compat_preemption_keeps_registers: 90,
    compat_random_calls_do_no_harm: 90,
    compat_single_steps_over_entries_stop_in_user_code: 40,
    compat_faults_are_reported_with_all_registers: 40,
    compat_page_faults_are_reported_with_address: 40,
    compat_threads_begin_below_4_gib_only: 40,
    unknown_modes_of_processes_are_refused: 40,
    sysenter_of_64_bit_code_is_a_fault: 40,
    compat_code_segment_decides_about_the_map: 40,
    compat_calls_leave_nothing_in_upper_halves: 40,
}

/// Exit codes of `suite32`.
const HELD: u64 = 0;
const SKIPPED: u64 = 2;

/// Runs a test of `suite32` to its end.
fn run32(world: &World, name: &str) -> rt::Result<ProcessInfo> {
    world.spawn32(name)?.end(Duration::from_mins(1))
}

fn judge(world: &World, name: &str) -> Verdict {
    let info = must!(run32(world, name));
    let exited = info.state == ProcessState::Exited as u32;
    match info.code {
        HELD if exited => Ok(()),
        SKIPPED if exited => skip!("this machine has another entry"),
        _ => Err(Why::Failed(format!(
            "suite32 {}; it says why above",
            ending(&info)
        ))),
    }
}

fn compat_registers_survive_every_entry(world: &'static World) -> Verdict {
    judge(world, "registers_survive_every_entry")
}

fn compat_block_form_keeps_all_registers(world: &'static World) -> Verdict {
    judge(world, "block_form_keeps_all_registers")
}

fn compat_bad_numbers_are_error_values(world: &'static World) -> Verdict {
    judge(world, "bad_numbers_are_error_values")
}

fn compat_wide_values_travel(world: &'static World) -> Verdict {
    judge(world, "wide_values_travel")
}

fn compat_bad_stacks_are_error_values(world: &'static World) -> Verdict {
    judge(world, "bad_stacks_are_error_values")
}

fn compat_landing_page_stays(world: &'static World) -> Verdict {
    judge(world, "landing_page_stays")
}

fn compat_mappings_stay_below_4_gib(world: &'static World) -> Verdict {
    judge(world, "mappings_stay_below_4_gib")
}

fn compat_messages_travel_whole(world: &'static World) -> Verdict {
    judge(world, "messages_travel_whole")
}

fn compat_threads_have_storage_of_their_own(world: &'static World) -> Verdict {
    judge(world, "threads_have_storage_of_their_own")
}

fn compat_preemption_keeps_registers(world: &'static World) -> Verdict {
    judge(world, "preemption_keeps_registers")
}

fn compat_random_calls_do_no_harm(world: &'static World) -> Verdict {
    judge(world, "random_calls_do_no_harm")
}

fn compat_single_steps_over_entries_stop_in_user_code(world: &'static World) -> Verdict {
    let mut stepped = 0;
    for name in ["step_interrupt", "step_syscall", "step_sysenter"] {
        let info = must!(run32(world, name));
        if info.state == ProcessState::Exited as u32 && info.code == SKIPPED {
            continue;
        }
        stepped += 1;
        faulted(name, &info, FaultKind::Debug)?;
        let context = &info.context;
        // The trap comes behind the one instruction after the return, and the call was made: EBX has the time's lower half.
        same!(context.rip, context.rdi + 1);
        same!(context.cs, 0x1B);
        check!(context.rax == 0 && context.rbx != 0, "{name}: no call");
        check!(
            context.rflags & !0x8D5 == BASE_FLAGS | 1 << 8,
            "{name}: flags {:#x}",
            context.rflags
        );
    }
    // There is always one besides `int 0x80`, unless the CPU is neither Intel's nor AMD's.
    check!(stepped >= 1);
    Ok(())
}

const START: u64 = CODE + PREAMBLE32_BYTES;

/// Says so unless a report shows these registers, and nothing in their upper halves.
fn shows(info: &ProcessInfo, values: &[u32; 8]) -> Verdict {
    let context = &info.context;
    same!(context.general()[..reg::COUNT_32], values.map(u64::from));
    same!(
        (context.cs, context.ss, context.ds, context.es),
        (0x1B, 0x23, 0x23, 0x23)
    );
    same!((context.fs, context.gs), (0, 0));
    Ok(())
}

fn compat_faults_are_reported_with_all_registers(_: &'static World) -> Verdict {
    // The code, the fault, how far behind the first instruction it is reported.
    let cases: [(&[u8], FaultKind, u64); 9] = [
        (code32!("ud2"), FaultKind::InvalidInstruction, 0),
        (code32!("int3"), FaultKind::Breakpoint, 1),
        (code32!("div esp"), FaultKind::Divide, 0),
        (code32!("hlt"), FaultKind::Protection, 0),
        (code32!("in al, 0x60"), FaultKind::Protection, 0),
        (code32!("int 0x21"), FaultKind::Protection, 0),
        (code32!("mov eax, gs:[0x10]"), FaultKind::Protection, 0),
        (code32!("mov eax, fs:[0x20]"), FaultKind::Protection, 0),
        // Instructions that 64-bit code does not have: this is 32-bit code indeed.
        (
            code32!("aaa", "into", "ud2"),
            FaultKind::InvalidInstruction,
            2,
        ),
    ];
    for (number, (code, kind, offset)) in cases.into_iter().enumerate() {
        let mut values = bare::pattern32();
        // A digit that `aaa` leaves alone.
        values[reg::RAX] &= !0xFF;
        let info = must!(must!(Bare::new32(code, &values)).run());
        // QEMU's TCG lets accesses by null segments through, to whatever lies at that address: nothing.
        let by_null = matches!(number, 6 | 7) && info.context.vector == 14;
        let kind = if by_null { FaultKind::Page } else { kind };
        faulted(&format!("case {number}"), &info, kind)?;
        same!(info.context.rip, START + offset);
        shows(&info, &values)?;
    }
    Ok(())
}

fn compat_page_faults_are_reported_with_address(_: &'static World) -> Verdict {
    const WRITE: u64 = 2;
    const USER: u64 = 4;
    const PRESENT: u64 = 1;
    const FETCH: u64 = 16;
    let read = code32!("mov eax, [ebx]");
    let write = code32!("mov [ebx], eax");
    let jump = code32!("jmp ebx");
    for (number, (code, address, must, may)) in [
        (read, 0, USER, 0),
        (read, 0xFFFF_FFF0, USER, 0),
        (read, 0x8000_0000, USER, 0),
        (write, 0x6000_0000, USER | WRITE, 0),
        (write, CODE as u32, USER | WRITE | PRESENT, 0),
        (jump, 0xFFFF_F000, USER, FETCH),
        (jump, STACK_TOP as u32 - 8, USER, FETCH | PRESENT),
    ]
    .into_iter()
    .enumerate()
    {
        let mut values = bare::pattern32();
        values[reg::RBX] = address;
        let info = must!(must!(Bare::new32(code, &values)).run());
        faulted(&format!("case {number}"), &info, FaultKind::Page)?;
        let at = if code == jump {
            u64::from(address)
        } else {
            START
        };
        same!(
            (info.context.cr2, info.context.rip),
            (u64::from(address), at)
        );
        same!(info.context.error_code & !may, must);
        shows(&info, &values)?;
    }
    let deep = must!(
        must!(Bare::new32(
            code32!("2:", "push eax", "jmp 2b"),
            &bare::pattern32()
        ))
        .run()
    );
    faulted("endless push", &deep, FaultKind::Page)?;
    same!(deep.context.cr2, STACK_BOTTOM - 4);
    Ok(())
}

fn compat_threads_begin_below_4_gib_only(_: &'static World) -> Verdict {
    let bare = must!(Bare::new32(code32!("ud2"), &bare::pattern32()));
    // SAFETY: the process is another one.
    let made = unsafe { bare.process.create_thread(1 << 32, STACK_TOP, 0) };
    check!(made.is_err(), "a thread began above 4 GiB");
    // SAFETY: as above.
    let thread = must!(unsafe { bare.process.create_thread(CODE, STACK_TOP, 0) });
    let area = must!(thread.info()).area;
    check!(area < 1 << 32, "an IPC area at {area:#x}");
    Ok(())
}

fn unknown_modes_of_processes_are_refused(_: &'static World) -> Verdict {
    use crate::kernel_calls::refused;
    use abi::{Call, Error};
    let name = "mode";
    for mode in [2, 3, 1 << 32, u64::MAX] {
        let arguments = [name.as_ptr() as u64, name.len() as u64, 0, mode];
        refused(Call::ProcessCreate, &arguments, Error::BadArgument)?;
    }
    // A 64-bit process still runs 64-bit code only where it begins.
    let info = must!(bare::run(code!("mov r8, 1", "ud2")));
    same!((info.context.cs, info.context.r8), (0x2B, 1));
    Ok(())
}

fn sysenter_of_64_bit_code_is_a_fault(_: &'static World) -> Verdict {
    let plain = code!("mov rbp, rsp", "sysenter", "ud2");
    let stepped = code!(
        "mov rbp, rsp",
        "pushfq",
        "or dword ptr [rsp], 0x4100", // nested task, too
        "popfq",
        "sysenter",
        "ud2"
    );
    for (name, code) in [("sysenter", plain), ("sysenter under TF and NT", stepped)] {
        let info = must!(bare::run(code));
        let kind = FaultKind::from_vector(info.context.vector);
        check!(
            info.state == ProcessState::Faulted as u32
                && matches!(kind, FaultKind::Protection | FaultKind::InvalidInstruction),
            "{name}: {}",
            ending(&info)
        );
        // Either the CPU refused it where it stands, or the kernel did, which does not know where.
        let at = info.context.rip;
        check!(at == 0 || (CODE..CODE + 4096).contains(&at), "{at:#x}");
    }
    // The step was that program's: the next one that comes by `sysenter` has none.
    let info = must!(bare::run(code!("xor edi, edi", "mov eax, 50", "syscall")));
    same!(info.state, ProcessState::Exited as u32);
    Ok(())
}

/// Why tests with far returns can't run.
const NO_FAR_RETURNS: &str = "this emulator has no far returns in user code under SMAP";

fn compat_code_segment_decides_about_the_map(_: &'static World) -> Verdict {
    if !must!(bare::far_returns_work()) {
        skip!("{NO_FAR_RETURNS}");
    }
    // `process_exit` with one code where 64-bit code has it, and another where 32-bit code has it. The address behind the call is
    // where the far return goes.
    let long = must!(
        must!(Bare::new32(
            code32!(
                "push 0x2B",
                "call 2f",
                ".code64",
                "mov edi, 64",
                "mov ebx, 32",
                "xor ecx, ecx",
                "mov eax, 50",
                "int 0x80",
                "ud2",
                ".code32",
                "2:",
                "retf"
            ),
            &bare::pattern32()
        ))
        .run()
    );
    same!((long.state, long.code), (ProcessState::Exited as u32, 64));
    let compat = must!(bare::run(code!(
        "push 0x1B",
        "call 2f",
        ".code32",
        "mov edi, 64",
        "mov ebx, 32",
        "xor ecx, ecx",
        "mov eax, 50",
        "int 0x80",
        "ud2",
        ".code64",
        "2:",
        "retfq"
    )));
    same!(
        (compat.state, compat.code),
        (ProcessState::Exited as u32, 32)
    );
    Ok(())
}

fn compat_calls_leave_nothing_in_upper_halves(_: &'static World) -> Verdict {
    if !must!(bare::far_returns_work()) {
        skip!("{NO_FAR_RETURNS}");
    }
    // All registers have something above; 32-bit code makes a call; back in 64-bit code all of that is gone.
    let info = must!(bare::run(code!(
        "push 0x1B",
        "call 2f",
        ".code32",
        "xor eax, eax",
        "int 0x80",
        "push 0x2B",
        "call 3f",
        ".code64",
        "or r8, r9",
        "or r8, r10",
        "or r8, r11",
        "or r8, r12",
        "or r8, r13",
        "or r8, r14",
        "or r8, r15",
        "mov r9, rbx",
        "or r9, rcx",
        "or r9, rdx",
        "or r9, rsi",
        "or r9, rdi",
        "or r9, rbp",
        "shr r9, 32",
        "or r8, r9",
        "mov rdi, r8",
        "mov eax, 50",
        "syscall",
        ".code32",
        "3:",
        "retf",
        ".code64",
        "2:",
        "retfq"
    )));
    same!((info.state, info.code), (ProcessState::Exited as u32, 0));
    Ok(())
}
