//! VPCs: each an address space of its own, born whole.
//!
//! Owns what a VPC begins with (its main route table, its default network ACL and its default security group), what goes with it, and its network
//! identifier.

use std::collections::HashSet;

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{ListQuery, NoQuery, Page, network::CreateVpc, replica::EndSourceQuery},
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, Cidr, ErrorCode, ReplicaId, Tags, VpcId,
    flow::Direction,
    network::{Route, RouteTable, RouteTarget, Subnet, Vpc},
    network_acl::NetworkAcl,
    security_group::{Peer, Rule, RuleSpec, SecurityGroup, Traffic},
};

use super::{checks::check_tags, network_acls::default_acl, replicas};
use crate::{
    Caller, Controller, quota, random,
    replica_records::ReplicaRecord,
    store::{Item, Scope, Tx},
};

pub(crate) const DEFAULT_GROUP: &str = "default";
/// VNIs are 24 bits, RFC 8926 section 3.4; 0 is kept for traffic of no VPC.
const VNIS: u32 = 1 << 24;

/// A network may be as large or small as in EC2.
pub(crate) fn check_size(cidr: Cidr) -> Result<(), Problem> {
    if (16..=28).contains(&cidr.prefix()) {
        return Ok(());
    }
    Err(Problem::new(ErrorCode::InvalidCidr, format!("the prefix of {cidr} is not of 16 to 28 bits")))
}

/// Networks that no machine can have: "this network", loopback, link-local (metadata is there), multicast and reserved.
pub(super) fn check_usable(cidr: Cidr) -> Result<(), Problem> {
    let first = cidr.network();
    if first.octets()[0] == 0 || first.is_loopback() || first.is_link_local() || first.octets()[0] >= 224 {
        return Err(Problem::new(ErrorCode::InvalidCidr, format!("{cidr} is reserved; 10.0.0.0/16 would do")));
    }
    Ok(())
}

pub(crate) async fn create_vpc(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateVpc>>,
) -> Result<Created<Vpc>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    controller.change(&call, move |tx| create(tx, account, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, account: AccountId, request: CreateVpc) -> Result<Vpc, Problem> {
    check_size(request.cidr)?;
    check_usable(request.cidr)?;
    check_tags(&request.tags)?;
    quota::check_one(tx, account, Item::Vpcs)?;
    let vpc = Vpc {
        id: random::id(),
        account,
        cidr: request.cidr,
        vni: unused_vni(tx)?,
        main_route_table: random::id(),
        default_network_acl: random::id(),
        default_security_group: random::id(),
        attest_policy: None,
        clock_behind_micros: 0,
        created: tx.now(),
        tags: request.tags,
    };
    tx.insert(&vpc)?;
    tx.insert(&main_route_table(&vpc))?;
    tx.insert(&default_acl(&vpc))?;
    tx.insert(&default_group(&vpc))?;
    Ok(vpc)
}

/// Drawn, not counted, so that one that was just given back is not soon another's.
pub(super) fn unused_vni(tx: &Tx<'_>) -> Result<u32, Problem> {
    let used: HashSet<u32> = tx.list::<Vpc>(Scope::Everything)?.iter().map(|vpc| vpc.vni).collect();
    if used.len() >= VNIS as usize / 2 {
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, "the cloud has as many VPCs as it can"));
    }
    loop {
        let vni = random::bits() as u32 % VNIS;
        if vni != 0 && !used.contains(&vni) {
            return Ok(vni);
        }
    }
}

pub(super) fn local_route(vpc: &Vpc) -> Route {
    Route { destination: vpc.cidr, target: RouteTarget::Local }
}

fn main_route_table(vpc: &Vpc) -> RouteTable {
    RouteTable {
        id: vpc.main_route_table,
        account: vpc.account,
        vpc: vpc.id,
        routes: vec![local_route(vpc)],
        main: true,
        created: vpc.created,
        tags: Tags::default(),
    }
}

/// Its members reach each other, and everything outside.
fn default_group(vpc: &Vpc) -> SecurityGroup {
    let among_themselves = RuleSpec {
        direction: Direction::Ingress,
        traffic: Traffic::All,
        peer: Peer::Group { group: vpc.default_security_group },
    };
    let rule = |spec| Rule { id: random::id(), created: vpc.created, spec };
    SecurityGroup {
        id: vpc.default_security_group,
        account: vpc.account,
        vpc: vpc.id,
        name: DEFAULT_GROUP.into(),
        description: "The VPC's default group".into(),
        rules: vec![rule(among_themselves), rule(RuleSpec::allow_all_outbound())],
        created: vpc.created,
        tags: Tags::default(),
    }
}

pub(crate) async fn list_vpcs(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Vpc>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_vpc(
    controller: &Controller,
    call: Call<Caller, (VpcId,), NoQuery, Nothing>,
) -> Result<Json<Vpc>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn delete_vpc(
    controller: &Controller,
    call: Call<Caller, (VpcId,), EndSourceQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id, deepens) = (call.caller.scope(), call.path.0, call.query.deepen_duplicates == Some(true));
    let deepening = controller.change(&call, move |tx| delete(tx, scope, id, deepens)).await?;
    controller.workflows.resume_at_all(&deepening).await.map(|()| Done)
}

/// Gives the duplicates that are made deep first.
fn delete(tx: &mut Tx<'_>, scope: Scope, id: VpcId, deepens: bool) -> Result<Vec<ReplicaId>, Problem> {
    let vpc: Vpc = tx.get(scope, id)?;
    if !deepens {
        replicas::check_free(tx, id)?;
    }
    // Named rather than what the VPC was born with, which the user did not make.
    if let Some(subnet) = tx.referring::<Subnet>(scope, id)?.first() {
        let detail = format!("{id} is still used by {}", subnet.id);
        return Err(Problem::new(ErrorCode::DependencyViolation, detail));
    }
    let drawing = replicas::deepening::begin_for(tx, id)?;
    if drawing.is_empty() {
        return remove(tx, &vpc).map(|()| drawing);
    }
    for replica in &drawing {
        let mut record: ReplicaRecord = tx.get(Scope::Everything, replica)?;
        record.ends_source = true;
        tx.put(&record)?;
    }
    Ok(drawing)
}

/// With what it was born with.
pub(super) fn remove(tx: &mut Tx<'_>, vpc: &Vpc) -> Result<(), Problem> {
    let main: RouteTable = tx.get(Scope::Everything, vpc.main_route_table)?;
    tx.delete(&main)?;
    let acl: NetworkAcl = tx.get(Scope::Everything, vpc.default_network_acl)?;
    tx.delete(&acl)?;
    let default: SecurityGroup = tx.get(Scope::Everything, vpc.default_security_group)?;
    tx.delete(&default)?;
    tx.delete(vpc)
}
