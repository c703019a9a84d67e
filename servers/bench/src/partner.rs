//! The other side of an operation: a thread of this process or a process of its own.

use abi::ipc_area::BUFFER_BYTES;
use abi::{Call, CpuSet, Deadline, Handle, Tag};
use alloc::format;
use alloc::string::String;
use rt::archive::Archive;
use rt::loader::{self, Plan};
use rt::start::StartError;
use rt::sys::{self, IpcRegisters};
use rt::{
    AsHandle, Endpoint, Memory, Notification, Priority, Process, Protection, Rights, start, thread,
};

use crate::calls::{self, Received};
use crate::changing;

/// Stack of a partner's first thread.
const STACK_BYTES: u64 = 64 * 1024;

/// Bytes of a request that carries some.
pub const REQUEST_BYTES: usize = 64;
/// What a server's buffer is full of.
pub const FILLING: u8 = 0xA5;

/// What a partner does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Yields for ever.
    Yield(Turn),
    /// Answers calls without words.
    Serve(Turn),
    /// Answers calls without words, and waits for a notification as well, which never comes.
    ServeBound,
    /// Answers calls without words, and stays awake between an answer and the next receive until there is a call.
    ServeAwake,
    /// Answers calls of six words with the same words.
    ServeWords,
    /// Answers calls with so many bytes.
    ServeBytes(usize),
    /// Takes a handle in one call, and gives it back in the answer to the next.
    ServeHandle,
    /// Lets threads that fault go on behind the instruction, which has two bytes.
    StepOver,
    /// Maps an object twice, touches all of it at both places, and does nothing any more.
    Touch,
    /// Waits for one notification and signals another.
    PingPong(Calls),
    /// Waits for a notification, passes it on, calls [`CLIENT_CALLS`] times, signals the bit of this number, and does nothing any more.
    Client(u32),
}

/// Calls that a client makes.
pub const CLIENT_CALLS: u64 = 2000;

impl Role {
    /// All of them.
    const ALL: [Role; 18] = [
        Role::Yield(Turn::Plain),
        Role::Yield(Turn::Float),
        Role::Serve(Turn::Plain),
        Role::Serve(Turn::Float),
        Role::ServeBound,
        Role::ServeAwake,
        Role::ServeWords,
        Role::ServeBytes(256),
        Role::ServeBytes(BUFFER_BYTES),
        Role::ServeHandle,
        Role::StepOver,
        Role::Touch,
        Role::PingPong(Calls::One),
        Role::PingPong(Calls::Two),
        Role::Client(0),
        Role::Client(1),
        Role::Client(2),
        Role::Client(3),
    ];

    /// Its name: the argument of the process that plays it.
    fn name(self) -> String {
        match self {
            Role::Yield(Turn::Plain) => "yield".into(),
            Role::Yield(Turn::Float) => "yield-fpu".into(),
            Role::Serve(Turn::Plain) => "serve".into(),
            Role::Serve(Turn::Float) => "serve-fpu".into(),
            Role::ServeBound => "serve-bound".into(),
            Role::ServeAwake => "serve-awake".into(),
            Role::ServeWords => "serve-words".into(),
            Role::ServeBytes(bytes) => format!("serve-{bytes}"),
            Role::ServeHandle => "serve-handle".into(),
            Role::StepOver => "step-over".into(),
            Role::Touch => "touch".into(),
            Role::PingPong(Calls::One) => "ping-pong".into(),
            Role::PingPong(Calls::Two) => "ping-pong-by-two".into(),
            Role::Client(bit) => format!("client-{bit}"),
        }
    }
}

/// Plays a partner in a process of its own.
///
/// # Errors
/// What it lacks, in words.
pub fn run(role: &str) -> Result<(), String> {
    let role = Role::ALL
        .into_iter()
        .find(|known| known.name() == role)
        .ok_or_else(|| format!("there is no role '{role}'"))?;
    let failed = |error: StartError| format!("{error}");
    match role {
        Role::Yield(turn) => take_turns(turn),
        Role::Touch => {
            let memory: Memory = start::take("memory").map_err(failed)?;
            touch_twice(&memory).map_err(|error| format!("{error}"))?;
        }
        Role::PingPong(calls) => {
            let ping: Notification = start::take("ping").map_err(failed)?;
            let pong: Notification = start::take("pong").map_err(failed)?;
            ping_pong(calls, &ping, &pong);
        }
        Role::Client(bit) => {
            let endpoint: Endpoint = start::take("endpoint").map_err(failed)?;
            let go: Notification = start::take("go").map_err(failed)?;
            let done: Notification = start::take("done").map_err(failed)?;
            client(&endpoint, &go, &done, 1 << bit).map_err(|error| format!("{error}"))?;
        }
        role => {
            let endpoint: Endpoint = start::take("endpoint").map_err(failed)?;
            serve(role, &endpoint);
        }
    }
    Ok(())
}

