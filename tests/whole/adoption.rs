//! Real VMs across a kill -9 of their host agent.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::{
    cloud::{Cloud, Driver},
    eventually,
};
use serde_json::json;

const BOOT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

/// Pings its neighbour for ever and says how many answers it had.
fn pinger(neighbour: &str) -> String {
    format!(
        "#!/bin/sh\nn=0\n(while :; do ping -c 1 -W 1 {neighbour} > /dev/null 2>&1 && n=$((n+1)) && \
         echo \"probe: answer $n\"; sleep 1; done) > /dev/console 2>&1 &\n"
    )
}

fn answers(log: &str) -> u32 {
    log.lines().rev().find_map(|line| line.trim().strip_prefix("probe: answer ")?.parse().ok()).unwrap_or_default()
}

#[test]
fn machines_outlive_a_killed_agent_and_are_adopted_with_their_network_by_the_next() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Qemu, 2)?;
    let image = cloud.tiny()?;
    let tenant = cloud.tenant("first")?;
    let (_, subnet) = tenant.network()?;
    let launch = |address: &str, user_data: &str| {
        tenant.launch(
            json!({"image": image, "subnet": subnet, "memory": 128 << 20, "address": address, "user_data": user_data}),
        )
    };
    let silent = launch("10.0.1.10", "")?;
    let pinging = launch("10.0.1.11", &pinger("10.0.1.10"))?;
    tenant.await_log(&pinging, "probe: answer 2", BOOT).with_context(|| cloud.logs())?;
    let machines = |cloud: &Cloud| [cloud.machines(0), cloud.machines(1)].concat();
    let before = machines(&cloud);
    ensure!(before.len() == 2, "one machine an instance: {before:?}");

    for host in [0, 1] {
        cloud.kill_host(host);
        ensure!(machines(&cloud) == before, "a machine died with its agent");
        cloud.start_host(host, |_| {})?;
    }
    let seen = answers(&tenant.await_log(&pinging, "probe: answer", PATIENCE).with_context(|| cloud.logs())?);
    let goes_on = || (answers(&tenant.log(&pinging).ok()?) > seen + 2).then_some(());
    eventually("pings are answered again", PATIENCE, goes_on).with_context(|| cloud.logs())?;
    ensure!(machines(&cloud) == before, "the machines are not those from before");
    for instance in [&silent, &pinging] {
        ensure!(tenant.get(&format!("/v1/instances/{instance}"))?.body["state"] == "running");
        tenant.delete(&format!("/v1/instances/{instance}"))?.ok()?;
    }
    for instance in [&silent, &pinging] {
        tenant.await_state(&format!("/v1/instances/{instance}"), "state", "terminated", PATIENCE)?;
    }
    ensure!(machines(&cloud).is_empty(), "a terminated machine runs");
    Ok(())
}

#[test]
fn an_agent_killed_while_it_launches_neither_loses_nor_doubles_the_machine() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Qemu, 1)?;
    let image = cloud.tiny()?;
    let tenant = cloud.tenant("first")?;
    let (_, subnet) = tenant.network()?;
    // At different instants of the launch, from the first word of it to the running machine.
    for delay in [0, 60, 120, 250, 500] {
        let instance = tenant.launch(json!({"image": image, "subnet": subnet, "memory": 128 << 20}))?;
        std::thread::sleep(Duration::from_millis(delay));
        cloud.kill_host(0);
        cloud.start_host(0, |_| {})?;
        let path = format!("/v1/instances/{instance}");
        tenant.await_state(&path, "state", "running", PATIENCE).with_context(|| cloud.logs())?;
        let machines = cloud.machines(0);
        ensure!(machines.len() == 1, "killed after {delay} ms: {machines:?}\n{}", cloud.logs());
        tenant.delete(&path)?.ok()?;
        tenant.await_state(&path, "state", "terminated", PATIENCE).with_context(|| cloud.logs())?;
    }
    Ok(())
}
