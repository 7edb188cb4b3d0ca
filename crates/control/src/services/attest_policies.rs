//! Attestation policies of VPCs: what every instance that is part of one must match, for as long as it is.
//!
//! Owns when a policy may be set: only where nothing runs that could never match it, so that in a VPC with a policy nothing
//! has joined that did not. What is wanted beside it by a launch is [`crate::joint_policy`]'s, asking again
//! [`super::rechecks`]'.

use lucarne_api::{
    Call, Problem,
    answer::Done,
    bodies::{NoQuery, attestation::SetAttestPolicy},
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, VpcId,
    attestation::VpcAttestPolicy,
    instance::{Instance, InstanceState},
    network::Vpc,
};

use super::{attestations, checks::refuse, rechecks::ASKED};
use crate::{
    Caller, Controller,
    records::InstanceRecord,
    store::{Scope, Tx},
};

/// Seconds: a week at most, or it would not be worth its name.
const INTERVALS: std::ops::RangeInclusive<u64> = 1..=7 * 24 * 3600;

/// The account's own: what is wanted of its instances is nobody else's to say, an operator's neither.
pub(crate) async fn set_attest_policy(
    controller: &Controller,
    call: Call<Caller, (VpcId,), NoQuery, Json<SetAttestPolicy>>,
) -> Result<Json<Vpc>, Problem> {
    let (account, id, request) = (call.caller.account, call.path.0, call.body.0.clone());
    controller.change(&call, move |tx| set(tx, account, id, request)).await.map(Json)
}

fn set(tx: &mut Tx<'_>, account: AccountId, id: VpcId, request: SetAttestPolicy) -> Result<Vpc, Problem> {
    let mut vpc: Vpc = tx.get(Scope::Account(account), id)?;
    attestations::check_policy(tx, account, &request.policy)?;
    if !INTERVALS.contains(&request.recheck_seconds) {
        let (least, most) = (INTERVALS.start(), INTERVALS.end());
        return Err(refuse(format!("recheck_seconds can be {least} to {most}")));
    }
    let proves_nothing = |record: &&InstanceRecord| {
        record.instance.attestation.is_none() && record.instance.state != InstanceState::Stopped
    };
    let within: Vec<InstanceRecord> = tx.referring(Scope::Account(account), id)?;
    if let Some(record) = within.iter().find(proves_nothing) {
        let detail = format!("{} was launched with nothing to prove; stop or terminate it first", record.instance.id);
        return Err(Problem::new(ErrorCode::IncorrectState, detail));
    }
    let SetAttestPolicy { policy, recheck_seconds } = request;
    vpc.attest_policy = Some(VpcAttestPolicy { policy, recheck_seconds, since: tx.now() });
    tx.put(&vpc)?;
    tx.touch(ASKED);
    Ok(vpc)
}

pub(crate) async fn clear_attest_policy(
    controller: &Controller,
    call: Call<Caller, (VpcId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (account, id) = (call.caller.account, call.path.0);
    let clear = move |tx: &mut Tx<'_>| {
        let mut vpc: Vpc = tx.get(Scope::Account(account), id)?;
        if vpc.attest_policy.take().is_none() {
            return Err(Problem::new(ErrorCode::AttestPolicyNotFound, format!("{id} has no attestation policy")));
        }
        tx.put(&vpc)
    };
    controller.change(&call, clear).await.map(|()| Done)
}

/// Whether an instance may be started again where it is: one that was launched with nothing to prove cannot be measured
/// afterwards.
pub(super) fn check_start(tx: &Tx<'_>, instance: &Instance) -> Result<(), Problem> {
    let vpc: Vpc = tx.get(Scope::Everything, instance.vpc)?;
    if vpc.attest_policy.is_some() && instance.attestation.is_none() {
        let detail = format!(
            "{} was launched with nothing to prove, and {} has an attestation policy; launch it anew",
            instance.id, vpc.id
        );
        return Err(Problem::new(ErrorCode::IncorrectState, detail));
    }
    Ok(())
}
