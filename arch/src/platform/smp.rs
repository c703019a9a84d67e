//! Starting the other CPUs: INIT, start-up, start-up, and an answer within a bounded time (Intel SDM vol. 3A §9.4).
//!
//! One CPU is started at a time, by the first. The new one answers by changing the mailbox, from the code in the
//! [trampoline](super::trampoline), before it uses anything it was given. One that doesn't answer is left out: its offer
//! is withdrawn, so that if it comes after all it takes nothing and halts, and it gets another INIT, so that it most
//! likely never comes.
//!
//! What may go wrong under load: an emulator may run the new CPU so late that it is given up although it works; so patience
//! is longer under a hypervisor.

use core::{
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use x86_64::registers::model_specific::{Efer, EferFlags};

use super::{
    apic::{self, ApicError},
    apic_registers::startup_vector,
    hypervisor,
    trampoline::{EFER_LONG_MODE, EFER_NO_EXECUTE, Parameters, TAKEN},
};
use crate::{
    addr::{ApicId, PhysAddr, VirtAddr},
    memory::phys_to_virt,
    time::{delay_ns, now_ns},
};

/// Between INIT and the first start-up message (Intel SDM vol. 3A §9.4.4.1). A virtual CPU needs none.
const INIT_NS: u64 = 10_000_000;
/// Between the two start-up messages.
const STARTUP_NS: u64 = 200_000;
/// From the last message until the CPU is given up, on hardware and under a hypervisor.
const PATIENCE_NS: u64 = 1_000_000_000;
const VIRTUAL_PATIENCE_NS: u64 = 10_000_000_000;

/// Polls between two looks at the clock.
const POLLS: u32 = 50;

/// What the CPU that is being started changes from its ticket to the ticket with [`TAKEN`]. 0: no offer.
static MAILBOX: AtomicU32 = AtomicU32::new(0);
/// The last ticket given out.
static TICKET: AtomicU32 = AtomicU32::new(0);

/// What a new CPU is given.
#[derive(Clone, Copy, Debug)]
pub struct ApBoot {
    /// A page below 1 MiB, reserved for this, within the direct map.
    pub trampoline: PhysAddr,
    /// The root of page tables that show the trampoline at its own address, executable, besides the kernel's half with
    /// the stack and, in xAPIC mode, the local APIC's registers. Below 4 GiB: it is loaded in protected mode.
    pub root: PhysAddr,
    /// The end of the CPU's first stack, which it will fill downwards; rounded down to 16.
    pub stack_top: VirtAddr,
    /// Where the CPU goes, with interrupts off, on that stack, with the state that `cpu_init` starts from.
    pub entry: extern "C" fn(u64) -> !,
    /// What it is passed.
    pub argument: u64,
}

/// Why a CPU was not started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// The trampoline is not a page that a start-up message can name.
    BadTrampoline(PhysAddr),
    /// The root of the page tables is above 4 GiB or not page-aligned.
    BadRoot(PhysAddr),
    /// The messages can't be sent.
    Apic(ApicError),
    /// The CPU did not answer.
    NoAnswer,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadTrampoline(page) => {
                write!(f, "no CPU can be started at {:#x}", page.as_u64())
            }
            Self::BadRoot(root) => {
                write!(f, "no CPU can start on page tables at {:#x}", root.as_u64())
            }
            Self::Apic(error) => error.fmt(f),
            Self::NoAnswer => f.write_str("no answer"),
        }
    }
}

impl core::error::Error for StartError {}

/// Waits until the CPU with `ticket` has answered, at most `patience_ns`.
fn answered(ticket: u32, patience_ns: u64) -> bool {
    let begin = now_ns();
    loop {
        // Emulators make a look at the clock slow, and slower if many look.
        for _ in 0..POLLS {
            if MAILBOX.load(Ordering::Acquire) == ticket | TAKEN {
                return true;
            }
            core::hint::spin_loop();
        }
        if now_ns().wrapping_sub(begin) >= patience_ns {
            return false;
        }
    }
}

