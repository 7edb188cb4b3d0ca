//! The making of a duplicate's records, step by step as the plan has them.
//!
//! Owns what each object is in the duplicate: a new id, the source's settings, and in place of what they name the duplicates of
//! that. Which steps there are and in which order is the room `replica`'s word.

use std::collections::{BTreeMap, BTreeSet};

use lucarne_api::Problem;
use lucarne_model::{
    ErrorCode, NetworkAclId, ReplicaId, ResourceId, RouteTableId, ScalingGroupId, SecurityGroupId, SubnetId, Tags,
    VolumeId, VpcId,
    desired::VolumeContent,
    flow_log::{FlowLog, FlowLogTarget},
    instance::{Attachment, Instance, InstanceState, Placement},
    network::{NetworkInterface, Route, RouteTable, RouteTarget, Subnet, Vpc},
    network_acl::{AclEntry, NetworkAcl},
    replication::{ObjectId, ReplicaStep, ReplicaTerms},
    scaling::{LaunchTemplate, ScalingGroup},
    security_group::{Peer, Rule, SecurityGroup},
    storage::{Volume, VolumeState},
};
use lucarne_replica::{AddressMap, plan::memory_of, wishes};

use super::{
    super::{checks::refuse, vpcs},
    admission::tagged,
    source::Source,
    standing::FIRST,
};
use crate::{
    fleet::Fleet,
    instructions::FLOW_LOGS,
    random,
    records::{InstanceRecord, VolumeRecord},
    replica_records::DuplicateOf,
    scaling_records::ScalingGroupRecord,
    store::{Scope, Tx},
    workflow::effects,
};

pub(super) struct Maker<'a, 'c> {
    tx: &'a mut Tx<'c>,
    fleet: &'a Fleet,
    replica: ReplicaId,
    source: &'a Source,
    terms: &'a ReplicaTerms,
    map: AddressMap,
    /// What becomes of what.
    objects: BTreeMap<ObjectId, ObjectId>,
}

impl<'a, 'c> Maker<'a, 'c> {
    pub(super) fn new(
        tx: &'a mut Tx<'c>,
        fleet: &'a Fleet,
        replica: ReplicaId,
        (source, terms): (&'a Source, &'a ReplicaTerms),
        kept: &BTreeSet<ObjectId>,
    ) -> Result<Self, Problem> {
        let map = AddressMap::new(&terms.map).map_err(|error| refuse(error.to_string()))?;
        let objects = kept.iter().map(|id| (*id, another(*id))).collect();
        Ok(Self { tx, fleet, replica, source, terms, map, objects })
    }

    pub(super) fn objects(self) -> BTreeMap<ObjectId, ObjectId> {
        self.objects
    }

    pub(super) fn make(&mut self, step: ReplicaStep) -> Result<(), Problem> {
        let (source, missing) = (self.source, || Problem::new(ErrorCode::Internal, "a plan names what is not there"));
        let network = &source.network;
        match step {
            ReplicaStep::Object { object } => self.make_object(object),
            ReplicaStep::Rules { group } => {
                let group = network.security_groups.iter().find(|one| one.id == group).ok_or_else(missing)?;
                self.fill_group(group)
            }
            ReplicaStep::Routes { route_table } => {
                let table = network.route_tables.iter().find(|one| one.id == route_table).ok_or_else(missing)?;
                self.fill_route_table(table)
            }
        }
    }

    fn make_object(&mut self, object: ObjectId) -> Result<(), Problem> {
        let network = &self.source.network;
        match object {
            ObjectId::Vpc(_) => self.vpc(&network.vpc),
            ObjectId::RouteTable(id) => self.route_table(one_of(&network.route_tables, |one| one.id == id)?),
            ObjectId::NetworkAcl(id) => self.network_acl(one_of(&network.network_acls, |one| one.id == id)?),
            ObjectId::Subnet(id) => self.subnet(one_of(&network.subnets, |one| one.id == id)?),
            ObjectId::SecurityGroup(id) => self.security_group(one_of(&network.security_groups, |one| one.id == id)?),
            ObjectId::NetworkInterface(id) => self.interface(one_of(&network.interfaces, |one| one.id == id)?),
            ObjectId::Volume(id) => self.volume(one_of(&network.volumes, |one| one.id == id)?),
            ObjectId::FlowLog(id) => self.flow_log(one_of(&network.flow_logs, |one| one.id == id)?),
            ObjectId::ScalingGroup(id) => self.scaling_group(one_of(&network.scaling_groups, |one| one.id == id)?),
            ObjectId::Instance(id) => match self.source.records.get(&id) {
                Some(record) => self.instance(record),
                None => Err(absent()),
            },
        }
    }

