//! `lucarne seal`: privileged work on hosts and guests, asked for by signed requests, with results that only their readers
//! open. Requests, receipts and results are files, which anything may carry; the commands that make and prove them need no
//! server.
//!
//! Owns the verbs, the list of operations and the making of keys. Requests are `seal_request`'s, results `seal_result`'s,
//! carrying both `seal_submit`'s, hosts' keys `seal_host`'s, what hosts go by `seal_policy`'s, their logs `seal_log`'s.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use lucarne_attest::signing::SigningKey;
use lucarne_seal::{age::Identity, operation::OperationName};
use serde_json::{Value, json};

use super::{
    attestation_verify::read_text,
    seal_encrypt::EncryptArgs,
    seal_host::{HostKeyArgs, VouchArgs},
    seal_log::LogArgs,
    seal_policy::{GrantsCommand, KeysCommand, PolicyCommand},
    seal_request::{RequestArgs, ShowArgs, SignArgs},
    seal_result::{OpenArgs, ResultArgs},
    seal_samples::SamplesArgs,
    seal_submit::{CollectArgs, SubmitArgs},
};
use crate::{
    command_line::Global,
    failure::{Failure, LocalCode},
    kind::SEALED_OPERATION_COLUMNS,
    nonces,
    output::Format,
    private_file,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SealCommand {
    /// List what can be asked, or tell all of one operation: arguments, their limits, what it reaches into, what comes of it
    Operations(OperationsArgs),
    /// Make a key pair: the secret half into a file, the public half beside it with `.pub`
    Keygen(KeygenArgs),
    /// Write a request, signed
    Request(Box<RequestArgs>),
    /// Add another person's signature to a request
    Sign(SignArgs),
    /// Make a signed request unreadable for all but its host
    Encrypt(EncryptArgs),
    /// Show what a request says and who signed it, without judging whether they may
    Show(ShowArgs),
    /// Prove that a result is whole and the host's, without being able to read it
    Verify(ResultArgs),
    /// Open a result, if its receipt is good
    Open(OpenArgs),
    /// Carry requests to their hosts, wait, and carry receipts and results back
    Submit(SubmitArgs),
    /// Carry back what came of a request that was submitted before
    Collect(CollectArgs),
    /// List the instants at which a host had to sample, once it has shown what they followed from
    Samples(SamplesArgs),
    /// Show the key that answers for a host, and what the host said last
    HostKey(HostKeyArgs),
    /// Sign a host's card, as its operator
    Vouch(VouchArgs),
    /// List what hosts were asked, allowed or refused
    Log(LogArgs),
    /// Whose signatures count on hosts, in the draft of a policy
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Who may ask for what, in the draft of a policy
    #[command(subcommand)]
    Grants(GrantsCommand),
    /// The policy that hosts go by
    #[command(subcommand)]
    Policy(PolicyCommand),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct OperationsArgs {
    /// One of them, with all that can be said of its arguments
    operation: Option<OperationName>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct KeygenArgs {
    /// The file of the secret half
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What it is for
    #[arg(long, value_enum, default_value = "signing")]
    purpose: KeyPurpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KeyPurpose {
    /// Signs requests: Ed25519 in PEM
    Signing,
    /// Opens results: an identity of age's
    Reading,
}

impl SealCommand {
    pub(crate) async fn run(&self, global: &Global) -> Result<(), Failure> {
        let format = global.output;
        match self {
            Self::Operations(args) => args.run(format),
            Self::Keygen(args) => args.run(format),
            Self::Request(args) => args.run(global).await,
            Self::Sign(args) => args.run(),
            Self::Encrypt(args) => args.run(),
            Self::Show(args) => args.run(format),
            Self::Verify(args) => args.run(format),
            Self::Open(args) => args.run(),
            Self::Submit(args) => args.run(global).await,
            Self::Collect(args) => args.run(global).await,
            Self::Samples(args) => args.run(format),
            Self::HostKey(args) => args.run(global).await,
            Self::Vouch(args) => args.run(),
            Self::Log(args) => args.run(global).await,
            Self::Keys(command) => command.run(global),
            Self::Grants(command) => command.run(global),
            Self::Policy(command) => command.run(global).await,
        }
    }
}

impl OperationsArgs {
    fn run(&self, format: Format) -> Result<(), Failure> {
        match self.operation {
            Some(operation) => format.print_value(&told(operation)),
            None => {
                let rows: Vec<Value> = OperationName::ALL.iter().map(|operation| row(*operation, format)).collect();
                format.print_list(&rows, SEALED_OPERATION_COLUMNS)
            }
        }
    }
}

/// In a table, arguments are their names.
fn row(operation: OperationName, format: Format) -> Value {
    let mut told = told(operation);
    if format == Format::Table {
        let names: Vec<&str> = operation.arguments().iter().map(|it| it.name).collect();
        told["arguments"] = json!(names.join(", "));
    }
    told
}

fn told(operation: OperationName) -> Value {
    let arguments = operation.arguments();
    let arguments = arguments.iter().map(|it| json!({"name": it.name, "limits": it.limits, "about": it.about.trim()}));
    json!({
        "name": operation.name(),
        "version": operation.version(),
        "layer": operation.layer().name(),
        "effect": operation.effect().name(),
        "result": operation.format().name(),
        "arguments": arguments.collect::<Value>(),
        "about": operation.about().trim(),
    })
}

impl KeygenArgs {
    fn run(&self, format: Format) -> Result<(), Failure> {
        if self.out.exists() {
            let detail = format!("{} is there, and a key is not written over", self.out.display());
            return Err(Failure::local(LocalCode::FileUnwritable, detail));
        }
        let octets = nonces::random::<32>()?;
        let (secret, public) = match self.purpose {
            KeyPurpose::Signing => {
                let key = SigningKey::from_seed(octets)
                    .map_err(|error| Failure::caused(LocalCode::NoRandomNumbers, &error))?;
                (key.to_pem(), key.public().to_pem())
            }
            KeyPurpose::Reading => {
                let identity = Identity::from_octets(octets);
                (format!("{}\n", Identity::text_of(&octets)), format!("{}\n", identity.recipient()))
            }
        };
        private_file::write(&self.out, secret.as_bytes())?;
        write_public(&with_end(&self.out, ".pub"), public.as_bytes())?;
        format.print_change(&json!({"file": self.out, "public": public}), public.trim())
    }
}

/// The same path with an end put behind its name.
pub(super) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

pub(super) fn write_public(path: &Path, content: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, content)
        .map_err(|cause| Failure::local(LocalCode::FileUnwritable, format!("{}: {cause}", path.display())))
}

pub(super) fn unreadable(path: &Path, cause: impl std::fmt::Display) -> Failure {
    Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", path.display()))
}

pub(super) fn read_octets(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|cause| unreadable(path, cause))
}

pub(super) fn read_signing_key(path: &Path) -> Result<SigningKey, Failure> {
    SigningKey::from_pem(&read_text(path)?).map_err(|error| unreadable(path, error))
}

#[cfg(test)]
mod tests;
