//! The laws of lending, under hosts that tell whatever they like; and its story.

use proptest::prelude::*;

use super::*;
use crate::dice::Dice;

fn host(number: u64) -> HostId {
    HostId::from_bits(u128::from(number) + 1)
}

fn standing(number: u64, lendable: u64, wanted: u64) -> Standing {
    Standing { host: host(number), lendable: Bytes::mib(lendable), wanted: Bytes::mib(wanted) }
}

fn all(leases: &Leases) -> Vec<Lease> {
    leases.all().copied().collect()
}

fn told(dice: &mut Dice) -> Vec<Standing> {
    let hosts = (0..6).filter(|_| dice.below(8) > 0).collect::<Vec<_>>();
    let amount = |dice: &mut Dice| [0, dice.below(4 << 30), dice.roll()][dice.below(3) as usize];
    let told = |number| Standing { host: host(number), lendable: Bytes(amount(dice)), wanted: Bytes(amount(dice)) };
    hosts.into_iter().map(told).collect()
}

fn lent_by(leases: &Leases, host: HostId) -> Bytes {
    leases.all().filter(|lease| lease.lender == host).map(|lease| lease.bytes).sum()
}

fn assert_laws(leases: &Leases, hosts: &[Standing]) {
    let of = |host| hosts.iter().find(|told| told.host == host);
    for lease in all(leases) {
        let (lender, borrower) = (of(lease.lender).expect("there"), of(lease.borrower).expect("there"));
        assert!(lease.lender != lease.borrower && lease.bytes >= GRAIN && lease.bytes.0 % GRAIN.0 == 0);
        assert!(lender.wanted < GRAIN, "who borrows does not lend");
        let borrowed = sum(&leases.given[&lease.borrower]);
        assert!(borrowed.0 / 2 <= borrower.wanted.0.saturating_add(GRAIN.0), "{borrowed} for {borrower:?}");
    }
    for of_one in leases.given.values() {
        assert!((1..=LENDERS).contains(&of_one.len()));
        assert!(of_one.iter().map(|lease| lease.lender).collect::<BTreeSet<_>>().len() == of_one.len());
        let smallest = of_one.iter().map(|lease| lease.bytes).min().expect("one");
        let spare = |lease: &Lease| of(lease.lender).expect("there").offers() - lent_by(leases, lease.lender);
        // Of several of the same size any may be the one that could have gone.
        let is_smallest = |lease: &Lease| lease.bytes == smallest;
        assert!(
            of_one.iter().filter(|lease| !is_smallest(lease)).all(|lease| spare(lease).0 / 2 < smallest.0),
            "one of {of_one:?} would have room for another"
        );
    }
    for told in hosts {
        let lent: u128 =
            all(leases).iter().filter(|one| one.lender == told.host).map(|one| u128::from(one.bytes.0)).sum();
        assert!(lent <= u128::from(told.lendable.0), "{told:?} lends {lent}");
    }
}

proptest! {
    #[test]
    fn nobody_lends_more_than_it_would_or_what_it_wants_itself(seed in any::<u64>(), steps in 1_u64..40) {
        let (mut dice, mut leases, mut epochs) = (Dice::new(seed), Leases::default(), BTreeMap::new());
        for step in 0..steps {
            let hosts = told(&mut dice);
            let before = all(&leases);
            let changed = leases.step(Moment(step * dice.below(1 << 40)), &hosts);
            assert_laws(&leases, &hosts);
            for lease in all(&leases) {
                let pair = (lease.lender, lease.borrower);
                prop_assert!(*epochs.entry(lease.epoch).or_insert(pair) == pair, "an epoch is of one lease");
                prop_assert!(before.contains(&lease) || changed.contains(&lease.lender) && changed.contains(&lease.borrower));
            }
            // The same words again change nothing: whoever is told a lease can count on it.
            prop_assert_eq!(leases.step(Moment(u64::MAX), &hosts), BTreeSet::new());
        }
    }

    #[test]
    fn what_is_divided_is_all_there_and_nobody_gets_more_than_a_part(whole in any::<u64>(), sizes in prop::collection::vec(any::<u64>(), 0..9)) {
        let parts = divide(whole, &sizes);
        let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
        prop_assert_eq!(sum, if sizes.iter().any(|size| *size > 0) { u128::from(whole) } else { 0 });
        prop_assert!(parts.iter().zip(&sizes).all(|(part, size)| *size > 0 || *part == 0));
    }

    /// However guests grow and shrink: what is lent fits into what they leave, and comes to what is to be lent in time.
    #[test]
    fn a_lender_never_allows_more_than_is_idle_and_takes_back_in_time(seed in any::<u64>(), steps in 1_u64..60) {
        let mut dice = Dice::new(seed);
        let memory = Bytes(dice.below(64 << 30));
        let mut lender = Lender::new(Bytes(dice.below(64 << 30)), memory);
        let mut idle = Bytes::ZERO;
        for _ in 0..steps {
            idle = Bytes(dice.below(memory.0 + 1));
            let before = lender.allowed;
            let allowed = lender.step(Duration::from_millis(dice.below(2000)), idle);
            prop_assert!(allowed <= idle && allowed <= lender.limit, "{allowed} of {idle}");
            prop_assert!(allowed >= lender.lendable(idle));
            prop_assert!(allowed <= before.max(lender.lendable(idle)), "more is lent than is to be");
        }
        let excess = lender.allowed - lender.lendable(idle);
        let seconds = excess.0.div_ceil(TAKEN_BACK.0);
        for _ in 0..seconds {
            lender.step(Duration::from_secs(1), idle);
        }
        prop_assert_eq!(lender.allowed, lender.lendable(idle));
    }

    /// Guests, what is lent, and what is free are all there is, at each sample, however much of it is lent.
    #[test]
    fn the_parts_of_a_host_stay_its_whole_while_it_lends(seed in any::<u64>(), steps in 1_u64..40) {
        let mut dice = Dice::new(seed);
        let total = Bytes(dice.below(64 << 30));
        let mut lender = Lender::new(Bytes(dice.roll()), total);
        for _ in 0..steps {
            let guests = Bytes(dice.below(total.0 + 1));
            let leases: Vec<Lease> = (0..dice.below(5)).map(|number| Lease {
                lender: host(9), borrower: host(number), bytes: Bytes(dice.below(16 << 30)), epoch: number,
            }).collect();
            let quotas = quotas(&leases, lender.step(Duration::from_millis(500), total - guests));
            let lent: Bytes = quotas.iter().copied().sum();
            let free = Bytes(total.0.checked_sub(guests.0 + lent.0).expect("it fits"));
            prop_assert_eq!(guests + lent + free, total);
            prop_assert!(quotas.iter().zip(&leases).all(|(quota, lease)| *quota <= lease.bytes));
        }
    }
}

