//! What must happen: plain queues and tables, one step after the other.

use std::collections::{BTreeMap, VecDeque};

use abi::{Error, Handle};

use super::PROCESS_OF;

/// What a handle names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Item {
    Token(u64),
    Endpoint(usize),
    Reply { caller: usize, call: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Running,
    Sending { endpoint: usize, wants_reply: bool },
    Receiving { endpoint: usize },
    Awaiting { call: u64 },
    Waiting { notification: usize },
    Sleeping,
    Gone,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    pub(super) number: u64,
    pub(super) bytes: usize,
    pub(super) carry: Vec<(Handle, bool)>,
}

/// What a thread finds when it goes on.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Status(Result<(), Error>),
    Received {
        message: Message,
        badge: u64,
        items: Vec<Item>,
        reply: Option<Item>,
    },
    Answered {
        message: Message,
        items: Vec<Item>,
    },
    Waited(u64),
    Notified(u64),
}

/// What a step does to the thread that makes it.
#[derive(Clone, Debug)]
pub(super) enum Went {
    On(Outcome),
    Blocked,
}

pub(super) struct Modelled {
    pub(super) state: State,
    /// Handles that its wait takes, and whether there is a slot for a reply besides.
    pub(super) reserved: u32,
    pub(super) accept: u32,
    pub(super) badge: u64,
    pub(super) message: Message,
    pub(super) bound: Option<usize>,
    /// The endpoint at which it received last.
    pub(super) serves: Option<usize>,
    /// Who is to answer its call, as far as anybody in particular is.
    pub(super) answered_by: Option<usize>,
    /// The caller, and its call, for which this thread is that.
    pub(super) answers: Option<(usize, u64)>,
}

#[derive(Default)]
pub(super) struct Bits {
    pub(super) set: u64,
    pub(super) waiters: VecDeque<usize>,
    pub(super) bound: Option<usize>,
}

#[derive(Default)]
pub(super) struct Queues {
    pub(super) senders: VecDeque<usize>,
    pub(super) receivers: VecDeque<usize>,
}

/// The model alone.
pub(super) struct Model {
    pub(super) threads: Vec<Modelled>,
    /// By slot.
    pub(super) tables: Vec<BTreeMap<u32, (Handle, Item)>>,
    pub(super) endpoints: Vec<Queues>,
    pub(super) notifications: Vec<Bits>,
    /// Who is woken in this step, in order, and what for.
    pub(super) woken: Vec<(usize, Outcome)>,
    pub(super) calls: u64,
}

impl Model {
    pub(super) fn receivers(&self, endpoint: usize) -> usize {
        self.tables
            .iter()
            .flat_map(BTreeMap::values)
            .filter(|(_, item)| *item == Item::Endpoint(endpoint))
            .count()
    }

    pub(super) fn wake(&mut self, thread: usize, outcome: Outcome) {
        self.threads[thread].state = State::Running;
        self.threads[thread].reserved = 0;
        self.woken.push((thread, outcome));
    }

    pub(super) fn item(&self, process: usize, handle: Handle) -> Option<Item> {
        self.tables[process]
            .get(&handle.index())
            .filter(|(there, _)| *there == handle)
            .map(|(_, item)| *item)
    }

    /// Takes what the sender's message carries out of its table.
    pub(super) fn carry(&mut self, sender: usize, accept: u32) -> Result<Vec<Item>, Error> {
        let (process, carry) = (
            PROCESS_OF[sender],
            self.threads[sender].message.carry.clone(),
        );
        if carry.len() as u32 > accept {
            return Err(Error::HandlesRefused);
        }
        let mut items = Vec::new();
        for (handle, moved) in &carry {
            let item = self.item(process, *handle).ok_or(Error::BadHandle)?;
            if *moved && carry.iter().filter(|(other, _)| other == handle).count() > 1 {
                return Err(Error::BadArgument);
            }
            if !moved && matches!(item, Item::Reply { .. }) {
                return Err(Error::NoRight);
            }
            items.push(item);
        }
        for (item, (_, moved)) in items.iter().zip(&carry) {
            if *moved {
                self.disown(*item);
            }
        }
        for (handle, moved) in carry {
            if moved {
                self.tables[process].remove(&handle.index());
            }
        }
        Ok(items)
    }

    pub(super) fn received(
        &mut self,
        sender: usize,
        receiver: usize,
        items: Vec<Item>,
        wants_reply: bool,
    ) -> Outcome {
        for item in &items {
            self.adopt(receiver, *item);
        }
        let reply = wants_reply.then(|| {
            self.calls += 1;
            self.threads[sender].state = State::Awaiting { call: self.calls };
            let reply = Item::Reply {
                caller: sender,
                call: self.calls,
            };
            self.adopt(receiver, reply);
            reply
        });
        Outcome::Received {
            message: self.threads[sender].message.clone(),
            badge: self.threads[sender].badge,
            items,
            reply,
        }
    }

