//! A thread's user-mode registers.

/// All that user mode sees of a CPU, FPU and debug registers apart.
///
/// It is at once the frame that the kernel's entries build (the last five fields are what the CPU itself pushes, Intel
/// SDM vol. 3A §6.14) and what a supervisor gets and sets. The order is the assembly's; `arch` asserts each offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct UserContext {
    /// General register.
    pub r15: u64,
    /// General register.
    pub r14: u64,
    /// General register.
    pub r13: u64,
    /// General register.
    pub r12: u64,
    /// General register.
    pub rbp: u64,
    /// General register.
    pub rbx: u64,
    /// General register; after `syscall` the flags.
    pub r11: u64,
    /// General register.
    pub r10: u64,
    /// General register.
    pub r9: u64,
    /// General register.
    pub r8: u64,
    /// General register; a system call's status.
    pub rax: u64,
    /// General register; after `syscall` the return address.
    pub rcx: u64,
    /// General register.
    pub rdx: u64,
    /// General register.
    pub rsi: u64,
    /// General register.
    pub rdi: u64,
    /// FS base.
    pub fs_base: u64,
    /// GS base.
    pub gs_base: u64,
    /// DS selector.
    pub ds: u16,
    /// ES selector.
    pub es: u16,
    /// FS selector.
    pub fs: u16,
    /// GS selector.
    pub gs: u16,
    /// DR6 at the last debug trap.
    pub debug_status: u64,
    /// Faulting address of the last page fault.
    pub cr2: u64,
    /// The system call number as entered; `u64::MAX` if the last entry was none, or a [short call](crate::SHORT_CALLS) by `syscall`.
    pub call_number: u64,
    /// Vector of the last entry; 256 for `syscall`, 257 for `syscall` from 32-bit code, 258 for `sysenter`.
    pub vector: u64,
    /// Error code of the last entry, 0 where the CPU pushes none.
    pub error_code: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Code segment selector.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment selector.
    pub ss: u64,
}

/// A thread's debug registers (Intel SDM vol. 3B §17.2). They stop the thread itself, in user mode, and nobody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct DebugRegisters {
    /// DR0 to DR3: addresses below [`USER_END`](crate::layout::USER_END), aligned to what they watch.
    pub address: [u64; 4],
    /// DR6 at the last debug trap: which breakpoint it was, and whether a single step.
    pub status: u64,
    /// DR7: which are enabled (bits 0 to 7, two for each, either will do), and for each what it watches (executing, writing,
    /// or any access) and how many bytes. Not access to I/O ports, and not bit 13.
    pub control: u64,
}

impl DebugRegisters {
    /// [`control`](Self::control) bits that enable breakpoint `index` for what `watch` says.
    pub const fn enable(index: usize, watch: Watch) -> u64 {
        let (kind, length) = match watch {
            Watch::Execute => (0b00, 0b00),
            Watch::Write(width) => (0b01, width as u64),
            Watch::Access(width) => (0b11, width as u64),
        };
        1 << (2 * index) | (kind | length << 2) << (16 + 4 * index)
    }
}

/// What a breakpoint stops at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watch {
    /// Before the instruction at the address.
    Execute,
    /// After a write.
    Write(Width),
    /// After a read or a write.
    Access(Width),
}

/// How many bytes a breakpoint watches, as DR7 has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Width {
    /// One byte.
    One = 0b00,
    /// Two.
    Two = 0b01,
    /// Four.
    Four = 0b11,
    /// Eight.
    Eight = 0b10,
}

/// The parts of a thread's state that a supervisor gets and sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum ContextPart {
    /// A [`UserContext`]. What it says of the last entry (debug status, CR2, call number, vector, error code) is not set.
    Registers = 0,
    /// [`DebugRegisters`].
    Debug = 1,
    /// The descriptors of the three [slots](crate::segment), 64 bits each.
    Tls = 2,
    /// The floating-point state, in the standard XSAVE format (Intel SDM vol. 1 §13.4; on CPUs without XSAVE the 512 bytes of
    /// FXSAVE), whatever format the kernel saves in. Its size is what CPUID leaf 0Dh, sub-leaf 0, says in EBX.
    Fpu = 3,
}

impl ContextPart {
    /// The part with this number.
    pub const fn from_number(number: u64) -> Option<ContextPart> {
        match number {
            0 => Some(ContextPart::Registers),
            1 => Some(ContextPart::Debug),
            2 => Some(ContextPart::Tls),
            3 => Some(ContextPart::Fpu),
            _ => None,
        }
    }

    /// Its size in bytes; `None` if that is the CPU's to say.
    pub const fn bytes(self) -> Option<usize> {
        match self {
            ContextPart::Registers => Some(size_of::<UserContext>()),
            ContextPart::Debug => Some(size_of::<DebugRegisters>()),
            ContextPart::Tls => Some(8 * crate::segment::TLS_SLOTS),
            ContextPart::Fpu => None,
        }
    }
}

const _: () = {
    assert!(size_of::<UserContext>() == 224);
    assert!(size_of::<DebugRegisters>() == 48);
};

/// What a thread did that ended it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum FaultKind {
    /// #DE
    Divide = 0,
    /// #DB
    Debug = 1,
    /// #BP
    Breakpoint = 3,
    /// #OF
    Overflow = 4,
    /// #BR
    Bounds = 5,
    /// #UD
    InvalidInstruction = 6,
    /// #NM
    NoFpu = 7,
    /// #NP
    SegmentNotPresent = 11,
    /// #SS
    StackSegment = 12,
    /// #GP
    Protection = 13,
    /// #PF
    Page = 14,
    /// #MF
    X87 = 16,
    /// #AC
    Alignment = 17,
    /// #XF
    Simd = 19,
    /// Any other vector.
    Other = 255,
}

impl FaultKind {
    /// The kind that exception `vector` is.
    pub const fn from_vector(vector: u64) -> FaultKind {
        match vector {
            0 => FaultKind::Divide,
            1 => FaultKind::Debug,
            3 => FaultKind::Breakpoint,
            4 => FaultKind::Overflow,
            5 => FaultKind::Bounds,
            6 => FaultKind::InvalidInstruction,
            7 => FaultKind::NoFpu,
            11 => FaultKind::SegmentNotPresent,
            12 => FaultKind::StackSegment,
            13 => FaultKind::Protection,
            14 => FaultKind::Page,
            16 => FaultKind::X87,
            17 => FaultKind::Alignment,
            19 => FaultKind::Simd,
            _ => FaultKind::Other,
        }
    }

    /// The fault in words.
    pub const fn text(self) -> &'static str {
        match self {
            FaultKind::Divide => "divide error",
            FaultKind::Debug => "debug trap",
            FaultKind::Breakpoint => "breakpoint",
            FaultKind::Overflow => "overflow",
            FaultKind::Bounds => "bound range exceeded",
            FaultKind::InvalidInstruction => "invalid instruction",
            FaultKind::NoFpu => "FPU not available",
            FaultKind::SegmentNotPresent => "segment not present",
            FaultKind::StackSegment => "stack segment fault",
            FaultKind::Protection => "general protection fault",
            FaultKind::Page => "page fault",
            FaultKind::X87 => "x87 floating-point error",
            FaultKind::Alignment => "alignment check",
            FaultKind::Simd => "SIMD floating-point error",
            FaultKind::Other => "unexpected exception",
        }
    }
}
