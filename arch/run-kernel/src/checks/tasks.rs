//! What a CPU still does with a task segment in 64-bit mode, and what it refuses there (Intel SDM vol. 3A §7.7, AMD64 APM vol. 2 §12.2
//! and §12.3): the hardware's own tasks are gone, but not all that belongs to them.
//!
//! Most of it is out of user code's reach and needs tables that no kernel of ours makes, so it is tried here: an instruction is
//! executed with the kernel's privileges and has to fault, and the kernel's trap handler asks [`caught`] where to go on. What
//! a check changes in the descriptor tables it puts back.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::UserContext;
use arch::cpu::{KERNEL_CODE, KERNEL_DATA};
use arch::run::Trap;

use super::{Outcome, begin, expect};
use crate::programs::program;
use crate::report::{Report, equal};

/// RFLAGS: nested task.
const NT: u64 = 1 << 14;
/// A descriptor's busy bit: the second bit of a task segment's type.
const BUSY: u64 = 1 << 41;
/// A vector that nobody uses, as in the programs.
const VECTOR: u64 = 0x55;
/// What is found where no trap came.
const NOTHING: u64 = u64::MAX;
const INVALID_TSS: u64 = 10;
const PROTECTION: u64 = 13;

/// Where the kernel goes on after a trap of its own; 0: none is expected.
static LANDING: AtomicU64 = AtomicU64::new(0);
static CAUGHT_VECTOR: AtomicU64 = AtomicU64::new(NOTHING);
static CAUGHT_CODE: AtomicU64 = AtomicU64::new(0);
/// The flags that the trap found, and those that its handler ran with.
static CAUGHT_FLAGS: AtomicU64 = AtomicU64::new(0);
static HANDLER_FLAGS: AtomicU64 = AtomicU64::new(0);

pub fn all(report: &mut Report) {
    report.note("iretq_with_nested_task_set_is_a_fault", nested_return());
    report.note("a_busy_task_segment_is_not_loaded_again", busy_segment());
    report.note("no_jump_or_call_leads_to_a_task_segment", far_transfers());
    report.note("an_interrupt_through_a_task_gate_is_a_fault", task_gate());
    report.note(
        "a_stack_outside_of_the_task_segment_is_an_invalid_tss",
        short_segment(),
    );
}

/// For the hook of traps in the kernel: takes the trap, if it is expected, and lets the kernel go on behind the instruction.
pub fn caught(context: &mut UserContext) -> bool {
    let landing = LANDING.swap(0, Ordering::Relaxed);
    if landing == 0 {
        return false;
    }
    let flags: u64;
    // SAFETY: reads the flags, through a word of the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    CAUGHT_VECTOR.store(context.vector, Ordering::Relaxed);
    CAUGHT_CODE.store(context.error_code, Ordering::Relaxed);
    CAUGHT_FLAGS.store(context.rflags, Ordering::Relaxed);
    HANDLER_FLAGS.store(flags, Ordering::Relaxed);
    context.rip = landing;
    context.rflags &= !NT;
    true
}

/// Executes instructions and goes on behind them if one of them traps. Gives vector and error code; [`NOTHING`] if none did.
///
/// The instructions may push, and may use `{t}`, `{saved}` (RSP as it was before) and the operands that are given.
macro_rules! trap_of {
    ([$($line:literal),+ $(,)?] $(, $operand:ident = in(reg) $value:expr)*) => {{
        CAUGHT_VECTOR.store(NOTHING, Ordering::Relaxed);
        CAUGHT_CODE.store(NOTHING, Ordering::Relaxed);
        // SAFETY: the handler keeps every register and goes on at `77:`, where RSP is put back. What the instructions themselves
        // do is said where they stand.
        unsafe {
            asm!(
                "mov {saved}, rsp",
                "lea {t}, [rip + 77f]",
                "mov [{landing}], {t}",
                $($line,)+
                "77:",
                "mov rsp, {saved}",
                saved = out(reg) _,
                t = out(reg) _,
                landing = in(reg) LANDING.as_ptr(),
                $($operand = in(reg) $value,)*
            );
        }
        LANDING.store(0, Ordering::Relaxed);
        (
            CAUGHT_VECTOR.load(Ordering::Relaxed),
            CAUGHT_CODE.load(Ordering::Relaxed),
        )
    }};
}

