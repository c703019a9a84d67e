//! System calls with senseless numbers, handles, pointers and arguments: each gets an error with a name.

use abi::{Call, Error, Protection, Tag};
use alloc::vec::Vec;
use rt::{AsHandle, Memory};

use super::tests;
use super::things::Things;
use crate::kernel_calls::{call, raw, raw_until, refused};
use crate::registers::{self, through_interrupt};
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, must, same};

tests! {
    unknown_call_numbers_are_refused: 40,
    bad_pointers_are_refused_by_every_call: 40,
    read_only_memory_is_no_place_for_results: 40,
    copies_that_run_into_unmapped_memory_end_in_an_error: 40,
    senseless_arguments_of_memory_calls_are_refused: 40,
    senseless_arguments_of_process_and_thread_calls_are_refused: 40,
    senseless_arguments_of_other_calls_are_refused: 40,
}

fn unknown_call_numbers_are_refused(_: &'static World) -> Verdict {
    let null = Call::Null as u64;
    let mut numbers: Vec<u64> = (0..512)
        .filter(|number| Call::from_number(*number).is_none())
        .collect();
    for bit in 9..64 {
        numbers.push(null | 1 << bit);
        numbers.push(Call::Yield as u64 | 1 << bit);
    }
    numbers.extend([u64::MAX, u64::from(u32::MAX), i64::MAX as u64, u64::MAX - 1]);
    for number in numbers {
        same!(raw(number, &[]).status, Error::UnknownCall as u64);
        let mut registers = registers::Registers {
            rax: number,
            ..registers::pattern(number)
        };
        // SAFETY: no call has this number.
        unsafe { through_interrupt(&mut registers) };
        same!(registers.rax, Error::UnknownCall as u64);
    }
    same!(raw(null, &[]).status, 0);
    Ok(())
}

/// Addresses at which a call must find nothing, each for a range of eight bytes or more.
const BAD_POINTERS: [u64; 14] = [
    0,
    8,
    0xFFF,
    0x6000_0000_0000,
    0x7FFF_FFFF_F000,
    0x7FFF_FFFF_FFFC,
    0x8000_0000_0000,
    0x1234_5678_9ABC_DEF0,
    0xFFFF_7FFF_FFFF_FFFC,
    0xFFFF_8000_0000_0000,
    0xFFFF_8000_0010_0000,
    0xFFFF_FFFF_8000_0000,
    0xFFFF_FFFF_FFFF_F000,
    u64::MAX - 3,
];

fn bad_pointers_are_refused_by_every_call(world: &'static World) -> Verdict {
    let things = must!(Things::new(world));
    let [memory, process] = [things.memory.handle().0, things.process.handle().0];
    let [log, system] = [world.log.handle().0, world.system.handle().0];
    for pointer in BAD_POINTERS {
        refused(Call::HandleQuery, &[memory, pointer], Error::BadPointer)?;
        refused(
            Call::MemoryRead,
            &[memory, 0, pointer, 64],
            Error::BadPointer,
        )?;
        refused(
            Call::MemoryWrite,
            &[memory, 0, pointer, 64],
            Error::BadPointer,
        )?;
        refused(Call::ProcessCreate, &[pointer, 8], Error::BadPointer)?;
        refused(Call::ProcessInfo, &[process, pointer], Error::BadPointer)?;
        refused(Call::LogWrite, &[log, pointer, 64], Error::BadPointer)?;
        refused(Call::LogRead, &[log, 0, pointer, 64], Error::BadPointer)?;
        for query in 0..6 {
            refused(
                Call::SystemQuery,
                &[system, query, 0, pointer, 1024],
                Error::BadPointer,
            )?;
        }
    }
    // A length that wraps around, or takes the range out of the user half.
    let good = things.room.as_ptr() as u64;
    for bytes in [u64::MAX, u64::MAX - good, 1 << 63, 1 << 47] {
        refused(
            Call::MemoryRead,
            &[memory, 0, good, bytes],
            Error::BadPointer,
        )?;
        refused(
            Call::MemoryWrite,
            &[memory, 0, good, bytes],
            Error::BadPointer,
        )?;
        refused(Call::LogWrite, &[log, good, bytes], Error::BadPointer)?;
        refused(Call::LogRead, &[log, 0, good, bytes], Error::BadPointer)?;
        refused(
            Call::SystemQuery,
            &[system, 0, 0, good, bytes],
            Error::BadPointer,
        )?;
    }
    // No byte, no fault.
    for query in [Call::MemoryRead, Call::MemoryWrite] {
        must!(call(query, &[memory, 0, 0x6000_0000_0000, 0]));
    }
    same!(
        must!(call(Call::LogRead, &[log, 0, 0x6000_0000_0000, 0]))[0],
        0
    );
    same!(
        must!(call(
            Call::SystemQuery,
            &[system, 0, 0, 0x6000_0000_0000, 0]
        ))[0],
        0
    );
    Ok(())
}

