//! Looking into another process by a handle with the right DEBUG: its memory, its threads.

use abi::debug::MOST_BYTES;
use abi::{Call, Error, Protection, Rights};
use alloc::vec;
use rt::{AsHandle, Memory, Priority, Process, loader};

use super::contexts::prepared;
use super::probe::{soon, until};
use super::tests;
use crate::bare::{CODE, STACK_BOTTOM, STACK_TOP};
use crate::kernel_calls::{call, refused};
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, must, same};

tests! {
    memory_of_another_process_is_read_and_written_in_bulk: 40,
    what_of_anothers_memory_cannot_be_copied_is_told: 40,
    memory_of_another_process_is_for_debuggers_only: 40,
    programs_that_share_their_text_can_not_change_it: 40,
    threads_of_another_process_are_found_and_their_registers_read: 40,
}

const PAGE: u64 = 4096;
/// Where the process has more memory.
const DATA: u64 = 0x100_0000;

fn memory_of_another_process_is_read_and_written_in_bulk(_: &'static World) -> Verdict {
    let bare = must!(prepared(code!("ud2"), |_| {}));
    // More than one call takes, with a start and an end inside of pages; nobody has touched it.
    let bytes = (MOST_BYTES + 3 * PAGE) as usize;
    let memory = must!(Memory::create(MOST_BYTES + 4 * PAGE));
    let all = MOST_BYTES + 4 * PAGE;
    must!(
        bare.process
            .map(&memory, DATA, 0, all, Protection::READ_WRITE)
    );
    let written = vec::from_elem(0_u8, bytes);
    let written: vec::Vec<u8> = (0_u64..)
        .zip(written)
        .map(|(index, _)| (index * 7 + index / 251) as u8)
        .collect();
    // SAFETY: the process is another.
    let done = must!(unsafe { bare.process.write_memory(DATA + 77, &written) });
    same!(done, bytes);
    let mut read = vec![0xEE; bytes + 2];
    same!(
        must!(bare.process.read_memory(DATA + 76, &mut read)),
        bytes + 2
    );
    check!(
        read[1..=bytes] == written[..],
        "what was written is not what is read"
    );
    same!((read[0], read[bytes + 1]), (0, 0));
    let mut seen = [0; 16];
    must!(memory.read(77, &mut seen));
    same!(seen[..], written[..16]);
    // Its code, which it may only execute; its stack, and its IPC area, which the kernel has made.
    let mut text = [0; 2];
    must!(
        bare.process
            .read_memory(CODE + crate::bare::PREAMBLE_BYTES, &mut text)
    );
    same!(text, [0x0F, 0x0B]);
    let area = must!(bare.thread.registers()).rsi;
    let mut own = [0; 8];
    must!(bare.process.read_memory(area, &mut own));
    same!(u64::from_le_bytes(own), area);
    // SAFETY: as above.
    let written = must!(unsafe { bare.process.write_memory(area + PAGE - 4, b"over two") });
    same!(written, 8);
    let mut text = [0; 8];
    same!(
        must!(bare.process.read_memory(area + PAGE - 4, &mut text)),
        8
    );
    same!(&text, b"over two");
    same!(must!(bare.process.read_memory(CODE, &mut [])), 0);
    Ok(())
}

fn what_of_anothers_memory_cannot_be_copied_is_told(_: &'static World) -> Verdict {
    let bare = must!(prepared(code!("ud2"), |_| {}));
    let mut page = [0; 4096];
    // Up to the end of the stack, behind which nothing is.
    same!(
        must!(bare.process.read_memory(STACK_TOP - 10, &mut page)),
        10
    );
    // SAFETY: the process is another.
    let written = must!(unsafe { bare.process.write_memory(STACK_TOP - 10, &page) });
    same!(written, 10);
    let nowhere = [
        STACK_TOP,
        STACK_BOTTOM - 1,
        0,
        abi::layout::IPC_AREAS_START - 1,
        abi::layout::USER_END - 1,
        abi::layout::USER_END,
        1 << 47,
        1 << 63,
        0xFFFF_8000_0000_0000,
        0xFFFF_FFFF_8000_0000,
        u64::MAX,
        u64::MAX - 8,
    ];
    for address in nowhere {
        let mut bytes = [0; 16];
        same!(
            bare.process.read_memory(address, &mut bytes).err(),
            Some(Error::NotMapped)
        );
        // SAFETY: as above.
        let written = unsafe { bare.process.write_memory(address, &bytes) };
        same!(written.err(), Some(Error::NotMapped));
    }
    // What it mapped by a handle without WRITE.
    let memory = must!(Memory::create(PAGE));
    let read_only = must!(memory.duplicate(Rights::READ));
    must!(
        bare.process
            .map(&read_only, DATA, 0, PAGE, Protection::READ)
    );
    must!(
        bare.process
            .map(&memory, DATA + PAGE, 0, PAGE, Protection::READ)
    );
    // SAFETY: as above.
    let written = unsafe { bare.process.write_memory(DATA, &[1]) };
    same!(written.err(), Some(Error::NoRight));
    // SAFETY: as above.
    let written = must!(unsafe { bare.process.write_memory(DATA + PAGE, &[1]) });
    same!(written, 1);
    // Pointers of the caller's.
    let process = bare.process.handle().0;
    for pointer in [0, 1 << 47, 0xFFFF_8000_0000_0000, u64::MAX - 7] {
        for call in [Call::ProcessRead, Call::ProcessWrite] {
            refused(
                call,
                &[process, STACK_BOTTOM, pointer, 8],
                Error::BadPointer,
            )?;
        }
    }
    // However long the range is said to be, it ends where something does.
    let mut room = vec![0_u8; 2 * MOST_BYTES as usize];
    for bytes in [MOST_BYTES + 1, u64::MAX] {
        let at = room.as_mut_ptr() as u64;
        let [copied, ..] = must!(call(Call::ProcessRead, &[process, STACK_BOTTOM, at, bytes]));
        same!(copied, STACK_TOP - STACK_BOTTOM);
    }
    must!(bare.process.kill(0));
    must!(bare.run_to_end());
    same!(
        bare.process.read_memory(STACK_BOTTOM, &mut page).err(),
        Some(Error::Ended)
    );
    Ok(())
}

