//! Threads for host tests: a program's side of the system calls that block, without a machine under it.
//!
//! A [`Program`] is a thread of a real process, with a real table and a real IPC area. Its methods do what the system calls
//! of the same names do: they reserve, call the operation, and stand still if it blocks. Nothing runs
//! by itself: who was made ready stands in [`woken`], and a test lets it go on by [`Program::resume`].
//!
//! What the rig holds of itself: a thread is woken only while it is blocked, and once for each block; after each call
//! it has no slot reserved and no cancellation noted.

use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::time::{Duration, Instant};

use abi::info::ThreadState;
use abi::ipc_area::{BUFFER_BYTES, IpcHeader, MAX_HANDLES};
use abi::{Badge, Deadline, Error, Handle, Priority, Rights, Tag, UserContext};
use arch::memory::phys_to_virt;

use super::{IpcArea, Machine, Thread, ThreadPtr, ask};
use crate::ipc::{Endpoint, Flow, Notification, WaitOn, cancel, close, reorder, reply};
use crate::memory::account::{Account, Resource};
use crate::memory::space::Mode;
use crate::memory::testing;
pub(crate) use crate::memory::testing::settle;
use crate::object::{AnyObject, Capability, Ref, Section};
use crate::process::{Name, Process};
use crate::schedule;

/// What became of a call that may block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Went {
    /// It is done, its results are in the registers.
    On,
    /// The thread waits.
    Blocked,
}

/// A process without threads.
pub(crate) fn process(name: &str) -> Ref<Process> {
    testing::kernel_machine();
    Process::create(
        Name::new(name.as_bytes()).unwrap(),
        Account::create(10_000).unwrap(),
        Priority::HIGHEST,
        Mode::Long,
    )
    .unwrap()
}

/// A section of the CPU that the test's thread stands for.
///
/// Other tests may destroy what was retired at any time, so a test keeps a counted reference to whatever it looks at.
pub(crate) fn section() -> Section {
    // SAFETY: what tests touch is kept alive by counted references.
    unsafe { Section::enter() }
}

/// The threads that were made ready since the last call, in this order.
pub(crate) fn woken() -> Vec<ThreadPtr> {
    schedule::take_ready()
}

/// A new endpoint.
pub(crate) fn endpoint() -> Ref<Endpoint> {
    testing::kernel_machine();
    Ref::try_new(Endpoint::made_by(0)).unwrap()
}

/// A new notification, which the test itself can signal to its end.
pub(crate) fn notification() -> Ref<Notification> {
    let notification = mute_notification();
    notification.signaller_added();
    notification
}

/// A new notification, which only handles and others of the kernel can signal.
pub(crate) fn mute_notification() -> Ref<Notification> {
    testing::kernel_machine();
    Ref::try_new(Notification::new()).unwrap()
}

/// Waits until `done`, on a machine that may have fewer CPUs than the test has threads.
///
/// # Panics
/// After a minute: what is waited for will not come.
pub(crate) fn spin_until(mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    loop {
        for _ in 0..500 {
            if done() {
                return;
            }
            core::hint::spin_loop();
        }
        std::thread::yield_now();
        assert!(begun.elapsed() < Duration::from_mins(1), "it never comes");
    }
}

/// Rounds of a race: many, but no more than fit into some seconds.
pub(crate) fn rounds() -> impl Iterator<Item = u64> {
    let begun = Instant::now();
    (1..=20_000).take_while(move |&round| round <= 100 || begun.elapsed() < Duration::from_secs(3))
}

/// A thread and the program that runs on it.
pub(crate) struct Program {
    thread: Ref<Thread>,
    header: NonNull<IpcHeader>,
    blocked: AtomicBool,
}

// SAFETY: the header's words are accessed atomically; the thread is shared by its own rules.
unsafe impl Send for Program {}
// SAFETY: as above.
unsafe impl Sync for Program {}

