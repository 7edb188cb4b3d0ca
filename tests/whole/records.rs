//! The way of a record from the host to the collector's disk, while processes on it are killed and disks fill: every record
//! is found exactly once, and what was lost is told.
//!
//! The hosts simulate their VMs and make up records at a rate. A record's flow id is the second at which its agent started,
//! in the upper 32 bits, and its number below, so the test can tell what is missing.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually, image,
    process::Process,
};
use reqwest::Method;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A cloud with one host that makes up `rate` records a second, for an instance of the tenant that is returned.
fn recording(rate: u32, options: &'static [&'static str]) -> anyhow::Result<(Cloud, Api)> {
    let mut cloud = Cloud::start(Driver::Simulated, 0)?;
    cloud.hosts.push(None);
    start_agent(&mut cloud, rate, options)?;
    let tenant = cloud.tenant("first")?;
    cloud.hasten(&tenant)?;
    let (_, subnet) = tenant.network()?;
    let image = image::fake(&tenant, false)?;
    let body = json!({"image": image, "subnet": subnet, "memory": 64 << 20});
    eventually("a launch", PATIENCE, || {
        let instance = tenant.launch(body.clone()).ok()?;
        tenant.await_state(&format!("/v1/instances/{instance}"), "state", "running", PATIENCE).ok()
    })
    .with_context(|| cloud.logs())?;
    Ok((cloud, tenant))
}

fn start_agent(cloud: &mut Cloud, rate: u32, options: &[&str]) -> anyhow::Result<()> {
    cloud.start_host(0, |command| {
        command.args(["--simulated-records", &rate.to_string()]).args(options);
    })
}

fn kill_collector(cloud: &mut Cloud) {
    cloud.collector.take().into_iter().for_each(Process::kill);
}

/// Ends the agent in good order, which gives the last records; it must say that the collector has all.
fn end_agent(cloud: &mut Cloud) -> anyhow::Result<()> {
    let mut agent = cloud.hosts[0].take().context("there is an agent")?;
    agent.await_log("flow records go to the collector", PATIENCE)?;
    // Until what waited in the spool has gone, an end in good order would leave some for the next start.
    std::thread::sleep(Duration::from_secs(2));
    agent.end(PATIENCE)?;
    let log = fs::read_to_string(cloud.dir().join("host-0.log"))?;
    ensure!(log.contains("all flow records are with the collector"), "{log}");
    Ok(())
}

/// How often each record is found, by its agent's start and its number.
fn found(tenant: &Api) -> anyhow::Result<BTreeMap<u64, BTreeMap<u64, usize>>> {
    let mut found: BTreeMap<u64, BTreeMap<u64, usize>> = BTreeMap::new();
    let mut page = String::new();
    loop {
        let answer = tenant.get(&format!("/v1/flows?since=0&limit=1000{page}"))?.ok()?;
        for record in answer["items"].as_array().into_iter().flatten() {
            let id = record["flow_id"].as_u64().context("a record without an id")?;
            *found.entry(id >> 32).or_default().entry(id & 0xffff_ffff).or_default() += 1;
        }
        match answer["next"].as_str() {
            Some(next) => page = format!("&page_token={next}"),
            None => return Ok(found),
        }
    }
}

/// Each agent's records are there from the first on without a gap, each once; gives how many there are of each.
fn whole(tenant: &Api) -> anyhow::Result<Vec<u64>> {
    let found = found(tenant)?;
    for (agent, records) in &found {
        let twice: Vec<_> = records.iter().filter(|(_, times)| **times != 1).take(5).collect();
        ensure!(twice.is_empty(), "of agent {agent} some are kept more than once: {twice:?}");
        let missing: Vec<_> = (0..).zip(records.keys()).filter(|(wanted, number)| wanted != *number).take(5).collect();
        ensure!(missing.is_empty(), "of agent {agent} some are missing: {missing:?}");
    }
    Ok(found.values().map(|records| records.len() as u64).collect())
}

