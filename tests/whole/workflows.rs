//! Launch, termination and duplication across a kill -9 of the controller at every step, on hosts that simulate their machines.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually, image,
    process::Stopped,
};
use reqwest::Method;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// Room promised on all hosts, and all interfaces and volumes: what must be as before when nothing is left half-made.
fn room_and_leftovers(operator: &Api, tenant: &Api) -> anyhow::Result<Value> {
    let hosts: Vec<Value> = operator.list("/v1/hosts")?.into_iter().map(|host| host["used"].clone()).collect();
    let instances: Vec<Value> = operator.list("/v1/hosts")?.into_iter().map(|host| host["instances"].clone()).collect();
    Ok(json!([hosts, instances, tenant.list("/v1/interfaces")?, tenant.list("/v1/volumes")?]))
}

fn kill_at(
    cloud: &mut Cloud,
    point: &str,
    begin: impl FnOnce(&Cloud) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    cloud.kill_controller();
    cloud.start_controller(Some(point))?;
    let instance = begin(cloud)?;
    let controller = cloud.controller.as_mut().context("there is a controller")?;
    controller.await_log(&format!("holding at {point}"), PATIENCE)?;
    cloud.kill_controller();
    cloud.start_controller(None)?;
    Ok(instance)
}

#[test]
fn a_launch_and_a_termination_survive_a_kill_of_the_controller_at_every_step() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 2)?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let before = room_and_leftovers(&operator, &tenant)?;
    for step in ["launch.place", "launch.start", "terminate.shut-down", "terminate.release", "terminate.end"] {
        for edge in ["before", "after"] {
            let point = format!("{step}.{edge}");
            let launches = step.starts_with("launch");
            let launch = || tenant.launch(json!({"image": disk, "subnet": subnet}));
            let instance = if launches {
                kill_at(&mut cloud, &point, |_| launch())?
            } else {
                let instance = launch()?;
                tenant.await_state(&format!("/v1/instances/{instance}"), "state", "running", PATIENCE)?;
                kill_at(&mut cloud, &point, |_| {
                    tenant.delete(&format!("/v1/instances/{instance}"))?.ok()?;
                    Ok(instance.clone())
                })?
            };
            let path = format!("/v1/instances/{instance}");
            let run = || -> anyhow::Result<()> {
                if launches {
                    tenant.await_state(&path, "state", "running", PATIENCE)?;
                    tenant.delete(&path)?.ok()?;
                }
                tenant.await_state(&path, "state", "terminated", PATIENCE)?;
                nothing_is_left(&operator, &tenant, &before)
            };
            run().with_context(|| format!("after a kill at {point}")).with_context(|| cloud.logs())?;
        }
    }
    Ok(())
}

fn nothing_is_left(operator: &Api, tenant: &Api, before: &Value) -> anyhow::Result<()> {
    let mut after = Value::Null;
    eventually("everything is given back", PATIENCE, || {
        after = room_and_leftovers(operator, tenant).ok()?;
        (after == *before).then_some(())
    })
    .with_context(|| format!("left: {after}\nbefore: {before}"))
}

#[test]
fn a_launch_that_fails_is_undone_across_a_kill_at_every_step() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 1)?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let before = room_and_leftovers(&operator, &tenant)?;
    // More than any host has: the host is never chosen, and the launch is undone from its second step on.
    let too_large = json!({"image": disk, "subnet": subnet, "memory": 200u64 << 30});
    for point in [
        "launch.place.before",
        "launch.place.undo-before",
        "launch.place.undo-after",
        "launch.admit.undo-before",
        "launch.admit.undo-after",
    ] {
        let instance = kill_at(&mut cloud, point, |_| tenant.launch(too_large.clone()))?;
        let run = || -> anyhow::Result<()> {
            let ended = tenant.await_state(&format!("/v1/instances/{instance}"), "state", "terminated", PATIENCE)?;
            ensure!(ended.pointer("/state_reason/code") == Some(&json!("InsufficientInstanceCapacity")), "{ended}");
            nothing_is_left(&operator, &tenant, &before)
        };
        run().with_context(|| format!("after a kill at {point}")).with_context(|| cloud.logs())?;
    }
    Ok(())
}

/// A cloud of one host whose controller has begun a launch and stays before its host is known to run it.
struct HalfWay {
    cloud: Cloud,
    operator: Api,
    tenant: Api,
    instance: String,
    before: Value,
}

impl HalfWay {
    fn reach() -> anyhow::Result<Self> {
        let mut cloud = Cloud::start(Driver::Simulated, 1)?;
        let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
        let (_, subnet) = tenant.network()?;
        let disk = image::one_sector(&tenant)?;
        let before = room_and_leftovers(&operator, &tenant)?;
        cloud.kill_controller();
        cloud.start_controller(Some("launch.start.before"))?;
        let instance = tenant.launch(json!({"image": disk, "subnet": subnet}))?;
        let controller = cloud.controller.as_mut().context("there is a controller")?;
        controller.await_log("holding at launch.start.before", PATIENCE)?;
        Ok(Self { cloud, operator, tenant, instance, before })
    }

