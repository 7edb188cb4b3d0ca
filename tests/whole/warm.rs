//! Warm states: real VMs that go on from one that was saved, each as itself.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const MEMORY: u64 = 128 * MIB;
const PATIENCE: Duration = Duration::from_secs(240);

/// Says who it is, serves a page, fetches the other's, and counts.
fn user_data(other: &str) -> String {
    format!(
        "#!/bin/sh\n(echo \"who: $(metadata meta-data/instance-id) $(cat /sys/class/net/eth0/address) \
         $(cat /proc/sys/kernel/random/boot_id) $(head -c 16 /dev/urandom | md5sum | cut -c 1-32) end\"\n\
         mkdir -p /srv/www; echo \"page of $(metadata meta-data/instance-id)\" > /srv/www/index.html\n\
         httpd -p 80 -h /srv/www\n\
         until timeout 3 wget -q -O /tmp/page http://{other}/; do sleep 1; done; cat /tmp/page\n\
         n=0; while :; do n=$((n+1)); echo \"count: $n\"; sleep 1; done) > /dev/console 2>&1 &\n"
    )
}

/// What it printed of itself: instance, MAC, boot id, random number.
fn who(log: &str) -> Option<Vec<String>> {
    // The console's prompt may stand before it.
    let line = log.lines().find_map(|line| line.split_once("who: ")?.1.trim_end().strip_suffix(" end"))?;
    Some(line.split_whitespace().map(Into::into).collect())
}

fn count(log: &str) -> u64 {
    log.lines().filter_map(|line| line.trim().strip_prefix("count: ")?.parse().ok()).next_back().unwrap_or_default()
}

