//! What whoever manages a thread may set in it: what user code could have set itself, and nothing else.

use abi::info::ProcessState;
use abi::layout::USER_END;
use abi::segment::DataSegment;
use abi::{Call, ContextPart, DebugRegisters, Error, FaultKind, Rights, UserContext};
use alloc::format;
use alloc::vec::Vec;
use rt::{AsHandle, Thread};

use super::faults::faulted;
use super::tests;
use crate::bare::{self, Bare, CODE, PREAMBLE_BYTES, STACK_TOP};
use crate::kernel_calls::{call, refused};
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, must, same};

tests! {
    new_thread_starts_with_the_context_that_was_set: 40,
    contexts_that_would_fault_in_the_kernel_are_refused: 40,
    flags_in_a_context_are_only_those_of_user_code: 40,
    contexts_are_for_threads_that_do_not_run: 40,
    selectors_that_went_bad_become_null: 40,
    stack_selector_that_went_bad_faults_at_once: 40,
    trap_flag_in_a_context_stops_after_one_instruction: 40,
    contexts_may_begin_in_32_bit_code: 40,
    instruction_pointer_at_the_edge_faults_in_user_code: 40,
    floating_point_state_of_a_thread_can_be_had_and_set: 40,
}

/// Where the code is, without the preamble that loads registers.
pub(super) const START: u64 = CODE + PREAMBLE_BYTES;

/// A process of machine code whose thread begins right at the code, with registers that `change` may change.
///
/// # Errors
/// Those of the calls that it takes.
pub(super) fn prepared(code: &[u8], change: impl FnOnce(&mut UserContext)) -> rt::Result<Bare> {
    let bare = Bare::new(code, &bare::pattern())?;
    let mut context = bare.thread.registers()?;
    context.rip = START;
    context.rsp = STACK_TOP - 64;
    change(&mut context);
    // SAFETY: the thread is of another process.
    unsafe { bare.thread.set_registers(&context) }?;
    Ok(bare)
}

/// Every register different.
pub(super) fn full(context: &UserContext) -> UserContext {
    let value = |number: u64| 0x5EED_0000_0000_0000 | number << 32 | 0xABCD_0000 | number;
    UserContext {
        r15: value(15),
        r14: value(14),
        r13: value(13),
        r12: value(12),
        rbp: value(5),
        rbx: value(3),
        r11: value(11),
        r10: value(10),
        r9: value(9),
        r8: value(8),
        rax: value(0),
        rcx: value(1),
        rdx: value(2),
        rsi: value(6),
        rdi: value(7),
        fs_base: 0x1234_5678_9ABC,
        gs_base: 0x7654_3210_FEDC,
        ds: 0x23,
        es: 0x2B,
        fs: 0x43,
        gs: 0x5B,
        rip: START,
        rflags: 0x24_0ED7,
        rsp: 0xFFFF_F00D_0000_0001, // any canonical address will do
        ..*context
    }
}

fn new_thread_starts_with_the_context_that_was_set(_: &'static World) -> Verdict {
    let bare = must!(Bare::new(code!("ud2"), &bare::pattern()));
    same!(
        must!(bare.thread.set_tls(0, Some(DataSegment::flat(0)))),
        0x43
    );
    let before = must!(bare.thread.registers());
    same!(
        (before.rip, before.rsp, before.cs, before.ss, before.rflags),
        (CODE, STACK_TOP, 0x2B, 0x23, 0x202)
    );
    let wanted = full(&before);
    // SAFETY: the thread is of another process.
    must!(unsafe { bare.thread.set_registers(&wanted) });
    same!(must!(bare.thread.registers()), wanted);
    let info = must!(bare.run());
    faulted("ud2", &info, FaultKind::InvalidInstruction)?;
    // What the fault itself says is the only difference; a fault's own RF aside.
    let seen = UserContext {
        vector: wanted.vector,
        error_code: wanted.error_code,
        cr2: wanted.cr2,
        call_number: wanted.call_number,
        debug_status: wanted.debug_status,
        rflags: info.context.rflags & !(1 << 16),
        ..info.context
    };
    same!(seen, wanted);
    Ok(())
}

/// Makes a good context bad in one way.
type Spoil = fn(&mut UserContext);

