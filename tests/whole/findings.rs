//! What records show, to whom it is shown, what a trigger makes of it, and that nothing is taken from them unseen: on real VMs, of
//! which one looks around.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually,
};
use serde_json::{Value, json};

const BOOT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(40);
/// For a duplicate of both machines to go on, on a machine that has much else to do.
const DUPLICATE: Duration = Duration::from_secs(180);
/// The collector seals records a minute after the first at the latest.
const SEAL: Duration = Duration::from_secs(90);

const WEB: &str = "10.0.1.10";
const SWEEPER: &str = "10.0.1.20";
const SERVE: &str = "#!/bin/sh\nhttpd -p 80\nhttpd -p 8082\necho 'web: serves'\n";
const SWEEP: &str = "#!/bin/sh
for port in 8081 8082; do timeout 3 wget -q -O - http://10.0.1.10:$port/; done
for last in $(seq 30 149); do ping -c 1 -W 1 10.0.2.$last > /dev/null & done
wait
echo 'sweeper: has swept'
";

struct Scene {
    cloud: Cloud,
    tenant: Api,
    other: Api,
    operator: Api,
    web: String,
    sweeper: String,
}

/// A machine that serves one port, has one closed and one denied, and another that tries all of them and sweeps.
fn scene() -> anyhow::Result<Scene> {
    let cloud = Cloud::start(Driver::Qemu, 1)?;
    let image = cloud.tiny()?;
    let (tenant, other, operator) = (cloud.tenant("first")?, cloud.tenant("second")?, cloud.operator()?);
    let (vpc, subnet) = tenant.network()?;
    // Whoever is asked for in another subnet is asked for at the router, also where nobody has the address.
    tenant.make("/v1/subnets", json!({"vpc": vpc, "cidr": "10.0.2.0/24"}), "/id")?;
    let group = tenant.make("/v1/security-groups", json!({"vpc": vpc, "name": "web"}), "/id")?;
    let traffic = json!({"protocol": "tcp", "from_port": 80, "to_port": 8081});
    let peer = json!({"kind": "cidr", "cidr": "10.0.0.0/16"});
    let rule = json!({"direction": "ingress", "traffic": traffic, "peer": peer});
    tenant.post(&format!("/v1/security-groups/{group}/rules"), &json!({"rule": rule}))?.ok()?;
    let launch = |address: &str, user_data: &str, groups: Value| {
        tenant.launch(json!({"image": image, "subnet": subnet, "memory": 128 << 20, "address": address,
            "user_data": user_data, "security_groups": groups}))
    };
    let web = launch(WEB, SERVE, json!([group]))?;
    tenant.await_log(&web, "web: serves", BOOT).with_context(|| cloud.logs())?;
    let order = ["trigger", "create", "intruder", "--on", "finding:sweep", "--replicate", &vpc, "--record", "60s"];
    cloud.run(&tenant, &[&order[..], &["--expires", "1h", "--at-most", "1/1d"]].concat())?;
    let sweeper = launch(SWEEPER, SWEEP, json!([]))?;
    tenant.await_log(&sweeper, "sweeper: has swept", BOOT).with_context(|| cloud.logs())?;
    Ok(Scene { cloud, tenant, other, operator, web, sweeper })
}

#[test]
fn a_sweep_is_found_closed_ports_are_known_and_kept_records_cannot_be_changed_unseen() -> anyhow::Result<()> {
    let scene = scene()?;
    the_sweep_is_its_tenants_and_the_operators(&scene).with_context(|| scene.cloud.logs())?;
    the_network_is_duplicated_and_recorded_because_of_it(&scene).with_context(|| scene.cloud.logs())?;
    closed_ports_are_told_with_the_reason(&scene).with_context(|| scene.cloud.logs())?;
    talkers_are_shown(&scene)?;
    receipts_hold_until_an_octet_is_flipped(&scene)
}

