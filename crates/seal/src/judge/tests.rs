//! The attacks on a host that judges requests, each by its name.

use super::*;
use crate::{
    example::{
        HOST, HOUR, INSTANCE, NOW, OTHER_TENANT, TENANT, digest, octets, operation, person, read, request, rules,
        signed, site, terms,
    },
    ledger::KEPT_BEYOND,
    operation::{Operation, OperationName},
    request::Terms,
};

fn judge_at(site: &Site, ledger: &Ledger, octets: &[u8], now: Moment) -> Result<Admitted, Refusal> {
    rules().judge(octets, Channel::Carried, site, ledger, now)
}

fn brought(operation: Operation, change: impl FnOnce(&mut Terms), keys: &[u8]) -> Vec<u8> {
    let mut terms = terms();
    change(&mut terms);
    octets(&signed(&request(operation, terms), keys))
}

fn judge(site: &Site, octets: &[u8]) -> Result<Admitted, Refusal> {
    judge_at(site, &Ledger::default(), octets, NOW)
}

#[test]
fn a_good_request_is_taken_with_what_must_be_remembered_of_it() {
    let octets = brought(read(64), |_| {}, &[1]);
    let admitted = judge(&site(), &octets).expect("admitted");
    assert_eq!(admitted.mark.id, name(&octets));
    assert_eq!(admitted.mark.not_after, terms().not_after);
    assert!(admitted.opened.signers.contains_key(&person("alice")));
}

/// Attack: replay within the window on the same host, also after a restart.
#[test]
fn a_request_is_taken_once() {
    let octets = brought(read(64), |_| {}, &[1]);
    let mut ledger = Ledger::default();
    let admitted = judge_at(&site(), &ledger, &octets, NOW).expect("admitted");
    ledger.hold(admitted.mark);
    let again = judge_at(&site(), &ledger, &octets, NOW);
    assert!(matches!(again, Err(Refusal::Replayed(_))));
    let text = serde_json::to_string(&ledger).expect("a text");
    let after_restart: Ledger = serde_json::from_str(&text).expect("a ledger");
    assert!(matches!(judge_at(&site(), &after_restart, &octets, NOW), Err(Refusal::Replayed(_))));
    // Another signer makes no other request of it.
    let more_signed = brought(read(64), |_| {}, &[1, 2]);
    assert!(matches!(judge_at(&site(), &ledger, &more_signed, NOW), Err(Refusal::Replayed(_))));
}

/// Attack: a request whose id was forgotten, with the clock set back into its window.
#[test]
fn a_request_is_not_taken_again_when_the_clock_goes_back() {
    let octets = brought(read(64), |_| {}, &[1]);
    let mut ledger = Ledger::default();
    ledger.hold(judge_at(&site(), &ledger, &octets, NOW).expect("admitted").mark);
    ledger.compact(terms().not_after.plus(KEPT_BEYOND));
    assert!(ledger.is_empty());
    assert!(judge_at(&site(), &ledger, &octets, NOW).is_err());
}

/// Attack: replay on another host, or on the same with another key.
#[test]
fn a_request_is_for_one_host() {
    let octets = brought(read(64), |_| {}, &[1]);
    let mut other = site();
    other.host = HostId::from_bits(2);
    assert!(matches!(judge(&other, &octets), Err(Refusal::OtherHost { .. })));
    let mut rekeyed = site();
    rekeyed.keys.insert(Layer::Guest, digest(1));
    rekeyed.keys.insert(Layer::Hypervisor, digest(1));
    assert!(matches!(judge(&rekeyed, &octets), Err(Refusal::OtherHost { .. })));
}

/// Operations on the host's kernel have a key of their own.
#[test]
fn a_key_answers_for_its_layer_only() {
    let for_host = |key: Digest| {
        brought(operation(OperationName::HostHealth), |it| (it.target.instance, it.target.host_key) = (None, key), &[1])
    };
    assert!(judge(&site(), &for_host(site().keys[&Layer::Host].clone())).is_ok());
    let refused = judge(&site(), &for_host(site().keys[&Layer::Guest].clone()));
    assert!(matches!(refused, Err(Refusal::OtherLayer { .. })));
}

/// Attack: replay after the instance was moved away, or started anew.
#[test]
fn a_request_is_for_one_generation_of_an_instance_that_is_here() {
    let octets = brought(read(64), |_| {}, &[1]);
    let mut moved = site();
    moved.instances.clear();
    assert_eq!(judge(&moved, &octets), Err(Refusal::NoInstance(INSTANCE)));
    let mut restarted = site();
    restarted.instances.insert(INSTANCE, Held { account: TENANT, generation: 3, life: Life::Runs, cosigned: false });
    assert!(matches!(judge(&restarted, &octets), Err(Refusal::OtherGeneration { asked: 2, held: 3, .. })));
}

#[test]
fn of_an_instance_that_is_stopped_nothing_is_asked_but_its_start_and_of_that_generation_alone() {
    let mut stopped = site();
    stopped.instances.insert(INSTANCE, Held { account: TENANT, generation: 2, life: Life::Stopped, cosigned: false });
    let start = || operation(OperationName::GuestStart);
    assert!(judge(&stopped, &brought(start(), |_| {}, &[3])).is_ok());
    assert!(judge(&site(), &brought(start(), |_| {}, &[3])).is_ok(), "it runs, and will go on");
    assert_eq!(judge(&stopped, &brought(read(64), |_| {}, &[3])), Err(Refusal::Stopped(INSTANCE)));
    assert!(matches!(judge(&stopped, &brought(start(), |_| {}, &[4])), Err(Refusal::ForeignSigner { .. })));
    let later = |it: &mut Terms| {
        if let Some(instance) = &mut it.target.instance {
            instance.generation = 3;
        }
    };
    assert!(matches!(judge(&stopped, &brought(start(), later, &[3])), Err(Refusal::OtherGeneration { .. })));
}

