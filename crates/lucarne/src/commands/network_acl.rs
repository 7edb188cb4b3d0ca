//! `lucarne network-acl`: ACLs, their entries, and which subnets they judge.

use clap::{Args, Subcommand};
use lucarne_api::{
    bodies::network::AddAclEntry,
    client::{Client, types},
};
use lucarne_model::{
    Cidr, NetworkAclId, RuleId, SubnetId,
    flow::{Direction, Verdict},
};
use serde_json::{Value, json};

use super::{
    Basics, Context, Naming, Reads,
    flow::parse_word,
    security_group::{PortRange, Protocol, traffic},
};
use crate::{
    failure::Failure,
    kind::{ACL_ENTRY_COLUMNS, NETWORK_ACL, SUBNET, VPC},
    listing::resolve,
    output::{self, Format},
    session::answer,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum NetworkAclCommand {
    /// Make a network ACL, which rejects everything until it has entries
    Create {
        /// The VPC's id or name
        #[arg(long)]
        vpc: String,
        #[command(flatten)]
        naming: Naming,
    },
    /// Have a subnet judged by this ACL, in place of the one that it has
    Associate {
        /// The ACL's id or name
        id: String,
        /// The subnet's id or name
        #[arg(long)]
        subnet: String,
    },
    /// Add an entry, and print its id
    AddEntry(AddEntryArgs),
    /// Take an entry away
    RemoveEntry {
        /// The ACL's id or name
        id: String,
        /// The entry's number
        #[arg(long)]
        number: u16,
        /// ingress is into the subnet, egress out of it
        #[arg(long, value_parser = parse_word::<Direction>)]
        direction: Direction,
    },
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddEntryArgs {
    /// The ACL's id or name
    id: String,
    /// 1 to 32766: of the entries that match, the lowest number decides
    #[arg(long)]
    number: u16,
    /// ingress is into the subnet, egress out of it
    #[arg(long, value_parser = parse_word::<Direction>)]
    direction: Direction,
    /// accept or reject
    #[arg(long, value_parser = parse_word::<Verdict>)]
    action: Verdict,
    /// tcp, udp, icmp, all, or a number
    #[arg(long, default_value = "all")]
    protocol: Protocol,
    /// A destination port or a range such as 8000-8080; all ports if not given
    #[arg(long, value_name = "PORTS")]
    port: Option<PortRange>,
    /// The network at the other end
    #[arg(long, default_value_t = Cidr::ANY)]
    cidr: Cidr,
}

impl AddEntryArgs {
    async fn run(&self, context: &Context) -> Result<Value, Failure> {
        let id: NetworkAclId = resolve(&context.session, &NETWORK_ACL, &self.id).await?;
        let traffic = traffic(self.protocol, self.port, (None, None))?;
        let Self { number, direction, action, cidr, .. } = *self;
        let body = AddAclEntry { number, direction, action, traffic, cidr };
        context.session.change(async |client| answer(client.add_acl_entry(&id, None, None, &body)).await).await
    }
}

/// The id of an entry, which people know by its number.
fn entry_id(acl: &Value, number: u16, direction: Direction) -> Option<RuleId> {
    let entries = acl["entries"].as_array()?;
    let meant = |entry: &&Value| entry["number"] == number && entry["direction"] == json!(direction);
    entries.iter().find(meant)?["id"].as_str()?.parse().ok()
}

async fn remove_entry(context: &Context, id: &str, number: u16, direction: Direction) -> Result<(), Failure> {
    let acl: NetworkAclId = resolve(&context.session, &NETWORK_ACL, id).await?;
    let shown = context.show(&NETWORK_ACL, &acl.to_string()).await?;
    let entry = entry_id(&shown, number, direction).ok_or_else(|| {
        let code = lucarne_model::ErrorCode::InvalidAclEntryNotFound;
        Failure::problem(code, format!("{acl} has no entry {number} of this direction"))
    })?;
    let call = async |client: Client| answer::<_, Value>(client.remove_acl_entry(&acl, &entry, None, None)).await;
    context.session.change(call).await?;
    context.made(&json!({"id": entry}))
}

impl NetworkAclCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Create { vpc, naming } => {
                let body = types::CreateNetworkAcl { vpc: resolve(session, &VPC, vpc).await?, tags: naming.tags() };
                let call = async |client: Client| answer(client.create_network_acl(None, None, &body)).await;
                context.made(&session.change(call).await?)
            }
            Self::Associate { id, subnet } => {
                let body = types::AssociateNetworkAcl { network_acl: resolve(session, &NETWORK_ACL, id).await? };
                let subnet: SubnetId = resolve(session, &SUBNET, subnet).await?;
                let call =
                    async |client: Client| answer(client.associate_network_acl(&subnet, None, None, &body)).await;
                context.made(&session.change(call).await?)
            }
            Self::AddEntry(args) => context.made(&args.run(context).await?),
            Self::RemoveEntry { id, number, direction } => remove_entry(context, id, *number, *direction).await,
            Self::Basics(Basics::Reads(Reads::Show { id })) if context.format == Format::Table => {
                let mut acl = context.show(&NETWORK_ACL, id).await?;
                let entries = acl["entries"].take();
                context.format.print_value(&acl)?;
                let entries = entries.as_array().map_or(&[][..], Vec::as_slice);
                output::print(&format!("\n{}", output::table(entries, ACL_ENTRY_COLUMNS)))
            }
            Self::Basics(basics) => basics.run(context, &NETWORK_ACL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_named_by_number_and_direction_together() {
        let entry =
            |id: u128, direction: &str| json!({"id": RuleId::from_bits(id), "number": 100, "direction": direction});
        let acl = json!({"entries": [entry(1, "ingress"), entry(2, "egress")]});
        assert_eq!(entry_id(&acl, 100, Direction::Egress), Some(RuleId::from_bits(2)));
        assert_eq!(entry_id(&acl, 101, Direction::Egress), None);
    }
}
