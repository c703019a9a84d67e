use super::*;
use crate::acpi::tests::Flat;
use alloc::vec;
use proptest::prelude::*;

const BASE: u64 = 0x9000;

struct World(Vec<u8>);

impl World {
    /// A structure with nothing in it but room.
    fn new(flags: u32) -> Self {
        let mut this = Self(vec![0; 0x1000]);
        this.put(0, flags);
        this
    }

    fn put(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, at: usize, text: &str) {
        self.0[at..at + text.len()].copy_from_slice(text.as_bytes());
    }

    /// A memory map of the given entries, each with `extra` bytes more than it needs.
    fn map(&mut self, extra: u32, entries: &[(u64, u64, u32)]) {
        let step = 24 + extra;
        self.put(44, step * entries.len() as u32);
        self.put(48, BASE as u32 + 0x200);
        for (n, (base, length, kind)) in entries.iter().enumerate() {
            let at = 0x200 + n * step as usize;
            self.put(at, step - 4);
            self.0[at + 4..at + 12].copy_from_slice(&base.to_le_bytes());
            self.0[at + 12..at + 20].copy_from_slice(&length.to_le_bytes());
            self.put(at + 20, *kind);
        }
    }

    fn read(&self) -> Result<Info, Fault> {
        let memory = Flat {
            base: BASE,
            bytes: self.0.clone(),
        };
        Info::read(&memory, PhysAddr(BASE))
    }
}

fn fault(what: &'static str) -> Result<Info, Fault> {
    Err(Fault::Multiboot { what })
}

#[test]
fn memory_map_is_read_whatever_the_size_of_its_entries() {
    for extra in [0, 4, 40] {
        let mut world = World::new(HAS_MAP);
        world.map(
            extra,
            &[
                (0, 0x9fc00, 1),
                (0xf0000, 0x10000, 2),
                (1 << 32, 1 << 30, 1),
                (5 << 20, 1, 3),
                (6 << 20, 1, 4),
                (7 << 20, 1, 5),
                (8 << 20, 1, 77),
            ],
        );
        let info = world.read().unwrap();
        let kinds: Vec<_> = info.map.iter().map(|e| e.kind).collect();
        assert_eq!(
            kinds,
            [
                Kind::Usable,
                Kind::Reserved,
                Kind::Usable,
                Kind::AcpiReclaimable,
                Kind::AcpiNvs,
                Kind::BadMemory,
                Kind::Reserved
            ]
        );
        assert_eq!(info.map[2].extent.base, PhysAddr(1 << 32));
        assert_eq!(info.map[2].extent.length, 1 << 30);
    }
}

#[test]
fn without_a_map_the_two_sizes_count() {
    let mut world = World::new(HAS_MEMORY);
    world.put(4, 639);
    world.put(8, 1024);
    let map = world.read().unwrap().map;
    assert_eq!(map[0].extent.length, 639 << 10);
    assert_eq!(map[1].extent.base, PhysAddr(1 << 20));
    assert_eq!(map[1].extent.length, 1 << 20);
}

#[test]
fn no_memory_at_all_is_refused() {
    assert_eq!(World::new(0).read(), fault("gives no memory map"));
    let mut world = World::new(HAS_MAP);
    world.map(0, &[(0, 1 << 30, 2)]);
    assert_eq!(world.read(), fault("gives no memory map"));
}

#[test]
fn map_outside_memory_or_with_short_entries_is_refused() {
    let mut world = World::new(HAS_MAP);
    world.put(44, 24);
    world.put(48, 0x100_0000);
    assert_eq!(world.read(), fault("has its memory map where no memory is"));
    world.map(0, &[(0, 1 << 30, 1)]);
    world.put(0x200, 3);
    assert_eq!(
        world.read(),
        fault("has a memory map with an entry that is too short")
    );
}

fn with_modules() -> World {
    let mut world = World::new(HAS_MAP | HAS_MODULES);
    world.map(0, &[(0, 1 << 30, 1)]);
    world.put(20, 2);
    world.put(24, BASE as u32 + 0x300);
    for (n, (start, end, text)) in [(0x9800, 0x9810, 0x400), (0x9900, 0x9900, 0x420)]
        .into_iter()
        .enumerate()
    {
        world.put(0x300 + n * 16, start);
        world.put(0x304 + n * 16, end);
        world.put(0x308 + n * 16, BASE as u32 + text);
    }
    world.text(0x400, "/tmp/file 3 /limine.conf ");
    world.text(0x420, "/b");
    world
}

