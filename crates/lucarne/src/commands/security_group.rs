//! `lucarne security-group`: groups and their rules.

use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use lucarne_api::{bodies::network::AuthorizeRule, client::types};
use lucarne_model::{
    Cidr, RuleId, SecurityGroupId,
    flow::Direction,
    security_group::{Peer, RuleSpec, Traffic},
};
use serde_json::{Value, json};

use super::{Basics, Context, Reads, TagArgs};
use crate::{
    failure::Failure,
    kind::{RULE_COLUMNS, SECURITY_GROUP, VPC},
    listing::resolve,
    output::{self, Format},
    session::answer,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SecurityGroupCommand {
    /// Make a group, which allows everything out and nothing in
    Create(CreateArgs),
    /// Add a rule, and print its id
    Authorize(AuthorizeArgs),
    /// Take rules away; live flows that only they allowed are cut
    Revoke {
        /// The group's id or name
        group: String,
        /// The rules' ids
        #[arg(required = true)]
        rules: Vec<RuleId>,
    },
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    /// The VPC's id or name
    #[arg(long)]
    vpc: String,
    /// What it is called; unique in the VPC
    #[arg(long)]
    name: String,
    #[arg(long, default_value = "")]
    description: String,
    #[command(flatten)]
    tags: TagArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    Ingress,
    Egress,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AuthorizeArgs {
    /// The group's id or name
    group: String,
    /// Whether it allows in or out
    #[arg(long, value_enum, default_value = "ingress")]
    direction: Way,
    /// tcp, udp, icmp, all, or a number
    #[arg(long)]
    protocol: Protocol,
    /// A port or a range such as 8000-8080; all ports if not given
    #[arg(long, value_name = "PORTS")]
    port: Option<PortRange>,
    /// For icmp: only this type
    #[arg(long)]
    icmp_type: Option<u8>,
    /// For icmp: only this code
    #[arg(long, requires = "icmp_type")]
    icmp_code: Option<u8>,
    #[command(flatten)]
    peer: PeerArgs,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct PeerArgs {
    /// The network at the other end
    #[arg(long)]
    cidr: Option<Cidr>,
    /// The group at the other end, by id or name
    #[arg(long = "from-group", alias = "to-group", value_name = "GROUP")]
    from_group: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Icmp,
    All,
    Number(u8),
}

impl FromStr for Protocol {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" | "6" => Ok(Self::Tcp),
            "udp" | "17" => Ok(Self::Udp),
            "icmp" | "1" => Ok(Self::Icmp),
            "all" => Ok(Self::All),
            number => {
                number.parse().map(Self::Number).map_err(|_| "it is tcp, udp, icmp, all, or a number to 255".into())
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortRange(u16, u16);

impl FromStr for PortRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) if from <= to => Ok(Self(from, to)),
            _ => Err("it is a port such as 80 or a range such as 8000-8080".into()),
        }
    }
}

/// The traffic that protocol, ports, and ICMP type and code mean.
pub(super) fn traffic(
    protocol: Protocol,
    port: Option<PortRange>,
    (icmp_type, icmp_code): (Option<u8>, Option<u8>),
) -> Result<Traffic, Failure> {
    let PortRange(from_port, to_port) = port.unwrap_or(PortRange(0, u16::MAX));
    let traffic = match protocol {
        Protocol::Tcp => Traffic::Tcp { from_port, to_port },
        Protocol::Udp => Traffic::Udp { from_port, to_port },
        Protocol::Icmp => Traffic::Icmp { icmp_type, icmp_code },
        Protocol::All => Traffic::All,
        Protocol::Number(number) => Traffic::Other { number },
    };
    if port.is_some() && !matches!(traffic, Traffic::Tcp { .. } | Traffic::Udp { .. }) {
        return Err(Failure::wrong_usage("--port goes with --protocol tcp or udp"));
    }
    if icmp_type.is_some() && protocol != Protocol::Icmp {
        return Err(Failure::wrong_usage("--icmp-type goes with --protocol icmp"));
    }
    Ok(traffic)
}

impl AuthorizeArgs {
    async fn run(&self, context: &Context) -> Result<Value, Failure> {
        let session = &context.session;
        let traffic = traffic(self.protocol, self.port, (self.icmp_type, self.icmp_code))?;
        let group: SecurityGroupId = resolve(session, &SECURITY_GROUP, &self.group).await?;
        let peer = match (&self.peer.cidr, &self.peer.from_group) {
            (Some(cidr), _) => Peer::Cidr { cidr: *cidr },
            (None, Some(peer)) => Peer::Group { group: resolve(session, &SECURITY_GROUP, peer).await? },
            (None, None) => return Err(Failure::wrong_usage("say who with --cidr or --from-group")),
        };
        let direction = match self.direction {
            Way::Ingress => Direction::Ingress,
            Way::Egress => Direction::Egress,
        };
        let body = AuthorizeRule { rule: RuleSpec { direction, traffic, peer } };
        session.change(async |client| answer(client.authorize_rule(&group, None, None, &body)).await).await
    }
}

impl SecurityGroupCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Create(args) => {
                let vpc = resolve(session, &VPC, &args.vpc).await?;
                let (name, description) = (args.name.clone(), args.description.clone());
                let body = types::CreateSecurityGroup { vpc, name, description, tags: args.tags.tags() };
                context.made(
                    &session
                        .change(async |client| answer(client.create_security_group(None, None, &body)).await)
                        .await?,
                )
            }
            Self::Authorize(args) => context.made(&args.run(context).await?),
            Self::Revoke { group, rules } => {
                let group: SecurityGroupId = resolve(session, &SECURITY_GROUP, group).await?;
                for rule in rules {
                    let call = async |client: lucarne_api::client::Client| {
                        answer::<_, Value>(client.revoke_rule(&group, rule, None, None)).await
                    };
                    session.change(call).await?;
                    context.made(&json!({"id": rule}))?;
                }
                Ok(())
            }
            Self::Basics(Basics::Reads(Reads::Show { id })) if context.format == Format::Table => {
                let mut group = context.show(&SECURITY_GROUP, id).await?;
                let rules = group["rules"].take();
                context.format.print_value(&group)?;
                output::print(&format!(
                    "\n{}",
                    output::table(rules.as_array().map_or(&[], Vec::as_slice), RULE_COLUMNS)
                ))
            }
            Self::Basics(basics) => basics.run(context, &SECURITY_GROUP).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_or_a_range_that_does_not_run_backwards() {
        assert_eq!("80".parse(), Ok(PortRange(80, 80)));
        assert_eq!("8000-8080".parse(), Ok(PortRange(8000, 8080)));
        assert!("90-80".parse::<PortRange>().is_err());
        assert!("70000".parse::<PortRange>().is_err());
    }

    #[test]
    fn protocols_go_by_name_or_number() {
        assert_eq!("tcp".parse(), Ok(Protocol::Tcp));
        assert_eq!("50".parse(), Ok(Protocol::Number(50)));
        assert!("smtp".parse::<Protocol>().is_err());
    }
}