fn programs_that_share_their_text_can_not_change_it(world: &'static World) -> Verdict {
    let (plan, file) = world.program();
    let image = must!(loader::Image::new(plan, file));
    let (first, second) = (
        must!(image.process("first", Priority::LOWEST)).process,
        must!(image.process("second", Priority::LOWEST)).process,
    );
    let text = plan.entry / PAGE * PAGE;
    let (mut before, mut after) = ([0; 64], [0; 64]);
    same!(must!(second.read_memory(plan.entry, &mut before)), 64);
    for protection in [Protection::READ_WRITE, Protection(7)] {
        // SAFETY: nothing runs there.
        let changed = unsafe { first.protect(text, PAGE, protection) };
        check!(changed.is_err(), "shared text was made writable");
    }
    // SAFETY: as above.
    let written = unsafe { first.write_memory(plan.entry, &[0; 64]) };
    same!(written.err(), Some(Error::NoRight));
    same!(must!(second.read_memory(plan.entry, &mut after)), 64);
    same!(after, before);
    Ok(())
}

fn memory_of_another_process_is_for_debuggers_only(_: &'static World) -> Verdict {
    let bare = must!(prepared(code!("ud2"), |_| {}));
    let rest = must!(bare.process.duplicate(Rights::ALL - Rights::DEBUG));
    let memory = must!(Memory::create(PAGE));
    let mut room = [0_u8; 8];
    let at = room.as_mut_ptr() as u64;
    for call in [Call::ProcessRead, Call::ProcessWrite] {
        refused(
            call,
            &[rest.handle().0, STACK_BOTTOM, at, 8],
            Error::NoRight,
        )?;
        refused(
            call,
            &[memory.handle().0, STACK_BOTTOM, at, 8],
            Error::WrongObject,
        )?;
        refused(call, &[0, STACK_BOTTOM, at, 8], Error::BadHandle)?;
    }
    refused(Call::ProcessThread, &[rest.handle().0, 0], Error::NoRight)?;
    refused(
        Call::ProcessThread,
        &[memory.handle().0, 0],
        Error::WrongObject,
    )?;
    refused(Call::ProcessThread, &[u64::MAX, 0], Error::BadHandle)?;
    // The right alone is enough.
    let debug = must!(bare.process.duplicate(Rights::DEBUG));
    same!(must!(debug.read_memory(STACK_BOTTOM, &mut room)), 8);
    Ok(())
}

fn threads_of_another_process_are_found_and_their_registers_read(_: &'static World) -> Verdict {
    let code = code!("2:", "pause", "jmp 2b");
    let bare = must!(prepared(code, |context| context.rbx = 0x1234_5678));
    // SAFETY: the process is another.
    let second = must!(unsafe { bare.process.create_thread(CODE, STACK_TOP, 5) });
    must!(bare.thread.start());
    until("it runs", || Ok(bare.thread.info()?.cpu_ns > 0))?;
    let debug: Process = must!(bare.process.duplicate(Rights::DEBUG));
    let Some((first_found, number)) = must!(debug.thread_after(0)) else {
        crate::fail!("no thread was found");
    };
    same!(number, must!(bare.thread.info()).thread);
    let Some((second_found, last)) = must!(debug.thread_after(number)) else {
        crate::fail!("no second thread was found");
    };
    same!(last, must!(second.info()).thread);
    check!(must!(debug.thread_after(last)).is_none());
    check!(must!(debug.thread_after(u64::MAX)).is_none());
    same!(must!(second_found.registers()).rdi, 5);
    same!(first_found.registers().err(), Some(Error::WrongState));
    // SAFETY: as above.
    must!(unsafe { first_found.stop(soon()) });
    let seen = must!(first_found.registers());
    same!(seen.rbx, 0x1234_5678);
    must!(first_found.debug_registers());
    must!(first_found.fpu_state());
    must!(first_found.resume());
    Ok(())
}
