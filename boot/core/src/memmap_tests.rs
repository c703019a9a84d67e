//! Tests of the memory map.

use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const K: u64 = 0x1000;

fn r(base: u64, end: u64, kind: Kind) -> Region {
    Region {
        base: base * K,
        end: end * K,
        kind,
    }
}

fn draw(inputs: &[(Region, Paint)]) -> Vec<Region> {
    let mut room = vec![r(0, 0, Kind::Usable); capacity_for(inputs.len())];
    let mut map = MemoryMap::new(&mut room);
    for (region, paint) in inputs {
        map.add(region.base, region.end - region.base, region.kind, *paint)
            .unwrap();
    }
    map.regions().to_vec()
}

fn by_kind(regions: &[Region]) -> Vec<Region> {
    draw(
        &regions
            .iter()
            .map(|r| (*r, Paint::ByKind))
            .collect::<Vec<_>>(),
    )
}

#[test]
fn entries_come_out_sorted_and_joined() {
    let map = by_kind(&[
        r(8, 9, Kind::Usable),
        r(0, 4, Kind::Usable),
        r(4, 8, Kind::Usable),
        r(20, 21, Kind::Reserved),
    ]);
    assert_eq!(map, [r(0, 9, Kind::Usable), r(20, 21, Kind::Reserved)]);
}

#[test]
fn kernel_is_cut_out_of_loader_memory() {
    let map = by_kind(&[
        r(0, 10, Kind::BootloaderReclaimable),
        r(3, 5, Kind::ExecutableAndModules),
    ]);
    assert_eq!(
        map,
        [
            r(0, 3, Kind::BootloaderReclaimable),
            r(3, 5, Kind::ExecutableAndModules),
            r(5, 10, Kind::BootloaderReclaimable)
        ]
    );
}

#[test]
fn overlapping_descriptors_end_as_the_more_cautious_kind() {
    let want = [r(0, 2, Kind::Usable), r(2, 6, Kind::Reserved)];
    assert_eq!(
        by_kind(&[r(0, 4, Kind::Usable), r(2, 6, Kind::Reserved)]),
        want
    );
    assert_eq!(
        by_kind(&[r(2, 6, Kind::Reserved), r(0, 4, Kind::Usable)]),
        want
    );
}

#[test]
fn a_region_over_many_others_wins_only_where_it_may() {
    let map = by_kind(&[
        r(1, 2, Kind::Usable),
        r(3, 4, Kind::Framebuffer),
        r(5, 6, Kind::AcpiNvs),
        r(0, 8, Kind::Reserved),
    ]);
    assert_eq!(
        map,
        [
            r(0, 3, Kind::Reserved),
            r(3, 4, Kind::Framebuffer),
            r(4, 8, Kind::Reserved)
        ]
    );
}

#[test]
fn acpi_tables_are_mapped_without_touching_acpi_memory() {
    let map = draw(&[
        (r(0, 4, Kind::AcpiReclaimable), Paint::ByKind),
        (r(4, 8, Kind::Reserved), Paint::ByKind),
        (r(3, 5, Kind::ReservedMapped), Paint::NotOverAcpi),
        (r(12, 13, Kind::ReservedMapped), Paint::NotOverAcpi),
    ]);
    assert_eq!(
        map,
        [
            r(0, 4, Kind::AcpiReclaimable),
            r(4, 5, Kind::ReservedMapped),
            r(5, 8, Kind::Reserved),
            r(12, 13, Kind::ReservedMapped)
        ]
    );
}

#[test]
fn free_memory_shrinks_to_pages_and_the_rest_grows() {
    let mut room = [r(0, 0, Kind::Usable); 8];
    let mut map = MemoryMap::new(&mut room);
    map.add(0x800, 0x3000, Kind::Usable, Paint::ByKind).unwrap();
    map.add(0x10_0800, 0x10, Kind::Reserved, Paint::ByKind)
        .unwrap();
    map.add(0x20_0800, 0x10, Kind::Usable, Paint::ByKind)
        .unwrap();
    map.add(u64::MAX - 5, u64::MAX, Kind::Reserved, Paint::ByKind)
        .unwrap();
    map.add(u64::MAX, 1, Kind::Usable, Paint::ByKind).unwrap();
    map.add(0x30_0000, 0, Kind::Reserved, Paint::ByKind)
        .unwrap();
    assert_eq!(
        map.regions(),
        [r(1, 3, Kind::Usable), r(0x100, 0x101, Kind::Reserved)]
    );
}