fn the_sweep_is_its_tenants_and_the_operators(scene: &Scene) -> anyhow::Result<()> {
    let Scene { cloud, tenant, other, operator, sweeper, .. } = scene;
    let path = format!("/v1/findings?kind=sweep&instance={sweeper}");
    let found = eventually("a finding", PATIENCE, || tenant.get(&path).ok()?.body["items"].get(0).cloned())?;
    ensure!(found["account"] == *tenant.account && found["count"].as_u64() >= Some(100), "{found}");
    let examples = found["examples"].as_array().context("examples")?;
    ensure!(examples.len() == 5 && examples.iter().all(|flow| flow["source"] == SWEEPER), "{found}");
    let id = found["id"].as_str().context("an id")?;
    let show = format!("/v1/findings/{id}");
    ensure!(operator.get(&path)?.ok()?["items"][0]["id"] == id);
    ensure!(operator.get(&show)?.ok()?["id"] == id && tenant.get(&show)?.ok()?["id"] == id);
    ensure!(other.get("/v1/findings")?.ok()?["items"] == json!([]));
    ensure!(other.get(&show)?.code() == "InvalidFindingId.NotFound");
    ensure!(other.get(&format!("/v1/findings?account={}", tenant.account))?.code() == "InvalidAccountId.NotFound");
    ensure!(other.get("/v1/flows/scanners")?.code() == "UnauthorizedOperation");
    ensure!(operator.get("/v1/flows/scanners?window_seconds=7200")?.code() == "InvalidParameterValue");
    let scanners = cloud.run(operator, &["flow", "scanners", "--min-accounts", "2", "--output", "json"])?;
    let scanners: Value = serde_json::from_str(&scanners)?;
    ensure!(scanners["items"] == json!([]), "nobody outside can be reached: {scanners}");
    let listed = cloud.run(tenant, &["finding", "list", "--kind", "sweep"])?;
    ensure!(listed.contains(id), "{listed}");
    let told = cloud.run(tenant, &["finding", "show", id])?;
    ensure!(told.contains("flow list --instance") && told.contains(SWEEPER), "{told}");
    Ok(())
}

/// Nobody asked for it but the trigger that was made before.
fn the_network_is_duplicated_and_recorded_because_of_it(scene: &Scene) -> anyhow::Result<()> {
    let Scene { cloud, tenant, sweeper, .. } = scene;
    let shown = eventually("the trigger fires", PATIENCE, || {
        let shown: Value =
            serde_json::from_str(&cloud.run(tenant, &["trigger", "show", "intruder", "--output", "json"]).ok()?)
                .ok()?;
        shown["firings"][0].is_object().then_some(shown)
    })?;
    let found = tenant.get(&format!("/v1/findings?kind=sweep&instance={sweeper}"))?.ok()?;
    let Value::Object(outcome) = &shown["firings"][0]["outcome"] else { anyhow::bail!("{shown}") };
    ensure!(shown["firings"][0]["cause"]["finding"] == found["items"][0]["id"] && outcome["kind"] == "made", "{shown}");
    let made = |kind: &str, field: &str| outcome[field].as_str().map(|id| format!("/v1/{kind}/{id}")).context("an id");
    let (replica, recording) = (made("replicas", "replica")?, made("recordings", "recording")?);
    let replica = tenant.await_state(&replica, "state", "available", DUPLICATE)?;
    ensure!(replica["objects"][sweeper].is_string() && replica["expires"].is_u64(), "{replica}");
    let recording = tenant.get(&recording)?.ok()?;
    ensure!(recording["tags"]["lucarne:trigger"] == shown["id"] && recording["expires"].is_u64(), "{recording}");
    Ok(())
}

