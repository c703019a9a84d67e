//! I/O ports that are given and taken back, while threads use them on every CPU.

use abi::{Call, CpuSet, Error, FaultKind, Protection, Rights};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use rt::{AsHandle, IoPorts, Memory, Thread, time};

use super::contexts::{START, prepared};
use super::faults::faulted;
use super::tests;
use crate::bare::{self, Bare};
use crate::kernel_calls::refused;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, must, same};

tests! {
    io_ports_taken_back_are_gone_on_every_cpu_when_the_call_returns: 60,
    io_ports_are_taken_back_one_by_one: 40,
    io_ports_end_at_the_last_one: 40,
    io_ports_come_and_go_with_their_thread: 40,
    io_ports_are_taken_back_by_those_who_may: 40,
}

/// A port that only diagnostics cards listen to: reading and writing have no effect.
const PORT: u16 = 0x80;
/// Where programs have the memory that they share with the test.
const SHARED: u64 = 0x60_0000;

const _: () = assert!(Call::IoPortsEnable as u64 == 76 && Call::Yield as u64 == 1);

/// Enables the ports of handle rbx if rsi is not 0, says so in the shared memory, and waits until somebody has.
macro_rules! enable {
    ($($line:expr),+ $(,)?) => {
        code!(
            "test rsi, rsi",
            "jz 2f",
            "mov rbp, rdi",
            "mov rdi, rbx",
            "mov eax, 76",
            "syscall",
            "mov rdi, rbp",
            "test eax, eax",
            "jnz 9f",
            "mov qword ptr [rdi + 8], 1",
            "2:",
            "pause",
            "cmp qword ptr [rdi + 8], 0",
            "je 2b",
            $($line,)+
            "9:",
            "ud2",
        )
    };
}

/// A program that has a handle to some ports and shares a page with the test.
struct Program {
    bare: Bare,
    ports: IoPorts,
    page: rt::Mapping,
    threads: Vec<Thread>,
}

impl Program {
    /// The program, with one thread for each of `cpus` (`None`: anywhere). The first enables the ports.
    fn new(
        world: &World,
        code: &[u8],
        (first, count): (u16, u32),
        cpus: &[Option<u32>],
    ) -> rt::Result<Program> {
        let ports = IoPorts::create(&world.system, first, count)?;
        let bare = Bare::new(code, &bare::pattern())?;
        let handle = bare.process.grant(&ports, Rights::MANAGE)?;
        let memory = Memory::create(4096)?;
        bare.process
            .map(&memory, SHARED, 0, 4096, Protection::READ_WRITE)?;
        let page = memory.map(Protection::READ_WRITE)?;
        let mut threads = Vec::new();
        for (number, cpu) in cpus.iter().enumerate() {
            // SAFETY: the process is not this one. The code uses no stack.
            let thread = unsafe { bare.process.create_thread(START, bare::STACK_TOP, 0) }?;
            let mut context = thread.registers()?;
            context.rsi = u64::from(number == 0);
            (context.rbx, context.rdi) = (handle.0, SHARED);
            context.rdx = u64::from(first);
            // SAFETY: as above.
            unsafe { thread.set_registers(&context) }?;
            thread.set_affinity(&cpu.map_or(CpuSet::ALL, CpuSet::only))?;
            threads.push(thread);
        }
        Ok(Program {
            bare,
            ports,
            page,
            threads,
        })
    }

    fn start(&self) -> rt::Result<()> {
        self.threads.iter().try_for_each(Thread::start)
    }

    /// A word of the shared page.
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the page holds 512 aligned words and is mapped as long as the program lives.
        unsafe { &*self.page.as_ptr().cast::<AtomicU64>().add(index) }
    }

    /// Waits until the first word is so high, or the program has ended.
    fn wait_for(&self, count: u64) -> Verdict {
        let start = time::now();
        while self.word(0).load(Ordering::SeqCst) < count {
            let info = must!(self.bare.process.info());
            check!(
                info.state == abi::info::ProcessState::Alive as u32,
                "{}",
                ending(&info)
            );
            check!(
                time::now().saturating_sub(start) < Duration::from_secs(10),
                "the ports are not used"
            );
            must!(time::sleep(Duration::from_micros(200)));
        }
        Ok(())
    }
}

