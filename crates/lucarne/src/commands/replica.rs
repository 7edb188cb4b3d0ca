//! `lucarne replica`: running networks duplicated, compared and ended.

use std::time::Duration;

use clap::{Args, Subcommand};
use lucarne_api::{
    bodies::replica::{CreateReplica, PlanReplica, ReplicaDifferences},
    client::Client,
};
use lucarne_model::{
    Cidr, ReplicaId,
    replica::{CopyType, DuplicateClock, Fidelity, MemoryCopy},
    replica_flows::FlowDifferences,
    replication::{AddressMapping, Replica, ReplicaOverride, ReplicaPlan, ReplicaTerms, TagMatch},
};

use super::{
    Context, Reads, TagArgs,
    flow::{Since, parse_span, parse_word},
    parse_tag, replica_difference,
    replica_graph::GraphForm,
    replica_plan,
};
use crate::{
    failure::Failure,
    kind::{REPLICA, SUBNET, VPC},
    listing::{resolve, resolve_all},
    output::{self, Format},
    session::{Session, answer, json_of, now},
    wait,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ReplicaCommand {
    /// Show what would be made of a network, in which order, and what not
    Plan {
        /// The VPC's id or name
        vpc: String,
        #[command(flatten)]
        terms: TermArgs,
        /// Show what needs what: as a tree, or with =dot for Graphviz
        #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "tree")]
        graph: Option<GraphForm>,
    },
    /// Duplicate a running network, and print the replica's id
    Create(Box<CreateArgs>),
    #[command(flatten)]
    Reads(Reads),
    /// Show what differs between a replica and its source now
    Diff(DiffArgs),
    /// Make a shallow replica deep: what it draws on is copied while both run
    Deepen {
        /// The replica's id or name
        id: String,
        /// Wait until it draws on nothing
        #[arg(long)]
        wait: bool,
    },
    /// Make a deep replica a network in its own right: without an end, and without its source
    Promote {
        /// The replica's id or name
        id: String,
    },
    /// End replicas, their networks and everything in them
    Delete {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
        /// Wait until nothing of them is left
        #[arg(long)]
        wait: bool,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DiffArgs {
    /// The replica's id or name
    id: String,
    /// Show in place of the configuration what their instances do on the network: what only one side does, and what is
    /// judged otherwise
    #[arg(long)]
    flows: bool,
    /// Flows from when on: so long ago (10m, 2h) or a time such as 2026-01-31T12:00:00Z; since the replica was taken if not given
    #[arg(long, requires = "flows")]
    since: Option<Since>,
    /// Until when, in the same forms; now if not given
    #[arg(long, requires = "flows")]
    until: Option<Since>,
    /// Differences that are wanted at most, to 10000
    #[arg(long, requires = "flows", value_name = "N", default_value_t = 1000)]
    limit: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    /// The VPC's id or name
    vpc: String,
    #[command(flatten)]
    terms: TermArgs,
    /// What the replica is called; its id if not given
    #[arg(long)]
    name: Option<String>,
    /// Delete it and all in it after this time, such as 30m or 2d
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    expires: Option<Duration>,
    #[command(flatten)]
    tags: TagArgs,
    /// Wait until it runs and what is copied whole is there
    #[arg(long)]
    wait: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TermArgs {
    /// Only this subnet and what is in it, by its id or name; may be given more than once
    #[arg(long = "subnet", value_name = "SUBNET")]
    subnets: Vec<String>,
    /// Only instances with this tag; may be given more than once, for those that have any of them
    #[arg(long = "include-tag", value_name = "KEY=VALUE", value_parser = parse_match)]
    include_tags: Vec<TagMatch>,
    /// Nothing with this tag; may be given more than once
    #[arg(long = "exclude-tag", value_name = "KEY=VALUE", value_parser = parse_match)]
    exclude_tags: Vec<TagMatch>,
    /// Only instances with an address in this network; may be given more than once
    #[arg(long = "ip", value_name = "CIDR")]
    addresses: Vec<Cidr>,
    /// shallow: what neither side changes is there once; deep: all of it is copied while both run
    #[arg(long, value_name = "TYPE", default_value = "shallow", value_parser = parse_word::<CopyType>)]
    copy: CopyType,
    /// How much alike duplicates are at least: low, medium, high or exact
    #[arg(long, value_name = "LEVEL", default_value = "high", value_parser = parse_word::<Fidelity>)]
    fidelity: Fidelity,
    /// live: duplicates go on where their sources were; cold: they boot from their disks
    #[arg(long, value_name = "HOW", default_value = "live", value_parser = parse_word::<MemoryCopy>)]
    memory: MemoryCopy,
    /// Otherwise for one instance or volume, or for all with a tag: `vol-...:copy=deep`, `tag:tier=web:copy=deep,fidelity=exact`
    #[arg(long = "override", value_name = "WHICH:WISHES", value_parser = parse_override)]
    overrides: Vec<ReplicaOverride>,
    /// Other addresses, such as 10.0.0.0/16=10.9.0.0/16 or 10.0.1.4=10.0.1.40; with --memory cold
    #[arg(long, value_name = "FROM=TO", value_parser = parse_mapping)]
    map: Vec<AddressMapping>,
    /// What the duplicate's guests are told when they ask for the time (NTP). continue: that of the cut, gone on; correct: what it is
    #[arg(long, value_name = "HOW", default_value = "continue", value_parser = parse_word::<DuplicateClock>)]
    clock: DuplicateClock,
}

fn parse_match(text: &str) -> Result<TagMatch, String> {
    parse_tag(text).map(|(key, value)| TagMatch { key, value })
}

/// A network, or a single address as one of 32 bits.
fn parse_mapping(text: &str) -> Result<AddressMapping, String> {
    let (from, to) = text.split_once('=').ok_or("write FROM=TO")?;
    let network = |text: &str| {
        let whole = if text.contains('/') { text.to_owned() } else { format!("{text}/32") };
        whole.parse::<Cidr>().map_err(|error| error.to_string())
    };
    Ok(AddressMapping { from: network(from)?, to: network(to)? })
}

fn parse_override(text: &str) -> Result<ReplicaOverride, String> {
    let usage = "write an id or tag:KEY=VALUE, a colon, and copy=TYPE or fidelity=LEVEL";
    let (which, wishes) = text.rsplit_once(':').ok_or(usage)?;
    let mut wish = ReplicaOverride { object: None, tag: None, copy: None, fidelity: None };
    match which.strip_prefix("tag:") {
        Some(tag) => wish.tag = Some(parse_match(tag)?),
        None => wish.object = Some(which.parse().map_err(|_| usage)?),
    }
    for one in wishes.split(',') {
        match one.split_once('=') {
            Some(("copy", copy)) => wish.copy = Some(parse_word(copy)?),
            Some(("fidelity", level)) => wish.fidelity = Some(parse_word(level)?),
            _ => return Err(usage.into()),
        }
    }
    Ok(wish)
}

impl TermArgs {
    pub(super) async fn terms(&self, session: &Session) -> Result<ReplicaTerms, Failure> {
        Ok(ReplicaTerms {
            subnets: resolve_all(session, &SUBNET, &self.subnets).await?,
            include_tags: self.include_tags.clone(),
            exclude_tags: self.exclude_tags.clone(),
            addresses: self.addresses.clone(),
            copy: self.copy,
            fidelity: self.fidelity,
            memory: self.memory,
            overrides: self.overrides.clone(),
            map: self.map.clone(),
            clock: self.clock,
        })
    }
}

impl ReplicaCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Plan { vpc, terms, graph } => {
                let body = PlanReplica { vpc: resolve(session, &VPC, vpc).await?, terms: terms.terms(session).await? };
                let call = async |client: Client| answer(client.plan_replica(&body)).await;
                let plan: ReplicaPlan = session.read(call).await?;
                match (context.format, graph) {
                    (Format::Table, Some(form)) => output::print(&form.text(&plan)),
                    (Format::Table, None) => output::print(&replica_plan::text(&plan)),
                    (format, _) => format.print_value(&json_of(&plan)?),
                }
            }
            Self::Create(args) => args.run(context).await,
            Self::Reads(reads) => reads.run(context, &REPLICA).await,
            Self::Diff(args) => args.run(context).await,
            Self::Deepen { id, wait } => deepen(context, id, *wait).await,
            Self::Promote { id } => {
                let id: ReplicaId = resolve(session, &REPLICA, id).await?;
                let call = async |client: Client| answer(client.promote_replica(&id, None, None)).await;
                context.made(&session.change(call).await?)
            }
            Self::Delete { ids, wait } => delete(context, ids, *wait).await,
        }
    }
}

impl DiffArgs {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let id: ReplicaId = resolve(session, &REPLICA, &self.id).await?;
        if self.flows {
            let (now, limit) = (now(), Some(self.limit));
            let moment = |time: Option<Since>| time.map(|time| time.moment(now));
            let (since, until) = (moment(self.since), moment(self.until));
            let call = async |client: Client| {
                answer(client.compare_replica_flows(&id, limit, since.as_ref(), until.as_ref())).await
            };
            let compared: FlowDifferences = session.read(call).await?;
            return match context.format {
                Format::Table => output::print(&replica_difference::flows(&compared)),
                format => format.print_value(&json_of(&compared)?),
            };
        }
        let call = async |client: Client| answer(client.compare_replica(&id)).await;
        let compared: ReplicaDifferences = session.read(call).await?;
        match context.format {
            Format::Table => output::print(&replica_difference::configuration(&compared.differences)),
            format => format.print_value(&json_of(&compared)?),
        }
    }
}

