//! Threads of a 32-bit process: storage of their own, and registers that nobody changes.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Call;
use rt32::{call, thread, tls};

use crate::{Verdict, check};

const THREADS: usize = 8;
const STACK_BYTES: usize = 16384;

#[repr(align(16))]
struct Stacks(UnsafeCell<[[u8; STACK_BYTES]; THREADS]>);

// SAFETY: each thread uses its own.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_BYTES]; THREADS]));
static DONE: AtomicU32 = AtomicU32::new(0);
static WRONG: AtomicU32 = AtomicU32::new(0);

/// Runs a body in all threads, with their numbers, and waits until all are done.
fn in_all(body: thread::Body, patience_ns: u64) -> Verdict {
    for number in 0..THREADS {
        let top = STACKS
            .0
            .get()
            .cast::<u8>()
            .wrapping_add((number + 1) * STACK_BYTES);
        // SAFETY: each stack is one thread's.
        unsafe { thread::spawn(top, body, number as u32)? };
    }
    let until = call::now_ns() + patience_ns;
    while DONE.load(Ordering::Relaxed) < THREADS as u32 {
        check!(call::now_ns() < until, DONE.load(Ordering::Relaxed));
        call::sleep_until(call::now_ns() + 1_000_000)?;
    }
    check!(
        WRONG.load(Ordering::Relaxed) == 0,
        WRONG.load(Ordering::Relaxed)
    );
    Ok(())
}

fn claim(holds: bool) {
    if !holds {
        WRONG.fetch_add(1, Ordering::Relaxed);
    }
}

extern "C" fn mind_storage(number: u32) {
    let area = tls::area();
    let mine = 0xABCD_0000 | number;
    tls::set_own(mine);
    claim(tls::vsyscall() == call::by_landing() as usize as u32);
    for _ in 0..200 {
        // SAFETY: the call lets others run. It goes through `gs:0x10`.
        let yielded = unsafe { call::plain_by(call::by_thread_storage, Call::Yield, [0; 3]) };
        claim(yielded == Ok([0; 3]));
        claim(tls::own() == mine && tls::area() == area);
        // SAFETY: the area's first word is its own address, as the kernel wrote it.
        claim(unsafe { (*area).self_address } == area as u64);
    }
    DONE.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn threads_have_storage_of_their_own() -> Verdict {
    in_all(mind_storage, 20_000_000_000)
}

extern "C" fn mind_registers(number: u32) {
    tls::set_own(number);
    for round in 0..4u32 {
        let seed = 0x5A00_0000 | number << 8 | round;
        let (ebx, edx, edi, left): (u32, u32, u32, u32);
        let mut vector = [seed, !seed, seed ^ 0x1234, seed.rotate_left(9)];
        // SAFETY: spins, with all registers that assembly can have and a vector register in use; flags are kept by `loop`.
        unsafe {
            asm!(
                "movups xmm5, [{vector}]",
                "xchg esi, {vector}",
                "2:",
                "loop 2b",
                "xchg esi, {vector}",
                "movups [{vector}], xmm5",
                vector = in(reg) vector.as_mut_ptr(),
                inout("ebx") seed ^ 1 => ebx,
                inout("edx") seed ^ 2 => edx,
                inout("edi") seed ^ 3 => edi,
                inout("ecx") 1_500_000u32 => left,
                out("xmm5") _,
                options(nostack),
            );
        }
        claim((ebx, edx, edi, left) == (seed ^ 1, seed ^ 2, seed ^ 3, 0));
        claim(vector == [seed, !seed, seed ^ 0x1234, seed.rotate_left(9)]);
        claim(tls::own() == number);
    }
    DONE.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn preemption_keeps_registers() -> Verdict {
    in_all(mind_registers, 60_000_000_000)
}
