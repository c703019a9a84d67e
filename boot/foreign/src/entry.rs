//! The first instruction, and the list of everything that is checked.

use crate::report::Report;
use crate::{features, files, machine, memory};
use core::arch::naked_asm;
use core::cell::UnsafeCell;

/// Registers as they were at the first instruction: RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15, RSP, RFLAGS.
#[repr(C)]
pub struct Registers(UnsafeCell<[u64; 17]>);

// SAFETY: written once by the entry routine, before any Rust code runs.
unsafe impl Sync for Registers {}

impl Registers {
    /// A copy.
    pub fn get(&self) -> [u64; 17] {
        // SAFETY: nobody writes any more.
        unsafe { self.0.get().read_volatile() }
    }
}

/// What the entry routine saw.
#[unsafe(no_mangle)]
pub static AT_ENTRY: Registers = Registers(UnsafeCell::new([0; 17]));

/// Where the entry point request sends the loader. Registers: saved as they are, then free. Stack: the loader's, with
/// a return address of 0 on it, which makes RSP what a function expects; 8 bytes of it are used for the flags.
///
/// # Safety
/// Only for the loader to jump to.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn requested_entry() -> ! {
    naked_asm!(
        "mov [rip + AT_ENTRY + 0x00], rax",
        "mov [rip + AT_ENTRY + 0x08], rbx",
        "mov [rip + AT_ENTRY + 0x10], rcx",
        "mov [rip + AT_ENTRY + 0x18], rdx",
        "mov [rip + AT_ENTRY + 0x20], rsi",
        "mov [rip + AT_ENTRY + 0x28], rdi",
        "mov [rip + AT_ENTRY + 0x30], rbp",
        "mov [rip + AT_ENTRY + 0x38], r8",
        "mov [rip + AT_ENTRY + 0x40], r9",
        "mov [rip + AT_ENTRY + 0x48], r10",
        "mov [rip + AT_ENTRY + 0x50], r11",
        "mov [rip + AT_ENTRY + 0x58], r12",
        "mov [rip + AT_ENTRY + 0x60], r13",
        "mov [rip + AT_ENTRY + 0x68], r14",
        "mov [rip + AT_ENTRY + 0x70], r15",
        "mov [rip + AT_ENTRY + 0x78], rsp",
        "pushfq",
        "pop [rip + AT_ENTRY + 0x80]",
        "jmp {main}",
        main = sym main,
    )
}

/// Where the ELF header points: a loader that comes here did not honour the entry point request.
#[unsafe(no_mangle)]
extern "C" fn elf_entry() -> ! {
    let mut report = Report::new();
    report.check(
        "entry_point_request",
        false,
        format_args!("started at the ELF entry point"),
    );
    report.end()
}

extern "C" fn main() -> ! {
    let mut report = Report::new();
    machine::check(&mut report);
    features::check(&mut report);
    memory::check(&mut report);
    files::check(&mut report);
    report.end()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    use core::fmt::Write;
    let _ = writeln!(crate::port::Serial, "FAIL panic: {info}");
    crate::port::end(false)
}
