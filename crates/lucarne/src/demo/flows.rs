//! The chapter "flows": one machine looks around its network, and for each thing that it tries the flow records say what
//! became of it and who decided that: a route, a rule, the other machine, its silence, or the provider.
//!
//! Owns the cast and the table of expected records. c2 answers, c3 has gone deaf: it has an address and a port, and takes
//! its link down. c1 is started last, so that it finds both as they shall be.

use std::{net::Ipv4Addr, time::Duration};

use lucarne_api::{
    bodies::{flow::FlowsQuery, instance::LaunchInstances, mitigation::CreateMitigation},
    client::Client,
};
use lucarne_model::{
    Cidr, EndReason, HostId, ImageId, InstanceId, Tags, Vcpus, VpcId,
    instance::{Instance, Placement},
    mitigation::{MitigationAction, MitigationTarget},
    security_group::TCP,
};
use serde_json::Value;

use super::{
    Stage,
    networks::{ALLOWED, BETWEEN_LOOKS, DENIED_PORT, MEMORY, NETWORK, REFUSED_PORT, cidr, two_hosts},
    probes::{self, Attempt, Expected, Heard, Probe},
    questions::{self, Scene},
    report::Story,
    tenant::Tenant,
};
use crate::{
    commands::{flow::list_flows, instance::log},
    failure::Failure,
    kind::IMAGE,
    listing::resolve,
    session::{answer, now, random_key},
    wait::Progress,
};

pub(crate) const TITLE: &str = "whose every flow was, and why it ended";

const SUBNETS: [&str; 2] = ["10.0.1.0/24", "10.0.2.0/24"];

struct Machine {
    name: &'static str,
    subnet: usize,
    address: Ipv4Addr,
    host: usize,
    ports: &'static [u16],
    probes: &'static [Probe],
    /// What it does after its probes.
    last: &'static str,
}

const C1: usize = 0;
const C2: usize = 1;
const C3: usize = 2;
const CAST: [Machine; 3] = [
    Machine {
        name: "c1",
        subnet: 0,
        address: Ipv4Addr::new(10, 0, 1, 10),
        host: 0,
        ports: &[],
        probes: C1_PROBES,
        last: "",
    },
    Machine {
        name: "c2",
        subnet: 1,
        address: Ipv4Addr::new(10, 0, 2, 10),
        host: 1,
        ports: &[80, DENIED_PORT],
        probes: &[],
        last: "",
    },
    Machine {
        name: "c3",
        subnet: 1,
        address: Ipv4Addr::new(10, 0, 2, 11),
        host: 1,
        ports: &[80],
        probes: &[],
        last: "ip link set eth0 down\n",
    },
];

/// The last octets of what is swept: more addresses than a finding needs.
const SWEEP_FIRST: u8 = 5;
const SWEEP_LAST: u8 = 124;

const C1_PROBES: &[Probe] = &[
    Probe {
        name: "page",
        attempt: Attempt::PageInTheEnd("10.0.2.10"),
        expected: Expected::Page("page of c2"),
        step: "c1 fetches the page of c2, on the other host",
    },
    Probe {
        name: "sweep",
        attempt: Attempt::Sweep("10.0.2", SWEEP_FIRST, SWEEP_LAST),
        expected: Expected::Page("1 of 120 answer"),
        step: "c1 sweeps 10.0.2.5 to 10.0.2.124 with echo requests",
    },
    Probe {
        name: "refused",
        attempt: Attempt::Page("10.0.2.10:8081"),
        expected: Expected::Refusal,
        step: "c1 asks c2 on a port that its group allows and nobody listens on",
    },
    Probe {
        name: "denied",
        attempt: Attempt::Page("10.0.2.10:8082"),
        expected: Expected::Silence,
        step: "c1 asks c2 on a port that it listens on and its group denies",
    },
    Probe {
        name: "deaf",
        attempt: Attempt::Page("10.0.2.11"),
        expected: Expected::Silence,
        step: "c1 asks c3, which is there and has gone deaf",
    },
    Probe {
        name: "mitigated",
        attempt: Attempt::PageUntilSilence("10.0.2.10"),
        expected: Expected::Silence,
        step: "c1 fetches c2's page again and again, until the provider blocks it",
    },
];
/// The last probe before the one that goes on until something is done.
const BEFORE_MITIGATION: &str = "deaf";

/// What the records of one machine's interface should say.
struct ExpectedRecord {
    step: &'static str,
    at: usize,
    peer: Ipv4Addr,
    port: u16,
    verdict: &'static str,
    end_reason: EndReason,
    /// Whether the record must name the rule that let it in.
    ruled: bool,
}

