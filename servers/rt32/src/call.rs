//! System calls of 32-bit code: raw passages with every register known, and the two forms over them.

use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::compat::{BLOCK_FORM, BLOCK_WORDS};
use abi::ipc_area::IpcHeader;
use abi::{Call, Error};

use crate::{start, tls};

/// The registers and flags before and after a passage.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// Number, and status.
    pub eax: u32,
    /// First pair, low.
    pub ebx: u32,
    /// First pair, high.
    pub ecx: u32,
    /// Second pair, low.
    pub edx: u32,
    /// Second pair, high.
    pub esi: u32,
    /// Third pair, low.
    pub edi: u32,
    /// Third pair, high.
    pub ebp: u32,
    /// Flags.
    pub flags: u32,
}

/// IF and the bit that is always one: what user mode can't clear.
pub const BASE_FLAGS: u32 = 0x202;

/// A function that enters the kernel with the registers as it finds them.
pub type Entry = unsafe extern "C" fn();

/// `int 0x80`.
///
/// # Safety
/// The registers are a system call that does no harm.
#[unsafe(naked)]
pub unsafe extern "C" fn by_interrupt() {
    naked_asm!("int 0x80", "ret")
}

/// `syscall`, outside of the landing page: AMD's CPUs.
///
/// # Safety
/// The registers are a system call that does no harm.
#[unsafe(naked)]
pub unsafe extern "C" fn by_syscall() {
    naked_asm!("push ecx", "syscall", "ret")
}

/// Through the landing page, by what the thread's own storage has at `gs:0x10`.
///
/// # Safety
/// The registers are a system call that does no harm.
#[unsafe(naked)]
pub unsafe extern "C" fn by_thread_storage() {
    naked_asm!("jmp dword ptr gs:[0x10]")
}

/// Address of `__kernel_vsyscall`; 0 until the start block was read.
static VSYSCALL: AtomicU32 = AtomicU32::new(0);

/// Through the landing page, by the address that the start block brought; `int 0x80` if it brought none.
pub fn by_landing() -> Entry {
    match VSYSCALL.load(Ordering::Relaxed) {
        0 => by_interrupt,
        // SAFETY: the kernel keeps a routine there that is called like this, for as long as the process lives.
        address => unsafe { core::mem::transmute::<usize, Entry>(address as usize) },
    }
}

pub(crate) fn set_vsyscall(address: u32) {
    VSYSCALL.store(address, Ordering::Relaxed);
}

/// Loads all registers and flags, calls `entry`, and stores them again.
///
/// Stack: `[esp] return, [esp+4] registers, [esp+8] entry`; four saved registers below, then both arguments again.
///
/// # Safety
/// The registers are a system call that does no harm.
#[unsafe(naked)]
pub unsafe extern "C" fn pass(registers: &mut Registers, entry: Entry) {
    naked_asm!(
        "push ebp",
        "push ebx",
        "push esi",
        "push edi",
        "mov eax, [esp + 20]",
        "push eax",
        "push dword ptr [esp + 28]",
        "mov ebx, [eax + {ebx}]",
        "mov ecx, [eax + {ecx}]",
        "mov edx, [eax + {edx}]",
        "mov esi, [eax + {esi}]",
        "mov edi, [eax + {edi}]",
        "mov ebp, [eax + {ebp}]",
        "push dword ptr [eax + {flags}]",
        "mov eax, [eax + {eax}]",
        "popfd",
        "call dword ptr [esp]",
        "pushfd",
        "push eax",
        "mov eax, [esp + 12]",
        "mov [eax + {ebx}], ebx",
        "mov [eax + {ecx}], ecx",
        "mov [eax + {edx}], edx",
        "mov [eax + {esi}], esi",
        "mov [eax + {edi}], edi",
        "mov [eax + {ebp}], ebp",
        "pop dword ptr [eax + {eax}]",
        "pop dword ptr [eax + {flags}]",
        // What Rust expects: direction up, no alignment checks, no single steps.
        "push 2",
        "popfd",
        "add esp, 8",
        "pop edi",
        "pop esi",
        "pop ebx",
        "pop ebp",
        "ret",
        eax = const offset_of!(Registers, eax),
        ebx = const offset_of!(Registers, ebx),
        ecx = const offset_of!(Registers, ecx),
        edx = const offset_of!(Registers, edx),
        esi = const offset_of!(Registers, esi),
        edi = const offset_of!(Registers, edi),
        ebp = const offset_of!(Registers, ebp),
        flags = const offset_of!(Registers, flags),
    )
}

