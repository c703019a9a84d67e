//! The same operations from several CPUs at once, which real threads stand for.
//!
//! Each CPU has a process with three threads of its own. It lets them do random things on endpoints and notifications that all
//! CPUs share, takes in those that others have woken, and ends waits of its own at random moments, as deadlines do. There is
//! no telling who meets whom; but every message has a number, every notification bit has an owner, every handle a badge.
//! So at the end it is known whether a message was lost or came twice, whether its sender was told the truth about it, and
//! whether bits, handles or slots have vanished. The rig asserts that nobody is woken who does not wait.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::register::RECEIVED_NOTIFICATION;
use abi::{Deadline, Error, Handle, Rights, Tag};

use crate::ipc::{Endpoint, Notification};
use crate::memory::account::Account;
use crate::object::{AnyObject, Ref};
use crate::thread::ThreadPtr;
use crate::thread::testing::*;

const CPUS: usize = 3;
const THREADS: usize = 3;
const STEPS: usize = 40_000;
const TOKENS: usize = 6;
/// Bits of a notification that each CPU may signal.
const BITS: usize = 64 / CPUS;

/// What the CPUs share.
struct Shared {
    endpoints: [Ref<Endpoint>; 2],
    notifications: [Ref<Notification>; 2],
    /// Whether a bit was signalled and not yet taken.
    in_flight: [[AtomicBool; 64]; 2],
    inboxes: [Mutex<Vec<ThreadPtr>>; CPUS],
    /// CPUs whose threads have all come to rest.
    at_rest: AtomicUsize,
}

/// What a thread had asked for when it blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Nothing,
    Sending {
        number: u64,
        token: Option<Handle>,
        wants_reply: bool,
    },
    Receiving,
    Waiting {
        notification: usize,
    },
}

/// One CPU's own knowledge.
struct Cpu<'a> {
    index: usize,
    shared: &'a Shared,
    programs: Vec<Program>,
    doing: Vec<Doing>,
    bound: Option<usize>,
    random: u64,
    messages: u64,
    tokens: Vec<Handle>,
    replies: Vec<(Handle, u64)>,
    /// What became of each message that was sent here, as its sender was told.
    told: HashMap<u64, Result<(), Error>>,
    /// Numbers that were received here.
    received: Vec<u64>,
}

/// Lets the others end as well when one fails.
struct Released<'a>(&'a Shared);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.at_rest.fetch_add(CPUS, Ordering::SeqCst);
        }
    }
}

fn answer_to(number: u64) -> u64 {
    number.rotate_left(17) ^ 0x5A5A
}

impl<'a> Cpu<'a> {
    fn new(index: usize, shared: &'a Shared) -> Cpu<'a> {
        let process = process("race");
        let programs: Vec<_> = (0..THREADS).map(|_| Program::new(&process)).collect();
        for endpoint in &shared.endpoints {
            programs[0].give_endpoint(endpoint);
        }
        for program in &programs {
            program.live_on(index as u32);
            program.accept(1);
        }
        // Its second thread is bound to a notification, if there is one for it.
        let bound = (index < shared.notifications.len()).then_some(index);
        if let Some(index) = bound {
            programs[1].bind(&shared.notifications[index]).unwrap();
        }
        let tokens = (0..TOKENS).map(|token| {
            programs[0].give_badged(AnyObject::Log, Rights::ALL, (index * TOKENS + token) as u64)
        });
        Cpu {
            index,
            shared,
            doing: vec![Doing::Nothing; THREADS],
            bound,
            random: index as u64,
            messages: 0,
            tokens: tokens.collect(),
            replies: Vec::new(),
            told: HashMap::new(),
            received: Vec::new(),
            programs,
        }
    }

    /// A number below `end`; the generator is Steele, Lea and Flood's SplitMix64.
    fn below(&mut self, end: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) as usize % end
    }

    /// Hands those that were made ready here to their homes, and takes in its own.
    fn take_in(&mut self) {
        for thread in woken() {
            self.shared.inboxes[thread.get().shown_home() as usize]
                .lock()
                .unwrap()
                .push(thread);
        }
        let mine = core::mem::take(&mut *self.shared.inboxes[self.index].lock().unwrap());
        for thread in mine {
            let index = self
                .programs
                .iter()
                .position(|program| program.pointer() == thread)
                .unwrap();
            let status = self.programs[index].resume();
            self.went_on(index, status);
        }
    }

