//! `cpu_init`: brings any CPU, the first or a later one, into the one state that the kernel assumes.
//!
//! Nothing of what the firmware or the loader left is relied on: every bit of CR0, CR4 and EFER is set here. The results
//! are compared across CPUs, because a thread may go on anywhere.

use core::arch::asm;

use spin::Once;
use x86_64::registers::control::{Cr0Flags, Cr4Flags, EferFlags};
use x86_64::registers::rflags::RFlags;

use super::block::CpuBlock;
use super::features::{self, Features};
use super::gdt::{KERNEL_CODE, STAR_VALUE};
use super::msr::Msr;
use super::mtrr;
use crate::mitigations::decisions;
use crate::{entry, paging};

/// The registers that must be equal on all CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlState {
    /// CR0, TS aside.
    pub cr0: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// PAT.
    pub pat: u64,
    /// XCR0, 0 without XSAVE.
    pub xcr0: u64,
}

/// Why a CPU can't be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// It lacks a feature that the first CPU has and the kernel uses.
    Differs,
    /// Its registers took other values than the first CPU's.
    State(ControlState),
}

static FIRST: Once<ControlState> = Once::new();

/// The flags that `syscall` clears. Bit by bit: TF, or the kernel would be single-stepped; IF, as the kernel runs with interrupts
/// off; DF, as compiled code expects it clear; IOPL and NT, which must not act in the kernel; RF, so that breakpoints in the
/// kernel are honest; AC, which with SMAP would open user memory. The arithmetic flags are cleared too, so that nothing of the
/// user's is in the kernel's flags.
const FMASK_VALUE: u64 = RFlags::all().bits();

const _: () = {
    let must = RFlags::TRAP_FLAG.bits()
        | RFlags::INTERRUPT_FLAG.bits()
        | RFlags::DIRECTION_FLAG.bits()
        | RFlags::NESTED_TASK.bits()
        | RFlags::ALIGNMENT_CHECK.bits()
        | RFlags::IOPL_LOW.bits()
        | RFlags::IOPL_HIGH.bits()
        | RFlags::RESUME_FLAG.bits();
    assert!(FMASK_VALUE & must == must);
};

/// Reads the first CPU's features and remembers them.
pub fn detect() -> &'static Features {
    features::remember(features::read())
}

/// Brings this CPU into the kernel's state: tables, control registers, memory types, FPU components, system call registers.
///
/// # Errors
/// A CPU that differs from the first in what the kernel uses; it must be left out.
///
/// # Safety
/// `block` must be this CPU's, interrupts must be off, and the code, the stack and the block must stay mapped. `detect` has
/// run on the first CPU.
pub unsafe fn cpu_init(block: &'static CpuBlock) -> Result<(), InitError> {
    let wanted = features::features();
    // The tables first: a CPU that is refused below halts with them, and an NMI finds a handler.
    // SAFETY: the block is this CPU's; the rest is the caller's promise.
    unsafe { block.load() };
    if features::read() != *wanted {
        return Err(InitError::Differs);
    }
    // SAFETY: each bit is either architectural or announced by CPUID; paging stays on with the same format.
    unsafe {
        Msr::EFER.write(efer() | automatic_ibrs());
        write_cr0(CR0);
        write_cr4(cr4(wanted));
        Msr::PAT.write(paging::PAT_VALUE);
        if wanted.mtrr {
            mtrr::agree();
        }
        if wanted.xsave {
            asm!("xsetbv", in("ecx") 0, in("eax") wanted.fpu.xcr0 as u32, in("edx") (wanted.fpu.xcr0 >> 32) as u32,
                options(nomem, nostack, preserves_flags));
        }
        Msr::STAR.write(STAR_VALUE);
        Msr::LSTAR.write(entry::syscall_address());
        Msr::CSTAR.write(entry::compat_syscall_address());
        Msr::FMASK.write(FMASK_VALUE);
        init_sysenter(wanted);
        if decisions().ibrs {
            Msr::SPEC_CTRL.write(RESTRICTED_SPECULATION);
        }
        if wanted.rdtscp {
            Msr::TSC_AUX.write(u64::from(block.index().0));
        }
        if !crate::fpu::init_this_cpu(block) {
            return Err(InitError::Differs);
        }
    }
    let state = ControlState {
        cr0: read_cr0() & !CR0_TASK_SWITCHED,
        cr4: read_cr4(),
        // SAFETY: both registers exist on every 64-bit CPU.
        efer: unsafe { Msr::EFER.read() },
        // SAFETY: as above.
        pat: unsafe { Msr::PAT.read() },
        xcr0: wanted.fpu.xcr0,
    };
    if *FIRST.call_once(|| state) == state {
        Ok(())
    } else {
        Err(InitError::State(state))
    }
}

