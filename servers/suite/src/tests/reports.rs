//! Faults that are reported: what a handler is told, what it may do, and what becomes of the thread if nobody answers.

use abi::info::{ProcessState, ThreadState};
use abi::report::{Answer, ReportKind, label};
use abi::{Call, ContextPart, CpuSet, Deadline, Error, FaultKind, Handle, Rights, UserContext};
use core::sync::atomic::{AtomicU64, Ordering};
use rt::report::{Fault, resume_at};
use rt::sys::{self, IpcRegisters};
use rt::{AsHandle, Badge, Endpoint, Memory, Message, Protection, Received, Reply, thread};

use super::contexts::{START, full, prepared};
use super::faults::faulted;
use super::ipc::receive;
use super::probe::{soon, until};
use super::suspended_registers::own;
use super::tests;
use crate::bare::{self, Bare, reg};
use crate::kernel_calls::refused;
use crate::verdict::{Verdict, Why};
use crate::world::{World, ending};
use crate::{check, code, code32, fail, must, same};

tests! {
    each_kind_of_fault_is_reported_and_resumed: 60,
    a_report_may_be_answered_by_the_threads_end: 40,
    page_faults_are_reported_and_mended: 40,
    registers_of_a_thread_that_reports_are_had_and_set_by_the_reply: 40,
    many_reports_are_answered_at_once_with_all_registers_kept: 60,
    reports_keep_the_vector_registers_of_both_sides: 60,
    a_reporting_thread_is_stepped_instruction_by_instruction: 40,
    faults_of_32_bit_code_are_reported: 40,
    senseless_answers_to_reports_are_refused: 40,
    reports_are_set_up_with_good_arguments_only: 40,
    only_replies_to_reports_give_registers: 40,
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
fn all_but_selectors(context: &mut UserContext) {
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

fn registers_of_a_thread_that_reports_are_had_and_set_by_the_reply(
    world: &'static World,
) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let code = code!("ud2", "ud2", "ud2");
        let (bare, endpoint) = must!(reporting(code, all_but_selectors));
        let wanted = must!(bare.thread.registers());
        must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
        must!(bare.thread.start());
        // As a whole, by the reply and by the thread's handle.
        let (_, reply) = fault(&endpoint)?;
        let seen = must!(reply.registers());
        same!(own(&seen), own(&wanted));
        same!(must!(bare.thread.registers()), seen);
        let changed = UserContext {
            rip: START + 2,
            rax: 0x1111,
            r15: !seen.r15,
            fs_base: 0x3333_0000,
            gs_base: 0x4444_0000,
            ..seen
        };
        // SAFETY: the thread is of another process.
        must!(unsafe { reply.set_registers(&changed) });
        let image = must!(reply.fpu_state());
        must!(reply.set_fpu_state(&image));
        let debug = must!(reply.debug_registers());
        must!(reply.set_debug_registers(&debug));
        must!(reply.set_all_tls(&must!(reply.tls())));
        must!(reply.answer_report(Answer::Resume));
        // By the answer itself.
        let (_, reply) = fault(&endpoint)?;
        same!(own(&must!(reply.registers())), own(&changed));
        let again = UserContext {
            rip: START + 4,
            rbx: 0x2222,
            gs_base: 0x5555_0000,
            ..changed
        };
        must!(reply.answer_with_registers(Answer::Resume, &again));
        // By the thread's handle.
        let (told, reply) = fault(&endpoint)?;
        same!((told.rip, told.rsp), (again.rip, again.rsp));
        same!(own(&must!(bare.thread.registers())), own(&again));
        // SAFETY: as above.
        must!(unsafe { bare.thread.set_registers(&UserContext { rdx: 3, ..again }) });
        must!(reply.answer_report(Answer::End));
        let info = must!(bare.run_to_end());
        same!(own(&info.context), own(&UserContext { rdx: 3, ..again }));
    }
    Ok(())
}