#[test]
fn module_is_named_by_the_last_word_of_its_string() {
    let info = with_modules().read().unwrap();
    assert_eq!(info.modules[0].name, "/limine.conf");
    assert_eq!(info.modules[0].extent.base, PhysAddr(0x9800));
    assert_eq!(info.modules[0].extent.length, 16);
    assert_eq!(info.modules[1].name, "/b");
    assert_eq!(info.modules[1].extent.length, 0);
}

#[test]
fn impossible_modules_are_refused() {
    let mut world = with_modules();
    world.put(0x304, 0x97ff);
    assert_eq!(
        world.read(),
        fault("lists a module that ends before it begins")
    );
    world.put(0x304, 0xf000_0000);
    assert_eq!(world.read(), fault("lists a module where no memory is"));
    world.put(20, 65);
    assert_eq!(world.read(), fault("lists more than 64 modules"));
    world.put(20, u32::MAX);
    assert_eq!(world.read(), fault("lists more than 64 modules"));
    world.put(20, 1);
    world.put(24, 0xf000_0000);
    assert_eq!(
        world.read(),
        fault("has its list of modules where no memory is")
    );
}

#[test]
fn everything_the_loader_left_is_noted_as_its_own() {
    let own = with_modules().read().unwrap().own;
    let covers = |at: u64| {
        own.iter()
            .any(|e| (e.base.0..e.base.0 + e.length).contains(&at))
    };
    for at in [0, 0x200, 0x217, 0x300, 0x31f, 0x400, 0x418, 0x420] {
        assert!(covers(BASE + at), "{at:#x}");
    }
}

#[test]
fn framebuffer_is_taken_if_it_is_one() {
    let mut world = World::new(HAS_MAP | HAS_FRAMEBUFFER);
    world.map(0, &[(0, 1 << 30, 1)]);
    world.put(88, 0xfd00_0000);
    world.put(96, 4096);
    world.put(100, 1024);
    world.put(104, 768);
    world.0[108..116].copy_from_slice(&[32, 1, 16, 8, 8, 8, 0, 8]);
    let found = |world: &World| match world.read().unwrap().display {
        Display::Linear(facts) => facts,
        other => panic!("{other:?} is none"),
    };
    let facts = found(&world);
    assert_eq!(facts.address, PhysAddr(0xfd00_0000));
    assert_eq!(facts.mode.layout.red, (8, 16));
    assert_eq!(facts.modes, [facts.mode]);
    // As GRUB has it, behind two bytes of padding.
    world.0[110..118].copy_from_slice(&[0, 0, 16, 8, 8, 8, 0, 8]);
    assert_eq!(found(&world), facts);
    // A line longer than its pitch; colours by palette; text.
    world.put(96, 100);
    assert_eq!(world.read().unwrap().display, Display::Other);
    world.put(96, 4096);
    world.0[109] = 0;
    assert_eq!(world.read().unwrap().display, Display::Other);
    world.0[109] = 1;
    world.0[113] = 20;
    assert_eq!(world.read().unwrap().display, Display::Other);
    world.0[109] = 2;
    assert_eq!(world.read().unwrap().display, Display::Text);
}

#[test]
fn structure_outside_memory_is_refused() {
    let memory = Flat {
        base: BASE,
        bytes: vec![0; 16],
    };
    assert_eq!(
        Info::read(&memory, PhysAddr(BASE)),
        fault("lies where no memory is")
    );
}

const IMAGE: Extent = Extent {
    base: PhysAddr(0x10_0000),
    length: 0x8_0000,
};

/// A small PC: 640 KiB less a corner, a hole, 2 MiB to 4 MiB with a reserved stretch laid over it; and the structures of
/// [`with_modules`] at 36 KiB.
fn small_pc() -> World {
    let mut world = with_modules();
    world.map(
        0,
        &[
            (0x10_0000, 0x30_0000, 1),
            (0, 0x9_fc00, 1),
            (0x20_0800, 0x1000, 2),
            (0x9_fc00, 0x400, 2),
        ],
    );
    world
}

