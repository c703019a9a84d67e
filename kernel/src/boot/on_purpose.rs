//! Panics on purpose, asked for by `panic=` on the command line: so that the report itself can be tested.
//!
//! Some are real mishaps and no mere calls: an access to nothing, a stack that runs over. What the report says of those is what
//! it will say on the day when it counts.

use core::hint::black_box;
use core::sync::atomic::{AtomicBool, Ordering};

use super::smp;
use crate::cpu;

/// Whether the first thread that begins shall overflow its stack.
static IN_THREAD: AtomicBool = AtomicBool::new(false);

/// What is due while the boot stack is in use, on the kernel's own tables.
pub(super) fn on_boot_stack(what: &str) {
    if what == "boot-stack" {
        overflow(0);
    }
}

/// What is due when all CPUs run.
#[inline(never)]
pub(super) fn after_boot(what: &str) {
    match what {
        "test" => panic!("asked for on the command line"),
        // The last CPU to start looks for this itself: see smp.rs.
        "ap" if cpu::count() > 1 => smp::wait_for_panic(),
        "fault" => {
            // SAFETY: the address is in the kernel's half and mapped to nothing: the access is a fault and nothing else, as is the
            // purpose.
            unsafe { (0xFFFF_9000_0000_0000 as *const u8).read_volatile() };
        }
        "stack" => IN_THREAD.store(true, Ordering::Relaxed),
        "idle-stack" => {
            overflow(0);
        }
        other => {
            ::log::warn!(
                "panic={other}: unknown; test, fault, ap (with several CPUs), stack, boot-stack and idle-stack are known"
            );
        }
    }
}

/// What is due when a thread begins, on its kernel stack.
#[inline]
pub fn in_thread() {
    if IN_THREAD.load(Ordering::Relaxed) {
        overflow(0);
    }
}

/// Calls itself until the stack is used up.
#[inline(never)]
fn overflow(depth: u64) -> u64 {
    let mut kept = [depth; 16];
    black_box(&mut kept);
    let below = if depth == u64::MAX {
        0
    } else {
        overflow(depth + 1)
    };
    black_box(&kept)[0] ^ below
}
