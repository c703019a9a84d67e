//! System calls: `syscall`, short and other, `int 0x80`, from 64-bit and 32-bit code. Every register both ways.

use abi::{SHORT_CALLS, UserContext};
use arch::context::{FIXED_FLAGS, NO_CALL, USER_CODE32, VECTOR_SYSCALL, fresh32};
use arch::run::Trap;

use super::registers::{R11, RAX, RCX, row, same};
use super::{Outcome, STACK, begin, enter, expect, same_selectors};
use crate::programs::{program, return_address};
use crate::report::{Report, equal};
use crate::user_space::{data, load};

/// CF, PF, AF, ZF, SF, DF, OF, AC, ID: one at a time, none, and all.
const FLAGS: [u64; 11] = [
    0,
    1,
    1 << 2,
    1 << 4,
    1 << 6,
    1 << 7,
    1 << 10,
    1 << 11,
    1 << 18,
    1 << 21,
    0x24_0CD5,
];

pub fn all(report: &mut Report) {
    report.note("syscall_keeps_all_registers_both_ways", by_syscall(100));
    report.note(
        "a_call_number_of_all_ones_is_a_number",
        by_syscall(u64::MAX),
    );
    report.note(
        "short_calls_keep_all_registers_both_ways",
        (0..SHORT_CALLS).try_for_each(by_syscall),
    );
    report.note("int_0x80_keeps_all_registers_both_ways", by_interrupt());
    report.note("flags_go_both_ways", flags());
    report.note("code_of_32_bits_calls_and_goes_on", compat());
    report.note("two_contexts_take_turns_for_long", turns());
}

/// What the program has found, and what it left: the dump, from `r15` to `rdi`, then the flags.
fn dumped() -> ([u64; 15], u64) {
    let word = |i: u64| {
        // SAFETY: user code does not run now.
        unsafe { data(STACK - 128 + i * 8).read_volatile() }
    };
    (core::array::from_fn(|i| word(i as u64)), word(15))
}

fn leave_with(flags: u64) {
    // SAFETY: as above.
    unsafe { data(STACK + 8).write_volatile(flags) };
}

/// Runs a dumping program twice and compares.
fn dump(
    context: &mut UserContext,
    number: u64,
    flags_out: u64,
    lost: &[usize],
    end: Trap,
    vector: u64,
) -> Outcome {
    for _ in 0..2 {
        // The program inverts it.
        context.rax = !number;
        leave_with(flags_out);
        let before = *context;
        let trap = enter(context);
        equal("the reason", u64::from(trap == Ok(end)), 1)?;
        let (seen, flags) = dumped();
        same(seen, row(&before), &[])?;
        equal("flags going in", flags, before.rflags | FIXED_FLAGS)?;
        same(row(context), row(&before).map(|value| !value), lost)?;
        equal("flags coming out", context.rflags, flags_out | FIXED_FLAGS)?;
        equal("rsp", context.rsp, STACK - 128)?;
        equal("vector", context.vector, vector)?;
        equal("error code", context.error_code, 0)?;
        equal("call number", context.call_number, number)?;
        equal("rax", context.rax, number)?;
        same_selectors(context)?;
    }
    Ok(())
}

fn by_syscall(number: u64) -> Outcome {
    let mut context = begin(program!(dump_syscall), number % 1000);
    dump(
        &mut context,
        number,
        0,
        &[RCX, R11, RAX],
        Trap::SystemCall,
        VECTOR_SYSCALL,
    )?;
    equal("rip", context.rip, return_address!(dump_syscall))?;
    equal("rcx", context.rcx, context.rip)?;
    equal("r11", context.r11, context.rflags)
}

fn by_interrupt() -> Outcome {
    let mut context = begin(program!(dump_int80), 5);
    dump(&mut context, 7, 0, &[RAX], Trap::SystemCall, 0x80)?;
    equal("rip", context.rip, return_address!(dump_int80))
}

fn flags() -> Outcome {
    for flags in FLAGS {
        let mut context = begin(program!(dump_syscall), 6);
        context.rflags |= flags;
        dump(
            &mut context,
            99,
            0,
            &[RCX, R11, RAX],
            Trap::SystemCall,
            VECTOR_SYSCALL,
        )?;
        let mut context = begin(program!(dump_int80), 7);
        dump(&mut context, 99, flags, &[RAX], Trap::SystemCall, 0x80)?;
        // A short call, which takes another path.
        let mut context = begin(program!(dump_syscall), 8);
        dump(
            &mut context,
            0,
            flags,
            &[RCX, R11, RAX],
            Trap::SystemCall,
            VECTOR_SYSCALL,
        )?;
    }
    Ok(())
}

fn compat() -> Outcome {
    let mut context = fresh32(load(program!(compat)), STACK, 0, 0);
    context.rbx = 41;
    expect_call_number(&mut context, Trap::SystemCall)?;
    equal("ebx", context.rbx, 42)?;
    equal("eax", context.rax, 0x1234)?;
    equal("cs", context.cs, u64::from(USER_CODE32))?;
    expect(&mut context, Trap::Exception(6))?;
    equal("ebx", context.rbx, 43)?;
    equal("call number", context.call_number, NO_CALL)
}

/// Runs a context to a call by `int 0x80`.
fn expect_call_number(context: &mut UserContext, want: Trap) -> Outcome {
    let trap = enter(context);
    equal("the reason", u64::from(trap == Ok(want)), 1)?;
    equal("vector", context.vector, 0x80)
}

fn turns() -> Outcome {
    let code = program!(dump_int80);
    let mut contexts = [begin(code, 20), begin(code, 21)];
    contexts[1].rsp -= 0x200;
    let mut want = contexts.each_ref().map(row);
    leave_with(0);
    // SAFETY: user code does not run now; the second stack's word for flags.
    unsafe { data(STACK - 0x200 + 8).write_volatile(0) };
    for round in 0..20_000u64 {
        let i = (round % 2) as usize;
        let trap = enter(&mut contexts[i]);
        equal("the reason", u64::from(trap == Ok(Trap::SystemCall)), 1)?;
        want[i] = want[i].map(|value| !value);
        same(row(&contexts[i]), want[i], &[])?;
    }
    Ok(())
}
