//! The SDK: what a Switchyard server is written with.
//!
//! A server is an ordinary Rust program without `std`: [`entry!`] names its `main`, `alloc` works, `log::info!` goes to
//! the kernel's log, and what it was given by the manifest is found by name in [`start`]. Each kernel object has an
//! owning type here ([`Endpoint`], [`Notification`], [`Memory`], [`Process`], ...) whose drop closes the handle;
//! [`interface!`] makes client and server of a typed protocol out of one description.
//!
//! The same source builds for the host, where [`sys`] is answered by a small stand-in for the kernel instead of
//! `syscall`. So a server's logic, threads and messages included, runs under plain `cargo test`. The bare target is
//! `x86_64-unknown-linux-musl` (for its prebuilt hard-float `core`; nothing of Linux is used), told by `target_env`.
//!
//! What may go wrong: a program that has no log handle is mute, and then its exit code is all that tells of a panic.

#![no_std]

extern crate alloc;
#[cfg(not(target_env = "musl"))]
extern crate std;

#[doc(hidden)]
pub use context::fpu_state_bytes;
pub use log as log_crate;

#[cfg(feature = "archive")]
pub mod archive;
#[cfg(target_env = "musl")]
mod bare;
pub mod call;
mod context;
pub mod device;
mod endpoint;
mod failure;
mod handle;
mod interface;
pub mod interfaces;
pub mod landing;
#[cfg(feature = "loader")]
pub mod loader;
pub mod logging;
mod memory;
#[cfg(any(target_env = "musl", test))]
mod memory_functions;
mod message;
mod notification;
pub mod process;
pub mod report;
pub mod start;
pub mod stream;
pub mod sync;
pub mod sys;
pub mod system;
pub mod thread;
pub mod time;
pub mod wire;

pub use abi::{Badge, Deadline, Error, Handle, MemoryFlags, Priority, Protection, Rights, Tag};
pub use call::{CallError, Caller, Later, Outcome};
pub use device::{IoPorts, Irq};
pub use endpoint::{Endpoint, Reply};
pub use failure::{Failure, FailureKind};
pub use handle::{AsHandle, OwnedHandle};
pub use logging::Log;
pub use memory::{Mapping, Memory};
pub use message::{Carried, Event, Message, Plain, Received};
pub use notification::Notification;
pub use process::Process;
pub use system::System;
pub use thread::Thread;

/// A kernel call's result.
pub type Result<T> = core::result::Result<T, Error>;

/// What every program does first, once its start block is known.
pub(crate) fn begin() {
    if let Some(handle) = start::peek(abi::start::names::PROCESS) {
        process::set_current(handle);
    }
    landing::begin();
    logging::start();
}

/// Names the function that the program's first thread runs. It must not itself be called `main`: on the host that is
/// another.
///
/// It takes nothing and gives an exit code (`u64`), nothing (code 0), or a `Result` whose error is logged (code 1). On the host the macro makes a `main` that
/// says that the program runs on Switchyard only, so that `cargo test --workspace` builds it.
///
/// ```ignore
/// #![cfg_attr(target_env = "musl", no_std, no_main)]
/// rt::entry!(run);
/// fn run() { log::info!("hello") }
/// ```
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[cfg(target_env = "musl")]
        #[unsafe(no_mangle)]
        extern "Rust" fn switchyard_main() -> u64 {
            $crate::start::ExitCode::code($main())
        }

        #[cfg(target_env = "musl")]
        #[unsafe(no_mangle)]
        static SWITCHYARD_PROGRAM: &str = env!("CARGO_PKG_NAME");

        #[cfg(not(target_env = "musl"))]
        fn main() {
            // Named, so that a host build knows that it is used.
            let _ = $main as fn() -> _;
            eprintln!(
                "{} is a Switchyard server: it runs there only",
                env!("CARGO_PKG_NAME")
            );
            std::process::exit(2);
        }
    };
}
