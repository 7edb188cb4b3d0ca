//! All of one launch's evidence judged, check by check, with no connection to anyone.
//!
//! Owns the order of the checks and what each needs; the judging itself is the modules'. Every check is made, also after
//! one that refused, so that whoever reads the report sees all that is wrong. What is not given is not judged, and told as
//! that: it is never taken for good.

use lucarne_model::{Component, ErrorCode, Evidence, Measurement, Moment, Octets, storage::Digest};
use serde::Serialize;

use crate::{
    credential, endorsement,
    event_log::{EventLog, EventLogError},
    manifest::{Published, Seen},
    measure,
    pcr::{self, Values},
    qualifying::Purpose,
    quote::{self, Quote, QuoteError, read_public},
    reference,
    signing::PublicKey,
    wire::{Attest, Clock, Key, Public},
};

/// What the verifier brings: nothing of it may come from the operator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust<'a> {
    pub now: Moment,
    /// Root certificates of TPM makers, in DER; none: the endorsement is not judged.
    pub roots: Option<&'a [Octets]>,
    /// The nonce that was drawn for this launch.
    pub nonce: Option<&'a [u8]>,
    /// The key that the host proved itself with when it was spoken to.
    pub host_key: Option<&'a Digest>,
    /// Whose manifests are believed.
    pub manifest_key: Option<&'a PublicKey>,
    /// What the publisher showed before.
    pub seen: Option<Seen<'a>>,
    /// What the TPM's counters were before.
    pub clock: Option<Clock>,
}

