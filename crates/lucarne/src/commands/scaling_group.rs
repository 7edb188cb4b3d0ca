//! `lucarne scaling-group`: alike instances of a network, as many as they need to be.

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use lucarne_api::{
    bodies::scaling_group::{CreateScalingGroup, EditScalingGroup},
    client::Client,
};
use lucarne_model::{
    Bytes, ScalingGroupId, Tags, Vcpus,
    scaling::{LaunchTemplate, ScalingGroup, ScalingTarget},
};

use super::{Context, Reads, TagArgs, flow::parse_span, memory::KeepingArgs, parse_tag};
use crate::{
    failure::{Failure, LocalCode},
    kind::{IMAGE, INSTANCE, SCALING_GROUP, SECURITY_GROUP, SUBNET},
    listing::{resolve, resolve_all},
    session::{Session, answer, json_of},
    wait::{self, Goal},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ScalingGroupCommand {
    /// Make a scaling group, launch its first instances, and print its id
    Create(Box<CreateArgs>),
    #[command(flatten)]
    Reads(Reads),
    /// Change what a group is kept at, and between which sizes; what is not given is left
    Set {
        /// Its id or name
        id: String,
        #[command(flatten)]
        terms: TermArgs,
    },
    /// Delete scaling groups, and print their ids
    Delete {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
        /// Terminate their instances with them; without it, a group that has any stays
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TermArgs {
    /// There are never fewer instances
    #[arg(long, value_name = "N")]
    min: Option<u32>,
    /// There are never more
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// What each is to have, on the average: cpu=PER CENT or live-connections=NUMBER
    #[arg(long, value_name = "TARGET")]
    target: Option<ScalingTarget>,
    /// For so long after a change the size follows no figure
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    cool_down: Option<Duration>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    /// What the group is called
    name: String,
    /// There are never fewer instances; so many are launched at once
    #[arg(long, value_name = "N")]
    min: u32,
    /// There are never more
    #[arg(long, value_name = "N")]
    max: u32,
    /// What each is to have, on the average: cpu=PER CENT or live-connections=NUMBER
    #[arg(long, value_name = "TARGET")]
    target: ScalingTarget,
    /// For so long after a change the size follows no figure; 60s if not given
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    cool_down: Option<Duration>,
    /// A subnet's id or name; may be given more than once: a new instance comes into the one that has the fewest
    #[arg(long = "subnet", value_name = "SUBNET", required = true)]
    subnets: Vec<String>,
    /// The image's id or name
    #[arg(long)]
    image: String,
    /// Such as 256M
    #[arg(long, default_value = "256M")]
    memory: Bytes,
    #[command(flatten)]
    keeping: KeepingArgs,
    /// Virtual processors
    #[arg(long, default_value_t = 1, value_name = "N")]
    cpus: u32,
    /// A file that each instance gets as user-data; a script when it begins with `#!`
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// Boot them, though their image may have a warm state
    #[arg(long)]
    cold: bool,
    /// A security group's id or name; may be given more than once; the VPC's default group if not given
    #[arg(long = "security-group", value_name = "GROUP")]
    security_groups: Vec<String>,
    /// A tag of each instance; may be given more than once
    #[arg(long = "instance-tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    instance_tags: Vec<(String, String)>,
    #[command(flatten)]
    tags: TagArgs,
    /// Wait until its first instances run
    #[arg(long)]
    wait: bool,
}

impl TermArgs {
    fn edit(&self) -> EditScalingGroup {
        let cool_down_seconds = self.cool_down.map(|span| span.as_secs());
        EditScalingGroup { min: self.min, max: self.max, target: self.target, cool_down_seconds }
    }
}

impl CreateArgs {
    async fn body(&self, session: &Session) -> Result<CreateScalingGroup, Failure> {
        let user_data = self.user_data.as_ref().map(|path| {
            fs::read_to_string(path)
                .map_err(|cause| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", path.display())))
        });
        let template = LaunchTemplate {
            image: resolve(session, &IMAGE, &self.image).await?,
            vcpus: Some(Vcpus(self.cpus)),
            memory: Some(self.memory),
            memory_settings: self.keeping.settings(),
            security_groups: resolve_all(session, &SECURITY_GROUP, &self.security_groups).await?,
            user_data: user_data.transpose()?,
            cold: self.cold,
            tags: Tags(self.instance_tags.iter().cloned().collect()),
        };
        Ok(CreateScalingGroup {
            name: self.name.clone(),
            subnets: resolve_all(session, &SUBNET, &self.subnets).await?,
            template,
            min: self.min,
            max: self.max,
            target: self.target,
            cool_down_seconds: self.cool_down.map(|span| span.as_secs()),
            tags: self.tags.tags(),
        })
    }

    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let body = self.body(session).await?;
        let call = async |client: Client| answer(client.create_scaling_group(None, None, &body)).await;
        let group: ScalingGroup = session.change(call).await?;
        if self.wait {
            for instance in &group.instances {
                wait::until(session, &INSTANCE, &instance.to_string(), Goal::state("running")).await?;
            }
        }
        context.made(&json_of(&group)?)
    }
}

impl ScalingGroupCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Create(args) => args.run(context).await,
            Self::Reads(reads) => reads.run(context, &SCALING_GROUP).await,
            Self::Set { id, terms } => {
                let edit = terms.edit();
                if edit == EditScalingGroup::default() {
                    return Err(Failure::wrong_usage(
                        "say what is to be different: --min, --max, --target, --cool-down",
                    ));
                }
                let id: ScalingGroupId = resolve(session, &SCALING_GROUP, id).await?;
                let call = async |client: Client| answer(client.edit_scaling_group(&id, None, None, &edit)).await;
                context.made(&session.change(call).await?)
            }
            Self::Delete { ids, force } => {
                let delete = async |id: String| {
                    let id = id.parse().map_err(|_| Failure::wrong_usage("not a scaling group id"))?;
                    let force = force.then_some(true);
                    session
                        .change(async |client| answer(client.delete_scaling_group(&id, force, None, None)).await)
                        .await
                };
                context.each(&SCALING_GROUP, ids, delete).await.map(drop)
            }
        }
    }
}