/// Receives faults of a program that says `ud2` again and again, and lets it go on behind each, as a server that waits without a deadline, until the
/// endpoint is closed. Looks at its registers now and then.
fn answer_all(
    endpoint: Handle,
    wanted: UserContext,
    uses_fpu: bool,
    rounds: &AtomicU64,
) -> Verdict {
    let empty = IpcRegisters {
        handle: endpoint.0,
        tag: 0,
        words: [0; 6],
        deadline: Deadline::NEVER.0,
        reply: 0,
    };
    let mut registers = empty;
    for round in 0_u64.. {
        // SAFETY: a message of words alone.
        if unsafe { sys::ipc(Call::ReplyRecv as u64, &mut registers) } != 0 {
            return Ok(());
        }
        let came = registers;
        same!(
            (came.handle, came.tag >> 32),
            (BADGE, u64::from(label::FAULT))
        );
        same!(came.words[..3], [6, 0, wanted.rip]);
        same!((came.words[4], came.deadline), (wanted.rsp, 0));
        if round % 8 == 3 {
            let reply = Reply::from_handle(rt::OwnedHandle::from_raw(Handle(came.reply)));
            let seen = reply.registers();
            // It is answered by what comes next.
            let _ = reply.into_handle().into_raw();
            same!(own(&must!(seen)), own(&wanted));
        }
        rounds.store(round + 1, Ordering::SeqCst);
        if uses_fpu {
            // SAFETY: changes one register, which it says.
            unsafe {
                core::arch::asm!("pcmpeqd xmm3, xmm3", out("xmm3") _, options(nomem, nostack));
            };
        }
        let answer = resume_at(wanted.rip + 2);
        registers = IpcRegisters {
            tag: abi::Tag::new(answer.label).0,
            words: answer.words,
            reply: came.reply,
            // Not by the direct way.
            deadline: if round % 16 == 5 {
                soon().0
            } else {
                Deadline::NEVER.0
            },
            ..empty
        };
    }
    Ok(())
}

/// Lets `code`, which is `ud2` at an offset and a way back to it, fault 300 times on `cpu` with its handler on `other`.
fn fault_again_and_again(
    code: &[u8],
    offset: u64,
    uses_fpu: bool,
    [cpu, other]: [u32; 2],
) -> Verdict {
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    ROUNDS.store(0, Ordering::SeqCst);
    let (bare, endpoint) = must!(reporting(code, all_but_selectors));
    let mut wanted = must!(bare.thread.registers());
    wanted.rip += offset;
    if uses_fpu {
        wanted.rcx = wanted.rbx;
    }
    must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
    let handle = endpoint.handle();
    let handler = must!(
        thread::Builder::new()
            .cpu(other)
            .spawn(move || answer_all(handle, wanted, uses_fpu, &ROUNDS))
    );
    must!(bare.thread.start());
    until("so many faults are answered", || {
        Ok(ROUNDS.load(Ordering::SeqCst) > 300
            || handler.thread().info()?.state == ThreadState::Ended as u32)
    })?;
    drop(endpoint);
    must!(handler.join(soon()))?;
    // Nobody answers any more.
    let info = must!(bare.run_to_end());
    faulted("without a handler", &info, FaultKind::InvalidInstruction)?;
    same!(own(&info.context), own(&wanted));
    Ok(())
}

fn many_reports_are_answered_at_once_with_all_registers_kept(world: &'static World) -> Verdict {
    let last = world.cpus - 1;
    let code = code!("2:", "ud2", "jmp 2b");
    fault_again_and_again(code, 0, false, [0, 0])?;
    fault_again_and_again(code, 0, false, [last, last])?;
    if last > 0 {
        fault_again_and_again(code, 0, false, [0, last])?;
    }
    Ok(())
}

