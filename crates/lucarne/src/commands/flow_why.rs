//! `lucarne flow why`: what decides on a flow, and why.

use std::net::Ipv4Addr;

use clap::Args;
use lucarne_api::client::Client;
use lucarne_model::{InstanceId, VpcId};
use serde_json::Value;

use super::{Context, flow::parse_protocol};
use crate::{
    failure::Failure,
    kind::{Column, INSTANCE, VPC},
    listing::{resolve, resolve_option},
    output::{self, Format},
    session::{Session, answer},
};

/// Who was asked, for the table.
const STEP_COLUMNS: &[Column] =
    &[("ASKED", "asked"), ("VERDICT", "verdict"), ("RULE", "rule"), ("SINCE", "since"), ("WHY", "text")];

#[derive(Args, Clone, Debug)]
pub(crate) struct WhyArgs {
    /// The sender: an address, or an instance's id or name
    #[arg(long)]
    src: String,
    /// The receiver: an address, or an instance's id or name
    #[arg(long)]
    dst: String,
    /// The destination port
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// tcp, udp, icmp or a number
    #[arg(long, default_value = "tcp", value_parser = parse_protocol)]
    protocol: u8,
    /// The VPC's id or name, where several have the address
    #[arg(long)]
    vpc: Option<String>,
}

/// An end is an address, or else the id or name of an instance.
async fn end(session: &Session, text: &str) -> Result<(Option<Ipv4Addr>, Option<InstanceId>), Failure> {
    match text.parse() {
        Ok(address) => Ok((Some(address), None)),
        Err(_) => Ok((None, Some(resolve(session, &INSTANCE, text).await?))),
    }
}

impl WhyArgs {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let vpc: Option<VpcId> = resolve_option(session, &VPC, self.vpc.as_ref()).await?;
        let ((source, source_instance), (destination, destination_instance)) =
            (end(session, &self.src).await?, end(session, &self.dst).await?);
        let call = async |client: Client| {
            let (to, to_instance) = (destination.as_ref(), destination_instance.as_ref());
            let (from, from_instance) = (source.as_ref(), source_instance.as_ref());
            let (port, protocol) = (self.port, Some(self.protocol));
            answer(client.explain_flow(to, to_instance, port, protocol, from, from_instance, vpc.as_ref())).await
        };
        let mut explanation: Value = session.read(call).await?;
        if context.format != Format::Table {
            return context.format.print_value(&explanation);
        }
        let steps = explanation["steps"].take();
        output::print(&output::table(steps.as_array().map_or(&[][..], Vec::as_slice), STEP_COLUMNS))?;
        if let Some(fields) = explanation.as_object_mut() {
            fields.remove("steps");
        }
        output::print("\n")?;
        context.format.print_value(&explanation)
    }
}
