//! Standing requests: when they are due, what each time of one is called, and who may ask for what for how long.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    example::{HOUR, INSTANCE, NOW, OTHER_TENANT, TENANT, host_key, key, octets, operation, person, read, rules, site},
    judge::{Admitted, Held, Life},
    ledger::Ledger,
    refusal::Refusal,
    trust::{Channel, read_envelope},
};

fn terms(scope: Scope, rhythm: Rhythm) -> StandingTerms {
    StandingTerms { scope, rhythm, ..crate::example::standing().terms().clone() }
}

fn every(seconds: u64) -> Rhythm {
    Rhythm::Every(seconds.try_into().expect("a span"))
}
fn sampled(seconds: u64) -> Rhythm {
    Rhythm::Sampled(seconds.try_into().expect("a span"))
}

fn standing(scope: Scope, rhythm: Rhythm) -> Standing {
    Standing::new(read(64), terms(scope, rhythm)).expect("a standing request")
}

fn seed(octet: u8) -> Seed {
    let sampling = Sampling { standing: RequestId::of_octets(&[octet]) };
    Seed::of(&host_key().sign(&sampling).expect("an envelope"))
}

fn brought(scope: Scope, octet: u8) -> Vec<u8> {
    octets(&key(octet).sign(&standing(scope, every(60))).expect("an envelope"))
}

fn here() -> TargetInstance {
    TargetInstance { id: INSTANCE, generation: 2, account: TENANT }
}

fn stand(octets: &[u8]) -> Result<Admitted<Standing>, Refusal> {
    rules().judge_standing(octets, Channel::Carried, &site(), &Ledger::default(), NOW)
}

fn occur(octets: &[u8], number: u64, ledger: &Ledger, now: Moment) -> Result<Admitted, Refusal> {
    let occurrence = Occurrence { number, instance: Some(here()) };
    rules().judge_occurrence(octets, Channel::Carried, &occurrence, &site(), ledger, now)
}

#[test]
fn each_time_is_taken_once_and_has_a_name_that_readers_can_make() {
    let octets = brought(Scope::Account(TENANT), 3);
    let admitted = stand(&octets).expect("it stands");
    let mut ledger = Ledger::default();
    ledger.hold(admitted.mark);
    assert!(matches!(
        rules().judge_standing(&octets, Channel::Carried, &site(), &ledger, NOW),
        Err(Refusal::Replayed(_))
    ));
    for number in 0..3 {
        let now = NOW.plus(Duration::from_secs(60 * number));
        let time = occur(&octets, number, &ledger, now).expect("admitted");
        let expected = Occurrence { number, instance: Some(here()) };
        assert_eq!(time.opened.id, occurrence_id(&admitted.opened.id, &expected));
        assert_eq!(time.opened.request.target().instance, Some(here()));
        assert_eq!(time.opened.request.terms().result, admitted.opened.request.terms().result);
        assert!(time.opened.signers.contains_key(&person("tina")));
        ledger.hold(time.mark);
        assert!(matches!(occur(&octets, number, &ledger, now), Err(Refusal::Replayed(_))), "{number}");
    }
}

#[test]
fn it_ends_at_its_end_and_with_the_trust_in_who_signed_it() {
    let octets = brought(Scope::Account(TENANT), 3);
    let late = occur(&octets, 1440, &Ledger::default(), NOW.plus(25 * HOUR));
    assert!(matches!(late, Err(Refusal::Expired { .. })));
    let mut rules = rules();
    rules.trust.revoke(key(3).public().id());
    let occurrence = Occurrence { number: 1, instance: Some(here()) };
    let revoked = rules.judge_occurrence(&octets, Channel::Carried, &occurrence, &site(), &Ledger::default(), NOW);
    assert!(matches!(revoked, Err(Refusal::RevokedKey(_))));
}

/// Attack: a tenant's standing request that reaches beyond the tenant.
#[test]
fn tenants_stay_with_their_own() {
    for scope in [Scope::Host, Scope::Account(OTHER_TENANT), Scope::Instance { id: INSTANCE, account: OTHER_TENANT }] {
        assert!(matches!(stand(&brought(scope, 3)), Err(Refusal::ForeignSigner { .. })), "{scope:?}");
    }
    // What says that the instance is its own is believed by nobody: the host says whose it is.
    let own_word = brought(Scope::Instance { id: INSTANCE, account: OTHER_TENANT }, 4);
    assert!(stand(&own_word).is_ok());
    let stolen = TargetInstance { account: OTHER_TENANT, ..here() };
    let judged = |instance| {
        let occurrence = Occurrence { number: 0, instance: Some(instance) };
        rules().judge_occurrence(&own_word, Channel::Carried, &occurrence, &site(), &Ledger::default(), NOW)
    };
    assert!(matches!(judged(stolen), Err(Refusal::OtherAccount { .. })));
    assert!(matches!(judged(here()), Err(Refusal::OutOfScope(_))));
}

#[test]
fn an_account_that_signs_what_is_done_to_it_is_asked_each_time() {
    let octets = brought(Scope::Host, 1);
    let mut site = site();
    site.instances.insert(INSTANCE, Held { account: TENANT, generation: 2, life: Life::Runs, cosigned: true });
    let occurrence = Occurrence { number: 0, instance: Some(here()) };
    let judged = rules().judge_occurrence(&octets, Channel::Carried, &occurrence, &site, &Ledger::default(), NOW);
    assert!(matches!(judged, Err(Refusal::Cosignature(_))));
}

