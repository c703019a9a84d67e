//! Endpoints: where calls and sends meet receivers.
//!
//! An endpoint holds no message. Either senders wait in it, or receivers, or nobody; whoever comes second moves the
//! message straight between the two threads. Those who wait are served by priority, and within one priority in the order in which they came.
//!
//! A receiver that is the only one to wait stands in no queue but in a place of its own, which needs no lock (see [`sched::Lone`]): so
//! it is with nearly every server.

use core::ops::{Deref, DerefMut};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

use spin::relax::RelaxStrategy as _;

use abi::info::EndpointInfo;
use abi::{Badge, Deadline, Error, Handle};

use super::Flow;
use super::cycle;
use super::notification::Notification;
use super::queue::Queue;
use super::reply::ReplyTarget;
use super::transfer::{self, Carried, take_handles};
use super::wait_on::WaitOn;
use crate::object::{AnyObject, Capability, Object, Section, Slab, stamp_of};
use crate::schedule;
use crate::sync::{Guard, Mutex, Relax, level};
use crate::thread::{Thread, ThreadPtr, WOKEN_AT_ONCE};

/// An endpoint.
pub struct Endpoint {
    /// A receiver that waits alone: then nobody is in the queues.
    lone: sched::Lone<ThreadPtr>,
    queues: Mutex<{ level::ENDPOINT }, Queues>,
    /// Handles with the right to receive, in all processes. At 0 nobody will ever receive again.
    receivers: AtomicU32,
    /// The thread that serves it alone; null: none, or several. Written under the lock.
    server: AtomicPtr<Thread>,
    /// One more than the priority of who is first of the senders; 0: none waits. Written under the lock.
    pressure: AtomicU32,
    /// Its number, unique since boot, and that of the process that has made it; 0: the kernel.
    id: u64,
    creator: u64,
}

struct Queues {
    senders: Queue,
    receivers: Queue,
    servers: Servers,
}

/// The living threads that have received here, and nowhere else since.
struct Servers {
    count: usize,
    /// The exclusive or of their addresses: of one, its address.
    addresses: usize,
}

impl Servers {
    /// One comes or goes.
    fn change(&mut self, thread: &Thread, comes: bool) {
        self.addresses ^= ptr::from_ref(thread).expose_provenance();
        self.count = if comes {
            self.count + 1
        } else {
            self.count - 1
        };
    }

    fn only(&self) -> *mut Thread {
        if self.count == 1 {
            ptr::with_exposed_provenance_mut(self.addresses)
        } else {
            ptr::null_mut()
        }
    }
}

/// The queues, as long as the lock is held.
struct Open<'a> {
    endpoint: &'a Endpoint,
    /// Sees to his own priority.
    by: Option<&'a Thread>,
    queues: Guard<'a, { level::ENDPOINT }, Queues>,
}

impl Deref for Open<'_> {
    type Target = Queues;
    fn deref(&self) -> &Queues {
        &self.queues
    }
}

impl DerefMut for Open<'_> {
    fn deref_mut(&mut self) -> &mut Queues {
        &mut self.queues
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let pressure = self.queues.senders.peek_priority();
        let pressure = pressure.map_or(0, |priority| u32::from(priority.level()) + 1);
        let former = self.endpoint.pressure.load(Ordering::Relaxed);
        if pressure != former {
            self.endpoint.press(former, pressure, self.by);
        }
        let left = if !self.queues.senders.is_empty() {
            sched::Left::More
        } else if self.queues.receivers.is_empty() {
            sched::Left::Nobody
        } else if let Some(receiver) = self.queues.receivers.only() {
            self.queues.receivers.pop_front();
            sched::Left::One(receiver)
        } else {
            sched::Left::More
        };
        self.endpoint.lone.open(left);
    }
}

