//! The small SDK for 32-bit programs: entry point, system calls by each entry, threads with thread-local storage, log.
//!
//! It exists to show and to test that 32-bit code runs as `abi::compat` says; it has no heap and no typed interfaces. A program
//! is built for `i686-unknown-linux-gnu` (for its prebuilt hard-float `core`; nothing of Linux is used):
//!
//! ```ignore
//! #![cfg_attr(target_arch = "x86", no_std, no_main)]
//! rt32::entry!(run);
//! #[cfg(target_arch = "x86")]
//! fn run() -> u64 { rt32::log::write(format_args!("hello\n")); 0 }
//! ```
//!
//! Calls go through the landing page's `__kernel_vsyscall`, whose address each thread has at `gs:0x10` ([`tls`]).
//!
//! What may go wrong: a program that has no log handle is mute, and then its exit code is all that tells of a panic.

#![no_std]

#[cfg(target_arch = "x86")]
pub mod call;
#[cfg(target_arch = "x86")]
pub mod log;
#[cfg(target_arch = "x86")]
mod memory_functions;
#[cfg(target_arch = "x86")]
pub mod start;
#[cfg(target_arch = "x86")]
pub mod thread;
#[cfg(target_arch = "x86")]
pub mod tls;

/// Exit code of a program that panicked.
pub const PANICKED: u64 = 101;
/// Exit code of a program whose start block is none.
pub const BAD_START: u64 = 102;

/// Names the function that the program's first thread runs; it returns the exit code. On the host the macro makes a `main`
/// that says where the program runs.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[cfg(target_arch = "x86")]
        #[unsafe(no_mangle)]
        extern "Rust" fn switchyard_main() -> u64 {
            $main()
        }

        #[cfg(target_arch = "x86")]
        #[unsafe(no_mangle)]
        static SWITCHYARD_PROGRAM: &str = env!("CARGO_PKG_NAME");

        #[cfg(not(target_arch = "x86"))]
        fn main() {
            eprintln!(
                "{} is a 32-bit Switchyard program: it runs there only",
                env!("CARGO_PKG_NAME")
            );
            std::process::exit(2);
        }
    };
}
