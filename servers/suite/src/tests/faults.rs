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
    faults_are_reported_with_all_registers: 20,
    page_faults_are_reported_with_address_and_cause: 20,
    x87_fault_ends_the_program: 10,
    simd_fault_ends_the_program: 10,
    alignment_check_faults_end_the_program: 10,
    privileged_instructions_fault: 30,
    interrupt_vectors_of_the_kernel_are_out_of_reach: 30,
    io_ports_fault_unless_granted: 20,
    stack_overflow_ends_the_program: 10,
    other_system_call_instructions_do_no_harm: 20,
    iret_of_user_code_goes_nowhere_else: 20,
    system_calls_of_32_bit_code_do_no_harm: 20,
    single_step_over_syscall_stops_in_user_code: 10,
    syscall_at_the_end_of_memory_does_no_harm: 10,
    syscall_with_a_senseless_stack_pointer_works: 20,
    jump_to_where_no_code_can_be_faults: 10,
}

const START: u64 = CODE + PREAMBLE_BYTES;

/// Says so unless the program ended by this fault.
fn faulted(what: &str, info: &ProcessInfo, kind: FaultKind) -> Verdict {
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
        // Resume and trap flags apart, which the CPU itself sets in what it pushes.
        const RF: u64 = 1 << 16;
        check!(
            info.context.rflags & BASE_FLAGS & !RF == BASE_FLAGS
                && info.context.rflags & 0x3000 == 0,
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

fn privileged_instructions_fault(_: &'static World) -> Verdict {
    let cases: [(&str, &[u8]); 23] = [
        ("hlt", code!("hlt")),
        ("cli", code!("cli")),
        ("sti", code!("sti")),
        ("mov from cr0", code!("mov rax, cr0")),
        ("mov to cr0", code!("mov cr0, rax")),
        ("mov from cr3", code!("mov rax, cr3")),
        ("mov to cr3", code!("mov cr3, rax")),
        ("mov to cr4", code!("mov cr4, rax")),
        ("mov to cr8", code!("mov cr8, rax")),
        ("mov from dr7", code!("mov rax, dr7")),
        ("mov to dr7", code!("mov dr7, rax")),
        ("clts", code!("clts")),
        ("invd", code!("invd")),
        ("wbinvd", code!("wbinvd")),
        ("invlpg", code!("invlpg [rsp]")),
        ("lgdt", code!("lgdt [rsp]")),
        ("lidt", code!("lidt [rsp]")),
        ("ltr", code!("ltr ax")),
        ("lldt", code!("lldt ax")),
        ("rdmsr", code!("mov ecx, 0xC0000080", "rdmsr")),
        ("wrmsr", code!("mov ecx, 0xC0000082", "wrmsr")),
        ("swapgs", code!("swapgs")),
        ("sysret", code!("sysretq")),
    ];
    for (name, code) in cases {
        faulted(name, &must!(bare::run(code)), FaultKind::Protection)?;
    }
    // A kernel selector, and one past the table.
    for (name, code) in [
        ("mov to ss", code!("mov eax, 0x10", "mov ss, ax")),
        ("mov to ds", code!("mov eax, 0x10", "mov ds, ax")),
        ("far selector", code!("mov eax, 0xFFF8", "mov ds, ax")),
        (
            "xsetbv",
            code!("xor ecx, ecx", "mov eax, 1", "xor edx, edx", "xsetbv"),
        ),
    ] {
        let info = must!(bare::run(code));
        let kind = FaultKind::from_vector(info.context.vector);
        check!(
            info.state == ProcessState::Faulted as u32
                && matches!(kind, FaultKind::Protection | FaultKind::InvalidInstruction),
            "{name}: {}",
            ending(&info)
        );
    }
    // IOPL and IF asked for by `popf` are not given, silently.
    let info = must!(bare::run(code!(
        "push 0x3002",
        "popfq",
        "pushfq",
        "pop rax",
        "ud2"
    )));
    same!(info.context.rax & 0x3200, 0x200);
    Ok(())
}

fn interrupt_vectors_of_the_kernel_are_out_of_reach(_: &'static World) -> Verdict {
    macro_rules! vectors {
        ($($vector:literal)+) => {
            [$(($vector, code!(concat!("int ", $vector)))),+]
        };
    }
    for (vector, code) in vectors!(0 1 2 5 6 7 8 10 11 12 13 14 16 17 18 19 20 21 28 29 30 31 32 33 39 48 127 129 224 251 252 253 254 255)
    {
        let info = must!(bare::run(code));
        faulted(&format!("int {vector}"), &info, FaultKind::Protection)?;
        // The selector index of the gate, in the interrupt table (Intel SDM vol. 3A §6.13).
        // QEMU's TCG counts gates of sixteen bytes instead.
        let code = info.context.error_code;
        check!(
            code == vector * 8 + 2 || code == vector * 16 + 2,
            "int {vector}: error code {code:#x}"
        );
    }
    Ok(())
}

fn io_ports_fault_unless_granted(world: &'static World) -> Verdict {
    for code in [
        code!("mov edx, 0x80", "in al, dx"),
        code!("mov edx, 0x3F8", "out dx, al"),
        code!("mov edx, 0xCF8", "in eax, dx"),
        code!("mov edx, 0xFFFF", "in ax, dx"),
        code!("in al, 0x60"),
        code!("mov edx, 0x80", "mov rdi, rsp", "insb"),
    ] {
        faulted("in or out", &must!(bare::run(code)), FaultKind::Protection)?;
    }
    // Port 0x80 is a diagnostics port, which bears reading and writing.
    let granted = |first: u64, count: u64, code: &[u8]| -> rt::Result<ProcessInfo> {
        use rt::AsHandle;
        let mut values = bare::pattern();
        let ports = rt::IoPorts::create(&world.system, first as u16, count as u32)?;
        let bare = Bare::new(code, &values)?;
        let handle = bare.process.grant(&ports, abi::Rights::MANAGE)?;
        drop(bare);
        // The number of the first handle in an empty table is the same every time.
        values[reg::RDI] = handle.0;
        let bare = Bare::new(code, &values)?;
        let again = bare.process.grant(&ports.handle(), abi::Rights::MANAGE)?;
        assert_eq!(handle, again, "the first handle of a process");
        bare.run()
    };
    const { assert!(Call::IoPortsEnable as u64 == 76 && Call::ProcessExit as u64 == 50) };
    let good = must!(granted(
        0x80,
        1,
        code!(
            "mov eax, 76",
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov edx, 0x80",
            "in al, dx",
            "out dx, al",
            "2:",
            "mov rdi, rax",
            "and rdi, -256",
            "mov eax, 50",
            "syscall",
        )
    ));
    same!((good.state, good.code), (ProcessState::Exited as u32, 0));
    // One port is one port: neither its neighbour, nor a word that reaches into it.
    for code in [
        code!("mov eax, 76", "syscall", "mov edx, 0x81", "in al, dx"),
        code!("mov eax, 76", "syscall", "mov edx, 0x7F", "in al, dx"),
        code!("mov eax, 76", "syscall", "mov edx, 0x80", "in ax, dx"),
    ] {
        faulted(
            "a neighbouring port",
            &must!(granted(0x80, 1, code)),
            FaultKind::Protection,
        )?;
    }
    // The last port, and a word that goes past it.
    let past = must!(granted(
        0xFFFF,
        1,
        code!("mov eax, 76", "syscall", "mov edx, 0xFFFF", "in ax, dx")
    ));
    faulted("a word at the last port", &past, FaultKind::Protection)
}

fn stack_overflow_ends_the_program(_: &'static World) -> Verdict {
    let info = must!(bare::run(code!("2:", "push rax", "jmp 2b")));
    faulted("endless push", &info, FaultKind::Page)?;
    same!(info.context.cr2, STACK_BOTTOM - 8);
    same!(info.context.rsp, STACK_BOTTOM);
    Ok(())
}

fn other_system_call_instructions_do_no_harm(_: &'static World) -> Verdict {
    // What becomes of the program depends on the CPU's maker; the kernel must live on, and the program must end.
    let cases: [(&str, &[u8]); 3] = [
        ("sysenter", code!("sysenter", "ud2")),
        (
            "sysenter with trap flag",
            code!(
                "pushfq",
                "or dword ptr [rsp], 0x100",
                "popfq",
                "sysenter",
                "ud2"
            ),
        ),
        ("sysexit", code!("sysexit", "ud2")),
    ];
    for (name, code) in cases {
        let info = must!(bare::run(code));
        check!(
            info.state == ProcessState::Faulted as u32,
            "{name}: {}",
            ending(&info)
        );
    }
    Ok(())
}

/// Why tests with far returns can't run.
const NO_FAR_RETURNS: &str = "this emulator has no far returns in user code under SMAP";

fn iret_of_user_code_goes_nowhere_else(_: &'static World) -> Verdict {
    if !must!(bare::far_returns_work()) {
        skip!("{NO_FAR_RETURNS}");
    }
    let kernel = must!(bare::run(code!(
        "mov rax, rsp",
        "push 0x10",
        "push rax",
        "push 0x2",
        "push 0x8",
        "push rax",
        "iretq"
    )));
    faulted(
        "iret to the kernel's segments",
        &kernel,
        FaultKind::Protection,
    )?;
    let call = must!(bare::run(code!(
        "push 0x8",
        "push 0",
        "call fword ptr [rsp]",
        "ud2"
    )));
    faulted("far call into the kernel", &call, FaultKind::Protection)?;
    // IOPL and IF asked for are not given, silently.
    let flags = must!(bare::run(code!(
        "lea rbx, [rip + 2f]",
        "mov rax, rsp",
        "push 0x23",
        "push rax",
        "push 0x3002",
        "push 0x2B",
        "push rbx",
        "iretq",
        "2:",
        "ud2"
    )));
    faulted("iret with IOPL", &flags, FaultKind::InvalidInstruction)?;
    same!(flags.context.rflags & 0x3200, 0x200);
    for target in [
        1_u64 << 47,
        0x8000_0000_0000_0000,
        0xFFFF_8000_0000_0000,
        u64::MAX,
    ] {
        let mut values = bare::pattern();
        values[reg::RBX] = target;
        let iret = code!(
            "mov rax, rsp",
            "push 0x23",
            "push rax",
            "push 0x202",
            "push 0x2B",
            "push rbx",
            "iretq"
        );
        let info = must!(must!(Bare::new(iret, &values)).run());
        check!(
            info.state == ProcessState::Faulted as u32,
            "{target:#x}: {}",
            ending(&info)
        );
    }
    Ok(())
}

fn system_calls_of_32_bit_code_do_no_harm(_: &'static World) -> Verdict {
    if !must!(bare::far_returns_work()) {
        skip!("{NO_FAR_RETURNS}");
    }
    // A far return to the 32-bit code segment, whose code goes on at `2:`.
    let cases: [(&str, &[u8]); 4] = [
        (
            "syscall",
            code!(
                "lea rax, [rip + 2f]",
                "push 0x1B",
                "push rax",
                "retfq",
                "2:",
                "mov eax, 0",
                "syscall",
                "ud2"
            ),
        ),
        (
            "sysenter",
            code!(
                "lea rax, [rip + 2f]",
                "push 0x1B",
                "push rax",
                "retfq",
                "2:",
                "sysenter",
                "ud2"
            ),
        ),
        (
            "int 0x80",
            code!(
                "lea rax, [rip + 2f]",
                "push 0x1B",
                "push rax",
                "retfq",
                "2:",
                "mov eax, 0",
                "int 0x80",
                "ud2"
            ),
        ),
        (
            "ud2",
            code!(
                "lea rax, [rip + 2f]",
                "push 0x1B",
                "push rax",
                "retfq",
                "2:",
                "ud2"
            ),
        ),
    ];
    for (name, code) in cases {
        let info = must!(bare::run(code));
        check!(
            info.state == ProcessState::Faulted as u32,
            "{name}: {}",
            ending(&info)
        );
        same!(info.context.cs, 0x1B);
    }
    Ok(())
}

fn single_step_over_syscall_stops_in_user_code(_: &'static World) -> Verdict {
    // The trap comes after the instruction behind `popfq`, here `syscall`: back in user code.
    let info = must!(bare::run(code!(
        "pushfq",
        "or dword ptr [rsp], 0x100",
        "xor eax, eax",
        "popfq",
        "syscall",
        "nop",
        "nop",
        "ud2",
    )));
    faulted("syscall under the trap flag", &info, FaultKind::Debug)?;
    check!(
        info.context.rip > START && info.context.rip < START + 24,
        "the trap came at {:#x}, not behind the syscall",
        info.context.rip
    );
    let info = must!(bare::run(code!(
        "pushfq",
        "or dword ptr [rsp], 0x100",
        "xor eax, eax",
        "popfq",
        "int 0x80",
        "nop",
        "nop",
        "ud2",
    )));
    faulted("int 0x80 under the trap flag", &info, FaultKind::Debug)?;
    check!(
        info.context.rip > START && info.context.rip < START + 24,
        "the trap came at {:#x}, not behind the int",
        info.context.rip
    );
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
        values[reg::RDI] = 77;
        // Null twice, by both ways, then the exit with code 77.
        let info = must!(
            must!(Bare::new(
                code!(
                    "syscall",
                    "xor eax, eax",
                    "syscall",
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
