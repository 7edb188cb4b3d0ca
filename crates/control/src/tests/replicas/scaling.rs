//! Scaling groups as their users meet them: they grow and shrink by what the hosts of this test tell.

use super::*;

impl Scene {
    fn order(&self, more: Value) -> Value {
        let template = json!({"image": self.image, "memory": 128 * MIB, "tags": {"tier": "web"}});
        let mut body = json!({"name": "web", "subnets": [self.subnet], "template": template, "min": 1, "max": 3,
            "target": "cpu=50", "cool_down_seconds": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    async fn group(&self, more: Value) -> String {
        path("scaling-groups", &self.post("/v1/scaling-groups", self.order(more)).await)
    }

    async fn edit(&self, group: &str, edit: Value) -> (u16, Value) {
        self.cloud.send(self.cloud.request(Method::PATCH, group, &self.tenant.token).json(&edit)).await
    }

    /// Reports that all instances are so busy, until the group has so many that run and nothing is left to do.
    async fn busy(&mut self, cpu: Option<u64>, group: &str, count: usize) -> Value {
        self.hosts.iter_mut().for_each(|host| host.cpu = cpu);
        self.until(async |scene| {
            let shown = scene.get(group).await;
            let there = items(&shown["instances"]).count() == count && shown["desired"] == count;
            (there && scene.running(&shown).await == count).then_some(shown)
        })
        .await
    }

    /// How many of its instances run.
    async fn running(&self, group: &Value) -> usize {
        let all = self.get("/v1/instances").await;
        let runs = |one: &&Value| one["state"] == "running" && items(&group["instances"]).any(|id| *id == one["id"]);
        items(&all["items"]).filter(runs).count()
    }

    /// Every instance that has not ended.
    async fn living(&self) -> Vec<Value> {
        let all = self.get("/v1/instances").await;
        let lives = |one: &&Value| one["state"] != "terminated" && one["state"] != "shutting-down";
        items(&all["items"]).filter(lives).map(|one| one["id"].clone()).collect()
    }

    async fn goes_on_for(&self, seconds: u64) {
        let begun = Instant::now();
        self.until(async |_| (begun.elapsed() > Duration::from_secs(seconds)).then_some(())).await;
    }
}

#[tokio::test]
async fn a_group_grows_while_its_instances_are_busy_and_shrinks_when_they_are_not() {
    let mut scene = Scene::bare(start().await).await;
    let other = json!({"vpc": scene.vpc, "cidr": "10.0.2.0/24"});
    let other = scene.post("/v1/subnets", other).await["id"].clone();
    let group = scene.group(json!({"subnets": [scene.subnet, other]})).await;
    let shown = scene.busy(Some(500), &group, 1).await;
    assert_eq!((&shown["decisions"][0]["cause"]["kind"], &shown["decisions"][0]["to"]), (&json!("bounds"), &json!(1)));

    // Twice what it should be: two would do, if each then had half of it. Here they stay as busy, so it grows to its bound.
    let shown = scene.busy(Some(1000), &group, 3).await;
    let decision = &shown["decisions"][0];
    assert_eq!((&decision["cause"]["kind"], &decision["cause"]["value"]), (&json!("figure"), &json!(100)), "{shown}");
    let all = scene.get("/v1/instances").await;
    let of_subnet = |subnet: &Value| items(&all["items"]).filter(|one| one["subnet"] == *subnet).count();
    let spread = [of_subnet(&json!(scene.subnet)), of_subnet(&other)];
    assert!(spread == [2, 1], "{spread:?}");
    assert!(items(&all["items"]).all(|one| one["tags"]["lucarne:scaling-group"] == shown["id"]));
    assert!(items(&all["items"]).all(|one| one["tags"]["tier"] == "web"));
    scene.goes_on_for(3).await;
    assert_eq!(scene.living().await.len(), 3, "no more than its bound");

    // Nobody tells of them: that is not idle.
    scene.hosts.iter_mut().for_each(|host| host.cpu = None);
    scene.goes_on_for(3).await;
    let shown = scene.get(&group).await;
    assert_eq!((&shown["waits"]["kind"], &shown["value"]), (&json!("figures"), &Value::Null));
    assert_eq!(scene.living().await.len(), 3);

    let shown = scene.busy(Some(10), &group, 1).await;
    assert_eq!((&shown["value"], scene.living().await), (&json!(1), vec![shown["instances"][0].clone()]));
    scene.goes_on_for(3).await;
    assert_eq!(scene.living().await.len(), 1, "no fewer than its bound");
}

#[tokio::test]
async fn the_size_follows_no_figure_while_it_cools_down_and_bounds_all_the_same() {
    let mut scene = Scene::bare(start().await).await;
    let group = scene.group(json!({"cool_down_seconds": 3600})).await;
    scene.busy(Some(1000), &group, 1).await;
    scene.goes_on_for(3).await;
    let shown = scene.get(&group).await;
    assert_eq!((&shown["waits"]["kind"], &shown["desired"]), (&json!("cool-down"), &json!(1)));
    assert_eq!(scene.edit(&group, json!({"min": 2})).await.0, 200);
    scene.busy(Some(1000), &group, 2).await;
    assert_eq!(scene.edit(&group, json!({"min": 0, "max": 0})).await.0, 200);
    scene.busy(Some(1000), &group, 0).await;
    assert_eq!(scene.cloud.delete(&scene.tenant, &group).await.0, 204);
}

#[tokio::test]
async fn instances_that_stop_or_are_ended_are_replaced() {
    let mut scene = Scene::bare(start().await).await;
    let group = scene.group(json!({"min": 2, "max": 2})).await;
    let shown = scene.busy(Some(0), &group, 2).await;
    let first = shown["instances"][0].clone();
    scene.hosts.iter_mut().for_each(|host| host.stopped.push(first.clone()));
    scene.until(async |scene| scene.gone(&group, &first).await).await;
    let shown = scene.busy(Some(0), &group, 2).await;
    let second = shown["instances"][0].clone();
    let at = format!("/v1/instances/{}", second.as_str().unwrap());
    assert_eq!(scene.cloud.delete(&scene.tenant, &at).await.0, 200);
    scene.until(async |scene| scene.gone(&group, &second).await).await;
    let shown = scene.busy(Some(0), &group, 2).await;
    let causes: Vec<&Value> = items(&shown["decisions"]).map(|one| &one["cause"]["kind"]).collect();
    assert!(causes.contains(&&json!("replacement")), "{shown}");
    scene.until(async |scene| (scene.living().await.len() == 2).then_some(())).await;
}

impl Scene {
    async fn gone(&self, group: &str, instance: &Value) -> Option<()> {
        let shown = self.get(group).await;
        (!items(&shown["instances"]).any(|one| one == instance)).then_some(())
    }
}

#[tokio::test]
async fn what_a_quota_refuses_is_told_and_not_tried_at_every_look() {
    let mut scene = Scene::bare(start().await).await;
    let operator = scene.cloud.operator().await;
    let account = format!("/v1/accounts/{}", scene.tenant.account);
    let mut quota = scene.cloud.get(&operator, &account).await.1["quota"].clone();
    quota["instances"] = json!(2);
    let set = scene.cloud.request(Method::PUT, &format!("{account}/quota"), &operator.token).json(&quota);
    assert_eq!(scene.cloud.send(set).await.0, 200);
    let refused = scene.cloud.post(&scene.tenant, "/v1/scaling-groups", scene.order(json!({"min": 3}))).await;
    assert_eq!(code(&refused), ErrorCode::ResourceLimitExceeded);
    assert_eq!((scene.living().await.len(), scene.get("/v1/scaling-groups").await["items"].clone()), (0, json!([])));

    let group = scene.group(json!({"min": 1})).await;
    scene.busy(Some(100), &group, 1).await;
    assert_eq!(scene.edit(&group, json!({"min": 3})).await.0, 200);
    let refused = |shown: &Value| shown["decisions"][0]["refused"]["code"] == "ResourceLimitExceeded";
    let shown = scene.until(async |scene| Some(scene.get(&group).await).filter(refused)).await;
    assert_eq!((&shown["waits"]["kind"], &shown["desired"]), (&json!("retry"), &json!(3)));
    scene.goes_on_for(7).await;
    let decisions = scene.get(&group).await["decisions"].clone();
    assert_eq!(items(&decisions).filter(|one| !one["refused"].is_null()).count(), 1, "{decisions}");
    quota["instances"] = json!(9);
    let set = scene.cloud.request(Method::PUT, &format!("{account}/quota"), &operator.token).json(&quota);
    assert_eq!(scene.cloud.send(set).await.0, 200);
    scene.busy(Some(100), &group, 3).await;
}

#[tokio::test]
async fn a_group_that_has_instances_is_deleted_only_with_them() {
    let mut scene = Scene::bare(start().await).await;
    let before = scene.census().await;
    let group = scene.group(json!({"min": 2})).await;
    scene.busy(Some(0), &group, 2).await;
    let refused = scene.cloud.delete(&scene.tenant, &group).await;
    assert_eq!(code(&refused), ErrorCode::DependencyViolation);
    assert!(refused.1["detail"].as_str().unwrap().contains("--force"), "{refused:?}");
    let subnet = scene.cloud.delete(&scene.tenant, &format!("/v1/subnets/{}", scene.subnet)).await;
    assert_eq!(code(&subnet), ErrorCode::DependencyViolation);
    assert_eq!(scene.cloud.delete(&scene.tenant, &format!("{group}?force=true")).await.0, 204);
    scene.until(async |scene| (scene.census().await == before).then_some(())).await;
    scene.goes_on_for(3).await;
    assert_eq!(scene.living().await.len(), 0, "nobody launches for a group that is gone");
}

#[tokio::test]
async fn a_controller_that_is_killed_while_a_group_changes_launches_once_and_loses_nothing() {
    let (mut controller, mut scene) = Killable::with_network().await;
    let strangers = scene.living().await;
    scene.hosts.iter_mut().for_each(|host| (host.until, host.cpu) = (Until::Running, Some(100)));
    let group = scene.group(json!({"max": 4, "cool_down_seconds": 1})).await;
    scene.busy(Some(100), &group, 1).await;
    for (cpu, count) in [(Some(1000), 4), (Some(10), 1)] {
        scene.hosts.iter_mut().for_each(|host| host.cpu = cpu);
        for _ in 0..3 {
            scene.goes_on_for(1).await;
            controller.kill().await;
            let (again, operator) = Killable::start(scene.cloud.dir.path()).await;
            controller = again;
            scene.cloud.operator = operator;
        }
        let shown = scene.busy(cpu, &group, count).await;
        let living = scene.living().await;
        let known = |id: &&Value| strangers.contains(id) || items(&shown["instances"]).any(|one| one == *id);
        assert!(living.iter().all(|id| known(&id)) && living.len() == strangers.len() + count, "{living:?} {shown}");
    }
}

#[tokio::test]
async fn a_group_is_made_anew_in_a_duplicate_with_its_instances_duplicates_and_goes_its_own_way() {
    let mut scene = Scene::bare(start().await).await;
    let security_group =
        scene.post("/v1/security-groups", json!({"vpc": scene.vpc, "name": "web"})).await["id"].clone();
    let template = json!({"image": scene.image, "memory": 128 * MIB, "security_groups": [security_group]});
    let group = scene.group(json!({"min": 2, "max": 5, "template": template})).await;
    let source = scene.busy(Some(450), &group, 2).await;
    let replica = scene.create("try", json!({})).await;
    let shown = scene.reaches(&replica, "available").await;
    let twin = |id: &Value| shown["objects"][id.as_str().unwrap()].clone();
    let at = format!("/v1/scaling-groups/{}", twin(&source["id"]).as_str().unwrap());
    let duplicate = scene.get(&at).await;
    let of = |field: &str| items(&source[field]).map(twin).collect::<Vec<_>>();
    assert_eq!((duplicate["vpc"].clone(), duplicate["name"].clone()), (shown["vpc"].clone(), json!("web")));
    assert_eq!([&duplicate["instances"], &duplicate["subnets"]], [&json!(of("instances")), &json!(of("subnets"))]);
    assert_eq!(duplicate["template"]["security_groups"], json!([twin(&security_group)]));
    let member = scene.get(&format!("/v1/instances/{}", duplicate["instances"][0].as_str().unwrap())).await;
    assert_eq!(member["tags"]["lucarne:scaling-group"], duplicate["id"]);
    assert_eq!(member["placement"]["group"], duplicate["id"]);
    let differences = format!("{replica}/differences");
    assert_eq!(scene.get(&differences).await["differences"], json!([]));

    assert_eq!(scene.edit(&at, json!({"min": 4})).await.0, 200);
    let grown = scene.busy(Some(450), &at, 4).await;
    assert_eq!(scene.get(&group).await["instances"], source["instances"], "the source's knows nothing of it");
    let all = scene.get("/v1/instances").await;
    let mut of_twin = items(&all["items"]).filter(|one| items(&grown["instances"]).any(|id| *id == one["id"]));
    assert!(of_twin.all(|one| one["vpc"] == shown["vpc"]));
    let told = scene.get(&differences).await["differences"].clone();
    let of_group = items(&told).find(|one| one["kind"] == "scaling-group").unwrap();
    let fields: Vec<_> = items(&of_group["fields"]).map(|field| field["field"].clone()).collect();
    assert_eq!(fields, [json!("desired"), json!("min")]);
    // A shallow duplicate draws on its source's instances: none of those can end, and the group says so.
    assert_eq!(scene.edit(&group, json!({"min": 0, "max": 1})).await.0, 200);
    scene.until(async |scene| (scene.get(&group).await["waits"]["kind"] == "replica").then_some(())).await;
    assert_eq!(scene.get(&group).await["instances"], source["instances"]);
    assert_eq!(scene.cloud.delete(&scene.tenant, &replica).await.0, 200);
    scene.reaches(&replica, "deleted").await;
    scene.busy(Some(450), &group, 1).await;
    let events = scene.get("/v1/events?kind=scaling-group-changed").await;
    assert!(items(&events["items"]).any(|event| event["resource"] == source["id"]), "{events}");
}

#[tokio::test]
async fn a_group_in_a_duplicate_ends_with_it_and_launches_nothing_anew() {
    let mut scene = Scene::new().await;
    let before = scene.census().await;
    let replica = scene.create("try", json!({})).await;
    let shown = scene.reaches(&replica, "available").await;
    let subnets = scene.get("/v1/subnets").await;
    let subnet = items(&subnets["items"]).find(|one| one["vpc"] == shown["vpc"]).unwrap()["id"].clone();
    let group = scene.group(json!({"subnets": [subnet], "min": 2})).await;
    scene.busy(Some(0), &group, 2).await;
    assert_eq!(scene.cloud.delete(&scene.tenant, &replica).await.0, 200);
    scene.reaches(&replica, "deleted").await;
    assert_eq!(code(&scene.cloud.get(&scene.tenant, &group).await), ErrorCode::InvalidScalingGroupNotFound);
    scene.until(async |scene| (scene.census().await == before).then_some(())).await;
}

#[tokio::test]
async fn a_group_that_cannot_be_is_refused_and_nobody_else_sees_one() {
    let mut scene = Scene::bare(start().await).await;
    let theirs = scene.cloud.tenant("b").await;
    let foreign = scene.cloud.vpc(&theirs).await;
    let elsewhere = json!({"vpc": foreign["id"], "cidr": "10.0.1.0/24"});
    let elsewhere = scene.cloud.post(&theirs, "/v1/subnets", elsewhere).await.1["id"].clone();
    let image = |memory: u64| json!({"image": scene.image, "memory": memory});
    for (more, expected) in [
        (json!({"target": "cpu=0"}), ErrorCode::MalformedRequest),
        (json!({"target": "weight=5"}), ErrorCode::MalformedRequest),
        (json!({"subnets": []}), ErrorCode::InvalidParameterValue),
        (json!({"subnets": [scene.subnet, scene.subnet]}), ErrorCode::InvalidParameterValue),
        (json!({"subnets": [elsewhere]}), ErrorCode::InvalidSubnetNotFound),
        (json!({"min": 4}), ErrorCode::InvalidParameterValue),
        (json!({"max": 101}), ErrorCode::InvalidParameterValue),
        (json!({"name": " "}), ErrorCode::InvalidParameterValue),
        (json!({"cool_down_seconds": 86_401}), ErrorCode::InvalidParameterValue),
        (json!({"template": image(1)}), ErrorCode::InvalidParameterValue),
    ] {
        let refused = scene.cloud.post(&scene.tenant, "/v1/scaling-groups", scene.order(more.clone())).await;
        assert_eq!(code(&refused), expected, "{more} {refused:?}");
    }
    let group = scene.group(json!({})).await;
    scene.busy(Some(0), &group, 1).await;
    let again = scene.cloud.post(&scene.tenant, "/v1/scaling-groups", scene.order(json!({}))).await;
    assert_eq!(code(&again), ErrorCode::ScalingGroupDuplicate);
    assert_eq!(code(&scene.edit(&group, json!({"min": 9})).await), ErrorCode::InvalidParameterValue);
    assert_eq!(code(&scene.cloud.get(&theirs, &group).await), ErrorCode::InvalidScalingGroupNotFound);
    let forced = scene.cloud.delete(&theirs, &format!("{group}?force=true")).await;
    assert_eq!(code(&forced), ErrorCode::InvalidScalingGroupNotFound);
    assert_eq!(scene.cloud.get(&theirs, "/v1/scaling-groups").await.1["items"], json!([]));
}