fn contexts_that_would_fault_in_the_kernel_are_refused(_: &'static World) -> Verdict {
    let bare = must!(Bare::new(code!("ud2"), &bare::pattern()));
    must!(bare.thread.set_tls(
        1,
        Some(DataSegment {
            writable: false,
            ..DataSegment::flat(0)
        })
    ));
    let good = must!(bare.thread.registers());
    let bad: &[(&str, Spoil)] = &[
        ("rip at the end", |c| c.rip = USER_END),
        ("rip in the hole", |c| c.rip = 1 << 47),
        ("rip in the kernel", |c| c.rip = 0xFFFF_FFFF_8000_0000),
        ("32-bit rip past 4 GiB", |c| {
            (c.cs, c.rip) = (0x1B, 1 << 32);
        }),
        ("rsp in the hole", |c| c.rsp = 1 << 47),
        ("rsp just below the kernel", |c| {
            c.rsp = 0xFFFF_7FFF_FFFF_FFFF;
        }),
        ("null cs", |c| c.cs = 0),
        ("kernel cs", |c| c.cs = 0x08),
        ("cs without RPL", |c| c.cs = 0x28),
        ("data cs", |c| c.cs = 0x23),
        ("high bits in cs", |c| c.cs |= 1 << 16),
        ("null ss", |c| c.ss = 0),
        ("kernel ss", |c| c.ss = 0x10),
        ("ss without RPL", |c| c.ss = 0x20),
        ("code ss", |c| c.ss = 0x2B),
        ("empty slot as ss", |c| c.ss = 0x43),
        ("read-only slot as ss", |c| c.ss = 0x4B),
        ("high bits in ss", |c| c.ss |= 1 << 32),
        ("kernel ds", |c| c.ds = 0x10),
        ("TSS as es", |c| c.es = 0x33),
        ("TSS's upper half as fs", |c| c.fs = 0x3B),
        ("empty slot as gs", |c| c.gs = 0x53),
        ("past the table", |c| c.ds = 0x60),
        ("local table", |c| c.es = 0x07),
        ("fs base in the hole", |c| c.fs_base = 1 << 47),
        ("gs base in the hole", |c| c.gs_base = 1 << 63),
    ];
    for (name, change) in bad {
        let mut context = good;
        change(&mut context);
        // SAFETY: the thread is of another process.
        let result = unsafe { bare.thread.set_registers(&context) };
        check!(result == Err(Error::BadArgument), "{name}: {result:?}");
        same!(must!(bare.thread.registers()), good);
    }
    let tls = must!(bare.thread.tls());
    for bad in [1, 0x0000_8900_0000_0067, 0x00AF_9B00_0000_FFFF] {
        let result = bare.thread.set_all_tls(&[0, 0, bad]);
        check!(result == Err(Error::BadArgument), "{bad:#x}: {result:?}");
        same!(must!(bare.thread.tls()), tls);
    }
    faulted("ud2", &must!(bare.run()), FaultKind::InvalidInstruction)
}

fn flags_in_a_context_are_only_those_of_user_code(_: &'static World) -> Verdict {
    const TRAP: u64 = 1 << 8;
    let bare = must!(prepared(code!("pushfq", "pop rax", "ud2"), |context| {
        context.rflags = !TRAP;
    }));
    // IF and the bit that is always one are set; IOPL, NT, VM, VIF, VIP and all reserved bits are not.
    same!(must!(bare.thread.registers()).rflags, 0x25_0ED7);
    let info = must!(bare.run());
    faulted("ud2", &info, FaultKind::InvalidInstruction)?;
    same!(info.context.rax, 0x24_0ED7);
    let bare = must!(prepared(code!("pushfq", "pop rax", "ud2"), |context| {
        context.rflags = 0;
    }));
    let info = must!(bare.run());
    same!(info.context.rax, 0x202);
    Ok(())
}

