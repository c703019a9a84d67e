//! Random programs against a plain model.
//!
//! Five threads of three processes do random things on two endpoints and two notifications: they call, send, receive, answer, drop
//! replies, wait, signal, bind, sleep, are cancelled and end; messages carry bytes and all kinds of handles, some of them bad.
//! The [`model`] says of each [`step`] what it returns, who is woken in which order, and what each then finds in
//! its registers and table. So no message is lost, doubled or given to another, and nobody is woken but once. Slots in use and
//! slots reserved are counted after each step, and at the end all memory is back.

mod model;
mod step;

use std::collections::BTreeMap;

use abi::info::{ProcessState, ThreadState};
use abi::register::{RECEIVED_MESSAGE, RECEIVED_NOTIFICATION};
use abi::{Deadline, Error, Handle, Rights, Tag};
use proptest::prelude::*;

use self::model::{Bits, Item, Message, Model, Modelled, Outcome, Queues, State, Went};
use self::step::{Op, op};
use crate::ipc::{Endpoint, Notification, ReplyTarget};
use crate::memory::account::Account;
use crate::object::{AnyObject, Ref};
use crate::process::Process;
use crate::thread::ThreadPtr;
use crate::thread::testing::{self, Program, endpoint, notification, process, settle, woken};

/// The process of each thread.
const PROCESS_OF: [usize; 5] = [0, 0, 1, 1, 2];
const PROCESSES: usize = 3;
const ENDPOINTS: usize = 2;
const NOTIFICATIONS: usize = 2;
/// Handles to the log that each process begins with.
const TOKENS: u64 = 3;
/// Names nothing in any table.
const BAD: Handle = Handle::new(3, 0xFFFF_FFF0);

/// The model and what it is a model of.
struct World {
    model: Model,
    programs: Vec<Option<Program>>,
    pointers: Vec<ThreadPtr>,
    processes: Vec<Ref<Process>>,
    endpoints: Vec<Ref<Endpoint>>,
    notifications: Vec<Ref<Notification>>,
    /// Bit *n*: process *n* has ended.
    ends: Ref<Notification>,
    messages: u64,
}

impl World {
    fn new() -> World {
        // A case that failed before may have left some.
        woken();
        let processes: Vec<_> = (0..PROCESSES).map(|_| process("model")).collect();
        let programs: Vec<_> = PROCESS_OF
            .iter()
            .map(|&process| Some(Program::new(&processes[process])))
            .collect();
        let endpoints: Vec<_> = (0..ENDPOINTS).map(|_| endpoint()).collect();
        let ends = notification();
        let mut tables = vec![BTreeMap::new(); PROCESSES];
        for (number, process) in processes.iter().enumerate() {
            process.watch(ends.clone(), 1 << number).unwrap();
            let program = programs[PROCESS_OF
                .iter()
                .position(|&other| other == number)
                .unwrap()]
            .as_ref()
            .unwrap();
            let mut keep =
                |handle: Handle, item| tables[number].insert(handle.index(), (handle, item));
            for (index, endpoint) in endpoints.iter().enumerate() {
                keep(program.give_endpoint(endpoint), Item::Endpoint(index));
            }
            for token in 0..TOKENS {
                let badge = token + number as u64 * 100;
                keep(
                    program.give_badged(AnyObject::Log, Rights::ALL, badge),
                    Item::Token(badge),
                );
            }
        }
        let threads = PROCESS_OF.iter().map(|_| Modelled {
            state: State::Running,
            reserved: 0,
            accept: 0,
            badge: 0,
            message: Message::default(),
            bound: None,
            serves: None,
            answered_by: None,
            answers: None,
        });
        World {
            model: Model {
                threads: threads.collect(),
                tables,
                endpoints: (0..ENDPOINTS).map(|_| Queues::default()).collect(),
                notifications: (0..NOTIFICATIONS).map(|_| Bits::default()).collect(),
                woken: Vec::new(),
                calls: 0,
            },
            pointers: programs
                .iter()
                .map(|program| program.as_ref().unwrap().pointer())
                .collect(),
            programs,
            processes,
            endpoints,
            notifications: (0..NOTIFICATIONS).map(|_| notification()).collect(),
            ends,
            messages: 0,
        }
    }

