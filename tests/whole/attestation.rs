//! Attested launches that nobody answers: undone as a whole, whenever the controller is killed, on hosts that simulate their
//! machines and on real ones.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually, image,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// What a host that can prove itself waits for in vain, and what one says that cannot.
const ENDS: [&str; 2] = ["AttestationExpired", "HostNotProved"];

/// Room promised on all hosts, and all interfaces, volumes and free addresses.
fn room(operator: &Api, tenant: &Api) -> anyhow::Result<Value> {
    let hosts: Vec<Value> = operator.list("/v1/hosts")?.into_iter().map(|host| host["used"].clone()).collect();
    let free: Vec<Value> =
        tenant.list("/v1/subnets")?.into_iter().map(|subnet| subnet["available_addresses"].clone()).collect();
    Ok(json!([hosts, free, tenant.list("/v1/interfaces")?, tenant.list("/v1/volumes")?]))
}

fn attested(image: &str, subnet: &str) -> Value {
    let policy = json!({"mode": {"kind": "prompt"}, "approve_within_seconds": 1});
    json!({"image": image, "subnet": subnet, "attestation": {"policy": policy, "nonce": "AAECAwQFBgcICQoLDA0ODw=="}})
}

fn is_undone(operator: &Api, tenant: &Api, instance: &str, before: &Value) -> anyhow::Result<()> {
    let ended = tenant.await_state(&format!("/v1/instances/{instance}"), "state", "terminated", PATIENCE)?;
    let code = ended.pointer("/state_reason/code").and_then(Value::as_str).unwrap_or_default();
    ensure!(ENDS.contains(&code), "{ended}");
    let mut after = Value::Null;
    eventually("everything is given back", PATIENCE, || {
        after = room(operator, tenant).ok()?;
        (after == *before).then_some(())
    })
    .with_context(|| format!("left: {after}\nbefore: {before}"))
}

#[test]
fn an_attested_launch_without_an_answer_is_undone_across_a_kill_of_the_controller_at_every_step() -> anyhow::Result<()>
{
    let mut cloud = Cloud::start(Driver::Simulated, 1)?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let before = room(&operator, &tenant)?;
    for step in ["place.before", "place.after", "place.undo-before", "place.undo-after", "admit.undo-before"] {
        let point = format!("attested-launch.{step}");
        cloud.kill_controller();
        cloud.start_controller(Some(&point))?;
        let instance = tenant.launch(attested(&disk, &subnet))?;
        let controller = cloud.controller.as_mut().context("there is a controller")?;
        controller.await_log(&format!("holding at {point}"), PATIENCE)?;
        cloud.kill_controller();
        cloud.start_controller(None)?;
        is_undone(&operator, &tenant, &instance, &before)
            .with_context(|| format!("after a kill at {point}"))
            .with_context(|| cloud.logs())?;
    }
    Ok(())
}

/// The guest prints as soon as it runs; of one that was held and ended, nothing was ever printed.
#[test]
fn a_real_vm_that_is_not_approved_never_runs_and_leaves_nothing() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Qemu, 1)?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let before = room(&operator, &tenant)?;
    let instance = tenant.launch(attested(&disk, &subnet))?;
    is_undone(&operator, &tenant, &instance, &before).with_context(|| cloud.logs())?;
    ensure!(cloud.machines(0).is_empty(), "a process is left");
    let shown = tenant.get(&format!("/v1/instances/{instance}/attestation"))?.ok()?;
    ensure!(shown.pointer("/attestation/state") != Some(&json!("approved")), "{shown}");
    Ok(())
}
