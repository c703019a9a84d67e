//! Ranges at the ends of the port space, and the bits of the map.

use abi::Error;
use proptest::prelude::*;

use super::*;
use crate::memory::testing;

fn allowed(ports: &ProcessPorts) -> Vec<u32> {
    (0..PORTS)
        .filter(|&port| ports.map().allows(port as u16))
        .collect()
}

#[test]
fn ranges_end_at_the_last_port() {
    let good = [(0, 1), (0, 65_536), (65_535, 1), (0x3F8, 8), (1, 65_535)];
    for (first, count) in good {
        assert!(IoPorts::new(first, count).is_ok(), "{first} {count}");
    }
    let bad = [
        (0, 0),
        (0, 65_537),
        (1, 65_536),
        (65_535, 2),
        (65_536, 1),
        (65_536, 0),
        (u64::MAX, 1),
        (1, u64::MAX),
        (u64::MAX, u64::MAX),
        (1 << 32, 1),
        (1 << 16 | 0x3F8, 8),
        (0x3F8, 1 << 32 | 8),
    ];
    for (first, count) in bad {
        assert_eq!(
            IoPorts::new(first, count).err(),
            Some(Error::OutOfRange),
            "{first} {count}"
        );
    }
}

#[test]
fn a_map_begins_with_no_port() {
    testing::machine();
    let map = ProcessPorts::new();
    assert!(!map.map().has_bits());
    map.allow(&IoPorts::new(0x60, 1).unwrap()).unwrap();
    assert_eq!(allowed(&map), [0x60]);
    let place = map.map().place();
    map.allow(&IoPorts::new(0x64, 1).unwrap()).unwrap();
    map.allow(&IoPorts::new(0x60, 1).unwrap()).unwrap();
    assert_eq!(
        (allowed(&map), map.map().place()),
        (vec![0x60, 0x64], place)
    );
}

#[test]
fn the_first_and_the_last_port_and_all_ports_can_be_allowed() {
    testing::machine();
    let map = ProcessPorts::new();
    map.allow(&IoPorts::new(0, 1).unwrap()).unwrap();
    map.allow(&IoPorts::new(65_535, 1).unwrap()).unwrap();
    assert_eq!(allowed(&map), [0, 65_535]);
    map.allow(&IoPorts::new(0, 65_536).unwrap()).unwrap();
    assert_eq!(allowed(&map).len(), 65_536);
}

#[test]
fn forbidden_ports_are_gone_and_others_stay() {
    testing::machine();
    let map = ProcessPorts::new();
    // Of a process that never had any.
    map.forbid(&IoPorts::new(0, 65_536).unwrap());
    assert_eq!(allowed(&map), []);
    map.allow(&IoPorts::new(0x60, 6).unwrap()).unwrap();
    map.forbid(&IoPorts::new(0x62, 2).unwrap());
    assert_eq!(allowed(&map), [0x60, 0x61, 0x64, 0x65]);
}

#[test]
fn two_threads_that_allow_neighbouring_ports_lose_none() {
    testing::machine();
    for _ in 0..50 {
        let map = ProcessPorts::new();
        std::thread::scope(|scope| {
            for half in 0..2 {
                let map = &map;
                scope.spawn(move || {
                    for port in (half..256).step_by(2) {
                        map.allow(&IoPorts::new(port, 1).unwrap()).unwrap();
                    }
                });
            }
        });
        assert_eq!(allowed(&map), (0..256).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_map_allows_the_union_of_its_ranges(ranges in prop::collection::vec((0..70_000u64, 0..300u64), 0..6)) {
        testing::machine();
        let map = ProcessPorts::new();
        let mut model = std::collections::BTreeSet::new();
        for (first, count) in ranges {
            let range = IoPorts::new(first, count);
            prop_assert_eq!(range.is_ok(), count > 0 && first + count <= 65_536);
            if let Ok(range) = range {
                map.allow(&range).unwrap();
                model.extend((first..first + count).map(|port| port as u32));
            }
        }
        prop_assert_eq!(allowed(&map), model.into_iter().collect::<Vec<_>>());
    }
}
