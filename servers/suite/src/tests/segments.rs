//! Selectors and descriptors of threads: each has its own, whatever else runs, and no bad one hurts more than its thread.

use abi::segment::{DataSegment, TLS_SLOTS, tls_selector};
use abi::{Call, Error, FaultKind};
use alloc::vec::Vec;
use core::arch::asm;
use core::time::Duration;

use rt::{AsHandle, Memory, Protection, Thread, process, thread, time};

use super::tests;
use crate::bare;
use crate::kernel_calls::{call, refused};
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, must, same};

tests! {
    thread_segments_are_each_threads_own: 40,
    changed_thread_segment_is_loaded_anew: 40,
    senseless_thread_segments_are_refused: 40,
    stack_segment_that_went_bad_faults_the_program: 40,
}

/// The limit of the segment that a selector names, if user code may see one.
fn limit(selector: u16) -> Option<u32> {
    let (limit, found): (u32, u8);
    // SAFETY: `lsl` looks at a descriptor and changes nothing but its result and ZF.
    unsafe {
        asm!(
            "lsl {limit:e}, {selector:e}",
            "setz {found}",
            limit = inout(reg) 0_u32 => limit,
            selector = in(reg) u32::from(selector),
            found = out(reg_byte) found,
            options(nomem, nostack),
        );
    }
    (found != 0).then_some(limit)
}

fn load_gs(selector: u16) {
    // SAFETY: neither Rust nor the SDK uses GS.
    unsafe { asm!("mov gs, {:e}", in(reg) u32::from(selector), options(nostack, preserves_flags)) };
}

