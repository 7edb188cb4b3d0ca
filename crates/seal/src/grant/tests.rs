//! Grants limit who, what, on whose instances, with which arguments and until when; and are read strictly.

use super::*;
use crate::{
    example::{GRANTS, NOW, TENANT, octets, operation, person, read, request, signed, terms, trust},
    operation::{Operation, OperationName},
    trust::Channel,
};

fn judge(grants: &str, operation: Operation, keys: &[u8]) -> Result<(), Refusal> {
    let grants = Grants::compile(1, grants).expect("grants");
    let envelope = signed(&request(operation, terms()), keys);
    let opened = trust().open(&octets(&envelope), Channel::Carried, NOW).expect("a request");
    grants.judge(&opened, TENANT, NOW)
}

#[test]
fn what_nothing_permits_is_refused() {
    let refused = Refusal::NotGranted { person: person("alice"), operation: OperationName::GuestMemoryRead };
    assert_eq!(judge("", read(1), &[1]), Err(refused));
    assert_eq!(judge(GRANTS, read(1), &[1]), Ok(()));
}

#[test]
fn what_one_forbids_nobody_permits() {
    assert_eq!(judge(GRANTS, read(4096), &[1]), Ok(()));
    assert!(matches!(judge(GRANTS, read(4097), &[1]), Err(Refusal::Forbidden { .. })));
}

#[test]
fn a_quorum_is_one_of_people() {
    let write = || operation(OperationName::GuestMemoryWrite);
    assert_eq!(judge(GRANTS, write(), &[1, 2]), Ok(()));
    assert!(judge(GRANTS, write(), &[1]).is_err());
    assert!(judge(GRANTS, write(), &[1, 11]).is_err(), "two keys of one person");
}

/// Attack: an authority of a tenant's vouches for somebody who is called as one of the operator's people is.
#[test]
fn the_same_name_in_another_account_is_another_person() {
    let of = |account: &str| format!(r#"permit(principal == Person::"{account}/alice", action, resource);"#);
    assert_eq!(judge(&of("000000000001"), read(1), &[1]), Ok(()));
    assert!(judge(&of("100000000005"), read(1), &[1]).is_err());
}

#[test]
fn everybody_who_signed_must_be_permitted() {
    let alice_only = r#"permit(principal == Person::"000000000001/alice", action, resource);"#;
    assert_eq!(judge(alice_only, read(1), &[1]), Ok(()));
    assert!(matches!(judge(alice_only, read(1), &[1, 2]), Err(Refusal::NotGranted { .. })));
}

/// Attack: a grant exceeded in each of its dimensions.
#[test]
fn each_limit_of_a_grant_limits() {
    let host = terms().target.host;
    let holds = [
        r#"principal == Person::"000000000001/alice", action, resource"#.to_owned(),
        r#"principal, action == Action::"guest.memory.read", resource"#.to_owned(),
        r#"principal, action in Action::"guest", resource"#.to_owned(),
        format!(r#"principal, action, resource in Host::"{host}""#),
        r#"principal, action, resource == Instance::"i-00000000000000007""#.to_owned(),
    ];
    for scope in holds {
        assert_eq!(judge(&format!("permit({scope});"), read(64), &[1]), Ok(()), "{scope}");
    }
    let exceeded = [
        r#"principal == Person::"000000000001/bob", action, resource"#,
        r#"principal, action == Action::"guest.pause", resource"#,
        r#"principal, action in Action::"writes", resource"#,
        r#"principal, action, resource in Host::"host-00000000000000002""#,
        r#"principal, action, resource == Instance::"i-00000000000000008""#,
    ];
    for scope in exceeded {
        assert!(judge(&format!("permit({scope});"), read(64), &[1]).is_err(), "{scope}");
    }
    let until = NOW.as_secs();
    let of_read = r#"permit(principal, action == Action::"guest.memory.read", resource) when"#;
    let conditions = [
        ("context.arguments.length <= 64", "context.arguments.length < 64"),
        ("context.arguments.address >= 4096", "context.arguments.address > 4096"),
        (r#"context.arguments.space == "physical""#, r#"context.arguments.space == "kernel""#),
        ("context.result_octets <= 1073741824", "context.result_octets < 1073741824"),
        ("context.people == 1", "context.people == 2"),
        (r#"resource.account == "100000000005""#, r#"resource.account == "100000000006""#),
        (r#"context.purpose like "ticket *""#, r#"context.purpose like "case *""#),
    ];
    for (holds, exceeded) in conditions {
        assert_eq!(judge(&format!("{of_read} {{ {holds} }};"), read(64), &[1]), Ok(()), "{holds}");
        assert!(judge(&format!("{of_read} {{ {exceeded} }};"), read(64), &[1]).is_err(), "{exceeded}");
    }
    assert_eq!(judge(&format!("{of_read} {{ context.now <= {until} }};"), read(64), &[1]), Ok(()));
    assert!(judge(&format!("{of_read} {{ context.now < {until} }};"), read(64), &[1]).is_err());
}

#[test]
fn grants_that_say_what_makes_no_sense_are_not_taken() {
    let wrong = [
        "permit(principal, action, resource",
        r#"permit(principal, action == Action::"guest.shell", resource);"#,
        r#"permit(principal, action == Action::"guest.pause", resource) when { context.arguments.length < 1 };"#,
        r#"permit(principal, action == Action::"guest.memory.read", resource) when { context.arguments.length < "1" };"#,
        "permit(principal, action, resource) when { principal.acount == \"000000000001\" };",
    ];
    for text in wrong {
        assert!(Grants::compile(1, text).is_err(), "{text}");
    }
}

/// A policy that cannot be evaluated might have been one that forbids.
#[test]
fn a_grant_that_cannot_be_evaluated_refuses() {
    let overflowing = r#"
        permit(principal, action, resource);
        forbid(principal, action, resource) when { context.now * 9223372036854775807 > 1 };
    "#;
    assert!(matches!(judge(overflowing, read(1), &[1]), Err(Refusal::Grants(_))));
}
