//! `lucarne volume` and `snapshot`.

use clap::{Args, Subcommand};
use lucarne_api::{bodies::storage::CreateVolume, client::types};
use lucarne_model::{Bytes, VolumeId};
use serde_json::Value;

use super::{Basics, Context, DeleteSources, Naming, Reads};
use crate::{
    failure::Failure,
    kind::{INSTANCE, SNAPSHOT, VOLUME},
    listing::{resolve, resolve_option},
    session::answer,
    wait::{self, Goal},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum VolumeCommand {
    /// Make a volume, empty or from a snapshot
    Create(CreateVolumeArgs),
    /// Attach a volume to an instance, running or stopped
    Attach {
        /// The volume's id or name
        id: String,
        /// The instance's id or name
        #[arg(long)]
        instance: String,
        /// Wait until it is in use
        #[arg(long)]
        wait: bool,
    },
    /// Detach a volume
    Detach {
        /// The volume's id or name
        id: String,
        /// Wait until it is available
        #[arg(long)]
        wait: bool,
    },
    #[command(flatten)]
    Reads(Reads),
    /// Delete them, and print their ids
    Delete(DeleteSources),
}

#[derive(Args, Clone, Debug)]
#[group(id = "content", required = true, multiple = true, args = ["size", "snapshot"])]
pub(crate) struct CreateVolumeArgs {
    /// Its size, such as 10G; the snapshot's if not given
    #[arg(long)]
    size: Option<Bytes>,
    /// The snapshot that its first content comes from, by id or name
    #[arg(long)]
    snapshot: Option<String>,
    #[command(flatten)]
    naming: Naming,
}

impl VolumeCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let (changed, goal): (Value, Option<&'static str>) = match self {
            Self::Create(args) => {
                let snapshot = resolve_option(session, &SNAPSHOT, args.snapshot.as_ref()).await?;
                let body = CreateVolume { size: args.size, snapshot, tags: args.naming.tags() };
                (session.change(async |client| answer(client.create_volume(None, None, &body)).await).await?, None)
            }
            Self::Attach { id, instance, wait } => {
                let id: VolumeId = resolve(session, &VOLUME, id).await?;
                let body = types::AttachVolume { instance: resolve(session, &INSTANCE, instance).await? };
                let call = async |client: lucarne_api::client::Client| {
                    answer(client.attach_volume(&id, None, None, &body)).await
                };
                (session.change(call).await?, wait.then_some("in-use"))
            }
            Self::Detach { id, wait } => {
                let id: VolumeId = resolve(session, &VOLUME, id).await?;
                let call =
                    async |client: lucarne_api::client::Client| answer(client.detach_volume(&id, None, None)).await;
                (session.change(call).await?, wait.then_some("available"))
            }
            Self::Reads(reads) => return reads.run(context, &VOLUME).await,
            Self::Delete(DeleteSources { ids, duplicates }) => {
                let delete = async |id: String| {
                    let id = id.parse().map_err(|_| Failure::wrong_usage("not a volume's id"))?;
                    let deepen = duplicates.deepen();
                    session.change(async |client| answer(client.delete_volume(&id, deepen, None, None)).await).await
                };
                return context.each(&VOLUME, ids, delete).await.map(drop);
            }
        };
        let id = changed["id"].as_str().unwrap_or_default();
        let reached = match goal {
            Some(state) => wait::until(session, &VOLUME, id, Goal::state(state)).await?,
            None => changed.clone(),
        };
        context.made(&reached)
    }
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SnapshotCommand {
    /// Take a snapshot of a volume
    Create {
        /// The volume's id or name
        #[arg(long)]
        volume: String,
        /// Wait until it is completed
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        naming: Naming,
    },
    #[command(flatten)]
    Basics(Basics),
}

impl SnapshotCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Create { volume, wait, naming } => {
                let body =
                    types::CreateSnapshot { volume: resolve(session, &VOLUME, volume).await?, tags: naming.tags() };
                let made: Value =
                    session.change(async |client| answer(client.create_snapshot(None, None, &body)).await).await?;
                let id = made["id"].as_str().unwrap_or_default();
                if *wait {
                    return context.made(&wait::until(session, &SNAPSHOT, id, Goal::state("completed")).await?);
                }
                context.made(&made)
            }
            Self::Basics(basics) => basics.run(context, &SNAPSHOT).await,
        }
    }
}
