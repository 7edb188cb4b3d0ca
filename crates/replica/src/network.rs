//! One network and everything in it, as the records have it.
//!
//! Owns what a network consists of, and what each of its objects is called. Where it is read from is `control`'s matter.

use std::collections::BTreeMap;

use lucarne_model::{
    InstanceId, InterfaceId, Tags,
    flow_log::FlowLog,
    instance::Instance,
    network::{NetworkInterface, RouteTable, Subnet, Vpc},
    network_acl::NetworkAcl,
    replication::ObjectId,
    scaling::ScalingGroup,
    security_group::SecurityGroup,
    storage::Volume,
};

#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub vpc: Vpc,
    pub route_tables: Vec<RouteTable>,
    pub network_acls: Vec<NetworkAcl>,
    pub subnets: Vec<Subnet>,
    pub security_groups: Vec<SecurityGroup>,
    pub interfaces: Vec<NetworkInterface>,
    /// Those that are attached to its instances: a volume of no instance is of no network.
    pub volumes: Vec<Volume>,
    pub flow_logs: Vec<FlowLog>,
    /// All but those that have ended.
    pub instances: Vec<Instance>,
    /// With those of `instances` that are theirs.
    pub scaling_groups: Vec<ScalingGroup>,
}

/// What all objects have.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    pub id: ObjectId,
    pub tags: &'a Tags,
    /// A name of its own, beside its tag `Name`.
    name: Option<&'a str>,
}

impl Object<'_> {
    pub fn name(&self) -> Option<String> {
        self.tags.name().or(self.name).map(str::to_owned)
    }
}

impl Network {
    /// Every object, what others depend on first.
    pub fn objects(&self) -> impl Iterator<Item = Object<'_>> {
        let of = |id: ObjectId, tags| Object { id, tags, name: None };
        let group = |group: &'_ SecurityGroup| ObjectId::from(group.id);
        let vpc = std::iter::once(of(self.vpc.id.into(), &self.vpc.tags));
        vpc.chain(self.route_tables.iter().map(move |one| of(one.id.into(), &one.tags)))
            .chain(self.network_acls.iter().map(move |one| of(one.id.into(), &one.tags)))
            .chain(self.subnets.iter().map(move |one| of(one.id.into(), &one.tags)))
            .chain(self.security_groups.iter().map(move |one| Object {
                id: group(one),
                tags: &one.tags,
                name: Some(&one.name),
            }))
            .chain(self.interfaces.iter().map(move |one| of(one.id.into(), &one.tags)))
            .chain(self.volumes.iter().map(move |one| of(one.id.into(), &one.tags)))
            .chain(self.flow_logs.iter().map(move |one| of(one.id.into(), &one.tags)))
            .chain(self.instances.iter().map(move |one| of(one.id.into(), &one.tags)))
            .chain(self.scaling_groups.iter().map(|one| Object {
                id: one.id.into(),
                tags: &one.tags,
                name: Some(&one.name),
            }))
    }

    /// What a network is born with: it is in every duplicate, because no network is without.
    pub fn is_born_with(&self, id: ObjectId) -> bool {
        let vpc = &self.vpc;
        let born: [ObjectId; 4] = [
            vpc.id.into(),
            vpc.main_route_table.into(),
            vpc.default_network_acl.into(),
            vpc.default_security_group.into(),
        ];
        born.contains(&id)
    }

    pub fn instance(&self, id: InstanceId) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.id == id)
    }

    /// Whose each interface is.
    pub fn holders(&self) -> BTreeMap<InterfaceId, InstanceId> {
        self.interfaces.iter().map(|interface| (interface.id, interface.instance)).collect()
    }
}
