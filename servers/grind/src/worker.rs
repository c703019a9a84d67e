//! A program that makes random calls, by several threads at once. It is there to be ruined.
//!
//! Its threads use nothing of the SDK while they grind but the clock: their FS base, their handles and their memory may be anything by then.

use abi::{Call, Error, SHORT_CALLS};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use grind::random::Random;
use rt::{AsHandle, Endpoint, Log, Memory, Notification, OwnedHandle, Protection, System, start};
use rt::{process, thread, time};

use crate::arguments::{self, BAD, Class, Kind, Pool, Source, shape};
use crate::entry::{Registers, Way, enter};
use crate::report::{Report, Wrong};

/// Threads of a worker.
const THREADS: u64 = 3;
/// Bytes of the memory whose addresses are given to calls.
const ROOM_BYTES: u64 = 16 * 4096;
/// How long the last threads are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is tried more often than other calls: a conversation needs several of them in a row.
const MESSAGES: [Call; 7] = [
    Call::Call,
    Call::Call,
    Call::Send,
    Call::Recv,
    Call::Recv,
    Call::ReplyRecv,
    Call::Signal,
];
/// Nanoseconds that a call waits at most.
const LONGEST_WAIT: u64 = 200_000;

/// What all threads of a worker share.
#[derive(Clone, Copy)]
struct Shared {
    report: &'static Report,
    room: u64,
    handles: [(u64, Class); Shared::HANDLES],
}

impl Shared {
    const HANDLES: usize = 7;
}

/// Plays `random SEED CALLS` or `each FROM`.
///
/// # Errors
/// What it lacks, in words.
pub fn run(role: &str) -> Result<(), String> {
    let failed = |error: Error| format!("{error}");
    let mut words = role.split(' ');
    let mut next = || words.next().ok_or("a word is missing");
    let what = next()?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{error}"));
    let first = number(next()?)?;
    let shared = prepare()?;
    if what == "each" {
        each(&shared, first);
        return Ok(());
    }
    let calls = number(next()?)?;
    let mut others = Vec::new();
    for index in 1..THREADS {
        let seed = first.wrapping_mul(THREADS).wrapping_add(index);
        let body = move || grind(&shared, seed, calls);
        others.push(thread::spawn(body).map_err(failed)?);
    }
    grind(&shared, first.wrapping_mul(THREADS), calls);
    let until = time::after(PATIENCE);
    for other in others {
        // It may be anything by now: stopped for ever, for one.
        let _ = other.join(until);
    }
    Ok(())
}

fn prepare() -> Result<Shared, String> {
    let missing = |error: start::StartError| format!("{error}");
    let failed = |error: Error| format!("{error}");
    let report: Memory = start::take("report").map_err(missing)?;
    let page = report
        .map(Protection::READ_WRITE)
        .map_err(failed)?
        .leak()
        .cast::<Report>();
    let room = Memory::create(ROOM_BYTES).map_err(failed)?;
    let room_at = room.map(Protection::READ_WRITE).map_err(failed)?.leak();
    // A name, and a set of CPUs: bits 0, 5 and 6 of each eight.
    // SAFETY: mapped just now, and nobody else knows it.
    unsafe { room_at.write_bytes(b'a', ROOM_BYTES as usize) };
    let asking: System = start::take("asking").map_err(missing)?;
    let reading: Log = start::take("reading").map_err(missing)?;
    let endpoint: Endpoint = start::take("endpoint").map_err(missing)?;
    let bell: Notification = start::take("bell").map_err(missing)?;
    let board: Memory = start::take("board").map_err(missing)?;
    let raw = |handle: OwnedHandle| handle.into_raw().0;
    Ok(Shared {
        // SAFETY: mapped for the rest of the process's life, zeroed at first, and made of atomic words alone.
        report: unsafe { &*page },
        room: room_at as u64,
        handles: [
            (raw(asking.into_handle()), Class::Other),
            (raw(reading.into_handle()), Class::Other),
            (raw(endpoint.into_handle()), Class::Endpoint),
            (raw(bell.into_handle()), Class::Notification),
            (raw(board.into_handle()), Class::Memory),
            (raw(room.into_handle()), Class::Memory),
            (process::current().handle().0, Class::Process),
        ],
    })
}