    /// The duplicate of what is kept; none of what is left out.
    fn kept<T: OfObject>(&self, id: T) -> Option<T> {
        self.objects.get(&id.into()).copied().and_then(T::of)
    }

    /// The duplicate of what the plan has made before.
    fn made<T: OfObject>(&self, id: T) -> Result<T, Problem> {
        self.kept(id).ok_or_else(absent)
    }

    fn tags(&self, id: impl Into<ObjectId>, tags: &Tags) -> Tags {
        tagged(id.into(), &self.replica.to_string(), tags)
    }

    fn network(&self) -> Result<VpcId, Problem> {
        self.made(self.source.network.vpc.id)
    }

    fn vpc(&mut self, vpc: &Vpc) -> Result<(), Problem> {
        let cidr = self.map.network(vpc.cidr);
        vpcs::check_usable(cidr)?;
        let made = Vpc {
            id: self.made(vpc.id)?,
            cidr,
            vni: vpcs::unused_vni(self.tx)?,
            main_route_table: self.made(vpc.main_route_table)?,
            default_network_acl: self.made(vpc.default_network_acl)?,
            default_security_group: self.made(vpc.default_security_group)?,
            created: self.tx.now(),
            tags: self.tags(vpc.id, &vpc.tags),
            ..vpc.clone()
        };
        self.tx.insert(&made)
    }

    /// Without its routes, which may name what comes later.
    fn route_table(&mut self, table: &RouteTable) -> Result<(), Problem> {
        let made = RouteTable {
            id: self.made(table.id)?,
            vpc: self.network()?,
            routes: Vec::new(),
            created: self.tx.now(),
            tags: self.tags(table.id, &table.tags),
            ..table.clone()
        };
        self.tx.insert(&made)
    }

    /// A route to what is left out leads nowhere, and not by a shorter prefix to somewhere else.
    fn fill_route_table(&mut self, table: &RouteTable) -> Result<(), Problem> {
        let mut made: RouteTable = self.tx.get(Scope::Everything, self.made(table.id)?)?;
        let target = |target| match target {
            RouteTarget::Interface { interface } => {
                self.kept(interface).map_or(RouteTarget::Blackhole, |interface| RouteTarget::Interface { interface })
            }
            RouteTarget::Local | RouteTarget::Blackhole => target,
        };
        let routes = table.routes.iter().map(|route| {
            let destination = self.map.network(route.destination);
            Route { destination, target: target(route.target) }
        });
        made.routes = routes.collect();
        self.tx.put(&made)
    }

    fn network_acl(&mut self, acl: &NetworkAcl) -> Result<(), Problem> {
        let created = self.tx.now();
        let entry =
            |entry: &AclEntry| AclEntry { id: random::id(), created, cidr: self.map.network(entry.cidr), ..*entry };
        let made = NetworkAcl {
            id: self.made(acl.id)?,
            vpc: self.network()?,
            entries: acl.entries.iter().map(entry).collect(),
            created,
            tags: self.tags(acl.id, &acl.tags),
            ..acl.clone()
        };
        self.tx.insert(&made)
    }

    /// One whose table or ACL is left out has those that a network is born with.
    fn subnet(&mut self, subnet: &Subnet) -> Result<(), Problem> {
        let vpc = &self.source.network.vpc;
        let (main, default) = (self.made(vpc.main_route_table)?, self.made(vpc.default_network_acl)?);
        let made = Subnet {
            id: self.made(subnet.id)?,
            vpc: self.network()?,
            cidr: self.map.network(subnet.cidr),
            route_table: self.kept(subnet.route_table).unwrap_or(main),
            network_acl: self.kept(subnet.network_acl).unwrap_or(default),
            created: self.tx.now(),
            tags: self.tags(subnet.id, &subnet.tags),
            ..subnet.clone()
        };
        self.tx.insert(&made)
    }

    /// Without its rules, which may name groups that come later.
    fn security_group(&mut self, group: &SecurityGroup) -> Result<(), Problem> {
        let made = SecurityGroup {
            id: self.made(group.id)?,
            vpc: self.network()?,
            rules: Vec::new(),
            created: self.tx.now(),
            tags: self.tags(group.id, &group.tags),
            ..group.clone()
        };
        self.tx.insert(&made)
    }