fn contexts_are_for_threads_that_do_not_run(_: &'static World) -> Verdict {
    let itself = must!(Thread::current());
    let bare = must!(Bare::new(code!("2:", "jmp 2b"), &bare::pattern()));
    let bytes = size_of::<UserContext>() as u64;
    // Room for the largest.
    let place = alloc::vec![0_u64; rt::fpu_state_bytes() / 8 + size_of::<UserContext>() / 8];
    let at = place.as_ptr() as u64;
    for (part, bytes) in [
        (ContextPart::Registers, bytes),
        (ContextPart::Debug, size_of::<DebugRegisters>() as u64),
        (ContextPart::Tls, 24),
        (ContextPart::Fpu, rt::fpu_state_bytes() as u64),
    ] {
        let part = part as u64;
        for one in [Call::ThreadGetContext, Call::ThreadSetContext] {
            let asked = |handle: u64| [handle, part, at, bytes];
            refused(one, &asked(itself.handle().0), Error::WrongState)?;
            refused(one, &asked(0), Error::BadHandle)?;
            refused(one, &asked(bare.process.handle().0), Error::WrongObject)?;
            let without = must!(bare.thread.duplicate(Rights::QUERY));
            refused(one, &asked(without.handle().0), Error::NoRight)?;
            let thread = bare.thread.handle().0;
            refused(one, &[thread, part, at, bytes - 1], Error::OutOfRange)?;
            refused(one, &[thread, part, at, u64::MAX], Error::OutOfRange)?;
            for pointer in [0, USER_END - 8, 1 << 47, u64::MAX - 7] {
                refused(one, &[thread, part, pointer, bytes], Error::BadPointer)?;
            }
        }
    }
    refused(
        Call::ThreadGetContext,
        &[bare.thread.handle().0, 77, at, bytes],
        Error::BadArgument,
    )?;
    must!(bare.thread.start());
    same!(bare.thread.registers().err(), Some(Error::WrongState));
    same!(bare.thread.set_tls(0, None).err(), Some(Error::WrongState));
    must!(bare.process.kill(0));
    must!(bare.run_to_end());
    same!(bare.thread.registers().err(), Some(Error::Ended));
    must!(call(Call::Null, &[]));
    Ok(())
}

fn selectors_that_went_bad_become_null(_: &'static World) -> Verdict {
    let bare = must!(Bare::new(code!("ud2"), &bare::pattern()));
    must!(bare.thread.set_tls(2, Some(DataSegment::flat(0x1000))));
    let mut context = must!(bare.thread.registers());
    context.rip = START;
    (context.ds, context.es, context.fs, context.gs) = (0x53, 0x50, 0x51, 0x53);
    context.fs_base = 0x1000;
    context.gs_base = 0x1000;
    // SAFETY: the thread is of another process.
    must!(unsafe { bare.thread.set_registers(&context) });
    must!(bare.thread.set_tls(2, None));
    let left = must!(bare.thread.registers());
    same!((left.fs_base, left.gs_base), (0, 0));
    // Its first switch loads them all, and each load faults.
    let info = must!(bare.run());
    faulted("ud2", &info, FaultKind::InvalidInstruction)?;
    let seen = info.context;
    same!((seen.ds, seen.es, seen.fs, seen.gs), (0, 0, 0, 0));
    same!((seen.fs_base, seen.gs_base), (0, 0));
    Ok(())
}

fn stack_selector_that_went_bad_faults_at_once(_: &'static World) -> Verdict {
    for slot in 0..3 {
        let selector = 0x43 + 8 * slot;
        let bare = must!(Bare::new(code!("ud2"), &bare::pattern()));
        must!(
            bare.thread
                .set_tls(slot as usize, Some(DataSegment::flat(0)))
        );
        let mut context = must!(bare.thread.registers());
        context = full(&context);
        context.fs = 0;
        context.ss = selector;
        // SAFETY: the thread is of another process.
        must!(unsafe { bare.thread.set_registers(&context) });
        must!(bare.thread.set_tls(slot as usize, None));
        let info = must!(bare.run());
        let kind = FaultKind::from_vector(info.context.vector);
        check!(
            matches!(
                kind,
                FaultKind::Protection | FaultKind::StackSegment | FaultKind::SegmentNotPresent
            ),
            "{}",
            ending(&info)
        );
        // It is a fault of the instruction that it was about to go on with, and nothing else has changed.
        let seen = UserContext {
            vector: context.vector,
            error_code: context.error_code,
            cr2: context.cr2,
            ..info.context
        };
        same!(info.context.error_code, selector & !3);
        same!(seen, context);
    }
    Ok(())
}