fn read_only_memory_is_no_place_for_results(world: &'static World) -> Verdict {
    let things = must!(Things::new(world));
    let constant = must!(must!(Memory::create(4096)).map(Protection::READ));
    let text = unknown_call_numbers_are_refused as *const () as u64;
    for pointer in [constant.as_ptr() as u64, text] {
        refused(
            Call::HandleQuery,
            &[things.memory.handle().0, pointer],
            Error::BadPointer,
        )?;
        refused(
            Call::MemoryRead,
            &[things.memory.handle().0, 0, pointer, 64],
            Error::BadPointer,
        )?;
        refused(
            Call::ProcessInfo,
            &[things.process.handle().0, pointer],
            Error::BadPointer,
        )?;
        refused(
            Call::LogRead,
            &[world.log.handle().0, 0, pointer, 64],
            Error::BadPointer,
        )?;
        refused(
            Call::SystemQuery,
            &[world.system.handle().0, 0, 0, pointer, 1024],
            Error::BadPointer,
        )?;
    }
    // SAFETY: nobody writes to it, which is the point.
    let bytes = unsafe { constant.as_slice() };
    check!(
        bytes.iter().all(|byte| *byte == 0),
        "read-only memory was written to"
    );
    Ok(())
}

fn copies_that_run_into_unmapped_memory_end_in_an_error(world: &'static World) -> Verdict {
    let things = must!(Things::new(world));
    let two = must!(Memory::create(2 * 4096));
    let mapping = must!(two.map(Protection::READ_WRITE));
    let end = mapping.as_ptr() as u64 + 4096;
    // SAFETY: nothing uses the second page.
    must!(unsafe { rt::process::current().unmap(end, 4096) });
    for before in [1, 7, 63] {
        let pointer = end - before;
        refused(
            Call::MemoryRead,
            &[things.memory.handle().0, 0, pointer, 64],
            Error::BadPointer,
        )?;
        refused(
            Call::MemoryWrite,
            &[things.memory.handle().0, 0, pointer, 64],
            Error::BadPointer,
        )?;
        refused(
            Call::ProcessInfo,
            &[things.process.handle().0, pointer],
            Error::BadPointer,
        )?;
        let short = end - before.min(23);
        refused(
            Call::HandleQuery,
            &[things.memory.handle().0, short],
            Error::BadPointer,
        )?;
        refused(
            Call::LogWrite,
            &[world.log.handle().0, pointer, 64],
            Error::BadPointer,
        )?;
        refused(
            Call::LogRead,
            &[world.log.handle().0, 0, pointer, 64],
            Error::BadPointer,
        )?;
    }
    // What fits to the last byte is fine.
    must!(call(
        Call::MemoryRead,
        &[things.memory.handle().0, 0, end - 64, 64]
    ));
    Ok(())
}

