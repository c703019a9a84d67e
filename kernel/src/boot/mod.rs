//! The boot sequence: from the loader's jump to the first user instruction.
//!
//! | file | what it does |
//! |---|---|
//! | `entry` | the first instructions, a stack of the kernel's own |
//! | `protocol` | asks the loader, and copies its answers out of its memory |
//! | `command_line` | options |
//! | `flaws` | what is done about flaws of the CPU |
//! | `heap` | memory for queues that are made at boot |
//! | `start` | the sequence itself |
//! | `smp` | the other CPUs |
//! | `on_purpose` | panics that the command line asks for |
//! | `image`, `first_process` | checks the first program's ELF file, and makes it a process |

pub mod command_line;
pub mod image;

#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
pub mod first_process;
#[cfg(target_os = "none")]
mod flaws;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod on_purpose;
#[cfg(target_os = "none")]
mod protocol;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod start;

#[cfg(target_os = "none")]
pub(crate) use entry::stack_guard;
#[cfg(target_os = "none")]
pub use on_purpose::in_thread;
#[cfg(target_os = "none")]
pub use start::give_up;