    fn program(&self, thread: usize) -> &Program {
        self.programs[thread]
            .as_ref()
            .expect("the thread has not ended")
    }

    fn pick(&self, thread: usize, pick: usize) -> Handle {
        let table = &self.model.tables[PROCESS_OF[thread]];
        table
            .values()
            .nth(pick % (table.len() + 1))
            .map_or(BAD, |(handle, _)| *handle)
    }

    /// Puts a new message into a thread's registers and area.
    fn load(&mut self, thread: usize, carry: &[(usize, bool)], bytes: usize) {
        self.messages += 1;
        let number = self.messages;
        let carry: Vec<_> = carry
            .iter()
            .map(|&(pick, moved)| (self.pick(thread, pick), moved))
            .collect();
        let program = self.program(thread);
        let handles: Vec<_> = carry.iter().map(|(handle, _)| *handle).collect();
        let moved = carry
            .iter()
            .enumerate()
            .fold(0, |mask, (index, (_, moved))| {
                mask | u8::from(*moved) << index
            });
        program.post(&handles);
        program.write_buffer(&contents(number, bytes));
        program.load(tag(number, bytes, carry.len(), moved), words(number));
        self.model.threads[thread].message = Message {
            number,
            bytes,
            carry,
        };
    }

    fn step(&mut self, thread: usize, op: &Op) {
        let running = self.model.threads[thread].state == State::Running;
        match op {
            _ if self.programs[thread].is_none() => {}
            Op::Cancel { error } => {
                let expected = self.model.cancel(thread, *error);
                let program = self.program(thread);
                assert_eq!(program.cancel(*error), expected);
                if !expected {
                    program.thread().marks().forget_cancel();
                }
            }
            Op::Leave => self.leave(thread),
            _ if !running => {}
            Op::Call(sending) | Op::Send(sending) => {
                let is_call = matches!(op, Op::Call(_));
                self.load(thread, &sending.carry, sending.bytes);
                let model = &mut self.model.threads[thread];
                model.badge = sending.badge;
                if is_call {
                    (model.accept, model.reserved) = (sending.accept, sending.accept);
                }
                let expected = self
                    .model
                    .send(thread, sending.endpoint, is_call, sending.now);
                let (program, endpoint) = (self.program(thread), &self.endpoints[sending.endpoint]);
                program.accept(sending.accept.into());
                let went = if is_call {
                    program.call(endpoint, sending.badge, deadline(sending.now))
                } else {
                    program.send(endpoint, sending.badge, deadline(sending.now))
                };
                self.compare(thread, went, expected);
            }
            Op::Recv {
                endpoint,
                accept,
                now,
            } => {
                let expected = self.model.receive(thread, *endpoint, *accept, *now);
                self.program(thread).accept((*accept).into());
                let went = self
                    .program(thread)
                    .recv(&self.endpoints[*endpoint], deadline(*now));
                self.compare(thread, went, expected);
            }
            Op::Reply { pick, carry, bytes } => {
                self.load(thread, carry, *bytes);
                let handle = self.pick_reply(thread, *pick);
                let expected = self.model.reply(thread, handle);
                let went = self
                    .program(thread)
                    .reply(handle)
                    .map(|()| testing::Went::On);
                self.compare(thread, went, expected);
            }
            Op::Close { pick } => {
                let handle = self.pick(thread, *pick);
                if handle != BAD {
                    self.model.close(PROCESS_OF[thread], handle.index());
                }
                assert_eq!(self.program(thread).close(handle).is_ok(), handle != BAD);
            }
            Op::Wait { notification, now } => {
                let expected = self.model.wait(thread, *notification, *now);
                let went = self
                    .program(thread)
                    .wait(&self.notifications[*notification], deadline(*now));
                self.compare(thread, went, expected);
            }
            Op::Signal { notification, bits } => {
                self.model.signal(*notification, *bits);
                self.notifications[*notification].signal(*bits);
            }
            Op::Bind { notification } => {
                if self.model.threads[thread].bound.is_none() {
                    let bound = self
                        .program(thread)
                        .bind(&self.notifications[*notification]);
                    assert_eq!(bound, self.model.bind(thread, *notification));
                }
            }
            Op::Unbind => {
                self.model.unbind(thread);
                self.program(thread).unbind();
            }
            Op::Sleep => {
                self.model.threads[thread].state = State::Sleeping;
                let went = self.program(thread).sleep();
                self.compare(thread, went, Ok(Went::Blocked));
            }
        }
        self.settle();
    }