impl Program {
    /// A new thread of `process`, not yet started.
    pub(crate) fn unstarted(process: &Ref<Process>) -> Program {
        let space = process.space().unwrap();
        let number = process.take_area_number();
        let area = space.map_ipc_area(number).unwrap();
        let account = process.account();
        account.charge_of(Resource::Threads, 1).unwrap();
        let [header, buffer] = area
            .frames
            .map(|frame| NonNull::new(phys_to_virt(frame)).unwrap());
        // SAFETY: the space pins both pages until the thread's end, and they are fresh.
        let kernel_side = unsafe { IpcArea::new(header, buffer, area.address) };
        let machine = Machine::new(UserContext::default());
        let thread = Thread::new(
            process.clone(),
            Some((space, number)),
            machine,
            kernel_side,
            Priority::NORMAL,
        );
        let thread = Ref::try_new(thread).unwrap();
        process.add_thread(thread.clone(), || ()).unwrap();
        Program {
            thread,
            header: header.cast(),
            blocked: AtomicBool::new(false),
        }
    }

    /// A running thread of `process`.
    pub(crate) fn new(process: &Ref<Process>) -> Program {
        let program = Program::unstarted(process);
        process.while_starting(|| Ok(())).unwrap();
        assert!(program.thread.begin());
        program.thread.set_state(ThreadState::Ready);
        program
    }

    /// A running thread in a process of its own.
    pub(crate) fn alone(name: &str) -> Program {
        Program::new(&process(name))
    }

    pub(crate) fn thread(&self) -> &Ref<Thread> {
        &self.thread
    }

    pub(crate) fn process(&self) -> &Ref<Process> {
        self.thread.process()
    }

    /// Makes this CPU the thread's home.
    pub(crate) fn live_on(&self, cpu: u32) {
        self.thread.home.leave_for(cpu);
        assert_eq!(self.thread.home.arrive(cpu), sched::Arrival::Arrived);
    }

    /// The thread as queues know it.
    pub(crate) fn pointer(&self) -> ThreadPtr {
        ThreadPtr::new(&self.thread)
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    // The program's registers and IPC area.

    /// Puts a message into the registers.
    pub(crate) fn load(&self, tag: Tag, words: [u64; 6]) {
        let to = self.thread.registers_mut();
        to.rsi = tag.0;
        [to.rdx, to.r10, to.r8, to.r9, to.r12, to.r13] = words;
    }

    /// The message in the registers.
    pub(crate) fn message(&self) -> (Tag, [u64; 6]) {
        let from = self.thread.registers();
        (
            Tag(from.rsi),
            [from.rdx, from.r10, from.r8, from.r9, from.r12, from.r13],
        )
    }

    /// The reply handle that the last receive brought.
    pub(crate) fn reply_handle(&self) -> Handle {
        Handle(self.thread.registers().r15)
    }

    /// The badge that the last receive brought.
    pub(crate) fn badge(&self) -> u64 {
        self.thread.registers().rdi
    }

    /// Says how many handles the next receive takes.
    pub(crate) fn accept(&self, count: u64) {
        self.word(offset_of!(IpcHeader, accept))
            .store(count, Ordering::Relaxed);
    }

    /// Posts handles for the next send.
    pub(crate) fn post(&self, handles: &[Handle]) {
        for (index, handle) in handles.iter().enumerate().take(MAX_HANDLES) {
            self.word(offset_of!(IpcHeader, handles_out) + 8 * index)
                .store(handle.0, Ordering::Relaxed);
        }
    }

    /// Handle `index` that the last receive brought.
    pub(crate) fn came(&self, index: usize) -> Handle {
        Handle(
            self.word(offset_of!(IpcHeader, handles_in) + 8 * index)
                .load(Ordering::Relaxed),
        )
    }

    /// Writes the buffer from its beginning.
    pub(crate) fn write_buffer(&self, bytes: &[u8]) {
        assert!(bytes.len() <= BUFFER_BYTES);
        // SAFETY: the buffer is a page of the thread's own, and nobody else touches it while the thread runs.
        unsafe {
            self.thread
                .area
                .buffer()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        };
    }

    /// A copy of the buffer.
    pub(crate) fn read_buffer(&self) -> Vec<u8> {
        // SAFETY: as for `write_buffer`.
        unsafe { core::slice::from_raw_parts(self.thread.area.buffer(), BUFFER_BYTES) }.to_vec()
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset < size_of::<IpcHeader>());
        // SAFETY: the word lies in the header page, which lives as long as the thread.
        unsafe { AtomicU64::from_ptr(self.header.as_ptr().byte_add(offset).cast()) }
    }