/// Attack: confused deputy across tenants. Whose an instance is, the host says.
#[test]
fn a_tenants_key_acts_on_its_own_instances_only() {
    assert!(judge(&site(), &brought(read(64), |_| {}, &[3])).is_ok());
    let by_another = judge(&site(), &brought(read(64), |_| {}, &[4]));
    assert!(matches!(by_another, Err(Refusal::ForeignSigner { account: OTHER_TENANT, .. })));
    let claimed = |it: &mut Terms| {
        if let Some(instance) = &mut it.target.instance {
            instance.account = OTHER_TENANT;
        }
    };
    assert!(matches!(judge(&site(), &brought(read(64), claimed, &[4])), Err(Refusal::OtherAccount { .. })));
    // Nor on the host, even where a grant is too wide.
    let mut rules = rules();
    rules.grants = Grants::compile(3, "permit(principal, action, resource);").expect("grants");
    let host_key = site().keys[&Layer::Host].clone();
    let health = operation(OperationName::HostHealth);
    let octets = brought(health, |it| (it.target.instance, it.target.host_key) = (None, host_key), &[3]);
    let refused = rules.judge(&octets, Channel::Carried, &site(), &Ledger::default(), NOW);
    assert!(matches!(refused, Err(Refusal::ForeignSigner { .. })));
}

/// Attack: one rogue authoriser of the operator's, against a tenant that wants to sign itself.
#[test]
fn a_tenant_that_demands_it_signs_too() {
    let mut demanding = site();
    demanding.instances.insert(INSTANCE, Held { account: TENANT, generation: 2, life: Life::Runs, cosigned: true });
    let refused = Err(Refusal::Cosignature(TENANT));
    assert_eq!(judge(&demanding, &brought(read(64), |_| {}, &[1, 2])), refused);
    assert!(judge(&demanding, &brought(read(64), |_| {}, &[1, 3])).is_ok());
}

#[test]
fn a_request_holds_for_its_time_only() {
    let octets = brought(read(64), |_| {}, &[1]);
    let at = |now| judge_at(&site(), &Ledger::default(), &octets, now);
    assert!(at(terms().not_before).is_ok() && at(terms().not_after).is_ok());
    assert!(matches!(at(Moment(terms().not_before.0 - 1)), Err(Refusal::NotYet { .. })));
    assert!(matches!(at(Moment(terms().not_after.0 + 1)), Err(Refusal::Expired { .. })));
}

/// Attack: a clock that is wrong, or pushed.
#[test]
fn a_doubtful_clock_makes_a_beacon_mandatory() {
    let plain = brought(read(64), |_| {}, &[1]);
    let named = brought(read(64), |it| it.beacon = Some(Nonce::new([1; 16])), &[1]);
    let stale = brought(read(64), |it| it.beacon = Some(Nonce::new([2; 16])), &[1]);
    let mut doubtful = site();
    doubtful.clock_doubtful = true;
    assert_eq!(judge(&doubtful, &plain), Err(Refusal::Beacon));
    assert!(judge(&doubtful, &named).is_ok());
    assert_eq!(judge(&doubtful, &stale), Err(Refusal::Beacon));
    assert_eq!(judge(&site(), &stale), Err(Refusal::Beacon), "a beacon that is named must be a good one");
    // The clock was set back since another request.
    let mut ledger = Ledger::default();
    let later = judge_at(&site(), &ledger, &brought(read(1), |_| {}, &[1]), NOW.plus(HOUR / 2)).expect("admitted");
    ledger.hold(later.mark);
    assert_eq!(judge_at(&site(), &ledger, &plain, NOW), Err(Refusal::Beacon));
    assert!(judge_at(&site(), &ledger, &named, NOW).is_ok());
}

/// Attack: freeze or roll back the host's grants.
#[test]
fn grants_that_are_too_old_are_not_used() {
    let newer = brought(read(64), |it| it.lowest_policy = 4, &[1]);
    assert_eq!(judge(&site(), &newer), Err(Refusal::PolicyOld { wanted: 4, own: 3 }));
}

/// A carrier hears the same of every refusal, so that it learns nothing by trying.
#[test]
fn refusals_look_the_same_from_outside() {
    let mut moved = site();
    moved.instances.clear();
    let refusals = [
        judge(&site(), b"{}").expect_err("refused"),
        judge(&site(), &brought(read(64), |_| {}, &[99])).expect_err("refused"),
        judge(&moved, &brought(read(64), |_| {}, &[1])).expect_err("refused"),
        judge(&site(), &brought(read(8192), |_| {}, &[1])).expect_err("refused"),
    ];
    let shown: Vec<String> = refusals.iter().map(|refusal| refusal.public().to_string()).collect();
    assert!(shown.iter().all(|text| *text == shown[0]), "{shown:?}");
    let mut reasons: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    reasons.dedup();
    assert_eq!(reasons.len(), 4, "the log tells them apart");
    assert_eq!(site().host, HOST);
}