    /// A rule for members of a group that is left out would let nobody in.
    fn fill_group(&mut self, group: &SecurityGroup) -> Result<(), Problem> {
        let mut made: SecurityGroup = self.tx.get(Scope::Everything, self.made(group.id)?)?;
        let created = self.tx.now();
        let rule = |rule: &Rule| {
            let peer = match rule.spec.peer {
                Peer::Cidr { cidr } => Peer::Cidr { cidr: self.map.network(cidr) },
                Peer::Group { group } => Peer::Group { group: self.kept(group)? },
            };
            let spec = lucarne_model::security_group::RuleSpec { peer, ..rule.spec.clone() };
            Some(Rule { id: random::id(), created, spec })
        };
        made.rules = group.rules.iter().filter_map(rule).collect();
        self.tx.put(&made)
    }

    /// No interface is without a group: that would let nothing pass, either way.
    fn groups(&self, groups: &[SecurityGroupId]) -> Result<Vec<SecurityGroupId>, Problem> {
        let kept: Vec<_> = groups.iter().filter_map(|group| self.kept(*group)).collect();
        if kept.is_empty() { Ok(vec![self.made(self.source.network.vpc.default_security_group)?]) } else { Ok(kept) }
    }

    fn interface(&mut self, interface: &NetworkInterface) -> Result<(), Problem> {
        let made = NetworkInterface {
            id: self.made(interface.id)?,
            vpc: self.network()?,
            subnet: self.made(interface.subnet)?,
            instance: self.made(interface.instance)?,
            address: self.map.address(interface.address),
            groups: self.groups(&interface.groups)?,
            created: self.tx.now(),
            tags: self.tags(interface.id, &interface.tags),
            counters: None,
            ..interface.clone()
        };
        self.tx.insert(&made)
    }

    /// It gets its host with its instance.
    fn volume(&mut self, volume: &Volume) -> Result<(), Problem> {
        let copy = wishes::copy_of_volume(self.terms, &self.source.network, volume);
        let holder = volume.instance.map(|instance| self.made(instance)).transpose()?;
        let stopped = volume
            .instance
            .and_then(|instance| self.source.network.instance(instance))
            .is_some_and(|instance| instance.state == InstanceState::Stopped);
        let made = Volume {
            id: self.made(volume.id)?,
            state: if stopped { VolumeState::InUse } else { VolumeState::Attaching },
            state_reason: None,
            instance: holder,
            host: None,
            created: self.tx.now(),
            tags: self.tags(volume.id, &volume.tags),
            ..volume.clone()
        };
        let content = VolumeContent::Duplicate { replica: self.replica, source: volume.id, copy };
        self.tx.insert(&VolumeRecord { volume: made, content })
    }

    fn flow_log(&mut self, log: &FlowLog) -> Result<(), Problem> {
        let target = match log.target {
            FlowLogTarget::Vpc { vpc } => FlowLogTarget::Vpc { vpc: self.made(vpc)? },
            FlowLogTarget::Subnet { subnet } => FlowLogTarget::Subnet { subnet: self.made(subnet)? },
            FlowLogTarget::Interface { interface } => FlowLogTarget::Interface { interface: self.made(interface)? },
            FlowLogTarget::Instance { instance } => FlowLogTarget::Instance { instance: self.made(instance)? },
        };
        let made = FlowLog {
            id: self.made(log.id)?,
            vpc: self.network()?,
            target,
            delivery: None,
            created: self.tx.now(),
            changed: self.tx.now(),
            tags: self.tags(log.id, &log.tags),
            ..log.clone()
        };
        self.tx.touch(FLOW_LOGS);
        self.tx.insert(&made)
    }

    /// With the duplicates of its instances; from then on it goes its own way.
    fn scaling_group(&mut self, group: &ScalingGroup) -> Result<(), Problem> {
        let template = &group.template;
        let security_groups = match template.security_groups.as_slice() {
            [] => Vec::new(),
            groups => self.groups(groups)?,
        };
        let made = ScalingGroup {
            id: self.made(group.id)?,
            vpc: self.network()?,
            subnets: group.subnets.iter().filter_map(|id| self.kept(*id)).collect(),
            template: LaunchTemplate { security_groups, ..template.clone() },
            instances: group.instances.iter().filter_map(|id| self.kept(*id)).collect(),
            changed: self.tx.now(),
            decisions: Vec::new(),
            created: self.tx.now(),
            tags: self.tags(group.id, &group.tags),
            ..group.clone()
        };
        self.tx.insert(&ScalingGroupRecord::new(made))
    }

    /// The scaling group that the instance is one of, and that group's duplicate.
    fn group_of(&self, instance: &Instance) -> Option<(ScalingGroupId, Option<ScalingGroupId>)> {
        let groups = &self.source.network.scaling_groups;
        let group = groups.iter().find(|group| group.instances.contains(&instance.id))?;
        Some((group.id, self.kept(group.id)))
    }

