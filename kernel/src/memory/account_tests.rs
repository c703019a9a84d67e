//! Accounts: alone, and many that lend and share against a plain model.

use proptest::prelude::*;

use super::*;

const ANY: Resource = Resource::Frames;

fn part(pages: u64) -> Quota {
    Quota {
        pages,
        handles: 1,
        threads: 0,
    }
}

#[test]
fn a_charge_beyond_the_limit_is_refused_whole() {
    crate::memory::testing::machine();
    let account = Account::create(10).unwrap();
    assert_eq!(account.charge(8), Ok(()));
    assert_eq!(account.charge(3), Err(Error::QuotaExceeded));
    assert_eq!(account.charge(u64::MAX), Err(Error::QuotaExceeded));
    assert_eq!(account.used(), 8);
    account.uncharge(8);
    assert_eq!(account.charge(10), Ok(()));
    account.set_limit(4);
    account.uncharge(5);
    assert_eq!(account.charge(1), Err(Error::QuotaExceeded));
}

#[test]
fn a_part_is_taken_from_the_lender_and_comes_back_with_the_account() {
    crate::memory::testing::machine();
    let lender = Account::create(100).unwrap();
    let account = Account::divide(&lender, &part(60)).unwrap();
    assert_eq!((lender.used(), lender.used_of(Resource::Handles)), (60, 1));
    for too_much in [41, MOST, MOST + 1, u64::MAX] {
        assert_eq!(
            Account::divide(&lender, &part(too_much)).err(),
            Some(Error::QuotaExceeded)
        );
    }
    let too_many_handles = Quota {
        handles: MOST,
        ..part(40)
    };
    assert_eq!(
        Account::divide(&lender, &too_many_handles).err(),
        Some(Error::QuotaExceeded)
    );
    // At once, also if it had got a part of what it wanted.
    assert_eq!((lender.used(), lender.used_of(Resource::Handles)), (60, 1));
    assert_eq!(account.charge(61), Err(Error::QuotaExceeded));
    account.charge(50).unwrap();
    // Its process ends. What is in use stays with the lender, who pays for more of it as well.
    account.close();
    assert_eq!((lender.used(), account.used()), (50, 50));
    account.charge(30).unwrap();
    assert_eq!((lender.used(), account.used()), (80, 80));
    assert_eq!(account.charge(21), Err(Error::QuotaExceeded));
    account.uncharge(75);
    assert_eq!((lender.used(), account.used()), (5, 5));
    assert_eq!(account.set_part(&lender, &part(9)), Err(Error::WrongState));
    account.uncharge(5);
    drop(account);
    assert_eq!((lender.used(), lender.used_of(Resource::Handles)), (0, 0));
}

#[test]
fn parts_beyond_a_closed_account_are_counted_by_who_pays_and_nobody_else() {
    const MANY: u64 = 1_600_000_000;
    crate::memory::testing::machine();
    let of = |handles: u64| Quota {
        pages: 0,
        handles,
        threads: 0,
    };
    let handles = |account: &Account| account.used_of(Resource::Handles);
    let payer = Account::create(100).unwrap();
    let closed = Account::divide(&payer, &of(MANY + 10)).unwrap();
    let first = Account::divide(&closed, &of(MANY)).unwrap();
    let second = Account::divide(&closed, &of(5)).unwrap();
    closed.close();
    assert_eq!(handles(&payer), MANY + 5);
    // By this the way from the first account leaves the closed one out; the second still has it in.
    Account::divide(&first, &of(1)).unwrap().close();
    first.close();
    assert_eq!(handles(&payer), 5);
    // So much twice over is more than a word counts.
    second.set_part(&payer, &of(MANY)).unwrap();
    assert_eq!(handles(&payer), MANY);
    second.set_part(&payer, &of(7)).unwrap();
    assert_eq!(handles(&payer), 7);
    second.close();
    assert_eq!(handles(&payer), 0);
}

#[test]
fn a_part_is_changed_by_its_lender_alone_and_whole_or_not_at_all() {
    crate::memory::testing::machine();
    let lender = Account::create(100).unwrap();
    let account = Account::divide(&lender, &part(60)).unwrap();
    let sharing = Account::share(&lender).unwrap();
    let stranger = Account::create(100).unwrap();
    assert_eq!(account.set_part(&stranger, &part(1)), Err(Error::NoRight));
    assert_eq!(account.set_part(&account, &part(61)), Err(Error::NoRight));
    assert_eq!(lender.set_part(&lender, &part(1)), Err(Error::WrongState));
    account.charge(50).unwrap();
    account.set_part(&sharing, &part(100)).unwrap();
    assert_eq!((account.limit(), lender.used()), (100, 100));
    for refused in [part(101), part(49), part(u64::MAX)] {
        assert_eq!(
            account.set_part(&lender, &refused),
            Err(Error::QuotaExceeded)
        );
        assert_eq!((account.limit(), lender.used()), (100, 100));
    }
    // The first part would do, the last does not.
    let threads = Quota {
        threads: MOST + 1,
        ..part(70)
    };
    assert_eq!(
        account.set_part(&lender, &threads),
        Err(Error::QuotaExceeded)
    );
    assert_eq!((account.limit(), lender.used()), (100, 100));
    account.set_part(&lender, &part(50)).unwrap();
    assert_eq!(account.charge(1), Err(Error::QuotaExceeded));
    assert_eq!(lender.used(), 50);
    account.uncharge(50);
}

