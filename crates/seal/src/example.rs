//! What the tests of this room begin from: a host with an instance, people with keys, and requests of theirs.

use std::{collections::BTreeMap, time::Duration};

use lucarne_model::{AccountId, HostId, InstanceId, Moment, storage::Digest};
use lucarne_statement::{
    canonical,
    signing::{Envelope, SigningKey},
};
use serde_json::json;

use crate::{
    age::{Identity, Recipient},
    grant::Grants,
    judge::{Held, Life, Rules, Site},
    key::VerifyingKey,
    operation::{Layer, Operation, OperationName},
    padding::Padding,
    request::{Nonce, Request, ResultTerms, Target, TargetInstance, Terms},
    standing::{Rhythm, Scope, Standing, StandingTerms},
    trust::{Enrolled, Person, Trust},
};

pub(crate) const NOW: Moment = Moment::from_secs(1_800_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const INSTANCE: InstanceId = InstanceId::from_bits(7);
pub(crate) const HOST: HostId = HostId::from_bits(1);
pub(crate) const TENANT: AccountId = AccountId::from_bits(5);
pub(crate) const OTHER_TENANT: AccountId = AccountId::from_bits(6);

/// The operator's people may read guests; who writes must be two. Tenants may do with their own what reads and controls.
pub(crate) const GRANTS: &str = r#"
    permit(principal, action in Action::"reads", resource) when { principal.account == "000000000001" };
    permit(principal, action == Action::"guest.memory.write", resource) when { context.people >= 2 };
    permit(principal, action in [Action::"reads", Action::"controls"], resource is Instance)
        when { principal.account == resource.account };
    @id("small-reads")
    forbid(principal, action == Action::"guest.memory.read", resource) when { context.arguments.length > 4096 };
"#;

pub(crate) fn key(octet: u8) -> SigningKey {
    SigningKey::from_seed([octet; 32]).expect("a key")
}
pub(crate) fn host_key() -> SigningKey {
    key(200)
}
pub(crate) fn identity(octet: u8) -> Identity {
    Identity::from_octets([octet; 32])
}
pub(crate) fn recipient() -> Recipient {
    identity(9).recipient()
}
pub(crate) fn person(name: &str) -> Person {
    name.parse().expect("a name")
}

/// Alice and Bob are the operator's, Tina is the tenant's, Olaf is another tenant's; Alice has a second key.
pub(crate) fn trust() -> Trust {
    let mut trust = Trust::default();
    let people = [
        ("alice", 1, AccountId::OPERATOR),
        ("alice", 11, AccountId::OPERATOR),
        ("bob", 2, AccountId::OPERATOR),
        ("tina", 3, TENANT),
        ("olaf", 4, OTHER_TENANT),
    ];
    for (name, octet, account) in people {
        let key = VerifyingKey::Ed25519(key(octet).public());
        trust.enrol(Enrolled { person: person(name), account, key, until: None });
    }
    trust
}

pub(crate) fn rules() -> Rules {
    Rules { trust: trust(), grants: Grants::compile(3, GRANTS).expect("grants") }
}

pub(crate) fn site() -> Site {
    let held = Held { account: TENANT, generation: 2, life: Life::Runs, cosigned: false };
    Site {
        host: HOST,
        keys: BTreeMap::from([
            (Layer::Guest, host_key().public().id()),
            (Layer::Hypervisor, host_key().public().id()),
            (Layer::Host, key(201).public().id()),
        ]),
        instances: BTreeMap::from([(INSTANCE, held)]),
        beacons: vec![Nonce::new([1; 16])],
        clock_doubtful: false,
    }
}

pub(crate) fn terms() -> Terms {
    Terms {
        target: Target {
            host: HOST,
            host_key: host_key().public().id(),
            instance: Some(TargetInstance { id: INSTANCE, generation: 2, account: TENANT }),
            others: BTreeMap::new(),
        },
        not_before: NOW.minus(HOUR),
        not_after: NOW.plus(HOUR),
        nonce: Nonce::new([7; 16]),
        beacon: None,
        result: ResultTerms {
            recipients: vec![recipient()],
            most_octets: (1 << 30).try_into().expect("a limit"),
            padding: Padding::Padme,
        },
        purpose: person_text("ticket 4711"),
        lowest_policy: 3,
    }
}

fn person_text(text: &str) -> crate::bounded::Text<256> {
    text.parse().expect("a text")
}

pub(crate) fn read(length: u64) -> Operation {
    let arguments = json!({"space": "physical", "address": "0x1000", "length": length});
    Operation::with_arguments(OperationName::GuestMemoryRead, arguments).expect("an operation")
}

pub(crate) fn operation(name: OperationName) -> Operation {
    let arguments = match name {
        OperationName::GuestMemoryWrite => json!({
            "space": "kernel", "address": "0xffffffff81000000", "revert_after_seconds": 60,
            "change": {"expected": "AAE=", "replacement": "AgM="}
        }),
        _ => json!({}),
    };
    Operation::with_arguments(name, arguments).expect("an operation")
}

pub(crate) fn request(operation: Operation, terms: Terms) -> Request {
    Request::new(operation, terms).expect("a request")
}

/// A piece of memory of all of the tenant's instances, once a minute for a day.
pub(crate) fn standing() -> Standing {
    let Terms { target, nonce, result, purpose, lowest_policy, .. } = terms();
    let terms = StandingTerms {
        host: target.host,
        host_key: target.host_key,
        scope: Scope::Account(TENANT),
        rhythm: Rhythm::Every(60.try_into().expect("a span")),
        not_before: NOW,
        not_after: NOW.plus(24 * HOUR),
        nonce,
        result,
        kept_seconds: 3600.try_into().expect("a time"),
        purpose,
        lowest_policy,
    };
    Standing::new(read(64), terms).expect("a standing request")
}

/// The request, signed by these keys.
pub(crate) fn signed(request: &Request, keys: &[u8]) -> Envelope {
    let (first, others) = keys.split_first().expect("a key");
    let envelope = key(*first).sign(request).expect("an envelope");
    others.iter().fold(envelope, |envelope, octet| key(*octet).sign_too(envelope))
}

pub(crate) fn octets(envelope: &Envelope) -> Vec<u8> {
    canonical::write(envelope).expect("octets")
}

/// A digest that belongs to nothing.
pub(crate) fn digest(octet: u8) -> Digest {
    Digest::from_bytes([octet; 32])
}
