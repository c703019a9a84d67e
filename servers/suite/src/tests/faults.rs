//! Programs that do what they may not: each ends alone, with a report that tells the truth.

use abi::info::{ProcessInfo, ProcessState};
use abi::{Call, FaultKind, UserContext};
use alloc::format;

use super::tests;
use crate::bare::{self, Bare, CODE, PREAMBLE_BYTES, STACK_BOTTOM, STACK_TOP, reg};
use crate::registers::BASE_FLAGS;
use crate::verdict::{Verdict, Why};
use crate::world::{World, ending};
use crate::{check, code, must, same, skip};

tests! {
    faults_are_reported_with_all_registers: 40,
    page_faults_are_reported_with_address_and_cause: 40,
    x87_fault_ends_the_program: 40,
    simd_fault_ends_the_program: 40,
    alignment_check_faults_end_the_program: 40,
    stack_overflow_ends_the_program: 40,
    syscall_at_the_end_of_memory_does_no_harm: 40,
    syscall_with_a_senseless_stack_pointer_works: 40,
    jump_to_where_no_code_can_be_faults: 40,
}

const START: u64 = CODE + PREAMBLE_BYTES;

/// Says so unless the program ended by this fault.
pub(super) fn faulted(what: &str, info: &ProcessInfo, kind: FaultKind) -> Verdict {
    if info.state == ProcessState::Faulted as u32
        && FaultKind::from_vector(info.context.vector) == kind
    {
        return Ok(());
    }
    Err(Why::Failed(format!(
        "{what} should have ended by {}, but {}",
        kind.text(),
        ending(info)
    )))
}

/// The registers that a report should show, if the code changed none.
fn as_before(values: &[u64; 16], context: &UserContext) -> UserContext {
    UserContext {
        rax: values[reg::RAX],
        rcx: values[reg::RCX],
        rdx: values[reg::RDX],
        rbx: values[reg::RBX],
        rsp: values[reg::RSP],
        rbp: values[reg::RBP],
        rsi: values[reg::RSI],
        rdi: values[reg::RDI],
        r8: values[reg::R8],
        r9: values[9],
        r10: values[10],
        r11: values[11],
        r12: values[12],
        r13: values[13],
        r14: values[14],
        r15: values[15],
        ..*context
    }
}

fn faults_are_reported_with_all_registers(_: &'static World) -> Verdict {
    // The code, the fault, how far behind the first instruction it is reported (traps: behind it), its error code.
    let cases: [(&[u8], FaultKind, u64, u64); 7] = [
        (code!("ud2"), FaultKind::InvalidInstruction, 0, 0),
        (code!("int3"), FaultKind::Breakpoint, 1, 0),
        (code!("int 3"), FaultKind::Breakpoint, 1, 0),
        (code!("div rsp"), FaultKind::Divide, 0, 0),
        (code!("mov rax, [rax]"), FaultKind::Protection, 0, 0),
        (
            code!("push rax", "mov rsp, rax", "pop rbx"),
            FaultKind::StackSegment,
            4,
            0,
        ),
        (code!("int 0x0"), FaultKind::Protection, 0, 2),
    ];
    for (number, (code, kind, offset, error_code)) in cases.into_iter().enumerate() {
        let mut values = bare::pattern();
        if number == 5 {
            // Non-canonical, through the stack segment.
            values[reg::RAX] = 1 << 62;
        }
        let info = must!(must!(Bare::new(code, &values)).run());
        // QEMU's TCG doesn't tell a stack fault from a protection fault.
        let kind = if number == 5 && info.context.vector == 13 {
            FaultKind::Protection
        } else {
            kind
        };
        faulted(&format!("case {number}"), &info, kind)?;
        same!(info.code, info.context.vector);
        same!(info.context.rip, START + offset);
        same!(info.context.error_code, error_code);
        if number == 5 {
            values[reg::RSP] = values[reg::RAX];
        }
        same!(info.context, as_before(&values, &info.context));
        check!(
            info.context.rflags & BASE_FLAGS == BASE_FLAGS && info.context.rflags & 0x3000 == 0,
            "flags {:#x}",
            info.context.rflags
        );
        same!((info.context.cs, info.context.ss), (0x2B, 0x23));
        same!(info.threads, 0);
        same!(info.handles, 0);
    }
    Ok(())
}

fn page_faults_are_reported_with_address_and_cause(_: &'static World) -> Verdict {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const USER: u64 = 4;
    const FETCH: u64 = 16;
    let read = code!("mov rax, [rbx]");
    let write = code!("mov [rbx], rax");
    let jump = code!("jmp rbx");
    let kernel = 0xFFFF_8000_0000_0000;
    // Code, address, bits that the error code must have, and those that it may have.
    let cases = [
        (read, 0, USER, 0),
        (read, 0x6000_0000_0000, USER, 0),
        (read, 0x7FFF_FFFF_F000, USER, 0),
        (read, kernel + 0x10_0000, USER, PRESENT),
        (read, 0xFFFF_FFFF_8000_0000, USER, PRESENT),
        (write, 0x6000_0000_0000, USER | WRITE, 0),
        (write, CODE, USER | WRITE | PRESENT, 0),
        (write, kernel + 0x10_0000, USER | WRITE, PRESENT),
        (jump, 0x6000_0000_0000, USER, FETCH),
        (jump, STACK_TOP - 8, USER, FETCH | PRESENT),
        (jump, 0xFFFF_FFFF_8000_0000, USER, FETCH | PRESENT),
    ];
    for (number, (code, address, must, may)) in cases.into_iter().enumerate() {
        let mut values = bare::pattern();
        values[reg::RBX] = address;
        let info = must!(must!(Bare::new(code, &values)).run());
        faulted(&format!("case {number}"), &info, FaultKind::Page)?;
        same!(info.context.cr2, address);
        same!(info.context.rip, if code == jump { address } else { START });
        same!(info.context.error_code & !may, must);
        same!(info.context, as_before(&values, &info.context));
    }
    Ok(())
}