static SLAB: Slab<Endpoint> = Slab::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Object for Endpoint {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    fn number(&self) -> u64 {
        self.id
    }

    fn last_reference(&self) {
        // Whoever served it finds out by this that it is no more.
        // SAFETY: it lives in a slot, as it was counted.
        unsafe { stamp_of(ptr::from_ref(self)) }.fetch_add(2, Ordering::AcqRel);
        self.wake_all();
    }
}

impl Endpoint {
    /// An endpoint that nobody knows yet, made by the process of this number.
    pub fn made_by(creator: u64) -> Endpoint {
        Endpoint {
            lone: sched::Lone::new(),
            queues: Mutex::new(Queues {
                senders: Queue::new(),
                receivers: Queue::new(),
                servers: Servers {
                    count: 0,
                    addresses: 0,
                },
            }),
            receivers: AtomicU32::new(0),
            server: AtomicPtr::new(ptr::null_mut()),
            pressure: AtomicU32::new(0),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            creator,
        }
    }

    /// What it is and who waits there, for lists.
    pub(crate) fn info(&self) -> EndpointInfo {
        let queues = self.lock();
        // SAFETY: a thread that ends leaves before, under this lock.
        let server = unsafe { self.server.load(Ordering::SeqCst).as_ref() };
        EndpointInfo {
            id: self.id,
            creator: self.creator,
            server: server.map_or(0, Thread::id),
            server_process: server.map_or(0, |thread| thread.process().id()),
            servers: u32::try_from(queues.servers.count).unwrap_or(u32::MAX),
            receive_handles: self.receivers.load(Ordering::Relaxed),
            senders: queues.senders.len(),
            receivers: queues.receivers.len(),
        }
    }

    /// A handle with the right to receive was made.
    pub(crate) fn receiver_added(&self) {
        self.receivers.fetch_add(1, Ordering::Relaxed);
    }

    /// A handle with the right to receive is gone. The last one's end is an error for all who wait.
    pub(crate) fn receiver_removed(&self) {
        if self.receiver_leaves() {
            self.wake_all();
        }
    }

