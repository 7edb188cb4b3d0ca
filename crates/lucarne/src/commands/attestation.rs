//! `lucarne attestation`: what was measured of an instance, the answer to it, and the proof to take along.

use std::{
    fs,
    io::{self, BufRead, IsTerminal},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use futures::StreamExt as _;
use lucarne_api::{
    bodies::attestation::{AnswerAttestation, AttestLaunch, ShownAttestation},
    client::Client,
};
use lucarne_attest::{evidence::to_files, manifest::Published};
use lucarne_model::{
    ErrorCode, Evidence, InstanceId, Octets,
    attestation::{APPROVE_WITHIN, AttestMode, AttestPolicy, JudgedMeasurement, OnMismatch, Voucher},
    instance::{Instance, InstanceState},
    publisher::ManifestVersion,
};
use serde_json::Value;

use super::{Context, attestation_challenge::ChallengeArgs, attestation_verify::VerifyArgs, flow::parse_span};
use crate::{
    failure::{Failure, LocalCode},
    kind::{INSTANCE, JUDGED_COLUMNS, JUDGEMENT_COLUMNS},
    listing::resolve,
    nonces,
    output::{self, Format},
    session::{Session, answer, byte_stream, json_of},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum AttestationCommand {
    /// Show every measurement, whether it is known and who says so, and what was judged and answered
    Show {
        /// The instance's id or name
        id: String,
    },
    /// Let an instance begin as it was measured
    Approve {
        /// The instance's id or name
        id: String,
    },
    /// Have a launch undone
    Deny {
        /// The instance's id or name
        id: String,
    },
    /// Write what the host proved the instance's start with
    Evidence {
        /// The instance's id or name
        id: String,
        /// A folder, made if it is not there
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Ask the TPM of an instance's host a question that only it can answer, whatever the controller says
    Challenge(ChallengeArgs),
    /// Judge evidence in a folder, with nobody asked: every check with its result; exits 1 with the first that refuses
    Verify(VerifyArgs),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Mismatch {
    /// Undo the launch
    #[default]
    Rollback,
    /// Let it exist, and never join the virtual network
    Quarantine,
}

impl From<Mismatch> for OnMismatch {
    fn from(chosen: Mismatch) -> Self {
        match chosen {
            Mismatch::Rollback => Self::Rollback,
            Mismatch::Quarantine => Self::Quarantine,
        }
    }
}

/// What launches take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What is to be proved")]
pub(crate) struct AttestArgs {
    /// prompt, list, config=NAME or manifest=PUBLISHER: hold it before its first instruction until its host has proved
    /// what it runs, and that is approved, in the account's list, of a configuration, or published
    #[arg(long, value_name = "HOW")]
    attest: Option<AttestMode>,
    /// What the host must sign; drawn and kept here if not given
    #[arg(long, value_name = "HEX", requires = "attest", value_parser = nonces::parse)]
    nonce: Option<Octets>,
    /// How long `prompt` waits for an answer
    #[arg(long, value_name = "SPAN", requires = "attest", value_parser = parse_span)]
    approve_within: Option<std::time::Duration>,
    /// What becomes of an instance that does not match
    #[arg(long, value_enum, requires = "attest")]
    on_mismatch: Option<Mismatch>,
}

impl AttestArgs {
    pub(crate) fn body(&self) -> Result<Option<AttestLaunch>, Failure> {
        let Some(mode) = self.attest.clone() else { return Ok(None) };
        let on_mismatch = self.on_mismatch.unwrap_or_default().into();
        let approve_within_seconds = self.approve_within.unwrap_or(APPROVE_WITHIN).as_secs();
        let nonce = self.nonce.clone().map_or_else(nonces::draw, Ok)?;
        Ok(Some(AttestLaunch { policy: AttestPolicy { mode, on_mismatch, approve_within_seconds }, nonce }))
    }

    /// The state that a launch which is waited for comes to.
    pub(crate) fn goal(&self) -> &'static str {
        if self.attest == Some(AttestMode::Prompt) { "awaiting-approval" } else { "running" }
    }
}

impl AttestationCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Show { id } => show(context, resolve(session, &INSTANCE, id).await?).await,
            Self::Approve { id } => give(context, resolve(session, &INSTANCE, id).await?, Answer::Approve).await,
            Self::Deny { id } => give(context, resolve(session, &INSTANCE, id).await?, Answer::Deny).await,
            Self::Evidence { id, out } => {
                let id: InstanceId = resolve(session, &INSTANCE, id).await?;
                let evidence: Evidence = session.read(async |client| answer(client.get_evidence(&id)).await).await?;
                // What is proved again while it runs is asked for by the controller: who verifies it must know that.
                if nonces::check(id, &evidence.nonce).is_err() {
                    eprintln!("note: the newest proof of {id} has a nonce of the controller's, not that of its launch");
                }
                write(&evidence, held_against(session, id).await?.as_ref(), out)
            }
            Self::Challenge(args) => args.run(context, resolve(session, &INSTANCE, &args.id).await?).await,
            Self::Verify(args) => args.run(context.format),
        }
    }
}

pub(crate) async fn shown(session: &Session, id: InstanceId) -> Result<ShownAttestation, Failure> {
    session.read(async |client| answer(client.get_attestation(&id)).await).await
}

