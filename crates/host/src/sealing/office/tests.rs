//! The office with a made-up host: every refusal through it, and everything that must hold after a kill.

use std::{collections::BTreeMap, fs, io::Write, time::Duration};

use lucarne_model::ErrorCode;
use lucarne_seal::{
    age::{Identity, Seed, reader::Reader as AgeReader, writer::Writer},
    bounded::Text,
    card::Card,
    key::VerifyingKey,
    operation::OperationName,
    padding::Padding,
    policy::{Embargo, Policy},
    receipt::{Consistency, Receipt},
    request::{Target, Terms},
    sealed_request,
    trust::Enrolled,
};
use lucarne_statement::signing::{Envelope, SigningKey};
use serde_json::json;
use tempfile::TempDir;

use super::*;

mod recurring;

const HOST: HostId = HostId::from_bits(1);
const INSTANCE: InstanceId = InstanceId::from_bits(7);
const TENANT: AccountId = AccountId::from_bits(5);
const OTHER: AccountId = AccountId::from_bits(6);
const NOW: Moment = Moment::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const SPACE: u64 = 1 << 30;

fn key(octet: u8) -> SigningKey {
    SigningKey::from_seed([octet; 32]).unwrap()
}
fn clocks_at(now: Moment) -> Clocks {
    Clocks { now, since_boot: now.since(Moment::EPOCH) }
}
fn clocks() -> Clocks {
    clocks_at(NOW)
}

/// Alice is the operator's, Tina the tenant's, Olaf another tenant's. The operator reads, tenants do as they like with their own.
fn policy() -> Policy {
    let person = |name: &str, octet, account| Enrolled {
        person: name.parse().unwrap(),
        account,
        key: VerifyingKey::Ed25519(key(octet).public()),
        until: None,
    };
    let grants = r#"
        permit(principal, action in Action::"reads", resource) when { principal.account == "000000000001" };
        permit(principal, action in [Action::"reads", Action::"controls"], resource is Instance)
            when { principal.account == resource.account };
        forbid(principal, action == Action::"guest.memory.read", resource) when { context.arguments.length > 4096 };
    "#;
    Policy {
        version: 3,
        people: vec![person("alice", 1, AccountId::OPERATOR), person("tina", 3, TENANT), person("olaf", 4, OTHER)],
        grants: BTreeMap::from([("reads".to_owned(), grants.to_owned())]),
        ..Policy::default()
    }
}

pub(crate) struct Bed {
    pub(crate) place: TempDir,
    pub(crate) office: Office,
    now: Moment,
}

