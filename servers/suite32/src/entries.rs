//! What goes into the kernel and what comes out, by every entry that this machine has.

use abi::compat::{BLOCK_FORM, BLOCK_WORDS, block};
use abi::info::HandleInfo;
use abi::{Call, Error};
use rt32::call::{
    self, BASE_FLAGS, Entry, Registers, by_interrupt, by_landing, by_syscall, by_thread_storage,
    pass,
};

use crate::{Verdict, Why, check};

/// Arithmetic flags, direction, alignment check and ID: what a program may have set.
const FLAGS: [u32; 6] = [
    0,
    0x8D5,
    1 << 10,
    1 << 18,
    1 << 21,
    0x8D5 | 1 << 10 | 1 << 18 | 1 << 21,
];
/// Nested task.
const NESTED: u32 = 1 << 14;

/// Whether the landing page enters by this instruction, and so the CPU has it.
pub(crate) fn landing_begins_with(code: &[u8]) -> bool {
    // SAFETY: the routine is 16 bytes of readable code.
    let routine = unsafe { core::slice::from_raw_parts(by_landing() as *const u8, 16) };
    routine.starts_with(code)
}

/// The entries of this machine.
pub(crate) fn entries() -> impl Iterator<Item = Entry> {
    let has_syscall = landing_begins_with(&[0x51, 0x0F, 0x05]);
    [by_interrupt as Entry, by_landing(), by_thread_storage]
        .into_iter()
        .chain(has_syscall.then_some(by_syscall as Entry))
}

/// Every register different and in no way a kernel's value.
fn pattern(seed: u32) -> Registers {
    let value = |number: u32| 0xA5C3_0000 ^ seed.rotate_left(7) ^ number.wrapping_mul(0x1111_0101);
    Registers {
        eax: value(1),
        ebx: value(2),
        ecx: value(3),
        edx: value(4),
        esi: value(5),
        edi: value(6),
        ebp: value(7),
        flags: BASE_FLAGS,
    }
}

/// Goes through the kernel and compares all registers; `eax` shall be `status`.
fn unchanged(entry: Entry, before: Registers, status: u32) -> Verdict {
    let mut after = before;
    // SAFETY: the caller's calls do no harm.
    unsafe { pass(&mut after, entry) };
    check!(after.eax == status, after.eax);
    check!(after.ebx == before.ebx, after.ebx);
    check!(after.ecx == before.ecx, after.ecx);
    check!(after.edx == before.edx, after.edx);
    check!(after.esi == before.esi, after.esi);
    check!(after.edi == before.edi, after.edi);
    check!(after.ebp == before.ebp, after.ebp);
    check!(after.flags == before.flags, after.flags);
    Ok(())
}

pub(crate) fn registers_survive_every_entry() -> Verdict {
    for entry in entries() {
        for round in 0..50 {
            for call in [Call::Null, Call::Yield] {
                let before = Registers {
                    eax: call as u32,
                    flags: BASE_FLAGS | FLAGS[round as usize % FLAGS.len()],
                    ..pattern(round)
                };
                unchanged(entry, before, 0)?;
            }
            // NT acts on `iret` alone. An entry must not fall over it; the program gets it back or not.
            let mut nested = Registers {
                eax: Call::Null as u32,
                flags: BASE_FLAGS | NESTED,
                ..pattern(round)
            };
            // SAFETY: the call does nothing.
            unsafe { pass(&mut nested, entry) };
            check!(
                nested.eax == 0 && nested.flags & !NESTED == BASE_FLAGS,
                nested.flags
            );
            // A result changes its pair and nothing else.
            let before = Registers {
                eax: Call::ClockNow as u32,
                ..pattern(round)
            };
            let mut after = before;
            // SAFETY: the call tells the time.
            unsafe { pass(&mut after, entry) };
            check!(after.eax == 0, after.eax);
            let expected = Registers {
                eax: 0,
                ebx: after.ebx,
                ecx: after.ecx,
                ..before
            };
            check!(after == expected, after.edx ^ before.edx);
        }
    }
    Ok(())
}