    // The program's handles.

    /// Puts a capability into its process's table.
    pub(crate) fn give(&self, object: AnyObject, rights: Rights) -> Handle {
        self.give_badged(object, rights, 0)
    }

    /// The same with a badge.
    pub(crate) fn give_badged(&self, object: AnyObject, rights: Rights, badge: u64) -> Handle {
        let given = self
            .process()
            .grant(Capability::new(object, rights, Badge(badge)));
        given.map_err(|(error, _)| error).unwrap()
    }

    /// Gives it an endpoint with all rights.
    pub(crate) fn give_endpoint(&self, endpoint: &Ref<Endpoint>) -> Handle {
        self.give(AnyObject::Endpoint(endpoint.clone()), Rights::ALL)
    }

    /// `handle_close`.
    pub(crate) fn close(&self, handle: Handle) -> Result<(), Error> {
        close(&self.thread, handle)
    }

    /// The rights of a handle, if it names something.
    pub(crate) fn rights(&self, handle: Handle) -> Result<Rights, Error> {
        self.process()
            .table
            .lock()
            .get(handle)
            .map(Capability::rights)
    }

    /// How many handles its process has.
    pub(crate) fn handles(&self) -> u32 {
        self.process().table.lock().len()
    }

    /// How many slots of its process's table are promised to receivers.
    pub(crate) fn reserved(&self) -> u32 {
        self.process().table.lock().reserved()
    }

    // System calls.

    /// `call`.
    pub(crate) fn call(
        &self,
        endpoint: &Endpoint,
        badge: u64,
        deadline: Deadline,
    ) -> Result<Went, Error> {
        self.enter();
        self.reserve(0)?;
        let flow = endpoint.send(&self.thread, Badge(badge), true, deadline);
        self.finish(flow)
    }

    /// `send`.
    pub(crate) fn send(
        &self,
        endpoint: &Endpoint,
        badge: u64,
        deadline: Deadline,
    ) -> Result<Went, Error> {
        self.enter();
        let flow = endpoint.send(&self.thread, Badge(badge), false, deadline);
        self.finish(flow)
    }

    /// `recv`.
    pub(crate) fn recv(&self, endpoint: &Endpoint, deadline: Deadline) -> Result<Went, Error> {
        self.enter();
        let flow = self.receive(endpoint, deadline);
        self.finish(flow)
    }

    /// `recv` of a thread that is to hold the reply, as all do on a machine.
    pub(crate) fn recv_to_hold(
        &self,
        endpoint: &Endpoint,
        deadline: Deadline,
    ) -> Result<Went, Error> {
        self.enter();
        self.thread.expect_reply()?;
        self.reserve(0)?;
        endpoint.begin_service(&self.thread);
        let flow = self.receive_in_pieces(endpoint, deadline);
        self.finish(flow)
    }

    /// `reply`.
    pub(crate) fn reply(&self, handle: Handle) -> Result<(), Error> {
        self.enter();
        let answered = reply(&self.thread, handle, &section())?;
        schedule::make_ready(answered);
        self.thread.set_status(Ok(()));
        Ok(())
    }

    /// `reply_recv`.
    pub(crate) fn reply_recv(
        &self,
        handle: Handle,
        endpoint: &Endpoint,
        deadline: Deadline,
    ) -> Result<Went, Error> {
        self.enter();
        match reply(&self.thread, handle, &section()) {
            Ok(answered) => {
                let flow = self.receive(endpoint, deadline);
                schedule::make_ready(answered);
                self.finish(flow)
            }
            Err(Error::CallerGone) => self.recv(endpoint, deadline),
            Err(error) => Err(error),
        }
    }

    /// `wait`.
    pub(crate) fn wait(
        &self,
        notification: &Notification,
        deadline: Deadline,
    ) -> Result<Went, Error> {
        self.enter();
        let flow = notification.wait(&self.thread, deadline);
        self.finish(flow)
    }

    /// `sleep`, until somebody ends it.
    pub(crate) fn sleep(&self) -> Result<Went, Error> {
        self.enter();
        self.thread.wait.set(WaitOn::Sleep);
        self.finish(Ok(Flow::Block))
    }

