//! The chapter "attestation": nothing runs before its host has proved what it is, to its owner's own satisfaction.
//!
//! Owns the cast and what is expected. The proof is judged here, on the demonstration's own machine and with a nonce that was
//! drawn here, as a tenant would who believes nobody.

use lucarne_api::{
    bodies::{
        attestation::{AddMeasurements, AddedMeasurements, AnswerAttestation, AttestLaunch, ShownAttestation},
        instance::LaunchInstances,
    },
    client::Client,
};
use lucarne_attest::verify::{CheckName, Outcome, Trust, verify};
use lucarne_model::{
    Bytes, Component, ErrorCode, Evidence, ImageId, InstanceId, Measurement, Octets, SubnetId, Tags, Vcpus,
    attestation::{APPROVE_WITHIN, AttestMode, AttestPolicy, OnMismatch},
    instance::Instance,
    storage::Digest,
};

use super::{Stage, networks::cidr, publishing::Publishing, report::Story, tenant::Tenant};
use crate::{
    commands::{
        attestation::{held_against, shown},
        instance::log,
    },
    failure::Failure,
    kind::{IMAGE, INSTANCE},
    listing::resolve,
    nonces,
    session::{answer, now, random_key},
    wait::{self, Goal, Progress},
};

pub(crate) const TITLE: &str = "a machine begins only where its host has proved what it runs";

const NETWORK: &str = "10.0.0.0/16";
const SUBNET: &str = "10.0.1.0/24";
const MEMORY: Bytes = Bytes::mib(128);
const CONFIGURATION: &str = "checked";
const PATCHED: &str = "patched";
const PUBLISHER: &str = "notary";

/// A tenant with a network, and what is launched into it.
struct Cast<'a> {
    tenant: &'a Tenant,
    image: ImageId,
    subnet: SubnetId,
}

pub(crate) async fn play(stage: &Stage, story: &mut Story) {
    let mut notary = None;
    super::with_tenants(stage, story, async |story, tenants| scenes(stage, story, tenants, &mut notary).await).await;
    if let Some(Err(failure)) = end(stage, notary).await {
        story.step("the notary is gone", "no failure", failure.to_string(), false);
    }
}

async fn end(stage: &Stage, notary: Option<Publishing>) -> Option<Result<(), Failure>> {
    Some(notary?.end(&stage.operator).await)
}

async fn scenes(
    stage: &Stage,
    story: &mut Story,
    tenants: &mut Vec<Tenant>,
    notary: &mut Option<Publishing>,
) -> Result<(), Failure> {
    let image: ImageId = resolve(&stage.operator, &IMAGE, "tiny").await?;
    tenants.push(Tenant::create(&stage.operator, "demo-a", &random_key()[..8], stage.allow_plaintext).await?);
    let tenant = &tenants[0];
    let _progress = Progress::start("machines that wait for their hosts' proof");
    let vpc = tenant.vpc(cidr(NETWORK)?).await?;
    let cast = Cast { tenant, image, subnet: tenant.subnet(vpc, cidr(SUBNET)?).await? };
    let measured = cast.tell_proof(story).await?;
    cast.tell_denial(story).await?;
    cast.tell_known(story, &measured).await?;
    cast.tell_changed(story, &measured).await?;
    let notary = notary.insert(Publishing::begin(&stage.operator).await?);
    cast.tell_patched(story, notary, &measured).await
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
            placement: Default::default(),
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

    /// The tenant expects an agent that differs from the host's by one byte of its digest.
    async fn tell_changed(&self, story: &mut Story, measured: &[Measurement]) -> Result<(), Failure> {
        self.know(with_another_agent(measured), PATCHED).await?;
        let mode = AttestMode::Config { name: PATCHED.to_owned() };
        let id = self.launch("a4", mode, &nonces::draw()?).await?;
        let what = "a4, which expects another agent by one byte, does not begin on this one";
        self.tell_end(story, id, what, ErrorCode::MeasurementUnknown).await
    }

    /// A tenant that trusts a publisher, before and after the version that the host has come to run is published.
    async fn tell_patched(
        &self,
        story: &mut Story,
        notary: &Publishing,
        measured: &[Measurement],
    ) -> Result<(), Failure> {
        notary.is_trusted_by(self.tenant, PUBLISHER).await?;
        let hosts = |all: Vec<Measurement>| all.into_iter().filter(|one| !one.component.is_guests()).collect();
        notary.publish(hosts(with_another_agent(measured)), "before the patch").await?;
        let mode = || AttestMode::Manifest { publisher: PUBLISHER.to_owned() };
        let id = self.launch("a5", mode(), &nonces::draw()?).await?;
        let ended = self.until(id, "terminated").await?;
        let reason = ended.state_reason.map(|why| (why.code, why.message));
        let (code, message) = reason.unwrap_or((ErrorCode::Internal, "it says no reason".into()));
        let digest = |of: &[Measurement]| of.iter().find(|one| one.component == Component::Agent).cloned();
        let both = [digest(measured), digest(&with_another_agent(measured))];
        let names_both = both.iter().flatten().all(|one| message.contains(&one.digest.to_string()));
        let what = "a5 trusts a publisher who knows the host's agent of before its patch alone";
        let held = code == ErrorCode::MeasurementUnknown && names_both;
        story.step(what, "terminated, MeasurementUnknown, with both digests", format!("{code}: {message}"), held);

        notary.publish(hosts(measured.to_vec()), "the patch").await?;
        let nonce = nonces::draw()?;
        let id = self.launch("a6", mode(), &nonce).await?;
        let began = self.until(id, "running").await?;
        let what = "the operator has the patched host's measurements published, and a6 begins";
        story.step(what, "running", began.state.to_string(), true);
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

/// The host by one byte of its agent's digest another.
fn with_another_agent(measured: &[Measurement]) -> Vec<Measurement> {
    let other = measured.iter().cloned().map(|one| match one.component {
        Component::Agent => Measurement { digest: with_another_byte(&one.digest), ..one },
        _ => one,
    });
    other.collect()
}

fn names(measured: &[Measurement]) -> String {
    let mut names: Vec<&str> = measured.iter().map(|one| one.component.name()).collect();
    names.dedup();
    names.join(", ")
}

fn with_another_byte(digest: &Digest) -> Digest {
    let mut octets = digest.to_bytes();
    octets[0] ^= 1;
    Digest::from_bytes(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_byte_makes_another_digest() {
        let digest = Digest::from_bytes([7; 32]);
        assert_ne!(with_another_byte(&digest), digest);
        assert_eq!(with_another_byte(&with_another_byte(&digest)), digest);
    }
}