    /// A reply of the thread's process, if there is one; else anything.
    fn pick_reply(&self, thread: usize, pick: usize) -> Handle {
        let table = &self.model.tables[PROCESS_OF[thread]];
        let replies: Vec<_> = table
            .values()
            .filter(|(_, item)| matches!(item, Item::Reply { .. }))
            .collect();
        if replies.is_empty() {
            self.pick(thread, pick)
        } else {
            replies[pick % replies.len()].0
        }
    }

    /// The thread is killed and leaves; with the last one its process ends.
    fn leave(&mut self, thread: usize) {
        self.program(thread).thread().marks().kill();
        assert_eq!(
            self.program(thread).cancel(Error::Cancelled),
            self.model.cancel(thread, Error::Cancelled)
        );
        self.settle();
        self.model.unbind(thread);
        self.model.threads[thread].state = State::Gone;
        let process = PROCESS_OF[thread];
        let last = (0..PROCESS_OF.len()).all(|other| {
            PROCESS_OF[other] != process || self.model.threads[other].state == State::Gone
        });
        if last {
            let slots: Vec<u32> = self.model.tables[process].keys().copied().collect();
            for slot in slots {
                self.model.close(process, slot);
            }
        }
        self.model.answers_nobody(thread);
        let program = self.programs[thread].take().expect("it has not ended");
        let kept = program.thread().clone();
        program.leave();
        assert_eq!(kept.shown_state(), ThreadState::Ended);
        let info = self.processes[process].info();
        assert_eq!(
            info.state,
            if last {
                ProcessState::Exited
            } else {
                ProcessState::Alive
            } as u32
        );
    }

    fn compare(
        &mut self,
        thread: usize,
        went: Result<testing::Went, Error>,
        expected: Result<Went, Error>,
    ) {
        match (went, expected) {
            (Ok(testing::Went::On), Ok(Went::On(outcome))) => {
                self.model.threads[thread].reserved = 0;
                self.check(thread, self.program(thread).status(), outcome);
            }
            (Ok(testing::Went::Blocked), Ok(Went::Blocked)) => {}
            (Err(error), Err(expected)) => {
                self.model.threads[thread].reserved = 0;
                assert_eq!(error, expected);
            }
            (went, expected) => panic!("{went:?}, and not {expected:?}"),
        }
    }

    /// What a thread finds, against what it should; handles that came are noted in the model.
    fn check(&mut self, thread: usize, status: Result<(), Error>, outcome: Outcome) {
        let registers = *self.program(thread).thread().registers();
        match outcome {
            Outcome::Status(expected) => assert_eq!(status, expected),
            Outcome::Waited(bits) => assert_eq!((status, registers.rdx), (Ok(()), bits)),
            Outcome::Notified(bits) => {
                assert_eq!((status, registers.r14), (Ok(()), RECEIVED_NOTIFICATION));
                assert_eq!(
                    (registers.rdx, registers.rdi, registers.rsi, registers.r15),
                    (bits, 0, 0, 0)
                );
            }
            Outcome::Received {
                message,
                badge,
                items,
                reply,
            } => {
                assert_eq!(
                    (status, registers.r14, registers.rdi),
                    (Ok(()), RECEIVED_MESSAGE, badge)
                );
                self.check_message(thread, &message, &items);
                let handle = self.program(thread).reply_handle();
                assert_eq!(handle.is_none(), reply.is_none());
                if let Some(reply) = reply {
                    self.arrived(thread, handle, reply);
                }
            }
            Outcome::Answered { message, items } => {
                assert_eq!((status, registers.r14), (Ok(()), RECEIVED_MESSAGE));
                assert_eq!((registers.rdi, registers.r15), (0, 0));
                self.check_message(thread, &message, &items);
            }
        }
    }

