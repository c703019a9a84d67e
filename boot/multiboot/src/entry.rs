//! The first instructions: the header that a Multiboot loader looks for, and the way from protected to long mode.
//!
//! The machine arrives in 32-bit protected mode without paging, with interrupts off, EAX holding a magic number and EBX the
//! address of the loader's information (Multiboot Specification 0.6.96, "Machine state"). The header gives load addresses
//! itself (flag 16), because a Multiboot loader takes no 64-bit ELF file; the linker script lays the file out to fit.
//!
//! Whether the CPU has long mode is asked before anything depends on it, and answered in words, on the serial port and in
//! VGA text, by the one piece of printing that 32-bit code has.
//!
//! Page tables show the first 4 GiB at their own addresses in pages of 2 MiB, which every CPU with long mode has. All
//! this loader touches lies there.

use core::arch::global_asm;

/// Header flags: modules on page boundaries, memory information, a video mode, load addresses in the header.
const FLAGS: u32 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 16;
const MAGIC: u32 = 0x1bad_b002;
/// What header flag 2 asks for: a linear framebuffer of this size, if the loader can make one.
const WIDTH: u32 = 1024;
const HEIGHT: u32 = 768;
const BITS: u32 = 32;

/// Bytes of the loader's stack.
const STACK: u32 = 128 * 1024;

