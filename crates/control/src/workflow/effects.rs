//! What a workflow's decision changes in the store: the acting half, within the transaction that also moves the job on.
//!
//! Owns each [`Effect`]. When one is due is decided in [`super::steps`].

use std::collections::{BTreeMap, BTreeSet};

use lucarne_api::Problem;
use lucarne_memory::settings::Keeping;
use lucarne_model::{
    AccountId, Bytes, ErrorCode, HostId, Moment, Pages,
    actual::{ActualInstance, HostState},
    instance::{Instance, InstanceState, StateReason},
    memory::MemorySettings,
    memory_move::{MoveCause, Moved},
    memory_report::MemoryState::Hibernated,
    network::NetworkInterface,
    storage::VolumeState,
    tpm::HostTpm,
};

use crate::{
    consultation::Answers,
    fleet::Fleet,
    placement::{self, Candidate, Demand, Wish},
    records::{HostRecord, InstanceRecord, JobRecord, Leg, Passage, VolumeRecord},
    services::{judgements, memory, shown, tpms::REQUIRE_TPM},
    store::{Scope, Tx},
    workflow::steps::{self, Effect, Observed},
};

/// Carries out `effect` on the instance's record, which is put, and on that of its job, which the caller puts.
pub(super) fn perform(
    tx: &mut Tx<'_>,
    (fleet, answers): (&Fleet, &Answers),
    (record, job): (&mut InstanceRecord, &mut JobRecord),
    effect: Effect,
) -> Result<(), Problem> {
    let (now, reason) = (tx.now(), job.job.reason.clone());
    match effect {
        Effect::Nothing => return Ok(()),
        Effect::Place => place(tx, fleet, record, None)?,
        Effect::Judge => judge(tx, (fleet, answers), record)?,
        Effect::Expire => judgements::expire(tx, record)?,
        Effect::MarkRunning => enter(record, InstanceState::Running, None, now),
        Effect::ShutDown => {
            if steps::waits_for_duplicates(job) {
                job.job.step = steps::step_name(job.job.kind, job.position).into();
            }
            enter(record, InstanceState::ShuttingDown, reason, now);
        }
        Effect::GiveRoomBack { confirmed } => give_room_back(tx, record, confirmed)?,
        Effect::End => return end(tx, record, reason, now),
        Effect::Switch => job.job.moved = switch(tx, record)?,
        Effect::NoteStandstill { millis } => {
            job.job.moved = job.job.moved.map(|moved| Moved { stood_still_millis: millis, ..moved });
        }
        Effect::TurnBack => turn_back(record),
        Effect::Leave => leave(tx, record)?,
    }
    tx.put(record)
}

/// Judges the proof that the host told last. One that it has just taken back is waited for again.
fn judge(tx: &mut Tx<'_>, (fleet, answers): (&Fleet, &Answers), record: &mut InstanceRecord) -> Result<(), Problem> {
    let told = fleet.observe(record.instance.host, record.instance.id, tx.now());
    let Observed::Said(ActualInstance { evidence: Some(evidence), .. }) = told else {
        return Err(Problem::new(ErrorCode::Internal, "the proof that was to be judged is not told any more"));
    };
    judgements::judge(tx, record, &evidence, answers)
}

fn enter(record: &mut InstanceRecord, state: InstanceState, reason: Option<StateReason>, now: Moment) {
    record.instance.state = state;
    record.instance.state_reason = reason;
    record.instance.changed = now;
}

