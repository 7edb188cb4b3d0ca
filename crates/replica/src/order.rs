//! What must be there before what, and the stages that follow: what is in one stage can be made at the same time.
//!
//! Owns the dependencies between objects. Those that name each other in a circle do so by rules and routes, which are steps of
//! their own behind the objects that they are part of; so there is no circle among steps.

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::{
    flow_log::FlowLogTarget,
    network::RouteTarget,
    replication::{ObjectId, ReplicaStep},
    security_group::Peer,
};

use crate::{network::Network, selection::Selection};

/// Each step of a selection, and the steps that it needs done before.
pub type Dependencies = BTreeMap<ReplicaStep, BTreeSet<ReplicaStep>>;

pub fn dependencies(network: &Network, selection: &Selection) -> Dependencies {
    let mut needs = Needs { selection, all: Dependencies::new() };
    let vpc = ObjectId::from(network.vpc.id);
    needs.object(vpc, []);
    for table in &network.route_tables {
        needs.object(table.id, [vpc]);
    }
    for acl in &network.network_acls {
        needs.object(acl.id, [vpc]);
    }
    for group in &network.security_groups {
        needs.object(group.id, [vpc]);
    }
    for subnet in &network.subnets {
        // What it falls back to, should its own be left out.
        let fallbacks = [network.vpc.main_route_table.into(), network.vpc.default_network_acl.into()];
        let own = [vpc, subnet.route_table.into(), subnet.network_acl.into()];
        needs.object(subnet.id, own.into_iter().chain(fallbacks));
    }
    for interface in &network.interfaces {
        let groups = interface.groups.iter().map(|group| ObjectId::from(*group));
        needs.object(interface.id, groups.chain([interface.subnet.into()]));
    }
    for volume in &network.volumes {
        needs.object(volume.id, []);
    }
    rules_and_routes(network, &mut needs);
    for log in &network.flow_logs {
        let about: ObjectId = match log.target {
            FlowLogTarget::Vpc { vpc } => vpc.into(),
            FlowLogTarget::Subnet { subnet } => subnet.into(),
            FlowLogTarget::Interface { interface } => interface.into(),
            FlowLogTarget::Instance { instance } => instance.into(),
        };
        needs.object(log.id, [about, vpc]);
    }
    instances(network, &mut needs);
    scaling_groups(network, &mut needs);
    needs.all
}

struct Needs<'a> {
    selection: &'a Selection,
    all: Dependencies,
}

impl Needs<'_> {
    fn object(&mut self, id: impl Into<ObjectId>, on: impl IntoIterator<Item = ObjectId>) {
        let object = id.into();
        self.step(ReplicaStep::Object { object }, object, on.into_iter().map(|object| ReplicaStep::Object { object }));
    }

    /// A step of `owner`; what is left out is waited for by nobody.
    fn step(&mut self, step: ReplicaStep, owner: ObjectId, on: impl IntoIterator<Item = ReplicaStep>) {
        if self.selection.keeps(owner) {
            let kept = on.into_iter().filter(|on| self.selection.keeps(owner_of(*on))).collect();
            self.all.insert(step, kept);
        }
    }
}

fn owner_of(step: ReplicaStep) -> ObjectId {
    match step {
        ReplicaStep::Object { object } => object,
        ReplicaStep::Rules { group } => group.into(),
        ReplicaStep::Routes { route_table } => route_table.into(),
    }
}

fn rules_and_routes(network: &Network, needs: &mut Needs<'_>) {
    for group in &network.security_groups {
        let named = group.rules.iter().filter_map(|rule| match rule.spec.peer {
            Peer::Group { group } => Some(ReplicaStep::Object { object: group.into() }),
            Peer::Cidr { .. } => None,
        });
        let own = ReplicaStep::Object { object: group.id.into() };
        needs.step(ReplicaStep::Rules { group: group.id }, group.id.into(), named.chain([own]));
    }
    for table in &network.route_tables {
        let targets = table.routes.iter().filter_map(|route| match route.target {
            RouteTarget::Interface { interface } => Some(ReplicaStep::Object { object: interface.into() }),
            RouteTarget::Local | RouteTarget::Blackhole => None,
        });
        let own = ReplicaStep::Object { object: table.id.into() };
        needs.step(ReplicaStep::Routes { route_table: table.id }, table.id.into(), targets.chain([own]));
    }
}

/// An instance comes when its network is whole: it must not send a packet that a rule which is still to come would refuse.
fn instances(network: &Network, needs: &mut Needs<'_>) {
    let rules = network.security_groups.iter().map(|group| ReplicaStep::Rules { group: group.id });
    let routes = network.route_tables.iter().map(|table| ReplicaStep::Routes { route_table: table.id });
    let whole: Vec<ReplicaStep> = rules.chain(routes).collect();
    for instance in &network.instances {
        let volumes = instance.volumes.iter().map(|attachment| ObjectId::from(attachment.volume));
        let parts = volumes.chain([instance.interface.into()]).map(|object| ReplicaStep::Object { object });
        let step = ReplicaStep::Object { object: instance.id.into() };
        needs.step(step, instance.id.into(), parts.chain(whole.iter().copied()));
    }
}

/// A group comes when what it has is there.
fn scaling_groups(network: &Network, needs: &mut Needs<'_>) {
    for group in &network.scaling_groups {
        let subnets = group.subnets.iter().map(|id| ObjectId::from(*id));
        let groups = group.template.security_groups.iter().map(|id| ObjectId::from(*id));
        let instances = group.instances.iter().map(|id| ObjectId::from(*id));
        // What it falls back to, should its groups be left out.
        let born = [network.vpc.id.into(), network.vpc.default_security_group.into()];
        needs.object(group.id, subnets.chain(groups).chain(instances).chain(born));
    }
}

/// The steps in stages, each as early as what it needs allows.
pub fn stages(dependencies: &Dependencies) -> Vec<Vec<ReplicaStep>> {
    let mut waiting: BTreeMap<ReplicaStep, usize> = BTreeMap::new();
    let mut behind: BTreeMap<ReplicaStep, Vec<ReplicaStep>> = BTreeMap::new();
    for (step, needs) in dependencies {
        waiting.insert(*step, needs.len());
        for need in needs {
            behind.entry(*need).or_default().push(*step);
        }
    }
    let mut stages = Vec::new();
    let mut next: Vec<ReplicaStep> = waiting.iter().filter(|(_, needs)| **needs == 0).map(|(step, _)| *step).collect();
    while !next.is_empty() {
        let done = std::mem::take(&mut next);
        for step in done.iter().flat_map(|step| behind.remove(step).unwrap_or_default()) {
            if let Some(needs) = waiting.get_mut(&step) {
                *needs -= 1;
                if *needs == 0 {
                    next.push(step);
                }
            }
        }
        next.sort_unstable();
        stages.push(done);
    }
    stages
}
