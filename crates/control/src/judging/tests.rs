//! Policies held against measurements: what each is content with, and what it refuses.

use lucarne_attest::{
    log::{self, Head, Standing},
    manifest::Manifest,
    merkle::Tree,
    series::{Logged, Series, Shown},
    signing::{Envelope, SigningKey},
};
use lucarne_model::{AccountId, Component, KnownMeasurementId, Moment};

use super::*;

fn measurement(component: Component, name: &str, content: u8) -> Measurement {
    Measurement { component, name: name.into(), digest: Digest::from_bytes([content; 32]) }
}

fn judge_one(
    mode: &AttestMode,
    measured: &[Measurement],
    list: &[KnownMeasurement],
    approved: &[Measurement],
) -> Result<(), StateReason> {
    let answers = Answers::new();
    judge(std::slice::from_ref(mode), measured, &Knowledge { list, approved, answers: &answers }).map(drop)
}

fn listed(measurement: &Measurement, configuration: Option<&str>) -> KnownMeasurement {
    KnownMeasurement {
        id: KnownMeasurementId::from_bits(1),
        account: AccountId::from_bits(1),
        measurement: measurement.clone(),
        configuration: configuration.map(Into::into),
        note: None,
        created: Moment::EPOCH,
        tags: Default::default(),
    }
}

#[test]
fn a_list_knows_what_is_in_it_whatever_it_belongs_to() {
    let agent = measurement(Component::Agent, "lucarne", 1);
    let kernel = measurement(Component::GuestKernel, "kernel", 2);
    let list = [listed(&agent, None), listed(&kernel, Some("web"))];
    assert_eq!(judge_one(&AttestMode::List, &[agent.clone(), kernel.clone()], &list, &[]), Ok(()));
    let changed = measurement(Component::Agent, "lucarne", 9);
    let reason = judge_one(&AttestMode::List, &[changed.clone(), kernel], &list, &[]).unwrap_err();
    assert_eq!(reason.code, ErrorCode::MeasurementUnknown);
    assert!(reason.message.contains("agent `lucarne`"), "{}", reason.message);
    let shown = show(&[AttestMode::List], &[agent, changed], &list, None);
    assert_eq!(shown.iter().map(|one| one.matches).collect::<Vec<_>>(), [Some(true), Some(false)]);
}

#[test]
fn a_configuration_wants_all_of_its_own_and_nothing_else() {
    let web = AttestMode::Config { name: "web".into() };
    let (old, new) = (measurement(Component::Agent, "lucarne", 1), measurement(Component::Agent, "lucarne", 2));
    let kernel = measurement(Component::GuestKernel, "kernel", 3);
    let of_others = measurement(Component::GuestInitramfs, "initramfs", 4);
    let list =
        [listed(&old, Some("web")), listed(&new, Some("web")), listed(&kernel, Some("web")), listed(&of_others, None)];
    for agent in [&old, &new] {
        assert_eq!(judge_one(&web, &[agent.clone(), kernel.clone()], &list, &[]), Ok(()), "either version");
    }
    assert!(judge_one(&web, std::slice::from_ref(&old), &list, &[]).is_err(), "the kernel was not measured");
    assert!(judge_one(&web, &[old, kernel, of_others], &list, &[]).is_err(), "known, but not of this configuration");
}

#[test]
fn what_was_approved_once_may_not_become_anything_else() {
    let before = [measurement(Component::Kernel, "vmlinuz", 1)];
    let after = [measurement(Component::Kernel, "vmlinuz", 2)];
    assert_eq!(judge_one(&AttestMode::Prompt, &before, &[], &[]), Ok(()));
    assert_eq!(judge_one(&AttestMode::Prompt, &before, &[], &before), Ok(()));
    assert!(judge_one(&AttestMode::Prompt, &after, &[], &before).is_err());
    assert!(judge_one(&AttestMode::Prompt, &[], &[], &before).is_err(), "what was there is missing");
}

