//! Random system calls, thousands of them: whatever they do to the program that makes them, the kernel lives on.

use abi::info::ProcessState;
use abi::{Call, Rights};
use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;
use rt::{AsHandle, System, start, time};

use super::tests;
use crate::roles::Role;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, must};

tests! {
    random_system_calls_do_no_harm: 60,
}

/// The partners of these tests.
pub const ROLES: &[Role] = &[Role {
    name: "grind",
    run: grind,
}];

/// Where the first program begins; the others count on. Fixed, so that what happened happens again.
const SEED: u64 = 0x5EED_0001;
const PROGRAMS: u64 = 6;
const CALLS: u64 = 2500;

/// Marsaglia's xorshift with 64 bits of state (Journal of Statistical Software 8(14), 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// An argument: a handle, an address, a small number, a number with one bit, or anything.
fn argument(random: &mut Random, handles: &[u64], room: u64) -> u64 {
    match random.below(10) {
        0..=3 if !handles.is_empty() => handles[random.below(handles.len() as u64) as usize],
        0..=4 => random.below(5),
        5 => room + random.below(4096),
        6 => random.below(16) * 4096,
        7 => 1 << random.below(64),
        8 => room + random.below(1 << 20),
        _ => random.next(),
    }
}

/// Makes random calls. Comes to its end by itself, or by what it did to itself.
fn grind(world: &'static World, seed: &str) -> u64 {
    let mut random = Random(seed.parse().unwrap_or(1));
    // Only what a program may have that can't touch the machine: the right to ask.
    let Ok(system) = start::take::<System>("asking") else {
        return 1;
    };
    let mut handles = alloc::vec![system.handle().0, rt::process::current().handle().0];
    let room = alloc::vec![0_u8; 8192];
    for _ in 0..CALLS {
        let number = match random.below(20) {
            0 => random.next(),
            1 => random.below(128),
            _ => Call::ALL[random.below(Call::ALL.len() as u64) as usize] as u64,
        };
        // Rarely, or it would be over too soon.
        let ends = [
            Call::ProcessExit,
            Call::ThreadExit,
            Call::ProcessKill,
            Call::ThreadKill,
            Call::MemoryUnmap,
        ];
        if ends.iter().any(|end| *end as u64 == number) && random.below(50) != 0 {
            continue;
        }
        // The log is not the place for random text; nor is the machine's end part of this, nor a thread that nobody resumes, or
        // whose faults nobody answers.
        if [
            Call::LogWrite,
            Call::SystemPower,
            Call::LogTake,
            Call::ThreadSuspend,
            Call::ReportTo,
        ]
        .iter()
        .any(|call| *call as u64 == number)
        {
            continue;
        }
        let mut arguments = [0; 6];
        for value in &mut arguments {
            *value = argument(&mut random, &handles, room.as_ptr() as u64);
        }
        let soon = time::now_ns() + random.below(300_000);
        let mut registers = rt::sys::IpcRegisters {
            handle: arguments[0],
            tag: if random.below(2) == 0 {
                arguments[1]
            } else {
                random.below(1 << 13) | random.below(8) << 16
            },
            words: [arguments[2], arguments[3], arguments[4], arguments[5], 0, 0],
            deadline: if random.below(4) == 0 { 0 } else { soon },
            reply: arguments[5],
        };
        for slot in 0..4 {
            // SAFETY: the area is this thread's own.
            unsafe {
                (*rt::sys::area()).handles_out[slot] = argument(&mut random, &handles, 0);
                (*rt::sys::area()).accept = random.below(8);
            }
        }
        // SAFETY: none is given. The process is there to be ruined.
        let status = unsafe { rt::sys::ipc(number, &mut registers) };
        if status == 0
            && registers.handle >> 32 != 0
            && registers.handle >> 48 == 0
            && handles.len() < 64
        {
            handles.push(registers.handle);
        }
    }
    let _ = world;
    0
}

fn random_system_calls_do_no_harm(world: &'static World) -> Verdict {
    must!(world.log.write(&format!("grinding from seed {SEED:#x}\n")));
    let asking = must!(
        world
            .system
            .duplicate(Rights::QUERY | Rights::TRANSFER | Rights::DUPLICATE)
    );
    let mut running = Vec::new();
    for number in 0..PROGRAMS {
        let child = must!(world.spawn(
            &format!("role grind {}", SEED + number),
            &[("asking", asking.handle())]
        ));
        running.push(child);
        // As many at a time as there are CPUs, and one more.
        if running.len() > world.cpus as usize {
            let child = running.remove(0);
            finish(&child)?;
        }
    }
    for child in &running {
        finish(child)?;
    }
    // The kernel still does what it should.
    let child = must!(world.spawn("role panic", &[]));
    let info = must!(child.end(Duration::from_secs(5)));
    check!(
        info.state == ProcessState::Exited as u32,
        "afterwards a program {}",
        ending(&info)
    );
    Ok(())
}

fn finish(child: &crate::world::Child) -> Verdict {
    // It may have ended in any way, even by being ended here for want of an end; but ended it must have.
    let info = must!(child.end(Duration::from_secs(8)));
    check!(
        info.state != ProcessState::Alive as u32 && info.threads == 0,
        "it {}",
        ending(&info)
    );
    Ok(())
}
