//! Faults that are reported: what a handler is told, what it may do, and what becomes of the thread if nobody answers.

use abi::info::{ProcessState, Quota, ThreadState};
use abi::report::{Answer, NO_MEMORY, NO_PAGER, PAGE_REFUSED, ReportKind};
use abi::{Error, FaultKind, Rights, UserContext};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rt::report::Fault;
use rt::{Badge, Endpoint, Memory, Protection, Received, Reply};

use super::contexts::{START, full, prepared};
use super::faults::faulted;
use super::ipc::receive;
use super::probe::until;
use super::tests;
use crate::bare::{self, Bare, reg};
use crate::verdict::{Verdict, Why};
use crate::world::{World, ending};
use crate::{check, code, code32, fail, must, same};

tests! {
    each_kind_of_fault_is_reported_and_resumed: 60,
    a_report_may_be_answered_by_the_threads_end: 40,
    page_faults_are_reported_and_mended: 40,
    want_of_memory_is_told_to_the_handler_and_not_to_the_log: 60,
    a_reporting_thread_is_stepped_instruction_by_instruction: 40,
    faults_of_32_bit_code_are_reported: 40,
}

pub(super) const BADGE: u64 = 0xFA01_7BAD_6E00;
const EXIT_CODE: u64 = 77;
/// A single step, in DR6.
const STEP: u64 = 1 << 14;
const TRAP: u64 = 1 << 8;

/// Ends the program with [`EXIT_CODE`].
macro_rules! then_exit {
    ($($line:expr),+ $(,)?) => {
        code!($($line,)+ "mov edi, 77", "mov eax, 50", "syscall", "ud2")
    };
}

pub(super) use then_exit;

/// An endpoint for reports, and the handle whose badge they carry.
pub(super) fn listener() -> rt::Result<(Endpoint, Endpoint)> {
    let endpoint = Endpoint::create()?;
    let badged = endpoint.mint(Badge(BADGE), Rights::SEND)?;
    Ok((endpoint, badged))
}

/// A program of machine code whose faults are reported to a new endpoint. Not started.
pub(super) fn reporting(
    code: &[u8],
    change: impl FnOnce(&mut UserContext),
) -> rt::Result<(Bare, Endpoint)> {
    let (endpoint, badged) = listener()?;
    let bare = prepared(code, change)?;
    bare.process.report_to(ReportKind::Faults, Some(&badged))?;
    Ok((bare, endpoint))
}

/// Every register different, but for the selectors.
pub(super) fn all_but_selectors(context: &mut UserContext) {
    *context = UserContext {
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
        ..full(context)
    };
}

/// The next fault, and how to answer it.
pub(super) fn fault(endpoint: &Endpoint) -> Result<(Fault, Reply), Why> {
    let message = receive(endpoint, 0)?;
    let Some(fault) = Fault::of(&message) else {
        fail!("that is no fault: {message:x?}");
    };
    let Received {
        bytes,
        handles,
        reply,
        ..
    } = message;
    check!(bytes.is_empty() && handles.is_empty());
    same!(fault.badge.0, BADGE);
    match reply {
        Some(reply) => Ok((fault, reply)),
        None => fail!("a fault came without a reply"),
    }
}

/// Whether a program ended by itself as it should.
pub(super) fn exited(what: &str, bare: &Bare) -> Verdict {
    let info = must!(bare.run_to_end());
    check!(
        (info.state, info.code) == (ProcessState::Exited as u32, EXIT_CODE),
        "{what}: {}",
        ending(&info)
    );
    Ok(())
}

/// Name, code, the fault, where it is reported, where it goes on, its error code.
type Case = (&'static str, &'static [u8], FaultKind, u64, u64, u64);

fn cases() -> [Case; 11] {
    [
        (
            "ud2",
            then_exit!("ud2"),
            FaultKind::InvalidInstruction,
            0,
            2,
            0,
        ),
        ("int3", then_exit!("int3"), FaultKind::Breakpoint, 1, 1, 0),
        ("div", then_exit!("div rcx"), FaultKind::Divide, 0, 3, 0),
        (
            "access",
            then_exit!("mov rax, [rax]"),
            FaultKind::Protection,
            0,
            3,
            0,
        ),
        (
            "int 0",
            then_exit!("int 0x0"),
            FaultKind::Protection,
            0,
            2,
            2,
        ),
        ("hlt", then_exit!("hlt"), FaultKind::Protection, 0, 1, 0),
        (
            "page",
            then_exit!("mov rax, [rbx]"),
            FaultKind::Page,
            0,
            3,
            4,
        ),
        (
            "write",
            then_exit!("mov [rbx], rax"),
            FaultKind::Page,
            0,
            3,
            6,
        ),
        (
            "x87",
            then_exit!(
                "mov word ptr [rsp], 0x37B",
                "fldcw [rsp]",
                "fld1",
                "fldz",
                "fdivp st(1), st",
                "fwait"
            ),
            FaultKind::X87,
            15,
            16,
            0,
        ),
        (
            "simd",
            then_exit!(
                "mov dword ptr [rsp], 0x1D80",
                "ldmxcsr [rsp]",
                "mov eax, 1",
                "cvtsi2sd xmm0, eax",
                "xorpd xmm1, xmm1",
                "divsd xmm0, xmm1"
            ),
            FaultKind::Simd,
            24,
            28,
            0,
        ),
        (
            "alignment",
            then_exit!(
                "pushfq",
                "or dword ptr [rsp], 0x40000",
                "popfq",
                "mov eax, [rsp + 1]"
            ),
            FaultKind::Alignment,
            9,
            13,
            0,
        ),
    ]
}

