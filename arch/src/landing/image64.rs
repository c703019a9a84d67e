//! The image for 64-bit processes: time and CPU number without a system call.

use core::arch::global_asm;
use core::mem::offset_of;

use abi::Call;
use abi::landing::{CPU_NUMBER_SELECTOR, IMAGE_OFFSET, LandingData, flags};

use super::IMAGE_BYTES;

unsafe extern "C" {
    static switchyard_image64: [u8; IMAGE_BYTES];
}

/// The image.
pub fn image64() -> &'static [u8; IMAGE_BYTES] {
    // SAFETY: the assembler fills just so many bytes from that label on, in a read-only section.
    unsafe { &switchyard_image64 }
}

// Numbers are those of the ELF-64 object file format and the System V ABI: ET_DYN, EM_X86_64, PT_LOAD, PT_DYNAMIC, DT_*,
// STB_GLOBAL with STT_FUNC. Addresses count from the image's start.
//
// `__vdso_clock_now`: In: nothing. Out: RAX = nanoseconds. Clobbers RCX, RDX, RDI, R11, flags; no stack but for the return address.
// The arithmetic is that of `arch::time::now_ns`, bounds included, so that the two never disagree.
//
// `__vdso_cpu_number`: In: nothing. Out: EAX = index. Clobbers RCX, RDX, flags.
global_asm!(
    ".pushsection .rodata.switchyard_image64, \"a\", @progbits",
    ".balign 4096",
    ".globl switchyard_image64",
    "switchyard_image64:",
    ".Limage64:",
    ".byte 0x7F, 0x45, 0x4C, 0x46, 2, 1, 1, 0",
    ".quad 0",
    ".short 3, 62",
    ".long 1",
    ".quad 0",                                  // no entry point
    ".quad .Lheaders64 - .Limage64",
    ".quad 0",                                  // no sections
    ".long 0",
    ".short 64, 56, 2, 64, 0, 0",
    ".Lheaders64:",
    ".long 1, 5",                               // PT_LOAD, R and X
    ".quad 0, 0, 0",
    ".quad .Lend64 - .Limage64",
    ".quad .Lend64 - .Limage64",
    ".quad 4096",
    ".long 2, 4",                               // PT_DYNAMIC, R
    ".quad .Ldynamic64 - .Limage64",
    ".quad .Ldynamic64 - .Limage64",
    ".quad .Ldynamic64 - .Limage64",
    ".quad .Ldynamic_end64 - .Ldynamic64",
    ".quad .Ldynamic_end64 - .Ldynamic64",
    ".quad 8",
    ".Ldynamic64:",
    ".quad 4, .Lhash64 - .Limage64",            // DT_HASH
    ".quad 5, .Lstrings64 - .Limage64",         // DT_STRTAB
    ".quad 6, .Lsymbols64 - .Limage64",         // DT_SYMTAB
    ".quad 10, .Lstrings_end64 - .Lstrings64",  // DT_STRSZ
    ".quad 11, 24",                             // DT_SYMENT
    ".quad 14, .Lsoname64 - .Lstrings64",       // DT_SONAME
    ".quad 0, 0",
    ".Ldynamic_end64:",
    ".Lsymbols64:",
    ".quad 0, 0, 0",
    ".long .Lname_clock64 - .Lstrings64",
    ".byte 0x12, 0",
    ".short 1",
    ".quad .Lclock64 - .Limage64",
    ".quad .Lclock_end64 - .Lclock64",
    ".long .Lname_cpu64 - .Lstrings64",
    ".byte 0x12, 0",
    ".short 1",
    ".quad .Lcpu64 - .Limage64",
    ".quad .Lcpu_end64 - .Lcpu64",
    ".Lhash64:",
    ".long 1, 3",                               // one bucket, as many chains as symbols
    ".long 1",                                  // the bucket begins with symbol 1
    ".long 0, 2, 0",
    ".Lstrings64:",
    ".byte 0",
    ".Lname_clock64:",
    ".asciz \"__vdso_clock_now\"",
    ".Lname_cpu64:",
    ".asciz \"__vdso_cpu_number\"",
    ".Lsoname64:",
    ".asciz \"switchyard-vdso64.so.1\"",
    ".Lstrings_end64:",

    ".balign 64",
    ".Lclock64:",
    "test byte ptr [rip + .Limage64 - {data} + {flags}], {clock}",
    "jz 2f",
    "lfence",                                   // not read before what stands before the call
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "sub rax, [rip + .Limage64 - {data} + {epoch}]",
    "jb 3f",
    "mul qword ptr [rip + .Limage64 - {data} + {scale}]",
    "shrd rax, rdx, 32",
    "shr rdx, 32",
    "jnz 4f",
    "ret",
    "2:",
    "mov eax, {clock_now}",
    "syscall",
    "mov rax, rdi",
    "ret",
    "3:",                                       // a counter that is behind
    "xor eax, eax",
    "ret",
    "4:",                                       // past the largest number
    "mov rax, -1",
    "ret",
    ".Lclock_end64:",

    ".balign 16",
    ".Lcpu64:",
    "mov eax, [rip + .Limage64 - {data} + {flags}]",
    "test al, {rdpid}",
    "jz 2f",
    ".byte 0xF3, 0x0F, 0xC7, 0xF8",             // rdpid rax
    "ret",
    "2:",
    "test al, {rdtscp}",
    "jz 3f",
    "rdtscp",
    "mov eax, ecx",
    "ret",
    "3:",
    "mov ecx, {selector}",
    "lsl eax, ecx",
    "ret",
    ".Lcpu_end64:",
    ".Lend64:",
    ".org .Limage64 + 4096, 0xCC",              // an error if the image is larger than a page
    ".popsection",
    data = const IMAGE_OFFSET,
    flags = const offset_of!(LandingData, flags),
    epoch = const offset_of!(LandingData, epoch),
    scale = const offset_of!(LandingData, scale),
    clock = const flags::CLOCK,
    rdpid = const flags::RDPID,
    rdtscp = const flags::RDTSCP,
    clock_now = const Call::ClockNow as u32,
    selector = const CPU_NUMBER_SELECTOR,
);
