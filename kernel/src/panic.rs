//! The end of the kernel: a bug was found, and nothing may go on.
//!
//! The first CPU that panics stops the others by NMI, takes the log whoever holds it, and prints what went
//! wrong, its registers and who called whom, on the serial port and the screen. In an emulator it then ends the
//! machine with a failing status, else it halts.
//!
//! What may go wrong here is everything, as the state of the kernel is unknown: so nothing is waited for without a
//! bound, memory is read only where a stack is known to be, and a panic inside the report ends in a few bytes on
//! the serial port. What the machine must do for it is given as [`Hooks`]; a panic before that still prints.

use core::fmt;
use core::ops::Range;

use abi::{FaultKind, UserContext};
use spin::Once;

use crate::symbols::Symbol;

/// The code with which a panic ends the machine; QEMU's status is twice that plus one (65).
pub const EXIT_CODE: u8 = 0x20;
/// Where the kernel's code can be: the top 2 GiB of the address space, as its code model demands.
pub const KERNEL_TEXT: Range<u64> = 0xFFFF_FFFF_8000_0000..u64::MAX;

/// What a panic needs from the rest of the kernel. None of them may take a lock, log, or wait without a bound.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// The index of this CPU.
    pub cpu: fn() -> u32,
    /// Stops all other CPUs by NMI and waits a little for them.
    pub stop_others: fn(),
    /// The kernel stack in which an address lies, mapped from end to end.
    pub stack_of: fn(u64) -> Option<Range<u64>>,
    /// Ends an emulated machine with this code; returns where there is none.
    pub exit: fn(u8),
}

static HOOKS: Once<Hooks> = Once::new();

/// Sets what a panic needs. The first call counts.
pub fn install(hooks: Hooks) {
    HOOKS.call_once(|| hooks);
}

/// What is printed.
pub struct Report<'a> {
    /// The CPU's index.
    pub cpu: u32,
    /// What went wrong.
    pub message: &'a dyn fmt::Display,
    /// File, line and column, if a `panic!` was the cause.
    pub location: Option<&'a dyn fmt::Display>,
    /// The registers: at the exception, or in the panic handler.
    pub context: &'a UserContext,
    /// Whether `context` is the frame of an exception.
    pub exception: bool,
    /// Who called whom, innermost first: the place itself, then return addresses.
    pub frames: &'a [u64],
    /// Names for addresses.
    pub lookup: fn(u64) -> Option<Symbol<'static>>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "KERNEL PANIC on CPU {}: {}", self.cpu, self.message)?;
        if let Some(location) = self.location {
            writeln!(f, "  at {location}")?;
        }
        self.write_registers(f)?;
        writeln!(f, "Backtrace:")?;
        for (number, address) in self.frames.iter().enumerate() {
            // A return address may be that of the next function, if the call was the last instruction of this one.
            let inside = if number == 0 {
                *address
            } else {
                address.wrapping_sub(1)
            };
            match (self.lookup)(inside) {
                Some(symbol) => writeln!(f, "  {number:2}: {address:#018x} {symbol}")?,
                None => writeln!(f, "  {number:2}: {address:#018x}")?,
            }
        }
        if self.frames.is_empty() {
            writeln!(f, "  none: the frame pointer is in no known stack")?;
        }
        Ok(())
    }
}

