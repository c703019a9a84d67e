//! What it costs to make a thread or a process, up to its first instruction.
//!
//! That instruction reads the counter, and what it read comes back as the thread's exit code. So nothing is counted but what a program needs in
//! order to start something and to let it run: the counter's reading, and what it is shifted and joined by, is in, five instructions.
//!
//! *Warm* means that as many threads or processes ended before as are made, so that the kernel has their memory at hand. *Cold* means that
//! none ends: each takes new memory.

use abi::{Call, Deadline};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::time::Duration;
use rt::loader::{self, Image, Plan};
use rt::{Priority, Thread, process, start, thread, time};

use crate::measure::{Cost, Followed, bench_trace_begin, bench_trace_end, counter, measure_to};

/// Times that something is made before it counts, and times that it counts.
const WARM_UP: usize = 20;
const READINGS: usize = 201;
/// Threads that are made cold.
const COLD: usize = 65;
/// Time for what has ended to be taken away.
const CLEARING: Duration = Duration::from_millis(1);

/// The made program: 32 KiB that it executes and 8 KiB that it may write.
const TEXT_BYTES: usize = 32 * 1024;
const DATA_BYTES: usize = 8 * 1024;
const PAGE: usize = 4096;
/// Sizes of an ELF file's header and of an entry of its segment table (ELF-64, figures 2 and 6).
const ELF_HEADER: usize = 64;
const SEGMENT_HEADER: usize = 56;

/// Makes a thread of this program, lets it run by a yield, and waits for its end.
///
/// # Errors
/// Those of the calls that it takes.
pub fn thread_create() -> rt::Result<Cost> {
    // What is followed goes through `bench_trace_end`, and returns from there to the code proper.
    let stack = [stamp_and_exit as *const () as u64];
    measure_to(WARM_UP, READINGS, |followed| {
        let entry = entry(followed, stamp_and_exit);
        let begin = begin(followed);
        // SAFETY: the code uses no stack but for one word at which the stack pointer stands, which lives until the thread has ended.
        let thread = unsafe { process::current().start_thread(entry, stack.as_ptr() as u64, 0) }?;
        thread::yield_now();
        let (end, _) = thread.join(Deadline::NEVER)?;
        drop(thread);
        time::sleep(CLEARING)?;
        Ok((begin, end))
    })
}

/// The same for threads that stay.
///
/// # Errors
/// Those of the calls that it takes.
pub fn thread_create_cold() -> rt::Result<Cost> {
    let stack = [stamp_and_stay as *const () as u64];
    let mut all: Vec<Thread> = Vec::with_capacity(COLD + 1);
    let stamp = Stamp(UnsafeCell::new(0));
    let cost = measure_to(0, COLD, |followed| {
        let entry = entry(followed, stamp_and_stay);
        stamp.clear();
        let begin = begin(followed);
        // SAFETY: as above; the thread writes to the stamp, once, before this function goes on.
        let thread = unsafe {
            process::current().start_thread(entry, stack.as_ptr() as u64, stamp.0.get() as u64)
        }?;
        while stamp.get() == 0 {
            thread::yield_now();
        }
        all.push(thread);
        Ok((begin, stamp.get()))
    });
    for thread in &all {
        // SAFETY: it sleeps and holds nothing.
        unsafe { thread.kill() }?;
    }
    drop(all);
    time::sleep(CLEARING)?;
    cost
}

/// Makes a process by the SDK's library, of a program whose text and data are in memory, and waits for its end.
///
/// # Errors
/// What is wrong with the program, in words, or with the calls that it takes.
pub fn process_create() -> Result<Cost, String> {
    let file = program();
    let plan = Plan::new(&file).map_err(|error| format!("the made program: {error}"))?;
    let failed = |error: abi::Error| format!("{error}");
    let image = Image::new(&plan, &file).map_err(failed)?;
    let block = start::Builder::new();
    let made = |followed| -> rt::Result<(u64, u64)> {
        let begin = begin(followed);
        let process = image.process("made", Priority::LOWEST)?;
        let thread = loader::start(&process, &plan, loader::STACK_BYTES, &block, "")?;
        let (end, _) = thread.join(Deadline::NEVER)?;
        drop((thread, process));
        time::sleep(CLEARING)?;
        Ok((begin, end))
    };
    measure_to(WARM_UP, READINGS, made).map_err(failed)
}