impl Bed {
    fn new() -> Self {
        Self::with(policy())
    }
    fn with(policy: Policy) -> Self {
        Self::at(policy, clocks())
    }
    /// An office that opens at another time.
    pub(crate) fn now(clocks: Clocks) -> Self {
        Self::at(policy(), clocks)
    }
    fn at(policy: Policy, clocks: Clocks) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut office = open_at(&place, clocks).unwrap();
        office.take_policy(&octets(&key(90).sign(&policy).unwrap()).into());
        office
            .see(Arc::new(vec![Present { instance: INSTANCE, account: TENANT, generation: 2, life: Life::Runs }]), NOW);
        Self { place, office, now: clocks.now }
    }

    /// A kill, and the next start.
    fn killed(self) -> Self {
        let Self { place, office, now } = self;
        drop(office);
        let mut office = open(&place, NOW).unwrap();
        office
            .see(Arc::new(vec![Present { instance: INSTANCE, account: TENANT, generation: 2, life: Life::Runs }]), NOW);
        Self { place, office, now }
    }

    fn terms(&self) -> Terms {
        Terms {
            target: Target {
                host: HOST,
                host_key: self.office.keys.of(Layer::Guest).public().id(),
                instance: Some(TargetInstance { id: INSTANCE, generation: 2, account: TENANT }),
                others: BTreeMap::new(),
            },
            not_before: self.now.minus(HOUR),
            not_after: self.now.plus(HOUR),
            nonce: Nonce::new(random().unwrap()),
            beacon: None,
            result: ResultTerms {
                recipients: vec![Identity::from_octets([9; 32]).recipient()],
                most_octets: (1 << 20).try_into().unwrap(),
                padding: Padding::Padme,
            },
            purpose: "ticket 4711".parse::<Text<256>>().unwrap(),
            lowest_policy: 3,
        }
    }

    fn read(&self, change: impl FnOnce(&mut Terms), by: u8) -> Vec<u8> {
        self.asked(read(64), change, by)
    }
    fn asked(&self, operation: Operation, change: impl FnOnce(&mut Terms), by: u8) -> Vec<u8> {
        let mut terms = self.terms();
        change(&mut terms);
        octets(&key(by).sign(&Request::new(operation, terms).unwrap()).unwrap())
    }
    pub(crate) fn health(&self, by: u8) -> Vec<u8> {
        let host_key = self.office.keys.of(Layer::Host).public().id();
        let health = Operation::with_arguments(OperationName::HostHealth, json!({})).unwrap();
        self.asked(health, |it| (it.target.instance, it.target.host_key) = (None, host_key), by)
    }

    fn take(&mut self, octets: &[u8]) -> Taken {
        self.office.take(octets, Some(AccountId::OPERATOR), clocks())
    }
    fn work(&mut self, octets: &[u8]) -> Box<Work> {
        match self.take(octets) {
            Taken::Work(work) => work,
            other => panic!("it was not taken: {other:?}"),
        }
    }
    fn refused(&mut self, octets: &[u8]) -> Receipt {
        match self.take(octets) {
            Taken::Refused { receipt, .. } => self.receipt(&receipt),
            other => panic!("it was not refused: {other:?}"),
        }
    }
    fn receipt(&self, octets: &[u8]) -> Receipt {
        let envelope: Envelope = canonical::read(octets).unwrap();
        let keys = [Layer::Guest, Layer::Host].map(|layer| self.office.keys.of(layer).public());
        keys.iter().find_map(|key| key.open(&envelope).ok()).expect("signed by a key of this host")
    }
    /// What the log says of the newest request.
    fn newest(&self) -> Record {
        let SealAnswer::Log { log } = self.office.tell_log((0, None), None, None, NOW) else { panic!("no log") };
        let entry: lucarne_seal::log::Entry = canonical::read(&log.entries.last().unwrap().entry).unwrap();
        match entry.content {
            Content::Open(record) => record,
            Content::Sealed { .. } => panic!("it is sealed"),
        }
    }
    fn over(&self, id: &RequestId) -> (Receipt, Option<u64>) {
        match self.office.look(id.digest(), None, NOW) {
            SealAnswer::Standing { standing: SealStanding::Over { receipt, result, .. } } => {
                (self.receipt(&receipt), result)
            }
            other => panic!("it is not over: {other:?}"),
        }
    }
}

fn open(place: &TempDir, now: Moment) -> Result<Office, OfficeError> {
    open_at(place, clocks_at(now))
}
fn open_at(place: &TempDir, clocks: Clocks) -> Result<Office, OfficeError> {
    Office::open(&place.path().join("seals"), (HOST, Some(key(90).public()), None), Reading::default(), SPACE, clocks)
}
fn octets(envelope: &Envelope) -> Vec<u8> {
    canonical::write(envelope).unwrap()
}
fn read(length: u64) -> Operation {
    let arguments = json!({"space": "physical", "address": "0x1000", "length": length});
    Operation::with_arguments(OperationName::GuestMemoryRead, arguments).unwrap()
}

/// What an executor does: content sealed for the readers, into the file.
pub(crate) fn seal(work: &Work, mut out: &File, content: &[u8]) -> Done {
    let (mut sealed, seed) = (Vec::new(), Seed::new(random().unwrap()));
    let mut writer = Writer::begin(&seed, &work.terms.recipients, &mut sealed).unwrap();
    writer.push(content, &mut sealed).unwrap();
    writer.finish(&mut sealed).unwrap();
    out.write_all(&sealed).unwrap();
    Done { consistency: Consistency::Instant, paused_nanoseconds: 5 }
}

#[test]
fn a_good_request_has_a_result_with_a_receipt_and_its_place_in_the_log() {
    let mut bed = Bed::new();
    let request = bed.read(|_| {}, 3);
    let work = bed.work(&request);
    assert_eq!(
        (bed.newest().request, bed.newest().verdict),
        (work.id.clone(), Verdict::Allowed),
        "before anything is done"
    );
    let done = seal(&work, &work.out, b"a secret");
    let result = tally(&work.out).unwrap();
    bed.office.end(&work.id, Ok(Carried::unquoted(&work, done, result)), NOW);
    let (receipt, length) = bed.over(&work.id);
    let envelope: Envelope = canonical::read(&request).unwrap();
    assert_eq!((receipt.request.clone(), receipt.log_index), (RequestId::of(&envelope), 0));
    let (mut file, rest) = bed.office.fetch(work.id.digest(), 0, None).unwrap();
    let mut sealed = Vec::new();
    file.read_to_end(&mut sealed).unwrap();
    assert_eq!((Some(rest), sealed.len() as u64), (length, rest));
    let mut tally = Tally::default();
    tally.push(&sealed);
    receipt.covers(tally).unwrap();
    let (mut reader, mut content) = (AgeReader::new(Identity::from_octets([9; 32])), Vec::new());
    reader.push(&sealed, &mut content).unwrap();
    reader.finish(&mut content).unwrap();
    assert_eq!(content, b"a secret");
}

