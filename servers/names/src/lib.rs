//! The names server's logic: endpoints by name.
//!
//! What the manifest makes public it finds in its start block, so a restarted names server knows them again at once; they
//! can't be replaced. Others are registered at run time, each under the badge of who did it, and while somebody can
//! still answer there only that client may replace or withdraw it. Those are lost with the server; a server that
//! registers itself does so again when its clients report it missing. A client without a badge can't be told from
//! others, and registers nothing.
//!
//! What may go wrong: a client that registers without end. The number of names is bounded, for each client and in all;
//! those of servers that have ended make room.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use abi::info::ObjectKind;
use rt::interfaces::names::{HANDLES, Server};
use rt::wire::List;
use rt::{
    Badge, Caller, Deadline, Endpoint, Error, Event, Failure, FailureKind, Message, Outcome,
    Rights, start,
};

/// What an entry of the start block that names a public endpoint begins with.
pub const PUBLIC: &str = "public.";
/// Longest name in bytes.
pub const NAME_BYTES: usize = 64;
/// Most names in all.
pub const MOST: usize = 1024;
/// Most names of one client.
pub const MOST_OF_ONE: usize = 64;
/// Most bytes of a list in an answer.
const LIST_BYTES: usize = 3500;

/// What is held of a registered endpoint. The right to receive is not: nobody could tell any more that the server has ended.
const HELD: Rights = Rights::SEND
    .with(Rights::TRANSFER)
    .with(Rights::DUPLICATE)
    .with(Rights::QUERY);
/// A label that no interface has: servers answer to it, if they do, that they don't know it.
const PROBE: u32 = u32::MAX;

/// A registered endpoint.
#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    /// Who registered it; `None` for the manifest.
    owner: Option<Badge>,
}

/// The server.
#[derive(Debug, Default)]
pub struct Names {
    entries: BTreeMap<String, Entry>,
}

impl Entry {
    /// Whether its server has ended, so that nobody will ever receive there. A server that happens to wait gets an empty
    /// message without a caller.
    fn is_dead(&self) -> bool {
        self.owner.is_some()
            && self.endpoint.send(Message::new(PROBE), Deadline::NOW) == Err(Error::PeerClosed)
    }
}

impl Names {
    /// A server that knows the public endpoints of the start block.
    pub fn from_start_block() -> Names {
        let mut names = Names::default();
        for entry in start::block().entries() {
            if let Some(name) = entry.name.strip_prefix(PUBLIC)
                && let Ok(endpoint) = start::take(entry.name)
            {
                names.add_fixed(name, endpoint);
            }
        }
        names
    }

    /// Adds a name that nobody can replace.
    pub fn add_fixed(&mut self, name: &str, endpoint: Endpoint) {
        self.entries.insert(
            name.into(),
            Entry {
                endpoint,
                owner: None,
            },
        );
    }

    /// How many names there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    fn try_look_up(&self, name: &str) -> Result<Endpoint, Failure> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| Failure::new(FailureKind::NotFound, shown(name)))?;
        // A copy, which goes over with the answer.
        Ok(entry.endpoint.duplicate(HELD)?)
    }

    fn try_register(
        &mut self,
        owner: Badge,
        name: String,
        endpoint: &Endpoint,
    ) -> Result<(), Failure> {
        if owner == Badge(0) {
            let problem = "a client without a badge registers nothing";
            return Err(Failure::new(FailureKind::NotAllowed, problem));
        }
        let good = |byte: u8| byte.is_ascii_graphic();
        if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(good) {
            return Err(Failure::new(FailureKind::BadArgument, shown(&name)));
        }
        let info = endpoint.query()?;
        if info.kind != ObjectKind::Endpoint as u32 || !Rights(info.rights).contains(HELD) {
            return Err(Failure::new(
                FailureKind::BadArgument,
                "handle is no endpoint that can be passed on",
            ));
        }
        let endpoint = endpoint.duplicate(HELD)?;
        match self.entries.get(&name) {
            Some(entry) if entry.owner != Some(owner) && !entry.is_dead() => {
                return Err(Failure::new(FailureKind::Exists, name));
            }
            Some(_) => {}
            None => {
                if self.entries.len() >= MOST {
                    self.entries.retain(|_, entry| !entry.is_dead());
                }
                let own = self
                    .entries
                    .values()
                    .filter(|entry| entry.owner == Some(owner))
                    .count();
                if self.entries.len() >= MOST || own >= MOST_OF_ONE {
                    return Err(Failure::new(FailureKind::Full, name));
                }
            }
        }
        self.entries.insert(
            name,
            Entry {
                endpoint,
                owner: Some(owner),
            },
        );
        Ok(())
    }

    fn try_withdraw(&mut self, owner: Badge, name: &str) -> Result<(), Failure> {
        match self.entries.get(name).map(|entry| entry.owner) {
            None => Err(Failure::new(FailureKind::NotFound, shown(name))),
            Some(first) if first != Some(owner) => {
                Err(Failure::new(FailureKind::NotAllowed, shown(name)))
            }
            Some(_) => {
                self.entries.remove(name);
                Ok(())
            }
        }
    }
}

/// A name of any length and kind, fit for a message.
fn shown(name: &str) -> String {
    let start: String = name
        .chars()
        .take(NAME_BYTES)
        .filter(|character| !character.is_control())
        .collect();
    if start.len() < name.len() {
        format!("{start}...")
    } else {
        start
    }
}

impl Server for Names {
    fn look_up(&mut self, _: &mut Caller, name: String) -> Outcome<Endpoint> {
        self.try_look_up(&name).into()
    }

    fn register(&mut self, caller: &mut Caller, name: String, endpoint: Endpoint) -> Outcome<()> {
        self.try_register(caller.badge, name, &endpoint).into()
    }

    fn withdraw(&mut self, caller: &mut Caller, name: String) -> Outcome<()> {
        self.try_withdraw(caller.badge, &name).into()
    }

    fn list(&mut self, _: &mut Caller, first: u32) -> Outcome<(List<String>, u32)> {
        let mut list = Vec::new();
        let mut bytes = 0;
        for name in self.entries.keys().skip(first as usize) {
            bytes += name.len() + 8;
            if bytes > LIST_BYTES {
                break;
            }
            list.push(name.clone());
        }
        Outcome::Done((List(list), self.entries.len() as u32))
    }
}

/// Serves until the endpoint fails; returns why.
pub fn serve(endpoint: &Endpoint, mut server: Names) -> Error {
    let mut answer = None;
    loop {
        match endpoint.serve_next(answer.take(), HANDLES, Deadline::NEVER) {
            Ok(Event::Message(message)) => answer = server.dispatch(message),
            Ok(Event::Notification(_)) | Err(Error::TimedOut | Error::Cancelled) => {}
            Err(error) => return error,
        }
    }
}
