//! Why a flow passes or does not: the present configuration asked in the switch's order, and what the records say.
//!
//! Owns whose words an explanation quotes. The verdicts themselves are [`lucarne_model`]'s, which the switch asks too; the
//! order in which they are asked is the pure part, [`explain`].

use std::{net::Ipv4Addr, time::Duration};

use lucarne_api::{
    Call, Problem,
    bodies::{
        flow::{Asked, Explanation, Seen, WhyQuery, WhyStep},
        mitigation::Mitigation,
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, Cidr, EndReason, ErrorCode, FlowFilter, FlowQuery, FlowRecord, InstanceId, VpcId,
    flow::{Direction, Verdict},
    mitigation::{MitigatedFlow, MitigationAction},
    network::{NetworkInterface, Route, RouteTable, RouteTarget, Subnet, Vpc},
    network_acl::{AclEntry, NetworkAcl, judge},
    security_group::{Rule, SecurityGroup, TCP},
};

use super::{checks::refuse, network_acls::enforced};
use crate::{
    Caller, Controller, clock, rule_words as words,
    store::{Scope, Tx},
};

/// How far back records are looked at.
const SPAN: Duration = Duration::from_secs(24 * 3600);

/// An end of the flow that is in the account's networks, with all that judges it.
struct Inside {
    interface: NetworkInterface,
    subnet: Cidr,
    groups: Vec<SecurityGroup>,
    acl: Vec<AclEntry>,
    routes: Vec<Route>,
}

/// One end of the flow.
struct End {
    address: Ipv4Addr,
    /// None where the address is not one of the account's.
    inside: Option<Inside>,
}

/// The flow, as its first packet would describe it.
struct Flow {
    source: End,
    destination: End,
    protocol: u8,
    port: u16,
    /// The operator's orders; none are shown to tenants.
    mitigations: Vec<Mitigation>,
}

/// A step, and the end reason where it rejects.
type Decision = (WhyStep, Option<EndReason>);

/// Asks everyone in the switch's order, up to the first who rejects.
fn explain(flow: &Flow) -> Explanation {
    let mut steps = Vec::new();
    for decide in [mitigations, acl_at_source, groups_at_source, routes, acl_at_destination, groups_at_destination] {
        let Some((step, end_reason)) = decide(flow) else { continue };
        steps.push(step);
        if end_reason.is_some() {
            return Explanation { verdict: Verdict::Reject, end_reason, steps, seen: None };
        }
    }
    Explanation { verdict: Verdict::Accept, end_reason: None, steps, seen: None }
}

fn mitigations(flow: &Flow) -> Option<Decision> {
    let meant = |end: &End, remote: &End, direction| {
        let instance = end.inside.as_ref()?.interface.instance;
        let (protocol, port, remote) = (flow.protocol, flow.port, remote.address);
        let seen = MitigatedFlow { instance, remote, protocol, port, direction };
        flow.mitigations.iter().find(|order| order.action == MitigationAction::Block && order.target.matches(&seen))
    };
    let order = meant(&flow.source, &flow.destination, Direction::Egress)
        .or_else(|| meant(&flow.destination, &flow.source, Direction::Ingress))?;
    let text = format!("{} blocks it: {}", order.id, order.reason);
    Some(rejected(
        WhyStep { asked: Asked::Mitigations, verdict: Verdict::Reject, rule: None, since: Some(order.created), text },
        EndReason::AbuseMitigation,
    ))
}

const fn rejected(step: WhyStep, reason: EndReason) -> Decision {
    (step, Some(reason))
}

fn acl_at_source(flow: &Flow) -> Option<Decision> {
    acl(flow, flow.source.inside.as_ref()?, flow.destination.address, Direction::Egress, Asked::AclAtSource)
}

fn acl_at_destination(flow: &Flow) -> Option<Decision> {
    acl(flow, flow.destination.inside.as_ref()?, flow.source.address, Direction::Ingress, Asked::AclAtDestination)
}

/// Within a subnet nothing enters or leaves it, and no ACL is asked.
fn acl(flow: &Flow, inside: &Inside, remote: Ipv4Addr, direction: Direction, asked: Asked) -> Option<Decision> {
    if inside.subnet.contains(remote) || inside.acl.is_empty() {
        return None;
    }
    let (verdict, rule) = judge(&inside.acl, direction, flow.protocol, flow.port, remote);
    let entry = inside.acl.iter().find(|entry| Some(entry.id) == rule);
    let text = entry.map_or("no entry matches, so it is rejected".into(), words::entry);
    let reason = (verdict == Verdict::Reject).then_some(EndReason::DeniedByNetworkAcl);
    Some((WhyStep { asked, verdict, rule, since: entry.map(|entry| entry.created), text }, reason))
}

fn groups_at_source(flow: &Flow) -> Option<Decision> {
    let reason = EndReason::DeniedByGroupAtSource;
    groups(flow, (&flow.source, &flow.destination), Direction::Egress, Asked::GroupsAtSource, reason)
}

fn groups_at_destination(flow: &Flow) -> Option<Decision> {
    let reason = EndReason::DeniedByGroupAtDestination;
    groups(flow, (&flow.destination, &flow.source), Direction::Ingress, Asked::GroupsAtDestination, reason)
}

fn groups(
    flow: &Flow,
    (own, remote): (&End, &End),
    direction: Direction,
    asked: Asked,
    reason: EndReason,
) -> Option<Decision> {
    let inside = own.inside.as_ref()?;
    // A group's members are of its VPC; an address of another VPC is nobody's.
    let peer = remote.inside.as_ref().filter(|peer| peer.interface.vpc == inside.interface.vpc);
    let in_group = |group| peer.is_some_and(|peer| peer.interface.groups.contains(&group));
    let matches = |rule: &&Rule| rule.spec.matches(direction, flow.protocol, flow.port, remote.address, in_group);
    let found = inside.groups.iter().find_map(|group| Some((group, group.rules.iter().find(matches)?)));
    Some(match found {
        Some((group, rule)) => {
            let text = format!("`{}` allows {}", group.name, words::rule(rule));
            let (rule, since) = (Some(rule.id), Some(rule.created));
            (WhyStep { asked, verdict: Verdict::Accept, rule, since, text }, None)
        }
        None => {
            let names: Vec<String> = inside.groups.iter().map(|group| format!("`{}`", group.name)).collect();
            let text = format!("no rule of {} allows it", names.join(", "));
            rejected(WhyStep { asked, verdict: Verdict::Reject, rule: None, since: None, text }, reason)
        }
    })
}

/// The longest prefix wins.
fn routes(flow: &Flow) -> Option<Decision> {
    let inside = flow.source.inside.as_ref()?;
    let matching = inside.routes.iter().filter(|route| route.destination.contains(flow.destination.address));
    let best = matching.max_by_key(|route| route.destination.prefix());
    let leads = match best.map(|route| &route.target) {
        Some(RouteTarget::Local) => flow.destination.inside.is_some(),
        Some(RouteTarget::Interface { .. }) => true,
        Some(RouteTarget::Blackhole) | None => false,
    };
    let text = match best {
        Some(Route { destination, target: RouteTarget::Local }) if leads => format!("{destination} is the VPC itself"),
        Some(Route { destination, target: RouteTarget::Local }) => {
            format!("{destination} is the VPC itself, in which nobody has the address")
        }
        Some(Route { destination, target: RouteTarget::Interface { interface } }) => {
            format!("{destination} leads to {interface}")
        }
        Some(Route { destination, target: RouteTarget::Blackhole }) => format!("{destination} leads nowhere"),
        None => "no route leads there".into(),
    };
    let verdict = if leads { Verdict::Accept } else { Verdict::Reject };
    let step = WhyStep { asked: Asked::Routes, verdict, rule: None, since: None, text };
    Some((step, (!leads).then_some(EndReason::NoRoute)))
}

pub(crate) async fn explain_flow(
    controller: &Controller,
    call: Call<Caller, (), WhyQuery, Nothing>,
) -> Result<Json<Explanation>, Problem> {
    let (account, operator, query) = (call.caller.account, call.caller.operator, call.query);
    let flow = controller.store.read(move |tx| read(tx, account, operator, &query)).await?;
    let records = controller.collector.list(account, records_of(account, &flow)).await;
    let mut explanation = explain(&flow);
    match records {
        Ok(page) => explanation.seen = seen(&page.records),
        // The configuration can be explained without them.
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "an explanation goes without records"),
    }
    Ok(Json(explanation))
}

