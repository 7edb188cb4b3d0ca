//! Recorded requests are played into a duplicate: twice with the same result, and once more when the duplicate has another rule.
//!
//! `asks` on one host fetches pages from `answers` on the other. In the duplicate the player asks in its place. What is played when
//! its host's agent is killed has failed, and says so.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually,
};
use serde_json::{Value, json};

const SLOW: Duration = Duration::from_secs(120);
const REQUESTS: u64 = 12;

const ANSWERS: &str = "#!/bin/sh
mkdir -p /srv/www
echo page > /srv/www/index.html
head -c 20000 /dev/zero > /srv/www/large
httpd -p 80 -h /srv/www
";

const ASKS: &str = "#!/bin/sh
while :; do
    for page in index.html large nowhere; do
        timeout 2 wget -q -O /dev/null http://10.0.1.20/$page
        sleep 0.2
    done
done > /dev/null 2>&1 &
";

/// What differs between two plays of the same: nothing but times.
fn verdict(report: &Value) -> Value {
    let mut report = report.clone();
    if let Some(fields) = report.as_object_mut() {
        fields.retain(|name, _| !["latency", "recorded_latency", "timing_error"].contains(&name.as_str()));
    }
    report
}

/// How many frames were recorded.
fn enough_of(tenant: &Api, recording: &str) -> anyhow::Result<u64> {
    let shown = tenant.get(&format!("/v1/recordings/{recording}"))?.ok()?;
    shown["recorded"]["frames"].as_u64().context("no frames are told")
}

/// Records some requests and a change of who may ask, and gives the recording.
fn record(cloud: &Cloud, tenant: &Api, vpc: &str, answers: &str) -> anyhow::Result<String> {
    let start = ["recording", "start", "--vpc", vpc, "--protocol", "tcp", "--port", "80"];
    let recording = cloud.run(tenant, &start)?.trim().to_owned();
    // Each is seen at two interfaces, in at least eight frames.
    let enough = |shown: Value| shown["recorded"]["frames"].as_u64().filter(|frames| *frames > 16 * REQUESTS);
    let told = || tenant.get(&format!("/v1/recordings/{recording}")).ok()?.ok().ok().and_then(enough);
    eventually("requests are recorded", SLOW, told).with_context(|| cloud.logs())?;
    // A change of the network, while it is recorded.
    let group = group_of(tenant, answers)?;
    let rule = ["--protocol", "tcp", "--port", "8081", "--cidr", "10.0.1.10/32"];
    cloud.run(tenant, &[&["security-group", "authorize", &group], &rule[..]].concat())?;
    let seen = enough_of(tenant, &recording)? + 4 * REQUESTS;
    let more = || enough_of(tenant, &recording).ok().filter(|frames| *frames > seen);
    eventually("requests behind it are recorded", SLOW, more).with_context(|| cloud.logs())?;
    cloud.run(tenant, &["recording", "stop", &recording])?;
    Ok(recording)
}

fn replay(cloud: &Cloud, tenant: &Api, recording: &str, more: &[&str]) -> anyhow::Result<Value> {
    let start = ["replay", "start", recording, "--into", "twin", "--from", "instances", "--wait", "--output", "json"];
    let shown = cloud.run(tenant, &[&start, more].concat()).with_context(|| cloud.logs())?;
    Ok(serde_json::from_str(&shown)?)
}

