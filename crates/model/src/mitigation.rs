//! Mitigations: what the operator orders against traffic that harms others.
//!
//! Owns the shape of an order as a host gets it, and whether it is meant for a flow. Who may give one, its reason and its
//! expiry are the controller's; token buckets are the switch's.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cidr, InstanceId, MitigationId, flow::Direction};

/// An order that holds as long as the host is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredMitigation {
    pub id: MitigationId,
    pub target: MitigationTarget,
    pub action: MitigationAction,
}

/// Which flows are meant: those that match every criterion that is set. An order that sets none is meant for no flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MitigationTarget {
    /// The instance at whose interface the flow is seen.
    pub instance: Option<InstanceId>,
    /// The end that is not the instance.
    pub address: Option<Cidr>,
    /// The IANA protocol number.
    pub protocol: Option<u8>,
    /// The destination port of the flow's first packet.
    pub port: Option<u16>,
    /// Of the flow's first packet, as the instance sees it.
    pub direction: Option<Direction>,
}

/// What happens to the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum MitigationAction {
    /// None passes, and what was open is cut.
    Block,
    /// On each host at most so many pass, of all flows that are meant together.
    Cap { packets_per_second: u32 },
}

/// A flow as mitigations see it, described by its first packet.
#[derive(Clone, Copy, Debug)]
pub struct MitigatedFlow {
    pub instance: InstanceId,
    pub remote: Ipv4Addr,
    pub protocol: u8,
    /// The destination port; 0 where the protocol has none.
    pub port: u16,
    pub direction: Direction,
}

impl MitigationTarget {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn matches(&self, flow: &MitigatedFlow) -> bool {
        !self.is_empty()
            && self.instance.is_none_or(|instance| instance == flow.instance)
            && self.address.is_none_or(|address| address.contains(flow.remote))
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && self.port.is_none_or(|port| port == flow.port)
            && self.direction.is_none_or(|direction| direction == flow.direction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security_group::{TCP, UDP};

    const FLOW: MitigatedFlow = MitigatedFlow {
        instance: InstanceId::from_bits(1),
        remote: Ipv4Addr::new(203, 0, 113, 9),
        protocol: TCP,
        port: 25,
        direction: Direction::Egress,
    };

    #[test]
    fn all_that_is_set_must_match() {
        let target = MitigationTarget { port: Some(25), protocol: Some(TCP), ..MitigationTarget::default() };
        assert!(target.matches(&FLOW));
        assert!(!target.matches(&MitigatedFlow { protocol: UDP, ..FLOW }));
        assert!(!MitigationTarget { direction: Some(Direction::Ingress), ..target }.matches(&FLOW));
        assert!(!MitigationTarget { instance: Some(InstanceId::from_bits(2)), ..target }.matches(&FLOW));
        let address = Some("203.0.113.0/24".parse().unwrap());
        assert!(MitigationTarget { address, ..target }.matches(&FLOW));
        assert!(
            !MitigationTarget { address, ..target }.matches(&MitigatedFlow { remote: Ipv4Addr::LOCALHOST, ..FLOW })
        );
    }

    /// An order that lost its target on the way must not cut the whole cloud off.
    #[test]
    fn an_order_without_a_target_is_meant_for_nobody() {
        assert!(!MitigationTarget::default().matches(&FLOW));
    }
}
