//! `lucarne flow-log`: standing orders for flow records.

use std::time::Duration;

use clap::{Args, Subcommand};
use lucarne_api::{
    bodies::flow_log::{CreateFlowLog, EditFlowLog},
    client::Client,
};
use lucarne_model::{
    FlowLogId,
    flow_log::{Destination, FlowLogTarget, LoggedTraffic, StoreCredentials},
};

use super::{
    Basics, Context, Naming,
    flow::{parse_span, parse_word},
};
use crate::{
    failure::Failure,
    kind::{FLOW_LOG, INSTANCE, INTERFACE, SUBNET, VPC},
    listing::resolve,
    session::{Session, answer},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum FlowLogCommand {
    /// Order flow records, and print the flow log's id
    Create(CreateArgs),
    /// Change what is given, and leave the rest
    Edit {
        /// The flow log's id or name
        id: String,
        #[command(flatten)]
        terms: TermArgs,
    },
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    terms: TermArgs,
    #[command(flatten)]
    naming: Naming,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct TargetArgs {
    /// All interfaces of a VPC, by its id or name
    #[arg(long)]
    vpc: Option<String>,
    /// All interfaces of a subnet, by its id or name
    #[arg(long)]
    subnet: Option<String>,
    /// One network interface, by its id
    #[arg(long)]
    interface: Option<String>,
    /// One instance, by its id or name
    #[arg(long)]
    instance: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TermArgs {
    /// accept, reject or all
    #[arg(long, value_parser = parse_word::<LoggedTraffic>)]
    traffic: Option<LoggedTraffic>,
    /// How often a flow that goes on is reported: 1s to 10m; 10s if not given
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    interval: Option<Duration>,
    /// Of files: default, all or fields as in '${srcaddr} ${dstaddr} ${end-reason}' for text, or parquet
    #[arg(long)]
    format: Option<String>,
    /// store, ipfix://HOST:PORT, ipfix+tcp://HOST:PORT, s3://BUCKET/PREFIX?endpoint=URL&region=NAME, or file:///FOLDER
    /// (operators only)
    #[arg(long, value_name = "URL")]
    to: Option<Destination>,
    /// With --to s3://: the id of an access key there
    #[arg(long, value_name = "ID", env = "LUCARNE_STORE_ACCESS_KEY_ID", requires = "store_secret_key")]
    store_key_id: Option<String>,
    /// Its secret; better in the environment than on a command line
    #[arg(long, value_name = "SECRET", env = "LUCARNE_STORE_SECRET_ACCESS_KEY", hide_env_values = true)]
    store_secret_key: Option<String>,
}

impl TargetArgs {
    async fn target(&self, session: &Session) -> Result<FlowLogTarget, Failure> {
        Ok(match self {
            Self { vpc: Some(vpc), .. } => FlowLogTarget::Vpc { vpc: resolve(session, &VPC, vpc).await? },
            Self { subnet: Some(subnet), .. } => {
                FlowLogTarget::Subnet { subnet: resolve(session, &SUBNET, subnet).await? }
            }
            Self { interface: Some(interface), .. } => {
                FlowLogTarget::Interface { interface: resolve(session, &INTERFACE, interface).await? }
            }
            Self { instance: Some(instance), .. } => {
                FlowLogTarget::Instance { instance: resolve(session, &INSTANCE, instance).await? }
            }
            _ => return Err(Failure::wrong_usage("say whose flows with --vpc, --subnet, --interface or --instance")),
        })
    }
}

impl TermArgs {
    /// They go with an s3:// destination alone: the environment may hold them for another command.
    fn credentials(&self) -> Option<StoreCredentials> {
        let (id, secret) = (self.store_key_id.clone()?, self.store_secret_key.clone()?);
        let goes_to_store = matches!(self.to, Some(Destination::S3(_)));
        goes_to_store.then_some(StoreCredentials { access_key_id: id, secret_access_key: secret })
    }

    fn interval_millis(&self) -> Option<u64> {
        self.interval.map(|interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX))
    }
}

impl FlowLogCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Create(CreateArgs { target, terms, naming }) => {
                let body = CreateFlowLog {
                    target: target.target(session).await?,
                    traffic: terms.traffic.unwrap_or_default(),
                    interval_millis: terms.interval_millis(),
                    format: terms.format.clone(),
                    to: terms.to.clone(),
                    credentials: terms.credentials(),
                    tags: naming.tags(),
                };
                let call = async |client: Client| answer(client.create_flow_log(None, None, &body)).await;
                context.made(&session.change(call).await?)
            }
            Self::Edit { id, terms } => {
                let id: FlowLogId = resolve(session, &FLOW_LOG, id).await?;
                let body = EditFlowLog {
                    traffic: terms.traffic,
                    interval_millis: terms.interval_millis(),
                    format: terms.format.clone(),
                    to: terms.to.clone(),
                    credentials: terms.credentials(),
                };
                let call = async |client: Client| answer(client.edit_flow_log(&id, None, None, &body)).await;
                context.made(&session.change(call).await?)
            }
            Self::Basics(basics) => basics.run(context, &FLOW_LOG).await,
        }
    }
}
