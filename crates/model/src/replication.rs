//! What is asked and told of a network's duplicate: the terms, the plan, the replica itself and what differs from its source.
//!
//! Owns these shapes as the API shows them. What a plan holds is decided by the room `replica`, and what hosts are told of it is in
//! [`crate::replica`].

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, Bytes, Cidr, FlowLogId, InstanceId, InterfaceId, JobId, Moment, NetworkAclId, ReplicaId, ResourceId,
    RouteTableId, RuleId, ScalingGroupId, SecurityGroupId, SubnetId, Tags, VolumeId, VpcId,
    id::ParseIdError,
    instance::StateReason,
    replica::{CopyType, DuplicateClock, Fidelity, MemoryCopy},
    resource_kind::ResourceKind,
};

macro_rules! objects {
    ($($name:ident($id:ty);)*) => {
        /// Something in a network that is duplicated as a whole, by its id.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub enum ObjectId { $($name($id),)* }

        impl ObjectId {
            pub const fn kind(self) -> ResourceKind {
                match self { $(Self::$name(_) => ResourceKind::$name,)* }
            }
        }
        impl fmt::Display for ObjectId {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$name(id) => id.fmt(f),)* }
            }
        }
        impl FromStr for ObjectId {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let prefix = text.rsplit_once('-').map_or("", |(prefix, _)| prefix);
                match prefix {
                    $(<$id>::PREFIX => text.parse().map(Self::$name),)*
                    _ => Err(ParseIdError {
                        text: text.chars().take(64).collect(),
                        kind: "network object",
                        expected: "the id of something in a network, such as i-, vol- or sg- and 17 digits".into(),
                    }),
                }
            }
        }
        $(impl From<$id> for ObjectId {
            fn from(id: $id) -> Self { Self::$name(id) }
        })*
    };
}

objects! {
    Vpc(VpcId);
    RouteTable(RouteTableId);
    NetworkAcl(NetworkAclId);
    Subnet(SubnetId);
    SecurityGroup(SecurityGroupId);
    NetworkInterface(InterfaceId);
    Volume(VolumeId);
    FlowLog(FlowLogId);
    Instance(InstanceId);
    ScalingGroup(ScalingGroupId);
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl TryFrom<String> for ObjectId {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}
impl From<ObjectId> for String {
    fn from(id: ObjectId) -> String {
        id.to_string()
    }
}
impl JsonSchema for ObjectId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ObjectId".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "The id of something in a network.", "pattern": "^[a-z]+-[0-9a-f]{17}$"})
    }
}

/// A tag that something has or has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TagMatch {
    pub key: String,
    pub value: String,
}

impl TagMatch {
    pub fn is_on(&self, tags: &Tags) -> bool {
        tags.0.get(&self.key) == Some(&self.value)
    }
}

/// What is wanted of some objects otherwise than of the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicaOverride {
    /// An instance, with its volumes, or one volume.
    #[serde(default)]
    pub object: Option<ObjectId>,
    /// All that have this tag.
    #[serde(default)]
    pub tag: Option<TagMatch>,
    #[serde(default)]
    pub copy: Option<CopyType>,
    #[serde(default)]
    pub fidelity: Option<Fidelity>,
}

/// Addresses that the duplicate has instead of the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressMapping {
    pub from: Cidr,
    /// As large as `from`.
    pub to: Cidr,
}

/// What of a network is duplicated, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicaTerms {
    /// Only these subnets and what is in them; all if empty.
    #[serde(default)]
    pub subnets: Vec<SubnetId>,
    /// Only instances that have one of these tags; all if empty.
    #[serde(default)]
    pub include_tags: Vec<TagMatch>,
    /// Nothing that has one of these tags.
    #[serde(default)]
    pub exclude_tags: Vec<TagMatch>,
    /// Only instances with an address in one of these networks; all if empty.
    #[serde(default)]
    pub addresses: Vec<Cidr>,
    #[serde(default)]
    pub copy: CopyType,
    #[serde(default)]
    pub fidelity: Fidelity,
    #[serde(default)]
    pub memory: MemoryCopy,
    /// For an object itself one that names it counts more than one by tag, and either more than one for its instance.
    #[serde(default)]
    pub overrides: Vec<ReplicaOverride>,
    /// The source's addresses if empty: the duplicate is a network of its own.
    #[serde(default)]
    pub map: Vec<AddressMapping>,
    /// Matters where any memory is live: what boots asks its machine for the time.
    #[serde(default)]
    pub clock: DuplicateClock,
}

/// What would be made, before anything is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaPlan {
    pub vpc: VpcId,
    pub objects: Vec<PlannedObject>,
    /// Each stage needs those before it; what is in one can be made at the same time.
    pub stages: Vec<Vec<ReplicaStep>>,
    /// Of each step the steps that it needs done before.
    #[serde(default)]
    pub needs: Vec<StepNeeds>,
    pub left_out: Vec<LeftOut>,
    /// What the duplicate would lack, because of what was left out or cannot be.
    pub broken: Vec<Broken>,
    /// Kinds that are not duplicated, and what becomes of them.
    pub other_kinds: Vec<OtherKind>,
    pub estimate: ReplicaEstimate,
}

