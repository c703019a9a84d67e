//! Processes: this one, and those that it makes.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::info::{ProcessInfo, Quota, QuotaInfo};
use abi::report::ReportKind;
use abi::{Call, Error, Handle, Priority, Protection, Rights};

use crate::handle::object;
use crate::{AsHandle, Endpoint, Memory, Notification, OwnedHandle, Result, Thread, sys};

object! {
    /// An address space, a table of handles, and the threads in it.
    Process
}

/// A process that was just made, and where the kernel has put its landing page.
#[derive(Debug)]
pub struct Made {
    /// The process.
    pub process: Process,
    /// Address of the page's image; 0 if there is none.
    pub landing: u64,
    /// Address of `__kernel_vsyscall`; 0 if there is none.
    pub vsyscall: u64,
}

impl core::ops::Deref for Made {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// The calling process's own handle; 0 until somebody asked.
static OWN: AtomicU64 = AtomicU64::new(0);

/// The calling process.
#[derive(Clone, Copy, Debug)]
pub struct Current(Handle);

/// The calling process, by a handle that is made once and lives as long as it does.
pub fn current() -> Current {
    let known = OWN.load(Ordering::Relaxed);
    if known != 0 {
        return Current(Handle(known));
    }
    // SAFETY: touches no memory. Two threads may both make a handle here; one of the two is then merely spare.
    match unsafe { sys::call(Call::ProcessSelf, [0; 6]) } {
        Ok([handle, ..]) => {
            OWN.store(handle, Ordering::Relaxed);
            Current(Handle(handle))
        }
        // With no room for a handle, every use names the cause by failing with `BadHandle`.
        Err(_) => Current(Handle::NONE),
    }
}

/// Sets the own handle that the start block brought.
pub(crate) fn set_current(handle: Handle) {
    OWN.store(handle.0, Ordering::Relaxed);
}

/// Ends the calling process with an exit code.
pub fn exit(code: u64) -> ! {
    // SAFETY: ends the process, after which nothing is owed.
    let _ = unsafe { sys::call(Call::ProcessExit, [code, 0, 0, 0, 0, 0]) };
    unreachable!("the kernel returned from process_exit")
}

impl AsHandle for Current {
    fn handle(&self) -> Handle {
        self.0
    }
}

impl Current {
    /// How calls name it that change what is in a process: 0 is the caller's own.
    #[expect(clippy::unused_self, reason = "as of any process")]
    const fn named(self) -> u64 {
        Handle::NONE.0
    }
}

impl Process {
    /// How calls name it.
    fn named(&self) -> u64 {
        self.handle().0
    }
}

macro_rules! space_operations {
    ($($type:ty),*) => {$(
        impl $type {
            /// Maps `bytes` of memory from `offset` on at `address` (0: where there is room); all three are multiples
            /// of the page size. Returns the address.
            ///
            /// # Errors
            /// `AlreadyMapped`, `BadArgument`, `OutOfRange`, `NoRight`, `NoMemory`, `QuotaExceeded`, `Ended`.
            pub fn map(
                &self,
                memory: &Memory,
                address: u64,
                offset: u64,
                bytes: u64,
                protection: Protection,
            ) -> Result<u64> {
                let arguments =
                    [self.named(), memory.handle().0, address, offset, bytes, u64::from(protection.0)];
                // SAFETY: a mapping only adds memory where none was: the kernel refuses what is mapped already.
                unsafe { sys::call(Call::MemoryMap, arguments) }.map(|values| values[0])
            }

            /// Maps `bytes` of new memory, zeroed but for `contents` at its begin, at `address` (0: where there is room). The process
            /// that it is mapped in pays for it. Returns the address.
            ///
            /// # Errors
            /// `AlreadyMapped`, `BadArgument`, `OutOfRange` (also for more contents than bytes), `NoMemory`, `QuotaExceeded`, `Ended`.
            pub fn map_new(
                &self,
                address: u64,
                bytes: u64,
                protection: Protection,
                contents: &[u8],
            ) -> Result<u64> {
                let arguments = [
                    self.named(),
                    address,
                    bytes,
                    u64::from(protection.0),
                    contents.as_ptr() as u64,
                    contents.len() as u64,
                ];
                // SAFETY: a mapping only adds memory where none was; the kernel reads the contents.
                unsafe { sys::call(Call::MemoryMapNew, arguments) }.map(|values| values[0])
            }

            /// Unmaps whole pages.
            ///
            /// # Safety
            /// If this is the calling process, nothing in it may use the range any more.
            ///
            /// # Errors
            /// `BadArgument` if unaligned, `OutOfRange`, `NoRight`.
            pub unsafe fn unmap(&self, address: u64, bytes: u64) -> Result<()> {
                // SAFETY: the caller's promise.
                unsafe { sys::call(Call::MemoryUnmap, [self.named(), address, bytes, 0, 0, 0]) }.map(|_| ())
            }

            /// Changes how mapped pages are protected.
            ///
            /// # Safety
            /// If this is the calling process, nothing in it may use the range in a way that becomes forbidden.
            ///
            /// # Errors
            /// `NotMapped`, `NoRight` beyond what the memory handle allowed, `BadArgument`, `OutOfRange`.
            pub unsafe fn protect(&self, address: u64, bytes: u64, protection: Protection) -> Result<()> {
                let arguments = [self.named(), address, bytes, u64::from(protection.0), 0, 0];
                // SAFETY: the caller's promise.
                unsafe { sys::call(Call::MemoryProtect, arguments) }.map(|_| ())
            }

            /// A thread in it, not yet started. It will begin at `entry` with `rdi` = `argument`, `rsi` = its IPC area and the
            /// stack pointer given.
            ///
            /// # Safety
            /// If this is the calling process, `entry` is code that can run on that stack with that argument.
            ///
            /// # Errors
            /// `BadArgument`, `NoRight`, `NoMemory`, `QuotaExceeded`, `Ended`.
            #[inline]
            pub unsafe fn create_thread(&self, entry: u64, stack: u64, argument: u64) -> Result<Thread> {
                // SAFETY: the caller's promise.
                unsafe { self.make_thread(entry, stack, argument, 0) }
            }

            /// The same of a thread that runs at once.
            ///
            /// # Safety
            /// As for [`create_thread`](Self::create_thread).
            ///
            /// # Errors
            /// As for [`create_thread`](Self::create_thread); then there is no thread.
            #[inline]
            pub unsafe fn start_thread(&self, entry: u64, stack: u64, argument: u64) -> Result<Thread> {
                const START: u64 = 1;
                // SAFETY: the caller's promise.
                unsafe { self.make_thread(entry, stack, argument, START) }
            }

            #[inline]
            unsafe fn make_thread(&self, entry: u64, stack: u64, argument: u64, flags: u64) -> Result<Thread> {
                let arguments = [self.named(), entry, stack, argument, flags];
                // SAFETY: the caller's promise.
                let (status, handle) = unsafe { sys::short_with_five(Call::ThreadCreate, arguments) };
                sys::check(status)?;
                Ok(Thread::from_handle(OwnedHandle::from_raw(Handle(handle))))
            }

            /// Copies from its memory at `address` to `bytes`, wherever something is mapped there. Returns how many bytes were copied: fewer if something
            /// in between can't be read.
            ///
            /// # Errors
            /// `NotMapped` if nothing is there, `NotSupported` for device memory, `NoRight` without DEBUG, `Ended`.
            pub fn read_memory(&self, address: u64, bytes: &mut [u8]) -> Result<usize> {
                let mut done = 0;
                while done < bytes.len() {
                    let rest = &mut bytes[done..];
                    let at = address.wrapping_add(done as u64);
                    let arguments =
                        [self.handle().0, at, rest.as_mut_ptr() as u64, rest.len() as u64, 0, 0];
                    // SAFETY: the kernel writes at most as many bytes, to a buffer of ours.
                    match unsafe { sys::call(Call::ProcessRead, arguments) } {
                        Ok([copied, ..]) => done += copied as usize,
                        Err(error) if done == 0 => return Err(error),
                        Err(_) => break,
                    }
                }
                Ok(done)
            }

            /// Copies `bytes` to its memory at `address`, in the same way. What is mapped in several processes changes in all of them.
            ///
            /// # Safety
            /// If this is the calling process: nothing in it counts on what is overwritten.
            ///
            /// # Errors
            /// As [`read_memory`](Self::read_memory), and `NoRight` where the handle that something was mapped by did not allow to write.
            pub unsafe fn write_memory(&self, address: u64, bytes: &[u8]) -> Result<usize> {
                let mut done = 0;
                while done < bytes.len() {
                    let rest = &bytes[done..];
                    let at = address.wrapping_add(done as u64);
                    let arguments =
                        [self.handle().0, at, rest.as_ptr() as u64, rest.len() as u64, 0, 0];
                    // SAFETY: the kernel reads at most as many bytes of ours; where they go is the caller's promise.
                    match unsafe { sys::call(Call::ProcessWrite, arguments) } {
                        Ok([copied, ..]) => done += copied as usize,
                        Err(error) if done == 0 => return Err(error),
                        Err(_) => break,
                    }
                }
                Ok(done)
            }

            /// Its thread with the lowest number above `after`, and that number; `None` if there is none. Beginning with 0, all are found.
            ///
            /// # Errors
            /// `NoRight` without DEBUG; `NoMemory`, `QuotaExceeded`.
            pub fn thread_after(&self, after: u64) -> Result<Option<(Thread, u64)>> {
                // SAFETY: touches no memory.
                match unsafe { sys::call(Call::ProcessThread, [self.handle().0, after, 0, 0, 0, 0]) } {
                    Ok([handle, number, _]) => {
                        Ok(Some((Thread::from_handle(OwnedHandle::from_raw(Handle(handle))), number)))
                    }
                    Err(Error::OutOfRange) => Ok(None),
                    Err(error) => Err(error),
                }
            }

            /// Lets its threads report what they do of this kind to an endpoint, with the badge of this handle, but for those that have an
            /// endpoint of their own; `None` ends that. See [`report`](crate::report).
            ///
            /// # Errors
            /// `NoRight` without MANAGE, or SEND on the endpoint; `NoMemory`, `Ended`.
            pub fn report_to(&self, kind: ReportKind, endpoint: Option<&Endpoint>) -> Result<()> {
                crate::report::report_to(self.handle(), kind, endpoint)
            }

            /// What is known of it.
            ///
            /// # Errors
            /// `NoRight` without QUERY.
            pub fn info(&self) -> Result<ProcessInfo> {
                let mut info = ProcessInfo::default();
                // SAFETY: the kernel writes one ProcessInfo through the pointer, which is to a live one of ours.
                unsafe { sys::call(Call::ProcessInfo, [self.named(), &raw mut info as u64, 0, 0, 0, 0]) }?;
                Ok(info)
            }

            /// What it may use, and does.
            ///
            /// # Errors
            /// `NoRight` without QUERY.
            pub fn quota(&self) -> Result<QuotaInfo> {
                let mut info = QuotaInfo::default();
                // SAFETY: the kernel writes one QuotaInfo through the pointer, which is to a live one of ours.
                unsafe { sys::call(Call::ProcessQuota, [self.named(), &raw mut info as u64, 0, 0, 0, 0]) }?;
                Ok(info)
            }

            /// Puts a copy of a handle with `rights` into its table, and returns the number that it has there.
            ///
            /// # Errors
            /// `NoRight` without MANAGE here or TRANSFER on the handle, or if `rights` is more than the handle has;
            /// `NoMemory`, `QuotaExceeded`, `Ended`.
            pub fn grant(&self, handle: &impl AsHandle, rights: Rights) -> Result<Handle> {
                let arguments = [self.handle().0, handle.handle().0, u64::from(rights.0), 0, 0, 0];
                // SAFETY: touches no memory.
                unsafe { sys::call(Call::HandleGrant, arguments) }.map(|values| Handle(values[0]))
            }
        }
    )*};
}
space_operations!(Process, Current);

/// What a process's programs can address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Mode {
    /// Everything: 64-bit programs.
    Long = 0,
    /// What is below 4 GiB: 32-bit programs.
    Compat = 1,
}