/// Each code through the office: the carrier is told the same of all, the log says which.
#[test]
fn every_refusal_is_logged_with_its_code_and_told_in_one_shape() {
    let mut bed = Bed::new();
    let taken = bed.read(|_| {}, 3);
    bed.work(&taken);
    let mut changed = taken.clone();
    let at = changed.len() - 20;
    changed[at] ^= 1;
    let other_key = bed.office.keys.of(Layer::Host).public().id();
    let pause = Operation::with_arguments(OperationName::GuestPause, json!({})).unwrap();
    let cases = [
        (b"{}".to_vec(), ErrorCode::SealEnvelopeMalformed),
        (vec![b' '; 100_000], ErrorCode::SealEnvelopeMalformed),
        (bed.read(|_| {}, 99), ErrorCode::SealKeyUntrusted),
        (changed, ErrorCode::SealSignatureInvalid),
        (bed.read(|it| it.not_after = NOW.minus(HOUR / 2), 1), ErrorCode::SealExpired),
        (bed.read(|it| it.beacon = Some(Nonce::new([1; 16])), 1), ErrorCode::SealExpired),
        (taken, ErrorCode::SealReplayed),
        (bed.read(|it| it.target.host = HostId::from_bits(2), 1), ErrorCode::SealOtherTarget),
        (bed.read(|it| it.target.host_key = other_key, 1), ErrorCode::SealOtherTarget),
        (
            bed.read(
                |it| {
                    if let Some(one) = &mut it.target.instance {
                        one.generation = 1
                    }
                },
                1,
            ),
            ErrorCode::SealOtherTarget,
        ),
        (bed.read(|_| {}, 4), ErrorCode::SealNotGranted),
        (bed.asked(pause, |_| {}, 1), ErrorCode::SealNotGranted),
        (bed.asked(read(8192), |_| {}, 1), ErrorCode::SealNotGranted),
        (bed.health(3), ErrorCode::SealNotGranted),
        (bed.read(|it| it.lowest_policy = 4, 1), ErrorCode::SealPolicyUnusable),
    ];
    for (octets, code) in cases {
        let receipt = bed.refused(&octets);
        assert_eq!(receipt.outcome, Outcome::Refused);
        let record = bed.newest();
        assert_eq!((record.verdict, &record.request), (Verdict::Refused(code), &receipt.request));
        assert_eq!(receipt.request, judge::name(&octets));
        assert!(bed.office.fetch(receipt.request.digest(), 0, None).is_none() || code == ErrorCode::SealReplayed);
    }
    // A tenant sees who tried what on its instance, and only that.
    let SealAnswer::Log { log } = bed.office.tell_log((0, None), None, Some(TENANT), NOW) else { panic!("no log") };
    assert_eq!(log.entries.len(), 11);
}

/// A key that is revoked counts no more from the policy on that says so, whoever carries its requests.
#[test]
fn a_revoked_key_is_refused_with_its_own_reason_in_the_log_and_none_for_the_carrier() {
    let mut bed = Bed::new();
    let good = bed.read(|_| {}, 3);
    bed.work(&good);
    let revoked = Policy { version: 4, revoked: [key(3).public().id()].into(), ..policy() };
    bed.office.take_policy(&octets(&key(90).sign(&revoked).unwrap()).into());
    let request = bed.read(|_| {}, 3);
    assert_eq!(bed.refused(&request).outcome, Outcome::Refused);
    assert_eq!(bed.newest().verdict, Verdict::Refused(ErrorCode::SealKeyRevoked));
}

/// Where there is no room for a result nothing is taken and nothing is written down, so the same request may be brought again.
#[test]
fn an_office_without_room_is_busy_and_takes_the_request_later() {
    let mut bed = Bed::new();
    let request = bed.read(|_| {}, 3);
    bed.office.shelf = Shelf::open(&bed.place.path().join("small"), 0).unwrap();
    let entries = |bed: &Bed| bed.office.register.head(HOST, NOW).size;
    let before = entries(&bed);
    assert!(matches!(bed.take(&request), Taken::Busy));
    assert_eq!(entries(&bed), before);
    bed.office.shelf = Shelf::open(&bed.place.path().join("large"), SPACE).unwrap();
    bed.work(&request);
}

