//! Servers that are killed at each point of a conversation, and what is left of it: nobody waits for ever, and all that there was is given back.
//!
//! A server is a process of machine code that goes exactly as far as it is told and then runs in a circle, or waits where that is the point. The
//! only handle with the right to receive is its own, so its end is the end of its endpoint. A client that waits for it then has an error by which it
//! knows whether its message was received; one that was answered has its answer.
//!
//! What is counted: the machine's objects, those that have ended and are not yet taken away among them; the memory that this process is charged for,
//! which is all that is made here; the memory that nobody is charged for, without what the kernel keeps for more objects; and this process's
//! handles. Not a page and not a handle may be left. What this program keeps by itself is there before, or is known: its heap is touched as far as it is
//! going to need, and its locks say how many notifications they have made.

use abi::info::{ObjectsInfo, ProcessState, ThreadState};
use abi::{Badge, Deadline, Error, Rights, Tag};
use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;
use rt::thread::{self, JoinHandle};
use rt::{AsHandle, Endpoint, Event, Message, Notification, Received, time};

use super::contexts::prepared;
use super::priorities::priority;
use super::probe::{soon, until};
use super::tests;
use crate::bare::Bare;
use crate::clock::since;
use crate::verdict::{Verdict, Why};
use crate::world::World;
use crate::{check, code, fail, must, same};

/// How long the dead may take to be taken away.
const SETTLING: Duration = Duration::from_secs(10);
/// More than this program's heap ever has in use at once here.
const HEAP_BYTES: usize = 256 * 1024;

tests! {
    a_server_killed_at_any_point_of_a_conversation_leaves_nothing_behind: 60,
}

/// Both are below the test, which so can do something while they run on its CPU; and the client has its answer while the server runs in its circle.
const SERVER: u64 = 3;
const CLIENT: u64 = 4;

/// How far the server is when it is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Point {
    /// It has not received: the client is in the queue, with all that it sends.
    Before,
    /// It waits for a message.
    Receiving,
    /// It has received, and has neither answered nor anything else.
    Holding,
    /// It has received once more since, so that the reply is in its table.
    Keeping,
    /// It has answered.
    Answered,
    /// It has answered and waits for the next, by one call.
    Again,
    /// It is in the queue of another server, with the handle that it was sent, if any, on the way.
    Calling,
    /// Another server has its call, and that handle.
    Served,
    /// It is in the queue of another server, to which it passes the reply.
    Passing,
}

const POINTS: [Point; 9] = [
    Point::Before,
    Point::Receiving,
    Point::Holding,
    Point::Keeping,
    Point::Answered,
    Point::Again,
    Point::Calling,
    Point::Served,
    Point::Passing,
];

/// What the client sends beside its words, and gets back with its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Load {
    Words,
    Bytes,
    Handle,
}

/// How the call goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Straight to a server on the same CPU that waits.
    Direct,
    /// The same partners, with a deadline: by way of the queues.
    Long,
    /// To another CPU, if there is one.
    Far,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kill {
    Process,
    Thread,
}

const WORDS: [u64; 6] = [11, 12, 13, 14, 15, 16];
const BYTES: [u8; 300] = [0xB7; 300];

impl Point {
    /// The server's program. RBX: its endpoint, RBP: another server's, R12: a notification to say that it has come to its point, R13: the tag of
    /// a message that moves one handle.
    fn program(self) -> Vec<u8> {
        let begin = code!("mov [rsp], r13", "mov [rsp + 8], r12");
        // With one handle, which is then posted for whatever it sends next.
        let receive = code!(
            "mov rax, fs:0",
            "mov qword ptr [rax + 8], 1",
            "mov rdi, rbx",
            "mov r14, -1",
            "mov eax, 10",
            "syscall",
            "test eax, eax",
            "jz 2f",
            "ud2",
            "2:",
            "mov rax, fs:0",
            "mov rcx, [rax + 48]",
            "mov [rax + 16], rcx",
        );
        let keep = code!(
            "mov rdi, rbx",
            "xor r14d, r14d",
            "mov eax, 10",
            "syscall",
            "test eax, eax",
            "jnz 2f",
            "ud2",
            "2:",
        );
        let answer = code!(
            "mov eax, 11",
            "syscall",
            "test eax, eax",
            "jz 2f",
            "ud2",
            "2:"
        );
        let answer_and_receive = code!("mov rdi, rbx", "mov r14, -1", "mov eax, 12", "syscall");
        let call = code!("mov rdi, rbp", "mov r14, -1", "mov eax, 8", "syscall");
        let pass = code!(
            "mov rax, fs:0",
            "mov [rax + 16], r15",
            "mov rsi, [rsp]",
            "mov rdi, rbp",
            "mov r14, -1",
            "mov eax, 9",
            "syscall",
        );
        let rest = code!(
            "mov rdi, [rsp + 8]",
            "mov esi, 1",
            "mov eax, 2",
            "syscall",
            "2:",
            "pause",
            "jmp 2b",
        );
        // What waits for ever and goes on all the same has failed.
        let fail = code!("ud2");
        let steps: &[&[u8]] = match self {
            Point::Before => &[rest],
            Point::Receiving => &[receive],
            Point::Holding => &[receive, rest],
            Point::Keeping => &[receive, keep, rest],
            Point::Answered => &[receive, answer, rest],
            Point::Again => &[receive, answer_and_receive],
            Point::Calling | Point::Served => &[receive, call],
            Point::Passing => &[receive, pass],
        };
        [&[begin], steps, &[fail]].concat().concat()
    }

