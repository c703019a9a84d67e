//! What must hold while somebody outside of the machine injects NMIs into it, or stops it before each instruction of the kernel's
//! entries with a debugger.
//!
//! Alone these tests show little, so they are not among those that run by themselves: the host program asks for them by an argument
//! (`injection NAME`), and does its part when they say that they have begun. Two of them go through all ways into the kernel and out of it
//! with every general register, the flags, and the FS and GS bases known.

use abi::info::{CpuInfo, ProcessInfo, ProcessState};
use abi::{Call, Error, FaultKind};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use rt::process::Mode;
use rt::{AsHandle, Endpoint, Memory, Notification, Plain, Process, Protection, thread, time};

use super::faults::faulted;
use super::tests;
use crate::bare::{self, CODE, STACK_TOP};
use crate::registers::*;
use crate::verdict::{Verdict, Why};
use crate::world::{self, World};
use crate::{check, code, must, same};

tests! {
    registers_survive_a_storm_of_nmis: 150,
    registers_survive_events_at_each_instruction_of_the_entries: 600,
    sleeps_end_although_something_comes_before_the_halt: 120,
}

/// The line by which a test says that the outside may begin.
const BEGINS: &str = "injection: begin\n";
/// The line by which the storm is called off.
const ENOUGH: &str = "injection: enough\n";
/// For how long no NMI may come when it is over.
const CALM: Duration = Duration::from_millis(500);
/// NMIs that each CPU must have taken before the storm is over.
const NMIS: u64 = 2_000;
/// How long the storm may last at most.
const STORM: Duration = Duration::from_secs(110);
/// How many NMIs that test waits for, how often it sleeps after the last, and how long.
const INJECTED: u64 = 5;
const SLEEPS: u32 = 100;
const SLEEP: Duration = Duration::from_millis(20);
/// Laps through all the ways: an outside that stops at each instruction needs a few to have done everything there.
const LAPS: u64 = 6;

/// GS bases to go into the kernel with: what a program may have, and with FSGSBASE also what looks like the kernel's own.
const BASES: [u64; 6] = [
    0,
    0x1234_5678_9000,
    0x7FFF_FFFF_FFFF,
    0xFFFF_8000_0000_0000,
    0xFFFF_E000_0000_1000,
    0xFFFF_FFFF_8000_0000,
];