/// A refusal costs the same whatever its reason: one entry of the log and one receipt. So how long it takes says nothing of the reason
/// beyond what the carrier brought itself.
#[test]
fn each_refusal_is_one_entry_and_one_receipt() {
    let mut bed = Bed::new();
    let sealed = sealed_request::seal(b"{}", &Seed::new([1; 32]), Identity::from_octets([8; 32]).recipient()).unwrap();
    let brought = [b"{}".to_vec(), sealed, bed.read(|_| {}, 99), bed.read(|_| {}, 4), bed.health(3)];
    for (count, octets) in (1..).zip(brought) {
        bed.refused(&octets);
        assert_eq!(bed.office.register.head(HOST, NOW).size, count);
        assert!(bed.office.under_way.is_empty() && bed.office.shelf.find(&judge::name(&octets), None).is_none());
    }
}

#[test]
fn the_receipts_of_refusals_are_of_one_size() {
    let mut bed = Bed::new();
    let brought = [b"{}".to_vec(), bed.read(|_| {}, 99), bed.read(|_| {}, 4), bed.health(3)];
    let sizes = brought.map(|octets| match bed.take(&octets) {
        Taken::Refused { receipt, .. } => receipt.len(),
        other => panic!("{other:?}"),
    });
    assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
}

/// What only this host can read is judged as if it had come in the open, and under the id that it has there.
#[test]
fn a_request_that_is_sealed_to_the_host_is_opened_first() {
    let mut bed = Bed::new();
    let SealAnswer::Host { host } = bed.office.describe() else { panic!("no description") };
    let card = Card::open(&canonical::read(&host.card).unwrap(), None).unwrap();
    let request = bed.read(|_| {}, 3);
    let sealed = |to| sealed_request::seal(&request, &Seed::new(random().unwrap()), to).unwrap();
    let foreign = sealed(Identity::from_octets([8; 32]).recipient());
    bed.refused(&foreign);
    let own = sealed(card.recipient);
    assert_eq!(bed.work(&own).id, judge::name(&request));
    bed.refused(&request);
    assert_eq!(bed.newest().verdict, Verdict::Refused(ErrorCode::SealReplayed));
}

/// Who has pinned the operator's key needs no other word for a host's card than the host itself shows.
#[test]
fn the_operators_word_for_a_card_comes_with_the_policy_and_goes_with_the_card() {
    let mut bed = Bed::new();
    let card = |bed: &Bed| -> Envelope {
        let SealAnswer::Host { host } = bed.office.describe() else { panic!("no description") };
        canonical::read(&host.card).unwrap()
    };
    let own = card(&bed);
    let policy_key = key(90).public();
    assert!(Card::open(&own, Some(&policy_key)).is_err());
    let word = |by: u8| key(by).sign_too(own.clone()).signatures.pop().unwrap();
    for (version, by, believed) in [(4, 91, false), (5, 90, true)] {
        let policy = Policy { version, vouched: BTreeMap::from([(HOST, word(by))]), ..policy() };
        bed.office.take_policy(&octets(&key(90).sign(&policy).unwrap()).into());
        assert_eq!(Card::open(&card(&bed), Some(&policy_key)).is_ok(), believed);
    }
    assert!(Card::open(&card(&bed.killed()), Some(&policy_key)).is_ok(), "after another start");
}

#[test]
fn without_a_policy_everything_is_refused() {
    let mut bed = Bed::with(Policy::default());
    let request = bed.read(|_| {}, 1);
    bed.refused(&request);
    assert_eq!(bed.newest().verdict, Verdict::Refused(ErrorCode::SealKeyUntrusted));
}

/// Attack: replay after a restart; and a kill while the operation ran.
#[test]
fn what_a_kill_cut_off_failed_and_is_not_done_again() {
    let mut bed = Bed::new();
    let request = bed.read(|_| {}, 3);
    let id = bed.work(&request).id;
    let mut bed = bed.killed();
    assert_eq!(bed.office.policy.policy().version, 3);
    let (receipt, result) = bed.over(&id);
    assert_eq!((receipt.outcome, receipt.log_index, result), (Outcome::Failed, 0, None));
    bed.refused(&request);
    assert_eq!(bed.newest().verdict, Verdict::Refused(ErrorCode::SealReplayed));
}

/// A kill between shelf and register: it was not taken, so it may be brought again.
#[test]
fn what_was_not_written_down_was_not_taken() {
    let mut bed = Bed::new();
    let request = bed.read(|_| {}, 3);
    bed.work(&request);
    let register = bed.place.path().join("seals/register");
    fs::write(&register, b"").unwrap();
    let mut bed = bed.killed();
    assert_eq!(bed.office.look(judge::name(&request).digest(), None, NOW), SealAnswer::Unknown);
    bed.work(&request);
}

