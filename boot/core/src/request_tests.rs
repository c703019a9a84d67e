//! Tests of the search for requests.

use super::*;
use crate::elf::tests::{Header, file};
use crate::protocol::KERNEL_BASE;
use alloc::vec;

const PLACE: usize = 0x100;

fn id(feature: Feature) -> [u64; 4] {
    let (_, _, tail, _) = FEATURES.iter().find(|f| f.0 == feature).unwrap();
    [COMMON_MAGIC[0], COMMON_MAGIC[1], tail[0], tail[1]]
}

fn plan() -> Plan {
    Plan::new(&file(2, KERNEL_BASE, &[Header::text(KERNEL_BASE)])).unwrap()
}

fn image(parts: &[(usize, &[u64])]) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    for (at, words) in parts {
        for (n, word) in words.iter().enumerate() {
            image[at + n * 8..at + n * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
    image
}

fn tag(revision: u64) -> [u64; 3] {
    [BASE_REVISION_MAGIC[0], BASE_REVISION_MAGIC[1], revision]
}

#[test]
fn requests_are_found_anywhere_on_8_bytes() {
    let image = image(&[
        (8, &id(Feature::Hhdm)),
        (0x808, &id(Feature::Rsdp)),
        (0x40, &tag(4)),
    ]);
    let r = Requests::scan(&plan(), &image).unwrap();
    assert_eq!((r.count(), r.base.number(), r.requested), (2, 4, Some(4)));
    assert!(r.has(Feature::Hhdm) && r.has(Feature::Rsdp) && !r.has(Feature::Mp));
}

#[test]
fn requests_off_their_alignment_are_not_seen() {
    let mut image = image(&[(16, &id(Feature::Hhdm))]);
    image.rotate_left(4);
    assert_eq!(Requests::scan(&plan(), &image).unwrap().count(), 0);
}

#[test]
fn without_a_tag_the_revision_is_0() {
    let r = Requests::scan(&plan(), &image(&[])).unwrap();
    assert_eq!((r.base.number(), r.requested), (0, None));
}

#[test]
fn delimiters_shut_out_the_rest() {
    let image = image(&[
        (0x40, &id(Feature::Rsdp)),
        (0x100, &START_MARKER),
        (0x200, &tag(6)),
        (0x300, &id(Feature::Hhdm)),
        (0x400, &END_MARKER),
        (0x500, &id(Feature::Hhdm)),
    ]);
    let r = Requests::scan(&plan(), &image).unwrap();
    assert_eq!(r.count(), 1);
    assert!(r.has(Feature::Hhdm));
}

#[test]
fn crossed_delimiters_are_refused() {
    let image = image(&[(0x100, &END_MARKER), (0x200, &START_MARKER)]);
    assert_eq!(Requests::scan(&plan(), &image), Err(Fault::BadDelimiters));
}

#[test]
fn a_request_made_twice_is_refused_by_name() {
    let twice = image(&[(0, &id(Feature::Hhdm)), (0x80, &id(Feature::Hhdm))]);
    assert_eq!(
        Requests::scan(&plan(), &twice),
        Err(Fault::DuplicateRequest("HHDM"))
    );
    let tags = image(&[(0, &tag(3)), (0x80, &tag(3))]);
    assert_eq!(
        Requests::scan(&plan(), &tags),
        Err(Fault::DuplicateRequest("base revision"))
    );
}

#[test]
fn a_request_at_the_very_end_is_refused() {
    let image = image(&[(0x1000 - 32, &id(Feature::Hhdm))]);
    assert_eq!(
        Requests::scan(&plan(), &image),
        Err(Fault::RequestTruncated("HHDM"))
    );
}

#[test]
fn known_revision_is_confirmed_and_unknown_one_left_standing() {
    for (asked, given, third) in [(3, 3, 0), (6, 6, 0), (7, 6, 7), (u64::MAX, 6, u64::MAX)] {
        let mut image = image(&[(PLACE, &tag(asked))]);
        let r = Requests::scan(&plan(), &image).unwrap();
        r.answer_tag(&mut image);
        assert_eq!(word_at(&image, PLACE), Some(BASE_REVISION_MAGIC[0]));
        assert_eq!(word_at(&image, PLACE + 8), Some(given));
        assert_eq!(word_at(&image, PLACE + 16), Some(third));
    }
}

#[test]
fn responses_go_where_the_request_is() {
    let mut image = image(&[(PLACE, &id(Feature::Hhdm))]);
    let r = Requests::scan(&plan(), &image).unwrap();
    r.respond(&mut image, Feature::Hhdm, VirtAddr(0x1234));
    r.respond(&mut image, Feature::Rsdp, VirtAddr(0x5678));
    assert_eq!(word_at(&image, PLACE + 40), Some(0x1234));
    assert_eq!(
        image.iter().filter(|b| **b != 0).count(),
        32 - id(Feature::Hhdm)
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .filter(|b| *b == 0)
            .count()
            + 2
    );
}

fn with_fields(feature: Feature, rest: &[u64]) -> (Requests, Vec<u8>) {
    let mut words = id(feature).to_vec();
    words.extend_from_slice(rest);
    let image = image(&[(PLACE, &words)]);
    (Requests::scan(&plan(), &image).unwrap(), image)
}

#[test]
fn stack_is_as_asked_but_never_below_64_kib() {
    let size = |bytes| {
        let (r, image) = with_fields(Feature::StackSize, &[0, 0, bytes]);
        r.stack_size(&image)
    };
    assert_eq!(size(1), Ok(65536));
    assert_eq!(size(100_001), Ok(100_016));
    assert_eq!(
        size(u64::MAX),
        Err(Fault::StackTooLarge { bytes: u64::MAX })
    );
    let none = image(&[]);
    assert_eq!(
        Requests::scan(&plan(), &none).unwrap().stack_size(&none),
        Ok(65536)
    );
}

#[test]
fn entry_point_request_overrides_the_elf_header_if_it_is_text() {
    let entry = |at| {
        let (r, image) = with_fields(Feature::EntryPoint, &[0, 0, at]);
        r.entry_point(&plan(), &image)
    };
    assert_eq!(entry(KERNEL_BASE + 0x20), Ok(VirtAddr(KERNEL_BASE + 0x20)));
    assert_eq!(entry(0), Err(Fault::BadEntryPoint { entry: 0 }));
    let none = image(&[]);
    assert_eq!(
        Requests::scan(&plan(), &none)
            .unwrap()
            .entry_point(&plan(), &none),
        Ok(VirtAddr(KERNEL_BASE))
    );
}

#[test]
fn only_a_higher_minimum_rules_4_level_paging_out() {
    let check = |words: &[u64]| {
        let (r, image) = with_fields(Feature::PagingMode, words);
        r.check_paging_mode(&image)
    };
    assert_eq!(check(&[1, 0, 1, 1, 0]), Ok(()));
    assert_eq!(check(&[1, 0, 1, 1, 1]), Err(Fault::PagingMode));
    // Revision 0 has no minimum: what lies behind it is something else.
    assert_eq!(check(&[0, 0, 1, 1, 1]), Ok(()));
}
