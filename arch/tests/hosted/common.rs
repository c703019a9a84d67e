//! What the tests share: user programs, their stacks, and ways to look at the host's own state.

use std::arch::{asm, global_asm};

use abi::UserContext;
use arch::context::fresh;
use arch::hosted::{BaseSwitch, Fpu, HostThread, HostedContext};

global_asm!(
    // In: [rsp] the entry, [rsp + 8] flags to leave with. Dumps flags and registers below that, inverts every register but RSP,
    // sets the flags, calls. Then the same again. `not`, `lea` and `mov` change no flag.
    ".globl switchyard_test_dump",
    "switchyard_test_dump:",
    "pushfq",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push rax",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "not rdi",
    "not rsi",
    "not rdx",
    "not rcx",
    "not rax",
    "not r8",
    "not r9",
    "not r10",
    "not r11",
    "not rbx",
    "not rbp",
    "not r12",
    "not r13",
    "not r14",
    "not r15",
    "push [rsp + 128 + 8]",
    "popfq",
    "call [rsp + 128]",
    ".globl switchyard_test_dump_return",
    "switchyard_test_dump_return:",
    "lea rsp, [rsp + 128]",
    "jmp switchyard_test_dump",
    // In: RDI the entry. Counts in RAX and calls, for ever.
    ".globl switchyard_test_count",
    "switchyard_test_count:",
    "call rdi",
    "inc rax",
    "jmp switchyard_test_count",
);

unsafe extern "C" {
    pub fn switchyard_test_dump();
    pub fn switchyard_test_dump_return();
    pub fn switchyard_test_count();
}

/// What `switchyard_test_dump` leaves on its stack.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dump {
    /// `r15` to `rdi`, in the order of a `UserContext`.
    pub general: [u64; 15],
    pub rflags: u64,
    pub entry: u64,
    pub flags_to_leave_with: u64,
}

/// The fifteen general registers of a context, in its order.
pub fn general(context: &UserContext) -> [u64; 15] {
    let UserContext {
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        ..
    } = *context;
    [
        r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi,
    ]
}

/// Sets the fifteen general registers.
pub fn set_general(context: &mut UserContext, values: [u64; 15]) {
    [
        context.r15,
        context.r14,
        context.r13,
        context.r12,
        context.rbp,
        context.rbx,
        context.r11,
        context.r10,
        context.r9,
        context.r8,
        context.rax,
        context.rcx,
        context.rdx,
        context.rsi,
        context.rdi,
    ] = values;
}

/// A value for each register that no other has.
pub fn pattern(seed: u64) -> [u64; 15] {
    std::array::from_fn(|i| (seed * 256 + i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// A user program's stack.
pub struct Stack(Vec<u64>);

const FILL: u64 = 0xDEAD_57AC_0000_0000;

impl Stack {
    pub fn new() -> Stack {
        Stack((0..1024).map(|i| FILL + i).collect())
    }

    /// A place in its middle, 16-byte aligned.
    pub fn top(&self) -> u64 {
        (&raw const self.0[512]) as u64 & !15
    }

    /// Whether everything below `from` bytes under the top is as it was at first.
    pub fn untouched_below(&self, from: u64) -> bool {
        let first = (self.top() - from - self.0.as_ptr() as u64) / 8;
        (0..first).all(|i| self.0[i as usize] == FILL + i)
    }

    pub fn words(&mut self) -> &mut [u64] {
        let start = (self.top() - self.0.as_ptr() as u64) / 8;
        &mut self.0[start as usize..]
    }
}

/// A context that begins at `code`.
pub fn program(code: unsafe extern "C" fn(), stack: &Stack, fpu: Fpu) -> HostedContext {
    let context = fresh(code as *const () as u64, stack.top(), 0, 0, 0);
    HostedContext::new(context, fpu).expect("a gate")
}

/// Every way to change bases that this machine has.
pub fn switches() -> Vec<BaseSwitch> {
    match BaseSwitch::best() {
        BaseSwitch::Instructions => vec![BaseSwitch::Instructions, BaseSwitch::ArchPrctl],
        BaseSwitch::ArchPrctl => vec![BaseSwitch::ArchPrctl],
    }
}

/// Runs `test` with each of them.
pub fn with_each_switch(mut test: impl FnMut(&mut HostThread)) {
    for bases in switches() {
        test(&mut HostThread::enter_with(bases).expect("a thread that may run contexts"));
    }
}

/// The host's state that a run must not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostState {
    fs: u64,
    gs: u64,
    mxcsr: u32,
    fcw: u16,
    flags: u64,
}

impl HostState {
    pub fn now() -> HostState {
        const KEPT_FLAGS: u64 = 1 << 8 | 1 << 10 | 1 << 14 | 1 << 18 | 1 << 21;
        let base = |function: i32| {
            let mut base = 0u64;
            // SAFETY: it writes eight bytes to `base`.
            let result = unsafe { libc::syscall(libc::SYS_arch_prctl, function, &raw mut base) };
            assert_eq!(result, 0);
            base
        };
        let mut mxcsr = 0u32;
        let mut fcw = 0u16;
        let flags: u64;
        // SAFETY: these only read.
        unsafe {
            asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut fcw);
            asm!("pushfq", "pop {}", out(reg) flags);
        }
        HostState {
            fs: base(0x1003),
            gs: base(0x1004),
            mxcsr: mxcsr & 0xFFC0,
            fcw,
            flags: flags & KEPT_FLAGS,
        }
    }
}
