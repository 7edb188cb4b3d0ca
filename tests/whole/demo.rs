//! `lucarne demo` on real VMs, as a newcomer plays it.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::ensure;
use lucarne_tests::{
    cloud::{Cloud, Driver},
    process::processes_of,
};
use serde_json::Value;

#[test]
fn every_chapter_holds_on_real_machines_and_leaves_nothing() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Qemu, 2)?;
    cloud.prove_tpms()?;
    cloud.tiny()?;
    let operator = cloud.operator()?;
    let accounts = operator.list("/v1/accounts")?.len();
    // Where it has a host and a notary of its own.
    let places = cloud.dir().join("p");
    fs::create_dir(&places)?;
    fs::set_permissions(&places, fs::Permissions::from_mode(0o711))?;
    let played = cloud.cli(&operator, &["demo", "--output", "json"])?.env("TMPDIR", &places).output()?;
    let said = String::from_utf8_lossy(&played.stderr);
    ensure!(played.status.success(), "{said}\n{}", cloud.logs());
    let report: Value = serde_json::from_slice(&played.stdout)?;
    let chapters = report["chapters"].as_array().cloned().unwrap_or_default();
    for name in ["networks", "flows", "attestation", "memory", "seals", "replicas"] {
        ensure!(chapters.iter().any(|chapter| chapter["chapter"] == name), "no chapter {name}: {report:#}");
    }
    ensure!(chapters.iter().all(|chapter| chapter["held"] == true), "{report:#}");
    let steps = chapters.iter().filter_map(|chapter| chapter["steps"].as_array()).flatten();
    let untried: Vec<_> = steps.filter(|step| step["held"] != true).collect();
    ensure!(untried.is_empty(), "here is all that a demonstration needs: {untried:#?}");
    // The host that it changed was a real one: what differs are two digests of its agent, and it is gone.
    let attestation =
        chapters.iter().find(|chapter| chapter["chapter"] == "attestation").map(|chapter| &chapter["steps"]);
    let steps = attestation.and_then(Value::as_array).cloned().unwrap_or_default();
    let refused: Vec<&str> = steps
        .iter()
        .filter_map(|step| step["seen"].as_str())
        .filter(|seen| seen.contains("MeasurementUnknown") && seen.contains("agent"))
        .collect();
    ensure!(refused.len() == 2, "{steps:#?}");
    ensure!(operator.list("/v1/hosts")?.len() == 2, "the demo left a host behind");
    ensure!(processes_of(&places).is_empty(), "the demo left processes behind");
    ensure!(fs::read_dir(&places)?.count() == 0, "the demo left files behind");
    ensure!(operator.list("/v1/accounts")?.len() == accounts, "the demo left an account behind");
    let machines: Vec<u32> = (0..2).flat_map(|host| cloud.machines(host)).collect();
    ensure!(machines.is_empty(), "the demo left machines behind: {machines:?}");
    let dir = cloud.dir().to_owned();
    drop(cloud);
    ensure!(processes_of(&dir).is_empty(), "processes are left");
    Ok(())
}
