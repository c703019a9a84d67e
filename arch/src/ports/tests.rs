//! Maps by their bits, and host threads that play CPUs.

use core::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;

use super::*;

fn new_bits() -> *mut Bits {
    Box::into_raw(Box::new([const { AtomicU64::new(0) }; MAP_WORDS]))
}

/// A map with bits, which the test leaks.
fn map() -> &'static PortMap {
    let map: &'static PortMap = Box::leak(Box::new(PortMap::new()));
    // SAFETY: fresh, and leaked.
    assert!(unsafe { map.provide(new_bits()) });
    map
}

fn allowed(map: &PortMap) -> Vec<u16> {
    (0..=u16::MAX).filter(|&port| map.allows(port)).collect()
}

#[test]
fn a_map_without_bits_allows_nothing() {
    let map = PortMap::new();
    map.allow(0, 65_536);
    assert!(!map.has_bits());
    assert_eq!(allowed(&map), []);
}

#[test]
fn ranges_cross_words_and_reach_both_ends() {
    let map = map();
    assert_eq!(allowed(map), []);
    map.allow(0, 1);
    map.allow(63, 2);
    map.allow(127, 66);
    map.allow(0xFFFF, 1);
    let mut want = vec![0, 63, 64];
    want.extend(127..193);
    want.push(0xFFFF);
    assert_eq!(allowed(map), want);
    map.forbid(64, 128);
    assert_eq!(allowed(map), [0, 63, 192, 0xFFFF]);
    map.allow(0, 65_536);
    assert_eq!(allowed(map).len(), 65_536);
    map.forbid(0, 65_536);
    assert_eq!(allowed(map), []);
}

#[test]
fn bits_are_provided_once() {
    let map = map();
    map.allow(5, 1);
    let second = new_bits();
    // SAFETY: fresh.
    assert!(!unsafe { map.provide(second) });
    // SAFETY: it stayed ours.
    drop(unsafe { Box::from_raw(second) });
    assert_eq!(allowed(map), [5]);
}

/// A TSS of a CPU that a host thread plays. Others look into it.
struct Segment {
    open: AtomicBool,
    copy: Bits,
    copies: AtomicUsize,
}

impl Segment {
    fn new() -> Segment {
        Segment {
            open: AtomicBool::new(false),
            copy: [const { AtomicU64::new(u64::MAX) }; MAP_WORDS],
            copies: AtomicUsize::new(0),
        }
    }

    fn lets_through(&self, port: u16) -> bool {
        self.open.load(Ordering::SeqCst)
            && self.copy[usize::from(port) / 64].load(Ordering::SeqCst) >> (port % 64) & 1 == 0
    }
}

impl Hardware for Segment {
    unsafe fn forbid_all(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    unsafe fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    unsafe fn copy(&self, bits: &Bits) {
        assert!(
            !self.open.load(Ordering::SeqCst),
            "a copy in force is changed"
        );
        self.copies.fetch_add(1, Ordering::Relaxed);
        for (to, from) in self.copy.iter().zip(bits) {
            to.store(from.load(Ordering::Relaxed), Ordering::SeqCst);
        }
        // Time for the others, where a mistake would show.
        std::thread::yield_now();
    }
}

#[test]
fn a_copy_is_made_only_when_it_differs() {
    let (first, second) = (map(), map());
    let (cpu, segment) = (CpuPorts::new(), Segment::new());
    let copies = || segment.copies.load(Ordering::Relaxed);
    let none = ptr::null();
    first.allow(7, 1);
    // SAFETY: the maps live for ever.
    let enter = |map: *const PortMap| unsafe { cpu.enter(map, &segment) };
    enter(first);
    assert!(segment.lets_through(7) && cpu.are_those_of(first));
    assert_eq!(copies(), 1);
    // Away and back.
    enter(none);
    assert!(!segment.lets_through(7) && !cpu.are_those_of(first));
    enter(first);
    assert!(segment.lets_through(7));
    assert_eq!(copies(), 1);
    // Somebody else's in between.
    second.allow(8, 1);
    enter(second);
    assert!(segment.lets_through(8) && !segment.lets_through(7));
    enter(first);
    assert!(segment.lets_through(7) && !segment.lets_through(8));
    assert_eq!(copies(), 3);
    // Changed meanwhile.
    enter(none);
    first.forbid(7, 1);
    enter(first);
    assert!(!segment.lets_through(7));
    assert_eq!(copies(), 4);
}

#[test]
fn a_map_in_the_place_of_a_dead_one_is_another() {
    let mut place = PortMap::new();
    // SAFETY: fresh, and leaked.
    assert!(unsafe { place.provide(new_bits()) });
    place.allow(7, 1);
    let (cpu, segment) = (CpuPorts::new(), Segment::new());
    // SAFETY: the map lives until the CPU has left it.
    unsafe {
        cpu.enter(&raw const place, &segment);
        cpu.enter(ptr::null(), &segment);
    }
    place = PortMap::new();
    // SAFETY: fresh, and leaked.
    assert!(unsafe { place.provide(new_bits()) });
    place.allow(9, 1);
    // SAFETY: as above.
    unsafe { cpu.enter(&raw const place, &segment) };
    assert!(segment.lets_through(9) && !segment.lets_through(7));
}

#[test]
fn no_cpu_lets_a_port_through_that_was_taken_back() {
    const CPUS: usize = 3;
    const ROUNDS: usize = 2_000;
    const PORT: u16 = 0x3F8;
    let cpus: Vec<(CpuPorts, Segment)> = (0..CPUS)
        .map(|_| (CpuPorts::new(), Segment::new()))
        .collect();
    let (map, other) = (map(), map());
    other.allow(1, 1);
    let done = AtomicBool::new(false);
    let seen = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (cpu, segment) in &cpus {
            let (done, seen) = (&done, &seen);
            scope.spawn(move || {
                let mut turn = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    let next: *const PortMap = match turn % 4 {
                        0 | 1 => map,
                        2 => other,
                        _ => ptr::null(),
                    };
                    // SAFETY: the maps live for ever; the segment is this CPU's.
                    unsafe { cpu.enter(next, segment) };
                    // A while in user mode, where interrupts come.
                    for _ in 0..turn % 7 {
                        if segment.lets_through(PORT) {
                            seen.fetch_add(1, Ordering::Relaxed);
                        }
                        // SAFETY: as above.
                        unsafe { cpu.serve(segment) };
                    }
                    turn += 1;
                    std::thread::yield_now();
                }
            });
        }
        // No panic before the others are told to stop.
        let mut slips = 0;
        for _ in 0..ROUNDS {
            map.allow(PORT, 1);
            std::thread::yield_now();
            map.forbid(PORT, 1);
            let asked: Vec<_> = cpus
                .iter()
                .filter(|(cpu, _)| cpu.ask(map))
                .map(|(cpu, _)| (cpu, cpu.requests()))
                .collect();
            for (cpu, requests) in asked {
                while !cpu.has_answered(requests, map) {
                    std::thread::yield_now();
                }
            }
            for _ in 0..3 {
                slips += cpus
                    .iter()
                    .filter(|(_, segment)| segment.lets_through(PORT))
                    .count();
                std::thread::yield_now();
            }
            if slips > 0 {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(slips, 0);
    });
    assert!(seen.load(Ordering::Relaxed) > 0, "nobody ever had the port");
}
