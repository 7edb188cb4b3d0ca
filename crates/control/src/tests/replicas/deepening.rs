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
