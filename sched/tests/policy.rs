//! Slices, preemption, priorities, budgets and placement.

use proptest::prelude::*;
use sched::{
    Affinity, Allowance, BasePriority, Budget, CpuLoad, CpuPicker, EffectivePriority, IdleSet,
    MAX_CPUS, SharedAffinity, Slice, ThreadPriority, Turn, busiest,
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
        .filter_map(|_| picker.pick(loads(&[0, 0, 0, 0]), |_| true))
        .collect();
    assert_eq!(picks, [0, 1, 2, 3, 0, 1]);
}

#[test]
fn an_affinity_for_a_cpu_that_is_not_there_gets_none() {
    let picker = CpuPicker::new();
    assert_eq!(picker.pick(loads(&[0, 0]), |cpu| cpu == 2), None);
    assert_eq!(picker.pick(loads(&[]), |_| true), None);
}

#[test]
fn work_is_asked_of_the_busiest_cpu_and_only_if_some_of_it_waits() {
    assert_eq!(busiest(loads(&[1, 3, 2, 3])), Some(1));
    assert_eq!(busiest(loads(&[1, 0, 1])), None);
    assert_eq!(busiest(loads(&[])), None);
}

#[test]
fn idle_cpus_are_claimed_near_ones_first_each_once_and_only_if_allowed() {
    let idle = IdleSet::new();
    for cpu in [3, 17, 18, 400, 511] {
        idle.enter(cpu);
    }
    let anywhere = SharedAffinity::any();
    assert!(idle.has_any(0, 8) && idle.has_any(31, 512), "near");
    assert!(idle.has_any(32, 48) && idle.has_any(100, 512), "far");
    assert_eq!(idle.claim(20, &anywhere), Some(17));
    let not_18 = SharedAffinity::any();
    let words: Vec<u64> = (0..8)
        .map(|word| if word == 0 { !(1 << 18) } else { !0 })
        .collect();
    not_18.set(&Affinity::from_words(&words));
    assert_eq!(idle.claim(20, &not_18), Some(400));
    assert!(!idle.leave(400), "it was claimed");
    assert!(idle.leave(18), "nobody had claimed it");
    assert_eq!(idle.claim(20, &anywhere), Some(511));
    assert_eq!(idle.claim(20, &anywhere), Some(3));
    assert_eq!(idle.claim(20, &anywhere), None);
    // A CPU that no set has room for is never claimed, and does no harm.
    idle.enter(MAX_CPUS + 5);
    assert!(idle.leave(MAX_CPUS + 5));
    assert_eq!(idle.claim(MAX_CPUS + 5, &anywhere), None);
}

#[test]
fn the_effective_priority_is_the_highest_of_base_and_inherited() {
    let base = BasePriority::new(10).expect("below 64");
    assert_eq!(EffectivePriority::of(base, []), priority(10));
    assert_eq!(
        EffectivePriority::of(base, [priority(9), priority(3)]),
        priority(10)
    );
    assert_eq!(
        EffectivePriority::of(base, [priority(9), priority(40)]),
        priority(40)
    );
    let thread = ThreadPriority::new(base);
    thread.give(BasePriority::new(20).expect("below 64"));
    assert_eq!(
        thread.effective(),
        priority(10),
        "it counts once it is settled"
    );
    assert_eq!(thread.settle([]), Some(priority(10)));
    assert_eq!(
        (thread.effective(), thread.settle([])),
        (priority(20), None)
    );
    assert_eq!(thread.settle([priority(30)]), Some(priority(20)));
    thread.give(BasePriority::LOWEST);
    assert_eq!(
        thread.settle([priority(30)]),
        None,
        "what is inherited holds it up"
    );
    assert_eq!(thread.settle([]), Some(priority(30)));
    assert_eq!(thread.effective(), EffectivePriority::LOWEST);
    assert_eq!(BasePriority::new(64), None);
}