#[test]
fn what_was_loaded_is_not_free() {
    let info = small_pc().read().unwrap();
    let taken = Extent {
        base: PhysAddr(0x3f_f000),
        length: 0x1000,
    };
    let map = drawn(&info.regions(IMAGE, &[taken])).unwrap();
    let kind = |at: u64| {
        map.iter()
            .find(|r| (r.base..r.end).contains(&at))
            .map(|r| r.kind)
    };
    // Page 0; the structures and the first module at 9000h; the image; the block.
    assert_eq!(kind(0), Some(Kind::Reserved));
    assert_eq!(kind(0x1000), Some(Kind::Usable));
    assert_eq!(kind(0x9800), Some(Kind::BootloaderReclaimable));
    assert_eq!(kind(0x10_0000), Some(Kind::BootloaderReclaimable));
    assert_eq!(kind(0x18_0000), Some(Kind::Usable));
    assert_eq!(kind(0x3f_f000), Some(Kind::BootloaderReclaimable));
    // The overlap is reserved, in whole pages; so is the page that the BIOS's corner is in.
    assert_eq!(kind(0x20_0000), Some(Kind::Reserved));
    assert_eq!(kind(0x20_1fff), Some(Kind::Reserved));
    assert_eq!(kind(0x20_2000), Some(Kind::Usable));
    assert_eq!(kind(0x9_f000), Some(Kind::Reserved));
    assert_eq!(kind(0xa_0000), None);
}

#[test]
fn memory_is_given_out_above_one_mebibyte_and_beside_everything() {
    let mut frames = small_pc().read().unwrap().frames(IMAGE, 1 << 32).unwrap();
    let mut pages = Vec::new();
    while let Some(extent) = frames.take(1) {
        pages.push(extent.base.0);
    }
    // 3 MiB less the image and the reserved two pages.
    assert_eq!(pages.len(), 0x300 - 0x80 - 2);
    assert!(pages.iter().all(|p| *p >= 0x18_0000));
    assert!(!pages.contains(&0x20_0000) && !pages.contains(&0x20_1000));
}

#[test]
fn program_or_module_outside_memory_is_refused() {
    let frames = |world: &World, image: Extent| world.read().unwrap().frames(image, 1 << 32);
    let large = Extent {
        length: 0x40_0000,
        ..IMAGE
    };
    let message = |failed: Result<Frames, BootError>| {
        use alloc::string::ToString;
        failed.err().map(|e| e.to_string())
    };
    assert_eq!(
        message(frames(&small_pc(), large)).as_deref(),
        Some("this machine: too little memory, 4096 KiB needed for the loader")
    );
    let mut world = small_pc();
    world.map(
        0,
        &[(0x10_0000, 0x30_0000, 1), (0, 0x9000, 1), (0x9000, 1, 2)],
    );
    assert_eq!(
        message(frames(&world, IMAGE)).as_deref(),
        Some("boot():/limine.conf: too little memory, 1 KiB needed to load it")
    );
}

proptest! {
    #[test]
    fn no_map_breaks_the_frames(
        entries in proptest::collection::vec(
            (prop_oneof![any::<u64>(), 0..0x40_0000_u64], prop_oneof![any::<u64>(), 0..0x40_0000_u64], 0..7_u32), 1..12)
    ) {
        let mut world = with_modules();
        world.map(0, &entries);
        if let Ok(info) = world.read()
            && let Ok(mut frames) = info.frames(IMAGE, 1 << 32)
        {
            while let Some(extent) = frames.take(0x10_0000) {
                prop_assert!(extent.base.0 >= 0x18_0000);
            }
        }
    }

    #[test]
    fn no_structure_breaks_the_reader(
        words in proptest::collection::vec(prop_oneof![any::<u32>(), 0x9000..0xa000_u32, 0..64_u32], 0x40..0x200)
    ) {
        let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let memory = Flat { base: BASE, bytes };
        let _ = Info::read(&memory, PhysAddr(BASE));
    }
}
