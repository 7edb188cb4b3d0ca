//! A shallow duplicate is made deep while it works, whoever is killed meanwhile, and then outlives its source, with what it had in memory
//! and on its disk.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually,
};
use serde_json::{Value, json};

use crate::moving_volumes::WRITES;

const MIB: u64 = 1 << 20;
const SLOW: Duration = Duration::from_secs(240);

struct Scene {
    cloud: Cloud,
    tenant: Api,
    vpc: String,
    source: String,
    volume: String,
}

impl Scene {
    /// A machine that writes blocks on its volume, and reads back what it wrote.
    fn new() -> anyhow::Result<Self> {
        let cloud = Cloud::start(Driver::Qemu, 1)?;
        let (image, tenant) = (cloud.tiny()?, cloud.tenant("first")?);
        let (vpc, subnet) = tenant.network()?;
        let volume = tenant.make("/v1/volumes", json!({"size": 32 * MIB}), "/id")?;
        let source = tenant.launch(json!({"image": image, "subnet": subnet, "memory": 128 * MIB,
            "user_data": WRITES, "volumes": [volume]}))?;
        tenant.await_state(&format!("/v1/volumes/{volume}"), "state", "in-use", SLOW).with_context(|| cloud.logs())?;
        Ok(Self { cloud, tenant, vpc, source, volume })
    }

    /// How many blocks it has said to have written; an error if one was not as it was written.
    fn wrote(&self, instance: &str) -> anyhow::Result<u64> {
        let log = self.tenant.log(instance)?;
        ensure!(!log.contains("probe: WRONG"), "its volume is not as it was:\n{log}");
        let told = log.lines().filter_map(|line| line.trim().strip_prefix("probe: wrote ")?.parse().ok());
        told.max().context("it has written nothing")
    }

    /// All of the ring is read and written again, and what is behind it read; by what number it was at.
    fn goes_on(&self, instance: &str) -> anyhow::Result<u64> {
        let wanted = eventually("it tells what it wrote", SLOW, || self.wrote(instance).ok())? + 36;
        let is_over = || (!matches!(self.wrote(instance), Ok(wrote) if wrote < wanted)).then_some(());
        eventually("it goes on writing", SLOW, is_over)
            .with_context(|| format!("{:?}\n{}", self.tenant.log(instance), self.cloud.logs()))?;
        self.wrote(instance)
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.cloud.host_dir(0).join("volumes")).into_iter().flatten().flatten();
        let mut names: Vec<String> = files.filter_map(|file| file.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cloud.run(&self.tenant, arguments).with_context(|| self.cloud.logs())
    }
}

#[test]
fn a_shallow_duplicate_is_made_deep_while_it_works_and_outlives_its_source() -> anyhow::Result<()> {
    let mut scene = Scene::new()?;
    let before = scene.goes_on(&scene.source)?;
    let id = scene.run(&["replica", "create", &scene.vpc, "--name", "trial", "--wait"])?;
    let replica = format!("/v1/replicas/{}", id.trim());
    let made: Value = scene.tenant.get(&replica)?.ok()?;
    let twin = |source: &str| made["objects"][source].as_str().map(str::to_owned).context("it has a duplicate");
    let (duplicate, its_volume) = (twin(&scene.source)?, twin(&scene.volume)?);
    ensure!(scene.goes_on(&duplicate)? > before, "it counts anew");
    ensure!(scene.files().contains(&format!("{its_volume}.base")), "{:?}", scene.files());
    let source = format!("/v1/instances/{}", scene.source);
    let refused = scene.tenant.delete(&source)?;
    ensure!(refused.code() == "ReplicaDependsOnSource", "{refused:?}");

    let deepening = scene.tenant.post(&format!("{replica}/deepen"), &json!({}))?.ok()?;
    ensure!(deepening["state"] == "copying", "{deepening}");
    sleep(Duration::from_millis(300));
    scene.cloud.kill_host(0);
    scene.cloud.kill_controller();
    scene.cloud.start_controller(None)?;
    scene.cloud.start_host(0, |_| {})?;
    scene.run(&["replica", "deepen", "trial", "--wait"])?;
    let whole = scene.tenant.get(&replica)?.ok()?;
    ensure!(whole["state"] == "available" && whole["job"] == deepening["job"], "{whole}");
    let gone = || (!scene.files().contains(&format!("{its_volume}.base"))).then_some(());
    eventually("nothing is below its volume", SLOW, gone).with_context(|| format!("{:?}", scene.files()))?;
    scene.goes_on(&scene.source)?;

    scene.tenant.delete(&source)?.ok()?;
    scene.tenant.await_state(&source, "state", "terminated", SLOW).with_context(|| scene.cloud.logs())?;
    scene.tenant.delete(&format!("/v1/volumes/{}", scene.volume))?.ok()?;
    let alone = || (scene.files() == [format!("{its_volume}.qcow2")]).then_some(());
    eventually("only its own volume is there", SLOW, alone).with_context(|| format!("{:?}", scene.files()))?;
    scene.goes_on(&duplicate)?;
    let promoted = scene.tenant.post(&format!("{replica}/promote"), &json!({}))?.ok()?;
    ensure!(promoted["state"] == "promoted", "{promoted}");
    Ok(())
}