fn records_of(account: AccountId, flow: &Flow) -> FlowQuery {
    // Another of the account's networks may have the same addresses.
    let inside = flow.source.inside.as_ref().or(flow.destination.inside.as_ref());
    let filter = FlowFilter {
        vpc: inside.map(|inside| inside.interface.vpc),
        source: Some(flow.source.address.into()),
        destination: Some(flow.destination.address.into()),
        protocol: Some(flow.protocol),
        port: (flow.protocol != lucarne_model::security_group::ICMP).then_some(flow.port),
        ..FlowFilter::default()
    };
    FlowQuery { filter, limit: FlowQuery::MAX_LIMIT, ..FlowQuery::new(account, clock::now().minus(SPAN)) }
}

/// What records, newest first, say of the flow now, and since when without a break.
///
/// A flow that is refused where it arrives is accepted where it leaves, so that a refusal says more than an acceptance; unless
/// the same port has since accepted what it refused before.
fn seen(records: &[FlowRecord]) -> Option<Seen> {
    let is_undone = |refused: &FlowRecord| {
        let since = |record: &&FlowRecord| record.direction == refused.direction && record.start > refused.start;
        records.iter().filter(since).any(|record| record.verdict == Verdict::Accept)
    };
    let refused = records.iter().position(|record| record.verdict == Verdict::Reject && !is_undone(record));
    let at = refused.unwrap_or(0);
    let newest = records.get(at)?;
    let of_its_port = records[at..].iter().filter(|record| record.direction == newest.direction);
    let agree = |record: &&FlowRecord| record.verdict == newest.verdict && record.rule == newest.rule;
    let alike: Vec<&FlowRecord> = of_its_port.take_while(agree).collect();
    Some(Seen {
        verdict: newest.verdict,
        end_reason: newest.end_reason,
        rule: newest.rule,
        since: alike.iter().map(|record| record.start).min().unwrap_or(newest.start),
        last: newest.end,
        records: alike.len() as u32,
    })
}

