//! Blocking, waking and choosing, on the machine.

use core::sync::atomic::Ordering;

use abi::info::ThreadState;
use abi::{Deadline, Error};
use arch::cpu::Pending;
use arch::platform::apic;
use arch::switch::switch_to;
use arch::time;
use sched::{CpuLoad, CpuPicker, Pushed, Slice, Turn};

use crate::cpu::{self, Cpu};
use crate::ipc::cancel;
use crate::object::Section;
use crate::sync;
use crate::thread::{Thread, ThreadPtr, ask};

/// Makes the target look at its inbox.
pub const RESCHEDULE_VECTOR: u8 = 0xFC;
/// Makes the target serve what must be served anywhere.
pub const SERVE_VECTOR: u8 = 0xFB;

/// Deadlines that are taken in between two chances for interrupts.
const EXPIRED_AT_ONCE: usize = 32;

static PICKER: CpuPicker = CpuPicker::new();

/// Makes a thread ready that was taken out of its wait. Any CPU; the caller alone has the right to wake it.
#[inline]
pub fn make_ready(thread: ThreadPtr) {
    let cpu = cpu::this();
    if thread.get().home() == cpu.index() {
        make_ready_here(cpu, thread);
    } else {
        ask(thread, ask::WAKE);
    }
}

/// Asks a thread's home to do something for it. See [`ask`](crate::thread::ask).
pub fn ask(thread: ThreadPtr, what: u32) {
    let cpu = cpu::this();
    let home = thread.get().home();
    thread.get().asked.fetch_or(what, Ordering::SeqCst);
    if home == cpu.index() {
        serve_asked(cpu, thread);
        return;
    }
    let home = cpu::by_index(home);
    match home.inbox.push(thread) {
        Pushed::First => {
            home.block().request(Pending::INBOX);
            interrupt(cpu, home, RESCHEDULE_VECTOR);
        }
        Pushed::More | Pushed::Already => {}
    }
}

/// Interrupts another CPU so that it passes a quiescent point.
pub fn nudge(index: u32) {
    if let Some(target) = cpu::get(index) {
        interrupt(cpu::this(), target, RESCHEDULE_VECTOR);
    }
}

pub(super) fn interrupt(from: &Cpu, target: &Cpu, vector: u8) {
    from.ipis_sent.fetch_add(1, Ordering::Relaxed);
    apic::send_ipi(target.apic_id(), vector);
}

/// On a thread's home: what was asked for it.
fn serve_asked(cpu: &Cpu, thread: ThreadPtr) {
    let asked = thread.get().asked.swap(0, Ordering::SeqCst);
    if asked & ask::WAKE != 0 {
        make_ready_here(cpu, thread);
    }
    if asked & ask::LOOK != 0 {
        if cpu.current.get() == Some(thread) {
            cpu.block().request(Pending::THREAD);
        }
        // Also the current thread may wait already: this CPU takes in its inbox on the thread's way into the wait.
        // SAFETY: all kernel code between two quiescent points is inside a section.
        let section = unsafe { Section::enter() };
        if cancel(thread.get(), Error::Cancelled, &section) {
            make_ready_here(cpu, thread);
        }
    }
}

/// Takes in what other CPUs have sent. No lock may be held.
pub(super) fn drain_inbox(cpu: &Cpu) {
    cpu.inbox.drain(|thread| serve_asked(cpu, thread));
}

fn make_ready_here(cpu: &Cpu, thread: ThreadPtr) {
    // SAFETY: this is the CPU; the borrow ends here.
    unsafe { cpu.timers() }.remove(thread);
    enqueue(cpu, thread);
}

fn enqueue(cpu: &Cpu, thread: ThreadPtr) {
    let priority = thread.get().priority();
    thread.get().set_state(ThreadState::Ready);
    cpu.load.fetch_add(1, Ordering::Relaxed);
    // SAFETY: this is the CPU; the borrow ends here.
    unsafe { cpu.run_queue() }.push_back(thread, priority);
    match cpu.current.get() {
        Some(current) if current.get().priority() > priority => {}
        // An equal one has its turn when the running one's is over: the timer must be set for that.
        Some(current) if current.get().priority() == priority => {
            cpu.block().request(Pending::TIMER);
        }
        _ => cpu.block().request(Pending::RESCHEDULE),
    }
}

/// Takes in deadlines that have passed, a bounded number; what is left is asked for again.
pub(super) fn expire(cpu: &Cpu, now: u64) {
    for _ in 0..EXPIRED_AT_ONCE {
        // SAFETY: this is the CPU; the borrow ends with the statement.
        let Some(thread) = (unsafe { cpu.timers() }).pop_expired(now) else {
            return;
        };
        // SAFETY: all kernel code between two quiescent points is inside a section.
        let section = unsafe { Section::enter() };
        if cancel(thread.get(), Error::TimedOut, &section) {
            enqueue(cpu, thread);
        }
    }
    cpu.block().request(Pending::TIMER);
}

