//! System calls of 32-bit code.
//!
//! The table of calls is the same; what differs is how seven 32-bit registers carry what 64-bit code has eleven for. There are two
//! forms, and bit 31 of `eax` says which. All three entries (`int 0x80`, `syscall`, `sysenter`) have both.
//!
//! **Register form**: `eax` is the call's number. The three pairs of registers are the first three arguments of the 64-bit
//! map, so that each can be a handle, an address or any 64-bit number; a pair's first register is the low half:
//!
//! | pair | stands for | in | out |
//! |---|---|---|---|
//! | `ecx:ebx` | `rdi` | argument 0 | result 0 |
//! | `esi:edx` | `rsi` | argument 1 | result 1 |
//! | `ebp:edi` | `rdx` | argument 2 | result 2 |
//! | `eax` | `rax` | number | status |
//!
//! The other arguments are 0, and the deadline is *never*. What is kept in the 64-bit map is kept here: a pair that carries no
//! result comes back as it was. The message calls, and whatever has more arguments or a deadline, need the other form.
//!
//! **Block form**: `eax` is the call's number with [`BLOCK_FORM`] set. The ten other registers of the 64-bit map are words in the
//! thread's IPC area ([`IpcHeader::registers`](crate::ipc_area::IpcHeader::registers)), in the order `rdi`, `rsi`, `rdx`,
//! `r10`, `r8`, `r9`, `r12`, `r13`, `r14`, `r15` ([`block`]); the kernel reads each word once, and writes all of them back.
//! `eax` is the status, and all other registers are kept.
//!
//! How each entry gets in, and what it costs:
//!
//! | entry | where | before it | after it |
//! |---|---|---|---|
//! | `int 0x80` | any CPU, anywhere | nothing | behind it |
//! | `syscall` | AMD's CPUs, anywhere | `push ecx`: the kernel takes it off the stack | behind it |
//! | `sysenter` | Intel's CPUs, in the [landing page](crate::landing) only | `push ebp; mov ebp, esp`: the kernel takes it off the stack | at the landing page's `ret` |
//!
//! `call __kernel_vsyscall` does what this CPU is best at. If the pushed word can't be read the call fails with
//! [`BadPointer`](crate::Error::BadPointer). The kernel judges `eax` without its bit 31 as a whole. It neither trusts the upper
//! halves of 64-bit registers nor leaves anything of its own there: they, and `r8` to `r15`, are zero after a call
//! from 32-bit code. What `cs` says counts, not what the process is: `int 0x80` from 64-bit code has the 64-bit
//! map in any process.
//!
//! A 32-bit process has all of its mappings below 4 GiB. Its threads start with `cs` = 0x1B, `ds`, `es` and `ss` = 0x23, null `fs`
//! and `gs`, `edi` = argument and `esi` = the IPC area's address. The structures that calls fill in are the same.

/// Bit of `eax`: the arguments are in the IPC area.
pub const BLOCK_FORM: u32 = 1 << 31;

/// Words of a block.
pub const BLOCK_WORDS: usize = 10;

/// Which word of a block stands for which register of the 64-bit map.
pub mod block {
    /// Argument 0, result 0; endpoint, badge.
    pub const RDI: usize = 0;
    /// Argument 1, result 1; tag.
    pub const RSI: usize = 1;
    /// Argument 2, result 2; word 0.
    pub const RDX: usize = 2;
    /// Argument 3; word 1.
    pub const R10: usize = 3;
    /// Argument 4; word 2.
    pub const R8: usize = 4;
    /// Argument 5; word 3.
    pub const R9: usize = 5;
    /// Word 4.
    pub const R12: usize = 6;
    /// Word 5.
    pub const R13: usize = 7;
    /// Deadline; what came.
    pub const R14: usize = 8;
    /// Reply handle.
    pub const R15: usize = 9;
}