    /// The wait in which the server then is; `None`: it runs.
    const fn state(self) -> Option<ThreadState> {
        match self {
            Point::Before | Point::Holding | Point::Keeping | Point::Answered => None,
            Point::Receiving | Point::Again => Some(ThreadState::Receiving),
            Point::Calling | Point::Passing => Some(ThreadState::Sending),
            Point::Served => Some(ThreadState::AwaitingReply),
        }
    }

    /// What the client hears; `None`: the answer, which it has before the server is killed.
    const fn error(self) -> Option<Error> {
        match self {
            Point::Before | Point::Receiving => Some(Error::PeerClosed),
            Point::Answered | Point::Again => None,
            _ => Some(Error::NoReply),
        }
    }
}

impl Load {
    fn message(self) -> rt::Result<Message> {
        let message = Message::new(5).with_words(WORDS);
        Ok(match self {
            Load::Words => message,
            Load::Bytes => message.with_bytes(&BYTES),
            Load::Handle => message.with_moved(Notification::create()?),
        })
    }
}

/// A conversation that ends by the death of its server.
#[derive(Debug)]
struct Case {
    point: Point,
    load: Load,
    way: Way,
    kill: Kill,
}

/// The server, whose endpoint nobody else can receive at, and what it was given.
struct Server {
    bare: Bare,
    endpoint: Endpoint,
    /// Where it calls.
    next: Endpoint,
    came: Notification,
}

impl Server {
    fn new(point: Point, cpu: u32) -> rt::Result<Server> {
        let (endpoint, next, came) = (
            Endpoint::create()?,
            Endpoint::create()?,
            Notification::create()?,
        );
        let bare = prepared(&point.program(), |_| {})?;
        let mut registers = bare.thread.registers()?;
        registers.rbx = bare.process.grant(&endpoint.handle(), Rights::RECEIVE)?.0;
        registers.rbp = bare.process.grant(&next.handle(), Rights::SEND)?.0;
        registers.r12 = bare.process.grant(&came.handle(), Rights::SIGNAL)?.0;
        registers.r13 = Tag::new(6).with_handles(1, 1).0;
        // SAFETY: the thread is of another process.
        unsafe { bare.thread.set_registers(&registers) }?;
        bare.thread.set_affinity(&abi::CpuSet::only(cpu))?;
        bare.thread.set_priority(priority(SERVER))?;
        // From now on the server's end is its endpoint's.
        let endpoint = endpoint.mint(Badge(1), Rights::SEND | Rights::DUPLICATE)?;
        Ok(Server {
            bare,
            endpoint,
            next,
            came,
        })
    }

    fn comes_to(&self, state: ThreadState) -> Verdict {
        waits(&self.bare.thread, state)
    }

    fn kill(&self, kill: Kill) -> Verdict {
        let state = match kill {
            Kill::Process => {
                must!(self.bare.process.kill(7));
                ProcessState::Killed
            }
            // With its last thread a process ends by itself.
            Kill::Thread => {
                // SAFETY: the thread is of another process.
                must!(unsafe { self.bare.thread.kill() });
                ProcessState::Exited
            }
        };
        let info = must!(self.bare.run_to_end());
        same!(
            (info.state, info.threads, info.handles),
            (state as u32, 0, 0)
        );
        Ok(())
    }
}

