//! The admission of a launch: the request checked as a whole, and instance, interface, boot volume and job made of it.
//!
//! Owns what a launch may ask for. All of it happens in the request's own transaction, so that a launch is refused with
//! nothing made, or answered with everything that it needs but a host; that is the workflow's work.

use std::{collections::BTreeSet, net::Ipv4Addr};

use lucarne_api::{
    Problem,
    bodies::instance::{JobKind, LaunchInstances, Launched},
};
use lucarne_model::{
    AccountId, Bytes, ErrorCode, SecurityGroupId, Tags, Vcpus,
    attestation::{InstanceAttestation, KnownMeasurement},
    desired::VolumeContent,
    instance::{Attachment, Instance, InstanceState},
    memory::MemorySettings,
    network::{NetworkInterface, Subnet, Vpc},
    security_group::SecurityGroup,
    storage::{BootSource, Image, Volume, VolumeState},
};

use super::{addresses, attachments, attestations, judgements};
use crate::{
    joint_policy::JointPolicy,
    judging, quota, random,
    records::{InstanceRecord, VolumeRecord},
    store::{Scope, Tx},
    workflow::engine,
};

pub(super) const DEFAULT_MEMORY: Bytes = Bytes::mib(256);
const MOST_MEMORY: Bytes = Bytes::gib(4096);
const MOST_VCPUS: u32 = 256;
const MOST_AT_ONCE: u32 = 100;
const MOST_USER_DATA: usize = 64 << 10;
const MOST_GROUPS: usize = 5;

/// What all instances of one request share, after the checks.
struct Plan {
    image: Image,
    subnet: Subnet,
    groups: Vec<SecurityGroupId>,
    memory: Bytes,
    memory_settings: MemorySettings,
    vcpus: Vcpus,
    attestation: Option<InstanceAttestation>,
    cold: bool,
}

/// Makes the instances and the jobs that launch them, or refuses all.
pub(super) fn admit(tx: &mut Tx<'_>, account: AccountId, request: &LaunchInstances) -> Result<Launched, Problem> {
    let count = request.count.unwrap_or(1);
    check_shape(request, count)?;
    let plan = plan(tx, account, request)?;
    quota::check_instances(tx, account, count, plan.vcpus, plan.memory)?;
    let mut taken = addresses::taken(tx, &plan.subnet)?;
    let mut launched = Launched { instances: Vec::new(), jobs: Vec::new() };
    for _ in 0..count {
        let address = addresses::take(&plan.subnet, request.address, &mut taken)?;
        let record = make(tx, account, request, &plan, address)?;
        let kind = if record.instance.attestation.is_some() { JobKind::AttestedLaunch } else { JobKind::Launch };
        let job = engine::begin(tx, kind, &record, random::id())?;
        launched.instances.push(record.instance);
        launched.jobs.push(job.id);
    }
    Ok(launched)
}

/// Whether such a launch would be admitted, but for what changes from moment to moment: quotas and free addresses.
pub(super) fn check(tx: &Tx<'_>, account: AccountId, request: &LaunchInstances) -> Result<(), Problem> {
    check_shape(request, request.count.unwrap_or(1))?;
    plan(tx, account, request).map(drop)
}

fn refuse(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::InvalidParameterValue, detail)
}

fn check_shape(request: &LaunchInstances, count: u32) -> Result<(), Problem> {
    if !(1..=MOST_AT_ONCE).contains(&count) {
        return Err(refuse(format!("count is {count}; it can be 1 to {MOST_AT_ONCE}")));
    }
    if count > 1 && (request.address.is_some() || !request.volumes.is_empty()) {
        return Err(refuse("an address and volumes can be given for a single instance only"));
    }
    let user_data = request.user_data.as_ref().map_or(0, String::len);
    if user_data > MOST_USER_DATA {
        return Err(refuse(format!("user_data has {user_data} bytes; it can have {MOST_USER_DATA}")));
    }
    if let Some(group) = &request.placement.group
        && !(1..=64).contains(&group.chars().count())
    {
        return Err(refuse("the name of a placement group has 1 to 64 characters"));
    }
    request.tags.check().map_err(|error| refuse(error.to_string()))
}

