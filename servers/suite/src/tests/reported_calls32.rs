//! System calls of 32-bit code that are reported, by each of its ways into the kernel: `int 0x80`, and what the landing page has for this CPU, which is
//! `sysenter` or `syscall`. What a supervisor sees are the program's own registers, as they are when the call returns.

use abi::compat::{BLOCK_FORM, block};
use abi::ipc_area::IpcHeader;
use abi::report::{Answer, ReportKind};
use abi::{Call, Error, FaultKind, UserContext};
use core::mem::offset_of;
use rt::Endpoint;
use rt::process::Mode;
use rt::report::CallPoint;

use super::faults::faulted;
use super::reported_calls::{UNKNOWN, let_exit, let_pass, next};
use super::reports::listener;
use super::suspended_registers::own;
use super::tests;
use crate::bare::{self, Bare, CODE, PREAMBLE32_BYTES};
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code32, must, same};

tests! {
    calls_of_32_bit_code_are_reported_by_each_entry: 40,
    reported_calls_in_the_block_form_show_their_arguments: 40,
    answers_leave_32_bit_code_no_more_than_it_can_have: 40,
    foreign_calls_of_32_bit_code_are_reported_by_each_entry: 40,
}

const START: u64 = CODE + PREAMBLE32_BYTES;
/// Vectors in a context: of `int 0x80`, of `syscall` and of `sysenter` in 32-bit code.
const VECTORS: [u64; 3] = [0x80, 257, 258];

/// One of the ways in, with `eax` the number, and then the program's end by its own exit.
struct Entry {
    code: &'static [u8],
    /// How far below the stack's top the call is made.
    pushed: u64,
}

/// `int 0x80`, and the landing page's, whose address is in `edi`.
fn entries() -> [Entry; 2] {
    macro_rules! then_exit {
        ($line:expr) => {
            code32!(
                $line,
                "xor ecx, ecx",
                "mov ebx, 77",
                "mov eax, 50",
                "int 0x80",
                "ud2"
            )
        };
    }
    [
        Entry {
            code: then_exit!("int 0x80"),
            pushed: 0,
        },
        Entry {
            code: then_exit!("call edi"),
            pushed: 4,
        },
    ]
}

/// A 32-bit program that makes the call `number` first and reports to a new endpoint. Also what its registers are at first, and where its IPC area is. Not
/// started.
fn reporting(
    kind: ReportKind,
    code: &[u8],
    number: u64,
) -> rt::Result<(Bare, Endpoint, UserContext, u64)> {
    let (endpoint, badged) = listener()?;
    let bare = if kind == ReportKind::ForeignCalls {
        Bare::reporting(Mode::Compat, kind, &badged, code)?
    } else {
        Bare::new32(code, &bare::pattern32())?
    };
    let fresh = bare.thread.registers()?;
    let context = UserContext {
        rip: START,
        rax: number,
        rbx: 0xB0B0_0001,
        rcx: 0xC0C0_0002,
        rdx: 0xD0D0_0003,
        rsi: 0xE0E0_0004,
        rdi: bare.process.info()?.vsyscall,
        rbp: 0xF0F0_0005,
        rsp: fresh.rsp - 64,
        ..fresh
    };
    // SAFETY: the thread is of another process.
    unsafe { bare.thread.set_registers(&context) }?;
    if kind != ReportKind::ForeignCalls {
        bare.thread.report_to(kind, Some(&badged))?;
    }
    Ok((bare, endpoint, context, fresh.rsi))
}

/// Says so unless a report shows the registers that the program had before its call by an entry.
fn shows(seen: &UserContext, entry: &Entry, had: &UserContext) -> Verdict {
    check!(VECTORS.contains(&seen.vector), "vector {}", seen.vector);
    // `int 0x80` returns behind itself, the landing page's routine into that page.
    let returns_behind = seen.rip == START + 2;
    check!(returns_behind == (entry.pushed == 0), "at {:#x}", seen.rip);
    let wanted = UserContext {
        rip: seen.rip,
        rflags: seen.rflags,
        rsp: had.rsp - entry.pushed,
        ..*had
    };
    same!(own(seen), own(&wanted));
    Ok(())
}

