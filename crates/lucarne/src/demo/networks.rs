//! The chapter "networks": two tenants with the same addresses on the same two hosts, apart from each other, and flow
//! records that say which packets a security group dropped and which the machine itself refused.
//!
//! Owns the tables of machines, probes and expected records. Tenant A has a1 and a2 in two subnets on two hosts. Tenant B
//! has b1 at a2's address, on a1's host, where a mix-up would be nearest, and b2 at an address that A does not have.

use std::{net::Ipv4Addr, time::Duration};

use futures::future::try_join_all;
use lucarne_api::{
    bodies::{flow::FlowsQuery, instance::LaunchInstances},
    client::Client,
};
use lucarne_model::{
    Bytes, Cidr, EndReason, ErrorCode, HostId, ImageId, InstanceId, Tags, TenantFlowRecord, Vcpus,
    flow::Verdict,
    instance::{Instance, Placement},
    security_group::Traffic,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Stage,
    probes::{self, Attempt, Expected, Heard, Probe},
    report::Story,
    tenant::Tenant,
};
use crate::{
    commands::{flow::list_flows, instance::log},
    dev::furnish,
    failure::{Failure, LocalCode},
    kind::IMAGE,
    listing::resolve,
    session::{answer, now, random_key},
    wait::Progress,
};

pub(crate) const TITLE: &str = "two tenants with the same addresses";

const A: usize = 0;
const B: usize = 1;
pub(super) const NETWORK: &str = "10.0.0.0/16";
const SUBNETS: [&[&str]; 2] = [&["10.0.1.0/24", "10.0.2.0/24"], &["10.0.2.0/24"]];
pub(super) const MEMORY: Bytes = Bytes::mib(128);

/// The one that serves listens here, but its group does not let it in.
pub(super) const DENIED_PORT: u16 = 8082;
/// The group lets it in, but nobody listens.
pub(super) const REFUSED_PORT: u16 = 8081;

/// What every machine's group lets in.
pub(super) const ALLOWED: &[Traffic] = &[
    Traffic::Icmp { icmp_type: None, icmp_code: None },
    Traffic::Tcp { from_port: 80, to_port: 80 },
    Traffic::Tcp { from_port: REFUSED_PORT, to_port: REFUSED_PORT },
];

struct Machine {
    name: &'static str,
    tenant: usize,
    subnet: usize,
    address: Ipv4Addr,
    host: usize,
    page: &'static str,
    ports: &'static [u16],
    probes: &'static [Probe],
}

/// The ones that are asked first, so that they boot first.
const MACHINES: &[Machine] = &[
    Machine {
        name: "a2",
        tenant: A,
        subnet: 1,
        address: Ipv4Addr::new(10, 0, 2, 10),
        host: 1,
        page: "page of a2, tenant A",
        ports: &[80, DENIED_PORT],
        probes: A2_PROBES,
    },
    Machine {
        name: "b1",
        tenant: B,
        subnet: 0,
        address: Ipv4Addr::new(10, 0, 2, 10),
        host: 0,
        page: "page of b1, tenant B",
        ports: &[80, DENIED_PORT],
        probes: &[],
    },
    Machine {
        name: "a1",
        tenant: A,
        subnet: 0,
        address: Ipv4Addr::new(10, 0, 1, 10),
        host: 0,
        page: "page of a1, tenant A",
        ports: &[80],
        probes: A1_PROBES,
    },
    Machine {
        name: "b2",
        tenant: B,
        subnet: 0,
        address: Ipv4Addr::new(10, 0, 2, 20),
        host: 1,
        page: "page of b2, tenant B",
        ports: &[80],
        probes: B2_PROBES,
    },
];

