//! What dies while a running network is duplicated harms neither it nor, once there is one, its duplicate: agents and controllers are
//! killed around the cut of two real machines on two hosts, between which lines go over one connection.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    download::{self, FETCHES, SERVES},
    eventually,
    process::Stopped,
};
use serde_json::{Value, json};

const SLOW: Duration = Duration::from_secs(240);
/// How often it is looked whether a host takes a cut, which it does for so long only.
const LOOK: Duration = Duration::from_millis(2);

struct Scene {
    cloud: Cloud,
    tenant: Api,
    vpc: String,
    fetches: String,
}

impl Scene {
    /// `serves` is at the first host, `fetches` at the second.
    fn new() -> anyhow::Result<Self> {
        let cloud = Cloud::start(Driver::Qemu, 2)?;
        let tenant = cloud.tenant("first")?;
        let (vpc, [_, fetches]) = cloud.network_of_two(&tenant, [("10.0.1.10", SERVES), ("10.0.1.11", FETCHES)])?;
        Ok(Self { cloud, tenant, vpc, fetches })
    }

    fn came(&self, fetches: &str) -> anyhow::Result<u64> {
        Ok(download::came(&self.tenant, fetches)?.pop().unwrap_or_default())
    }

    /// Waits until so many more lines have come to the instance, none missing.
    fn goes_on(&self, fetches: &str, more: u64) -> anyhow::Result<()> {
        let wanted = self.came(fetches).with_context(|| self.cloud.logs())? + more;
        // Whether they have come or never will.
        let is_over = || (!matches!(self.came(fetches), Ok(lines) if lines < wanted)).then_some(());
        eventually("more lines come", SLOW, is_over)
            .with_context(|| format!("{:?}\n{}", self.tenant.log(fetches), self.cloud.logs()))?;
        self.came(fetches).with_context(|| self.cloud.logs()).map(drop)
    }

    fn create(&self, vpc: &str, name: &str) -> anyhow::Result<String> {
        Ok(format!("/v1/replicas/{}", self.tenant.make("/v1/replicas", json!({"vpc": vpc, "name": name}), "/id")?))
    }

    fn reaches(&self, replica: &str, state: &str) -> anyhow::Result<Value> {
        self.tenant.await_state(replica, "state", state, SLOW).with_context(|| self.cloud.logs())
    }

    fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.cloud.run(&self.tenant, &["replica", "delete", name, "--wait"]).map(drop)
    }

    /// Whether a file of this name is in the folder of some cut of a host.
    fn has_of_cut(&self, host: usize, name: &str) -> bool {
        let cuts = fs::read_dir(self.cloud.host_dir(host).join("cuts")).into_iter().flatten().flatten();
        cuts.into_iter().any(|cut| cut.path().join(name).exists())
    }

    fn await_of_cut(&self, host: usize, name: &str) -> anyhow::Result<()> {
        let end = std::time::Instant::now() + SLOW;
        while !self.has_of_cut(host, name) {
            ensure!(std::time::Instant::now() < end, "{name} of a cut never came\n{}", self.cloud.logs());
            sleep(LOOK);
        }
        Ok(())
    }
}

#[test]
fn whoever_is_killed_while_a_network_is_duplicated_its_connections_go_on() -> anyhow::Result<()> {
    let mut scene = Scene::new()?;
    scene.goes_on(&scene.fetches, 40)?;
    an_agent_is_killed_and_its_host_lost_in_the_middle_of_the_cut(&mut scene)?;
    a_controller_is_killed_when_it_has_asked_for_the_cut(&mut scene)?;
    a_duplicate_is_duplicated_and_the_first_waits_for_the_second(&scene)
}

/// The second host's machine is being stopped for the cut when its agent dies, so that it stands still and nobody is there who could let
/// it go on, until there is an agent again. The first host, whose machine stood still with it, does not wait for that.
fn an_agent_is_killed_and_its_host_lost_in_the_middle_of_the_cut(scene: &mut Scene) -> anyhow::Result<()> {
    let machine = *scene.cloud.machines(1).first().context("a machine runs there")?;
    let stopped = Stopped::stop(machine)?;
    let replica = scene.create(&scene.vpc, "lost")?;
    scene.await_of_cut(1, "taking.json")?;
    // Its agent has asked it to stop, or is about to: what that asks is heard when it can hear again.
    sleep(Duration::from_millis(500));
    scene.cloud.kill_host(1);
    drop(stopped);
    scene.reaches(&replica, "failed")?;
    scene.cloud.start_host(1, |_| {})?;
    scene.goes_on(&scene.fetches, 60)
}

/// Both hosts take the cut of which they were told, and their machines go on by themselves while there is no controller; the next one finds
/// what they took, and what was changed meanwhile in the source is not in the duplicate.
fn a_controller_is_killed_when_it_has_asked_for_the_cut(scene: &mut Scene) -> anyhow::Result<()> {
    let point = "replicate.prepare.before";
    scene.cloud.kill_controller();
    scene.cloud.start_controller(Some(point))?;
    let replica = scene.create(&scene.vpc, "one")?;
    let controller = scene.cloud.controller.as_mut().context("there is a controller")?;
    controller.await_log(&format!("holding at {point}"), SLOW)?;
    let name = json!({"vpc": scene.vpc, "name": "one"});
    let refused = scene.tenant.post("/v1/replicas", &name)?;
    ensure!(refused.code() == "ReplicaAlreadyExists", "{refused:?}");
    let refused = scene.tenant.delete(&format!("/v1/instances/{}", scene.fetches))?;
    ensure!(refused.code() == "ReplicaDependsOnSource", "{refused:?}");
    let group = scene.tenant.make("/v1/security-groups", json!({"vpc": scene.vpc, "name": "later"}), "/id")?;

    let point = "replicate.prepare.after";
    scene.cloud.kill_controller();
    scene.cloud.start_controller(Some(point))?;
    for host in [0, 1] {
        scene.await_of_cut(host, "cut.json")?;
    }
    scene.cloud.kill_controller();
    sleep(Duration::from_secs(2));
    scene.cloud.start_controller(None)?;
    let made = scene.reaches(&replica, "available")?;
    ensure!(made["objects"].get(&group).is_none(), "{made}");
    let twin = made["objects"][&scene.fetches].as_str().context("it has a duplicate")?;
    scene.goes_on(twin, 60)?;
    scene.goes_on(&scene.fetches, 60)
}

/// While the first draws on its source and the second on the first.
fn a_duplicate_is_duplicated_and_the_first_waits_for_the_second(scene: &Scene) -> anyhow::Result<()> {
    let first = scene.tenant.list("/v1/replicas")?.into_iter().find(|one| one["name"] == "one");
    let first = first.context("the first is there")?;
    let vpc = first["vpc"].as_str().context("it has a network")?;
    let second = scene.reaches(&scene.create(vpc, "two")?, "available")?;
    let twin = |replica: &Value, of: &str| replica["objects"][of].as_str().map(str::to_owned).context("a duplicate");
    let of_first = twin(&first, &scene.fetches)?;
    let of_second = twin(&second, &of_first)?;
    for fetches in [&of_second, &of_first, &scene.fetches] {
        scene.goes_on(fetches, 60)?;
    }
    let id = first["id"].as_str().context("it has an id")?;
    let refused = scene.tenant.delete(&format!("/v1/replicas/{id}"))?;
    ensure!(refused.code() == "ReplicaDependsOnSource", "{refused:?}");
    scene.delete("two")?;
    scene.goes_on(&of_first, 20)?;
    scene.delete("one")?;
    scene.goes_on(&scene.fetches, 20)
}