pub(crate) fn block_form_keeps_all_registers() -> Verdict {
    for entry in entries() {
        for round in 0..50 {
            let words: [u64; BLOCK_WORDS] = core::array::from_fn(|index| {
                0x0123_4567_89AB_CDEF_u64.rotate_left(index as u32 + round)
            });
            // SAFETY: the area is the thread's own.
            let place = unsafe { &raw mut (*call::area()).registers };
            // SAFETY: as above.
            unsafe { place.write_volatile(words) };
            let before = Registers {
                eax: Call::Null as u32 | BLOCK_FORM,
                flags: BASE_FLAGS | FLAGS[round as usize % FLAGS.len()],
                ..pattern(round)
            };
            unchanged(entry, before, 0)?;
            // SAFETY: as above.
            let after = unsafe { place.read_volatile() };
            check!(after == words);
            // An error leaves them as well.
            let before = Registers {
                eax: Call::HandleClose as u32 | BLOCK_FORM,
                ..before
            };
            unchanged(entry, before, Error::BadHandle as u32)?;
            // SAFETY: as above.
            let after = unsafe { place.read_volatile() };
            check!(after == words);
        }
    }
    Ok(())
}

pub(crate) fn bad_numbers_are_error_values() -> Verdict {
    for entry in entries() {
        for number in [
            16,
            200,
            0x0001_0000,
            0x4000_0000,
            0x7FFF_FFFF,
            BLOCK_FORM | 0xC8,
            BLOCK_FORM | 0x4000_0000,
            u32::MAX,
        ] {
            let before = Registers {
                eax: number,
                ..pattern(number)
            };
            unchanged(entry, before, Error::UnknownCall as u32)?;
        }
    }
    Ok(())
}

pub(crate) fn wide_values_travel() -> Verdict {
    for entry in entries() {
        // SAFETY: these calls make and look at objects of this process.
        unsafe {
            let [endpoint, ..] = call::plain_by(entry, Call::EndpointCreate, [0; 3])?;
            check!(endpoint >> 32 != 0, endpoint);
            let badge = 0xFEDC_BA98_7654_3210;
            let send = u64::from(abi::Rights::SEND.0);
            let [minted, ..] = call::plain_by(entry, Call::EndpointMint, [endpoint, badge, send])?;
            let mut info = HandleInfo::default();
            let place = &raw mut info as u64;
            call::plain_by(entry, Call::HandleQuery, [minted, place, 0])?;
            check!(
                info.badge == badge && u64::from(info.rights) == send,
                info.badge
            );
            for handle in [minted, endpoint] {
                call::plain_by(entry, Call::HandleClose, [handle, 0, 0])?;
                let again = call::plain_by(entry, Call::HandleClose, [handle, 0, 0]);
                check!(again == Err(Error::BadHandle));
            }
            // The handle without its upper half is none.
            let [endpoint, ..] = call::plain_by(entry, Call::EndpointCreate, [0; 3])?;
            let cut = call::plain_by(entry, Call::HandleClose, [endpoint & 0xFFFF_FFFF, 0, 0]);
            check!(cut == Err(Error::BadHandle));
            call::plain_by(entry, Call::HandleClose, [endpoint, 0, 0])?;
        }
        // A deadline, which needs 64 bits once a machine has run for four seconds.
        let until = call::now_ns() + 20_000_000;
        call::sleep_until(until)?;
        let now = call::now_ns();
        check!((until..until + 10_000_000_000).contains(&now), now);
    }
    Ok(())
}

/// The entries that take a word off the stack, with no stack there.
pub(crate) fn bad_stacks_are_error_values() -> Verdict {
    use core::arch::asm;
    let mut tried = false;
    for stack in [0u32, 2, 0x1000, 0xFFFF_FFFE, 0xFFFF_F000] {
        let status: u32;
        if landing_begins_with(&[0x51, 0x0F, 0x05]) {
            // SAFETY: ESP is put back; nothing comes between, as user code has no interrupts of its own.
            unsafe {
                asm!("mov {keep}, esp", "mov esp, {stack}", "syscall", "mov esp, {keep}",
                    keep = out(reg) _, stack = in(reg) stack, inout("eax") Call::Null as u32 => status, out("ecx") _);
            }
        } else if landing_begins_with(&[0x55, 0x89, 0xE5, 0x0F, 0x34]) {
            // The kernel returns to the landing page's `ret`, on the stack that it was told of: with none there the fault is this
            // program's end, which the test does not want. A stack whose second word alone is there shows the same.
            if stack != 0x1000 {
                continue;
            }
            status = sysenter_below_a_page()?;
        } else {
            return Err(Why::Skipped);
        }
        check!(status == Error::BadPointer as u32, status);
        tried = true;
    }
    check!(tried);
    Ok(())
}

