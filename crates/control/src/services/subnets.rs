//! Subnets: parts of a VPC's network that do not overlap.
//!
//! Owns where a subnet may lie and how many of its addresses are free. Which address an instance gets is decided at its
//! launch.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        network::{AssociateRouteTable, CreateSubnet},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, Cidr, ErrorCode, SubnetId,
    network::{NetworkInterface, RouteTable, Subnet, Vpc},
};

use super::{
    checks::{check_tags, refuse},
    vpcs::check_size,
};
use crate::{
    Caller, Controller, random,
    store::{Scope, Tx},
};

/// As in EC2; what a VPC's switches carry grows with it.
const SUBNETS_OF_A_VPC: usize = 200;

/// Whether a subnet may lie at `wished` in a VPC of the network `vpc` that has `others`.
fn check_place(vpc: Cidr, others: impl IntoIterator<Item = (SubnetId, Cidr)>, wished: Cidr) -> Result<(), Problem> {
    check_size(wished)?;
    if !vpc.encloses(&wished) {
        return Err(Problem::new(ErrorCode::SubnetRange, format!("{wished} does not lie in the VPC's {vpc}")));
    }
    match others.into_iter().find(|(_, other)| other.overlaps(&wished)) {
        Some((id, other)) => {
            Err(Problem::new(ErrorCode::SubnetConflict, format!("{wished} overlaps {other}, which is {id}")))
        }
        None => Ok(()),
    }
}

pub(crate) async fn create_subnet(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateSubnet>>,
) -> Result<Created<Subnet>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    controller.change(&call, move |tx| create(tx, account, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, account: AccountId, request: CreateSubnet) -> Result<Subnet, Problem> {
    check_tags(&request.tags)?;
    let vpc: Vpc = tx.get(Scope::Account(account), request.vpc)?;
    let others = tx.referring::<Subnet>(Scope::Account(account), vpc.id)?;
    check_place(vpc.cidr, others.iter().map(|subnet| (subnet.id, subnet.cidr)), request.cidr)?;
    if others.len() >= SUBNETS_OF_A_VPC {
        let detail = format!("a VPC can have {SUBNETS_OF_A_VPC} subnets");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let subnet = Subnet {
        id: random::id(),
        account,
        vpc: vpc.id,
        cidr: request.cidr,
        route_table: vpc.main_route_table,
        network_acl: vpc.default_network_acl,
        available_addresses: capacity(request.cidr),
        created: tx.now(),
        tags: request.tags,
    };
    tx.insert(&subnet)?;
    Ok(subnet)
}

/// All addresses but those kept back: the first four and the last.
fn capacity(cidr: Cidr) -> u32 {
    (1u32 << (32 - u32::from(cidr.prefix()).clamp(1, 32))).saturating_sub(5)
}

/// With the number of addresses that are free now, which is counted and not kept.
pub(super) fn shown(tx: &Tx<'_>, subnet: Subnet) -> Result<Subnet, Problem> {
    let taken = tx.count_referring::<NetworkInterface>(subnet.id)?;
    Ok(Subnet { available_addresses: capacity(subnet.cidr).saturating_sub(taken), ..subnet })
}

pub(crate) async fn list_subnets(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Subnet>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page_shown(scope, &query, shown)).await.map(Json)
}

pub(crate) async fn get_subnet(
    controller: &Controller,
    call: Call<Caller, (SubnetId,), NoQuery, Nothing>,
) -> Result<Json<Subnet>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| shown(tx, tx.get(scope, id)?)).await.map(Json)
}

pub(crate) async fn delete_subnet(
    controller: &Controller,
    call: Call<Caller, (SubnetId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let subnet: Subnet = tx.get(scope, id)?;
        tx.delete(&subnet)
    };
    controller.change(&call, delete).await.map(|()| Done)
}

pub(crate) async fn associate_route_table(
    controller: &Controller,
    call: Call<Caller, (SubnetId,), NoQuery, Json<AssociateRouteTable>>,
) -> Result<Json<Subnet>, Problem> {
    let (scope, id, table) = (call.caller.scope(), call.path.0, call.body.0.route_table);
    let associate = move |tx: &mut Tx<'_>| {
        let mut subnet: Subnet = tx.get(scope, id)?;
        let table: RouteTable = tx.get(scope, table)?;
        if table.vpc != subnet.vpc {
            return Err(refuse(format!("{} belongs to {}, the subnet to {}", table.id, table.vpc, subnet.vpc)));
        }
        subnet.route_table = table.id;
        tx.put(&subnet)?;
        shown(tx, subnet)
    };
    controller.change(&call, associate).await.map(Json)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    /// Networks in and around 10.0.0.0/16, so that they often meet.
    fn cidr() -> impl Strategy<Value = Cidr> {
        (0u32..1 << 17, 14u32..=30).prop_map(|(bits, prefix)| {
            let address = (u32::from(Ipv4Addr::new(10, 0, 0, 0)) + bits) & (u32::MAX << (32 - prefix));
            format!("{}/{prefix}", Ipv4Addr::from(address)).parse().unwrap()
        })
    }

    fn addresses(cidr: Cidr) -> std::ops::RangeInclusive<u32> {
        cidr.network().into()..=cidr.broadcast().into()
    }

    proptest! {
        /// The naive model: address by address.
        #[test]
        fn a_subnet_lies_where_every_address_is_in_the_vpc_and_in_no_other(wishes in prop::collection::vec(cidr(), 1..12)) {
            let vpc: Cidr = "10.0.0.0/16".parse().unwrap();
            let mut owner = vec![false; 1 << 16];
            let mut accepted: Vec<(SubnetId, Cidr)> = Vec::new();
            let base = u32::from(vpc.network());
            for wish in wishes {
                let inside = addresses(wish).all(|address| vpc.contains(address.into()));
                let free = inside && addresses(wish).all(|address| !owner[(address - base) as usize]);
                let expected = (16..=28).contains(&wish.prefix()) && inside && free;
                let judged = check_place(vpc, accepted.iter().copied(), wish);
                prop_assert_eq!(judged.is_ok(), expected, "{}", wish);
                if expected {
                    addresses(wish).for_each(|address| owner[(address - base) as usize] = true);
                    accepted.push((SubnetId::from_bits(accepted.len() as u128), wish));
                }
            }
        }

        #[test]
        fn capacity_is_the_number_of_assignable_addresses(cidr in cidr()) {
            prop_assume!((16..=28).contains(&cidr.prefix()));
            prop_assert_eq!(capacity(cidr) as usize, cidr.assignable().count());
        }
    }
}