const A1_PROBES: &[Probe] = &[
    Probe {
        name: "page",
        attempt: Attempt::PageInTheEnd("10.0.2.10"),
        expected: Expected::Page("page of a2, tenant A"),
        step: "a1 fetches the page of 10.0.2.10 across subnets and hosts: A's machine, not B's on its own host",
    },
    Probe { name: "echo", attempt: Attempt::Ping("10.0.2.10"), expected: Expected::ThreeAnswers, step: "a1 pings a2" },
    Probe {
        name: "refused",
        attempt: Attempt::Page("10.0.2.10:8081"),
        expected: Expected::Refusal,
        step: "a1 asks a2 on a port that its group allows and nobody listens on",
    },
    Probe {
        name: "denied",
        attempt: Attempt::Page("10.0.2.10:8082"),
        expected: Expected::Silence,
        step: "a1 asks a2 on a port that it listens on and its group denies",
    },
    Probe {
        name: "stranger",
        attempt: Attempt::Page("10.0.2.20"),
        expected: Expected::Silence,
        step: "a1 asks 10.0.2.20, which only tenant B has",
    },
];
const A2_PROBES: &[Probe] = &[Probe {
    name: "page",
    attempt: Attempt::PageInTheEnd("10.0.1.10"),
    expected: Expected::Page("page of a1, tenant A"),
    step: "a2 fetches the page of a1, the other way",
}];
const B2_PROBES: &[Probe] = &[
    Probe {
        name: "page",
        attempt: Attempt::PageInTheEnd("10.0.2.10"),
        expected: Expected::Page("page of b1, tenant B"),
        step: "b2 fetches the page of the same 10.0.2.10, which is B's own to tenant B",
    },
    Probe {
        name: "stranger",
        attempt: Attempt::Page("10.0.1.10"),
        expected: Expected::Silence,
        step: "b2 asks 10.0.1.10, which only tenant A has",
    },
];

struct ExpectedRecord {
    step: &'static str,
    port: u16,
    verdict: Verdict,
    end_reason: EndReason,
}

/// Records at a2's interface.
const RECORDS: &[ExpectedRecord] = &[
    ExpectedRecord {
        step: "the flow record of the denied port names the group",
        port: DENIED_PORT,
        verdict: Verdict::Reject,
        end_reason: EndReason::DeniedByGroupAtDestination,
    },
    ExpectedRecord {
        step: "the flow record of the refused port names the machine",
        port: REFUSED_PORT,
        verdict: Verdict::Accept,
        end_reason: EndReason::RefusedByVm,
    },
];

const PROBES_TIME: Duration = Duration::from_secs(75);
const RECORDS_TIME: Duration = Duration::from_secs(40);
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

pub(crate) async fn play(stage: &Stage, story: &mut Story) {
    super::with_tenants(stage, story, async |story, tenants| scenes(stage, story, tenants).await).await;
}

async fn scenes(stage: &Stage, story: &mut Story, tenants: &mut Vec<Tenant>) -> Result<(), Failure> {
    let hosts = two_hosts(stage).await?;
    let image: ImageId = resolve(&stage.operator, &IMAGE, "tiny").await?;
    let mark = &random_key()[..8];
    for name in ["demo-a", "demo-b"] {
        tenants.push(Tenant::create(&stage.operator, name, mark, stage.allow_plaintext).await?);
    }
    let instances = launch_all(tenants, image, &hosts).await?;
    tell_launch(story, tenants, &instances, &hosts);
    tell_strangers_id(story, &tenants[B], &instances).await;
    tell_probes(story, tenants, &instances).await?;
    tell_records(story, tenants, &instances).await
}

pub(super) async fn two_hosts(stage: &Stage) -> Result<Vec<HostId>, Failure> {
    let hosts = furnish::hosts_up(&stage.operator).await?;
    let ids: Vec<HostId> = hosts.iter().filter_map(|host| host["id"].as_str()?.parse().ok()).take(2).collect();
    if ids.len() == 2 {
        return Ok(ids);
    }
    let detail = format!("this chapter needs two hosts that are up, and there are {}", hosts.len());
    Err(Failure::problem(ErrorCode::InsufficientInstanceCapacity, detail))
}

