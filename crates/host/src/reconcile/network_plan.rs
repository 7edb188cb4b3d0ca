//! What the switch should do, from the desired state and what runs.
//!
//! Owns the choice of ports: one for each instance that runs or is about to, and for no other, so that a port is there
//! before its VM and goes after it. Carrying the plan out is the switch's work.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use lucarne_model::{
    InterfaceId, Moment,
    desired::{Desired, DesiredInstance, Endpoint, Power},
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
    let with_port = desired.instances.iter().filter(|instance| needs_port(instance, known));
    let ports = with_port.filter_map(|instance| {
        let endpoint = endpoint_of(desired, instance.interface)?;
        Some(port(instance, endpoint, known, layout))
    });
    Plan {
        networks: desired.networks.clone(),
        ports: ports.collect(),
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

fn port(instance: &DesiredInstance, endpoint: &Endpoint, known: &Known, layout: &Layout) -> PortPlan {
    let launched = known.ledger.entry(instance.id).map_or(Moment::EPOCH, |entry| entry.since);
    PortPlan {
        interface: instance.interface,
        instance: instance.id,
        account: instance.account,
        vpc: instance.vpc,
        socket: layout.switch_socket(instance.interface),
        guest_socket: layout.guest_socket(instance.interface),
        metadata: InstanceMetadata {
            image: instance.image,
            host_name: host_name(instance.name.as_deref(), endpoint),
            user_data: instance.user_data.clone(),
            launched,
        },
        flow_interval: instance.flow_interval_millis.map(Duration::from_millis),
    }
}

/// The name made a label of RFC 1123 section 2.1, or `ip-10-0-0-4` where nothing of it is left.
fn host_name(name: Option<&str>, endpoint: &Endpoint) -> String {
    const LONGEST_LABEL: usize = 63;
    let letters = name.unwrap_or_default().chars().map(|letter| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9') => letter,
        _ => '-',
    });
    let label: String = letters.skip_while(|letter| *letter == '-').take(LONGEST_LABEL).collect();
    match label.trim_end_matches('-') {
        "" => format!("ip-{}", endpoint.address.to_string().replace('.', "-")),
        label => label.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lucarne_model::{HostId, InstanceId, MacAddress, SubnetId};
    use proptest::prelude::*;

    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            interface: InterfaceId::from_bits(1),
            instance: InstanceId::from_bits(1),
            subnet: SubnetId::from_bits(1),
            address: Ipv4Addr::new(10, 0, 0, 4),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            groups: Vec::new(),
            host: HostId::from_bits(1),
        }
    }

    #[test]
    fn a_name_becomes_a_label_and_without_one_the_address_names_the_vm() {
        assert_eq!(host_name(Some("Web 1"), &endpoint()), "web-1");
        assert_eq!(host_name(None, &endpoint()), "ip-10-0-0-4");
        assert_eq!(host_name(Some("--ä--"), &endpoint()), "ip-10-0-0-4");
    }

    proptest! {
        #[test]
        fn every_name_gives_a_valid_label(name: String) {
            let label = host_name(Some(&name), &endpoint());
            prop_assert!((1..=63).contains(&label.len()));
            prop_assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!label.starts_with('-') && !label.ends_with('-'));
        }
    }
}