/// Serves in a role that has an endpoint. Returns when there is nothing to receive from any more.
pub fn serve(role: Role, endpoint: &Endpoint) {
    let endpoint = endpoint.handle().0;
    match role {
        Role::Serve(Turn::Plain) => answer(endpoint, |_| 0),
        Role::Serve(Turn::Float) => answer(endpoint, |_| {
            use_fpu();
            0
        }),
        Role::ServeBytes(bytes) => {
            // SAFETY: the calling thread's own buffer, which nobody else names.
            unsafe { sys::buffer().write_bytes(FILLING, BUFFER_BYTES) };
            let tag = Tag::new(0).with_bytes(bytes).0;
            answer(endpoint, |_| tag);
        }
        Role::ServeBound => {
            if let Ok(events) = Notification::create()
                && events.bind().is_ok()
            {
                answer(endpoint, |_| 0);
            }
        }
        Role::ServeHandle => hold_handles(endpoint),
        Role::ServeAwake => answer_awake(endpoint),
        Role::ServeWords => answer_words(endpoint),
        Role::StepOver => step_over(endpoint),
        Role::Yield(_) | Role::Touch | Role::PingPong(_) | Role::Client(_) => {}
    }
}

/// What a thread does between two yields, or for a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Nothing.
    Plain,
    /// One instruction on a vector register.
    Float,
}

/// Yields for ever.
pub fn take_turns(turn: Turn) -> ! {
    loop {
        if turn == Turn::Float {
            use_fpu();
        }
        thread::yield_now();
    }
}

/// Uses the FPU: one instruction.
#[inline(always)]
pub fn use_fpu() {
    // SAFETY: changes one vector register, which it says.
    unsafe {
        core::arch::asm!("addss xmm15, xmm15", out("xmm15") _, options(nomem, nostack, preserves_flags));
    }
}

/// Answers every call with the tag that `act` makes of the call's, in one system call each; the tag of the first receive is that for 0.
#[inline(always)]
fn answer(endpoint: u64, mut act: impl FnMut(u64) -> u64) {
    let mut received = Received::default();
    let mut tag = act(0);
    loop {
        // SAFETY: reads and writes the thread's own IPC area alone, to which no reference is held.
        received = unsafe { calls::reply_recv(endpoint, tag, received.reply) };
        if received.status != 0 {
            return;
        }
        tag = act(received.tag);
    }
}

/// Times that a server which stays awake lets others go first. Under `-icount` each is a turn of the other CPUs until they halt.
const AWAKE: u32 = 64;

/// Receives, answers, and is awake for a while, in which the next call comes. Returns when there is nothing to receive from any more.
fn answer_awake(endpoint: u64) {
    let mut registers = IpcRegisters {
        handle: endpoint,
        tag: 0,
        words: [0; 6],
        deadline: Deadline::NEVER.0,
        reply: 0,
    };
    loop {
        // SAFETY: messages of words alone, which touch nothing but the registers.
        if unsafe { sys::ipc(Call::Recv as u64, &mut registers) } != 0 {
            return;
        }
        // SAFETY: as above. Nobody is answered whose call has ended; the next receive shows what is wrong with more.
        unsafe { sys::ipc(Call::Reply as u64, &mut registers) };
        for _ in 0..AWAKE {
            core::hint::spin_loop();
        }
        registers.handle = endpoint;
        registers.tag = 0;
        registers.deadline = Deadline::NEVER.0;
        registers.reply = 0;
    }
}

/// The same as [`answer`] with six words each way.
fn answer_words(endpoint: u64) {
    let mut registers = IpcRegisters {
        handle: endpoint,
        tag: 0,
        words: [0; 6],
        deadline: Deadline::NEVER.0,
        reply: 0,
    };
    loop {
        // SAFETY: a message of words alone, which touches nothing but the registers.
        if unsafe { sys::ipc(Call::ReplyRecv as u64, &mut registers) } != 0 {
            return;
        }
        registers.handle = endpoint;
        registers.deadline = Deadline::NEVER.0;
    }
}

/// Lets threads that fault go on behind the instruction.
fn step_over(endpoint: u64) {
    let mut answer = (0, 0);
    // SAFETY: messages of words alone, which touch nothing but the registers.
    while let Some(next) = unsafe { calls::step_over(endpoint, answer) } {
        answer = next;
    }
}

