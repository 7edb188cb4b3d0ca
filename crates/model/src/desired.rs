//! What the controller wants of one host: the whole of it, so that a host that lost everything can be told again.
//!
//! Owns the shape of the message from controller to host. The host brings its actual state (see [`crate::actual`]) there
//! step by step. Nothing is ended by being left out: an end is said with [`Power::Absent`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, Bytes, Cidr, HostId, HostName, ImageId, InstanceId, InterfaceId, MacAddress, Octets, ReplicaId,
    SecurityGroupId, SnapshotId, SubnetId, Vcpus, VolumeId, VpcId,
    flow::Location,
    lease::DesiredLease,
    load::DesiredLoad,
    memory::MemorySettings,
    mitigation::DesiredMitigation,
    network::Route,
    network_acl::AclEntry,
    recording::DesiredRecording,
    replay::DesiredReplay,
    replica::{CopyType, DesiredCut, DesiredDuplicate, DuplicateOrigin},
    security_group::Rule,
    storage::{Blob, BootSource, Digest},
    tpm::DesiredChallenge,
    warm::DesiredWarmState,
};

/// All that a host should be and do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Desired {
    /// Rises with every change for this host.
    pub version: u64,
    pub instances: Vec<DesiredInstance>,
    pub volumes: Vec<DesiredVolume>,
    pub snapshots: Vec<DesiredSnapshot>,
    /// The VPCs that have an interface on this host.
    pub networks: Vec<DesiredNetwork>,
    /// The other hosts that those VPCs reach.
    pub peers: Vec<TunnelPeer>,
    /// Streams that a user waits for.
    pub streams: Vec<StreamRequest>,
    /// Credentials for its TPM to open.
    #[serde(default)]
    pub challenges: Vec<DesiredChallenge>,
    /// What the operator has ordered against abuse and concerns an interface of this host.
    #[serde(default)]
    pub mitigations: Vec<DesiredMitigation>,
    /// Memory that this host lends, or borrows.
    #[serde(default)]
    pub leases: Vec<DesiredLease>,
    /// Warm states to keep ready; one that is left out is deleted.
    #[serde(default)]
    pub warm_states: Vec<DesiredWarmState>,
    /// What the operator wants hosts to go by for sealed operations, to be fetched: the host judges it itself.
    #[serde(default)]
    pub seal_policy: Option<Digest>,
    /// Streams by which a question about sealed operations is to be fetched and answered.
    #[serde(default)]
    pub seal_errands: Vec<String>,
    /// Cuts of networks to take, or to hold for duplicates; one that is left out is given up.
    #[serde(default)]
    pub cuts: Vec<DesiredCut>,
    /// Recordings of networks. One that is left out stays as it is.
    #[serde(default)]
    pub recordings: Vec<DesiredRecording>,
    /// Replays that this host plays. One that is left out stays as it is.
    #[serde(default)]
    pub replays: Vec<DesiredReplay>,
    /// Loads that this host asks. One that is left out stays as it is.
    #[serde(default)]
    pub loads: Vec<DesiredLoad>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    Running,
    /// Shut down in order, then by force; disks stay.
    Stopped,
    /// Ended at once, without asking the guest; disks stay.
    Off,
    /// Ended, and all that it had on this host deleted.
    Absent,
}

/// A host's part in a migration. Which of the two hosts runs the instance is in no message between them: the controller says
/// it, to each, by leaving this out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DesiredMigration {
    /// It runs here while it is brought to another host, and stands still when all of it is there.
    To { host: HostId, address: SocketAddr },
    /// Another host brings it, and its volumes, which are not among [`Desired::volumes`] before they are this host's own. It
    /// stands still here.
    From {
        host: HostId,
        #[serde(default)]
        volumes: Vec<DesiredVolume>,
    },
}