/// What the collector was told of losses, in records.
fn lost(cloud: &Cloud) -> anyhow::Result<u64> {
    let losses = ask_collector(cloud, "losses")?;
    Ok(losses.as_array().into_iter().flatten().filter_map(|loss| loss["records"].as_u64()).sum())
}

fn ask_collector(cloud: &Cloud, path: &str) -> anyhow::Result<Value> {
    let connection: Value = serde_json::from_slice(&fs::read(cloud.dir().join("c/connection.json"))?)?;
    let text = |field: &str| connection[field].as_str().unwrap_or_default().to_owned();
    let http = reqwest::blocking::Client::builder().no_proxy().build()?;
    let asked = http.get(format!("http://{}/{path}", text("query"))).bearer_auth(text("query_token")).send()?;
    Ok(asked.error_for_status()?.json()?)
}

/// The rows of a question of the operator's to the collector, over all accounts.
pub(crate) fn ask_in_sql(cloud: &Cloud, sql: &str) -> anyhow::Result<Value> {
    let connection: Value = serde_json::from_slice(&fs::read(cloud.dir().join("c/connection.json"))?)?;
    let text = |field: &str| connection[field].as_str().unwrap_or_default().to_owned();
    let http = reqwest::blocking::Client::builder().no_proxy().build()?;
    let asked = http.post(format!("http://{}/v1/sql", text("query"))).bearer_auth(text("query_token"));
    let answer: Value = asked.json(&json!({"account": null, "sql": sql})).send()?.error_for_status()?.json()?;
    Ok(answer["rows"].clone())
}

#[test]
fn kill_nine_of_the_collector_while_records_flow_loses_none_and_doubles_none() -> anyhow::Result<()> {
    let (mut cloud, tenant) = recording(500, &[])?;
    for kill in 0..5 {
        std::thread::sleep(Duration::from_millis(400 + 170 * kill));
        kill_collector(&mut cloud);
        std::thread::sleep(Duration::from_millis(300));
        cloud.start_collector()?;
    }
    end_agent(&mut cloud)?;
    let made = whole(&tenant).with_context(|| cloud.logs())?;
    ensure!(made.len() == 1 && made[0] > 1500, "{made:?}");
    ensure!(lost(&cloud)? == 0);
    Ok(())
}

/// Twice the agent is killed with records in its spool that nobody has; the third takes them all to the collector.
#[test]
fn kill_nine_of_the_agent_loses_nothing_that_its_spool_had() -> anyhow::Result<()> {
    const RATE: u32 = 500;
    let (mut cloud, tenant) = recording(RATE, &[])?;
    kill_collector(&mut cloud);
    for _ in 0..2 {
        std::thread::sleep(Duration::from_secs(3));
        cloud.kill_host(0);
        start_agent(&mut cloud, RATE, &[])?;
    }
    std::thread::sleep(Duration::from_secs(2));
    cloud.start_collector()?;
    end_agent(&mut cloud)?;
    let made = whole(&tenant).with_context(|| cloud.logs())?;
    ensure!(made.len() == 3 && made.iter().all(|made| *made > u64::from(RATE)), "{made:?}");
    ensure!(lost(&cloud)? == 0);
    Ok(())
}

