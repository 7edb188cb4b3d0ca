//! Hosts that leave the cloud: empty ones when they are asked to, lost ones by force.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::{Answer, Api},
    cloud::{Cloud, Driver},
    eventually, image,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

fn code(answer: &Answer) -> &str {
    answer.body["code"].as_str().unwrap_or_default()
}

fn host_named(operator: &Api, name: &str) -> anyhow::Result<String> {
    let hosts = operator.list("/v1/hosts")?;
    let named = hosts.iter().find(|host| host["description"]["name"] == *name || host["name"] == *name);
    named.and_then(|host| host["id"].as_str()).map(Into::into).with_context(|| format!("no {name} in {hosts:?}"))
}

/// Launches one on this host and waits until it runs.
fn instance_on(operator: &Api, host: &str) -> anyhow::Result<String> {
    let (_, subnet) = operator.network()?;
    let image = image::fake(operator, false)?;
    let instance = operator.launch(json!({"image": image, "subnet": subnet, "placement": {"host": host}}))?;
    operator.await_state(&format!("/v1/instances/{instance}"), "state", "running", PATIENCE)?;
    Ok(instance)
}

fn terminate(operator: &Api, instance: &str) -> anyhow::Result<()> {
    operator.delete(&format!("/v1/instances/{instance}"))?.ok()?;
    operator.await_state(&format!("/v1/instances/{instance}"), "state", "terminated", PATIENCE).map(drop)
}

/// The machine goes on running, and has a key, a certificate that holds for weeks and an open connection to the collector.
#[test]
fn a_removed_host_is_a_stranger_at_once_and_the_others_go_on() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 2)?;
    let operator = cloud.operator()?;
    let (stays, goes) = (host_named(&operator, "host-1")?, host_named(&operator, "host-2")?);
    for host in 0..2 {
        cloud.kill_host(host);
        cloud.start_host(host, |command| {
            command.args(["--simulated-records", "20"]);
        })?;
    }
    let instances = [instance_on(&operator, &stays)?, instance_on(&operator, &goes)?];
    for host in [&stays, &goes] {
        let connected = format!("a host is connected host={host}");
        let collector = cloud.collector.as_mut().context("there is a collector")?;
        collector.await_log(&connected, PATIENCE)?;
    }
    let path = format!("/v1/hosts/{goes}");
    let refused = operator.delete(&path)?;
    ensure!((refused.status, code(&refused)) == (409, "DependencyViolation"), "{}", refused.body);
    ensure!(refused.body.to_string().contains("1 instances"), "{}", refused.body);
    let refused = operator.delete(&format!("{path}?force=true"))?;
    ensure!((refused.status, code(&refused)) == (409, "IncorrectState"), "of a host that answers: {}", refused.body);
    terminate(&operator, &instances[1])?;
    // As soon as the host has confirmed that nothing is left there.
    eventually("the host is removed", PATIENCE, || cloud.run(&operator, &["host", "delete", "host-2"]).ok())?;

    ensure!(operator.get(&path)?.status == 404, "it is still shown");
    let collector = cloud.collector.as_mut().context("there is a collector")?;
    collector.await_log(&format!("{goes} was removed from the cloud"), PATIENCE)?;
    cloud.hosts[1].as_mut().context("there is a host")?.await_log("the host's key is not valid", PATIENCE)?;
    // Its tunnel key counts as little: not even the join token makes it a host again.
    cloud.kill_host(1);
    let identity = cloud.host_dir(1).join("host.json");
    let mut kept: Value = serde_json::from_str(&std::fs::read_to_string(&identity)?)?;
    for field in ["host", "host_key", "enrolled"] {
        kept.as_object_mut().context("an object")?.remove(field);
    }
    std::fs::write(&identity, kept.to_string())?;
    cloud.start_host(1, |_| {})?;
    cloud.hosts[1].as_mut().context("there is a host")?.await_log("enrol with an empty state folder", PATIENCE)?;

    let records = |instance: &str| operator.get(&format!("/v1/flows?instance={instance}&limit=1"));
    let newest = |instance: &str| records(instance).ok()?.body.pointer("/items/0/end")?.as_u64();
    let before = newest(&instances[0]).context("the host that stays has brought records")?;
    eventually("it brings more", PATIENCE, || newest(&instances[0]).filter(|now| *now > before))?;
    let collector = cloud.collector.as_ref().context("there is a collector")?;
    ensure!(!collector.log().contains(&format!("{stays} was removed")), "{}", collector.log());
    Ok(())
}

#[test]
fn a_lost_host_is_given_up_by_force_and_says_what_went_with_it() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 1)?;
    let operator = cloud.operator()?;
    let host = host_named(&operator, "host-1")?;
    let instance = instance_on(&operator, &host)?;
    let volume = operator.make("/v1/volumes", json!({"size": 1 << 20}), "/id")?;
    let volume = format!("/v1/volumes/{volume}");
    operator.post(&format!("{volume}/attach"), &json!({"instance": instance}))?.ok()?;
    operator.await_state(&volume, "state", "in-use", PATIENCE)?;
    cloud.kill_host(0);
    operator.await_state(&format!("/v1/hosts/{host}"), "state", "down", PATIENCE)?;
    let refused = operator.delete(&format!("/v1/hosts/{host}"))?;
    ensure!((refused.status, code(&refused)) == (409, "DependencyViolation"), "{}", refused.body);
    ensure!(refused.body.to_string().contains("by force"), "{}", refused.body);
    cloud.run(&operator, &["host", "delete", &host, "--force"])?;
    operator.await_state(&format!("/v1/instances/{instance}"), "state", "terminated", PATIENCE)?;
    let lost = operator.get(&volume)?.ok()?;
    ensure!(lost["state"] == "error" && lost["host"] == Value::Null, "{lost}");
    ensure!(lost["state_reason"]["message"].as_str().is_some_and(|why| why.contains("lost")), "{lost}");
    operator.delete(&volume)?.ok()?;
    ensure!(operator.list("/v1/volumes")?.is_empty() && operator.list("/v1/interfaces")?.is_empty());
    Ok(())
}
