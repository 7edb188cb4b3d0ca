//! The chapter "replicas": a running network is duplicated, and both go on, each with the connection that was open.
//!
//! Owns the order of scenes and what is expected of them; the two machines' scripts are the scene's of a move. One counts in its memory
//! and sends each number over one connection, the other checks that none is missing: a duplicate that began anew would count anew.

use std::time::Duration;

use lucarne_api::{
    bodies::{
        network::AuthorizeRule,
        replica::{CreateReplica, ReplicaDifferences},
    },
    client::Client,
};
use lucarne_model::{
    ErrorCode, ImageId, InstanceId, SecurityGroupId, Tags, VpcId,
    flow::Direction,
    instance::Instance,
    replica::CopyType,
    replication::{ObjectId, Replica, ReplicaTerms},
    security_group::{Peer, RuleSpec, SecurityGroup, Traffic},
    warm::Began,
};
use serde_json::Value;

use super::{
    Stage,
    memory::{Cast, launch, look},
    moving::{self, LINES, came, first_came},
    networks::cidr,
    replaying,
    report::Story,
    tenant::Tenant,
};
use crate::{
    commands::instance::log,
    failure::{Failure, LocalCode},
    kind::IMAGE,
    listing::resolve,
    session::{answer, random_key},
    wait::{self, Progress},
};

pub(crate) const TITLE: &str = "a running network is duplicated, and both go on where it was";

const NETWORK: &str = "10.0.0.0/16";
const SUBNET: &str = "10.0.1.0/24";
const ELSEWHERE: &str = "10.9.0.0/16";
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn play(stage: &Stage, story: &mut Story) {
    super::with_tenants(stage, story, async |story, tenants| scenes(stage, story, tenants).await).await;
}

async fn scenes(stage: &Stage, story: &mut Story, tenants: &mut Vec<Tenant>) -> Result<(), Failure> {
    let image: ImageId = resolve(&stage.operator, &IMAGE, "tiny").await?;
    tenants.push(Tenant::create(&stage.operator, "demo-r", &random_key()[..8], stage.allow_plaintext).await?);
    let tenant = &tenants[0];
    let _progress = Progress::start("a network with a connection, and its duplicates");
    let vpc = tenant.vpc(cidr(NETWORK)?).await?;
    let subnet = tenant.subnet(vpc, cidr(SUBNET)?).await?;
    let serves = Cast { name: "r1", address: Some(moving::ADDRESS), user_data: moving::serves(), ..Cast::default() };
    let serves = launch(tenant, (image, subnet), serves).await?.id;
    let downloads = Cast { name: "r2", user_data: moving::downloads(), ..Cast::default() };
    let downloads = launch(tenant, (image, subnet), downloads).await?;
    let asks = Cast { name: "r3", address: Some(replaying::ADDRESS), user_data: replaying::asks(), ..Cast::default() };
    let asks = launch(tenant, (image, subnet), asks).await?.id;
    for machine in [serves, downloads.id, asks] {
        tenant.until_running(machine).await?;
    }
    let before = moving::until_more(tenant, downloads.id, LINES).await?.unwrap_or_default();

    let shallow = create(tenant, vpc, ("shallow", CopyType::Shallow)).await?;
    tell_pauses(story, &shallow);
    tell_going_on(story, tenant, (&shallow, downloads.id, before), "the duplicate of r2").await?;
    tell_source(story, tenant, downloads.id).await?;
    if let Some(group) = downloads.security_groups.first() {
        let twin = tell_change(story, tenant, &shallow, *group).await?;
        replaying::scenes(story, tenant, &shallow, (asks, twin)).await?;
    }
    tell_dependence(story, tenant, serves).await?;

    let before = came(&log(&tenant.session, downloads.id).await?).unwrap_or_default();
    let deep = create(tenant, vpc, ("deep", CopyType::Deep)).await?;
    tenant.end_replica(shallow.id).await?;
    for machine in [serves, downloads.id, asks] {
        tenant.terminate(machine).await?;
    }
    tell_going_on(story, tenant, (&deep, downloads.id, before), "a deep duplicate, whose source has ended,").await
}

/// Duplicates the network, and returns when the replica is there whole.
async fn create(tenant: &Tenant, vpc: VpcId, (name, copy): (&str, CopyType)) -> Result<Replica, Failure> {
    let terms = ReplicaTerms { copy, ..ReplicaTerms::default() };
    let body = CreateReplica { vpc, name: Some(name.into()), terms, lasts_seconds: None, tags: Tags::default() };
    let call = async |client: Client| answer::<_, Replica>(client.create_replica(None, None, &body)).await;
    let replica = tenant.session.change(call).await?;
    wait::until_done(&tenant.session, replica.job).await?;
    tenant.session.read(async |client: Client| answer(client.get_replica(&replica.id)).await).await
}