fn each_kind_of_fault_is_reported_and_resumed(_: &'static World) -> Verdict {
    for (name, code, kind, at, goes_on, error_code) in cases() {
        let address = 0x5000_0123_4000;
        let (bare, endpoint) = must!(reporting(code, |context| {
            context.rax = 1 << 62;
            context.rbx = address;
        }));
        must!(bare.thread.start());
        // Some emulators and CPUs raise no SIMD fault, or check no alignment.
        if matches!(kind, FaultKind::Simd | FaultKind::Alignment) {
            let mut ended = false;
            until(name, || {
                ended = bare.process.info()?.state != ProcessState::Alive as u32;
                Ok(ended || bare.thread.info()?.state == ThreadState::Sending as u32)
            })?;
            if ended {
                continue;
            }
        }
        let (fault, reply) = fault(&endpoint)?;
        let registers = must!(reply.registers());
        check!(fault.kind() == kind, "{name}: {fault:x?}");
        check!(fault.rip == START + at, "{name}: {fault:x?}");
        check!(fault.error_code == error_code, "{name}: {fault:x?}");
        same!(fault.thread, must!(bare.thread.info()).thread);
        same!((fault.rip, fault.rsp), (registers.rip, registers.rsp));
        same!(
            (fault.vector, fault.error_code),
            (registers.vector, registers.error_code)
        );
        if kind == FaultKind::Page {
            same!(fault.address, address);
        }
        must!(reply.resume_at(START + goes_on));
        exited(name, &bare)?;
    }
    Ok(())
}

fn a_report_may_be_answered_by_the_threads_end(_: &'static World) -> Verdict {
    let (bare, endpoint) = must!(reporting(code!("ud2"), |_| {}));
    must!(bare.thread.start());
    let (told, reply) = fault(&endpoint)?;
    must!(reply.answer_report(Answer::End));
    let info = must!(bare.run_to_end());
    faulted("after that answer", &info, FaultKind::InvalidInstruction)?;
    same!((info.context.rip, info.context.rsp), (told.rip, told.rsp));
    Ok(())
}

fn page_faults_are_reported_and_mended(_: &'static World) -> Verdict {
    let address = 0x5000_0123_4008;
    let code = then_exit!(
        "mov rax, [rbx]",
        "cmp rax, rcx",
        "je 2f",
        "ud2",
        "2:",
        "nop"
    );
    let (bare, endpoint) = must!(reporting(code, |context| {
        context.rbx = address;
        context.rcx = 0x1234_5678_9ABC;
    }));
    must!(bare.thread.start());
    let (told, reply) = fault(&endpoint)?;
    same!(
        (told.kind() as u32, told.address),
        (FaultKind::Page as u32, address)
    );
    let memory = must!(Memory::create(4096));
    must!(memory.write(8, &0x1234_5678_9ABC_u64.to_le_bytes()));
    must!(
        bare.process
            .map(&memory, address & !4095, 0, 4096, Protection::READ)
    );
    must!(reply.answer_report(Answer::Resume));
    exited("mended", &bare)
}

/// What the log has from a position on, and the position behind it.
fn log_from(world: &World, mut position: u64) -> rt::Result<(String, u64)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let (read, next) = world.log.read(position, &mut piece)?;
        position = next;
        if read == 0 {
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), position));
        }
        bytes.extend(&piece[..read]);
    }
}

