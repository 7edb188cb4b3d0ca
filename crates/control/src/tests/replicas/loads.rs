//! Loads as their users and their hosts meet them, and what becomes of one when something else goes away in the middle of it.

use super::*;

/// A duplicate that is there, and its instance that is asked.
struct Stage {
    replica: String,
    vpc: Value,
    asked: Value,
}

/// What a host tells of one that goes on; so many were answered.
fn running(load: &Value, answered: u64) -> Value {
    json!({"id": load["id"], "stage": {"kind": "running", "report": report(answered)}})
}

fn report(answered: u64) -> Value {
    let failed = json!({"refused": 0, "reset": 0, "timed_out": 1, "status": 2, "broken": 0});
    let latency =
        json!({"count": answered, "p50_micros": 100, "p90_micros": 200, "p99_micros": 300, "most_micros": 400});
    let late = json!({"count": answered + 3, "p50_micros": 1, "p99_micros": 2, "most_micros": 3});
    json!({"elapsed_millis": 1000, "sent": answered + 3, "answered": answered, "failed": failed, "open": 0, "unsent": 0,
        "octets_sent": 10, "octets_answered": 20, "answers_per_second": answered, "octets_per_second": 20,
        "latency": latency, "timing_error": late, "statuses": [{"status": 404, "count": 2}],
        "series": [{"from": 0, "seconds": 1, "sent": answered + 3, "answered": answered, "failed": 3}]})
}

impl Scene {
    async fn stage(&self) -> Stage {
        let replica = self.create("try", json!({})).await;
        let shown = self.reaches(&replica, "available").await;
        let asked = self
            .until(async |scene| {
                let twin = scene.instance(&shown["vpc"], "web").await;
                (twin["state"] == "running").then_some(twin)
            })
            .await;
        Stage { replica, vpc: shown["vpc"].clone(), asked }
    }

