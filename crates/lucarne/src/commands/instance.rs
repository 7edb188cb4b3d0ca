//! `lucarne instance`: launching VMs and what is done with them.

use std::{fs, net::Ipv4Addr, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use futures::StreamExt;
use lucarne_api::{
    bodies::instance::{Job, LaunchInstances, Launched, MigrateInstance},
    client::{Client, types},
};
use lucarne_model::{
    Bytes, InstanceId, Vcpus,
    instance::{Placement, PlacementStrategy},
};
use serde_json::Value;

use super::{
    Context, Duplicates, Naming, Reads,
    attestation::{self, AttestArgs},
    console,
    memory::KeepingArgs,
};
use crate::{
    failure::{Failure, LocalCode},
    kind::{HOST, IMAGE, INSTANCE, SECURITY_GROUP, SUBNET, VOLUME},
    listing::{resolve, resolve_all, resolve_option},
    nonces,
    output::{self, Format},
    session::{Session, answer, byte_stream, json_of},
    wait::{self, Goal},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum InstanceCommand {
    /// Launch instances, and print their ids
    Launch(Box<LaunchArgs>),
    #[command(flatten)]
    Reads(Reads),
    /// Stop instances; their volumes and addresses stay
    Stop {
        #[command(flatten)]
        which: Which,
        /// Without asking the guest
        #[arg(long)]
        force: bool,
    },
    /// Start stopped instances
    Start {
        #[command(flatten)]
        which: Which,
    },
    /// Reboot running instances
    Reboot {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Move a running instance to another host, where it goes on with its volumes and connections; prints the job that does it
    Migrate {
        /// Its id or name
        id: String,
        /// Exactly this host; chosen if not given
        #[arg(long, visible_alias = "host")]
        to: Option<String>,
        /// Wait until it is there
        #[arg(long)]
        wait: bool,
    },
    /// End instances for good
    Terminate {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        duplicates: Duplicates,
    },
    /// Use the serial console: Ctrl-] leaves it; without a terminal, standard input and output are piped
    Console {
        /// Its id or name
        id: String,
    },
    /// Print what the serial console printed last
    Log {
        /// Its id or name
        id: String,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// Ids or names
    #[arg(required = true)]
    ids: Vec<String>,
    /// Wait until it is done
    #[arg(long)]
    wait: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Strategy {
    /// On different hosts as far as possible
    #[default]
    Spread,
    /// On the same host as far as possible
    Pack,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LaunchArgs {
    /// The image's id or name
    #[arg(long)]
    image: String,
    /// The subnet's id or name
    #[arg(long)]
    subnet: String,
    /// Such as 256M
    #[arg(long, default_value = "256M")]
    memory: Bytes,
    #[command(flatten)]
    keeping: KeepingArgs,
    /// Virtual processors
    #[arg(long, default_value_t = 1, value_name = "N")]
    cpus: u32,
    #[command(flatten)]
    naming: Naming,
    /// A file that the instance gets as user-data; a script when it begins with `#!`
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// Boot it, though its image may have a warm state
    #[arg(long)]
    cold: bool,
    /// Give it a TPM of its own, which is kept as long as the instance
    #[arg(long)]
    tpm: bool,
    /// A security group's id or name; may be given more than once; the VPC's default group if not given
    #[arg(long = "security-group", value_name = "GROUP")]
    security_groups: Vec<String>,
    /// A certain free address of the subnet
    #[arg(long)]
    address: Option<Ipv4Addr>,
    /// A data volume to attach from the start; may be given more than once
    #[arg(long = "volume", value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Exactly this host, or nowhere
    #[arg(long)]
    host: Option<String>,
    /// How hosts are chosen
    #[arg(long, value_enum, default_value = "spread")]
    placement: Strategy,
    /// Spread or pack together with the account's other instances of this group
    #[arg(long, value_name = "NAME")]
    placement_group: Option<String>,
    /// So many, all or none
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    #[command(flatten)]
    attestation: AttestArgs,
    /// Wait until they run, or until they are to be approved
    #[arg(long)]
    wait: bool,
}

impl LaunchArgs {
    async fn body(&self, session: &Session) -> Result<LaunchInstances, Failure> {
        let user_data = self.user_data.as_ref().map(|path| {
            fs::read_to_string(path)
                .map_err(|cause| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", path.display())))
        });
        let strategy = match self.placement {
            Strategy::Spread => PlacementStrategy::Spread,
            Strategy::Pack => PlacementStrategy::Pack,
        };
        let host = resolve_option(session, &HOST, self.host.as_ref()).await?;
        Ok(LaunchInstances {
            image: resolve(session, &IMAGE, &self.image).await?,
            subnet: resolve(session, &SUBNET, &self.subnet).await?,
            memory: Some(self.memory),
            memory_settings: self.keeping.settings(),
            vcpus: Some(Vcpus(self.cpus)),
            count: self.count,
            security_groups: resolve_all(session, &SECURITY_GROUP, &self.security_groups).await?,
            address: self.address,
            user_data: user_data.transpose()?,
            cold: self.cold,
            virtual_tpm: self.tpm,
            attestation: self.attestation.body()?,
            volumes: resolve_all(session, &VOLUME, &self.volumes).await?,
            placement: Placement { host, strategy, group: self.placement_group.clone() },
            tags: self.naming.tags(),
        })
    }

    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let body = self.body(session).await?;
        let mut launched = launch(session, &body).await?;
        for (instance, asked) in launched.instances.iter().zip(body.attestation.iter().cycle()) {
            nonces::keep(instance.id, &asked.nonce)?;
        }
        if self.wait {
            for instance in &mut launched.instances {
                let running =
                    wait::until(session, &INSTANCE, &instance.id.to_string(), Goal::state(self.attestation.goal()))
                        .await?;
                *instance = serde_json::from_value(running)
                    .map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, cause.to_string()))?;
            }
        }
        match context.format {
            Format::Table => {
                output::print(&launched.instances.iter().map(|i| format!("{}\n", i.id)).collect::<String>())
            }
            format => format.print_value(&json_of(&launched)?),
        }
    }
}

pub(crate) async fn launch(session: &Session, body: &LaunchInstances) -> Result<Launched, Failure> {
    session.change(async |client| answer(client.launch_instances(None, None, body)).await).await
}

/// Begins to move an instance; the job that does it.
pub(crate) async fn migrate(session: &Session, id: InstanceId, body: MigrateInstance) -> Result<Job, Failure> {
    session.change(async |client| answer(client.migrate_instance(&id, None, None, &body)).await).await
}

/// What the serial console printed last; bytes that are no text are replaced.
pub(crate) async fn log(session: &Session, id: InstanceId) -> Result<String, Failure> {
    let call = async |client: Client| byte_stream(client.get_log(&id)).await;
    let mut chunks = session.stream(call).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        bytes
            .extend_from_slice(&chunk.map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, cause.to_string()))?);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl InstanceCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Launch(args) => args.run(context).await,
            Self::Reads(reads) => reads.run(context, &INSTANCE).await,
            Self::Stop { which, force } => {
                let body = types::StopInstance { force: *force };
                let stop =
                    async |id| session.change(async |c| answer(c.stop_instance(&id, None, None, &body)).await).await;
                which.run(context, "stopped", stop).await
            }
            Self::Start { which } => {
                let start = async |id| session.change(async |c| answer(c.start_instance(&id, None, None)).await).await;
                which.run(context, "running", start).await
            }
            Self::Terminate { which, duplicates } => {
                let deepen = duplicates.deepen();
                let end = async |id| {
                    session.change(async |c| answer(c.terminate_instance(&id, deepen, None, None)).await).await
                };
                which.run(context, "terminated", end).await
            }
            Self::Migrate { id, to, wait } => {
                let id = resolve(session, &INSTANCE, id).await?;
                let host = resolve_option(session, &HOST, to.as_ref()).await?;
                let mut job = migrate(session, id, MigrateInstance { host }).await?;
                if *wait {
                    job = wait::until_done(session, job.id).await?;
                }
                context.format.print_change(&json_of(&job)?, &job.id.to_string())
            }
            Self::Reboot { ids } => {
                let which = Which { ids: ids.clone(), wait: false };
                let reboot =
                    async |id| session.change(async |c| answer(c.reboot_instance(&id, None, None)).await).await;
                which.run(context, "running", reboot).await
            }
            Self::Console { id } => {
                let id = resolve(session, &INSTANCE, id).await?;
                if attestation::ask_at_console(context, id).await? { console::run(session, id).await } else { Ok(()) }
            }
            Self::Log { id } => {
                let id = resolve(session, &INSTANCE, id).await?;
                output::print(&log(session, id).await?)
            }
        }
    }
}

impl Which {
    /// Changes each and, if asked, waits until all of them are in the state that the change aims at.
    async fn run(
        &self,
        context: &Context,
        state: &'static str,
        change: impl AsyncFn(InstanceId) -> Result<Value, Failure>,
    ) -> Result<(), Failure> {
        let change =
            async |id: String| change(id.parse().map_err(|_| Failure::wrong_usage("not an instance id"))?).await;
        let ids = context.each(&INSTANCE, &self.ids, change).await?;
        if self.wait {
            for id in ids {
                wait::until(&context.session, &INSTANCE, &id, Goal::state(state)).await?;
            }
        }
        Ok(())
    }
}
