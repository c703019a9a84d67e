//! What the kernel does about floating-point state, and that it does no more: by the counters of each CPU, which say how often it was
//! saved, loaded, and found where it was.
//!
//! The threads are machine code, because compiled code uses vector registers when it likes.

use abi::info::{FpuCounters, MachineInfo, ProcessState};
use abi::{Call, CpuSet, FaultKind, Priority, Protection};
use alloc::vec::Vec;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use rt::{Memory, time};

use super::faults::faulted;
use super::fpu::{AVX, enabled_components};
use super::tests;
use crate::bare::{self, Bare, reg};
use crate::clock::since;
use crate::runner;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, fail, must, same, skip};

tests! {
    the_kernel_decides_when_states_are_loaded_as_it_is_asked: 40,
    threads_that_do_not_use_the_fpu_cost_no_fpu_work: 40,
    steady_users_of_the_fpu_get_it_without_a_trap: 40,
    a_thread_that_stops_using_the_fpu_is_not_preloaded_for_long: 40,
    registers_keep_a_threads_state_unless_loading_is_eager: 40,
    registers_are_left_alone_over_idleness: 40,
    a_pending_x87_error_stays_with_its_thread: 40,
    wide_registers_of_the_dead_are_not_inherited: 40,
    no_memory_for_fpu_state_ends_only_the_thread_that_needs_it: 60,
}

const ROUNDS: u64 = 1000;
/// Rounds after which one that stops using the FPU does.
const HALF_WAY: u64 = 100;
/// What other threads may have done meanwhile: this one, and `init`.
const OTHERS: u64 = 200;

/// A CPU's counters.
fn counters(world: &World, cpu: u32) -> rt::Result<FpuCounters> {
    Ok(world.system.cpus()?[cpu as usize].fpu)
}

fn difference(before: FpuCounters, after: FpuCounters) -> FpuCounters {
    FpuCounters {
        saves: after.saves - before.saves,
        restores: after.restores - before.restores,
        traps: after.traps - before.traps,
        skipped: after.skipped - before.skipped,
        preloads: after.preloads - before.preloads,
        scrubs: after.scrubs - before.scrubs,
        ts_changes: after.ts_changes - before.ts_changes,
    }
}

/// Whether the kernel has decided to load states at every switch. Whether it does is for the tests to find out.
fn is_eager(world: &World) -> rt::Result<bool> {
    let machine = world.system.machine()?;
    Ok(machine.has_decided(MachineInfo::EAGER_FPU))
}

/// Whether it should have decided so, where this machine is asked for a mode: with `fpu=` on the command line, by the manifest, or by
/// a manifest that leaves it to the kernel, which goes by the maker then.
fn should_be_eager() -> Option<bool> {
    match runner::asked()? {
        "eager" => Some(true),
        "lazy" => Some(false),
        _ => {
            let leaf = __cpuid(0);
            // "GenuineIntel"; no machine of the tests is one of the few that execute in order.
            Some([leaf.ebx, leaf.edx, leaf.ecx] == [0x756E_6547, 0x4965_6E69, 0x6C65_746E])
        }
    }
}

/// The word where those that run side by side wait for each other, and a page for it.
const MEETING: u64 = 0x2000_0000;

/// Code that waits until as many as `r13` says have come to the word at `r12`; then the lines given.
macro_rules! together {
    ($($line:literal),+ $(,)?) => {
        code!(
            "lock inc dword ptr [r12]",
            "7:",
            "mov eax, ebp",
            "syscall",
            "cmp dword ptr [r12], r13d",
            "jb 7b",
            $($line),+
        )
    };
}

/// Yields `rbx` times without floating point, then ends.
fn plain() -> &'static [u8] {
    together!(
        "2:",
        "mov eax, ebp",
        "syscall",
        "dec rbx",
        "jnz 2b",
        "xor edi, edi",
        "mov eax, 50",
        "syscall",
    )
}

/// The same, counting in `xmm5` and in an x87 register; ends with code 0 if both have counted right.
fn counting() -> &'static [u8] {
    together!(
        "mov r12, rbx",
        "mov r13d, 1",
        "movq xmm4, r13",
        "pxor xmm5, xmm5",
        "fldz",
        "2:",
        "paddq xmm5, xmm4",
        "fld1",
        "faddp st(1), st",
        "mov eax, ebp",
        "syscall",
        "dec rbx",
        "jnz 2b",
        "movq rax, xmm5",
        "sub rsp, 16",
        "fistp qword ptr [rsp]",
        "xor edi, edi",
        "cmp rax, r12",
        "setne dil",
        "cmp [rsp], r12",
        "setne al",
        "or dil, al",
        "mov eax, 50",
        "syscall",
    )
}

