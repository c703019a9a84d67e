//! The image for 32-bit processes: `__kernel_vsyscall`, in the form that suits the CPU.
//!
//! The routine has a fixed place of 16 bytes in the image, into which one of three is put when the image is made. Each is called
//! with a return address on the stack and keeps all registers but the results; what it pushes for the kernel, the
//! kernel takes off again (see `abi::compat`). The one with `sysenter` ends in the `ret` that the kernel returns to.

use core::arch::global_asm;

use super::IMAGE_BYTES;

/// A way into the kernel for 32-bit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vsyscall {
    /// `int 0x80`: everywhere.
    Interrupt,
    /// `syscall`: AMD's CPUs.
    Syscall,
    /// `sysenter`: Intel's CPUs.
    Sysenter,
}

unsafe extern "C" {
    static switchyard_image32: [u8; IMAGE_BYTES];
    static switchyard_image32_slot: u8;
    static switchyard_vsyscall_interrupt: [u8; SLOT_BYTES];
    static switchyard_vsyscall_syscall: [u8; SLOT_BYTES];
    static switchyard_vsyscall_sysenter: [u8; SLOT_BYTES];
    static switchyard_vsyscall_sysenter_return: u8;
}

/// Room for the routine.
const SLOT_BYTES: usize = 16;

impl Vsyscall {
    /// Offset of the routine in the image.
    pub fn offset(self) -> u64 {
        (&raw const switchyard_image32_slot) as u64 - (&raw const switchyard_image32) as u64
    }

    /// Offset, in the image, of the instruction to which a `sysenter` in it returns; `None` if there is none in it.
    pub fn sysenter_return(self) -> Option<u64> {
        (self == Vsyscall::Sysenter).then(|| {
            self.offset() + (&raw const switchyard_vsyscall_sysenter_return) as u64
                - (&raw const switchyard_vsyscall_sysenter) as u64
        })
    }

    fn routine(self) -> &'static [u8; SLOT_BYTES] {
        // SAFETY: the assembler fills just so many bytes from each of the labels on, in a read-only section.
        unsafe {
            match self {
                Vsyscall::Interrupt => &switchyard_vsyscall_interrupt,
                Vsyscall::Syscall => &switchyard_vsyscall_syscall,
                Vsyscall::Sysenter => &switchyard_vsyscall_sysenter,
            }
        }
    }
}

/// Makes the image with this way into the kernel.
pub fn image32(way: Vsyscall, write: impl FnOnce(&[u8; IMAGE_BYTES])) {
    // SAFETY: the assembler fills just so many bytes from that label on, in a read-only section.
    let mut image = unsafe { switchyard_image32 };
    let at = way.offset() as usize;
    image[at..at + SLOT_BYTES].copy_from_slice(way.routine());
    write(&image);
}

// Numbers are those of the ELF-32 object file format and the System V ABI for Intel386: ET_DYN, EM_386, PT_LOAD, PT_DYNAMIC, DT_*.
// Addresses count from the image's start.
global_asm!(
    ".pushsection .rodata.switchyard_image32, \"a\", @progbits",
    ".balign 4096",
    ".globl switchyard_image32",
    "switchyard_image32:",
    ".Limage32:",
    ".byte 0x7F, 0x45, 0x4C, 0x46, 1, 1, 1, 0",
    ".quad 0",
    ".short 3, 3",
    ".long 1",
    ".long switchyard_image32_slot - .Limage32",    // entry point
    ".long .Lheaders32 - .Limage32",
    ".long 0, 0",                                   // no sections
    ".short 52, 32, 2, 40, 0, 0",
    ".Lheaders32:",
    ".long 1, 0, 0, 0",                             // PT_LOAD
    ".long .Lend32 - .Limage32, .Lend32 - .Limage32",
    ".long 5, 4096",
    ".long 2, .Ldynamic32 - .Limage32, .Ldynamic32 - .Limage32, .Ldynamic32 - .Limage32",
    ".long .Ldynamic_end32 - .Ldynamic32, .Ldynamic_end32 - .Ldynamic32",
    ".long 4, 4",
    ".Ldynamic32:",
    ".long 4, .Lhash32 - .Limage32",                // DT_HASH
    ".long 5, .Lstrings32 - .Limage32",             // DT_STRTAB
    ".long 6, .Lsymbols32 - .Limage32",             // DT_SYMTAB
    ".long 10, .Lstrings_end32 - .Lstrings32",      // DT_STRSZ
    ".long 11, 16",                                 // DT_SYMENT
    ".long 14, .Lsoname32 - .Lstrings32",           // DT_SONAME
    ".long 0, 0",
    ".Ldynamic_end32:",
    ".Lsymbols32:",
    ".long 0, 0, 0, 0",
    ".long .Lname_vsyscall32 - .Lstrings32",
    ".long switchyard_image32_slot - .Limage32, 16",
    ".byte 0x12, 0",
    ".short 1",
    ".Lhash32:",
    ".long 1, 2",                                   // one bucket, as many chains as symbols
    ".long 1",
    ".long 0, 0",
    ".Lstrings32:",
    ".byte 0",
    ".Lname_vsyscall32:",
    ".asciz \"__kernel_vsyscall\"",
    ".Lsoname32:",
    ".asciz \"switchyard-vdso32.so.1\"",
    ".Lstrings_end32:",
    ".balign 64",
    ".globl switchyard_image32_slot",
    "switchyard_image32_slot:",
    ".zero {slot}",
    ".Lend32:",
    ".org .Limage32 + 4096, 0xCC",              // an error if the image is larger than a page

    ".code32",
    ".globl switchyard_vsyscall_interrupt",
    "switchyard_vsyscall_interrupt:",
    "int 0x80",
    "ret",
    ".balign {slot}, 0xCC",
    ".globl switchyard_vsyscall_syscall",
    "switchyard_vsyscall_syscall:",
    "push ecx",                                     // `syscall` overwrites it; the kernel takes it off the stack
    "syscall",
    "ret",
    ".balign {slot}, 0xCC",
    ".globl switchyard_vsyscall_sysenter",
    "switchyard_vsyscall_sysenter:",
    "push ebp",                                     // the kernel takes it off the stack
    "mov ebp, esp",                                 // where the kernel finds the stack
    "sysenter",
    "ud2",                                          // never reached
    ".globl switchyard_vsyscall_sysenter_return",
    "switchyard_vsyscall_sysenter_return:",
    "ret",
    ".balign {slot}, 0xCC",
    ".code64",
    ".popsection",
    slot = const SLOT_BYTES,
);
