//! Instances that move from host to host: what runs in them goes on, once, whatever is killed meanwhile.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    download::{self, FETCHES, SERVES},
    eventually, image,
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const SLOW: Duration = Duration::from_secs(240);

fn host_of(operator: &Api, instance: &str) -> anyhow::Result<String> {
    let shown = operator.get(&format!("/v1/instances/{instance}"))?.ok()?;
    shown["host"].as_str().map(Into::into).with_context(|| format!("it has no host: {shown}"))
}

fn other_host(operator: &Api, host: &str) -> anyhow::Result<String> {
    let hosts = operator.list("/v1/hosts")?;
    let other = hosts.iter().filter_map(|other| other["id"].as_str()).find(|other| *other != host);
    other.map(Into::into).context("there is no other host")
}

/// How many lines the one that fetches has said to have last.
fn came(tenant: &Api, fetches: &str) -> anyhow::Result<u64> {
    Ok(download::came(tenant, fetches)?.pop().unwrap_or_default())
}

fn await_more(cloud: &Cloud, tenant: &Api, (serves, fetches): (&str, &str), more: u64) -> anyhow::Result<()> {
    let wanted = came(tenant, fetches)? + more;
    // Whether they have come or never will.
    let is_over = || (!matches!(came(tenant, fetches), Ok(lines) if lines < wanted)).then_some(());
    eventually("more lines come", SLOW, is_over)
        .with_context(|| format!("{:?}\n{:?}\n{}", tenant.log(serves), tenant.log(fetches), cloud.logs()))?;
    came(tenant, fetches).with_context(|| cloud.logs()).map(drop)
}

#[test]
fn a_download_goes_on_while_the_machine_that_serves_it_moves() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Qemu, 2)?;
    // So slowly that they are seen on their way, however fast this machine is.
    for host in 0..2 {
        cloud.kill_host(host);
        cloud.start_host(host, |command| {
            command.args(["--move-rate", "32MiB"]);
        })?;
    }
    let (operator, image, tenant) = (cloud.operator()?, cloud.tiny()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let launch = |address: &str, user_data: &str| {
        tenant.launch(json!({"image": image, "subnet": subnet, "memory": 128 * MIB, "address": address,
            "user_data": user_data}))
    };
    let (serves, fetches) = (launch("10.0.1.10", SERVES)?, launch("10.0.1.11", FETCHES)?);
    for instance in [&serves, &fetches] {
        tenant
            .await_state(&format!("/v1/instances/{instance}"), "state", "running", SLOW)
            .with_context(|| cloud.logs())?;
    }
    await_more(&cloud, &tenant, (&serves, &fetches), 20)?;

    let home = host_of(&operator, &serves)?;
    moves_and_is_seen_to(&cloud, &tenant, &serves)?;
    ensure!(host_of(&operator, &serves)? == other_host(&operator, &home)?, "it is where it was");
    let shown = tenant.get(&format!("/v1/instances/{serves}"))?.ok()?;
    ensure!(shown["state"] == "running" && shown["began"]["from"] == "cold", "{shown}");
    await_more(&cloud, &tenant, (&serves, &fetches), 100)?;

    let moved = || {
        let path = format!("/v1/flows?since=0&limit=1000&instance={serves}&end_reason=instance-migrated&port=80");
        let records = tenant.get(&path).ok()?.body["items"].as_array()?.clone();
        (!records.is_empty()).then_some(records)
    };
    let records = eventually("its flows are told to have moved", SLOW, moved).with_context(|| cloud.logs())?;
    let counts = |record: &Value| record["verdict"] == "accept" && record["packets"].as_u64() > Some(0);
    ensure!(records.iter().all(counts), "{records:?}");

    // Whose instance it is not, but whose hosts they are.
    let back = ["instance", "migrate", &serves, "--to", &home, "--wait", "--output", "json"];
    let job: Value = serde_json::from_str(&cloud.run(&operator, &back)?)?;
    ensure!(host_of(&operator, &serves)? == home, "it did not come back");
    ensure!(job["cause"] == "asked" && job["moved"]["to"] == *home, "{job}");
    await_more(&cloud, &tenant, (&serves, &fetches), 100)?;
    let jobs = tenant.list("/v1/jobs")?;
    let moves: Vec<&Value> = jobs.iter().map(|job| &job["moved"]).filter(|moved| !moved.is_null()).collect();
    ensure!(moves.len() == 2, "{jobs:?}");
    for moved in &moves {
        ensure!(moved["stood_still_millis"].is_u64() && moved["pages"].as_u64() > Some(1000), "{moved}");
        ensure!(
            moved["from"] != *home && moved["to"] != *home,
            "tenants do not learn which machine a host is: {moved}"
        );
    }
    println!("stood still for {:?} ms", moves.iter().map(|moved| &moved["stood_still_millis"]).collect::<Vec<_>>());
    let pages: u64 = moves.iter().filter_map(|moved| moved["pages"].as_u64()).sum();
    await_charged(&cloud, &tenant, pages)
}