#[test]
fn a_row_of_processes_that_each_end_after_the_next_has_its_part_leaves_a_short_way() {
    crate::memory::testing::machine();
    // The next one has its part before, or after, the end of the one before the last.
    for lag in 0..3 {
        let root = Account::create(1000).unwrap();
        let mut live =
            std::collections::VecDeque::from([Account::divide(&root, &part(900)).unwrap()]);
        let mut left = Vec::new();
        for number in 0..200 {
            let last = live.back().unwrap();
            // Each leaves something behind that its account pays for.
            last.charge(1).unwrap();
            left.push(last.clone());
            live.push_back(Account::divide(last, &part(800 - 2 * number)).unwrap());
            if live.len() > lag + 1 {
                live.pop_front().unwrap().close();
            }
            let ways = left.iter().chain(&live).map(|account| {
                core::iter::successors(Some(&**account), |account| account.lender.get()).count()
            });
            assert!(ways.max().unwrap() <= 2 * lag + 5, "after {number}");
        }
        assert_eq!(live.back().unwrap().charge(1000), Err(Error::QuotaExceeded));
        for account in &live {
            account.close();
        }
        drop(live);
        assert_eq!(root.used(), left.len() as u64);
        for account in left {
            account.uncharge(1);
        }
        assert_eq!(root.used(), 0);
    }
}

#[test]
fn parts_of_parts_have_a_limit_as_long_as_their_processes_live() {
    crate::memory::testing::machine();
    let mut row = vec![Account::create(1000).unwrap()];
    let error = loop {
        match Account::divide(row.last().unwrap(), &part(900)) {
            Ok(account) => row.push(account),
            Err(error) => break error,
        }
        assert!(row.len() < 1000);
    };
    assert_eq!((error, row.len()), (Error::QuotaExceeded, MOST_LEVELS + 1));
    // Nothing was taken for the one that was refused; and with one of them less there is room for another.
    assert_eq!(row.last().unwrap().used(), 0);
    row[5].close();
    row.push(Account::divide(row.last().unwrap(), &part(900)).unwrap());
    assert!(Account::divide(row.last().unwrap(), &part(900)).is_err());
}

#[test]
fn what_the_maker_of_an_ended_maker_pays_for_is_his_to_change() {
    crate::memory::testing::machine();
    let root = Account::create(100).unwrap();
    let maker = Account::divide(&root, &part(60)).unwrap();
    let account = Account::divide(&maker, &part(40)).unwrap();
    assert_eq!(account.set_part(&root, &part(50)), Err(Error::NoRight));
    maker.close();
    account.set_part(&root, &part(90)).unwrap();
    assert_eq!((account.limit(), root.used()), (90, 90));
    account.set_part(&root, &part(10)).unwrap();
    assert_eq!((account.limit(), root.used()), (10, 10));
}

#[test]
fn two_who_set_a_part_at_once_set_it_one_after_the_other() {
    crate::memory::testing::machine();
    let lender = Account::create(100).unwrap();
    let account = Account::divide(&lender, &part(20)).unwrap();
    let wanted = [[20, 60], [30, 70]];
    std::thread::scope(|scope| {
        for own in wanted {
            let (account, lender) = (&account, &lender);
            scope.spawn(move || {
                for pages in own.into_iter().cycle().take(100_000) {
                    account.set_part(lender, &part(pages)).unwrap();
                    let limit = account.limit();
                    assert!(wanted.as_flattened().contains(&limit), "it is {limit}");
                }
            });
        }
    });
    assert_eq!(lender.used(), account.limit());
}

#[test]
fn charges_find_who_pays_while_the_way_there_is_shortened() {
    crate::memory::testing::machine();
    let root = Account::create(1000).unwrap();
    for _ in 0..300 {
        let mut row = vec![Account::divide(&root, &part(100)).unwrap()];
        for pages in [90, 80, 70, 60] {
            row.push(Account::divide(row.last().unwrap(), &part(pages)).unwrap());
        }
        let last = row.last().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..300 {
                    // What is given back by one that closes may not be there yet.
                    if last.charge(1).is_ok() {
                        last.uncharge(1);
                    }
                }
            });
            for account in &row {
                account.close();
                if let Ok(another) = Account::divide(last, &part(1)) {
                    another.close();
                }
            }
        });
        assert_eq!((root.used(), last.used()), (0, 0));
    }
}

