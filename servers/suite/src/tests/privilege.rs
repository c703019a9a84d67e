//! What user code may not do, however it asks: privileged instructions, gates, ports, segments, other entries.

use abi::info::{ProcessInfo, ProcessState};
use abi::{Call, FaultKind};
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use rt::{thread, time};

use super::faults::faulted;
use super::tests;
use crate::bare::{self, Bare, reg};
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, must, same, skip};

tests! {
    privileged_instructions_fault: 40,
    interrupt_vectors_of_the_kernel_are_out_of_reach: 40,
    io_ports_fault_unless_granted: 40,
    io_ports_that_one_thread_enabled_are_all_threads: 40,
    other_system_call_instructions_do_no_harm: 40,
    iret_of_user_code_goes_nowhere_else: 40,
    system_calls_of_32_bit_code_do_no_harm: 40,
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
    for (vector, code) in vectors!(0 1 2 5 8 13 14 18 20 31 32 39 127 129 251 252 253 255) {
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

/// Threads that run already, each on a CPU of its own, use ports that the first thread enables, and then more of them: the map in
/// each CPU's TSS must follow. A port that is not there ends the test by a fault.
fn io_ports_that_one_thread_enabled_are_all_threads(world: &'static World) -> Verdict {
    // Ports that only diagnostics cards listen to.
    const FIRST: u16 = 0x80;
    const SECOND: u16 = 0xED;
    static ENABLED: AtomicU32 = AtomicU32::new(0);
    static USED: AtomicU32 = AtomicU32::new(0);
    fn use_when_enabled(step: u32, port: u16) {
        while ENABLED.load(Ordering::Acquire) < step {
            core::hint::spin_loop();
        }
        // SAFETY: reading these ports has no effect; if the kernel forbids it, that is the fault that ends the test.
        unsafe {
            core::arch::asm!("in al, dx", in("dx") port, out("al") _, options(nomem, nostack, preserves_flags));
        }
        USED.fetch_add(1, Ordering::AcqRel);
    }
    let mut threads = Vec::new();
    for cpu in 0..world.cpus {
        threads.push(must!(thread::Builder::new().cpu(cpu).spawn(|| {
            use_when_enabled(1, FIRST);
            use_when_enabled(2, SECOND);
        })));
    }
    for (step, port) in [(1, FIRST), (2, SECOND)] {
        let ports = must!(rt::IoPorts::create(&world.system, port, 1));
        must!(ports.enable());
        ENABLED.store(step, Ordering::Release);
        while USED.load(Ordering::Acquire) < step * world.cpus {
            must!(time::sleep(Duration::from_millis(1)));
        }
    }
    for thread in threads {
        must!(thread.join(time::after(Duration::from_secs(10))));
    }
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
        "call fword ptr [rsp + 4]", // four bytes of offset, then the selector
        "ud2"
    )));
    faulted("far call into the kernel", &call, FaultKind::Protection)?;
    same!(call.context.error_code, 0x8);
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