fn closed_ports_are_told_with_the_reason(scene: &Scene) -> anyhow::Result<()> {
    let Scene { cloud, tenant, other, operator, web, sweeper } = scene;
    let ports = [(8081, "refused-by-vm", "accept"), (8082, "denied-by-group-at-destination", "reject")];
    for (port, reason, verdict) in ports {
        let path = format!("/v1/flows/closed-ports?source={SWEEPER}&port={port}");
        let closed = eventually("a closed port", PATIENCE, || tenant.get(&path).ok()?.body["items"].get(0).cloned())?;
        ensure!(closed["instance"] == **web && closed["end_reason"] == reason, "{closed}");
        ensure!(closed["host"].is_null(), "a tenant is told no host: {closed}");
        ensure!(operator.get(&path)?.ok()?["items"][0]["host"].is_string());
        ensure!(other.get(&path)?.ok()?["items"] == json!([]));
        let told = cloud.run(tenant, &["flow", "closed-port", "--source", SWEEPER, "--port", &port.to_string()])?;
        ensure!(told.contains(web) && told.contains(reason), "{told}");
        let why = ["flow", "why", "--src", sweeper, "--dst", web, "--port", &port.to_string(), "--output", "json"];
        let why: Value = serde_json::from_str(&cloud.run(tenant, &why)?)?;
        ensure!(why["verdict"] == verdict && why["seen"]["end_reason"] == reason, "{why}");
    }
    let open = tenant.get(&format!("/v1/flows/closed-ports?source={SWEEPER}&port=80"))?.ok()?;
    ensure!(open["items"] == json!([]) && open["complete_since"].is_u64(), "{open}");
    Ok(())
}

/// In a pipe `flow top` tells once and ends.
fn talkers_are_shown(scene: &Scene) -> anyhow::Result<()> {
    let told = scene.cloud.run(&scene.tenant, &["flow", "top", "--interval", "1s"])?;
    ensure!(told.starts_with("SOURCE"), "{told}");
    Ok(())
}

fn receipts_hold_until_an_octet_is_flipped(scene: &Scene) -> anyhow::Result<()> {
    let Scene { cloud, tenant, other, .. } = scene;
    let state = cloud.dir().join("kept-head").to_string_lossy().into_owned();
    let verify = ["flow", "receipts", "verify", "--state", &state, "--output", "json"];
    let verified = eventually("a receipt", SEAL, || {
        let verified: Value = serde_json::from_str(&cloud.run(tenant, &verify).ok()?).ok()?;
        (verified["records_checked"].as_u64() > Some(0)).then_some(verified)
    })?;
    ensure!(verified["records_checked"] == verified["records"], "{verified}");
    cloud.run(tenant, &verify)?;
    let (name, path) = a_part(cloud, tenant)?;
    ensure!(other.get(&format!("/v1/flows/parts?name={name}"))?.code() == "InvalidPartName.NotFound");
    let whole = fs::read(&path)?;
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&path, flipped)?;
    refused(cloud, tenant, &verify, &format!("the part {name} is not what receipt"))?;
    fs::write(&path, whole)?;
    cloud.run(tenant, &verify)?;
    fs::remove_file(&path)?;
    refused(cloud, tenant, &verify, &format!("the part {name} of receipt"))
}

/// The newest part that is not replaced: its name, and where it lies on the collector's disk.
fn a_part(cloud: &Cloud, tenant: &Api) -> anyhow::Result<(String, PathBuf)> {
    let receipts = tenant.get("/v1/flows/receipts")?.ok()?["receipts"].as_array().cloned().unwrap_or_default();
    let names = receipts.iter().rev().filter_map(|receipt| receipt["part"]["name"].as_str());
    let lies = |name: &str| cloud.dir().join("c/flows").join(Path::new(name));
    let name = names.map(str::to_owned).find(|name| lies(name).exists()).context("there is a part")?;
    let path = lies(&name);
    Ok((name, path))
}

fn refused(cloud: &Cloud, tenant: &Api, arguments: &[&str], why: &str) -> anyhow::Result<()> {
    let output = cloud.cli(tenant, arguments)?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains(why), "wanted `{why}`: {said}");
    Ok(())
}