#[test]
fn a_register_that_is_damaged_opens_no_office() {
    let mut bed = Bed::new();
    for _ in 0..2 {
        let request = bed.read(|_| {}, 3);
        bed.work(&request);
    }
    let path = bed.place.path().join("seals/register");
    let mut octets = fs::read(&path).unwrap();
    octets[20] ^= 1;
    fs::write(&path, octets).unwrap();
    assert!(matches!(open(&bed.place, NOW), Err(OfficeError::Register(_))));
}

/// What cannot be written down is not done: neither what was asked nor its refusal is told as such.
#[test]
fn a_full_disk_takes_nothing() {
    let mut bed = Bed::new();
    let request = bed.read(|_| {}, 3);
    let results = bed.place.path().join("seals/results");
    fs::remove_dir_all(&results).unwrap();
    fs::write(&results, b"no folder").unwrap();
    assert!(matches!(bed.take(&request), Taken::Unavailable | Taken::Busy));
    fs::remove_file(&results).unwrap();
    fs::create_dir(&results).unwrap();
    bed.work(&request);
}

/// Attack: rollback of the policy, a policy of another key, and one that is malformed.
#[test]
fn an_older_or_foreign_policy_changes_nothing() {
    let mut bed = Bed::new();
    let everybody = BTreeMap::from([("all".to_owned(), "permit(principal, action, resource);".to_owned())]);
    for (version, by) in [(2, 90), (3, 90), (4, 91)] {
        let policy = Policy { version, grants: everybody.clone(), ..policy() };
        bed.office.take_policy(&octets(&key(by).sign(&policy).unwrap()).into());
    }
    bed.office.take_policy(&b"{}"[..].into());
    let request = bed.asked(read(8192), |_| {}, 1);
    bed.refused(&request);
    let newer = Policy { version: 4, grants: everybody, ..policy() };
    bed.office.take_policy(&octets(&key(90).sign(&newer).unwrap()).into());
    let request = bed.asked(read(8192), |_| {}, 1);
    bed.work(&request);
}

/// Attack: a controller that says of a running instance that it is another account's by now.
#[test]
fn whose_an_instance_is_does_not_change_while_it_is_here() {
    let mut bed = Bed::new();
    bed.office
        .see(Arc::new(vec![Present { instance: INSTANCE, account: OTHER, generation: 2, life: Life::Runs }]), NOW);
    let claimed = |it: &mut Terms| {
        if let Some(instance) = &mut it.target.instance {
            instance.account = OTHER;
        }
    };
    let request = bed.read(claimed, 4);
    bed.refused(&request);
    assert_eq!(bed.newest().verdict, Verdict::Refused(ErrorCode::SealOtherTarget));
}

#[test]
fn who_is_under_embargo_is_logged_as_a_commitment() {
    let embargoes = vec![Embargo { person: "alice".parse().unwrap(), account: AccountId::OPERATOR, seconds: 60 }];
    let mut bed = Bed::with(Policy { embargoes, ..policy() });
    let request = bed.read(|_| {}, 1);
    let work = bed.work(&request);
    let SealAnswer::Log { log } = bed.office.tell_log((0, None), None, None, NOW) else { panic!("no log") };
    let text = String::from_utf8(log.entries[0].entry.0.clone()).unwrap();
    assert!(!text.contains(&work.id.to_string()) && !text.contains("alice"), "{text}");
    // A kill does not lose which operation it was.
    let bed = bed.killed();
    assert_eq!(bed.over(&work.id).0.outcome, Outcome::Failed);
}

#[test]
fn a_clock_that_jumped_makes_a_beacon_mandatory() {
    let mut bed = Bed::new();
    let jumped = Clocks { now: NOW.plus(HOUR / 2), since_boot: NOW.since(Moment::EPOCH) };
    let plain = bed.read(|_| {}, 3);
    let take = |bed: &mut Bed, octets: &[u8]| bed.office.take(octets, None, jumped);
    assert!(matches!(take(&mut bed, &plain), Taken::Refused { .. }));
    let (beacon, _) = bed.office.beacons.newest().unwrap();
    let named = bed.read(|it| it.beacon = Some(beacon), 3);
    assert!(matches!(take(&mut bed, &named), Taken::Work(_)));
    let SealAnswer::Host { host } = bed.office.describe() else { panic!("no description") };
    assert!(host.clock_doubtful && host.policy == 3);
}
