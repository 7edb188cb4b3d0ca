//! Made-up requests are asked inside a duplicate: what is answered, what fails and why, and that its source sees nothing of it.
//!
//! One machine serves pages and echoes lines. In its duplicate it is asked by HTTP, by TCP and by UDP, also where nobody listens or
//! nobody is let in; and while it is asked its controller, its host's agent and the duplicate itself go away.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually,
};
use serde_json::{Value, json};

const SLOW: Duration = Duration::from_secs(120);

const SERVES: &str = "#!/bin/sh
mkdir -p /srv/www
echo page > /srv/www/index.html
httpd -p 80 -h /srv/www
nc -ll -p 7 -e cat > /dev/null 2>&1 &
";

/// What came of a load to the end, and of how many requests nothing is known, which must be none.
fn load(cloud: &Cloud, tenant: &Api, more: &[&str]) -> anyhow::Result<Value> {
    let start = ["load", "start", "--into", "twin", "--wait", "--output", "json"];
    let shown = cloud.run(tenant, &[&start, more].concat()).with_context(|| cloud.logs())?;
    let shown: Value = serde_json::from_str(&shown)?;
    let report = &shown["report"];
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let failed: u64 = report["failed"].as_object().context("no failures")?.values().map(number).sum();
    ensure!(shown["state"] == "done" && report["open"] == 0 && report["unsent"] == 0, "{shown}");
    ensure!(number(&report["sent"]) == number(&report["answered"]) + failed, "{shown}");
    println!("{more:?}: {failed} of {} failed, latency {}", report["sent"], report["latency"]);
    Ok(shown)
}

/// Begins one that goes on for long, and waits until something was answered.
fn begin(cloud: &Cloud, tenant: &Api) -> anyhow::Result<String> {
    let start = ["load", "start", "--into", "twin", "--to", "web", "--port", "80", "--rate", "5/s", "--for", "10m"];
    let id = cloud.run(tenant, &start)?.trim().to_owned();
    let answered = || shown(tenant, &id).filter(|load| load["report"]["answered"].as_u64() > Some(0));
    let load = eventually("it is answered", SLOW, answered).with_context(|| cloud.logs())?;
    ensure!(load["state"] == "running" && load["began"].is_number(), "{load}");
    Ok(id)
}

fn shown(tenant: &Api, id: &str) -> Option<Value> {
    tenant.get(&format!("/v1/loads/{id}")).ok()?.ok().ok()
}

fn has_failed(cloud: &Cloud, tenant: &Api, id: &str, code: &str) -> anyhow::Result<()> {
    let failed = || shown(tenant, id).filter(|load| load["state"] == "failed");
    let load = eventually("it has failed", SLOW, failed).with_context(|| cloud.logs())?;
    ensure!(load["state_reason"]["code"] == code && load["report"]["answered"].as_u64() > Some(0), "{load}");
    Ok(())
}

#[test]
fn made_up_requests_are_answered_inside_a_duplicate_and_nowhere_else() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Qemu, 1)?;
    let tenant = cloud.tenant("first")?;
    let (image, (vpc, subnet)) = (cloud.tiny()?, tenant.network()?);
    let web = tenant.launch(json!({
        "image": image, "subnet": subnet, "address": "10.0.1.20", "memory": 128 << 20, "user_data": SERVES,
        "tags": {"Name": "web"},
    }))?;
    tenant.await_log(&web, "lucarne: ready", SLOW).with_context(|| cloud.logs())?;
    let twin = ["replica", "create", &vpc, "--name", "twin", "--wait"];
    let twin = cloud.run(&tenant, &twin).with_context(|| cloud.logs())?.trim().to_owned();
    let twin = tenant.get(&format!("/v1/replicas/{twin}"))?.ok()?;

    let pages =
        load(&cloud, &tenant, &["--to", "web", "--port", "80", "--rate", "20", "--for", "5s", "--clients", "3"])?;
    let report = &pages["report"];
    ensure!(report["sent"] == 100 && report["answered"].as_u64() >= Some(95), "{pages}");
    ensure!(report["latency"]["count"] == report["answered"] && report["series"].as_array().is_some(), "{pages}");
    ensure!(
        pages["instance"] == twin["objects"][&web]
            && pages["sources"] == json!(["10.0.1.254", "10.0.1.253", "10.0.1.252"])
    );
    let nowhere = ["--to", "10.0.1.20", "--port", "80", "--path", "/nowhere", "--rate", "5", "--for", "1s"];
    let nowhere = load(&cloud, &tenant, &nowhere)?;
    ensure!(nowhere["report"]["statuses"] == json!([{"status": 404, "count": 5}]), "{nowhere}");
    let echo = ["--to", "web", "--port", "7", "--kind", "tcp", "--size", "64", "--clients", "2", "--for", "3s"];
    let echo = load(&cloud, &tenant, &echo)?;
    ensure!(echo["report"]["answered"].as_u64() > Some(0), "{echo}");
    ensure!(echo["report"]["octets_answered"].as_u64() > Some(0), "{echo}");
    // Nobody listens: the machine's kernel says so.
    let refused =
        load(&cloud, &tenant, &["--to", "web", "--port", "9", "--kind", "tcp", "--rate", "5", "--for", "1s"])?;
    ensure!(refused["report"]["failed"]["refused"] == 5, "{refused}");
    let datagrams =
        load(&cloud, &tenant, &["--to", "web", "--port", "9", "--kind", "udp", "--rate", "5", "--for", "1s"])?;
    ensure!(datagrams["report"]["octets_sent"] == 5 * 32 && datagrams["report"]["answered"] == 0, "{datagrams}");
    println!("datagrams: {}", datagrams["report"]["failed"]);
    // The default group lets in its own members alone.
    let outside = ["--to", "web", "--port", "80", "--from", "internet", "--rate", "2", "--for", "1s"];
    let outside = load(&cloud, &tenant, &outside)?;
    ensure!(outside["report"]["failed"]["timed_out"] == 2 && outside["sources"] == json!(["198.18.0.4"]), "{outside}");

    is_refused(&cloud, &tenant, &twin, &web)?;
    is_seen_in_the_duplicate_alone(&cloud, &tenant, &twin)?;
    outlives_its_controller_alone(&mut cloud, &tenant)
}

