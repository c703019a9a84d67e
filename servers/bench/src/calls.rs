//! Message calls with no register but those that a message without words needs.
//!
//! So makes them a program that is written for them: `rt::sys::ipc` has all six words in and out, and what is measured by it is
//! the program's loads and stores as well.

use abi::report::Answer;
use abi::{Call, Deadline, Tag};
use core::arch::asm;

/// What a receive brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// `rax`: 0, or an error's code.
    pub status: u64,
    /// `rsi`.
    pub tag: u64,
    /// `r15`: whom to answer; 0 for nobody.
    pub reply: u64,
}

/// Calls without words: the status and the answer's tag.
///
/// # Safety
/// The kernel reads and writes the thread's IPC area as the tag says: nobody holds a reference into it.
#[inline(always)]
pub unsafe fn call(endpoint: u64, tag: u64) -> (u64, u64) {
    let (status, answer);
    // SAFETY: registers as `abi::register` lays down for a message call: all eleven may be changed, rcx and r11 are overwritten
    // by `syscall` itself. The words go along with whatever they hold, which is this program's own.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") Call::Call as u64 => status,
            inlateout("rdi") endpoint => _,
            inlateout("rsi") tag => answer,
            inlateout("r14") Deadline::NEVER.0 => _,
            lateout("rdx") _,
            lateout("r10") _,
            lateout("r8") _,
            lateout("r9") _,
            lateout("r12") _,
            lateout("r13") _,
            lateout("r15") _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    (status, answer)
}

/// Answers `reply` (nobody if it is 0) without words, and receives.
///
/// # Safety
/// As for [`call`].
#[inline(always)]
pub unsafe fn reply_recv(endpoint: u64, tag: u64, reply: u64) -> Received {
    let mut received = Received {
        status: 0,
        tag,
        reply,
    };
    // SAFETY: as above.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") Call::ReplyRecv as u64 => received.status,
            inlateout("rdi") endpoint => _,
            inlateout("rsi") received.tag,
            inlateout("r14") Deadline::NEVER.0 => _,
            inlateout("r15") received.reply,
            lateout("rdx") _,
            lateout("r10") _,
            lateout("r8") _,
            lateout("r9") _,
            lateout("r12") _,
            lateout("r13") _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    received
}

/// Answers the report of a fault (nobody if `reply` is 0) with the address at which its thread goes on, and receives the next: the answer to that, if
/// its thread is to go on behind an instruction of two bytes. `None` when there is nothing to receive from any more.
///
/// # Safety
/// As for [`call`].
#[inline(always)]
pub unsafe fn step_over(endpoint: u64, (address, reply): (u64, u64)) -> Option<(u64, u64)> {
    let (status, rip, next): (u64, u64, u64);
    // SAFETY: as above. Word 2 of a fault's report is where it is.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") Call::ReplyRecv as u64 => status,
            inlateout("rdi") endpoint => _,
            inlateout("rsi") Tag::new(Answer::ResumeAt as u32).0 => _,
            inlateout("rdx") address => _,
            inlateout("r14") Deadline::NEVER.0 => _,
            inlateout("r15") reply => next,
            lateout("r8") rip,
            lateout("r10") _,
            lateout("r9") _,
            lateout("r12") _,
            lateout("r13") _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    (status == 0).then_some((rip + 2, next))
}
