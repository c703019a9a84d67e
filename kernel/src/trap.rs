//! Exceptions, interrupts and NMIs: what `arch`'s entries hand to the kernel.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::info::ThreadEnd;
use abi::report::{NO_MEMORY, NO_PAGER, PAGE_REFUSED, PageAccess};
use abi::trace::TraceKind;
use abi::{Error, FaultKind, UserContext};
use arch::cpu::{halt_forever, skip_halt};
use arch::paging::Access;
use arch::platform::machine_check::{MachineCheck, take_machine_check};
use arch::platform::{apic, pic};
use arch::time;

use crate::fault::Asked;
use crate::memory::space::Fault;
use crate::memory::{PAGE_BYTES, stacks};
use crate::object::Section;
use crate::process::Ending;
use crate::schedule::{self, RESCHEDULE_VECTOR, SERVE_VECTOR};
use crate::thread::{Thread, ThreadPtr};
use crate::{boot, cpu, fault, irq, panic, syscall, trace};

const PAGE_FAULT: u64 = 14;
const DEBUG: u64 = 1;
const PROTECTION: u64 = 13;
const NOT_PRESENT: u64 = 11;
const FPU_UNAVAILABLE: u64 = 7;
const FIRST_INTERRUPT: u64 = 32;
const NMI: u64 = 2;
const DOUBLE_FAULT: u64 = 8;
const MACHINE_CHECK: u64 = 18;
const LEGACY: Range<u64> = pic::FIRST_VECTOR as u64..pic::FIRST_VECTOR as u64 + 16;