fn simd_fault_ends_the_program(_: &'static World) -> Verdict {
    // 1/0 with the exception unmasked.
    let info = must!(bare::run(code!(
        "sub rsp, 16",
        "mov dword ptr [rsp], 0x1D80",
        "ldmxcsr [rsp]",
        "mov eax, 1",
        "cvtsi2sd xmm0, eax",
        "xorpd xmm1, xmm1",
        "divsd xmm0, xmm1",
        "ud2",
    )));
    if faulted("", &info, FaultKind::InvalidInstruction).is_ok() {
        skip!("this CPU raises no SIMD floating-point fault");
    }
    faulted("divsd", &info, FaultKind::Simd)
}

fn x87_fault_ends_the_program(_: &'static World) -> Verdict {
    let info = must!(bare::run(code!(
        "sub rsp, 16",
        "mov word ptr [rsp], 0x37B",
        "fldcw [rsp]",
        "fld1",
        "fldz",
        "fdivp st(1), st",
        "fwait",
        "ud2",
    )));
    faulted("fdiv", &info, FaultKind::X87)
}

fn alignment_check_faults_end_the_program(_: &'static World) -> Verdict {
    let info = must!(bare::run(code!(
        "pushfq",
        "or dword ptr [rsp], 0x40000",
        "popfq",
        "mov eax, [rsp + 1]",
        "xor edi, edi",
        "mov eax, 50",
        "syscall",
    )));
    if info.state == ProcessState::Exited as u32 {
        skip!("this CPU checks no alignment");
    }
    faulted("an unaligned read", &info, FaultKind::Alignment)
}

fn stack_overflow_ends_the_program(_: &'static World) -> Verdict {
    let info = must!(bare::run(code!("2:", "push rax", "jmp 2b")));
    faulted("endless push", &info, FaultKind::Page)?;
    same!(info.context.cr2, STACK_BOTTOM - 8);
    same!(info.context.rsp, STACK_BOTTOM);
    Ok(())
}

fn syscall_at_the_end_of_memory_does_no_harm(_: &'static World) -> Verdict {
    use abi::Protection;
    use abi::layout::{PAGE_SIZE, USER_END};
    // The IPC areas' stretch reaches up to the end, so the highest page may be the kernel's own; then it can't be mapped,
    // which is as good.
    let page = USER_END - PAGE_SIZE;
    let mut values = bare::pattern();
    values[reg::RBX] = USER_END - 2;
    values[reg::RAX] = Call::Null as u64;
    let bare = must!(Bare::new(code!("jmp rbx"), &values));
    let text = must!(rt::Memory::create(PAGE_SIZE));
    must!(text.write(PAGE_SIZE - 2, &[0x0F, 0x05]));
    match bare
        .process
        .map(&text, page, 0, PAGE_SIZE, Protection::READ_EXECUTE)
    {
        Ok(_) => {
            let info = must!(bare.run());
            check!(
                info.state == ProcessState::Faulted as u32,
                "{}",
                ending(&info)
            );
            same!(info.context.rip, USER_END);
        }
        Err(error) => check!(
            matches!(error, abi::Error::OutOfRange | abi::Error::BadArgument),
            "mapping the last page: {error}"
        ),
    }
    // The highest page that can be had.
    let page = abi::layout::IPC_AREAS_START - PAGE_SIZE;
    values[reg::RBX] = page + PAGE_SIZE - 2;
    let bare = must!(Bare::new(code!("jmp rbx"), &values));
    must!(
        bare.process
            .map(&text, page, 0, PAGE_SIZE, Protection::READ_EXECUTE)
    );
    let info = must!(bare.run());
    check!(
        info.state == ProcessState::Faulted as u32,
        "{}",
        ending(&info)
    );
    Ok(())
}

fn syscall_with_a_senseless_stack_pointer_works(_: &'static World) -> Verdict {
    for stack in [
        0,
        1,
        u64::MAX,
        1 << 47,
        1 << 63,
        0xFFFF_8000_0010_0000,
        0xFFFF_FFFF_8000_0000,
        CODE + 7,
    ] {
        let mut values = bare::pattern();
        values[reg::RSP] = stack;
        values[reg::RAX] = Call::Null as u64;
        values[reg::RBX] = 77;
        // Null twice, by both ways, then the exit with code 77.
        let info = must!(
            must!(Bare::new(
                code!(
                    "syscall",
                    "xor eax, eax",
                    "syscall",
                    "mov edi, ebx",
                    "mov eax, 50",
                    "syscall",
                    "ud2"
                ),
                &values
            ))
            .run()
        );
        same!((info.state, info.code), (ProcessState::Exited as u32, 77));
        let info = must!(must!(Bare::new(code!("int 0x80", "ud2"), &values)).run());
        faulted(
            "after int 0x80 with that stack",
            &info,
            FaultKind::InvalidInstruction,
        )?;
        same!(info.context.rsp, stack);
    }
    Ok(())
}

fn jump_to_where_no_code_can_be_faults(_: &'static World) -> Verdict {
    for target in [
        1_u64 << 47,
        0x8000_0000_0000_0000,
        0xFFFF_8000_0000_0000,
        u64::MAX,
    ] {
        let mut values = bare::pattern();
        values[reg::RBX] = target;
        let info = must!(must!(Bare::new(code!("jmp rbx"), &values)).run());
        check!(
            info.state == ProcessState::Faulted as u32,
            "{}",
            ending(&info)
        );
    }
    Ok(())
}
