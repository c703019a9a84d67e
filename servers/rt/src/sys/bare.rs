//! System calls by `syscall`.
//!
//! `rbx` and `rbp` can't be operands of inline assembly (LLVM keeps both for itself), which the register map respects.
//! `syscall` pushes nothing onto the user's stack, hence `nostack`; the kernel reads and writes memory, hence no `nomem`.

use core::arch::asm;

use abi::ipc_area::IpcHeader;

use super::{IpcRegisters, Results};

/// See [`super::raw`].
///
/// # Safety
/// As for [`super::raw`].
#[inline]
pub unsafe fn raw(number: u64, arguments: [u64; 6], deadline: u64) -> Results {
    let [mut rdi, mut rsi, mut rdx, r10, r8, r9] = arguments;
    let status;
    // SAFETY: registers as `abi::register` lays down for any call: rax number and status; rdi, rsi, rdx arguments and
    // results; r10, r8, r9 arguments, which short calls don't keep; r14 kept; rcx and r11 overwritten by `syscall` itself (Intel SDM vol. 2B). What the call
    // does to memory is the caller's promise. The others are kept by the kernel, vector registers too.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => status,
            inlateout("rdi") rdi,
            inlateout("rsi") rsi,
            inlateout("rdx") rdx,
            inlateout("r10") r10 => _,
            inlateout("r8") r8 => _,
            inlateout("r9") r9 => _,
            in("r14") deadline,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    Results {
        status,
        values: [rdi, rsi, rdx],
    }
}

/// A short call with as many argument registers as it has arguments: no program pays for those that a call does not look at.
macro_rules! short {
    ($(#[$doc:meta])* $name:ident($($argument:ident),*)) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As for [`super::raw`].
        #[inline]
        pub unsafe fn $name(number: u64, $($argument: u64),*) -> (u64, u64) {
            let (status, value);
            // SAFETY: registers as `abi::register` lays down for a short call: it changes what a C function may, and no vector
            // register.
            unsafe {
                short!(@asm number, status, value, $($argument),*);
            }
            (status, value)
        }
    };
    (@asm $number:ident, $status:ident, $value:ident,) => {
        short!(@emit $number, $status, $value, lateout("rdi") $value, lateout("rsi") _)
    };
    (@asm $number:ident, $status:ident, $value:ident, $first:ident, $second:ident) => {
        short!(@emit $number, $status, $value, inlateout("rdi") $first => $value, inlateout("rsi") $second => _)
    };
    (@emit $number:ident, $status:ident, $value:ident, $($operand:tt)*) => {
        asm!(
            "syscall",
            inlateout("rax") $number => $status,
            $($operand)*,
            lateout("rdx") _,
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        )
    };
}

short! {
    /// See [`super::short`].
    short()
}
short! {
    /// See [`super::short_with`].
    short_with(first, second)
}

/// See [`super::short_with_five`].
///
/// # Safety
/// As for [`super::raw`].
#[inline]
pub unsafe fn short_with_five(number: u64, [a, b, c, d, e]: [u64; 5]) -> (u64, u64) {
    let (status, value);
    // SAFETY: registers as `abi::register` lays down for a short call: it changes what a C function may, and no vector register.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => status,
            inlateout("rdi") a => value,
            inlateout("rsi") b => _,
            inlateout("rdx") c => _,
            inlateout("r10") d => _,
            inlateout("r8") e => _,
            lateout("r9") _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    (status, value)
}

/// See [`super::wait`].
///
/// # Safety
/// As for [`super::raw`].
#[inline]
pub unsafe fn wait(notification: u64, deadline: u64) -> (u64, u64) {
    let (status, bits);
    // SAFETY: registers as `abi::register` lays down for any call: rax number and status, rdi an argument, rdx a result, r14 the deadline;
    // rcx and r11 overwritten by `syscall` itself. The others are kept, and so is memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") abi::Call::Wait as u64 => status,
            in("rdi") notification,
            lateout("rdx") bits,
            in("r14") deadline,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    (status, bits)
}

/// See [`super::signal_wait`].
///
/// # Safety
/// As for [`super::raw`].
#[inline]
pub unsafe fn signal_wait(signalled: u64, bits: u64, awaited: u64, deadline: u64) -> (u64, u64) {
    let (status, result);
    // SAFETY: registers as in `wait`, with two arguments more.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") abi::Call::SignalWait as u64 => status,
            in("rdi") signalled,
            in("rsi") bits,
            inlateout("rdx") awaited => result,
            in("r14") deadline,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    (status, result)
}

/// See [`super::ipc`].
///
/// # Safety
/// As for [`super::raw`].
#[inline]
pub unsafe fn ipc(number: u64, registers: &mut IpcRegisters) -> u64 {
    let status;
    // SAFETY: registers as `abi::register` lays down for the IPC calls: all eleven in and out, rcx and r11 overwritten
    // by `syscall` itself. Beyond that the kernel touches only the thread's IPC area.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => status,
            inlateout("rdi") registers.handle,
            inlateout("rsi") registers.tag,
            inlateout("rdx") registers.words[0],
            inlateout("r10") registers.words[1],
            inlateout("r8") registers.words[2],
            inlateout("r9") registers.words[3],
            inlateout("r12") registers.words[4],
            inlateout("r13") registers.words[5],
            inlateout("r14") registers.deadline,
            inlateout("r15") registers.reply,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    status
}

/// See [`super::area`].
#[inline]
pub fn area() -> *mut IpcHeader {
    let area;
    // SAFETY: the kernel sets FS base to the thread's IPC area, whose first word is its own address
    // (`abi::ipc_area`); the SDK never changes FS base. Reads one word, touches no flag and no stack.
    unsafe {
        asm!("mov {}, fs:[0]", out(reg) area, options(nostack, preserves_flags, readonly));
    }
    area
}
