//! Rust closures run on new threads.
//!
//! A spawned thread's stack is a memory object in a slot of the address space that is larger than it, so that the page
//! below stays unmapped and an overflow faults instead of writing over something. At its end the thread unmaps its own
//! stack and exits in registers alone.

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::{CpuSet, Deadline, Error, Priority};

use super::Thread;
use crate::sync::Mutex;
use crate::{Notification, Result};

/// How a thread is to be made.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Builder {
    stack_bytes: u64,
    priority: Option<Priority>,
    cpus: Option<CpuSet>,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

impl Builder {
    /// A stack of 64 KiB, the priority that the kernel gives, any CPU.
    pub const fn new() -> Builder {
        Builder {
            stack_bytes: 64 * 1024,
            priority: None,
            cpus: None,
        }
    }

    /// With a stack of so many bytes, rounded up to whole pages.
    pub const fn stack_bytes(mut self, bytes: u64) -> Builder {
        self.stack_bytes = bytes;
        self
    }

    /// At this priority.
    pub const fn priority(mut self, priority: Priority) -> Builder {
        self.priority = Some(priority);
        self
    }

    /// On this CPU only.
    pub const fn cpu(self, index: u32) -> Builder {
        self.cpus(CpuSet::only(index))
    }

    /// On these CPUs only.
    pub const fn cpus(mut self, cpus: CpuSet) -> Builder {
        self.cpus = Some(cpus);
        self
    }

    /// Starts a thread that runs `body`.
    ///
    /// # Errors
    /// `NoMemory`, `QuotaExceeded`, `OutOfRange` for a CPU that is not there, `NoRight` for too high a priority.
    pub fn spawn<T, F>(self, body: F) -> Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let packet = Arc::new(Packet {
            done: Notification::create()?,
            result: Mutex::new(None),
        });
        let theirs = Arc::clone(&packet);
        let body: Box<dyn FnOnce() + Send> = Box::new(move || {
            let result = body();
            *theirs.result.lock() = Some(result);
            // The joiner holds the other reference; a failure can only be a handle closed by force.
            let _ = theirs.done.signal(1);
        });
        let thread = backend::start(self, body)?;
        Ok(JoinHandle { thread, packet })
    }
}

/// Starts a thread that runs `body`, made as [`Builder::new`] says.
///
/// # Errors
/// As for [`Builder::spawn`].
pub fn spawn<T, F>(body: F) -> Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Builder::new().spawn(body)
}

struct Packet<T> {
    done: Notification,
    result: Mutex<Option<T>>,
}

/// A spawned thread. Dropping it lets the thread go on by itself.
pub struct JoinHandle<T> {
    thread: Thread,
    packet: Arc<Packet<T>>,
}

impl<T> JoinHandle<T> {
    /// The thread.
    pub const fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Whether it has come to its end.
    pub fn is_finished(&self) -> bool {
        self.packet.result.lock().is_some()
    }