    pub(super) fn send(
        &mut self,
        thread: usize,
        endpoint: usize,
        wants_reply: bool,
        now: bool,
    ) -> Result<Went, Error> {
        if self.receivers(endpoint) == 0 {
            return Err(Error::PeerClosed);
        }
        let Some(&receiver) = self.endpoints[endpoint].receivers.front() else {
            if now {
                return Err(Error::TimedOut);
            }
            if self.waits_for(endpoint, thread) {
                return Err(Error::Deadlock);
            }
            self.threads[thread].state = State::Sending {
                endpoint,
                wants_reply,
            };
            self.endpoints[endpoint].senders.push_back(thread);
            return Ok(Went::Blocked);
        };
        let items = self.carry(thread, self.threads[receiver].accept)?;
        self.endpoints[endpoint].receivers.pop_front();
        let outcome = self.received(thread, receiver, items, wants_reply);
        self.wake(receiver, outcome);
        Ok(if wants_reply {
            Went::Blocked
        } else {
            Went::On(Outcome::Status(Ok(())))
        })
    }

    fn awaits(&self, caller: usize, call: u64) -> bool {
        self.threads[caller].state == State::Awaiting { call }
    }

    /// A thread is to answer from now on, unless it is to answer another already; all have the same priority.
    fn adopt(&mut self, thread: usize, item: Item) {
        let Item::Reply { caller, call } = item else {
            return;
        };
        if self.awaits(caller, call) {
            let present = self.threads[thread].answers;
            let is_free = present.is_none_or(|(caller, call)| !self.awaits(caller, call));
            self.threads[caller].answered_by = is_free.then_some(thread);
            if is_free {
                self.threads[thread].answers = Some((caller, call));
            }
        }
    }

    /// A reply is taken from who was to give it.
    fn disown(&mut self, item: Item) {
        if let Item::Reply { caller, call } = item
            && self.awaits(caller, call)
            && let Some(thread) = self.threads[caller].answered_by.take()
            && self.threads[thread].answers == Some((caller, call))
        {
            self.threads[thread].answers = None;
        }
    }

    /// A thread ends, and is to answer nobody any more.
    pub(super) fn answers_nobody(&mut self, thread: usize) {
        if let Some((caller, call)) = self.threads[thread].answers.take()
            && self.awaits(caller, call)
        {
            self.threads[caller].answered_by = None;
        }
    }

    /// The only living thread that has received last at an endpoint.
    fn server(&self, endpoint: usize) -> Option<usize> {
        let mut servers = (0..self.threads.len()).filter(|&thread| {
            let thread = &self.threads[thread];
            thread.serves == Some(endpoint) && thread.state != State::Gone
        });
        let first = servers.next();
        first.filter(|_| servers.next().is_none())
    }

    /// Whether who queues at an endpoint waits for this thread.
    fn waits_for(&self, endpoint: usize, thread: usize) -> bool {
        let mut next = self.server(endpoint);
        for _ in 0..self.threads.len() {
            let Some(other) = next else { return false };
            if other == thread {
                return true;
            }
            let waits = &self.threads[other];
            next = match waits.state {
                State::Sending { endpoint, .. } => self.server(endpoint),
                // All replies lie in tables here, where other threads may give them too.
                _ => None,
            };
        }
        // A circle of others, which was closed when one of two that served an endpoint ended or went elsewhere.
        next.is_some()
    }

    pub(super) fn receive(
        &mut self,
        thread: usize,
        endpoint: usize,
        accept: u32,
        now: bool,
    ) -> Result<Went, Error> {
        let former = self.threads[thread].serves;
        self.threads[thread].serves =
            (former == Some(endpoint) || self.receivers(endpoint) != 0).then_some(endpoint);
        if let Some(notification) = self.threads[thread].bound
            && self.notifications[notification].set != 0
        {
            let bits = core::mem::take(&mut self.notifications[notification].set);
            return Ok(Went::On(Outcome::Notified(bits)));
        }
        loop {
            if self.receivers(endpoint) == 0 {
                return Err(Error::PeerClosed);
            }
            let Some(sender) = self.endpoints[endpoint].senders.pop_front() else {
                if now {
                    return Err(Error::TimedOut);
                }
                self.threads[thread].state = State::Receiving { endpoint };
                self.threads[thread].accept = accept;
                self.threads[thread].reserved = accept + 1;
                self.endpoints[endpoint].receivers.push_back(thread);
                return Ok(Went::Blocked);
            };
            let State::Sending { wants_reply, .. } = self.threads[sender].state else {
                panic!("{sender} does not send")
            };
            match self.carry(sender, accept) {
                Err(error) => self.wake(sender, Outcome::Status(Err(error))),
                Ok(items) => {
                    let outcome = self.received(sender, thread, items, wants_reply);
                    if !wants_reply {
                        self.wake(sender, Outcome::Status(Ok(())));
                    }
                    return Ok(Went::On(outcome));
                }
            }
        }
    }

