//! What the tenant of the chapter "flows" asks when it is over: why a flow was denied, who stands out, whether its records are
//! all there, and what another's tool makes of its export.
//!
//! Owns the questions and what their answers must be. The cast and its records are [`super::flows`]'s.

use std::time::Duration;

use futures::TryStreamExt;
use lucarne_api::client::Client;
use lucarne_model::{
    EndReason, InstanceId, Moment, VpcId,
    finding::{Finding, FindingKind},
    flow_log::ExportFormat,
    security_group::TCP,
};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    networks::{BETWEEN_LOOKS, DENIED_PORT},
    nfdump::{self, Opened, read_json_lines},
    report::Story,
    tenant::Tenant,
};
use crate::{
    commands::{finding::Findings, flow_receipts::VerifyArgs},
    failure::{Failure, LocalCode},
    session::{answer, byte_stream, now},
    wait::Progress,
};

const FINDING_TIME: Duration = Duration::from_secs(20);
/// The collector puts records into files, with receipts, a minute after the first at the latest unless told otherwise.
const RECEIPT_TIME: Duration = Duration::from_secs(75);
const SPAN: Duration = Duration::from_secs(600);

/// Who asked whom.
pub(super) struct Scene {
    pub(super) vpc: VpcId,
    /// The one that looked around, and the one that was asked.
    pub(super) from: InstanceId,
    pub(super) to: InstanceId,
    /// Addresses that it swept.
    pub(super) swept: u64,
}

pub(super) async fn tell(story: &mut Story, tenant: &Tenant, scene: &Scene) -> Result<(), Failure> {
    let _progress = Progress::start("the tenant asks what happened");
    tell_why(story, tenant, scene).await?;
    tell_finding(story, tenant, scene).await?;
    tell_export(story, tenant, scene.vpc).await?;
    tell_receipts(story, tenant).await
}

async fn tell_why(story: &mut Story, tenant: &Tenant, scene: &Scene) -> Result<(), Failure> {
    let call = async |client: Client| {
        answer(client.explain_flow(None, Some(&scene.to), DENIED_PORT, Some(TCP), None, Some(&scene.from), None)).await
    };
    let explanation: Value = tenant.session.read(call).await?;
    let steps = explanation["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let last = steps.last().and_then(|step| step["text"].as_str()).unwrap_or("nothing");
    let reason = EndReason::DeniedByGroupAtDestination.name();
    let agrees = explanation["end_reason"] == reason && explanation["seen"]["end_reason"] == reason;
    let seen = format!("{}; {last}; records say {}", explanation["end_reason"], explanation["seen"]["end_reason"]);
    let expected = format!("{reason}, by the rules and by the records");
    story.step("`flow why` says who denied the port", expected, seen, agrees && steps.len() > 1);
    Ok(())
}

async fn tell_finding(story: &mut Story, tenant: &Tenant, scene: &Scene) -> Result<(), Failure> {
    let sweeps = Findings { kind: Some(FindingKind::Sweep), ..Findings::default() };
    let deadline = Instant::now() + FINDING_TIME;
    let found = loop {
        let found = sweeps.list(&tenant.session, None).await?;
        if !found.is_empty() || Instant::now() > deadline {
            break found;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    };
    let of_c1 = |finding: &&Value| finding["subject"]["instance"] == scene.from.to_string();
    let finding = found.iter().find(of_c1);
    let held = finding.is_some_and(|finding| {
        finding["count"].as_u64().is_some_and(|count| count >= scene.swept)
            && finding["examples"].as_array().is_some_and(|examples| examples.len() == Finding::EXAMPLES)
    });
    let told = |finding: &Value| {
        let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
        format!("{} {} by {}: {}", text("id"), text("kind"), finding["subject"]["instance"], text("decision"))
    };
    let expected = format!("a sweep by {}, with flows that show it", scene.from);
    story.step("`finding list` names the sweep", expected, finding.map_or_else(|| "none".into(), told), held);
    Ok(())
}

async fn tell_export(story: &mut Story, tenant: &Tenant, vpc: VpcId) -> Result<(), Failure> {
    let step = "the tenant's export opens in nfdump";
    let now = now();
    // What ended just now may still be on its way.
    let span = (now.minus(SPAN), now.minus(Duration::from_secs(5)));
    let lines = export(tenant, vpc, ExportFormat::Jsonl, span).await?;
    let file = export(tenant, vpc, ExportFormat::Ipfix, span).await?;
    let expected = read_json_lines(&String::from_utf8_lossy(&lines));
    let Some(opened) = nfdump::open(&file).await? else {
        let why = format!("not shown: nfcapd is not installed here; {} brings it", nfdump::PACKAGE);
        story.not_shown(step, "nfdump, if it is installed", why);
        return Ok(());
    };
    let Opened { counts, sequence_errors, explained_errors } = opened;
    let alike = counts.iter().filter(|(flow, amount)| expected.get(flow) == Some(amount)).count();
    let held = counts == expected && !counts.is_empty() && sequence_errors <= explained_errors;
    let noted = match sequence_errors {
        0 => String::new(),
        errors => format!("; {errors} sequence error, because nfcapd does not count option records as RFC 7011 does"),
    };
    let wanted = format!("{} flows with the same packets and bytes", expected.len());
    story.step(step, wanted, format!("{} flows, {alike} of them the same{noted}", counts.len()), held);
    Ok(())
}

async fn export(
    tenant: &Tenant,
    vpc: VpcId,
    format: ExportFormat,
    (since, until): (Moment, Moment),
) -> Result<Vec<u8>, Failure> {
    let call = async |client: Client| {
        byte_stream(client.export_flows(None, None, Some(&format), Some(&since), Some(&until), &vpc)).await
    };
    let broke =
        |cause: reqwest::Error| Failure::local(LocalCode::UnexpectedAnswer, format!("the export broke off: {cause}"));
    let octets = tenant.session.stream(call).await?.into_inner();
    let collect = |mut file: Vec<u8>, chunk: _| async move {
        file.extend_from_slice(AsRef::<[u8]>::as_ref(&chunk));
        Ok(file)
    };
    octets.try_fold(Vec::new(), collect).await.map_err(broke)
}

async fn tell_receipts(story: &mut Story, tenant: &Tenant) -> Result<(), Failure> {
    let deadline = Instant::now() + RECEIPT_TIME;
    let verified = loop {
        let verified = VerifyArgs::default().verify(&tenant.session).await;
        let is_empty = verified.as_ref().is_ok_and(|verified| verified["receipts"] == 0);
        if !is_empty || Instant::now() > deadline {
            break verified;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    };
    let held = verified.as_ref().is_ok_and(|verified| verified["records_checked"].as_u64().is_some_and(|n| n > 0));
    let told = |verified: &Value| {
        format!(
            "{} receipts, {} files with {} records; head {}",
            verified["receipts"], verified["parts_checked"], verified["records_checked"], verified["head"]
        )
    };
    let seen = verified.as_ref().map_or_else(ToString::to_string, told);
    story.step("`flow receipts verify` holds the kept records against their receipts", "all are there", seen, held);
    Ok(())
}
