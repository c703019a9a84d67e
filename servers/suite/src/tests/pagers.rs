//! Memory with a pager: pages that a server supplies when they are touched, and what becomes of those who wait for a page that does not come.

use abi::info::{ProcessInfo, QuotaInfo};
use abi::report::{Answer, NO_PAGER, PAGE_REFUSED, PageAccess, label};
use abi::{Call, ContextPart, CpuSet, Deadline, Error, FaultKind, Protection, Rights, UserContext};
use alloc::vec::Vec;
use rt::report::PageWanted;
use rt::{AsHandle, Badge, Endpoint, Memory, Message, Reply, process};

use super::faults::faulted;
use super::ipc::receive;
use super::probe::{soon, until};
use super::{quotas, tests};
use crate::bare::{self, Bare, reg};
use crate::kernel_calls::{call, refused};
use crate::roles::Role;
use crate::verdict::{Verdict, Why};
use crate::world::{World, ending};
use crate::{check, code, fail, must, same};

tests! {
    a_file_is_mapped_page_by_page_by_its_pager: 60,
    threads_on_two_cpus_that_want_one_page_get_one: 60,
    a_page_that_its_pager_refuses_is_a_fault_that_says_so: 60,
    nobody_waits_for_a_pager_that_is_gone: 60,
    a_thread_that_waits_for_a_page_can_be_killed_and_cancelled: 60,
    who_is_killed_while_it_stands_still_before_a_page_keeps_no_memory: 60,
    a_pager_sees_nothing_of_who_waits_for_it: 60,
    system_calls_do_not_wait_for_pages: 60,
    pages_are_supplied_with_good_arguments_only: 60,
}

/// A pager that touches its own memory.
pub const ROLES: &[Role] = &[Role {
    name: "own-pager",
    run: |_, _| quotas::verdict(own_pager()),
}];

pub(super) const PAGE: u64 = 4096;
pub(super) const BADGE: u64 = 0x9A6E;
/// Where the programs of these tests have the memory.
const PLACE: u64 = 0x3000_0000;
/// What is in the file at this place: a number that tells it from others.
const fn word_at(offset: u64) -> u64 {
    0x5EED_0000 + offset
}

/// A file of two pages and a half.
fn file() -> Vec<u8> {
    (0..PAGE * 5 / 16)
        .flat_map(|word| word_at(word * 8).to_le_bytes())
        .collect()
}

/// Memory for the file, and where its pages are asked for.
fn mapped_file() -> rt::Result<(Memory, Endpoint)> {
    let endpoint = Endpoint::create()?;
    let badged = endpoint.mint(Badge(BADGE), Rights::SEND)?;
    let memory = Memory::create_paged(file().len() as u64, &badged)?;
    Ok((memory, endpoint))
}

/// A program that has the file mapped, and runs `code` with `offset` of it in RBX.
pub(super) fn reader(memory: &Memory, offset: u64, code: &[u8]) -> rt::Result<Bare> {
    let mut values = bare::pattern();
    values[reg::RBX] = PLACE + offset;
    let program = Bare::new(code, &values)?;
    program
        .process
        .map(memory, PLACE, 0, 3 * PAGE, Protection::READ_WRITE)?;
    Ok(program)
}

/// Reads a word and exits with it.
pub(super) fn read() -> &'static [u8] {
    code!("mov rdi, [rbx]", "mov eax, 50", "syscall", "ud2")
}

/// Writes a word, reads the one behind it, and exits with that.
fn write_and_read() -> &'static [u8] {
    code!(
        "mov qword ptr [rbx], 5",
        "mov rdi, [rbx + 8]",
        "mov eax, 50",
        "syscall",
        "ud2"
    )
}

/// The next page that somebody wants.
pub(super) fn wanted(endpoint: &Endpoint) -> Result<(PageWanted, Reply), Why> {
    let message = receive(endpoint, 0)?;
    let Some(page) = PageWanted::of(&message) else {
        fail!("nobody wants a page by that: {message:x?}");
    };
    check!(message.bytes.is_empty() && message.handles.is_empty());
    same!(page.badge.0, BADGE);
    match message.reply {
        Some(reply) => Ok((page, reply)),
        None => fail!("a page is wanted without a reply"),
    }
}