async fn show(context: &Context, id: InstanceId) -> Result<(), Failure> {
    let shown = shown(&context.session, id).await?;
    if context.format != Format::Table {
        return context.format.print_value(&json_of(&shown)?);
    }
    let mut about = json_of(&shown.attestation)?;
    about["instance"] = json_of(&shown.instance)?;
    context.format.print_value(&about)?;
    output::print("\n")?;
    let rows: Vec<Value> = shown.measurements.iter().map(row).collect::<Result<_, _>>()?;
    context.format.print_list(&rows, JUDGED_COLUMNS)?;
    output::print("\n")?;
    let rows: Vec<Value> = shown.history.iter().map(json_of).collect::<Result<_, _>>()?;
    context.format.print_list(&rows, JUDGEMENT_COLUMNS)
}

/// A measurement with its vouchers in words.
fn row(judged: &JudgedMeasurement) -> Result<Value, Failure> {
    let in_words = |voucher: &Voucher| match voucher {
        Voucher::Own { configuration: None, .. } => "own list".to_owned(),
        Voucher::Own { configuration: Some(name), .. } => format!("own {name}"),
        Voucher::Manifest(ManifestVersion { publisher, series, version }) => format!("{publisher} {series} {version}"),
    };
    let mut row = json_of(judged)?;
    row["vouchers"] = judged.vouchers.iter().map(in_words).collect();
    Ok(row)
}

/// The manifest that the host was held against, if one was asked for.
pub(crate) async fn held_against(session: &Session, id: InstanceId) -> Result<Option<Published>, Failure> {
    let call = async |client: Client| byte_stream(client.get_attested_manifest(&id)).await;
    let unexpected = |cause: String| Failure::local(LocalCode::UnexpectedAnswer, cause);
    let mut parts = match session.stream(call).await {
        Err(failure) if failure.code() == Some(ErrorCode::InvalidManifestNotFound) => return Ok(None),
        answered => answered?.into_inner(),
    };
    let mut text = Vec::new();
    while let Some(part) = parts.next().await {
        text.extend_from_slice(&part.map_err(|cause| unexpected(cause.to_string()))?);
    }
    serde_json::from_slice(&text).map(Some).map_err(|cause| unexpected(cause.to_string()))
}

/// What the console of an instance that waits for its owner has instead of a guest: it shows what was measured and asks. Says
/// whether there is a guest to go on to. Nobody is asked who is no terminal.
pub(crate) async fn ask_at_console(context: &Context, id: InstanceId) -> Result<bool, Failure> {
    let found: Instance = context.session.read(async |client: Client| answer(client.get_instance(&id)).await).await?;
    if found.state != InstanceState::AwaitingApproval || !io::stdin().is_terminal() {
        return Ok(true);
    }
    show(context, id).await?;
    loop {
        output::print(&format!("\n{id} stands before its first instruction. `continue`, or `abort`? "))?;
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        match read.map_err(|cause| Failure::local(LocalCode::FileUnreadable, format!("the terminal: {cause}")))? {
            0 => return Ok(false),
            _ => match Answer::of(&line) {
                Some(Answer::Approve) => return give(context, id, Answer::Approve).await.map(|()| true),
                Some(Answer::Deny) => return give(context, id, Answer::Deny).await.map(|()| false),
                None => {}
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Approve,
    Deny,
}

impl Answer {
    /// As it is typed at the console: the whole word, so that no key pressed by chance is an answer.
    fn of(line: &str) -> Option<Self> {
        match line.trim() {
            "continue" => Some(Self::Approve),
            "abort" => Some(Self::Deny),
            _ => None,
        }
    }
}

/// Answers for what is shown now, if it was signed with the nonce that was drawn here.
async fn give(context: &Context, id: InstanceId, given: Answer) -> Result<(), Failure> {
    let session = &context.session;
    let nonce = shown(session, id).await?.attestation.nonce;
    nonces::check(id, &nonce)?;
    let body = AnswerAttestation { nonce };
    let call = async |client: Client| match given {
        Answer::Approve => answer(client.approve_attestation(&id, None, None, &body)).await,
        Answer::Deny => answer(client.deny_attestation(&id, None, None, &body)).await,
    };
    let instance: Instance = session.change(call).await?;
    nonces::forget(id);
    context.format.print_change(&json_of(&instance)?, &id.to_string())
}

/// The proof as plain files, in the forms that other tools take.
pub(super) fn write(evidence: &Evidence, published: Option<&Published>, folder: &Path) -> Result<(), Failure> {
    let failed = |cause: io::Error| Failure::local(LocalCode::FileUnwritable, format!("{}: {cause}", folder.display()));
    let files = to_files(evidence, published).map_err(|cause| Failure::problem(cause.code(), cause.to_string()))?;
    fs::create_dir_all(folder).map_err(failed)?;
    files.iter().try_for_each(|(name, content)| fs::write(folder.join(name), content)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_word_is_an_answer() {
        assert_eq!(Answer::of("continue\n"), Some(Answer::Approve));
        assert_eq!(Answer::of(" abort \n"), Some(Answer::Deny));
        for other in ["", "\n", "c", "y", "Continue", "abort it"] {
            assert_eq!(Answer::of(other), None, "{other:?}");
        }
    }
}
