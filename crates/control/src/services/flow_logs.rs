//! Flow logs: standing orders for flow records.
//!
//! Owns which may be made, and which interval they ask of an interface. Delivery is the collector's, told of them by
//! [`crate::delivery`].

use std::time::Duration;

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        flow_log::{CreateFlowLog, EditFlowLog},
    },
    input::{Json, Nothing},
};
use lucarne_flows::export::AwsFormat;
use lucarne_model::{
    AccountId, ErrorCode, FlowLogId, SubnetId, VpcId,
    desired::DesiredInstance,
    flow_log::{Destination, FlowLog, FlowLogTarget, StoreCredentials},
    network::{NetworkInterface, Subnet, Vpc},
};

use super::checks::{check_tags, refuse};
use crate::{
    Caller, Controller,
    delivery::CHANGED,
    random,
    records::{FlowLogRecord, InstanceRecord},
    store::{Scope, Tx},
};

const FLOW_LOGS_OF_AN_ACCOUNT: usize = 100;
const DEFAULT_FORMAT: &str = "default";

pub(crate) async fn create_flow_log(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateFlowLog>>,
) -> Result<Created<FlowLog>, Problem> {
    let (account, operator, request) = (call.caller.account, call.caller.operator, call.body.0.clone());
    controller.change(&call, move |tx| create(tx, account, operator, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, account: AccountId, operator: bool, request: CreateFlowLog) -> Result<FlowLog, Problem> {
    check_tags(&request.tags)?;
    let vpc = vpc_of(tx, account, request.target)?;
    if tx.list::<FlowLogRecord>(Scope::Account(account))?.len() >= FLOW_LOGS_OF_AN_ACCOUNT {
        let detail = format!("an account can have {FLOW_LOGS_OF_AN_ACCOUNT} flow logs");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let log = FlowLog {
        id: random::id(),
        account,
        target: request.target,
        vpc,
        traffic: request.traffic,
        interval_millis: request.interval_millis.unwrap_or(FlowLog::DEFAULT_INTERVAL.as_millis() as u64),
        format: request.format.unwrap_or_else(|| DEFAULT_FORMAT.into()),
        to: request.to.unwrap_or(Destination::Store),
        delivery: None,
        created: tx.now(),
        changed: tx.now(),
        tags: request.tags,
    };
    let record = FlowLogRecord { log, credentials: request.credentials };
    check(&record, operator)?;
    tx.insert(&record)?;
    tx.touch(CHANGED);
    Ok(record.log)
}

/// The VPC of what is to be logged, which must be the account's own.
fn vpc_of(tx: &Tx<'_>, account: AccountId, target: FlowLogTarget) -> Result<VpcId, Problem> {
    let scope = Scope::Account(account);
    Ok(match target {
        FlowLogTarget::Vpc { vpc } => tx.get::<Vpc>(scope, vpc)?.id,
        FlowLogTarget::Subnet { subnet } => tx.get::<Subnet>(scope, subnet)?.vpc,
        FlowLogTarget::Interface { interface } => tx.get::<NetworkInterface>(scope, interface)?.vpc,
        FlowLogTarget::Instance { instance } => tx.get::<InstanceRecord>(scope, instance)?.instance.vpc,
    })
}

fn check(record: &FlowLogRecord, operator: bool) -> Result<(), Problem> {
    let FlowLogRecord { log, credentials } = record;
    let interval = Duration::from_millis(log.interval_millis);
    if !(FlowLog::SHORTEST_INTERVAL..=FlowLog::LONGEST_INTERVAL).contains(&interval) {
        return Err(refuse(format!("interval_millis is 1000 to 600000; it was {}", log.interval_millis)));
    }
    log.format.parse::<AwsFormat>().map_err(|error| refuse(error.to_string()))?;
    match (&log.to, credentials) {
        (Destination::File { .. }, _) if !operator => {
            let detail = "only the operator account's flow logs can be written to the collector's own disk";
            Err(Problem::new(ErrorCode::UnauthorizedOperation, detail))
        }
        (Destination::S3 { .. }, None) => Err(refuse("a destination of s3 needs credentials")),
        (Destination::S3 { .. }, Some(StoreCredentials { access_key_id, secret_access_key }))
            if access_key_id.is_empty() || secret_access_key.is_empty() =>
        {
            Err(refuse("neither of the credentials can be empty"))
        }
        (Destination::Store | Destination::Ipfix { .. } | Destination::File { .. }, Some(_)) => {
            Err(refuse("only a destination of s3 takes credentials"))
        }
        _ => Ok(()),
    }
}

pub(crate) async fn edit_flow_log(
    controller: &Controller,
    call: Call<Caller, (FlowLogId,), NoQuery, Json<EditFlowLog>>,
) -> Result<Json<FlowLog>, Problem> {
    let (scope, operator) = (call.caller.scope(), call.caller.operator);
    let (id, edit) = (call.path.0, call.body.0.clone());
    let change = move |tx: &mut Tx<'_>| {
        let mut record: FlowLogRecord = tx.get(scope, id)?;
        apply(&mut record, edit);
        check(&record, operator)?;
        record.log.changed = tx.now();
        tx.put(&record)?;
        tx.touch(CHANGED);
        Ok(record.log)
    };
    controller.change(&call, change).await.map(Json)
}

fn apply(record: &mut FlowLogRecord, edit: EditFlowLog) {
    let EditFlowLog { traffic, interval_millis, format, to, credentials } = edit;
    let log = &mut record.log;
    log.traffic = traffic.unwrap_or(log.traffic);
    log.interval_millis = interval_millis.unwrap_or(log.interval_millis);
    if let Some(format) = format {
        log.format = format;
    }
    if let Some(to) = to {
        // Credentials are for one place, and must not be told to another.
        if to != log.to {
            record.credentials = None;
        }
        log.to = to;
    }
    if credentials.is_some() {
        record.credentials = credentials;
    }
}

pub(crate) async fn list_flow_logs(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<FlowLog>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    let show = |_: &Tx<'_>, record: FlowLogRecord| Ok(record.log);
    controller.store.read(move |tx| tx.page_shown(scope, &query, show)).await.map(Json)
}

pub(crate) async fn get_flow_log(
    controller: &Controller,
    call: Call<Caller, (FlowLogId,), NoQuery, Nothing>,
) -> Result<Json<FlowLog>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let record = controller.store.read(move |tx| tx.get::<FlowLogRecord>(scope, id)).await?;
    let deliveries = controller.collector.deliveries().await;
    let deliveries = deliveries.inspect_err(|error| {
        tracing::warn!(error = error as &dyn std::error::Error, "the collector does not say how deliveries are");
    });
    let delivery = deliveries.ok().and_then(|mut all| all.remove(&id));
    Ok(Json(FlowLog { delivery, ..record.log }))
}

pub(crate) async fn delete_flow_log(
    controller: &Controller,
    call: Call<Caller, (FlowLogId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let record: FlowLogRecord = tx.get(scope, id)?;
        tx.touch(CHANGED);
        tx.delete(&record)
    };
    controller.change(&call, delete).await.map(|()| Done)
}

/// The interval that a VPC's flow logs ask of an instance's interface: the shortest, or none where none concerns it.
pub(crate) fn interval_millis(logs: &[FlowLogRecord], instance: &DesiredInstance, subnet: SubnetId) -> Option<u64> {
    let concerned = logs.iter().filter(|record| record.log.concerns(subnet, instance.interface, instance.id));
    concerned.map(|record| record.log.interval_millis).min()
}