fn calls_of_32_bit_code_are_reported_by_each_entry(_: &'static World) -> Verdict {
    for entry in entries() {
        let made = reporting(ReportKind::Calls, entry.code, UNKNOWN);
        let (bare, endpoint, had, _) = must!(made);
        must!(bare.thread.start());
        let (number, before, after) = let_pass(&endpoint)?;
        same!((number, before.call_number), (UNKNOWN, UNKNOWN));
        shows(&before, &entry, &had)?;
        let wanted = UserContext {
            rax: Error::UnknownCall as u64,
            ..had
        };
        shows(&after, &entry, &wanted)?;
        let_exit("a program of 32-bit code", &endpoint, &bare)?;
        // Another call instead, with other arguments.
        let made = reporting(ReportKind::Calls, entry.code, UNKNOWN);
        let (bare, endpoint, had, _) = must!(made);
        must!(bare.thread.start());
        let (call, reply) = next(&endpoint, CallPoint::Begins)?;
        let changed = UserContext {
            rax: Call::HandleClose as u64,
            rbx: 0x55AA,
            rcx: 0,
            ..call.registers
        };
        must!(reply.answer_with_registers(Answer::Resume, &changed));
        let (call, reply) = next(&endpoint, CallPoint::Ends)?;
        same!(call.number, UNKNOWN);
        let wanted = UserContext {
            rax: Error::BadHandle as u64,
            rbx: 0x55AA,
            rcx: 0,
            ..had
        };
        shows(&call.registers, &entry, &wanted)?;
        must!(reply.answer_report(Answer::Resume));
        let_exit("with another call", &endpoint, &bare)?;
    }
    Ok(())
}

fn reported_calls_in_the_block_form_show_their_arguments(_: &'static World) -> Verdict {
    const WORDS: [u64; 4] = [0x1_0000_0011, 0x2_0000_0022, 0x3_0000_0033, 0x4_0000_0044];
    let form = u64::from(BLOCK_FORM);
    for entry in entries() {
        let number = Call::HandleClose as u64 | form;
        let (bare, endpoint, had, area) = must!(reporting(ReportKind::Calls, entry.code, number));
        let places = [block::RDI, block::RSI, block::RDX, block::R10];
        for (place, word) in places.into_iter().zip(WORDS) {
            let at = area + (offset_of!(IpcHeader, registers) + 8 * place) as u64;
            // SAFETY: the memory is another process's.
            must!(unsafe { bare.process.write_memory(at, &word.to_le_bytes()) });
        }
        must!(bare.thread.start());
        let (call, reply) = next(&endpoint, CallPoint::Begins)?;
        same!((call.number, call.arguments), (number, WORDS));
        shows(&call.registers, &entry, &had)?;
        must!(reply.answer_report(Answer::Resume));
        let (call, reply) = next(&endpoint, CallPoint::Ends)?;
        same!(call.number, number);
        // Status, and what are the block's words now.
        let [rdi, rsi, rdx, _] = WORDS;
        same!(call.arguments, [Error::BadHandle as u64, rdi, rsi, rdx]);
        let wanted = UserContext {
            rax: Error::BadHandle as u64,
            ..had
        };
        shows(&call.registers, &entry, &wanted)?;
        must!(reply.answer_report(Answer::Resume));
        let_exit("with a block", &endpoint, &bare)?;
    }
    Ok(())
}

fn answers_leave_32_bit_code_no_more_than_it_can_have(_: &'static World) -> Verdict {
    let code = code32!("int 0x80", "ud2");
    for kind in [ReportKind::Calls, ReportKind::ForeignCalls] {
        let (bare, endpoint, ..) = must!(reporting(kind, code, UNKNOWN));
        must!(bare.thread.start());
        let point = if kind == ReportKind::Calls {
            CallPoint::Begins
        } else {
            CallPoint::Foreign
        };
        let (call, reply) = next(&endpoint, point)?;
        let set = UserContext {
            rax: 0x1_0000_0005,
            rbx: u64::MAX,
            r8: 7,
            r15: u64::MAX,
            ..call.registers
        };
        must!(reply.answer_with_registers(Answer::Result, &set));
        let info = must!(bare.run_to_end());
        faulted("behind its call", &info, FaultKind::InvalidInstruction)?;
        let context = info.context;
        same!((context.rip, context.rax), (START + 2, 5));
        same!((context.rbx, context.r8, context.r15), (0xFFFF_FFFF, 0, 0));
    }
    Ok(())
}

fn foreign_calls_of_32_bit_code_are_reported_by_each_entry(_: &'static World) -> Verdict {
    /// The other system's exit is this one's number.
    const EXIT: u64 = 50;
    // The second would be the block form here.
    for number in [4, 4 | u64::from(BLOCK_FORM), 0xFFFF_FFFF] {
        for entry in entries() {
            let kind = ReportKind::ForeignCalls;
            let (bare, endpoint, had, _) = must!(reporting(kind, entry.code, number));
            must!(bare.thread.start());
            let (call, reply) = next(&endpoint, CallPoint::Foreign)?;
            same!((call.number, call.registers.call_number), (number, number));
            shows(&call.registers, &entry, &had)?;
            let UserContext {
                rdi, rsi, rdx, r10, ..
            } = had;
            same!(call.arguments, [rdi, rsi, rdx, r10]);
            must!(reply.give_result(0x1234));
            let (call, reply) = next(&endpoint, CallPoint::Foreign)?;
            same!((call.number, call.registers.rbx), (EXIT, 77));
            must!(bare.process.kill(call.registers.rbx));
            drop(reply);
            same!(must!(bare.run_to_end()).code, 77);
        }
    }
    Ok(())
}