/// Chooses a host, or takes the one that is wished beyond what the instance's owner wished; promises it the room, and binds the
/// instance's volumes to it.
pub(crate) fn place(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    record: &mut InstanceRecord,
    wished: Option<HostId>,
) -> Result<(), Problem> {
    let now = tx.now();
    let mut volumes = volumes_of(tx, record)?;
    let unbound = |volume: &&mut VolumeRecord| volume.volume.host.is_none();
    let disk: Bytes = volumes.iter_mut().filter(unbound).map(|volume| volume.volume.size).sum();
    let instance = &record.instance;
    let keeping = memory::keeping(&instance.memory_settings, instance.memory)?;
    let candidates = candidates(tx, fleet, (record, &keeping, disk), now)?;
    let wished = wished.or(instance.placement.host).map(|wished| resolve(&candidates, instance.account, wished));
    let (host, strategy) = (bound_to(&volumes, wished)?, instance.placement.strategy);
    let wish = Wish { host, strategy, proved: instance.attestation.is_some() || tx.setting(REQUIRE_TPM)?.is_some() };
    let host =
        placement::choose(&candidates, wish).map_err(|refusal| Problem::new(refusal.code(), refusal.to_string()))?;
    let mut chosen: HostRecord = tx.get(Scope::Everything, host)?;
    record.claimed = Some(chosen.claim(&keeping).firm);
    chosen.promise(&Demand { disk, ..record.promised() });
    chosen.host.instances += 1;
    tx.put(&chosen)?;
    for volume in volumes.iter_mut().filter(|volume| volume.volume.host.is_none()) {
        volume.volume.host = Some(host);
        tx.put(volume)?;
    }
    record.instance.host = Some(host);
    Ok(())
}

/// A move that is asked for: where to, if that is wished, why, and how the memory is to be kept there, if that changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) wished: Option<HostId>,
    pub(crate) cause: MoveCause,
    pub(crate) settings: Option<MemorySettings>,
}

/// Chooses a host for an instance to move to, and promises it the room.
pub(crate) fn reserve(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    record: &mut InstanceRecord,
    Plan { wished, cause, settings }: Plan,
) -> Result<(), Problem> {
    let (now, instance) = (tx.now(), &record.instance);
    let keeping = memory::keeping(&settings.unwrap_or(instance.memory_settings), instance.memory)?;
    let disk = disk_of(tx, record)?;
    let mut candidates = candidates(tx, fleet, (record, &keeping, disk), now)?;
    let wished = wished.map(|wished| resolve(&candidates, instance.account, wished));
    if wished.is_some() && wished == instance.host {
        return Err(Problem::new(ErrorCode::IncorrectState, format!("{} is on that host already", instance.id)));
    }
    let unfit = unfit(tx, fleet, record)?;
    candidates.retain(|candidate| {
        Some(candidate.host) != instance.host
            && (Some(candidate.host) == wished || !unfit.contains_key(&candidate.host))
    });
    let wish = Wish {
        host: wished,
        strategy: instance.placement.strategy,
        proved: instance.attestation.is_some() || tx.setting(REQUIRE_TPM)?.is_some(),
    };
    let host =
        placement::choose(&candidates, wish).map_err(|refusal| Problem::new(refusal.code(), refusal.to_string()))?;
    if let Some(reason) = unfit.get(&host) {
        return Err(Problem::new(ErrorCode::IncorrectState, format!("that host cannot take it in: {reason}")));
    }
    let mut chosen: HostRecord = tx.get(Scope::Everything, host)?;
    let claimed = chosen.claim(&keeping).firm;
    chosen.promise(&Demand { memory: claimed, disk, ..record.promised() });
    chosen.host.instances += 1;
    tx.put(&chosen)?;
    let pages = pages_that_go(fleet, record);
    record.passage = Some(Passage { host, claimed, disk, leg: Leg::Coming, cause, settings, pages });
    tx.put(record)
}

/// The hosts that [`reserve`] would take if they were wished.
pub(crate) fn ways(tx: &Tx<'_>, fleet: &Fleet, record: &InstanceRecord) -> Result<BTreeSet<HostId>, Problem> {
    let instance = &record.instance;
    let keeping = memory::keeping(&instance.memory_settings, instance.memory)?;
    let candidates = candidates(tx, fleet, (record, &keeping, disk_of(tx, record)?), tx.now())?;
    let unfit = unfit(tx, fleet, record)?;
    let takes = |candidate: &&Candidate| {
        candidate.state == HostState::Up
            && candidate.has_room()
            && Some(candidate.host) != instance.host
            && !unfit.contains_key(&candidate.host)
    };
    Ok(candidates.iter().filter(takes).map(|candidate| candidate.host).collect())
}