fn waits(thread: &rt::Thread, state: ThreadState) -> Verdict {
    until(state.text(), || Ok(thread.info()?.state == state as u32))
}

/// The answer to a client: its words, how many bytes and handles came with it.
type Answer = rt::Result<([u64; 6], usize, usize)>;

impl Case {
    fn client(&self, server: &Server, cpu: u32) -> rt::Result<JoinHandle<Answer>> {
        let called = server.endpoint.duplicate(Rights::SEND)?;
        let (load, deadline) = (self.load, self.deadline());
        thread::Builder::new()
            .cpu(cpu)
            .priority(priority(CLIENT))
            .spawn(move || {
                let answer = called.call(load.message()?, 1, deadline)?;
                let carried = (answer.bytes.len(), answer.handles.len());
                Ok((answer.words, carried.0, carried.1))
            })
    }

    fn deadline(&self) -> Deadline {
        match self.way {
            Way::Direct | Way::Far => Deadline::NEVER,
            Way::Long => soon(),
        }
    }

    fn answer(&self) -> Answer {
        let carried = match self.load {
            Load::Words => (0, 0),
            Load::Bytes => (BYTES.len(), 0),
            Load::Handle => (0, 1),
        };
        self.point
            .error()
            .map_or(Ok((WORDS, carried.0, carried.1)), Err)
    }

    fn run(&self, world: &World) -> Verdict {
        let cpu = world.cpus - 1;
        let client_cpu = if self.way == Way::Far { 0 } else { cpu };
        let server = must!(Server::new(self.point, cpu));
        must!(server.bare.thread.start());
        match self.point {
            Point::Before => drop(must!(server.came.wait(soon()))),
            _ => server.comes_to(ThreadState::Receiving)?,
        }
        if self.point == Point::Receiving {
            server.kill(self.kill)?;
            let client = must!(self.client(&server, client_cpu));
            same!(must!(client.join(soon())), self.answer());
            return Ok(());
        }
        let client = must!(self.client(&server, client_cpu));
        if self.point.error().is_none() {
            same!(must!(client.join(soon())), self.answer());
            self.reach(&server)?;
            server.kill(self.kill)?;
            let next = server.endpoint.call(Message::new(1), 0, soon());
            same!(next.map(drop), Err(Error::PeerClosed));
            return Ok(());
        }
        let served = if self.point == Point::Before {
            waits(client.thread(), ThreadState::Sending)?;
            None
        } else {
            self.reach(&server)?
        };
        server.kill(self.kill)?;
        same!(must!(client.join(soon())), self.answer());
        if let Some(mut message) = served {
            // What it had sent is here, and nobody waits for the answer.
            let handles = usize::from(self.load == Load::Handle);
            same!(message.handles.len(), handles);
            let reply = message.reply.take();
            let answered = reply.map(|reply| reply.answer(Message::new(0)));
            same!(answered, Some(Err(Error::CallerGone)));
        }
        let next = server.next.recv(1, Deadline::NOW);
        same!(next.map(drop), Err(Error::TimedOut));
        Ok(())
    }

    /// Waits until the server, which has received, is at its point. Gives what it has sent on, if that was received.
    fn reach(&self, server: &Server) -> Result<Option<Received>, Why> {
        let mut served = None;
        if self.point == Point::Served {
            match must!(server.next.recv(1, soon())) {
                Event::Message(message) => served = Some(message),
                Event::Notification(_) => fail!("no notification is bound"),
            }
        }
        match self.point.state() {
            Some(state) => server.comes_to(state)?,
            None => drop(must!(server.came.wait(soon()))),
        }
        Ok(served)
    }
}

/// The number of the first process, from which all others come.
const INIT: u64 = 1;

/// All that could be left behind.
#[derive(Clone, Copy, Debug)]
struct Count {
    objects: ObjectsInfo,
    /// Pages that this process is charged for.
    pages: u64,
    /// Bytes that nobody is charged for and that are not in the kernel's pools. Who pays for a part that he gave away is charged for all of it, so they may
    /// be less than none.
    unpaid: i64,
    handles: u64,
}

