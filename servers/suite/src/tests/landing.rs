//! The landing page as 64-bit programs see it: an ELF image with symbols, time and CPU number without a call, and nothing that
//! could be changed.

use abi::landing::{BYTES, IMAGE_OFFSET, LandingData, flags, symbol};
use abi::{Call, Error, FaultKind, Protection};
use alloc::vec::Vec;
use core::time::Duration;

use rt::process::Mode;
use rt::{Memory, Process, start, thread, time};

use super::faults::faulted;
use super::tests;
use crate::bare::{Bare, reg};
use crate::kernel_calls::refused;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, must, same};

tests! {
    landing_page_is_an_elf_image_with_symbols: 40,
    time_without_a_call_agrees_with_the_kernels: 40,
    time_falls_back_to_a_call_where_the_counter_is_not_trusted: 40,
    cpu_number_without_a_call_is_right_by_every_way: 40,
    landing_page_can_not_be_changed: 40,
    landing_page_lies_elsewhere_in_each_process: 40,
}

/// Where the image is.
fn image() -> u64 {
    start::value(abi::start::names::SYSINFO_EHDR).unwrap_or(0)
}

/// The image's bytes.
fn contents() -> &'static [u8] {
    // SAFETY: the kernel keeps the page mapped and unchanged.
    unsafe { core::slice::from_raw_parts(image() as *const u8, 4096) }
}

/// Where a symbol is in the image: found as a dynamic linker does it.
fn find(name: &str) -> Result<u64, crate::verdict::Why> {
    match rt::landing::find(contents(), name) {
        Some(offset) => Ok(offset),
        None => crate::fail!("no symbol {name}"),
    }
}

/// A function of a landing page that lies at `start`.
fn function(start: u64, offset: u64) -> extern "C" fn() -> u64 {
    // SAFETY: the symbol is a function that takes nothing, by the C convention.
    unsafe { core::mem::transmute((start + IMAGE_OFFSET + offset) as usize) }
}

fn landing_page_is_an_elf_image_with_symbols(_: &'static World) -> Verdict {
    check!(image() != 0 && image().is_multiple_of(4096));
    check!(contents().starts_with(b"\x7FELF\x02\x01\x01"));
    for name in [symbol::CLOCK_NOW, symbol::CPU_NUMBER] {
        check!(find(name)? < 4096);
    }
    check!(rt::landing::find(contents(), "__vdso_nothing").is_none());
    same!(must!(rt::process::current().info()).landing, image());
    Ok(())
}

fn time_without_a_call_agrees_with_the_kernels(_: &'static World) -> Verdict {
    let now = function(image() - IMAGE_OFFSET, find(symbol::CLOCK_NOW)?);
    for _ in 0..2000 {
        let before = time::now_by_call();
        let between = now();
        let after = time::now_by_call();
        check!(
            before <= between && between <= after,
            "{before} {between} {after}"
        );
    }
    Ok(())
}

/// A copy of the landing page in this process, with other data.
fn copy(data: LandingData) -> rt::Result<u64> {
    let memory = Memory::create(BYTES)?;
    for (index, word) in [data.flags, data.epoch, data.scale].iter().enumerate() {
        memory.write(8 * index as u64, &word.to_le_bytes())?;
    }
    memory.write(IMAGE_OFFSET, contents())?;
    rt::process::current().map(&memory, 0, 0, BYTES, Protection::READ_EXECUTE)
}

fn time_falls_back_to_a_call_where_the_counter_is_not_trusted(_: &'static World) -> Verdict {
    // Senseless numbers, which would show if they were used.
    let at = must!(copy(LandingData {
        flags: 0,
        epoch: 1 << 40,
        scale: 77,
    }));
    let now = function(at, find(symbol::CLOCK_NOW)?);
    for _ in 0..100 {
        let before = time::now_by_call();
        let between = now();
        let after = time::now_by_call();
        check!(
            before <= between && between <= after,
            "{before} {between} {after}"
        );
    }
    Ok(())
}