/// What a host is to prove of an instance's present start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredAttestation {
    /// What it is to sign. A new one asks for a new proof, of a VM that runs too.
    pub nonce: Octets,
    /// Whether the VM may leave the place before its first instruction.
    pub begin: bool,
    /// Whether the proof with this nonce has arrived, and need not be told again.
    pub heard: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredInstance {
    pub id: InstanceId,
    pub account: AccountId,
    pub power: Power,
    /// Set while it is on its way between two hosts.
    #[serde(default)]
    pub migration: Option<DesiredMigration>,
    /// A running VM of an older generation is restarted.
    pub generation: u64,
    pub image: ImageId,
    pub boot: BootSource,
    /// Boot it, though its image may have a warm state.
    #[serde(default)]
    pub cold: bool,
    pub vcpus: Vcpus,
    pub memory: Bytes,
    #[serde(default)]
    pub memory_settings: MemorySettings,
    /// Whether it has a TPM of its own.
    #[serde(default)]
    pub virtual_tpm: bool,
    /// What is to be proved of this start; none: it begins without.
    #[serde(default)]
    pub attestation: Option<DesiredAttestation>,
    /// What its first start goes on from; none: it boots.
    #[serde(default)]
    pub duplicate: Option<DesiredDuplicate>,
    /// What it is a duplicate of, whichever start it is.
    #[serde(default)]
    pub origin: Option<DuplicateOrigin>,
    pub interface: InterfaceId,
    /// The interface's; it has it also while it is no part of its network.
    #[serde(default)]
    pub mac: Option<MacAddress>,
    pub vpc: VpcId,
    pub user_data: Option<String>,
    /// How often its flows that go on are reported, in milliseconds; none leaves it to the host.
    #[serde(default)]
    pub flow_interval_millis: Option<u64>,
    /// Boot volume of a disk image at slot 0, data volumes behind it.
    pub volumes: Vec<crate::instance::Attachment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredVolume {
    pub id: VolumeId,
    pub size: Bytes,
    pub content: VolumeContent,
    /// Whether its bytes should be on this host; when not, they are deleted.
    pub present: bool,
}

/// What a volume holds when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum VolumeContent {
    Empty,
    /// A qcow2 copy of a snapshot.
    Snapshot {
        blob: Blob,
    },
    /// A writable overlay over an image's disk.
    Image {
        disk: Blob,
        format: crate::storage::DiskFormat,
    },
    /// What another volume of this host held at a cut.
    Duplicate {
        replica: ReplicaId,
        source: VolumeId,
        copy: CopyType,
    },
}

/// A snapshot to take once and upload as a qcow2 blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredSnapshot {
    pub id: SnapshotId,
    pub volume: VolumeId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredNetwork {
    pub vpc: VpcId,
    pub account: AccountId,
    pub vni: u32,
    pub cidr: Cidr,
    pub subnets: Vec<DesiredSubnet>,
    pub groups: Vec<DesiredGroup>,
    /// Every interface of the VPC, on this host or not.
    pub endpoints: Vec<Endpoint>,
    /// By how much the clock that guests are told lies behind the host's.
    #[serde(default)]
    pub clock_behind_micros: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredSubnet {
    pub id: SubnetId,
    pub cidr: Cidr,
    pub routes: Vec<Route>,
    /// The entries of its network ACL, lowest number first. Empty means that there is no ACL and all may pass.
    #[serde(default)]
    pub acl: Vec<AclEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredGroup {
    pub id: SecurityGroupId,
    pub rules: Vec<Rule>,
}

/// An interface and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    pub interface: InterfaceId,
    pub instance: InstanceId,
    pub subnet: SubnetId,
    pub address: Ipv4Addr,
    pub mac: MacAddress,
    pub groups: Vec<SecurityGroupId>,
    pub host: HostId,
    /// What the instance is called in its network by its `Name` tag; none where that is no host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<HostName>,
}

impl Endpoint {
    /// What the instance is called in its network: by its name, or else by its address.
    pub fn host_name(&self) -> HostName {
        self.name.clone().unwrap_or_else(|| HostName::of_address(self.address))
    }
}

/// Another host's end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TunnelPeer {
    pub host: HostId,
    pub address: IpAddr,
    pub port: u16,
    /// The X25519 public key in base64; the private one never leaves its host.
    pub public_key: String,
    /// Where the host stands.
    #[serde(default)]
    pub location: Location,
}

/// A stream for the host to open to the controller: it dials, because nothing dials a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamRequest {
    /// Names the waiting end at the controller; hard to guess.
    pub token: String,
    pub instance: InstanceId,
    pub kind: StreamKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// The serial console, both ways.
    Console,
    /// What the serial console has printed, then the end.
    Log,
}