#[test]
fn a_full_disk_at_the_collector_fills_the_spool_and_what_did_not_fit_is_told_to_the_last_record() -> anyhow::Result<()>
{
    let (mut cloud, tenant) = recording(2000, &["--spool", "1MiB"])?;
    kill_collector(&mut cloud);
    let state = cloud.dir().join("c");
    let disk = SmallDisk::under(&state, "64m")?;
    cloud.start_collector()?;
    eventually("records come again", PATIENCE, || Some(()).filter(|()| taken(&cloud) > 0))?;
    let filler = state.join("filler");
    let fill = Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", filler.display())).output()?;
    ensure!(!fill.status.success(), "the disk did not fill");
    let refuses = || ask_collector(&cloud, "health").ok()?["not_taking"].as_str().map(str::to_owned);
    let why = eventually("the collector says that it cannot take records", PATIENCE, refuses)?;
    ensure!(why.contains("No space left on device"), "{why}");
    // 1 MiB is a few seconds of records.
    std::thread::sleep(Duration::from_secs(8));
    fs::remove_file(&filler)?;
    eventually("the losses are told", PATIENCE, || lost(&cloud).ok().filter(|lost| *lost > 0))
        .with_context(|| cloud.logs())?;
    the_api_tells_losses(&cloud, &tenant)?;
    end_agent(&mut cloud)?;
    let found = found(&tenant)?;
    let records = found.values().next().filter(|_| found.len() == 1).context("there was one agent")?;
    ensure!(records.values().all(|times| *times == 1), "some are kept more than once");
    let made = records.keys().next_back().map_or(0, |last| last + 1);
    let (kept, lost) = (records.len() as u64, lost(&cloud)?);
    ensure!(kept + lost == made, "{made} were made, {kept} kept and {lost} told as lost\n{}", cloud.logs());
    kill_collector(&mut cloud);
    drop(disk);
    Ok(())
}

/// To the tenant whose records they were without the host, to the operator with it, to nobody else.
fn the_api_tells_losses(cloud: &Cloud, tenant: &Api) -> anyhow::Result<()> {
    let path = "/v1/flows/losses";
    let (own, all) = (tenant.list(path)?, cloud.operator()?.list(path)?);
    ensure!(!own.is_empty() && own.iter().all(|loss| loss["account"] == *tenant.account && loss["host"].is_null()));
    ensure!(own.iter().all(|loss| loss["cause"] == "spool-full" && loss["records"].as_u64() > Some(0)), "{own:?}");
    ensure!(all.iter().any(|loss| loss["account"] == *tenant.account && loss["host"].is_string()), "{all:?}");
    ensure!(cloud.tenant("other")?.list(path)?.is_empty());
    let told = cloud.run(tenant, &["flow", "losses"])?;
    ensure!(told.contains("spool-full"), "{told}");
    Ok(())
}

fn taken(cloud: &Cloud) -> u64 {
    ask_collector(cloud, "health").ok().and_then(|health| health["taken"].as_u64()).unwrap_or(0)
}

/// The collector's folder on a small file system of the test's own, unmounted at its end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Puts it under the folder, with all that is in it.
    fn under(dir: &Path, size: &str) -> anyhow::Result<Self> {
        let aside = dir.with_extension("aside");
        fs::rename(dir, &aside)?;
        fs::create_dir(dir)?;
        let run = |command: &mut Command| -> anyhow::Result<()> {
            ensure!(command.status()?.success(), "{command:?} failed; this test needs root");
            Ok(())
        };
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir))?;
        let disk = Self(dir.to_owned());
        run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(dir))?;
        Ok(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// From the making of a record to whoever watches: through the switch's queue, spool, TLS, the collector's log and HTTP.
#[test]
fn a_watcher_sees_a_record_within_a_second_of_its_making() -> anyhow::Result<()> {
    let (cloud, tenant) = recording(20, &[])?;
    let watching = tenant.request(Method::GET, "/v1/flows/watch").send()?.error_for_status()?;
    let mut delays = Vec::new();
    let began = Instant::now();
    for line in BufReader::new(watching).lines() {
        let event: Value = serde_json::from_str(&line?)?;
        let made = event["record"]["end"].as_u64().with_context(|| format!("{event}"))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        delays.push(now.saturating_sub(Duration::from_micros(made)));
        if delays.len() == 200 || began.elapsed() > PATIENCE {
            break;
        }
    }
    ensure!(delays.len() == 200, "{} records came\n{}", delays.len(), cloud.logs());
    // Those that were made before the watch began are not what is measured.
    delays.drain(..20);
    delays.sort_unstable();
    let at = |percent: usize| delays[delays.len() * percent / 100];
    println!("from record to watcher: p50 {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99));
    ensure!(at(99) < Duration::from_secs(1), "p99 was {:?}", at(99));
    Ok(())
}
