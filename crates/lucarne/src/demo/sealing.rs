//! The chapter "seals": a tenant asks for its own guest's memory, the operator carries request and result and can read neither,
//! and the reader finds in it, with a stock tool, what the guest alone knew.
//!
//! Owns the three parties, each with a folder, and what is expected of them. The host is the demonstration's own, since it goes
//! by a policy of the demonstration's. The secret is made in the guest: nothing that was sent there holds it.

use std::{
    io::{self, Read, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use futures::StreamExt;
use lucarne_api::{
    bodies::sealing::SealPolicy,
    client::{Client, types},
};
use lucarne_attest::{
    canonical,
    signing::{Envelope, SigningKey},
};
use lucarne_model::{
    AccountId, Bytes, HostId, ImageId, InstanceId,
    instance::Instance,
    memory::{MemorySettings, MemoryThresholds},
    memory_report::InstanceMemory,
    sealing::{SealHost, SealStanding},
    storage::Digest,
};
use lucarne_seal::{
    age::{Identity, reader::Reader},
    card::Card,
    key::VerifyingKey,
    operation::{Layer, Operation, OperationName},
    padding::Padding,
    policy::Policy,
    receipt::{Outcome, Receipt, Tally},
    request::{MOST_RESULT, Nonce, Request, RequestId, ResultTerms, Target, TargetInstance, Terms},
    trust::Enrolled,
};
use serde_json::json;
use tempfile::TempDir;

use super::{
    Stage,
    memory::{Cast, launch, look, memory},
    networks::cidr,
    own_host::{OwnHost, Size},
    report::Story,
    soaking::on,
    tenant::Tenant,
};
use crate::{
    commands::instance::log,
    failure::{Failure, LocalCode},
    kind::IMAGE,
    listing::resolve,
    nonces, private_file,
    session::{Session, answer, byte_stream, now, random_key},
    wait::Progress,
};

pub(crate) const TITLE: &str = "a guest's memory goes to one reader, and nobody on its way can read it";

const NETWORK: &str = "10.0.0.0/16";
const SUBNET: &str = "10.0.1.0/24";
const SIZE: Size = Size { memory: Bytes::mib(256), oversubscription: "1" };
/// Less than the guest holds, so that a part of it lies on the host's disk.
const THRESHOLDS: MemoryThresholds = MemoryThresholds { fill_above: Bytes::mib(64), drain_below: Bytes::mib(56) };
const HELD_MIB: u32 = 50;
const HIDDEN: &str = "probe:hidden";
const PATIENCE: Duration = Duration::from_secs(120);
const WAIT_MILLIS: u64 = 15_000;
const VALID: Duration = Duration::from_secs(3600);
/// Clocks that are a little behind take a request that was just written.
const EARLIER: Duration = Duration::from_secs(60);
const MOST_PAUSE_MILLISECONDS: u64 = 5_000;
const GRANTS: &str = r#"permit(principal, action in Action::"reads", resource is Instance)
    when { principal.account == resource.account };"#;

/// Who signs, who carries, who reads: each has what is in its folder, and no more.
struct Parties {
    folder: TempDir,
    /// The operator's, by which the host takes policies.
    policy: SigningKey,
    /// The tenant's, and one of somebody else.
    authoriser: SigningKey,
    stranger: SigningKey,
    reader: Identity,
}

impl Parties {
    fn new() -> Result<Self, Failure> {
        let folder = TempDir::new().map_err(failed)?;
        for party in ["authoriser", "carrier", "reader"] {
            std::fs::create_dir(folder.path().join(party)).map_err(failed)?;
        }
        let key = || {
            let key = SigningKey::from_seed(nonces::random::<32>()?);
            key.map_err(|error| Failure::caused(LocalCode::NoRandomNumbers, &error))
        };
        let (policy, authoriser, stranger, secret) = (key()?, key()?, key()?, nonces::random::<32>()?);
        private_file::write(&folder.path().join("authoriser/key"), authoriser.to_pem().as_bytes())?;
        private_file::write(&folder.path().join("reader/key"), format!("{}\n", Identity::text_of(&secret)).as_bytes())?;
        Ok(Self { folder, policy, authoriser, stranger, reader: Identity::from_octets(secret) })
    }
    fn carrier(&self) -> std::path::PathBuf {
        self.folder.path().join("carrier")
    }

    /// What hosts that pin the policy key are to go by.
    fn published(&self, account: AccountId) -> Result<SealPolicy, Failure> {
        let person = |name: &str, key: &SigningKey, account| {
            let person = name.parse().map_err(|error| unexpected(&error))?;
            Ok::<_, Failure>(Enrolled { person, account, key: VerifyingKey::Ed25519(key.public()), until: None })
        };
        let people = vec![
            person("tenant", &self.authoriser, account)?,
            person("stranger", &self.stranger, AccountId::OPERATOR)?,
        ];
        let grants = [("own".to_owned(), GRANTS.to_owned())].into();
        let policy = Policy { version: 1, people, grants, ..Policy::default() };
        let envelope = self.policy.sign(&policy).map_err(|error| unexpected(&error))?;
        Ok(SealPolicy { policy: canonical::write(&envelope).map_err(|error| unexpected(&error))?.into() })
    }
}

pub(crate) async fn play(stage: &Stage, story: &mut Story) {
    let (mut host, mut carried) = (None, None);
    super::with_tenants(stage, story, async |story, tenants| {
        scenes(stage, story, tenants, (&mut host, &mut carried)).await
    })
    .await;
    if let Some(host) = host
        && let Err(failure) = host.end(&stage.operator).await
    {
        story.step("the chapter's host is gone", "no failure", failure.to_string(), false);
    }
    if let Some(before) = carried
        && let Err(failure) = publish(&stage.operator, &before).await
    {
        story.step("the policy that was carried before is carried again", "no failure", failure.to_string(), false);
    }
}

async fn publish(operator: &Session, policy: &SealPolicy) -> Result<(), Failure> {
    let body = types::SealPolicy { policy: policy.policy.clone() };
    operator.change(async |client: Client| answer::<_, ()>(client.publish_seal_policy(None, None, &body)).await).await
}

async fn scenes(
    stage: &Stage,
    story: &mut Story,
    tenants: &mut Vec<Tenant>,
    (own, carried): (&mut Option<OwnHost>, &mut Option<SealPolicy>),
) -> Result<(), Failure> {
    let operator = &stage.operator;
    let image: ImageId = resolve(operator, &IMAGE, "tiny").await?;
    tenants.push(Tenant::create(operator, "demo-s", &random_key()[..8], stage.allow_plaintext).await?);
    let tenant = &tenants[0];
    let _progress = Progress::start("a machine with a secret, and a sealed dump of it");
    let parties = Parties::new()?;
    let own = own.insert(OwnHost::prepare(operator, SIZE).await?.going_by(&parties.policy.public())?);
    let host = own.begin(operator).await?;
    *carried = operator.read(async |client: Client| answer(client.get_seal_policy()).await).await.ok();
    publish(operator, &parties.published(tenant.account)?).await?;
    let key = tell_policy(story, operator, host).await?;

    let vpc = tenant.vpc(cidr(NETWORK)?).await?;
    let subnet = tenant.subnet(vpc, cidr(SUBNET)?).await?;
    let (seed, secret) = secret();
    let squeezed = MemorySettings { thresholds: Some(THRESHOLDS), ..MemorySettings::default() };
    let cast = Cast {
        name: "s1",
        memory_settings: squeezed,
        user_data: hides(&seed),
        placement: on(tenant, host),
        ..Cast::default()
    };
    let instance = launch(tenant, (image, subnet), cast).await?.id;
    tenant.until_running(instance).await?;
    tell_hidden(story, tenant, instance).await?;

    let shown: Instance =
        tenant.session.read(async |client: Client| answer(client.get_instance(&instance)).await).await?;
    let target = TargetInstance { id: instance, generation: shown.generation, account: tenant.account };
    let target = Target { host, host_key: key.id(), instance: Some(target), others: std::collections::BTreeMap::new() };
    let asked = |by: &SigningKey| request(by, target.clone(), &parties.reader);
    let foreign = asked(&parties.stranger)?;
    tell_refused(story, operator, host, &foreign, "a key that is not the tenant's signs the same").await?;
    let request = asked(&parties.authoriser)?;
    let dump = tell_dump(story, (operator, host), &parties, &request, &key).await?;
    tell_refused(story, operator, host, &request, "the same request comes again").await?;
    tell_search(story, &parties, own.folder(), &secret)?;
    if let Some(dump) = dump {
        tell_reading(story, &parties, &dump, &secret)?;
    }
    Ok(())
}

/// What the guest is told, and what it makes of that and keeps for itself.
fn secret() -> (String, String) {
    let seed = random_key();
    let made = ring::digest::digest(&ring::digest::SHA256, seed.as_bytes());
    (seed, made.as_ref().iter().map(|octet| format!("{octet:02x}")).collect())
}

/// Keeps the secret in memory and says nothing of it, and uses more memory than it may.
fn hides(seed: &str) -> String {
    format!(
        "#!/bin/sh\n(s=$(printf %s {seed} | sha256sum | head -c 64); n=0\n\
         while [ $n -lt 400 ]; do n=$((n+1)); echo \"$s\"; done > /secret\n\
         dd if=/dev/urandom of=/held bs=1M count={HELD_MIB} 2> /dev/null; printf '\\n{HIDDEN}\\n' > /dev/console\n\
         while :; do md5sum < /held > /dev/null; done) > /dev/null 2>&1 &\n"
    )
}

async fn tell_policy(
    story: &mut Story,
    operator: &Session,
    host: HostId,
) -> Result<lucarne_attest::signing::PublicKey, Failure> {
    let describe = async || {
        operator.read(async |client: Client| answer::<_, SealHost>(client.get_seal_host(Some(&host), None)).await).await
    };
    let told = look(PATIENCE, describe, |told| told.policy == 1).await?;
    let envelope: Envelope = canonical::read(&told.card).map_err(|error| unexpected(&error))?;
    let card = Card::open(&envelope, None).map_err(|error| unexpected(&error))?;
    let seen = format!("version {}, and a card signed by the host's keys", told.policy);
    story.step("the host goes by a policy that its operator signed", "version 1", seen, told.policy == 1);
    card.key(Layer::Guest).cloned().ok_or_else(|| unexpected(&"the card has no key for guests"))
}

async fn tell_hidden(story: &mut Story, tenant: &Tenant, instance: InstanceId) -> Result<(), Failure> {
    let log = look(PATIENCE, async || log(&tenant.session, instance).await, |log| log.contains(HIDDEN)).await?;
    let on_disk = |actual: &InstanceMemory| actual.pages.ssd.bytes().0 > 0;
    let is_squeezed = |actual: &Option<InstanceMemory>| actual.as_ref().is_some_and(on_disk);
    let actual = look(PATIENCE, async || Ok(memory(tenant, instance).await?.actual), is_squeezed).await?;
    let seen = actual.as_ref().map_or_else(
        || "its host tells nothing of its memory".into(),
        |actual| format!("{} resident, {} on the disk", actual.pages.resident, actual.pages.ssd),
    );
    let held = log.contains(HIDDEN) && is_squeezed(&actual);
    story.step(
        "s1 makes a secret in its memory, of which a part goes to the host's disk",
        "some on the disk",
        seen,
        held,
    );
    Ok(())
}

/// All of the guest's memory, for the reader, signed by somebody.
fn request(by: &SigningKey, target: Target, reader: &Identity) -> Result<Envelope, Failure> {
    let arguments = json!({ "most_pause_milliseconds": MOST_PAUSE_MILLISECONDS });
    let operation = Operation::with_arguments(OperationName::GuestMemoryDump, arguments);
    let not_before = now().minus(EARLIER);
    let terms = Terms {
        target,
        not_before,
        not_after: not_before.plus(VALID),
        nonce: Nonce::new(nonces::random()?),
        beacon: None,
        result: ResultTerms {
            recipients: vec![reader.recipient()],
            most_octets: MOST_RESULT.try_into().map_err(|error| unexpected(&error))?,
            padding: Padding::Padme,
        },
        purpose: "the demonstration".parse().map_err(|error| unexpected(&error))?,
        lowest_policy: 1,
    };
    let request = operation.map_err(|error| unexpected(&error));
    let request = Request::new(request?, terms).map_err(|error| unexpected(&error))?;
    by.sign(&request).map_err(|error| unexpected(&error))
}

async fn submit(
    operator: &Session,
    host: HostId,
    request: &Envelope,
) -> Result<(Digest, Envelope, Option<u64>), Failure> {
    let octets = canonical::write(request).map_err(|error| unexpected(&error))?;
    let call = async |client: Client| answer(client.submit_sealed_request(&host, octets.clone())).await;
    let mut standing: SealStanding = operator.stream(call).await?;
    loop {
        match standing {
            SealStanding::UnderWay { request } => {
                let call =
                    async |client: Client| answer(client.get_sealed_request(&request, &host, Some(WAIT_MILLIS))).await;
                standing = operator.read(call).await?;
            }
            SealStanding::Over { request, receipt, result } => {
                return Ok((request, canonical::read(&receipt).map_err(|error| unexpected(&error))?, result));
            }
            SealStanding::Stands { .. } => return Err(unexpected(&"a single request stands")),
        }
    }
}

async fn tell_refused(
    story: &mut Story,
    operator: &Session,
    host: HostId,
    request: &Envelope,
    what: &str,
) -> Result<(), Failure> {
    let (_, receipt, _) = submit(operator, host, request).await?;
    let receipt: Receipt = canonical::read(&receipt.payload).map_err(|error| unexpected(&error))?;
    let held = receipt.outcome == Outcome::Refused;
    let seen = if held { "refused, without saying why" } else { "it was taken" };
    story.step(what, "refused", seen, held);
    Ok(())
}

/// The operator brings the request, and takes the result into the carrier's folder; where it lies there is returned.
async fn tell_dump(
    story: &mut Story,
    (operator, host): (&Session, HostId),
    parties: &Parties,
    request: &Envelope,
    key: &lucarne_attest::signing::PublicKey,
) -> Result<Option<std::path::PathBuf>, Failure> {
    let (id, receipt, length) = submit(operator, host, request).await?;
    let receipt = Receipt::open(&receipt, key, request).map_err(|error| unexpected(&error))?;
    let file = parties.carrier().join("dump.age");
    let mut tally = Tally::default();
    if length.is_some() {
        let mut out = std::fs::File::create(&file).map_err(failed)?;
        let call = async |client: Client| byte_stream(client.get_sealed_result(&id, None, &host)).await;
        let mut parts = operator.stream(call).await?.into_inner();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| unexpected(&error))?;
            tally.push(&part);
            out.write_all(&part).map_err(failed)?;
        }
    }
    let covered = receipt.covers(tally);
    let seen = match (&receipt.outcome, &covered) {
        (Outcome::Done { result, paused_nanoseconds, .. }, Ok(())) => {
            let milliseconds = *paused_nanoseconds as f64 / 1e6;
            format!("{}, and s1 stood still for {milliseconds:.1} ms", Bytes(result.length))
        }
        (outcome, _) => format!("{outcome:?}"),
    };
    let what = "the operator carries what the tenant signed, and proves without a key that what comes back is whole";
    let held = story.step(what, "a sealed dump, whole, with the host's receipt", seen, covered.is_ok());
    debug_assert_eq!(RequestId::of(request).digest(), &id);
    Ok(held.then_some(file))
}

