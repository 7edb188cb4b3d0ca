//! Guests' memory beyond their host's: real VMs that check every byte of what they hold while it comes and goes.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually,
    small_disk::SmallDisk,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const BOOT: Duration = Duration::from_secs(240);
const PATIENCE: Duration = Duration::from_secs(240);

/// Fills a file in memory with bytes that no compression makes smaller, and checks it for ever.
pub(crate) fn checker(mib: u32) -> String {
    format!(
        "#!/bin/sh\n(dd if=/dev/urandom of=/held bs=1M count={mib} 2> /dev/null; was=$(md5sum < /held); n=0\n\
         while :; do is=$(md5sum < /held); n=$((n+1))\n\
         if [ \"$was\" = \"$is\" ]; then echo \"probe: round $n\"; else echo \"probe: WRONG $was $is\"; fi\n\
         done) > /dev/console 2>&1 &\n"
    )
}

/// Counts in its memory, beside a file that it checks now and then.
fn counter(mib: u32) -> String {
    format!(
        "#!/bin/sh\n(dd if=/dev/urandom of=/held bs=1M count={mib} 2> /dev/null; was=$(md5sum < /held); n=0\n\
         while :; do n=$((n+1)); echo \"probe: round $n\"; sleep 1\n\
         if [ $((n % 10)) = 0 ] && [ \"$was\" != \"$(md5sum < /held)\" ]; then echo \"probe: WRONG\"; fi\n\
         done) > /dev/console 2>&1 &\n"
    )
}

/// The rounds that a guest's console tells of, in their order.
fn rounds(log: &str) -> Vec<u64> {
    log.lines().filter_map(|line| line.trim().strip_prefix("probe: round ")?.parse().ok()).collect()
}

pub(crate) struct Scene {
    pub(crate) cloud: Cloud,
    pub(crate) operator: Api,
    pub(crate) tenant: Api,
    image: String,
    subnet: String,
}

impl Scene {
    /// One host with so much memory for guests, promised twice.
    pub(crate) fn start(mib: u64, change: impl FnOnce(&mut Cloud) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let mut cloud = Cloud::start(Driver::Qemu, 0)?;
        cloud.hosts.push(None);
        change(&mut cloud)?;
        start_host(&mut cloud, 0, mib)?;
        let operator = cloud.operator()?;
        let up = || operator.list("/v1/hosts").ok()?.iter().any(|host| host["state"] == "up").then_some(());
        eventually("the host is up", PATIENCE, up).with_context(|| cloud.logs())?;
        let (image, tenant) = (cloud.tiny()?, cloud.tenant("first")?);
        let (_, subnet) = tenant.network()?;
        Ok(Self { cloud, operator, tenant, image, subnet })
    }

    pub(crate) fn launch(&self, mib: u64, settings: Value, user_data: &str) -> anyhow::Result<String> {
        let body = json!({"image": self.image, "subnet": self.subnet, "memory": mib * MIB, "user_data": user_data,
            "memory_settings": settings});
        self.tenant.launch(body)
    }

    fn memory(&self, instance: &str) -> anyhow::Result<Value> {
        Ok(self.tenant.get(&format!("/v1/instances/{instance}/memory"))?.ok()?["actual"].clone())
    }

    fn host(&self) -> anyhow::Result<Value> {
        Ok(self.operator.get("/v1/memory")?.ok()?["hosts"][0].clone())
    }

    /// Waits until each has checked all that it holds `more` times from now on; no check may have failed.
    pub(crate) fn check_on(&self, instances: &[&String], more: u64) -> anyhow::Result<()> {
        for instance in instances {
            let begun = rounds(&self.tenant.log(instance)?).last().copied().unwrap_or_default();
            let goes_on = || {
                let log = self.tenant.log(instance).ok()?;
                (rounds(&log).last().copied()? >= begun + more || log.contains("WRONG")).then_some(log)
            };
            let log = eventually(&format!("{instance} goes on"), PATIENCE, goes_on)
                .with_context(|| format!("{:?}\n{}", self.memory(instance), self.cloud.logs()))?;
            ensure!(!log.contains("WRONG"), "a byte of {instance} was changed:\n{log}");
        }
        Ok(())
    }