impl ReplicaPlan {
    /// What stands against making it.
    pub fn obstacles(&self) -> impl Iterator<Item = &Broken> {
        self.broken.iter().filter(|broken| broken.prevents)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedObject {
    pub id: ObjectId,
    pub kind: ResourceKind,
    /// Its tag `Name`, or its own name.
    pub name: Option<String>,
    /// Its addresses in the duplicate.
    #[serde(default)]
    pub cidr: Option<Cidr>,
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// Of volumes and of instances' memory.
    #[serde(default)]
    pub copy: Option<CopyType>,
    /// Of instances that run.
    #[serde(default)]
    pub memory: Option<MemoryCopy>,
    /// Of instances: what is wanted.
    #[serde(default)]
    pub fidelity: Option<Fidelity>,
    /// Of instances: what it will be.
    #[serde(default)]
    pub reached: Option<Fidelity>,
    /// Its memory, or its disk.
    #[serde(default)]
    pub size: Option<Bytes>,
}

/// What is made at one time. Rules and routes come after the objects that they are part of, because they name others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "make", rename_all = "kebab-case")]
pub enum ReplicaStep {
    Object {
        object: ObjectId,
    },
    /// The rules of a security group.
    Rules {
        group: SecurityGroupId,
    },
    /// The routes of a route table.
    Routes {
        route_table: RouteTableId,
    },
}

/// What must be done before a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepNeeds {
    pub step: ReplicaStep,
    pub needs: Vec<ReplicaStep>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftOut {
    pub id: ObjectId,
    pub name: Option<String>,
    pub cause: LeftOutCause,
}

/// Why something is not duplicated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LeftOutCause {
    /// It is not one of the subnets that were named.
    OtherSubnet,
    /// It has no address in the networks that were named.
    OtherAddress,
    /// It has none of the tags that were named.
    NotIncluded,
    Excluded {
        tag: TagMatch,
    },
    /// What it belongs to is left out.
    With {
        object: ObjectId,
    },
    /// It neither runs nor is stopped.
    InPassing,
    /// It delivers to a place of the source's, where the duplicate's records would be taken for the source's.
    OtherPlace,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Broken {
    pub id: ObjectId,
    /// Whether a duplicate cannot be made so.
    pub prevents: bool,
    pub breakage: Breakage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Breakage {
    /// A route leads to an interface that is left out.
    DanglingRoute { destination: Cidr, interface: InterfaceId },
    /// A group that had members has none.
    GroupWithoutMembers,
    /// A rule names a group that is left out.
    RuleWithoutGroup { rule: RuleId, group: SecurityGroupId },
    /// An instance, or those that a scaling group launches, lack a group that is left out.
    WithoutGroup { group: SecurityGroupId },
    /// An instance lacks a volume that is left out.
    WithoutVolume { volume: VolumeId, slot: u8 },
    /// A subnet is routed by the main table instead.
    WithoutRouteTable { route_table: RouteTableId },
    /// A subnet is judged by the default ACL instead.
    WithoutNetworkAcl { network_acl: NetworkAclId },
    /// A scaling group lacks a subnet that is left out.
    WithoutSubnet { subnet: SubnetId },
    /// An instance of a scaling group is left out; another is launched in its place, where there are fewer than there should be.
    WithoutInstance { instance: InstanceId },
    /// A rule, entry or route is about addresses of which some would be others in the duplicate.
    PartlyMapped { cidr: Cidr },
    /// It goes on with its memory, and so with its address; `--memory cold` lets it boot with the new one.
    AddressInMemory { address: Ipv4Addr },
    /// It has a TPM of its own, whose keys are copied nowhere.
    OwnTpm,
    /// What it runs was proved on its host, and would not be of a duplicate.
    Proved,
    /// It is on no host yet.
    Unplaced,
    /// Its host cannot be as much like it as is wanted.
    Fidelity { wanted: Fidelity, reached: Fidelity },
}

impl fmt::Display for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DanglingRoute { destination, interface } => {
                write!(f, "its route to {destination} leads to {interface}, which is left out")
            }
            Self::GroupWithoutMembers => write!(f, "nobody is left in the group"),
            Self::RuleWithoutGroup { rule, group } => write!(f, "its rule {rule} names {group}, which is left out"),
            Self::WithoutGroup { group } => write!(f, "it lacks {group}, which is left out"),
            Self::WithoutVolume { volume, slot } => {
                write!(f, "it lacks {volume} at slot {slot}, which is left out")
            }
            Self::WithoutRouteTable { route_table } => {
                write!(f, "it is routed by the main table, because {route_table} is left out")
            }
            Self::WithoutNetworkAcl { network_acl } => {
                write!(f, "it is judged by the default ACL, because {network_acl} is left out")
            }
            Self::WithoutSubnet { subnet } => write!(f, "it lacks {subnet}, which is left out"),
            Self::WithoutInstance { instance } => {
                write!(f, "its {instance} is left out; it launches another in its place")
            }
            Self::PartlyMapped { cidr } => write!(f, "{cidr} holds addresses of which only some are mapped"),
            Self::AddressInMemory { address } => write!(
                f,
                "it goes on with its memory and so with its address {address}; `--memory cold` lets it boot with the new one"
            ),
            Self::OwnTpm => write!(f, "it has a TPM of its own, whose keys are copied nowhere; leave it out by a tag"),
            Self::Proved => {
                write!(f, "what it runs was proved on its host and would not be of a duplicate; leave it out by a tag")
            }
            Self::Unplaced => write!(f, "it is on no host yet"),
            Self::Fidelity { wanted, reached } => {
                write!(f, "its duplicate would be of fidelity {reached}, and {wanted} is wanted")
            }
        }
    }
}

