//! `lucarne recording`: the frames of a network, recorded where its instances run, as one file.

use std::{io::Write, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use futures::StreamExt;
use lucarne_api::{bodies::recording::StartRecording, client::Client};
use lucarne_model::{
    Bytes, Cidr, RecordingId, VpcId,
    flow::Direction,
    recording::{RecordingFilter, RecordingRoom},
};

use super::{
    Basics, Context, Naming,
    flow::{parse_span, parse_word},
    flow_export::{open, unwritable},
};
use crate::{
    failure::{Failure, LocalCode},
    kind::{INSTANCE, RECORDING, SUBNET, VPC},
    listing::resolve,
    session::{Session, answer, byte_stream},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RecordingCommand {
    /// Begin to record a network's frames, and print the recording's id
    Start(Box<StartArgs>),
    /// End recordings; what was recorded stays
    Stop {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Write what was recorded on all hosts into one file of pcapng, in the order of time
    Export {
        /// The recording's id or name
        id: String,
        /// Where to write it; - is standard output
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StartArgs {
    /// The VPC's id or name
    #[arg(long)]
    vpc: String,
    #[command(flatten)]
    filter: FilterArgs,
    /// Keep the newest that have room on each host; 64M if neither is given
    #[arg(long, value_name = "SIZE", conflicts_with = "max")]
    ring: Option<Bytes>,
    /// Record until there is no more room on a host
    #[arg(long, value_name = "SIZE")]
    max: Option<Bytes>,
    /// For how long, such as 60s, at most a day; until it is stopped if not given
    #[arg(long = "for", value_name = "SPAN", value_parser = parse_span)]
    span: Option<Duration>,
    /// Delete it and its files after this time, such as 30m or 2d
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    expires: Option<Duration>,
    #[command(flatten)]
    naming: Naming,
}

/// Which frames: of each option one value must fit, and all that are given must.
#[derive(Args, Clone, Debug)]
pub(crate) struct FilterArgs {
    /// At the interfaces of these instances, by id or name
    #[arg(long = "instance", value_name = "INSTANCE")]
    instances: Vec<String>,
    /// At interfaces in these subnets, by id or name
    #[arg(long = "subnet", value_name = "SUBNET")]
    subnets: Vec<String>,
    /// From or to these addresses
    #[arg(long = "address", value_name = "CIDR", value_parser = parse_network)]
    addresses: Vec<Cidr>,
    /// From or to these ports of TCP or UDP
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
    /// tcp, udp, icmp or a number
    #[arg(long = "protocol", value_name = "PROTOCOL", value_parser = parse_protocol)]
    protocols: Vec<u8>,
    /// ingress or egress, as the instance sees it
    #[arg(long, value_parser = parse_word::<Direction>)]
    direction: Option<Direction>,
}

/// A network, or an address alone.
fn parse_network(text: &str) -> Result<Cidr, String> {
    let whole = if text.contains('/') { text.to_owned() } else { format!("{text}/32") };
    whole.parse().map_err(|_| format!("`{text}` is neither an address nor a network such as 10.0.1.0/24"))
}

fn parse_protocol(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(lucarne_model::security_group::TCP),
        "udp" => Ok(lucarne_model::security_group::UDP),
        "icmp" => Ok(lucarne_model::security_group::ICMP),
        number => number.parse().map_err(|_| "write tcp, udp, icmp or a number up to 255".to_owned()),
    }
}

impl FilterArgs {
    async fn filter(&self, session: &Session) -> Result<RecordingFilter, Failure> {
        let (mut instances, mut subnets) = (Vec::new(), Vec::new());
        for instance in &self.instances {
            instances.push(resolve(session, &INSTANCE, instance).await?);
        }
        for subnet in &self.subnets {
            subnets.push(resolve(session, &SUBNET, subnet).await?);
        }
        Ok(RecordingFilter {
            instances,
            subnets,
            addresses: self.addresses.clone(),
            ports: self.ports.clone(),
            protocols: self.protocols.clone(),
            direction: self.direction,
        })
    }
}

impl StartArgs {
    fn room(&self) -> Option<RecordingRoom> {
        let ring = self.ring.map(|size| RecordingRoom::Ring { size });
        self.max.map(|size| RecordingRoom::Max { size }).or(ring)
    }
}

impl RecordingCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Start(args) => {
                let vpc: VpcId = resolve(session, &VPC, &args.vpc).await?;
                let body = StartRecording {
                    vpc,
                    filter: args.filter.filter(session).await?,
                    room: args.room(),
                    // Part of a second is one.
                    seconds: args.span.map(|span| span.as_millis().div_ceil(1000) as u64),
                    lasts_seconds: args.expires.map(|span| span.as_secs()),
                    tags: args.naming.tags(),
                };
                let call = async |client: Client| answer(client.start_recording(None, None, &body)).await;
                context.made(&session.change(call).await?)
            }
            Self::Stop { ids } => {
                let stop = async |id: String| {
                    let id: RecordingId = id.parse().map_err(|_| Failure::wrong_usage("that is no recording"))?;
                    session.change(async |client| answer(client.stop_recording(&id, None, None)).await).await
                };
                context.each(&RECORDING, ids, stop).await.map(drop)
            }
            Self::Export { id, out } => {
                let id: RecordingId = resolve(session, &RECORDING, id).await?;
                let call = async |client: Client| byte_stream(client.export_recording(&id)).await;
                let mut octets = session.stream(call).await?.into_inner();
                let mut file = open(out)?;
                while let Some(chunk) = octets.next().await {
                    let broke =
                        |cause| Failure::local(LocalCode::UnexpectedAnswer, format!("the file broke off: {cause}"));
                    file.write_all(&chunk.map_err(broke)?).map_err(|cause| unwritable(out, &cause))?;
                }
                file.flush().map_err(|cause| unwritable(out, &cause))
            }
            Self::Basics(basics) => basics.run(context, &RECORDING).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_protocols_are_read_as_people_write_them() {
        assert_eq!(parse_network("10.0.1.7").unwrap().to_string(), "10.0.1.7/32");
        assert_eq!(parse_network("10.0.1.0/24").unwrap().to_string(), "10.0.1.0/24");
        assert!(parse_network("10.0.1").is_err());
        assert_eq!(["tcp", "udp", "icmp", "47"].map(|text| parse_protocol(text).unwrap()), [6, 17, 1, 47]);
        assert!(parse_protocol("gre").is_err() && parse_protocol("256").is_err());
    }
}
