//! What only the bare target needs: the program's first instructions, its heap, and the end of a panicking program.

mod heap;

use core::arch::naked_asm;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{logging, process};

/// Exit code of a program that panicked.
pub const PANICKED: u64 = 101;
/// Exit code of a program whose start block is none.
pub const BAD_START: u64 = 102;

unsafe extern "Rust" {
    /// Made by [`entry!`](crate::entry).
    fn switchyard_main() -> u64;
    #[link_name = "SWITCHYARD_PROGRAM"]
    static PROGRAM: &'static str;
}

/// The program's name.
pub(crate) fn program_name() -> &'static str {
    // SAFETY: `entry!` defines it as this type, and it never changes.
    unsafe { PROGRAM }
}

/// The program's first instructions.
///
/// In: rdi = start block, rsi = IPC area, rsp = top of the stack. Out: nothing, it does not return. Clobbers all.
/// The stack is aligned to 16 and a zero is pushed as return address, so that frame-pointer walks end here.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!(
        "xor ebp, ebp", // the outermost frame
        "and rsp, -16",
        "call {begin}", // pushes 8: as at any function's entry
        "ud2",
        begin = sym begin,
    )
}

extern "C" fn begin(block: *const u8) -> ! {
    // SAFETY: whoever made this process maps a start block read-only for as long as it lives (`abi::start`).
    if unsafe { crate::start::adopt_raw(block) }.is_err() {
        process::exit(BAD_START);
    }
    crate::begin();
    // SAFETY: `entry!` defines it with this signature.
    process::exit(unsafe { switchyard_main() })
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    static PANICKING: AtomicBool = AtomicBool::new(false);
    // A second panic (of another thread, or of this report) must not report again.
    if !PANICKING.swap(true, Ordering::Relaxed) {
        let mut line = logging::Line::new();
        // Writing to a Line can't fail.
        let _ = writeln!(line, "{}: {info}", program_name());
        line.flush();
    }
    process::exit(PANICKED)
}

/// The target's prebuilt `core` names an unwinder's personality in its unwind tables. Nothing unwinds here
/// (`panic=abort`), so it is never called.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    process::exit(PANICKED)
}