#[test]
fn page_zero_is_usable_from_revision_3_on() {
    for revision in 0..=6 {
        let mut room = [r(0, 0, Kind::Usable); 8];
        let mut map = MemoryMap::new(&mut room);
        map.add(0, 0xa0000, Kind::Usable, Paint::ByKind).unwrap();
        map.reserve_page_zero(BaseRevision::for_request(revision))
            .unwrap();
        assert_eq!(
            map.regions()[0].kind == Kind::Usable,
            revision >= 3,
            "{revision}"
        );
    }
}

#[test]
fn no_room_is_an_error() {
    let mut room = [r(0, 0, Kind::Usable); 1];
    let mut map = MemoryMap::new(&mut room);
    map.add(0, K, Kind::Usable, Paint::ByKind).unwrap();
    assert_eq!(map.add(4 * K, K, Kind::Usable, Paint::ByKind), Err(FULL));
}

#[test]
fn firmware_types_become_what_the_revision_says() {
    let five = BaseRevision::for_request(5);
    let four = BaseRevision::for_request(4);
    assert_eq!(
        FirmwareKind::RuntimeServices.kind(five),
        Kind::ReservedMapped
    );
    assert_eq!(FirmwareKind::RuntimeServices.kind(four), Kind::Reserved);
    assert_eq!(
        FirmwareKind::BootServices.kind(four),
        Kind::BootloaderReclaimable
    );
    assert_eq!(FirmwareKind::Other.kind(five), Kind::Reserved);
    let mapped = |kind: Kind| {
        (0..=6)
            .filter(|n| kind.in_hhdm(BaseRevision::for_request(*n)))
            .collect::<Vec<_>>()
    };
    assert_eq!(mapped(Kind::Usable), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(mapped(Kind::AcpiNvs), [0, 1, 2, 4, 5, 6]);
    assert_eq!(mapped(Kind::Reserved), [0]);
}

const KINDS: [Kind; 9] = [
    Kind::Usable,
    Kind::BootloaderReclaimable,
    Kind::AcpiReclaimable,
    Kind::AcpiNvs,
    Kind::Reserved,
    Kind::BadMemory,
    Kind::ReservedMapped,
    Kind::ExecutableAndModules,
    Kind::Framebuffer,
];

proptest! {
    /// Whatever firmware says, the map is sorted, aligned, free of overlap, fits its room, and each page is of the
    /// firmest kind that anybody claimed for it.
    #[test]
    fn any_input_makes_a_sound_map(
        inputs in proptest::collection::vec((0u64..64, 0u64..20, 0usize..9), 0..40)
    ) {
        let inputs: Vec<_> = inputs.into_iter().map(|(base, pages, kind)| r(base, base + pages, KINDS[kind])).collect();
        let map = by_kind(&inputs);
        for pair in map.windows(2) {
            prop_assert!(pair[0].end <= pair[1].base);
            prop_assert!(pair[0].end < pair[1].base || pair[0].kind != pair[1].kind);
        }
        for page in 0..90 {
            let at = page * K;
            let claimed = inputs.iter().filter(|i| i.base <= at && at < i.end).map(|i| i.kind).max();
            let found = map.iter().find(|i| i.base <= at && at < i.end).map(|i| i.kind);
            prop_assert_eq!(found, claimed);
        }
    }

    #[test]
    fn unaligned_and_huge_numbers_never_panic(
        inputs in proptest::collection::vec((any::<u64>(), any::<u64>(), 0usize..9, 0u32..64), 0..30)
    ) {
        let mut room = vec![r(0, 0, Kind::Usable); capacity_for(inputs.len())];
        let mut map = MemoryMap::new(&mut room);
        for (base, length, kind, shift) in inputs {
            prop_assert_eq!(map.add(base >> shift, length >> shift, KINDS[kind], Paint::NotOverAcpi), Ok(()));
        }
        prop_assert!(map.regions().windows(2).all(|p| p[0].end <= p[1].base));
        prop_assert!(map.regions().iter().all(|p| p.base < p.end && (p.base | p.end) % K == 0));
    }
}
