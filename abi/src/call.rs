//! System call numbers.
//!
//! A number is judged as a whole 64-bit register: one past the table, or with high bits set, gives
//! [`Error::UnknownCall`](crate::Error::UnknownCall). The short calls come first ([`SHORT_CALLS`]), then
//! the IPC calls, so that the kernel's entry can tell them by one comparison. Arguments and results of each call stand in its line below in the order of
//! the argument registers (see [`register`](crate::register)); every call returns its status in `rax`. Where a line has *process or 0*,
//! 0 stands for the caller's own process, for which no handle is needed.
//!
//! The book's reference (`docs/src/calls.md`) is made of what stands here, by `just calls`, so each call's text has the same form:
//! its notation; `r14` deadline if it waits; what it does; a sentence `Right X.` or `Rights X and Y.` with what its handles must
//! allow; and a line `Errors:` with those that do not follow from that. What follows: [`BadHandle`](crate::Error::BadHandle) and
//! [`WrongObject`](crate::Error::WrongObject) from an object among the arguments, [`NoRight`](crate::Error::NoRight) from a right,
//! [`BadPointer`](crate::Error::BadPointer) from a pointer, [`NoMemory`](crate::Error::NoMemory) and
//! [`QuotaExceeded`](crate::Error::QuotaExceeded) from a handle among the results, [`TimedOut`](crate::Error::TimedOut) and
//! [`Cancelled`](crate::Error::Cancelled) from a deadline.

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// A system call. The notation is `(arguments) -> results`, in argument-register order
        /// `rdi, rsi, rdx, r10, r8, r9` unless a line names registers; with a deadline it waits.
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

/// Numbers below this are *short calls*: they give at most one result, in `rdi`, and keep none of the registers that a C function may
/// change ([`register`](crate::register)).
pub const SHORT_CALLS: u64 = 8;