    /// Waits for its end, and leaves its result to [`join`](JoinHandle::join).
    ///
    /// # Errors
    /// `TimedOut`, `Cancelled`.
    pub fn wait(&self, deadline: Deadline) -> Result<()> {
        while !self.is_finished() {
            self.packet.done.wait(deadline)?;
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// `TimedOut`, `Cancelled`. A thread that was killed never comes to its end.
    pub fn join(self, deadline: Deadline) -> Result<T> {
        loop {
            if let Some(result) = self.packet.result.lock().take() {
                return Ok(result);
            }
            match self.packet.done.wait(deadline) {
                Ok(_) => {}
                Err(error) => return self.packet.result.lock().take().ok_or(error),
            }
        }
    }
}

#[cfg(target_env = "musl")]
mod backend {
    //! Threads on bare stacks.

    use alloc::boxed::Box;
    use core::arch::{asm, naked_asm};
    use core::sync::atomic::{AtomicU64, Ordering};

    use abi::{Call, Handle};

    use super::{Builder, Error, Result, Thread};
    use crate::{Protection, memory, process};

    /// Where stacks are: between the heap and `abi::layout::MAP_START`.
    const STACKS_START: u64 = 0x0000_0C00_0000_0000;
    const STACKS_END: u64 = 0x0000_1000_0000_0000;
    /// Slots are multiples of this, and larger than their stack by at least a page.
    const SLOT: u64 = 0x10_0000;
    /// How many slots are tried once the stretch was gone through.
    const TRIES: usize = 256;

    static NEXT: AtomicU64 = AtomicU64::new(STACKS_START);

    /// What the new thread finds.
    struct Start {
        body: Box<dyn FnOnce() + Send>,
        stack: u64,
        bytes: u64,
    }

    /// Maps a stack; the page below it is left unmapped. Returns its lowest address and its size.
    fn map_stack(bytes: u64) -> Result<(u64, u64)> {
        let bytes = memory::page_up(bytes.max(4096)).ok_or(Error::OutOfRange)?;
        let slot = bytes
            .checked_add(4096)
            .map(|sum| sum.div_ceil(SLOT) * SLOT)
            .ok_or(Error::OutOfRange)?;
        if slot > (STACKS_END - STACKS_START) / 2 {
            return Err(Error::OutOfRange);
        }
        for _ in 0..TRIES {
            let mut start = NEXT.fetch_add(slot, Ordering::Relaxed);
            if start.checked_add(slot).is_none_or(|end| end > STACKS_END) {
                // Round again: slots of ended threads are free by now, others answer `AlreadyMapped`.
                NEXT.store(STACKS_START + slot, Ordering::Relaxed);
                start = STACKS_START;
            }
            let address = start + slot - bytes;
            match process::current().map_new(address, bytes, Protection::READ_WRITE, &[]) {
                Ok(address) => return Ok((address, bytes)),
                Err(Error::AlreadyMapped) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoMemory)
    }

    pub(super) fn start(builder: Builder, body: Box<dyn FnOnce() + Send>) -> Result<Thread> {
        let (stack, bytes) = map_stack(builder.stack_bytes)?;
        let start = Box::into_raw(Box::new(Start { body, stack, bytes }));
        let (own, entry) = (process::current(), thread_start as *const () as u64);
        let is_plain = builder.priority.is_none() && builder.cpus.is_none();
        // SAFETY: `thread_start` takes just this argument, and the stack is new and mapped.
        let made = unsafe {
            if is_plain {
                own.start_thread(entry, stack + bytes, start as u64)
            } else {
                own.create_thread(entry, stack + bytes, start as u64)
            }
        };
        let started = made.and_then(|thread| {
            let ready = || {
                if is_plain {
                    return Ok(());
                }
                if let Some(priority) = builder.priority {
                    thread.set_priority(priority)?;
                }
                if let Some(cpus) = &builder.cpus {
                    thread.set_affinity(cpus)?;
                }
                thread.start()
            };
            match ready() {
                Ok(()) => Ok(thread),
                Err(error) => {
                    // Else it would stay in the process for ever, not started, with a stack that is gone.
                    // SAFETY: it never ran.
                    let _ = unsafe { thread.kill() };
                    Err(error)
                }
            }
        });
        if started.is_err() {
            // SAFETY: no thread got it, or the one that did never ran.
            drop(unsafe { Box::from_raw(start) });
            // SAFETY: as above.
            let _ = unsafe { process::current().unmap(stack, bytes) };
        }
        started
    }

    /// A new thread's first instructions. In: rdi = the [`Start`], rsp = top of its stack, 16-aligned. No way back.
    #[unsafe(naked)]
    extern "C" fn thread_start() -> ! {
        naked_asm!(
            "xor ebp, ebp", // the outermost frame
            "and rsp, -16",
            "call {run}",
            "ud2",
            run = sym run,
        )
    }

    extern "C" fn run(start: *mut Start) -> ! {
        // SAFETY: `start` made it by `Box::into_raw` for this thread alone.
        let Start { body, stack, bytes } = *unsafe { Box::from_raw(start) };
        body();
        // SAFETY: two system calls in registers alone: the first takes away the stack under this very function, which
        // touches it no more; the second never returns. `syscall` overwrites rcx, r11, and rdi, rsi, rdx, rax.
        unsafe {
            asm!(
                "syscall",
                "mov eax, {exit}",
                "xor edi, edi", // exit code 0
                "syscall",
                "ud2",
                exit = const Call::ThreadExit as u64,
                in("rax") Call::MemoryUnmap as u64,
                in("rdi") Handle::NONE.0, // this process
                in("rsi") stack,
                in("rdx") bytes,
                options(noreturn, nostack),
            )
        }
    }
}

#[cfg(not(target_env = "musl"))]
mod backend {
    //! Threads of the host.

    use super::{Box, Builder, Error, Result, Thread};

    pub(super) fn start(builder: Builder, body: Box<dyn FnOnce() + Send>) -> Result<Thread> {
        // Priorities and CPUs are the host's own affair.
        let Builder {
            stack_bytes: _,
            priority: _,
            cpus: _,
        } = builder;
        std::thread::Builder::new()
            .spawn(body)
            .map_err(|_| Error::NoMemory)?;
        Thread::current()
    }
}
