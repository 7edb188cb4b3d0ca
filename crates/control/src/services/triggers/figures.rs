//! What triggers wait for, as it is now: findings from the collector, and figures of networks.
//!
//! Owns how each figure comes about; what they mean is [`TriggerMetric`]'s word.

use std::time::Duration;

use lucarne_api::Problem;
use lucarne_model::{
    AccountId, Moment, VpcId,
    finding::{Finding, FindingKind, FindingQuery},
    flow::Verdict,
    flow_sql::SqlQuestion,
    trigger::{Trigger, TriggerMetric, TriggerOn},
};
use lucarne_replica::trigger::{FRESH, Sight};

use super::super::flows::problem;
use crate::{
    Controller, clock,
    named_questions::{Asked, flows_by_verdict},
    records::InstanceRecord,
    store::{Scope, Tx},
};

/// Of what flows are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Findings of one kind that are looked at, the newest ones.
const MOST_FINDINGS: u32 = 1000;

/// What there is to see for one trigger.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    findings: Vec<Finding>,
    metric: Option<u64>,
}

impl Seen {
    pub(super) fn sight(&self) -> Sight<'_> {
        Sight { findings: &self.findings, metric: self.metric }
    }
}

pub(super) async fn look(controller: &Controller, trigger: &Trigger) -> Result<Seen, Problem> {
    let Trigger { account, vpc, on, .. } = *trigger;
    match on {
        TriggerOn::Finding(kind) => findings(controller, account, vpc, kind).await,
        TriggerOn::Every { .. } | TriggerOn::Daily { .. } => Ok(Seen::default()),
        TriggerOn::Above { metric, .. } => {
            let metric = match metric {
                TriggerMetric::RejectedFlows => Some(flows(controller, account, vpc, Verdict::Reject).await?),
                TriggerMetric::Connections => Some(flows(controller, account, vpc, Verdict::Accept).await?),
                TriggerMetric::MemoryPressure => memory_pressure(controller, vpc).await?,
            };
            Ok(Seen { metric, ..Seen::default() })
        }
    }
}

async fn findings(controller: &Controller, account: AccountId, vpc: VpcId, kind: FindingKind) -> Result<Seen, Problem> {
    let query = FindingQuery {
        account: Some(account),
        kind: Some(kind),
        since: Some(clock::now().minus(FRESH)),
        limit: Some(MOST_FINDINGS),
        ..FindingQuery::default()
    };
    let mut findings = controller.collector.findings(&query).await.map_err(problem)?;
    findings.retain(|finding| finding.vpc == Some(vpc));
    Ok(Seen { findings, metric: None })
}

async fn flows(controller: &Controller, account: AccountId, vpc: VpcId, verdict: Verdict) -> Result<u64, Problem> {
    let until: Moment = clock::now();
    let asked = Asked { since: until.minus(WINDOW), until, instance: None, vpc: Some(vpc), by: None };
    let question = SqlQuestion::new(Some(account), flows_by_verdict(&asked, verdict));
    let answer = controller.collector.sql(&question).await.map_err(problem)?;
    Ok(answer.rows.first().and_then(|row| row.get("flows")?.as_u64()).unwrap_or_default())
}

/// None where no host tells of any of the network's instances.
async fn memory_pressure(controller: &Controller, vpc: VpcId) -> Result<Option<u64>, Problem> {
    let fleet = controller.fleet.clone();
    let fullest = move |tx: &Tx<'_>| {
        let instances = tx.referring::<InstanceRecord>(Scope::Everything, vpc)?;
        let told = instances.iter().filter_map(|record| fleet.memory_of(record.instance.host?, record.instance.id));
        Ok(told.map(|memory| u64::from(memory.bucket / 10)).max())
    };
    controller.store.read(fullest).await
}