/// What `sgdt` and `sidt` store.
#[repr(C, packed(2))]
#[derive(Default)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// The selector in the task register.
fn task_register() -> u64 {
    let selector: u64;
    // SAFETY: `str` has no effect but its result.
    unsafe { asm!("str {:r}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector
}

/// The lower half of the descriptor that the task register names.
fn descriptor() -> *mut u64 {
    let mut table = TablePointer::default();
    // SAFETY: `sgdt` writes ten bytes, which the place has.
    unsafe { asm!("sgdt [{}]", in(reg) &raw mut table, options(nostack, preserves_flags)) };
    (table.base + task_register()) as *mut u64
}

/// The gate of [`VECTOR`]: two words.
fn gate() -> *mut [u64; 2] {
    let mut table = TablePointer::default();
    // SAFETY: `sidt` writes ten bytes, which the place has.
    unsafe { asm!("sidt [{}]", in(reg) &raw mut table, options(nostack, preserves_flags)) };
    (table.base + 16 * VECTOR) as *mut [u64; 2]
}

/// Loads the task register with the selector that it has. A fault is the result.
fn load_again() -> (u64, u64) {
    // The segment is the one that is in force.
    trap_of!(["ltr {tr:x}"], tr = in(reg) task_register())
}

/// Runs a check with something else in a place of the CPU's tables.
fn with<T: Copy>(place: *mut T, other: T, check: impl FnOnce() -> Outcome) -> Outcome {
    // SAFETY: the places are words of GDT and IDT, which only the CPU itself reads now.
    unsafe {
        let was = place.read_volatile();
        place.write_volatile(other);
        let outcome = check();
        place.write_volatile(was);
        outcome
    }
}

/// Runs a check with a changed descriptor of the task segment in force.
fn with_segment(change: impl FnOnce(u64) -> u64, check: impl FnOnce() -> Outcome) -> Outcome {
    // SAFETY: the descriptor lies in the table.
    let other = change(unsafe { descriptor().read_volatile() }) & !BUSY;
    let outcome = with(descriptor(), other, || {
        equal("loading it", load_again().0, NOTHING)?;
        check()
    });
    // The CPU marks what it loads, so it has to be unmarked.
    // SAFETY: as above; it is the descriptor that was in force from the start.
    unsafe { descriptor().write_volatile(descriptor().read_volatile() & !BUSY) };
    outcome.and(equal("loading the former one", load_again().0, NOTHING))
}

fn nested_return() -> Outcome {
    // A return to what comes next anyway, on the same stack.
    let (vector, code) = trap_of!(
        [
            "push {ss}",
            "push {saved}",
            "push 2",
            "push {cs}",
            "push {t}",
            "pushfq",
            "or dword ptr [rsp], 0x4000",
            "popfq",
            "iretq",
        ],
        ss = in(reg) u64::from(KERNEL_DATA),
        cs = in(reg) u64::from(KERNEL_CODE)
    );
    equal("the vector", vector, PROTECTION)?;
    equal("the error code", code, 0)?;
    // The way in cleared it, so that the handler's own return was none of a nested task.
    equal("NT before", CAUGHT_FLAGS.load(Ordering::Relaxed) & NT, NT)?;
    equal(
        "NT in the handler",
        HANDLER_FLAGS.load(Ordering::Relaxed) & NT,
        0,
    )
}

fn busy_segment() -> Outcome {
    // SAFETY: the descriptor lies in the table.
    let busy = || unsafe { descriptor().read_volatile() } & BUSY;
    equal("busy, since it was loaded", busy(), BUSY)?;
    let (vector, code) = load_again();
    equal("the vector", vector, PROTECTION)?;
    equal("the error code", code, task_register())?;
    with_segment(|same| same, || equal("busy again", busy(), BUSY))
}

fn far_transfers() -> Outcome {
    /// Offset and selector, as a far jump reads them.
    #[repr(C, packed(2))]
    struct FarPointer(u32, u16);
    let pointer = FarPointer(0, task_register() as u16);
    let refused = || {
        // Both fault before they change anything.
        let jump = trap_of!(["jmp fword ptr [{to}]"], to = in(reg) &raw const pointer);
        let call = trap_of!(["call fword ptr [{to}]"], to = in(reg) &raw const pointer);
        for (vector, code) in [jump, call] {
            equal("the vector", vector, PROTECTION)?;
            equal("the error code", code, task_register())?;
        }
        Ok(())
    };
    refused()?;
    // Not because it is busy.
    // SAFETY: the descriptor lies in the table.
    let available = unsafe { descriptor().read_volatile() } & !BUSY;
    with(descriptor(), available, refused)
}

fn task_gate() -> Outcome {
    /// Present, of privilege level 3, type 5.
    const TASK_GATE: u64 = 0xE5 << 40;
    /// The bits of privilege level 3 in any gate.
    const LEVEL_3: u64 = 3 << 45;
    let refused = |code: u64| {
        // The gate's index in the table, and that it is that table's. QEMU's TCG counts sixteen bytes a gate instead.
        let known = [VECTOR * 8 + 2, VECTOR * 16 + 2];
        equal("the error code", u64::from(known.contains(&code)), 1)
    };
    // SAFETY: the gate lies in the table.
    let [low, high] = unsafe { gate().read_volatile() };
    // What the program may do with a gate of the right kind, it may not with a task gate.
    with(gate(), [low | LEVEL_3, high], || {
        expect(
            &mut begin(program!(interrupt), 80),
            Trap::Interrupt(VECTOR as u8),
        )
    })?;
    with(gate(), [TASK_GATE | task_register() << 16, 0], || {
        let mut context = begin(program!(interrupt), 81);
        expect(&mut context, Trap::Exception(PROTECTION as u8))?;
        refused(context.error_code)?;
        // The gate leads nowhere.
        let (vector, code) = trap_of!(["int 0x55"]);
        equal("the vector", vector, PROTECTION)?;
        refused(code)
    })
}

/// The last byte of IST6: IST7 is outside, the stacks in use are not.
const SHORT_LIMIT: u64 = 0x53;

fn short_segment() -> Outcome {
    // SAFETY: the gate lies in the table.
    let [low, high] = unsafe { gate().read_volatile() };
    let shorter = |descriptor: u64| descriptor & !(0xFFFF | 0xF << 48) | SHORT_LIMIT;
    with_segment(shorter, || {
        // The gate asks for IST7.
        with(gate(), [low | 7 << 32, high], || {
            // The CPU finds no stack, so the gate's handler is never reached.
            let (vector, code) = trap_of!(["int 0x55"]);
            equal("the vector", vector, INVALID_TSS)?;
            equal("the error code", code, task_register())
        })
    })
}
