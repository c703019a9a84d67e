//! System calls: each is a function from the caller and its registers to a result; one wrapper turns errors into `rax`.
//!
//! Everything in a caller's registers is an allegation. Numbers are judged as whole registers, handles by the caller's table,
//! pointers by [`UserSlice`](crate::memory::user::UserSlice) and, when they are used, by the page tables.

mod caller;
pub mod compat;
mod context;
mod debug;
mod device;
mod handle;
mod ipc;
mod log;
mod memory;
mod objects;
mod process;
mod report;
mod short;
mod system;
mod thread;

use abi::trace::TraceKind;
use abi::{Call, Deadline, Error, UserContext};

use crate::cpu;
use crate::object::Section;
use crate::reported;
use crate::schedule;
use crate::thread::ThreadPtr;
use crate::trace;

pub(crate) use caller::{Caller, Named};

/// What a call leaves in the registers.
enum Outcome {
    /// Success; results other than the status are written already.
    Done,
    /// Status and results are written already, by this call or by whoever woke the thread.
    Written,
}

/// Runs the system call in the registers of the current thread, and does what is due on the way out.
pub fn enter() {
    if let Some(current) = cpu::this().current() {
        perform(current);
        schedule::exit_work();
    }
}

/// [`enter`] for a thread whose calls are reported.
pub fn enter_reported() {
    if let Some(current) = cpu::this().current() {
        reported::call(current.get(), |thread| {
            // Its supervisor may have chosen another.
            thread.registers_mut().call_number = thread.registers().rax;
            perform(current);
        });
        schedule::exit_work();
    }
}

/// A thread that waited by the direct way was woken; its status and results are in its context.
pub fn woken(context: &mut UserContext) {
    if context.rax != 0 {
        // Kept, as all else: it had no deadline, which is why it is saved nowhere.
        context.r14 = Deadline::NEVER.0;
    }
    schedule::after_wait();
    schedule::exit_work();
}

/// Runs the system call in the registers of the current thread. Status and results are in them then.
#[inline(always)]
fn perform(current: ThreadPtr) {
    // SAFETY: this is the beginning of a kernel entry; it ends before `exit_work` declares a quiescent point.
    let mut section = unsafe { Section::enter() };
    match run(current, &mut section) {
        Ok(Outcome::Done) => current.get().set_status(Ok(())),
        Ok(Outcome::Written) => {}
        Err(error) => current.get().set_status(Err(error)),
    }
}