impl fmt::Display for Fidelity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Exact => "exact",
        })
    }
}

/// What becomes of a kind that is not duplicated with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OtherKind {
    pub kind: ResourceKind,
    pub fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// The duplicate points to the same one.
    PointedTo,
    /// It is none of a network's, or must not be there twice.
    LeftOut,
}

/// What a duplicate is thought to cost, by figures that were measured once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaEstimate {
    /// What is written before the duplicates begin.
    pub octets_at_once: Bytes,
    /// What is copied at most while both run.
    pub octets_behind: Bytes,
    /// How long each source stands still.
    pub pause_micros: u64,
    pub millis_until_running: u64,
    pub millis_until_complete: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// Its parts are made, and none of it runs.
    Preparing,
    /// It runs, and what is to be copied whole is still being copied.
    Copying,
    /// It runs.
    Available,
    /// It and all in it is being ended.
    Deleting,
    /// It is a network in its own right now. Shown for an hour, as those below.
    Promoted,
    /// Nothing of it is left.
    Deleted,
    /// It could not be made; nothing of it is left.
    Failed,
}

impl ReplicaState {
    /// Whether there is a duplicate, or one to come.
    pub const fn lives(self) -> bool {
        match self {
            Self::Preparing | Self::Copying | Self::Available | Self::Deleting => true,
            Self::Promoted | Self::Deleted | Self::Failed => false,
        }
    }
}

/// How one instance came to its duplicate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicatedInstance {
    /// How long the source stood still.
    pub pause_micros: u64,
    /// The state of its devices.
    pub devices: Bytes,
    /// What its duplicate has of memory by itself now: fetched from the source, or written since.
    pub copied: Bytes,
}

/// A network that is the duplicate of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Replica {
    pub id: ReplicaId,
    pub account: AccountId,
    /// Unlike those of the account's other replicas.
    pub name: String,
    /// The network that was duplicated.
    pub source: VpcId,
    /// The network that came of it.
    pub vpc: VpcId,
    /// The replica that the source is, if it is one.
    #[serde(default)]
    pub of: Option<ReplicaId>,
    pub terms: ReplicaTerms,
    pub state: ReplicaState,
    pub state_reason: Option<StateReason>,
    /// The job that works on it, or did last.
    pub job: JobId,
    /// When all sources had stood still.
    pub taken: Option<Moment>,
    /// By source.
    pub instances: BTreeMap<InstanceId, ReplicatedInstance>,
    /// What its instances have of memory by themselves now.
    pub copied: Bytes,
    /// What was copied of the source's volumes until its instances went on, and until it was whole if it is to be.
    #[serde(default)]
    pub copied_of_disks: Bytes,
    /// What of the source was left out.
    pub left_out: Vec<ObjectId>,
    /// Each object of the source, and its duplicate.
    pub objects: BTreeMap<ObjectId, ObjectId>,
    /// When it and all in it is deleted by itself.
    pub expires: Option<Moment>,
    pub created: Moment,
    pub changed: Moment,
    #[serde(default)]
    pub tags: Tags,
}

impl Replica {
    /// On what a duplicate is of; its value is the source's id.
    pub const SOURCE_TAG: &'static str = "lucarne:duplicate-of";
    /// On what belongs to a replica; its value is the replica's id.
    pub const TAG: &'static str = "lucarne:replica";
}

/// What differs between a replica and its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// None: it is in the duplicate alone.
    pub source: Option<ObjectId>,
    /// None: it is in the source alone.
    pub duplicate: Option<ObjectId>,
    pub kind: ResourceKind,
    pub name: Option<String>,
    /// Of what is in both.
    pub fields: Vec<FieldDifference>,
}

/// A field as JSON has it, in the duplicate's ids and addresses; text stands without quotation marks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldDifference {
    pub field: String,
    pub source: String,
    pub duplicate: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_reads_back_as_what_it_is() {
        let group = ObjectId::from(SecurityGroupId::from_bits(7));
        assert_eq!(group.to_string().parse::<ObjectId>().unwrap(), group);
        assert_eq!(group.kind(), ResourceKind::SecurityGroup);
        assert!("ami-00000000000000007".parse::<ObjectId>().is_err(), "images are pointed to");
        assert!("".parse::<ObjectId>().is_err());
    }
}
