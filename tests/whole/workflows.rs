//! Launch and terminate across a kill -9 of the controller at every step, on hosts that simulate their machines.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually, image,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// Room promised on all hosts, and all interfaces and volumes: what must be as before when nothing is left half-made.
fn room_and_leftovers(operator: &Api, tenant: &Api) -> anyhow::Result<Value> {
    let hosts: Vec<Value> = operator.list("/v1/hosts")?.into_iter().map(|host| host["used"].clone()).collect();
    let instances: Vec<Value> = operator.list("/v1/hosts")?.into_iter().map(|host| host["instances"].clone()).collect();
    Ok(json!([hosts, instances, tenant.list("/v1/interfaces")?, tenant.list("/v1/volumes")?]))
}

fn kill_at(
    cloud: &mut Cloud,
    point: &str,
    begin: impl FnOnce(&Cloud) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    cloud.kill_controller();
    cloud.start_controller(Some(point))?;
    let instance = begin(cloud)?;
    let controller = cloud.controller.as_mut().context("there is a controller")?;
    controller.await_log(&format!("holding at {point}"), PATIENCE)?;
    cloud.kill_controller();
    cloud.start_controller(None)?;
    Ok(instance)
}

#[test]
fn a_launch_and_a_termination_survive_a_kill_of_the_controller_at_every_step() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 2)?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let before = room_and_leftovers(&operator, &tenant)?;
    for step in ["launch.place", "launch.start", "terminate.shut-down", "terminate.release", "terminate.end"] {
        for edge in ["before", "after"] {
            let point = format!("{step}.{edge}");
            let launches = step.starts_with("launch");
            let launch = || tenant.launch(json!({"image": disk, "subnet": subnet}));
            let instance = if launches {
                kill_at(&mut cloud, &point, |_| launch())?
            } else {
                let instance = launch()?;
                tenant.await_state(&format!("/v1/instances/{instance}"), "state", "running", PATIENCE)?;
                kill_at(&mut cloud, &point, |_| {
                    tenant.delete(&format!("/v1/instances/{instance}"))?.ok()?;
                    Ok(instance.clone())
                })?
            };
            let path = format!("/v1/instances/{instance}");
            let run = || -> anyhow::Result<()> {
                if launches {
                    tenant.await_state(&path, "state", "running", PATIENCE)?;
                    tenant.delete(&path)?.ok()?;
                }
                tenant.await_state(&path, "state", "terminated", PATIENCE)?;
                nothing_is_left(&operator, &tenant, &before)
            };
            run().with_context(|| format!("after a kill at {point}")).with_context(|| cloud.logs())?;
        }
    }
    Ok(())
}

fn nothing_is_left(operator: &Api, tenant: &Api, before: &Value) -> anyhow::Result<()> {
    let mut after = Value::Null;
    eventually("everything is given back", PATIENCE, || {
        after = room_and_leftovers(operator, tenant).ok()?;
        (after == *before).then_some(())
    })
    .with_context(|| format!("left: {after}\nbefore: {before}"))
}

#[test]
fn a_launch_that_fails_is_undone_across_a_kill_at_every_step() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 1)?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let before = room_and_leftovers(&operator, &tenant)?;
    // More than any host has: the host is never chosen, and the launch is undone from its second step on.
    let too_large = json!({"image": disk, "subnet": subnet, "memory": 200u64 << 30});
    for point in [
        "launch.place.before",
        "launch.place.undo-before",
        "launch.place.undo-after",
        "launch.admit.undo-before",
        "launch.admit.undo-after",
    ] {
        let instance = kill_at(&mut cloud, point, |_| tenant.launch(too_large.clone()))?;
        let run = || -> anyhow::Result<()> {
            let ended = tenant.await_state(&format!("/v1/instances/{instance}"), "state", "terminated", PATIENCE)?;
            ensure!(ended.pointer("/state_reason/code") == Some(&json!("InsufficientInstanceCapacity")), "{ended}");
            nothing_is_left(&operator, &tenant, &before)
        };
        run().with_context(|| format!("after a kill at {point}")).with_context(|| cloud.logs())?;
    }
    Ok(())
}

#[test]
fn a_launch_that_is_terminated_half_way_leaves_nothing() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 1)?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let before = room_and_leftovers(&operator, &tenant)?;
    cloud.kill_controller();
    cloud.start_controller(Some("launch.start.before"))?;
    let instance = tenant.launch(json!({"image": disk, "subnet": subnet}))?;
    cloud
        .controller
        .as_mut()
        .context("there is a controller")?
        .await_log("holding at launch.start.before", PATIENCE)?;
    tenant.delete(&format!("/v1/instances/{instance}"))?.ok()?;
    cloud.kill_controller();
    cloud.start_controller(None)?;
    tenant.await_state(&format!("/v1/instances/{instance}"), "state", "terminated", PATIENCE)?;
    nothing_is_left(&operator, &tenant, &before).with_context(|| cloud.logs())
}

#[test]
fn a_host_that_vanishes_during_a_launch_ends_it_with_a_reason_and_is_told_when_it_comes_back() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 1)?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let before = room_and_leftovers(&operator, &tenant)?;
    cloud.kill_controller();
    cloud.start_controller(Some("launch.start.before"))?;
    let instance = tenant.launch(json!({"image": disk, "subnet": subnet}))?;
    cloud
        .controller
        .as_mut()
        .context("there is a controller")?
        .await_log("holding at launch.start.before", PATIENCE)?;
    // It runs on the host, and the controller does not know it yet.
    cloud.kill_host(0);
    cloud.kill_controller();
    cloud.start_controller(None)?;
    let path = format!("/v1/instances/{instance}");
    let ended = tenant.await_state(&path, "state", "terminated", PATIENCE).with_context(|| cloud.logs())?;
    ensure!(ended.pointer("/state_reason/code") == Some(&json!("HostUnreachable")), "{ended}");
    cloud.start_host(0, |_| {})?;
    nothing_is_left(&operator, &tenant, &before).with_context(|| cloud.logs())
}