/// Makes both networks and launches all machines, in the order of [`MACHINES`].
async fn launch_all(tenants: &[Tenant], image: ImageId, hosts: &[HostId]) -> Result<Vec<Instance>, Failure> {
    let _progress = Progress::start("two networks, four machines");
    let network: Cidr = cidr(NETWORK)?;
    let mut requests = Vec::new();
    for (index, tenant) in tenants.iter().enumerate() {
        let vpc = tenant.vpc(network).await?;
        let group = tenant.group(vpc, "web", ALLOWED, network).await?;
        let mut subnets = Vec::new();
        for subnet in SUBNETS[index] {
            subnets.push(tenant.subnet(vpc, cidr(subnet)?).await?);
        }
        for machine in MACHINES.iter().filter(|machine| machine.tenant == index) {
            let request = LaunchInstances {
                memory_settings: Default::default(),
                image,
                subnet: subnets[machine.subnet],
                memory: Some(MEMORY),
                vcpus: Some(Vcpus(1)),
                count: None,
                security_groups: vec![group],
                address: Some(machine.address),
                cold: false,
                virtual_tpm: false,
                attestation: None,
                user_data: Some(probes::script(machine.page, machine.ports, machine.probes)),
                volumes: Vec::new(),
                placement: Placement { host: Some(hosts[machine.host]), ..Placement::default() },
                tags: Tags::named(machine.name),
            };
            requests.push((machine.name, request));
        }
    }
    let launches = MACHINES.iter().filter_map(|machine| {
        let request = requests.iter().find(|(name, _)| *name == machine.name).map(|(_, request)| request)?;
        Some(tenants[machine.tenant].launch(request))
    });
    let instances = try_join_all(launches).await?;
    let running = MACHINES.iter().zip(&instances).map(|(m, instance)| tenants[m.tenant].until_running(instance.id));
    try_join_all(running).await?;
    Ok(instances)
}

pub(super) fn cidr(text: &str) -> Result<Cidr, Failure> {
    text.parse().map_err(|cause: lucarne_model::address::ParseAddressError| Failure::wrong_usage(cause.to_string()))
}

fn tell_launch(story: &mut Story, tenants: &[Tenant], instances: &[Instance], hosts: &[HostId]) {
    let machines = MACHINES.iter().zip(instances);
    let placed = machines.clone().all(|(machine, instance)| instance.address == machine.address);
    let seen: Vec<_> = machines
        .map(|(machine, i)| format!("{} {} {} on {}", machine.name, i.id, i.address, hosts[machine.host]))
        .collect();
    let accounts: Vec<_> = tenants.iter().map(|tenant| format!("{} is {}", tenant.name, tenant.account)).collect();
    story.step(
        "two tenants with the network 10.0.0.0/16 each, four machines on two hosts; a2 and b1 have the same address",
        "all run, at the addresses asked for",
        format!("{}; {}", accounts.join(", "), seen.join("; ")),
        placed,
    );
}

/// Tenant B asks the API for a machine of tenant A.
async fn tell_strangers_id(story: &mut Story, b: &Tenant, instances: &[Instance]) {
    let id: InstanceId = instances[0].id;
    let asked = b.session.read(async |client: Client| answer::<_, Value>(client.get_instance(&id)).await).await;
    let expected = ErrorCode::InvalidInstanceNotFound;
    let held = asked.as_ref().is_err_and(|failure| failure.code() == Some(expected));
    let seen = asked.map_or_else(|failure| failure.to_string(), |_| "it was shown".into());
    story.step("tenant B asks the API for a machine of tenant A by its id", expected.name(), seen, held);
}

/// Reads what the guests say until all have said everything, and judges it.
async fn tell_probes(story: &mut Story, tenants: &[Tenant], instances: &[Instance]) -> Result<(), Failure> {
    let heard = {
        let _progress = Progress::start("the machines try each other");
        try_join_all(MACHINES.iter().zip(instances).map(|(m, instance)| listen(&tenants[m.tenant], m, instance.id)))
            .await?
    };
    for (machine, heard) in MACHINES.iter().zip(&heard) {
        for probe in machine.probes {
            let seen = heard.results.get(probe.name).map_or("nothing was said on the console", String::as_str);
            story.step(probe.step, probe.expected.words(), seen, probe.expected.held(seen));
        }
    }
    Ok(())
}