    fn tags_of_member(&self, instance: &Instance) -> Tags {
        let mut tags = instance.tags.clone();
        if let Some((_, duplicate)) = self.group_of(instance) {
            tags.0.remove(ScalingGroup::TAG);
            tags.0.extend(duplicate.map(|id| (ScalingGroup::TAG.to_owned(), id.to_string())));
        }
        tags
    }

    fn placement(&self, instance: &Instance) -> Placement {
        let own = instance.placement.group.clone();
        let group = match self.group_of(instance) {
            Some((id, duplicate)) if own == Some(id.to_string()) => duplicate.map(|id| id.to_string()),
            _ => own,
        };
        Placement { host: None, group, ..instance.placement }
    }

    /// On its source's host, where the room is promised now.
    fn instance(&mut self, source: &InstanceRecord) -> Result<(), Problem> {
        let instance = &source.instance;
        let machine = self.source.around.machine(instance, self.terms);
        let volumes = instance
            .volumes
            .iter()
            .filter_map(|one| Some(Attachment { volume: self.kept(one.volume)?, slot: one.slot }));
        let memory = memory_of(instance, self.terms);
        let made = Instance {
            id: self.made(instance.id)?,
            vcpus: machine.vcpus,
            memory: machine.memory,
            vpc: self.network()?,
            subnet: self.made(instance.subnet)?,
            interface: self.made(instance.interface)?,
            address: self.map.address(instance.address),
            security_groups: self.groups(&instance.security_groups)?,
            volumes: volumes.collect(),
            state: if memory.is_some() { InstanceState::Pending } else { InstanceState::Stopped },
            state_reason: None,
            host: None,
            placement: self.placement(instance),
            generation: FIRST,
            began: None,
            launched: self.tx.now(),
            changed: self.tx.now(),
            tags: self.tags(instance.id, &self.tags_of_member(instance)),
            ..instance.clone()
        };
        let copy = wishes::copy_of_instance(self.terms, instance);
        let duplicate = DuplicateOf { replica: self.replica, source: instance.id, copy, memory };
        let mut record = InstanceRecord {
            instance: made,
            boot: source.boot.clone(),
            forced: false,
            claimed: None,
            passage: None,
            duplicate: Some(duplicate),
        };
        effects::place(self.tx, self.fleet, &mut record, instance.host)?;
        self.tx.insert(&record)
    }
}

fn absent() -> Problem {
    Problem::new(ErrorCode::Internal, "a plan names what is not there")
}

fn one_of<T>(all: &[T], is: impl Fn(&T) -> bool) -> Result<&T, Problem> {
    all.iter().find(|one| is(one)).ok_or_else(absent)
}

/// A new id of the same kind.
fn another(id: ObjectId) -> ObjectId {
    match id {
        ObjectId::Vpc(_) => ObjectId::Vpc(random::id()),
        ObjectId::RouteTable(_) => ObjectId::RouteTable(random::id()),
        ObjectId::NetworkAcl(_) => ObjectId::NetworkAcl(random::id()),
        ObjectId::Subnet(_) => ObjectId::Subnet(random::id()),
        ObjectId::SecurityGroup(_) => ObjectId::SecurityGroup(random::id()),
        ObjectId::NetworkInterface(_) => ObjectId::NetworkInterface(random::id()),
        ObjectId::Volume(_) => ObjectId::Volume(random::id()),
        ObjectId::FlowLog(_) => ObjectId::FlowLog(random::id()),
        ObjectId::Instance(_) => ObjectId::Instance(random::id()),
        ObjectId::ScalingGroup(_) => ObjectId::ScalingGroup(random::id()),
    }
}

/// An id that is one of an object's.
trait OfObject: Into<ObjectId> + ResourceId {
    fn of(id: ObjectId) -> Option<Self>;
}

macro_rules! of_objects {
    ($($id:ty = $variant:ident;)*) => {$(
        impl OfObject for $id {
            fn of(id: ObjectId) -> Option<Self> {
                match id {
                    ObjectId::$variant(id) => Some(id),
                    _ => None,
                }
            }
        }
    )*};
}

of_objects! {
    VpcId = Vpc;
    RouteTableId = RouteTable;
    NetworkAclId = NetworkAcl;
    SubnetId = Subnet;
    SecurityGroupId = SecurityGroup;
    lucarne_model::InterfaceId = NetworkInterface;
    VolumeId = Volume;
    lucarne_model::FlowLogId = FlowLog;
    lucarne_model::InstanceId = Instance;
    ScalingGroupId = ScalingGroup;
}
