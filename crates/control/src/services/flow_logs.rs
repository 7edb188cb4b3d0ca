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
use lucarne_collector::SecretBox;
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
    instructions::FLOW_LOGS,
    random,
    records::{FlowLogCredentials, InstanceRecord},
    secrets,
    store::{Scope, Tx},
};

const FLOW_LOGS_OF_AN_ACCOUNT: usize = 100;
const DEFAULT_FORMAT: &str = "default";

pub(crate) async fn create_flow_log(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateFlowLog>>,
) -> Result<Created<FlowLog>, Problem> {
    let (account, operator, request) = (call.caller.account, call.caller.operator, call.body.0.clone());
    let secrets = controller.secrets.clone();
    controller.change(&call, move |tx| create(tx, &secrets, account, operator, request)).await.map(Created)
}

fn create(
    tx: &mut Tx<'_>,
    secrets: &SecretBox,
    account: AccountId,
    operator: bool,
    request: CreateFlowLog,
) -> Result<FlowLog, Problem> {
    check_tags(&request.tags)?;
    let vpc = vpc_of(tx, account, request.target)?;
    if tx.list::<FlowLog>(Scope::Account(account))?.len() >= FLOW_LOGS_OF_AN_ACCOUNT {
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
    check(&log, operator)?;
    tx.insert(&log)?;
    keep_credentials(tx, secrets, &log, request.credentials)?;
    tx.touch(FLOW_LOGS);
    Ok(log)
}

/// Keeps what was given for the log's store, or what it has already; a log that goes elsewhere has none.
fn keep_credentials(
    tx: &mut Tx<'_>,
    secrets: &SecretBox,
    log: &FlowLog,
    given: Option<StoreCredentials>,
) -> Result<(), Problem> {
    let kept: Option<FlowLogCredentials> = tx.find(Scope::Everything, log.id)?;
    let goes_to_store = matches!(log.to, Destination::S3(_));
    match (goes_to_store, given, kept) {
        (false, Some(_), _) => Err(refuse("only an s3:// destination takes credentials")),
        (false, None, Some(kept)) => tx.delete(&kept),
        (true, None, None) => Err(refuse("an s3:// destination needs an access key of its store")),
        (true, Some(credentials), kept) => {
            check_credentials(&credentials)?;
            let new = FlowLogCredentials { log: log.id, account: log.account, secret: None, credentials: None };
            let new = secrets::sealed(secrets, new, &credentials)?;
            if kept.is_some() { tx.put(&new) } else { tx.insert(&new) }
        }
        (false, None, None) | (true, None, Some(_)) => Ok(()),
    }
}

/// They are signed with and one of them is sent: it must fit a header.
fn check_credentials(credentials: &StoreCredentials) -> Result<(), Problem> {
    let StoreCredentials { access_key_id, secret_access_key } = credentials;
    let is_text = |text: &str| (1..=128).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic());
    let is_id = is_text(access_key_id) && !access_key_id.contains(['/', ',', '=']);
    match is_id && is_text(secret_access_key) {
        true => Ok(()),
        false => Err(refuse("an access key has 1 to 128 visible ASCII characters, its id no `/`, `,` or `=`")),
    }
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

fn check(log: &FlowLog, operator: bool) -> Result<(), Problem> {
    let interval = Duration::from_millis(log.interval_millis);
    if !(FlowLog::SHORTEST_INTERVAL..=FlowLog::LONGEST_INTERVAL).contains(&interval) {
        return Err(refuse(format!("interval_millis is 1000 to 600000; it was {}", log.interval_millis)));
    }
    if log.format != FlowLog::PARQUET {
        log.format.parse::<AwsFormat>().map_err(|error| refuse(error.to_string()))?;
    }
    if matches!(log.to, Destination::File { .. }) && !operator {
        let detail = "only the operator account's flow logs can be written to the collector's own disk";
        return Err(Problem::new(ErrorCode::UnauthorizedOperation, detail));
    }
    Ok(())
}

pub(crate) async fn edit_flow_log(
    controller: &Controller,
    call: Call<Caller, (FlowLogId,), NoQuery, Json<EditFlowLog>>,
) -> Result<Json<FlowLog>, Problem> {
    let (scope, operator) = (call.caller.scope(), call.caller.operator);
    let (id, edit, secrets) = (call.path.0, call.body.0.clone(), controller.secrets.clone());
    let change = move |tx: &mut Tx<'_>| {
        let mut log: FlowLog = tx.get(scope, id)?;
        let credentials = edit.credentials.clone();
        apply(&mut log, edit);
        check(&log, operator)?;
        log.changed = tx.now();
        tx.put(&log)?;
        keep_credentials(tx, &secrets, &log, credentials)?;
        tx.touch(FLOW_LOGS);
        Ok(log)
    };
    controller.change(&call, change).await.map(Json)
}

