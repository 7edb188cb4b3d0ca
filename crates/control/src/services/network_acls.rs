//! Network ACLs: numbered entries that judge what enters and leaves subnets.
//!
//! Owns which ACLs and entries may be made, which subnet has which, and what hosts are told of one. What an entry matches
//! is said once, in [`lucarne_model::network_acl::judge`]; the switch carries it out.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        network::{AddAclEntry, AssociateNetworkAcl, CreateNetworkAcl},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    Cidr, ErrorCode, Moment, NetworkAclId, RuleId, SubnetId, Tags,
    flow::{Direction, Verdict},
    network::{Subnet, Vpc},
    network_acl::{AclEntry, NetworkAcl},
    security_group::Traffic,
};

use super::{
    checks::{check_tags, refuse},
    security_groups::check_traffic,
    subnets::shown,
};
use crate::{
    Caller, Controller, random,
    store::{Scope, Tx},
};

/// As in EC2: of each direction.
const ENTRIES_OF_A_DIRECTION: usize = 40;
const ACLS_OF_A_VPC: u32 = 200;
/// The number of the default ACL's entries.
const DEFAULT_NUMBER: u16 = 100;
/// EC2's `*`: the entry behind all others, which rejects what none of them matches.
const LAST_NUMBER: u16 = *AclEntry::NUMBERS.end() + 1;

/// What a VPC is born with: everything may pass, both ways.
pub(super) fn default_acl(vpc: &Vpc) -> NetworkAcl {
    let allow = |direction| AclEntry {
        id: random::id(),
        created: vpc.created,
        number: DEFAULT_NUMBER,
        direction,
        action: Verdict::Accept,
        traffic: Traffic::All,
        cidr: Cidr::ANY,
    };
    NetworkAcl {
        id: vpc.default_network_acl,
        account: vpc.account,
        vpc: vpc.id,
        is_default: true,
        entries: vec![allow(Direction::Ingress), allow(Direction::Egress)],
        created: vpc.created,
        tags: Tags::default(),
    }
}

/// What hosts are told of an ACL. An ACL under which everything may pass is left out, so that its subnets' packets have
/// nothing to ask; one without entries rejects everything, which has to be said.
pub(crate) fn enforced(acl: NetworkAcl) -> Vec<AclEntry> {
    if [Direction::Ingress, Direction::Egress].into_iter().all(|direction| lets_all_pass(&acl, direction)) {
        return Vec::new();
    }
    if acl.entries.is_empty() {
        return vec![last_entry(acl.id)];
    }
    acl.entries
}

fn lets_all_pass(acl: &NetworkAcl, direction: Direction) -> bool {
    let mut of_direction = acl.entries.iter().filter(|entry| entry.direction == direction);
    let is_whole = |entry: &AclEntry| entry.traffic == Traffic::All && entry.cidr == Cidr::ANY;
    of_direction
        .find(|entry| entry.action == Verdict::Reject || is_whole(entry))
        .is_some_and(|entry| entry.action == Verdict::Accept)
}

fn last_entry(acl: NetworkAclId) -> AclEntry {
    AclEntry {
        id: RuleId::from_bits(acl.bits()),
        created: Moment::EPOCH,
        number: LAST_NUMBER,
        direction: Direction::Ingress,
        action: Verdict::Reject,
        traffic: Traffic::All,
        cidr: Cidr::ANY,
    }
}

pub(crate) async fn create_network_acl(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateNetworkAcl>>,
) -> Result<Created<NetworkAcl>, Problem> {
    let (account, CreateNetworkAcl { vpc, tags }) = (call.caller.account, call.body.0.clone());
    let create = move |tx: &mut Tx<'_>| {
        check_tags(&tags)?;
        let vpc: Vpc = tx.get(Scope::Account(account), vpc)?;
        if tx.count_referring::<NetworkAcl>(vpc.id)? >= ACLS_OF_A_VPC {
            let detail = format!("a VPC can have {ACLS_OF_A_VPC} network ACLs");
            return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
        }
        let (id, created) = (random::id(), tx.now());
        let acl = NetworkAcl { id, account, vpc: vpc.id, is_default: false, entries: Vec::new(), created, tags };
        tx.insert(&acl)?;
        Ok(acl)
    };
    controller.change(&call, create).await.map(Created)
}

