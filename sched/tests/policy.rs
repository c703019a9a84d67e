//! Slices, preemption, timer targets and placement.

use proptest::prelude::*;
use sched::{
    Affinity, CpuLoad, CpuPicker, EffectivePriority, QUANTUM_NS, Slice, Turn, next_interrupt,
};

fn priority(level: u8) -> EffectivePriority {
    EffectivePriority::new(level).expect("a test's level is below 64")
}

fn loads(threads: &[u64]) -> impl Iterator<Item = CpuLoad> {
    threads.iter().enumerate().map(|(cpu, &threads)| CpuLoad {
        cpu: cpu as u32,
        threads,
    })
}

#[test]
fn a_slice_is_charged_for_what_was_run() {
    let slice = Slice::FULL.charge(100, 100 + QUANTUM_NS - 1);
    assert_eq!(slice.left_ns(), 1);
    assert!(!slice.is_spent());
    assert_eq!(slice.renewed(), slice);
    assert!(slice.charge(0, 1).is_spent());
    assert_eq!(slice.charge(0, u64::MAX), Slice::SPENT);
    assert_eq!(Slice::SPENT.renewed(), Slice::FULL);
}

#[test]
fn a_clock_that_runs_backwards_charges_nothing() {
    assert_eq!(Slice::FULL.charge(1000, 999), Slice::FULL);
}

#[test]
fn the_end_of_a_slice_does_not_wrap() {
    assert_eq!(Slice::FULL.end_ns(5), 5 + QUANTUM_NS);
    assert_eq!(Slice::FULL.end_ns(u64::MAX), u64::MAX);
}

#[test]
fn a_higher_thread_preempts_at_once_and_an_equal_one_at_the_end_of_the_slice() {
    let judge = |slice, ready: Option<u8>| Turn::judge(priority(10), slice, ready.map(priority));
    assert_eq!(judge(Slice::FULL, Some(11)), Turn::Front);
    assert_eq!(judge(Slice::SPENT, Some(11)), Turn::Back);
    assert_eq!(judge(Slice::FULL, Some(10)), Turn::Continue);
    assert_eq!(judge(Slice::SPENT, Some(10)), Turn::Back);
    assert_eq!(judge(Slice::SPENT, Some(9)), Turn::Continue);
    assert_eq!(judge(Slice::SPENT, None), Turn::Continue);
    assert_eq!(
        Turn::judge_yield(priority(10), Some(priority(10))),
        Turn::Back
    );
    assert_eq!(
        Turn::judge_yield(priority(10), Some(priority(9))),
        Turn::Continue
    );
}

#[test]
fn the_timer_is_set_for_a_slice_only_if_somebody_waits() {
    let next = |ready: Option<u8>, deadline| {
        next_interrupt(priority(10), 500, ready.map(priority), deadline)
    };
    assert_eq!(next(None, None), None);
    assert_eq!(next(Some(9), None), None);
    assert_eq!(next(Some(10), None), Some(500));
    assert_eq!(next(Some(10), Some(400)), Some(400));
    assert_eq!(next(Some(10), Some(600)), Some(500));
    assert_eq!(next(None, Some(600)), Some(600));
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