fn tell_pauses(story: &mut Story, replica: &Replica) {
    let pauses: Vec<String> = replica
        .instances
        .values()
        .map(|one| format!("{:.1}", Duration::from_micros(one.pause_micros).as_secs_f64() * 1e3))
        .collect();
    let held = replica.taken.is_some() && pauses.len() == 3;
    let seen = format!("{} is there; r1, r2 and r3 stood still for {} ms", replica.vpc, pauses.join(", "));
    story.step(
        "the network of r1, r2 and r3 is duplicated while it runs",
        "a network with all three, cut at one instant",
        seen,
        held,
    );
}

async fn tell_going_on(
    story: &mut Story,
    tenant: &Tenant,
    (replica, source, before): (&Replica, InstanceId, u64),
    who: &str,
) -> Result<(), Failure> {
    let Some(ObjectId::Instance(id)) = replica.objects.get(&ObjectId::Instance(source)).copied() else {
        return Err(Failure::local(LocalCode::UnexpectedAnswer, format!("{source} has no duplicate")));
    };
    let shown: Instance = tenant.session.read(async |client: Client| answer(client.get_instance(&id)).await).await?;
    let said = came(&log(&tenant.session, id).await?).unwrap_or_default();
    let now = moving::until_more(tenant, id, said.max(before) + LINES).await?;
    let first = first_came(&log(&tenant.session, id).await?);
    let seen = match (first, now) {
        (Some(first), Some(now)) => {
            format!("its first words were of line {first}, and {now} have come by now, none missing")
        }
        _ => "its connection is broken".into(),
    };
    let held = matches!(shown.began, Some(Began::Duplicate { of }) if of == source)
        && first.is_some_and(|first| first > before)
        && now.is_some_and(|now| now >= said + LINES);
    story.step(
        format!("{who} goes on with the connection that was open"),
        format!("lines behind the {before}th, none missing"),
        seen,
        held,
    );
    Ok(())
}

async fn tell_source(story: &mut Story, tenant: &Tenant, downloads: InstanceId) -> Result<(), Failure> {
    let before = came(&log(&tenant.session, downloads).await?);
    let now = moving::until_more(tenant, downloads, before.unwrap_or_default() + LINES).await?;
    let seen = now.map_or_else(|| "lines are missing".into(), |now| format!("{now} lines have come, none missing"));
    let held = before.zip(now).is_some_and(|(before, now)| now >= before + LINES);
    story.step("so does r2 itself", "none missing", seen, held);
    Ok(())
}

/// A rule is changed in the duplicate alone; gives the duplicate's group.
async fn tell_change(
    story: &mut Story,
    tenant: &Tenant,
    replica: &Replica,
    group: SecurityGroupId,
) -> Result<SecurityGroupId, Failure> {
    let Some(ObjectId::SecurityGroup(twin)) = replica.objects.get(&ObjectId::SecurityGroup(group)).copied() else {
        return Err(Failure::local(LocalCode::UnexpectedAnswer, format!("{group} has no duplicate")));
    };
    let rules = async || -> Result<usize, Failure> {
        let call = async |client: Client| answer::<_, SecurityGroup>(client.get_security_group(&group)).await;
        Ok(tenant.session.read(call).await?.rules.len())
    };
    let before = rules().await?;
    let peer = Peer::Cidr { cidr: cidr(ELSEWHERE)? };
    let body = AuthorizeRule { rule: RuleSpec { direction: Direction::Ingress, traffic: Traffic::All, peer } };
    let call = async |client: Client| answer::<_, Value>(client.authorize_rule(&twin, None, None, &body)).await;
    tenant.session.change(call).await?;
    let after = rules().await?;
    let call = async |client: Client| answer::<_, ReplicaDifferences>(client.compare_replica(&replica.id)).await;
    let look = look(PATIENCE, async || tenant.session.read(call).await, |told| !told.differences.is_empty()).await?;
    let told: Vec<String> =
        look.differences.iter().filter_map(|one| one.source.map(|source| source.to_string())).collect();
    let held = before == after && told == [group.to_string()];
    let seen = format!("the source has {after} rules, as before; `replica diff` names {}", told.join(", "));
    story.step(
        "a rule is added to the duplicate's group",
        "the source's group has it not, and the difference is told",
        seen,
        held,
    );
    Ok(twin)
}

async fn tell_dependence(story: &mut Story, tenant: &Tenant, serves: InstanceId) -> Result<(), Failure> {
    let refused = tenant.terminate(serves).await.err();
    let held = refused.as_ref().and_then(Failure::code) == Some(ErrorCode::ReplicaDependsOnSource);
    let seen = refused.map_or_else(|| "it was ended".into(), |failure| failure.to_string());
    story.step("r1, on which the shallow duplicate draws, cannot be ended", "ReplicaDependsOnSource", seen, held);
    Ok(())
}