/// `sysenter` with EBP four bytes below a mapped page on which the return address lies.
fn sysenter_below_a_page() -> Result<u32, Why> {
    use core::arch::asm;
    // The second, since between two the kernel leaves a page free.
    map_page()?;
    let page = map_page()?;
    let status: u32;
    // SAFETY: EBP is kept in the page, and ESP put back; the page is this function's.
    unsafe {
        asm!(
            "movl %ebp, 16({page})",
            "movl %esp, 20({page})",
            "call 2f",
            "2: popl {t}",
            "leal 3f - 2b({t}), {t}",
            "movl {t}, ({page})",
            "leal -4({page}), %ebp",
            "sysenter",
            "3:",
            "movl 20({page}), %esp",
            "movl 16({page}), %ebp",
            page = in(reg) page, t = out(reg) _, inout("eax") Call::Null as u32 => status,
            options(att_syntax),
        );
    }
    Ok(status)
}

/// Maps a page of fresh memory where the kernel likes, with nothing below it.
fn map_page() -> Result<u32, Error> {
    // SAFETY: the memory is fresh.
    let [memory, ..] = unsafe { call::plain(Call::MemoryCreate, [4096, 0, 0])? };
    let mut words = [0; BLOCK_WORDS];
    words[block::RDI] = call::own_process()?;
    words[block::RSI] = memory;
    words[block::R8] = 4096;
    words[block::R9] = u64::from(abi::Protection::READ_WRITE.0);
    // SAFETY: a mapping only adds memory where none was.
    unsafe { call::block(Call::MemoryMap, &mut words)? };
    Ok(words[block::RDI] as u32)
}

/// Start of the landing page's two pages.
fn landing() -> u64 {
    rt32::start::value(abi::start::names::SYSINFO_EHDR).unwrap_or(0) - abi::landing::IMAGE_OFFSET
}

pub(crate) fn landing_page_stays() -> Verdict {
    let process = call::own_process()?;
    let start = landing();
    check!(
        start.is_multiple_of(4096) && start >> 32 == 0 && start != 0,
        start
    );
    for (at, bytes) in [
        (start, 4096),
        (start + 4096, 4096),
        (start, 8192),
        (start - 4096, 16384),
        (start - 0x10_0000, 0x20_0000),
    ] {
        // SAFETY: nothing of this program lies there.
        unsafe {
            let unmapped = call::plain(Call::MemoryUnmap, [process, at, bytes]);
            check!(unmapped == Err(Error::Reserved), at);
            let mut words = [0; BLOCK_WORDS];
            (words[block::RDI], words[block::RSI], words[block::RDX]) = (process, at, bytes);
            words[block::R10] = u64::from(abi::Protection::READ_WRITE.0);
            let changed = call::block(Call::MemoryProtect, &mut words);
            check!(changed == Err(Error::Reserved), at);
        }
    }
    // It is still there.
    unchanged(
        by_landing(),
        Registers {
            eax: Call::Null as u32,
            ..pattern(0)
        },
        0,
    )
}

pub(crate) fn mappings_stay_below_4_gib() -> Verdict {
    let mut last = 0;
    for _ in 0..20 {
        let page = map_page()?;
        check!(
            page >= abi::layout::MAP_START_32 as u32 && page != last,
            page
        );
        // SAFETY: the page is mapped and nobody else's.
        unsafe { (page as *mut u32).write_volatile(page) };
        last = page;
    }
    // SAFETY: the memory is fresh; the mapping is refused.
    unsafe {
        let [memory, ..] = call::plain(Call::MemoryCreate, [4096, 0, 0])?;
        let mut words = [0; BLOCK_WORDS];
        words[block::RDI] = call::own_process()?;
        words[block::RSI] = memory;
        words[block::RDX] = 1 << 32;
        words[block::R8] = 4096;
        words[block::R9] = u64::from(abi::Protection::READ.0);
        check!(call::block(Call::MemoryMap, &mut words) == Err(Error::OutOfRange));
    }
    Ok(())
}