    /// `notification_bind`.
    pub(crate) fn bind(&self, notification: &Ref<Notification>) -> Result<(), Error> {
        self.enter();
        notification.bind(&self.thread)?;
        assert!(self.thread.set_bound(Some(notification.clone())).is_none());
        Ok(())
    }

    /// `notification_bind` of nothing.
    pub(crate) fn unbind(&self) {
        self.enter();
        if let Some(former) = self.thread.set_bound(None) {
            former.unbind();
        }
    }

    // What others do to it.

    /// Its home ends its wait: a deadline passed, or a kill. True if it was this that woke it.
    pub(crate) fn cancel(&self, error: Error) -> bool {
        let taken = cancel(&self.thread, error, &section());
        if taken {
            schedule::make_ready(self.pointer());
        }
        taken
    }

    /// Its home does what was asked for it; gives what that was.
    pub(crate) fn serve_asked(&self) -> u32 {
        let asked = self.thread.asked.swap(0, Ordering::SeqCst);
        if asked & ask::LOOK != 0 {
            if self.thread.marks().is_killed() {
                self.cancel(Error::Cancelled);
            } else if self.thread.settle() {
                reorder(&self.thread, &section());
            }
        }
        asked
    }

    /// Goes on after it was woken; gives the status of the call that had blocked.
    ///
    /// # Panics
    /// If it was not blocked: a thread was woken twice, or woken while it ran.
    pub(crate) fn resume(&self) -> Result<(), Error> {
        assert!(
            self.blocked.swap(false, Ordering::Relaxed),
            "thread {} was woken while it ran",
            self.thread.id()
        );
        assert_eq!(
            self.thread.wait.on(),
            WaitOn::Nothing,
            "a thread that runs waits for nothing"
        );
        self.thread.marks().forget_cancel();
        self.release();
        self.status()
    }

    /// The status of its last call.
    pub(crate) fn status(&self) -> Result<(), Error> {
        match self.thread.registers().rax {
            0 => Ok(()),
            code => Err(Error::from_code(code).expect("a status is 0 or an error's code")),
        }
    }

    /// Ends the running thread, as its way out of the kernel does when it was killed.
    pub(crate) fn leave(self) {
        self.enter();
        if let Some(notification) = self.thread.set_bound(None) {
            notification.unbind();
        }
        self.thread.drop_held();
        self.thread.end_service();
        self.thread.set_state(ThreadState::Ended);
        drop(self.process().remove_thread(&self.thread));
    }

    fn enter(&self) {
        assert!(!self.is_blocked(), "a blocked thread makes no call");
        crate::sync::assert_none_held();
    }

    fn receive(&self, endpoint: &Endpoint, deadline: Deadline) -> Result<Flow, Error> {
        self.reserve(1)?;
        endpoint.begin_service(&self.thread);
        self.receive_in_pieces(endpoint, deadline)
    }

    fn receive_in_pieces(&self, endpoint: &Endpoint, deadline: Deadline) -> Result<Flow, Error> {
        loop {
            let bound = self.thread.bound();
            if let Some(flow) = endpoint.receive(&self.thread, bound, deadline, &section())? {
                return Ok(flow);
            }
            schedule::preemption_point();
        }
    }

    fn reserve(&self, more: u32) -> Result<(), Error> {
        let accept = self.thread.area.accept();
        self.process().table.lock().reserve(accept + more)?;
        self.thread.wait.set_accept(accept);
        self.thread
            .wait
            .reserved
            .store(accept + more, Ordering::Relaxed);
        Ok(())
    }

    fn release(&self) {
        let left = self.thread.wait.reserved.swap(0, Ordering::Relaxed);
        self.process().table.lock().release(left);
    }

    fn finish(&self, flow: Result<Flow, Error>) -> Result<Went, Error> {
        crate::sync::assert_none_held();
        match flow {
            Ok(Flow::Done) => {
                self.release();
                self.status().map(|()| Went::On)
            }
            Ok(Flow::Block) => {
                self.blocked.store(true, Ordering::Relaxed);
                Ok(Went::Blocked)
            }
            Ok(Flow::SwitchTo(next)) => {
                self.blocked.store(true, Ordering::Relaxed);
                schedule::make_ready(next);
                Ok(Went::Blocked)
            }
            Err(error) => {
                self.release();
                Err(error)
            }
        }
    }
}
