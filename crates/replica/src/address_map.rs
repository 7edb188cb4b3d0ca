//! Whose addresses are others in the duplicate.
//!
//! Owns the map, and whether a network can be mapped by it: no two addresses become one, and none becomes an address that its
//! subnet does not give out.

use std::{collections::BTreeSet, net::Ipv4Addr};

use lucarne_model::{Cidr, network::Subnet, replication::AddressMapping};

use crate::{network::Network, selection::Selection};

/// Mappings that were checked against each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressMap(Vec<AddressMapping>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error("{from} and {to} are not of the same size; write as many bits behind both slashes")]
    Sizes { from: Cidr, to: Cidr },
    #[error("{0} and {1} have addresses in common, which would each be mapped twice")]
    Sources(Cidr, Cidr),
    #[error("{0} and {1} have addresses in common, which two addresses would become")]
    Targets(Cidr, Cidr),
    #[error("{subnet} would have {becomes}, which is not in the duplicate's {vpc}; map all of the VPC's network")]
    OutsideVpc { subnet: String, becomes: Cidr, vpc: Cidr },
    #[error("the subnets {0} and {1} would overlap in the duplicate")]
    Subnets(Cidr, Cidr),
    #[error("{address} would become {becomes}, which is not in its subnet's {cidr}")]
    OutsideSubnet { address: Ipv4Addr, becomes: Ipv4Addr, cidr: Cidr },
    #[error("{address} would become {becomes}, which {cidr} keeps back: its first four addresses and its last")]
    Reserved { address: Ipv4Addr, becomes: Ipv4Addr, cidr: Cidr },
    #[error("two interfaces would have {0} in the duplicate")]
    Taken(Ipv4Addr),
}

impl AddressMap {
    pub fn new(mappings: &[AddressMapping]) -> Result<Self, MapError> {
        for (at, one) in mappings.iter().enumerate() {
            if one.from.prefix() != one.to.prefix() {
                return Err(MapError::Sizes { from: one.from, to: one.to });
            }
            for other in &mappings[..at] {
                if one.from.overlaps(&other.from) {
                    return Err(MapError::Sources(other.from, one.from));
                }
                if one.to.overlaps(&other.to) {
                    return Err(MapError::Targets(other.to, one.to));
                }
            }
        }
        Ok(Self(mappings.to_vec()))
    }

    /// What an address of the source is in the duplicate.
    pub fn address(&self, address: Ipv4Addr) -> Ipv4Addr {
        let mapping = self.0.iter().find(|mapping| mapping.from.contains(address));
        mapping.map_or(address, |AddressMapping { from, to }| {
            let behind = u32::from(address) - u32::from(from.network());
            Ipv4Addr::from(u32::from(to.network()) + behind)
        })
    }

    /// What a network of the source is in the duplicate, if all of it is mapped together; itself if not.
    pub fn network(&self, cidr: Cidr) -> Cidr {
        let whole = self.0.iter().any(|mapping| mapping.from.encloses(&cidr));
        let mapped = whole.then(|| Cidr::around(self.address(cidr.network()), cidr.prefix()));
        mapped.flatten().unwrap_or(cidr)
    }

    /// Whether some addresses of a network leave it, and others do not.
    pub fn divides(&self, cidr: Cidr) -> bool {
        let leaves = |mapping: &AddressMapping| {
            cidr.encloses(&mapping.from) && cidr != mapping.from && !cidr.encloses(&mapping.to)
        };
        self.0.iter().any(leaves)
    }

    /// Whether the objects that are kept can have the addresses that they get.
    pub fn check(&self, network: &Network, selection: &Selection) -> Result<(), MapError> {
        let vpc = self.network(network.vpc.cidr);
        let kept: Vec<&Subnet> = network.subnets.iter().filter(|subnet| selection.keeps(subnet.id)).collect();
        let mut cidrs: Vec<Cidr> = Vec::with_capacity(kept.len());
        for subnet in &kept {
            let becomes = self.network(subnet.cidr);
            if !vpc.encloses(&becomes) {
                return Err(MapError::OutsideVpc { subnet: subnet.id.to_string(), becomes, vpc });
            }
            if let Some(other) = cidrs.iter().find(|other| other.overlaps(&becomes)) {
                return Err(MapError::Subnets(*other, becomes));
            }
            cidrs.push(becomes);
        }
        let mut taken = BTreeSet::new();
        for interface in network.interfaces.iter().filter(|interface| selection.keeps(interface.id)) {
            let Some(at) = kept.iter().position(|subnet| subnet.id == interface.subnet) else { continue };
            let (address, cidr) = (interface.address, cidrs[at]);
            let becomes = self.address(address);
            check_address(address, becomes, cidr)?;
            if !taken.insert(becomes) {
                return Err(MapError::Taken(becomes));
            }
        }
        Ok(())
    }
}

fn check_address(address: Ipv4Addr, becomes: Ipv4Addr, cidr: Cidr) -> Result<(), MapError> {
    if !cidr.contains(becomes) {
        return Err(MapError::OutsideSubnet { address, becomes, cidr });
    }
    let given_out = cidr.assignable().next().is_some_and(|first| first <= becomes) && becomes < cidr.broadcast();
    if given_out { Ok(()) } else { Err(MapError::Reserved { address, becomes, cidr }) }
}