fn tell_search(story: &mut Story, parties: &Parties, host: &Path, secret: &str) -> Result<(), Failure> {
    let (carrier, disk) = (search(&parties.carrier(), secret)?, search(host, secret)?);
    let seen = format!("in {} of the carrier's files and in {} of the host's", carrier, disk);
    let what = "the carrier's folder and the host's, with the pages on its disk, are searched for the secret";
    story.step(what, "in none", seen, carrier + disk == 0);
    Ok(())
}

/// In how many files below `folder` it stands.
fn search(folder: &Path, secret: &str) -> Result<usize, Failure> {
    let mut found = 0;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            found += search(&entry.path(), secret)?;
        } else if kind.is_file() {
            match std::fs::File::open(entry.path()) {
                Ok(file) => found += usize::from(occurs(file, secret.as_bytes()).map_err(failed)? > 0),
                // Files come and go while a host works.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Ok(found)
}

/// How often `wanted` stands in what is read.
fn occurs(mut from: impl Read, wanted: &[u8]) -> io::Result<usize> {
    let (mut window, mut part, mut count) = (Vec::new(), vec![0; 1 << 20], 0);
    loop {
        let read = from.read(&mut part)?;
        if read == 0 {
            return Ok(count);
        }
        window.extend_from_slice(&part[..read]);
        count += memmem(&window, wanted);
        // What began at the end of this part goes on in the next.
        window.drain(..window.len().saturating_sub(wanted.len() - 1));
    }
}

fn memmem(text: &[u8], wanted: &[u8]) -> usize {
    let Some(first) = wanted.first() else { return 0 };
    let starts = text.iter().enumerate().filter(|(_, octet)| *octet == first);
    starts.filter(|(at, _)| text[*at..].starts_with(wanted)).count()
}

fn tell_reading(story: &mut Story, parties: &Parties, dump: &Path, secret: &str) -> Result<(), Failure> {
    let key = parties.folder.path().join("reader/key");
    let tool = Command::new("age").arg("-d").arg("-i").arg(&key).arg(dump).stdout(Stdio::piped()).spawn();
    let (by, found) = match tool {
        Ok(mut tool) => {
            let found =
                tool.stdout.take().map_or(Ok(0), |content| occurs(content, secret.as_bytes())).map_err(failed)?;
            let opened = tool.wait().map_err(failed)?.success();
            ("age", if opened { found } else { 0 })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            ("this program, since `age` is not installed", open_and_search(parties, dump, secret)?)
        }
        Err(error) => return Err(failed(error)),
    };
    let seen = format!("{found} times, opened by {by}");
    story.step("the reader opens the dump and looks for the secret", "it is there", seen, found > 0);
    Ok(())
}

fn open_and_search(parties: &Parties, dump: &Path, secret: &str) -> Result<usize, Failure> {
    let (mut reader, mut content) = (Reader::new(parties.reader.clone()), Vec::new());
    let sealed = std::fs::read(dump).map_err(failed)?;
    let opened = reader.push(&sealed, &mut content).and_then(|()| reader.finish(&mut content));
    opened.map_err(|error| unexpected(&error))?;
    occurs(content.as_slice(), secret.as_bytes()).map_err(failed)
}

fn failed(cause: io::Error) -> Failure {
    Failure::local(LocalCode::ProcessFailed, format!("the demonstration's parties: {cause}"))
}

fn unexpected(cause: &impl std::fmt::Display) -> Failure {
    Failure::local(LocalCode::UnexpectedAnswer, cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sought_is_found_also_where_two_parts_meet() {
        let text: Vec<u8> =
            [vec![b'-'; (1 << 20) - 3], b"secret".to_vec(), vec![b'-'; 10], b"secret".to_vec()].concat();
        assert_eq!(occurs(text.as_slice(), b"secret").expect("read"), 2);
        assert_eq!(occurs(&b"secre"[..], b"secret").expect("read"), 0);
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("in")).expect("a folder");
        std::fs::write(folder.path().join("in/file"), &text).expect("written");
        assert_eq!(search(folder.path(), "secret").expect("searched"), 1);
    }

    /// What is sent to the guest does not hold the secret.
    #[test]
    fn the_secret_is_made_in_the_guest() {
        let (seed, secret) = secret();
        assert!(hides(&seed).contains(&seed) && !hides(&seed).contains(&secret) && secret.len() == 64);
        assert!(THRESHOLDS.fill_above.0 < Cast::default().memory.0);
    }
}
