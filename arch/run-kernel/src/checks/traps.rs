//! Exceptions and interrupts.

use arch::context::{BadContext, NO_CALL};
use arch::platform::apic;
use arch::run::Trap;

use super::registers::{RAX, RBX, row, same};
use super::{Outcome, STACK, begin, enter, expect, same_selectors};
use crate::programs::program;
use crate::report::{Report, equal};
use crate::user_space::{CODE, UNMAPPED};

/// A vector that no device has.
const OWN_VECTOR: u8 = 0x41;
const TF: u64 = 1 << 8;
/// DR6: a single step (Intel SDM vol. 3B §17.2.3).
const SINGLE_STEP: u64 = 1 << 14;

pub fn all(report: &mut Report) {
    report.note("exceptions_come_back_with_all_registers", exceptions());
    report.note(
        "a_waiting_interrupt_comes_before_the_first_instruction",
        waiting_interrupt(),
    );
    report.note("a_timer_ends_what_does_not_end_by_itself", timer());
    report.note("single_steps_come_back_one_by_one", steps());
    report.note("what_may_not_go_to_user_mode_is_refused", refusals());
}

struct Fault {
    code: &'static [u8],
    vector: u8,
    error_code: u64,
    /// How far RIP is behind the program's first instruction.
    beyond: u64,
    cr2: Option<u64>,
}

/// Those that QEMU's emulation has as the CPU has them: it knows no alignment check, #GP in place of #SS, and other error codes for
/// `int`. The hosted tests have all, on a real CPU.
fn exceptions() -> Outcome {
    let fault = |code, vector, error_code| Fault {
        code,
        vector,
        error_code,
        beyond: 0,
        cr2: None,
    };
    let page = |code, error_code| Fault {
        cr2: Some(UNMAPPED),
        ..fault(code, 14, error_code)
    };
    for case in [
        fault(program!(divide), 0, 0),
        Fault {
            beyond: 1,
            ..fault(program!(breakpoint), 3, 0)
        },
        fault(program!(invalid), 6, 0),
        fault(program!(protection), 13, 0),
        page(program!(read), 4),
        page(program!(write), 6),
        page(program!(fetch), 0x14),
    ] {
        let mut context = begin(case.code, u64::from(case.vector));
        context.rcx = 0;
        context.rbx = UNMAPPED;
        let before = context;
        expect(&mut context, Trap::Exception(case.vector))?;
        same(row(&context), row(&before), &[])?;
        equal("error code", context.error_code, case.error_code)?;
        let rip = match case.error_code {
            0x14 => UNMAPPED,
            _ => CODE + case.beyond,
        };
        equal("rip", context.rip, rip)?;
        equal("rsp", context.rsp, STACK)?;
        equal("call number", context.call_number, NO_CALL)?;
        if let Some(address) = case.cr2 {
            equal("cr2", context.cr2, address)?;
        }
        same_selectors(&context)?;
    }
    Ok(())
}

fn waiting_interrupt() -> Outcome {
    let mut context = begin(program!(spin), 30);
    let before = context;
    apic::send_ipi(apic::id(), OWN_VECTOR);
    // The message may take a moment; user code spins until it is there.
    expect(&mut context, Trap::Interrupt(OWN_VECTOR))?;
    apic::eoi();
    same(row(&context), row(&before), &[RAX])?;
    equal("call number", context.call_number, NO_CALL)?;
    same_selectors(&context)
}

fn timer() -> Outcome {
    let mut counted = 0;
    for round in 0..20 {
        let mut context = begin(program!(spin), 31 + round);
        context.rax = 0;
        let before = context;
        apic::timer_arm(1_000_000);
        expect(&mut context, Trap::Interrupt(apic::TIMER_VECTOR))?;
        apic::eoi();
        same(row(&context), row(&before), &[RAX])?;
        // On a busy host the time may be over before user code begins.
        counted += context.rax;
        equal(
            "rip",
            u64::from(context.rip - CODE < program!(spin).len() as u64),
            1,
        )?;
    }
    equal("it ran", u64::from(counted > 0), 1)
}

fn steps() -> Outcome {
    // `inc rbx` has three bytes, `mov eax, imm` five, `syscall` two.
    let mut context = begin(program!(steps), 40);
    context.rbx = 0;
    context.rflags |= TF;
    let before = context;
    for rip in [3, 8] {
        expect(&mut context, Trap::Exception(1))?;
        equal("rip", context.rip, CODE + rip)?;
        equal("dr6", context.debug_status & SINGLE_STEP, SINGLE_STEP)?;
        equal("tf", context.rflags & TF, TF)?;
    }
    expect(&mut context, Trap::SystemCall)?;
    equal("rip", context.rip, CODE + 10)?;
    equal("tf", context.rflags & TF, TF)?;
    expect(&mut context, Trap::Exception(1))?;
    equal("rip", context.rip, CODE + 13)?;
    equal("rbx", context.rbx, 2)?;
    let changed = [RBX, RAX, super::registers::RCX, super::registers::R11];
    same(row(&context), row(&before), &changed)
}

fn refusals() -> Outcome {
    let good = begin(program!(spin), 50);
    let mut bad = [good; 6];
    bad[0].rip = 1 << 47;
    bad[1].rsp = 1 << 47;
    bad[2].cs = 0x08;
    bad[3].ss = 0x10;
    bad[4].fs_base = 1 << 63;
    bad[5].ds = 0x10;
    let want = [
        BadContext::Rip,
        BadContext::Rsp,
        BadContext::Cs,
        BadContext::Ss,
        BadContext::Base,
        BadContext::Selector,
    ];
    for (context, want) in bad.iter_mut().zip(want) {
        equal("refused", u64::from(enter(context) == Err(want)), 1)?;
    }
    Ok(())
}