/// A check by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckName {
    /// A trusted maker vouches for the TPM.
    Endorsement,
    /// The attestation key lives in that TPM.
    Credential,
    /// The attestation key signed the quote.
    Signature,
    /// The TPM made what was signed.
    Generated,
    /// The quote is bound to this nonce, host, instance and run.
    Purpose,
    /// The nonce is the verifier's own.
    Nonce,
    /// The host is the one that was spoken to.
    Host,
    /// The TPM's counters went on.
    Clock,
    /// The quote is over these values of all registers that count.
    Registers,
    /// The event log gives exactly these values.
    EventLog,
    /// What the log says that it measured is what it extended.
    Measurements,
    /// The guest that is described is the one that was extended.
    Guest,
    /// The manifest holds.
    Manifest,
    /// All that was measured of the host is in the manifest.
    Reference,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Outcome {
    Holds { detail: String },
    Refused { code: ErrorCode, detail: String },
    NotJudged { detail: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub check: CheckName,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// All checks, in their order, and what was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub checks: Vec<Check>,
    /// Of the host, as its log says; empty when the log cannot be believed.
    pub host: Vec<Measurement>,
    pub guest: Vec<Measurement>,
}

impl Report {
    /// The first refusal, if any.
    pub fn refusal(&self) -> Option<(CheckName, ErrorCode, &str)> {
        self.checks.iter().find_map(|check| match &check.outcome {
            Outcome::Refused { code, detail } => Some((check.check, *code, detail.as_str())),
            _ => None,
        })
    }
    /// Whether nothing was refused and nothing left unjudged but what is among `without`.
    pub fn holds_without(&self, without: &[CheckName]) -> bool {
        self.checks.iter().all(|check| match check.outcome {
            Outcome::Holds { .. } => true,
            Outcome::Refused { .. } => false,
            Outcome::NotJudged { .. } => without.contains(&check.check),
        })
    }
    pub fn outcome(&self, name: CheckName) -> Option<&Outcome> {
        self.checks.iter().find(|check| check.check == name).map(|check| &check.outcome)
    }
}

/// Judges `evidence`, and the manifest that it was held against if there is one.
pub fn verify(evidence: &Evidence, published: Option<&Published>, trust: &Trust<'_>) -> Report {
    let mut report = Report { checks: Vec::new(), host: Vec::new(), guest: Vec::new() };
    let values = Values::from(&evidence.pcrs[..]);
    let ak = read_public(&evidence.ak_public);
    judge_keys(evidence, &ak, trust, &mut report);
    judge_quote(evidence, &ak, &values, trust, &mut report);
    judge_boot(evidence, &values, &mut report);
    judge_guest(evidence, &values, &mut report);
    judge_manifest(published, trust, &mut report);
    report
}

impl Report {
    fn holds(&mut self, check: CheckName, detail: impl Into<String>) {
        self.checks.push(Check { check, outcome: Outcome::Holds { detail: detail.into() } });
    }
    fn refuse(&mut self, check: CheckName, code: ErrorCode, detail: impl ToString) {
        self.checks.push(Check { check, outcome: Outcome::Refused { code, detail: detail.to_string() } });
    }
    fn skip(&mut self, check: CheckName, detail: impl Into<String>) {
        self.checks.push(Check { check, outcome: Outcome::NotJudged { detail: detail.into() } });
    }
}

fn judge_keys(evidence: &Evidence, ak: &Result<Public, QuoteError>, trust: &Trust<'_>, report: &mut Report) {
    let ek = match trust.roots.map(|roots| endorsement::verify(&evidence.ek_certificates, roots, trust.now)) {
        None => {
            report.skip(CheckName::Endorsement, "no root certificates of TPM makers were given");
            None
        }
        Some(Err(error)) => {
            report.refuse(CheckName::Endorsement, error.code(), error);
            None
        }
        Some(Ok(key)) => {
            report.holds(CheckName::Endorsement, format!("the TPM has an endorsement key ({})", kind(&key)));
            Some(key)
        }
    };
    match (ek, ak, &evidence.credential) {
        (None, ..) => report.skip(CheckName::Credential, "no endorsement key is believed"),
        (_, Err(error), _) => report.refuse(CheckName::Credential, error.code(), error),
        (_, _, None) => report.skip(CheckName::Credential, "no proof was recorded"),
        (Some(ek), Ok(ak), Some(proof)) => match credential::verify(proof, &ek, &ak.name(), &evidence.host_key) {
            Ok(()) => report.holds(
                CheckName::Credential,
                "the recorded challenge was made for both keys, and this host answered it",
            ),
            Err(error) => report.refuse(CheckName::Credential, error.code(), error),
        },
    }
}

fn kind(key: &Key) -> String {
    match key {
        Key::P256 { .. } => "ECC P-256".to_owned(),
        Key::Rsa { bits, .. } => format!("RSA {bits}"),
    }
}

fn judge_quote(
    evidence: &Evidence,
    ak: &Result<Public, QuoteError>,
    values: &Values,
    trust: &Trust<'_>,
    report: &mut Report,
) {
    let quote = Quote { message: &evidence.quote, signature: &evidence.signature };
    let attest = match ak.as_ref().map_err(Clone::clone).and_then(|ak| quote.verify_signature(ak)) {
        Ok(attest) => attest,
        Err(error) => {
            report.refuse(CheckName::Signature, error.code(), error);
            let rest = [CheckName::Generated, CheckName::Purpose, CheckName::Clock, CheckName::Registers];
            rest.into_iter().for_each(|check| report.skip(check, "nobody signed the quote"));
            return judge_asker(evidence, trust, report);
        }
    };
    report.holds(CheckName::Signature, "signed by the attestation key, over SHA-256");
    let told = |report: &mut Report, check, detail, result: Result<(), QuoteError>| match result {
        Ok(()) => report.holds(check, detail),
        Err(error) => report.refuse(check, error.code(), error),
    };
    told(report, CheckName::Generated, "the TPM itself made it".to_owned(), quote::check_generated(&attest));
    let purpose = purpose(evidence);
    let bound = format!("bound to instance {}, generation {}", evidence.instance, evidence.generation);
    told(report, CheckName::Purpose, bound, quote::check_purpose(&attest, &purpose));
    judge_asker(evidence, trust, report);
    judge_clock(&attest, trust, report);
    let registers = registers(evidence);
    let over = format!("over registers {registers:?} of the SHA-256 bank");
    told(report, CheckName::Registers, over, quote::check_values(&attest, values, &registers));
}

/// What the evidence says that its quote is for.
pub fn purpose(evidence: &Evidence) -> Purpose<'_> {
    Purpose {
        nonce: &evidence.nonce,
        host_key: &evidence.host_key,
        instance: evidence.instance,
        generation: evidence.generation,
    }
}

/// The registers that must be quoted: the guest's only where there is one.
fn registers(evidence: &Evidence) -> Vec<u8> {
    pcr::QUOTED.into_iter().filter(|register| *register != pcr::GUEST || evidence.guest.is_some()).collect()
}