fn registers_survive_a_storm_of_nmis(world: &'static World) -> Verdict {
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for cpu in 0..world.cpus {
        // Two, so that they switch.
        for seed in 0..2 {
            let stop = Arc::clone(&stop);
            let traveller = must!(Traveller::new(cpu, u64::from(cpu) << 8 | seed));
            let builder = thread::Builder::new().cpu(cpu);
            threads.push(must!(builder.spawn(move || traveller.travel(&stop))));
        }
    }
    must!(world.log.write(BEGINS));
    let begin = time::now();
    loop {
        must!(time::sleep(Duration::from_millis(50)));
        let cpus = must!(world.system.cpus());
        if cpus.iter().all(|cpu| cpu.nmis >= NMIS) || crate::clock::since(begin) > STORM {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let laps = must!(thread.join(time::after(Duration::from_secs(30))))?;
        check!(laps > 0, "a thread did not come round");
    }
    must!(world.log.write(ENOUGH));
    let cpus = calm(world)?;
    for cpu in cpus {
        let line = format!("injection: CPU {} took {} NMIs\n", cpu.index, cpu.nmis);
        must!(world.log.write(&line));
        check!(
            cpu.nmis >= NMIS,
            "CPU {} took {} NMIs only",
            cpu.index,
            cpu.nmis
        );
    }
    Ok(())
}

/// Waits until no more NMIs come: the outside must have stopped before the machine is switched off.
fn calm(world: &'static World) -> Result<Vec<CpuInfo>, Why> {
    let begin = time::now();
    let mut before = must!(world.system.cpus());
    loop {
        must!(time::sleep(CALM));
        let now = must!(world.system.cpus());
        if now.iter().zip(&before).all(|(a, b)| a.nmis == b.nmis) {
            return Ok(now);
        }
        check!(crate::clock::since(begin) < STORM, "the NMIs do not stop");
        before = now;
    }
}

fn registers_survive_events_at_each_instruction_of_the_entries(world: &'static World) -> Verdict {
    let traveller = must!(Traveller::new(0, 1));
    must!(world.log.write(BEGINS));
    for lap in 0..LAPS {
        traveller.lap(lap)?;
        children()?;
        old_entries()?;
    }
    for cpu in must!(world.system.cpus()) {
        let line = format!("injection: CPU {} took {} NMIs\n", cpu.index, cpu.nmis);
        must!(world.log.write(&line));
    }
    Ok(())
}

/// The outside injects something between `sti` and `hlt` of the idle CPU, when the interrupt that ends the sleep waits already: a
/// CPU that halts then is woken by nobody.
fn sleeps_end_although_something_comes_before_the_halt(world: &'static World) -> Verdict {
    must!(world.log.write(BEGINS));
    // The outside injects as many NMIs as machine checks.
    while must!(world.system.cpus())[0].nmis < INJECTED {
        must!(time::sleep(SLEEP));
    }
    // The last one's machine check comes yet.
    for _ in 0..SLEEPS {
        must!(time::sleep(SLEEP));
    }
    Ok(())
}

/// A thread's way through the kernel, and whom it meets there.
struct Traveller {
    seed: u64,
    server: Endpoint,
    /// A server whose partner goes straight to it and back.
    direct: Endpoint,
    /// The same for signals.
    bells: Arc<super::direct_waits::Bells>,
}

impl Traveller {
    /// With a server of its own, on the same CPU.
    fn new(cpu: u32, seed: u64) -> rt::Result<Traveller> {
        let endpoint = Arc::new(Endpoint::create()?);
        let server = endpoint.mint(rt::Badge(seed), abi::Rights::SEND)?;
        thread::Builder::new().cpu(cpu).spawn(move || {
            while let Ok(rt::Event::Message(received)) =
                endpoint.recv(0, time::after(Duration::from_mins(10)))
            {
                let answer = rt::Message::new(0).with_words(received.words.map(|word| !word));
                let _ = received.reply.map(|reply| reply.answer(answer));
            }
        })?;
        let straight = Endpoint::create()?;
        let direct = straight.mint(rt::Badge(super::direct::BADGE), abi::Rights::SEND)?;
        thread::Builder::new().cpu(cpu).spawn(move || {
            let answered = super::direct::answer_all(straight.handle(), seed);
            // The caller hears of it: it gets an error for an answer.
            drop(straight);
            answered
        })?;
        let bells = Arc::new(super::direct_waits::Bells::new()?);
        let other = Arc::clone(&bells);
        thread::Builder::new()
            .cpu(cpu)
            .spawn(move || other.answer_all(seed))?;
        Ok(Traveller {
            seed,
            server,
            direct,
            bells,
        })
    }

    /// Lap after lap until told to stop. Returns how many.
    fn travel(&self, stop: &AtomicBool) -> Result<u64, Why> {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            self.lap(round)?;
            round += 1;
        }
        Ok(round)
    }

    /// Once through the ways that leave the thread alive.
    fn lap(&self, round: u64) -> Verdict {
        let area = rt::sys::area() as u64;
        let base = set_gs_base(BASES[(round % BASES.len() as u64) as usize]);
        self.calls(round)?;
        self.interruptions(round)?;
        self.message(round)?;
        self.birth(round)?;
        same!(rt::sys::area() as u64, area);
        same!(gs_base(), base);
        Ok(())
    }

    fn calls(&self, round: u64) -> Verdict {
        let calls = [
            (Call::Null as u64, 0),
            (Call::Yield as u64, 0),
            // A deadline that is over.
            (Call::Sleep as u64, 0),
            (999, Error::UnknownCall as u64),
        ];
        for (number, status) in calls {
            let before = Registers {
                rax: number,
                r14: 1,
                flags: BASE_FLAGS | ARITHMETIC | DIRECTION,
                ..pattern(self.seed ^ round << 16)
            };
            let mut after = before;
            // SAFETY: these calls do nothing.
            unsafe { through_syscall(&mut after) };
            same!(
                after,
                Registers {
                    rax: status,
                    rcx: after.rcx,
                    r11: before.flags,
                    ..done(number, before)
                }
            );
            let mut after = before;
            // SAFETY: as above.
            unsafe { through_interrupt(&mut after) };
            same!(
                after,
                Registers {
                    rax: status,
                    ..done(number, before)
                }
            );
        }
        Ok(())
    }

    /// A page fault, the timer, and a first use of the FPU.
    fn interruptions(&self, round: u64) -> Verdict {
        let page = must!(must!(Memory::create(4096)).map(Protection::READ_WRITE));
        let before = Registers {
            rbx: page.as_ptr() as u64 + 8,
            flags: BASE_FLAGS | ARITHMETIC,
            ..pattern(self.seed ^ round)
        };
        let mut after = before;
        // SAFETY: the page is the test's.
        unsafe { through_write(&mut after) };
        same!(after, before);
        let before = Registers {
            rcx: 30_000,
            ..before
        };
        let mut after = before;
        // SAFETY: it spins and that is all.
        unsafe { through_time(&mut after) };
        same!(after, Registers { rcx: 0, ..before });
        let mut after = before;
        // SAFETY: it may lose xmm0.
        unsafe { through_fpu(&mut after) };
        same!(after, before);
        Ok(())
    }

    /// There and back to the server.
    fn message(&self, round: u64) -> Verdict {
        let words = [round, !round, self.seed, 3, 4, 5];
        let message = Plain { label: 0, words };
        let answer = must!(
            self.server
                .call_plain(message, time::after(Duration::from_mins(1)))
        );
        same!(answer.words, words.map(|word| !word));
        super::direct::calls(self.direct.handle(), 34, self.seed ^ round << 40)?;
        self.bells.ring(17, self.seed ^ round << 40)
    }

    /// A thread's first way out, and its end.
    fn birth(&self, round: u64) -> Verdict {
        let want = self.seed ^ round;
        let child = must!(thread::spawn(move || want));
        same!(must!(child.join(time::after(Duration::from_mins(1)))), want);
        Ok(())
    }
}