pub(crate) async fn list_network_acls(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<NetworkAcl>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_network_acl(
    controller: &Controller,
    call: Call<Caller, (NetworkAclId,), NoQuery, Nothing>,
) -> Result<Json<NetworkAcl>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn delete_network_acl(
    controller: &Controller,
    call: Call<Caller, (NetworkAclId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let acl: NetworkAcl = tx.get(scope, id)?;
        if acl.is_default {
            let detail = format!("{id} is the default network ACL of {}; it goes with the VPC", acl.vpc);
            return Err(Problem::new(ErrorCode::DependencyViolation, detail));
        }
        tx.delete(&acl)
    };
    controller.change(&call, delete).await.map(|()| Done)
}

pub(crate) async fn add_acl_entry(
    controller: &Controller,
    call: Call<Caller, (NetworkAclId,), NoQuery, Json<AddAclEntry>>,
) -> Result<Created<AclEntry>, Problem> {
    let (scope, id, entry) = (call.caller.scope(), call.path.0, call.body.0.clone());
    controller.change(&call, move |tx| add_entry(tx, scope, id, &entry)).await.map(Created)
}

fn add_entry(tx: &mut Tx<'_>, scope: Scope, id: NetworkAclId, wish: &AddAclEntry) -> Result<AclEntry, Problem> {
    // First whose it is: what is wrong with a wish for another's is not for the one who wishes to learn.
    let mut acl: NetworkAcl = tx.get(scope, id)?;
    let AddAclEntry { number, direction, action, traffic, cidr } = *wish;
    if !AclEntry::NUMBERS.contains(&number) {
        let (first, last) = (AclEntry::NUMBERS.start(), AclEntry::NUMBERS.end());
        return Err(refuse(format!("an entry's number is {first} to {last}; it was {number}")));
    }
    check_traffic(&traffic)?;
    let mut others = acl.entries.iter().filter(|entry| entry.direction == direction);
    if let Some(other) = others.clone().find(|entry| entry.number == number) {
        return Err(Problem::new(ErrorCode::AclEntryExists, format!("{} has the number {number}", other.id)));
    }
    if others.by_ref().count() >= ENTRIES_OF_A_DIRECTION {
        let detail = format!("a network ACL can have {ENTRIES_OF_A_DIRECTION} entries of a direction");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let entry = AclEntry { id: random::id(), created: tx.now(), number, direction, action, traffic, cidr };
    let at = acl.entries.partition_point(|other| other.number <= number);
    acl.entries.insert(at, entry);
    tx.put(&acl)?;
    Ok(entry)
}

pub(crate) async fn remove_acl_entry(
    controller: &Controller,
    call: Call<Caller, (NetworkAclId, RuleId), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, (id, entry)) = (call.caller.scope(), call.path);
    let remove = move |tx: &mut Tx<'_>| {
        let mut acl: NetworkAcl = tx.get(scope, id)?;
        let before = acl.entries.len();
        acl.entries.retain(|existing| existing.id != entry);
        if acl.entries.len() == before {
            return Err(Problem::new(ErrorCode::InvalidAclEntryNotFound, format!("{id} has no entry {entry}")));
        }
        tx.put(&acl)
    };
    controller.change(&call, remove).await.map(|()| Done)
}

pub(crate) async fn associate_network_acl(
    controller: &Controller,
    call: Call<Caller, (SubnetId,), NoQuery, Json<AssociateNetworkAcl>>,
) -> Result<Json<Subnet>, Problem> {
    let (scope, id, acl) = (call.caller.scope(), call.path.0, call.body.0.network_acl);
    let associate = move |tx: &mut Tx<'_>| {
        let mut subnet: Subnet = tx.get(scope, id)?;
        let acl: NetworkAcl = tx.get(scope, acl)?;
        if acl.vpc != subnet.vpc {
            return Err(refuse(format!("{} belongs to {}, the subnet to {}", acl.id, acl.vpc, subnet.vpc)));
        }
        subnet.network_acl = acl.id;
        tx.put(&subnet)?;
        shown(tx, subnet)
    };
    controller.change(&call, associate).await.map(Json)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lucarne_model::{AccountId, VpcId, network_acl::judge, security_group::TCP};
    use proptest::prelude::*;

    use super::*;

    fn acl(mut entries: Vec<AclEntry>) -> NetworkAcl {
        entries.sort_by_key(|entry| entry.number);
        NetworkAcl {
            id: NetworkAclId::from_bits(1),
            account: AccountId::OPERATOR,
            vpc: VpcId::from_bits(1),
            is_default: false,
            entries,
            created: Moment::EPOCH,
            tags: Tags::default(),
        }
    }

    fn entry() -> impl Strategy<Value = AclEntry> {
        let traffic = prop_oneof![Just(Traffic::All), Just(Traffic::Tcp { from_port: 80, to_port: 90 })];
        let cidr = prop_oneof![Just(Cidr::ANY), Just("10.0.0.0/8".parse().expect("a network"))];
        (1u16..9, any::<bool>(), any::<bool>(), traffic, cidr).prop_map(|(number, egress, accept, traffic, cidr)| {
            let direction = if egress { Direction::Egress } else { Direction::Ingress };
            let action = if accept { Verdict::Accept } else { Verdict::Reject };
            AclEntry {
                id: RuleId::from_bits(number.into()),
                created: Moment::EPOCH,
                number,
                direction,
                action,
                traffic,
                cidr,
            }
        })
    }

    proptest! {
        /// What is left out for speed, and what is put in for an ACL without entries, changes no verdict.
        #[test]
        fn what_hosts_are_told_judges_as_the_acl_does(
            entries in prop::collection::vec(entry(), 0..6), egress: bool, port in 79u16..92, inside: bool,
        ) {
            let acl = acl(entries);
            let direction = if egress { Direction::Egress } else { Direction::Ingress };
            let peer = if inside { Ipv4Addr::new(10, 0, 0, 1) } else { Ipv4Addr::new(192, 0, 2, 1) };
            let told = enforced(acl.clone());
            let by_hosts = judge(&told, direction, TCP, port, peer).0;
            let expected = match acl.entries.is_empty() {
                true => Verdict::Reject,
                false => judge(&acl.entries, direction, TCP, port, peer).0,
            };
            prop_assert_eq!(by_hosts, expected);
        }
    }

    #[test]
    fn an_acl_that_allows_everything_is_not_told() {
        let whole = |number, direction| AclEntry {
            number,
            direction,
            action: Verdict::Accept,
            ..last_entry(NetworkAclId::from_bits(1))
        };
        let both = vec![whole(100, Direction::Ingress), whole(100, Direction::Egress)];
        assert_eq!(enforced(acl(both.clone())), []);
        assert_eq!(enforced(acl(both[..1].to_vec())).len(), 1, "what may not leave must be told");
    }
}