/// The local APIC's timer came.
pub fn timer_interrupt() {
    let cpu = cpu::this();
    cpu.armed_ns.set(u64::MAX);
    cpu.block().request(Pending::TIMER);
}

/// Sets the timer to what is due next, if that is earlier than what it is set to.
pub(super) fn arm(cpu: &Cpu) {
    // SAFETY: this is the CPU; the borrows end with the statements.
    let (ready, deadline) = unsafe { (cpu.run_queue().peek_priority(), cpu.timers().earliest()) };
    let next = match cpu.current.get() {
        Some(current) => {
            let current = current.get();
            sched::next_interrupt(
                current.priority(),
                current.slice.get().end_ns(cpu.since_ns.get()),
                ready,
                deadline,
            )
        }
        None => deadline,
    };
    if let Some(next) = next
        && next < cpu.armed_ns.get()
    {
        cpu.armed_ns.set(next);
        time::arm(next);
    }
}

/// A deadline may have passed, or the running thread's turn may be over.
pub fn retime() {
    let cpu = cpu::this();
    let now = time::now_ns();
    expire(cpu, now);
    if let Some(current) = cpu.current.get() {
        charge(cpu, current.get(), now);
        // SAFETY: this is the CPU; the borrow ends with the statement.
        let ready = unsafe { cpu.run_queue() }.peek_priority();
        if Turn::judge(current.get().priority(), current.get().slice.get(), ready) != Turn::Continue
        {
            cpu.block().request(Pending::RESCHEDULE);
        } else if current.get().slice.get().is_spent() {
            current.get().slice.set(Slice::FULL);
        }
    }
    arm(cpu);
}

/// Charges the running thread for its time until `now`.
fn charge(cpu: &Cpu, thread: &Thread, now: u64) {
    let since = cpu.since_ns.replace(now);
    let ran = now.saturating_sub(since);
    thread.slice.set(thread.slice.get().charge(since, now));
    thread.cpu_ns.fetch_add(ran, Ordering::Relaxed);
    cpu.busy_ns.fetch_add(ran, Ordering::Relaxed);
}

/// Lets the highest ready thread run, if it should before the running one.
pub fn reschedule() {
    let cpu = cpu::this();
    let Some(current) = cpu.current.get() else {
        return;
    };
    let now = time::now_ns();
    charge(cpu, current.get(), now);
    let priority = current.get().priority();
    // SAFETY: this is the CPU; each borrow ends with its statement.
    let ready = unsafe { cpu.run_queue() }.peek_priority();
    match Turn::judge(priority, current.get().slice.get(), ready) {
        Turn::Continue => return arm(cpu),
        // SAFETY: as above.
        Turn::Front => unsafe { cpu.run_queue() }.push_front(current, priority),
        Turn::Back => {
            current.get().slice.set(Slice::FULL);
            // SAFETY: as above.
            unsafe { cpu.run_queue() }.push_back(current, priority);
        }
    }
    current.get().set_state(ThreadState::Ready);
    switch_to_highest(cpu);
}

/// The running thread gives its turn to the others of its priority.
pub fn yield_now() {
    let cpu = cpu::this();
    let Some(current) = cpu.current.get() else {
        return;
    };
    drain_inbox(cpu);
    let priority = current.get().priority();
    // SAFETY: this is the CPU; each borrow ends with its statement.
    let ready = unsafe { cpu.run_queue() }.peek_priority();
    if Turn::judge_yield(priority, ready) == Turn::Continue {
        return;
    }
    charge(cpu, current.get(), time::now_ns());
    current.get().slice.set(Slice::FULL);
    current.get().set_state(ThreadState::Ready);
    // SAFETY: as above.
    unsafe { cpu.run_queue() }.push_back(current, priority);
    switch_to_highest(cpu);
}

/// Blocks the running thread, which is queued somewhere already, until somebody makes it ready.
///
/// The results are in its registers then. The section ends here and a new one begins.
pub fn block(deadline: Deadline, _section: &mut Section) {
    let cpu = cpu::this();
    let current = begin_block(cpu, deadline);
    drain_inbox(cpu);
    switch_to_highest(cpu);
    end_block(current);
}

