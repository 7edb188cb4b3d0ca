//! Addresses of subnets: which are free, and the interfaces that hold the others.
//!
//! Owns the choice of addresses for new interfaces. As in EC2, the first four addresses of a subnet and
//! its last are not given out.

use std::{collections::BTreeSet, net::Ipv4Addr};

use lucarne_api::Problem;
use lucarne_model::{
    Cidr, ErrorCode, MacAddress,
    network::{NetworkInterface, Subnet},
};

use crate::store::{Tx, held};

/// The subnet's addresses that interfaces hold. From references alone: a subnet can have thousands.
pub(crate) fn taken(tx: &Tx<'_>, subnet: &Subnet) -> Result<BTreeSet<Ipv4Addr>, Problem> {
    let prefix = held(subnet.id, "");
    let beside = tx.references_beside::<NetworkInterface>(subnet.id)?;
    Ok(beside.into_keys().filter_map(|to| to.strip_prefix(&prefix)?.parse().ok()).collect())
}

fn is_given_out(cidr: &Cidr, address: Ipv4Addr) -> bool {
    cidr.assignable().next().is_some_and(|first| first <= address) && address < cidr.broadcast()
}

/// Takes `wished`, or the lowest free address, and notes it in `taken`.
pub(crate) fn take(
    subnet: &Subnet,
    wished: Option<Ipv4Addr>,
    taken: &mut BTreeSet<Ipv4Addr>,
) -> Result<Ipv4Addr, Problem> {
    let address = match wished {
        Some(address) => check_wish(subnet, address, taken)?,
        None => subnet.cidr.assignable().find(|address| !taken.contains(address)).ok_or_else(|| {
            let detail = format!("{} has no free address left in {}", subnet.id, subnet.cidr);
            Problem::new(ErrorCode::InsufficientFreeAddresses, detail)
        })?,
    };
    taken.insert(address);
    Ok(address)
}

fn check_wish(subnet: &Subnet, address: Ipv4Addr, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, Problem> {
    if !is_given_out(&subnet.cidr, address) {
        let detail = format!(
            "{address} is not an address that {} gives out: it has {}, of which the first four and the last are reserved",
            subnet.id, subnet.cidr
        );
        return Err(Problem::new(ErrorCode::InvalidParameterValue, detail));
    }
    if taken.contains(&address) {
        return Err(Problem::new(ErrorCode::AddressInUse, format!("{address} is taken by another interface")));
    }
    Ok(address)
}

/// A hardware address that no interface of the VPC has.
pub(crate) fn fresh_mac(tx: &Tx<'_>, subnet: &Subnet) -> Result<MacAddress, Problem> {
    loop {
        let mac = MacAddress::from_bits(crate::random::bits() as u64);
        let holders = tx.count_referring::<NetworkInterface>(held(subnet.vpc, mac))?;
        if mac != MacAddress::ROUTER && holders == 0 {
            return Ok(mac);
        }
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::{AccountId, Moment, NetworkAclId, RouteTableId, SubnetId, VpcId};
    use proptest::prelude::*;

    use super::*;

    fn subnet(cidr: &str) -> Subnet {
        Subnet {
            id: SubnetId::from_bits(1),
            account: AccountId::from_bits(1),
            vpc: VpcId::from_bits(1),
            cidr: cidr.parse().unwrap(),
            route_table: RouteTableId::from_bits(1),
            network_acl: NetworkAclId::from_bits(1),
            available_addresses: 0,
            created: Moment::EPOCH,
            tags: Default::default(),
        }
    }

    #[test]
    fn a_subnet_of_16_addresses_gives_out_11_and_then_says_that_it_is_full() {
        let subnet = subnet("10.0.0.0/28");
        let mut taken = BTreeSet::new();
        for last in 4..15 {
            assert_eq!(take(&subnet, None, &mut taken).unwrap(), Ipv4Addr::new(10, 0, 0, last));
        }
        assert_eq!(take(&subnet, None, &mut taken).unwrap_err().code, ErrorCode::InsufficientFreeAddresses);
    }

    proptest! {
        #[test]
        fn a_wish_is_granted_only_inside_the_subnet_outside_its_reserve_and_once(last: u8) {
            let subnet = subnet("10.0.0.0/28");
            let wish = Ipv4Addr::new(10, 0, 0, last);
            let mut taken = BTreeSet::new();
            prop_assert_eq!(take(&subnet, Some(wish), &mut taken).is_ok(), (4..15).contains(&last));
            prop_assert!(take(&subnet, Some(wish), &mut taken).is_err());
        }
    }
}