fn io_ports_taken_back_are_gone_on_every_cpu_when_the_call_returns(
    world: &'static World,
) -> Verdict {
    let code = enable!("3:", "in al, dx", "lock inc qword ptr [rdi]", "jmp 3b");
    let cpus: Vec<_> = (0..world.cpus).map(Some).collect();
    // An emulator takes its time for each access of each CPU.
    for round in 1..=4 {
        let program = must!(Program::new(world, code, (PORT, 1), &cpus));
        must!(program.start());
        program.wait_for(round * 20)?;
        must!(program.ports.disable(&program.bare.process));
        let used = program.word(0).load(Ordering::SeqCst);
        let info = must!(program.bare.run_to_end());
        faulted("a port taken back", &info, FaultKind::Protection)?;
        // Each thread may have been between its `in` and its count.
        let later = program.word(0).load(Ordering::SeqCst) - used;
        check!(
            later <= u64::from(world.cpus),
            "the port was used {later} times more by {} threads",
            world.cpus
        );
    }
    Ok(())
}

fn io_ports_are_taken_back_one_by_one(world: &'static World) -> Verdict {
    // Uses two ports in turn until told by the third word, then the port that it names.
    let code = enable!(
        "3:",
        "in al, dx",
        "inc edx",
        "out dx, al",
        "dec edx",
        "in ax, dx",
        "lock inc qword ptr [rdi]",
        "cmp qword ptr [rdi + 16], 0",
        "je 3b",
        "mov edx, [rdi + 16]",
        "in al, dx",
        "inc edx",
        "mov rcx, [rdi]",
        "in al, dx",
    );
    // Of three ports the last is taken back: the first two go on.
    let program = must!(Program::new(world, code, (PORT, 3), &[None]));
    let last = must!(IoPorts::create(&world.system, PORT + 2, 1));
    must!(program.start());
    program.wait_for(5)?;
    must!(last.disable(&program.bare.process));
    // Once more, and what was never allowed: nothing changes.
    must!(last.disable(&program.bare.process));
    let never = must!(IoPorts::create(&world.system, 0xED, 1));
    must!(never.disable(&program.bare.process));
    program.wait_for(program.word(0).load(Ordering::SeqCst) + 5)?;
    // The second may be used, the third not.
    program.word(2).store(u64::from(PORT) + 1, Ordering::SeqCst);
    let info = must!(program.bare.run_to_end());
    faulted("the third port", &info, FaultKind::Protection)?;
    same!(info.context.rdx, u64::from(PORT) + 2);
    // A word that reaches from an allowed port into one that was taken back.
    let word = enable!(
        "in ax, dx",
        "lock inc qword ptr [rdi]",
        "3:",
        "cmp qword ptr [rdi + 16], 0",
        "je 3b",
        "in al, dx",
        "mov ecx, 1234",
        "in ax, dx",
    );
    let program = must!(Program::new(world, word, (PORT, 2), &[None]));
    let second = must!(IoPorts::create(&world.system, PORT + 1, 1));
    must!(program.start());
    program.wait_for(1)?;
    must!(second.disable(&program.bare.process));
    program.word(2).store(1, Ordering::SeqCst);
    let info = must!(program.bare.run_to_end());
    faulted("half a word", &info, FaultKind::Protection)?;
    same!(info.context.rcx & 0xFFFF_FFFF, 1234);
    Ok(())
}

