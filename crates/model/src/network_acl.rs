//! Network ACLs: numbered, stateless entries that judge what may enter and leave a subnet.
//!
//! Owns the shape of ACLs and entries, and [`judge`]: both the switch and whoever explains a verdict must agree on that.
//! When the question is asked is the switch's matter.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, Cidr, Moment, NetworkAclId, RuleId, Tags, VpcId,
    flow::{Direction, Verdict},
    security_group::Traffic,
};

/// The entries of a subnet. Every subnet has one ACL, if only its VPC's default one, which allows all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkAcl {
    pub id: NetworkAclId,
    pub account: AccountId,
    pub vpc: VpcId,
    /// Whether it is the one that new subnets of its VPC get.
    pub is_default: bool,
    /// Lowest number first.
    pub entries: Vec<AclEntry>,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// One entry. For each packet the matching entry of the lowest number decides, and what none matches is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AclEntry {
    pub id: RuleId,
    /// 1970 for entries that are older than this field: then it is not known.
    #[serde(default)]
    pub created: Moment,
    /// [`AclEntry::NUMBERS`]; no two entries of one direction have the same.
    pub number: u16,
    /// Ingress is into the subnet.
    pub direction: Direction,
    pub action: Verdict,
    /// Destination ports, as those of a group's rule.
    pub traffic: Traffic,
    /// The other end: the source of what enters, the destination of what leaves.
    pub cidr: Cidr,
}

impl AclEntry {
    /// The numbers that an entry may have, as EC2's.
    pub const NUMBERS: std::ops::RangeInclusive<u16> = 1..=32_766;

    fn matches(&self, direction: Direction, protocol: u8, port: u16, peer: Ipv4Addr) -> bool {
        self.direction == direction && self.traffic.matches(protocol, port) && self.cidr.contains(peer)
    }
}

/// What `entries`, lowest number first, say of packets that enter or leave their subnet, and by which entry. `port` is the
/// packets' destination port; for ICMP it carries the type in its high byte and the code in the low one.
///
/// Without any entries there is no ACL, and everything may pass.
pub fn judge(
    entries: &[AclEntry],
    direction: Direction,
    protocol: u8,
    port: u16,
    peer: Ipv4Addr,
) -> (Verdict, Option<RuleId>) {
    if entries.is_empty() {
        return (Verdict::Accept, None);
    }
    let decisive = entries.iter().find(|entry| entry.matches(direction, protocol, port, peer));
    decisive.map_or((Verdict::Reject, None), |entry| (entry.action, Some(entry.id)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::security_group::TCP;

    fn entry(number: u16, action: Verdict, cidr: &str) -> AclEntry {
        let traffic = Traffic::Tcp { from_port: 80, to_port: 80 };
        let (id, cidr) = (RuleId::from_bits(number.into()), cidr.parse().unwrap());
        AclEntry { id, created: Moment::EPOCH, number, direction: Direction::Ingress, action, traffic, cidr }
    }

    fn verdict(entries: &[AclEntry], port: u16, peer: &str) -> (Verdict, Option<u128>) {
        let (verdict, rule) = judge(entries, Direction::Ingress, TCP, port, peer.parse().unwrap());
        (verdict, rule.map(RuleId::bits))
    }

    #[test]
    fn the_lowest_matching_number_decides_and_names_itself() {
        let entries = [entry(10, Verdict::Reject, "10.1.0.0/16"), entry(20, Verdict::Accept, "10.0.0.0/8")];
        assert_eq!(verdict(&entries, 80, "10.1.2.3"), (Verdict::Reject, Some(10)));
        assert_eq!(verdict(&entries, 80, "10.2.2.3"), (Verdict::Accept, Some(20)));
    }

    #[test]
    fn what_no_entry_matches_is_rejected_by_none() {
        let entries = [entry(10, Verdict::Accept, "10.0.0.0/8")];
        assert_eq!(verdict(&entries, 81, "10.0.0.1"), (Verdict::Reject, None));
        assert_eq!(verdict(&entries, 80, "11.0.0.1"), (Verdict::Reject, None));
        let out = judge(&entries, Direction::Egress, TCP, 80, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(out, (Verdict::Reject, None));
    }

    proptest! {
        #[test]
        fn without_an_acl_all_may_pass(protocol: u8, port: u16, peer: u32) {
            let answer = judge(&[], Direction::Egress, protocol, port, Ipv4Addr::from_bits(peer));
            prop_assert_eq!(answer, (Verdict::Accept, None));
        }
    }
}