#[inline(never)]
fn run(current: ThreadPtr, section: &mut Section) -> Result<Outcome, Error> {
    let caller = Caller::new(current);
    let call =
        Call::from_number(current.get().registers().call_number).ok_or(Error::UnknownCall)?;
    if trace::is_noted(TraceKind::Ipc) {
        trace::ipc(call, caller.argument(0));
    }
    match call {
        Call::Null
        | Call::Yield
        | Call::Signal
        | Call::ClockNow
        | Call::MemoryMap
        | Call::MemoryUnmap
        | Call::HandleClose
        | Call::ThreadCreate => return Ok(short::by_context(caller)),
        Call::Call => return ipc::call(caller, section),
        Call::Send => return ipc::send(caller, section),
        Call::Recv => return ipc::recv(caller, section),
        Call::Reply => ipc::reply(caller, section)?,
        Call::ReplyRecv => return ipc::reply_recv(caller, section),
        Call::Wait => return ipc::wait(caller, section),
        Call::SignalWait => return ipc::signal_wait(caller, section),
        Call::Sleep => return Ok(ipc::sleep(caller, section)),

        Call::HandleDuplicate => handle::duplicate(caller)?,
        Call::HandleQuery => handle::query(caller)?,
        Call::HandleGrant => handle::grant(caller, section)?,
        Call::EndpointCreate => handle::create_endpoint(caller)?,
        Call::EndpointMint => handle::mint(caller)?,
        Call::NotificationCreate => handle::create_notification(caller)?,
        Call::NotificationBind => handle::bind(caller, section)?,

        Call::MemoryCreate => memory::create(caller)?,
        Call::MemoryCreatePhysical => memory::create_physical(caller)?,
        Call::MemoryProtect => memory::protect(caller)?,
        Call::MemoryRead => memory::copy(caller, memory::Direction::Out)?,
        Call::MemoryWrite => memory::copy(caller, memory::Direction::In)?,
        Call::MemoryClone => memory::clone(caller)?,
        Call::MemoryCreateContiguous => memory::create_contiguous(caller)?,
        Call::MemoryPhysical => memory::physical(caller)?,
        Call::MemoryMapNew => memory::map_new(caller)?,
        Call::MemoryCreatePaged => memory::create_paged(caller)?,
        Call::MemorySupply => memory::supply(caller)?,
        Call::MemoryTakeBack => memory::take_back(caller)?,

        Call::ProcessCreate => process::create(caller)?,
        Call::ProcessKill => process::kill(caller)?,
        Call::ProcessExit => process::exit(caller),
        Call::ProcessWatch => process::watch(caller)?,
        Call::ProcessInfo => process::info(caller)?,
        Call::ProcessSelf => process::this(caller)?,
        Call::ProcessQuota => process::quota(caller)?,
        Call::ProcessSetQuota => process::set_quota(caller)?,

        Call::ThreadStart => thread::start(caller)?,
        Call::ThreadExit => thread::exit(caller),
        Call::ThreadKill => thread::kill(caller)?,
        Call::ThreadSetPriority => thread::set_priority(caller)?,
        Call::ThreadSetAffinity => return thread::set_affinity(caller, section),
        Call::ThreadSetFsBase => thread::set_fs_base(caller)?,
        Call::ThreadSelf => thread::this(caller)?,
        Call::ThreadSetTls => context::set_tls(caller)?,
        Call::ThreadGetContext => context::get(caller)?,
        Call::ThreadSetContext => context::set(caller)?,

        Call::IrqCreate => device::create_irq(caller)?,
        Call::IrqBind => device::bind_irq(caller)?,
        Call::IrqAcknowledge => device::acknowledge_irq(caller)?,
        Call::IoPortsCreate => device::create_ports(caller)?,
        Call::IoPortsEnable => device::enable_ports(caller)?,
        Call::IoPortsDisable => device::disable_ports(caller)?,
        Call::MsiCreate => device::create_message(caller)?,
        Call::IrqRoute => device::route_irq(caller)?,
        Call::IrqLimit => device::limit_irq(caller)?,
        Call::IrqInfo => device::irq_info(caller)?,

        Call::LogWrite => log::write(caller)?,
        Call::LogRead => log::read(caller)?,
        Call::LogTake => log::take(caller)?,
        Call::SystemQuery => system::query(caller)?,
        Call::SystemPower => system::power(caller)?,
        Call::SystemTrace => system::trace(caller)?,
        Call::SystemTraceRead => system::read_trace(caller)?,

        Call::ThreadSuspend => return thread::suspend(caller, section),
        Call::ThreadResume => thread::resume(caller)?,
        Call::ThreadCancel => thread::cancel(caller)?,
        Call::ThreadJoin => return thread::join(caller, section),
        Call::ThreadSetBudget => thread::set_budget(caller)?,
        Call::ThreadGetAffinity => thread::get_affinity(caller)?,
        Call::ThreadInfo => thread::info(caller)?,
        Call::ReportTo => report::report_to(caller)?,
        Call::ProcessRead => debug::copy(caller, crate::memory::user::Direction::ToUser)?,
        Call::ProcessWrite => debug::copy(caller, crate::memory::user::Direction::FromUser)?,
        Call::ProcessThread => debug::thread(caller)?,
    }
    Ok(Outcome::Done)
}
