//! Tests of the page tables, read back by walking them.

use super::*;
use crate::protocol::HHDM_BASE;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const PHYS: PhysAddr = PhysAddr(0x7000_0000);
const ALL: Features = Features {
    no_execute: true,
    gib_pages: true,
};
const OLD: Features = Features {
    no_execute: false,
    gib_pages: false,
};
const GIB: u64 = 1 << 30;
const TEXT: Access = Access {
    write: false,
    execute: true,
    cache: Cache::WriteBack,
};
const DATA: Access = Access {
    write: true,
    execute: false,
    cache: Cache::WriteBack,
};

fn block(pages: usize) -> Vec<u8> {
    vec![0xee; pages * PAGE_SIZE as usize]
}

#[test]
fn direct_map_uses_the_largest_pages_that_fit() {
    let mut b = block(16);
    let mut t = PageTables::new(&mut b, PHYS, ALL);
    let root = t.new_root().unwrap();
    t.map(
        root,
        VirtAddr(HHDM_BASE),
        PhysAddr(0),
        4 * GIB,
        Access::DIRECT,
    )
    .unwrap();
    // Root and one table of 1 GiB entries.
    assert_eq!(t.used(), 2);
    assert_eq!(
        t.translate(root, VirtAddr(HHDM_BASE + 0xdead_beef)),
        Some((PhysAddr(0xdead_beef), Access::DIRECT))
    );
    assert_eq!(t.translate(root, VirtAddr(HHDM_BASE + 4 * GIB)), None);
    assert_eq!(t.translate(root, VirtAddr(0)), None);

    let mut b = block(16);
    let mut t = PageTables::new(&mut b, PHYS, OLD);
    let root = t.new_root().unwrap();
    t.map(
        root,
        VirtAddr(HHDM_BASE),
        PhysAddr(0),
        4 * GIB,
        Access::DIRECT,
    )
    .unwrap();
    assert_eq!(t.used(), 6);
}

#[test]
fn framebuffer_is_cut_out_of_a_large_page() {
    for features in [ALL, OLD] {
        let mut b = block(32);
        let mut t = PageTables::new(&mut b, PHYS, features);
        let root = t.new_root().unwrap();
        t.map(
            root,
            VirtAddr(HHDM_BASE),
            PhysAddr(0),
            4 * GIB,
            Access::DIRECT,
        )
        .unwrap();
        let frame = 0x8020_3000;
        t.map(
            root,
            VirtAddr(HHDM_BASE + frame),
            PhysAddr(frame),
            0x40_0000,
            Access::FRAMEBUFFER,
        )
        .unwrap();
        for (at, access) in [
            (frame - 1, Access::DIRECT),
            (frame, Access::FRAMEBUFFER),
            (frame + 0x1f_ffff, Access::FRAMEBUFFER),
            (frame + 0x3f_ffff, Access::FRAMEBUFFER),
            (frame + 0x40_0000, Access::DIRECT),
            (0x8000_0000, Access::DIRECT),
            (0xbfff_ffff, Access::DIRECT),
        ] {
            assert_eq!(
                t.translate(root, VirtAddr(HHDM_BASE + at)),
                Some((PhysAddr(at), access)),
                "{at:#x}"
            );
        }
    }
}

#[test]
fn large_combining_page_keeps_its_caching_when_split() {
    let mut b = block(32);
    let mut t = PageTables::new(&mut b, PHYS, ALL);
    let root = t.new_root().unwrap();
    t.map(
        root,
        VirtAddr(HHDM_BASE),
        PhysAddr(0),
        GIB,
        Access::FRAMEBUFFER,
    )
    .unwrap();
    t.map(
        root,
        VirtAddr(HHDM_BASE + 0x1000),
        PhysAddr(0x1000),
        0x1000,
        Access::DIRECT,
    )
    .unwrap();
    for (at, access) in [
        (0, Access::FRAMEBUFFER),
        (0x1000, Access::DIRECT),
        (0x2000, Access::FRAMEBUFFER),
        (0x20_0000, Access::FRAMEBUFFER),
    ] {
        assert_eq!(
            t.translate(root, VirtAddr(HHDM_BASE + at)),
            Some((PhysAddr(at), access)),
            "{at:#x}"
        );
    }
}