struct Scene {
    cloud: Cloud,
    operator: Api,
    tenant: Api,
    image: String,
    subnet: String,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let cloud = Cloud::start(Driver::Qemu, 1)?;
        let (operator, image, tenant) = (cloud.operator()?, cloud.tiny()?, cloud.tenant("first")?);
        let (_, subnet) = tenant.network()?;
        Ok(Self { cloud, operator, tenant, image, subnet })
    }

    fn ask_for_warm_state(&self) -> anyhow::Result<()> {
        let size = json!({"memory": MEMORY});
        self.operator.post(&format!("/v1/images/{}/warm-states", self.image), &size)?.ok().map(drop)
    }

    /// Waits until the host has the warm state, and another than `before`; its digest.
    fn await_warm_state(&self, before: &str) -> anyhow::Result<String> {
        let mut last = Value::Null;
        let ready = eventually("the image is warm", PATIENCE, || {
            last = self.operator.get(&format!("/v1/images/{}", self.image)).ok()?.body;
            let digest = last["warm_states"][0]["hosts"][0]["digest"].as_str()?;
            (digest != before).then(|| digest.to_owned())
        });
        ready.with_context(|| format!("{last}\n{}", self.cloud.logs()))
    }

    fn launch(&self, address: &str, other: &str, cold: bool) -> anyhow::Result<String> {
        self.tenant.launch(json!({"image": self.image, "subnet": self.subnet, "memory": MEMORY, "address": address,
            "user_data": user_data(other), "cold": cold}))
    }

    fn running(&self, instance: &str) -> anyhow::Result<Value> {
        let path = format!("/v1/instances/{instance}");
        self.tenant.await_state(&path, "state", "running", PATIENCE).with_context(|| self.cloud.logs())
    }

    /// Starts another host and moves the instance there, which then is the same machine as before.
    fn moves_on(&mut self, instance: &str, digest: &str) -> anyhow::Result<()> {
        self.cloud.hosts.push(None);
        self.cloud.start_host(1, |_| {})?;
        let up = || {
            let hosts = self.operator.list("/v1/hosts").ok()?;
            (hosts.iter().filter(|host| host["state"] == "up").count() == 2).then_some(())
        };
        eventually("the other host is up", PATIENCE, up).with_context(|| self.cloud.logs())?;
        let before = count(&self.tenant.log(instance)?);
        self.cloud.run(&self.tenant, &["instance", "migrate", instance, "--wait"])?;
        let shown = self.running(instance)?;
        ensure!(shown["began"] == json!({"from": "warm", "digest": digest}), "{shown}");
        let goes_on = || (count(&self.tenant.log(instance).ok()?) > before + 3).then_some(());
        eventually("it counts on at the other host", PATIENCE, goes_on).with_context(|| self.cloud.logs())?;
        let read = || {
            self.tenant.get(&format!("/v1/instances/{instance}/memory")).ok()?.body["actual"]["pages"]["snapshot"]
                .as_u64()
        };
        let of_snapshot = eventually("its pages are told", PATIENCE, read)?;
        ensure!(of_snapshot == 0, "{of_snapshot} pages are said to be in a file that is not here");
        Ok(())
    }

    /// One that is launched with this policy, and what was measured of it.
    fn attested(&self, mode: &Value, until: &str) -> anyhow::Result<(String, Vec<Value>)> {
        let attestation = json!({"policy": {"mode": mode}, "nonce": "AAECAwQFBgcICQoLDA0ODw=="});
        let instance = self.tenant.launch(json!({"image": self.image, "subnet": self.subnet, "memory": MEMORY,
            "user_data": user_data("127.0.0.1"), "attestation": attestation}))?;
        let path = format!("/v1/instances/{instance}");
        self.tenant.await_state(&path, "state", until, PATIENCE).with_context(|| self.cloud.logs())?;
        let shown = self.tenant.get(&format!("{path}/attestation"))?.ok()?;
        Ok((instance, shown["measurements"].as_array().cloned().unwrap_or_default()))
    }

    /// The host proves the very state that the machine goes on from, before it does, and a list that knows it is content.
    fn is_proved_with_its_state(&self, digest: &str) -> anyhow::Result<()> {
        self.cloud.prove_tpms()?;
        let (instance, measured) = self.attested(&json!({"kind": "prompt"}), "awaiting-approval")?;
        let of_state = |one: &&Value| one["component"] == "warm-state" && one["name"] == "state";
        let state = measured.iter().find(of_state).context("the warm state was not measured")?;
        ensure!(state["digest"] == digest && self.tenant.log(&instance)?.is_empty(), "{state}");
        self.cloud.run(&self.tenant, &["measurements", "add", "--from", &instance, "--config", "warm"])?;
        let answer = json!({"nonce": "AAECAwQFBgcICQoLDA0ODw=="});
        self.tenant.post(&format!("/v1/instances/{instance}/attestation/approve"), &answer)?.ok()?;
        let (known, _) = self.attested(&json!({"kind": "config", "name": "warm"}), "running")?;
        for instance in [instance, known] {
            let shown = self.running(&instance)?;
            ensure!(shown["began"] == json!({"from": "warm", "digest": digest}), "{shown}");
            let log = self.tenant.await_log(&instance, "count: 1", PATIENCE).with_context(|| self.cloud.logs())?;
            ensure!(!log.contains("user space at"), "it booted:\n{log}");
            self.end(&instance)?;
        }
        Ok(())
    }

    fn end(&self, instance: &str) -> anyhow::Result<()> {
        let path = format!("/v1/instances/{instance}");
        self.tenant.delete(&path)?.ok()?;
        self.tenant.await_state(&path, "state", "terminated", PATIENCE).map(drop)
    }

    /// The one file of the warm state's folder with this name.
    fn file(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folders = fs::read_dir(self.cloud.host_dir(0).join("warm"))?.flatten().map(|entry| entry.path());
        let mut whole = folders.filter(|path| path.extension().is_none());
        Ok(whole.next().context("no warm state is there")?.join(name))
    }
}