impl Report<'_> {
    fn write_registers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.context;
        if self.exception {
            let kind = FaultKind::from_vector(c.vector).text();
            writeln!(
                f,
                "  exception {} ({kind}), error code {:#x}, cr2 {:#018x}",
                c.vector, c.error_code, c.cr2
            )?;
        }
        let registers = [
            [
                ("rip", c.rip),
                ("rsp", c.rsp),
                ("rbp", c.rbp),
                ("flg", c.rflags),
            ],
            [
                ("rax", c.rax),
                ("rbx", c.rbx),
                ("rcx", c.rcx),
                ("rdx", c.rdx),
            ],
            [("rsi", c.rsi), ("rdi", c.rdi), ("r8 ", c.r8), ("r9 ", c.r9)],
            [
                ("r10", c.r10),
                ("r11", c.r11),
                ("r12", c.r12),
                ("r13", c.r13),
            ],
            [("r14", c.r14), ("r15", c.r15), ("cs ", c.cs), ("ss ", c.ss)],
        ];
        for line in registers {
            for (name, value) in line {
                write!(f, "  {name} {value:016x}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The frames of a report: the place itself and the return addresses above it.
pub struct Frames {
    addresses: [u64; arch::backtrace::MAX_FRAMES + 1],
    count: usize,
}

impl Frames {
    /// Collects the frames from a place with these registers.
    ///
    /// # Safety
    /// All memory in the ranges that `stack_of` returns must be mapped readable.
    pub unsafe fn collect(
        context: &UserContext,
        stack_of: &dyn Fn(u64) -> Option<Range<u64>>,
        text: &Range<u64>,
    ) -> Frames {
        let mut frames = Frames {
            addresses: [0; arch::backtrace::MAX_FRAMES + 1],
            count: 1,
        };
        frames.addresses[0] = context.rip;
        let mut visit = |address| {
            if let Some(place) = frames.addresses.get_mut(frames.count) {
                *place = address;
                frames.count += 1;
            }
        };
        // SAFETY: passed on.
        unsafe { arch::backtrace::walk(context.rbp, stack_of, text, &mut visit) };
        frames
    }

    /// The addresses.
    pub fn as_slice(&self) -> &[u64] {
        &self.addresses[..self.count]
    }
}

#[cfg(target_os = "none")]
pub use machine::{on_exception, on_panic, somebody_panics};

/// The part that stops the machine.
#[cfg(target_os = "none")]
mod machine {
    use core::fmt::Write as _;
    use core::panic::PanicInfo;
    use core::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::{log, symbols};

    /// The CPU that panics; `NOBODY` if none does.
    static OWNER: AtomicU32 = AtomicU32::new(NOBODY);
    const NOBODY: u32 = u32::MAX;
    /// Panics inside the report.
    static NESTED: AtomicU32 = AtomicU32::new(0);

    /// The panic handler's body.
    #[inline(never)]
    pub fn on_panic(info: &PanicInfo<'_>) -> ! {
        arch::cpu::disable_interrupts();
        let context = arch::backtrace::capture();
        let location = info.location();
        die(&Cause {
            message: &info.message(),
            location: location
                .as_ref()
                .map(|location| location as &dyn fmt::Display),
            context: &context,
            exception: false,
        })
    }

    /// An exception in the kernel that nothing handles. `message` says what the kernel was about.
    pub fn on_exception(context: &UserContext, message: &dyn fmt::Display) -> ! {
        arch::cpu::disable_interrupts();
        die(&Cause {
            message,
            location: None,
            context,
            exception: true,
        })
    }

    /// Whether a CPU panics: for the NMI handler, which then stops the CPU it runs on.
    pub fn somebody_panics() -> bool {
        OWNER.load(Ordering::SeqCst) != NOBODY
    }

    struct Cause<'a> {
        message: &'a dyn fmt::Display,
        location: Option<&'a dyn fmt::Display>,
        context: &'a UserContext,
        exception: bool,
    }

    fn die(cause: &Cause<'_>) -> ! {
        let hooks = HOOKS.get();
        let cpu = hooks.map_or(0, |hooks| (hooks.cpu)());
        match OWNER.compare_exchange(NOBODY, cpu, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => first(cause, cpu, hooks),
            Err(owner) if owner == cpu => nested(cause, hooks),
            // Another was first, and will tell.
            Err(_) => arch::cpu::halt_forever(),
        }
    }

    fn first(cause: &Cause<'_>, cpu: u32, hooks: Option<&Hooks>) -> ! {
        if let Some(hooks) = hooks {
            (hooks.stop_others)();
        }
        // SAFETY: this CPU is the first that panics, and the others were stopped.
        unsafe { log::enter_panic() };
        let here = (&raw const *cause).expose_provenance() as u64;
        let stack_of = |address: u64| {
            // Where nothing is known about stacks, the page that this function runs on is one for sure.
            let page = here & !0xFFF..(here | 0xFFF) + 1;
            let known = hooks.and_then(|hooks| (hooks.stack_of)(address));
            known.or_else(|| page.contains(&address).then_some(page))
        };
        // SAFETY: the hook promises mapped stacks, and the page of a live local is mapped.
        let frames = unsafe { Frames::collect(cause.context, &stack_of, &KERNEL_TEXT) };
        let report = Report {
            cpu,
            message: cause.message,
            location: cause.location,
            context: cause.context,
            exception: cause.exception,
            frames: frames.as_slice(),
            lookup: symbols::lookup,
        };
        // Line by line: should the rest fail, what went wrong is out.
        // SAFETY: as above.
        unsafe { log::panic_write(format_args!("{report}")) };
        end(hooks)
    }

    /// The report itself panicked, or met an exception: a word of that, by the simplest means there are. Its message is
    /// left out, as formatting one may be what failed.
    fn nested(cause: &Cause<'_>, hooks: Option<&Hooks>) -> ! {
        if NESTED.fetch_add(1, Ordering::SeqCst) == 0 {
            // `Emergency` never fails.
            let _ = write!(
                Emergency,
                "\r\nKERNEL PANIC: the report itself failed, rip {:#x}",
                cause.context.rip
            );
            if let Some(location) = cause.location {
                let _ = write!(Emergency, ", at {location}");
            }
            if let (true, c) = (cause.exception, cause.context) {
                let _ = write!(
                    Emergency,
                    ", exception {}, error code {:#x}, cr2 {:#x}",
                    c.vector, c.error_code, c.cr2
                );
            }
            log::emergency(b"\r\n");
        }
        end(hooks)
    }

    /// Writes to the serial port without the log.
    struct Emergency;

    impl fmt::Write for Emergency {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            log::emergency(text.as_bytes());
            Ok(())
        }
    }

    fn end(hooks: Option<&Hooks>) -> ! {
        if let Some(hooks) = hooks {
            (hooks.exit)(EXIT_CODE);
        }
        arch::cpu::halt_forever()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(address: u64) -> Option<Symbol<'static>> {
        (0xFFFF_FFFF_8000_1000..0xFFFF_FFFF_8000_2000)
            .contains(&address)
            .then(|| Symbol {
                name: "_ZN6kernel4boot5start17h0123456789abcdefE",
                offset: address - 0xFFFF_FFFF_8000_1000,
            })
    }

    fn report(exception: bool, frames: &[u64]) -> String {
        let context = UserContext {
            rip: 0xFFFF_FFFF_8000_1234,
            rsp: 0xFFFF_C000_0000_1000,
            r15: 0xF15,
            vector: 14,
            error_code: 2,
            cr2: 0xDEAD_0000,
            ..UserContext::default()
        };
        Report {
            cpu: 3,
            message: &"index out of bounds",
            location: Some(&"kernel/src/boot.rs:7:9"),
            context: &context,
            exception,
            frames,
            lookup,
        }
        .to_string()
    }

    #[test]
    fn a_report_names_cpu_cause_place_registers_and_callers() {
        let text = report(
            false,
            &[
                0xFFFF_FFFF_8000_1234,
                0xFFFF_FFFF_8000_2000,
                0xFFFF_FFFF_8000_5000,
            ],
        );
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "KERNEL PANIC on CPU 3: index out of bounds");
        assert_eq!(lines[1], "  at kernel/src/boot.rs:7:9");
        assert!(
            lines[2].starts_with("  rip ffffffff80001234  rsp ffffc00000001000"),
            "{}",
            lines[2]
        );
        assert!(text.contains("r15 0000000000000f15"));
        assert!(!text.contains("exception"));
        assert_eq!(
            lines[lines.len() - 3..],
            [
                "   0: 0xffffffff80001234 kernel::boot::start+0x234",
                // The call was the function's last instruction, so the return address lies past its end.
                "   1: 0xffffffff80002000 kernel::boot::start+0xfff",
                "   2: 0xffffffff80005000",
            ]
        );
    }

    #[test]
    fn an_exceptions_report_names_the_exception() {
        let text = report(true, &[]);
        assert!(text.contains("exception 14 (page fault), error code 0x2, cr2 0x00000000dead0000"));
        assert!(text.contains("none: the frame pointer is in no known stack"));
    }

    #[test]
    fn frames_begin_with_the_place_itself() {
        let mut stack = [0u64; 4];
        let start = stack.as_ptr().expose_provenance() as u64;
        (stack[0], stack[1]) = (start + 16, 0x1111);
        (stack[2], stack[3]) = (0, 0x1222);
        let stack_of = |address: u64| {
            let range = start..start + 32;
            range.contains(&address).then_some(range)
        };
        let context = UserContext {
            rip: 0x1234,
            rbp: start,
            ..UserContext::default()
        };
        // SAFETY: the range is that of a live array.
        let frames = unsafe { Frames::collect(&context, &stack_of, &(0x1000..0x2000)) };
        assert_eq!(frames.as_slice(), [0x1234, 0x1111, 0x1222]);
        std::hint::black_box(stack);
    }
}