/// Blocks the running thread as [`block`] does and lets `next`, which was just taken out of its wait, run at once, if it belongs
/// to this CPU and no ready thread is above it. It runs on the caller's turn.
pub fn switch_directly(next: ThreadPtr, deadline: Deadline, section: &mut Section) {
    let cpu = cpu::this();
    if next.get().home() != cpu.index() {
        make_ready(next);
        return block(deadline, section);
    }
    // SAFETY: this is the CPU; each borrow ends with its statement.
    let ready = unsafe { cpu.run_queue() }.peek_priority();
    if ready.is_some_and(|ready| ready > next.get().priority()) {
        make_ready_here(cpu, next);
        return block(deadline, section);
    }
    let current = begin_block(cpu, deadline);
    // SAFETY: as above.
    unsafe { cpu.timers() }.remove(next);
    next.get().slice.set(current.get().slice.get());
    cpu.load.fetch_add(1, Ordering::Relaxed);
    switch(cpu, Some(next));
    end_block(current);
}

fn begin_block(cpu: &Cpu, deadline: Deadline) -> ThreadPtr {
    let current = cpu.current.get().expect("only threads block");
    charge(cpu, current.get(), time::now_ns());
    cpu.load.fetch_sub(1, Ordering::Relaxed);
    if deadline != Deadline::NEVER {
        // SAFETY: this is the CPU; the borrow ends with the statement.
        unsafe { cpu.timers() }.insert(current, deadline.0);
    }
    current
}

fn end_block(current: ThreadPtr) {
    current.get().forget_cancel();
}

/// Leaves the running thread for good.
pub(super) fn abandon() -> ! {
    let cpu = cpu::this();
    let current = cpu.current.get().expect("only threads end");
    charge(cpu, current.get(), time::now_ns());
    cpu.load.fetch_sub(1, Ordering::Relaxed);
    drain_inbox(cpu);
    switch_to_highest(cpu);
    unreachable!("an ended thread was switched to")
}

fn switch_to_highest(cpu: &Cpu) {
    // SAFETY: this is the CPU; the borrow ends with the statement.
    let next = unsafe { cpu.run_queue() }.pop_highest();
    switch(cpu, next);
}

/// Switches from whatever runs here to `next`; `None`: to the idle thread. Returns when somebody switches back.
pub(super) fn switch(cpu: &Cpu, next: Option<ThreadPtr>) {
    sync::assert_none_held();
    let previous = cpu.current.replace(next);
    if previous == next {
        if let Some(thread) = next {
            thread.get().set_state(ThreadState::Running);
        }
        arm(cpu);
        notice_end(next);
        return;
    }
    cpu.switches.fetch_add(1, Ordering::Relaxed);
    if let Some(thread) = next {
        thread.get().set_state(ThreadState::Running);
        if thread.get().slice.get().is_spent() {
            thread.get().slice.set(Slice::FULL);
        }
    }
    if previous.is_none() {
        cpu.since_ns.set(time::now_ns());
    }
    arm(cpu);
    let state = |thread: Option<ThreadPtr>| match thread {
        Some(thread) => &raw const thread.get().machine.state,
        None => &raw const cpu.idle,
    };
    // SAFETY: interrupts are off and no lock is held. The one that leaves is this CPU's current thread; the other belongs to
    // this CPU and runs nowhere. A thread that ends is reclaimed only after this CPU's next quiescent point.
    unsafe { switch_to(&*state(previous), &*state(next)) };
    notice_end(previous);
}

/// A thread is about to go on: if it was killed while it did not run, it learns of it on its way out of the kernel.
pub fn notice_end(thread: Option<ThreadPtr>) {
    if thread.is_some_and(|thread| thread.get().is_killed()) {
        cpu::this().block().request(Pending::THREAD);
    }
}

/// Gives a new thread a home: the least loaded CPU that it may run on.
///
/// # Errors
/// [`Error::OutOfRange`] if it may run on no CPU that there is.
pub fn place(thread: &Thread) -> Result<(), Error> {
    let loads = cpu::all().map(|cpu| CpuLoad {
        cpu: cpu.index(),
        threads: u64::from(cpu.load.load(Ordering::Relaxed)),
    });
    let home = PICKER
        .pick(loads, thread.affinity())
        .ok_or(Error::OutOfRange)?;
    thread.set_home(home);
    Ok(())
}

/// Lets a new thread run.
///
/// # Errors
/// [`Error::WrongState`] if it was started before; [`Error::Ended`] if its process has ended; [`Error::OutOfRange`] as [`place`].
pub fn start(thread: &Thread) -> Result<(), Error> {
    // Under the process's lock, so that whoever ends the process meanwhile finds the thread either not started, or with the home
    // that it will have.
    thread.process().while_alive(|| {
        if !thread.begin() {
            return Err(Error::WrongState);
        }
        place(thread).inspect_err(|_| thread.set_state(ThreadState::New))
    })?;
    make_ready(ThreadPtr::new(thread));
    Ok(())
}
