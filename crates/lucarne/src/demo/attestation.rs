//! The chapter "attestation": nothing runs before its host has proved what it is, to its owner's own satisfaction.
//!
//! Owns the cast and what is expected. The proof is judged here, on the demonstration's own machine and with a nonce that was
//! drawn here, as a tenant would who believes nobody.

use std::io::Write as _;

use lucarne_api::{
    bodies::{
        attestation::{AddMeasurements, AddedMeasurements, AnswerAttestation, AttestLaunch, ShownAttestation},
        instance::LaunchInstances,
    },
    client::Client,
};
use lucarne_attest::verify::{CheckName, Outcome, Trust, verify};
use lucarne_control::opaque_host;
use lucarne_model::{
    Bytes, Component, ErrorCode, Evidence, HostId, ImageId, InstanceId, Measurement, Octets, SubnetId, Tags, Vcpus,
    actual::Host,
    attestation::{APPROVE_WITHIN, AttestMode, AttestPolicy, OnMismatch},
    instance::{Instance, Placement},
};

use super::{
    Stage,
    networks::cidr,
    own_host::{OwnHost, Size},
    publishing::Publishing,
    report::Story,
    tenant::Tenant,
};
use crate::{
    commands::{
        attestation::{held_against, shown},
        instance::log,
    },
    failure::Failure,
    kind::{IMAGE, INSTANCE},
    listing::resolve,
    nonces,
    session::{Session, answer, now, random_key},
    wait::{self, Goal, Progress},
};

pub(crate) const TITLE: &str = "a machine begins only where its host has proved what it runs";

const NETWORK: &str = "10.0.0.0/16";
const SUBNET: &str = "10.0.1.0/24";
const MEMORY: Bytes = Bytes::mib(128);
/// Room for the chapter's machines, and for nobody else's.
const HOST: Size = Size { memory: Bytes::mib(768), oversubscription: "1" };
const CONFIGURATION: &str = "checked";
const PUBLISHER: &str = "notary";

/// A tenant with a network, and what is launched into it: all of it on one host, which only the demonstration changes.
struct Cast<'a> {
    tenant: &'a Tenant,
    image: ImageId,
    subnet: SubnetId,
    /// As the tenant knows it.
    host: HostId,
}

/// What is there for this chapter alone, as far as it was come.
#[derive(Default)]
struct Props {
    host: Option<OwnHost>,
    notary: Option<Publishing>,
}

pub(crate) async fn play(stage: &Stage, story: &mut Story) {
    let mut props = Props::default();
    super::with_tenants(stage, story, async |story, tenants| scenes(stage, story, tenants, &mut props).await).await;
    let is_there = props.host.is_some() || props.notary.is_some();
    if let Err(failure) = props.clear(&stage.operator).await {
        story.step("the chapter's host and notary are gone", "no failure", failure.to_string(), false);
    } else if is_there {
        let gone = "neither is left";
        story.step("the chapter's host and notary are gone", gone, gone, true);
    }
}

impl Props {
    /// Takes each away, whatever becomes of the other.
    async fn clear(self, operator: &Session) -> Result<(), Failure> {
        let host = match self.host {
            Some(host) => host.end(operator).await,
            None => Ok(()),
        };
        let notary = match self.notary {
            Some(notary) => notary.end(operator).await,
            None => Ok(()),
        };
        host.and(notary)
    }
}

async fn scenes(stage: &Stage, story: &mut Story, tenants: &mut Vec<Tenant>, props: &mut Props) -> Result<(), Failure> {
    let operator = &stage.operator;
    let image: ImageId = resolve(operator, &IMAGE, "tiny").await?;
    tenants.push(Tenant::create(operator, "demo-a", &random_key()[..8], stage.allow_plaintext).await?);
    let tenant = &tenants[0];
    let _progress = Progress::start("machines that wait for their hosts' proof");
    let host = props.host.insert(OwnHost::prepare(operator, HOST).await?);
    let id = host.begin(operator).await?;
    let what = "a host of the chapter's own has joined, and its TPM has proved its keys";
    story.step(what, "up", "up, with a copy of this program as its agent", true);
    let vpc = tenant.vpc(cidr(NETWORK)?).await?;
    let subnet = tenant.subnet(vpc, cidr(SUBNET)?).await?;
    let cast = Cast { tenant, image, subnet, host: opaque_host(tenant.account, id) };
    let before = cast.tell_proof(story).await?;
    cast.tell_denial(story).await?;
    cast.tell_known(story, &before).await?;
    let notary = props.notary.insert(Publishing::begin(operator).await?);
    notary.is_trusted_by(tenant, PUBLISHER).await?;
    notary.publish(software(before.clone()), "before the patch").await?;
    let after = patch(operator, story, (host, id), &before).await?;
    cast.tell_changed(story, (&before, &after)).await?;
    cast.tell_unpublished(story, (&before, &after)).await?;
    notary.publish(software(after), "the patch").await?;
    cast.tell_published(story, notary).await
}