/// Counts in `xmm5` for as many turns as `r15` says, then goes on to yield without floating point.
fn counting_then_plain() -> &'static [u8] {
    together!(
        "2:",
        "test r15, r15",
        "jz 3f",
        "paddq xmm5, xmm5",
        "dec r15",
        "3:",
        "mov eax, ebp",
        "syscall",
        "dec rbx",
        "jnz 2b",
        "xor edi, edi",
        "mov eax, 50",
        "syscall",
    )
}

/// A process that makes `rounds` turns of one of these on a CPU, when it has met all that share the page.
fn turns(code: &[u8], rounds: u64, cpu: u32, meeting: &Memory, all: u64) -> rt::Result<Bare> {
    let mut values = bare::pattern();
    values[reg::RBX] = rounds;
    values[reg::RBP] = Call::Yield as u64;
    // For those that stop half-way.
    values[15] = HALF_WAY;
    values[12] = MEETING;
    values[reg::R13] = all;
    let bare = Bare::new(code, &values)?;
    bare.process
        .map(meeting, MEETING, 0, 4096, Protection::READ_WRITE)?;
    bare.thread.set_affinity(&CpuSet::only(cpu))?;
    Ok(bare)
}

/// Says so unless a process came to a good end.
fn ended_well(bare: &Bare) -> Verdict {
    let info = must!(bare.run_to_end());
    check!(
        info.state == ProcessState::Exited as u32 && info.code == 0,
        "it {}",
        ending(&info)
    );
    Ok(())
}

/// What a CPU did while these ran side by side, each to a good end.
fn cost(world: &World, cpu: u32, codes: &[&[u8]]) -> Result<FpuCounters, crate::verdict::Why> {
    let meeting = must!(Memory::create(4096));
    let mut bares = Vec::new();
    for code in codes {
        bares.push(must!(turns(
            code,
            ROUNDS,
            cpu,
            &meeting,
            codes.len() as u64
        )));
    }
    let before = must!(counters(world, cpu));
    for bare in &bares {
        must!(bare.thread.start());
    }
    for bare in &bares {
        ended_well(bare)?;
    }
    Ok(difference(before, must!(counters(world, cpu))))
}

fn the_kernel_decides_when_states_are_loaded_as_it_is_asked(world: &'static World) -> Verdict {
    let Some(should) = should_be_eager() else {
        skip!("this machine's manifest does not say what is asked");
    };
    // That it does what it decided is the business of those below.
    same!(must!(is_eager(world)), should);
    Ok(())
}

fn threads_that_do_not_use_the_fpu_cost_no_fpu_work(world: &'static World) -> Verdict {
    for cpu in 0..world.cpus {
        let did = cost(world, cpu, &[plain(), plain()])?;
        check!(
            [
                did.saves,
                did.restores,
                did.traps,
                did.scrubs,
                did.ts_changes
            ]
            .iter()
            .all(|&count| count < OTHERS),
            "CPU {cpu}: {did:?}"
        );
    }
    Ok(())
}

fn steady_users_of_the_fpu_get_it_without_a_trap(world: &'static World) -> Verdict {
    for cpu in 0..world.cpus {
        let did = cost(world, cpu, &[counting(), counting()])?;
        check!(did.saves >= 2 * ROUNDS - OTHERS, "CPU {cpu}: {did:?}");
        check!(did.restores >= 2 * ROUNDS - OTHERS, "CPU {cpu}: {did:?}");
        check!(did.preloads >= 2 * ROUNDS - OTHERS, "CPU {cpu}: {did:?}");
        check!(did.traps < OTHERS, "CPU {cpu}: {did:?}");
        // CR0 is left alone between two that both find the registers open.
        check!(did.ts_changes < 2 * OTHERS, "CPU {cpu}: {did:?}");
    }
    Ok(())
}

fn a_thread_that_stops_using_the_fpu_is_not_preloaded_for_long(world: &'static World) -> Verdict {
    if must!(is_eager(world)) {
        skip!("with eager loading states are loaded at every switch");
    }
    for cpu in 0..world.cpus {
        let did = cost(world, cpu, &[counting_then_plain(), counting()])?;
        // Each of the two while both used it, then the first in vain for as long as it takes to notice; from there on the other finds
        // its registers as it left them.
        check!(did.restores > HALF_WAY, "CPU {cpu}: {did:?}");
        check!(
            did.restores < 2 * (HALF_WAY + 64) + OTHERS,
            "CPU {cpu}: {did:?}"
        );
        check!(
            did.skipped > ROUNDS - HALF_WAY - 64 - OTHERS,
            "CPU {cpu}: {did:?}"
        );
    }
    Ok(())
}