#[test]
fn two_that_go_on_from_one_state_are_two_machines() -> anyhow::Result<()> {
    let mut scene = Scene::start()?;
    let shown = scene
        .cloud
        .run(&scene.operator, &["image", "warm", &scene.image, "--memory", "128M", "--wait", "--output", "json"])?;
    let digest = scene.await_warm_state("")?;
    ensure!(shown.contains(&digest) && scene.cloud.machines(0).is_empty(), "{shown}");

    let launch = |own: &str, other: &str| scene.launch(own, other, false);
    let instances = [launch("10.0.1.10", "10.0.1.11")?, launch("10.0.1.11", "10.0.1.10")?];
    let mut seen = Vec::new();
    for (instance, other) in instances.iter().zip(instances.iter().rev()) {
        let shown = scene.running(instance)?;
        ensure!(shown["began"] == json!({"from": "warm", "digest": digest}), "{shown}");
        scene.tenant.await_log(instance, &format!("page of {other}"), PATIENCE).with_context(|| scene.cloud.logs())?;
        let log = scene.tenant.await_log(instance, "count: 3", PATIENCE)?;
        let who = who(&log).with_context(|| format!("it did not say who it is:\n{log}"))?;
        ensure!(who.len() == 4 && who[0] == *instance && shown["mac"] == who[1], "{who:?} {shown}");
        ensure!(!log.contains("user space at"), "it booted:\n{log}");
        seen.extend(who);
    }
    ensure!(seen.iter().collect::<BTreeSet<_>>().len() == 8, "two machines have something in common: {seen:?}");

    // What they have not touched is in one file for both, and not in memory.
    let files = fs::read_dir(scene.cloud.host_dir(0).join("memory"))?.flatten().map(|entry| entry.path());
    let origins: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "origin")).collect();
    let inodes: BTreeSet<u64> = origins.iter().flat_map(fs::metadata).map(|file| file.ino()).collect();
    ensure!(origins.len() == 2 && inodes.len() == 1, "{origins:?}");
    for instance in &instances {
        let read = || {
            let pages =
                scene.tenant.get(&format!("/v1/instances/{instance}/memory")).ok()?.body["actual"]["pages"].clone();
            (pages["snapshot"].as_u64()? > 0).then_some(pages)
        };
        let pages = eventually("its pages are told", PATIENCE, read)?;
        ensure!(pages["resident"].as_u64() < Some(MEMORY / 4096 * 3 / 4), "{pages}");
    }

    // A pager that comes later finds the same pages.
    for pid in scene.cloud.pagers(0) {
        kill_process(Pid::from_raw(pid as i32).context("a pager has a number")?, Signal::KILL)?;
    }
    for instance in &instances {
        let before = count(&scene.tenant.log(instance)?);
        let goes_on = || (count(&scene.tenant.log(instance).ok()?) > before + 3).then_some(());
        eventually("it goes on without its first pager", PATIENCE, goes_on).with_context(|| scene.cloud.logs())?;
    }
    scene.is_proved_with_its_state(&digest)?;
    scene.moves_on(&instances[0], &digest)?;
    for instance in &instances {
        scene.end(instance)?;
    }
    ensure!(!origins.iter().any(|path| path.exists()), "what an ended machine went on from is still there");

    let cold = scene.launch("10.0.1.12", "10.0.1.12", true)?;
    let shown = scene.running(&cold)?;
    ensure!(shown["began"]["from"] == "cold" && shown["began"]["because"] == "that was asked for", "{shown}");
    scene.tenant.await_log(&cold, "count: 1", PATIENCE).map(drop)
}

#[test]
fn a_warm_state_that_was_damaged_or_half_made_is_never_gone_on_from() -> anyhow::Result<()> {
    let mut scene = Scene::start()?;
    scene.ask_for_warm_state()?;
    let booting = || (!scene.cloud.machines(0).is_empty()).then_some(());
    eventually("the image is booted to be saved", PATIENCE, booting)?;
    scene.cloud.kill_host(0);
    scene.cloud.start_host(0, |_| {})?;
    let mut digest = scene.await_warm_state("")?;
    ensure!(scene.cloud.machines(0).is_empty(), "what was half made was left running");

    for name in ["devices", "memory"] {
        let path = scene.file(name)?;
        let file = fs::File::options().read(true).write(true).open(&path)?;
        let last = file.metadata()?.len() - 1;
        let mut octet = [0];
        file.read_exact_at(&mut octet, last)?;
        file.write_all_at(&[octet[0] ^ 1], last)?;
        let instance = scene.launch("10.0.1.10", "10.0.1.10", false)?;
        let shown = scene.running(&instance)?;
        let because = shown["began"]["because"].as_str().unwrap_or_default();
        ensure!(because.starts_with("its warm state could not be used"), "{name}: {shown}");
        scene.tenant.await_log(&instance, "count: 1", PATIENCE).with_context(|| scene.cloud.logs())?;
        scene.end(&instance)?;
        digest = scene.await_warm_state(&digest)?;
    }

    // All pages, and not the index: whichever the guest needs first is not given to it.
    let path = scene.file("memory")?;
    let (file, mut header) = (fs::File::options().read(true).write(true).open(&path)?, [0; 32]);
    file.read_exact_at(&mut header, 0)?;
    let index = u64::from_le_bytes(header[24..].try_into()?);
    for at in (32..index).step_by(512) {
        file.write_all_at(&[0xa5; 8], at)?;
    }
    let instance = scene.launch("10.0.1.10", "10.0.1.10", false)?;
    let ended = || {
        let shown = scene.tenant.get(&format!("/v1/instances/{instance}")).ok()?.body;
        let says = |text: &Value, what: &str| text.as_str().is_some_and(|text| text.contains(what));
        let cold = says(&shown["began"]["because"], "its warm state could not be used");
        (cold || says(&shown["state_reason"]["message"], "cannot be given back")).then_some(())
    };
    eventually("it is told that the warm state is damaged", PATIENCE, ended).with_context(|| scene.cloud.logs())?;
    scene.await_warm_state(&digest).map(drop)
}
