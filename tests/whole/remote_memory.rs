//! Pages in another host's memory: real VMs whose cold pages are with a lender, which is killed meanwhile.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::memory::{BOOT, PATIENCE, Scene, assert_sum, checker};

/// The second host, which lends.
const LENDER: usize = 1;

impl Scene {
    fn start_lender(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        self.cloud.hosts.push(None);
        self.cloud.start_host(LENDER, |command| {
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

    /// What the lender keeps for the other host.
    fn lent(&self) -> anyhow::Result<u64> {
        self.memory_of_host("host-2")?["lent"].as_u64().context("no number")
    }

    fn remote(&self, instances: &[&String]) -> anyhow::Result<u64> {
        let pages = |instance: &&String| self.memory(instance).ok()?["pages"]["remote"].as_u64();
        Ok(instances.iter().filter_map(pages).sum())
    }

    /// Waits until the lender keeps some of their pages.
    fn await_remote(&self, instances: &[&String]) -> anyhow::Result<()> {
        let is_there = || (self.remote(instances).ok()? > 0 && self.lent().ok()? > 0).then_some(());
        eventually("pages are with the lender", PATIENCE, is_there)
            .with_context(|| format!("{:?}\n{}", self.operator.get("/v1/memory"), self.cloud.logs()))
    }
}

/// Nothing is lost when the lender dies, another one is used, and one that is gone for good is not missed.
#[test]
fn cold_pages_live_in_another_hosts_memory_and_no_byte_depends_on_it() -> anyhow::Result<()> {
    let mut scene = Scene::start(160, |_| Ok(()))?;
    let instances = (0..2).map(|_| scene.launch(128, json!({}), &checker(75))).collect::<anyhow::Result<Vec<_>>>()?;
    let all: Vec<&String> = instances.iter().collect();
    for instance in &all {
        scene.tenant.await_log(instance, "probe: round 1", BOOT).with_context(|| scene.cloud.logs())?;
    }
    // What needs another host's memory was there before it.
    scene.start_lender(&["--memory", "224M", "--memory-lend", "192M"])?;
    scene.await_remote(&all)?;
    scene.check_on(&all, 1)?;
    ensure!(scene.memory_of_host("host-1")?["lent"] == 0, "it borrows");

    let killed = scene.cloud.lenders(LENDER);
    ensure!(killed.len() == 1, "{killed:?}");
    let pid = Pid::from_raw(killed[0] as i32).context("no pid")?;
    kill_process(pid, Signal::KILL)?;
    scene.check_on(&all, 1)?;
    let again = || scene.cloud.lenders(LENDER).first().filter(|next| **next != killed[0]).copied();
    eventually("there is another lender", PATIENCE, again).with_context(|| scene.cloud.logs())?;
    scene.await_remote(&all)?;
    scene.check_on(&all, 1)?;

    // A lender that is gone altogether.
    scene.cloud.kill_host(LENDER);
    eventually("no page is remote", PATIENCE, || (scene.remote(&all).ok()? == 0).then_some(()))
        .with_context(|| scene.cloud.logs())?;
    scene.check_on(&all, 1)?;
    let shown = scene.cloud.run(&scene.operator, &["memory", "show"])?;
    ensure!(["LENT", "BORROWED", "REMOTE"].iter().all(|title| shown.contains(title)), "{shown}");
    let usage = scene.cloud.run(&scene.tenant, &["usage", "show", "--output", "json"])?;
    ensure!(usage.contains("\"remote\""), "{usage}");
    Ok(())
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