impl CreateArgs {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let body = CreateReplica {
            vpc: resolve(session, &VPC, &self.vpc).await?,
            name: self.name.clone(),
            terms: self.terms.terms(session).await?,
            lasts_seconds: self.expires.map(|span| span.as_secs()),
            tags: self.tags.tags(),
        };
        let call = async |client: Client| answer(client.create_replica(None, None, &body)).await;
        let mut replica: Replica = session.change(call).await?;
        if self.wait {
            wait::until_done(session, replica.job).await?;
            let id = replica.id;
            replica = session.read(async |client: Client| answer(client.get_replica(&id)).await).await?;
        }
        context.made(&json_of(&replica)?)
    }
}

async fn deepen(context: &Context, id: &str, wait: bool) -> Result<(), Failure> {
    let session = &context.session;
    let id: ReplicaId = resolve(session, &REPLICA, id).await?;
    let call = async |client: Client| answer(client.deepen_replica(&id, None, None)).await;
    let mut replica: Replica = session.change(call).await?;
    if wait {
        wait::until_done(session, replica.job).await?;
        replica = session.read(async |client: Client| answer(client.get_replica(&id)).await).await?;
    }
    context.made(&json_of(&replica)?)
}

async fn delete(context: &Context, ids: &[String], wait: bool) -> Result<(), Failure> {
    let session = &context.session;
    let delete = async |id: String| {
        let id: ReplicaId = id.parse().map_err(|_| Failure::wrong_usage("not a replica's id"))?;
        session.change(async |client: Client| answer(client.delete_replica(&id, None, None)).await).await
    };
    for id in context.each(&REPLICA, ids, delete).await?.iter().filter(|_| wait) {
        let id: ReplicaId = resolve(session, &REPLICA, id).await?;
        let replica: Replica = session.read(async |client: Client| answer(client.get_replica(&id)).await).await?;
        wait::until_over(session, replica.job).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_address_is_mapped_as_a_network_of_one() {
        let mapping = parse_mapping("10.0.1.4=10.0.1.40").unwrap();
        assert_eq!((mapping.from.to_string().as_str(), mapping.to.prefix()), ("10.0.1.4/32", 32));
        assert_eq!(parse_mapping("10.0.0.0/16=10.9.0.0/16").unwrap().to.to_string(), "10.9.0.0/16");
        assert!(parse_mapping("10.0.0.0/16").is_err() && parse_mapping("10.0.0.1/16=10.9.0.0/16").is_err());
    }

    #[test]
    fn an_override_names_one_thing_or_a_tag() {
        let one = parse_override("vol-00000000000000001:copy=deep").unwrap();
        assert_eq!((one.copy, one.tag, one.fidelity), (Some(CopyType::Deep), None, None));
        let some = parse_override("tag:tier=web:copy=deep,fidelity=exact").unwrap();
        assert_eq!(some.tag.unwrap(), TagMatch { key: "tier".into(), value: "web".into() });
        assert_eq!(some.fidelity, Some(Fidelity::Exact));
        for wrong in ["deep", "vol-1:copy=deep", "tag:tier=web:size=2", "tag:tier:copy=deep"] {
            assert!(parse_override(wrong).is_err(), "{wrong}");
        }
    }
}