fn plan(tx: &Tx<'_>, account: AccountId, request: &LaunchInstances) -> Result<Plan, Problem> {
    let image: Image = tx.get(Scope::Visible(account), request.image)?;
    let subnet: Subnet = tx.get(Scope::Account(account), request.subnet)?;
    let groups = groups(tx, account, &subnet, &request.security_groups)?;
    let memory = request.memory.unwrap_or(DEFAULT_MEMORY.max(image.minimum_memory));
    if memory < image.minimum_memory || memory > MOST_MEMORY || !memory.0.is_multiple_of(Bytes::mib(1).0) {
        let detail = format!(
            "memory is {memory}; it must be whole MiB, at least {}, which the image needs, and at most {MOST_MEMORY}",
            image.minimum_memory
        );
        return Err(refuse(detail));
    }
    let vcpus = request.vcpus.unwrap_or(Vcpus(1));
    if !(1..=MOST_VCPUS).contains(&vcpus.0) {
        return Err(refuse(format!("vcpus is {vcpus}; it can be 1 to {MOST_VCPUS}")));
    }
    // As it can be kept, if it can be.
    super::memory::check(tx, account, &request.memory_settings, memory)?;
    request.attestation.as_ref().map_or(Ok(()), |wanted| attestations::check(tx, account, wanted))?;
    let vpc: Vpc = tx.get(Scope::Account(account), subnet.vpc)?;
    let attestation = attestations::begin(request.attestation.as_ref(), vpc.attest_policy.as_ref());
    let cold = match &attestation {
        Some(attestation) if !request.cold => {
            let modes = JointPolicy::of(attestation, vpc.attest_policy.as_ref()).modes;
            !judging::may_begin_warm(&modes, &tx.list::<KnownMeasurement>(Scope::Account(account))?)
        }
        _ => request.cold,
    };
    Ok(Plan { attestation, cold, image, subnet, groups, memory, memory_settings: request.memory_settings, vcpus })
}

/// The groups asked for, all of the subnet's VPC; its default group if none are.
fn groups(
    tx: &Tx<'_>,
    account: AccountId,
    subnet: &Subnet,
    wished: &[SecurityGroupId],
) -> Result<Vec<SecurityGroupId>, Problem> {
    if wished.is_empty() {
        let vpc: Vpc = tx.get(Scope::Account(account), subnet.vpc)?;
        return Ok(vec![vpc.default_security_group]);
    }
    let wished: BTreeSet<_> = wished.iter().copied().collect();
    if wished.len() > MOST_GROUPS {
        return Err(refuse(format!("an instance can have {MOST_GROUPS} security groups, {} were given", wished.len())));
    }
    for id in &wished {
        let group: SecurityGroup = tx.get(Scope::Account(account), id)?;
        if group.vpc != subnet.vpc {
            return Err(refuse(format!("{id} belongs to {}, the subnet to {}", group.vpc, subnet.vpc)));
        }
    }
    Ok(wished.into_iter().collect())
}

fn make(
    tx: &mut Tx<'_>,
    account: AccountId,
    request: &LaunchInstances,
    plan: &Plan,
    address: Ipv4Addr,
) -> Result<InstanceRecord, Problem> {
    let now = tx.now();
    let instance = Instance {
        id: random::id(),
        account,
        image: plan.image.id,
        vcpus: plan.vcpus,
        memory: plan.memory,
        memory_settings: plan.memory_settings,
        vpc: plan.subnet.vpc,
        subnet: plan.subnet.id,
        interface: random::id(),
        address,
        mac: addresses::fresh_mac(tx, &plan.subnet)?,
        security_groups: plan.groups.clone(),
        volumes: Vec::new(),
        state: InstanceState::Pending,
        state_reason: None,
        host: None,
        placement: request.placement.clone(),
        generation: 1,
        user_data: request.user_data.clone(),
        cold: plan.cold,
        virtual_tpm: request.virtual_tpm,
        attestation: plan.attestation.clone(),
        began: None,
        launched: now,
        changed: now,
        tags: request.tags.clone(),
    };
    let mut record = InstanceRecord {
        instance,
        boot: plan.image.boot.clone(),
        forced: false,
        claimed: None,
        passage: None,
        duplicate: None,
    };
    tx.insert(&interface(&record.instance))?;
    if let Some(boot) = boot_volume(tx, &record)? {
        record.instance.volumes.push(Attachment { volume: boot.volume.id, slot: 0 });
    }
    tx.insert(&record)?;
    if record.instance.attestation.is_some() {
        tx.insert(&judgements::record(&record.instance))?;
    }
    for volume in &request.volumes {
        attachments::attach(tx, account, *volume, &mut record)?;
    }
    Ok(record)
}

fn interface(instance: &Instance) -> NetworkInterface {
    NetworkInterface {
        id: instance.interface,
        account: instance.account,
        vpc: instance.vpc,
        subnet: instance.subnet,
        instance: instance.id,
        address: instance.address,
        mac: instance.mac,
        groups: instance.security_groups.clone(),
        created: instance.launched,
        counters: None,
        tags: Tags::default(),
    }
}

/// A disk image is booted from an overlay of the instance's own, which ends with it.
fn boot_volume(tx: &mut Tx<'_>, record: &InstanceRecord) -> Result<Option<VolumeRecord>, Problem> {
    let BootSource::Disk { disk, format, virtual_size } = &record.boot else { return Ok(None) };
    quota::check_volume(tx, record.instance.account, *virtual_size)?;
    let volume = Volume {
        id: random::id(),
        account: record.instance.account,
        size: *virtual_size,
        snapshot: None,
        state: VolumeState::Attaching,
        state_reason: None,
        instance: Some(record.instance.id),
        host: None,
        delete_on_termination: true,
        created: record.instance.launched,
        tags: Tags::default(),
    };
    let content = VolumeContent::Image { disk: disk.clone(), format: *format };
    let boot = VolumeRecord { volume, content };
    tx.insert(&boot)?;
    Ok(Some(boot))
}