const RECORDS: &[ExpectedRecord] = &[
    ExpectedRecord {
        step: "what c1 sent to an address that nobody has found no way",
        at: C1,
        peer: Ipv4Addr::new(10, 0, 2, 8),
        port: 0,
        verdict: "reject",
        end_reason: EndReason::NoRoute,
        ruled: false,
    },
    ExpectedRecord {
        step: "the page was let in by a rule, which the record names",
        at: C2,
        peer: CAST[C1].address,
        port: 80,
        verdict: "accept",
        end_reason: EndReason::FinBothSides,
        ruled: true,
    },
    ExpectedRecord {
        step: "the closed port was refused by the machine",
        at: C2,
        peer: CAST[C1].address,
        port: REFUSED_PORT,
        verdict: "accept",
        end_reason: EndReason::RefusedByVm,
        ruled: true,
    },
    ExpectedRecord {
        step: "the other port was denied by c2's group",
        at: C2,
        peer: CAST[C1].address,
        port: DENIED_PORT,
        verdict: "reject",
        end_reason: EndReason::DeniedByGroupAtDestination,
        ruled: false,
    },
    ExpectedRecord {
        step: "the deaf machine was let have it, and did not answer",
        at: C3,
        peer: CAST[C1].address,
        port: 80,
        verdict: "accept",
        end_reason: EndReason::NoAnswerFromVm,
        ruled: true,
    },
    ExpectedRecord {
        step: "what the provider blocked says so, to the tenant too",
        at: C2,
        peer: CAST[C1].address,
        port: 80,
        verdict: "reject",
        end_reason: EndReason::AbuseMitigation,
        ruled: false,
    },
];

const BOOT_TIME: Duration = Duration::from_secs(60);
const PROBES_TIME: Duration = Duration::from_secs(90);
/// A handshake without an answer is over after 20 s.
const RECORDS_TIME: Duration = Duration::from_secs(60);

pub(crate) async fn play(stage: &Stage, story: &mut Story) {
    super::with_tenants(stage, story, async |story, tenants| scenes(stage, story, tenants).await).await;
}

async fn scenes(stage: &Stage, story: &mut Story, tenants: &mut Vec<Tenant>) -> Result<(), Failure> {
    let hosts = two_hosts(stage).await?;
    let image: ImageId = resolve(&stage.operator, &IMAGE, "tiny").await?;
    tenants.push(Tenant::create(&stage.operator, "demo-c", &random_key()[..8], stage.allow_plaintext).await?);
    let tenant = &tenants[0];
    let (vpc, instances) = launch_cast(tenant, image, &hosts).await?;
    let mitigation = tell_probes(stage, story, tenant, &instances).await?;
    let told = match tell_records(story, tenant, &instances).await {
        Ok(()) => questions::tell(story, tenant, &scene(vpc, &instances)).await,
        failed => failed,
    };
    let ended: Result<Value, Failure> = stage
        .operator
        .change(async |client: Client| answer(client.delete_mitigation(&mitigation, None, None)).await)
        .await;
    told.and(ended.map(drop))
}

fn scene(vpc: VpcId, instances: &[Instance]) -> Scene {
    let swept = u64::from(SWEEP_LAST - SWEEP_FIRST + 1);
    Scene { vpc, from: instances[C1].id, to: instances[C2].id, swept }
}

/// Launches c2 and c3, and c1 when they are ready for it. In the order of [`CAST`].
async fn launch_cast(tenant: &Tenant, image: ImageId, hosts: &[HostId]) -> Result<(VpcId, Vec<Instance>), Failure> {
    let _progress = Progress::start("one network, three machines");
    let network: Cidr = cidr(NETWORK)?;
    let vpc = tenant.vpc(network).await?;
    let group = tenant.group(vpc, "web", ALLOWED, network).await?;
    let mut subnets = Vec::new();
    for subnet in SUBNETS {
        subnets.push(tenant.subnet(vpc, cidr(subnet)?).await?);
    }
    let launch = async |machine: &Machine| {
        let page = format!("page of {}", machine.name);
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
            user_data: Some(probes::script(&page, machine.ports, machine.probes) + machine.last),
            volumes: Vec::new(),
            placement: Placement { host: Some(hosts[machine.host]), ..Placement::default() },
            tags: Tags::named(machine.name),
        };
        tenant.launch(&request).await
    };
    let (c2, c3) = (launch(&CAST[C2]).await?, launch(&CAST[C3]).await?);
    for instance in [&c2, &c3] {
        tenant.until_running(instance.id).await?;
        hear(tenant, instance.id, BOOT_TIME, |heard| heard.ended).await?;
    }
    let c1 = launch(&CAST[C1]).await?;
    tenant.until_running(c1.id).await?;
    Ok((vpc, vec![c1, c2, c3]))
}

