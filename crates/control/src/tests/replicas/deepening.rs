//! Shallow replicas that are made deep afterwards.

use super::*;

impl Scene {
    /// A shallow replica, that draws on its source as long as its hosts say so.
    async fn shallow(&mut self) -> (String, Value) {
        self.hosts.iter_mut().for_each(|host| (host.snapshot, host.draws) = (10, true));
        let replica = self.create("try", json!({})).await;
        let shown = self.reaches(&replica, "available").await;
        (replica, shown)
    }

    async fn deepen(&self, replica: &str) -> (u16, Value) {
        self.cloud.post(&self.tenant, &format!("{replica}/deepen"), json!({})).await
    }

    /// What hosts are told of how duplicates are copied.
    async fn copies(&self) -> Vec<Value> {
        let mut copies = Vec::new();
        for host in &self.hosts {
            let told = host.desired(&self.cloud).await;
            copies.extend(items(&told["instances"]).map(|one| one["duplicate"]["copy"].clone()));
            copies.extend(items(&told["volumes"]).map(|one| one["content"]["copy"].clone()));
        }
        copies.retain(|copy| !copy.is_null());
        copies
    }
}

#[tokio::test]
async fn a_shallow_replica_is_made_deep_while_it_runs_and_then_outlives_its_source() {
    let mut scene = Scene::new().await;
    let (replica, shown) = scene.shallow().await;
    assert_eq!(scene.copies().await, ["shallow"; 3], "of two instances and a volume");
    let (status, deepening) = scene.deepen(&replica).await;
    assert_eq!((status, &deepening["state"]), (200, &json!("copying")), "{deepening}");
    assert_eq!(scene.job(&deepening).await["kind"], "deepen-replica");
    scene.until(async |scene| (scene.job(&deepening).await["step"] == "copy").then_some(())).await;
    assert_eq!(scene.copies().await, ["deep"; 3]);
    assert_eq!(scene.deepen(&replica).await.1["job"], deepening["job"], "to ask again is no error");
    let source = path("instances", &scene.instance(&json!(scene.vpc), "web").await);
    assert_eq!(code(&scene.cloud.delete(&scene.tenant, &source).await), ErrorCode::ReplicaDependsOnSource);

    // The one without the other is not enough.
    scene.hosts.iter_mut().for_each(|host| host.snapshot = 0);
    scene.report().await;
    scene.report().await;
    assert_eq!(scene.get(&replica).await["state"], "copying");
    scene.hosts.iter_mut().for_each(|host| host.draws = false);
    let whole = scene.reaches(&replica, "available").await;
    assert_eq!((&whole["vpc"], &whole["terms"]["copy"]), (&shown["vpc"], &json!("deep")));
    scene.until(async |scene| (scene.job(&whole).await["state"] == "done").then_some(())).await;
    assert_eq!(scene.hosts[0].desired(&scene.cloud).await["cuts"], json!([]));
    assert_eq!(scene.cloud.delete(&scene.tenant, &source).await.0, 200);
    assert_eq!(scene.deepen(&replica).await.1["job"], whole["job"], "it draws on nothing");
    assert_eq!(scene.post(&format!("{replica}/promote"), json!({})).await["state"], "promoted");
}

#[tokio::test]
async fn what_a_stopped_duplicate_had_in_memory_is_not_waited_for() {
    let mut scene = Scene::new().await;
    let (replica, shown) = scene.shallow().await;
    for tier in ["web", "data"] {
        let duplicate = path("instances", &scene.instance(&shown["vpc"], tier).await);
        scene.post(&format!("{duplicate}/stop"), json!({"force": true})).await;
        scene.until(async |scene| (scene.get(&duplicate).await["state"] == "stopped").then_some(())).await;
    }
    scene.hosts.iter_mut().for_each(|host| host.draws = false);
    assert_eq!(scene.deepen(&replica).await.0, 200);
    scene.reaches(&replica, "available").await;
}

