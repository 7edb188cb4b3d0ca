//! What the store keeps of replicas beyond what the API shows, and what they point at.
//!
//! Owns the record and its [`Stage`], from which follows what hosts are told. Moving from stage to stage is
//! [`crate::workflow::replication`]'s word.

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::{
    AccountId, ErrorCode, HostId, InstanceId, ReplicaId, ResourceKind, Tags, VolumeId,
    desired::Power,
    replica::{CopyType, DesiredCut, DesiredDuplicate, MemoryCopy},
    replication::{ObjectId, Replica},
};
use serde::{Deserialize, Serialize};

use crate::store::Resource;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReplicaRecord {
    #[serde(flatten)]
    pub(crate) replica: Replica,
    pub(crate) stage: Stage,
    /// What is cut at each host.
    pub(crate) cuts: BTreeMap<HostId, Cut>,
    /// What of the source the duplicate still draws on: it must not go.
    pub(crate) draws_on: BTreeSet<ObjectId>,
    /// Whether the source's network is to be deleted when nothing draws on it any more.
    #[serde(default)]
    pub(crate) ends_source: bool,
}

/// A host's part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cut {
    pub(crate) instances: BTreeMap<InstanceId, MemoryCopy>,
    pub(crate) volumes: Vec<VolumeId>,
}

impl Cut {
    pub(crate) fn has(&self, id: ObjectId) -> bool {
        match id {
            ObjectId::Instance(instance) => self.instances.contains_key(&instance),
            ObjectId::Volume(volume) => self.volumes.contains(&volume),
            _ => false,
        }
    }
}

/// What hosts are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// To make ready for the cut.
    Preparing,
    /// To take it.
    Taking,
    /// To let the duplicates stand where their sources were.
    Standing,
    /// To let them go on.
    Going,
    /// To hold the cut, of which something is still drawn.
    Holding,
    /// To let the cut go.
    LetGo,
}

impl Resource for ReplicaRecord {
    const KIND: ResourceKind = ResourceKind::Replica;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidReplicaNotFound;
    type Id = ReplicaId;
    fn id(&self) -> ReplicaId {
        self.replica.id
    }
    fn account(&self) -> AccountId {
        self.replica.account
    }
    /// Its own network, what it draws on, and the hosts that hold the cut, which so hear of it. One that has ended points at
    /// nothing.
    fn references(&self) -> Vec<String> {
        if !self.replica.state.lives() {
            return Vec::new();
        }
        let hosts = self.cuts.keys().filter(|_| self.stage != Stage::LetGo).map(ToString::to_string);
        let drawn = self.draws_on.iter().map(ToString::to_string);
        hosts.chain(drawn).chain([self.replica.vpc.to_string()]).collect()
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.replica.tags)
    }
}

impl ReplicaRecord {
    /// The host's part in the cut, as long as it has one.
    pub(crate) fn desired_cut(&self, host: HostId) -> Option<DesiredCut> {
        let cut = self.cuts.get(&host).filter(|_| self.replica.state.lives() && self.stage != Stage::LetGo)?;
        Some(DesiredCut {
            replica: self.replica.id,
            vpc: self.replica.source,
            instances: cut.instances.clone(),
            volumes: cut.volumes.clone(),
            hosts: self.cuts.keys().copied().filter(|other| *other != host).collect(),
            take: self.stage >= Stage::Taking,
        })
    }

    /// Whether the object, of the source or of the duplicate, belongs to what is still drawn from the source.
    pub(crate) fn holds(&self, id: ObjectId) -> bool {
        let source = self.replica.objects.iter().find(|(_, duplicate)| **duplicate == id).map(|(source, _)| source);
        self.replica.state.lives()
            && (self.draws_on.contains(&id) || source.is_some_and(|source| self.draws_on.contains(source)))
    }

    /// The volumes that it made.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = VolumeId> {
        self.replica.objects.values().filter_map(|duplicate| match duplicate {
            ObjectId::Volume(id) => Some(*id),
            _ => None,
        })
    }

    /// The instances that it made.
    pub(crate) fn duplicates(&self) -> impl Iterator<Item = InstanceId> {
        self.replica.objects.values().filter_map(|duplicate| match duplicate {
            ObjectId::Instance(id) => Some(*id),
            _ => None,
        })
    }
}

/// What an instance was made as the duplicate of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DuplicateOf {
    pub(crate) replica: ReplicaId,
    pub(crate) source: InstanceId,
    pub(crate) copy: CopyType,
    /// None of one whose source was stopped.
    pub(crate) memory: Option<MemoryCopy>,
}

impl DuplicateOf {
    /// What its host is told of its first start.
    pub(crate) fn desired(&self, power: Power, stage: Stage) -> Option<DesiredDuplicate> {
        let memory = self.memory.filter(|_| power != Power::Absent)?;
        let (replica, source, copy) = (self.replica, self.source, self.copy);
        Some(DesiredDuplicate { replica, source, copy, memory, begin: stage >= Stage::Going })
    }
}
