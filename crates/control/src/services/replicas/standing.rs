//! What stands and falls with replicas: what must not end or leave while one draws on it, and what hosts are told of it.
//!
//! Owns both answers. When a replica stops drawing on its source is the workflow's word.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use lucarne_api::Problem;
use lucarne_model::{
    ErrorCode, HostId, Moment, ReplicaId,
    desired::{DesiredInstance, VolumeContent},
    replica::{DesiredCut, DesiredDuplicate, DuplicateOrigin},
    replication::ObjectId,
};

use crate::{
    records::{InstanceRecord, VolumeRecord},
    replica_records::{DuplicateOf, ReplicaRecord, Stage},
    store::{Scope, Tx},
};

const ALL: Scope = Scope::Everything;

/// Refuses what would take away something that a replica still draws on.
pub(crate) fn check_free(tx: &Tx<'_>, id: impl Into<ObjectId> + Display + Copy) -> Result<(), Problem> {
    let object = id.into();
    let drawing = tx.referring::<ReplicaRecord>(ALL, id)?;
    let Some(replica) = drawing.iter().find(|record| record.draws_on.contains(&object)) else { return Ok(()) };
    let (replica, name) = (replica.replica.id, &replica.replica.name);
    let detail = format!(
        "{replica} (`{name}`) was duplicated from {id} and still draws on it; make it deep (`lucarne replica deepen`, or here \
         `--deepen-duplicates`), or delete it (`lucarne replica delete`)"
    );
    Err(Problem::new(ErrorCode::ReplicaDependsOnSource, detail))
}

/// Refuses to end a replica that another one draws on, or a volume of which is at an instance of another network.
pub(super) fn check_may_end(tx: &Tx<'_>, record: &ReplicaRecord) -> Result<(), Problem> {
    check_free(tx, record.replica.vpc)?;
    for duplicate in record.replica.objects.values() {
        let ObjectId::Volume(volume) = duplicate else { continue };
        let volume = tx.find::<VolumeRecord>(ALL, volume)?.map(|record| record.volume);
        let Some((id, instance)) = volume.and_then(|volume| Some((volume.id, volume.instance?))) else { continue };
        let holder = tx.find::<InstanceRecord>(ALL, instance)?;
        if holder.is_some_and(|holder| holder.instance.vpc != record.replica.vpc) {
            let detail =
                format!("{id} of the duplicate is attached to {instance}, of another network; detach it first");
            return Err(Problem::new(ErrorCode::VolumeInUse, detail));
        }
    }
    Ok(())
}

/// Refuses to move what a cut holds at its host, source or duplicate.
pub(crate) fn check_rooted(tx: &Tx<'_>, record: &InstanceRecord) -> Result<(), Problem> {
    let id = record.instance.id;
    check_free(tx, id)?;
    let Some(of) = record.duplicate else { return Ok(()) };
    let replica = tx.find::<ReplicaRecord>(ALL, of.replica)?;
    if replica.is_some_and(|replica| replica.holds(id.into())) {
        let detail =
            format!("{id} still draws on its source, which is at the same host; only a deep duplicate can move");
        return Err(Problem::new(ErrorCode::ReplicaDependsOnSource, detail));
    }
    Ok(())
}

/// The cuts that a host is told of.
pub(crate) fn desired_cuts(tx: &Tx<'_>, host: HostId) -> Result<Vec<DesiredCut>, Problem> {
    let records = tx.referring::<ReplicaRecord>(ALL, host)?;
    Ok(records.iter().filter_map(|record| record.desired_cut(host)).collect())
}

/// How far the replicas are whose duplicates a host has.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    replicas: BTreeMap<ReplicaId, Reached>,
    /// By duplicate.
    of: BTreeMap<ObjectId, DuplicateOf>,
}

/// How far one replica is.
#[derive(Clone, Copy, Debug)]
struct Reached {
    stage: Stage,
    /// When its sources had stood still.
    cut: Option<Moment>,
}

impl Stages {
    pub(crate) fn of(tx: &Tx<'_>, instances: &[InstanceRecord], volumes: &[VolumeRecord]) -> Result<Self, Problem> {
        let of: BTreeMap<ObjectId, DuplicateOf> =
            instances.iter().filter_map(|record| Some((record.instance.id.into(), record.duplicate?))).collect();
        let of_volumes = volumes.iter().filter_map(replica_of);
        let ids: BTreeSet<ReplicaId> = of.values().map(|of| of.replica).chain(of_volumes).collect();
        let mut replicas = BTreeMap::new();
        for id in ids {
            if let Some(record) = tx.find::<ReplicaRecord>(ALL, id)?.filter(|record| record.replica.state.lives()) {
                replicas.insert(id, Reached { stage: record.stage, cut: record.replica.taken });
            }
        }
        Ok(Self { replicas, of })
    }

    /// What is no duplicate is told of, and so is one whose replica is no more.
    fn is_told(&self, replica: Option<ReplicaId>) -> bool {
        replica.and_then(|id| self.replicas.get(&id)).is_none_or(|reached| reached.stage >= Stage::Standing)
    }

    pub(crate) fn tells_of(&self, record: &InstanceRecord) -> bool {
        self.is_told(record.duplicate.map(|of| of.replica))
    }

    pub(crate) fn tells_of_volume(&self, record: &VolumeRecord) -> bool {
        self.is_told(replica_of(record))
    }

    /// What the instance's first start goes on from. Later ones boot.
    pub(crate) fn duplicate(&self, wanted: &DesiredInstance) -> Option<DesiredDuplicate> {
        let of = self.of.get(&wanted.id.into()).filter(|_| wanted.generation == FIRST)?;
        of.desired(wanted.power, self.replicas.get(&of.replica)?.stage)
    }

    /// What the instance is told of itself, at every start.
    pub(crate) fn origin(&self, wanted: &DesiredInstance) -> Option<DuplicateOrigin> {
        let of = self.of.get(&wanted.id.into())?;
        let cut = self.replicas.get(&of.replica)?.cut;
        Some(DuplicateOrigin { source: of.source, replica: of.replica, cut })
    }
}

/// The generation with which a duplicate is made.
pub(crate) const FIRST: u64 = 1;

fn replica_of(record: &VolumeRecord) -> Option<ReplicaId> {
    match record.content {
        VolumeContent::Duplicate { replica, .. } => Some(replica),
        _ => None,
    }
}