calls! {
    /// `()`: does nothing. It is what an entry and exit cost.
    Null = 0, "null";
    /// `()`: let another thread of the same priority run.
    Yield = 1, "yield";
    /// `(notification, bits)`: or the bits in and wake a waiter. Right SIGNAL.
    Signal = 2, "signal";
    /// `() -> rdi nanoseconds`: monotonic time since boot.
    ClockNow = 3, "clock_now";
    /// `(process or 0, memory, address or 0, offset, bytes, protection) -> rdi address`: map a part of it. All of address, offset
    /// and bytes are multiples of the page size; address 0 lets the kernel choose, which fails with
    /// [`Error::NoMemory`](crate::Error::NoMemory) if it finds no room. Rights MANAGE on the process, READ, WRITE,
    /// EXECUTE on the memory as the protection asks. The mapping outlives the handle.
    ///
    /// Errors: BadArgument, OutOfRange, AlreadyMapped, NoMemory, QuotaExceeded, Ended.
    MemoryMap = 4, "memory_map";
    /// `(process or 0, address, bytes)`: unmap whole pages; unmapped ones inside are passed over. Right MANAGE.
    ///
    /// Errors: BadArgument, OutOfRange, NoMemory, QuotaExceeded, Reserved, Ended.
    MemoryUnmap = 5, "memory_unmap";
    /// `(handle)`: close it.
    HandleClose = 6, "handle_close";
    /// `(process or 0, entry, stack pointer, argument, flags: 1 to start it) -> rdi handle`: a thread, which runs at once or is still to be started.
    /// It starts at `entry` with `rdi` = argument, `rsi` = its IPC area, FS base = its IPC area (32-bit: null selector). Where that is,
    /// [`ThreadInfo`](crate::info::ThreadInfo) says as well. Right MANAGE.
    ///
    /// Errors: BadArgument, Ended.
    ThreadCreate = 7, "thread_create";

    /// `message map (endpoint)`, `r14` deadline: send a message and wait for the reply. Right SEND, TRANSFER on what it carries.
    ///
    /// Errors: BadArgument, PeerClosed, NoReply, HandlesRefused, NoMemory, QuotaExceeded, Deadlock.
    Call = 8, "call";
    /// `message map (endpoint)`, `r14` deadline: send a message, wait until it was received, want no reply. Right SEND, TRANSFER
    /// on what it carries.
    ///
    /// Errors: BadArgument, PeerClosed, HandlesRefused, Deadlock.
    Send = 9, "send";
    /// `message map (endpoint)`, `r14` deadline: wait for a message or for the thread's bound notification. Right RECEIVE.
    ///
    /// Errors: PeerClosed, NoMemory, QuotaExceeded.
    Recv = 10, "recv";
    /// `message map (r15 reply)`: answer. The reply is used up also when an error is returned after it was found: then the
    /// caller gets [`Error::NoReply`](crate::Error::NoReply). Right TRANSFER on what it carries.
    ///
    /// Errors: BadArgument, CallerGone, HandlesRefused.
    Reply = 11, "reply";
    /// `message map (endpoint, r15 reply or 0)`, `r14` deadline: answer (nobody if it is 0), then wait as `recv` does. Who was to be
    /// answered and waits no more is passed over. If the wait fails (as it does where the answer has moved away the endpoint's handle, with BadHandle), the
    /// answer has been given. Right RECEIVE, TRANSFER on what it carries.
    ///
    /// Errors: BadArgument, HandlesRefused, PeerClosed, NoMemory, QuotaExceeded.
    ReplyRecv = 12, "reply_recv";
    /// `(notification) -> rdx bits`, `r14` deadline: wait until bits are set, take and clear them all. Right WAIT.
    ///
    /// Errors: PeerClosed.
    Wait = 13, "wait";
    /// `(notification, bits, notification to wait for) -> rdx bits`, `r14` deadline: signal the first, then wait for the second: what `signal` and `wait` do, in one call,
    /// whose partner may run at once. If either handle is refused, nothing is signalled. Right SIGNAL on the first, WAIT on the second.
    ///
    /// Errors: PeerClosed.
    SignalWait = 14, "signal_wait";

    /// `(handle, rights) -> rdi handle`: a second handle with these rights, which must be a part of the first's. Right DUPLICATE.
    ///
    /// Errors: BadArgument.
    HandleDuplicate = 17, "handle_duplicate";
    /// `(handle, pointer to info::HandleInfo)`: what the handle names.
    HandleQuery = 18, "handle_query";
    /// `(process, handle, rights) -> rdi handle in that process`: put a copy of the handle into another process's table.
    /// Right MANAGE on the process, TRANSFER on the handle.
    ///
    /// Errors: BadArgument, NoMemory, QuotaExceeded, Ended.
    HandleGrant = 19, "handle_grant";

    /// `() -> rdi handle`: a new endpoint with all rights.
    EndpointCreate = 24, "endpoint_create";
    /// `(endpoint, badge, rights) -> rdi handle`: a handle whose messages carry `badge`. Right MINT.
    ///
    /// Errors: BadArgument.
    EndpointMint = 25, "endpoint_mint";
    /// `() -> rdi handle`: a new notification with all rights.
    NotificationCreate = 26, "notification_create";
    /// `(notification or 0)`: bind it to the calling thread (0 unbinds), so that its `recv` also waits for it. Right WAIT.
    ///
    /// Errors: Busy.
    NotificationBind = 27, "notification_bind";

    /// `(bytes, MemoryFlags) -> rdi handle`: memory, zeroed on demand; `bytes` is rounded up to whole pages.
    ///
    /// Errors: BadArgument, OutOfRange.
    MemoryCreate = 32, "memory_create";
    /// `(hardware, physical address, bytes, cache: 0 uncached or 1 write-combining) -> rdi handle`: device memory. Right HARDWARE.
    ///
    /// Errors: BadArgument, OutOfRange, NotSupported, Busy.
    MemoryCreatePhysical = 33, "memory_create_physical";
    /// `(process or 0, address, bytes, protection)`: change mapped pages, never beyond the mapping's handle rights at map time. On an
    /// error nothing has changed, unless others map and unmap pages of the range during the call: then what lies before one that could not be
    /// changed may be. Right MANAGE.
    ///
    /// Errors: BadArgument, OutOfRange, NotMapped, NoMemory, QuotaExceeded, Reserved, Ended.
    MemoryProtect = 36, "memory_protect";
    /// `(memory, offset, pointer, bytes)`: copy from the object to the caller. Right READ.
    ///
    /// Errors: OutOfRange, NoMemory, QuotaExceeded.
    MemoryRead = 37, "memory_read";
    /// `(memory, offset, pointer, bytes)`: copy from the caller into the object. Right WRITE.
    ///
    /// Errors: OutOfRange, NoMemory, QuotaExceeded.
    MemoryWrite = 38, "memory_write";
    /// `(memory, flags = 0) -> rdi handle`: an object with the same contents as this one has at one moment during the call. Both share
    /// their memory until one is written; the caller's process pays for as much as if it did not. The object must have been made with
    /// [`MemoryFlags::CLONABLE`](crate::MemoryFlags::CLONABLE), which the clone is as well; another is
    /// [`Error::NotSupported`](crate::Error::NotSupported). Right READ. The handle has all rights, but EXECUTE only if the given
    /// one has it.
    ///
    /// Errors: BadArgument, NotSupported.
    MemoryClone = 39, "memory_clone";
    /// `(hardware, bytes, alignment, limit) -> rdi handle, rsi physical address`: memory for a device, zeroed, at physical addresses in a row.
    /// `bytes` is rounded up to whole pages, at most 4 MiB; the alignment is a power of two from the page size (which 0 stands for) to
    /// 4 MiB; all of it lies below the physical address `limit`, if that is not 0. Right HARDWARE.
    ///
    /// Errors: BadArgument, OutOfRange.
    MemoryCreateContiguous = 40, "memory_create_contiguous";
    /// `(hardware, memory, offset) -> rdi physical address, rsi bytes in a row from there`: where memory lies that stays where it is: what
    /// `memory_create_contiguous` and `memory_create_physical` make. Other memory is
    /// [`Error::NotSupported`](crate::Error::NotSupported). Right HARDWARE.
    ///
    /// Errors: OutOfRange, NotSupported.
    MemoryPhysical = 41, "memory_physical";
    /// `(process or 0, address or 0, bytes, protection, pointer, source bytes) -> rdi address`: map new memory, zeroed on demand, that
    /// begins with what the caller has at the pointer, of which there may be nothing. The process that it is mapped in pays for it; no
    /// handle names it. Address and bytes are as for `memory_map`. Right MANAGE.
    ///
    /// Errors: BadArgument, OutOfRange, AlreadyMapped, NoMemory, QuotaExceeded, Ended.
    MemoryMapNew = 42, "memory_map_new";
    /// `(bytes, endpoint, MemoryFlags: none or RECLAIMABLE) -> rdi handle`: memory whose pages a server supplies, the *pager*, when they are touched first: then the thread that touches sends it a
    /// message by this endpoint, with this handle's badge ([`label::PAGE`](crate::report::label::PAGE)), and waits for the answer. The caller pays. Right SEND on the endpoint.
    ///
    /// Errors: BadArgument, OutOfRange.
    MemoryCreatePaged = 43, "memory_create_paged";
    /// `(memory, offset, pointer, bytes) -> rdi pages that were new`: supply pages of memory that has a pager, whole pages from an offset in whole pages on; what is behind the
    /// last byte, up to the end of its page, is zeros. A page that is there already stays as it is, as do those before an error. A page that is being taken back, and was written, is [`Error::Busy`](crate::Error::Busy) until
    /// that is over. Other memory is [`Error::NotSupported`](crate::Error::NotSupported). Right MANAGE.
    ///
    /// Errors: BadArgument, OutOfRange, NoMemory, QuotaExceeded, Busy, NotSupported, NotSupplied.
    MemorySupply = 44, "memory_supply";
    /// `(memory, offset, 0 or pointer to a page) -> rdi pager::TakenBack`: take back a page that was supplied, of memory with the flag
    /// [`RECLAIMABLE`](crate::MemoryFlags::RECLAIMABLE). When the call returns no CPU has it mapped, its frame is free and not charged any more, and who touches the page asks
    /// for it again. If it was written since it was supplied, its contents are at the pointer, unless that is 0; if they can't be put there, the page stays
    /// as it was. While another thread is putting them there the page can't be taken back, [`Error::Busy`](crate::Error::Busy). Other memory is
    /// [`Error::NotSupported`](crate::Error::NotSupported). Right MANAGE.
    ///
    /// Errors: BadArgument, OutOfRange, Busy, NotSupported, NotSupplied.
    MemoryTakeBack = 45, "memory_take_back";

    /// `(name pointer, name bytes, highest priority, mode: 0 64-bit or 1 32-bit, 0 or pointer to info::Quota) -> rdi handle, rsi landing page's image or 0, rdx its
    /// __kernel_vsyscall or 0`: an empty process with an address space and a handle table. Its threads can give threads at most this priority, which is at most the caller's own
    /// highest; 0 stands for that. The quota is taken out of the caller's, and comes back at the
    /// process's end, but for what is still in use; without one the caller's quota pays for what the process uses. A 32-bit process has its mappings below 4 GiB, and its threads begin in 32-bit code.
    ///
    /// Errors: BadArgument, OutOfRange, NoRight.
    ProcessCreate = 48, "process_create";
    /// `(process, exit code)`: end it and all of its threads. Right MANAGE.
    ProcessKill = 49, "process_kill";
    /// `(exit code)`: end the calling process. Does not return.
    ProcessExit = 50, "process_exit";
    /// `(process, notification, bits)`: signal the bits when it has ended (at once if it has). Rights QUERY and SIGNAL.
    ///
    /// Errors: BadArgument, Busy.
    ProcessWatch = 51, "process_watch";
    /// `(process or 0, pointer to info::ProcessInfo)`: what is known of it. Right QUERY.
    ProcessInfo = 52, "process_info";
    /// `() -> rdi handle`: a handle to the calling process.
    ProcessSelf = 53, "process_self";
    /// `(process or 0, pointer to info::QuotaInfo)`: what it may use, and does. Right QUERY.
    ProcessQuota = 54, "process_quota";
    /// `(process, pointer to info::Quota)`: give it another part of the caller's quota than it has: the difference is taken, or comes
    /// back. Refused to all but those whose quota it is a part of, or is now that its maker has ended (`NoRight`), to a process without a part of its own (`WrongState`),
    /// and if more is in use or not so much is left (`QuotaExceeded`). Right MANAGE.
    ///
    /// Errors: WrongState, QuotaExceeded.
    ProcessSetQuota = 55, "process_set_quota";

    /// `(thread)`: let it run. Right MANAGE.
    ///
    /// Errors: WrongState, Ended.
    ThreadStart = 56, "thread_start";
    /// `(exit code)`: end the calling thread; with the last one the process ends with code 0. Does not return.
    ThreadExit = 58, "thread_exit";
    /// `(thread)`: end it. Right MANAGE.
    ThreadKill = 59, "thread_kill";
    /// `(thread, priority)`: its base priority, 0 to the highest that the caller's process can give. It counts at once, wherever
    /// the thread is and whatever it does. Right MANAGE.
    ///
    /// Errors: OutOfRange.
    ThreadSetPriority = 60, "thread_set_priority";
    /// `(thread, pointer to CpuSet's words, bytes)`, `r14` deadline: where it may run, at any time. `bytes` is a multiple of 8, up to
    /// 4096; CPUs that there are not, or that the words do not reach, are not in the set;
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) if none is left. When the call returns the thread runs on no CPU outside of
    /// the set; if the deadline passes before that, it is about to leave. Right MANAGE.
    ///
    /// Errors: BadArgument, OutOfRange, Ended.
    ThreadSetAffinity = 61, "thread_set_affinity";
    /// `(fs base)`: set the calling thread's FS base (canonical, lower half).
    ///
    /// Errors: BadArgument.
    ThreadSetFsBase = 62, "thread_set_fs_base";
    /// `() -> rdi handle`: a handle to the calling thread.
    ThreadSelf = 63, "thread_self";
    /// `(thread or 0, slot, descriptor) -> rdi selector`: put a data segment into one of a thread's
    /// [slots](crate::segment), or empty it (a descriptor of 0). 0 names the calling thread; another one must be not started
    /// yet, or suspended. Right MANAGE on it. Segment registers that name the slot are loaded anew.
    ///
    /// Errors: BadArgument, OutOfRange, WrongState.
    ThreadSetTls = 66, "thread_set_tls";
    /// `(thread or reply, ContextPart, pointer, bytes)`: copy out a part of the state of a thread that does not run: one that was
    /// not started, is suspended with its registers in place, or waits for the answer to a [report](crate::report), to which the reply belongs.
    /// `bytes` is the part's size. Right MANAGE on a thread.
    ///
    /// Errors: BadArgument, OutOfRange, NoMemory, WrongState, CallerGone.
    ThreadGetContext = 67, "thread_get_context";
    /// `(thread or reply, ContextPart, pointer, bytes)`: set a part of it. What user code could not have set itself is
    /// [`Error::BadArgument`](crate::Error::BadArgument), and nothing is changed then; flags that it can't choose are passed over.
    /// Right MANAGE on a thread.
    ///
    /// Errors: BadArgument, OutOfRange, NoMemory, WrongState, CallerGone.
    ThreadSetContext = 68, "thread_set_context";

    /// `(hardware, line, flags: 1 an ISA line number or 0 a global system interrupt) -> rdi handle`: take an interrupt line, masked. Right HARDWARE.
    ///
    /// Errors: BadArgument, OutOfRange, NotSupported, Busy.
    IrqCreate = 72, "irq_create";
    /// `(irq, notification, bits)`: signal these bits at each interrupt and unmask the line. Rights MANAGE and SIGNAL.
    ///
    /// Errors: BadArgument.
    IrqBind = 73, "irq_bind";
    /// `(irq)`: handled; unmask the line again. Right MANAGE.
    IrqAcknowledge = 74, "irq_acknowledge";
    /// `(hardware, first port, count) -> rdi handle`: a range of I/O ports. Right HARDWARE.
    ///
    /// Errors: OutOfRange.
    IoPortsCreate = 75, "io_ports_create";
    /// `(io ports)`: let the calling process's threads use them by `in` and `out`. Right MANAGE.
    ///
    /// Errors: NoMemory.
    IoPortsEnable = 76, "io_ports_enable";
    /// `(process, io ports)`: take them back from a process. When the call returns, no thread of it can use them on any CPU. Ports that
    /// it was not allowed are passed over. Right MANAGE on both.
    IoPortsDisable = 77, "io_ports_disable";
    /// `(hardware, cpu, mask address or 0, mask bit) -> rdi handle, rsi address, rdx data`: an interrupt that a device sends as a
    /// message (MSI, MSI-X) to this CPU, by writing the data to the address. The mask is the bit of a 32-bit device register, at
    /// a physical address, that holds the interrupt back at the device while it is set: the kernel sets it at each interrupt,
    /// until that is acknowledged, and in storms; nobody else may write that register. Without it (address and bit 0) nothing
    /// is masked. `OutOfRange` stands for a CPU or a bit that there is not, `NotSupported` for a CPU that messages do not reach,
    /// `Busy` for a register in RAM, or if all vectors are in use. Right HARDWARE.
    ///
    /// Errors: OutOfRange, BadArgument, NotSupported, Busy.
    MsiCreate = 78, "msi_create";
    /// `(irq, cpu) -> rsi address, rdx data`: send it to this CPU from now on. A message's driver programs the device with what is
    /// returned; until then the interrupt comes where it came before. An edge-triggered line is signalled once, as an edge may
    /// have been lost meanwhile. Right MANAGE.
    ///
    /// Errors: OutOfRange, NotSupported.
    IrqRoute = 79, "irq_route";
    /// `(irq, pointer to irq::IrqInfo)`: how often it came, where to, and how often too fast. Right QUERY.
    IrqInfo = 80, "irq_info";
    /// `(irq, count, period in nanoseconds)`: more than this in so long a while is a storm: it is held back for
    /// [`irq::HOLD_NS`](crate::irq::HOLD_NS), and what came meanwhile signalled as one. At most
    /// [`irq::Rate::HIGHEST`](crate::irq::Rate::HIGHEST), which it is at first. Right MANAGE.
    ///
    /// Errors: OutOfRange.
    IrqLimit = 82, "irq_limit";

    /// `()`, `r14` deadline: sleep until then, which is no error.
    Sleep = 81, "sleep";

    /// `(log, pointer, bytes)`: write UTF-8 text to the kernel's log. Right WRITE.
    ///
    /// Errors: OutOfRange.
    LogWrite = 88, "log_write";
    /// `(log, position, pointer, bytes) -> rdi bytes read, rsi next position`: read the log ring from a byte position; one that
    /// was overwritten is moved up to the oldest. Right READ.
    LogRead = 89, "log_read";
    /// `(log, notification, bits)`: own the serial port and the screen: the kernel stops writing there (until a panic, or until
    /// this process ends) and signals the bits whenever the log grows. Rights MANAGE and SIGNAL.
    ///
    /// Errors: BadArgument, Busy.
    LogTake = 90, "log_take";

    /// `(system, info::SystemQuery, cursor, pointer, bytes) -> rdi records written, rsi records there are, rdx cursor to go on with`: list CPUs, processes,
    /// threads, endpoints, memory, the machine, or how many objects there are. A list begins with cursor 0, and ends where the cursor to go on with is 0. Right QUERY.
    ///
    /// Errors: BadArgument.
    SystemQuery = 96, "system_query";
    /// `(system, info::PowerAction)`: power off or restart the machine. Right POWER.
    ///
    /// Errors: BadArgument, NotSupported.
    SystemPower = 97, "system_power";
    /// `(system, set of trace::TraceKind)`: the caller's process asks that these kinds be noted from now on, on each CPU in a buffer of its own, and asks for
    /// no others any more; 0 ends it, and so does the process's end. Noted is what any process asks for. What is, is slower. Right QUERY.
    ///
    /// Errors: BadArgument, NoMemory, Ended.
    SystemTrace = 98, "system_trace";
    /// `(system, cpu, number, pointer, bytes) -> rdi records written, rsi next number, rdx lost`: read what a CPU has noted, for whomever, as
    /// trace::TraceRecord, from a number on: 0 is the first since boot, one ahead of all means from now on. What was overwritten is
    /// counted as lost. Right QUERY.
    ///
    /// Errors: OutOfRange.
    SystemTraceRead = 99, "system_trace_read";

    /// `(thread, flags: 1 to end its wait)`, `r14` deadline: let it, after ending its wait with
    /// [`Error::Cancelled`](crate::Error::Cancelled) if it has one and that is asked for,
    /// run no user code until it is resumed. The call returns when the thread stands still: between two instructions of user
    /// code with all of its registers in place, or (without the flag) in a wait, in which it may still be sent a message. If the
    /// deadline passes before that, the thread is suspended all the same. One that suspends itself goes on when it is resumed.
    /// A thread that is ready but in the middle of a system call, or was never on a CPU, must get one to come to its border:
    /// below a busy thread of higher priority, or with its budget used up, that may be never, so a deadline is due.
    /// Suspending twice is suspending once. Right MANAGE.
    ///
    /// Errors: BadArgument, Ended.
    ThreadSuspend = 104, "thread_suspend";
    /// `(thread)`: let a suspended thread go on; [`Error::WrongState`](crate::Error::WrongState) if it is not suspended. Right MANAGE.
    ///
    /// Errors: WrongState, Ended.
    ThreadResume = 105, "thread_resume";
    /// `(thread)`: end the wait in which it is now with [`Error::Cancelled`](crate::Error::Cancelled), if nothing else ends it first.
    /// [`Error::WrongState`](crate::Error::WrongState) if it waits for nothing: then nothing is done, and no later wait of its is ended by
    /// this call. On another CPU the wait ends a little after the call has returned. Right MANAGE.
    ///
    /// Errors: WrongState, Ended.
    ThreadCancel = 110, "thread_cancel";
    /// `(thread) -> rdi exit code, rsi info::ThreadEnd`, `r14` deadline: wait for its end. A thread that waits for itself gets
    /// [`Error::Deadlock`](crate::Error::Deadlock). Right QUERY.
    ///
    /// Errors: Deadlock.
    ThreadJoin = 106, "thread_join";
    /// `(thread, budget, period)`: it may run for `budget` in each `period`, and then waits for the next one,
    /// whatever its priority; both are in nanoseconds. What it ran too long is taken off later periods. Both 0: no bound. A period is
    /// 100 microseconds to 10 seconds, a budget 10 microseconds to the period. Right MANAGE.
    ///
    /// It bounds a thread that takes too long by mistake. It does not bind a program against its will: a thread has all rights to
    /// itself ([`ThreadSelf`](Call::ThreadSelf)) and may take its budget off, and threads that it makes have none. What holds a
    /// program down is its process's highest priority: no thread of it gets above that.
    ///
    /// Errors: OutOfRange, Ended.
    ThreadSetBudget = 107, "thread_set_budget";
    /// `(thread, pointer, bytes) -> rdi bytes written`: where it may run, as [`ThreadSetAffinity`](Call::ThreadSetAffinity)
    /// takes it. Right QUERY.
    ///
    /// Errors: BadArgument.
    ThreadGetAffinity = 108, "thread_get_affinity";
    /// `(thread, pointer to info::ThreadInfo)`: what it is and how it stands. Right QUERY.
    ThreadInfo = 109, "thread_info";

    /// `(thread or process, report::ReportKind, endpoint or 0)`: from now on what the thread, or each thread of the process that has no
    /// endpoint for this kind itself, does of this kind is [reported](crate::report) to the endpoint, with the handle's badge; 0 ends that. It holds at
    /// once, also for threads that run; but calls are reported of a thread that does not run when it is said, and of threads that the process makes later; and
    /// foreign calls of a process alone, which has no thread yet. Right MANAGE on the thread or process, SEND on the endpoint.
    ///
    /// Errors: BadArgument, NoMemory, WrongState, Ended.
    ReportTo = 112, "report_to";
    /// `(process, address there, pointer, bytes) -> rdi bytes copied`: copy from a process's memory to the caller, wherever something is mapped there, touched
    /// or not. At most [`MOST_BYTES`](crate::debug::MOST_BYTES) a call; a range that ends in something that can't be read is copied as far as that, and it is an
    /// error only if nothing was. Right DEBUG.
    ///
    /// Errors: NotMapped, NotSupported, NoMemory, QuotaExceeded, Ended.
    ProcessRead = 113, "process_read";
    /// `(process, address there, pointer, bytes) -> rdi bytes copied`: copy from the caller to a process's memory, in the same way. What is mapped there
    /// without WRITE can be written if the handle by which it was mapped allowed that. Right DEBUG.
    ///
    /// Errors: NotMapped, NotSupported, NoMemory, QuotaExceeded, Ended.
    ProcessWrite = 114, "process_write";
    /// `(process, number) -> rdi handle, rsi its number`: the thread of the process with the lowest number above this one;
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) if there is none. So all are found, beginning with 0. Right DEBUG. The handle has all rights.
    ///
    /// Errors: OutOfRange.
    ProcessThread = 115, "process_thread";
}