// The stack and the page tables are zero at the start: the header's last load address covers them, and loaders clear what
// lies behind the loaded part.
global_asm!(
    ".pushsection .multiboot, \"a\"",
    ".balign 8",
    "multiboot_header:",
    "    .long {magic}",
    "    .long {flags}",
    "    .long {checksum}",
    "    .long multiboot_header",
    "    .long image_start",
    "    .long image_load_end",
    "    .long image_end",
    "    .long multiboot_entry",
    "    .long 0",                          // A linear framebuffer, not text.
    "    .long {width}",
    "    .long {height}",
    "    .long {bits}",
    ".popsection",

    ".pushsection .bss.boot_tables, \"aw\", @nobits",
    ".balign 4096",
    "boot_pml4:      .skip 4096",
    "boot_pointers:  .skip 4096",
    "boot_directory: .skip 4 * 4096",
    "boot_stack:     .skip {stack}",
    "boot_stack_top:",
    ".popsection",

    ".pushsection .rodata.boot_gdt, \"a\"",
    ".balign 8",
    "boot_gdt:",
    "    .quad 0",
    "    .quad 0x00af9b000000ffff",         // 08h: 64-bit code.
    "    .quad 0x00cf93000000ffff",         // 10h: data.
    "boot_gdt_pointer:",
    "    .word 23",
    "    .long boot_gdt",
    "    .long 0",                          // For 64-bit code, should it load it again.
    "boot_not_multiboot: .asciz \"switchyard boot: error: not started by a Multiboot loader\"",
    "boot_no_cpuid: .asciz \"switchyard boot: error: this CPU has no CPUID instruction; Switchyard needs a 64-bit CPU\"",
    "boot_no_long_mode: .asciz \"switchyard boot: error: this CPU has no long mode; Switchyard needs a 64-bit CPU\"",
    ".popsection",

    // In: EAX = magic number, EBX = address of the information. All registers and flags are this routine's; it uses
    // its own stack, and EDI keeps the address of the information throughout.
    ".pushsection .text.boot_entry, \"ax\"",
    ".code32",
    ".global multiboot_entry",
    ".type multiboot_entry, @function",
    "multiboot_entry:",
    "    cli",
    "    cld",
    "    movl $boot_stack_top, %esp",
    "    pushl $0",
    "    popfl",
    "    movl %ebx, %edi",
    "    movl $boot_not_multiboot, %esi",
    "    cmpl ${loader_magic}, %eax",
    "    jne boot_refuse",

    // A CPU with CPUID lets flag 21 be changed (Intel SDM vol. 1 §20.1.2).
    "    movl $boot_no_cpuid, %esi",
    "    pushfl",
    "    popl %eax",
    "    movl %eax, %ecx",
    "    xorl $0x200000, %eax",
    "    pushl %eax",
    "    popfl",
    "    pushfl",
    "    popl %eax",
    "    xorl %ecx, %eax",
    "    testl $0x200000, %eax",
    "    jz boot_refuse",

    // CPUID 80000001h EDX bit 29: long mode.
    "    movl $boot_no_long_mode, %esi",
    "    movl $0x80000000, %eax",
    "    cpuid",
    "    cmpl $0x80000001, %eax",
    "    jb boot_refuse",
    "    movl $0x80000001, %eax",
    "    cpuid",
    "    btl $29, %edx",
    "    jnc boot_refuse",

    // 2048 pages of 2 MiB: present, writable, large.
    "    movl $boot_directory, %ebx",
    "    movl $0x83, %eax",
    "    movl $2048, %ecx",
    "2:  movl %eax, (%ebx)",
    "    addl $0x200000, %eax",
    "    addl $8, %ebx",
    "    loop 2b",
    "    movl $boot_directory + 3, %eax",
    "    movl $boot_pointers, %ebx",
    "    movl $4, %ecx",
    "3:  movl %eax, (%ebx)",
    "    addl $4096, %eax",
    "    addl $8, %ebx",
    "    loop 3b",
    "    movl $boot_pointers + 3, boot_pml4",

    "    movl %cr4, %eax",
    "    orl $0x20, %eax",                  // PAE
    "    movl %eax, %cr4",
    "    movl $boot_pml4, %eax",
    "    movl %eax, %cr3",
    "    movl $0xC0000080, %ecx",           // EFER
    "    rdmsr",
    "    orl $0x100, %eax",                 // LME
    "    wrmsr",
    "    movl %cr0, %eax",
    "    orl $0x80000001, %eax",            // PG, PE
    "    movl %eax, %cr0",
    "    lgdtl boot_gdt_pointer",
    "    ljmpl $0x08, $boot_long_mode",

    // In: ESI = text. Prints it and stands still.
    "boot_refuse:",
    "    movl %esi, %ebp",
    // The serial port: 115200 baud, 8 bits, no parity (National Semiconductor PC16550D data sheet, §8).
    "    movw $0x3F9, %dx",
    "    xorl %eax, %eax",
    "    outb %al, %dx",
    "    movw $0x3FB, %dx",
    "    movb $0x80, %al",
    "    outb %al, %dx",
    "    movw $0x3F8, %dx",
    "    movb $1, %al",
    "    outb %al, %dx",
    "    movw $0x3F9, %dx",
    "    xorl %eax, %eax",
    "    outb %al, %dx",
    "    movw $0x3FB, %dx",
    "    movb $3, %al",
    "    outb %al, %dx",
    "4:  movl $100000, %ecx",               // Room for a byte, or patience at an end.
    "    movw $0x3FD, %dx",
    "5:  inb %dx, %al",
    "    testb $0x20, %al",
    "    jnz 6f",
    "    loop 5b",
    "6:  movw $0x3F8, %dx",
    "    lodsb",
    "    testb %al, %al",
    "    jz 7f",
    "    outb %al, %dx",
    "    jmp 4b",
    "7:  movb $13, %al",
    "    outb %al, %dx",
    "    movb $10, %al",
    "    outb %al, %dx",
    // VGA text: two bytes a character, white on red, in the top line.
    "    movl %ebp, %esi",
    "    movl $0xB8000, %edi",
    "    movb $0x4F, %ah",
    "8:  lodsb",
    "    testb %al, %al",
    "    jz 9f",
    "    stosw",
    "    jmp 8b",
    "9:  hlt",
    "    jmp 9b",
    ".size multiboot_entry, . - multiboot_entry",

    // In: EDI = address of the information. Interrupts off, direction up.
    ".code64",
    "boot_long_mode:",
    "    movw $0x10, %ax",
    "    movw %ax, %ds",
    "    movw %ax, %es",
    "    movw %ax, %ss",
    "    xorl %eax, %eax",
    "    movw %ax, %fs",
    "    movw %ax, %gs",
    "    movl $boot_stack_top, %esp",       // Also clears the upper half, as the next line does.
    "    movl %edi, %edi",
    "    xorl %ebp, %ebp",
    "    call {main}",                      // RSP is a multiple of 16 here, as the calling convention wants.
    "    ud2",
    ".popsection",
    magic = const MAGIC,
    flags = const FLAGS,
    checksum = const MAGIC.wrapping_add(FLAGS).wrapping_neg(),
    width = const WIDTH,
    height = const HEIGHT,
    bits = const BITS,
    stack = const STACK,
    loader_magic = const boot_core::multiboot::LOADER_MAGIC,
    main = sym crate::app::main,
    options(att_syntax)
);

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// Where this program lies: first byte and one past the last, stack and page tables included.
pub fn image() -> (u64, u64) {
    (
        (&raw const image_start) as u64,
        (&raw const image_end) as u64,
    )
}