#[test]
fn a_single_request_and_a_standing_one_are_not_taken_for_each_other() {
    let octets = brought(Scope::Account(TENANT), 3);
    assert!(matches!(read_envelope(&octets), Err(Refusal::Type { .. })));
    let judged = rules().judge(&octets, Channel::Carried, &site(), &Ledger::default(), NOW);
    assert!(matches!(judged, Err(Refusal::Type { .. })));
}

#[test]
fn what_makes_no_sense_does_not_stand() {
    let scope = Scope::Account(TENANT);
    let with = |operation, change: &dyn Fn(&mut StandingTerms)| {
        let mut terms = terms(scope, every(60));
        change(&mut terms);
        Standing::new(operation, terms)
    };
    assert!(matches!(with(operation(OperationName::GuestPause), &|_| {}), Err(StandingError::Changes(_))));
    assert!(matches!(with(operation(OperationName::GuestMemoryWrite), &|_| {}), Err(StandingError::Changes(_))));
    assert!(matches!(with(operation(OperationName::HostHealth), &|_| {}), Err(StandingError::Scope(_))));
    assert!(matches!(with(read(1), &|it| it.not_after = it.not_before), Err(StandingError::Validity)));
    let long = with(read(1), &|it| it.not_after = it.not_before.plus(LONGEST).plus(HOUR));
    assert!(matches!(long, Err(StandingError::Validity)));
    assert!(matches!(with(read(1), &|it| it.result.recipients.clear()), Err(StandingError::Request(_))));
}

#[test]
fn samples_follow_from_a_signature_and_from_nothing_else() {
    let standing = standing(Scope::Host, sampled(600));
    let times = |octet| (0..20).map(|number| standing.due(number, &seed(octet))).collect::<Vec<_>>();
    assert_eq!(times(1), times(1), "who is shown the signature comes to the same");
    assert_ne!(times(1), times(2));
    let offsets: std::collections::BTreeSet<Duration> = (0u32..100)
        .filter_map(|n| Some(standing.due(n.into(), &seed(1))?.since(NOW.plus(Duration::from_secs(600) * n))))
        .collect();
    assert!(offsets.len() > 95, "nobody learns the next one from the last");
}

proptest! {
    /// Each span has one time, in it; none is forgotten and none comes twice, from wherever one looks.
    #[test]
    fn times_follow_each_other(span in 10..5000u64, random: bool, after in 0..200_000u64) {
        let standing = standing(Scope::Host, if random { sampled(span) } else { every(span) });
        let (seed, all) = (seed(9), (0..=86_400 / span).filter_map(|number| Some((number, standing.due(number, &seed(9))?))));
        let all: Vec<(u64, Moment)> = all.collect();
        for (number, due) in &all {
            let begins = NOW.plus(Duration::from_secs(number * span));
            prop_assert!(*due >= begins && *due < begins.plus(Duration::from_secs(span)));
        }
        let after = NOW.minus(HOUR).plus(Duration::from_secs(after));
        let expected = all.into_iter().find(|(_, due)| *due > after);
        prop_assert_eq!(standing.next(after, &seed), expected);
    }
}

/// It is carried out when something is unusual, at the earliest in the next span again, and at no time by itself.
#[test]
fn one_that_watches_has_no_times_but_spans() {
    let watch = Watch { seconds: 60.try_into().expect("a span"), thresholds: BTreeMap::new(), deviations: None };
    let watching = standing(Scope::Host, Rhythm::Unusual(watch.clone()));
    let begins = watching.terms().not_before;
    assert_eq!(
        (watching.watch(), watching.next(begins, &seed(1)), watching.due(0, &seed(1))),
        (Some(&watch), None, None)
    );
    let at = |seconds| watching.number_at(begins.plus(Duration::from_secs(seconds)));
    assert_eq!([at(0), at(59), at(60), at(600)], [Some(0), Some(0), Some(1), Some(10)]);
    assert_eq!(watching.number_at(begins.minus(Duration::from_secs(1))), None);
    assert_eq!(watching.number_at(watching.terms().not_after.plus(Duration::from_secs(1))), None);
    let written = lucarne_statement::canonical::write(&watching).expect("it is written");
    assert_eq!(lucarne_statement::canonical::read::<Standing>(&written), Ok(watching));
}

#[test]
fn who_checks_the_instants_of_samples_takes_them_from_the_hosts_signature_over_this_request_alone() {
    let [own, other] = [1, 2].map(|octet| RequestId::of_octets(&[octet]));
    let sampling = host_key().sign(&Sampling { standing: own.clone() }).expect("an envelope");
    assert_eq!(Seed::shown(&sampling, &host_key().public(), &own), Ok(seed(1)));
    assert!(Seed::shown(&sampling, &host_key().public(), &other).is_err());
    assert!(Seed::shown(&sampling, &key(1).public(), &own).is_err());
    let twice = key(1).sign_too(sampling);
    assert!(Seed::shown(&twice, &host_key().public(), &own).is_err(), "the instants could be chosen");
}
