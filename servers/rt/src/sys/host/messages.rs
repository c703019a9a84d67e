//! Endpoints, replies and notifications.
//!
//! A caller stands in `callers` from the moment it queues its message until it takes its answer; whoever changes its
//! state wakes everybody. A caller whose deadline passes takes itself and its message away, so a reply finds nobody.

use core::cell::Cell;
use std::collections::VecDeque;
use std::vec::Vec;

use abi::ipc_area::{BUFFER_BYTES, MAX_HANDLES};
use abi::register::{RECEIVED_MESSAGE, RECEIVED_NOTIFICATION};
use abi::{Error, Rights, Tag};

use super::super::{IpcRegisters, area, buffer};
use super::table::{Object, Table};
use super::{CHANGED, table, wait_change};

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Content {
    tag: Tag,
    words: [u64; 6],
    bytes: Vec<u8>,
    /// The sender's handles.
    handles: Vec<u64>,
}

/// A message that waits to be received.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) caller: u64,
    badge: u64,
    content: Content,
    wants_reply: bool,
}

/// How one who sent a message stands.
#[derive(Debug)]
pub(super) enum Caller {
    /// Waits to be received or answered; takes so many handles.
    Waiting { accept: usize },
    /// Its `send` was received.
    Received,
    /// Its answer, whose handles are in the table already.
    Answered(Content),
    /// It gets an error.
    Failed(Error),
}

std::thread_local! {
    /// The id of the notification that is bound to this thread; 0 is none.
    static BOUND: Cell<u64> = const { Cell::new(0) };
}

/// How many handles this thread takes, if any.
fn accept(takes: bool) -> usize {
    if !takes {
        return 0;
    }
    // SAFETY: this thread's own area.
    (unsafe { (*area()).accept } as usize).min(MAX_HANDLES)
}

/// Takes an outgoing message from the registers and this thread's area.
fn take(registers: &IpcRegisters, table: &Table) -> Result<Content, Error> {
    let tag = Tag(registers.tag).check().map_err(|_| Error::BadArgument)?;
    let mut bytes = std::vec![0; tag.bytes()];
    // SAFETY: a checked tag has at most BUFFER_BYTES, which this thread's buffer has.
    unsafe { buffer().copy_to_nonoverlapping(bytes.as_mut_ptr(), tag.bytes().min(BUFFER_BYTES)) };
    // SAFETY: this thread's own area.
    let handles = unsafe { (*area()).handles_out };
    let handles = handles[..tag.handles()].to_vec();
    for handle in &handles {
        table.find(*handle, Rights::TRANSFER)?;
    }
    Ok(Content {
        tag,
        words: registers.words,
        bytes,
        handles,
    })
}

/// Carries the handles over: from here on the content names the receiver's.
fn transfer(table: &mut Table, content: &mut Content) -> Result<(), Error> {
    let entries: Result<Vec<_>, _> = content
        .handles
        .iter()
        .map(|handle| table.find(*handle, Rights::TRANSFER))
        .collect();
    for (index, entry) in entries?.into_iter().enumerate() {
        let theirs = table.insert(entry.object, entry.rights, entry.badge);
        if content.tag.moves(index) {
            table.handles.remove(&content.handles[index]);
        }
        content.handles[index] = theirs;
    }
    Ok(())
}

/// Puts a message that came into the registers and this thread's area.
fn put(registers: &mut IpcRegisters, content: &Content, badge: u64, reply: u64) {
    registers.handle = badge;
    registers.tag = content.tag.0;
    registers.words = content.words;
    registers.deadline = RECEIVED_MESSAGE;
    registers.reply = reply;
    // SAFETY: at most BUFFER_BYTES (checked when it was taken) into this thread's buffer.
    unsafe {
        content
            .bytes
            .as_ptr()
            .copy_to_nonoverlapping(buffer(), content.bytes.len());
    };
    for (index, handle) in content.handles.iter().enumerate() {
        // SAFETY: this thread's own area; a checked tag has at most MAX_HANDLES.
        unsafe { (*area()).handles_in[index] = *handle };
    }
}

/// Queues a message, and waits until its sender's state is final.
fn submit(registers: &IpcRegisters, wants_reply: bool) -> Result<Option<Content>, Error> {
    let mut table = table();
    let entry = table.find(registers.handle, Rights::SEND)?;
    let Object::Endpoint(endpoint) = entry.object else {
        return Err(Error::WrongObject);
    };
    let content = take(registers, &table)?;
    if !table.has_receiver(endpoint) {
        return Err(Error::PeerClosed);
    }
    let caller = table.new_id();
    table.callers.insert(
        caller,
        Caller::Waiting {
            accept: accept(Tag(registers.tag).takes_handles()),
        },
    );
    let pending = Pending {
        caller,
        badge: entry.badge,
        content,
        wants_reply,
    };
    table.queues.entry(endpoint).or_default().push_back(pending);
    CHANGED.notify_all();
    while let Some(Caller::Waiting { .. }) = table.callers.get(&caller) {
        // What must be undone after a deadline needs the table again.
        table = match wait_change(table, registers.deadline) {
            Ok(table) => table,
            Err(error) => {
                table = super::table();
                let state = table.callers.remove(&caller);
                if let Some(queue) = table.queues.get_mut(&endpoint) {
                    queue.retain(|pending| pending.caller != caller);
                }
                return match state {
                    Some(Caller::Answered(content)) => Ok(Some(content)),
                    _ => Err(error),
                };
            }
        };
    }
    match table.callers.remove(&caller) {
        Some(Caller::Answered(content)) => Ok(Some(content)),
        Some(Caller::Failed(error)) => Err(error),
        _ => Ok(None),
    }
}