/// Makes random calls until all threads together have made so many.
fn grind(shared: &Shared, seed: u64, calls: u64) {
    let mut random = Random::new(seed);
    let mut pool = Pool::new(&shared.handles);
    let area = arguments::area();
    // Whom the thread owes an answer.
    let mut owed = 0;
    while shared.report.calls.fetch_add(1, Relaxed) < calls {
        let answers = owed != 0 && !random.one_in(3);
        let number = match random.below(32) {
            _ if answers => random.one_of(&[Call::Reply, Call::ReplyRecv]) as u64,
            0 => random.next(),
            1 => random.below(144),
            2..=9 => random.one_of(&MESSAGES) as u64,
            _ => random.one_of(Call::ALL) as u64,
        };
        if is_put_off(number, &mut random) {
            continue;
        }
        let source = Source {
            pool: &pool,
            room: shared.room,
            room_bytes: ROOM_BYTES,
            area,
        };
        let mut registers: Registers = [0; 10];
        let kinds = Call::from_number(number).map_or(shape(Call::Null), shape);
        for (register, kind) in registers.iter_mut().zip(kinds) {
            *register = source.value(kind, &mut random);
        }
        if (Call::Call as u64..=Call::ReplyRecv as u64).contains(&number) {
            registers[1] = arguments::tag(&mut random);
            registers[9] = source.value(Kind::Of(Class::Reply), &mut random);
        }
        if answers {
            // Mostly as it should be, or nobody were ever answered.
            registers[1] &= if random.one_in(4) {
                u64::MAX
            } else {
                0xFFFF_0000_0000_0FFF
            };
            registers[9] = core::mem::take(&mut owed);
        }
        if number == Call::HandleGrant as u64 && makes_a_ring(&registers, &pool) {
            continue;
        }
        registers[8] = if random.one_in(3) {
            0
        } else {
            time::now_ns() + random.below(LONGEST_WAIT)
        };
        source.prepare_area(&mut random);
        let way = if random.one_in(8) {
            Way::Interrupt
        } else {
            Way::Syscall
        };
        let before = registers;
        // SAFETY: none is given. The process is there to be ruined.
        let status = unsafe { enter(way, number, &mut registers) };
        judge(shared.report, number, status, &before, &registers);
        if status == 0 {
            shared.report.note_success(number);
            if let Some(call) = Call::from_number(number) {
                keep_handles(call, &before, &registers, &mut pool, &mut random);
                if matches!(call, Call::Recv | Call::ReplyRecv) {
                    owed = registers[9];
                }
            }
        }
    }
    restore_base(area);
}

/// Whether a call is passed over this time: it would end or stop the program so often that little else was tried.
fn is_put_off(number: u64, random: &mut Random) -> bool {
    let among = |calls: &[Call]| calls.iter().any(|call| *call as u64 == number);
    if among(&[Call::SystemTrace]) {
        // Its buffers stay.
        true
    } else if among(&[Call::ProcessExit, Call::ThreadExit]) {
        !random.one_in(200)
    } else if among(&[
        Call::ProcessKill,
        Call::ThreadKill,
        Call::ThreadSuspend,
        Call::ThreadSetBudget,
        Call::ThreadSetContext,
    ]) {
        !random.one_in(20)
    } else {
        false
    }
}

/// Whether a grant could give a process that was not started a handle to itself, or to one that has a handle to it. Nobody else need
/// know them, and counted references keep both alive for ever: a limit of the kernel's, which is not what this looks for.
fn makes_a_ring(registers: &Registers, pool: &Pool) -> bool {
    let [target, handle, ..] = *registers;
    target != process::current().handle().0
        && !matches!(
            pool.class(handle),
            Class::Endpoint | Class::Notification | Class::Memory
        )
}

/// Says so if a call gave what none may give.
fn judge(report: &Report, number: u64, status: u64, before: &Registers, after: &Registers) {
    if status == 0 {
        return;
    }
    if Error::from_code(status).is_none() {
        report.complain(Wrong::Status, number, status, 0);
    }
    // Short calls clear registers, and message calls have them for what comes.
    if number > Call::ALL[SHORT_CALLS as usize + 5] as u64 {
        let changed = before.iter().zip(after).position(|(a, b)| a != b);
        if let Some(register) = changed {
            report.complain(Wrong::Register, number, status, register as u64);
        }
    }
}

/// Takes whatever looks like a handle into the pool.
fn keep_handles(
    call: Call,
    before: &Registers,
    after: &Registers,
    pool: &mut Pool,
    random: &mut Random,
) {
    let given = Class::given_by(call, pool.class(before[0]));
    for (value, class) in [(after[0], given), (after[9], Class::Reply)] {
        let (index, generation) = (value & 0xFFFF_FFFF, value >> 32);
        if index < 1 << 16 && (1..1 << 16).contains(&generation) {
            pool.add(value, class, Shared::HANDLES, random);
        }
    }
}

/// Makes every call with every bad value in every place, the other places being as they should, from combination `from` on. How far it has
/// come is in the report.
fn each(shared: &Shared, from: u64) {
    let area = arguments::area();
    let mut index = 0;
    for call in Call::ALL {
        // These need no bad argument to end the program.
        if [Call::ProcessExit, Call::ThreadExit, Call::SystemTrace].contains(call) {
            continue;
        }
        for place in 0..6 {
            for bad in BAD {
                index += 1;
                if index <= from {
                    continue;
                }
                shared.report.calls.store(index, Relaxed);
                let mut random = Random::new(index);
                let pool = Pool::new(&shared.handles);
                let source = Source {
                    pool: &pool,
                    room: shared.room,
                    room_bytes: ROOM_BYTES,
                    area,
                };
                source.prepare_area(&mut random);
                let mut registers: Registers = [0; 10];
                for (register, kind) in registers.iter_mut().zip(shape(*call)) {
                    *register = source.value(kind, &mut random);
                }
                registers[place] = bad;
                if let Some(other) = registers.get_mut(place + 4).filter(|_| place > 1) {
                    // The registers that only message calls look at, in their turn.
                    *other = bad;
                }
                registers[8] = 0;
                let before = registers;
                // SAFETY: none is given.
                let status = unsafe { enter(Way::Syscall, *call as u64, &mut registers) };
                judge(shared.report, *call as u64, status, &before, &registers);
            }
        }
    }
    shared.report.calls.store(u64::MAX, Relaxed);
    restore_base(area);
}

/// Gives the calling thread the FS base back that it was made with: what the SDK does from here on needs it.
fn restore_base(area: u64) {
    let mut registers: Registers = [area, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the base that the thread was given.
    let _ = unsafe { enter(Way::Syscall, Call::ThreadSetFsBase as u64, &mut registers) };
}