/// Starts one CPU and waits until it runs on its stack, at most some seconds. When this returns `Ok`, the CPU is on its
/// way into `boot.entry`, and the trampoline can be used for the next.
///
/// # Errors
/// The page or the page tables can't be used, messages don't leave, or the CPU doesn't answer; it is then left waiting for
/// another start, its stack is unused and stays so.
///
/// # Safety
/// On the first CPU, one call at a time, after [`apic::init_boot_cpu`] and time is set up. `target` must be another
/// CPU that does not run yet. `boot` must hold what its fields say, and the trampoline page and its mapping must stay
/// for as long as CPUs are started, and the root for good if one did not answer.
pub unsafe fn start_cpu(target: ApicId, boot: &ApBoot) -> Result<(), StartError> {
    let page = boot.trampoline.as_u64();
    let vector = startup_vector(page).ok_or(StartError::BadTrampoline(boot.trampoline))?;
    let root = u32::try_from(boot.root.as_u64())
        .ok()
        .filter(|root| root.is_multiple_of(4096))
        .ok_or(StartError::BadRoot(boot.root))?;
    let seen = NonNull::new(phys_to_virt(boot.trampoline))
        .ok_or(StartError::BadTrampoline(boot.trampoline))?;

    // From 1 on; they don't run out.
    let ticket = TICKET.fetch_add(1, Ordering::Relaxed) % (TAKEN - 1) + 1;
    let no_execute = Efer::read().contains(EferFlags::NO_EXECUTE_ENABLE);
    let mut parameters = Parameters::new(page as u32);
    parameters.apic_registers = apic::registers();
    parameters.mailbox = MAILBOX.as_ptr() as u64;
    parameters.stack = boot.stack_top.as_u64() & !0xF;
    parameters.entry = boot.entry as usize as u64;
    parameters.argument = boot.argument;
    parameters.ticket = ticket;
    parameters.apic_id = target.0;
    parameters.cr3 = root;
    parameters.efer = EFER_LONG_MODE | if no_execute { EFER_NO_EXECUTE } else { 0 };
    MAILBOX.store(ticket, Ordering::SeqCst);
    // SAFETY: the page is reserved for this, and the CPU before has left it when it answered.
    unsafe { parameters.install(seen) };

    // SAFETY: the caller vouches that the CPU runs nothing, and the page holds what it starts with.
    let result = unsafe { call(target, vector, ticket) };
    if result.is_ok() {
        return Ok(());
    }
    let withdrawn = MAILBOX.compare_exchange(ticket, 0, Ordering::SeqCst, Ordering::SeqCst);
    if withdrawn == Err(ticket | TAKEN) {
        // It came just now.
        return Ok(());
    }
    // SAFETY: the CPU did not answer, so it runs nothing that is needed. If the message doesn't leave either, the withdrawn
    // offer stops the CPU.
    let _ = unsafe { apic::send_init(target) };
    result
}

/// # Safety
/// As for [`start_cpu`], whose page is filled in.
unsafe fn call(target: ApicId, vector: u8, ticket: u32) -> Result<(), StartError> {
    let is_virtual = hypervisor::present();
    // SAFETY: passed on to the caller.
    unsafe {
        apic::send_init(target).map_err(StartError::Apic)?;
        if !is_virtual {
            delay_ns(INIT_NS);
        }
        apic::send_startup(target, vector).map_err(StartError::Apic)?;
        if answered(ticket, STARTUP_NS) {
            return Ok(());
        }
        apic::send_startup(target, vector).map_err(StartError::Apic)?;
    }
    let patience = if is_virtual {
        VIRTUAL_PATIENCE_NS
    } else {
        PATIENCE_NS
    };
    if answered(ticket, patience) {
        Ok(())
    } else {
        Err(StartError::NoAnswer)
    }
}
