//! `lucarne attestation challenge`: the caller's own question to the TPM of an instance's host, judged on this machine.
//!
//! Owns the question. It is made for the keys in the instance's evidence, its secret is drawn here and told to nobody: who
//! answers it has the TPM, whatever the controller says. What an answer proves is the room `attest`'s.

use std::path::PathBuf;

use clap::Args;
use lucarne_api::{
    bodies::tpm::{ChallengeHost, ChallengedHost},
    client::Client,
};
use lucarne_attest::{
    credential::{LONGEST_SECRET, Question, RANDOMNESS},
    endorsement, enrolment,
    quote::read_public,
    signing::from_pem,
};
use lucarne_model::{ErrorCode, Evidence, InstanceId, Octets};
use serde_json::json;

use super::{Context, attestation, attestation_verify::read_text};
use crate::{
    failure::Failure,
    nonces,
    session::{answer, json_of, now},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct ChallengeArgs {
    /// The instance's id or name
    pub(crate) id: String,
    /// Root certificates of the TPM makers that are trusted, in PEM; without them it is proved that the host has the TPM of
    /// the evidence, and not who made that
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Write the evidence with this challenge and its answer into a folder, for `attestation verify`
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl ChallengeArgs {
    pub(crate) async fn run(&self, context: &Context, id: InstanceId) -> Result<(), Failure> {
        let session = &context.session;
        let evidence: Evidence = session.read(async |client| answer(client.get_evidence(&id)).await).await?;
        nonces::check(id, &evidence.nonce)?;
        let refused = |code: ErrorCode, why: String| Failure::problem(code, why);
        let maker = self.judge_maker(&evidence)?;
        let ek = endorsement::certified_key(&evidence.ek_certificates);
        let ek = ek.map_err(|error| refused(error.code(), error.to_string()))?;
        let ek = ek.ok_or_else(|| {
            refused(ErrorCode::EndorsementUntrusted, "the host's TPM has no certificate of an endorsement key".into())
        })?;
        let ak = read_public(&evidence.ak_public).map_err(|error| refused(error.code(), error.to_string()))?;
        let question =
            Question::new(&ek, &ak.name(), nonces::random::<LONGEST_SECRET>()?, nonces::random::<RANDOMNESS>()?);
        let question = question.map_err(|error| refused(error.code(), error.to_string()))?;
        let body = ChallengeHost {
            credential_blob: question.credential().credential_blob.clone().into(),
            encrypted_secret: question.credential().encrypted_secret.clone().into(),
        };
        let call = async |client: Client| answer(client.challenge_host(&id, None, None, &body)).await;
        let given: ChallengedHost = session.read(call).await?;
        let proof = question.judge(&given.answer, &evidence.host_key);
        let proof = proof.map_err(|error| refused(error.code(), error.to_string()))?;
        let shown = json!({
            "instance": id,
            "endorsement_key": enrolment::fingerprint(&ek),
            "attestation_key": enrolment::fingerprint(&ak.key),
            "host_key": evidence.host_key,
            "maker_judged": maker,
            "answered": true,
        });
        if let Some(folder) = &self.out {
            attestation::write(&Evidence { credential: Some(proof), ..evidence }, None, folder)?;
        }
        context.format.print_value(&json_of(&shown)?)
    }

    /// Whether the TPM's maker was judged; one that is not trusted is a failure.
    fn judge_maker(&self, evidence: &Evidence) -> Result<bool, Failure> {
        let Some(path) = &self.roots else { return Ok(false) };
        let roots: Vec<Octets> = from_pem(&read_text(path)?, "CERTIFICATE").into_iter().map(Octets).collect();
        endorsement::verify(&evidence.ek_certificates, &roots, now())
            .map(|_| true)
            .map_err(|error| Failure::problem(error.code(), error.to_string()))
    }
}