    fn check_message(&mut self, thread: usize, message: &Message, items: &[Item]) {
        let program = self.program(thread);
        let moved = message
            .carry
            .iter()
            .enumerate()
            .fold(0, |mask, (index, (_, moved))| {
                mask | u8::from(*moved) << index
            });
        let expected = tag(message.number, message.bytes, items.len(), moved);
        assert_eq!(program.message(), (expected, words(message.number)));
        assert_eq!(
            program.read_buffer()[..message.bytes],
            contents(message.number, message.bytes)
        );
        for (index, item) in items.iter().enumerate() {
            self.arrived(thread, self.program(thread).came(index), *item);
        }
    }

    fn arrived(&mut self, thread: usize, handle: Handle, item: Item) {
        let process = PROCESS_OF[thread];
        {
            let table = self.processes[process].table.lock();
            let capability = table.get(handle).expect("what came is in the table");
            match (capability.object(), item) {
                (AnyObject::Log, Item::Token(badge)) => assert_eq!(capability.badge().0, badge),
                (AnyObject::Endpoint(endpoint), Item::Endpoint(index)) => {
                    assert!(endpoint.is(&self.endpoints[index]));
                }
                (AnyObject::Reply(ReplyTarget { .. }), Item::Reply { .. }) => {}
                (object, item) => panic!("{:?} is no {item:?}", object.kind()),
            }
        }
        let former = self.model.tables[process].insert(handle.index(), (handle, item));
        assert!(former.is_none(), "slot {} is in use", handle.index());
    }

    /// Lets those go on who were woken, and holds everything against the model.
    fn settle(&mut self) {
        let expected = core::mem::take(&mut self.model.woken);
        let order: Vec<_> = expected
            .iter()
            .map(|(thread, _)| self.pointers[*thread])
            .collect();
        assert_eq!(woken(), order);
        for (thread, outcome) in expected {
            let status = self.program(thread).resume();
            self.check(thread, status, outcome);
        }
        for (number, process) in self.processes.iter().enumerate() {
            let reserved: u32 = self
                .model
                .threads
                .iter()
                .zip(PROCESS_OF)
                .filter(|(thread, process)| *process == number && thread.state != State::Running)
                .map(|(thread, _)| thread.reserved)
                .sum();
            let table = process.table.lock();
            assert_eq!(
                (table.len() as usize, table.reserved()),
                (self.model.tables[number].len(), reserved)
            );
        }
        for (thread, program) in self.programs.iter().enumerate() {
            if let Some(program) = program {
                assert_eq!(
                    program.is_blocked(),
                    self.model.threads[thread].state != State::Running,
                    "thread {thread}"
                );
                let modelled = &self.model.threads[thread];
                let holder = program.thread().holder();
                if matches!(modelled.state, State::Awaiting { .. }) {
                    let expected = modelled
                        .answered_by
                        .map(|holder| self.program(holder).pointer());
                    assert_eq!(holder, expected, "who answers thread {thread}");
                }
            }
        }
    }

    /// All threads end, and everything is given back.
    fn end(mut self) {
        for thread in 0..PROCESS_OF.len() {
            if self.programs[thread].is_some() {
                self.leave(thread);
                self.settle();
            }
        }
        let waiter = Program::alone("waiter");
        assert_eq!(
            waiter.wait(&self.ends, Deadline::NOW),
            Ok(testing::Went::On)
        );
        assert_eq!(waiter.thread().registers().rdx, (1 << PROCESSES) - 1);
        let accounts: Vec<Ref<Account>> = self
            .processes
            .iter()
            .map(|process| process.account().clone())
            .collect();
        drop(self);
        for account in &accounts {
            settle(account);
        }
        waiter.leave();
    }
}
fn deadline(now: bool) -> Deadline {
    if now { Deadline::NOW } else { Deadline::NEVER }
}

fn words(number: u64) -> [u64; 6] {
    [
        number,
        !number,
        number << 32,
        number * 3,
        number * 5,
        number * 7,
    ]
}

fn tag(number: u64, bytes: usize, handles: usize, moved: u8) -> Tag {
    Tag::new(number as u32)
        .with_bytes(bytes)
        .with_handles(handles, moved)
}

fn contents(number: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64)
        .map(|index| (number * 31 + index) as u8)
        .collect()
}
proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_do_what_the_model_says(ops in prop::collection::vec((0..PROCESS_OF.len(), op()), 1..150)) {
        let mut world = World::new();
        for (thread, op) in &ops {
            world.step(*thread, op);
        }
        world.end();
    }
}