async fn listen(tenant: &Tenant, machine: &Machine, id: InstanceId) -> Result<Heard, Failure> {
    let deadline = tokio::time::Instant::now() + PROBES_TIME;
    loop {
        let heard = probes::hear(&log(&tenant.session, id).await?);
        if heard.ended || machine.probes.is_empty() || tokio::time::Instant::now() > deadline {
            return Ok(heard);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

async fn tell_records(story: &mut Story, tenants: &[Tenant], instances: &[Instance]) -> Result<(), Failure> {
    let (a, a2) = (&tenants[A], instances[0].id);
    for expected in RECORDS {
        let found = find_record(a, a2, expected).await?;
        let wanted = format!("{}, {}, account {}, {a2}", word(&expected.verdict), expected.end_reason, a.account);
        let matches = |record: &TenantFlowRecord| {
            expected.matches(record) && record.account == a.account && record.instance == a2
        };
        let held = found.first().is_some_and(matches);
        let seen = found.first().map_or_else(|| "no record".into(), told);
        story.step(expected.step, wanted, seen, held);
    }
    let query = FlowsQuery { since: Some(now().minus(Duration::from_secs(600))), ..FlowsQuery::default() };
    let of_b: Vec<TenantFlowRecord> = typed(list_flows(&tenants[B].session, &query, None).await?)?;
    let strange = of_b.iter().filter(|record| record.account != tenants[B].account).count();
    let seen = format!("{} records, {strange} of another tenant", of_b.len());
    story.step(
        "tenant B sees its own flows only",
        "records, none of another tenant",
        seen,
        strange == 0 && !of_b.is_empty(),
    );
    Ok(())
}

/// Looks until a record is there that is as expected; else the best that there is.
async fn find_record(a: &Tenant, a2: InstanceId, expected: &ExpectedRecord) -> Result<Vec<TenantFlowRecord>, Failure> {
    let _progress = Progress::start(format!("waiting for the flow records of port {}", expected.port));
    let since = Some(now().minus(Duration::from_secs(600)));
    let query = FlowsQuery { since, instance: Some(a2), port: Some(expected.port), ..FlowsQuery::default() };
    let deadline = tokio::time::Instant::now() + RECORDS_TIME;
    loop {
        let mut found: Vec<TenantFlowRecord> = typed(list_flows(&a.session, &query, Some(100)).await?)?;
        found.sort_by_key(|record| !expected.matches(record));
        let there = found.first().is_some_and(|record| expected.matches(record));
        if there || tokio::time::Instant::now() > deadline {
            return Ok(found);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

impl ExpectedRecord {
    fn matches(&self, record: &TenantFlowRecord) -> bool {
        record.destination_port == self.port && record.verdict == self.verdict && record.end_reason == self.end_reason
    }
}

fn told(record: &TenantFlowRecord) -> String {
    format!(
        "{}:{} -> {}:{} {}, {}, account {}, {}, {} packets",
        record.source,
        record.source_port,
        record.destination,
        record.destination_port,
        word(&record.verdict),
        record.end_reason,
        record.account,
        record.instance,
        record.packets,
    )
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "accept",
        Verdict::Reject => "reject",
    }
}

fn typed<T: DeserializeOwned>(values: Vec<Value>) -> Result<Vec<T>, Failure> {
    let read = serde_json::from_value(Value::Array(values));
    read.map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cast_plays_the_story_that_the_chapter_tells() {
        let machine = |name: &str| MACHINES.iter().find(|machine| machine.name == name).unwrap();
        assert_eq!(machine("a2").address, machine("b1").address, "both tenants use one address");
        assert_ne!(machine("a1").host, machine("a2").host, "tenant A is on both hosts");
        assert_eq!(machine("a1").host, machine("b1").host, "a mix-up would be nearest");
        assert!(MACHINES.iter().all(|m| m.tenant == B || m.address != machine("b2").address), "only B has it");
        assert_eq!(MACHINES[0].name, "a2", "records are looked for at a2");
        for machine in MACHINES {
            assert!(
                cidr(SUBNETS[machine.tenant][machine.subnet]).unwrap().contains(machine.address),
                "{}",
                machine.name
            );
        }
    }

    #[test]
    fn the_two_refusals_differ_in_verdict_and_reason() {
        assert_ne!(RECORDS[0].verdict, RECORDS[1].verdict);
        assert_ne!(RECORDS[0].end_reason, RECORDS[1].end_reason);
    }
}
