//! Single steps over each entry: the trap flag is set by the instruction right before it.
//!
//! The kernel must not stop, the call must be made, and the trap must come in user code, behind the first instruction after the
//! return. Nobody handles traps here, so each of these ends the program; `suite` looks at where, and at EBX, which is the low half
//! of a result: the time, which only a call that was made has put there.

use core::arch::asm;

use abi::Call;

use crate::entries::landing_begins_with;
use crate::{Verdict, Why};

/// The trap flag.
const FLAG: u32 = 0x100;

/// Sets the trap flag, enters the kernel, and leaves in EDI where the instruction behind the entry is. AT&T syntax, since the other
/// has no differences of labels.
macro_rules! step {
    ($(#[$doc:meta])* $prepare:literal, $entry:literal, $back:literal) => {
        // SAFETY: ends by the trap, or by `ud2`.
        unsafe {
            asm!(
                "call 2f",
                "2: popl %edi",
                concat!("leal 3f - 2b", $back, "(%edi), %edi"),
                $prepare,
                "pushfl",
                "orl ${flag}, (%esp)",
                "popfl",
                $entry,
                "3:",
                "nop",
                "nop",
                "ud2",
                flag = const FLAG,
                in("eax") Call::ClockNow as u32,
                options(noreturn, att_syntax),
            )
        }
    };
}

pub(crate) fn over_interrupt() -> Verdict {
    step!("", "int $0x80", "")
}

pub(crate) fn over_syscall() -> Verdict {
    if !landing_begins_with(&[0x51, 0x0F, 0x05]) {
        return Err(Why::Skipped);
    }
    step!("pushl %ecx", "syscall", "")
}

/// The stack is laid out as the landing page does it: return address, EBP. The return is to the landing page's `ret`, which is the
/// one instruction before the trap; so EDI is one less here.
pub(crate) fn over_sysenter() -> Verdict {
    if !landing_begins_with(&[0x55, 0x89, 0xE5, 0x0F, 0x34]) {
        return Err(Why::Skipped);
    }
    step!(
        "leal 1(%edi), %ecx; pushl %ecx; pushl %ebp; movl %esp, %ebp",
        "sysenter",
        " - 1"
    )
}
