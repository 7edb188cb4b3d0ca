//! Security groups and their rules.
//!
//! Owns which groups and rules may be made. What a rule allows is said once, in [`RuleSpec::matches`]; the switch carries it
//! out.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        network::{AuthorizeRule, CreateSecurityGroup},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, RuleId, SecurityGroupId,
    network::Vpc,
    security_group::{ICMP, Peer, Rule, RuleSpec, SecurityGroup, TCP, Traffic, UDP},
};

use super::{
    checks::{check_name, check_tags, refuse},
    vpcs::DEFAULT_GROUP,
};
use crate::{
    Caller, Controller, random,
    store::{Scope, Tx},
};

const RULES_OF_A_GROUP: usize = 200;
const GROUPS_OF_A_VPC: usize = 500;
const DESCRIPTION_LENGTH: usize = 255;

pub(crate) async fn create_security_group(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateSecurityGroup>>,
) -> Result<Created<SecurityGroup>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    controller.change(&call, move |tx| create(tx, account, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, account: AccountId, request: CreateSecurityGroup) -> Result<SecurityGroup, Problem> {
    check_name(&request.name)?;
    check_tags(&request.tags)?;
    if request.description.chars().count() > DESCRIPTION_LENGTH {
        return Err(refuse(format!("a description has at most {DESCRIPTION_LENGTH} characters")));
    }
    let vpc: Vpc = tx.get(Scope::Account(account), request.vpc)?;
    let others = tx.referring::<SecurityGroup>(Scope::Account(account), vpc.id)?;
    if others.iter().any(|group| group.name == request.name) {
        let detail = format!("{} has a group `{}`", vpc.id, request.name);
        return Err(Problem::new(ErrorCode::InvalidGroupDuplicate, detail));
    }
    if others.len() >= GROUPS_OF_A_VPC {
        let detail = format!("a VPC can have {GROUPS_OF_A_VPC} security groups");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let group = SecurityGroup {
        id: random::id(),
        account,
        vpc: vpc.id,
        name: request.name,
        description: request.description,
        rules: vec![Rule { id: random::id(), created: tx.now(), spec: RuleSpec::allow_all_outbound() }],
        created: tx.now(),
        tags: request.tags,
    };
    tx.insert(&group)?;
    Ok(group)
}

pub(crate) async fn list_security_groups(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<SecurityGroup>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_security_group(
    controller: &Controller,
    call: Call<Caller, (SecurityGroupId,), NoQuery, Nothing>,
) -> Result<Json<SecurityGroup>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn delete_security_group(
    controller: &Controller,
    call: Call<Caller, (SecurityGroupId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let group: SecurityGroup = tx.get(scope, id)?;
        if group.name == DEFAULT_GROUP {
            let detail = format!("{id} is the default group of {}; it goes with the VPC", group.vpc);
            return Err(Problem::new(ErrorCode::DependencyViolation, detail));
        }
        tx.delete(&group)
    };
    controller.change(&call, delete).await.map(|()| Done)
}

pub(crate) async fn authorize_rule(
    controller: &Controller,
    call: Call<Caller, (SecurityGroupId,), NoQuery, Json<AuthorizeRule>>,
) -> Result<Created<Rule>, Problem> {
    let (scope, id, spec) = (call.caller.scope(), call.path.0, call.body.0.rule.clone());
    controller.change(&call, move |tx| authorize(tx, scope, id, spec)).await.map(Created)
}

fn authorize(tx: &mut Tx<'_>, scope: Scope, id: SecurityGroupId, spec: RuleSpec) -> Result<Rule, Problem> {
    let mut group: SecurityGroup = tx.get(scope, id)?;
    check_traffic(&spec.traffic)?;
    if let Peer::Group { group: peer } = spec.peer {
        let peer: SecurityGroup = tx.get(scope, peer)?;
        if peer.vpc != group.vpc {
            return Err(refuse(format!("{} belongs to {}, the group to {}", peer.id, peer.vpc, group.vpc)));
        }
    }
    if let Some(rule) = group.rules.iter().find(|rule| rule.spec == spec) {
        return Err(Problem::new(ErrorCode::InvalidPermissionDuplicate, format!("{} says the same", rule.id)));
    }
    if group.rules.len() >= RULES_OF_A_GROUP {
        let detail = format!("a security group can have {RULES_OF_A_GROUP} rules");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let rule = Rule { id: random::id(), created: tx.now(), spec };
    group.rules.push(rule.clone());
    tx.put(&group)?;
    Ok(rule)
}

/// Each traffic has one way to be said, so that duplicates are seen.
pub(super) fn check_traffic(traffic: &Traffic) -> Result<(), Problem> {
    match *traffic {
        Traffic::Tcp { from_port, to_port } | Traffic::Udp { from_port, to_port } if from_port > to_port => {
            Err(refuse(format!("from_port {from_port} is behind to_port {to_port}")))
        }
        Traffic::Icmp { icmp_type: None, icmp_code: Some(_) } => Err(refuse("an ICMP code needs its type")),
        Traffic::Other { number: number @ (ICMP | TCP | UDP) } => {
            Err(refuse(format!("protocol {number} has a name: icmp, tcp or udp")))
        }
        _ => Ok(()),
    }
}

pub(crate) async fn revoke_rule(
    controller: &Controller,
    call: Call<Caller, (SecurityGroupId, RuleId), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, (id, rule)) = (call.caller.scope(), call.path);
    let revoke = move |tx: &mut Tx<'_>| {
        let mut group: SecurityGroup = tx.get(scope, id)?;
        let before = group.rules.len();
        group.rules.retain(|existing| existing.id != rule);
        if group.rules.len() == before {
            return Err(Problem::new(ErrorCode::InvalidRuleNotFound, format!("{id} has no rule {rule}")));
        }
        tx.put(&group)
    };
    controller.change(&call, revoke).await.map(|()| Done)
}
