//! Triggers as their users meet them: they fire because of what the hosts of this test tell of memory.

use super::*;

const PRESSED: &str = "metric:memory-pressure>80";

impl Scene {
    async fn trigger(&self, more: Value) -> String {
        let mut body = json!({"name": "pressed", "vpc": self.vpc, "on": PRESSED});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        path("triggers", &self.post("/v1/triggers", body).await)
    }

    /// Reports that memory is short, or is not, until the trigger has looked and `seen` holds of it.
    async fn pressed(&mut self, bucket: u64, trigger: &str, seen: impl Fn(&Value) -> bool) -> Value {
        self.hosts.iter_mut().for_each(|host| host.bucket = bucket);
        self.until(async |scene| Some(scene.get(trigger).await).filter(|shown| seen(shown))).await
    }

    /// Reports for longer than triggers take to look again.
    async fn goes_on(&self) {
        let begun = Instant::now();
        self.until(async |_| (begun.elapsed() > Duration::from_secs(5)).then_some(())).await;
    }

    async fn replicas(&self) -> Vec<Value> {
        items(&self.get("/v1/replicas").await["items"]).cloned().collect()
    }
}

#[tokio::test]
async fn a_trigger_makes_a_duplicate_and_a_recording_with_an_end_and_no_more_than_its_limit() {
    let mut scene = Scene::new().await;
    let order = json!({"terms": {"copy": "deep"}, "record_seconds": 60, "lasts_seconds": 7200});
    let trigger = scene.trigger(json!({"order": order})).await;
    scene.pressed(800, &trigger, |shown| shown["made"] == 0).await;
    let shown = scene.pressed(900, &trigger, |shown| shown["made"] == 1).await;
    let firing = &shown["firings"][0];
    assert_eq!(firing["cause"], json!({"kind": "above", "value": 90}));
    assert_eq!(firing["outcome"]["kind"], "made", "{firing}");
    let id = |field: &str| firing["outcome"][field].as_str().unwrap().to_owned();
    let replica = scene.reaches(&format!("/v1/replicas/{}", id("replica")), "available").await;
    assert_eq!((&replica["tags"]["lucarne:trigger"], &replica["terms"]["copy"]), (&shown["id"], &json!("deep")));
    let recording = scene.get(&format!("/v1/recordings/{}", id("recording"))).await;
    assert_eq!((&recording["vpc"], &recording["tags"]["Name"]), (&json!(scene.vpc), &json!("pressed")));
    let micros = |value: &Value| value.as_u64().unwrap();
    let started = micros(&recording["started"]);
    assert_eq!(micros(&recording["until"]) - started, 60_000_000);
    assert_eq!([&recording["expires"], &replica["expires"]].map(micros), [started + 7_200_000_000; 2]);

    // It is still as short of memory: nothing has happened. Then it falls and rises again.
    scene.goes_on().await;
    assert_eq!((&scene.get(&trigger).await["made"], &scene.get(&trigger).await["not_made"]), (&json!(1), &json!(0)));
    scene.hosts.iter_mut().for_each(|host| host.bucket = 0);
    scene.goes_on().await;
    let shown = scene.pressed(950, &trigger, |shown| shown["not_made"] == 1).await;
    assert_eq!(shown["firings"][0]["outcome"]["kind"], "limit-reached");
    assert_eq!((scene.replicas().await.len(), &shown["made"]), (1, &json!(1)));
    assert_eq!(
        code(&scene.cloud.delete(&scene.tenant, &format!("/v1/vpcs/{}", scene.vpc)).await),
        ErrorCode::DependencyViolation
    );
    assert_eq!(scene.cloud.delete(&scene.tenant, &trigger).await.0, 204);
    assert_eq!(scene.replicas().await.len(), 1, "what was made stays");
}

#[tokio::test]
async fn what_cannot_be_made_is_told_and_nothing_of_it_is_left() {
    let mut scene = Scene::new().await;
    let before = scene.census().await;
    let trigger = scene.trigger(json!({"order": {"record_seconds": 60}})).await;
    for _ in 0..20 {
        scene.post("/v1/recordings", json!({"vpc": scene.vpc})).await;
    }
    let shown = scene.pressed(900, &trigger, |shown| shown["not_made"] == 1).await;
    let outcome = &shown["firings"][0]["outcome"];
    assert_eq!((&outcome["kind"], &outcome["reason"]["code"]), (&json!("refused"), &json!("ResourceLimitExceeded")));
    assert_eq!((scene.census().await, scene.replicas().await.len()), (before, 0), "the duplicate was not made alone");
}