fn senseless_arguments_of_memory_calls_are_refused(world: &'static World) -> Verdict {
    let things = must!(Things::new(world));
    let own = rt::process::current().handle().0;
    let memory = things.memory.handle().0;
    refused(Call::MemoryCreate, &[0, 0], Error::BadArgument)?;
    refused(Call::MemoryCreate, &[4096, 1 << 31], Error::BadArgument)?;
    refused(Call::MemoryCreate, &[4096, 1 << 32], Error::BadArgument)?;
    refused(Call::MemoryClone, &[memory, 1], Error::BadArgument)?;
    refused(Call::MemoryClone, &[memory, 0], Error::NotSupported)?;
    for bytes in [u64::MAX, 1 << 63] {
        check!(
            call(Call::MemoryCreate, &[bytes, 0]).is_err(),
            "memory of {bytes:#x} bytes was made"
        );
    }
    for protection in [0, 2, 4, 6, 7, 8, 9, u64::MAX, 1 | 1 << 32] {
        refused(
            Call::MemoryMap,
            &[own, memory, 0, 0, 4096, protection],
            Error::BadArgument,
        )?;
        refused(
            Call::MemoryProtect,
            &[own, 0x6000_0000_0000, 4096, protection],
            Error::BadArgument,
        )?;
    }
    for (address, offset, bytes) in [
        (1, 0, 4096),
        (0, 1, 4096),
        (0, 0, 1),
        (0, 0, 0),
        (0x10_0800, 0, 4096),
    ] {
        refused(
            Call::MemoryMap,
            &[own, memory, address, offset, bytes, 1],
            Error::BadArgument,
        )?;
    }
    for (offset, bytes) in [(4096, 4096), (0, 8192), (!0xFFF, 4096), (0, !0xFFF)] {
        refused(
            Call::MemoryMap,
            &[own, memory, 0, offset, bytes, 1],
            Error::OutOfRange,
        )?;
    }
    for address in [
        0x1000,
        0xF000,
        0x7FF0_0000_0000,
        0x7FFF_FFFF_F000,
        1 << 47,
        0xFFFF_8000_0000_0000,
        !0xFFF,
    ] {
        let status = raw(Call::MemoryMap as u64, &[own, memory, address, 0, 4096, 1]).status;
        let error = Error::from_code(status);
        check!(
            matches!(error, Some(Error::OutOfRange | Error::BadArgument)),
            "mapping at {address:#x} gave {error:?}"
        );
    }
    refused(
        Call::MemoryMap,
        &[own, memory, text_page(), 0, 4096, 1],
        Error::AlreadyMapped,
    )?;
    refused(
        Call::MemoryProtect,
        &[own, 0x6000_0000_0000, 4096, 1],
        Error::NotMapped,
    )?;
    refused(
        Call::MemoryRead,
        &[memory, 4096, things.room.as_ptr() as u64, 1],
        Error::OutOfRange,
    )?;
    refused(
        Call::MemoryWrite,
        &[memory, u64::MAX, things.room.as_ptr() as u64, 1],
        Error::OutOfRange,
    )?;
    Ok(())
}

fn senseless_arguments_of_process_and_thread_calls_are_refused(world: &'static World) -> Verdict {
    let things = must!(Things::new(world));
    for (name, bytes) in [
        (&b"name"[..], 0),
        (&[b'x'; 33][..], 33),
        (&[0xFF; 4][..], 4),
        (&b"a\nb\0"[..], 4),
    ] {
        refused(
            Call::ProcessCreate,
            &[name.as_ptr() as u64, bytes],
            Error::BadArgument,
        )?;
    }
    let process = things.process.handle().0;
    for entry in [1 << 47, 0xFFFF_8000_0000_0000, u64::MAX, 0x7FFF_FFFF_F000] {
        refused(
            Call::ThreadCreate,
            &[process, entry, 0x80_0000, 0],
            Error::BadArgument,
        )?;
    }
    refused(
        Call::ThreadCreate,
        &[process, 0x40_0000, 1 << 47, 0],
        Error::BadArgument,
    )?;
    for flags in [2, 3, 1 << 32, u64::MAX] {
        refused(
            Call::ThreadCreate,
            &[process, 0x40_0000, 0x80_0000, 0, flags],
            Error::BadArgument,
        )?;
    }
    for base in [1 << 47, 1 << 63, !(1 << 63)] {
        refused(Call::ThreadSetFsBase, &[base], Error::BadArgument)?;
    }
    let thread = things.thread.handle().0;
    refused(Call::ThreadSetPriority, &[thread, 64], Error::OutOfRange)?;
    refused(
        Call::ThreadSetPriority,
        &[thread, 1 << 32],
        Error::OutOfRange,
    )?;
    senseless_sets_of_cpus_are_refused(world, thread)?;
    refused(Call::ThreadSuspend, &[thread, 2], Error::BadArgument)?;
    refused(Call::ThreadSuspend, &[thread, u64::MAX], Error::BadArgument)?;
    refused(Call::ThreadResume, &[thread], Error::WrongState)?;
    let own = must!(rt::Thread::current());
    refused(Call::ThreadJoin, &[own.handle().0], Error::Deadlock)?;
    for (budget, period) in [
        (0, 1_000_000),
        (1_000_000, 0),
        (9_999, 1_000_000),
        (1_000_001, 1_000_000),
        (10_000, 99_999),
        (10_000, 10_000_000_001),
        (u64::MAX, u64::MAX),
    ] {
        let arguments = [thread, budget, period];
        refused(Call::ThreadSetBudget, &arguments, Error::OutOfRange)?;
    }
    Ok(())
}