/// Programs that end by a fault on each kind of way in: invalid instruction, breakpoint, single step over each kind of entry.
fn children() -> Verdict {
    let cases: [(&[u8], FaultKind); 9] = [
        // A stack segment that goes bad in the kernel: `iretq` faults (see `segments.rs`).
        (
            code!(
                "xor edi, edi",
                "xor esi, esi",
                "movabs rdx, 0x00CFF3000000FFFF",
                "mov eax, 66",
                "syscall",
                "mov eax, 0x43",
                "mov ss, eax",
                "xor edi, edi",
                "xor edx, edx",
                "mov eax, 66",
                "int 0x80",
                "ud2"
            ),
            FaultKind::SegmentNotPresent,
        ),
        (code!("ud2"), FaultKind::InvalidInstruction),
        (code!("int3"), FaultKind::Breakpoint),
        (code!("div rsp"), FaultKind::Divide),
        (code!("mov rax, [rax]"), FaultKind::Protection),
        (
            code!(
                "pushfq",
                "or dword ptr [rsp], 0x100",
                "xor eax, eax",
                "popfq",
                "syscall",
                "nop",
                "ud2"
            ),
            FaultKind::Debug,
        ),
        // The calls that may go straight to a partner: not if they are stepped over.
        (
            code!(
                "pushfq",
                "or dword ptr [rsp], 0x100",
                "mov eax, 8",
                "mov r14, -1",
                "popfq",
                "syscall",
                "nop",
                "ud2"
            ),
            FaultKind::Debug,
        ),
        (
            code!(
                "pushfq",
                "or dword ptr [rsp], 0x100",
                "mov eax, 12",
                "mov r14, -1",
                "popfq",
                "syscall",
                "nop",
                "ud2"
            ),
            FaultKind::Debug,
        ),
        (
            code!(
                "pushfq",
                "or dword ptr [rsp], 0x100",
                "xor eax, eax",
                "popfq",
                "int 0x80",
                "nop",
                "ud2"
            ),
            FaultKind::Debug,
        ),
    ];
    for (code, kind) in cases {
        let info = must!(must!(bare::Bare::new(code, &bare::pattern())).run_for(PATIENCE));
        let bad_return = kind == FaultKind::SegmentNotPresent;
        if bad_return && info.context.error_code == 0x40 && info.context.ss == 0x43 {
            // Which of three faults it is depends on the CPU.
            continue;
        }
        faulted("a child", &info, kind)?;
    }
    Ok(())
}

