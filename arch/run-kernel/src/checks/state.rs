//! What is no general register: bases, selectors, floating-point registers, this kernel's own stack.

use core::hint::black_box;
use core::ptr::NonNull;

use arch::context::USER_DATA;
use arch::cpu::features;
use arch::fpu;
use arch::run::Trap;

use super::{Outcome, begin, enter, expect};
use crate::boot::{Pages, thread};
use crate::programs::program;
use crate::report::{Report, equal};
use crate::user_space::{DATA, data};

/// The thread's floating-point registers while it does not use them.
static AREA: Pages<4096> = Pages::new();

pub fn all(report: &mut Report) {
    report.note("bases_go_both_ways", bases());
    report.note("selectors_go_both_ways", selectors());
    report.note("floating_point_registers_are_the_threads", floating_point());
    report.note("runs_may_be_made_at_any_depth_of_the_stack", depth(50));
}

fn call(context: &mut abi::UserContext) -> Outcome {
    let trap = enter(context);
    equal("the reason", u64::from(trap == Ok(Trap::SystemCall)), 1)
}

fn bases() -> Outcome {
    let mut context = begin(program!(bases), 60);
    (context.fs_base, context.gs_base) = (DATA + 0x100, DATA + 0x200);
    // SAFETY: user code does not run now.
    unsafe {
        data(DATA + 0x100).write_volatile(0x1111);
        data(DATA + 0x208).write_volatile(0x2222);
    }
    call(&mut context)?;
    equal("through fs", context.rax, 0x1111)?;
    equal("through gs", context.rbx, 0x2222)?;
    equal("fs base", context.fs_base, DATA + 0x100)?;
    equal("gs base", context.gs_base, DATA + 0x200)?;
    if features().fsgsbase {
        (context.rsi, context.rdx) = (0x1234_5678_9ABC, 0x7FFF_0000_0000);
        call(&mut context)?;
        equal("fs base", context.fs_base, 0x1234_5678_9ABC)?;
        equal("gs base", context.gs_base, 0x7FFF_0000_0000)
    } else {
        // User code has no instruction for it.
        expect(&mut context, Trap::Exception(6))
    }
}

fn selectors() -> Outcome {
    let mut context = begin(program!(bases), 61);
    context.ds = USER_DATA;
    (context.fs, context.gs) = (USER_DATA, USER_DATA);
    // A selector's own base is 0; the context's counts.
    (context.fs_base, context.gs_base) = (DATA + 0x100, DATA + 0x200);
    call(&mut context)?;
    equal("ds", u64::from(context.ds), u64::from(USER_DATA))?;
    equal("es", u64::from(context.es), 0)?;
    equal("fs", u64::from(context.fs), u64::from(USER_DATA))?;
    equal("gs", u64::from(context.gs), u64::from(USER_DATA))?;
    equal("through fs", context.rax, 0x1111)?;
    equal("through gs", context.rbx, 0x2222)?;
    // And null again.
    let mut context = begin(program!(spin), 62);
    arch::platform::apic::timer_arm(1000);
    expect(
        &mut context,
        Trap::Interrupt(arch::platform::apic::TIMER_VECTOR),
    )?;
    arch::platform::apic::eoi();
    super::same_selectors(&context)?;
    equal("fs base", context.fs_base, 0)
}

fn floating_point() -> Outcome {
    let mut context = begin(program!(sse), 63);
    context.rsi = 0xFEDC_BA98_7654_3210;
    let before = context.rip;
    // Its first use: there is nowhere to keep them yet.
    expect(&mut context, Trap::Exception(7))?;
    equal("rip", context.rip, before)?;
    assert!(fpu::area_bytes() <= 4096);
    let area = NonNull::new(AREA.start()).expect("a static is somewhere");
    // SAFETY: the area is static, zero, aligned to a page and large enough; the thread is the current one and has none.
    unsafe { fpu::provide(thread(), area) };
    call(&mut context)?;
    // Other code in between, which does not use them.
    call(&mut begin(program!(dump_int80), 64))?;
    crate::user_space::load(program!(sse));
    call(&mut context)?;
    equal("what was kept", context.rdi, 0xFEDC_BA98_7654_3210)
}

/// Runs on the way down and on the way up again.
fn depth(more: u64) -> Outcome {
    let mut context = begin(program!(dump_int80), more);
    call(&mut context)?;
    let room = black_box([more; 64]);
    if more > 0 {
        depth(more - 1)?;
    }
    crate::user_space::load(program!(dump_int80));
    call(&mut context)?;
    equal("the frame", room.iter().sum(), more * 64)
}
