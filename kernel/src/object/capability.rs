//! What a handle-table entry holds: a counted reference to an object, or a right to answer.

use abi::info::ObjectKind;
use abi::{Badge, Error, Rights};

use super::reference::Ref;
use crate::io_ports::IoPorts;
use crate::ipc::{Endpoint, Notification, ReplyTarget};
use crate::irq::Irq;
use crate::memory::object::MemoryObject;
use crate::process::Process;
use crate::schedule;
use crate::thread::{Thread, ThreadPtr};

/// An object, by its kind.
pub enum Object {
    /// An endpoint.
    Endpoint(Ref<Endpoint>),
    /// The right to answer one call.
    Reply(ReplyTarget),
    /// The same, as long as the thread that received the call has it by itself, and this is the slot that is lent to it.
    Held(ThreadPtr),
    /// A notification.
    Notification(Ref<Notification>),
    /// A memory object.
    Memory(Ref<MemoryObject>),
    /// A process.
    Process(Ref<Process>),
    /// A thread.
    Thread(Ref<Thread>),
    /// An interrupt line.
    Irq(Ref<Irq>),
    /// I/O ports.
    IoPorts(Ref<IoPorts>),
    /// The kernel's log.
    Log,
    /// The machine.
    System,
}

impl Object {
    /// The kind, as user space is told.
    pub const fn kind(&self) -> ObjectKind {
        match self {
            Object::Endpoint(_) => ObjectKind::Endpoint,
            Object::Reply(_) | Object::Held(_) => ObjectKind::Reply,
            Object::Notification(_) => ObjectKind::Notification,
            Object::Memory(_) => ObjectKind::Memory,
            Object::Process(_) => ObjectKind::Process,
            Object::Thread(_) => ObjectKind::Thread,
            Object::Irq(_) => ObjectKind::Irq,
            Object::IoPorts(_) => ObjectKind::IoPorts,
            Object::Log => ObjectKind::Log,
            Object::System => ObjectKind::System,
        }
    }

    /// Whether it is a right to answer.
    #[inline]
    pub const fn is_reply(&self) -> bool {
        matches!(self, Object::Reply(_) | Object::Held(_))
    }

    /// A second reference. A reply is one-shot and can't be had twice.
    fn duplicate(&self) -> Result<Object, Error> {
        Ok(match self {
            Object::Endpoint(object) => Object::Endpoint(object.clone()),
            Object::Reply(_) | Object::Held(_) => return Err(Error::NoRight),
            Object::Notification(object) => Object::Notification(object.clone()),
            Object::Memory(object) => Object::Memory(object.clone()),
            Object::Process(object) => Object::Process(object.clone()),
            Object::Thread(object) => Object::Thread(object.clone()),
            Object::Irq(object) => Object::Irq(object.clone()),
            Object::IoPorts(object) => Object::IoPorts(object.clone()),
            Object::Log => Object::Log,
            Object::System => Object::System,
        })
    }
}

/// An object with the rights and the badge of one handle to it.
///
/// While it exists, an endpoint counts the handles with the right to receive: when the last is gone, callers get an error
/// and don't hang. Notifications count all of their handles in the same way, and those with the right to signal, for those who wait. Threads and
/// processes do so as well: what was never started and can't be named any more ends.
pub struct Capability {
    object: Object,
    rights: Rights,
    badge: Badge,
}

impl Capability {
    /// A capability to an object.
    pub fn new(object: Object, rights: Rights, badge: Badge) -> Capability {
        match &object {
            Object::Endpoint(endpoint) if rights.contains(Rights::RECEIVE) => {
                endpoint.receiver_added();
            }
            Object::Notification(notification) => {
                notification.handle_added(rights.contains(Rights::SIGNAL));
            }
            Object::Thread(thread) => thread.handle_added(),
            Object::Process(process) => process.handle_added(),
            _ => {}
        }
        Capability {
            object,
            rights,
            badge,
        }
    }