fn gs() -> u16 {
    let selector: u32;
    // SAFETY: as above.
    unsafe { asm!("mov {:e}, gs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector as u16
}

/// The word at the beginning of the GS segment.
///
/// # Safety
/// There is one.
unsafe fn first_word() -> u64 {
    let word;
    // SAFETY: the caller's promise.
    unsafe { asm!("mov {}, gs:[0]", out(reg) word, options(readonly, nostack, preserves_flags)) };
    word
}

fn selectors() -> [u16; TLS_SLOTS] {
    [0, 1, 2].map(|slot| tls_selector(slot).unwrap_or(0))
}

/// Memory that 32-bit addresses reach.
fn low_memory(bytes: u64) -> rt::Result<u64> {
    const PLACE: u64 = 0x5A00_0000;
    let memory = Memory::create(bytes)?;
    process::current().map(&memory, PLACE, 0, bytes, Protection::READ_WRITE)
}

fn soon() -> abi::Deadline {
    time::after(Duration::from_secs(10))
}

fn thread_segments_are_each_threads_own(world: &'static World) -> Verdict {
    const EACH: u32 = 4;
    let words = must!(low_memory(4096));
    let mut threads = Vec::new();
    for number in 0..world.cpus * EACH {
        let word = words + 8 * u64::from(number);
        // SAFETY: the word is in the mapping, and this thread's alone until it has ended.
        unsafe { (word as *mut u64).write(u64::from(number)) };
        threads.push(must!(thread::Builder::new().cpu(number / EACH).spawn(
            move || -> Result<(), u32> {
                // One in four has none at all.
                let slot = (number % EACH) as usize;
                let segment = DataSegment {
                    base: word as u32,
                    limit: 7 + number,
                    limit_in_pages: false,
                    writable: true,
                    expand_down: false,
                };
                let selectors = selectors();
                if slot < TLS_SLOTS {
                    // SAFETY: FS is not concerned.
                    unsafe { thread::set_own_tls(slot, Some(segment)) }.map_err(|_| 0_u32)?;
                    load_gs(selectors[slot]);
                }
                for round in 0..400 {
                    if round % 8 == 0 {
                        time::sleep(Duration::from_micros(100)).map_err(|_| 1_u32)?;
                    } else {
                        thread::yield_now();
                    }
                    for (other, selector) in selectors.into_iter().enumerate() {
                        let want = (other == slot).then_some(segment.limit);
                        if limit(selector) != want {
                            return Err(2);
                        }
                    }
                    if slot == TLS_SLOTS {
                        continue;
                    }
                    if gs() != selectors[slot] {
                        return Err(3);
                    }
                    // SAFETY: the segment begins with this thread's word.
                    if unsafe { first_word() } != u64::from(number) {
                        return Err(4);
                    }
                }
                Ok(())
            }
        )));
    }
    for thread in threads {
        same!(must!(thread.join(soon())), Ok(()));
    }
    // SAFETY: nothing refers to the words any more.
    must!(unsafe { process::current().unmap(words, 4096) });
    Ok(())
}

fn changed_thread_segment_is_loaded_anew(_: &'static World) -> Verdict {
    let words = must!(low_memory(4096));
    // SAFETY: both words are in the mapping.
    unsafe {
        (words as *mut u64).write(11);
        (words as *mut u64).add(1).write(22);
    }
    let thread = must!(thread::spawn(move || -> Verdict {
        let at = |offset: u32| Some(DataSegment::flat(words as u32 + offset));
        // SAFETY: FS is not concerned, in this and what follows.
        let selector = must!(unsafe { thread::set_own_tls(1, at(0)) });
        same!(selector, 0x4B);
        load_gs(selector);
        // SAFETY: the segment begins in the mapping.
        same!(unsafe { first_word() }, 11);
        // SAFETY: as above.
        same!(must!(unsafe { thread::set_own_tls(1, at(8)) }), 0x4B);
        // SAFETY: as above.
        same!(unsafe { first_word() }, 22);
        // Another slot's change is nothing to it.
        // SAFETY: as above.
        same!(must!(unsafe { thread::set_own_tls(0, at(0)) }), 0x43);
        // SAFETY: as above.
        same!(unsafe { first_word() }, 22);
        same!(gs(), 0x4B);
        // A register whose slot is emptied becomes null.
        // SAFETY: as above.
        same!(must!(unsafe { thread::set_own_tls(1, None) }), 0x4B);
        same!(gs(), 0);
        same!(limit(0x4B), None);
        same!(limit(0x43), Some(u32::MAX));
        Ok(())
    }));
    must!(thread.join(soon()))?;
    // SAFETY: nothing refers to the words any more.
    must!(unsafe { process::current().unmap(words, 4096) });
    Ok(())
}

fn senseless_thread_segments_are_refused(_: &'static World) -> Verdict {
    let good = DataSegment::flat(0).descriptor();
    let own = |slot: u64, descriptor: u64| [0, slot, descriptor];
    for descriptor in [
        good & !(1 << 47), // not present
        good & !(1 << 44), // a system segment
        good | 1 << 43,    // code
        good & !(3 << 45), // the kernel's
        good & !(1 << 46),
        good & !(1 << 54),     // 16 bits
        good | 1 << 53,        // 64 bits
        0x0000_8900_0000_0067, // a TSS
        0x0000_EC00_0008_0000, // a gate to the kernel
        0x00AF_9B00_0000_FFFF, // the kernel's code
        1,
    ] {
        refused(Call::ThreadSetTls, &own(0, descriptor), Error::BadArgument)?;
    }
    for slot in [3, 4, 1 << 32, u64::MAX] {
        refused(Call::ThreadSetTls, &own(slot, good), Error::OutOfRange)?;
    }
    refused(Call::ThreadSetTls, &[12345, 0, 0], Error::BadHandle)?;
    // One that runs is not for others to change, and itself counts as another under its handle.
    let itself = must!(Thread::current());
    refused(
        Call::ThreadSetTls,
        &[itself.handle().0, 0, 0],
        Error::WrongState,
    )?;
    same!(selectors().map(limit), [None; TLS_SLOTS]);
    Ok(())
}

fn stack_segment_that_went_bad_faults_the_program(_: &'static World) -> Verdict {
    const { assert!(Call::ThreadSetTls as u64 == 66) };
    // SS names the slot while the slot is emptied by `int 0x80`, whose return must load SS again.
    let info = must!(bare::run(code!(
        "xor edi, edi",
        "xor esi, esi",
        "movabs rdx, 0x00CFF3000000FFFF",
        "mov eax, 66",
        "syscall",
        "test rax, rax",
        "jnz 3f",
        "mov eax, 0x43",
        "mov ss, eax",
        "xor edi, edi",
        "xor edx, edx",
        "mov eax, 66",
        "int 0x80",
        "3:",
        "ud2",
    )));
    let kind = FaultKind::from_vector(info.context.vector);
    check!(
        matches!(
            kind,
            FaultKind::Protection | FaultKind::StackSegment | FaultKind::SegmentNotPresent
        ),
        "{}",
        ending(&info)
    );
    same!(info.context.error_code, 0x40);
    same!(info.context.ss, 0x43);
    same!(info.context.rax, 0);
    // The machine is as it was: GS is right, and the slot is empty.
    same!(selectors().map(limit), [None; TLS_SLOTS]);
    must!(call(Call::Null, &[]));
    Ok(())
}
