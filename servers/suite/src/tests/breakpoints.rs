//! Breakpoints in a thread's debug registers stop that thread where it is told, and nobody else: least of all the kernel.

use abi::layout::USER_END;
use abi::{Call, CpuSet, DebugRegisters, Error, FaultKind, Watch, Width};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use rt::{Priority, Rights, thread};

use super::contexts::{START, prepared};
use super::faults::faulted;
use super::tests;
use crate::bare::{self, Bare, STACK_BOTTOM, STACK_TOP};
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, must, same};

tests! {
    breakpoints_stop_before_the_instruction: 40,
    watched_memory_stops_after_the_access: 40,
    watched_memory_that_the_kernel_touches_stops_behind_the_call: 40,
    watched_operand_of_mov_ss_does_not_stop_the_kernel: 40,
    breakpoints_come_and_go_with_their_thread: 40,
    breakpoints_on_the_kernel_are_refused: 40,
}

/// What `debug_status` says for a hit of breakpoint `index`.
const fn hit(index: usize) -> u64 {
    1 << index
}

/// Debug registers with one breakpoint.
fn one(index: usize, address: u64, watch: Watch) -> DebugRegisters {
    let mut registers = DebugRegisters {
        control: DebugRegisters::enable(index, watch),
        ..DebugRegisters::default()
    };
    registers.address[index] = address;
    registers
}

/// A word on the stack of a process of machine code.
const WORD: u64 = STACK_TOP - 128;

fn breakpoints_stop_before_the_instruction(_: &'static World) -> Verdict {
    for index in 0..4 {
        let bare = must!(prepared(
            code!("nop", "nop", "mov eax, 1", "ud2"),
            |context| context.rax = 0
        ));
        let registers = one(index, START + 2, Watch::Execute);
        must!(bare.thread.set_debug_registers(&registers));
        same!(must!(bare.thread.debug_registers()), registers);
        let info = must!(bare.run());
        faulted("breakpoint", &info, FaultKind::Debug)?;
        same!(
            (
                info.context.rip,
                info.context.rax,
                info.context.debug_status
            ),
            (START + 2, 0, hit(index))
        );
    }
    // With RF in its context a thread goes on over a breakpoint on its first instruction.
    let bare = must!(prepared(code!("nop", "ud2"), |context| {
        context.rflags |= 1 << 16;
    }));
    must!(
        bare.thread
            .set_debug_registers(&one(0, START, Watch::Execute))
    );
    faulted("RF", &must!(bare.run()), FaultKind::InvalidInstruction)
}

fn watched_memory_stops_after_the_access(_: &'static World) -> Verdict {
    let write = code!("mov [rdi], rax", "ud2");
    let read = code!("mov rax, [rdi]", "ud2");
    let by_byte = code!("mov [rdi + 7], al", "ud2");
    for (name, code, watch, stops) in [
        ("a write", write, Watch::Write(Width::Eight), true),
        ("a write", write, Watch::Access(Width::Eight), true),
        ("a write", write, Watch::Write(Width::One), true),
        ("a read", read, Watch::Access(Width::Four), true),
        ("a read", read, Watch::Write(Width::Eight), false),
        ("a byte", by_byte, Watch::Write(Width::Eight), true),
        ("a byte beside", by_byte, Watch::Write(Width::Four), false),
    ] {
        let bare = must!(prepared(code, |context| context.rdi = WORD));
        must!(bare.thread.set_debug_registers(&one(3, WORD, watch)));
        let info = must!(bare.run());
        let what = format!("{name} with {watch:?}");
        if stops {
            faulted(&what, &info, FaultKind::Debug)?;
            same!(info.context.debug_status, hit(3));
        } else {
            faulted(&what, &info, FaultKind::InvalidInstruction)?;
        }
        same!(info.context.rip, START + code.len() as u64 - 2);
    }
    Ok(())
}