fn read(tx: &Tx<'_>, account: AccountId, operator: bool, query: &WhyQuery) -> Result<Flow, Problem> {
    if let Some(vpc) = query.vpc {
        tx.get::<Vpc>(Scope::Account(account), vpc)?;
    }
    let interfaces = tx.list::<NetworkInterface>(Scope::Account(account))?;
    let named = |instance: Option<InstanceId>| named(&interfaces, instance);
    let (source, destination) = (named(query.source_instance)?, named(query.destination_instance)?);
    let vpc = query.vpc.or(source.map(|end| end.vpc)).or(destination.map(|end| end.vpc));
    let ends = [(source, query.source), (destination, query.destination)];
    let [source, destination] = ends.map(|(named, address)| end(tx, account, &interfaces, (named, address, vpc)));
    let (source, destination) = (source?, destination?);
    if source.inside.is_none() && destination.inside.is_none() {
        return Err(refuse("neither end is an interface of the account"));
    }
    let mitigations = if operator { tx.list::<Mitigation>(Scope::Everything)? } else { Vec::new() };
    Ok(Flow { source, destination, protocol: query.protocol.unwrap_or(TCP), port: query.port, mitigations })
}

fn named(interfaces: &[NetworkInterface], instance: Option<InstanceId>) -> Result<Option<&NetworkInterface>, Problem> {
    let Some(id) = instance else { return Ok(None) };
    let found = interfaces.iter().find(|interface| interface.instance == id);
    found
        .map(Some)
        .ok_or_else(|| Problem::new(ErrorCode::InvalidInstanceNotFound, format!("there is no instance {id}")))
}