    fn path(&self) -> String {
        format!("/v1/instances/{}", self.instance)
    }

    fn restart_controller(&mut self) -> anyhow::Result<()> {
        self.cloud.kill_controller();
        self.cloud.start_controller(None)
    }

    fn nothing_is_left(&self) -> anyhow::Result<()> {
        nothing_is_left(&self.operator, &self.tenant, &self.before).with_context(|| self.cloud.logs())
    }
}

#[test]
fn a_launch_that_is_terminated_half_way_leaves_nothing() -> anyhow::Result<()> {
    let mut half = HalfWay::reach()?;
    half.tenant.delete(&half.path())?.ok()?;
    half.restart_controller()?;
    half.tenant.await_state(&half.path(), "state", "terminated", PATIENCE)?;
    half.nothing_is_left()
}

#[test]
fn a_host_that_vanishes_during_a_launch_ends_it_with_a_reason_and_is_told_when_it_comes_back() -> anyhow::Result<()> {
    let mut half = HalfWay::reach()?;
    // It runs on the host, and the controller does not know it yet.
    half.cloud.kill_host(0);
    half.restart_controller()?;
    let ended = half.tenant.await_state(&half.path(), "state", "terminated", PATIENCE);
    let ended = ended.with_context(|| half.cloud.logs())?;
    ensure!(ended.pointer("/state_reason/code") == Some(&json!("HostUnreachable")), "{ended}");
    half.cloud.start_host(0, |_| {})?;
    half.nothing_is_left()
}

#[test]
fn a_launch_whose_answer_was_lost_with_the_controller_is_not_done_twice() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 1)?;
    let tenant = cloud.tenant("first")?;
    let (_, subnet) = tenant.network()?;
    let image = image::fake(&tenant, false)?;
    cloud.kill_controller();
    cloud.start_controller(Some("launch.admit.after"))?;
    let launch = || {
        let request = tenant.request(Method::POST, "/v1/instances").header("idempotency-key", "one launch");
        Api::send(request.json(&json!({"image": image, "subnet": subnet})))
    };
    let lost = std::thread::scope(|scope| -> anyhow::Result<_> {
        let request = scope.spawn(launch);
        let controller = cloud.controller.as_mut().context("there is a controller")?;
        controller.await_log("holding at launch.admit.after", PATIENCE)?;
        cloud.kill_controller();
        Ok(request.join().expect("the request ended"))
    })?;
    ensure!(lost.is_err(), "an answer came from a controller that was killed: {lost:?}");
    cloud.start_controller(None)?;
    let again = launch()?.ok()?;
    let instance = again.pointer("/instances/0/id").and_then(Value::as_str).context("no instance")?;
    tenant.await_state(&format!("/v1/instances/{instance}"), "state", "running", PATIENCE)?;
    ensure!(tenant.list("/v1/instances")?.len() == 1, "the launch was done twice");
    Ok(())
}

/// A cloud of two hosts with an instance each, whose network is duplicated by one request, from its disks.
struct Duplicating {
    cloud: Cloud,
    operator: Api,
    tenant: Api,
    request: Value,
    sources: Vec<String>,
    before: Value,
}

impl Duplicating {
    fn new() -> anyhow::Result<Self> {
        let cloud = Cloud::start(Driver::Simulated, 2)?;
        let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
        cloud.hasten(&tenant)?;
        let (vpc, subnet) = tenant.network()?;
        let disk = image::one_sector(&tenant)?;
        let launch =
            |host: &Value| tenant.launch(json!({"image": disk, "subnet": subnet, "placement": {"host": host["id"]}}));
        let sources = operator.list("/v1/hosts")?.iter().map(launch).collect::<anyhow::Result<Vec<_>>>()?;
        for source in &sources {
            tenant.await_state(&format!("/v1/instances/{source}"), "state", "running", PATIENCE)?;
        }
        let before = room_and_leftovers(&operator, &tenant)?;
        let request = json!({"vpc": vpc, "terms": {"memory": "cold"}});
        Ok(Self { cloud, operator, tenant, request, sources, before })
    }

    /// The path of a replica that has just been asked for.
    fn create(&self) -> anyhow::Result<String> {
        Ok(format!("/v1/replicas/{}", self.tenant.make("/v1/replicas", self.request.clone(), "/id")?))
    }

    fn reaches(&self, replica: &str, state: &str) -> anyhow::Result<Value> {
        self.tenant.await_state(replica, "state", state, PATIENCE)
    }

    fn delete(&self, replica: &str) -> anyhow::Result<()> {
        self.tenant.delete(replica)?.ok().map(drop)
    }