#[test]
fn recorded_requests_are_played_into_a_duplicate_and_its_answers_compared() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Qemu, 2)?;
    let tenant = cloud.tenant("first")?;
    let (vpc, [asks, answers]) = cloud.network_of_two(&tenant, [("10.0.1.10", ASKS), ("10.0.1.20", ANSWERS)])?;
    for machine in [&asks, &answers] {
        tenant.await_log(machine, "lucarne: ready", SLOW).with_context(|| cloud.logs())?;
    }
    let twin =
        cloud.run(&tenant, &["replica", "create", &vpc, "--name", "twin", "--wait"]).with_context(|| cloud.logs())?;
    let twin = tenant.get(&format!("/v1/replicas/{}", twin.trim()))?.ok()?;
    let twin_of = |source: &str| twin["objects"][source].as_str().map(str::to_owned).context("it has no duplicate");
    // After the cut: the duplicate does not have what is changed now.
    let recording = record(&cloud, &tenant, &vpc, &answers)?;

    let first = replay(&cloud, &tenant, &recording, &["--times", "2"])?;
    let reports = first["reports"].as_array().context("no reports")?;
    ensure!(reports.len() == 2 && first["score"] == 100, "{first}");
    ensure!(verdict(&reports[0]) == verdict(&reports[1]), "{first}");
    ensure!(reports[0]["exchanges"]["compared"].as_u64() >= Some(REQUESTS / 2), "{first}");
    ensure!(reports[0]["timing_error"]["count"].as_u64() > Some(0), "{first}");
    let client = json!([{"recorded": "10.0.1.10", "address": "10.0.1.10", "instance": twin_of(&asks)?}]);
    ensure!(first["clients"] == client && first["bystanders"] == json!([]), "{first}");
    println!("late: {}, latency: {}", reports[0]["timing_error"], reports[0]["latency"]);
    is_changed_as_its_source_was(&cloud, &tenant, &recording, &twin_of(&group_of(&tenant, &answers)?)?)?;
    let crowd = replay(&cloud, &tenant, &recording, &["--speed", "max", "--amplify", "5"])?;
    let compared = crowd["reports"][0]["exchanges"]["compared"].as_u64();
    ensure!(
        crowd["score"] == 100 && compared == reports[0]["exchanges"]["compared"].as_u64().map(|one| 5 * one),
        "{crowd}"
    );

    is_broken_off(&mut cloud, &tenant, &recording)?;

    // Nobody is let in any more, in the duplicate alone.
    let group = group_of(&tenant, &answers)?;
    let rules = |group: &str| {
        Ok::<_, anyhow::Error>(tenant.get(&format!("/v1/security-groups/{group}"))?.ok()?["rules"].clone())
    };
    let (before, of_twin) = (rules(&group)?, twin_of(&group)?);
    for rule in rules(&of_twin)?.as_array().into_iter().flatten().filter(|rule| rule["direction"] == "ingress") {
        let id = rule["id"].as_str().context("a rule without an id")?;
        tenant.delete(&format!("/v1/security-groups/{of_twin}/rules/{id}"))?.ok()?;
    }
    let changed = replay(&cloud, &tenant, &recording, &["--speed", "10"])?;
    ensure!(changed["score"] == 0, "{changed}");
    let difference = &changed["reports"][0]["differences"][0]["what"];
    ensure!(
        difference == &json!({"kind": "opening", "recorded": "accepted", "answered": "unanswered"}),
        "{difference}"
    );
    ensure!(rules(&group)? == before, "the source's rules changed");

    let stranger = cloud.tenant("second")?;
    let path = format!("/v1/replays/{}", first["id"].as_str().context("no id")?);
    ensure!(stranger.get(&path)?.code() == "InvalidReplayId.NotFound");
    tenant.delete(&path)?.ok()?;
    ensure!(tenant.get(&path)?.code() == "InvalidReplayId.NotFound");
    cloud.run(&tenant, &["replica", "delete", "twin", "--wait"]).with_context(|| cloud.logs()).map(drop)
}

fn group_of(tenant: &Api, instance: &str) -> anyhow::Result<String> {
    let shown = tenant.get(&format!("/v1/instances/{instance}"))?.ok()?;
    shown["security_groups"][0].as_str().map(Into::into).context("it has no group")
}

/// What was changed while it was recorded is asked of the duplicate, once.
fn is_changed_as_its_source_was(
    cloud: &Cloud,
    tenant: &Api,
    recording: &str,
    group_of_twin: &str,
) -> anyhow::Result<()> {
    let lets_in = || {
        let rules = tenant.get(&format!("/v1/security-groups/{group_of_twin}"))?.ok()?["rules"].clone();
        let of_change = |rule: &&Value| rule.to_string().contains("8081");
        Ok::<_, anyhow::Error>(rules.as_array().into_iter().flatten().filter(of_change).count())
    };
    ensure!(lets_in()? == 0, "the duplicate was changed with its source");
    let played = replay(cloud, tenant, recording, &["--changes", "--times", "2"])?;
    let changes = played["changes"].as_array().context("no changes are told")?;
    ensure!(changes.len() == 1 && changes[0]["operation"] == "authorize_rule", "{changes:?}");
    ensure!(changes[0]["outcome"] == json!({"kind": "applied"}) && lets_in()? == 1, "{changes:?}");
    Ok(())
}

/// While one is played no other is, and what its agent does not finish has failed.
fn is_broken_off(cloud: &mut Cloud, tenant: &Api, recording: &str) -> anyhow::Result<()> {
    let start = ["replay", "start", recording, "--into", "twin", "--from", "instances", "--speed", "0.1"];
    let id = cloud.run(tenant, &start)?.trim().to_owned();
    let second = tenant.post(
        "/v1/replays",
        &json!({"recording": recording, "replica": tenant.get(&format!("/v1/replays/{id}"))?.ok()?["replica"]}),
    )?;
    ensure!(second.code() == "IncorrectState", "{second:?}");
    let folders: Vec<PathBuf> = [0, 1].map(|host| cloud.host_dir(host).join("replays").join(&id)).into();
    let begun = || folders.iter().position(|folder| folder.join("begun").exists());
    let host = eventually("it is played", SLOW, begun).with_context(|| cloud.logs())?;
    cloud.kill_host(host);
    cloud.start_host(host, |_| {})?;
    let failed = || {
        let shown = tenant.get(&format!("/v1/replays/{id}")).ok()?.ok().ok()?;
        (shown["state"] == "failed").then_some(shown)
    };
    let shown = eventually("it has failed", SLOW, failed).with_context(|| cloud.logs())?;
    ensure!(shown["state_reason"]["code"] == "HostUnreachable" && shown["reports"] == json!([]), "{shown}");
    eventually("nothing of it is left", SLOW, || (!folders[host].exists()).then_some(())).with_context(|| cloud.logs())
}
