//! The admission of a replica: the request checked as a whole, and everything of it made but what hosts have to do.
//!
//! Owns what may be duplicated, and when. All of it happens in the request's own transaction, so that a replica is refused with
//! nothing made, or answered with all its records, its room promised, and a job that brings it to life.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lucarne_api::{
    Problem,
    bodies::{instance::JobKind, replica::CreateReplica},
};
use lucarne_model::{
    AccountId, Bytes, ErrorCode, HostId, Tags, Vcpus, VpcId,
    instance::Instance,
    network::Subnet,
    replication::{ObjectId, Replica, ReplicaPlan, ReplicaState, ReplicaTerms},
    storage::VolumeState,
};
use lucarne_replica::plan::memory_of;

use super::{
    super::{
        checks::{check_name, check_tags, refuse},
        scaling_groups,
    },
    making::Maker,
    source::Source,
};
use crate::{
    fleet::Fleet,
    quota, random,
    records::JobRecord,
    replica_records::{Cut, ReplicaRecord, Stage},
    store::{Scope, Tx},
    workflow::engine,
};

pub(in crate::services) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Filters, mappings and overrides of one request, each.
const TERMS_AT_ONCE: usize = 200;
/// Of what stands against a duplicate, so much is told at once.
const TOLD_AT_ONCE: usize = 3;

pub(super) fn plan(
    tx: &Tx<'_>,
    account: AccountId,
    source: &Source,
    terms: &ReplicaTerms,
) -> Result<ReplicaPlan, Problem> {
    check_terms(terms)?;
    for id in &terms.subnets {
        let subnet: Subnet = tx.get(Scope::Account(account), id)?;
        if subnet.vpc != source.network.vpc.id {
            return Err(refuse(format!(
                "{id} is of {}, and {} is to be duplicated",
                subnet.vpc, source.network.vpc.id
            )));
        }
    }
    lucarne_replica::plan(&source.network, terms, &source.around).map_err(|error| refuse(error.to_string()))
}

fn check_terms(terms: &ReplicaTerms) -> Result<(), Problem> {
    let ReplicaTerms { subnets, include_tags, exclude_tags, addresses, overrides, map, .. } = terms;
    let counts = [subnets.len(), include_tags.len(), exclude_tags.len(), addresses.len(), overrides.len(), map.len()];
    if counts.into_iter().any(|count| count > TERMS_AT_ONCE) {
        return Err(refuse(format!("at most {TERMS_AT_ONCE} filters, mappings or overrides of a kind can be given")));
    }
    for wish in overrides {
        if wish.object.is_some() == wish.tag.is_some() {
            return Err(refuse("an override is about one object, or about those with a tag"));
        }
        if let Some(object) = wish.object.filter(|one| !matches!(one, ObjectId::Instance(_) | ObjectId::Volume(_))) {
            return Err(refuse(format!(
                "{object} is neither an instance nor a volume, which alone can be copied in two ways"
            )));
        }
    }
    Ok(())
}

pub(in crate::services) fn admit(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    account: AccountId,
    request: &CreateReplica,
) -> Result<Replica, Problem> {
    let replicas = tx.list::<ReplicaRecord>(Scope::Account(account))?;
    check_request(request, &replicas)?;
    let source = Source::load(tx, account, request.vpc)?;
    let plan = plan(tx, account, &source, &request.terms)?;
    check_obstacles(&plan)?;
    let kept: BTreeSet<ObjectId> = plan.objects.iter().map(|object| object.id).collect();
    check_sources(tx, fleet, &source, &kept)?;
    check_quota(tx, account, &source, (&kept, &request.terms))?;

    let of = replicas.iter().find(|record| record.replica.state.lives() && record.replica.vpc == request.vpc);
    let of = of.map(|record| record.replica.id);
    let (id, job) = (random::id(), random::id());
    let mut maker = Maker::new(tx, fleet, id, (&source, &request.terms), &kept)?;
    for step in plan.stages.iter().flatten() {
        maker.make(*step)?;
    }
    let objects = maker.objects();
    let replica = Replica {
        id,
        account,
        name: request.name.clone().unwrap_or_else(|| id.to_string()),
        source: request.vpc,
        vpc: network_of(&objects, request.vpc)?,
        of,
        terms: request.terms.clone(),
        state: ReplicaState::Preparing,
        state_reason: None,
        job,
        taken: None,
        instances: BTreeMap::new(),
        copied: Bytes::ZERO,
        copied_of_disks: Bytes::ZERO,
        left_out: plan.left_out.iter().map(|left| left.id).collect(),
        objects,
        expires: request.lasts_seconds.map(|seconds| tx.now().plus(Duration::from_secs(seconds))),
        created: tx.now(),
        changed: tx.now(),
        tags: request.tags.clone(),
    };
    let (cuts, draws_on) = cuts(&source, &kept, &request.terms);
    tx.insert(&ReplicaRecord {
        replica: replica.clone(),
        stage: Stage::Preparing,
        cuts,
        draws_on,
        ends_source: false,
    })?;
    engine::begin_for_replica(tx, JobKind::Replicate, (account, id), job)?;
    Ok(replica)
}

fn network_of(objects: &BTreeMap<ObjectId, ObjectId>, source: VpcId) -> Result<VpcId, Problem> {
    match objects.get(&source.into()) {
        Some(ObjectId::Vpc(vpc)) => Ok(*vpc),
        _ => Err(Problem::new(ErrorCode::Internal, "a plan without a network was carried out")),
    }
}