/// The operator has the host take nothing new, gives its agent's program one octet more, and lets it go on. Returns what is
/// measured of it now, as the new program says and not as the host does.
async fn patch(
    operator: &Session,
    story: &mut Story,
    (host, id): (&mut OwnHost, HostId),
    before: &[Measurement],
) -> Result<Vec<Measurement>, Failure> {
    let drain = async |client: Client| answer::<_, Host>(client.drain_host(&id, None, None)).await;
    operator.change(drain).await?;
    let was = host.digest()?;
    host.update(operator, |program| program.write_all(&[0])).await?;
    let resume = async |client: Client| answer::<_, Host>(client.resume_host(&id, None, None)).await;
    operator.change(resume).await?;
    let is = host.digest()?;
    let agent = |one: &&Measurement| one.component == Component::Agent;
    let was_measured = before.iter().find(agent).is_some_and(|one| one.digest == was);
    let what = "the host is drained, and its agent gets one octet more";
    let seen = format!("{was} before and {is} now{}", if was_measured { "" } else { ", and neither was measured" });
    story.step(what, "another digest than the one that was measured", seen, was_measured && was != is);
    let now = before.iter().cloned().map(|one| match one.component {
        Component::Agent => Measurement { digest: is.clone(), ..one },
        _ => one,
    });
    Ok(now.collect())
}

