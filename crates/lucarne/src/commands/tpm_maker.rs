//! `lucarne tpm-maker`: the makers whose TPMs the operator trusts.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lucarne_api::{bodies::tpm::AddTpmMaker, client::Client};
use lucarne_attest::signing::from_pem;
use lucarne_model::{Octets, Tags};
use serde_json::Value;

use super::{Context, Reads, attestation_verify::read_text};
use crate::{
    failure::{Failure, LocalCode},
    kind::TPM_MAKER,
    session::{Session, answer},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum TpmMakerCommand {
    /// Trust the TPMs of a maker, and print its id; a root that is trusted already stays as it is
    Add(AddArgs),
    #[command(flatten)]
    Reads(Reads),
    /// Trust the TPMs of makers no longer; what hosts have proved counts again when they are trusted again
    Remove {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddArgs {
    /// What the maker is called
    #[arg(long)]
    name: String,
    /// Its root certificate, in PEM or DER; of a host's software TPM, `attestation/authority/issuercert.pem` in that host's state folder
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
}

impl TpmMakerCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Add(AddArgs { name, root }) => {
                let made = add(&context.session, name, read_root(root)?).await?;
                context.made(&made)
            }
            Self::Reads(reads) => reads.run(context, &TPM_MAKER).await,
            Self::Remove { ids } => context.delete(&TPM_MAKER, ids).await,
        }
    }
}

/// Has the controller trust a root.
pub(crate) async fn add(session: &Session, name: &str, certificate: Octets) -> Result<Value, Failure> {
    let body = AddTpmMaker { name: name.to_owned(), certificate, tags: Tags::default() };
    session.change(async |client: Client| answer(client.add_tpm_maker(None, None, &body)).await).await
}

/// The one certificate of a file.
fn read_root(path: &Path) -> Result<Octets, Failure> {
    let unreadable = |why: &str| Failure::local(LocalCode::FileUnreadable, format!("{}: {why}", path.display()));
    let octets = std::fs::read(path).map_err(|cause| unreadable(&cause.to_string()))?;
    if octets.first() == Some(&DER) {
        return Ok(octets.into());
    }
    let mut found = from_pem(&read_text(path)?, "CERTIFICATE");
    match (found.pop(), found.is_empty()) {
        (Some(root), true) => Ok(root.into()),
        (Some(_), false) => Err(unreadable("it holds more than one certificate; add each by itself")),
        (None, _) => Err(unreadable("it holds no certificate in PEM")),
    }
}

/// What every certificate in DER begins with.
const DER: u8 = 0x30;