pub(super) fn exited(program: &Bare, code: u64) -> Verdict {
    let info = must!(program.run_to_end());
    check!(
        (info.state, info.code) == (abi::info::ProcessState::Exited as u32, code),
        "{}",
        ending(&info)
    );
    Ok(())
}

/// Says so unless a program ended by a page fault there, with this said of the page.
fn lacked(what: &str, info: &ProcessInfo, address: u64, why: u64) -> Verdict {
    faulted(what, info, FaultKind::Page)?;
    same!(info.context.cr2, address);
    same!(info.context.error_code & (PAGE_REFUSED | NO_PAGER), why);
    Ok(())
}

fn a_file_is_mapped_page_by_page_by_its_pager(_: &World) -> Verdict {
    let file = file();
    let (memory, endpoint) = must!(mapped_file());
    for (code, offset, access, result) in [
        (read(), PAGE + 8, PageAccess::Read, word_at(PAGE + 8)),
        (
            write_and_read(),
            2 * PAGE + 16,
            PageAccess::Write,
            word_at(2 * PAGE + 24),
        ),
    ] {
        let program = must!(reader(&memory, offset, code));
        must!(program.thread.start());
        let (page, reply) = wanted(&endpoint)?;
        same!((page.offset, page.access), (offset & !(PAGE - 1), access));
        let end = file.len().min((page.offset + PAGE) as usize);
        same!(
            memory.supply(page.offset, &file[page.offset as usize..end]),
            Ok(1)
        );
        must!(reply.answer_report(Answer::Resume));
        exited(&program, result)?;
    }
    // What was written is there to be read by the pager, and what is behind the file's end is zero.
    let mut words = [0; 16];
    must!(memory.read(2 * PAGE + 16, &mut words));
    same!(words[..8], 5_u64.to_le_bytes());
    must!(memory.read(3 * PAGE - 16, &mut words));
    same!(words, [0; 16]);
    // A page that is there stays as it is, and is asked for no more.
    same!(memory.supply(PAGE, &[0xFF; 4096]), Ok(0));
    let program = must!(reader(&memory, 2 * PAGE + 16, read()));
    must!(program.thread.start());
    exited(&program, 5)
}

fn threads_on_two_cpus_that_want_one_page_get_one(world: &World) -> Verdict {
    let (memory, endpoint) = must!(mapped_file());
    for round in 0..3 {
        let offset = round * PAGE;
        let first = must!(reader(&memory, offset, read()));
        let second = must!(reader(&memory, offset + 8, read()));
        must!(first.thread.set_affinity(&CpuSet::only(0)));
        must!(
            second
                .thread
                .set_affinity(&CpuSet::only(u32::from(world.cpus > 1)))
        );
        must!(first.thread.start());
        must!(second.thread.start());
        let replies = [wanted(&endpoint)?, wanted(&endpoint)?];
        for ((page, reply), new) in replies.into_iter().zip([1, 0]) {
            same!(page.offset, offset);
            let begin = offset as usize;
            same!(memory.supply(offset, &file()[begin..begin + 16]), Ok(new));
            must!(reply.answer_report(Answer::Resume));
        }
        exited(&first, word_at(offset))?;
        exited(&second, word_at(offset + 8))?;
    }
    Ok(())
}

fn a_page_that_its_pager_refuses_is_a_fault_that_says_so(_: &World) -> Verdict {
    let (memory, endpoint) = must!(mapped_file());
    let program = must!(reader(&memory, PAGE + 8, read()));
    must!(program.thread.start());
    let (_, reply) = wanted(&endpoint)?;
    must!(reply.answer_report(Answer::End));
    lacked(
        "a reader",
        &must!(program.run_to_end()),
        PLACE + PAGE + 8,
        PAGE_REFUSED,
    )?;
    // An answer without a meaning is none.
    for answer in [Answer::ResumeAt, Answer::Step, Answer::Result] {
        let program = must!(reader(&memory, 0, read()));
        must!(program.thread.start());
        let (_, reply) = wanted(&endpoint)?;
        same!(reply.answer_report(answer), Err(Error::BadArgument));
        lacked("a reader", &must!(program.run_to_end()), PLACE, NO_PAGER)?;
    }
    Ok(())
}