/// An end by its instance or its address; within one VPC where that is known.
fn end(
    tx: &Tx<'_>,
    account: AccountId,
    interfaces: &[NetworkInterface],
    (named, address, vpc): (Option<&NetworkInterface>, Option<Ipv4Addr>, Option<VpcId>),
) -> Result<End, Problem> {
    let address = named.map(|interface| interface.address).or(address);
    let address = address.ok_or_else(|| refuse("each end is given by its address or its instance"))?;
    let is_it =
        |interface: &&NetworkInterface| interface.address == address && vpc.is_none_or(|vpc| interface.vpc == vpc);
    let found: Vec<&NetworkInterface> = named.map_or_else(|| interfaces.iter().filter(is_it).collect(), |it| vec![it]);
    let interface = match found[..] {
        [] => return Ok(End { address, inside: None }),
        [only] => only.clone(),
        [first, second, ..] => {
            let detail = format!("{address} is in {} and in {}: say which with vpc", first.vpc, second.vpc);
            return Err(Problem::new(ErrorCode::AmbiguousName, detail));
        }
    };
    let scope = Scope::Account(account);
    let subnet: Subnet = tx.get(scope, interface.subnet)?;
    let groups = interface.groups.iter().map(|group| tx.get(scope, group)).collect::<Result<_, _>>()?;
    let acl = enforced(tx.get::<NetworkAcl>(scope, subnet.network_acl)?);
    let routes = tx.get::<RouteTable>(scope, subnet.route_table)?.routes;
    Ok(End { address, inside: Some(Inside { interface, subnet: subnet.cidr, groups, acl, routes }) })
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        ConnState, History, HostId, InterfaceId, MacAddress, Moment, RuleId, SecurityGroupId, SubnetId, Tags,
        flow::{Location, Path, Side},
        security_group::{Peer, RuleSpec, Traffic},
    };

    use super::*;

    fn inside(number: u8, rules: Vec<RuleSpec>) -> Inside {
        let group = SecurityGroupId::from_bits(number.into());
        let rule = |(index, spec): (usize, RuleSpec)| Rule {
            id: RuleId::from_bits(index as u128),
            created: Moment::EPOCH,
            spec,
        };
        Inside {
            interface: NetworkInterface {
                id: InterfaceId::from_bits(number.into()),
                account: AccountId::OPERATOR,
                vpc: VpcId::from_bits(1),
                subnet: SubnetId::from_bits(number.into()),
                instance: InstanceId::from_bits(number.into()),
                address: Ipv4Addr::new(10, 0, number, 4),
                mac: MacAddress::from_bits(number.into()),
                groups: vec![group],
                created: Moment::EPOCH,
                counters: None,
                tags: Tags::default(),
            },
            subnet: format!("10.0.{number}.0/24").parse().unwrap(),
            groups: vec![SecurityGroup {
                id: group,
                account: AccountId::OPERATOR,
                vpc: VpcId::from_bits(1),
                name: format!("group-{number}"),
                description: String::new(),
                rules: rules.into_iter().enumerate().map(rule).collect(),
                created: Moment::EPOCH,
                tags: Tags::default(),
            }],
            acl: Vec::new(),
            routes: vec![Route { destination: "10.0.0.0/16".parse().unwrap(), target: RouteTarget::Local }],
        }
    }

    fn flow(allowed_in: Vec<RuleSpec>) -> Flow {
        let end = |inside: Inside| End { address: inside.interface.address, inside: Some(inside) };
        let source = end(inside(1, vec![RuleSpec::allow_all_outbound()]));
        Flow { source, destination: end(inside(2, allowed_in)), protocol: TCP, port: 80, mitigations: Vec::new() }
    }

    fn from_group(group: u128) -> RuleSpec {
        RuleSpec {
            direction: Direction::Ingress,
            traffic: Traffic::Tcp { from_port: 80, to_port: 80 },
            peer: Peer::Group { group: SecurityGroupId::from_bits(group) },
        }
    }

    #[test]
    fn what_is_allowed_is_explained_by_the_rules_that_allow_it() {
        let explanation = explain(&flow(vec![from_group(1)]));
        assert_eq!((explanation.verdict, explanation.end_reason), (Verdict::Accept, None));
        let asked: Vec<Asked> = explanation.steps.iter().map(|step| step.asked).collect();
        assert_eq!(asked, [Asked::GroupsAtSource, Asked::Routes, Asked::GroupsAtDestination]);
        assert!(explanation.steps[2].text.contains("TCP to port 80 from members of sg-"), "{explanation:?}");
    }

    #[test]
    fn the_first_who_rejects_ends_the_explanation() {
        let explanation = explain(&flow(vec![from_group(9)]));
        assert_eq!(explanation.end_reason, Some(EndReason::DeniedByGroupAtDestination));
        assert!(explanation.steps.last().unwrap().text.contains("`group-2`"));
        let mut lost = flow(vec![from_group(1)]);
        lost.source.inside.as_mut().unwrap().routes.clear();
        let explanation = explain(&lost);
        assert_eq!(explanation.end_reason, Some(EndReason::NoRoute));
        assert_eq!(explanation.steps.last().unwrap().asked, Asked::Routes);
    }

    #[test]
    fn an_acl_is_asked_between_subnets_and_names_its_entry() {
        let entry = AclEntry {
            id: RuleId::from_bits(5),
            created: Moment::from_secs(3),
            number: 90,
            direction: Direction::Ingress,
            action: Verdict::Reject,
            traffic: Traffic::All,
            cidr: Cidr::ANY,
        };
        let mut guarded = flow(vec![from_group(1)]);
        guarded.destination.inside.as_mut().unwrap().acl.push(entry);
        let step = explain(&guarded).steps.pop().unwrap();
        assert_eq!((step.asked, step.rule, step.since), (Asked::AclAtDestination, Some(entry.id), Some(entry.created)));
        guarded.destination.inside.as_mut().unwrap().subnet = "10.0.0.0/16".parse().unwrap();
        assert_eq!(explain(&guarded).verdict, Verdict::Accept, "within a subnet there is nothing to enter");
    }

    /// Of five seconds from `start` on.
    fn record(direction: Direction, verdict: Verdict, rule: u128, start: u64) -> FlowRecord {
        let end_reason = match verdict {
            Verdict::Accept => EndReason::FinBothSides,
            Verdict::Reject => EndReason::DeniedByGroupAtDestination,
        };
        FlowRecord {
            flow_id: 1,
            account: AccountId::OPERATOR,
            instance: InstanceId::from_bits(1),
            interface: InterfaceId::from_bits(1),
            subnet: SubnetId::from_bits(1),
            vpc: VpcId::from_bits(1),
            host: HostId::from_bits(1),
            location: Location::default(),
            groups: Vec::new(),
            rule: Some(RuleId::from_bits(rule)),
            verdict,
            end_reason,
            direction,
            path: Path::SameHost,
            side: Side::Initiator,
            start: Moment::from_secs(start),
            end: Moment::from_secs(start + 5),
            packets: 1,
            bytes: 60,
            source: Ipv4Addr::new(10, 0, 1, 4).into(),
            destination: Ipv4Addr::new(10, 0, 2, 4).into(),
            source_port: 30_000,
            destination_port: 80,
            protocol: TCP,
            icmp_type: None,
            icmp_code: None,
            tos: 0,
            tcp_flags: 2,
            ttl: 64,
            source_prefix_length: None,
            destination_prefix_length: None,
            next_hop: None,
            history: History::default(),
            conn_state: ConnState::S0,
            round_trip: None,
            retransmissions: 0,
            zero_windows: 0,
            ingress_interface: 0,
            egress_interface: 0,
            mitigation: None,
        }
    }

    #[test]
    fn what_is_refused_where_it_arrives_is_refused_though_it_was_let_out() {
        use {Direction::*, Verdict::*};
        let records = [record(Egress, Accept, 1, 20), record(Ingress, Reject, 2, 20), record(Ingress, Reject, 2, 10)];
        let seen = seen(&records).unwrap();
        assert_eq!((seen.verdict, seen.rule), (Reject, Some(RuleId::from_bits(2))));
        assert_eq!((seen.since, seen.last, seen.records), (Moment::from_secs(10), Moment::from_secs(25), 2));
    }

    #[test]
    fn a_refusal_that_was_repaired_since_is_not_told_as_what_happens_now() {
        use {Direction::*, Verdict::*};
        let records = [record(Ingress, Accept, 3, 30), record(Egress, Accept, 1, 30), record(Ingress, Reject, 2, 20)];
        let seen = seen(&records).unwrap();
        assert_eq!((seen.verdict, seen.since, seen.records), (Accept, Moment::from_secs(30), 1));
    }

    #[test]
    fn since_when_is_told_without_a_break() {
        use {Direction::*, Verdict::*};
        let records = [record(Ingress, Reject, 2, 40), record(Ingress, Accept, 3, 30), record(Ingress, Reject, 2, 20)];
        let seen = seen(&records).unwrap();
        assert_eq!((seen.since, seen.records), (Moment::from_secs(40), 1));
        assert_eq!(super::seen(&[]), None);
    }
}
