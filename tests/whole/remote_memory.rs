//! Memory that hosts lend each other: what a host tells that was not told to lend.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::eventually;
use serde_json::Value;

use crate::memory::{Scene, assert_sum};

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