fn cpu_number_without_a_call_is_right_by_every_way(world: &'static World) -> Verdict {
    // SAFETY: the data page is mapped and never changes.
    let data = unsafe { ((image() - IMAGE_OFFSET) as *const LandingData).read() };
    let offset = find(symbol::CPU_NUMBER)?;
    // The page as it is, and copies with less and less of what the CPU has; the last way is the segment limit.
    let mut pages = Vec::from([image() - IMAGE_OFFSET]);
    for flags in [data.flags & flags::RDTSCP, 0] {
        pages.push(must!(copy(LandingData { flags, ..data })));
    }
    for page in pages {
        let number = function(page, offset);
        for cpu in 0..world.cpus {
            let there = must!(thread::Builder::new().cpu(cpu).spawn(move || {
                (0..200).all(|_| {
                    let found = number() as u32;
                    thread::yield_now();
                    found == cpu
                })
            }));
            check!(
                must!(there.join(time::after(Duration::from_secs(10)))),
                "wrong on CPU {cpu}"
            );
        }
    }
    Ok(())
}

fn landing_page_can_not_be_changed(_: &'static World) -> Verdict {
    let process = must!(crate::kernel_calls::call(Call::ProcessSelf, &[]))[0];
    let start = image() - IMAGE_OFFSET;
    let memory = must!(Memory::create(0x4000));
    for (at, bytes) in [
        (start, 4096),
        (start + 4096, 4096),
        (start, 8192),
        (start - 4096, 8192),
        (start - (1 << 30), 1 << 31),
    ] {
        refused(Call::MemoryUnmap, &[process, at, bytes], Error::Reserved)?;
        for protection in [Protection::READ, Protection::READ_WRITE] {
            let arguments = [process, at, bytes, u64::from(protection.0)];
            refused(Call::MemoryProtect, &arguments, Error::Reserved)?;
        }
    }
    for at in [start - 4096, start, start + 4096] {
        let mapped = rt::process::current().map(&memory, at, 0, 8192, Protection::READ_WRITE);
        same!(mapped, Err(Error::AlreadyMapped));
    }
    // The neighbours are free to use.
    must!(rt::process::current().map(&memory, start - 4096, 0, 4096, Protection::READ_WRITE));
    must!(rt::process::current().map(&memory, start + BYTES, 0, 4096, Protection::READ_WRITE));
    refused(
        Call::MemoryUnmap,
        &[process, start - 4096, 4096 + BYTES],
        Error::Reserved,
    )?;
    let now = function(start, find(symbol::CLOCK_NOW)?);
    check!(now() != 0);
    // Nothing in it can be written, and the data can't be run.
    for (what, code, offset) in [
        ("writing the data", code!("mov [rbx], rax"), 0),
        ("writing the code", code!("mov [rbx], rax"), IMAGE_OFFSET),
        ("running the data", code!("jmp rbx"), 0),
    ] {
        let bare = must!(Bare::at_landing(code, reg::RBX, offset));
        let page = must!(bare.process.info()).landing - IMAGE_OFFSET + offset;
        let info = must!(bare.run());
        faulted(what, &info, FaultKind::Page)?;
        same!(info.context.cr2, page);
    }
    Ok(())
}

fn landing_page_lies_elsewhere_in_each_process(_: &'static World) -> Verdict {
    for mode in [Mode::Long, Mode::Compat] {
        let mut seen = Vec::new();
        for _ in 0..12 {
            let process = must!(Process::create_in(mode, "somewhere", rt::Priority::LOWEST));
            let info = must!(process.info());
            let end = if mode == Mode::Long { 1 << 47 } else { 1 << 32 };
            check!(
                info.landing != 0 && info.landing < end,
                "{:#x}",
                info.landing
            );
            same!(info.vsyscall != 0, mode == Mode::Compat);
            seen.push(info.landing);
        }
        seen.sort_unstable();
        seen.dedup();
        // Of twelve places in a hundred thousand, two may be the same once in some thousand runs; three not.
        check!(seen.len() >= 11, "{} places, {mode:?}", seen.len());
    }
    Ok(())
}
