//! Tests of the responses, read back as a kernel would.

use super::*;
use crate::addr::word_at;
use crate::elf::Plan;
use crate::elf::tests::{Header, file};
use crate::front::FirmwareType;
use crate::memmap::Kind;
use crate::protocol::{COMMON_MAGIC, FEATURES, HHDM_BASE, KERNEL_BASE};
use alloc::borrow::ToOwned;
use alloc::vec;

const PHYS: u64 = 0x50_0000;
const HHDM: Hhdm = Hhdm(HHDM_BASE);

/// A kernel that asks for everything, and what it was told.
struct World {
    image: Vec<u8>,
    arena: Vec<u8>,
}

fn facts(capacity: usize) -> Facts<'static> {
    let layout = PixelLayout {
        red: (8, 16),
        green: (8, 8),
        blue: (8, 0),
    };
    let mode = VideoMode {
        pitch: 4096,
        width: 1000,
        height: 600,
        bpp: 32,
        layout,
    };
    let module = |string: &str| FileFacts {
        address: PhysAddr(0x9000),
        size: 13,
        path: "/m".to_owned(),
        string: string.to_owned(),
        partition: 2,
        mbr_disk: 7,
        gpt_partition: [3; 16],
    };
    Facts {
        loader: ("name", "version"),
        firmware: FirmwareType::Efi64,
        kernel: FileFacts {
            string: "a b".to_owned(),
            path: "/k".to_owned(),
            ..module("")
        },
        modules: vec![module("one"), module("")],
        framebuffer: Some(FramebufferFacts {
            address: PhysAddr(0x8000_0000),
            mode,
            edid: vec![1, 2, 3],
            modes: vec![mode, VideoMode { width: 640, ..mode }],
        }),
        rsdp: Some(PhysAddr(0xe0000)),
        smbios_32: None,
        smbios_64: Some(PhysAddr(0xf0000)),
        system_table: Some(PhysAddr(0xd0000)),
        date: Some(-5),
        image: (PhysAddr(0x10_0000), VirtAddr(KERNEL_BASE)),
        hhdm: HHDM,
        map_capacity: capacity,
    }
}

impl World {
    fn new(revision: u64, facts: &Facts<'_>, finish: impl FnOnce(&Late, &mut Arena<'_>)) -> Self {
        let plan = Plan::new(&file(2, KERNEL_BASE, &[Header::text(KERNEL_BASE)])).unwrap();
        let mut image = vec![0; 0x1000];
        let mut put = |at: usize, words: &[u64]| {
            for (n, w) in words.iter().enumerate() {
                image[at + n * 8..at + n * 8 + 8].copy_from_slice(&w.to_le_bytes());
            }
        };
        put(0, &[0xf9562b2d5c95a6c8, 0x6a7b384944536bdc, revision]);
        for (n, (_, _, tail, _)) in FEATURES.iter().enumerate() {
            put(
                0x40 + n * 0x80,
                &[COMMON_MAGIC[0], COMMON_MAGIC[1], tail[0], tail[1]],
            );
        }
        let requests = Requests::scan(&plan, &image).unwrap();
        assert_eq!(requests.count(), FEATURES.len());
        let mut arena = vec![0xcc; room_for(facts)];
        let mut places = Arena::new(&mut arena, PhysAddr(PHYS), HHDM);
        let late = write(&requests, facts, &mut places, &mut image).unwrap();
        finish(&late, &mut places);
        Self { image, arena }
    }

    fn word(&self, at: u64) -> u64 {
        word_at(&self.arena, (at - HHDM_BASE - PHYS) as usize).unwrap()
    }

    fn text(&self, at: u64) -> &str {
        let bytes = &self.arena[(at - HHDM_BASE - PHYS) as usize..];
        let end = bytes.iter().position(|b| *b == 0).unwrap();
        core::str::from_utf8(&bytes[..end]).unwrap()
    }

    /// A response's address, 0 if there is none.
    fn response(&self, feature: Feature) -> u64 {
        let n = FEATURES.iter().position(|f| f.0 == feature).unwrap();
        word_at(&self.image, 0x40 + n * 0x80 + 40).unwrap()
    }

    fn field(&self, feature: Feature, n: u64) -> u64 {
        self.word(self.response(feature) + n * 8)
    }
}

#[test]
fn plain_responses_hold_their_values() {
    let w = World::new(6, &facts(4), |_, _| {});
    assert_eq!(w.text(w.field(Feature::BootloaderInfo, 1)), "name");
    assert_eq!(w.text(w.field(Feature::BootloaderInfo, 2)), "version");
    assert_eq!(w.field(Feature::FirmwareType, 1), 2);
    assert_eq!(w.field(Feature::Hhdm, 1), HHDM_BASE);
    assert_eq!(w.field(Feature::PagingMode, 1), 0);
    assert_eq!(w.field(Feature::DateAtBoot, 1) as i64, -5);
    assert_eq!(w.field(Feature::ExecutableAddress, 1), 0x10_0000);
    assert_eq!(w.field(Feature::ExecutableAddress, 2), KERNEL_BASE);
    assert_eq!(w.response(Feature::Mp), 0);
    assert_eq!(w.response(Feature::Dtb), 0);
}

