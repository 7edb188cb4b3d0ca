//! Memory that hosts lend each other: one that is short borrows from several, and one that was not told to lend lends nothing.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::memory::{Scene, assert_sum, checker};

const PATIENCE: Duration = Duration::from_secs(240);
/// The second host, which may lend.
const LENDER: usize = 1;

impl Scene {
    /// Starts one host more.
    fn start_lender(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let host = self.cloud.hosts.len();
        self.cloud.hosts.push(None);
        self.cloud.start_host(host, |command| {
            command.args(arguments);
        })
    }

    /// A host's memory, whose parts are its total at each look.
    fn memory_of_host(&self, name: &str) -> anyhow::Result<Value> {
        let overview = self.operator.get("/v1/memory")?.ok()?;
        let hosts = overview["hosts"].as_array().context("no hosts")?;
        let host = hosts.iter().find(|host| host["name"] == name).context("it has not told yet")?;
        assert_sum(host)?;
        Ok(host.clone())
    }
}

/// Without `--memory-lend` a host has no port for it and takes nothing.
#[test]
fn a_host_lends_nothing_unless_it_is_told_to() -> anyhow::Result<()> {
    let mut scene = Scene::start(128, |_| Ok(()))?;
    scene.start_lender(&["--memory", "256M"])?;
    let told = || scene.memory_of_host("host-2").ok();
    let host = eventually("the second host tells of its memory", Duration::from_secs(60), told)
        .with_context(|| scene.cloud.logs())?;
    ensure!(host["lending"]["port"].is_null() && host["lending"]["lendable"] == 0, "{host}");
    ensure!(scene.cloud.lenders(LENDER).is_empty());
    Ok(())
}

/// Neither of two others lends all that it is short of. What dies with one of them was a copy.
#[test]
fn a_host_that_is_short_borrows_from_two_others_and_its_guests_lose_nothing_with_one_of_them() -> anyhow::Result<()> {
    let mut scene = Scene::start(140, |_| Ok(()))?;
    let instances = (0..2).map(|_| scene.launch(128, json!({}), &checker(60))).collect::<anyhow::Result<Vec<_>>>()?;
    for instance in &instances {
        scene.tenant.await_log(instance, "probe: round 1", PATIENCE).with_context(|| scene.cloud.logs())?;
    }
    for _ in 0..2 {
        scene.start_lender(&["--memory", "256M", "--memory-lend", "32M"])?;
    }
    let lends = |name: &str| {
        let lent = scene.memory_of_host(name).ok()?["lent"].as_u64()?;
        (lent > 1 << 20).then_some(())
    };
    eventually("both lend", PATIENCE, || lends("host-2").and_then(|()| lends("host-3")))
        .with_context(|| format!("{:?}\n{}", scene.operator.get("/v1/memory"), scene.cloud.logs()))?;
    let all: Vec<&String> = instances.iter().collect();
    scene.check_on(&all, 1)?;
    for lender in scene.cloud.lenders(LENDER) {
        kill_process(Pid::from_raw(lender as i32).context("a lender has a number")?, Signal::KILL)?;
    }
    scene.check_on(&all, 2)?;
    assert_sum(&scene.memory_of_host("host-1")?)
}
