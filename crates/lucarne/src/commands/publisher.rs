//! `lucarne publisher`: the publishers whose manifests the account trusts, each with the key that was pinned here.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lucarne_api::{bodies::publisher::CreatePublisher, client::Client};
use lucarne_model::publisher::SERIES;

use super::{Context, Reads, attestation_verify::read_key};
use crate::{
    failure::Failure,
    kind::{NOTARY, PUBLISHER},
    listing::resolve,
    session::answer,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum PublisherCommand {
    /// Trust the manifests of a publisher, for `--attest manifest=NAME`
    Add(AddArgs),
    #[command(flatten)]
    Reads(Reads),
    /// Trust publishers no more
    Remove {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddArgs {
    /// What it is to be called
    name: String,
    /// The notary where it publishes, by id or name: one of `notary list`
    #[arg(long)]
    notary: String,
    /// Its public key in PEM, from the publisher itself and not from the operator
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The series that hosts are held against
    #[arg(long, default_value = SERIES)]
    series: String,
}

impl PublisherCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Add(args) => {
                let key = read_key(&args.key)?.to_pem();
                let notary = resolve(&context.session, &NOTARY, &args.notary).await?;
                let (name, series) = (args.name.clone(), args.series.clone());
                let body = CreatePublisher { name, notary, key, series };
                let call = async |client: Client| answer(client.create_publisher(None, None, &body)).await;
                context.made(&context.session.change(call).await?)
            }
            Self::Reads(reads) => reads.run(context, &PUBLISHER).await,
            Self::Remove { ids } => context.delete(&PUBLISHER, ids).await,
        }
    }
}
