//! `lucarne seal request|sign|show`: requests as files.
//!
//! Owns what is said on the command line; what makes sense as a request is the room `seal`'s.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::Args;
use lucarne_attest::{
    canonical,
    signing::{Envelope, EnvelopeSignature, Statement as _},
};
use lucarne_model::{AccountId, ErrorCode, HostId, InstanceId};
use lucarne_seal::{
    age::Recipient,
    bounded::{Form, Text},
    key::VerifyingKey,
    operation::{Operation, OperationName},
    padding::Padding,
    refusal::Refusal,
    request::{MOST_RESULT, Nonce, Request, RequestId, ResultTerms, Target, TargetInstance, Terms},
    sshsig,
    standing::Standing,
    trust::{read_envelope, read_envelope_of},
};
use serde_json::{Map, Value, json};

use super::{
    attestation_verify::{read_key, read_text},
    flow::parse_span,
    seal::{read_octets, read_signing_key, unreadable, write_public},
    seal_hosts,
    seal_standing::RhythmArgs,
};
use crate::{
    command_line::Global,
    failure::Failure,
    nonces,
    output::Format,
    session::{json_of, now},
};

/// Clocks of hosts that are a little behind take a request that was just written.
const EARLIER: Duration = Duration::from_secs(60);

#[derive(Args, Clone, Debug)]
pub(crate) struct RequestArgs {
    /// What is asked; `lucarne seal operations` lists it
    operation: OperationName,
    /// An argument of the operation; each of them is said
    #[arg(long = "argument", value_name = "NAME=VALUE", value_parser = parse_argument)]
    arguments: Vec<(String, String)>,
    /// The host that is to carry it out
    #[arg(long, value_name = "ID", required_unless_present = "hosts", requires = "host_key")]
    host: Option<HostId>,
    /// The public half of that host's key, in PEM: no other host takes the request
    #[arg(long, value_name = "FILE", requires = "host")]
    host_key: Option<PathBuf>,
    /// Several hosts, each of which is to carry it out: `all`, or a filter as `host list` takes it, such as `tag:rack=7`
    #[arg(long, value_name = "all|FILTER", requires = "authority", conflicts_with_all = ["host", "instance", "every", "sampled", "watched", "beacon"])]
    hosts: Option<String>,
    /// With --hosts: the public half of the operator's policy key, by which the cards of these hosts have to be signed
    #[arg(long, value_name = "FILE", requires = "hosts")]
    authority: Option<PathBuf>,
    /// The instance, for operations on one
    #[arg(long, value_name = "ID", requires = "account")]
    instance: Option<InstanceId>,
    /// Which start of the instance; not said of what is asked again and again
    #[arg(long, value_name = "NUMBER", requires = "instance")]
    generation: Option<u64>,
    /// Whose the instance is; of what is asked again and again, all of that account's on the host
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<AccountId>,
    /// The key to sign with
    #[arg(long, value_name = "FILE")]
    sign_key: PathBuf,
    /// Who can open the result; several times for any of several
    #[arg(long = "result-key", value_name = "AGE1...", required = true)]
    result_keys: Vec<Recipient>,
    #[command(flatten)]
    rhythm: RhythmArgs,
    /// For how long it may be carried out: at most a day, or of what is asked again and again 90
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = parse_span)]
    valid: Duration,
    /// The longest result that is sealed, in octets
    #[arg(long, value_name = "OCTETS", default_value_t = MOST_RESULT)]
    most_result: u64,
    /// How the result's length is hidden: none, padme or power-of-two
    #[arg(long, default_value = "padme")]
    padding: Padding,
    /// Why, for those who read the log
    #[arg(long, value_name = "TEXT")]
    purpose: Text<256>,
    /// The oldest version of the host's grants under which it may be carried out
    #[arg(long, value_name = "VERSION", default_value_t = 0)]
    lowest_policy: u64,
    /// What the host said last, in hexadecimal digits; for hosts whose clock cannot be trusted
    #[arg(long, value_name = "HEX", value_parser = nonces::parse)]
    beacon: Option<lucarne_model::Octets>,
    /// The request's file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn parse_argument(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl RequestArgs {
    pub(super) async fn run(&self, global: &Global) -> Result<(), Failure> {
        let operation = Operation::with_arguments(self.operation, self.written_arguments()?);
        let operation = operation.map_err(|error| malformed(error.to_string()))?;
        let (key, terms) = (read_signing_key(&self.sign_key)?, self.terms(self.target(global).await?)?);
        let envelope = match self.rhythm.standing(&operation, (self.instance, self.account), &terms)? {
            Some(standing) => key.sign(&standing),
            None => key.sign(&self.single(operation, terms)?),
        };
        let envelope = envelope.map_err(|error| malformed(error.to_string()))?;
        let octets = canonical::write(&envelope).map_err(|error| malformed(error.to_string()))?;
        // What no host would read is not written: one request has room for so many hosts.
        envelope_of(&octets).map_err(|refusal| Failure::problem(refusal.code(), refusal.to_string()))?;
        write_public(&self.out, &octets)?;
        let id = RequestId::of(&envelope);
        global.output.print_change(&json!({"id": id, "file": self.out}), &id.to_string())
    }

    fn single(&self, operation: Operation, terms: Terms) -> Result<Request, Failure> {
        if self.account.is_some() != terms.target.instance.is_some() {
            return Err(Failure::wrong_usage("say --instance, --generation and --account, or none of them"));
        }
        Request::new(operation, terms).map_err(|error| malformed(error.to_string()))
    }

    /// Each argument as JSON has it.
    fn written_arguments(&self) -> Result<Value, Failure> {
        let known = self.operation.arguments();
        let mut written = Map::new();
        for (name, value) in &self.arguments {
            let form = known.iter().find(|argument| argument.name == name).map(|argument| argument.form);
            let wrong = |cause: String| Failure::wrong_usage(format!("--argument {name}: {cause}"));
            let value = match form {
                Some(Form::Number) => json!(value.parse::<u64>().map_err(|error| wrong(error.to_string()))?),
                Some(Form::Replacement) => serde_json::from_str(value).map_err(|error| wrong(error.to_string()))?,
                Some(Form::Text | Form::Address) => json!(value),
                None => return Err(wrong(format!("{} has no such argument", self.operation))),
            };
            if written.insert(name.clone(), value).is_some() {
                return Err(wrong("said twice".to_owned()));
            }
        }
        Ok(Value::Object(written))
    }

    /// One host by its key; or several, of which the operator has signed the cards.
    async fn target(&self, global: &Global) -> Result<Target, Failure> {
        let instance = match (self.instance, self.generation, self.account) {
            (Some(id), Some(generation), Some(account)) => Some(TargetInstance { id, generation, account }),
            _ => None,
        };
        if let (Some(host), Some(key)) = (self.host, &self.host_key) {
            return Ok(Target { host, host_key: read_key(key)?.id(), instance, others: BTreeMap::new() });
        }
        let (Some(hosts), Some(authority)) = (&self.hosts, &self.authority) else {
            return Err(Failure::wrong_usage("say --host and --host-key, or --hosts and --authority"));
        };
        let filter = Some(hosts.as_str()).filter(|hosts| *hosts != "all");
        let layer = self.operation.layer();
        let mut keys = seal_hosts::keys(global, filter, &read_key(authority)?, layer).await?;
        let (host, host_key) = keys.pop_first().ok_or_else(|| malformed("there is no such host".to_owned()))?;
        Ok(Target { host, host_key, instance: None, others: keys })
    }

    fn terms(&self, target: Target) -> Result<Terms, Failure> {
        let wrong = |cause: String| Failure::wrong_usage(cause);
        let beacon = self.beacon.clone().map(Nonce::try_from).transpose().map_err(|error| wrong(error.to_string()))?;
        Ok(Terms {
            target,
            not_before: now().minus(EARLIER),
            not_after: now().minus(EARLIER).plus(self.valid),
            nonce: Nonce::new(nonces::random()?),
            beacon,
            result: ResultTerms {
                recipients: self.result_keys.clone(),
                most_octets: self.most_result.try_into().map_err(|error| wrong(format!("--most-result: {error}")))?,
                padding: self.padding,
            },
            purpose: self.purpose.clone(),
            lowest_policy: self.lowest_policy,
        })
    }
}

