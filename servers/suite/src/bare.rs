//! Processes of a few bytes of machine code, which may do to themselves what they like.
//!
//! Such a process has one page of code, a stack, and nothing else: no handle, no runtime. Its registers are set to known
//! values first, so that what a fault's report or the kernel's return leaves in them can be compared with what was there.

use alloc::vec::Vec;
use core::time::Duration;

use abi::Protection;
use abi::info::{ProcessInfo, Quota};
use abi::report::ReportKind;
use rt::process::Mode;
use rt::{Endpoint, Memory, Notification, Process, Thread};

use crate::world;

/// Numbers of the registers; [`RSP`](reg::RSP) is preset to the top of the stack.
pub use abi::general as reg;

/// Where the code is.
pub const CODE: u64 = 0x40_0000;
/// One past the stack; what follows is unmapped.
pub const STACK_TOP: u64 = 0x80_0000;
/// The lowest stack address; what is below is unmapped.
pub const STACK_BOTTOM: u64 = STACK_TOP - STACK_BYTES;
const STACK_BYTES: u64 = 4 * 4096;
/// How long one may take.
const PATIENCE: Duration = crate::runner::PATIENCE;

/// The bytes that a few lines of assembly make. They run at [`CODE`] after the preamble, so they must not name addresses.
#[macro_export]
macro_rules! code {
    ($($line:expr),+ $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: takes two addresses of a read-only section, which the assembler fills with the bytes between them.
        unsafe {
            core::arch::asm!(
                ".pushsection .rodata.machine_code,\"a\",@progbits",
                "771:",
                $($line,)+
                "772:",
                ".popsection",
                "lea {start}, [rip + 771b]",
                "lea {end}, [rip + 772b]",
                start = out(reg) start,
                end = out(reg) end,
                options(nomem, nostack, preserves_flags),
            );
            core::slice::from_raw_parts(start, end.offset_from_unsigned(start))
        }
    }};
}

/// The same in 32-bit code.
#[macro_export]
macro_rules! code32 {
    ($($line:expr),+ $(,)?) => {
        $crate::code!(".code32", $($line,)+ ".code64")
    };
}

/// The general registers before the code runs, in machine-code order.
pub fn pattern() -> [u64; reg::COUNT] {
    let mut values = [0; reg::COUNT];
    for (number, value) in values.iter_mut().enumerate() {
        *value = 0xC0DE_0000_0000_0000 | (number as u64) << 32 | 0x5A5A_0000 | number as u64;
    }
    values[reg::RSP] = STACK_TOP - 64;
    values
}

/// Machine code that loads all general registers: `mov r64, imm64` (Intel SDM vol. 2B, MOV) sixteen times.
fn preamble(values: &[u64; reg::COUNT]) -> Vec<u8> {
    let mut code = Vec::new();
    for (number, value) in values.iter().enumerate() {
        code.push(if number < 8 { 0x48 } else { 0x49 });
        code.push(0xB8 + (number % 8) as u8);
        code.extend(value.to_le_bytes());
    }
    code
}

/// The general registers before 32-bit code runs, in machine-code order.
pub fn pattern32() -> [u32; reg::COUNT_32] {
    let mut values = core::array::from_fn(|number| 0x5A5A_C000 | (number as u32) << 4);
    values[reg::RSP] = STACK_TOP as u32 - 64;
    values
}

/// The same in 32-bit code: `mov r32, imm32` eight times.
fn preamble32(values: &[u32; reg::COUNT_32]) -> Vec<u8> {
    let mut code = Vec::new();
    for (number, value) in values.iter().enumerate() {
        code.push(0xB8 + number as u8);
        code.extend(value.to_le_bytes());
    }
    code
}

/// Bytes of that preamble.
pub const PREAMBLE32_BYTES: u64 = 40;

/// Bytes of the preamble: the code's first instruction is that far behind [`CODE`].
pub const PREAMBLE_BYTES: u64 = 160;

/// A process of machine code.
pub struct Bare {
    /// The process.
    pub process: Process,
    /// Its thread.
    pub thread: Thread,
    /// Its stack, from [`STACK_BOTTOM`] on.
    pub stack: Memory,
    done: Notification,
}

impl Drop for Bare {
    /// Ends the program: one that runs on after its test has failed would spoil the tests that come after it.
    fn drop(&mut self) {
        // A program that has ended by itself says so here, which is as good.
        let _ = self.process.kill(0);
    }
}