fn io_ports_end_at_the_last_one(world: &'static World) -> Verdict {
    const LAST: u16 = 0xFFFF;
    let byte = enable!("in al, dx", "mov ecx, 4321", "ud2");
    let word = enable!("mov ecx, 4321", "in ax, dx");
    let long = enable!("mov edx, 0xFFFD", "mov ecx, 4321", "in eax, dx");
    for (code, range, kind) in [
        (byte, (LAST, 1), FaultKind::InvalidInstruction),
        (byte, (0, 65_536), FaultKind::InvalidInstruction),
        (word, (LAST, 1), FaultKind::Protection),
        (word, (LAST - 1, 2), FaultKind::InvalidInstruction),
        (long, (LAST - 3, 4), FaultKind::Protection),
    ] {
        let program = must!(Program::new(world, code, range, &[None]));
        must!(program.start());
        let info = must!(program.bare.run_to_end());
        faulted("the last port", &info, kind)?;
        same!(info.context.rcx & 0xFFFF_FFFF, 4321);
    }
    // All ports are allowed, and still none is past the last.
    let past = enable!("mov edx, 0xFFFF", "mov ecx, 4321", "in ax, dx");
    let program = must!(Program::new(world, past, (0, 65_536), &[None]));
    must!(program.start());
    let info = must!(program.bare.run_to_end());
    faulted("past the last port", &info, FaultKind::Protection)?;
    same!(info.context.rcx & 0xFFFF_FFFF, 4321);
    Ok(())
}

fn io_ports_come_and_go_with_their_thread(world: &'static World) -> Verdict {
    // On each CPU two programs with different ports, and one without, take turns.
    let code = enable!(
        "3:",
        "in al, dx",
        "lock inc qword ptr [rdi]",
        "mov rbp, rdi",
        "mov r12, rdx",
        "mov eax, 1",
        "syscall",
        "mov rdi, rbp",
        "mov rdx, r12",
        "jmp 3b",
    );
    let cpus: Vec<_> = (0..world.cpus).map(Some).collect();
    let first = must!(Program::new(world, code, (PORT, 1), &cpus));
    let second = must!(Program::new(world, code, (0xED, 1), &cpus));
    must!(first.start());
    must!(second.start());
    let mut reached = 20;
    // On four of the CPUs: an emulator takes its time for each access of each CPU.
    for cpu in (0..world.cpus).step_by(world.cpus.div_ceil(4) as usize) {
        first.wait_for(reached)?;
        second.wait_for(reached)?;
        reached += 20;
        // After some turns, one that has no ports at all tries both.
        for port in [u64::from(PORT), 0xED] {
            let none = must!(prepared(
                code!(
                    "mov ebx, 20",
                    "2:",
                    "mov eax, 1",
                    "syscall",
                    "dec ebx",
                    "jnz 2b",
                    "mov edx, ebp",
                    "in al, dx",
                    "ud2"
                ),
                |context| context.rbp = port
            ));
            must!(none.thread.set_affinity(&CpuSet::only(cpu)));
            let info = must!(none.run());
            faulted("somebody else's port", &info, FaultKind::Protection)?;
        }
    }
    // What is taken from one stays the other's.
    must!(first.ports.disable(&first.bare.process));
    let info = must!(first.bare.run_to_end());
    faulted("a port taken back", &info, FaultKind::Protection)?;
    must!(first.ports.disable(&second.bare.process));
    second.wait_for(second.word(0).load(Ordering::SeqCst) + 50)?;
    must!(second.bare.process.kill(0));
    must!(second.bare.run_to_end());
    Ok(())
}

fn io_ports_are_taken_back_by_those_who_may(world: &'static World) -> Verdict {
    let ports = must!(IoPorts::create(&world.system, PORT, 1));
    let own = rt::process::current();
    let weak = must!(ports.duplicate(Rights::DUPLICATE));
    let disable = Call::IoPortsDisable;
    let (process, good) = (own.handle().0, ports.handle().0);
    refused(disable, &[0, good], Error::BadHandle)?;
    refused(disable, &[process, 0], Error::BadHandle)?;
    refused(disable, &[good, good], Error::WrongObject)?;
    refused(disable, &[process, process], Error::WrongObject)?;
    refused(disable, &[process, weak.handle().0], Error::NoRight)?;
    // One that has none, and one that has ended.
    must!(ports.disable(&own));
    let bare = must!(Bare::new(code!("ud2"), &bare::pattern()));
    must!(bare.run());
    must!(ports.disable(&bare.process));
    Ok(())
}
