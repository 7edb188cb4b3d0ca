//! No cut loses, doubles or invents a frame, and a duplicate reaches nobody but itself: tried with a ring of machines on two hosts,
//! duplicated again and again while tokens go round in it as fast as they can.
//!
//! A frame of a duplicate that reached the source would be a token there that comes twice; the source's consoles are read too.
//! `LUCARNE_RING_ROUNDS=100` duplicates it a hundred times.

use std::{
    env, io,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually, ring,
};
use serde_json::{Value, json};

const SLOW: Duration = Duration::from_secs(240);
/// Of what takes moments where nothing else is done.
const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);
/// On two hosts, so that some pairs share one and others do not.
const NODES: usize = 4;
const ROUNDS: &str = "LUCARNE_RING_ROUNDS";
/// Stocks that a ring takes after a cut before it is believed.
const ENOUGH: u64 = 64;
/// Where nobody listens: of the duplicate's attempts, and of the source's own traffic.
const ATTEMPTS: u16 = 7777;
const CONTROL: u16 = 8888;

struct Scene {
    cloud: Cloud,
    tenant: Api,
    vpc: String,
    machines: Vec<String>,
}

impl Scene {
    fn new() -> anyhow::Result<Self> {
        let cloud = Cloud::start(Driver::Qemu, 2)?;
        let (image, tenant) = (cloud.tiny()?, cloud.tenant("first")?);
        let (vpc, subnet) = tenant.network()?;
        let hosts = cloud.operator()?.list("/v1/hosts")?;
        let launch = |index: usize| {
            tenant.launch(json!({
                "image": image, "subnet": subnet, "address": ring::address(index), "memory": 96 << 20,
                "placement": {"host": hosts[index * 2 / NODES]["id"]}, "user_data": ring::user_data(index, NODES),
            }))
        };
        let machines = (0..NODES).map(launch).collect::<anyhow::Result<Vec<_>>>()?;
        for machine in &machines {
            let path = format!("/v1/instances/{machine}");
            tenant.await_state(&path, "state", "running", SLOW).with_context(|| cloud.logs())?;
        }
        let scene = Self { cloud, tenant, vpc, machines };
        // All have booted then, and asked for what a guest asks for.
        scene.await_stocks(&scene.machines, 0)?;
        Ok(scene)
    }

    /// Waits until the ring has taken stock more than so many times, each time whole; how often it has.
    fn await_stocks(&self, machines: &[String], more_than: u64) -> anyhow::Result<u64> {
        let mut last = Ok(None);
        // Whether they were taken or never will be.
        let is_over = || {
            last = ring::stocks(&self.tenant, machines);
            (!matches!(last, Ok(None)) && !matches!(last, Ok(Some(number)) if number <= more_than)).then_some(())
        };
        let waited = eventually("stock is taken", SLOW, is_over);
        let taken = last.with_context(|| self.cloud.logs())?;
        waited
            .with_context(|| format!("the last was {taken:?}, wanted more than {more_than}\n{}", self.cloud.logs()))?;
        taken.context("stock was taken")
    }

    /// Duplicates the network; the replica, and its machines in the ring's order. Both rings are whole.
    fn duplicate(&self, name: &str) -> anyhow::Result<(Value, Vec<String>)> {
        let before = ring::stocks(&self.tenant, &self.machines)?.unwrap_or_default();
        let create = ["replica", "create", &self.vpc, "--name", name, "--wait"];
        let id = self.cloud.run(&self.tenant, &create).with_context(|| self.cloud.logs())?;
        let replica = self.tenant.get(&format!("/v1/replicas/{}", id.trim()))?.ok()?;
        let twin = |machine: &String| replica["objects"][machine].as_str().map(str::to_owned);
        let twins: Option<Vec<String>> = self.machines.iter().map(twin).collect();
        let twins = twins.with_context(|| format!("a machine has no duplicate: {replica}"))?;
        self.await_stocks(&twins, before + ENOUGH).context("the duplicate")?;
        let now = ring::stocks(&self.tenant, &self.machines)?.unwrap_or_default();
        self.await_stocks(&self.machines, now).context("the source")?;
        Ok((replica, twins))
    }

    /// Has the shell of a machine carry out a command. Whether it heard that is seen at its console only.
    fn in_guest(&self, machine: &str, command: &str) -> anyhow::Result<()> {
        eventually("a shell answers", PATIENCE, || {
            self.cloud.type_line(&self.tenant, machine, &format!("{command} echo typed-$((40+2))")).ok()?;
            self.tenant.await_log(machine, "typed-42", ANSWER).ok().map(drop)
        })
        .with_context(|| format!("{:?}", self.tenant.log(machine)))
    }

    fn record(&self, vpc: &str) -> anyhow::Result<String> {
        let start = ["recording", "start", "--vpc", vpc, "--protocol", "tcp", "--protocol", "icmp", "--ring", "8M"];
        Ok(self.cloud.run(&self.tenant, &start)?.trim().to_owned())
    }

    fn frames(&self, recording: &str) -> Option<u64> {
        let shown = self.tenant.get(&format!("/v1/recordings/{recording}")).ok()?.ok().ok()?;
        shown["recorded"]["frames"].as_u64()
    }

    /// Which frames of each kind were recorded, as another program reads them.
    fn read(&self, recording: &str, filters: &[&str]) -> anyhow::Result<Vec<Vec<String>>> {
        let file = self.cloud.dir().join(format!("{recording}.pcapng"));
        let path = file.display().to_string();
        self.cloud.run(&self.tenant, &["recording", "export", recording, "--out", &path])?;
        filters.iter().map(|filter| found(&file, filter)).collect()
    }
}

