//! The scenes of a replay, in the chapter "replicas": what was asked of a machine is asked of its duplicate.
//!
//! Owns what is recorded, played and expected. The network and its duplicate are the chapter's.

use std::{net::Ipv4Addr, time::Duration};

use lucarne_api::{
    bodies::{recording::StartRecording, replay::StartReplay},
    client::Client,
};
use lucarne_model::{
    Cidr, InstanceId, RecordingId, SecurityGroupId, Tags, VpcId,
    flow::Direction,
    recording::{Recording, RecordingFilter},
    replay::{Replay, ReplayFrom, ReplayReport, ReplaySpeed},
    replication::Replica,
    security_group::SecurityGroup,
};
use serde_json::Value;

use super::{memory::look, moving, report::Story, tenant::Tenant};
use crate::{failure::Failure, session::answer};

const PATIENCE: Duration = Duration::from_secs(120);
/// Where r3 is.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 30);
/// Of a dozen requests and their answers, each seen at both ends.
const FRAMES: u64 = 250;

/// Asks `r1` for a page, and for one that there is not, again and again.
pub(super) fn asks() -> String {
    let address = moving::ADDRESS;
    format!(
        "#!/bin/sh\nwhile :; do\nfor page in index.html nowhere; do\n\
         timeout 2 wget -q -O /dev/null http://{address}/$page; usleep 200000\ndone\ndone > /dev/null 2>&1 &\n"
    )
}

/// Plays what `asks` asked into the duplicate, whose group `group` lets nobody in at the end.
pub(super) async fn scenes(
    story: &mut Story,
    tenant: &Tenant,
    replica: &Replica,
    (asks, group): (InstanceId, SecurityGroupId),
) -> Result<(), Failure> {
    let recording = record(tenant, replica.source).await?;
    let first = play(tenant, recording, replica, asks).await?;
    let second = play(tenant, recording, replica, asks).await?;
    let verdicts = [&first, &second].map(|replay| replay.reports.iter().map(verdict).collect::<Vec<_>>());
    let told = |replay: &Replay| {
        let report = replay.reports.first();
        let score = replay.score.map_or_else(|| "none".to_owned(), |score| score.to_string());
        let (same, all) = report.map_or((0, 0), |report| (report.exchanges.as_recorded, report.exchanges.compared));
        let late = report.map_or(0, |report| report.timing_error.p99_micros);
        format!("score {score}, {same} of {all} answers as recorded, at most {late} microseconds late in 99 of 100")
    };
    story.step(
        "what r3 asked of r1 is recorded, and asked of r1's duplicate twice",
        "score 100, twice the same",
        format!("{}; then {}", told(&first), told(&second)),
        first.score == Some(100) && verdicts[0] == verdicts[1] && !verdicts[0].is_empty(),
    );
    close(tenant, group).await?;
    let changed = play(tenant, recording, replica, asks).await?;
    story.step(
        "the duplicate's group lets nobody in any more, and the same is asked again",
        "a lower score",
        told(&changed),
        changed.score < first.score && changed.score.is_some(),
    );
    for replay in [first.id, second.id, changed.id] {
        let call = async |client: Client| answer::<_, Value>(client.delete_replay(&replay, None, None)).await;
        tenant.session.change(call).await?;
    }
    let call = async |client: Client| answer::<_, Value>(client.delete_recording(&recording, None, None)).await;
    tenant.session.change(call).await.map(drop)
}

/// Without times, which are never the same twice.
fn verdict(report: &ReplayReport) -> ReplayReport {
    let (recorded_latency, latency, timing_error) = Default::default();
    ReplayReport { recorded_latency, latency, timing_error, ..report.clone() }
}

async fn record(tenant: &Tenant, vpc: VpcId) -> Result<RecordingId, Failure> {
    // Not r2, whose connection has no end.
    let addresses = Cidr::around(ADDRESS, 32).into_iter().collect();
    let filter = RecordingFilter { addresses, protocols: vec![6], ..RecordingFilter::default() };
    let body = StartRecording { vpc, filter, room: None, seconds: None, lasts_seconds: None, tags: Tags::default() };
    let call = async |client: Client| answer::<_, Recording>(client.start_recording(None, None, &body)).await;
    let id = tenant.session.change(call).await?.id;
    let shown = async || {
        let call = async |client: Client| answer::<_, Recording>(client.get_recording(&id)).await;
        tenant.session.read(call).await
    };
    look(PATIENCE, shown, |shown| shown.recorded.frames >= FRAMES).await?;
    let call = async |client: Client| answer::<_, Recording>(client.stop_recording(&id, None, None)).await;
    tenant.session.change(call).await?;
    Ok(id)
}

async fn play(tenant: &Tenant, recording: RecordingId, replica: &Replica, asks: InstanceId) -> Result<Replay, Failure> {
    let body = StartReplay {
        recording,
        replica: replica.id,
        from: ReplayFrom::Instance(asks),
        speed: Some(ReplaySpeed::AS_RECORDED),
        times: None,
        amplify: None,
        changes: false,
        tags: Tags::default(),
    };
    let call = async |client: Client| answer::<_, Replay>(client.start_replay(None, None, &body)).await;
    let id = tenant.session.change(call).await?.id;
    let shown = async || {
        let call = async |client: Client| answer::<_, Replay>(client.get_replay(&id)).await;
        tenant.session.read(call).await
    };
    look(PATIENCE, shown, |shown| shown.state.is_over()).await
}

/// Takes away all that lets somebody in.
async fn close(tenant: &Tenant, group: SecurityGroupId) -> Result<(), Failure> {
    let call = async |client: Client| answer::<_, SecurityGroup>(client.get_security_group(&group)).await;
    let rules = tenant.session.read(call).await?.rules;
    for rule in rules.iter().filter(|rule| rule.spec.direction == Direction::Ingress) {
        let call = async |client: Client| answer::<_, Value>(client.revoke_rule(&group, &rule.id, None, None)).await;
        tenant.session.change(call).await?;
    }
    Ok(())
}