#[test]
fn who_is_asked_sees_what_the_list_knows_and_no_verdict() {
    let kernel = measurement(Component::Kernel, "vmlinuz", 1);
    let shown = show(&[AttestMode::Prompt], std::slice::from_ref(&kernel), &[listed(&kernel, Some("web"))], None);
    assert_eq!((shown[0].vouchers.len(), shown[0].matches), (1, None));
}

/// What a publisher shows that has published these, each as a version of its own.
fn shown(versions: &[&[Measurement]]) -> Shown {
    let (key, mut tree) = (SigningKey::from_seed([1; 32]).unwrap(), Tree::default());
    let now = Moment::from_secs(1_000_000);
    let manifest = |(at, measurements): (usize, &&[Measurement])| {
        key.sign(&Manifest {
            publisher: "notary".into(),
            name: "host".into(),
            version: at as u64 + 1,
            valid_from: Moment::EPOCH,
            valid_until: now.plus(std::time::Duration::from_secs(60)),
            oldest_accepted: 1,
            measurements: measurements.to_vec(),
        })
    };
    let manifests: Vec<_> = versions.iter().enumerate().map(|one| manifest(one).unwrap()).collect();
    manifests.iter().for_each(|one| tree.push(log::leaf(one).unwrap()));
    let (size, root) = (tree.size(), Digest::from_bytes(tree.root(tree.size()).unwrap()));
    let standing = Standing { name: "host".into(), newest: size, oldest_accepted: 1, revoked: Vec::new() };
    let head = Head { publisher: "notary".into(), size, root, time: now, standings: vec![standing] };
    let logged = |(at, manifest): (usize, &Envelope)| Logged {
        manifest: manifest.clone(),
        inclusion: log::prove_inclusion(&tree, at as u64, size).unwrap(),
    };
    let versions = manifests.iter().enumerate().rev().map(logged).collect();
    let series = Series { head: key.sign(&head).unwrap(), consistency: None, versions };
    series.verify(&key.public(), "host", now, None).unwrap()
}

#[test]
fn a_manifest_vouches_for_the_hosts_software_and_the_list_for_what_it_has_of_the_rest() {
    let (agent, cpu) = (measurement(Component::Agent, "lucarne", 1), measurement(Component::Cpu, "cpu", 2));
    let kernel = measurement(Component::GuestKernel, "kernel", 3);
    let measured = [agent.clone(), cpu.clone(), kernel.clone()];
    let mode = AttestMode::Manifest { publisher: "p".into() };
    let answers = Answers::from([("p".to_owned(), Ok(shown(&[std::slice::from_ref(&agent)])))]);
    let by = |list: &[KnownMeasurement], measured: &[Measurement]| {
        let knowledge = Knowledge { list, approved: &[], answers: &answers };
        judge(std::slice::from_ref(&mode), measured, &knowledge).map(|found| found.unwrap().1.manifest.version)
    };
    assert_eq!(by(&[], &measured), Ok(1), "what nobody knows is shown, and not judged");
    assert_eq!(by(&[listed(&kernel, None)], &measured), Ok(1));
    let others = [measurement(Component::GuestKernel, "kernel", 9), measurement(Component::Cpu, "cpu", 9)];
    for other in others {
        let refused = by(&[listed(&other, None)], &measured).unwrap_err();
        assert_eq!(refused.code, ErrorCode::MeasurementUnknown);
        assert!(refused.message.contains("known for it is"), "{}", refused.message);
    }
    let changed = [measurement(Component::Agent, "lucarne", 7), cpu, kernel];
    let list: Vec<_> = changed.iter().map(|one| listed(one, None)).collect();
    let refused = by(&list, &changed).unwrap_err();
    assert_eq!(refused.code, ErrorCode::MeasurementUnknown, "a list cannot stand in for the publisher");
    for digest in [&changed[0].digest, &agent.digest] {
        assert!(refused.message.contains(&digest.to_string()), "{}", refused.message);
    }
}