impl Cast<'_> {
    async fn launch(&self, name: &str, mode: AttestMode, nonce: &Octets) -> Result<InstanceId, Failure> {
        let approve_within_seconds = APPROVE_WITHIN.as_secs();
        let policy = AttestPolicy { mode, on_mismatch: OnMismatch::Rollback, approve_within_seconds };
        let request = LaunchInstances {
            image: self.image,
            subnet: self.subnet,
            memory: Some(MEMORY),
            memory_settings: Default::default(),
            vcpus: Some(Vcpus(1)),
            count: None,
            security_groups: Vec::new(),
            address: None,
            cold: false,
            virtual_tpm: false,
            attestation: Some(AttestLaunch { policy, nonce: nonce.clone() }),
            user_data: None,
            volumes: Vec::new(),
            placement: Placement { host: Some(self.host), ..Placement::default() },
            tags: Tags::named(name),
        };
        Ok(self.tenant.launch(&request).await?.id)
    }

    async fn until(&self, id: InstanceId, state: &'static str) -> Result<Instance, Failure> {
        let goal = Goal { hopeless: &["terminated", "error"], ..Goal::state(state) };
        let goal = if state == "terminated" { Goal { hopeless: &["error", "running"], ..goal } } else { goal };
        let seen = wait::until(&self.tenant.session, &INSTANCE, &id.to_string(), goal).await?;
        serde_json::from_value(seen).map_err(|cause| {
            Failure::local(crate::failure::LocalCode::UnexpectedAnswer, format!("an instance: {cause}"))
        })
    }

    /// One that its owner looks at, verifies and approves. Returns what was measured.
    async fn tell_proof(&self, story: &mut Story) -> Result<Vec<Measurement>, Failure> {
        let session = &self.tenant.session;
        let nonce = nonces::draw()?;
        let id = self.launch("a1", AttestMode::Prompt, &nonce).await?;
        self.until(id, "awaiting-approval").await?;
        let ShownAttestation { measurements, .. } = shown(session, id).await?;
        let measured: Vec<Measurement> = measurements.into_iter().map(|one| one.measurement).collect();
        let is_there = |component: Component| measured.iter().any(|one| one.component == component);
        let wanted = [Component::Hypervisor, Component::Agent, Component::GuestFirmware, Component::GuestKernel];
        let seen = format!("{} measurements, from {}", measured.len(), names(&measured));
        story.step(
            "a1's host has measured itself and a1",
            "hypervisor, agent, firmware and kernel among them",
            seen,
            wanted.into_iter().all(is_there),
        );
        let evidence: Evidence = session.read(async |client| answer(client.get_evidence(&id)).await).await?;
        let trust = Trust { now: now(), nonce: Some(&nonce), ..Trust::default() };
        let report = verify(&evidence, None, &trust);
        let refusal = report.refusal().map(|(check, code, detail)| format!("{check:?}: {code}: {detail}"));
        let held = refusal.is_none();
        let seen = refusal.unwrap_or_else(|| "the TPM's signature, registers, log and guest hold together".into());
        story.step("the proof is verified here, with a nonce drawn here", "nothing is refused", seen, held);
        let stale = Trust { nonce: Some(b"another nonce...."), ..trust };
        let code = verify(&evidence, None, &stale).refusal().map(|(_, code, _)| code);
        let seen = code.map_or_else(|| "it was taken".into(), |code| code.to_string());
        let held = code == Some(ErrorCode::QuoteStale);
        story.step("with another nonce the same proof is none", "QuoteStale", seen, held);
        let printed = log(session, id).await?.len();
        story.step("a1 has not run yet", "0 octets on its console", format!("{printed} octets"), printed == 0);
        self.answer(id, nonce, true).await?;
        let began = self.until(id, "running").await?;
        story.step("approved, it begins", "running", began.state.to_string(), true);
        Ok(measured)
    }

    async fn answer(&self, id: InstanceId, nonce: Octets, approves: bool) -> Result<(), Failure> {
        let body = AnswerAttestation { nonce };
        let call = async |client: Client| match approves {
            true => answer::<_, Instance>(client.approve_attestation(&id, None, None, &body)).await,
            false => answer(client.deny_attestation(&id, None, None, &body)).await,
        };
        self.tenant.session.change(call).await.map(drop)
    }

    async fn tell_denial(&self, story: &mut Story) -> Result<(), Failure> {
        let nonce = nonces::draw()?;
        let id = self.launch("a2", AttestMode::Prompt, &nonce).await?;
        self.until(id, "awaiting-approval").await?;
        self.answer(id, nonce, false).await?;
        self.tell_end(story, id, "a2, which is denied, is taken back", ErrorCode::AttestationDenied).await
    }

    async fn tell_end(&self, story: &mut Story, id: InstanceId, what: &str, code: ErrorCode) -> Result<(), Failure> {
        let ended = self.until(id, "terminated").await?;
        let why = ended.state_reason.as_ref();
        let seen = why.map_or_else(|| "it says no reason".into(), |why| format!("{}: {}", why.code, why.message));
        story.step(what, format!("terminated, {code}"), seen, why.is_some_and(|why| why.code == code));
        Ok(())
    }

    async fn know(&self, measurements: Vec<Measurement>, configuration: &str) -> Result<(), Failure> {
        let body = AddMeasurements { measurements, configuration: Some(configuration.to_owned()), note: None };
        let call =
            async |client: Client| answer::<_, AddedMeasurements>(client.add_measurements(None, None, &body)).await;
        self.tenant.session.change(call).await.map(drop)
    }

    async fn tell_known(&self, story: &mut Story, measured: &[Measurement]) -> Result<(), Failure> {
        self.know(measured.to_vec(), CONFIGURATION).await?;
        let mode = AttestMode::Config { name: CONFIGURATION.to_owned() };
        let id = self.launch("a3", mode, &nonces::draw()?).await?;
        let began = self.until(id, "running").await?;
        let what = "a3, of which its owner knows every measurement, begins unasked";
        story.step(what, "running", began.state.to_string(), true);
        Ok(())
    }

    /// Its owner knows the host of before the patch.
    async fn tell_changed(&self, story: &mut Story, patched: (&[Measurement], &[Measurement])) -> Result<(), Failure> {
        let mode = AttestMode::Config { name: CONFIGURATION.to_owned() };
        let id = self.launch("a4", mode, &nonces::draw()?).await?;
        self.tell_refusal(story, id, "a4, like a3, does not begin there any more", patched).await
    }

    /// Its publisher knows the host of before the patch alone.
    async fn tell_unpublished(
        &self,
        story: &mut Story,
        patched: (&[Measurement], &[Measurement]),
    ) -> Result<(), Failure> {
        let id = self.launch("a5", from_publisher(), &nonces::draw()?).await?;
        let what = "nor does a5, whose owner trusts a publisher who knows the agent of before alone";
        self.tell_refusal(story, id, what, patched).await
    }

    async fn tell_refusal(
        &self,
        story: &mut Story,
        id: InstanceId,
        what: &str,
        (before, after): (&[Measurement], &[Measurement]),
    ) -> Result<(), Failure> {
        let ended = self.until(id, "terminated").await?;
        let reason = ended.state_reason.map(|why| (why.code, why.message));
        let (code, message) = reason.unwrap_or((ErrorCode::Internal, "it says no reason".into()));
        let differ: Vec<&Measurement> =
            before.iter().chain(after).filter(|one| is_changed(one, before, after)).collect();
        let names_both = differ.len() == 2 && differ.iter().all(|one| message.contains(&one.digest.to_string()));
        let held = code == ErrorCode::MeasurementUnknown && names_both && message.contains(Component::Agent.name());
        let expected = "terminated, MeasurementUnknown: the agent, with both digests";
        story.step(what, expected, format!("{code}: {message}"), held);
        Ok(())
    }

    async fn tell_published(&self, story: &mut Story, notary: &Publishing) -> Result<(), Failure> {
        let nonce = nonces::draw()?;
        let id = self.launch("a6", from_publisher(), &nonce).await?;
        let began = self.until(id, "running").await?;
        let what = "the operator has the patched host's measurements published, and a6 begins there";
        let held = began.host == Some(self.host);
        story.step(what, "running, on the patched host", began.state.to_string(), held);
        let session = &self.tenant.session;
        let evidence: Evidence = session.read(async |client| answer(client.get_evidence(&id)).await).await?;
        let (published, key) = (held_against(session, id).await?, notary.key()?);
        let trust = Trust { now: now(), nonce: Some(&nonce), manifest_key: Some(&key), ..Trust::default() };
        let report = verify(&evidence, published.as_ref(), &trust);
        let seen = match (report.refusal(), report.outcome(CheckName::Reference)) {
            (Some((check, code, detail)), _) => format!("{check:?}: {code}: {detail}"),
            (None, Some(Outcome::Holds { detail })) => detail.clone(),
            (None, other) => format!("{other:?}"),
        };
        let held = matches!(report.outcome(CheckName::Reference), Some(Outcome::Holds { .. }));
        let held = held && report.refusal().is_none();
        story.step("its proof and the manifest are verified here", "all of the host's software is in it", seen, held);
        Ok(())
    }
}

fn from_publisher() -> AttestMode {
    AttestMode::Manifest { publisher: PUBLISHER.to_owned() }
}

/// What is the host's, and not the guest's.
fn software(measured: Vec<Measurement>) -> Vec<Measurement> {
    measured.into_iter().filter(|one| !one.component.is_guests()).collect()
}

fn is_changed(one: &Measurement, before: &[Measurement], after: &[Measurement]) -> bool {
    before.contains(one) != after.contains(one)
}

fn names(measured: &[Measurement]) -> String {
    let mut names: Vec<&str> = measured.iter().map(|one| one.component.name()).collect();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_what_only_one_of_both_has() {
        let one = |component, octet| {
            let digest = lucarne_model::storage::Digest::from_bytes([octet; 32]);
            Measurement { component, name: "one".into(), digest }
        };
        let (kept, old, new) = (one(Component::Kernel, 1), one(Component::Agent, 1), one(Component::Agent, 2));
        let (before, after) = ([kept.clone(), old.clone()], [kept.clone(), new.clone()]);
        let changed = |of: &Measurement| is_changed(of, &before, &after);
        assert_eq!([&kept, &old, &new].map(changed), [false, true, true]);
    }
}