/// The frames that a filter lets through, each as its addresses and ports.
fn found(file: &Path, filter: &str) -> anyhow::Result<Vec<String>> {
    let filter = format!("eth && ({filter})");
    let fields = ["frame.interface_name", "ip.src", "ip.dst", "ip.proto", "tcp.srcport", "tcp.dstport"];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file).args(["-n", "-Y", &filter, "-T", "fields"]);
    let read = tshark.args(fields.iter().flat_map(|field| ["-e", field])).output();
    let read = read.context("`cargo xtask setup` installs tshark")?;
    ensure!(read.status.success(), "tshark: {}", String::from_utf8_lossy(&read.stderr));
    Ok(String::from_utf8_lossy(&read.stdout).lines().map(str::to_owned).collect())
}

/// An address of this machine that is no loopback's, if it has one.
fn outside() -> Ipv4Addr {
    const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let own = socket.and_then(|socket| socket.connect((NOBODY, 9)).and_then(|()| socket.local_addr()));
    match own.map(|own| own.ip()) {
        Ok(IpAddr::V4(own)) if !own.is_loopback() => own,
        _ => NOBODY,
    }
}

#[test]
fn no_cut_of_a_ring_loses_or_doubles_a_frame_and_its_duplicate_reaches_nobody_else() -> anyhow::Result<()> {
    let scene = Scene::new()?;
    let rounds: usize = env::var(ROUNDS).ok().map_or(Ok(3), |rounds| rounds.parse())?;
    let mut pauses = Vec::new();
    for round in 1..=rounds {
        let name = format!("ring-{round}");
        let is_last = round == rounds;
        let recording = if is_last { Some(scene.record(&scene.vpc)?) } else { None };
        let (replica, twins) = scene.duplicate(&name).with_context(|| format!("round {round} of {rounds}"))?;
        let stood = replica["instances"].as_object().into_iter().flat_map(|all| all.values());
        pauses.extend(stood.filter_map(|one| one["pause_micros"].as_u64()));
        println!("round {round} of {rounds}: whole");
        if let Some(recording) = recording {
            reaches_nobody(&scene, &recording, (&replica, &twins))?;
        }
        scene.cloud.run(&scene.tenant, &["replica", "delete", &name, "--wait"]).with_context(|| scene.cloud.logs())?;
    }
    let now = scene.await_stocks(&scene.machines, 0)?;
    scene.await_stocks(&scene.machines, now).context("the source after all")?;
    pauses.sort_unstable();
    ensure!(pauses.len() == rounds * NODES, "{pauses:?}");
    let (middle, most) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
    println!("{rounds} rounds, each whole; stood still for {middle} us (median), {most} us at most");
    Ok(())
}

/// A machine of the duplicate asks for its neighbour, for the outside and by pings, again and again. The neighbour is the duplicate's,
/// and not the source's of the same address, at whose ports nothing but the source's own traffic is seen.
fn reaches_nobody(scene: &Scene, of_source: &str, (replica, twins): (&Value, &[String])) -> anyhow::Result<()> {
    let (cloud, tenant) = (&scene.cloud, &scene.tenant);
    let of_twin = scene.record(replica["vpc"].as_str().context("a replica has a network")?)?;
    let (outside, listener) = (outside(), TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?);
    listener.set_nonblocking(true)?;
    let (neighbour, port) = (ring::address(1), listener.local_addr()?.port());
    let again = |what: &str| format!("(while :; do {what}; sleep 0.2; done) > /dev/null 2>&1 &");
    let ask = |address: &str, port: u16| format!("nc -w 1 {address} {port} < /dev/null");
    let asks = [ask(&neighbour, ATTEMPTS), ask(&outside.to_string(), port), format!("ping -c 1 -W 1 {neighbour}")];
    scene.in_guest(&twins[0], &again(&asks.join("; ")))?;
    scene.in_guest(&scene.machines[0], &again(&ask(&neighbour, CONTROL)))?;
    let mut frames = (None, None);
    eventually("both are recorded", PATIENCE, || {
        frames = (scene.frames(&of_twin), scene.frames(of_source));
        (frames.0 > Some(20) && frames.1 > Some(20)).then_some(())
    })
    .with_context(|| format!("recorded are {frames:?}\n{}", cloud.logs()))?;
    for recording in [&of_twin, of_source] {
        cloud.run(tenant, &["recording", "stop", recording])?;
    }
    let to_outside = format!("ip.dst == {outside}");
    let own = format!("tcp.port == {CONTROL}");
    let attempts = [&*format!("tcp.port == {ATTEMPTS}"), "icmp", &to_outside];
    let tried = scene.read(&of_twin, &attempts)?;
    ensure!(tried.iter().all(|frames| !frames.is_empty()), "it did not try all: {tried:?}");
    let strange = scene.read(&of_twin, &[&own])?;
    ensure!(strange[0].is_empty(), "the source's frames reached the duplicate: {strange:?}");
    let seen = scene.read(of_source, &[&own, &format!("!({own})")])?;
    ensure!(!seen[0].is_empty() && seen[1].is_empty(), "of the source's own, and of others: {seen:?}");
    let came = listener.accept().map(|(_, from)| from);
    ensure!(came.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock), "it reached out: {came:?}");
    Ok(())
}