#[tokio::test]
async fn a_duplicate_that_then_fails_is_told_with_the_reason() {
    let mut scene = Scene::new().await;
    scene.hosts[0].fails = true;
    let trigger = scene.trigger(json!({})).await;
    let failed = |shown: &Value| shown["firings"][0]["outcome"]["kind"] == "failed";
    let shown = scene.pressed(900, &trigger, failed).await;
    let outcome = &shown["firings"][0]["outcome"];
    assert_eq!((&outcome["reason"]["code"], &outcome["recording"]), (&json!("HypervisorFailed"), &Value::Null));
}

#[tokio::test]
async fn a_controller_that_is_killed_when_a_trigger_fires_has_made_it_once() {
    let (mut controller, mut scene) = Killable::with_network().await;
    let trigger = scene.trigger(json!({"limit": {"most": 10, "seconds": 60}})).await;
    let shown = scene.pressed(900, &trigger, |shown| shown["made"] == 1).await;
    for _ in 0..2 {
        controller.kill().await;
        let (again, operator) = Killable::start(scene.cloud.dir.path()).await;
        controller = again;
        scene.cloud.operator = operator;
        scene.goes_on().await;
    }
    assert_eq!(scene.get(&trigger).await["firings"], shown["firings"]);
    assert_eq!(scene.replicas().await.len(), 1);
    scene.hosts.iter_mut().for_each(|host| host.until = Until::Running);
    let replica = shown["firings"][0]["outcome"]["replica"].as_str().unwrap();
    scene.reaches(&format!("/v1/replicas/{replica}"), "available").await;
}

#[tokio::test]
async fn an_order_that_cannot_be_is_refused_and_nobody_else_sees_one() {
    let cloud = start().await;
    let (mine, theirs) = (cloud.tenant("a").await, cloud.tenant("b").await);
    let (vpc, foreign) = (cloud.vpc(&mine).await, cloud.vpc(&theirs).await);
    let with = |field: &str, value: Value| {
        let mut body = json!({"name": "one", "vpc": vpc["id"], "on": "schedule:1d"});
        body[field] = value;
        body
    };
    for (field, value, expected) in [
        ("on", json!("schedule:1s"), ErrorCode::MalformedRequest),
        ("on", json!("finding:scanner-across-accounts"), ErrorCode::MalformedRequest),
        ("vpc", foreign["id"].clone(), ErrorCode::InvalidVpcNotFound),
        ("name", json!(" "), ErrorCode::InvalidParameterValue),
        ("limit", json!({"most": 0, "seconds": 60}), ErrorCode::InvalidParameterValue),
        ("limit", json!({"most": 1, "seconds": 0}), ErrorCode::InvalidParameterValue),
        ("order", json!({"record_seconds": 86_401}), ErrorCode::InvalidParameterValue),
        ("order", json!({"lasts_seconds": 0}), ErrorCode::InvalidParameterValue),
        (
            "order",
            json!({"terms": {"map": [{"from": "10.0.0.0/16", "to": "10.1.0.0/24"}]}}),
            ErrorCode::InvalidParameterValue,
        ),
    ] {
        let refused = cloud.post(&mine, "/v1/triggers", with(field, value.clone())).await;
        assert_eq!(code(&refused), expected, "{field} {value}");
    }
    let (status, made) = cloud.post(&mine, "/v1/triggers", with("name", json!("one"))).await;
    assert_eq!((status, made["limit"].clone()), (201, json!({"most": 1, "seconds": 3600})), "{made}");
    assert_eq!(made["due"].as_u64().unwrap() - made["created"].as_u64().unwrap(), 86_400_000_000);
    let again = cloud.post(&mine, "/v1/triggers", with("name", json!("one"))).await;
    assert_eq!(code(&again), ErrorCode::TriggerDuplicate);
    let at = path("triggers", &made);
    assert_eq!(code(&cloud.get(&theirs, &at).await), ErrorCode::InvalidTriggerNotFound);
    assert_eq!(code(&cloud.delete(&theirs, &at).await), ErrorCode::InvalidTriggerNotFound);
    assert_eq!(cloud.get(&theirs, "/v1/triggers").await.1["items"], json!([]));
}