fn nobody_waits_for_a_pager_that_is_gone(world: &World) -> Verdict {
    // It drops the question.
    let (memory, endpoint) = must!(mapped_file());
    let program = must!(reader(&memory, 0, read()));
    must!(program.thread.start());
    drop(wanted(&endpoint)?);
    lacked("dropped", &must!(program.run_to_end()), PLACE, NO_PAGER)?;
    // It goes while it is asked.
    let asking = must!(reader(&memory, 8, read()));
    must!(asking.thread.start());
    until("it asks", || {
        let state = asking.thread.info()?.state;
        Ok(state == abi::info::ThreadState::Sending as u32)
    })?;
    drop(endpoint);
    lacked("asking", &must!(asking.run_to_end()), PLACE + 8, NO_PAGER)?;
    // It was gone before.
    let late = must!(reader(&memory, 16, read()));
    must!(late.thread.start());
    lacked("late", &must!(late.run_to_end()), PLACE + 16, NO_PAGER)?;
    // It would have to wait for itself.
    let own = must!(world.spawn("role own-pager", &[]));
    let info = must!(own.end(crate::runner::PATIENCE));
    faulted("a pager", &info, FaultKind::Page)?;
    same!(
        info.context.error_code & (PAGE_REFUSED | NO_PAGER),
        NO_PAGER
    );
    Ok(())
}

/// Touches memory whose pager it is.
fn own_pager() -> Verdict {
    let (memory, endpoint) = must!(mapped_file());
    same!(endpoint.recv(0, Deadline::NOW).err(), Some(Error::TimedOut));
    let mapping = must!(memory.map(Protection::READ));
    // SAFETY: the mapping lives; that the page does not come is what is to be seen.
    let byte = unsafe { mapping.as_ptr().read_volatile() };
    fail!("it has the page: {byte}");
}

fn a_thread_that_waits_for_a_page_can_be_killed_and_cancelled(_: &World) -> Verdict {
    let (memory, endpoint) = must!(mapped_file());
    let program = must!(reader(&memory, 8, read()));
    must!(program.thread.start());
    // Whose wait is ended asks again.
    let (_, reply) = wanted(&endpoint)?;
    must!(program.thread.cancel());
    let (again, second) = wanted(&endpoint)?;
    same!(again.offset, 0);
    same!(reply.answer_report(Answer::Resume), Err(Error::CallerGone));
    must!(program.process.kill(3));
    let info = must!(program.run_to_end());
    same!(info.code, 3);
    same!(second.answer_report(Answer::Resume), Err(Error::CallerGone));
    // The memory is as good as before.
    let other = must!(reader(&memory, 8, read()));
    must!(other.thread.start());
    let (page, reply) = wanted(&endpoint)?;
    same!(memory.supply(page.offset, &file()[..4096]), Ok(1));
    must!(reply.answer_report(Answer::Resume));
    exited(&other, word_at(8))
}

fn who_is_killed_while_it_stands_still_before_a_page_keeps_no_memory(world: &World) -> Verdict {
    let there = || {
        let objects = world.system.objects()?;
        Ok::<_, Error>(objects.memories + objects.endpoints)
    };
    let before = must!(there());
    for round in 0..8 {
        let (memory, endpoint) = must!(mapped_file());
        let program = must!(reader(&memory, 8, read()));
        if round % 2 == 0 {
            must!(program.thread.start());
            let (_, _reply) = wanted(&endpoint)?;
            // SAFETY: it is of another process.
            must!(unsafe { program.thread.stop(soon()) });
        } else {
            // It is suspended before it comes to the page.
            // SAFETY: as above.
            must!(unsafe { program.thread.suspend(soon()) });
            must!(program.thread.start());
        }
        must!(program.process.kill(3));
        same!(must!(program.run_to_end()).code, 3);
    }
    until("the memory is gone", || Ok(there()? <= before))
}