/// Moves the instance, and sees meanwhile how far it has come.
fn moves_and_is_seen_to(cloud: &Cloud, tenant: &Api, instance: &str) -> anyhow::Result<()> {
    let job = tenant.make(&format!("/v1/instances/{instance}/migrate"), json!({}), "/id")?;
    let (mut seen, mut ended) = (Vec::new(), Value::Null);
    let over = || {
        let job = tenant.get(&format!("/v1/jobs/{job}")).ok()?.body;
        seen.extend(job["progress"].as_object().map(|way| Value::Object(way.clone())));
        ended = job;
        (ended["state"] == "done" || ended["state"] == "failed").then_some(())
    };
    eventually("the job is over", SLOW, over).with_context(|| cloud.logs())?;
    ensure!(ended["state"] == "done" && ended["progress"].is_null(), "{ended}");
    let octets = |way: &Value, which: &str| way["memory"][which].as_u64().unwrap_or_default();
    let is_on_its_way = |way: &&Value| octets(way, "sent") > 0 && octets(way, "left") < 128 * MIB;
    ensure!(seen.iter().any(|way| is_on_its_way(&way)), "nobody told how far it had come: {seen:?}");
    ensure!(seen.iter().all(|way| way["disks"] == json!({"sent": 0, "left": 0})), "it has no disks: {seen:?}");
    Ok(())
}

/// Waits until so many pages are on the bill as moved, and no others.
fn await_charged(cloud: &Cloud, tenant: &Api, pages: u64) -> anyhow::Result<()> {
    let mut usage = Value::Null;
    let charged = || {
        usage = tenant.get("/v1/usage").ok()?.body;
        let line = usage["lines"].as_array()?.iter().find(|line| line["item"] == "pages-moved")?;
        (line["count"].as_u64()? >= pages).then(|| line.clone())
    };
    let line = eventually("the moves are charged", PATIENCE, charged).with_context(|| cloud.logs())?;
    ensure!(line["count"] == pages && line["micros"].as_u64() > Some(0), "{line}");
    Ok(())
}

/// Hosts that simulate, and an instance that runs on one of them.
struct Bed {
    cloud: Cloud,
    operator: Api,
    tenant: Api,
    instance: String,
    home: String,
    away: String,
}

impl Bed {
    fn make() -> anyhow::Result<Self> {
        let cloud = Cloud::start(Driver::Simulated, 2)?;
        let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
        let (_, subnet) = tenant.network()?;
        let image = image::fake(&tenant, false)?;
        let instance = tenant.launch(json!({"image": image, "subnet": subnet, "memory": 64 * MIB}))?;
        tenant.await_state(&format!("/v1/instances/{instance}"), "state", "running", PATIENCE)?;
        let home = host_of(&operator, &instance)?;
        let away = other_host(&operator, &home)?;
        Ok(Self { cloud, operator, tenant, instance, home, away })
    }

    fn path(&self) -> String {
        format!("/v1/instances/{}/migrate", self.instance)
    }

    fn migrate(&self) -> anyhow::Result<String> {
        self.tenant.make(&self.path(), json!({}), "/id")
    }

    /// Which of the hosts' folders is the instance's.
    fn number(&self, host: &str) -> anyhow::Result<usize> {
        let name = self.operator.get(&format!("/v1/hosts/{host}"))?.ok()?["name"].clone();
        if name == "host-1" { Ok(0) } else { Ok(1) }
    }

    /// Waits for the job's end; gives its state.
    fn ended(&self, job: &str) -> anyhow::Result<Value> {
        let over = || {
            let job = self.tenant.get(&format!("/v1/jobs/{job}")).ok()?.body;
            (job["state"] == "done" || job["state"] == "failed").then_some(job)
        };
        eventually("the job is over", SLOW, over).with_context(|| self.cloud.logs())
    }