#[test]
fn kernel_pages_have_their_own_permissions() {
    let mut b = block(16);
    let mut t = PageTables::new(&mut b, PHYS, ALL);
    let root = t.new_root().unwrap();
    let base = 0xffff_ffff_8000_0000;
    t.map(root, VirtAddr(base), PhysAddr(0x12_3000), 0x2000, TEXT)
        .unwrap();
    t.map(
        root,
        VirtAddr(base + 0x2000),
        PhysAddr(0x12_5000),
        0x1000,
        DATA,
    )
    .unwrap();
    assert_eq!(
        t.translate(root, VirtAddr(base + 0x1fff)),
        Some((PhysAddr(0x12_4fff), TEXT))
    );
    assert_eq!(
        t.translate(root, VirtAddr(base + 0x2000)),
        Some((PhysAddr(0x12_5000), DATA))
    );
    assert_eq!(t.translate(root, VirtAddr(base + 0x3000)), None);
}

#[test]
fn no_execute_is_not_set_where_the_cpu_lacks_it() {
    let mut b = block(8);
    let mut t = PageTables::new(&mut b, PHYS, OLD);
    let root = t.new_root().unwrap();
    t.map(
        root,
        VirtAddr(0xffff_ffff_8000_0000),
        PhysAddr(0),
        0x1000,
        DATA,
    )
    .unwrap();
    assert!(
        t.translate(root, VirtAddr(0xffff_ffff_8000_0000))
            .unwrap()
            .1
            .execute
    );
}

#[test]
fn transit_root_shares_the_upper_half_only() {
    let mut b = block(16);
    let mut t = PageTables::new(&mut b, PHYS, ALL);
    let root = t.new_root().unwrap();
    t.map(root, VirtAddr(HHDM_BASE), PhysAddr(0), GIB, Access::DIRECT)
        .unwrap();
    let transit = t.upper_half_of(root).unwrap();
    t.map(
        transit,
        VirtAddr(0x5000),
        PhysAddr(0x5000),
        0x1000,
        Access::DIRECT,
    )
    .unwrap();
    assert_ne!(t.cr3(root), t.cr3(transit));
    assert_eq!(
        t.translate(transit, VirtAddr(HHDM_BASE + 7)),
        Some((PhysAddr(7), Access::DIRECT))
    );
    assert_eq!(
        t.translate(transit, VirtAddr(0x5123)),
        Some((PhysAddr(0x5123), Access::DIRECT))
    );
    assert_eq!(t.translate(root, VirtAddr(0x5123)), None);
}

#[test]
fn running_out_of_tables_is_an_error() {
    let mut b = block(3);
    let mut t = PageTables::new(&mut b, PHYS, ALL);
    let root = t.new_root().unwrap();
    let r = t.map(
        root,
        VirtAddr(HHDM_BASE),
        PhysAddr(0),
        0x1000,
        Access::DIRECT,
    );
    assert_eq!(
        r,
        Err(Fault::ArenaFull {
            what: "page tables"
        })
    );
}

proptest! {
    /// The measure taken beforehand is never too small, and every byte ends where the last mapping put it.
    #[test]
    fn tables_never_outgrow_their_measure(
        runs in proptest::collection::vec((0u64..0x20_0000, 1u64..0x6_0000, any::<bool>()), 1..12),
        gib_pages in any::<bool>(), first_4_gib in any::<bool>()
    ) {
        let features = Features { no_execute: true, gib_pages };
        let mut bound = 1;
        let mut all = Vec::new();
        if first_4_gib {
            all.push((0, 4 * GIB, Access::DIRECT));
        }
        for (page, pages, combining) in runs {
            all.push((page * PAGE_SIZE, pages * PAGE_SIZE, if combining { Access::FRAMEBUFFER } else { Access::DIRECT }));
        }
        for (base, length, _) in &all {
            bound += tables_for(VirtAddr(HHDM_BASE + base), *length, GIB, gib_pages);
        }
        let mut b = block(bound as usize);
        let mut t = PageTables::new(&mut b, PHYS, features);
        let root = t.new_root().unwrap();
        for (base, length, access) in &all {
            t.map(root, VirtAddr(HHDM_BASE + base), PhysAddr(*base), *length, *access).unwrap();
        }
        for probe in all.iter().flat_map(|(base, length, _)| [base.wrapping_sub(1), *base, base + length - 1, base + length]) {
            let want = all.iter().rfind(|(base, length, _)| (*base..base + length).contains(&probe)).map(|(_, _, a)| (PhysAddr(probe), *a));
            if probe < 1 << 40 {
                prop_assert_eq!(t.translate(root, VirtAddr(HHDM_BASE + probe)), want);
            }
        }
    }
}