impl Count {
    fn take(world: &World) -> rt::Result<Count> {
        let mut objects = world.system.objects()?;
        let memory = world.system.memory()?;
        let own = rt::process::current().info()?;
        // What init is charged for is what everybody is.
        let processes = world.system.processes()?;
        let paid = processes.iter().find(|process| process.id == INIT);
        let paid = paid.map_or(0, |init| init.pages * 4096);
        let of_locks = rt::sync::notifications();
        objects.notifications -= of_locks;
        Ok(Count {
            objects,
            pages: own.pages,
            unpaid: (memory.user + memory.kernel).cast_signed()
                - (objects.pooled + paid).cast_signed(),
            handles: own.handles - of_locks,
        })
    }

    fn figures(&self) -> [i64; 13] {
        let objects = &self.objects;
        let counts = [
            objects.processes,
            objects.threads,
            objects.endpoints,
            objects.notifications,
            objects.memories,
            objects.sharings,
            objects.spaces,
            objects.accounts,
            objects.stacks,
            objects.irqs,
            self.pages,
            self.handles,
        ];
        core::array::from_fn(|index| {
            let count = counts.get(index).copied();
            count.map_or(self.unpaid, u64::cast_signed)
        })
    }

    /// Waits until there is no more of anything than this: the dead are taken away little by little.
    fn comes_back(&self, world: &World, after: &str) -> Verdict {
        let start = time::now();
        loop {
            let now = must!(Count::take(world));
            let mut pairs = now.figures().into_iter().zip(self.figures());
            if pairs.all(|(now, before)| now <= before) {
                return Ok(());
            }
            check!(
                since(start) < SETTLING,
                "{after}: something is left behind: {:?}, and before {:?}",
                now.figures(),
                self.figures()
            );
            must!(time::sleep(Duration::from_micros(200)));
        }
    }
}

/// Has two threads end, whose stacks and areas this process keeps for its next ones: as many as it may.
fn fill_spares(world: &World) -> Verdict {
    let before = must!(world.system.objects()).threads;
    let thread = || {
        // SAFETY: it is never started.
        unsafe { rt::process::current().create_thread(0x40_0000, 0x80_0000, 0) }
    };
    drop(must!(thread().and_then(|first| Ok((first, thread()?)))));
    let start = time::now();
    while must!(world.system.objects()).threads > before {
        check!(since(start) < SETTLING, "ended threads are still there");
        must!(time::sleep(Duration::from_micros(200)));
    }
    Ok(())
}

/// What there is when all has grown that stays: this program's heap and what it keeps of ended threads, its handle table and the tables that map its stacks and areas, the kernel's
/// pools. For the last two there is one conversation, the one that has the most at once; none that is counted comes before.
fn warm_up(world: &World) -> Result<Count, Why> {
    fill_spares(world)?;
    drop(core::hint::black_box(alloc::vec![1_u8; HEAP_BYTES]));
    let first = must!(Count::take(world));
    let most = Case {
        point: Point::Served,
        load: Load::Handle,
        way: Way::Far,
        kill: Kill::Process,
    };
    most.run(world)?;
    // Its dead are gone when there are as many objects as before. What memory there is then stays.
    let any_memory = Count {
        pages: i64::MAX.cast_unsigned(),
        unpaid: i64::MAX,
        ..first
    };
    any_memory.comes_back(world, "the first one")?;
    let grown = must!(Count::take(world));
    Ok(Count {
        pages: grown.pages,
        unpaid: grown.unpaid,
        ..first
    })
}

fn a_server_killed_at_any_point_of_a_conversation_leaves_nothing_behind(
    world: &'static World,
) -> Verdict {
    // Each point with each way and each end, and with each load by some way or other.
    let group = |way: Way, kill: Kill, turn: usize| -> Verdict {
        for (number, point) in POINTS.into_iter().enumerate() {
            let load = [Load::Words, Load::Bytes, Load::Handle][(number + turn) % 3];
            let case = Case {
                point,
                load,
                way,
                kill,
            };
            if let Err(why) = case.run(world) {
                fail!("{case:?}: {why:?}");
            }
        }
        Ok(())
    };
    let before = warm_up(world)?;
    for (way, kill, turn) in [
        (Way::Far, Kill::Process, 2),
        (Way::Far, Kill::Thread, 0),
        (Way::Direct, Kill::Process, 0),
        (Way::Direct, Kill::Thread, 1),
        (Way::Long, Kill::Process, 1),
        (Way::Long, Kill::Thread, 2),
    ] {
        group(way, kill, turn)?;
        before.comes_back(world, &format!("{way:?}, {kill:?}"))?;
    }
    Ok(())
}
