//! `lucarne mitigation`: what operators order against traffic that harms others.

use std::time::Duration;

use clap::{Args, Subcommand};
use lucarne_api::{bodies::mitigation::CreateMitigation, client::Client};
use lucarne_model::{
    Cidr,
    flow::Direction,
    mitigation::{MitigationAction, MitigationTarget},
};

use super::{
    Basics, Context, Naming,
    flow::{parse_protocol, parse_span, parse_word},
};
use crate::{
    failure::Failure,
    kind::{INSTANCE, MITIGATION},
    listing::resolve_option,
    session::answer,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum MitigationCommand {
    /// Block or cap traffic on all hosts, or on that of one instance
    Create(CreateArgs),
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    action: ActionArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Why, for the operator's own records
    #[arg(long)]
    reason: String,
    /// For how long, such as 30m or 2d; until it is deleted if not given
    #[arg(long = "for", value_name = "SPAN", value_parser = parse_span)]
    lasts: Option<Duration>,
    #[command(flatten)]
    naming: Naming,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct ActionArgs {
    /// Let nothing pass, and cut what is open
    #[arg(long)]
    block: bool,
    /// Let so many packets a second pass on each host
    #[arg(long, value_name = "PACKETS")]
    cap: Option<u32>,
}

/// Which flows; all that is given must hold.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct TargetArgs {
    /// The instance's id
    #[arg(long)]
    instance: Option<String>,
    /// The network at the end that is not the instance
    #[arg(long, value_name = "CIDR")]
    address: Option<Cidr>,
    /// tcp, udp, icmp or a number
    #[arg(long, value_parser = parse_protocol)]
    protocol: Option<u8>,
    /// The destination port of the flow's first packet
    #[arg(long)]
    port: Option<u16>,
    /// ingress or egress, as the instance sees the flow's first packet
    #[arg(long, value_parser = parse_word::<Direction>)]
    direction: Option<Direction>,
}

impl CreateArgs {
    fn action(&self) -> MitigationAction {
        match self.action.cap {
            Some(packets_per_second) => MitigationAction::Cap { packets_per_second },
            None => MitigationAction::Block,
        }
    }

    async fn body(&self, context: &Context) -> Result<CreateMitigation, Failure> {
        let TargetArgs { ref instance, address, protocol, port, direction } = self.target;
        let instance = resolve_option(&context.session, &INSTANCE, instance.as_ref()).await?;
        Ok(CreateMitigation {
            target: MitigationTarget { instance, address, protocol, port, direction },
            action: self.action(),
            reason: self.reason.clone(),
            lasts_seconds: self.lasts.map(|span| span.as_secs()),
            tags: self.naming.tags(),
        })
    }
}

impl MitigationCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(args) => {
                let body = args.body(context).await?;
                let call = async |client: Client| answer(client.create_mitigation(None, None, &body)).await;
                context.made(&context.session.change(call).await?)
            }
            Self::Basics(basics) => basics.run(context, &MITIGATION).await,
        }
    }
}