fn check_request(request: &CreateReplica, replicas: &[ReplicaRecord]) -> Result<(), Problem> {
    check_tags(&request.tags)?;
    if let Some(name) = &request.name {
        check_name(name)?;
        let same = |record: &&ReplicaRecord| record.replica.state.lives() && record.replica.name == *name;
        if let Some(other) = replicas.iter().find(same) {
            let detail = format!("{} is called `{name}`; give another name, or delete that first", other.replica.id);
            return Err(Problem::new(ErrorCode::ReplicaDuplicate, detail));
        }
    }
    match request.lasts_seconds {
        Some(seconds) if !(1..=LONGEST.as_secs()).contains(&seconds) => {
            Err(refuse(format!("lasts_seconds is 1 to {}; it was {seconds}", LONGEST.as_secs())))
        }
        _ => Ok(()),
    }
}

fn check_obstacles(plan: &ReplicaPlan) -> Result<(), Problem> {
    let all: Vec<String> = plan.obstacles().map(|one| format!("{}: {}", one.id, one.breakage)).collect();
    if all.is_empty() {
        return Ok(());
    }
    let told = all.iter().take(TOLD_AT_ONCE).cloned().collect::<Vec<_>>().join("; ");
    let more = all.len().saturating_sub(TOLD_AT_ONCE);
    let more = if more > 0 { format!("; and {more} more, which `lucarne replica plan` shows") } else { String::new() };
    Err(Problem::new(ErrorCode::ReplicaNotPossible, format!("{told}{more}")))
}

/// Whatever is cut stays where it is, and as it is, until its duplicates began.
fn check_sources(tx: &Tx<'_>, fleet: &Fleet, source: &Source, kept: &BTreeSet<ObjectId>) -> Result<(), Problem> {
    for record in kept_records(source, kept) {
        let id = record.instance.id;
        let jobs = tx.referring::<JobRecord>(Scope::Everything, id)?;
        if record.passage.is_some() || jobs.iter().any(|job| !job.is_finished()) {
            let detail = format!("another job works on {id}; `lucarne job list` shows it");
            return Err(Problem::new(ErrorCode::IncorrectState, detail));
        }
        if record.instance.host.is_none_or(|host| fleet.is_down(host, tx.now())) {
            return Err(Problem::new(ErrorCode::HostUnreachable, format!("the host of {id} does not answer")));
        }
    }
    let moving = |state| state != VolumeState::InUse;
    if let Some(volume) =
        source.network.volumes.iter().find(|volume| kept.contains(&volume.id.into()) && moving(volume.state))
    {
        let detail =
            format!("{} is being attached or detached, or could not be; duplicate the network then", volume.id);
        return Err(Problem::new(ErrorCode::IncorrectState, detail));
    }
    Ok(())
}

fn kept_records<'a>(
    source: &'a Source,
    kept: &'a BTreeSet<ObjectId>,
) -> impl Iterator<Item = &'a crate::records::InstanceRecord> {
    source.records.values().filter(|record| kept.contains(&record.instance.id.into()))
}

fn check_quota(
    tx: &Tx<'_>,
    account: AccountId,
    source: &Source,
    (kept, terms): (&BTreeSet<ObjectId>, &ReplicaTerms),
) -> Result<(), Problem> {
    let machine = |instance: &Instance| source.around.machine(instance, terms);
    let machines = kept_records(source, kept).map(|record| machine(&record.instance));
    let machines: Vec<(Vcpus, Bytes)> = machines.map(|machine| (machine.vcpus, machine.memory)).collect();
    let volumes = source.network.volumes.iter().filter(|volume| kept.contains(&volume.id.into()));
    let groups = source.network.scaling_groups.iter().filter(|group| kept.contains(&group.id.into()));
    scaling_groups::check_count(tx, account, groups.count())?;
    quota::check_network(tx, account, &machines, &volumes.map(|volume| volume.size).collect::<Vec<_>>())
}

/// What is cut at each host; and all of that, with the network, is drawn on until it is known that it is not.
fn cuts(
    source: &Source,
    kept: &BTreeSet<ObjectId>,
    terms: &ReplicaTerms,
) -> (BTreeMap<HostId, Cut>, BTreeSet<ObjectId>) {
    let mut cuts: BTreeMap<HostId, Cut> = BTreeMap::new();
    let mut draws_on = BTreeSet::from([ObjectId::from(source.network.vpc.id)]);
    for record in kept_records(source, kept) {
        let instance = &record.instance;
        draws_on.insert(instance.id.into());
        let Some(host) = instance.host else { continue };
        if let Some(memory) = memory_of(instance, terms) {
            cuts.entry(host).or_default().instances.insert(instance.id, memory);
        }
    }
    for volume in source.network.volumes.iter().filter(|volume| kept.contains(&volume.id.into())) {
        draws_on.insert(volume.id.into());
        if let Some(host) = volume.host {
            cuts.entry(host).or_default().volumes.push(volume.id);
        }
    }
    (cuts, draws_on)
}

/// What says of an object that it is a duplicate, beside the tags of its source.
pub(super) fn tagged(source: ObjectId, replica: &str, tags: &Tags) -> Tags {
    let mut tags = tags.clone();
    tags.0.insert(Replica::SOURCE_TAG.to_owned(), source.to_string());
    tags.0.insert(Replica::TAG.to_owned(), replica.to_owned());
    tags
}