fn trap_flag_in_a_context_stops_after_one_instruction(_: &'static World) -> Verdict {
    const SINGLE_STEP: u64 = 1 << 14;
    let bare = must!(prepared(code!("nop", "nop", "ud2"), |context| {
        context.rflags |= 1 << 8;
    }));
    let info = must!(bare.run());
    faulted("trap flag", &info, FaultKind::Debug)?;
    same!(info.context.rip, START + 1);
    same!(info.context.debug_status, SINGLE_STEP);
    Ok(())
}

fn contexts_may_begin_in_32_bit_code(_: &'static World) -> Verdict {
    // The same bytes: `inc eax` in 32-bit code, a prefix of the next instruction in 64-bit code.
    let bytes: Vec<u8> = [&[0x40][..], code!("ud2")].concat();
    let bare = must!(prepared(&bytes, |context| {
        (context.cs, context.ds, context.es) = (0x1B, 0x23, 0x23);
        context.rax = 6;
    }));
    let info = must!(bare.run());
    faulted("ud2", &info, FaultKind::InvalidInstruction)?;
    same!(
        (info.context.rax, info.context.rip, info.context.cs),
        (7, START + 1, 0x1B)
    );
    Ok(())
}

fn instruction_pointer_at_the_edge_faults_in_user_code(_: &'static World) -> Verdict {
    for rip in [0, USER_END - 1, 0x7000_0000_0000] {
        let bare = must!(prepared(code!("ud2"), |context| context.rip = rip));
        let info = must!(bare.run());
        faulted(&format!("{rip:#x}"), &info, FaultKind::Page)?;
        same!((info.context.rip, info.context.cr2), (rip, rip));
    }
    Ok(())
}

fn floating_point_state_of_a_thread_can_be_had_and_set(_: &'static World) -> Verdict {
    const MXCSR: usize = 24;
    const XMM5: usize = 160 + 5 * 16;
    const HEADER: usize = 512;
    // Ends with the low word of xmm5 and MXCSR as it found them, one above the other.
    let code = code!(
        "sub rsp, 16",
        "stmxcsr [rsp]",
        "movd edi, xmm5",
        "shl rdi, 32",
        "mov eax, [rsp]",
        "or rdi, rax",
        "mov eax, 50",
        "syscall",
    );
    let fresh = || Bare::new(code, &bare::pattern());
    let bare = must!(fresh());
    let initial = must!(bare.thread.fpu_state());
    same!(
        (initial[..2].to_vec(), initial[MXCSR..MXCSR + 4].to_vec()),
        (
            0x037F_u16.to_le_bytes().to_vec(),
            0x1F80_u32.to_le_bytes().to_vec()
        )
    );
    check!(
        initial[2..MXCSR]
            .iter()
            .chain(&initial[32..])
            .all(|&byte| byte == 0),
        "a new thread's state is not the initial one"
    );
    let has_header = initial.len() > HEADER;
    let mut wanted = initial.clone();
    wanted[MXCSR..MXCSR + 4].copy_from_slice(&0x7F80_u32.to_le_bytes());
    wanted[XMM5..XMM5 + 4].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
    if has_header {
        // SSE is in use.
        wanted[HEADER] = 2;
    }
    must!(bare.thread.set_fpu_state(&wanted));
    same!(must!(bare.thread.fpu_state()), wanted);
    let info = must!(bare.run());
    same!(
        (info.state, info.code),
        (ProcessState::Exited as u32, 0x1234_5678_0000_7F80)
    );
    // What the CPU would not accept, and then what was there before is still there.
    let bare = must!(fresh());
    must!(bare.thread.set_fpu_state(&wanted));
    let refusal = |at: usize, value: u8| {
        let mut image = wanted.clone();
        image[at] = value;
        bare.thread.set_fpu_state(&image)
    };
    same!(refusal(MXCSR + 3, 0x80), Err(Error::BadArgument));
    if has_header {
        // A component that nobody has, a compacted format, reserved bytes.
        for (at, value) in [(HEADER + 7, 0x40), (HEADER + 15, 0x80), (HEADER + 40, 1)] {
            same!(refusal(at, value), Err(Error::BadArgument));
        }
    }
    same!(
        bare.thread.set_fpu_state(&wanted[1..]),
        Err(Error::OutOfRange)
    );
    same!(must!(bare.thread.fpu_state()), wanted);
    same!(must!(bare.run()).code, 0x1234_5678_0000_7F80);
    Ok(())
}