impl Bare {
    /// A process that will load `registers` and run `code`, not yet started.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn new(code: &[u8], registers: &[u64; reg::COUNT]) -> rt::Result<Bare> {
        Bare::with(Mode::Long, |_| preamble(registers), code)
    }

    /// The same with the registers of [`pattern`] (of [`pattern32`] and 32-bit code in a 32-bit process), and reports of this kind from its beginning.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn reporting(mode: Mode, kind: ReportKind, to: &Endpoint, code: &[u8]) -> rt::Result<Bare> {
        let process = Process::create_in(mode, "bare", rt::Priority::LOWEST)?;
        process.report_to(kind, Some(to))?;
        let preamble = |_: &_| match mode {
            Mode::Long => preamble(&pattern()),
            Mode::Compat => preamble32(&pattern32()),
        };
        Bare::in_process(process, preamble, code)
    }

    /// [`new`](Self::new) with a part of this process's quota, and reports of its faults.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn limited(
        code: &[u8],
        registers: &[u64; reg::COUNT],
        quota: &Quota,
        to: &Endpoint,
    ) -> rt::Result<Bare> {
        let made = Process::make_with(Mode::Long, "bare", rt::Priority::LOWEST, Some(quota))?;
        made.process.report_to(ReportKind::Faults, Some(to))?;
        Bare::in_process(made.process, |_| preamble(registers), code)
    }

    /// [`new`](Self::new) with the process's landing page (its first byte, plus `offset`) in register number `register`.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn at_landing(code: &[u8], register: usize, offset: u64) -> rt::Result<Bare> {
        let at = |info: &ProcessInfo| {
            let mut values = pattern();
            values[register] = info.landing - abi::landing::IMAGE_OFFSET + offset;
            preamble(&values)
        };
        Bare::with(Mode::Long, at, code)
    }

    /// A 32-bit process that will load `registers` and run `code` ([`code32!`](crate::code32)), not yet started.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn new32(code: &[u8], registers: &[u32; reg::COUNT_32]) -> rt::Result<Bare> {
        Bare::with(Mode::Compat, |_| preamble32(registers), code)
    }

    fn with(
        mode: Mode,
        preamble: impl FnOnce(&ProcessInfo) -> Vec<u8>,
        code: &[u8],
    ) -> rt::Result<Bare> {
        let process = Process::create_in(mode, "bare", rt::Priority::LOWEST)?;
        Bare::in_process(process, preamble, code)
    }

    fn in_process(
        process: Process,
        preamble: impl FnOnce(&ProcessInfo) -> Vec<u8>,
        code: &[u8],
    ) -> rt::Result<Bare> {
        let mut whole = preamble(&process.info()?);
        whole.extend(code);
        let bytes = (whole.len() as u64).next_multiple_of(4096);
        let text = Memory::create(bytes)?;
        text.write(0, &whole)?;
        process.map(&text, CODE, 0, bytes, Protection::READ_EXECUTE)?;
        let stack = Memory::create(STACK_BYTES)?;
        process.map(&stack, STACK_BOTTOM, 0, STACK_BYTES, Protection::READ_WRITE)?;
        let done = Notification::create()?;
        process.watch(&done, 1)?;
        // SAFETY: the process is not this one.
        let thread = unsafe { process.create_thread(CODE, STACK_TOP, 0) }?;
        Ok(Bare {
            process,
            thread,
            stack,
            done,
        })
    }

    /// Lets it run, waits for its end, and says how it ended.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn run(&self) -> rt::Result<ProcessInfo> {
        self.run_for(PATIENCE)
    }

    /// The same, for so long at most.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn run_for(&self, patience: Duration) -> rt::Result<ProcessInfo> {
        self.thread.start()?;
        world::end(&self.process, &self.done, patience)
    }

    /// Waits for the end of one that runs already.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn run_to_end(&self) -> rt::Result<ProcessInfo> {
        world::end(&self.process, &self.done, PATIENCE)
    }
}

/// Whether `iretq` and far returns work in user code here.
///
/// QEMU's TCG before version 9 reads their operands as if the kernel did, so that with SMAP they page-fault for ever although
/// the page is there.
///
/// # Errors
/// Those of the calls that it takes.
pub fn far_returns_work() -> rt::Result<bool> {
    let code = code!(
        "lea rax, [rip + 2f]",
        "push 0x2B",
        "push rax",
        "retfq",
        "2:",
        "mov eax, 50",
        "syscall"
    );
    let info = Bare::new(code, &pattern())?.run_for(Duration::from_millis(300))?;
    Ok(info.state == abi::info::ProcessState::Exited as u32)
}

/// Runs `code` with the registers of [`pattern`].
///
/// # Errors
/// Those of the calls that it takes.
pub fn run(code: &[u8]) -> rt::Result<ProcessInfo> {
    Bare::new(code, &pattern())?.run()
}