    /// A capability to a right to answer, or to where a thread has one.
    pub(crate) fn of_reply(reply: Object) -> Capability {
        Capability::new(reply, Rights::TRANSFER | Rights::QUERY, Badge(0))
    }

    /// The object.
    pub const fn object(&self) -> &Object {
        &self.object
    }

    /// Its rights.
    pub const fn rights(&self) -> Rights {
        self.rights
    }

    /// Its badge.
    pub const fn badge(&self) -> Badge {
        self.badge
    }

    /// Whether all of `rights` are there.
    ///
    /// # Errors
    /// [`Error::NoRight`] if one is not.
    pub const fn demand(&self, rights: Rights) -> Result<(), Error> {
        if self.rights.contains(rights) {
            Ok(())
        } else {
            Err(Error::NoRight)
        }
    }

    /// A second capability with some of the rights.
    ///
    /// # Errors
    /// [`Error::NoRight`] if `rights` are more than there are, or the object is a reply.
    pub fn duplicate(&self, rights: Rights) -> Result<Capability, Error> {
        self.with_badge(rights, self.badge)
    }

    /// A second capability with some of the rights and another badge.
    ///
    /// # Errors
    /// As [`duplicate`](Self::duplicate).
    pub fn with_badge(&self, rights: Rights, badge: Badge) -> Result<Capability, Error> {
        self.demand(rights)?;
        Ok(Capability::new(self.object.duplicate()?, rights, badge))
    }
}

/// Those who wait for something that can't come any more, as a handle was given up: any number of threads.
pub(crate) enum Waking {
    /// For an endpoint that nobody receives at.
    Endpoint(Ref<Endpoint>),
    /// For a notification that nobody has a handle to, or that nobody can signal.
    Notification(Ref<Notification>),
}

impl Waking {
    /// Tells a few of them; true if there may be others.
    pub(crate) fn wake_some(&self) -> bool {
        match self {
            Waking::Endpoint(endpoint) => endpoint.wake_some(),
            Waking::Notification(notification) => notification.wake_some(),
        }
    }

    /// Tells all of them, a few at a time; others may have the CPU in between.
    ///
    /// The caller has no lock, and holds counted references only.
    pub(crate) fn wake_all(self) {
        while self.wake_some() {
            schedule::preemption_point();
        }
    }
}

impl Capability {
    /// Gives it up, but for the waking of those who waited for what ends with it. No lock may be held.
    pub(crate) fn give_up(mut self) -> Option<Waking> {
        let is_receiver = self.rights.contains(Rights::RECEIVE);
        let signals = self.rights.contains(Rights::SIGNAL);
        // What its drop would do for these is done here.
        match core::mem::replace(&mut self.object, Object::Log) {
            Object::Endpoint(endpoint) if is_receiver => endpoint
                .receiver_leaves()
                .then_some(Waking::Endpoint(endpoint)),
            Object::Notification(notification) => notification
                .handle_leaves(signals)
                .then_some(Waking::Notification(notification)),
            other => {
                self.object = other;
                None
            }
        }
    }

    /// Gives it up where others may have the CPU in between: those who waited are woken a few at a time.
    ///
    /// The caller has no lock, and holds counted references only.
    pub(crate) fn end(self) {
        if let Some(waking) = self.give_up() {
            waking.wake_all();
        }
    }
}

impl Drop for Capability {
    fn drop(&mut self) {
        match &self.object {
            Object::Endpoint(endpoint) if self.rights.contains(Rights::RECEIVE) => {
                endpoint.receiver_removed();
            }
            Object::Notification(notification) => {
                notification.handle_removed(self.rights.contains(Rights::SIGNAL));
            }
            Object::Reply(target) => target.dropped(),
            Object::Thread(thread) => thread.handle_removed(),
            Object::Process(process) => Process::handle_removed(process),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