fn want_of_memory_is_told_to_the_handler_and_not_to_the_log(world: &'static World) -> Verdict {
    const PLACE: u64 = 0x5000_0000_0000;
    const PAGES: u64 = 200;
    const ROUNDS: usize = 300;
    let quota = Quota {
        pages: 100,
        handles: 16,
        threads: 2,
    };
    let code = then_exit!(
        "2:",
        "mov qword ptr [rbx], 1",
        "add rbx, 4096",
        "loop 2b",
        "nop",
    );
    let mut values = bare::pattern();
    values[reg::RBX] = PLACE;
    values[reg::RCX] = PAGES;
    let (endpoint, badged) = must!(listener());
    let greedy = must!(Bare::limited(code, &values, &quota, &badged));
    must!(
        greedy
            .process
            .map_new(PLACE, PAGES * 4096, Protection::READ_WRITE, &[])
    );
    let number = must!(greedy.process.info()).id;
    let speaks = format!("process {number}");
    let (_, begin) = must!(log_from(world, 0));
    must!(greedy.thread.start());
    let (first, mut reply) = fault(&endpoint)?;
    same!(first.kind() as u32, FaultKind::Page as u32);
    for _ in 0..ROUNDS {
        must!(reply.answer_report(Answer::Resume));
        let told;
        (told, reply) = fault(&endpoint)?;
        same!(
            told.error_code & (NO_MEMORY | NO_PAGER | PAGE_REFUSED),
            NO_MEMORY
        );
        same!(told.address, first.address);
    }
    let (text, begin) = must!(log_from(world, begin));
    check!(!text.contains(&speaks), "{text}");
    // With more of a quota it comes to the end.
    must!(greedy.process.set_quota(&Quota {
        pages: 400,
        ..quota
    }));
    must!(reply.answer_report(Answer::Resume));
    exited("with more memory", &greedy)?;
    // Who ends by it is told of, once.
    let ended = must!(Bare::limited(code, &values, &quota, &badged));
    must!(
        ended
            .process
            .map_new(PLACE, PAGES * 4096, Protection::READ_WRITE, &[])
    );
    let number = must!(ended.process.info()).id;
    must!(ended.thread.start());
    let (_, reply) = fault(&endpoint)?;
    must!(reply.answer_report(Answer::End));
    let info = must!(ended.run_to_end());
    faulted("without memory", &info, FaultKind::Page)?;
    same!(info.context.error_code & NO_MEMORY, NO_MEMORY);
    let (text, _) = must!(log_from(world, begin));
    let lines = text
        .lines()
        .filter(|line| line.contains(&format!("process {number} ")));
    let lines: Vec<_> = lines.collect();
    check!(
        lines.len() == 1 && lines[0].contains("for which there is no memory"),
        "{lines:?}"
    );
    Ok(())
}

fn a_reporting_thread_is_stepped_instruction_by_instruction(_: &'static World) -> Verdict {
    // Lengths of the instructions: 3, 1, 1, 2, then the exit.
    let code = then_exit!(
        "int3",
        "mov rax, rbx",
        "push rax",
        "pop rcx",
        "xor eax, eax"
    );
    let (bare, endpoint) = must!(reporting(code, |_| {}));
    must!(bare.thread.start());
    let (told, reply) = fault(&endpoint)?;
    same!((told.vector, told.rip), (3, START + 1));
    must!(reply.answer_report(Answer::Step));
    for at in [4, 5, 6] {
        let (told, reply) = fault(&endpoint)?;
        same!((told.vector, told.rip, told.address), (1, START + at, STEP));
        // The trap flag is the handler's, not the program's.
        check!(must!(reply.registers()).rflags & TRAP == 0);
        must!(reply.answer_report(Answer::Step));
    }
    let (told, reply) = fault(&endpoint)?;
    same!((told.vector, told.rip), (1, START + 8));
    must!(reply.answer_report(Answer::Resume));
    exited("stepped", &bare)
}

fn faults_of_32_bit_code_are_reported(_: &'static World) -> Verdict {
    let code = code32!(
        "ud2",
        "xor ecx, ecx",
        "mov ebx, 77",
        "mov eax, 50",
        "int 0x80",
        "ud2"
    );
    let start = bare::CODE + bare::PREAMBLE32_BYTES;
    let bare = must!(Bare::new32(code, &bare::pattern32()));
    let (endpoint, badged) = must!(listener());
    must!(bare.process.report_to(ReportKind::Faults, Some(&badged)));
    must!(bare.thread.start());
    let (told, reply) = fault(&endpoint)?;
    same!((told.vector, told.rip), (6, start));
    same!(
        must!(reply.registers()).rbx,
        u64::from(bare::pattern32()[reg::RBX])
    );
    // Beyond the end of 32-bit code.
    let seen = must!(reply.registers());
    // SAFETY: the thread is of another process.
    let refused = unsafe {
        reply.set_registers(&UserContext {
            rip: 1 << 32,
            ..seen
        })
    };
    same!(refused.err(), Some(Error::BadArgument));
    must!(reply.resume_at(start + 2));
    exited("32-bit code", &bare)
}