impl Process {
    /// An empty process; `name` is what lists show (up to 32 bytes).
    ///
    /// # Errors
    /// `BadArgument` for a name too long, `NoMemory`, `QuotaExceeded`.
    pub fn create(name: &str) -> Result<Process> {
        // A 0 stands for the caller's own highest priority.
        Process::create_below(name, Priority::LOWEST)
    }

    /// The same; its threads can give threads at most the priority `highest`.
    ///
    /// # Errors
    /// As [`create`](Self::create); `NoRight` if the caller itself can't give that priority.
    pub fn create_below(name: &str, highest: Priority) -> Result<Process> {
        Process::create_in(Mode::Long, name, highest)
    }

    /// The same, for 64-bit or 32-bit programs.
    ///
    /// # Errors
    /// As [`create_below`](Self::create_below).
    pub fn create_in(mode: Mode, name: &str, highest: Priority) -> Result<Process> {
        Process::make(mode, name, highest).map(|made| made.process)
    }

    /// The same, with where the landing page is.
    ///
    /// # Errors
    /// As [`create_below`](Self::create_below).
    pub fn make(mode: Mode, name: &str, highest: Priority) -> Result<Made> {
        Process::make_with(mode, name, highest, None)
    }

    /// The same, with a part of the caller's quota, taken from there; without, the caller's quota pays for what the process uses.
    ///
    /// # Errors
    /// As [`create_below`](Self::create_below).
    pub fn make_with(
        mode: Mode,
        name: &str,
        highest: Priority,
        quota: Option<&Quota>,
    ) -> Result<Made> {
        let quota = quota.map_or(0, |quota| core::ptr::from_ref(quota) as u64);
        let highest = u64::from(highest.level());
        // SAFETY: the kernel reads the name and the quota.
        let values = unsafe {
            sys::call(
                Call::ProcessCreate,
                [
                    name.as_ptr() as u64,
                    name.len() as u64,
                    highest,
                    mode as u64,
                    quota,
                    0,
                ],
            )
        }?;
        let [process, landing, vsyscall] = values;
        Ok(Made {
            process: Process(OwnedHandle::from_raw(Handle(process))),
            landing,
            vsyscall,
        })
    }