#[test]
fn what_a_publisher_answers_is_the_reason_why_it_vouches_for_nothing() {
    let agent = measurement(Component::Agent, "lucarne", 1);
    let mode = AttestMode::Manifest { publisher: "p".into() };
    for code in [ErrorCode::LogForked, ErrorCode::PublisherUnreachable] {
        let reason = StateReason { code, message: "so".into() };
        let answers = Answers::from([("p".to_owned(), Err(reason.clone()))]);
        let knowledge = Knowledge { list: &[listed(&agent, None)], approved: &[], answers: &answers };
        let refused = judge(std::slice::from_ref(&mode), std::slice::from_ref(&agent), &knowledge).unwrap_err();
        assert_eq!(refused, reason);
    }
    let refused = judge_one(&mode, std::slice::from_ref(&agent), &[], &[]).unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidPublisherNotFound);
}

#[test]
fn of_two_policies_both_must_be_content() {
    let (agent, kernel) = (measurement(Component::Agent, "a", 1), measurement(Component::GuestKernel, "k", 2));
    let measured = [agent.clone(), kernel.clone()];
    let answers = Answers::from([("p".to_owned(), Ok(shown(&[std::slice::from_ref(&agent)])))]);
    let modes = [AttestMode::List, AttestMode::Manifest { publisher: "p".into() }];
    let content = |list: &[KnownMeasurement], answers: &Answers| {
        judge(&modes, &measured, &Knowledge { list, approved: &[], answers }).is_ok()
    };
    let list = [listed(&agent, None), listed(&kernel, None)];
    assert!(content(&list, &answers));
    assert!(!content(&list[..1], &answers), "the list does not know the kernel");
    let other = Answers::from([("p".to_owned(), Ok(shown(&[std::slice::from_ref(&kernel)])))]);
    assert!(!content(&list, &other), "the publisher does not know the agent");
}

#[test]
fn each_measurement_is_shown_with_the_manifest_that_has_it_and_no_verdict_where_nothing_is_asked() {
    let (agent, cpu) = (measurement(Component::Agent, "lucarne", 1), measurement(Component::Cpu, "cpu", 2));
    let (kernel, hypervisor) =
        (measurement(Component::GuestKernel, "k", 3), measurement(Component::Hypervisor, "qemu", 4));
    let version = ManifestVersion { publisher: "p".into(), series: "host".into(), version: 4 };
    let measured = [agent.clone(), hypervisor, cpu, kernel.clone()];
    let list = [listed(&kernel, None)];
    let modes = [AttestMode::Manifest { publisher: "p".into() }];
    let shown = show(&modes, &measured, &list, Some((&version, std::slice::from_ref(&agent))));
    let verdicts: Vec<_> = shown.iter().map(|one| one.matches).collect();
    assert_eq!(verdicts, [Some(true), Some(false), None, Some(true)]);
    assert_eq!(shown[0].vouchers, [Voucher::Manifest(version)]);
    assert!(shown[1].vouchers.is_empty() && shown[2].vouchers.is_empty());
}

#[test]
fn who_goes_by_a_list_begins_warm_only_if_the_list_knows_a_warm_state() {
    let web = AttestMode::Config { name: "web".into() };
    let manifest = AttestMode::Manifest { publisher: "acme".into() };
    let state = measurement(Component::WarmState, "state", 1);
    let (of_web, of_others) = ([listed(&state, Some("web"))], [listed(&state, Some("db"))]);
    assert!(may_begin_warm(&[AttestMode::Prompt, manifest.clone()], &[]));
    assert!(may_begin_warm(&[], &[]));
    assert!(!may_begin_warm(&[AttestMode::List], &[]) && may_begin_warm(&[AttestMode::List], &of_others));
    assert!(may_begin_warm(&[manifest.clone(), web.clone()], &of_web));
    assert!(!may_begin_warm(&[manifest, web], &of_others), "each must be content");
}