fn watched_memory_that_the_kernel_touches_stops_behind_the_call(_: &'static World) -> Verdict {
    const { assert!(Call::HandleQuery as u64 == 18) };
    // The kernel writes what a handle names; `ud2` would follow.
    let query = code!("syscall", "nop", "ud2");
    let by_interrupt = code!("int 0x80", "nop", "ud2");
    for (code, watch) in [
        (query, Watch::Write(Width::Eight)),
        (query, Watch::Access(Width::One)),
        (by_interrupt, Watch::Write(Width::Four)),
    ] {
        let bare = must!(Bare::new(code, &bare::pattern()));
        let handle = must!(bare.process.grant(&bare.thread, Rights::ALL));
        let mut context = must!(bare.thread.registers());
        context.rip = START;
        context.rax = Call::HandleQuery as u64;
        (context.rdi, context.rsi) = (handle.0, WORD);
        // SAFETY: the thread is of another process.
        must!(unsafe { bare.thread.set_registers(&context) });
        must!(bare.thread.set_debug_registers(&one(1, WORD, watch)));
        let info = must!(bare.run());
        faulted("a write by the kernel", &info, FaultKind::Debug)?;
        // The call was made, the trap came behind it.
        same!(
            (
                info.context.rip,
                info.context.rax,
                info.context.debug_status
            ),
            (START + 2, 0, hit(1))
        );
    }
    // The kernel reads what is to be a process's name.
    let bare = must!(prepared(code!("syscall", "nop", "ud2"), |context| {
        context.rax = Call::ProcessCreate as u64;
        (context.rdi, context.rsi, context.rdx) = (START, 2, 0);
    }));
    must!(
        bare.thread
            .set_debug_registers(&one(0, START, Watch::Access(Width::Two)))
    );
    let info = must!(bare.run());
    faulted("a read by the kernel", &info, FaultKind::Debug)?;
    same!(
        (info.context.rip, info.context.debug_status),
        (START + 2, hit(0))
    );
    // Where the kernel touches other memory than the watched, nothing stops.
    let bare = must!(prepared(code!("syscall", "nop", "ud2"), |context| {
        context.rax = Call::ProcessCreate as u64;
        (context.rdi, context.rsi, context.rdx) = (START, 2, 0);
    }));
    must!(
        bare.thread
            .set_debug_registers(&one(0, WORD, Watch::Access(Width::Eight)))
    );
    faulted("nothing", &must!(bare.run()), FaultKind::InvalidInstruction)
}

fn watched_operand_of_mov_ss_does_not_stop_the_kernel(_: &'static World) -> Verdict {
    // The trap is held back over one instruction, and that one enters the kernel: the trap comes at the kernel's first instruction.
    let cases: [(&str, &[u8]); 7] = [
        ("syscall", code!("mov ss, [rdi]", "syscall", "nop", "ud2")),
        ("int 0x80", code!("mov ss, [rdi]", "int 0x80", "nop", "ud2")),
        ("int3", code!("mov ss, [rdi]", "int3", "nop", "ud2")),
        ("ud2", code!("mov ss, [rdi]", "ud2", "nop", "ud2")),
        ("hlt", code!("mov ss, [rdi]", "hlt", "nop", "ud2")),
        ("int1", code!("mov ss, [rdi]", ".byte 0xF1", "nop", "ud2")),
        (
            "a page fault",
            code!("mov ss, [rdi]", "mov [rsi], rax", "nop", "ud2"),
        ),
    ];
    for (name, code) in cases {
        for trap_flag in [0, 1 << 8] {
            for narrow in [false, true] {
                let bare = must!(Bare::new(code, &bare::pattern()));
                let mut context = must!(bare.thread.registers());
                context.rip = START;
                context.rsp = WORD;
                context.rax = Call::Null as u64;
                (context.rdi, context.rsi) = (WORD, STACK_BOTTOM + 8);
                context.rflags |= trap_flag;
                // The word that SS is loaded from.
                must!(put_word(&bare, 0x23));
                if narrow {
                    (context.cs, context.ds, context.es) = (0x1B, 0x23, 0x23);
                }
                // SAFETY: the thread is of another process.
                must!(unsafe { bare.thread.set_registers(&context) });
                must!(
                    bare.thread
                        .set_debug_registers(&one(2, WORD, Watch::Access(Width::Two)))
                );
                let info = must!(bare.run());
                // Which of the two faults is told first, and behind which instruction, is the CPU's affair. That the program ended
                // by one of its own, and not the machine, is ours.
                check!(
                    info.state == abi::info::ProcessState::Faulted as u32
                        && info.context.rip >= START
                        && info.context.rip < START + code.len() as u64,
                    "{name}: {}",
                    ending(&info)
                );
                if name == "syscall" || name == "int 0x80" {
                    // Intel's CPUs have no `syscall` in 32-bit code. The Bochs emulator forgets a trap that is held back when an `int`
                    // comes, so the program goes on to its `ud2`.
                    let (forgotten, end) = (name == "int 0x80", START + code.len() as u64);
                    let no_such = (narrow || forgotten && info.context.rip == end - 2)
                        && FaultKind::from_vector(info.context.vector)
                            == FaultKind::InvalidInstruction;
                    check!(
                        no_such || info.context.vector == 1,
                        "{name}: {}",
                        ending(&info)
                    );
                    check!(
                        no_such || info.context.debug_status & (hit(2) | trap_flag << 6) != 0,
                        "{name}: status {:#x}",
                        info.context.debug_status
                    );
                }
            }
        }
    }
    Ok(())
}