#[tokio::test]
async fn one_that_is_deleted_before_it_is_whole_is_ended_as_any() {
    let mut scene = Scene::new().await;
    let before = scene.census().await;
    let (replica, _) = scene.shallow().await;
    let (_, deepening) = scene.deepen(&replica).await;
    scene.until(async |scene| (scene.job(&deepening).await["step"] == "copy").then_some(())).await;
    assert_eq!(scene.cloud.delete(&scene.tenant, &replica).await.0, 200);
    let gone = scene.reaches(&replica, "deleted").await;
    assert_eq!(gone["state_reason"], Value::Null);
    let job = scene.job(&deepening).await;
    assert_eq!(job["state"], "failed");
    assert!(job["reason"]["message"].as_str().unwrap().contains("before it was whole"), "{job}");
    scene.until(async |scene| (scene.census().await == before).then_some(())).await;
    assert_eq!(code(&scene.deepen(&replica).await), ErrorCode::IncorrectState);
}

#[tokio::test]
async fn a_controller_that_is_killed_takes_the_deepening_up_again() {
    let (mut controller, mut scene) = Killable::with_network().await;
    scene.hosts.iter_mut().for_each(|host| host.until = Until::Running);
    let (replica, _) = scene.shallow().await;
    assert_eq!(scene.deepen(&replica).await.0, 200);
    for (snapshot, draws) in [(10, true), (0, true), (0, false)] {
        controller.kill().await;
        let (again, operator) = Killable::start(scene.cloud.dir.path()).await;
        controller = again;
        scene.cloud.operator = operator;
        scene.hosts.iter_mut().for_each(|host| (host.snapshot, host.draws) = (snapshot, draws));
        scene.report().await;
    }
    scene.reaches(&replica, "available").await;
    assert_eq!(scene.copies().await, ["deep"; 3]);
}

impl Scene {
    /// What draws on the source has all of it now.
    fn is_whole(&mut self) {
        self.hosts.iter_mut().for_each(|host| (host.snapshot, host.draws) = (0, false));
    }

    async fn end(&self, path: &str) -> (u16, Value) {
        self.cloud.delete(&self.tenant, &format!("{path}?deepen_duplicates=true")).await
    }

    /// The job that ends an instance.
    async fn ending(&self, instance: &str) -> Value {
        let jobs = self.get("/v1/jobs").await;
        let is = |job: &&Value| job["kind"] == "terminate" && job["instance"] == id_of(instance);
        items(&jobs["items"]).find(is).cloned().unwrap_or_default()
    }
}

#[tokio::test]
async fn a_source_that_is_to_end_waits_until_its_duplicates_are_deep_and_ends_by_itself() {
    let mut scene = Scene::new().await;
    let (replica, _) = scene.shallow().await;
    let source = path("instances", &scene.instance(&json!(scene.vpc), "web").await);
    let (status, ending) = scene.end(&source).await;
    assert_eq!((status, &ending["state"]), (200, &json!("running")), "{ending}");
    assert_eq!(scene.end(&source).await.0, 200, "to ask again is no error");
    assert_eq!(scene.ending(&source).await["step"], "deepen-duplicates");
    let shown = scene.get(&replica).await;
    assert_eq!((&shown["state"], &scene.job(&shown).await["kind"]), (&json!("copying"), &json!("deepen-replica")));
    // It is as running as any other meanwhile.
    scene.post(&format!("{source}/stop"), json!({"force": true})).await;
    scene.until(async |scene| (scene.get(&source).await["state"] == "stopped").then_some(())).await;
    scene.post(&format!("{source}/start"), json!({})).await;
    scene.until(async |scene| (scene.get(&source).await["state"] == "running").then_some(())).await;
    scene.is_whole();
    scene.reaches(&replica, "available").await;
    scene.until(async |scene| (scene.get(&source).await["state"] == "terminated").then_some(())).await;
    let ended = scene.ending(&source).await;
    assert_eq!((&ended["state"], &ended["step"]), (&json!("done"), &json!("end")));
    let other = path("instances", &scene.instance(&json!(scene.vpc), "data").await);
    assert_eq!(scene.end(&other).await.1["state"], "shutting-down", "nothing draws on it");
}