#[test]
fn a_set_of_cpus_has_what_was_put_in() {
    assert!((0..MAX_CPUS).all(|cpu| Affinity::ANY.allows(cpu) && !Affinity::NONE.allows(cpu)));
    assert!(!Affinity::ANY.allows(MAX_CPUS) && !Affinity::ANY.allows(u32::MAX));
    let set = Affinity::from_words(&[0b110, 1]);
    assert_eq!(
        (0..MAX_CPUS)
            .filter(|&cpu| set.allows(cpu))
            .collect::<Vec<_>>(),
        [1, 2, 64]
    );
    assert!(set.allows_any_of(2) && !set.allows_any_of(1) && !set.allows_any_of(0));
    assert_eq!(Affinity::only(511).words()[7], 1 << 63);
    assert_eq!(Affinity::only(512), Affinity::NONE);
    let shared = SharedAffinity::any();
    shared.set(&set);
    assert_eq!(shared.get(), set);
    assert!(shared.allows(64) && !shared.allows(65) && !shared.allows(MAX_CPUS));
}

const MILLISECOND: u64 = 1_000_000;

/// 2 ticks in each 10 ms.
const ALLOWANCE: Allowance = Allowance {
    ticks: 2,
    period_ns: 10 * MILLISECOND,
};

#[test]
fn a_budget_is_used_up_and_comes_back_with_the_period() {
    let mut budget = Budget::new(ALLOWANCE, 100, 5 * MILLISECOND);
    assert_eq!(
        (budget.left(100), budget.left(101), budget.left(102)),
        (2, 1, 0)
    );
    assert_eq!(budget.next_ns(), 15 * MILLISECOND);
    budget.refill(102, 15 * MILLISECOND - 1);
    assert_eq!(budget.left(102), 0);
    budget.refill(102, 15 * MILLISECOND);
    assert_eq!((budget.left(102), budget.next_ns()), (2, 25 * MILLISECOND));
}

#[test]
fn what_a_budget_did_not_use_is_not_saved_up() {
    let mut budget = Budget::new(ALLOWANCE, 0, 0);
    budget.refill(0, 1000 * MILLISECOND);
    assert_eq!((budget.left(0), budget.next_ns()), (2, 1010 * MILLISECOND));
}

#[test]
fn what_a_budget_overran_is_taken_off_later_periods() {
    let mut budget = Budget::new(ALLOWANCE, 0, 0);
    assert_eq!(budget.left(5), 0);
    budget.refill(5, 10 * MILLISECOND);
    assert_eq!(budget.left(5), 0, "3 too many, of which 2 are paid for");
    budget.refill(5, 20 * MILLISECOND);
    assert_eq!(budget.left(5), 1);
}

proptest! {
    #[test]
    fn no_allowed_cpu_has_less_load_than_the_chosen(
        threads in prop::collection::vec(0..5u64, 1..64),
        set in prop::option::of(any::<u64>()),
        picks_before in 0..100usize,
    ) {
        let picker = CpuPicker::new();
        for _ in 0..picks_before {
            picker.pick(loads(&threads), |_| true);
        }
        let affinity = set.map_or(Affinity::ANY, |set| Affinity::from_words(&[set]));
        let allowed = loads(&threads).filter(|load| affinity.allows(load.cpu));
        let least = allowed.map(|load| load.threads).min();
        let picked = picker.pick(loads(&threads), |cpu| affinity.allows(cpu));
        prop_assert_eq!(picked.map(|cpu| threads[cpu as usize]), least);
        prop_assert!(picked.is_none_or(|cpu| affinity.allows(cpu)));
    }

    /// A thread that wants to run all the time gets its share, to within what is noticed late, whenever it is looked at.
    #[test]
    fn a_budget_gives_what_it_says_in_the_long_run(
        ticks in 1..50u64,
        idle in 0..50u64,
        late in 0..20u64,
        periods in 1..200u64,
    ) {
        // One tick is a nanosecond here.
        let period_ns = ticks + idle;
        let mut budget = Budget::new(Allowance { ticks, period_ns }, 0, 0);
        let (mut now, mut ran) = (0, 0);
        while now < periods * period_ns {
            let left = budget.left(ran);
            if left > 0 {
                now += left + late;
                ran += left + late;
            } else {
                now = now.max(budget.next_ns());
            }
            budget.refill(ran, now);
        }
        let share = (now / period_ns + 1) * ticks;
        prop_assert!(ran <= share + late, "ran {ran} of {share}");
        if late == 0 && idle > 0 {
            prop_assert!(ran + ticks >= share, "ran only {ran} of {share}");
        }
    }
}