/// Keeps the handle that a call brings, and sends it back with the answer to one that brings none.
fn hold_handles(endpoint: u64) {
    let area = sys::area();
    let mut held = 0;
    let taking = Tag::new(0).taking_handles();
    // SAFETY: the calling thread's own area, which nobody else names.
    unsafe { (*area).accept = 1 };
    answer(endpoint, |tag| {
        // SAFETY: as above, and the kernel is done with it.
        unsafe {
            if Tag(tag).handles() != 0 {
                held = (*area).handles_in[0];
                taking.0
            } else if held != 0 {
                (*area).handles_out[0] = core::mem::take(&mut held);
                taking.with_handles(1, 1).0
            } else {
                // Before the first call.
                taking.0
            }
        }
    });
}

/// Maps an object twice, touches it, and stays.
fn touch_twice(memory: &Memory) -> rt::Result<()> {
    let mappings = [
        memory.map(Protection::READ_WRITE)?,
        memory.map(Protection::READ_WRITE)?,
    ];
    mappings.iter().for_each(changing::touch);
    Notification::create()?.wait(Deadline::NEVER).map(drop)
}

/// By how many system calls a thread signals and waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Calls {
    /// One for both.
    One,
    /// One for each.
    Two,
}

impl Calls {
    /// Signals one and waits for the other.
    ///
    /// # Errors
    /// Those of the calls.
    #[inline(always)]
    pub fn signal_and_wait(
        self,
        signalled: &Notification,
        awaited: &Notification,
    ) -> rt::Result<u64> {
        match self {
            Calls::One => signalled.signal_and_wait(1, awaited, Deadline::NEVER),
            Calls::Two => signalled
                .signal(1)
                .and_then(|()| awaited.wait(Deadline::NEVER)),
        }
    }
}

/// Waits for one and signals the other. Returns when that fails.
pub fn ping_pong(calls: Calls, ping: &Notification, pong: &Notification) {
    if ping.wait(Deadline::NEVER).is_err() {
        return;
    }
    // Two loops, so that neither asks in which of them it is.
    match calls {
        Calls::One => while Calls::One.signal_and_wait(pong, ping).is_ok() {},
        Calls::Two => while Calls::Two.signal_and_wait(pong, ping).is_ok() {},
    }
}

/// Calls when it is told to, many times, says when it has done so, and stays: its end would take longer than a hundred of its calls.
fn client(endpoint: &Endpoint, go: &Notification, done: &Notification, bit: u64) -> rt::Result<()> {
    let rest = Notification::create()?;
    go.wait(Deadline::NEVER)?;
    // To the next one who waits for it.
    go.signal(1)?;
    let mut status = 0;
    for _ in 0..CLIENT_CALLS {
        // SAFETY: a message without bytes and handles.
        status |= unsafe { calls::call(endpoint.handle().0, 0) }.0;
    }
    sys::check(status)?;
    done.signal(bit)?;
    rest.wait(Deadline::NEVER).map(drop)
}

/// Starts processes of this program.
pub struct Starter {
    file: &'static [u8],
    plan: Plan,
}

impl Starter {
    /// Finds this program in the boot archive.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn new() -> Result<Starter, String> {
        let initrd: Memory = start::take("initrd").map_err(|error| format!("{error}"))?;
        let bytes = start::value("initrd").map_err(|error| format!("{error}"))?;
        let mapping = initrd
            .map(Protection::READ)
            .map_err(|error| format!("initrd: {error}"))?;
        let bytes = mapping.bytes().min(bytes as usize);
        // SAFETY: the archive is mapped read-only everywhere, and from here on for ever.
        let contents: &'static [u8] = unsafe { core::slice::from_raw_parts(mapping.leak(), bytes) };
        let archive = Archive::new(contents).map_err(|error| format!("initrd: {error}"))?;
        let file = archive
            .find("bin/bench")
            .ok_or("the initrd has no bin/bench")?;
        let plan = Plan::new(file).map_err(|error| format!("bin/bench: {error}"))?;
        Ok(Starter { file, plan })
    }

    /// Starts one in a role, with a few handles by name. It ends when the handle is used to end it.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn start(&self, role: Role, given: &[(&str, Handle, Rights)]) -> rt::Result<Process> {
        self.start_on(&CpuSet::ALL, role, given)
    }

    /// The same, on some CPUs alone.
    ///
    /// # Errors
    /// The same, and `OutOfRange` if there is none of them.
    pub fn start_on(
        &self,
        cpus: &CpuSet,
        role: Role,
        given: &[(&str, Handle, Rights)],
    ) -> rt::Result<Process> {
        let role = role.name();
        let process = self.plan.process(&role, Priority::LOWEST)?;
        self.plan.load(self.file, &process)?;
        let mut block = start::Builder::new();
        for (name, handle, rights) in given {
            block.add(name, process.grant(handle, *rights)?, 0)?;
        }
        let thread = loader::first_thread(&process, &self.plan, STACK_BYTES, &block, &role)?;
        thread.set_affinity(cpus)?;
        thread.start()?;
        Ok(process.process)
    }
}
