//! What sealed operations read of strangers: requests, SSH signatures and keys, headers of age files, and what hosts and operators signed.

use lucarne_attest::{
    canonical,
    signing::{Envelope, SigningKey, Statement},
};
use lucarne_model::{AccountId, HostId, InstanceId, Moment};
use lucarne_seal::{
    age::{Header, Identity, Recipient, Seed, reader::Reader, writer::Writer},
    card::{Beacon, Card},
    judge,
    key::VerifyingKey,
    operation::{Operation, OperationName},
    padding::Padding,
    policy::Policy,
    receipt::{Outcome, Receipt},
    request::{Nonce, Request, ResultTerms, Target, TargetInstance, Terms},
    sshsig,
    standing::Standing,
    trust::{Channel, Enrolled, Trust, read_envelope},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

const NOW: Moment = Moment::from_secs(1500);

fn key() -> Option<SigningKey> {
    SigningKey::from_seed([1; 32]).ok()
}

fn recipients() -> [Recipient; 2] {
    [1, 2].map(|octet| Identity::from_octets([octet; 32]).recipient())
}

/// Envelopes that are read; a request that is read too, whoever signed it, has no other text.
pub(crate) fn requests(octets: &[u8]) -> bool {
    let Ok(envelope) = read_envelope(octets) else { return false };
    assert_eq!(canonical::write(&envelope).as_deref(), Ok(octets), "an envelope has a second text");
    let Ok(request) = canonical::read::<Request>(&envelope.payload) else { return false };
    let loose: Result<serde_json::Value, _> = serde_json::from_slice(&envelope.payload);
    assert_eq!(loose.ok(), serde_json::to_value(&request).ok(), "another parser understands something else");
    let Some(key) = key() else { return false };
    let mut trust = Trust::default();
    let Ok(person) = "alice".parse() else { return false };
    let key = VerifyingKey::Ed25519(key.public());
    trust.enrol(Enrolled { person, account: AccountId::OPERATOR, key, until: None });
    if let Ok(opened) = trust.open(octets, Channel::Carried, NOW) {
        assert_eq!(opened.request, request);
    }
    true
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    let made = || -> Option<Vec<Vec<u8>>> {
        let instance = TargetInstance { id: InstanceId::from_bits(1), generation: 1, account: AccountId::OPERATOR };
        let host_key = key()?.public().id();
        let terms = Terms {
            target: Target {
                host: HostId::from_bits(1),
                host_key,
                instance: Some(instance),
                others: std::collections::BTreeMap::new(),
            },
            not_before: Moment::from_secs(1000),
            not_after: Moment::from_secs(2000),
            nonce: Nonce::new([1; 16]),
            beacon: Some(Nonce::new([2; 16])),
            result: ResultTerms {
                recipients: recipients().to_vec(),
                most_octets: 4096.try_into().ok()?,
                padding: Padding::Padme,
            },
            purpose: "a ticket".parse().ok()?,
            lowest_policy: 1,
        };
        let write = json!({"space": "kernel", "address": "0xffffffff81000000", "revert_after_seconds": 60,
            "change": {"expected": "AAE=", "replacement": "AgM="}});
        let asked = [(OperationName::GuestPause, json!({})), (OperationName::GuestMemoryWrite, write)];
        let envelopes = asked.into_iter().map(|(name, arguments)| {
            let operation = Operation::with_arguments(name, arguments).ok()?;
            let envelope: Envelope = key()?.sign(&Request::new(operation, terms.clone()).ok()?).ok()?;
            canonical::write(&envelope).ok()
        });
        envelopes.collect()
    };
    made().unwrap_or_default()
}

/// The text of a key, a line feed, and a signature's octets.
pub(crate) fn ssh(octets: &[u8]) -> bool {
    let Some(end) = octets.iter().position(|octet| *octet == b'\n') else { return false };
    let (line, signature) = octets.split_at(end);
    let Ok(line) = std::str::from_utf8(line) else { return false };
    let _ = sshsig::from_armour(&String::from_utf8_lossy(signature));
    let Ok(key) = line.parse::<VerifyingKey>() else { return false };
    assert_eq!(key.to_string().parse(), Ok(key.clone()), "a key does not read back");
    key.verifies(b"octets", &signature[1..]);
    true
}

pub(crate) fn ssh_seeds() -> Vec<Vec<u8>> {
    let ed25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKbdWbDFGy+HMHAIXEyGUJmBGXpZjfW8YSZ6qvHCV2J8";
    let signature = [b"SSHSIG\0\0\0\x01".as_slice(), &[0; 20]].concat();
    vec![[ed25519.as_bytes(), b"\n", &signature].concat()]
}

pub(crate) fn age(octets: &[u8]) -> bool {
    let Ok((header, length)) = Header::read(octets) else { return false };
    assert_eq!(Some(header.to_octets().as_slice()), octets.get(..length), "a header has a second text");
    let (mut reader, mut out) = (Reader::new(Identity::from_octets([1; 32])), Vec::new());
    let opened =
        octets.chunks(7).try_for_each(|part| reader.push(part, &mut out)).and_then(|()| reader.finish(&mut out));
    if opened.is_ok() {
        let (mut whole, mut again) = (Reader::new(Identity::from_octets([1; 32])), Vec::new());
        assert_eq!(whole.push(octets, &mut again).and_then(|()| whole.finish(&mut again)), Ok(()));
        assert_eq!(out, again, "content depends on how the file comes");
    }
    true
}

pub(crate) fn age_seeds() -> Vec<Vec<u8>> {
    let file = |content: &[u8]| {
        let mut out = Vec::new();
        let mut writer = Writer::begin(&Seed::new([1; 32]), &recipients(), &mut out).ok()?;
        writer.push(content, &mut out).ok()?;
        writer.finish(&mut out).ok()?;
        Some(out)
    };
    [&b""[..], b"a secret"].into_iter().filter_map(file).collect()
}

/// What readers, carriers and hosts believe: receipts, cards, beacons, standing requests and policies. None has a second text, none is
/// two of them, and what opens by a key is what its text says.
pub(crate) fn statements(octets: &[u8]) -> bool {
    let Ok(envelope) = canonical::read::<Envelope>(octets) else { return false };
    let Some(key) = key() else { return false };
    let receipt = statement::<Receipt>(&envelope);
    if let (Some(said), Some(asked)) = (&receipt, asked())
        && let Ok(opened) = Receipt::open(&envelope, &key.public(), &asked)
    {
        assert_eq!(opened, *said);
        assert_eq!(opened.request, judge::name(&canonical::write(&asked).unwrap_or_default()));
    }
    let card = statement::<Card>(&envelope);
    if let (Some(said), Ok(opened)) = (&card, Card::open(&envelope, None)) {
        assert_eq!(opened, *said);
    }
    let policy = statement::<Policy>(&envelope);
    if let Ok((taken, _)) = Policy::accept(octets, &key.public(), 0) {
        assert_eq!(Some(taken), policy);
    }
    let understood = [
        receipt.is_some(),
        card.is_some(),
        policy.is_some(),
        statement::<Beacon>(&envelope).is_some(),
        statement::<Standing>(&envelope).is_some(),
    ];
    let count = understood.iter().filter(|it| **it).count();
    assert!(count <= 1, "one text is several statements");
    count == 1
}

/// The payload as that statement, if it is one; another parser, that knows nothing of ours, understands the same.
fn statement<T: Statement + DeserializeOwned + Serialize>(envelope: &Envelope) -> Option<T> {
    let said = canonical::read::<T>(&envelope.payload).ok()?;
    let loose: Result<serde_json::Value, _> = serde_json::from_slice(&envelope.payload);
    assert_eq!(loose.ok(), serde_json::to_value(&said).ok(), "another parser understands something else");
    Some(said)
}

/// The request that receipts are of.
fn asked() -> Option<Envelope> {
    canonical::read(request_seeds().first()?).ok()
}

pub(crate) fn statement_seeds() -> Vec<Vec<u8>> {
    let made = || -> Option<Vec<Vec<u8>>> {
        let (key, host) = (key()?, HostId::from_bits(1));
        let receipt = Receipt {
            request: judge::name(request_seeds().first()?),
            host,
            time: NOW,
            log_index: 7,
            occurrence: None,
            outcome: Outcome::Refused,
            quote: None,
        };
        let beacon = Beacon { host, nonce: Nonce::new([3; 16]), time: NOW };
        let card = Card::make(host, (&key, &key), (recipients()[0], 1), None).ok()?;
        let policy = Policy { version: 3, ..Policy::default() };
        let envelopes = [key.sign(&receipt).ok()?, key.sign(&beacon).ok()?, card, key.sign(&policy).ok()?];
        envelopes.iter().map(|envelope| canonical::write(envelope).ok()).collect()
    };
    made().unwrap_or_default()
}
