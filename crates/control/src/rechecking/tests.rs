//! Hosts asked again: each instance once in an interval, never all at once, and whoever is silent is cut off.

use lucarne_model::{
    Octets,
    actual::ActualState,
    attestation::{APPROVE_WITHIN, AttestMode, AttestPolicy, OnMismatch, PolicySource},
};
use proptest::prelude::*;

use super::*;
use crate::workflow::tests::{evidence, instance, said};

const INTERVAL: Duration = Duration::from_secs(600);
const BEGIN: Moment = Moment::from_secs(1_000_000);

fn policy() -> AttestPolicy {
    let approve_within_seconds = APPROVE_WITHIN.as_secs();
    AttestPolicy { mode: AttestMode::List, on_mismatch: OnMismatch::Rollback, approve_within_seconds }
}

/// One that matched at [`BEGIN`] and runs.
fn subject(id: u128, host: u128) -> Subject {
    let attestation = InstanceAttestation {
        policy: policy(),
        source: PolicySource::Vpc,
        nonce: Octets(vec![1; 16]),
        state: AttestState::Matched,
        until: None,
        proved: Some(BEGIN),
        asked: None,
        checked: Some(BEGIN),
    };
    let (state, host) = (InstanceState::Running, Some(HostId::from_bits(host)));
    let instance =
        Instance { id: InstanceId::from_bits(id), attestation: Some(attestation), state, host, ..instance() };
    let wanted = VpcAttestPolicy { policy: policy(), recheck_seconds: INTERVAL.as_secs(), since: BEGIN };
    Subject { instance, policy: Some(wanted), host_began: None, told: said(ActualState::Running, 1) }
}

fn about(subject: &mut Subject) -> &mut InstanceAttestation {
    subject.instance.attestation.as_mut().unwrap()
}

/// As the shell does it, with a host that answers in the same instant.
fn check(subject: &mut Subject, now: Moment) {
    about(subject).checked = Some(now);
}

proptest! {
    /// However it is looked at, none goes longer than an interval without being asked, nor is asked more than once in each.
    #[test]
    fn each_is_asked_once_in_an_interval(id: u128, looks in prop::collection::vec(1..900u64, 1..200)) {
        let mut one = subject(id, 1);
        let (mut now, mut last, mut count) = (BEGIN, BEGIN, 0);
        for seconds in looks {
            now = now.plus(Duration::from_secs(seconds));
            let asked = plan(std::slice::from_ref(&one), now) == [(one.instance.id, Next::Ask)];
            prop_assert!(asked || now.since(last) <= INTERVAL);
            if asked {
                check(&mut one, now);
                (last, count) = (now, count + 1);
            }
        }
        prop_assert!(count <= now.since(BEGIN).as_secs() / INTERVAL.as_secs() + 1, "{count}");
    }

    /// A thousand that began together are asked all over the interval.
    #[test]
    fn they_are_spread_over_the_interval(seed: u64) {
        let ids = (0..1000u128).map(|n| (u128::from(seed) + n).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835));
        let times = ids.map(|id| slot(InstanceId::from_bits(id), INTERVAL, BEGIN.plus(INTERVAL)).since(BEGIN));
        let mut tenths = [0; 10];
        times.for_each(|time| tenths[(time.as_millis() * 10 / INTERVAL.as_millis()).min(9) as usize] += 1);
        prop_assert!(tenths.iter().all(|count| (40..200).contains(count)), "{tenths:?}");
    }
}

#[test]
fn after_a_long_absence_no_host_is_asked_for_more_than_a_few_at_a_time() {
    let mut all: Vec<_> = (0..30).map(|n| subject(n, n % 2)).collect();
    let now = BEGIN.plus(INTERVAL * 10);
    let mut rounds = 0;
    while all.iter().any(|one| one.attestation().unwrap().checked == Some(BEGIN)) {
        let planned = plan(&all, now);
        assert_eq!(planned.len().min(2 * OF_ONE_HOST), planned.len());
        for (id, _) in planned {
            check(all.iter_mut().find(|one| one.instance.id == id).unwrap(), now);
        }
        rounds += 1;
    }
    assert_eq!(rounds, 4);
    let later = now.plus(INTERVAL);
    all.iter_mut().take(10).for_each(|one| about(one).asked = Some(later));
    assert!(plan(&all, later).is_empty(), "those that are pending count");
}

#[test]
fn a_host_that_began_anew_is_asked_at_once() {
    let mut one = subject(7, 1);
    let soon = BEGIN.plus(Duration::from_millis(5));
    assert!(plan(std::slice::from_ref(&one), soon).is_empty());
    one.host_began = Some(BEGIN.plus(Duration::from_millis(1)));
    assert_eq!(plan(std::slice::from_ref(&one), soon), [(one.instance.id, Next::Ask)]);
    check(&mut one, soon);
    assert!(plan(std::slice::from_ref(&one), soon).is_empty());
}

#[test]
fn only_what_runs_and_has_matched_in_a_vpc_with_a_policy_is_asked() {
    let late = BEGIN.plus(INTERVAL * 3);
    let due = |change: fn(&mut Subject)| {
        let mut one = subject(7, 1);
        change(&mut one);
        !plan(&[one], late).is_empty()
    };
    assert!(due(|_| {}));
    assert!(due(|one| about(one).state = AttestState::Approved));
    assert!(due(|one| about(one).state = AttestState::Quarantined), "it may come back");
    assert!(!due(|one| {
        about(one).state = AttestState::Quarantined;
        about(one).proved = None;
    }));
    assert!(!due(|one| one.policy = None));
    assert!(!due(|one| one.instance.attestation = None));
    assert!(!due(|one| one.instance.state = InstanceState::Stopped));
    assert!(!due(|one| one.told = Observed::HostDown));
    assert!(!due(|one| about(one).state = AttestState::Measuring));
}

#[test]
fn a_proof_with_the_nonce_is_judged_and_silence_cuts_off_unless_the_host_is_down() {
    let mut one = subject(7, 1);
    let asked = BEGIN.plus(INTERVAL);
    (about(&mut one).asked, about(&mut one).state) = (Some(asked), AttestState::Rechecking);
    let next =
        |one: &Subject, after: Duration| plan(std::slice::from_ref(one), asked.plus(after)).pop().map(|(_, next)| next);
    let proof = |nonce: u8| {
        let Observed::Said(actual) = said(ActualState::Running, 1) else { unreachable!("that is what was said") };
        Observed::Said(ActualInstance { evidence: Some(Box::new(evidence([nonce; 16]))), ..actual })
    };
    let late = PATIENCE + Duration::from_secs(1);
    assert_eq!(next(&one, PATIENCE), None);
    let Some(Next::CutOff(reason)) = next(&one, late) else { panic!("it waits on") };
    assert_eq!(reason.code, ErrorCode::HostNotProved);
    one.told = proof(9);
    assert!(matches!(next(&one, late), Some(Next::CutOff(_))), "an old proof is none");
    one.told = proof(1);
    assert!(matches!(next(&one, late), Some(Next::Judge(_))));
    one.told = Observed::HostDown;
    assert_eq!(next(&one, PATIENCE), None);
    assert_eq!(next(&one, late), Some(Next::Ask), "with a new nonce, for when it is back");
}
