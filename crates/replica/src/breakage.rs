//! What the duplicate lacks by what was left out, and what cannot be duplicated at all.
//!
//! Owns the list of these, and which of them stand against making it. What is left out, and why, is
//! [`crate::selection`]'s word.

use std::collections::BTreeSet;

use lucarne_model::{
    Cidr, SecurityGroupId,
    instance::{Instance, InstanceState},
    network::RouteTarget,
    replica::MemoryCopy,
    replication::{Breakage, Broken, ObjectId, ReplicaTerms},
    security_group::Peer,
};

use crate::{address_map::AddressMap, network::Network, selection::Selection};

pub fn broken(network: &Network, selection: &Selection, terms: &ReplicaTerms, map: &AddressMap) -> Vec<Broken> {
    let mut broken = Vec::new();
    routes(network, selection, &mut broken);
    groups(network, selection, &mut broken);
    subnets(network, selection, &mut broken);
    divided(network, selection, map, &mut broken);
    scaling_groups(network, selection, &mut broken);
    for instance in network.instances.iter().filter(|instance| selection.keeps(instance.id)) {
        self::instance(instance, selection, terms, map, &mut broken);
    }
    broken
}

fn lacks(broken: &mut Vec<Broken>, id: impl Into<ObjectId>, breakage: Breakage) {
    broken.push(Broken { id: id.into(), prevents: false, breakage });
}

fn cannot(broken: &mut Vec<Broken>, id: impl Into<ObjectId>, breakage: Breakage) {
    broken.push(Broken { id: id.into(), prevents: true, breakage });
}

/// A route that led nowhere before is none that was broken.
fn routes(network: &Network, selection: &Selection, broken: &mut Vec<Broken>) {
    let holders = network.holders();
    for table in network.route_tables.iter().filter(|table| selection.keeps(table.id)) {
        for route in &table.routes {
            if let RouteTarget::Interface { interface } = route.target
                && holders.contains_key(&interface)
                && !selection.keeps(interface)
            {
                let destination = route.destination;
                lacks(broken, table.id, Breakage::DanglingRoute { destination, interface });
            }
        }
    }
}

fn groups(network: &Network, selection: &Selection, broken: &mut Vec<Broken>) {
    let members = |kept: bool| -> BTreeSet<SecurityGroupId> {
        let all = network.interfaces.iter().filter(|interface| !kept || selection.keeps(interface.id));
        all.flat_map(|interface| interface.groups.iter().copied()).collect()
    };
    let (had, has) = (members(false), members(true));
    for group in network.security_groups.iter().filter(|group| selection.keeps(group.id)) {
        if had.contains(&group.id) && !has.contains(&group.id) {
            lacks(broken, group.id, Breakage::GroupWithoutMembers);
        }
        for rule in &group.rules {
            if let Peer::Group { group: named } = rule.spec.peer
                && !selection.keeps(named)
            {
                lacks(broken, group.id, Breakage::RuleWithoutGroup { rule: rule.id, group: named });
            }
        }
    }
}

fn subnets(network: &Network, selection: &Selection, broken: &mut Vec<Broken>) {
    for subnet in network.subnets.iter().filter(|subnet| selection.keeps(subnet.id)) {
        let (route_table, network_acl) = (subnet.route_table, subnet.network_acl);
        if !selection.keeps(route_table) {
            lacks(broken, subnet.id, Breakage::WithoutRouteTable { route_table });
        }
        if !selection.keeps(network_acl) {
            lacks(broken, subnet.id, Breakage::WithoutNetworkAcl { network_acl });
        }
    }
}

fn scaling_groups(network: &Network, selection: &Selection, broken: &mut Vec<Broken>) {
    for one in network.scaling_groups.iter().filter(|one| selection.keeps(one.id)) {
        for subnet in one.subnets.iter().copied().filter(|subnet| !selection.keeps(*subnet)) {
            lacks(broken, one.id, Breakage::WithoutSubnet { subnet });
        }
        for group in one.template.security_groups.iter().copied().filter(|group| !selection.keeps(*group)) {
            lacks(broken, one.id, Breakage::WithoutGroup { group });
        }
        for instance in one.instances.iter().copied().filter(|instance| !selection.keeps(*instance)) {
            lacks(broken, one.id, Breakage::WithoutInstance { instance });
        }
    }
}

/// Rules, entries and routes over networks of which only a part has other addresses in the duplicate.
fn divided(network: &Network, selection: &Selection, map: &AddressMap, broken: &mut Vec<Broken>) {
    let mut about = |id: ObjectId, cidrs: BTreeSet<Cidr>| {
        // Everything is everything in the duplicate too.
        let divided = cidrs.into_iter().filter(|cidr| *cidr != Cidr::ANY && map.divides(*cidr));
        broken.extend(divided.map(|cidr| Broken { id, prevents: false, breakage: Breakage::PartlyMapped { cidr } }));
    };
    for table in network.route_tables.iter().filter(|table| selection.keeps(table.id)) {
        about(table.id.into(), table.routes.iter().map(|route| route.destination).collect());
    }
    for acl in network.network_acls.iter().filter(|acl| selection.keeps(acl.id)) {
        about(acl.id.into(), acl.entries.iter().map(|entry| entry.cidr).collect());
    }
    for group in network.security_groups.iter().filter(|group| selection.keeps(group.id)) {
        let named = group.rules.iter().filter_map(|rule| match rule.spec.peer {
            Peer::Cidr { cidr } => Some(cidr),
            Peer::Group { .. } => None,
        });
        about(group.id.into(), named.collect());
    }
}

fn instance(
    instance: &Instance,
    selection: &Selection,
    terms: &ReplicaTerms,
    map: &AddressMap,
    broken: &mut Vec<Broken>,
) {
    let live = instance.state == InstanceState::Running && terms.memory == MemoryCopy::Live;
    for group in instance.security_groups.iter().filter(|group| !selection.keeps(**group)) {
        lacks(broken, instance.id, Breakage::WithoutGroup { group: *group });
    }
    for attachment in instance.volumes.iter().filter(|one| !selection.keeps(one.volume)) {
        let breakage = Breakage::WithoutVolume { volume: attachment.volume, slot: attachment.slot };
        // Slot 0 is what it boots from, and a guest that goes on must find every disk that it had.
        let prevents = live || attachment.slot == 0;
        broken.push(Broken { id: instance.id.into(), prevents, breakage });
    }
    if live && map.address(instance.address) != instance.address {
        cannot(broken, instance.id, Breakage::AddressInMemory { address: instance.address });
    }
    if instance.virtual_tpm {
        cannot(broken, instance.id, Breakage::OwnTpm);
    }
    if instance.attestation.is_some() {
        cannot(broken, instance.id, Breakage::Proved);
    }
    if instance.host.is_none() {
        cannot(broken, instance.id, Breakage::Unplaced);
    }
}