#[test]
fn command_line_is_one_string_for_both_features() {
    let w = World::new(6, &facts(4), |_, _| {});
    let file = w.field(Feature::ExecutableFile, 1);
    assert_eq!(w.text(w.field(Feature::Cmdline, 1)), "a b");
    assert_eq!(w.field(Feature::Cmdline, 1), w.word(file + 32));
    assert_eq!(w.text(w.word(file + 24)), "/k");
}

#[test]
fn modules_keep_order_strings_and_origin() {
    let w = World::new(6, &facts(4), |_, _| {});
    assert_eq!(w.field(Feature::Module, 0), 0);
    assert_eq!(w.field(Feature::Module, 1), 2);
    let first = w.word(w.field(Feature::Module, 2));
    assert_eq!(w.word(first + 8), HHDM_BASE + 0x9000);
    assert_eq!(w.word(first + 16), 13);
    assert_eq!(w.text(w.word(first + 32)), "one");
    // partition_index and mbr_disk_id are the 32-bit fields at 56 and 60; gpt_part_uuid lies at 80.
    assert_eq!(w.word(first + 56), 7 << 32 | 2);
    assert_eq!(w.word(first + 64), 0);
    assert_eq!(w.word(first + 80), 0x0303030303030303);
    let second = w.word(w.field(Feature::Module, 2) + 8);
    assert_eq!(w.text(w.word(second + 32)), "");
}

#[test]
fn framebuffer_structure_has_the_protocols_layout() {
    let w = World::new(6, &facts(4), |_, _| {});
    assert_eq!(w.field(Feature::Framebuffer, 0), 1);
    let frame = w.word(w.field(Feature::Framebuffer, 2));
    let field = |n: u64| w.word(frame + n * 8);
    assert_eq!(
        [field(0), field(1), field(2), field(3)],
        [HHDM_BASE + 0x8000_0000, 1000, 600, 4096]
    );
    // bpp, model, then size and shift of red, green, blue.
    assert_eq!(field(4).to_le_bytes(), [32, 0, 1, 8, 16, 8, 8, 8]);
    assert_eq!(field(5), 0);
    assert_eq!(field(6), 3);
    assert_eq!(w.word(field(7)) & 0xff_ffff, 0x03_0201);
    assert_eq!(field(8), 2);
    let second = w.word(field(9) + 8);
    assert_eq!(w.word(second + 8), 640);
}

#[test]
fn what_is_absent_gets_no_response() {
    let none = Facts {
        modules: Vec::new(),
        framebuffer: None,
        rsdp: None,
        smbios_64: None,
        system_table: None,
        date: None,
        ..facts(4)
    };
    let w = World::new(6, &none, |_, _| {});
    for feature in [
        Feature::Module,
        Feature::Framebuffer,
        Feature::Rsdp,
        Feature::Smbios,
        Feature::EfiSystemTable,
        Feature::DateAtBoot,
    ] {
        assert_eq!(w.response(feature), 0, "{feature:?}");
    }
}

#[test]
fn firmware_addresses_are_physical_where_the_revision_says() {
    for revision in 0..=6 {
        let w = World::new(revision, &facts(4), |_, _| {});
        let is_physical = |address: u64| address < HHDM_BASE;
        assert_eq!(is_physical(w.field(Feature::Rsdp, 1)), revision == 3);
        assert_eq!(
            is_physical(w.field(Feature::Smbios, 2)),
            matches!(revision, 3 | 4)
        );
        assert_eq!(
            is_physical(w.field(Feature::EfiSystemTable, 1)),
            matches!(revision, 3 | 4)
        );
        assert_eq!(w.field(Feature::Smbios, 1), 0);
    }
}

#[test]
fn maps_are_filled_in_later() {
    let regions = [
        Region {
            base: 0x1000,
            end: 0x3000,
            kind: Kind::Usable,
        },
        Region {
            base: 0x8000,
            end: 0x9000,
            kind: Kind::Framebuffer,
        },
    ];
    let efi = EfiMapFacts {
        address: PhysAddr(0x7000),
        size: 96,
        descriptor_size: 48,
        descriptor_version: 1,
    };
    let w = World::new(6, &facts(2), |late, arena| {
        late.fill_map(arena, &regions).unwrap();
        late.fill_efi_map(arena, HHDM, efi);
        let three = [regions[0]; 3];
        assert!(matches!(
            late.fill_map(arena, &three),
            Err(Fault::ArenaFull { .. })
        ));
    });
    assert_eq!(w.field(Feature::MemoryMap, 1), 2);
    let second = w.word(w.field(Feature::MemoryMap, 2) + 8);
    assert_eq!([0, 8, 16].map(|o| w.word(second + o)), [0x8000, 0x1000, 7]);
    assert_eq!(
        [1, 2, 3, 4].map(|n| w.field(Feature::EfiMemoryMap, n)),
        [HHDM_BASE + 0x7000, 96, 48, 1]
    );
}

#[test]
fn pixel_masks_with_holes_are_refused() {
    assert_eq!(
        PixelLayout::from_masks(0xf800, 0x7e0, 0x1f).unwrap().red,
        (5, 11)
    );
    assert_eq!(PixelLayout::from_masks(0xf0f0, 0x7e0, 0x1f), None);
    assert_eq!(PixelLayout::from_masks(0, 0x7e0, 0x1f), None);
    assert_eq!(
        PixelLayout::from_masks(0xff00_0000, 1, 2).unwrap().red,
        (8, 24)
    );
}