/// The counter at the begin of an operation.
#[inline(always)]
fn begin(followed: Followed) -> u64 {
    let now = counter();
    if followed == Followed::Yes {
        bench_trace_begin();
    }
    now
}

/// Where a thread begins.
fn entry(followed: Followed, code: extern "C" fn() -> !) -> u64 {
    match followed {
        Followed::Yes => bench_trace_end as *const () as u64,
        Followed::No => code as *const () as u64,
    }
}

/// Where a thread says at what time it came to life.
struct Stamp(UnsafeCell<u64>);

impl Stamp {
    fn get(&self) -> u64 {
        // SAFETY: the word lives; a thread may write to it at any time, and a word is written at once.
        unsafe { self.0.get().read_volatile() }
    }

    fn clear(&self) {
        // SAFETY: as above; all threads that know of it sleep.
        unsafe { self.0.get().write_volatile(0) }
    }
}

/// Ends the thread, its code being the counter. In: nothing. Uses no stack. Out: never. It may lie at any address.
#[unsafe(naked)]
extern "C" fn stamp_and_exit() -> ! {
    naked_asm!(
        "rdtsc",
        "shl rdx, 32",
        "lea rdi, [rax + rdx]",
        "mov eax, {exit}",
        "syscall",
        "ud2",
        exit = const Call::ThreadExit as u64,
    )
}

/// Writes the counter to where `rdi` points, and sleeps for ever. Uses no stack. Out: never.
#[unsafe(naked)]
extern "C" fn stamp_and_stay() -> ! {
    naked_asm!(
        "rdtsc",
        "shl rdx, 32",
        "add rax, rdx",
        "mov [rdi], rax",
        "2:",
        "mov eax, {sleep}",
        "mov r14, -1",
        "syscall",
        "jmp 2b",
        sleep = const Call::Sleep as u64,
    )
}

/// An ELF file of two segments that has the code of [`stamp_and_exit`] where this program has `bench_trace_end`, and begins there: so whoever
/// follows an operation to that address finds its end in the new process.
fn program() -> Vec<u8> {
    // More than the code is long, within this program's text.
    const CODE_BYTES: usize = 32;
    let entry = bench_trace_end as *const () as usize;
    let base = entry & !(PAGE - 1);
    // SAFETY: the program's own text, which is longer than that behind any function: what is behind this one is not looked at.
    let code = unsafe { core::slice::from_raw_parts(stamp_and_exit as *const u8, CODE_BYTES) };
    let mut file = vec![0; PAGE + TEXT_BYTES + DATA_BYTES];
    // Identification: 64-bit, little-endian, version 1.
    file[..7].copy_from_slice(b"\x7FELF\x02\x01\x01");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &2_u16.to_le_bytes()); // type: executable
    put(18, &62_u16.to_le_bytes()); // machine: x86-64
    put(20, &1_u32.to_le_bytes());
    put(24, &(entry as u64).to_le_bytes());
    put(32, &(ELF_HEADER as u64).to_le_bytes()); // the segment table's place
    put(52, &(ELF_HEADER as u16).to_le_bytes());
    put(54, &(SEGMENT_HEADER as u16).to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    let segments = [
        (5_u32, PAGE, base, TEXT_BYTES),
        (6, PAGE + TEXT_BYTES, base + TEXT_BYTES, DATA_BYTES),
    ];
    for (number, (flags, offset, address, bytes)) in segments.into_iter().enumerate() {
        let at = ELF_HEADER + number * SEGMENT_HEADER;
        put(at, &1_u32.to_le_bytes()); // to be loaded
        put(at + 4, &flags.to_le_bytes());
        let words = [offset, address, address, bytes, bytes, PAGE];
        for (word, value) in words.into_iter().enumerate() {
            put(at + 8 + 8 * word, &(value as u64).to_le_bytes());
        }
    }
    put(PAGE + entry - base, code);
    file
}