pub(super) fn malformed(detail: String) -> Failure {
    Failure::problem(ErrorCode::SealRequestMalformed, detail)
}

/// The envelope in a request's file, of either kind.
pub(super) fn read(path: &std::path::Path) -> Result<Envelope, Failure> {
    envelope_of(&read_octets(path)?).map_err(|refusal| Failure::problem(refusal.code(), refusal.to_string()))
}

pub(super) fn envelope_of(octets: &[u8]) -> Result<Envelope, Refusal> {
    match read_envelope(octets) {
        Err(Refusal::Type { .. }) => read_envelope_of::<Standing>(octets),
        read => read,
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SignArgs {
    /// The request's file, to which the signature is added
    file: PathBuf,
    /// The key to sign with
    #[arg(long, value_name = "FILE", required_unless_present = "ssh_signature")]
    sign_key: Option<PathBuf>,
    /// A signature by `ssh-keygen -Y sign -n seal@lucarne` over what `show --signed-octets` wrote
    #[arg(long, value_name = "FILE", requires = "ssh_key", conflicts_with = "sign_key")]
    ssh_signature: Option<PathBuf>,
    /// The public half of the SSH key
    #[arg(long, value_name = "FILE", requires = "ssh_signature")]
    ssh_key: Option<PathBuf>,
}

impl SignArgs {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut envelope = read(&self.file)?;
        match (&self.sign_key, &self.ssh_signature, &self.ssh_key) {
            (Some(key), ..) => envelope = read_signing_key(key)?.sign_too(envelope),
            (None, Some(signature), Some(key)) => {
                let verifying: VerifyingKey = read_text(key)?.parse().map_err(|error| unreadable(key, error))?;
                let sig = sshsig::from_armour(&read_text(signature)?).map_err(|error| unreadable(signature, error))?;
                if verifying.verifies(&envelope.signed_octets(), &sig).is_none() {
                    let detail = format!("{} is not by {}", signature.display(), key.display());
                    return Err(Failure::problem(ErrorCode::SealSignatureInvalid, detail));
                }
                envelope.signatures.push(EnvelopeSignature { keyid: verifying.id(), sig: sig.into(), cert: None });
            }
            _ => return Err(Failure::wrong_usage("say --sign-key, or --ssh-signature and --ssh-key")),
        }
        // What no host would read is not written.
        let octets = canonical::write(&envelope).map_err(|error| malformed(error.to_string()))?;
        envelope_of(&octets).map_err(|refusal| Failure::problem(refusal.code(), refusal.to_string()))?;
        write_public(&self.file, &octets)
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowArgs {
    /// The request's file
    file: PathBuf,
    /// Write what signatures are over into this file, for `ssh-keygen -Y sign`, a smart card or a TPM
    #[arg(long, value_name = "FILE")]
    signed_octets: Option<PathBuf>,
}

impl ShowArgs {
    pub(super) fn run(&self, format: Format) -> Result<(), Failure> {
        let envelope = read(&self.file)?;
        if let Some(path) = &self.signed_octets {
            write_public(path, &envelope.signed_octets())?;
        }
        let malformed = |error: canonical::CanonicalError| malformed(error.to_string());
        let mut shown = if envelope.payload_type == Standing::TYPE {
            json_of(&canonical::read::<Standing>(&envelope.payload).map_err(malformed)?)?
        } else {
            json_of(&canonical::read::<Request>(&envelope.payload).map_err(malformed)?)?
        };
        shown["id"] = json!(RequestId::of(&envelope));
        shown["signatures"] = envelope.signatures.iter().map(|signature| json!(signature.keyid)).collect();
        format.print_value(&shown)
    }
}