fn senseless_sets_of_cpus_are_refused(world: &'static World, thread: u64) -> Verdict {
    let mut words = [0_u64; 520];
    let place = words.as_ptr() as u64;
    // A set without any CPU that is there.
    refused(
        Call::ThreadSetAffinity,
        &[thread, place, 8],
        Error::OutOfRange,
    )?;
    refused(
        Call::ThreadSetAffinity,
        &[thread, place, 64],
        Error::OutOfRange,
    )?;
    words[usize::try_from(world.cpus / 64).unwrap_or(0)] = 1 << (world.cpus % 64);
    let arguments = [thread, words.as_ptr() as u64, 64];
    refused(Call::ThreadSetAffinity, &arguments, Error::OutOfRange)?;
    // What is beyond the sets that the kernel has is not looked at.
    words = [0; 520];
    words[8..].fill(u64::MAX);
    let arguments = [thread, words.as_ptr() as u64, 4096];
    refused(Call::ThreadSetAffinity, &arguments, Error::OutOfRange)?;
    words = [u64::MAX; 520];
    let place = words.as_ptr() as u64;
    for bytes in [0, 1, 7, 9, 4104, 1 << 32, u64::MAX - 7, u64::MAX] {
        let arguments = [thread, place, bytes];
        refused(Call::ThreadSetAffinity, &arguments, Error::BadArgument)?;
    }
    for bytes in [0, 4, 65, u64::MAX] {
        let arguments = [thread, place, bytes];
        refused(Call::ThreadGetAffinity, &arguments, Error::BadArgument)?;
    }
    for address in [0, 1 << 47, u64::MAX - 7, 0xFFFF_8000_0000_0000] {
        let arguments = [thread, address, 64];
        refused(Call::ThreadSetAffinity, &arguments, Error::BadPointer)?;
        refused(Call::ThreadGetAffinity, &arguments, Error::BadPointer)?;
        refused(Call::ThreadInfo, &[thread, address], Error::BadPointer)?;
    }
    Ok(())
}

fn senseless_arguments_of_other_calls_are_refused(world: &'static World) -> Verdict {
    let things = must!(Things::new(world));
    let system = world.system.handle().0;
    let memory = things.memory.handle().0;
    for (first, count) in [
        (0, 0),
        (0, 65_537),
        (65_536, 1),
        (65_535, 2),
        (u64::MAX, 1),
        (1, u64::MAX),
    ] {
        refused(
            Call::IoPortsCreate,
            &[system, first, count],
            Error::OutOfRange,
        )?;
    }
    refused(Call::SystemPower, &[system, 7], Error::BadArgument)?;
    refused(
        Call::SystemQuery,
        &[system, 6, 0, things.room.as_ptr() as u64, 64],
        Error::BadArgument,
    )?;
    refused(
        Call::IrqBind,
        &[things.irq.handle().0, things.notification.handle().0, 0],
        Error::BadArgument,
    )?;
    for rights in [u64::from(abi::Rights::ALL.0) + 1, 1 << 32, u64::MAX] {
        refused(Call::HandleDuplicate, &[memory, rights], Error::BadArgument)?;
    }
    let endpoint = things.endpoint.handle().0;
    let bad = [
        Tag::new(0).with_bytes(5000),
        Tag::new(0).with_handles(5, 0),
        Tag::new(0).with_handles(1, 2),
        Tag(1 << 13),
    ];
    for tag in bad {
        refused(Call::Call, &[endpoint, tag.0], Error::BadArgument)?;
        refused(Call::Send, &[endpoint, tag.0], Error::BadArgument)?;
    }
    // A deadline that has passed is no error of its own.
    same!(raw_until(Call::Sleep as u64, &[], 0).status, 0);
    Ok(())
}

/// A page of this program's own text.
fn text_page() -> u64 {
    let text = text_page as *const () as u64;
    text & !0xFFF
}
