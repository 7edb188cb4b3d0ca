//! Rules in words, for people. Owns the wording. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::{
    flow::Direction,
    network_acl::AclEntry,
    security_group::{Peer, Rule, Traffic},
};

pub(crate) const fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

pub(crate) fn traffic(traffic: &Traffic) -> String {
    let ports = |name: &str, from: u16, to: u16| match (from, to) {
        (0, u16::MAX) => format!("{name} to any port"),
        (from, to) if from == to => format!("{name} to port {from}"),
        (from, to) => format!("{name} to ports {from}-{to}"),
    };
    match *traffic {
        Traffic::All => "everything".into(),
        Traffic::Tcp { from_port, to_port } => ports("TCP", from_port, to_port),
        Traffic::Udp { from_port, to_port } => ports("UDP", from_port, to_port),
        Traffic::Icmp { icmp_type: Some(kind), .. } => format!("ICMP of type {kind}"),
        Traffic::Icmp { .. } => "ICMP".into(),
        Traffic::Other { number } => format!("protocol {number}"),
    }
}

pub(crate) fn rule(rule: &Rule) -> String {
    let peer = match rule.spec.peer {
        Peer::Cidr { cidr } => cidr.to_string(),
        Peer::Group { group } => format!("members of {group}"),
    };
    format!("{} {} {peer}", traffic(&rule.spec.traffic), way(rule.spec.direction))
}

pub(crate) fn entry(entry: &AclEntry) -> String {
    let AclEntry { number, traffic: matched, direction, cidr, .. } = entry;
    format!("entry {number}: {} {} {cidr}", traffic(matched), way(*direction))
}