    fn load_order(&self, stage: &Stage, more: Value) -> Value {
        let mut body =
            json!({"replica": id_of(&stage.replica), "to": stage.asked["id"], "port": 80, "kind": "http", "rate": 20});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    async fn load(&self, stage: &Stage, more: Value) -> Value {
        self.post("/v1/loads", self.load_order(stage, more)).await
    }

    async fn told(&self, at: usize, load: &Value) -> Value {
        let desired = self.hosts[at].desired(&self.cloud).await;
        items(&desired["loads"]).find(|one| one["id"] == load["id"]).cloned().unwrap_or_default()
    }

    /// Which host has who is asked.
    async fn place(&self, load: &Value) -> usize {
        let told = [self.told(0, load).await, self.told(1, load).await];
        told.iter().position(|told| !told.is_null()).expect("a host is told of it")
    }

    async fn load_is(&self, load: &Value, state: &str) -> Value {
        let at = path("loads", load);
        self.until(async |scene| Some(scene.get(&at).await).filter(|shown| shown["state"] == state)).await
    }
}

#[tokio::test]
async fn a_load_is_asked_at_the_host_of_its_target_by_clients_in_the_duplicate_alone() {
    let mut scene = Scene::new().await;
    let stage = scene.stage().await;
    let load = scene.load(&stage, json!({"clients": 2})).await;
    assert_eq!((&load["state"], &load["address"]), (&json!("preparing"), &stage.asked["address"]));
    assert_eq!(load["sources"], json!(["10.0.1.254", "10.0.1.253"]));
    let second = scene.load(&stage, json!({"from": "internet", "kind": "udp"})).await;
    assert_eq!((&second["sources"], &second["terms"]["size"]), (&json!(["198.18.0.4"]), &json!(32)));
    let at = scene.place(&load).await;
    let desired = scene.hosts[at].desired(&scene.cloud).await;
    let told = scene.told(at, &load).await["state"].clone();
    assert_eq!((&told["kind"], &told["vpc"], &told["terms"]["rate"]), (&json!("asked"), &stage.vpc, &json!(20)));
    let named = |vpc: &Value| items(&desired["networks"]).find(|one| one["vpc"] == *vpc).cloned().unwrap_or_default();
    let [twin, source] = [&stage.vpc, &json!(scene.vpc)].map(named);
    for port in items(&told["ports"]) {
        let is = |one: &&Value| one["interface"] == port["interface"];
        let place = items(&twin["endpoints"]).find(is).expect("it stands in the duplicate");
        assert_eq!((&place["host"], &place["groups"]), (&json!(scene.hosts[at].id), &stage.asked["security_groups"]));
        assert!(!items(&source["endpoints"]).any(|one| is(&one)));
    }
    assert_eq!(items(&told["ports"]).count(), 2);

    scene.hosts[at].loads = vec![running(&load, 7), running(&second, 1)];
    let shown = scene.load_is(&load, "running").await;
    assert_eq!((&shown["report"], shown["began"].is_number()), (&report(7), true));
    let listed = scene.get("/v1/loads").await;
    assert!(items(&listed["items"]).all(|one| one["report"]["series"] == json!([])), "a list is short");
    scene.hosts[at].loads[0]["stage"] = json!({"kind": "done", "report": report(9)});
    let shown = scene.load_is(&load, "done").await;
    assert_eq!((&shown["report"], &shown["state_reason"]), (&report(9), &Value::Null));
    let gone = |told: &Value| told["state"]["kind"] == "absent";
    assert!(gone(&scene.told(at, &load).await) && !gone(&scene.told(at, &second).await));
    let (_, stopped) = scene.cloud.post(&scene.tenant, &format!("{}/stop", path("loads", &second)), Value::Null).await;
    assert_eq!((&stopped["state"], &stopped["report"]["answered"]), (&json!("stopped"), &json!(1)));
    assert_eq!(scene.cloud.delete(&scene.tenant, &path("loads", &load)).await.0, 204);
}

#[tokio::test]
async fn nobody_is_asked_who_is_not_in_the_duplicate_and_nothing_without_bounds() {
    let scene = Scene::new().await;
    let stage = scene.stage().await;
    let source = scene.instance(&json!(scene.vpc), "web").await;
    for (more, expected) in [
        (json!({"to": source["id"]}), ErrorCode::LoadTargetNotInReplica),
        (json!({"to": "10.0.1.99"}), ErrorCode::LoadTargetNotInReplica),
        (json!({"from": source["id"]}), ErrorCode::LoadTargetNotInReplica),
        (json!({"to": "i-00000000000000001"}), ErrorCode::InvalidInstanceNotFound),
        (json!({"replica": "rep-00000000000000001"}), ErrorCode::InvalidReplicaNotFound),
        (json!({"to": "web"}), ErrorCode::MalformedRequest),
        (json!({"rate": 0}), ErrorCode::InvalidParameterValue),
        (json!({"rate": 10_001}), ErrorCode::InvalidParameterValue),
        (json!({"clients": 1001}), ErrorCode::InvalidParameterValue),
        (json!({"seconds": 3601}), ErrorCode::InvalidParameterValue),
        (json!({"size": (1 << 20) + 1}), ErrorCode::InvalidParameterValue),
        (json!({"kind": "udp", "size": 1373}), ErrorCode::InvalidParameterValue),
        (json!({"path": "/a\r\nHost: other"}), ErrorCode::InvalidParameterValue),
        (json!({"kind": "tcp", "path": "/"}), ErrorCode::InvalidParameterValue),
    ] {
        let refused = scene.cloud.post(&scene.tenant, "/v1/loads", scene.load_order(&stage, more.clone())).await;
        assert_eq!(code(&refused), expected, "{more}");
    }
    for _ in 0..4 {
        scene.load(&stage, json!({"clients": 1000})).await;
    }
    let refused = scene.cloud.post(&scene.tenant, "/v1/loads", scene.load_order(&stage, json!({}))).await;
    assert_eq!(code(&refused), ErrorCode::ResourceLimitExceeded);
    let all = scene.get("/v1/loads").await;
    let sources: Vec<&Value> = items(&all["items"]).flat_map(|load| items(&load["sources"])).collect();
    let different: std::collections::BTreeSet<&str> = sources.iter().filter_map(|one| one.as_str()).collect();
    assert_eq!((sources.len(), different.len()), (64, 64), "no two clients have one address");
}

#[tokio::test]
async fn a_load_outlives_a_kill_of_its_controller_with_what_was_told_of_it() {
    let (mut controller, mut scene) = Killable::with_network().await;
    scene.hosts.iter_mut().for_each(|host| host.until = Until::Running);
    let stage = scene.stage().await;
    let load = scene.load(&stage, json!({"seconds": 600})).await;
    let at = scene.place(&load).await;
    scene.hosts[at].loads = vec![running(&load, 7)];
    scene.load_is(&load, "running").await;
    controller.kill().await;
    let (again, operator) = Killable::start(scene.cloud.dir.path()).await;
    controller = again;
    scene.cloud.operator = operator;
    let shown = scene.get(&path("loads", &load)).await;
    assert_eq!((&shown["state"], &shown["report"]), (&json!("running"), &report(7)));
    assert_eq!(scene.told(at, &load).await["state"]["kind"], "asked", "it goes on");
    scene.hosts[at].loads = vec![json!({"id": load["id"], "stage": {"kind": "done", "report": report(9)}})];
    assert_eq!(scene.load_is(&load, "done").await["report"], report(9));
    controller.kill().await;
}

#[tokio::test]
async fn a_load_fails_with_its_duplicate_and_its_host_is_told_to_leave_it() {
    let mut scene = Scene::new().await;
    let stage = scene.stage().await;
    let load = scene.load(&stage, json!({})).await;
    let at = scene.place(&load).await;
    scene.hosts[at].loads = vec![running(&load, 7)];
    scene.load_is(&load, "running").await;
    assert_eq!(scene.cloud.delete(&scene.tenant, &stage.replica).await.0, 200);
    let shown = scene.get(&path("loads", &load)).await;
    let (state, reason) = (&shown["state"], &shown["state_reason"]["code"]);
    assert_eq!((state, reason, &shown["report"]), (&json!("failed"), &json!("InvalidReplicaId.NotFound"), &report(7)));
    scene.until(async |scene| (scene.told(at, &load).await["state"]["kind"] == "absent").then_some(())).await;
    // The host tells what it had begun to say: that changes nothing.
    assert_eq!(scene.get(&path("loads", &load)).await["ended"], shown["ended"]);
    scene.hosts[at].loads.clear();
    scene.reaches(&stage.replica, "deleted").await;
}

#[tokio::test]
async fn a_load_whose_host_falls_silent_has_failed_and_one_whose_host_says_so_too() {
    let cloud = start_with(|settings| settings.host_timeout = Duration::from_secs(3)).await;
    let mut scene = Scene::bare(cloud).await;
    scene.furnish().await;
    let stage = scene.stage().await;
    let load = scene.load(&stage, json!({})).await;
    let at = scene.place(&load).await;
    let reason = json!({"code": "HostUnreachable", "message": "the host's agent was ended while it played"});
    scene.hosts[at].loads = vec![json!({"id": load["id"], "stage": {"kind": "failed", "reason": reason}})];
    assert_eq!(scene.load_is(&load, "failed").await["state_reason"], reason);

    let load = scene.load(&stage, json!({})).await;
    scene.hosts[at].loads = vec![running(&load, 7)];
    scene.load_is(&load, "running").await;
    scene.hosts[at].silent = true;
    let shown = scene.load_is(&load, "failed").await;
    assert_eq!((&shown["state_reason"]["code"], &shown["report"]), (&json!("HostUnreachable"), &report(7)));
}
