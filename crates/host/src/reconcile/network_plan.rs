//! What the switch should do, from the desired state and what runs.
//!
//! Owns the choice of ports: one for each instance that runs or is about to, so that a port is there before its VM and goes
//! after it, and one for each client that a replay or a load plays. Carrying the plan out is the switch's work.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use lucarne_model::{
    InterfaceId, Moment,
    desired::{Desired, DesiredInstance, Endpoint, Power},
    load::DesiredLoadState,
    replay::DesiredReplayState,
};
use lucarne_switch::{
    Plan,
    plan::{InstanceMetadata, PortPlan},
};

use super::{
    known::Known,
    step::{Activity, Subject},
};
use crate::layout::Layout;

/// The plan for the switch.
pub(crate) fn network_plan(desired: &Desired, known: &Known, layout: &Layout) -> Plan {
    let is_in_network = |instance: &DesiredInstance| endpoint_of(desired, instance.interface).is_some();
    let with_port = desired.instances.iter().filter(|instance| needs_port(instance, known) && is_in_network(instance));
    let of_instances = with_port.map(|instance| port(instance, known, layout));
    Plan {
        networks: desired.networks.clone(),
        ports: of_instances.chain(played_ports(desired, layout)).collect(),
        peers: desired.peers.clone(),
        mitigations: desired.mitigations.clone(),
        // What the plan itself tells is all that is known here.
        removals: Vec::new(),
    }
}

fn needs_port(instance: &DesiredInstance, known: &Known) -> bool {
    let to_start = instance.power == Power::Running && !known.ledger.is_over(instance.id, instance.generation);
    let begins = [Activity::Starting, Activity::Move];
    let starting = known.under_way.get(&Subject::Instance(instance.id)).is_some_and(|it| begins.contains(it));
    to_start || starting || known.running.contains_key(&instance.id)
}

/// Where an interface stands in its network.
pub(crate) fn endpoint_of(desired: &Desired, interface: InterfaceId) -> Option<&Endpoint> {
    desired.networks.iter().flat_map(|network| &network.endpoints).find(|endpoint| endpoint.interface == interface)
}

fn port(instance: &DesiredInstance, known: &Known, layout: &Layout) -> PortPlan {
    let launched = known.ledger.entry(instance.id).map_or(Moment::EPOCH, |entry| entry.since);
    PortPlan {
        interface: instance.interface,
        instance: instance.id,
        account: instance.account,
        vpc: instance.vpc,
        socket: layout.switch_socket(instance.interface),
        guest_socket: layout.guest_socket(instance.interface),
        metadata: Some(InstanceMetadata {
            image: instance.image,
            user_data: instance.user_data.clone(),
            launched,
            origin: instance.origin,
        }),
        flow_interval: instance.flow_interval_millis.map(Duration::from_millis),
    }
}

/// The ports of clients that are no machines.
fn played_ports(desired: &Desired, layout: &Layout) -> impl Iterator<Item = PortPlan> {
    let of_replays = desired.replays.iter().filter_map(|replay| match &replay.state {
        DesiredReplayState::Played { account, vpc, ports, .. } => Some((*account, *vpc, ports)),
        DesiredReplayState::Absent => None,
    });
    let of_loads = desired.loads.iter().filter_map(|load| match &load.state {
        DesiredLoadState::Asked { account, vpc, ports, .. } => Some((*account, *vpc, ports)),
        DesiredLoadState::Absent => None,
    });
    of_replays.chain(of_loads).flat_map(move |(account, vpc, ports)| {
        let in_network = ports.iter().filter(|port| endpoint_of(desired, port.interface).is_some());
        let plan = in_network.map(|port| PortPlan {
            interface: port.interface,
            instance: port.instance,
            account,
            vpc,
            socket: layout.switch_socket(port.interface),
            guest_socket: layout.guest_socket(port.interface),
            metadata: None,
            flow_interval: None,
        });
        plan.collect::<Vec<_>>()
    })
}
