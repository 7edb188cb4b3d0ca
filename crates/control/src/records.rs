//! What the store keeps of instances, volumes, hosts, jobs and flow logs beyond what the API shows.
//!
//! Owns the records' shapes and what each points at. Each holds the API's resource flattened, so that filters see the same
//! fields as users do.

use lucarne_api::bodies::instance::{Job, JobState};
use lucarne_collector::SealedSecret;
use lucarne_memory::{
    oversubscription::{Claim, Oversubscription},
    settings::Keeping,
};
use lucarne_model::{
    AccountId, Bytes, ErrorCode, FlowLogId, HostId, InstanceId, JobId, Moment, Pages, ResourceKind, Tags, Vcpus,
    VolumeId,
    actual::{Capacity, Host},
    attestation::AttestState,
    desired::VolumeContent,
    evidence::CredentialProof,
    flow_log::StoreCredentials,
    instance::{Instance, InstanceState, StateReason},
    memory::MemorySettings,
    memory_move::MoveCause,
    storage::{BootSource, Digest, Volume, VolumeState},
    tpm::{PresentedTpm, TpmIdentity},
};
use serde::{Deserialize, Serialize};

use crate::{
    placement::Demand,
    replica_records::DuplicateOf,
    services::rechecks::ASKED,
    store::{Item, Resource, held},
};

/// An instance and what it boots from: its image may be deleted while it lives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InstanceRecord {
    #[serde(flatten)]
    pub(crate) instance: Instance,
    pub(crate) boot: BootSource,
    /// Whether it is stopped without asking its guest.
    #[serde(default)]
    pub(crate) forced: bool,
    /// What its host has promised it of its memory; none in records from before a part could be promised: all of it.
    #[serde(default)]
    pub(crate) claimed: Option<Bytes>,
    /// The other host that has, or is to have, something of it.
    #[serde(default)]
    pub(crate) passage: Option<Passage>,
    /// What it was made as the duplicate of.
    #[serde(default)]
    pub(crate) duplicate: Option<DuplicateOf>,
}

/// A host beside an instance's own, with room promised on it: the instance is on its way there, or has something left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Passage {
    pub(crate) host: HostId,
    /// What is promised there of its memory.
    pub(crate) claimed: Bytes,
    /// What is promised there for its volumes.
    #[serde(default)]
    pub(crate) disk: Bytes,
    pub(crate) leg: Leg,
    /// Why it goes there.
    #[serde(default)]
    pub(crate) cause: MoveCause,
    /// How its memory is to be kept from when that host is its own; none: as now.
    #[serde(default)]
    pub(crate) settings: Option<MemorySettings>,
    /// Its pages that held anything when the move was begun: its host does not tell of one that is on its way.
    #[serde(default)]
    pub(crate) pages: Pages,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Leg {
    /// It is brought there, and runs on its own host meanwhile.
    Coming,
    /// What is there of it must go.
    Leaving,
}

impl Resource for InstanceRecord {
    const KIND: ResourceKind = ResourceKind::Instance;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidInstanceNotFound;
    type Id = InstanceId;
    fn id(&self) -> InstanceId {
        self.instance.id
    }
    fn account(&self) -> AccountId {
        self.instance.account
    }
    /// A terminated instance holds on to its host only, until that host has confirmed that nothing of it is left.
    fn references(&self) -> Vec<String> {
        let instance = &self.instance;
        let other = self.passage.map(|passage| passage.host);
        let host = instance.host.into_iter().chain(other).map(|host| host.to_string());
        if instance.state == InstanceState::Terminated {
            return host.collect();
        }
        let groups = instance.security_groups.iter().map(ToString::to_string).chain(self.placement_group());
        let volumes = instance.volumes.iter().map(|attachment| attachment.volume.to_string());
        let waits = instance
            .attestation
            .as_ref()
            .filter(|about| about.awaits_evidence() && about.state != AttestState::Measuring);
        [instance.vpc.to_string(), instance.subnet.to_string()]
            .into_iter()
            .chain(host)
            .chain(groups)
            .chain(volumes)
            .chain(waits.map(|_| ASKED.to_owned()))
            .collect()
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.instance.tags)
    }
    fn uses(&self) -> Vec<(Item, u64)> {
        if self.instance.state == InstanceState::Terminated {
            return Vec::new();
        }
        let Instance { vcpus, memory, .. } = self.instance;
        vec![(Item::Instances, 1), (Item::Vcpus, vcpus.0.into()), (Item::Memory, memory.0)]
    }
}