fn apply(log: &mut FlowLog, edit: EditFlowLog) {
    let EditFlowLog { traffic, interval_millis, format, to, credentials: _ } = edit;
    log.traffic = traffic.unwrap_or(log.traffic);
    log.interval_millis = interval_millis.unwrap_or(log.interval_millis);
    if let Some(format) = format {
        log.format = format;
    }
    if let Some(to) = to {
        log.to = to;
    }
}

pub(crate) async fn list_flow_logs(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<FlowLog>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_flow_log(
    controller: &Controller,
    call: Call<Caller, (FlowLogId,), NoQuery, Nothing>,
) -> Result<Json<FlowLog>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let log = controller.store.read(move |tx| tx.get::<FlowLog>(scope, id)).await?;
    let deliveries = controller.collector.deliveries().await;
    let deliveries = deliveries.inspect_err(|error| {
        tracing::warn!(error = error as &dyn std::error::Error, "the collector does not say how deliveries are");
    });
    let delivery = deliveries.ok().and_then(|mut all| all.remove(&id));
    Ok(Json(FlowLog { delivery, ..log }))
}

pub(crate) async fn delete_flow_log(
    controller: &Controller,
    call: Call<Caller, (FlowLogId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let log: FlowLog = tx.get(scope, id)?;
        if let Some(kept) = tx.find::<FlowLogCredentials>(Scope::Everything, id)? {
            tx.delete(&kept)?;
        }
        tx.touch(FLOW_LOGS);
        tx.delete(&log)
    };
    controller.change(&call, delete).await.map(|()| Done)
}

/// The interval that a VPC's flow logs ask of an instance's interface: the shortest, or none where none concerns it.
pub(crate) fn interval_millis(logs: &[FlowLog], instance: &DesiredInstance, subnet: SubnetId) -> Option<u64> {
    let concerned = logs.iter().filter(|log| log.concerns(subnet, instance.interface, instance.id));
    concerned.map(|log| log.interval_millis).min()
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        Bytes, ImageId, InstanceId, InterfaceId, Moment, Tags, Vcpus,
        desired::Power,
        flow_log::LoggedTraffic,
        storage::{Blob, BootSource, Digest},
    };

    use super::*;

    fn log(target: FlowLogTarget, interval_millis: u64) -> FlowLog {
        FlowLog {
            id: FlowLogId::from_bits(1),
            account: AccountId::OPERATOR,
            target,
            vpc: VpcId::from_bits(1),
            traffic: LoggedTraffic::All,
            interval_millis,
            format: DEFAULT_FORMAT.into(),
            to: Destination::Store,
            delivery: None,
            created: Moment::EPOCH,
            changed: Moment::EPOCH,
            tags: Tags::default(),
        }
    }

    fn instance() -> DesiredInstance {
        let blob = || Blob { digest: Digest::from_bytes([0; 32]), size: Bytes::ZERO };
        DesiredInstance {
            id: InstanceId::from_bits(1),
            account: AccountId::OPERATOR,
            power: Power::Running,
            migration: None,
            duplicate: None,
            origin: None,
            generation: 1,
            image: ImageId::from_bits(1),
            boot: BootSource::Kernel { kernel: blob(), initramfs: blob(), command_line: String::new() },
            cold: false,
            virtual_tpm: false,
            attestation: None,
            mac: None,
            vcpus: Vcpus(1),
            memory: Bytes::ZERO,
            memory_settings: Default::default(),
            interface: InterfaceId::from_bits(1),
            vpc: VpcId::from_bits(1),
            user_data: None,
            flow_interval_millis: None,
            volumes: Vec::new(),
        }
    }

    #[test]
    fn the_shortest_interval_of_the_logs_that_concern_an_interface_holds() {
        let subnet = SubnetId::from_bits(1);
        let of_vpc = log(FlowLogTarget::Vpc { vpc: VpcId::from_bits(1) }, 60_000);
        let of_subnet = log(FlowLogTarget::Subnet { subnet }, 5000);
        let of_another = log(FlowLogTarget::Instance { instance: InstanceId::from_bits(2) }, 1000);
        assert_eq!(interval_millis(&[], &instance(), subnet), None);
        assert_eq!(interval_millis(std::slice::from_ref(&of_another), &instance(), subnet), None);
        assert_eq!(interval_millis(&[of_vpc.clone(), of_another.clone()], &instance(), subnet), Some(60_000));
        assert_eq!(interval_millis(&[of_vpc, of_subnet, of_another], &instance(), subnet), Some(5000));
    }
}