    /// The same for one who wakes those who wait by himself, if this was the last: true. From then on nobody comes.
    pub(crate) fn receiver_leaves(&self) -> bool {
        self.receivers.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Sends the message in `current`'s registers, and waits for an answer if `wants_reply`.
    ///
    /// # Errors
    /// [`Error::PeerClosed`], [`Error::TimedOut`] for a deadline of 0 with nobody waiting, [`Error::Deadlock`] if it would wait for itself,
    /// [`Error::HandlesRefused`], a bad tag or handle. Nothing has changed then.
    pub fn send(
        &self,
        current: &Thread,
        badge: Badge,
        wants_reply: bool,
        deadline: Deadline,
    ) -> Result<Flow, Error> {
        let tag = transfer::tag_of(current)?;
        current.settle_before_wait();
        // As soon as it stands in the queue a receiver on another CPU may ask whether its wait was cancelled: a word that was left while it ran
        // was about no wait of its.
        current.marks().forget_cancel();
        let mut queues = self.lock();
        if self.receivers.load(Ordering::Acquire) == 0 {
            return Err(Error::PeerClosed);
        }
        let Some(receiver) = queues.receivers.front() else {
            if deadline == Deadline::NOW {
                return Err(Error::TimedOut);
            }
            current.wait.badge.set(badge.0);
            current.wait.wants_reply.set(wants_reply);
            current.wait.set(WaitOn::Sending(self));
            queues
                .senders
                .push_back(ThreadPtr::new(current), current.priority());
            drop(queues);
            // SAFETY: all kernel code between two quiescent points is inside a section.
            let section = unsafe { Section::enter() };
            // A report is made by a thread that can't give way: its handler may wait with a deadline, and come to it then. Who asks for a page
            // can: it faults.
            if !current.reporting.shows_state()
                && cycle::is_closed_by(current, self, &section)
                // If somebody has taken it out meanwhile it waits no more, or for an answer that it can get.
                && self.take_out(current, WaitOn::Sending(self))
            {
                // It was seen to wait: see `Thread::wish_cancel`.
                current.switches.add(1);
                return Err(Error::Deadlock);
            }
            return Ok(Flow::Block);
        };
        // The receiver can't leave while we hold the lock.
        let partner = receiver.get();
        if tag.handles() as u32 > partner.wait.accept() {
            return Err(Error::HandlesRefused);
        }
        let mut carried = Carried::nothing();
        if tag.handles() != 0 {
            let mut table = current.process().table.lock();
            take_handles(current, &mut table, tag, &mut carried)?;
        }
        queues.receivers.pop_front();
        partner.wait.set(WaitOn::Nothing);
        drop(queues);
        transfer::copy_message(current, partner, tag, &mut carried);
        if wants_reply {
            // The caller belongs to this CPU and is not cancelled before it has left it.
            let stamp = current.begin_awaiting(partner);
            let reply = install_reply(ThreadPtr::new(current), partner, stamp);
            transfer::finish_receive(partner, badge.0, reply);
            return Ok(Flow::SwitchTo(receiver));
        }
        transfer::finish_receive(partner, badge.0, Handle::NONE);
        schedule::make_ready(receiver);
        current.set_status(Ok(()));
        Ok(Flow::Done)
    }

    /// Receives a message, or what the bound notification brings.
    ///
    /// The caller has reserved table slots for the handles that `current` takes, and one for the reply unless it has one for what it holds.
    ///
    /// `None`: it has met so many senders whose messages can't be taken that others are to have the CPU before it is called again.
    ///
    /// # Errors
    /// [`Error::PeerClosed`], or [`Error::TimedOut`] for a deadline of 0.
    pub fn receive(
        &self,
        current: &Thread,
        bound: Option<&Notification>,
        deadline: Deadline,
        section: &Section,
    ) -> Result<Option<Flow>, Error> {
        current.settle_before_wait();
        for _ in 0..WOKEN_AT_ONCE {
            // The notification's lock is held until the thread is queued, or a signal could come in between and find nobody.
            let mut notification = bound.map(Notification::lock);
            if let Some(bits) = notification.as_mut().and_then(|state| state.take_bits()) {
                transfer::finish_notified(current, bits);
                return Ok(Some(Flow::Done));
            }
            let mut queues = self.lock_by(Some(current));
            if self.receivers.load(Ordering::Acquire) == 0 {
                return Err(Error::PeerClosed);
            }
            let Some(sender) = queues.senders.front() else {
                if deadline == Deadline::NOW {
                    return Err(Error::TimedOut);
                }
                current.wait.set(WaitOn::Receiving(self));
                queues
                    .receivers
                    .push_back(ThreadPtr::new(current), current.priority());
                return Ok(Some(Flow::Block));
            };
            drop(notification);
            let partner = sender.get();
            let mut carried = Carried::nothing();
            let checked = transfer::tag_of(partner).and_then(|tag| {
                if tag.handles() as u32 > current.wait.accept() {
                    return Err(Error::HandlesRefused);
                }
                if tag.handles() != 0 {
                    let mut table = partner.process().table.lock();
                    take_handles(partner, &mut table, tag, &mut carried)?;
                }
                Ok(tag)
            });
            queues.senders.pop_front();
            match checked {
                Err(error) => {
                    // The sender's fault: it gets the error, and the next one has its turn.
                    partner.wait.set(WaitOn::Nothing);
                    drop(queues);
                    partner.set_status(Err(error));
                    schedule::make_ready(sender);
                }
                Ok(tag) => {
                    let wants_reply = partner.wait.wants_reply.get();
                    let badge = partner.wait.badge.get();
                    // Out of the queue and not yet waiting for the reply, the sender can't be woken by anyone, so that its
                    // registers and its area stay as they are while they are read.
                    partner.wait.set(WaitOn::Nothing);
                    drop(queues);
                    transfer::copy_message(partner, current, tag, &mut carried);
                    if wants_reply {
                        let stamp = partner.begin_awaiting(current);
                        let reply = install_reply(sender, current, stamp);
                        transfer::finish_receive(current, badge, reply);
                        sender.cancel_if_due(stamp, section);
                    } else {
                        transfer::finish_receive(current, badge, Handle::NONE);
                        partner.set_status(Ok(()));
                        schedule::make_ready(sender);
                    }
                    return Ok(Some(Flow::Done));
                }
            }
        }
        Ok(None)
    }

    /// The receiver that waits alone, which nobody holds: it may be gone at any moment, but not its memory.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub(super) fn lone_receiver(&self) -> Option<ThreadPtr> {
        self.lone.waiting()
    }