fn reports_keep_the_vector_registers_of_both_sides(world: &'static World) -> Verdict {
    let last = world.cpus - 1;
    let code = code!("movq xmm3, rbx", "2:", "movq rcx, xmm3", "ud2", "jmp 2b");
    fault_again_and_again(code, 10, true, [last, last])
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

/// An answer that is made for a thread with these registers.
type Make<'a> = &'a dyn Fn(&UserContext) -> Message;

fn senseless_answers_to_reports_are_refused(_: &'static World) -> Verdict {
    let registers = |change: fn(&mut UserContext)| {
        move |seen: &UserContext| {
            let mut registers = *seen;
            change(&mut registers);
            rt::report::with_registers(Answer::Resume, &registers)
        }
    };
    let cases: [(&str, Make<'_>); 9] = [
        ("another label", &|_| Message::new(0xFFFF)),
        ("a label of its own", &|_| Message::new(label::FAULT)),
        ("bytes that are no registers", &|_| {
            Message::new(0).with_bytes(&[1, 2, 3])
        }),
        ("an address of the kernel's", &|_| {
            Message::new(Answer::ResumeAt as u32).with_words([0xFFFF_8000_0000_0000, 0, 0, 0, 0, 0])
        }),
        ("an address that there is not", &|_| {
            Message::new(Answer::ResumeAt as u32).with_words([1 << 47, 0, 0, 0, 0, 0])
        }),
        (
            "a RIP of the kernel's",
            &registers(|r| r.rip = 0xFFFF_FFFF_8000_0000),
        ),
        ("a kernel CS", &registers(|r| r.cs = 8)),
        ("a senseless SS", &registers(|r| r.ss = 0x7777)),
        (
            "a base that there is not",
            &registers(|r| r.gs_base = 1 << 63),
        ),
    ];
    for (what, make) in cases {
        let (bare, endpoint) = must!(reporting(code!("ud2"), |_| {}));
        must!(bare.thread.start());
        let (_, reply) = fault(&endpoint)?;
        let answer = make(&must!(reply.registers()));
        let result = reply.answer(answer);
        check!(
            result.err() == Some(Error::BadArgument),
            "{what}: {result:?}"
        );
        let info = must!(bare.run_to_end());
        faulted(what, &info, FaultKind::InvalidInstruction)?;
    }
    // With a handle.
    let (bare, endpoint) = must!(reporting(code!("ud2"), |_| {}));
    must!(bare.thread.start());
    let (_, reply) = fault(&endpoint)?;
    let with_handle = Message::new(0).with_copy(&endpoint);
    same!(reply.answer(with_handle).err(), Some(Error::BadArgument));
    must!(bare.run_to_end());
    Ok(())
}

fn reports_are_set_up_with_good_arguments_only(_: &'static World) -> Verdict {
    let (endpoint, badged) = must!(listener());
    let bare = must!(prepared(code!("ud2"), |_| {}));
    let memory = must!(Memory::create(4096));
    let receives = must!(endpoint.duplicate(Rights::RECEIVE));
    let unmanaged = must!(bare.thread.duplicate(Rights::QUERY));
    let unmanaged_process = must!(bare.process.duplicate(Rights::QUERY));
    let number = |handle: &dyn AsHandle| handle.handle().0;
    let (thread, process) = (number(&bare.thread), number(&bare.process));
    let cases = [
        ([0, 0, number(&badged)], Error::BadHandle),
        ([u64::MAX, 0, number(&badged)], Error::BadHandle),
        ([number(&memory), 0, number(&badged)], Error::WrongObject),
        ([number(&unmanaged), 0, number(&badged)], Error::NoRight),
        (
            [number(&unmanaged_process), 0, number(&badged)],
            Error::NoRight,
        ),
        ([thread, u64::MAX, number(&badged)], Error::BadArgument),
        ([process, 1 << 32, number(&badged)], Error::BadArgument),
        ([thread, 0, u64::MAX], Error::BadHandle),
        ([thread, 0, process], Error::WrongObject),
        ([process, 0, number(&receives)], Error::NoRight),
    ];
    for ([subject, kind, endpoint], error) in cases {
        refused(Call::ReportTo, &[subject, kind, endpoint], error)?;
    }
    // Nothing of that counts: the program ends by its fault.
    must!(bare.thread.start());
    let info = must!(bare.run_to_end());
    faulted("", &info, FaultKind::InvalidInstruction)?;
    for subject in [thread, process] {
        refused(Call::ReportTo, &[subject, 0, number(&badged)], Error::Ended)?;
    }
    Ok(())
}

fn only_replies_to_reports_give_registers(_: &'static World) -> Verdict {
    let endpoint = must!(Endpoint::create());
    let handle = endpoint.handle();
    let client = must!(thread::spawn(move || {
        let endpoint = Endpoint::from_handle(rt::OwnedHandle::from_raw(handle));
        let answer = endpoint.call(Message::new(1), 0, soon());
        let _ = endpoint.into_handle().into_raw();
        answer.map(|answer| answer.label)
    }));
    let message = must!(receive(&endpoint, 0));
    let Some(reply) = message.reply else {
        fail!("a call came without a reply");
    };
    same!(reply.registers().err(), Some(Error::NoRight));
    // SAFETY: it is refused.
    let set = unsafe { reply.set_registers(&UserContext::default()) };
    same!(set.err(), Some(Error::NoRight));
    let raw = reply.handle().0;
    must!(reply.answer(Message::new(2)));
    same!(must!(must!(client.join(soon()))), 2);
    let mut context = UserContext::default();
    let arguments = [
        raw,
        ContextPart::Registers as u64,
        &raw mut context as u64,
        size_of::<UserContext>() as u64,
    ];
    refused(Call::ThreadGetContext, &arguments, Error::BadHandle)
}
