//! The one table of handles, and the objects behind them.
//!
//! Objects are found by an id that is never used again; one dies with its last handle.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::vec::Vec;

use abi::info::{HandleInfo, ObjectKind};
use abi::{Error, Handle, Rights};

use super::memory::Pages;
use super::messages::{Caller, Pending};

/// What a handle names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Object {
    Endpoint(u64),
    Reply(u64),
    Notification(u64),
    Memory(Arc<Pages>),
    Process,
    Thread,
    Log(u64),
}

/// A slot of the table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) object: Object,
    pub(super) rights: Rights,
    pub(super) badge: u64,
}

/// All there is.
#[derive(Default)]
pub(super) struct Table {
    last_id: u64,
    pub(super) handles: HashMap<u64, Entry>,
    /// Messages that wait at each endpoint.
    pub(super) queues: HashMap<u64, VecDeque<Pending>>,
    /// Those who wait to be received or answered.
    pub(super) callers: HashMap<u64, Caller>,
    /// The bits of each notification.
    pub(super) notifications: HashMap<u64, u64>,
    pub(super) logs: HashMap<u64, Vec<u8>>,
    /// What is mapped, by address; an object mapped twice stands here twice.
    pub(super) mappings: Vec<(u64, Arc<Pages>)>,
}

impl Table {
    /// An id that none had before.
    pub(super) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// A new handle.
    pub(super) fn insert(&mut self, object: Object, rights: Rights, badge: u64) -> u64 {
        let handle = Handle::new(self.new_id() as u32, 1).0;
        self.handles.insert(
            handle,
            Entry {
                object,
                rights,
                badge,
            },
        );
        handle
    }

    /// What a handle names, if it has these rights.
    pub(super) fn find(&self, handle: u64, rights: Rights) -> Result<Entry, Error> {
        let entry = self.handles.get(&handle).ok_or(Error::BadHandle)?;
        if !entry.rights.contains(rights) {
            return Err(Error::NoRight);
        }
        Ok(entry.clone())
    }

    /// The log that a handle names.
    pub(super) fn log(&mut self, handle: u64, rights: Rights) -> Result<&mut Vec<u8>, Error> {
        let Object::Log(id) = self.find(handle, rights)?.object else {
            return Err(Error::WrongObject);
        };
        self.logs.get_mut(&id).ok_or(Error::BadHandle)
    }

    /// Closes a handle, and ends the object if it was the last.
    pub(super) fn close(&mut self, handle: u64) -> Result<(), Error> {
        let entry = self.handles.remove(&handle).ok_or(Error::BadHandle)?;
        self.dropped(&entry.object);
        Ok(())
    }

    /// An object lost a handle.
    pub(super) fn dropped(&mut self, object: &Object) {
        let used = self.handles.values().any(|entry| entry.object == *object);
        match *object {
            Object::Reply(caller) => {
                if let Some(caller @ Caller::Waiting { .. }) = self.callers.get_mut(&caller) {
                    *caller = Caller::Failed(Error::NoReply);
                }
            }
            Object::Endpoint(id) => {
                if !self.has_receiver(id) {
                    for pending in self
                        .queues
                        .get_mut(&id)
                        .into_iter()
                        .flat_map(std::mem::take)
                    {
                        self.callers
                            .insert(pending.caller, Caller::Failed(Error::PeerClosed));
                    }
                }
                if !used {
                    self.queues.remove(&id);
                }
            }
            Object::Notification(id) if !used => drop(self.notifications.remove(&id)),
            Object::Log(id) if !used => drop(self.logs.remove(&id)),
            _ => {}
        }
    }

    /// Whether anybody could receive at an endpoint.
    pub(super) fn has_receiver(&self, endpoint: u64) -> bool {
        self.has_handle(&Object::Endpoint(endpoint), Rights::RECEIVE)
    }

    /// Whether there is a handle to an object with these rights.
    pub(super) fn has_handle(&self, object: &Object, rights: Rights) -> bool {
        self.handles
            .values()
            .any(|entry| entry.object == *object && entry.rights.contains(rights))
    }

    /// What a handle names, for its owner.
    pub(super) fn query(&self, handle: u64) -> Result<HandleInfo, Error> {
        let entry = self.find(handle, Rights::NONE)?;
        let (kind, size) = match &entry.object {
            Object::Endpoint(_) => (ObjectKind::Endpoint, 0),
            Object::Reply(_) => (ObjectKind::Reply, 0),
            Object::Notification(_) => (ObjectKind::Notification, 0),
            Object::Memory(pages) => (ObjectKind::Memory, pages.bytes() as u64),
            Object::Process => (ObjectKind::Process, 0),
            Object::Thread => (ObjectKind::Thread, 0),
            Object::Log(_) => (ObjectKind::Log, 0),
        };
        Ok(HandleInfo {
            kind: kind as u32,
            rights: entry.rights.0,
            badge: entry.badge,
            size,
        })
    }
}
