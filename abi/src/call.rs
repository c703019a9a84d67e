//! System call numbers.
//!
//! A number is judged as a whole 64-bit register: one past the table, or with high bits set, gives
//! [`Error::UnknownCall`](crate::Error::UnknownCall). The short calls come first ([`SHORT_CALLS`]), then
//! the IPC calls, so that the kernel's entry can tell them by one comparison. Arguments and results of each call stand in its line below in the order of
//! the argument registers (see [`register`](crate::register)); every call returns its status in `rax`.

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// A system call. The notation is `(arguments) -> results`, in argument-register order
        /// `rdi, rsi, rdx, r10, r8, r9` unless a line names registers.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u64)]
        pub enum Call { $($(#[$doc])* $name = $number,)* }

        impl Call {
            /// All calls, in the order of their numbers.
            pub const ALL: &'static [Call] = &[$(Call::$name,)*];

            /// The call with this number, judged as a whole register; `None` past the table.
            #[inline]
            pub const fn from_number(number: u64) -> Option<Call> {
                match number { $($number => Some(Call::$name),)* _ => None }
            }

            /// The call's name as manuals and traces print it.
            pub const fn name(self) -> &'static str {
                match self { $(Call::$name => $text,)* }
            }
        }
    };
}

/// Numbers below this are *short calls*: they take at most three arguments in `rdi`, `rsi`, `rdx`, give at most one result in
/// `rdi`, and keep none of the registers that a C function may change ([`register`](crate::register)).
pub const SHORT_CALLS: u64 = 4;

