//! `lucarne notary`: the notaries that the controller may ask, and, without a verb, the notary's own process.

use clap::{Args, Subcommand};
use lucarne_api::{bodies::publisher::CreateNotary, client::Client};

use super::{Context, Reads, process::NotaryProcessArgs};
use crate::{failure::Failure, kind::NOTARY, session::answer};

/// With a verb it asks the controller; without one it is the process of the third party.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct NotaryCommand {
    #[command(subcommand)]
    pub(crate) verb: Option<NotaryVerb>,
    #[command(flatten)]
    pub(crate) process: Option<NotaryProcessArgs>,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum NotaryVerb {
    /// Let the controller ask a notary (for operators)
    Add {
        /// What it is to be called here
        name: String,
        /// Where it answers: http:// or https://, a host and a port
        #[arg(long)]
        url: String,
    },
    #[command(flatten)]
    Reads(Reads),
    /// Let the controller ask notaries no more (for operators)
    Remove {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

impl NotaryVerb {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Add { name, url } => {
                let body = CreateNotary { name: name.clone(), url: url.clone() };
                let call = async |client: Client| answer(client.create_notary(None, None, &body)).await;
                context.made(&context.session.change(call).await?)
            }
            Self::Reads(reads) => reads.run(context, &NOTARY).await,
            Self::Remove { ids } => context.delete(&NOTARY, ids).await,
        }
    }
}