    /// Takes that receiver out of its wait; false if it is gone. For its home.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub(super) fn take_lone_receiver(&self, receiver: ThreadPtr) -> bool {
        let taken = self.lone.take(receiver);
        if taken {
            receiver.get().wait.set_here(WaitOn::Nothing);
        }
        taken
    }

    /// Lets the running thread wait alone, if nobody else waits here and `act` succeeds; else nothing is done. Nobody touches the thread until
    /// bit 1 of the word that is returned is cleared.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub(super) fn receive_alone(
        &self,
        current: ThreadPtr,
        act: impl FnOnce() -> bool,
    ) -> Option<*mut usize> {
        if !self.lone.enter(current) {
            return None;
        }
        // Who takes away the last right to receive looks here afterwards.
        if self.receivers.load(Ordering::Acquire) == 0 || !act() {
            self.lone.withdraw();
            return None;
        }
        current.get().wait.set_here(WaitOn::Receiving(self));
        Some(self.lone.settling())
    }

    /// Takes the lock, with all who wait in the queues.
    fn lock(&self) -> Open<'_> {
        self.lock_by(None)
    }

    /// The same for a thread that will [settle](Thread::settle_before_wait) its priority by itself.
    fn lock_by<'a>(&'a self, by: Option<&'a Thread>) -> Open<'a> {
        let mut queues = self.queues.lock();
        if let Some(receiver) = self.lone.close(Relax::relax) {
            queues
                .receivers
                .push_back(receiver, receiver.get().priority());
        }
        Open {
            endpoint: self,
            by,
            queues,
        }
    }

    /// Takes a thread out of the queue that `on` names, if it is still there.
    pub(super) fn take_out(&self, thread: &Thread, on: WaitOn) -> bool {
        let mut queues = self.lock();
        // A direct call takes a receiver out of its place without this lock, and writes its word after that: so the word may still say that
        // it waits here. If it is in a list, it has said since in which, and that is seen after the list is.
        if !thread.links.is_listed() {
            return false;
        }
        fence(Ordering::Acquire);
        if thread.wait.on() != on {
            return false;
        }
        let pointer = ThreadPtr::new(thread);
        let removed = match on {
            WaitOn::Sending(_) => queues.senders.remove(pointer),
            _ => queues.receivers.remove(pointer),
        };
        debug_assert!(
            removed,
            "a thread that waits on an endpoint is in its queue"
        );
        thread.wait.set(WaitOn::Nothing);
        true
    }

    /// A thread is about to receive here: from now on it serves this endpoint and no other. False if it did already. For the thread itself.
    pub(crate) fn begin_service(&self, thread: &Thread) -> bool {
        if thread
            .serving
            .endpoint()
            .is_some_and(|other| ptr::eq(self, other))
        {
            return false;
        }
        thread.end_service();
        let mut queues = self.lock();
        // An endpoint that is about to end is served by nobody, so that nobody is left to count when it is gone.
        if self.receivers.load(Ordering::Acquire) != 0 {
            thread.serving.note(Some(self));
            queues.servers.change(thread, true);
            self.name_server(&queues);
        }
        true
    }

    /// A thread that serves here does so no more.
    pub(crate) fn end_service(&self, thread: &Thread) {
        let mut queues = self.lock();
        queues.servers.change(thread, false);
        self.name_server(&queues);
    }

    /// Notes who serves it alone now. Who does so no more, or does so only now, inherits another priority.
    fn name_server(&self, queues: &Open) {
        let server = queues.servers.only();
        let former = self.server.swap(server, Ordering::SeqCst);
        for changed in [former, server] {
            // SAFETY: both are alive: a thread that ends leaves before, under this lock.
            if let Some(thread) = unsafe { changed.as_ref() }
                && former != server
                && self.pressure.load(Ordering::Relaxed) != 0
            {
                schedule::reconsider(ThreadPtr::new(thread));
            }
        }
    }

    /// The thread that serves it alone, if there is one. It is good until the CPU's next quiescent point.
    pub(crate) fn server<'s>(&self) -> Option<&'s Thread> {
        // SAFETY: a thread that ends leaves before, so it was alive when the word was read; all kernel code between two quiescent points is
        // inside a section.
        unsafe { self.server.load(Ordering::SeqCst).as_ref() }
    }

    /// The priority of who is first of the senders, if this thread serves them alone.
    pub(crate) fn pressure_on(&self, thread: &Thread) -> Option<sched::EffectivePriority> {
        let pressure = self.pressure.load(Ordering::SeqCst);
        let is_alone = ptr::eq(self.server.load(Ordering::SeqCst), thread);
        (pressure != 0 && is_alone).then(|| sched::EffectivePriority::from_low_bits(pressure - 1))
    }

    /// Another sender is first, or none is: tells the one that serves them, if that may matter to it. Under the lock.
    #[cold]
    fn press(&self, former: u32, pressure: u32, by: Option<&Thread>) {
        self.pressure.store(pressure, Ordering::SeqCst);
        // SAFETY: a thread that ends leaves before, under this lock.
        if let Some(server) = unsafe { self.server.load(Ordering::SeqCst).as_ref() }
            && former.max(pressure) > u32::from(server.priority.base().level()) + 1
            && !by.is_some_and(|by| ptr::eq(by, server))
        {
            schedule::reconsider(ThreadPtr::new(server));
        }
    }

    /// The effective priority of a thread has changed that waits here: it has another place in the queue. For its home.
    pub(crate) fn reorder(&self, thread: &Thread, on: WaitOn) {
        let mut queues = self.lock();
        // As in `take_out`.
        if !thread.links.is_listed() {
            return;
        }
        fence(Ordering::Acquire);
        if thread.wait.on() == on {
            let pointer = ThreadPtr::new(thread);
            match on {
                WaitOn::Sending(_) => queues.senders.requeue(pointer, thread.priority()),
                _ => queues.receivers.requeue(pointer, thread.priority()),
            };
        }
    }

    fn wake_all(&self) {
        while self.wake_some() {}
    }

    /// Tells a few of those who wait that nobody is there any more; true if there may be others.
    pub(crate) fn wake_some(&self) -> bool {
        for _ in 0..WOKEN_AT_ONCE {
            let mut queues = self.lock();
            let Some(thread) = queues
                .senders
                .pop_front()
                .or_else(|| queues.receivers.pop_front())
            else {
                return false;
            };
            thread.get().wait.set(WaitOn::Nothing);
            drop(queues);
            thread.get().set_status(Err(Error::PeerClosed));
            schedule::make_ready(thread);
        }
        true
    }
}

/// Gives the receiver the right to answer: to hold, if it has a slot for that, else into the slot of its table that it reserved.
fn install_reply(caller: ThreadPtr, receiver: &Thread, stamp: u64) -> Handle {
    if receiver.held.has_slot() {
        return receiver.held.deliver(caller, stamp);
    }
    let target = ReplyTarget::new(caller.as_ptr(), stamp);
    receiver.adopt(&target);
    let capability = Capability::of_reply(AnyObject::Reply(target));
    receiver.wait.reserved.fetch_sub(1, Ordering::Relaxed);
    receiver.process().table.lock().insert_reserved(capability)
}