    pub(super) fn reply(&mut self, thread: usize, handle: Handle) -> Result<Went, Error> {
        let process = PROCESS_OF[thread];
        let Item::Reply { caller, call } = self.item(process, handle).ok_or(Error::BadHandle)?
        else {
            return Err(Error::WrongObject);
        };
        let answered = if self.threads[caller].state == (State::Awaiting { call }) {
            self.carry(thread, self.threads[caller].accept)
        } else {
            Err(Error::CallerGone)
        };
        match answered {
            Ok(items) => {
                self.tables[process].remove(&handle.index());
                for item in &items {
                    self.adopt(caller, *item);
                }
                let message = self.threads[thread].message.clone();
                self.wake(caller, Outcome::Answered { message, items });
                Ok(Went::On(Outcome::Status(Ok(()))))
            }
            Err(error) => {
                self.close(process, handle.index());
                Err(error)
            }
        }
    }

    pub(super) fn close(&mut self, process: usize, slot: u32) {
        match self.tables[process].remove(&slot) {
            Some((_, Item::Reply { caller, call }))
                if self.threads[caller].state == (State::Awaiting { call }) =>
            {
                self.wake(caller, Outcome::Status(Err(Error::NoReply)));
            }
            Some((_, Item::Endpoint(endpoint))) if self.receivers(endpoint) == 0 => {
                let Queues { senders, receivers } = core::mem::take(&mut self.endpoints[endpoint]);
                for thread in senders.into_iter().chain(receivers) {
                    self.wake(thread, Outcome::Status(Err(Error::PeerClosed)));
                }
            }
            _ => {}
        }
    }

    pub(super) fn wait(
        &mut self,
        thread: usize,
        notification: usize,
        now: bool,
    ) -> Result<Went, Error> {
        let state = &mut self.notifications[notification];
        match core::mem::take(&mut state.set) {
            0 if now => Err(Error::TimedOut),
            0 => {
                state.waiters.push_back(thread);
                self.threads[thread].state = State::Waiting { notification };
                Ok(Went::Blocked)
            }
            bits => Ok(Went::On(Outcome::Waited(bits))),
        }
    }

    /// Binds a notification to a thread that has none.
    pub(super) fn bind(&mut self, thread: usize, notification: usize) -> Result<(), Error> {
        let state = &mut self.notifications[notification];
        if state.bound.is_some() {
            return Err(Error::Busy);
        }
        state.bound = Some(thread);
        self.threads[thread].bound = Some(notification);
        Ok(())
    }

    pub(super) fn signal(&mut self, notification: usize, bits: u64) {
        let state = &mut self.notifications[notification];
        if bits == 0 {
            return;
        }
        state.set |= bits;
        if let Some(waiter) = state.waiters.pop_front() {
            let bits = core::mem::take(&mut state.set);
            self.wake(waiter, Outcome::Waited(bits));
        } else if let Some(bound) = state.bound
            && let State::Receiving { endpoint } = self.threads[bound].state
        {
            let bits = core::mem::take(&mut state.set);
            self.endpoints[endpoint]
                .receivers
                .retain(|&thread| thread != bound);
            self.wake(bound, Outcome::Notified(bits));
        }
    }

    /// Takes a thread out of where it waits; false if it runs.
    pub(super) fn cancel(&mut self, thread: usize, error: Error) -> bool {
        match self.threads[thread].state {
            State::Running | State::Gone => return false,
            State::Sending { endpoint, .. } => self.endpoints[endpoint]
                .senders
                .retain(|&other| other != thread),
            State::Receiving { endpoint } => self.endpoints[endpoint]
                .receivers
                .retain(|&other| other != thread),
            State::Waiting { notification } => self.notifications[notification]
                .waiters
                .retain(|&other| other != thread),
            State::Awaiting { .. } | State::Sleeping => {}
        }
        self.wake(thread, Outcome::Status(Err(error)));
        true
    }

    pub(super) fn unbind(&mut self, thread: usize) {
        if let Some(notification) = self.threads[thread].bound.take() {
            self.notifications[notification].bound = None;
        }
    }
}
