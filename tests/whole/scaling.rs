//! A scaling group of real machines: load inside the guest makes it grow, its end makes it shrink, and a controller that is killed in
//! between launches nothing twice.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually,
};
use serde_json::{Value, json};

const SLOW: Duration = Duration::from_secs(300);

struct Scene {
    cloud: Cloud,
    tenant: Api,
    group: String,
}

impl Scene {
    fn shown(&self) -> anyhow::Result<Value> {
        self.tenant.get(&format!("/v1/scaling-groups/{}", self.group))?.ok()
    }

    /// Waits until what is shown of the group is so.
    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        eventually(what, SLOW, || self.shown().ok().filter(&is))
            .with_context(|| format!("{:?}\n{}", self.shown(), self.cloud.logs()))
    }

    fn instances(shown: &Value) -> Vec<String> {
        let all = shown["instances"].as_array().into_iter().flatten();
        all.filter_map(|id| id.as_str().map(str::to_owned)).collect()
    }

    /// How many the account ever had: those that were terminated are still listed.
    fn ever(&self) -> anyhow::Result<usize> {
        Ok(self.tenant.list("/v1/instances")?.len())
    }

    fn runs(&self, instance: &str) -> anyhow::Result<()> {
        self.tenant.await_state(&format!("/v1/instances/{instance}"), "state", "running", SLOW).map(drop)
    }
}

fn value(shown: &Value) -> Option<u64> {
    shown["value"].as_u64()
}

#[test]
fn load_makes_a_group_grow_and_its_end_makes_it_shrink_across_a_kill_of_the_controller() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Qemu, 1)?;
    let tenant = cloud.tenant("first")?;
    let (image, (_, subnet)) = (cloud.tiny()?, tenant.network()?);
    // A guest that boots is busy: nothing follows the figure until it is done with that.
    let create =
        ["scaling-group", "create", "web", "--min", "1", "--max", "2", "--target", "cpu=25", "--subnet", &subnet];
    let launch = ["--image", &image, "--memory", "128M", "--cool-down", "1h", "--instance-tag", "tier=web", "--wait"];
    let group = cloud.run(&tenant, &[&create[..], &launch[..]].concat()).with_context(|| cloud.logs())?;
    let mut scene = Scene { cloud, tenant, group: group.trim().to_owned() };

    let calm = scene.until("the first guest is done with booting", |shown| value(shown).is_some_and(|it| it <= 12))?;
    let first = Scene::instances(&calm).first().cloned().context("it has an instance")?;
    let tags = scene.tenant.get(&format!("/v1/instances/{first}"))?.ok()?["tags"].clone();
    ensure!(tags == json!({"tier": "web", "lucarne:scaling-group": scene.group}), "{tags}");
    scene.cloud.run(&scene.tenant, &["scaling-group", "set", "web", "--cool-down", "1s"])?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(Scene::instances(&scene.shown()?) == [first.clone()], "nothing calls for another");

    // It dies when it has decided, and before it does anything about that.
    scene.cloud.kill_controller();
    scene.cloud.start_controller(Some("scale.decide.after"))?;
    scene.cloud.type_line(&scene.tenant, &first, "yes > /dev/null &")?;
    let controller = scene.cloud.controller.as_mut().context("there is a controller")?;
    controller.await_log("holding at scale.decide.after", SLOW)?;
    scene.cloud.kill_controller();
    scene.cloud.start_controller(None)?;
    let grown = scene.until("there are two", |shown| Scene::instances(shown).len() == 2)?;
    ensure!(grown["decisions"][0]["cause"]["kind"] == "figure", "{grown}");
    for instance in Scene::instances(&grown) {
        scene.runs(&instance).with_context(|| scene.cloud.logs())?;
    }
    ensure!(scene.ever()? == 2, "it was launched once: {grown}");

    scene.cloud.type_line(&scene.tenant, &first, "killall yes")?;
    let shrunk = scene.until("there is one again", |shown| Scene::instances(shown).len() == 1)?;
    ensure!(Scene::instances(&shrunk) == [first], "the older one stays: {shrunk}");
    ensure!(scene.ever()? == 2, "{shrunk}");
    let refused = scene.cloud.run(&scene.tenant, &["scaling-group", "delete", "web"]);
    ensure!(refused.is_err(), "it has an instance");
    scene.cloud.run(&scene.tenant, &["scaling-group", "delete", "web", "--force"])?;
    eventually("nothing runs", SLOW, || {
        let all = scene.tenant.list("/v1/instances").ok()?;
        all.iter().all(|one| one["state"] == "terminated").then_some(())
    })
    .with_context(|| scene.cloud.logs())
}
