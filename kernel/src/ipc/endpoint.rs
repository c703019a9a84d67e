//! Endpoints: where calls and sends meet receivers.
//!
//! An endpoint holds no message. Either senders wait in it, or receivers, or nobody; whoever comes second moves the
//! message straight between the two threads. Those who wait are served by priority, and within one priority in the order in which they came.
//!
//! A receiver that is the only one to wait stands in no queue but in a place of its own, which needs no lock (see [`sched::Lone`]): so
//! it is with nearly every server.

use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering, fence};

use spin::relax::RelaxStrategy as _;

use abi::{Badge, Deadline, Error, Handle};

use super::Flow;
use super::notification::Notification;
use super::reply::ReplyTarget;
use super::transfer::{self, Carried, take_handles};
use super::wait::WaitOn;
use crate::object::{AnyObject, Capability, Object, Section, Slab};
use crate::schedule;
use crate::sync::{Guard, Mutex, Relax, level};
use crate::thread::{Thread, ThreadPtr};

/// An endpoint.
pub struct Endpoint {
    /// A receiver that waits alone: then nobody is in the queues.
    lone: sched::Lone<ThreadPtr>,
    queues: Mutex<{ level::ENDPOINT }, Queues>,
    /// Handles with the right to receive, in all processes. At 0 nobody will ever receive again.
    receivers: AtomicU32,
}

struct Queues {
    senders: sched::WaitQueue<ThreadPtr>,
    receivers: sched::WaitQueue<ThreadPtr>,
}

/// The queues, as long as the lock is held.
struct Open<'a> {
    lone: &'a sched::Lone<ThreadPtr>,
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
        self.lone.open(left);
    }
}

static SLAB: Slab<Endpoint> = Slab::new();

impl Object for Endpoint {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    fn last_reference(&self) {
        self.wake_all(Error::PeerClosed);
    }
}

impl Endpoint {
    /// An endpoint that nobody knows yet.
    pub const fn new() -> Endpoint {
        Endpoint {
            lone: sched::Lone::new(),
            queues: Mutex::new(Queues {
                senders: sched::WaitQueue::new(),
                receivers: sched::WaitQueue::new(),
            }),
            receivers: AtomicU32::new(0),
        }
    }

    /// A handle with the right to receive was made.
    pub(crate) fn receiver_added(&self) {
        self.receivers.fetch_add(1, Ordering::Relaxed);
    }

    /// A handle with the right to receive is gone. The last one's end is an error for all who wait.
    pub(crate) fn receiver_removed(&self) {
        if self.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_all(Error::PeerClosed);
        }
    }

    /// Sends the message in `current`'s registers, and waits for an answer if `wants_reply`.
    ///
    /// # Errors
    /// [`Error::PeerClosed`], [`Error::TimedOut`] for a deadline of 0 with nobody waiting, [`Error::HandlesRefused`], a bad tag or
    /// handle. Nothing has changed then.
    pub fn send(
        &self,
        current: &Thread,
        badge: Badge,
        wants_reply: bool,
        deadline: Deadline,
    ) -> Result<Flow, Error> {
        let tag = transfer::tag_of(current)?;
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
            let stamp = current.begin_awaiting();
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
    /// # Errors
    /// [`Error::PeerClosed`], or [`Error::TimedOut`] for a deadline of 0.
    pub fn receive(
        &self,
        current: &Thread,
        bound: Option<&Notification>,
        deadline: Deadline,
        section: &Section,
    ) -> Result<Flow, Error> {
        loop {
            // The notification's lock is held until the thread is queued, or a signal could come in between and find nobody.
            let mut notification = bound.map(Notification::lock);
            if let Some(bits) = notification.as_mut().and_then(|state| state.take_bits()) {
                transfer::finish_notified(current, bits);
                return Ok(Flow::Done);
            }
            let mut queues = self.lock();
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
                return Ok(Flow::Block);
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
                        let stamp = partner.begin_awaiting();
                        let reply = install_reply(sender, current, stamp);
                        transfer::finish_receive(current, badge, reply);
                        sender.cancel_if_due(stamp, section);
                    } else {
                        transfer::finish_receive(current, badge, Handle::NONE);
                        partner.set_status(Ok(()));
                        schedule::make_ready(sender);
                    }
                    return Ok(Flow::Done);
                }
            }
        }
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
        let mut queues = self.queues.lock();
        if let Some(receiver) = self.lone.close(Relax::relax) {
            queues
                .receivers
                .push_back(receiver, receiver.get().priority());
        }
        Open {
            lone: &self.lone,
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

    fn wake_all(&self, error: Error) {
        loop {
            let mut queues = self.lock();
            let Some(thread) = queues
                .senders
                .pop_front()
                .or_else(|| queues.receivers.pop_front())
            else {
                return;
            };
            thread.get().wait.set(WaitOn::Nothing);
            drop(queues);
            thread.get().set_status(Err(error));
            schedule::make_ready(thread);
        }
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::new()
    }
}

/// Gives the receiver the right to answer: to hold, if it has a slot for that, else into the slot of its table that it reserved.
fn install_reply(caller: ThreadPtr, receiver: &Thread, stamp: u64) -> Handle {
    if receiver.held.has_slot() {
        return receiver.held.deliver(caller, stamp);
    }
    let target = ReplyTarget::new(caller.as_ptr(), stamp);
    let capability = Capability::of_reply(AnyObject::Reply(target));
    receiver.wait.reserved.fetch_sub(1, Ordering::Relaxed);
    receiver.process().table.lock().insert_reserved(capability)
}