#[tokio::test]
async fn an_end_that_waits_survives_the_controller_and_comes_too_if_the_duplicate_is_deleted() {
    let (controller, mut scene) = Killable::with_network().await;
    scene.hosts.iter_mut().for_each(|host| host.until = Until::Running);
    let (replica, _) = scene.shallow().await;
    let source = path("instances", &scene.instance(&json!(scene.vpc), "web").await);
    assert_eq!(scene.end(&source).await.0, 200);
    controller.kill().await;
    let (_controller, operator) = Killable::start(scene.cloud.dir.path()).await;
    scene.cloud.operator = operator;
    scene.report().await;
    assert_eq!(scene.get(&source).await["state"], "running");
    assert_eq!(scene.cloud.delete(&scene.tenant, &replica).await.0, 200);
    scene.reaches(&replica, "deleted").await;
    scene.until(async |scene| (scene.get(&source).await["state"] == "terminated").then_some(())).await;
}

/// Nobody has the volume any more, nor is anything in the network, when they are to go.
#[tokio::test]
async fn a_volume_and_a_network_go_by_themselves_when_nothing_draws_on_them() {
    let mut scene = Scene::new().await;
    let (replica, _) = scene.shallow().await;
    let source = scene.instance(&json!(scene.vpc), "web").await;
    let volume = format!("/v1/volumes/{}", source["volumes"][0]["volume"].as_str().unwrap());
    scene.post(&format!("{volume}/detach"), json!({})).await;
    scene.until(async |scene| (scene.get(&volume).await["state"] == "available").then_some(())).await;
    assert_eq!(code(&scene.cloud.delete(&scene.tenant, &volume).await), ErrorCode::ReplicaDependsOnSource);
    assert_eq!(scene.end(&volume).await.0, 204);
    assert_eq!(scene.end(&volume).await.0, 204, "to ask again is no error");
    assert_eq!(scene.get(&volume).await["state"], "deleting");
    let told = async |scene: &Scene| {
        let mut told = Vec::new();
        for host in &scene.hosts {
            told.extend(items(&host.desired(&scene.cloud).await["volumes"]).cloned());
        }
        told.into_iter().find(|one| one["id"] == id_of(&volume))
    };
    assert_eq!(told(&scene).await.unwrap()["present"], true, "what is drawn on is not deleted");
    let vpc = format!("/v1/vpcs/{}", scene.vpc);
    assert_eq!(code(&scene.end(&vpc).await), ErrorCode::DependencyViolation, "it has a subnet");
    scene.is_whole();
    scene.reaches(&replica, "available").await;
    scene.until(async |scene| (scene.cloud.get(&scene.tenant, &volume).await.0 == 404).then_some(())).await;
}

#[tokio::test]
async fn an_empty_network_that_is_drawn_on_goes_when_its_duplicate_is_deep() {
    let mut scene = Scene::new().await;
    scene.hosts.iter_mut().for_each(|host| host.draws = true);
    let replica = scene.create("cold", json!({"memory": "cold"})).await;
    scene.reaches(&replica, "available").await;
    for tier in ["web", "data"] {
        let source = path("instances", &scene.instance(&json!(scene.vpc), tier).await);
        assert_eq!(scene.cloud.delete(&scene.tenant, &source).await.0, 200, "its memory is not drawn on");
        scene.until(async |scene| (scene.get(&source).await["state"] == "terminated").then_some(())).await;
    }
    assert_eq!(scene.cloud.delete(&scene.tenant, &format!("/v1/subnets/{}", scene.subnet)).await.0, 204);
    let vpc = format!("/v1/vpcs/{}", scene.vpc);
    assert_eq!(code(&scene.cloud.delete(&scene.tenant, &vpc).await), ErrorCode::ReplicaDependsOnSource);
    assert_eq!(scene.end(&vpc).await.0, 204);
    assert_eq!(scene.cloud.get(&scene.tenant, &vpc).await.0, 200);
    scene.is_whole();
    scene.reaches(&replica, "available").await;
    assert_eq!(scene.cloud.get(&scene.tenant, &vpc).await.0, 404);
}