/// A status as a result.
///
/// # Errors
/// The status's own; `NotSupported` for a code that this program doesn't know.
pub fn check(status: u32) -> Result<(), Error> {
    match status {
        0 => Ok(()),
        code => Err(Error::from_code(u64::from(code)).unwrap_or(Error::NotSupported)),
    }
}

/// A call in the register form by an entry: up to three arguments, up to three results.
///
/// # Errors
/// The call's.
///
/// # Safety
/// The call must not take away memory that the program still uses, nor write over any.
pub unsafe fn plain_by(entry: Entry, call: Call, arguments: [u64; 3]) -> Result<[u64; 3], Error> {
    let [first, second, third] = arguments;
    let mut registers = Registers {
        eax: call as u32,
        ebx: first as u32,
        ecx: (first >> 32) as u32,
        edx: second as u32,
        esi: (second >> 32) as u32,
        edi: third as u32,
        ebp: (third >> 32) as u32,
        flags: BASE_FLAGS,
    };
    // SAFETY: the caller's promise.
    unsafe { pass(&mut registers, entry) };
    check(registers.eax)?;
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok([
        pair(registers.ebx, registers.ecx),
        pair(registers.edx, registers.esi),
        pair(registers.edi, registers.ebp),
    ])
}

/// The same through the landing page.
///
/// # Errors
/// The call's.
///
/// # Safety
/// As for [`plain_by`].
pub unsafe fn plain(call: Call, arguments: [u64; 3]) -> Result<[u64; 3], Error> {
    // SAFETY: the caller's promise.
    unsafe { plain_by(by_landing(), call, arguments) }
}

/// The thread's IPC area.
pub fn area() -> *mut IpcHeader {
    tls::area()
}

/// A call in the block form by an entry: all registers of the 64-bit map, in and out, in the order of [`abi::compat::block`].
///
/// # Errors
/// The call's; then the block is as it was.
///
/// # Safety
/// As for [`plain_by`]. The thread's IPC area is written.
pub unsafe fn block_by(
    entry: Entry,
    call: Call,
    block: &mut [u64; BLOCK_WORDS],
) -> Result<(), Error> {
    let words = (area() as usize + offset_of!(IpcHeader, registers)) as *mut [u64; BLOCK_WORDS];
    let mut registers = Registers {
        eax: call as u32 | BLOCK_FORM,
        flags: BASE_FLAGS,
        ..Registers::default()
    };
    // SAFETY: the area is the thread's own and mapped as long as it lives; the rest is the caller's promise.
    unsafe {
        words.write_volatile(*block);
        pass(&mut registers, entry);
        *block = words.read_volatile();
    }
    check(registers.eax)
}

/// The same through the landing page.
///
/// # Errors
/// As for [`block_by`].
///
/// # Safety
/// As for [`block_by`].
pub unsafe fn block(call: Call, block: &mut [u64; BLOCK_WORDS]) -> Result<(), Error> {
    // SAFETY: the caller's promise.
    unsafe { block_by(by_landing(), call, block) }
}

/// Ends the process with an exit code.
pub fn exit(code: u64) -> ! {
    // SAFETY: ends the process, after which nothing is owed.
    let _ = unsafe { plain(Call::ProcessExit, [code, 0, 0]) };
    unreachable!("the kernel returned from process_exit")
}

/// Monotonic nanoseconds.
pub fn now_ns() -> u64 {
    // SAFETY: touches no memory.
    unsafe { plain(Call::ClockNow, [0; 3]) }.map_or(0, |results| results[0])
}

/// Sleeps until a deadline in monotonic nanoseconds: 64 bits, so by the block form.
///
/// # Errors
/// `Cancelled`.
pub fn sleep_until(deadline: u64) -> Result<(), Error> {
    let mut words = [0; BLOCK_WORDS];
    words[abi::compat::block::R14] = deadline;
    // SAFETY: touches no memory but the area.
    unsafe { block(Call::Sleep, &mut words) }
}

/// A handle to the calling process: the one that the start block brought, or a new one.
///
/// # Errors
/// The call's.
pub fn own_process() -> Result<u64, Error> {
    match start::handle(abi::start::names::PROCESS) {
        Some(handle) => Ok(handle),
        // SAFETY: touches no memory.
        None => unsafe { plain(Call::ProcessSelf, [0; 3]) }.map(|results| results[0]),
    }
}