    /// Both hosts' promises: room for this one instance, on its own host and nowhere else.
    fn is_only_at(&self, host: &str) -> anyhow::Result<()> {
        let mut hosts = Vec::new();
        let alone = || {
            hosts = self.operator.list("/v1/hosts").ok()?;
            let right = |one: &Value| {
                let here = u64::from(one["id"] == host);
                one["instances"] == here && one["used"]["vcpus"] == here && one["used"]["memory"] == here * 64 * MIB
            };
            hosts.iter().all(right).then_some(())
        };
        eventually("only its host has promised room", SLOW, alone).with_context(|| format!("{hosts:?}"))?;
        ensure!(host_of(&self.operator, &self.instance)? == host);
        self.tenant.await_state(&format!("/v1/instances/{}", self.instance), "state", "running", PATIENCE)?;
        Ok(())
    }
}

#[test]
fn a_migration_survives_a_kill_of_the_controller_at_every_step() -> anyhow::Result<()> {
    let mut bed = Bed::make()?;
    for point in [
        "migrate.transfer.before",
        "migrate.transfer.after",
        "migrate.switch.after",
        "migrate.leave.before",
        "migrate.leave.after",
    ] {
        bed.cloud.kill_controller();
        bed.cloud.start_controller(Some(point))?;
        let job = bed.migrate()?;
        let controller = bed.cloud.controller.as_mut().context("there is a controller")?;
        controller.await_log(&format!("holding at {point}"), SLOW)?;
        bed.cloud.kill_controller();
        bed.cloud.start_controller(None)?;
        let job = bed.ended(&job)?;
        ensure!(job["state"] == "done", "after a kill at {point}: {job}");
        (bed.home, bed.away) = (bed.away.clone(), bed.home.clone());
        bed.is_only_at(&bed.home).with_context(|| format!("after a kill at {point}"))?;
    }
    Ok(())
}

/// Whichever agent is killed, in the middle or at the end of the way, the instance is on one host in the end, and runs.
#[test]
fn a_migration_is_finished_or_undone_when_either_agent_is_killed() -> anyhow::Result<()> {
    let mut bed = Bed::make()?;
    for (point, kills_target) in [
        ("migrate.transfer.before", true),
        ("migrate.transfer.before", false),
        ("migrate.switch.before", true),
        ("migrate.leave.before", false),
    ] {
        bed.cloud.kill_controller();
        bed.cloud.start_controller(Some(point))?;
        let job = bed.migrate()?;
        let controller = bed.cloud.controller.as_mut().context("there is a controller")?;
        controller.await_log(&format!("holding at {point}"), SLOW)?;
        let host = bed.number(if kills_target { &bed.away } else { &bed.home })?;
        bed.cloud.kill_host(host);
        bed.cloud.start_host(host, |_| {})?;
        bed.cloud.kill_controller();
        bed.cloud.start_controller(None)?;
        let job = bed.ended(&job)?;
        if job["state"] == "done" {
            (bed.home, bed.away) = (bed.away.clone(), bed.home.clone());
        }
        bed.is_only_at(&bed.home).with_context(|| format!("after {point}, target {kills_target}: {job}"))?;
    }
    Ok(())
}

#[test]
fn operators_and_owners_move_an_instance_and_others_do_not() -> anyhow::Result<()> {
    let bed = Bed::make()?;
    let stranger = bed.cloud.tenant("second")?;
    let refused = stranger.post(&bed.path(), &json!({}))?;
    ensure!((refused.status, &refused.body["code"]) == (404, &json!("InvalidInstanceId.NotFound")), "{refused:?}");
    let is_there = bed.operator.post(&bed.path(), &json!({"host": bed.home}))?;
    ensure!((is_there.status, &is_there.body["code"]) == (409, &json!("IncorrectState")), "{is_there:?}");
    let unknown = bed.tenant.post(&bed.path(), &json!({"host": "host-00000000000000001"}))?;
    ensure!(unknown.body["code"] == "InsufficientInstanceCapacity", "{unknown:?}");

    let job = bed.operator.make(&bed.path(), json!({"host": bed.away}), "/id")?;
    let job = bed.ended(&job)?;
    ensure!(job["state"] == "done" && job["moved"]["stood_still_millis"].is_u64(), "{job}");
    bed.is_only_at(&bed.away)?;
    let job = bed.migrate()?;
    ensure!(bed.ended(&job)?["state"] == "done");
    bed.is_only_at(&bed.home)
}