/// What is done to one of a few accounts.
#[derive(Clone, Debug)]
enum Step {
    Share(usize),
    Divide(usize, u64),
    Charge(usize, u64),
    Uncharge(usize, u64),
    SetPart(usize, usize, u64),
    Close(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = 0..12_usize;
    let step = prop_oneof![
        index.clone().prop_map(Step::Share),
        (index.clone(), 0..60_u64).prop_map(|(of, part)| Step::Divide(of, part)),
        (index.clone(), 0..30_u64).prop_map(|(of, count)| Step::Charge(of, count)),
        (index.clone(), 0..30_u64).prop_map(|(of, count)| Step::Uncharge(of, count)),
        (index.clone(), index.clone(), 0..60_u64)
            .prop_map(|(of, by, to)| Step::SetPart(of, by, to)),
        index.prop_map(Step::Close),
    ];
    prop::collection::vec(step, 1..60)
}

/// One account as a model has it: who lends, its own limit if it has one, what was charged to it itself.
struct Model {
    lender: Option<usize>,
    limit: Option<u64>,
    own: u64,
}

/// What an account has in use: its own, what those that it pays for have, and the parts that it gave away.
fn used(models: &[Model], of: usize) -> u64 {
    let lent = models
        .iter()
        .enumerate()
        .filter(|(_, model)| model.lender == Some(of))
        .map(|(index, model)| model.limit.unwrap_or_else(|| used(models, index)));
    models[of].own + lent.sum::<u64>()
}

fn payer(models: &[Model], mut of: usize) -> usize {
    while models[of].limit.is_none() {
        of = models[of].lender.unwrap();
    }
    of
}

fn has_room(models: &[Model], of: usize, count: u64) -> bool {
    let payer = payer(models, of);
    used(models, payer) + count <= models[payer].limit.unwrap()
}

proptest! {
    #[test]
    fn accounts_that_lend_and_share_are_as_the_model_says(steps in steps()) {
        crate::memory::testing::machine();
        let mut accounts = vec![Account::create(100).unwrap()];
        let mut models = vec![Model { lender: None, limit: Some(100), own: 0 }];
        for step in steps {
            let there = |index: usize| index % models.len();
            match step {
                Step::Share(of) => {
                    let of = there(of);
                    accounts.push(Account::share(&accounts[of]).unwrap());
                    let lender = Some(payer(&models, of));
                    models.push(Model { lender, limit: None, own: 0 });
                }
                Step::Divide(of, count) => {
                    let of = there(of);
                    let fits = has_room(&models, of, count);
                    let divided = Account::divide(&accounts[of], &Quota { pages: count, ..Quota::default() });
                    prop_assert_eq!(divided.is_ok(), fits);
                    if let Ok(account) = divided {
                        accounts.push(account);
                        let lender = Some(payer(&models, of));
                        models.push(Model { lender, limit: Some(count), own: 0 });
                    }
                }
                Step::Charge(of, count) => {
                    let of = there(of);
                    let fits = has_room(&models, of, count);
                    prop_assert_eq!(accounts[of].charge_of(ANY, count).is_ok(), fits);
                    models[of].own += if fits { count } else { 0 };
                }
                Step::Uncharge(of, count) => {
                    let of = there(of);
                    let count = count.min(models[of].own);
                    accounts[of].uncharge_of(ANY, count);
                    models[of].own -= count;
                }
                Step::SetPart(of, by, to) => {
                    let (of, by) = (there(of), there(by));
                    let set = accounts[of].set_part(&accounts[by], &Quota { pages: to, ..Quota::default() });
                    let may = match (models[of].lender, models[of].limit) {
                        (Some(lender), Some(limit)) => {
                            payer(&models, by) == payer(&models, lender)
                                && used(&models, of) <= to
                                && (to <= limit || has_room(&models, lender, to - limit))
                        }
                        _ => false,
                    };
                    prop_assert_eq!(set.is_ok(), may);
                    if may {
                        models[of].limit = Some(to);
                    }
                }
                Step::Close(of) => {
                    let of = there(of);
                    accounts[of].close();
                    if models[of].lender.is_some() {
                        models[of].limit = None;
                    }
                }
            }
            for (index, account) in accounts.iter().enumerate() {
                if models[index].limit.is_some() {
                    prop_assert_eq!(account.used(), used(&models, index));
                } else {
                    // What others have of a closed one is not counted there any more.
                    prop_assert!(account.used() >= models[index].own);
                }
            }
        }
        for (account, model) in accounts.iter().zip(&models) {
            account.uncharge_of(ANY, model.own);
        }
        while accounts.len() > 1 {
            accounts.pop();
        }
    }
}
