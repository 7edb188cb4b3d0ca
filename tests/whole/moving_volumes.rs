//! Machines that move with their volumes: what was written is there, once, whatever is killed meanwhile.

use std::time::{Duration, Instant};

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
const SIZE: u64 = 32 * MIB;
const PATIENCE: Duration = Duration::from_secs(60);
const SLOW: Duration = Duration::from_secs(240);

/// Writes a ring of blocks on its volume, and reads each from the disk before it writes the next there. Behind the ring is what
/// makes the way long enough to be killed on.
pub(crate) const WRITES: &str = "#!/bin/sh
(until [ -b /dev/vda ]; do sleep 1; done
dd if=/dev/urandom of=/dev/vda bs=1M seek=4 count=24 conv=notrunc
sync
behind() { echo 1 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M skip=4 count=24 | md5sum; }
before=$(behind)
block() { yes \"block $1\" | head -c 65536; }
n=0
while :; do
    n=$((n + 1)); at=$((n % 16))
    if [ $n -gt 16 ]; then
        echo 1 > /proc/sys/vm/drop_caches
        read=$(dd if=/dev/vda bs=64k skip=$at count=1 | md5sum)
        [ \"$read\" = \"$(block $((n - 16)) | md5sum)\" ] || echo \"probe: WRONG $n\"
    fi
    block $n | dd of=/dev/vda bs=64k seek=$at conv=notrunc
    sync
    [ $((n % 4)) = 0 ] && echo \"probe: wrote $n\"
    [ $((n % 32)) = 0 ] && [ \"$before\" != \"$(behind)\" ] && echo 'probe: WRONG behind the ring'
done) 2> /dev/null > /dev/console &
";

/// Two hosts, and a machine that writes on a volume.
struct Bed {
    cloud: Cloud,
    operator: Api,
    tenant: Api,
    instance: String,
    volume: String,
}

impl Bed {
    fn make() -> anyhow::Result<Self> {
        let cloud = Cloud::start(Driver::Qemu, 2)?;
        let (operator, image, tenant) = (cloud.operator()?, cloud.tiny()?, cloud.tenant("first")?);
        let (_, subnet) = tenant.network()?;
        let volume = tenant.make("/v1/volumes", json!({"size": SIZE}), "/id")?;
        let instance = tenant.launch(json!({"image": image, "subnet": subnet, "memory": 128 * MIB,
            "user_data": WRITES, "volumes": [volume]}))?;
        tenant.await_state(&format!("/v1/volumes/{volume}"), "state", "in-use", SLOW).with_context(|| cloud.logs())?;
        Ok(Self { cloud, operator, tenant, instance, volume })
    }

    /// How many blocks it has said to have written; an error if one was not as it was written.
    fn wrote(&self) -> anyhow::Result<u64> {
        let log = self.tenant.log(&self.instance)?;
        ensure!(!log.contains("probe: WRONG"), "its volume is not as it was:\n{log}");
        let told = log.lines().filter_map(|line| line.trim().strip_prefix("probe: wrote ")?.parse().ok());
        Ok(told.max().unwrap_or_default())
    }

    /// All of the ring is read and written again, and what is behind it read.
    fn goes_on(&self) -> anyhow::Result<()> {
        let wanted = eventually("it tells what it wrote", SLOW, || self.wrote().ok())? + 36;
        let is_over = || {
            let log = self.tenant.log(&self.instance).ok()?;
            (log.contains("WRONG") || self.wrote().is_ok_and(|wrote| wrote >= wanted)).then_some(())
        };
        eventually("it goes on writing", SLOW, is_over)
            .with_context(|| format!("{:?}\n{}", self.tenant.log(&self.instance), self.cloud.logs()))?;
        self.wrote().map(drop)
    }

    /// The number of the host whose the instance is.
    fn home(&self) -> anyhow::Result<usize> {
        let host = self.operator.get(&format!("/v1/instances/{}", self.instance))?.ok()?["host"].clone();
        let host = host.as_str().context("it has a host")?;
        Ok(usize::from(self.operator.get(&format!("/v1/hosts/{host}"))?.ok()?["name"] != "host-1"))
    }

    /// Begins a move.
    fn is_to_move(&self) -> anyhow::Result<String> {
        self.tenant.make(&format!("/v1/instances/{}/migrate", self.instance), json!({}), "/id")
    }

    /// Begins a move, and returns when the other host has begun to take it in.
    fn sets_out(&self) -> anyhow::Result<String> {
        let away = 1 - self.home()?;
        let job = self.is_to_move()?;
        let machine = || (!self.cloud.machines(away).is_empty()).then_some(());
        eventually("the other host has a machine for it", PATIENCE, machine).with_context(|| self.cloud.logs())?;
        Ok(job)
    }

    fn ended(&self, job: &str) -> anyhow::Result<Value> {
        let over = || {
            let job = self.tenant.get(&format!("/v1/jobs/{job}")).ok()?.body;
            (job["state"] == "done" || job["state"] == "failed").then_some(job)
        };
        eventually("the job is over", SLOW, over).with_context(|| self.cloud.logs())
    }

    /// The instance runs, and the bytes of its volume and the room for them are at its host and nowhere else.
    fn is_only_at(&self, home: usize) -> anyhow::Result<()> {
        ensure!(self.home()? == home, "it is at the other host");
        self.tenant.await_state(&format!("/v1/instances/{}", self.instance), "state", "running", PATIENCE)?;
        let files = |host: usize| -> Option<Vec<String>> {
            let files = std::fs::read_dir(self.cloud.host_dir(host).join("volumes")).ok()?;
            files.map(|file| file.ok()?.file_name().into_string().ok()).collect()
        };
        let file = vec![format!("{}.qcow2", self.volume)];
        let alone = || (files(home)? == file && files(1 - home)?.is_empty()).then_some(());
        eventually("its volume is at its host alone", PATIENCE, alone)
            .with_context(|| format!("{:?} {:?}\n{}", files(home), files(1 - home), self.cloud.logs()))?;
        let volume = self.operator.get(&format!("/v1/volumes/{}", self.volume))?.ok()?;
        let room = || {
            let hosts = self.operator.list("/v1/hosts").ok()?;
            let right = |host: &Value| host["used"]["disk"] == if host["id"] == volume["host"] { SIZE } else { 0 };
            hosts.iter().all(right).then_some(())
        };
        eventually("room is promised at its host alone", PATIENCE, room).with_context(|| volume.to_string())
    }
}

#[test]
fn a_volume_that_is_written_all_the_time_moves_with_its_machine() -> anyhow::Result<()> {
    let mut bed = Bed::make()?;
    bed.goes_on()?;
    let home = bed.home()?;

    let job = bed.sets_out()?;
    for machine in bed.cloud.machines(1 - home) {
        kill_process(Pid::from_raw(machine as i32).context("a machine has a number")?, Signal::KILL)?;
    }
    let job = bed.ended(&job)?;
    ensure!(job["state"] == "failed", "it cannot have come: {job}");
    bed.is_only_at(home)?;

    let job = bed.sets_out()?;
    bed.cloud.kill_host(home);
    bed.cloud.start_host(home, |_| {})?;
    let job = bed.ended(&job)?;
    // All of it may have been there already.
    let home = if job["state"] == "done" { 1 - home } else { home };
    bed.is_only_at(home)?;
    bed.goes_on()?;

    let moved = ["instance", "migrate", &bed.instance, "--wait", "--output", "json"];
    let moved: Value = serde_json::from_str(&bed.cloud.run(&bed.tenant, &moved)?)?;
    bed.is_only_at(1 - home).with_context(|| bed.cloud.logs())?;
    ensure!(moved["moved"]["disk"] == SIZE, "{moved}");
    println!("stood still for {} ms", moved["moved"]["stood_still_millis"]);
    bed.goes_on()
}

/// How many agents are killed, by turns that of the host that sends and of the one that receives.
const KILLS: u32 = 4;

/// One moment in each part of a way, at a place in it that `seed` gives.
fn moments(seed: u64, way: Duration) -> impl Iterator<Item = Duration> {
    let place = move |part: u32| {
        let mut mixed = seed.wrapping_add(u64::from(part)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (f64::from(part) + (mixed >> 40) as f64 / (1 << 24) as f64) / f64::from(KILLS)
    };
    (0..KILLS).map(move |part| way.mul_f64(place(part)))
}

/// Whatever goes wrong on the way, and whenever, in the end one host has the instance with all that it wrote, and is the one
/// that the record names.
#[test]
fn a_move_with_volumes_comes_to_one_end_when_a_disk_is_full_or_an_agent_killed() -> anyhow::Result<()> {
    let mut bed = Bed::make()?;
    eventually("it writes", SLOW, || bed.wrote().ok().filter(|wrote| *wrote > 16))?;
    let home = bed.home()?;
    bed.cloud.kill_host(1 - home);
    let small = SmallDisk::mount(&bed.cloud.host_dir(1 - home).join("volumes"), "8m")?;
    bed.cloud.start_host(1 - home, |_| {})?;
    let job = bed.sets_out()?;
    let job = bed.ended(&job)?;
    let said = job.pointer("/reason/message").and_then(Value::as_str).unwrap_or_default();
    ensure!(job["state"] == "failed" && said.contains("no space"), "{job}");
    bed.is_only_at(home)?;
    bed.cloud.kill_host(1 - home);
    drop(small);
    bed.cloud.start_host(1 - home, |_| {})?;

    let began = Instant::now();
    let job = bed.is_to_move()?;
    let job = bed.ended(&job)?;
    ensure!(job["state"] == "done", "{job}\n{}", bed.cloud.logs());
    let way = began.elapsed();
    bed.is_only_at(1 - home)?;

    let seed = std::env::var("LUCARNE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for (kill, moment) in moments(seed, way).enumerate() {
        let home = bed.home()?;
        let host = if kill % 2 == 0 { home } else { 1 - home };
        let job = bed.is_to_move()?;
        std::thread::sleep(moment);
        bed.cloud.kill_host(host);
        bed.cloud.start_host(host, |_| {})?;
        let job = bed.ended(&job)?;
        let end = if job["state"] == "done" { 1 - home } else { home };
        bed.is_only_at(end).with_context(|| {
            format!("agent {host} was killed {moment:?} after it was to leave {home}, seed {seed}: {job}")
        })?;
        bed.wrote()?;
        println!("{moment:?} of {way:?}, agent {host} of a move from {home}: {}", job["state"]);
    }
    bed.goes_on()
}