/// Whoever is not in the duplicate is not asked, and nobody asks without bounds.
fn is_refused(cloud: &Cloud, tenant: &Api, twin: &Value, web: &str) -> anyhow::Result<()> {
    let start = |to: &str, more: Value| {
        let mut body = json!({"replica": twin["id"], "to": to, "port": 80, "kind": "http"});
        body.as_object_mut().context("no object")?.extend(more.as_object().cloned().unwrap_or_default());
        tenant.post("/v1/loads", &body)
    };
    ensure!(start(web, json!({}))?.code() == "LoadTargetNotInReplica");
    ensure!(start("10.0.1.99", json!({}))?.code() == "LoadTargetNotInReplica");
    ensure!(start("10.0.1.20", json!({"from": web}))?.code() == "LoadTargetNotInReplica");
    for wrong in [
        json!({"rate": 10_001}),
        json!({"clients": 1001}),
        json!({"seconds": 3601}),
        json!({"size": (1 << 20) + 1}),
        json!({"kind": "udp", "size": 1373}),
        json!({"port": 0}),
        json!({"path": "nowhere"}),
        json!({"path": "/a b"}),
        json!({"kind": "tcp", "path": "/"}),
    ] {
        let answer = start("10.0.1.20", wrong.clone())?;
        ensure!(answer.code() == "InvalidParameterValue", "{wrong}: {answer:?}");
    }
    let stranger = cloud.tenant("second")?;
    let body = json!({"replica": twin["id"], "to": "10.0.1.20", "port": 80, "kind": "http"});
    ensure!(stranger.post("/v1/loads", &body)?.code() == "InvalidReplicaId.NotFound");
    Ok(())
}

/// Its clients are known to flow records of the duplicate, and to none of the network that it is of.
fn is_seen_in_the_duplicate_alone(cloud: &Cloud, tenant: &Api, twin: &Value) -> anyhow::Result<()> {
    let seen = |vpc: &Value| {
        let vpc = vpc.as_str().context("no VPC")?;
        let page = tenant.get(&format!("/v1/flows?since=0&limit=100&vpc={vpc}&peer=10.0.1.254"))?.ok()?;
        page["items"].as_array().cloned().context("no records are told")
    };
    let of_twin = || seen(&twin["vpc"]).ok().filter(|flows| !flows.is_empty());
    eventually("flow records of the duplicate tell of it", SLOW, of_twin).with_context(|| cloud.logs())?;
    let of_source = seen(&twin["source"])?;
    ensure!(of_source.is_empty(), "{of_source:?}");
    Ok(())
}

/// A load goes on while nobody listens to what is told of it. Without its agent, or its duplicate, it has failed and says so.
fn outlives_its_controller_alone(cloud: &mut Cloud, tenant: &Api) -> anyhow::Result<()> {
    let id = begin(cloud, tenant)?;
    let before = shown(tenant, &id).context("it is not shown")?;
    cloud.kill_controller();
    sleep(Duration::from_secs(2));
    cloud.start_controller(None)?;
    let number = |load: &Value| load["report"]["answered"].as_u64();
    let goes_on = || shown(tenant, &id).filter(|load| load["state"] == "running" && number(load) > number(&before));
    eventually("it goes on", SLOW, goes_on).with_context(|| cloud.logs())?;
    let stopped = tenant.post(&format!("/v1/loads/{id}/stop"), &json!({}))?.ok()?;
    ensure!(stopped["state"] == "stopped" && number(&stopped) > Some(0), "{stopped}");

    let id = begin(cloud, tenant)?;
    let folder = cloud.host_dir(0).join("loads").join(&id);
    ensure!(folder.join("begun").exists(), "it is not noted that it has begun");
    cloud.kill_host(0);
    cloud.start_host(0, |_| {})?;
    has_failed(cloud, tenant, &id, "HostUnreachable")?;
    eventually("nothing of it is left", SLOW, || (!folder.exists()).then_some(())).with_context(|| cloud.logs())?;

    let id = begin(cloud, tenant)?;
    cloud.run(tenant, &["replica", "delete", "twin", "--wait"]).with_context(|| cloud.logs())?;
    has_failed(cloud, tenant, &id, "InvalidReplicaId.NotFound")?;
    tenant.delete(&format!("/v1/loads/{id}"))?.ok()?;
    ensure!(tenant.get(&format!("/v1/loads/{id}"))?.code() == "InvalidLoadId.NotFound");
    Ok(())
}
