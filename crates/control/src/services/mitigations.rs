//! Mitigations: what operators order against traffic that harms others.
//!
//! Owns who is told of one, and its end by time. Tenants meet only its effect: their flows' end reason.

use std::time::Duration;

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        mitigation::{CreateMitigation, Mitigation},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, MitigationId,
    desired::DesiredInstance,
    mitigation::{DesiredMitigation, MitigationAction},
};

use super::checks::{check_tags, refuse};
use crate::{
    Caller, Controller, random,
    records::{HostRecord, InstanceRecord},
    store::{Scope, Tx},
};

/// Each is asked of every new flow on every host that it concerns.
const MITIGATIONS: usize = 1000;
const REASON_LENGTH: usize = 500;
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) async fn create_mitigation(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateMitigation>>,
) -> Result<Created<Mitigation>, Problem> {
    let request = call.body.0.clone();
    controller.change(&call, move |tx| create(tx, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, request: CreateMitigation) -> Result<Mitigation, Problem> {
    check(&request)?;
    if let Some(instance) = request.target.instance {
        tx.get::<InstanceRecord>(Scope::Everything, instance)?;
    }
    if tx.list::<Mitigation>(Scope::Everything)?.len() >= MITIGATIONS {
        let detail = format!("there can be {MITIGATIONS} mitigations");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let CreateMitigation { target, action, reason, lasts_seconds, tags } = request;
    let mitigation = Mitigation {
        id: random::id(),
        account: AccountId::OPERATOR,
        target,
        action,
        reason,
        expires: lasts_seconds.map(|seconds| tx.now().plus(Duration::from_secs(seconds))),
        created: tx.now(),
        tags,
    };
    tx.insert(&mitigation)?;
    wake_concerned(tx, &mitigation)?;
    Ok(mitigation)
}

fn check(request: &CreateMitigation) -> Result<(), Problem> {
    check_tags(&request.tags)?;
    if request.target.is_empty() {
        return Err(refuse("a mitigation names an instance, an address, a protocol, a port or a direction"));
    }
    if request.reason.trim().is_empty() || request.reason.chars().count() > REASON_LENGTH {
        return Err(refuse(format!("a reason has 1 to {REASON_LENGTH} characters")));
    }
    if request.action == (MitigationAction::Cap { packets_per_second: 0 }) {
        return Err(refuse("a cap lets at least one packet a second pass; to let none pass is to block"));
    }
    match request.lasts_seconds {
        Some(seconds) if !(1..=LONGEST.as_secs()).contains(&seconds) => {
            Err(refuse(format!("lasts_seconds is 1 to {}; it was {seconds}", LONGEST.as_secs())))
        }
        _ => Ok(()),
    }
}

/// An order that names an instance concerns that one's host, any other concerns all hosts.
fn wake_concerned(tx: &mut Tx<'_>, mitigation: &Mitigation) -> Result<(), Problem> {
    let hosts = match mitigation.target.instance {
        Some(instance) => {
            let record = tx.find::<InstanceRecord>(Scope::Everything, instance)?;
            record.and_then(|record| record.instance.host).into_iter().collect()
        }
        None => tx.list::<HostRecord>(Scope::Everything)?.into_iter().map(|record| record.host.id).collect::<Vec<_>>(),
    };
    hosts.into_iter().for_each(|host| tx.touch(host));
    Ok(())
}

/// What a host is told that is to run `instances`.
pub(crate) fn desired(tx: &Tx<'_>, instances: &[DesiredInstance]) -> Result<Vec<DesiredMitigation>, Problem> {
    let all = tx.list::<Mitigation>(Scope::Everything)?;
    let concerns = |mitigation: &Mitigation| {
        mitigation.target.instance.is_none_or(|id| instances.iter().any(|instance| instance.id == id))
    };
    let told = |Mitigation { id, target, action, .. }| DesiredMitigation { id, target, action };
    Ok(all.into_iter().filter(concerns).map(told).collect())
}

/// Ends those whose time is over.
pub(crate) async fn end_expired(controller: &Controller) -> Result<(), Problem> {
    if controller.store.read(expired).await?.is_empty() {
        return Ok(());
    }
    let end = |tx: &mut Tx<'_>| {
        for mitigation in expired(tx)? {
            tracing::info!(mitigation = %mitigation.id, "a mitigation's time is over");
            tx.delete(&mitigation)?;
            wake_concerned(tx, &mitigation)?;
        }
        Ok(())
    };
    controller.store.write(end).await
}

fn expired(tx: &Tx<'_>) -> Result<Vec<Mitigation>, Problem> {
    let mut all = tx.list::<Mitigation>(Scope::Everything)?;
    all.retain(|mitigation| mitigation.expires.is_some_and(|expires| expires <= tx.now()));
    Ok(all)
}

pub(crate) async fn list_mitigations(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Mitigation>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_mitigation(
    controller: &Controller,
    call: Call<Caller, (MitigationId,), NoQuery, Nothing>,
) -> Result<Json<Mitigation>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn delete_mitigation(
    controller: &Controller,
    call: Call<Caller, (MitigationId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let mitigation: Mitigation = tx.get(scope, id)?;
        tx.delete(&mitigation)?;
        wake_concerned(tx, &mitigation)
    };
    controller.change(&call, delete).await.map(|()| Done)
}