/// Sets the registers of `sysenter`: its entry on Intel's CPUs, elsewhere nothing. In long mode it is #UD on AMD's CPUs (AMD64 APM
/// vol. 3, SYSENTER), but emulators may let it through; CS 0 makes it a #GP everywhere (Intel SDM vol. 2B, SYSENTER).
///
/// RSP is 0 until the entry has found its stack: what can come before that has a stack of its own (IST).
///
/// # Safety
/// To be called in `cpu_init` only.
unsafe fn init_sysenter(features: &Features) {
    // SAFETY: every 64-bit CPU has the three registers. The selector is the kernel's code segment, behind which its
    // data segment lies, as the instruction demands.
    unsafe {
        if features.intel {
            Msr::SYSENTER_CS.write(u64::from(KERNEL_CODE));
            Msr::SYSENTER_ESP.write(0);
            Msr::SYSENTER_EIP.write(entry::sysenter_address());
        } else {
            Msr::SYSENTER_CS.write(0);
        }
    }
}

/// CR0 on every CPU, TS aside.
pub(crate) const CR0: u64 = Cr0Flags::PROTECTED_MODE_ENABLE.bits()
    | Cr0Flags::MONITOR_COPROCESSOR.bits()
    | Cr0Flags::EXTENSION_TYPE.bits()
    | Cr0Flags::NUMERIC_ERROR.bits()
    | Cr0Flags::WRITE_PROTECT.bits()
    | Cr0Flags::ALIGNMENT_MASK.bits()
    | Cr0Flags::PAGING.bits();
/// The bit that makes the next FPU instruction a #NM.
pub(crate) const CR0_TASK_SWITCHED: u64 = Cr0Flags::TASK_SWITCHED.bits();

fn efer() -> u64 {
    // LMA is read-only while paging is on and is written as it is (AMD64 APM vol. 2 §3.1.7 wants it unchanged).
    (EferFlags::SYSTEM_CALL_EXTENSIONS
        | EferFlags::LONG_MODE_ENABLE
        | EferFlags::LONG_MODE_ACTIVE
        | EferFlags::NO_EXECUTE_ENABLE)
        .bits()
}

/// IA32_SPEC_CTRL.IBRS: with IBRS_ALL it is set once, and branches in the kernel follow no prediction that user mode trained (Intel SDM
/// vol. 4, MSR 48H).
const RESTRICTED_SPECULATION: u64 = 1;

/// The bit of EFER that does the same on AMD's CPUs (AMD64 APM vol. 2 §3.1.7).
fn automatic_ibrs() -> u64 {
    u64::from(decisions().automatic_ibrs) << 21
}

fn cr4(features: &Features) -> u64 {
    let mut flags = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
        | Cr4Flags::MACHINE_CHECK_EXCEPTION
        | Cr4Flags::OSFXSR
        | Cr4Flags::OSXMMEXCPT_ENABLE;
    // What is global stays in the TLB when user mode gets tables without it, so nothing may be.
    flags.set(
        Cr4Flags::PAGE_GLOBAL,
        features.global_pages && !decisions().isolation,
    );
    flags.set(Cr4Flags::PCID, features.pcid);
    flags.set(Cr4Flags::FSGSBASE, features.fsgsbase);
    flags.set(Cr4Flags::OSXSAVE, features.xsave);
    flags.set(
        Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
        features.smep,
    );
    flags.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.smap);
    flags.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.umip);
    flags.bits()
}

fn read_cr0() -> u64 {
    let value;
    // SAFETY: reading CR0 has no effect.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack)) };
    value
}

fn read_cr4() -> u64 {
    let value;
    // SAFETY: reading CR4 has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack)) };
    value
}

/// # Safety
/// The value must keep the kernel running: protection and paging on.
unsafe fn write_cr0(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack)) };
}

/// # Safety
/// The value must set only bits that the CPU has and keep PAE.
unsafe fn write_cr4(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack)) };
}
