//! Network ACLs: may a packet enter or leave the port's subnet?
//!
//! Owns when the question is asked; the answer is [`judge`](lucarne_model::network_acl::judge)'s, shared with whoever
//! explains a verdict. It is asked for each direction of a flow, with that direction's first packet and again under each new
//! plan, and the answer is kept with the flow. So an answer passes only if the entries allow the way back too. Between
//! neighbours of one subnet nothing is asked, because nothing enters or leaves.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_flows::{Denial, FlowKey, Grounds};
use lucarne_model::{
    EndReason,
    flow::{Direction, Verdict},
    network_acl,
};

use crate::{
    exchange,
    fabric::{Fabric, Port},
};

impl Fabric {
    /// Refuses packets of this flow and direction that the ACL of the port's subnet rejects. `icmp` is that of the packet.
    pub(crate) fn check_acl(
        &self,
        port: &Port,
        key: FlowKey,
        direction: Direction,
        icmp: [u8; 2],
    ) -> Result<(), Denial> {
        let subnet = &self.networks[port.network].subnets[port.subnet];
        if subnet.acl.is_empty() || subnet.cidr.contains(key.remote()) {
            return Ok(());
        }
        let number = exchange::rule_port(key, direction, icmp);
        match network_acl::judge(&subnet.acl, direction, key.protocol(), number, key.remote()) {
            (Verdict::Accept, _) => Ok(()),
            (Verdict::Reject, entry) => {
                let grounds = entry.map_or(Grounds::Nothing, Grounds::Rule);
                Err(Denial { reason: EndReason::DeniedByNetworkAcl, grounds })
            }
        }
    }
}