    /// A call is over.
    fn went_on(&mut self, index: usize, status: Result<(), Error>) {
        match core::mem::replace(&mut self.doing[index], Doing::Nothing) {
            Doing::Nothing => panic!("it did nothing that could be over"),
            Doing::Sending {
                number,
                token,
                wants_reply,
            } => {
                if status == Ok(()) && wants_reply {
                    assert_eq!(self.programs[index].message().1[0], answer_to(number));
                    if self.programs[index].message().0.handles() == 1 {
                        self.tokens.push(self.programs[index].came(0));
                    }
                }
                if let Some(token) = token {
                    // Of a call that was cancelled nobody tells whether the message was received before.
                    match self.programs[index].rights(token) {
                        Ok(_) => {
                            assert_ne!(status, Ok(()));
                            self.tokens.push(token);
                        }
                        Err(error) => assert_eq!(error, Error::BadHandle),
                    }
                }
                self.told.insert(number, status);
            }
            Doing::Receiving if status == Ok(()) => {
                if self.programs[index].thread().registers().r14 == RECEIVED_NOTIFICATION {
                    assert_eq!(index, 1);
                    return self.take_bits(index, self.bound.unwrap());
                }
                let (tag, words) = self.programs[index].message();
                assert_eq!(
                    (words[1], self.programs[index].badge()),
                    (!words[0], words[0] ^ 1)
                );
                self.received.push(words[0]);
                if tag.handles() == 1 {
                    self.tokens.push(self.programs[index].came(0));
                }
                let reply = self.programs[index].reply_handle();
                assert_eq!(reply.is_none(), tag.label() == 0);
                if !reply.is_none() {
                    self.replies.push((reply, words[0]));
                }
            }
            Doing::Waiting { notification } if status == Ok(()) => {
                self.take_bits(index, notification);
            }
            Doing::Receiving | Doing::Waiting { .. } => {
                assert!(
                    matches!(status, Err(Error::TimedOut | Error::Cancelled)),
                    "{status:?}"
                );
            }
        }
    }

    fn take_bits(&mut self, index: usize, notification: usize) {
        let bits = self.programs[index].thread().registers().rdx;
        assert_ne!(bits, 0);
        for bit in (0..64).filter(|bit| bits >> bit & 1 != 0) {
            let was = self.shared.in_flight[notification][bit].swap(false, Ordering::SeqCst);
            assert!(was, "bit {bit} came twice");
        }
    }

    fn finish(&mut self, index: usize, doing: Doing, went: Result<Went, Error>) {
        self.doing[index] = doing;
        match went {
            Ok(Went::Blocked) => {}
            Ok(Went::On) => self.went_on(index, Ok(())),
            Err(error) => self.went_on(index, Err(error)),
        }
    }

    fn send(&mut self, index: usize) {
        self.messages += 1;
        let number = (self.index as u64) << 48 | self.messages;
        let wants_reply = self.below(2) == 0;
        let token = if self.tokens.is_empty() || self.below(3) != 0 {
            None
        } else {
            self.tokens.pop()
        };
        let deadline = if self.below(4) == 0 {
            Deadline::NOW
        } else {
            Deadline::NEVER
        };
        let endpoint = &self.shared.endpoints[self.below(2)];
        let program = &self.programs[index];
        let tag = Tag::new(u32::from(wants_reply)).with_bytes(8);
        program.post(token.as_slice());
        program.write_buffer(&number.to_le_bytes());
        program.load(
            if token.is_some() {
                tag.with_handles(1, 1)
            } else {
                tag
            },
            [number, !number, 0, 0, 0, 0],
        );
        let went = if wants_reply {
            program.call(endpoint, number ^ 1, deadline)
        } else {
            program.send(endpoint, number ^ 1, deadline)
        };
        self.finish(
            index,
            Doing::Sending {
                number,
                token,
                wants_reply,
            },
            went,
        );
    }

    fn answer(&mut self, index: usize) {
        if self.replies.is_empty() {
            return;
        }
        let pick = self.below(self.replies.len());
        let (handle, number) = self.replies.swap_remove(pick);
        if self.below(8) == 0 {
            self.programs[index].close(handle).unwrap();
            return;
        }
        let token = if self.below(4) == 0 {
            self.tokens.pop()
        } else {
            None
        };
        let program = &self.programs[index];
        program.post(token.as_slice());
        let tag = Tag::new(7);
        program.load(
            if token.is_some() {
                tag.with_handles(1, 1)
            } else {
                tag
            },
            [answer_to(number), 0, 0, 0, 0, 0],
        );
        let answered = program.reply(handle);
        assert!(
            matches!(answered, Ok(()) | Err(Error::CallerGone)),
            "{answered:?}"
        );
        match token {
            Some(token) if answered.is_err() => self.tokens.push(token),
            _ => {}
        }
    }

    fn signal(&mut self) {
        let notification = self.below(2);
        let bit = self.index * BITS + self.below(BITS);
        // Only its owner sets a bit, and only when the last one was taken: so none may be lost in another.
        if !self.shared.in_flight[notification][bit].swap(true, Ordering::SeqCst) {
            self.shared.notifications[notification].signal(1 << bit);
        }
    }