pub(super) fn call(registers: &mut IpcRegisters) -> Result<(), Error> {
    let content = submit(registers, true)?.ok_or(Error::NoReply)?;
    put(registers, &content, 0, 0);
    Ok(())
}

pub(super) fn send(registers: &IpcRegisters) -> Result<(), Error> {
    submit(registers, false).map(|_| ())
}

/// `takes`: it takes as many handles as the area says.
pub(super) fn recv(registers: &mut IpcRegisters, takes: bool) -> Result<(), Error> {
    let mut table = table();
    let Object::Endpoint(endpoint) = table.find(registers.handle, Rights::RECEIVE)?.object else {
        return Err(Error::WrongObject);
    };
    loop {
        if let Some(bits) = table
            .notifications
            .get_mut(&BOUND.get())
            .filter(|bits| **bits != 0)
        {
            registers.words[0] = core::mem::take(bits);
            registers.deadline = RECEIVED_NOTIFICATION;
            registers.tag = 0;
            registers.handle = 0;
            registers.reply = 0;
            return Ok(());
        }
        while let Some(mut pending) = table
            .queues
            .get_mut(&endpoint)
            .and_then(VecDeque::pop_front)
        {
            let carried = if pending.content.handles.len() > accept(takes) {
                Err(Error::HandlesRefused)
            } else {
                transfer(&mut table, &mut pending.content)
            };
            CHANGED.notify_all();
            if let Err(error) = carried {
                table.callers.insert(pending.caller, Caller::Failed(error));
                continue;
            }
            let reply = if pending.wants_reply {
                table.insert(Object::Reply(pending.caller), Rights::TRANSFER, 0)
            } else {
                table.callers.insert(pending.caller, Caller::Received);
                0
            };
            put(registers, &pending.content, pending.badge, reply);
            return Ok(());
        }
        table = wait_change(table, registers.deadline)?;
    }
}

pub(super) fn reply(registers: &IpcRegisters) -> Result<(), Error> {
    let mut table = table();
    let Object::Reply(caller) = table.find(registers.reply, Rights::NONE)?.object else {
        return Err(Error::WrongObject);
    };
    table.handles.remove(&registers.reply);
    CHANGED.notify_all();
    let result = match table.callers.get(&caller) {
        Some(Caller::Waiting { accept }) => {
            let accept = *accept;
            take(registers, &table).and_then(|mut content| {
                if content.handles.len() > accept {
                    return Err(Error::HandlesRefused);
                }
                transfer(&mut table, &mut content)?;
                Ok(content)
            })
        }
        _ => return Err(Error::CallerGone),
    };
    let (state, result) = match result {
        Ok(content) => (Caller::Answered(content), Ok(())),
        Err(error) => (Caller::Failed(Error::NoReply), Err(error)),
    };
    table.callers.insert(caller, state);
    result
}

fn notification(table: &Table, handle: u64, rights: Rights) -> Result<u64, Error> {
    match table.find(handle, rights)?.object {
        Object::Notification(id) => Ok(id),
        _ => Err(Error::WrongObject),
    }
}

pub(super) fn signal(handle: u64, bits: u64) -> Result<(), Error> {
    let mut table = table();
    let id = notification(&table, handle, Rights::SIGNAL)?;
    *table.notifications.entry(id).or_default() |= bits;
    CHANGED.notify_all();
    Ok(())
}

pub(super) fn wait(handle: u64, deadline: u64) -> Result<u64, Error> {
    let mut table = table();
    loop {
        let id = notification(&table, handle, Rights::WAIT)?;
        let silent = !table.has_handle(&Object::Notification(id), Rights::SIGNAL);
        match table.notifications.get_mut(&id) {
            Some(bits) if *bits != 0 => return Ok(core::mem::take(bits)),
            _ if silent => return Err(Error::PeerClosed),
            _ => table = wait_change(table, deadline)?,
        }
    }
}

pub(super) fn signal_wait(
    signalled: u64,
    bits: u64,
    awaited: u64,
    deadline: u64,
) -> Result<u64, Error> {
    notification(&table(), awaited, Rights::WAIT)?;
    signal(signalled, bits)?;
    wait(awaited, deadline)
}

pub(super) fn bind(handle: u64) -> Result<(), Error> {
    let id = if handle == 0 {
        0
    } else {
        notification(&table(), handle, Rights::WAIT)?
    };
    BOUND.set(id);
    Ok(())
}
