//! The memory map, the direct map, and the kernel's own mapping.

use crate::entry::AT_ENTRY;
use crate::machine::DEVICES_SLOT;
use crate::report::Report;
use crate::requests::{self, loaded_revision};
use crate::walk::{hhdm, root, translate, word};

const USABLE: u64 = 0;
const RESERVED: u64 = 1;
const ACPI_RECLAIMABLE: u64 = 2;
const ACPI_NVS: u64 = 3;
const BAD: u64 = 4;
const RECLAIMABLE: u64 = 5;
const EXECUTABLE: u64 = 6;
const FRAMEBUFFER: u64 = 7;
const RESERVED_MAPPED: u64 = 8;

#[derive(Clone, Copy)]
struct Entry {
    base: u64,
    length: u64,
    kind: u64,
}

impl Entry {
    fn end(self) -> u64 {
        self.base + self.length
    }
}

/// The map's entries.
#[derive(Clone, Copy)]
struct Map {
    count: u64,
    array: u64,
}

impl Map {
    fn entries(self) -> impl Iterator<Item = Entry> {
        (0..self.count).map(move |n| {
            let at = word(self.array + n * 8);
            Entry {
                base: word(at),
                length: word(at + 8),
                kind: word(at + 16),
            }
        })
    }

    fn kind_of(self, phys: u64) -> Option<u64> {
        self.entries()
            .find(|e| (e.base..e.end()).contains(&phys))
            .map(|e| e.kind)
    }
}

unsafe extern "C" {
    static image_start: u8;
    static text_start: u8;
    static rodata_start: u8;
    static data_start: u8;
    static bss_start: u8;
    static bss_end: u8;
    static image_end: u8;
}

macro_rules! address {
    ($symbol:ident) => {
        (&raw const $symbol) as u64
    };
}

/// Checks all of it.
pub fn check(report: &mut Report) {
    if let Some(at) = requests::MEMORY_MAP.response() {
        let map = Map {
            count: word(at + 8),
            array: word(at + 16),
        };
        memory_map(report, map);
        direct_map(report, map);
        own_places(report, map);
    } else {
        report.check("memory_map", false, format_args!("no response"));
    }
    image(report);
    lower_half(report);
}

fn memory_map(report: &mut Report, map: Map) {
    let usable: u64 = map
        .entries()
        .filter(|e| e.kind == USABLE)
        .map(|e| e.length)
        .sum();
    report.check(
        "memory_map",
        map.count > 2 && usable > 16 << 20,
        format_args!("{} entries, {usable} usable", map.count),
    );
    let sorted = map
        .entries()
        .zip(map.entries().skip(1))
        .all(|(a, b)| a.base <= b.base);
    report.check("map_is_sorted", sorted, format_args!("it is not"));
    let free = |e: &Entry| e.kind == USABLE || e.kind == RECLAIMABLE;
    let aligned = map
        .entries()
        .filter(free)
        .all(|e| (e.base | e.length).is_multiple_of(4096));
    report.check(
        "free_memory_is_page_aligned",
        aligned,
        format_args!("it is not"),
    );
    let overlaps = map
        .entries()
        .enumerate()
        .filter(|(_, e)| free(e))
        .any(|(n, a)| {
            map.entries()
                .enumerate()
                .any(|(m, b)| n != m && a.base < b.end() && b.base < a.end())
        });
    report.check(
        "free_memory_overlaps_nothing",
        !overlaps,
        format_args!("it does"),
    );
    let newest = if loaded_revision() >= 4 {
        RESERVED_MAPPED
    } else {
        FRAMEBUFFER
    };
    let known = map.entries().all(|e| e.kind <= newest && e.length > 0);
    report.check(
        "map_has_known_types_only",
        known,
        format_args!("it has others"),
    );
    if loaded_revision() <= 2 {
        let kind = map.kind_of(0);
        report.check(
            "page_0_is_not_usable",
            kind != Some(USABLE),
            format_args!("{kind:?}"),
        );
    }
}

fn in_direct_map(kind: u64) -> bool {
    match kind {
        USABLE | RECLAIMABLE | EXECUTABLE | FRAMEBUFFER => true,
        ACPI_RECLAIMABLE | ACPI_NVS | RESERVED_MAPPED => loaded_revision() != 3,
        RESERVED | BAD => loaded_revision() == 0,
        _ => false,
    }
}