    fn await_sleep(&self, instance: &str, state: &str) -> anyhow::Result<()> {
        let is = || (self.memory(instance).ok()?["state"] == state).then_some(());
        eventually(&format!("{instance} is {state}"), PATIENCE, is)
            .with_context(|| format!("{:?}\n{:?}\n{}", self.memory(instance), self.host(), self.cloud.logs()))
    }
}

fn start_host(cloud: &mut Cloud, host: usize, mib: u64) -> anyhow::Result<()> {
    cloud.start_host(host, |command| {
        command.args(["--memory", &format!("{mib}M"), "--memory-oversubscription", "2"]);
    })
}

fn kill_pagers(cloud: &Cloud) {
    for pid in cloud.pagers(0) {
        if let Some(pid) = Pid::from_raw(pid as i32) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

pub(crate) fn assert_sum(host: &Value) -> anyhow::Result<()> {
    let parts = ["resident", "compressed", "shared", "overhead", "lent", "pool", "free"];
    let sum: u64 = parts.iter().filter_map(|part| host[*part].as_u64()).sum();
    ensure!(host["total"].as_u64() == Some(sum) && sum > 0, "{host}");
    Ok(())
}

/// What is pinned is not touched, what is not comes and goes; pagers and the agent are killed meanwhile.
#[test]
fn machines_that_see_more_memory_than_their_host_has_keep_every_byte_of_it() -> anyhow::Result<()> {
    let mut scene = Scene::start(320, |_| Ok(()))?;
    let pinned = scene.launch(96, json!({"pinned": true}), &checker(20))?;
    let others = (0..3).map(|_| scene.launch(128, json!({}), &checker(60))).collect::<anyhow::Result<Vec<_>>>()?;
    let all: Vec<&String> = others.iter().chain([&pinned]).collect();
    for instance in &all {
        scene.tenant.await_log(instance, "probe: round 1", BOOT).with_context(|| scene.cloud.logs())?;
    }
    scene.check_on(&all, 2)?;
    let machines = scene.cloud.machines(0);
    for _ in 0..3 {
        kill_pagers(&scene.cloud);
        scene.check_on(&all, 1)?;
    }
    scene.cloud.kill_host(0);
    kill_pagers(&scene.cloud);
    start_host(&mut scene.cloud, 0, 320)?;
    scene.check_on(&all, 2)?;
    ensure!(scene.cloud.machines(0) == machines, "the machines are not those from before");

    let evicted = |instance: &String| -> anyhow::Result<u64> {
        let memory = scene.memory(instance)?;
        let away = ["compressed", "ssd", "same_filled"].iter().filter_map(|place| memory["pages"][*place].as_u64());
        Ok(away.sum::<u64>() + memory["evictions"].as_u64().unwrap_or_default())
    };
    ensure!(others.iter().any(|one| evicted(one).unwrap_or_default() > 0), "nothing ever left: {:?}", scene.host()?);
    ensure!(scene.memory(&pinned)?["pages"]["ssd"] == 0, "{:?}", scene.memory(&pinned)?);
    assert_sum(&scene.host()?)?;
    for instance in &all {
        let pages = scene.memory(instance)?["pages"].clone();
        let sum: u64 = pages.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        ensure!([128 * 256, 96 * 256].contains(&sum), "{pages}");
    }
    Ok(())
}

#[test]
fn a_soaker_is_squeezed_until_it_sleeps_and_wakes_where_it_stopped_on_a_host_that_has_room() -> anyhow::Result<()> {
    let mut scene = Scene::start(256, |_| Ok(()))?;
    let settings = json!({"mode": "soaker", "minimum_operating": 80 * MIB, "minimum_starting": 96 * MIB});
    let soaker = scene.launch(160, settings, &counter(60))?;
    scene.tenant.await_log(&soaker, "probe: round 3", BOOT).with_context(|| scene.cloud.logs())?;
    ensure!(scene.memory(&soaker)?["pages"]["resident"].as_u64() > Some(80 * 256), "{:?}", scene.memory(&soaker)?);
    let generics = (0..2).map(|_| scene.launch(128, json!({}), &checker(80))).collect::<anyhow::Result<Vec<_>>>()?;
    for instance in &generics {
        scene.tenant.await_log(instance, "probe: round 1", BOOT).with_context(|| scene.cloud.logs())?;
    }
    scene.await_sleep(&soaker, "hibernated")?;
    ensure!(scene.cloud.machines(0).len() == 2, "one that sleeps has no process");
    ensure!(scene.memory(&soaker)?["pages"]["resident"] == 0, "{:?}", scene.memory(&soaker)?);
    let shown = scene.tenant.get(&format!("/v1/instances/{soaker}"))?.ok()?;
    ensure!(
        shown["state"] == "running" && shown["state_reason"]["message"].to_string().contains("hibernated"),
        "{shown}"
    );
    let stopped_at = rounds(&scene.tenant.log(&soaker)?).last().copied().context("it had counted")?;

    // Nobody here gives anything back, and nobody asks for a move.
    scene.cloud.hosts.push(None);
    start_host(&mut scene.cloud, 1, 256)?;
    scene.await_sleep(&soaker, "active")?;
    ensure!((scene.cloud.machines(0).len(), scene.cloud.machines(1).len()) == (2, 1), "it is on the other host alone");
    // Both hosts are one machine here, and a soaker has what others leave of its processors: these left next to nothing.
    for instance in &generics {
        scene.tenant.delete(&format!("/v1/instances/{instance}"))?.ok()?;
    }
    scene.check_on(&[&soaker], 12)?;
    let counted = rounds(&scene.tenant.log(&soaker)?);
    ensure!(
        counted.first() == Some(&(stopped_at + 1)) && counted.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "it does not go on where it stopped, at {stopped_at}: {counted:?}"
    );
    let jobs = scene.tenant.list("/v1/jobs")?;
    let job = jobs.iter().find(|job| job["kind"] == "migrate").context("no job has moved it")?;
    ensure!(job["cause"] == "nothing-unused" && job["state"] == "done", "{job}");
    let left = scene.cloud.host_dir(0).join("memory").join(&soaker);
    ensure!(!left.exists(), "its pages are still at the host that it left");
    let gone = || {
        let mut names = fs::read_dir(left.parent()?).ok()?.flatten().map(|entry| entry.file_name());
        (!names.any(|name| generics.iter().any(|one| name.to_string_lossy().contains(one)))).then_some(())
    };
    eventually("nothing is left of the memory of those that were terminated", PATIENCE, gone)?;
    assert_sum(&scene.host()?)
}

#[test]
fn a_full_disk_for_pages_is_told_and_harms_nobody() -> anyhow::Result<()> {
    let mut mounted = None;
    let scene = Scene::start(200, |cloud| {
        mounted = Some(SmallDisk::mount(&cloud.host_dir(0).join("memory"), "8m")?);
        Ok(())
    })?;
    let instances = (0..2).map(|_| scene.launch(128, json!({}), &checker(70))).collect::<anyhow::Result<Vec<_>>>()?;
    for instance in &instances {
        scene.tenant.await_log(instance, "probe: round 1", BOOT).with_context(|| scene.cloud.logs())?;
    }
    let told = || {
        instances.iter().any(|one| scene.memory(one).is_ok_and(|told| told["trouble"]["code"] == "InsufficientStorage"))
    };
    eventually("the full disk is told", PATIENCE, || told().then_some(()))
        .with_context(|| format!("{:?}\n{}", scene.host(), scene.cloud.logs()))?;
    let all: Vec<&String> = instances.iter().collect();
    scene.check_on(&all, 2)?;
    let began = Instant::now();
    scene.check_on(&all, 1)?;
    ensure!(began.elapsed() < PATIENCE);
    Ok(())
}