/// In checked builds: every entry from user mode, of whatever kind, builds its context at the top of the current thread's kernel
/// stack. `syscall` and interrupts find that stack by two different fields, which every switch must change together.
#[inline]
fn assert_own_stack(context: &UserContext) {
    debug_assert!(
        cpu::this()
            .current()
            .is_some_and(|thread| core::ptr::eq(thread.get().machine.state.context(), context))
            || matches!(context.vector, DOUBLE_FAULT | MACHINE_CHECK),
        "an entry from user mode came in on a stack that is not the current thread's"
    );
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_system_call(context: &mut UserContext) {
    assert_own_stack(context);
    // The context is the current thread's, at the top of its stack, where the thread knows to find it.
    syscall::enter();
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_reported_call(context: &mut UserContext) {
    assert_own_stack(context);
    syscall::enter_reported();
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_compat_call(context: &mut UserContext) {
    assert_own_stack(context);
    // As above.
    syscall::compat::enter();
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_short_call_exit(_context: &mut UserContext) {
    schedule::exit_work();
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_woken(context: &mut UserContext) {
    assert_own_stack(context);
    syscall::woken(context);
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_reporter_woken(context: &mut UserContext) {
    assert_own_stack(context);
    if let Some(current) = cpu::this().current()
        && !fault::after_report(current.get())
    {
        end_by_fault(current.get());
    }
    schedule::exit_work();
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_thread_begin() {
    boot::in_thread();
    schedule::exit_work();
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_serve_requests() {
    arch::tlb::serve();
    arch::ports::serve();
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_user_trap(context: &mut UserContext) {
    assert_own_stack(context);
    fault::report_at_once(context.vector);
    from_user(context);
}

/// From user mode: an interrupt, or a fault of the current thread.
pub(crate) fn from_user(context: &mut UserContext) {
    if context.vector >= FIRST_INTERRUPT {
        interrupt(context.vector);
    } else {
        user_fault(context, true);
    }
    schedule::exit_work();
}

/// From the kernel: an interrupt to the idle loop or to a preemption point, a fault in a copy from or to user memory or at the
/// load of a user's selector, or a bug.
#[unsafe(no_mangle)]
extern "C" fn switchyard_kernel_trap(context: &mut UserContext) {
    if context.vector >= FIRST_INTERRUPT {
        skip_halt(context);
        if let Some(cpu) = cpu::try_this() {
            cpu.seen.return_to_if_away();
        }
        interrupt(context.vector);
        return;
    }
    if context.vector == NMI {
        // Only before this CPU has stacks for it.
        switchyard_nmi(context);
        return;
    }
    if context.vector == PAGE_FAULT
        && is_user_address(context.cr2)
        && arch::user_copy::fixup(context.rip).is_some()
        && page_fault(context, false) == Mended::Yes
    {
        return;
    }
    // Only what such an instruction can raise: a machine check in that routine is still a machine check.
    let landing = match context.vector {
        PAGE_FAULT => arch::user_copy::fixup(context.rip),
        PROTECTION => arch::user_copy::fixup(context.rip)
            .or_else(|| arch::segments::fixup(context.rip))
            .or_else(|| arch::fpu::fixup(context.rip)),
        NOT_PRESENT => arch::segments::fixup(context.rip),
        _ => None,
    };
    match landing {
        Some(landing) => context.rip = landing,
        None => panic::on_exception(context, &Exception(context)),
    }
}

/// Anywhere: a panic on another CPU stops this one; otherwise an NMI says nothing that the kernel knows of, and is counted.
#[unsafe(no_mangle)]
extern "C" fn switchyard_nmi(_context: &mut UserContext) {
    if let Some(cpu) = cpu::try_this() {
        cpu.nmis.add(1);
    }
    if panic::somebody_panics() {
        halt_forever();
    }
}

/// Anywhere: an error of the CPU's own. One that was contained is counted and told of later, as the log may be locked by the
/// code that was interrupted; any other is the end.
#[unsafe(no_mangle)]
extern "C" fn switchyard_machine_check(context: &mut UserContext) {
    skip_halt(context);
    // SAFETY: this is the handler of #MC.
    let verdict = unsafe { take_machine_check() };
    match (verdict, cpu::try_this()) {
        (MachineCheck::Survivable(status), Some(cpu)) => {
            cpu.machine_checks.add(1);
            cpu.machine_check.store(status, Ordering::Relaxed);
            cpu.block().request(arch::cpu::Pending::MACHINE_CHECK);
        }
        _ => panic::on_exception(context, &Exception(context)),
    }
}

/// Anywhere: an exception could not be delivered, most likely for want of a stack.
#[unsafe(no_mangle)]
extern "C" fn switchyard_double_fault(context: &mut UserContext) -> ! {
    panic::on_exception(context, &Exception(context))
}

/// Tells of a machine check that was survived.
pub(crate) fn tell_of_machine_check() {
    let cpu = cpu::this();
    let status = cpu.machine_check.swap(0, Ordering::Relaxed);
    log::warn!(
        "CPU {}: a machine check was survived, status {status:#x}",
        cpu.index()
    );
}

fn interrupt(vector: u64) {
    let Some(cpu) = cpu::try_this() else { return };
    cpu.interrupts.add(1);
    if trace::is_noted(TraceKind::Interrupt) {
        trace::interrupt(cpu, vector);
    }
    match vector as u8 {
        apic::SPURIOUS_VECTOR => return,
        apic::TIMER_VECTOR => schedule::timer_interrupt(),
        RESCHEDULE_VECTOR => cpu.block().request(arch::cpu::Pending::INBOX),
        SERVE_VECTOR => {
            switchyard_serve_requests();
        }
        apic::ERROR_VECTOR => {
            let errors = apic::take_errors();
            log::warn!("CPU {}: local APIC error {errors:#x}", cpu.index());
        }
        vector if LEGACY.contains(&u64::from(vector)) => {
            // The masked legacy controllers still raise spurious interrupts, which the local APIC knows nothing of.
            pic::handle_spurious(vector);
            return;
        }
        vector => device_interrupt(cpu, vector),
    }
    apic::eoi();
}

fn device_interrupt(cpu: &cpu::Cpu, vector: u8) {
    match irq::arrived(vector, cpu.index(), time::now_ns()) {
        irq::Arrival::Taken | irq::Arrival::Nobodys { first: false } => {}
        irq::Arrival::Nobodys { first: true } => {
            log::warn!(
                "CPU {}: interrupt on vector {vector:#x}, which is nobody's",
                cpu.index()
            );
        }
        irq::Arrival::Storm {
            until_ns,
            first,
            rate,
        } => {
            schedule::open_gates_at(until_ns);
            if first {
                // Once for each object: the rest can be asked for.
                log::warn!(
                    "CPU {}: the device of vector {vector:#x} interrupts more than {} times in {} us; held back for {} ms each time",
                    cpu.index(),
                    rate.count,
                    rate.period_ns / 1000,
                    abi::irq::HOLD_NS / 1_000_000
                );
            }
        }
    }
}

fn is_user_address(address: u64) -> bool {
    address < abi::layout::USER_END
}

/// What the kernel can do about a page fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mended {
    /// The access can be tried again.
    Yes,
    /// Nothing.
    No,
    /// The page is mapped, and can't be had. This is why: bits for the error code.
    NoPage(u64),
}

/// Tries to make a page fault's access possible in the current thread's space. In a fault of user code others may have the CPU
/// meanwhile.
fn page_fault(context: &UserContext, of_user: bool) -> Mended {
    const WRITE: u64 = 1 << 1;
    const RESERVED_BIT: u64 = 1 << 3;
    const FETCH: u64 = 1 << 4;
    let Some(current) = cpu::this().current() else {
        return Mended::No;
    };
    if context.error_code & RESERVED_BIT != 0 || !is_user_address(context.cr2) {
        return Mended::No;
    }
    let access = if context.error_code & FETCH != 0 {
        Access::ReadExecute
    } else if context.error_code & WRITE != 0 {
        Access::ReadWrite
    } else {
        Access::Read
    };
    let Some(space) = current.get().space() else {
        return Mended::No;
    };
    let fault = if of_user {
        space.handle_user_fault(context.cr2, access, &mut schedule::preemption_point)
    } else {
        space.handle_page_fault(context.cr2, access)
    };
    match fault {
        Fault::Resolved => Mended::Yes,
        Fault::NotMine => Mended::No,
        Fault::Unsupplied if of_user => supplied(current.get(), context.cr2, access),
        Fault::Unsupplied => {
            cpu::this().lacks_page.set(true);
            Mended::No
        }
        // Said in the log only if the thread ends by it: a program can come to this as often as it likes.
        Fault::Failed(_) => Mended::NoPage(NO_MEMORY),
    }
}

/// The running thread, in a fault of its own, asks for the page at an address that has a pager.
fn supplied(thread: &Thread, address: u64, access: Access) -> Mended {
    match asked_for(thread, address & !(PAGE_BYTES - 1), access) {
        Asked::TryAgain => Mended::Yes,
        Asked::StandStill => {
            // Here, where it holds nothing: it may be ended before it goes on. If its registers are set meanwhile, it goes on with those.
            fault::stand_still(thread);
            Mended::Yes
        }
        Asked::Refused => Mended::NoPage(PAGE_REFUSED),
        Asked::NoPager => Mended::NoPage(NO_PAGER),
    }
}

/// What comes of asking for the page. The object that it is of is held as long as that takes.
fn asked_for(thread: &Thread, page: u64, access: Access) -> Asked {
    let Some((object, offset)) = thread.space().and_then(|space| space.mapped_at(page)) else {
        // Unmapped meanwhile: tried again, it faults for that.
        return Asked::TryAgain;
    };
    let Some(pager) = object.pager() else {
        return Asked::TryAgain;
    };
    let access = match access {
        Access::ReadWrite => PageAccess::Write,
        Access::ReadExecute => PageAccess::Execute,
        Access::Read => PageAccess::Read,
    };
    // SAFETY: the thread is the current one of this CPU.
    unsafe { arch::switch::complete_context(&thread.machine.state) };
    fault::ask_pager(thread, pager, offset, access)
}

/// Gives a thread the debug trap that it caused in the kernel, if it did: by a breakpoint on memory that the kernel touched for it.
pub(crate) fn deliver_debug_trap(thread: &Thread) {
    let Some(hits) = thread.machine.state.extras().take_hits() else {
        return;
    };
    let context = thread.registers_mut();
    context.vector = DEBUG;
    context.error_code = 0;
    context.debug_status = hits;
    user_fault(context, false);
}

/// A fault of a user program, which the kernel mends, somebody else takes care of, or which ends the program. `at_entry`: nothing else is to be done in this
/// kernel entry, so that it may be left for good.
fn user_fault(context: &mut UserContext, at_entry: bool) {
    if trace::is_noted(TraceKind::Fault) {
        let about = if context.vector == PAGE_FAULT {
            context.cr2
        } else {
            context.rip
        };
        trace::fault(context, about);
    }
    if context.vector == PAGE_FAULT {
        match page_fault(context, true) {
            Mended::Yes => return,
            Mended::No => {}
            Mended::NoPage(why) => context.error_code |= why,
        }
    }
    let Some(current) = cpu::this().current() else {
        return;
    };
    let thread = current.get();
    if context.vector == PROTECTION && thread.take_new_ports() {
        // Another thread of the process, or this one on another CPU, has enabled ports that this CPU did not know of.
        return;
    }
    if context.vector == FPU_UNAVAILABLE {
        // SAFETY: the thread is the current one of this CPU.
        match unsafe { thread.machine.provide_fpu_area() } {
            // The instruction is tried again.
            Ok(()) => return,
            // As for pages.
            Err(Error::NoMemory) => context.error_code |= NO_MEMORY,
            Err(_) => log::error!("a thread's floating-point state is damaged"),
        }
    }
    if at_entry && context.vector != DEBUG {
        fault::go_directly();
    }
    // SAFETY: the thread is the current one of this CPU.
    unsafe { arch::switch::complete_context(&thread.machine.state) };
    if !fault::report(thread) {
        end_by_fault(thread);
    }
}

/// Ends the running thread's program by the fault in its registers, with a report in the log.
fn end_by_fault(thread: &Thread) {
    // SAFETY: the thread is the current one of this CPU.
    unsafe { arch::switch::complete_context(&thread.machine.state) };
    // The thread keeps it alive, also over the preemption points that its end may have.
    let process = thread.process();
    let context = thread.registers();
    log::error!(
        "process {} ({}), thread {}: {} at {:#x}{}",
        process.id(),
        process.name().as_str(),
        thread.id(),
        FaultKind::from_vector(context.vector).text(),
        context.rip,
        Detail(context)
    );
    log::error!("{}", Registers(context));
    thread.rest.note_end(ThreadEnd::Faulted, context.vector);
    process.end(Ending::Fault(context));
    // Also if another thread had begun the end and not come to this one yet.
    thread.marks().kill();
    cpu::this().block().request(arch::cpu::Pending::THREAD);
}

/// What a page fault was about, or the error code of another fault.
struct Detail<'a>(&'a UserContext);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = self.0;
        if context.vector == PAGE_FAULT {
            let what = match context.error_code {
                code if code & 1 << 4 != 0 => "executing",
                code if code & 1 << 1 != 0 => "writing",
                _ => "reading",
            };
            let why = match context.error_code {
                code if code & PAGE_REFUSED != 0 => ", which its pager refused",
                code if code & NO_PAGER != 0 => ", whose pager does not answer",
                code if code & NO_MEMORY != 0 => ", for which there is no memory",
                _ => "",
            };
            write!(f, ", {what} {:#x}{why}", context.cr2)
        } else if context.vector == FPU_UNAVAILABLE && context.error_code & NO_MEMORY != 0 {
            f.write_str(", no memory for its state")
        } else if context.error_code != 0 {
            write!(f, ", error code {:#x}", context.error_code)
        } else {
            Ok(())
        }
    }
}

/// The registers, on lines of moderate length.
struct Registers<'a>(&'a UserContext);

impl fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.0;
        writeln!(
            f,
            "rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}",
            c.rax, c.rbx, c.rcx, c.rdx
        )?;
        writeln!(
            f,
            "rsi {:016x}  rdi {:016x}  rbp {:016x}  rsp {:016x}",
            c.rsi, c.rdi, c.rbp, c.rsp
        )?;
        writeln!(
            f,
            "r8  {:016x}  r9  {:016x}  r10 {:016x}  r11 {:016x}",
            c.r8, c.r9, c.r10, c.r11
        )?;
        writeln!(
            f,
            "r12 {:016x}  r13 {:016x}  r14 {:016x}  r15 {:016x}",
            c.r12, c.r13, c.r14, c.r15
        )?;
        write!(
            f,
            "rip {:016x}  cs {:x}  flags {:08x}  fs {:x}  gs {:x}",
            c.rip, c.cs, c.rflags, c.fs_base, c.gs_base
        )
    }
}

/// An exception of the kernel's own, in words.
struct Exception<'a>(&'a UserContext);

impl fmt::Display for Exception<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = self.0;
        if context.vector == DOUBLE_FAULT {
            f.write_str("double fault")?;
            if let Some(stack) = overflowed(context) {
                write!(f, ", the {stack} stack overflowed")?;
            }
            return match cpu::try_this().and_then(cpu::Cpu::current) {
                Some(thread) => write_thread(f, thread),
                None => f.write_str(", no thread"),
            };
        }
        if context.vector == MACHINE_CHECK {
            return f.write_str("machine check");
        }
        write!(
            f,
            "{} in the kernel{}",
            FaultKind::from_vector(context.vector).text(),
            Detail(context)
        )
    }
}