/// Hosts that cannot take the instance in whatever room they have, and why.
fn unfit(tx: &Tx<'_>, fleet: &Fleet, record: &InstanceRecord) -> Result<BTreeMap<HostId, &'static str>, Problem> {
    let Instance { id, host: home, .. } = record.instance;
    let sleeps = home.and_then(|home| fleet.memory_of(home, id)).is_some_and(|memory| memory.state == Hibernated);
    let saved_by = match home {
        Some(home) if sleeps => Some(tx.get::<HostRecord>(Scope::Everything, home)?.host.description.hypervisor),
        _ => None,
    };
    let pages = |host| fleet.host_memory(host).is_some_and(|memory| memory.paging.is_available());
    let reason = |host: &HostRecord| {
        let description = &host.host.description;
        match &saved_by {
            _ if description.peer_port == 0 => Some("it takes no instances from others; its agent is too old"),
            Some(_) if !pages(host.host.id) => Some("the instance is hibernated, and that host pages no memory"),
            Some(hypervisor) if *hypervisor != description.hypervisor => {
                Some("the instance is hibernated, and that host has another hypervisor")
            }
            _ => None,
        }
    };
    tx.with_all(|hosts: Vec<&HostRecord>| {
        hosts.into_iter().filter_map(|host| Some((host.host.id, reason(host)?))).collect()
    })
}

/// The instance and its volumes are the other host's from now on.
fn switch(tx: &mut Tx<'_>, record: &mut InstanceRecord) -> Result<Option<Moved>, Problem> {
    let (Some(host), Some(passage)) = (record.instance.host, record.passage) else { return Ok(None) };
    for mut volume in volumes_of(tx, record)? {
        volume.volume.host = Some(passage.host);
        tx.put(&volume)?;
    }
    let claimed = record.promised().memory;
    record.instance.host = Some(passage.host);
    record.claimed = Some(passage.claimed);
    record.instance.memory_settings = passage.settings.unwrap_or(record.instance.memory_settings);
    record.passage = Some(Passage { host, claimed, leg: Leg::Leaving, ..passage });
    let (at, from, to) = (tx.now(), host, passage.host);
    Ok(Some(Moved { at, from, to, pages: passage.pages, disk: passage.disk, stood_still_millis: None }))
}

/// The room that its volumes need at another host.
pub(crate) fn disk_of(tx: &Tx<'_>, record: &InstanceRecord) -> Result<Bytes, Problem> {
    Ok(volumes_of(tx, record)?.iter().map(|volume| volume.volume.size).sum())
}

/// Its pages that hold anything, as its host told last; all of them from a host that does not tell.
pub(crate) fn pages_that_go(fleet: &Fleet, record: &InstanceRecord) -> Pages {
    let all = Pages::covering(record.instance.memory);
    let told = record.instance.host.and_then(|host| fleet.memory_of(host, record.instance.id));
    let told = told.map(|memory| memory.pages);
    told.map_or(all, |pages| all - pages.untouched - pages.same_filled)
}

fn turn_back(record: &mut InstanceRecord) {
    record.passage = record.passage.map(|passage| Passage { leg: Leg::Leaving, ..passage });
}

fn leave(tx: &mut Tx<'_>, record: &mut InstanceRecord) -> Result<(), Problem> {
    let Some(passage) = record.passage.take() else { return Ok(()) };
    let demand = Demand { memory: passage.claimed, disk: passage.disk, ..record.promised() };
    change_room(tx, passage.host, |host| {
        host.release(&demand);
        host.host.instances = host.host.instances.saturating_sub(1);
    })
}

/// The one host where it can be: the wished one, and where its volumes are.
fn bound_to(volumes: &[VolumeRecord], wished: Option<HostId>) -> Result<Option<HostId>, Problem> {
    let hosts: BTreeSet<HostId> = volumes.iter().filter_map(|volume| volume.volume.host).chain(wished).collect();
    if hosts.len() > 1 {
        let detail = "its volumes are not all on one host, or not on the wished one; a volume made from a snapshot can go anywhere";
        return Err(Problem::new(ErrorCode::VolumeElsewhere, detail));
    }
    Ok(hosts.into_iter().next())
}

/// Tenants know hosts by names of their own.
fn resolve(candidates: &[Candidate], account: AccountId, wished: HostId) -> HostId {
    let named = |candidate: &&Candidate| shown::opaque_host(account, candidate.host) == wished;
    candidates.iter().find(named).map_or(wished, |candidate| candidate.host)
}

fn volumes_of(tx: &Tx<'_>, record: &InstanceRecord) -> Result<Vec<VolumeRecord>, Problem> {
    let attachments = &record.instance.volumes;
    attachments.iter().map(|attachment| tx.get(Scope::Everything, attachment.volume)).collect()
}

/// All hosts, with how many of the instance's companions each has: those of its placement group, or of its subnet.
fn candidates(
    tx: &Tx<'_>,
    fleet: &Fleet,
    (record, keeping, disk): (&InstanceRecord, &Keeping, Bytes),
    now: Moment,
) -> Result<Vec<Candidate>, Problem> {
    let near = record.placement_group().unwrap_or_else(|| record.instance.subnet.to_string());
    let companions = tx.references_beside::<InstanceRecord>(near)?;
    let companions: BTreeMap<HostId, u32> =
        companions.into_iter().filter_map(|(to, count)| Some((to.parse().ok()?, count))).collect();
    let vcpus = record.instance.vcpus;
    let candidate = |host: &HostRecord| Candidate {
        host: host.host.id,
        state: fleet.state(host.host.id, host.draining, now),
        capacity: host.host.description.capacity,
        used: host.host.used,
        demand: Demand { vcpus, memory: host.claim(keeping).at_start, disk },
        proved: host.host.tpm.as_ref().is_some_and(HostTpm::is_proved),
        companions: companions.get(&host.host.id).copied().unwrap_or_default(),
    };
    tx.with_all(|hosts| hosts.into_iter().map(candidate).collect())
}

fn change_room(tx: &mut Tx<'_>, host: HostId, change: impl FnOnce(&mut HostRecord)) -> Result<(), Problem> {
    let mut record: HostRecord = tx.get(Scope::Everything, host)?;
    change(&mut record);
    tx.put(&record)
}

fn give_room_back(tx: &mut Tx<'_>, record: &mut InstanceRecord, confirmed: bool) -> Result<(), Problem> {
    let Some(host) = record.instance.host else { return Ok(()) };
    let demand = record.promised();
    change_room(tx, host, |host| {
        host.release(&demand);
        host.host.instances = host.host.instances.saturating_sub(1);
    })?;
    if confirmed {
        record.instance.host = None;
    }
    Ok(())
}

/// Gives the interface and the volumes up. The instance stays for a while as a memory.
fn end(tx: &mut Tx<'_>, record: &mut InstanceRecord, reason: Option<StateReason>, now: Moment) -> Result<(), Problem> {
    let volumes = volumes_of(tx, record)?;
    record.instance.volumes.clear();
    enter(record, InstanceState::Terminated, reason, now);
    tx.put(record)?;
    for volume in volumes {
        give_volume_up(tx, volume)?;
    }
    for interface in tx.referring::<NetworkInterface>(Scope::Everything, record.instance.id)? {
        tx.delete(&interface)?;
    }
    Ok(())
}

fn give_volume_up(tx: &mut Tx<'_>, mut record: VolumeRecord) -> Result<(), Problem> {
    let volume = &mut record.volume;
    volume.instance = None;
    if !volume.delete_on_termination {
        volume.state = VolumeState::Available;
        return tx.put(&record);
    }
    volume.state = VolumeState::Deleting;
    match volume.host {
        Some(_) => tx.put(&record),
        None => tx.delete(&record),
    }
}

/// The volume's bytes are gone from its host: the room is free, and the record goes.
pub(crate) fn forget_volume(tx: &mut Tx<'_>, record: &VolumeRecord) -> Result<(), Problem> {
    if let Some(host) = record.volume.host {
        let demand = Demand { disk: record.volume.size, ..Demand::default() };
        change_room(tx, host, |host| host.release(&demand))?;
    }
    tx.delete(record)
}