/// Writes a word where a process of machine code has [`WORD`].
fn put_word(bare: &Bare, word: u64) -> rt::Result<()> {
    bare.stack.write(WORD - STACK_BOTTOM, &word.to_le_bytes())
}

fn breakpoints_come_and_go_with_their_thread(world: &'static World) -> Verdict {
    // On each CPU, in turn: programs with a breakpoint each, which they come to after many turns; programs that run the same
    // addresses without one; and this process's own threads.
    // Each change of breakpoints costs an emulator all that it has translated, on every CPU.
    let turns = (120 / u64::from(world.cpus)).clamp(15, 60);
    let code = code!(
        "mov rbx, rcx",
        "2:",
        "mov eax, 1", // yield
        "syscall",
        "dec rbx",
        "jnz 2b",
        "nop",
        "nop",
        "nop",
        "nop",
        "ud2",
    );
    let end = START + code.len() as u64 - 2;
    const { assert!(Call::Yield as u64 == 1) };
    let stop = Arc::new(AtomicBool::new(false));
    let mut rivals = Vec::new();
    for cpu in 0..world.cpus {
        let stop = Arc::clone(&stop);
        rivals.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                thread::yield_now();
            }
        })));
    }
    let mut programs = Vec::new();
    for number in 0..world.cpus as usize * 5 {
        let bare = must!(prepared(code, |context| context.rcx = turns));
        must!(bare.thread.set_affinity(&CpuSet::only(number as u32 / 5)));
        must!(bare.thread.set_priority(Priority::NORMAL));
        let index = number % 5;
        if index < 4 {
            let address = end - 4 + index as u64;
            must!(
                bare.thread
                    .set_debug_registers(&one(index, address, Watch::Execute))
            );
        }
        must!(bare.thread.start());
        programs.push(bare);
    }
    let mut ends = Vec::new();
    for bare in &programs {
        ends.push(bare.run_to_end());
    }
    stop.store(true, Ordering::Relaxed);
    for rival in rivals {
        must!(rival.join(rt::time::after(core::time::Duration::from_secs(5))));
    }
    for (number, info) in ends.into_iter().enumerate() {
        let info = must!(info);
        let index = number % 5;
        same!(info.context.rbx, 0);
        if index < 4 {
            faulted("a breakpoint", &info, FaultKind::Debug)?;
            same!(
                (info.context.rip, info.context.debug_status),
                (end - 4 + index as u64, hit(index))
            );
        } else {
            faulted("no breakpoint", &info, FaultKind::InvalidInstruction)?;
        }
    }
    Ok(())
}

fn breakpoints_on_the_kernel_are_refused(_: &'static World) -> Verdict {
    let bare = must!(Bare::new(code!("ud2"), &bare::pattern()));
    let write = Watch::Write(Width::Eight);
    let with = |control: u64| DebugRegisters {
        control,
        ..DebugRegisters::default()
    };
    let mut unused = DebugRegisters::default();
    unused.address[3] = 0xFFFF_FFFF_8000_0000;
    for (name, registers) in [
        ("the end", one(0, USER_END, Watch::Execute)),
        ("over the end", one(1, USER_END - 4, write)),
        ("the hole", one(2, 1 << 47, write)),
        ("the kernel", one(3, 0xFFFF_FFFF_8000_0000, Watch::Execute)),
        (
            "the kernel's data",
            one(0, 0xFFFF_8000_0000_0000, Watch::Access(Width::Eight)),
        ),
        ("the last byte", one(0, u64::MAX, Watch::Write(Width::One))),
        ("not enabled, but the kernel's", unused),
        ("not aligned", one(1, 0x1004, write)),
        ("ports", with(1 | 0b10 << 16)),
        ("a wide instruction", with(1 | 0b0100 << 16)),
        ("general detect", with(1 << 13)),
        ("transactions", with(1 << 11)),
        ("reserved", with(1 << 12)),
        ("reserved", with(1 << 14)),
        ("reserved", with(1 << 15)),
        ("high bits", with(1 << 32)),
    ] {
        let result = bare.thread.set_debug_registers(&registers);
        check!(result == Err(Error::BadArgument), "{name}: {result:?}");
    }
    same!(
        must!(bare.thread.debug_registers()),
        DebugRegisters::default()
    );
    faulted("ud2", &must!(bare.run()), FaultKind::InvalidInstruction)
}
