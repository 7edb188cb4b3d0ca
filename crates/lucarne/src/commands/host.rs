//! `lucarne host`: the verbs of operators over hosts, and, without a verb, the host agent's own process.

use clap::{Args, Subcommand};
use lucarne_api::bodies::host::JoinToken;

use super::{Context, Reads, process::AgentArgs};
use crate::{
    failure::Failure,
    kind::HOST,
    output,
    session::{Session, answer},
};

/// With a verb it asks the controller; without one it is the agent that makes this machine a host.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct HostCommand {
    #[command(subcommand)]
    pub(crate) verb: Option<HostVerb>,
    #[command(flatten)]
    pub(crate) agent: Option<AgentArgs>,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum HostVerb {
    #[command(flatten)]
    Reads(Reads),
    /// Print the token with which machines join as hosts: the content of a file for `--join-token-file`
    JoinToken,
    /// Let hosts take no new instances
    Drain {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Remove hosts from the cloud: their keys and certificates no longer count
    Delete {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
        /// Of a host that is down for good: its instances are terminated, and its volumes are lost
        #[arg(long)]
        force: bool,
    },
    /// Let drained hosts take instances again
    Resume {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

impl HostVerb {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Reads(reads) => return reads.run(context, &HOST).await,
            Self::Delete { ids, force } => {
                let delete = async |id: String| {
                    let id = id.parse().map_err(|_| Failure::wrong_usage("not a host id"))?;
                    let force = force.then_some(true);
                    session.change(async |client| answer(client.delete_host(&id, force, None, None)).await).await
                };
                context.each(&HOST, ids, delete).await?
            }
            Self::JoinToken => return output::print(&format!("{}\n", join_token(session).await?)),
            Self::Drain { ids } => {
                let drain = async |id: String| {
                    let id = id.parse().map_err(|_| Failure::wrong_usage("not a host id"))?;
                    session.change(async |client| answer(client.drain_host(&id, None, None)).await).await
                };
                context.each(&HOST, ids, drain).await?
            }
            Self::Resume { ids } => {
                let resume = async |id: String| {
                    let id = id.parse().map_err(|_| Failure::wrong_usage("not a host id"))?;
                    session.change(async |client| answer(client.resume_host(&id, None, None)).await).await
                };
                context.each(&HOST, ids, resume).await?
            }
        };
        Ok(())
    }
}

/// What a machine needs to become a host.
pub(crate) async fn join_token(session: &Session) -> Result<String, Failure> {
    let told: JoinToken = session.change(async |client| answer(client.tell_join_token(None, None)).await).await?;
    Ok(told.join_token)
}