/// What the quote is bound to is only as good as that it was asked for.
fn judge_asker(evidence: &Evidence, trust: &Trust<'_>, report: &mut Report) {
    match trust.nonce {
        None => report.skip(CheckName::Nonce, "no nonce was given"),
        Some(own) if own == &evidence.nonce[..] => report.holds(CheckName::Nonce, "it is the verifier's own"),
        Some(_) => report.refuse(CheckName::Nonce, ErrorCode::QuoteStale, "the quote answers another nonce"),
    }
    match trust.host_key {
        None => report.skip(CheckName::Host, "no key of a host was given"),
        Some(own) if *own == evidence.host_key => report.holds(CheckName::Host, "it is the host that was spoken to"),
        Some(own) => {
            let detail = format!("the quote is of the host with key {}, not {own}", evidence.host_key);
            report.refuse(CheckName::Host, ErrorCode::QuoteRelayed, detail);
        }
    }
}

fn judge_clock(attest: &Attest, trust: &Trust<'_>, report: &mut Report) {
    let now = attest.clock;
    match trust.clock.map(|before| quote::check_clock(before, now)) {
        None => report.skip(CheckName::Clock, format!("no earlier counters were given; now {now:?}")),
        Some(Ok(())) => report.holds(CheckName::Clock, format!("{now:?}")),
        Some(Err(error)) => report.refuse(CheckName::Clock, error.code(), error),
    }
}

fn judge_boot(evidence: &Evidence, values: &Values, report: &mut Report) {
    let hosts: Vec<u8> = pcr::QUOTED.into_iter().filter(|register| *register != pcr::GUEST).collect();
    let log = EventLog::parse(&evidence.event_log);
    match log.as_ref().map_err(EventLogError::clone).and_then(|log| log.explains(values, &hosts)) {
        Ok(()) => report.holds(CheckName::EventLog, "it gives the quoted values"),
        Err(error) => report.refuse(CheckName::EventLog, error.code(), error),
    }
    match log.as_ref().map(measure::measurements) {
        Err(_) => report.skip(CheckName::Measurements, "there is no event log"),
        Ok(Err(error)) => report.refuse(CheckName::Measurements, error.code(), error),
        Ok(Ok(found)) => {
            report.holds(CheckName::Measurements, format!("{} of the host", found.len()));
            report.host = found;
        }
    }
}

fn judge_guest(evidence: &Evidence, values: &Values, report: &mut Report) {
    let Some(description) = &evidence.guest else {
        return report.skip(CheckName::Guest, "only the host was quoted");
    };
    match measure::guest(description, values.get(pcr::GUEST).unwrap_or_default()) {
        Ok(found) => {
            report.holds(CheckName::Guest, format!("{} of the guest", found.len()));
            report.guest = found;
        }
        Err(error) => report.refuse(CheckName::Guest, error.code(), error),
    }
}

fn judge_manifest(published: Option<&Published>, trust: &Trust<'_>, report: &mut Report) {
    let (Some(published), Some(key)) = (published, trust.manifest_key) else {
        let why = if published.is_some() { "no publisher's key was given" } else { "there is no manifest" };
        report.skip(CheckName::Manifest, why);
        return report.skip(CheckName::Reference, why);
    };
    let manifest = match published.verify(key, trust.now, trust.seen) {
        Ok(manifest) => manifest,
        Err(error) => {
            report.refuse(CheckName::Manifest, error.code(), error);
            return report.skip(CheckName::Reference, "the manifest does not hold");
        }
    };
    let by = format!("{} {} of {}", manifest.name, manifest.version, manifest.publisher);
    report.holds(CheckName::Manifest, by.clone());
    let judged: Vec<_> = report.host.iter().filter(|one| is_software(one.component)).cloned().collect();
    match reference::judge(&judged, &manifest.known(&by)).all_known() {
        Ok(()) if judged.is_empty() => {
            report.refuse(CheckName::Reference, ErrorCode::MeasurementUnknown, "nothing was measured of the host");
        }
        Ok(()) => {
            report.holds(CheckName::Reference, format!("all {} of the host's software are in {by}", judged.len()))
        }
        Err(error) => report.refuse(CheckName::Reference, error.code(), error),
    }
}

/// What a publisher can vouch for: the machine under it is the operator's own, and shown.
pub const fn is_software(component: Component) -> bool {
    !matches!(component, Component::Cpu | Component::PciFunction | Component::Dmi | Component::AgentConfiguration)
}

#[cfg(test)]
mod tests;
