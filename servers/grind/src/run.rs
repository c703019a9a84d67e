//! Who makes the workers, waits for their ends, and counts what there is before and afterwards.

use abi::info::{ObjectsInfo, PowerAction, ProcessState};
use abi::{Call, Error, Handle, Priority, Rights};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use grind::options::Options;
use rt::archive::Archive;
use rt::loader::{self, Image, Plan};
use rt::{
    AsHandle, Deadline, Endpoint, Log, Mapping, Memory, Notification, Process, Protection, System,
    process, start, time,
};

use crate::report::Report;

/// Calls that one worker makes before the next takes its place.
const CALLS_EACH: u64 = 3000;
/// What a worker may give its threads: less than this program has.
const PRIORITY: u64 = 8;
/// After this long a worker is ended: one that has stopped all of its threads, say.
const LIFE: Duration = Duration::from_secs(3);
/// How long a worker may take to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long what has ended may take to be taken away.
const CLEARING: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(10);
/// Times that a worker is tried to be made while others hold all memory, a pause between two.
const TRIES: u32 = 1000;
const PAGE: u64 = 4096;
/// Bytes of the memory that all workers write to.
const BOARD_BYTES: u64 = 4 * PAGE;

/// Runs both tests and switches the machine off.
///
/// # Errors
/// What this program lacks, in words.
pub fn run(argument: &str) -> Result<(), String> {
    let log: Log = start::take("log").map_err(|error| format!("{error}"))?;
    let system: System = start::take("system").map_err(|error| format!("{error}"))?;
    let options = Options::parse(argument)?;
    let cpus = system.machine().map_err(words)?.cpus;
    let say = |line: &str| log.write(line).map_err(words);
    let Options { seed, calls } = options;
    say(&format!(
        "grind: seed {seed:#x}, {calls} calls on {cpus} CPUs (again with grind=seed={seed:#x},calls={calls})\n"
    ))?;
    let file = program()?;
    let plan = Plan::new(file).map_err(|error| format!("bin/grind: {error}"))?;
    let mill = Mill::new(&plan, file, &log, &system).map_err(words)?;
    let (mut passed, mut failed) = (0, 0);
    let mut verdict = |name: &str, result: Result<String, String>| {
        let line = match result {
            Ok(did) => {
                passed += 1;
                format!("grind: {did}\ntest {name} ... ok\n")
            }
            Err(reason) => {
                failed += 1;
                format!("test {name} ... FAILED: seed {seed:#x}: {reason}\n")
            }
        };
        say(&line)
    };
    // Once, so that what is made at the first use and kept is there.
    let warm = mill.grind(seed ^ u64::MAX, CALLS_EACH * u64::from(cpus), cpus);
    let before = mill.settled()?;
    verdict("every_call_refuses_every_bad_value", mill.each())?;
    verdict(
        "random_calls_do_no_harm",
        warm.and_then(|_| mill.grind(seed, calls, cpus)),
    )?;
    verdict("nothing_is_left_behind", mill.is_as_before(&before))?;
    say(&format!(
        "suite done: {passed} passed, {failed} failed, 0 skipped\n"
    ))?;
    system.power(PowerAction::Off).map_err(words)
}

fn words(error: Error) -> String {
    format!("{error}")
}

/// This program's file, from the archive.
fn program() -> Result<&'static [u8], String> {
    let initrd: Memory = start::take("initrd").map_err(|error| format!("{error}"))?;
    let bytes = start::value("initrd").map_err(|error| format!("{error}"))?;
    let mapping = initrd.map(Protection::READ).map_err(words)?;
    let bytes = mapping.bytes().min(bytes as usize);
    // SAFETY: the archive is mapped read-only everywhere, and from here on for ever.
    let contents: &'static [u8] = unsafe { core::slice::from_raw_parts(mapping.leak(), bytes) };
    let archive = Archive::new(contents).map_err(|error| format!("initrd: {error}"))?;
    archive
        .find("bin/grind")
        .ok_or_else(|| "the initrd has no bin/grind".into())
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    objects: ObjectsInfo,
    /// Bytes of users' pages, less those that this program pays for, and what the kernel has beside its pools.
    user: u64,
    kernel: u64,
}

