//! The other side of an operation: a thread of this process or a process of its own.

use abi::{Call, Deadline, Handle};
use alloc::format;
use alloc::string::String;
use rt::archive::Archive;
use rt::loader::{self, Plan};
use rt::sys::{self, IpcRegisters};
use rt::{AsHandle, Endpoint, Memory, Process, Protection, Rights, start, thread};

/// Stack of a partner's first thread.
const STACK_BYTES: u64 = 64 * 1024;

/// Plays a partner in a process of its own.
///
/// # Errors
/// What it lacks, in words.
pub fn run(role: &str) -> Result<(), String> {
    match role {
        role if role == Turn::Plain.serving() => serve_given(Turn::Plain),
        role if role == Turn::Float.serving() => serve_given(Turn::Float),
        role if role == Turn::Plain.role() => take_turns(Turn::Plain),
        role if role == Turn::Float.role() => take_turns(Turn::Float),
        role => Err(format!("there is no role '{role}'")),
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

impl Turn {
    /// The name of the role that does it.
    pub const fn role(self) -> &'static str {
        match self {
            Turn::Plain => "yield",
            Turn::Float => "yield-fpu",
        }
    }

    /// The name of the role that answers calls and does it for each.
    pub const fn serving(self) -> &'static str {
        match self {
            Turn::Plain => "serve",
            Turn::Float => "serve-fpu",
        }
    }
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

fn serve_given(turn: Turn) -> Result<(), String> {
    let endpoint: Endpoint = start::take("endpoint").map_err(|error| format!("{error}"))?;
    serve(&endpoint, turn);
    Ok(())
}

/// Answers every call with its own words, in one system call each. Returns when there is nothing to receive from any more.
pub fn serve(endpoint: &Endpoint, turn: Turn) {
    let mut registers = IpcRegisters {
        handle: endpoint.handle().0,
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
        if turn == Turn::Float {
            use_fpu();
        }
        registers.handle = endpoint.handle().0;
        registers.deadline = Deadline::NEVER.0;
    }
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

    /// Starts one in a role. It ends when the handle is used to end it.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn start(&self, role: &str, endpoint: Option<&Endpoint>) -> rt::Result<Process> {
        let process = Process::create(role)?;
        self.plan.load(self.file, &process)?;
        let mut block = start::Builder::new();
        if let Some(endpoint) = endpoint {
            let given: Handle = process.grant(endpoint, Rights::RECEIVE)?;
            block.add("endpoint", given, 0)?;
        }
        loader::first_thread(&process, &self.plan, STACK_BYTES, &block, role)?.start()?;
        Ok(process)
    }
}