/// Which stack ran over, if one did: the stack pointer, or the address that could not be written, is in the unmapped page below it.
fn overflowed(context: &UserContext) -> Option<&'static str> {
    let hit = |is_guard: &dyn Fn(u64) -> bool| {
        [context.rsp, context.rsp.wrapping_sub(8), context.cr2]
            .into_iter()
            .any(is_guard)
    };
    let idle_guard = cpu::try_this().map(|cpu| {
        let bottom = cpu.idle_stack().start;
        bottom - PAGE_BYTES..bottom
    });
    if hit(&stacks::is_guard) {
        Some("kernel")
    } else if hit(&|address| boot::stack_guard().contains(&address)) {
        Some("boot")
    } else if hit(&|address| {
        idle_guard
            .as_ref()
            .is_some_and(|guard| guard.contains(&address))
    }) {
        Some("idle")
    } else {
        None
    }
}

fn write_thread(f: &mut fmt::Formatter<'_>, thread: ThreadPtr) -> fmt::Result {
    let thread = thread.get();
    // SAFETY: all kernel code between two quiescent points is inside a section, and a panic never comes to another.
    let section = unsafe { Section::enter() };
    let process = thread.process().borrow(&section);
    write!(
        f,
        ", thread {} of process {} ({})",
        thread.id(),
        process.id(),
        process.name().as_str()
    )
}