impl InstanceRecord {
    /// Its placement group, as something to point at: so those of one group are found.
    pub(crate) fn placement_group(&self) -> Option<String> {
        let Instance { account, placement, .. } = &self.instance;
        placement.group.as_ref().map(|name| held(account, name))
    }

    /// What it was promised of its host, its volumes apart.
    pub(crate) fn promised(&self) -> Demand {
        let memory = self.claimed.unwrap_or(self.instance.memory);
        Demand { vcpus: self.instance.vcpus, memory, disk: Bytes::ZERO }
    }

    /// Whether its interface is part of its network: that of one which has to prove something is not, until it has.
    pub(crate) fn joins(&self) -> bool {
        self.instance.attestation.as_ref().is_none_or(|attestation| attestation.state.may_join())
    }

    /// The host that it is being brought to.
    pub(crate) fn coming_to(&self) -> Option<HostId> {
        self.passage.filter(|passage| passage.leg == Leg::Coming).map(|passage| passage.host)
    }
}

/// A volume and what it holds when it is made: the snapshot or image may be deleted before that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    #[serde(flatten)]
    pub(crate) volume: Volume,
    pub(crate) content: VolumeContent,
}

impl Resource for VolumeRecord {
    const KIND: ResourceKind = ResourceKind::Volume;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidVolumeNotFound;
    type Id = VolumeId;
    fn id(&self) -> VolumeId {
        self.volume.id
    }
    fn account(&self) -> AccountId {
        self.volume.account
    }
    /// A volume that is being deleted holds on to its host only.
    fn references(&self) -> Vec<String> {
        let host = self.volume.host.map(|host| host.to_string());
        let instance = self.volume.instance.filter(|_| self.volume.state != VolumeState::Deleting);
        host.into_iter().chain(instance.map(|instance| instance.to_string())).collect()
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.volume.tags)
    }
    fn uses(&self) -> Vec<(Item, u64)> {
        vec![(Item::Volumes, 1), (Item::VolumeBytes, self.volume.size.0)]
    }
}

/// A host and the digest of the key with which it speaks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HostRecord {
    #[serde(flatten)]
    pub(crate) host: Host,
    /// SHA-256 in hexadecimal digits.
    pub(crate) key_digest: String,
    /// Whether the operator wants no new instances there; kept apart from its state, which also says whether it is heard of.
    pub(crate) draining: bool,
    /// Whether it has spoken with its key.
    #[serde(default)]
    pub(crate) has_spoken: bool,
    /// When its agent was last found to have been started.
    #[serde(default)]
    pub(crate) began: Option<Moment>,
}

impl Resource for HostRecord {
    const KIND: ResourceKind = ResourceKind::Host;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidHostNotFound;
    type Id = HostId;
    fn id(&self) -> HostId {
        self.host.id
    }
    fn account(&self) -> AccountId {
        self.host.account
    }
    fn references(&self) -> Vec<String> {
        Vec::new()
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.host.tags)
    }
}

impl HostRecord {
    /// What an instance whose memory is kept so claims here.
    pub(crate) fn claim(&self, keeping: &Keeping) -> Claim {
        let factor = self.host.description.oversubscription.thousandths();
        Oversubscription { factor, ..Oversubscription::default() }.claim(keeping)
    }

    /// Promises room to an instance or a volume.
    pub(crate) fn promise(&mut self, demand: &Demand) {
        let used = self.host.used;
        self.host.used = Capacity {
            vcpus: used.vcpus + demand.vcpus,
            memory: used.memory + demand.memory,
            disk: used.disk + demand.disk,
        };
    }

