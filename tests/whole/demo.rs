//! `lucarne demo` on real VMs, as a newcomer plays it.

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
    let report: Value = serde_json::from_str(&cloud.run(&operator, &["demo", "--output", "json"])?)?;
    let chapters = report["chapters"].as_array().cloned().unwrap_or_default();
    for name in ["networks", "flows", "attestation", "memory"] {
        ensure!(chapters.iter().any(|chapter| chapter["chapter"] == name), "no chapter {name}: {report:#}");
    }
    ensure!(chapters.iter().all(|chapter| chapter["held"] == true), "{report:#}");
    ensure!(operator.list("/v1/accounts")?.len() == accounts, "the demo left an account behind");
    let machines: Vec<u32> = (0..2).flat_map(|host| cloud.machines(host)).collect();
    ensure!(machines.is_empty(), "the demo left machines behind: {machines:?}");
    let dir = cloud.dir().to_owned();
    drop(cloud);
    ensure!(processes_of(&dir).is_empty(), "processes are left");
    Ok(())
}