/// What makes workers.
struct Mill<'a> {
    plan: &'a Plan,
    image: Image<'a>,
    log: &'a Log,
    system: &'a System,
    endpoint: Endpoint,
    bell: Notification,
    board: Memory,
    ends: Notification,
}

/// A worker that lives, or has ended.
struct Worker {
    process: Process,
    page: Mapping,
    until: Deadline,
    bit: u64,
}

impl Worker {
    fn report(&self) -> &Report {
        // SAFETY: a page that stays mapped as long as this value; made of atomic words alone, zero at first.
        unsafe { &*self.page.as_ptr().cast::<Report>() }
    }

    /// Whether it has ended; one that lives too long is told to.
    fn has_ended(&self) -> Result<bool, String> {
        let info = self.process.info().map_err(words)?;
        if info.state != ProcessState::Alive as u32 && info.threads == 0 {
            return Ok(true);
        }
        if time::now_ns() > self.until.0 {
            // It may have ended just now.
            let _ = self.process.kill(0);
        }
        if time::now_ns() > self.until.0 + PATIENCE.as_nanos() as u64 {
            return Err(format!(
                "a worker that was ended has {} threads and is in state {}",
                info.threads, info.state
            ));
        }
        Ok(false)
    }
}

impl<'a> Mill<'a> {
    fn new(
        plan: &'a Plan,
        file: &'a [u8],
        log: &'a Log,
        system: &'a System,
    ) -> rt::Result<Mill<'a>> {
        let board = Memory::create(BOARD_BYTES)?;
        // All of it is there from now on, whoever writes to it.
        for page in 0..BOARD_BYTES / PAGE {
            board.write(page * PAGE, &[1])?;
        }
        Ok(Mill {
            plan,
            image: Image::new(plan, file)?,
            log,
            system,
            endpoint: Endpoint::create()?,
            bell: Notification::create()?,
            board,
            ends: Notification::create()?,
        })
    }

    /// Starts a worker; `bit` is signalled at its end.
    fn start(&self, role: &str, bit: u64) -> rt::Result<Worker> {
        let page = Memory::create(PAGE)?;
        let mapping = page.map(Protection::READ_WRITE)?;
        page.write(0, &[0; size_of::<Report>()])?;
        let priority = Priority::new(PRIORITY).unwrap_or(Priority::LOWEST);
        let process = self.image.process("grind", priority)?;
        let mut block = start::Builder::new();
        let given: [(&str, Handle, Rights); 6] = [
            (
                "asking",
                self.system.handle(),
                Rights::QUERY | Rights::TRANSFER,
            ),
            (
                "reading",
                self.log.handle(),
                Rights::READ | Rights::TRANSFER,
            ),
            ("endpoint", self.endpoint.handle(), Rights::ALL),
            ("bell", self.bell.handle(), Rights::ALL),
            ("board", self.board.handle(), Rights::ALL),
            ("report", page.handle(), Rights::READ | Rights::WRITE),
        ];
        for (name, handle, rights) in given {
            block.add(name, process.grant(&handle, rights)?, 0)?;
        }
        let argument = format!("worker {role}");
        let stack = loader::STACK_BYTES;
        let thread = loader::first_thread(&process, self.plan, stack, &block, &argument)?;
        process.watch(&self.ends, bit)?;
        thread.start()?;
        Ok(Worker {
            process: process.process,
            page: mapping,
            until: time::after(LIFE),
            bit,
        })
    }

    /// The same, also while others hold what it needs.
    fn start_patiently(&self, role: &str, bit: u64) -> Result<Worker, String> {
        for _ in 0..TRIES {
            match self.start(role, bit) {
                Err(Error::NoMemory | Error::QuotaExceeded) => {
                    time::sleep(PAUSE).map_err(words)?;
                }
                result => return result.map_err(words),
            }
        }
        Err(format!("no memory for a worker after {TRIES} tries"))
    }

    /// Random calls by several workers at a time. Says what was done.
    fn grind(&self, seed: u64, calls: u64, cpus: u32) -> Result<String, String> {
        let at_once = (cpus as usize + 1).min(16);
        let mut running: Vec<Worker> = Vec::new();
        let (mut done, mut made, mut killed) = (0, 0_u64, 0_u64);
        let (mut successes, mut succeeded) = (0, [0; 4]);
        while done < calls || !running.is_empty() {
            while running.len() < at_once && done < calls {
                let used = running.iter().fold(0, |bits, worker| bits | worker.bit);
                let bit = 1 << (!used).trailing_zeros();
                let role = format!(
                    "random {} {CALLS_EACH}",
                    seed.wrapping_mul(0x0100_0000).wrapping_add(made)
                );
                running.push(self.start_patiently(&role, bit)?);
                made += 1;
            }
            match self.ends.wait(time::after(PAUSE)) {
                Ok(_) | Err(Error::TimedOut) => {}
                Err(error) => return Err(words(error)),
            }
            let mut at = 0;
            while at < running.len() {
                if !running[at].has_ended()? {
                    at += 1;
                    continue;
                }
                let worker = running.swap_remove(at);
                killed += u64::from(time::now_ns() > worker.until.0);
                // It can write there whatever it likes.
                done += worker.report().calls.load(Relaxed).min(CALLS_EACH);
                successes += worker.report().successes.load(Relaxed).min(CALLS_EACH);
                for (all, word) in succeeded.iter_mut().zip(worker.report().succeeded()) {
                    *all |= word;
                }
                if let Some(complaint) = worker.report().complaint() {
                    return Err(format!("worker {made}: {complaint}"));
                }
                // One that dies at once must not make this endless.
                done += 1;
            }
        }
        let never: Vec<&str> = Call::ALL
            .iter()
            .filter(|call| succeeded[**call as usize / 64] >> (**call as u64 % 64) & 1 == 0)
            .map(|call| call.name())
            .collect();
        Ok(format!(
            "{done} random calls by {made} programs, {killed} of which had to be ended; {successes} gave no error; always refused: {}",
            never.join(", ")
        ))
    }

    /// Every call with every bad value, by one worker after the other, each from where the last came to its end.
    fn each(&self) -> Result<String, String> {
        let (mut from, mut made) = (0, 0);
        while from != u64::MAX {
            let worker = self.start_patiently(&format!("each {from}"), 1)?;
            while !worker.has_ended()? {
                match self.ends.wait(time::after(PAUSE)) {
                    Ok(_) | Err(Error::TimedOut) => {}
                    Err(error) => return Err(words(error)),
                }
            }
            made += 1;
            if let Some(complaint) = worker.report().complaint() {
                return Err(complaint);
            }
            let came_to = worker.report().calls.load(Relaxed);
            if came_to <= from {
                return Err(format!(
                    "a worker ended before it did anything from {from} on"
                ));
            }
            from = came_to;
        }
        Ok(format!(
            "every call with every bad value, by {made} programs"
        ))
    }

    fn counts(&self) -> Result<Counts, String> {
        let memory = self.system.memory().map_err(words)?;
        let objects = self.system.objects().map_err(words)?;
        let own = process::current().info().map_err(words)?.pages;
        Ok(Counts {
            // Its own heap grows and does not shrink.
            user: memory.user.saturating_sub(own * PAGE),
            kernel: memory.kernel.saturating_sub(objects.pooled),
            objects: ObjectsInfo {
                pooled: 0,
                ..objects
            },
        })
    }

    /// The counts when nothing changes any more: the same several times one after the other.
    fn settled(&self) -> Result<Counts, String> {
        const SAME: u32 = 10;
        let (mut last, mut same) = (self.counts()?, 0);
        let until = time::after(CLEARING);
        while same < SAME && time::now_ns() < until.0 {
            time::sleep(PAUSE).map_err(words)?;
            let now = self.counts()?;
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }

    /// Waits until there is no more than before, and says what there is.
    fn is_as_before(&self, before: &Counts) -> Result<String, String> {
        // Page tables of the kernel's own for stacks that were made since stay as well.
        const TABLES: u64 = 8 * PAGE;
        let until = time::after(CLEARING);
        loop {
            let now = self.settled()?;
            if now.objects == before.objects
                && now.user <= before.user
                && now.kernel <= before.kernel + TABLES
            {
                return Ok(format!("as before: {now:?}"));
            }
            if time::now_ns() > until.0 {
                let threads = self.system.threads().map_err(words)?.len();
                self.log
                    .write(&format!("grind: {threads} threads in the list\n"))
                    .map_err(words)?;
                return Err(format!("before {before:?}, now {now:?}"));
            }
        }
    }
}