#[test]
fn who_is_short_gets_a_lease_from_whoever_has_the_most_to_spare() {
    let mut leases = Leases::default();
    let hosts = [standing(0, 0, 100), standing(1, 200, 0), standing(2, 500, 0)];
    let changed = leases.step(Moment(7), &hosts);
    let lease = Lease { lender: host(2), borrower: host(0), bytes: Bytes::mib(112), epoch: 7 };
    assert_eq!(all(&leases), [lease]);
    assert_eq!(changed, BTreeSet::from([host(0), host(2)]));
    assert_eq!(leases.of(host(1)).count(), 0);
    // It wants a little less, then more than there is.
    assert_eq!(leases.step(Moment(8), &[standing(0, 0, 70), standing(2, 500, 0)]), BTreeSet::new());
    leases.step(Moment(9), &[standing(0, 0, 900), standing(2, 500, 0)]);
    assert_eq!(all(&leases), [Lease { bytes: Bytes::mib(496), ..lease }]);
}

#[test]
fn a_lender_that_needs_its_memory_or_is_gone_gets_it_back() {
    let mut leases = Leases::default();
    let borrowers = [standing(0, 0, 300), standing(1, 0, 100)];
    let with = |lendable, wanted| [&borrowers[..], &[standing(2, lendable, wanted)]].concat();
    leases.step(Moment(1), &with(1000, 0));
    let bytes = |leases: &Leases| all(leases).iter().map(|lease| lease.bytes.0 >> 20).collect::<Vec<_>>();
    assert_eq!(bytes(&leases), [304, 112]);
    leases.step(Moment(2), &with(200, 0));
    assert_eq!(bytes(&leases), [144, 48], "both give, by what they have");
    leases.step(Moment(3), &with(200, 50));
    assert!(bytes(&leases).is_empty(), "it is short itself");
    leases.step(Moment(4), &with(1000, 0));
    assert_eq!(leases.step(Moment(5), &borrowers), BTreeSet::from([host(0), host(1), host(2)]));
    assert!(bytes(&leases).is_empty());
}

#[test]
fn each_vm_gets_room_by_what_it_has_away() {
    let one = rooms(&[Bytes::mib(4)], &[Pages(30), Pages(0), Pages(10)]);
    assert_eq!(one, [[Pages(768)], [Pages(0)], [Pages(256)]]);
    assert_eq!(rooms(&[Bytes::mib(4)], &[Pages(0)]), [[Pages(0)]]);
    assert_eq!(rooms(&[], &[Pages(7)]), [[]]);
}

#[test]
fn a_vm_that_does_not_fit_under_one_lease_has_the_rest_under_the_next() {
    let two = rooms(&[Bytes::mib(2), Bytes::mib(2)], &[Pages(30), Pages(10)]);
    assert_eq!(two, [[Pages(512), Pages(256)], [Pages(0), Pages(256)]]);
    let three = rooms(&[Bytes::mib(1), Bytes::mib(1), Bytes::mib(1)], &[Pages(9)]);
    assert_eq!(three, [[Pages(256), Pages(256), Pages(256)]]);
}

/// One host's want on several hosts at once, and on one when that has room for all of it.
#[test]
fn what_one_lender_has_not_another_lends_until_one_has_all_of_it() {
    let mut leases = Leases::default();
    let hosts = |first, second| [standing(0, 0, 400), standing(1, first, 0), standing(2, second, 0)];
    let lent = |leases: &Leases| {
        let lent: BTreeMap<HostId, u64> = all(leases).iter().map(|one| (one.lender, one.bytes.0 >> 20)).collect();
        lent.into_iter().collect::<Vec<_>>()
    };
    leases.step(Moment(1), &hosts(160, 272));
    assert_eq!(lent(&leases), [(host(1), 128), (host(2), 272)]);
    leases.step(Moment(2), &hosts(160, 448));
    assert_eq!(
        lent(&leases),
        [(host(1), 128), (host(2), 272)],
        "it would be full, and the next change drive it out again"
    );
    let changed = leases.step(Moment(3), &hosts(160, 528));
    assert_eq!(lent(&leases), [(host(2), 400)]);
    assert_eq!(changed, BTreeSet::from([host(0), host(1), host(2)]));
    leases.step(Moment(4), &hosts(160, 64));
    assert_eq!(lent(&leases), [(host(1), 160), (host(2), 64)]);
    leases.step(Moment(5), &[standing(0, 0, 100), standing(1, 160, 0), standing(2, 64, 0)]);
    assert_eq!(lent(&leases), [(host(1), 112)], "the smallest goes first");
}