fn registers_keep_a_threads_state_unless_loading_is_eager(world: &'static World) -> Verdict {
    let eager = must!(is_eager(world));
    for cpu in 0..world.cpus {
        let did = cost(world, cpu, &[plain(), counting()])?;
        if eager {
            // The other one must not find them, not even by speculation.
            check!(did.scrubs >= ROUNDS - OTHERS, "CPU {cpu}: {did:?}");
            check!(did.restores >= ROUNDS - OTHERS, "CPU {cpu}: {did:?}");
        } else {
            check!(did.scrubs == 0, "CPU {cpu}: {did:?}");
            check!(did.skipped >= ROUNDS - OTHERS, "CPU {cpu}: {did:?}");
            check!(did.restores < OTHERS, "CPU {cpu}: {did:?}");
        }
    }
    Ok(())
}

fn registers_are_left_alone_over_idleness(world: &'static World) -> Verdict {
    const SLEEPS: u64 = 50;
    if world.cpus == 1 {
        skip!("the one CPU has this thread as well");
    }
    let cpu = world.cpus - 1;
    let mut values = bare::pattern();
    values[reg::RCX] = SLEEPS;
    let bare = must!(Bare::new(
        code!(
            "mov rbx, rcx",
            "pxor xmm5, xmm5",
            "2:",
            "paddq xmm5, xmm5",
            "mov eax, 3", // the time
            "syscall",
            "lea r14, [rdi + 500000]", // half a millisecond later
            "mov eax, 81",
            "syscall",
            "dec rbx",
            "jnz 2b",
            "xor edi, edi",
            "mov eax, 50",
            "syscall",
        ),
        &values
    ));
    must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
    let before = must!(counters(world, cpu));
    let info = must!(bare.run());
    check!(
        info.state == ProcessState::Exited as u32,
        "it {}",
        ending(&info)
    );
    let did = difference(before, must!(counters(world, cpu)));
    check!(did.skipped >= SLEEPS / 2, "{did:?}");
    check!(did.restores < SLEEPS / 2, "{did:?}");
    check!(did.ts_changes < SLEEPS / 2, "{did:?}");
    Ok(())
}

fn a_pending_x87_error_stays_with_its_thread(world: &'static World) -> Verdict {
    // It divides by zero, which is told at the next x87 instruction that waits, and lets the other run before that.
    let dividing = together!(
        "sub rsp, 16",
        "mov word ptr [rsp], 0x37B",
        "fldcw [rsp]",
        "fld1",
        "fldz",
        "fdivp st(1), st",
        "mov eax, ebp",
        "syscall",
        "mov eax, ebp",
        "syscall",
        "fwait",
        "ud2",
    );
    for cpu in 0..world.cpus {
        let meeting = must!(Memory::create(4096));
        let other = must!(turns(counting(), 200, cpu, &meeting, 2));
        let first = must!(turns(dividing, 1, cpu, &meeting, 2));
        must!(other.thread.start());
        faulted("fdiv", &must!(first.run()), FaultKind::X87)?;
        ended_well(&other)?;
    }
    Ok(())
}

fn wide_registers_of_the_dead_are_not_inherited(world: &'static World) -> Verdict {
    if enabled_components().is_none_or(|enabled| enabled & AVX == 0) {
        skip!("no AVX, or the kernel leaves it off");
    }
    let dirty = code!(
        "pcmpeqd xmm0, xmm0",
        "vinsertf128 ymm0, ymm0, xmm0, 1",
        "vmovaps ymm7, ymm0",
        "vmovaps ymm15, ymm0",
        "mov eax, 50",
        "syscall"
    );
    let clean = code!(
        "vorps ymm0, ymm0, ymm7",
        "vorps ymm0, ymm0, ymm15",
        "vextractf128 xmm1, ymm0, 1",
        "xor edi, edi",
        "vptest xmm1, xmm1",
        "setnz dil",
        "vptest xmm0, xmm0",
        "setnz al",
        "or dil, al",
        "movzx edi, dil",
        "mov eax, 50",
        "syscall",
    );
    for cpu in 0..world.cpus {
        for _ in 0..3 {
            for code in [dirty, clean] {
                let bare = must!(Bare::new(code, &bare::pattern()));
                must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
                let info = must!(bare.run());
                check!(
                    info.state == ProcessState::Exited as u32,
                    "it {}",
                    ending(&info)
                );
                check!(
                    code == dirty || info.code == 0,
                    "a new process on CPU {cpu} found another's registers"
                );
            }
        }
    }
    Ok(())
}