    fn step(&mut self) {
        self.take_in();
        let index = self.below(THREADS);
        if self.programs[index].is_blocked() {
            match self.below(6) {
                0 => {
                    let error = if self.below(2) == 0 {
                        Error::TimedOut
                    } else {
                        Error::Cancelled
                    };
                    self.programs[index].cancel(error);
                }
                1 => self.signal(),
                _ => {}
            }
            return;
        }
        match self.below(10) {
            0..=2 => self.send(index),
            3..=5 => {
                let endpoint = &self.shared.endpoints[self.below(2)];
                let deadline = if self.below(4) == 0 {
                    Deadline::NOW
                } else {
                    Deadline::NEVER
                };
                let went = self.programs[index].recv(endpoint, deadline);
                self.finish(index, Doing::Receiving, went);
            }
            6..=7 => self.answer(index),
            8 => self.signal(),
            _ => {
                let notification = self.below(2);
                let went = self.programs[index]
                    .wait(&self.shared.notifications[notification], Deadline::NEVER);
                self.finish(index, Doing::Waiting { notification }, went);
            }
        }
    }

    fn run(&mut self) {
        let _released = Released(self.shared);
        for _ in 0..STEPS {
            self.step();
        }
        // All waits end. Threads of other CPUs may wake ours, and hold ours, until theirs are at rest too.
        let mut said = false;
        while self.shared.at_rest.load(Ordering::SeqCst) < CPUS {
            self.take_in();
            for program in self.programs.iter().filter(|program| program.is_blocked()) {
                program.cancel(Error::TimedOut);
            }
            self.take_in();
            if !said && !self.programs.iter().any(Program::is_blocked) {
                said = true;
                self.shared.at_rest.fetch_add(1, Ordering::SeqCst);
            }
            std::thread::yield_now();
        }
        self.take_in();
    }
}

#[test]
fn cpus_that_race_lose_and_double_nothing() {
    woken();
    let shared = Shared {
        endpoints: [endpoint(), endpoint()],
        notifications: [notification(), notification()],
        in_flight: [const { [const { AtomicBool::new(false) }; 64] }; 2],
        inboxes: [const { Mutex::new(Vec::new()) }; CPUS],
        at_rest: AtomicUsize::new(0),
    };
    let mut cpus: Vec<Cpu> = (0..CPUS).map(|index| Cpu::new(index, &shared)).collect();
    std::thread::scope(|scope| {
        for cpu in &mut cpus {
            scope.spawn(|| cpu.run());
        }
    });

    // Messages: each came once or never, and its sender was told which.
    let mut came: HashMap<u64, usize> = HashMap::new();
    cpus.iter()
        .flat_map(|cpu| &cpu.received)
        .for_each(|number| *came.entry(*number).or_default() += 1);
    assert!(came.values().all(|&times| times == 1));
    let mut answered = 0;
    for cpu in &cpus {
        assert_eq!(cpu.told.len() as u64, cpu.messages);
        for (number, status) in &cpu.told {
            match status {
                Ok(()) | Err(Error::NoReply) => assert!(came.contains_key(number)),
                // A call may have been received before it was cancelled.
                Err(Error::TimedOut | Error::Cancelled | Error::Deadlock) => {}
                Err(error) => panic!("{error:?}"),
            }
            answered += usize::from(status.is_ok());
        }
    }
    assert!(
        came.len() > 1000 && answered > 1000,
        "too little has met: {} and {answered}",
        came.len()
    );

    // Bits: what was signalled and not taken is still there.
    let poller = Program::alone("poller");
    for (index, notification) in shared.notifications.iter().enumerate() {
        let bits = match poller.wait(notification, Deadline::NOW) {
            Ok(_) => poller.thread().registers().rdx,
            Err(_) => 0,
        };
        let left = (0..64).filter(|&bit| shared.in_flight[index][bit].load(Ordering::SeqCst));
        assert_eq!(bits, left.fold(0, |bits, bit| bits | 1 << bit));
    }

    // Handles and slots: all badges are there once, and nothing is left but what is known.
    let mut badges = Vec::new();
    let mut accounts: Vec<Ref<Account>> = Vec::new();
    for cpu in &cpus {
        let process = cpu.programs[0].process();
        accounts.push(process.account().clone());
        let table = process.table.lock();
        badges.extend(
            cpu.tokens
                .iter()
                .map(|token| table.get(*token).unwrap().badge().0),
        );
        assert_eq!(
            (table.len() as usize, table.reserved()),
            (2 + cpu.tokens.len() + cpu.replies.len(), 0)
        );
    }
    badges.sort_unstable();
    assert_eq!(badges, (0..(CPUS * TOKENS) as u64).collect::<Vec<_>>());

    for cpu in cpus {
        cpu.programs.into_iter().for_each(Program::leave);
    }
    assert!(woken().is_empty());
    poller.leave();
    for account in &accounts {
        settle(account);
    }
}