calls! {
    /// `()`: does nothing. It is what an entry and exit cost.
    Null = 0, "null";
    /// `()`: let another thread of the same priority run.
    Yield = 1, "yield";
    /// `(notification, bits)`: or the bits in and wake a waiter. Right SIGNAL.
    Signal = 2, "signal";
    /// `() -> rdi nanoseconds` of monotonic time since boot.
    ClockNow = 3, "clock_now";

    /// IPC register map: send a message and wait for the reply. `rdi` endpoint (right SEND), `r14` deadline.
    Call = 4, "call";
    /// IPC register map: send a message, wait until it was received, want no reply. `rdi` endpoint (right SEND), `r14` deadline.
    Send = 5, "send";
    /// IPC register map: wait for a message or for the thread's bound notification. `rdi` endpoint (right RECEIVE), `r14` deadline.
    Recv = 6, "recv";
    /// IPC register map: answer. `r15` reply handle, which is used up also when an error is returned after it was found: then the
    /// caller gets [`Error::NoReply`](crate::Error::NoReply).
    Reply = 7, "reply";
    /// IPC register map: answer `r15` (nobody if it is 0), then wait on `rdi` as `recv` does.
    ReplyRecv = 8, "reply_recv";
    /// `(notification)`, `r14` deadline `-> rdx bits`: wait until bits are set, take and clear them all. Right WAIT.
    Wait = 9, "wait";

    /// `(handle)`: close it.
    HandleClose = 16, "handle_close";
    /// `(handle, rights) -> rdi handle`: a second handle with these rights, which must be a part of the first's. Right DUPLICATE.
    HandleDuplicate = 17, "handle_duplicate";
    /// `(handle, pointer to info::HandleInfo)`: what the handle names.
    HandleQuery = 18, "handle_query";
    /// `(process, handle, rights) -> rdi handle in that process`: put a copy of the handle into another process's table.
    /// Right MANAGE on the process, TRANSFER on the handle.
    HandleGrant = 19, "handle_grant";

    /// `() -> rdi handle`: a new endpoint with all rights.
    EndpointCreate = 24, "endpoint_create";
    /// `(endpoint, badge, rights) -> rdi handle`: a handle whose messages carry `badge`. Right MINT.
    EndpointMint = 25, "endpoint_mint";
    /// `() -> rdi handle`: a new notification with all rights.
    NotificationCreate = 26, "notification_create";
    /// `(notification or 0)`: bind it to the calling thread (0 unbinds), so that its `recv` also waits for it. Right WAIT.
    NotificationBind = 27, "notification_bind";

    /// `(bytes, MemoryFlags) -> rdi handle`: memory, zeroed on demand; `bytes` is rounded up to whole pages.
    MemoryCreate = 32, "memory_create";
    /// `(hardware, physical address, bytes, cache: 0 uncached, 1 write-combining) -> rdi handle`: device memory. Right HARDWARE.
    MemoryCreatePhysical = 33, "memory_create_physical";
    /// `(process, memory, address or 0, offset, bytes, protection) -> rdi address`: map a part of it. All of address, offset
    /// and bytes are multiples of the page size; address 0 lets the kernel choose. Rights MANAGE on the process, READ, WRITE,
    /// EXECUTE on the memory as the protection asks. The mapping outlives the handle.
    MemoryMap = 34, "memory_map";
    /// `(process, address, bytes)`: unmap whole pages; unmapped ones inside are passed over. Right MANAGE.
    MemoryUnmap = 35, "memory_unmap";
    /// `(process, address, bytes, protection)`: change mapped pages, never beyond the mapping's handle rights at map time. Right MANAGE.
    MemoryProtect = 36, "memory_protect";
    /// `(memory, offset, pointer, bytes)`: copy from the object to the caller. Right READ.
    MemoryRead = 37, "memory_read";
    /// `(memory, offset, pointer, bytes)`: copy from the caller into the object. Right WRITE.
    MemoryWrite = 38, "memory_write";
    /// `(memory, flags = 0) -> rdi handle`: an object with the same contents as this one has at one moment during the call. Both share
    /// their memory until one is written; the caller's process pays for as much as if it did not. The object must have been made with
    /// [`MemoryFlags::CLONABLE`](crate::MemoryFlags::CLONABLE), which the clone is as well; another is
    /// [`Error::NotSupported`](crate::Error::NotSupported). Right READ. The handle has all rights, but EXECUTE only if the given
    /// one has it.
    MemoryClone = 39, "memory_clone";

    /// `(name pointer, name bytes, highest priority, mode: 0 = 64-bit, 1 = 32-bit) -> rdi handle`: an empty process with an address
    /// space and a handle table. Its threads can give threads at most this priority, which is at most the caller's own
    /// highest; 0 stands for that. A 32-bit process has its mappings below 4 GiB, and its threads begin in 32-bit code.
    ProcessCreate = 48, "process_create";
    /// `(process, exit code)`: end it and all of its threads. Right MANAGE.
    ProcessKill = 49, "process_kill";
    /// `(exit code)`: end the calling process. Does not return.
    ProcessExit = 50, "process_exit";
    /// `(process, notification, bits)`: signal the bits when it has ended (at once if it has). Rights QUERY and SIGNAL.
    ProcessWatch = 51, "process_watch";
    /// `(process, pointer to info::ProcessInfo)`. Right QUERY.
    ProcessInfo = 52, "process_info";
    /// `() -> rdi handle`: a handle to the calling process.
    ProcessSelf = 53, "process_self";

    /// `(process, entry, stack pointer, argument) -> rdi handle, rsi address of its IPC area`: a thread, not yet started.
    /// It starts at `entry` with `rdi` = argument, `rsi` = its IPC area, FS base = its IPC area (32-bit: null selector). Right MANAGE.
    ThreadCreate = 56, "thread_create";
    /// `(thread)`: let it run. Right MANAGE.
    ThreadStart = 57, "thread_start";
    /// `(exit code)`: end the calling thread; with the last one the process ends with code 0. Does not return.
    ThreadExit = 58, "thread_exit";
    /// `(thread)`: end it. Right MANAGE.
    ThreadKill = 59, "thread_kill";
    /// `(thread, priority)`: its base priority, 0 to the highest that the caller's process can give. It counts at once, wherever
    /// the thread is and whatever it does. Right MANAGE.
    ThreadSetPriority = 60, "thread_set_priority";
    /// `(thread, pointer to CpuSet's words, bytes)`, `r14` deadline: where it may run, at any time. `bytes` is a multiple of 8, up to
    /// 4096; CPUs that there are not, or that the words do not reach, are not in the set;
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) if none is left. When the call returns the thread runs on no CPU outside of
    /// the set; if the deadline passes before that, it is about to leave. Right MANAGE.
    ThreadSetAffinity = 61, "thread_set_affinity";
    /// `(fs base)`: set the calling thread's FS base (canonical, lower half).
    ThreadSetFsBase = 62, "thread_set_fs_base";
    /// `() -> rdi handle`: a handle to the calling thread.
    ThreadSelf = 63, "thread_self";
    /// `(thread or 0, slot, descriptor) -> rdi selector`: put a data segment into one of a thread's
    /// [slots](crate::segment), or empty it (a descriptor of 0). 0 names the calling thread; another one must not run: for now, it
    /// was not started. Right MANAGE on it. Segment registers that name the slot are loaded anew.
    ThreadSetTls = 66, "thread_set_tls";
    /// `(thread, ContextPart, pointer, bytes)`: copy out a part of the state of a thread that does not run: for now, one that was
    /// not started. `bytes` is the part's size. Right MANAGE.
    ThreadGetContext = 67, "thread_get_context";
    /// `(thread, ContextPart, pointer, bytes)`: set a part of it. What user code could not have set itself is
    /// [`Error::BadArgument`](crate::Error::BadArgument), and nothing is changed then; flags that it can't choose are passed over.
    /// Right MANAGE.
    ThreadSetContext = 68, "thread_set_context";

    /// `(hardware, line, flags: 1 = an ISA line number, 0 = a global system interrupt) -> rdi handle`. Right HARDWARE.
    IrqCreate = 72, "irq_create";
    /// `(irq, notification, bits)`: signal these bits at each interrupt and unmask the line. Rights MANAGE and SIGNAL.
    IrqBind = 73, "irq_bind";
    /// `(irq)`: handled; unmask the line again. Right MANAGE.
    IrqAcknowledge = 74, "irq_acknowledge";
    /// `(hardware, first port, count) -> rdi handle`. Right HARDWARE.
    IoPortsCreate = 75, "io_ports_create";
    /// `(io ports)`: let the calling process's threads use them by `in` and `out`. Right MANAGE.
    IoPortsEnable = 76, "io_ports_enable";
    /// `(process, io ports)`: take them back from a process. When the call returns, no thread of it can use them on any CPU. Ports that
    /// it was not allowed are passed over. Right MANAGE on both.
    IoPortsDisable = 77, "io_ports_disable";

    /// `()`, `r14` deadline: sleep until then; returns [`Error::TimedOut`](crate::Error::TimedOut) never, `Cancelled` perhaps.
    Sleep = 81, "sleep";

    /// `(log, pointer, bytes)`: write UTF-8 text to the kernel's log. Right WRITE.
    LogWrite = 88, "log_write";
    /// `(log, position, pointer, bytes) -> rdi bytes read, rsi next position`: read the log ring from a byte position; one that
    /// was overwritten is moved up to the oldest. Right READ.
    LogRead = 89, "log_read";
    /// `(log, notification, bits)`: own the serial port and the screen: the kernel stops writing there (until a panic, or until
    /// this process ends) and signals the bits whenever the log grows. Rights MANAGE and SIGNAL.
    LogTake = 90, "log_take";

    /// `(system, info::SystemQuery, first index, pointer, bytes) -> rdi records written, rsi records there are`. Right QUERY.
    SystemQuery = 96, "system_query";
    /// `(system, info::PowerAction)`: power off or restart the machine. Right POWER.
    SystemPower = 97, "system_power";

    /// `(thread, flags: 1 = end its wait, if it has one, with [`Error::Cancelled`](crate::Error::Cancelled))`, `r14` deadline: let it
    /// run no user code until it is resumed. The call returns when the thread stands still: between two instructions of user
    /// code with all of its registers in place, or (without the flag) in a wait, in which it may still be sent a message. If the
    /// deadline passes before that, the thread is suspended all the same. One that suspends itself goes on when it is resumed.
    /// A thread that is ready but in the middle of a system call, or was never on a CPU, must get one to come to its border:
    /// below a busy thread of higher priority, or with its budget used up, that may be never, so a deadline is due.
    /// Suspending twice is suspending once. Right MANAGE.
    ThreadSuspend = 104, "thread_suspend";
    /// `(thread)`: let a suspended thread go on; [`Error::WrongState`](crate::Error::WrongState) if it is not suspended. Right MANAGE.
    ThreadResume = 105, "thread_resume";
    /// `(thread)`, `r14` deadline `-> rdi exit code, rsi info::ThreadEnd`: wait for its end. A thread that waits for itself gets
    /// [`Error::Deadlock`](crate::Error::Deadlock). Right QUERY.
    ThreadJoin = 106, "thread_join";
    /// `(thread, budget, period)`, both in nanoseconds: it may run for `budget` in each `period`, and then waits for the next one,
    /// whatever its priority. What it ran too long is taken off later periods. Both 0: no bound. A period is
    /// 100 microseconds to 10 seconds, a budget 10 microseconds to the period. Right MANAGE.
    ///
    /// It bounds a thread that takes too long by mistake. It does not bind a program against its will: a thread has all rights to
    /// itself ([`ThreadSelf`](Call::ThreadSelf)) and may take its budget off, and threads that it makes have none. What holds a
    /// program down is its process's highest priority: no thread of it gets above that.
    ThreadSetBudget = 107, "thread_set_budget";
    /// `(thread, pointer, bytes) -> rdi bytes written`: where it may run, as [`ThreadSetAffinity`](Call::ThreadSetAffinity)
    /// takes it. Right QUERY.
    ThreadGetAffinity = 108, "thread_get_affinity";
    /// `(thread, pointer to info::ThreadInfo)`. Right QUERY.
    ThreadInfo = 109, "thread_info";
}