/// All memory that there is.
fn hoarded() -> rt::Result<Vec<Memory>> {
    let mut hoard = Vec::with_capacity(2);
    let piece = alloc::vec![1; 64 * 1024];
    for bytes in [64 * 1024, 4096] {
        let all = Memory::create(8 << 30)?;
        let mut offset = 0;
        while all.write(offset, &piece[..bytes]).is_ok() {
            offset += bytes as u64;
        }
        hoard.push(all);
    }
    Ok(hoard)
}

fn no_memory_for_fpu_state_ends_only_the_thread_that_needs_it(world: &'static World) -> Verdict {
    /// More than the areas that earlier threads have left behind.
    const THREADS: u32 = 80;
    const PLACE: u64 = 0x2000_0000;
    const PATIENCE: Duration = Duration::from_secs(30);
    let memory = must!(Memory::create(4096));
    let mapping = must!(memory.map(Protection::READ_WRITE));
    // SAFETY: mapped, aligned, and used as atomics by all.
    let words = unsafe { core::slice::from_raw_parts(mapping.as_ptr().cast::<AtomicU32>(), 3) };
    let [here, turn, served] = [&words[0], &words[1], &words[2]];
    let mut bares = Vec::new();
    for number in 1..=THREADS {
        let mut values = bare::pattern();
        values[reg::RBX] = PLACE;
        values[reg::RBP] = Call::Yield as u64;
        values[12] = u64::from(number);
        let bare = must!(Bare::new(
            code!(
                // All that it needs but the area is in place before it waits for its turn.
                "push rax",
                "lock inc dword ptr [rbx]",
                "2:",
                "mov eax, ebp",
                "syscall",
                "cmp dword ptr [rbx + 4], r12d",
                "jb 2b",
                "movq xmm0, rbx",
                "lock inc dword ptr [rbx + 8]",
                "3:",
                "mov r14, -1",
                "mov eax, 81",
                "syscall",
                "jmp 3b",
            ),
            &values
        ));
        must!(
            bare.process
                .map(&memory, PLACE, 0, 4096, Protection::READ_WRITE)
        );
        // They come here by yielding: this thread comes before them.
        must!(bare.thread.set_priority(Priority::LOWEST));
        must!(bare.thread.start());
        bares.push(bare);
    }
    let start = time::now();
    while here.load(Ordering::Acquire) < THREADS {
        check!(since(start) < PATIENCE, "not all of them run");
        must!(time::sleep(Duration::from_millis(1)));
    }
    // Until it is its turn each stands still: eighty that yield leave little of the machine to the one that takes its memory.
    for bare in &bares {
        // SAFETY: it is another process's, in machine code, and holds nothing.
        must!(unsafe { bare.thread.suspend(time::after(PATIENCE)) });
    }
    // What is asked below is asked once before, so that its stack is in place.
    same!(
        must!(bares[0].process.info()).state,
        ProcessState::Alive as u32
    );
    let free = must!(world.system.memory()).free;
    let hoard = must!(hoarded());
    let mut refused = None;
    for (index, bare) in bares.iter().enumerate() {
        turn.store(index as u32 + 1, Ordering::Release);
        must!(bare.thread.resume());
        let start = time::now();
        let info = loop {
            let info = must!(bare.process.info());
            if served.load(Ordering::Acquire) as usize > index
                || info.state != ProcessState::Alive as u32
            {
                break info;
            }
            check!(since(start) < PATIENCE, "thread {index} did neither");
            must!(time::sleep(Duration::from_millis(1)));
        };
        if info.state != ProcessState::Alive as u32 {
            refused = Some((index, info));
            break;
        }
    }
    drop(hoard);
    let Some((index, info)) = refused else {
        fail!("there was memory for all");
    };
    faulted("the first use", &info, FaultKind::NoFpu)?;
    // The others live, those that have an area and those that have not come to it; and one of these gets its own now.
    for bare in bares
        .iter()
        .filter(|bare| !core::ptr::eq(*bare, &raw const bares[index]))
    {
        same!(must!(bare.process.info()).state, ProcessState::Alive as u32);
    }
    // What a dead object had comes back in the background, some time after its last handle is closed.
    let start = time::now();
    while must!(world.system.memory()).free < free / 2 {
        check!(since(start) < PATIENCE, "the memory does not come back");
        must!(time::sleep(Duration::from_millis(1)));
    }
    turn.store(index as u32 + 2, Ordering::Release);
    if let Some(next) = bares.get(index + 1) {
        must!(next.thread.resume());
    }
    while (served.load(Ordering::Acquire) as usize) <= index && index + 1 < bares.len() {
        check!(since(start) < PATIENCE, "the next one is not served");
        must!(time::sleep(Duration::from_millis(1)));
    }
    Ok(())
}
