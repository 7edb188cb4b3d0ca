//! Which objects of a network the filters leave.
//!
//! Owns the filters' meaning. Each object is either kept or left out for one cause; what that breaks is said by
//! [`crate::breakage`].

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::{
    InstanceId, SubnetId,
    flow_log::{Destination, FlowLog, FlowLogTarget},
    instance::{Instance, InstanceState},
    network::Subnet,
    replication::{LeftOut, LeftOutCause as Cause, ObjectId, ReplicaTerms, TagMatch},
    scaling::ScalingGroup,
};

use crate::network::{Network, Object};

/// What of a network is duplicated, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub kept: BTreeSet<ObjectId>,
    pub left_out: Vec<LeftOut>,
}

impl Selection {
    pub fn keeps(&self, id: impl Into<ObjectId>) -> bool {
        self.kept.contains(&id.into())
    }
}

pub fn select(network: &Network, terms: &ReplicaTerms) -> Selection {
    let causes = causes(network, terms);
    let mut selection = Selection::default();
    for object in network.objects() {
        match causes.get(&object.id) {
            Some(cause) => {
                selection.left_out.push(LeftOut { id: object.id, name: object.name(), cause: cause.clone() });
            }
            None => {
                selection.kept.insert(object.id);
            }
        }
    }
    selection
}

type Causes = BTreeMap<ObjectId, Cause>;

/// Why objects are left out: subnets first, then instances, which are in them, then what belongs to instances.
fn causes(network: &Network, terms: &ReplicaTerms) -> Causes {
    let mut causes: Causes = network
        .objects()
        .filter(|object| !network.is_born_with(object.id))
        .filter_map(|object| Some((object.id, Cause::Excluded { tag: excluded(&object, terms)?.clone() })))
        .collect();
    for subnet in &network.subnets {
        note(&mut causes, subnet.id.into(), other_subnet(subnet, terms));
    }
    for interface in &network.interfaces {
        let with = Cause::With { object: interface.id.into() };
        let gone = causes.contains_key(&interface.id.into());
        note(&mut causes, interface.instance.into(), gone.then_some(with));
    }
    for instance in &network.instances {
        let cause = with_subnet(&causes, instance.subnet).or_else(|| other_instance(instance, terms));
        note(&mut causes, instance.id.into(), cause);
    }
    for interface in &network.interfaces {
        let cause = with_instance(network, &causes, interface.instance);
        note(&mut causes, interface.id.into(), cause);
    }
    for volume in &network.volumes {
        let cause = volume.instance.and_then(|instance| with_instance(network, &causes, instance));
        note(&mut causes, volume.id.into(), cause);
    }
    for group in &network.scaling_groups {
        let cause = emptied(group, &causes);
        note(&mut causes, group.id.into(), cause);
    }
    for log in &network.flow_logs {
        let cause = other_log(log, &causes);
        note(&mut causes, log.id.into(), cause);
    }
    causes
}

/// The first cause counts.
fn note(causes: &mut Causes, id: ObjectId, cause: Option<Cause>) {
    if let Some(cause) = cause {
        causes.entry(id).or_insert(cause);
    }
}

fn excluded<'t>(object: &Object<'_>, terms: &'t ReplicaTerms) -> Option<&'t TagMatch> {
    terms.exclude_tags.iter().find(|tag| tag.is_on(object.tags))
}

fn other_subnet(subnet: &Subnet, terms: &ReplicaTerms) -> Option<Cause> {
    if !terms.subnets.is_empty() && !terms.subnets.contains(&subnet.id) {
        return Some(Cause::OtherSubnet);
    }
    let outside = !terms.addresses.is_empty() && !terms.addresses.iter().any(|cidr| cidr.overlaps(&subnet.cidr));
    outside.then_some(Cause::OtherAddress)
}

fn with_subnet(causes: &Causes, subnet: SubnetId) -> Option<Cause> {
    causes.contains_key(&subnet.into()).then_some(Cause::With { object: subnet.into() })
}

/// An instance that is not there at all has ended meanwhile.
fn with_instance(network: &Network, causes: &Causes, instance: InstanceId) -> Option<Cause> {
    let gone = causes.contains_key(&instance.into()) || network.instance(instance).is_none();
    gone.then_some(Cause::With { object: instance.into() })
}

fn other_instance(instance: &Instance, terms: &ReplicaTerms) -> Option<Cause> {
    if !terms.addresses.is_empty() && !terms.addresses.iter().any(|cidr| cidr.contains(instance.address)) {
        return Some(Cause::OtherAddress);
    }
    if !terms.include_tags.is_empty() && !terms.include_tags.iter().any(|tag| tag.is_on(&instance.tags)) {
        return Some(Cause::NotIncluded);
    }
    let lasts = matches!(instance.state, InstanceState::Running | InstanceState::Stopped);
    (!lasts).then_some(Cause::InPassing)
}

/// A group that has no subnet any more can launch nothing, and one that has lost all of its instances would launch other ones.
fn emptied(group: &ScalingGroup, causes: &Causes) -> Option<Cause> {
    let gone = |object: ObjectId| causes.contains_key(&object).then_some(Cause::With { object });
    let all = |objects: Vec<ObjectId>| {
        let gone: Option<Vec<Cause>> = objects.into_iter().map(gone).collect();
        gone.and_then(|causes| causes.into_iter().next())
    };
    let subnets = group.subnets.iter().map(|id| ObjectId::from(*id)).collect();
    let instances = group.instances.iter().map(|id| ObjectId::from(*id)).collect();
    all(subnets).or_else(|| all(instances))
}

fn other_log(log: &FlowLog, causes: &Causes) -> Option<Cause> {
    let about: ObjectId = match log.target {
        FlowLogTarget::Vpc { vpc } => vpc.into(),
        FlowLogTarget::Subnet { subnet } => subnet.into(),
        FlowLogTarget::Interface { interface } => interface.into(),
        FlowLogTarget::Instance { instance } => instance.into(),
    };
    if causes.contains_key(&about) {
        return Some(Cause::With { object: about });
    }
    (log.to != Destination::Store).then_some(Cause::OtherPlace)
}