/// How long a child may take while a debugger stops the machine again and again.
const PATIENCE: Duration = Duration::from_mins(1);

/// `sysenter` and 32-bit `syscall`, of which a CPU has one or the other: the one that it lacks is an invalid instruction.
fn old_entries() -> Verdict {
    // `mov eax, 0x7F; sysenter; ud2` and the same with `syscall`. The number is no call's.
    let sysenter: &[u8] = &[0xB8, 0x7F, 0, 0, 0, 0x0F, 0x34, 0x0F, 0x0B];
    let syscall: &[u8] = &[0xB8, 0x7F, 0, 0, 0, 0x0F, 0x05, 0x0F, 0x0B];
    for code in [sysenter, syscall] {
        let info = must!(run_in_32_bits(code));
        // Back at its `ud2`, or at the landing page's `ret` and from there to address 0, or never gone.
        check!(
            info.state == ProcessState::Faulted as u32,
            "{}",
            world::ending(&info)
        );
    }
    Ok(())
}

/// Runs 32-bit code in a process of its own.
fn run_in_32_bits(code: &[u8]) -> rt::Result<ProcessInfo> {
    let process = Process::create_in(Mode::Compat, "bare32", rt::Priority::LOWEST)?;
    let text = Memory::create(4096)?;
    text.write(0, code)?;
    process.map(&text, CODE, 0, 4096, Protection::READ_EXECUTE)?;
    let stack = Memory::create(4096)?;
    process.map(&stack, STACK_TOP - 4096, 0, 4096, Protection::READ_WRITE)?;
    let done = Notification::create()?;
    process.watch(&done, 1)?;
    // SAFETY: the process is not this one.
    let thread = unsafe { process.create_thread(CODE, STACK_TOP - 64, 0) }?;
    thread.start()?;
    world::end(&process, &done, PATIENCE)
}

fn has_fsgsbase() -> bool {
    __cpuid_count(7, 0).ebx & 1 != 0
}

/// Sets the GS base where a program can, and returns it.
fn set_gs_base(base: u64) -> u64 {
    if has_fsgsbase() {
        // SAFETY: nothing of a program uses GS; the CPU has the instruction (Intel SDM vol. 2B, WRGSBASE), and the kernel lets
        // user code have it where it does.
        unsafe { asm!("wrgsbase {}", in(reg) base, options(nomem, nostack)) };
    }
    gs_base()
}

/// The GS base; 0 where a program can't have one.
fn gs_base() -> u64 {
    if !has_fsgsbase() {
        return 0;
    }
    let base;
    // SAFETY: as above.
    unsafe { asm!("rdgsbase {}", out(reg) base, options(nomem, nostack)) };
    base
}
