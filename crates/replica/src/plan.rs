//! What would be made of a network by given terms: everything that is decided before anything is done.
//!
//! Owns the plan's making out of the other modules' words. Carrying it out is `control`'s.

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::{
    Bytes, HostId, ImageId,
    instance::{Instance, InstanceState},
    replica::{Fidelity, MemoryCopy},
    replication::{Breakage, Broken, ObjectId, PlannedObject, ReplicaPlan, ReplicaStep, ReplicaTerms, StepNeeds},
};

use crate::{
    address_map::{AddressMap, MapError},
    breakage,
    estimate::estimate,
    fidelity::{self, Ground, Machine},
    kinds,
    network::Network,
    order,
    selection::{self, Selection},
    wishes,
};

/// What a host tells of itself that a duplicate's fidelity depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostTold {
    /// Its hypervisor with its version.
    pub hypervisor: String,
}

/// What the network stands in.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub hosts: BTreeMap<HostId, HostTold>,
    /// The least memory that each image boots with.
    pub least_memory: BTreeMap<ImageId, Bytes>,
}

impl Surroundings {
    /// The machine that an instance's duplicate gets.
    pub fn machine(&self, instance: &Instance, terms: &ReplicaTerms) -> Machine {
        let least = self.least_memory.get(&instance.image).copied().unwrap_or(instance.memory);
        let memory = memory_of(instance, terms).unwrap_or(MemoryCopy::Cold);
        fidelity::machine(instance, wishes::fidelity_of(terms, instance), memory, least)
    }

    /// Duplicates begin on their sources' hosts.
    fn reached(&self, instance: &Instance, machine: Machine) -> Fidelity {
        let told = instance.host.and_then(|host| self.hosts.get(&host));
        let hypervisor = told.map_or("", |told| told.hypervisor.as_str());
        fidelity::reached(instance, machine, Ground { source: hypervisor, duplicate: hypervisor, one_host: true })
    }
}

/// What becomes of an instance's memory; none of one that does not run.
pub fn memory_of(instance: &Instance, terms: &ReplicaTerms) -> Option<MemoryCopy> {
    (instance.state == InstanceState::Running).then_some(terms.memory)
}

/// # Errors
/// When the network's addresses cannot be mapped as the terms say.
pub fn plan(network: &Network, terms: &ReplicaTerms, around: &Surroundings) -> Result<ReplicaPlan, MapError> {
    let map = AddressMap::new(&terms.map)?;
    let selection = selection::select(network, terms);
    map.check(network, &selection)?;
    let objects = objects(network, terms, around, (&selection, &map));
    let mut broken = breakage::broken(network, &selection, terms, &map);
    broken.extend(objects.iter().filter_map(unlike));
    let dependencies = order::dependencies(network, &selection);
    let needs = |(step, needs): (&ReplicaStep, &BTreeSet<ReplicaStep>)| StepNeeds {
        step: *step,
        needs: needs.iter().copied().collect(),
    };
    Ok(ReplicaPlan {
        vpc: network.vpc.id,
        stages: order::stages(&dependencies),
        needs: dependencies.iter().map(needs).collect(),
        left_out: selection.left_out,
        broken,
        other_kinds: kinds::other_kinds(),
        estimate: estimate(&objects),
        objects,
    })
}

fn unlike(object: &PlannedObject) -> Option<Broken> {
    let (wanted, reached) = (object.fidelity?, object.reached?);
    let breakage = Breakage::Fidelity { wanted, reached };
    (reached < wanted).then_some(Broken { id: object.id, prevents: true, breakage })
}

fn objects(
    network: &Network,
    terms: &ReplicaTerms,
    around: &Surroundings,
    (selection, map): (&Selection, &AddressMap),
) -> Vec<PlannedObject> {
    let bare = network.objects().filter(|object| selection.keeps(object.id)).map(|object| PlannedObject {
        id: object.id,
        kind: object.id.kind(),
        name: object.name(),
        cidr: None,
        address: None,
        copy: None,
        memory: None,
        fidelity: None,
        reached: None,
        size: None,
    });
    let detailed = bare.map(|bare| match bare.id {
        ObjectId::Vpc(_) => PlannedObject { cidr: Some(map.network(network.vpc.cidr)), ..bare },
        ObjectId::Subnet(id) => {
            let subnet = network.subnets.iter().find(|subnet| subnet.id == id);
            PlannedObject { cidr: subnet.map(|subnet| map.network(subnet.cidr)), ..bare }
        }
        ObjectId::NetworkInterface(id) => {
            let interface = network.interfaces.iter().find(|interface| interface.id == id);
            PlannedObject { address: interface.map(|interface| map.address(interface.address)), ..bare }
        }
        ObjectId::Volume(id) => match network.volumes.iter().find(|volume| volume.id == id) {
            Some(volume) => PlannedObject {
                copy: Some(wishes::copy_of_volume(terms, network, volume)),
                size: Some(volume.size),
                ..bare
            },
            None => bare,
        },
        ObjectId::Instance(id) => match network.instance(id) {
            Some(instance) => planned_instance(bare, instance, terms, around),
            None => bare,
        },
        ObjectId::RouteTable(_)
        | ObjectId::NetworkAcl(_)
        | ObjectId::SecurityGroup(_)
        | ObjectId::FlowLog(_)
        | ObjectId::ScalingGroup(_) => bare,
    });
    detailed.collect()
}

fn planned_instance(
    bare: PlannedObject,
    instance: &Instance,
    terms: &ReplicaTerms,
    around: &Surroundings,
) -> PlannedObject {
    let (machine, memory) = (around.machine(instance, terms), memory_of(instance, terms));
    PlannedObject {
        copy: memory.map(|_| wishes::copy_of_instance(terms, instance)),
        memory,
        fidelity: Some(wishes::fidelity_of(terms, instance)),
        reached: Some(around.reached(instance, machine)),
        size: Some(machine.memory),
        ..bare
    }
}