    /// Ends it with all of its threads.
    ///
    /// # Errors
    /// `NoRight` without MANAGE, `Ended`.
    pub fn kill(&self, code: u64) -> Result<()> {
        // SAFETY: ends another process; by this type it is the caller's own only if it asked for such a handle, and
        // then nothing is owed any more.
        unsafe { sys::call(Call::ProcessKill, [self.handle().0, code, 0, 0, 0, 0]) }.map(|_| ())
    }

    /// Gives it another part of the caller's quota than it has.
    ///
    /// # Errors
    /// `NoRight` if its part is not of the caller's quota, `WrongState` if it has none, `QuotaExceeded` if more is in use or there is not so
    /// much left.
    pub fn set_quota(&self, quota: &Quota) -> Result<()> {
        let arguments = [
            self.handle().0,
            core::ptr::from_ref(quota) as u64,
            0,
            0,
            0,
            0,
        ];
        // SAFETY: the kernel reads the quota.
        unsafe { sys::call(Call::ProcessSetQuota, arguments) }.map(|_| ())
    }

    /// Has `bits` signalled when it has ended, at once if it has.
    ///
    /// # Errors
    /// `NoRight` without QUERY here or SIGNAL there, `NoMemory`, `QuotaExceeded`.
    pub fn watch(&self, notification: &Notification, bits: u64) -> Result<()> {
        // SAFETY: touches no memory.
        unsafe {
            sys::call(
                Call::ProcessWatch,
                [self.handle().0, notification.handle().0, bits, 0, 0, 0],
            )
        }
        .map(|_| ())
    }
}