fn direct_map(report: &mut Report, map: Map) {
    let revision = loaded_revision();
    let (mut missing, mut surplus, mut wrong) = (0, 0, 0);
    for entry in map.entries() {
        // Ends and some pages between.
        let step = (entry.length / 61 + 4096) & !4095;
        for phys in (entry.base..entry.end())
            .step_by(step as usize)
            .chain([entry.end() - 1])
        {
            let mapping = translate(hhdm() + phys);
            if in_direct_map(entry.kind) {
                let cached = if entry.kind == FRAMEBUFFER { 5 } else { 0 };
                match mapping {
                    None => missing += 1,
                    Some(m) => {
                        let right =
                            m.phys == phys && m.write && m.execute && !m.user && m.pat == cached;
                        wrong += u32::from(!right);
                    }
                }
            } else if revision >= 3 && mapping.is_some() {
                surplus += 1;
            }
        }
    }
    report.check(
        "direct_map_covers_what_it_must",
        missing == 0,
        format_args!("{missing} probes not mapped"),
    );
    report.check(
        "direct_map_is_as_promised",
        wrong == 0,
        format_args!("{wrong} probes wrong"),
    );
    if revision >= 3 {
        report.check(
            "direct_map_covers_nothing_else",
            surplus == 0,
            format_args!("{surplus} probes mapped"),
        );
    } else {
        let all =
            (0..1024_u64).all(|n| translate(hhdm() + (n << 22)).is_some_and(|m| m.phys == n << 22));
        report.check("direct_map_covers_4_gib", all, format_args!("it does not"));
    }
}

/// Responses, tables and stack are in memory that can be reclaimed, the image in memory that cannot.
fn own_places(report: &mut Report, map: Map) {
    let mut place = |name: &str, virt: u64, kind: u64| {
        let found = translate(virt).and_then(|m| map.kind_of(m.phys));
        report.check(name, found == Some(kind), format_args!("{found:?}"));
    };
    place(
        "responses_are_reclaimable",
        requests::MEMORY_MAP.response().unwrap_or(0),
        RECLAIMABLE,
    );
    place("stack_is_reclaimable", AT_ENTRY.get()[15], RECLAIMABLE);
    place("page_tables_are_reclaimable", hhdm() + root(), RECLAIMABLE);
    place(
        "image_is_executable_memory",
        address!(image_start),
        EXECUTABLE,
    );
}

/// A word that relocation has to have got right.
static POINTER: &&str = &"relocated";

fn image(report: &mut Report) {
    let Some(at) = requests::ADDRESS.response() else {
        return report.check("executable_address", false, format_args!("no response"));
    };
    let (phys, virt) = (word(at + 8), word(at + 16));
    report.equal("virtual_base_is_the_images", virt, address!(image_start));
    report.check(
        "image_is_in_the_higher_half",
        virt >= 0xffff_ffff_8000_0000,
        format_args!("{virt:#x}"),
    );
    let mut stray = 0;
    for page in (virt..address!(image_end)).step_by(4096) {
        stray += u32::from(
            !translate(page)
                .is_some_and(|m| m.phys == phys + (page - virt) && m.pat == 0 && !m.user),
        );
    }
    report.check(
        "image_is_contiguous",
        stray == 0,
        format_args!("{stray} pages elsewhere"),
    );

    let no_execute = core::arch::x86_64::__cpuid(0x8000_0001).edx >> 20 & 1 != 0;
    for (name, at, write, execute) in [
        ("text_is_read_execute", address!(text_start), false, true),
        (
            "rodata_is_read_only",
            address!(rodata_start),
            false,
            !no_execute,
        ),
        (
            "data_is_read_write",
            address!(data_start),
            true,
            !no_execute,
        ),
    ] {
        let found = translate(at).map(|m| (m.write, m.execute));
        report.check(
            name,
            found == Some((write, execute)),
            format_args!("{found:?}"),
        );
    }
    // The entry routine's register file is in .bss and was written; its neighbours were not.
    let registers = (&raw const AT_ENTRY) as u64;
    let own = registers..registers + size_of_val(&AT_ENTRY) as u64;
    let dirty = (address!(bss_start)..address!(bss_end) & !7)
        .step_by(8)
        .filter(|at| !own.contains(at) && word(*at) != 0)
        .count();
    // The two tables through which devices were mapped hold three words of their own.
    report.check(
        "bss_is_zero",
        dirty <= 3,
        format_args!("{dirty} words are not"),
    );
    let pointer = (&raw const POINTER) as u64;
    let target = word(word(pointer));
    report.check(
        "pointers_are_relocated",
        target >= virt && **POINTER == *"relocated",
        format_args!("{target:#x}"),
    );
}

fn lower_half(report: &mut Report) {
    if loaded_revision() == 0 {
        let all = (1..1024_u64).all(|n| translate(n << 22).is_some_and(|m| m.phys == n << 22));
        report.check(
            "identity_map_covers_4_gib",
            all && translate(0x1000).is_some(),
            format_args!("it does not"),
        );
        report.check(
            "page_0_is_not_mapped",
            translate(0).is_none(),
            format_args!("it is"),
        );
    } else {
        let filled = (0..256)
            .filter(|n| *n != DEVICES_SLOT && word(hhdm() + root() + n * 8) & 1 != 0)
            .count();
        report.check(
            "no_identity_map",
            filled == 0,
            format_args!("{filled} entries in the lower half"),
        );
    }
}