fn a_pager_sees_nothing_of_who_waits_for_it(_: &World) -> Verdict {
    let (memory, endpoint) = must!(mapped_file());
    let program = must!(reader(&memory, 8, read()));
    must!(program.thread.start());
    let message = must!(receive(&endpoint, 0));
    same!(message.label, label::PAGE);
    same!(message.words[..5], [0; 5]);
    let Some(reply) = message.reply else {
        fail!("a page is wanted without a reply");
    };
    let mut context = UserContext::default();
    let arguments = [
        reply.handle().0,
        ContextPart::Registers as u64,
        &raw mut context as u64,
        size_of::<UserContext>() as u64,
    ];
    for state in [Call::ThreadGetContext, Call::ThreadSetContext] {
        refused(state, &arguments, Error::NoRight)?;
    }
    // Nor can it set any by its answer.
    same!(
        reply.answer(Message::new(Answer::Resume as u32).with_bytes(&[0; 224])),
        Err(Error::BadArgument)
    );
    lacked(
        "a reader",
        &must!(program.run_to_end()),
        PLACE + 8,
        NO_PAGER,
    )
}

fn system_calls_do_not_wait_for_pages(_: &World) -> Verdict {
    let (memory, _endpoint) = must!(mapped_file());
    let mapping = must!(memory.map(Protection::READ_WRITE));
    let there = mapping.as_ptr() as u64;
    let mut bytes = [0; 8];
    // As memory of the caller's, to be read and written.
    let other = must!(Memory::create(PAGE));
    for copy in [Call::MemoryRead, Call::MemoryWrite] {
        refused(copy, &[other.handle().0, 0, there, 8], Error::NotSupplied)?;
    }
    refused(Call::ProcessQuota, &[0, there + PAGE], Error::NotSupplied)?;
    // Another pointer is as bad as ever.
    refused(Call::ProcessQuota, &[0, 0], Error::BadPointer)?;
    // As the object, and by a debugger.
    same!(memory.read(0, &mut bytes), Err(Error::NotSupplied));
    same!(memory.write(PAGE, &bytes), Err(Error::NotSupplied));
    let own = process::current();
    same!(own.read_memory(there, &mut bytes), Err(Error::NotSupplied));
    // One whole page there, up to the next.
    same!(memory.supply(0, &file()[..4096]), Ok(1));
    same!(own.read_memory(there, &mut bytes), Ok(8));
    same!(u64::from_le_bytes(bytes), word_at(0));
    must!(call(Call::ProcessQuota, &[0, there]));
    let info = size_of::<QuotaInfo>() as u64;
    refused(
        Call::ProcessQuota,
        &[0, there + PAGE - info / 2],
        Error::NotSupplied,
    )
}

fn pages_are_supplied_with_good_arguments_only(_: &World) -> Verdict {
    let (memory, endpoint) = must!(mapped_file());
    let page = [1; 4096];
    for (offset, bytes, error) in [
        (8, 8, Error::BadArgument),
        (0, 0, Error::BadArgument),
        (3 * PAGE, 8, Error::OutOfRange),
        (2 * PAGE, PAGE + 1, Error::OutOfRange),
        (u64::MAX - PAGE + 1, PAGE, Error::OutOfRange),
    ] {
        let arguments = [memory.handle().0, offset, page.as_ptr() as u64, bytes];
        refused(Call::MemorySupply, &arguments, error)?;
    }
    let lesser = must!(memory.duplicate(Rights::READ | Rights::WRITE));
    same!(lesser.supply(0, &page), Err(Error::NoRight));
    let plain = must!(Memory::create(PAGE));
    same!(plain.supply(0, &page), Err(Error::NotSupported));
    // From where nothing is: nothing is there afterwards either.
    let arguments = [memory.handle().0, 0, 0x10, PAGE];
    refused(Call::MemorySupply, &arguments, Error::BadPointer)?;
    let mut bytes = [0; 8];
    same!(memory.read(0, &mut bytes), Err(Error::NotSupplied));
    let endpoint = endpoint.handle().0;
    for bytes in [0, u64::MAX] {
        let error = if bytes == 0 {
            Error::BadArgument
        } else {
            Error::OutOfRange
        };
        refused(Call::MemoryCreatePaged, &[bytes, endpoint], error)?;
    }
    refused(Call::MemoryCreatePaged, &[PAGE, 0], Error::BadHandle)
}