    /// Takes a promise back.
    pub(crate) fn release(&mut self, demand: &Demand) {
        let used = self.host.used;
        self.host.used = Capacity {
            vcpus: Vcpus(used.vcpus.0.saturating_sub(demand.vcpus.0)),
            memory: used.memory - demand.memory,
            disk: used.disk - demand.disk,
        };
    }
}

/// What a host presented of its TPM and what was proved of it: beside its host, of which every look needs the rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TpmRecord {
    pub(crate) host: HostId,
    /// The last that the host said.
    pub(crate) presented: PresentedTpm,
    /// The keys that are the host's own from then on.
    pub(crate) proved: Option<ProvedTpm>,
    /// Why the last answer proved nothing.
    pub(crate) failed: Option<StateReason>,
}

/// Two keys that were proved to live in one TPM, by the host with this key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProvedTpm {
    pub(crate) identity: TpmIdentity,
    pub(crate) proof: CredentialProof,
    /// SHA-256 of the SubjectPublicKeyInfo of the host's TLS key.
    pub(crate) host_key: Digest,
    pub(crate) at: Moment,
}

impl Resource for TpmRecord {
    const KIND: ResourceKind = ResourceKind::Tpm;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidHostNotFound;
    /// Not the host's own: one id names one thing.
    type Id = String;
    fn id(&self) -> String {
        Self::id_of(self.host)
    }
    fn account(&self) -> AccountId {
        AccountId::OPERATOR
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        None
    }
}

impl TpmRecord {
    pub(crate) fn id_of(host: HostId) -> String {
        format!("{}/{host}", Self::KIND)
    }
}

/// A host that is no more. It is remembered for good: its certificate may hold for some weeks, its tunnel key for ever.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RemovedHost {
    pub(crate) host: HostId,
    pub(crate) account: AccountId,
    /// The tunnel key's public half.
    pub(crate) public_key: String,
    pub(crate) at: Moment,
}

impl Resource for RemovedHost {
    const KIND: ResourceKind = ResourceKind::RemovedHost;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidHostNotFound;
    type Id = HostId;
    fn id(&self) -> HostId {
        self.host
    }
    fn account(&self) -> AccountId {
        self.account
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        None
    }
}

/// A workflow and how far it is. Its step and the step's effect on other records change in one transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    #[serde(flatten)]
    pub(crate) job: Job,
    /// Index of the step that is to be done, or undone, next.
    pub(crate) position: usize,
    /// When the step that waits gives up; none for steps that must not.
    #[serde(default)]
    pub(crate) deadline: Option<Moment>,
}

impl Resource for JobRecord {
    const KIND: ResourceKind = ResourceKind::Job;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidJobNotFound;
    type Id = JobId;
    fn id(&self) -> JobId {
        self.job.id
    }
    fn account(&self) -> AccountId {
        self.job.account
    }
    fn references(&self) -> Vec<String> {
        vec![self.subject()]
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.job.tags)
    }
}

impl JobRecord {
    /// The id of what it works on.
    pub(crate) fn subject(&self) -> String {
        let replica = self.job.replica.map(|replica| replica.to_string());
        replica.or(self.job.instance.map(|instance| instance.to_string())).unwrap_or_default()
    }

    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.job.state, JobState::Done | JobState::Failed)
    }
}

/// What opens the store that a flow log is delivered to: a record of its own, so that nothing that is shown, listed or
/// filtered holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FlowLogCredentials {
    pub(crate) log: FlowLogId,
    pub(crate) account: AccountId,
    /// [`StoreCredentials`], sealed for the log's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<SealedSecret>,
    /// As older builds left them; [`crate::secrets`] seals them at a start.
    #[serde(default, skip_serializing)]
    pub(crate) credentials: Option<StoreCredentials>,
}

impl Resource for FlowLogCredentials {
    const KIND: ResourceKind = ResourceKind::FlowLogCredentials;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidFlowLogNotFound;
    type Id = FlowLogId;
    fn id(&self) -> FlowLogId {
        self.log
    }
    fn account(&self) -> AccountId {
        self.account
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        None
    }
}
