//! Bases and selectors of segments across switches, however the program came by them.
//!
//! What a null selector does to the base is the CPU's affair: Intel's clear it, AMD's keep it, newer ones excepted (AMD APM vol. 3,
//! CPUID Fn8000_0021, NullSelectorClearsBase). So no test here says which it is to be; they say that a switch to threads with other
//! bases and other selectors, and back, changes nothing. QEMU and Bochs clear it, whatever maker their CPU names.

use abi::segment::DataSegment;
use abi::{Call, CpuSet, FaultKind, UserContext};
use alloc::vec::Vec;
use core::arch::x86_64::__cpuid_count;

use super::contexts::prepared;
use super::faults::faulted;
use super::tests;
use crate::bare::Bare;
use crate::verdict::{Verdict, Why};
use crate::world::World;
use crate::{check, code, must, same};

tests! {
    bases_and_selectors_are_the_same_after_switches: 60,
    null_selectors_are_the_same_after_switches: 60,
}

/// The bases that a program begins with.
const FIRST: (u64, u64) = (0x1234_5678_9ABC, 0x7654_3210_FEDC);
/// The base in its own slot, and that slot's selector.
const SLOT: (u64, u64) = (0x5A5A_0000, 0x43);
/// A data segment's selector.
const DATA: u64 = 0x23;

/// Lines, then as many yields as `rbx` says, then the report of a `ud2`.
macro_rules! then_yield {
    ($($line:expr),+ $(,)?) => {
        code!($($line,)+ "2:", "dec rbx", "js 3f", "mov eax, 1", "syscall", "jmp 2b", "3:", "ud2")
    };
}
const _: () = assert!(Call::Yield as u64 == 1);

/// The selectors, all null ones as 0, and the bases of `fs` and `gs`.
type Seen = [u64; 6];

fn seen(context: &UserContext) -> Seen {
    // The CPU itself puts 0 into a register that holds another null selector when it returns from an interrupt (Intel SDM vol. 2A,
    // IRET, return to an outer privilege level), so which one it is can't be kept.
    let known = |selector: u16| if selector < 4 { 0 } else { selector.into() };
    [
        known(context.ds),
        known(context.es),
        known(context.fs),
        known(context.gs),
        context.fs_base,
        context.gs_base,
    ]
}

/// Threads on a CPU that never end, with other bases and other selectors.
fn rivals(cpu: u32) -> rt::Result<Vec<Bare>> {
    let codes: [&[u8]; 2] = [
        code!("2:", "mov eax, 1", "syscall", "jmp 2b"),
        code!(
            "2:",
            "mov eax, 0x2B",
            "mov fs, eax",
            "mov gs, eax",
            "mov ds, eax",
            "mov es, eax",
            "mov eax, 1",
            "syscall",
            "jmp 2b"
        ),
    ];
    codes
        .into_iter()
        .map(|code| {
            let rival = prepared(code, |context| {
                (context.fs_base, context.gs_base) = (0x7777_0000, 0x8888_0000);
            })?;
            rival.thread.set_affinity(&CpuSet::only(cpu))?;
            rival.thread.start()?;
            Ok(rival)
        })
        .collect()
}

/// What code leaves in selectors and bases: the same however often it lets others run meanwhile.
fn left_by(name: &str, code: &[u8], cpu: u32) -> Result<Seen, Why> {
    let mut first = None;
    for yields in [0, 1, 40] {
        let bare = must!(prepared(code, |context| {
            (context.fs_base, context.gs_base) = FIRST;
            context.rbx = yields;
        }));
        must!(
            bare.thread
                .set_tls(0, Some(DataSegment::flat(SLOT.0 as u32)))
        );
        must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
        let info = must!(bare.run());
        faulted(name, &info, FaultKind::InvalidInstruction)?;
        let now = seen(&info.context);
        let first = *first.get_or_insert(now);
        check!(
            now == first,
            "{name}: {first:x?} are {now:x?} after {yields} yields"
        );
    }
    Ok(first.unwrap_or_default())
}

fn bases_and_selectors_are_the_same_after_switches(world: &'static World) -> Verdict {
    let cpu = world.cpus - 1;
    let _rivals = must!(rivals(cpu));
    let (base, slot) = SLOT;
    let mut cases: Vec<(&str, &[u8], Seen)> = alloc::vec![
        (
            "as it began",
            then_yield!("nop"),
            [0, 0, 0, 0, FIRST.0, FIRST.1],
        ),
        (
            "ds and es",
            then_yield!(
                "mov eax, 0x23",
                "mov ds, eax",
                "mov eax, 0x2B",
                "mov es, eax"
            ),
            [DATA, 0x2B, 0, 0, FIRST.0, FIRST.1],
        ),
        (
            "a data segment",
            then_yield!("mov eax, 0x23", "mov fs, eax", "mov gs, eax"),
            [0, 0, DATA, DATA, 0, 0],
        ),
        (
            "a slot",
            then_yield!("mov eax, 0x43", "mov fs, eax", "mov gs, eax"),
            [0, 0, slot, slot, base, base],
        ),
    ];
    if __cpuid_count(7, 0).ebx & 1 != 0 {
        cases.push((
            "by instruction",
            then_yield!(
                "mov eax, 0x43",
                "mov fs, eax",
                "movabs rax, 0x111122223333",
                "wrfsbase rax",
                "movabs rax, 0x444455556666",
                "wrgsbase rax"
            ),
            [0, 0, slot, 0, 0x1111_2222_3333, 0x4444_5555_6666],
        ));
    }
    for (name, code, wanted) in cases {
        let left = left_by(name, code, cpu)?;
        check!(left == wanted, "{name}: {left:x?}, not {wanted:x?}");
    }
    Ok(())
}

/// Name, code, and the bases that it leaves on a CPU that keeps them.
type Case = (&'static str, &'static [u8], (u64, u64));

fn null_selectors_are_the_same_after_switches(world: &'static World) -> Verdict {
    let cpu = world.cpus - 1;
    let _rivals = must!(rivals(cpu));
    let base = SLOT.0;
    let cases: [Case; 4] = [
        (
            "null",
            then_yield!("xor eax, eax", "mov fs, eax", "mov gs, eax"),
            FIRST,
        ),
        (
            "null with privilege levels",
            then_yield!(
                "mov eax, 3",
                "mov fs, eax",
                "dec eax",
                "mov gs, eax",
                "dec eax",
                "mov ds, eax",
                "mov es, eax"
            ),
            FIRST,
        ),
        (
            "a data segment, then null",
            then_yield!(
                "mov eax, 0x23",
                "mov fs, eax",
                "mov gs, eax",
                "xor eax, eax",
                "mov fs, eax",
                "mov gs, eax"
            ),
            (0, 0),
        ),
        (
            "a slot, then null",
            then_yield!(
                "mov eax, 0x43",
                "mov fs, eax",
                "mov gs, eax",
                "xor eax, eax",
                "mov fs, eax",
                "mov gs, eax"
            ),
            (base, base),
        ),
    ];
    for (name, code, kept) in cases {
        let left = left_by(name, code, cpu)?;
        same!(left[..4], [0; 4]);
        let bases = (left[4], left[5]);
        check!(
            bases == (0, 0) || bases == kept,
            "{name}: bases {bases:x?}, neither none nor {kept:x?}"
        );
    }
    Ok(())
}