/// Listens to a machine until it has said what is waited for, or for so long.
async fn hear(
    tenant: &Tenant,
    id: InstanceId,
    patience: Duration,
    enough: impl Fn(&Heard) -> bool,
) -> Result<Heard, Failure> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let heard = probes::hear(&log(&tenant.session, id).await?);
        if enough(&heard) || tokio::time::Instant::now() > deadline {
            return Ok(heard);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Tells what c1 found, and orders the mitigation that ends its last probe. Returns the mitigation.
async fn tell_probes(
    stage: &Stage,
    story: &mut Story,
    tenant: &Tenant,
    instances: &[Instance],
) -> Result<lucarne_model::MitigationId, Failure> {
    let _progress = Progress::start("c1 looks around");
    let c1 = instances[C1].id;
    hear(tenant, c1, PROBES_TIME, |heard| heard.results.contains_key(BEFORE_MITIGATION)).await?;
    let body = CreateMitigation {
        target: MitigationTarget {
            instance: Some(instances[C2].id),
            protocol: Some(TCP),
            port: Some(80),
            ..MitigationTarget::default()
        },
        action: MitigationAction::Block,
        reason: "shown by lucarne demo".into(),
        lasts_seconds: Some(600),
        tags: Tags::default(),
    };
    let made: lucarne_api::bodies::mitigation::Mitigation =
        stage.operator.change(async |client: Client| answer(client.create_mitigation(None, None, &body)).await).await?;
    let heard = hear(tenant, c1, PROBES_TIME, |heard| heard.ended).await?;
    for probe in C1_PROBES {
        let seen = heard.results.get(probe.name).map_or("nothing was said on the console", String::as_str);
        story.step(probe.step, probe.expected.words(), seen, probe.expected.held(seen));
    }
    Ok(made.id)
}

async fn tell_records(story: &mut Story, tenant: &Tenant, instances: &[Instance]) -> Result<(), Failure> {
    let _progress = Progress::start("waiting for the flow records");
    for expected in RECORDS {
        let id = instances[expected.at].id;
        let record = find_record(tenant, id, expected).await?;
        let owner = format!("account {}, {id}", tenant.account);
        let rule = if expected.ruled { ", with its rule" } else { "" };
        let wanted = format!("{}, {}, {owner}{rule}", expected.verdict, expected.end_reason);
        let held = record.as_ref().is_some_and(|record| expected.matches(record));
        story.step(expected.step, wanted, record.as_ref().map_or_else(|| "no record".into(), told), held);
    }
    let leaked = all_records(tenant).await?.iter().filter(|record| !record["mitigation"].is_null()).count();
    story.step(
        "the provider's own order stays its own",
        "no record names it",
        format!("{leaked} records name it"),
        leaked == 0,
    );
    Ok(())
}

async fn all_records(tenant: &Tenant) -> Result<Vec<Value>, Failure> {
    let query = FlowsQuery { since: Some(now().minus(Duration::from_secs(600))), ..FlowsQuery::default() };
    list_flows(&tenant.session, &query, None).await
}

/// Looks until a record is there that is as expected; else the best that there is.
async fn find_record(tenant: &Tenant, at: InstanceId, expected: &ExpectedRecord) -> Result<Option<Value>, Failure> {
    let since = Some(now().minus(Duration::from_secs(600)));
    let query = FlowsQuery { since, instance: Some(at), peer: Some(expected.peer.into()), ..FlowsQuery::default() };
    let deadline = tokio::time::Instant::now() + RECORDS_TIME;
    loop {
        let mut found = list_flows(&tenant.session, &query, None).await?;
        found.retain(|record| record["destination_port"] == expected.port);
        found.sort_by_key(|record| !expected.matches(record));
        let best = found.into_iter().next();
        if best.as_ref().is_some_and(|record| expected.matches(record)) || tokio::time::Instant::now() > deadline {
            return Ok(best);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

impl ExpectedRecord {
    fn matches(&self, record: &Value) -> bool {
        record["verdict"] == self.verdict
            && record["end_reason"] == self.end_reason.name()
            && (!self.ruled || record["rule"].is_string())
    }
}

fn told(record: &Value) -> String {
    let text = |field: &str| match &record[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rule = record["rule"].as_str().map(|rule| format!(", {rule}")).unwrap_or_default();
    format!(
        "{} -> {}:{} {}, {}{rule}, {} packets, {} {}",
        text("source"),
        text("destination"),
        text("destination_port"),
        text("verdict"),
        text("end_reason"),
        text("packets"),
        text("conn_state"),
        text("history"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expected_record_has_its_own_end() {
        for (at, expected) in RECORDS.iter().enumerate() {
            assert!(RECORDS[at + 1..].iter().all(|other| other.end_reason != expected.end_reason), "{}", expected.step);
        }
    }

    #[test]
    fn the_sweep_meets_one_that_answers_and_c1_is_on_another_host() {
        assert_ne!(CAST[C1].host, CAST[C2].host);
        assert!((SWEEP_FIRST..=SWEEP_LAST).contains(&CAST[C2].address.octets()[3]));
        assert_eq!(SWEEP_LAST - SWEEP_FIRST + 1, 120, "as many as the probe expects to hear of");
        assert!(C1_PROBES.iter().any(|probe| probe.name == BEFORE_MITIGATION));
        for machine in CAST {
            assert!(cidr(SUBNETS[machine.subnet]).unwrap().contains(machine.address), "{}", machine.name);
        }
    }
}