    /// Whatever became of a duplicate, its source is as it was.
    fn nothing_is_left(&self) -> anyhow::Result<()> {
        nothing_is_left(&self.operator, &self.tenant, &self.before)?;
        for source in &self.sources {
            let shown = self.tenant.get(&format!("/v1/instances/{source}"))?.ok()?;
            ensure!(shown["state"] == "running", "{shown}");
        }
        Ok(())
    }

    fn hold_at(&mut self, point: &str) -> anyhow::Result<()> {
        self.cloud.kill_controller();
        self.cloud.start_controller(Some(point))
    }

    fn kill_when_held_at(&mut self, point: &str) -> anyhow::Result<()> {
        let controller = self.cloud.controller.as_mut().context("there is a controller")?;
        controller.await_log(&format!("holding at {point}"), PATIENCE)?;
        self.cloud.kill_controller();
        self.cloud.start_controller(None)
    }
}

#[test]
fn a_duplication_its_end_and_its_undoing_survive_a_kill_of_the_controller_at_every_step() -> anyhow::Result<()> {
    let mut it = Duplicating::new()?;
    let points = |steps: &[&str], edges: [&str; 2]| -> Vec<String> {
        steps.iter().flat_map(|step| edges.map(|edge| format!("{step}.{edge}"))).collect()
    };
    let edges = ["before", "after"];
    let making = ["prepare", "cut", "duplicate", "begin", "copy"].map(|step| format!("replicate.{step}"));
    for point in points(&making.each_ref().map(String::as_str), edges) {
        it.hold_at(&point)?;
        let replica = it.create()?;
        it.kill_when_held_at(&point)?;
        let run = || {
            it.reaches(&replica, "available")?;
            it.delete(&replica)?;
            it.reaches(&replica, "deleted")?;
            it.nothing_is_left()
        };
        run().with_context(|| format!("after a kill at {point}")).with_context(|| it.cloud.logs())?;
    }
    for point in points(&["end-replica.shut-down", "end-replica.end"], edges) {
        it.hold_at(&point)?;
        let replica = it.create()?;
        it.reaches(&replica, "available").with_context(|| it.cloud.logs())?;
        it.delete(&replica)?;
        it.kill_when_held_at(&point)?;
        let run = || it.reaches(&replica, "deleted").and_then(|_| it.nothing_is_left());
        run().with_context(|| format!("after a kill at {point}")).with_context(|| it.cloud.logs())?;
    }
    for point in points(&["replicate.prepare", "replicate.admit"], ["undo-before", "undo-after"]) {
        it.hold_at(&point)?;
        // So that it is not ready before it is given up.
        let host = it.cloud.hosts[1].as_ref().context("there is a host")?.pid();
        let stopped = Stopped::stop(host)?;
        let replica = it.create()?;
        it.delete(&replica)?;
        drop(stopped);
        it.kill_when_held_at(&point)?;
        let run = || it.reaches(&replica, "failed").and_then(|_| it.nothing_is_left());
        run().with_context(|| format!("after a kill at {point}")).with_context(|| it.cloud.logs())?;
    }
    without_room_or_a_free_name_nothing_is_made(&it)
}

fn without_room_or_a_free_name_nothing_is_made(it: &Duplicating) -> anyhow::Result<()> {
    let replica = it.create()?;
    let name = it.reaches(&replica, "available")?["name"].clone();
    let mut again = it.request.clone();
    again["name"] = name;
    let refused = it.tenant.post("/v1/replicas", &again)?;
    ensure!(refused.code() == "ReplicaAlreadyExists", "{refused:?}");
    it.delete(&replica)?;
    it.reaches(&replica, "deleted")?;
    it.nothing_is_left()?;

    let of_source = it.tenant.get(&format!("/v1/instances/{}", it.sources[0]))?.ok()?;
    let host = it.operator.list("/v1/hosts")?.into_iter().next().context("there is a host")?;
    let amount = |which: &str| host[which]["memory"].as_u64().with_context(|| format!("no memory {which}: {host}"));
    // All but less than the source has.
    let rest = (amount("capacity")? - amount("used")? - (64 << 20)) >> 20 << 20;
    let filler = json!({"image": of_source["image"], "subnet": of_source["subnet"], "memory": rest,
        "placement": {"host": host["id"]}, "tags": {"filler": "yes"}});
    let filler = it.tenant.launch(filler)?;
    it.tenant.await_state(&format!("/v1/instances/{filler}"), "state", "running", PATIENCE)?;
    let full = room_and_leftovers(&it.operator, &it.tenant)?;
    let mut without_it = it.request.clone();
    without_it["terms"]["exclude_tags"] = json!([{"key": "filler", "value": "yes"}]);
    let refused = it.tenant.post("/v1/replicas", &without_it)?;
    ensure!(refused.code() == "InsufficientInstanceCapacity", "{refused:?}");
    nothing_is_left(&it.operator, &it.tenant, &full)
}
