//! A recording of real traffic between two machines on two hosts, read by `tshark`: one agent is killed meanwhile.
//!
//! `asks` on one host fetches a page from `answers` on the other, again and again, and pings it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually,
};
use serde_json::{Value, json};

const BOOT: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(40);

const ANSWERS: &str = "#!/bin/sh
mkdir -p /srv/www
echo page > /srv/www/index.html
httpd -p 80 -h /srv/www
";

const ASKS: &str = "#!/bin/sh
ping 10.0.1.20 > /dev/null &
while :; do
    timeout 2 wget -q -O /dev/null http://10.0.1.20/
    sleep 0.2
done > /dev/null 2>&1 &
";

/// A frame, as another program reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    time: String,
    interface: String,
    direction: String,
    source: String,
    destination: String,
    identification: String,
    port: String,
}

/// The frames of a file: blocks of our own are records for it too.
fn tshark(file: &Path) -> anyhow::Result<Vec<Row>> {
    let fields = [
        "frame.time_epoch",
        "frame.interface_name",
        "frame.packet_flags_direction",
        "ip.src",
        "ip.dst",
        "ip.id",
        "tcp.dstport",
    ];
    let fields = fields.iter().flat_map(|field| ["-e", field]);
    let read =
        Command::new("tshark").arg("-r").arg(file).args(["-n", "-Y", "eth", "-T", "fields"]).args(fields).output();
    let read = read.context("`cargo xtask setup` installs tshark")?;
    ensure!(read.status.success(), "tshark: {}", String::from_utf8_lossy(&read.stderr));
    let text = String::from_utf8(read.stdout)?;
    let row = |line: &str| {
        let [time, interface, direction, source, destination, identification, port] =
            line.split('\t').map(str::to_owned).collect::<Vec<_>>().try_into().ok()?;
        Some(Row { time, interface, direction, source, destination, identification, port })
    };
    text.lines().map(|line| row(line).with_context(|| line.to_owned())).collect()
}

fn frames(api: &Api, id: &str) -> Option<u64> {
    let shown = api.get(&format!("/v1/recordings/{id}")).ok()?.ok().ok()?;
    shown["recorded"]["frames"].as_u64()
}

#[test]
fn traffic_between_two_hosts_is_recorded_at_both_ends_and_read_by_another_program() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Qemu, 2)?;
    let image = cloud.tiny()?;
    let tenant = cloud.tenant("first")?;
    let (vpc, subnet) = tenant.network()?;
    let start = ["recording", "start", "--vpc", &vpc, "--protocol", "tcp", "--address", "10.0.1.20", "--ring", "8M"];
    let recording = cloud.run(&tenant, &start)?.trim().to_owned();
    let hosts = cloud.operator()?.list("/v1/hosts")?;
    let launch = |address: &str, host: usize, user_data: &str| {
        tenant.launch(json!({
            "image": image, "subnet": subnet, "address": address, "memory": 128 << 20,
            "placement": {"host": hosts[host]["id"]}, "user_data": user_data,
        }))
    };
    let machines = [launch("10.0.1.10", 0, ASKS)?, launch("10.0.1.20", 1, ANSWERS)?];
    for machine in &machines {
        tenant.await_log(machine, "lucarne: ready", BOOT).with_context(|| cloud.logs())?;
    }
    let enough = |more: u64| move |frames: u64| (frames > more).then_some(frames);
    let first = eventually("frames are recorded", PATIENCE, || frames(&tenant, &recording).and_then(enough(100)))
        .with_context(|| cloud.logs())?;
    cloud.kill_host(0);
    cloud.start_host(0, |_| {})?;
    eventually("the recording goes on", PATIENCE, || frames(&tenant, &recording).and_then(enough(first + 100)))
        .with_context(|| cloud.logs())?;
    cloud.run(&tenant, &["recording", "stop", &recording])?;
    let file = cloud.dir().join("recording.pcapng");
    let export = || cloud.run(&tenant, &["recording", "export", &recording, "--out", &file.display().to_string()]);
    // A host may be told of the end a moment after the file was asked for.
    let mut last = String::new();
    let rows = eventually("the file is what was recorded", PATIENCE, || {
        let read = export().and_then(|_| tshark(&file));
        let told = frames(&tenant, &recording);
        last = match &read {
            Ok(rows) => format!("{} frames in the file, {told:?} told", rows.len()),
            Err(error) => format!("{error:#}"),
        };
        read.ok().filter(|rows| told == Some(rows.len() as u64))
    })
    .with_context(|| format!("{last}\n{}", cloud.logs()))?;
    check_rows(&tenant, &machines, &rows)?;
    let octets = std::fs::read(&file)?;
    let tells = |text: &str| octets.windows(text.len()).any(|window| window == text.as_bytes());
    ensure!(tells(r#""kind":"workflow""#) && tells(&machines[0]), "what happened to the network is not in the file");

    let stranger = cloud.tenant("second")?;
    for path in ["", "/frames"] {
        let answer = stranger.get(&format!("/v1/recordings/{recording}{path}"))?;
        ensure!(answer.code() == "InvalidRecordingId.NotFound", "a stranger got {}", answer.code());
    }
    cloud.run(&tenant, &["recording", "delete", &recording])?;
    let folders = [0, 1].map(|host| cloud.host_dir(host).join("recordings").join(&recording));
    eventually("the files are gone", PATIENCE, || folders.iter().all(|folder| !folder.exists()).then_some(()))
        .with_context(|| cloud.logs())
}

fn check_rows(tenant: &Api, machines: &[String; 2], rows: &[Row]) -> anyhow::Result<()> {
    let interface = |machine: &String| -> anyhow::Result<String> {
        let shown: Value = tenant.get(&format!("/v1/instances/{machine}"))?.ok()?;
        Ok(shown["interface"].as_str().context("an interface")?.to_owned())
    };
    let (asks, answers) = (interface(&machines[0])?, interface(&machines[1])?);
    ensure!(rows.iter().all(|row| !row.port.is_empty()), "only TCP was asked for");
    ensure!(rows.is_sorted_by_key(|row| &row.time), "the order is not that of time");
    let named: BTreeSet<_> = rows.iter().map(|row| row.interface.clone()).collect();
    ensure!(named == BTreeSet::from([asks.clone(), answers.clone()]), "{named:?}");
    // By what tells a packet from others: at which interfaces was it seen, and which way?
    let mut seen: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.source == "10.0.1.10" && row.port == "80") {
        let direction = row.direction.trim_start_matches("0x").trim_start_matches('0').to_owned();
        seen.entry(&row.identification).or_default().insert((row.interface.clone(), direction));
    }
    let both = BTreeSet::from([(asks, "2".to_owned()), (answers, "1".to_owned())]);
    let twice = seen.values().filter(|ends| **ends == both).count();
    ensure!(twice > 20, "{twice} of {} packets were seen leaving and arriving", seen.len());
    Ok(())
}
