//! Slices, preemption and placement.

use proptest::prelude::*;
use sched::{Affinity, CpuLoad, CpuPicker, EffectivePriority, Slice, Turn};

fn priority(level: u8) -> EffectivePriority {
    EffectivePriority::new(level).expect("a test's level is below 64")
}

fn loads(threads: &[u64]) -> impl Iterator<Item = CpuLoad> {
    threads.iter().enumerate().map(|(cpu, &threads)| CpuLoad {
        cpu: cpu as u32,
        threads,
    })
}

const QUANTUM: u64 = 24_000_000;

#[test]
fn a_slice_is_what_is_left_until_the_turns_end() {
    let end = Slice::new(QUANTUM).end(100);
    let slice = Slice::until(end, 100 + QUANTUM - 1);
    assert_eq!(slice.left(), 1);
    assert!(!slice.is_spent());
    assert_eq!(slice.renewed(QUANTUM), slice);
    assert_eq!(Slice::until(end, end), Slice::SPENT);
    assert_eq!(Slice::until(end, u64::MAX), Slice::SPENT);
    assert_eq!(Slice::SPENT.renewed(QUANTUM), Slice::new(QUANTUM));
}

#[test]
fn a_slice_ends_its_length_after_its_start() {
    assert_eq!(Slice::new(QUANTUM).end(5), 5 + QUANTUM);
    assert_eq!(Slice::SPENT.end(5), 5);
}

#[test]
fn a_higher_thread_preempts_at_once_and_an_equal_one_at_the_end_of_the_slice() {
    let full = Slice::new(QUANTUM);
    let judge = |slice, ready: Option<u8>| Turn::judge(priority(10), slice, ready.map(priority));
    assert_eq!(judge(full, Some(11)), Turn::Front);
    assert_eq!(judge(Slice::SPENT, Some(11)), Turn::Back);
    assert_eq!(judge(full, Some(10)), Turn::Continue);
    assert_eq!(judge(Slice::SPENT, Some(10)), Turn::Back);
    assert_eq!(judge(Slice::SPENT, Some(9)), Turn::Continue);
    assert_eq!(judge(Slice::SPENT, None), Turn::Continue);
}

#[test]
fn equally_loaded_cpus_take_turns() {
    let picker = CpuPicker::new();
    let picks: Vec<_> = (0..6)
        .filter_map(|_| picker.pick(loads(&[0, 0, 0, 0]), Affinity::Any))
        .collect();
    assert_eq!(picks, [0, 1, 2, 3, 0, 1]);
}

#[test]
fn an_affinity_for_a_cpu_that_is_not_there_gets_none() {
    let picker = CpuPicker::new();
    assert_eq!(picker.pick(loads(&[0, 0]), Affinity::Only(2)), None);
    assert_eq!(picker.pick(loads(&[]), Affinity::Any), None);
}

proptest! {
    #[test]
    fn no_allowed_cpu_has_less_load_than_the_chosen(
        threads in prop::collection::vec(0..5u64, 1..64),
        only in prop::option::of(0..64u32),
        picks_before in 0..100usize,
    ) {
        let picker = CpuPicker::new();
        for _ in 0..picks_before {
            picker.pick(loads(&threads), Affinity::Any);
        }
        let affinity = only.map_or(Affinity::Any, Affinity::Only);
        let allowed = loads(&threads).filter(|load| affinity.allows(load.cpu));
        let least = allowed.map(|load| load.threads).min();
        let picked = picker.pick(loads(&threads), affinity);
        prop_assert_eq!(picked.map(|cpu| threads[cpu as usize]), least);
        prop_assert!(picked.is_none_or(|cpu| affinity.allows(cpu)));
    }
}
