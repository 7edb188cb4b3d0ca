//! Replicas as their users meet them; the hosts here are this test, which plays what it is told.

mod deepening;
mod loads;
mod scaling;
mod triggers;

use super::{memory::image, *};

const MIB: u64 = 1 << 20;

/// How far a host goes with what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Until {
    Nothing,
    Ready,
    Taken,
    Standing,
    Running,
}

/// A host that plays its desired state, up to where it holds.
struct Host {
    id: String,
    key: String,
    until: Until,
    /// It says of the cut that it failed.
    fails: bool,
    silent: bool,
    /// Pages that its duplicates still draw from their sources.
    snapshot: u64,
    /// Its duplicated volumes are overlays.
    draws: bool,
    /// How full its instances' buckets are, in thousandths.
    bucket: u64,
    /// What it tells of loads.
    loads: Vec<Value>,
    /// How busy its instances are, in thousandths; none: it does not tell.
    cpu: Option<u64>,
    /// Instances that have stopped by themselves.
    stopped: Vec<Value>,
}

struct Scene {
    cloud: Cloud,
    tenant: User,
    vpc: String,
    subnet: String,
    image: Value,
    hosts: Vec<Host>,
}

async fn host(cloud: &Cloud, name: &str) -> Host {
    let capacity = json!({"vcpus": 16, "memory": 1024 * MIB, "disk": 1 << 30});
    let description = json!({"name": name, "address": "127.0.0.1", "tunnel_port": 1, "peer_port": 2, "public_key": name,
        "capacity": capacity, "hypervisor": "a test"});
    let body = json!({"join_token": cloud.operator.join_token, "host": description});
    let (status, enrolled) = cloud.send(cloud.request(Method::POST, "/v1/host/enrol", "").json(&body)).await;
    assert_eq!(status, 201, "{enrolled}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (id, key) = (text(&enrolled["host"]), text(&enrolled["host_key"]));
    Host {
        id,
        key,
        until: Until::Running,
        fails: false,
        silent: false,
        snapshot: 0,
        draws: false,
        bucket: 0,
        loads: Vec::new(),
        cpu: None,
        stopped: Vec::new(),
    }
}

fn id_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

impl Host {
    fn instance(&self, wanted: &Value) -> Option<Value> {
        let duplicate = &wanted["duplicate"];
        let state = match wanted["power"].as_str().unwrap() {
            "absent" => "absent",
            "stopped" | "off" => "stopped",
            _ if self.stopped.contains(&wanted["id"]) => "stopped",
            _ if duplicate.is_null() => "running",
            _ if self.until < Until::Standing => return None,
            _ if duplicate["begin"] == true && self.until >= Until::Running => "running",
            _ => "ready",
        };
        Some(json!({"id": wanted["id"], "generation": wanted["generation"], "state": state, "reason": null,
            "volumes": wanted["volumes"]}))
    }

    fn cut(&self, wanted: &Value) -> Value {
        let failure = json!({"code": "HypervisorFailed", "message": "a VM did not stop"});
        let still = json!({"pause_micros": 9000, "devices": 300_000});
        let instances: serde_json::Map<String, Value> = wanted["instances"]
            .as_object()
            .map(|all| all.keys().map(|source| (source.clone(), still.clone())).collect())
            .unwrap_or_default();
        let progress = match wanted["take"] == true {
            _ if self.fails => json!({"state": "failed", "reason": failure}),
            true if self.until >= Until::Taken => {
                json!({"state": "taken", "at": 1_000_000, "instances": instances, "frames": 2})
            }
            _ if self.until >= Until::Ready => json!({"state": "ready"}),
            _ => json!({"state": "preparing"}),
        };
        json!({"replica": wanted["replica"], "progress": progress})
    }

    fn memory(&self, wanted: &Value) -> Value {
        let pages = json!({"untouched": 100, "same_filled": 0, "resident": 10, "compressed": 0, "ssd": 0, "remote": 0,
            "snapshot": if wanted["duplicate"].is_null() { 0 } else { self.snapshot }});
        json!({"instance": wanted["id"], "at": 1, "mode": "generic", "state": "active", "pages": pages, "target": null,
            "bucket": self.bucket, "faults": [], "evictions": 0, "refaults": 0, "pager_restarts": 0, "trouble": null})
    }

    async fn report(&self, cloud: &Cloud) {
        let desired = self.desired(cloud).await;
        let all = &desired["instances"];
        let copied = |one: &Value| (one["content"]["kind"] == "duplicate").then_some(8192);
        let draws = |one: &Value| self.draws && one["content"]["kind"] == "duplicate";
        let volume = |one: &Value| json!({"id": one["id"], "present": one["present"], "reason": null, "copied": copied(one), "draws": draws(one)});
        let memory = json!({"total": MIB, "resident": 0, "compressed": 0, "shared": 0, "overhead": 0, "pool": 0,
            "free": MIB, "paging": {"kind": "available"}, "cpu_weights": {"kind": "available"}});
        let report = json!({"version": desired["version"],
            "capacity": {"vcpus": 16, "memory": 1024 * MIB, "disk": 1 << 30},
            "instances": items(all).filter_map(|one| self.instance(one)).collect::<Vec<_>>(),
            "volumes": items(&desired["volumes"]).map(volume).collect::<Vec<_>>(),
            "snapshots": [], "dropped_frames": {}, "loads": self.loads,
            "memory": {"host": memory, "instances": items(all).map(|one| self.memory(one)).collect::<Vec<_>>(), "wishes": []},
            "figures": items(all).map(|one| json!({"instance": one["id"], "cpu_thousandths": self.cpu})).collect::<Vec<_>>(),
            "cuts": items(&desired["cuts"]).map(|one| self.cut(one)).collect::<Vec<_>>()});
        let sent = cloud.send(cloud.request(Method::POST, "/v1/host/report", &self.key).json(&report)).await;
        assert_eq!(sent.0, 204, "{sent:?}");
    }

    async fn desired(&self, cloud: &Cloud) -> Value {
        let asked = cloud.request(Method::GET, "/v1/host/desired?wait_millis=20000", &self.key);
        cloud.send(asked).await.1["desired"].clone()
    }
}

impl Scene {
    /// A network of two hosts, an instance on each, the first with a volume.
    async fn new() -> Self {
        let mut scene = Self::bare(start().await).await;
        scene.furnish().await;
        scene
    }

    async fn bare(cloud: Cloud) -> Self {
        let tenant = cloud.tenant("a").await;
        let vpc = cloud.vpc(&tenant).await["id"].as_str().unwrap().to_owned();
        let (_, subnet) = cloud.post(&tenant, "/v1/subnets", json!({"vpc": vpc, "cidr": "10.0.1.0/24"})).await;
        let image = image(&cloud, &tenant).await;
        let hosts = vec![host(&cloud, "one").await, host(&cloud, "other").await];
        let subnet = subnet["id"].as_str().unwrap().to_owned();
        let scene = Self { cloud, tenant, vpc, subnet, image, hosts };
        scene.report().await;
        scene
    }

    async fn furnish(&mut self) {
        let volume = self.post("/v1/volumes", json!({"size": 64 * MIB})).await["id"].clone();
        let tag = |tier: &str| json!({"tier": tier});
        for (volumes, tags) in [(json!([volume]), tag("web")), (json!([]), tag("data"))] {
            let launch = json!({"image": self.image, "subnet": self.subnet, "memory": 128 * MIB, "volumes": volumes,
                "tags": tags});
            let launched = self.post("/v1/instances", launch).await;
            let instance = path("instances", &launched["instances"][0]);
            self.until(async |scene| (scene.get(&instance).await["state"] == "running").then_some(())).await;
        }
        self.until(async |scene| {
            let volumes = scene.get("/v1/volumes").await;
            items(&volumes["items"]).all(|one| one["state"] == "in-use").then_some(())
        })
        .await;
    }

    async fn report(&self) {
        for host in self.hosts.iter().filter(|host| !host.silent) {
            host.report(&self.cloud).await;
        }
    }

    /// Reports until `seen` has something.
    async fn until<T>(&self, seen: impl AsyncFn(&Self) -> Option<T>) -> T {
        let looks = async {
            loop {
                self.report().await;
                if let Some(seen) = seen(self).await {
                    return seen;
                }
                // Slowly enough for the rate that an account may ask at.
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(60), looks).await.expect("it comes about")
    }

    async fn get(&self, path: &str) -> Value {
        self.cloud.get(&self.tenant, path).await.1
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.cloud.post(&self.tenant, path, body).await;
        assert!((200..300).contains(&status), "{path}: {answer}");
        answer
    }

    async fn refusal(&self, body: Value) -> (ErrorCode, String) {
        let refused = self.cloud.post(&self.tenant, "/v1/replicas", body).await;
        (code(&refused), refused.1["detail"].as_str().unwrap().to_owned())
    }

    async fn create(&self, name: &str, terms: Value) -> String {
        path("replicas", &self.post("/v1/replicas", json!({"vpc": self.vpc, "name": name, "terms": terms})).await)
    }

    async fn reaches(&self, replica: &str, state: &str) -> Value {
        self.until(async |scene| {
            let shown = scene.get(replica).await;
            let over = ["failed", "deleted"].iter().any(|end| shown["state"] == *end && state != *end);
            assert!(!over, "{shown}");
            (shown["state"] == state).then_some(shown)
        })
        .await
    }

    async fn job(&self, replica: &Value) -> Value {
        self.get(&format!("/v1/jobs/{}", replica["job"].as_str().unwrap())).await
    }

    /// How many of each kind there are that have not ended.
    async fn census(&self) -> Vec<usize> {
        let mut counts = Vec::new();
        for kind in
            ["vpcs", "subnets", "route-tables", "network-acls", "security-groups", "interfaces", "volumes", "instances"]
        {
            let all = self.get(&format!("/v1/{kind}")).await;
            counts.push(items(&all["items"]).filter(|one| one["state"] != "terminated").count());
        }
        counts
    }

    async fn used(&self) -> Vec<Value> {
        let operator = self.cloud.operator().await;
        let hosts = self.cloud.get(&operator, "/v1/hosts").await.1;
        items(&hosts["items"]).map(|host| host["used"].clone()).collect()
    }

    /// The instances of a network that have not ended, by the tag that tells their tier.
    async fn instance(&self, vpc: &Value, tier: &str) -> Value {
        let all = self.get("/v1/instances").await;
        let is = |one: &&Value| one["vpc"] == *vpc && one["tags"]["tier"] == tier && one["state"] != "terminated";
        items(&all["items"]).find(is).cloned().unwrap_or_default()
    }
}

#[tokio::test]
async fn a_plan_shows_what_would_be_made_and_makes_nothing() {
    let scene = Scene::new().await;
    let before = scene.census().await;
    let plan = scene.post("/v1/replicas/plan", json!({"vpc": scene.vpc})).await;
    let kinds: Vec<&str> = items(&plan["objects"]).filter_map(|one| one["kind"].as_str()).collect();
    for (kind, count) in [("vpc", 1), ("subnet", 1), ("instance", 2), ("volume", 1), ("network-interface", 2)] {
        assert_eq!(kinds.iter().filter(|one| **one == kind).count(), count, "{kind}");
    }
    assert_eq!(items(&plan["stages"]).map(|stage| items(stage).count()).sum::<usize>(), kinds.len() + 2);
    assert_eq!((&plan["left_out"], &plan["broken"]), (&json!([]), &json!([])));
    assert!(plan["estimate"]["millis_until_running"].as_u64().unwrap() > 0);
    let web = json!({"include_tags": [{"key": "tier", "value": "web"}]});
    let plan = scene.post("/v1/replicas/plan", json!({"vpc": scene.vpc, "terms": web})).await;
    assert_eq!(items(&plan["left_out"]).filter(|one| one["cause"]["kind"] == "not-included").count(), 1);
    assert_eq!(scene.census().await, before);
}

#[tokio::test]
async fn a_running_network_is_duplicated_and_its_duplicate_goes_on_at_once() {
    let mut scene = Scene::new().await;
    let before = scene.census().await;
    for host in &mut scene.hosts {
        host.until = Until::Ready;
    }
    let replica = scene.create("try", json!({})).await;
    let told = async |scene: &Scene, at: usize| scene.hosts[at].desired(&scene.cloud).await;
    let cut = scene
        .until(async |scene| Some(told(scene, 0).await["cuts"][0].clone()).filter(|cut| cut["take"] == true))
        .await;
    assert_eq!((&cut["vpc"], &cut["hosts"]), (&json!(scene.vpc), &json!([scene.hosts[1].id])));
    assert_eq!(
        cut["instances"].as_object().unwrap().len()
            + told(&scene, 1).await["cuts"][0]["instances"].as_object().unwrap().len(),
        2
    );
    for at in [0, 1] {
        let told = told(&scene, at).await;
        assert!(items(&told["instances"]).all(|one| one["duplicate"].is_null()), "none is told of before the cut");
        assert!(items(&told["volumes"]).all(|one| one["content"]["kind"] != "duplicate"));
        assert_eq!(told["networks"].as_array().unwrap().len(), 1);
    }
    scene.hosts.iter_mut().for_each(|host| host.until = Until::Standing);
    scene
        .until(async |scene| {
            let all = [told(scene, 0).await, told(scene, 1).await];
            let begun = |all: &Value| items(&all["instances"]).any(|one| one["duplicate"]["begin"] == true);
            all.iter().all(begun).then_some(())
        })
        .await;
    let told_of = told(&scene, 0).await["instances"].clone();
    let twin = items(&told_of).find(|one| !one["duplicate"].is_null()).unwrap();
    let origin = json!({"source": twin["duplicate"]["source"], "replica": id_of(&replica), "cut": 1_000_000});
    assert_eq!(twin["origin"], origin);
    assert!(items(&told_of).any(|one| one["origin"].is_null()), "a source is no duplicate");
    scene.hosts.iter_mut().for_each(|host| host.until = Until::Running);
    let shown = scene.reaches(&replica, "available").await;
    scene.until(async |scene| (scene.job(&shown).await["state"] == "done").then_some(())).await;
    assert_eq!(shown["copied"], 2 * 10 * 4096, "ten resident pages each");
    assert_eq!(shown["copied_of_disks"], 8192, "of the one volume");
    assert!(shown["instances"].as_object().unwrap().values().all(|one| one["pause_micros"] == 9000));

    let (source, duplicate) =
        (scene.instance(&json!(scene.vpc), "web").await, scene.instance(&shown["vpc"], "web").await);
    for same in ["address", "mac", "image", "memory", "host", "state"] {
        assert_eq!(source[same], duplicate[same], "{same}");
    }
    assert_ne!(source["id"], duplicate["id"]);
    assert_eq!(duplicate["tags"]["lucarne:duplicate-of"], source["id"]);
    let volumes = scene.get("/v1/volumes").await;
    assert!(items(&volumes["items"]).all(|one| one["state"] == "in-use"));
    assert_eq!(scene.census().await, before.iter().map(|count| 2 * count).collect::<Vec<_>>());
    let (one, other) = (
        scene.get(&format!("/v1/vpcs/{}", scene.vpc)).await,
        scene.get(&format!("/v1/vpcs/{}", shown["vpc"].as_str().unwrap())).await,
    );
    assert_eq!(one["cidr"], other["cidr"]);
    assert_ne!(one["vni"], other["vni"]);
}

#[tokio::test]
async fn a_replica_is_deleted_with_all_in_it_and_leaves_its_source_as_it_was() {
    let scene = Scene::new().await;
    let (before, used) = (scene.census().await, scene.used().await);
    let replica = scene.create("try", json!({})).await;
    let shown = scene.reaches(&replica, "available").await;
    // What was launched into it goes with it.
    let subnets = scene.get("/v1/subnets").await;
    let subnet = items(&subnets["items"]).find(|one| one["vpc"] == shown["vpc"]).unwrap();
    let launch = json!({"image": scene.image, "subnet": subnet["id"], "memory": 128 * MIB});
    let extra = path("instances", &scene.post("/v1/instances", launch).await["instances"][0]);
    scene.until(async |scene| (scene.get(&extra).await["state"] == "running").then_some(())).await;
    scene.post("/v1/recordings", json!({"vpc": shown["vpc"]})).await;
    let (status, _) = scene.cloud.delete(&scene.tenant, &replica).await;
    assert_eq!(status, 200);
    let gone = scene.reaches(&replica, "deleted").await;
    assert_eq!(scene.job(&gone).await["kind"], "end-replica");
    scene.until(async |scene| (scene.census().await == before).then_some(())).await;
    assert_eq!(scene.used().await, used);
    assert_eq!(scene.hosts[0].desired(&scene.cloud).await["cuts"], json!([]));
    scene.create("try", json!({})).await;
}

#[tokio::test]
async fn what_a_replica_draws_on_cannot_go_before_it() {
    let scene = Scene::new().await;
    let replica = scene.create("try", json!({})).await;
    scene.reaches(&replica, "available").await;
    let source = scene.instance(&json!(scene.vpc), "web").await;
    let at = path("instances", &source);
    let refused = scene.cloud.delete(&scene.tenant, &at).await;
    assert_eq!(code(&refused), ErrorCode::ReplicaDependsOnSource);
    assert!(refused.1["detail"].as_str().unwrap().contains("lucarne replica delete"), "{refused:?}");
    let moved = scene.cloud.post(&scene.tenant, &format!("{at}/migrate"), json!({})).await;
    assert_eq!(code(&moved), ErrorCode::ReplicaDependsOnSource);
    let vpc = scene.cloud.delete(&scene.tenant, &format!("/v1/vpcs/{}", scene.vpc)).await;
    assert_eq!(code(&vpc), ErrorCode::ReplicaDependsOnSource);
    let volume = format!("/v1/volumes/{}", source["volumes"][0]["volume"].as_str().unwrap());
    scene.post(&format!("{volume}/detach"), json!({})).await;
    let promoted = scene.cloud.post(&scene.tenant, &format!("{replica}/promote"), json!({})).await;
    assert_eq!(code(&promoted), ErrorCode::ReplicaDependsOnSource);
    scene.cloud.delete(&scene.tenant, &replica).await;
    scene.reaches(&replica, "deleted").await;
    assert_eq!(scene.cloud.delete(&scene.tenant, &at).await.0, 200);
}

#[tokio::test]
async fn a_deep_replica_becomes_a_network_in_its_own_right_when_all_is_copied_and_outlives_its_source() {
    let mut scene = Scene::new().await;
    scene.hosts.iter_mut().for_each(|host| host.snapshot = 10);
    let replica = scene.create("deep", json!({"copy": "deep"})).await;
    scene.reaches(&replica, "copying").await;
    let source = path("instances", &scene.instance(&json!(scene.vpc), "web").await);
    assert_eq!(code(&scene.cloud.delete(&scene.tenant, &source).await), ErrorCode::ReplicaDependsOnSource);
    let early = scene.cloud.post(&scene.tenant, &format!("{replica}/promote"), json!({})).await;
    assert_eq!(code(&early), ErrorCode::IncorrectState);
    scene.hosts.iter_mut().for_each(|host| host.snapshot = 0);
    let shown = scene.reaches(&replica, "available").await;
    assert_eq!(scene.hosts[0].desired(&scene.cloud).await["cuts"], json!([]));
    assert_eq!(scene.cloud.delete(&scene.tenant, &source).await.0, 200);
    let promoted = scene.post(&format!("{replica}/promote"), json!({})).await;
    assert_eq!((&promoted["state"], &promoted["expires"]), (&json!("promoted"), &Value::Null));
    let duplicate = scene.instance(&shown["vpc"], "web").await;
    assert_eq!((&duplicate["state"], &duplicate["tags"]), (&json!("running"), &json!({"tier": "web"})));
    let told = scene.hosts[0].desired(&scene.cloud).await;
    assert!(items(&told["instances"]).all(|one| one["duplicate"].is_null()));
}

#[tokio::test]
async fn a_clock_goes_on_at_the_cut_or_is_corrected_and_a_promoted_network_has_the_time() {
    let scene = Scene::new().await;
    let behind = async |vpc: &Value| {
        let shown = scene.get(&format!("/v1/vpcs/{}", vpc.as_str().unwrap())).await;
        let told = scene.hosts[0].desired(&scene.cloud).await;
        let network = items(&told["networks"]).find(|network| network["vpc"] == *vpc).unwrap();
        assert_eq!(network["clock_behind_micros"], shown["clock_behind_micros"], "the hosts are told");
        shown["clock_behind_micros"].as_u64().unwrap()
    };
    let create = async |name: &str, terms: Value| {
        let replica = scene.create(name, terms).await;
        (scene.reaches(&replica, "available").await["vpc"].clone(), replica)
    };
    assert_eq!(behind(&json!(scene.vpc)).await, 0);
    let (on, _) = create("on", json!({})).await;
    // The hosts here say that they cut in 1970.
    assert!(behind(&on).await > 1 << 50);
    for terms in [json!({"clock": "correct"}), json!({"memory": "cold"})] {
        let (vpc, replica) = create("other", terms).await;
        assert_eq!(behind(&vpc).await, 0);
        assert_eq!(scene.cloud.delete(&scene.tenant, &replica).await.0, 200);
        scene.reaches(&replica, "deleted").await;
    }
    let (deep, replica) = create("deep", json!({"copy": "deep"})).await;
    assert!(behind(&deep).await > 1 << 50);
    scene.post(&format!("{replica}/promote"), json!({})).await;
    assert_eq!(behind(&deep).await, 0);
}

#[tokio::test]
async fn a_cut_that_fails_at_one_host_is_undone_at_all_and_told() {
    let mut scene = Scene::new().await;
    let (before, used) = (scene.census().await, scene.used().await);
    scene.hosts[1].fails = true;
    let replica = scene.create("try", json!({})).await;
    let failed = scene.reaches(&replica, "failed").await;
    assert_eq!(failed["state_reason"]["message"], "a VM did not stop");
    scene.until(async |scene| (scene.job(&failed).await["state"] == "failed").then_some(())).await;
    scene.until(async |scene| (scene.census().await == before).then_some(())).await;
    assert_eq!(scene.used().await, used);
    assert_eq!(scene.instance(&json!(scene.vpc), "web").await["state"], "running");
    assert_eq!(scene.hosts[0].desired(&scene.cloud).await["cuts"], json!([]));
}

#[tokio::test]
async fn a_host_that_is_lost_in_the_middle_undoes_it_all() {
    let cloud = start_with(|settings| settings.host_timeout = Duration::from_secs(5)).await;
    let mut scene = Scene::bare(cloud).await;
    scene.furnish().await;
    let before = scene.census().await;
    scene.hosts.iter_mut().for_each(|host| host.until = Until::Ready);
    let replica = scene.create("try", json!({})).await;
    scene.hosts[1].silent = true;
    scene.hosts[0].until = Until::Running;
    let failed = scene.reaches(&replica, "failed").await;
    assert_eq!(failed["state_reason"]["code"], "HostUnreachable");
    scene.hosts[1].silent = false;
    scene.hosts[1].until = Until::Running;
    scene.until(async |scene| (scene.census().await == before).then_some(())).await;
    let again = scene.create("try", json!({})).await;
    scene.reaches(&again, "available").await;
}

#[tokio::test]
async fn without_room_a_quota_or_a_free_name_nothing_is_made() {
    let scene = Scene::new().await;
    for _ in 0..12 {
        let launch = json!({"image": scene.image, "subnet": scene.subnet, "memory": 128 * MIB});
        scene.post("/v1/instances", launch).await;
    }
    scene
        .until(async |scene| {
            let all = scene.get("/v1/instances").await;
            items(&all["items"]).all(|one| one["state"] == "running").then_some(())
        })
        .await;
    let full = scene.census().await;
    let body = json!({"vpc": scene.vpc, "name": "try"});
    assert_eq!(scene.refusal(body.clone()).await.0, ErrorCode::InsufficientInstanceCapacity);
    assert_eq!(scene.census().await, full);
    let part = json!({"vpc": scene.vpc, "name": "try", "terms": {"include_tags": [{"key": "tier", "value": "web"}]}});
    let replica = path("replicas", &scene.post("/v1/replicas", part.clone()).await);
    scene.reaches(&replica, "available").await;
    let (code, detail) = scene.refusal(part).await;
    assert_eq!(code, ErrorCode::ReplicaDuplicate);
    assert!(detail.contains("`try`"), "{detail}");
    let operator = scene.cloud.operator().await;
    let mut quota = scene.get("/v1/account").await["account"]["quota"].clone();
    quota["vpcs"] = json!(2);
    let at = format!("/v1/accounts/{}/quota", scene.tenant.account);
    assert_eq!(scene.cloud.send(scene.cloud.request(Method::PUT, &at, &operator.token).json(&quota)).await.0, 200);
    let none = json!({"vpc": scene.vpc, "terms": {"include_tags": [{"key": "tier", "value": "nobody"}]}});
    assert_eq!(scene.refusal(none).await.0, ErrorCode::ResourceLimitExceeded);
}

#[tokio::test]
async fn what_cannot_be_as_asked_is_refused_with_the_remedy() {
    let scene = Scene::new().await;
    let map = json!([{"from": "10.0.0.0/16", "to": "10.9.0.0/16"}]);
    let (code_of_live, detail) = scene.refusal(json!({"vpc": scene.vpc, "terms": {"map": map}})).await;
    assert_eq!(code_of_live, ErrorCode::ReplicaNotPossible);
    assert!(detail.contains("--memory cold"), "{detail}");
    let lossy = json!([{"from": "10.0.0.0/16", "to": "10.9.0.0/24"}]);
    let refused = scene.refusal(json!({"vpc": scene.vpc, "terms": {"map": lossy}})).await;
    assert_eq!(refused.0, ErrorCode::InvalidParameterValue);
    let loopback = json!({"map": [{"from": "10.0.0.0/16", "to": "127.0.0.0/16"}], "memory": "cold"});
    assert_eq!(scene.refusal(json!({"vpc": scene.vpc, "terms": loopback})).await.0, ErrorCode::InvalidCidr);
    let replica = scene.create("cold", json!({"map": map, "memory": "cold"})).await;
    let shown = scene.reaches(&replica, "available").await;
    let (source, duplicate) =
        (scene.instance(&json!(scene.vpc), "web").await, scene.instance(&shown["vpc"], "web").await);
    let renamed = source["address"].as_str().unwrap().replace("10.0.", "10.9.");
    assert_eq!(duplicate["address"], renamed);
}

#[tokio::test]
async fn differences_are_what_was_changed_on_either_side_since() {
    let scene = Scene::new().await;
    let replica = scene.create("try", json!({})).await;
    let shown = scene.reaches(&replica, "available").await;
    let differ = async |scene: &Scene| scene.get(&format!("{replica}/differences")).await["differences"].clone();
    assert_eq!(differ(&scene).await, json!([]));
    let vpc = scene.get(&format!("/v1/vpcs/{}", shown["vpc"].as_str().unwrap())).await;
    let group = vpc["default_security_group"].as_str().unwrap();
    let rule =
        json!({"direction": "ingress", "traffic": {"protocol": "all"}, "peer": {"kind": "cidr", "cidr": "10.0.0.0/8"}});
    scene.post(&format!("/v1/security-groups/{group}/rules"), json!({"rule": rule})).await;
    scene.post("/v1/security-groups", json!({"vpc": scene.vpc, "name": "only in the source"})).await;
    let differences = differ(&scene).await;
    assert_eq!(differences.as_array().unwrap().len(), 2, "{differences}");
    let of = |kind: &str| items(&differences).find(|one| one[kind].is_null()).cloned();
    assert_eq!(of("duplicate").unwrap()["name"], "only in the source");
    let changed = items(&differences).find(|one| one["duplicate"] == group).unwrap();
    assert_eq!(changed["fields"][0]["field"], "rules");
}

#[tokio::test]
async fn a_duplicate_can_be_duplicated_and_the_first_then_waits_for_the_second() {
    let scene = Scene::new().await;
    let first = scene.create("first", json!({})).await;
    let shown = scene.reaches(&first, "available").await;
    let second = scene.post("/v1/replicas", json!({"vpc": shown["vpc"], "name": "second"})).await;
    assert_eq!(second["of"], shown["id"]);
    let second = path("replicas", &second);
    scene.reaches(&second, "available").await;
    let refused = scene.cloud.delete(&scene.tenant, &first).await;
    assert_eq!(code(&refused), ErrorCode::ReplicaDependsOnSource);
    for replica in [&second, &first] {
        assert_eq!(scene.cloud.delete(&scene.tenant, replica).await.0, 200);
        scene.reaches(replica, "deleted").await;
    }
}

#[tokio::test]
async fn a_replica_whose_time_is_over_is_deleted_by_itself_and_one_that_is_being_made_is_undone() {
    let mut scene = Scene::new().await;
    let before = scene.census().await;
    let body = json!({"vpc": scene.vpc, "lasts_seconds": 1});
    let brief = path("replicas", &scene.post("/v1/replicas", body).await);
    scene.reaches(&brief, "deleted").await;
    scene.hosts.iter_mut().for_each(|host| host.until = Until::Nothing);
    let stuck = scene.create("stuck", json!({})).await;
    assert_eq!(scene.cloud.delete(&scene.tenant, &stuck).await.0, 200);
    let gone = scene.reaches(&stuck, "failed").await;
    assert!(gone["state_reason"]["message"].as_str().unwrap().contains("deleted while it was being made"));
    scene.until(async |scene| (scene.census().await == before).then_some(())).await;
}

/// A controller of its own runtime, so that it can be ended in the middle of whatever it does.
struct Killable {
    runtime: Option<tokio::runtime::Runtime>,
    shutdown: CancellationToken,
}

impl Killable {
    async fn start(dir: &Path) -> (Self, OperatorFile) {
        let file = dir.join(OperatorFile::NAME);
        // The one of before names a port that nobody answers at any more.
        let _ = std::fs::remove_file(&file);
        let nobody = "127.0.0.1:0".parse().unwrap();
        let settings = Settings::new(dir.into(), nobody, dir.join("collector.json"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        runtime.spawn(run(settings, shutdown.clone()));
        let operator = loop {
            match OperatorFile::read(&file) {
                Ok(read) => break read,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        (Self { runtime: Some(runtime), shutdown }, operator)
    }

    /// Drops whatever is being done; returns when nothing of it holds the store any more.
    async fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(30)));
            ended.await.unwrap();
        }
    }

    /// A network whose hosts do nothing of a cut yet.
    async fn with_network() -> (Self, Scene) {
        let dir = tempfile::tempdir().unwrap();
        let (controller, operator) = Killable::start(dir.path()).await;
        let running = controller.shutdown.clone().drop_guard();
        let cloud = Cloud { operator, dir, http: Client::new(), _running: running };
        let mut scene = Scene::bare(cloud).await;
        scene.furnish().await;
        scene.hosts.iter_mut().for_each(|host| host.until = Until::Nothing);
        (controller, scene)
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        // A runtime must not be waited for here.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tokio::test]
async fn a_controller_that_is_killed_at_any_step_takes_the_replica_up_again() {
    let (mut controller, mut scene) = Killable::with_network().await;
    let replica = scene.create("try", json!({})).await;
    let steps =
        [(Until::Ready, "prepare"), (Until::Taken, "cut"), (Until::Standing, "duplicate"), (Until::Running, "begin")];
    for (until, step) in steps {
        scene
            .until(async |scene| {
                let shown = scene.get(&replica).await;
                (scene.job(&shown).await["step"] == step).then_some(())
            })
            .await;
        controller.kill().await;
        let (again, operator) = Killable::start(scene.cloud.dir.path()).await;
        controller = again;
        scene.cloud.operator = operator;
        scene.hosts.iter_mut().for_each(|host| host.until = until);
    }
    scene.reaches(&replica, "available").await;
    assert_eq!(scene.cloud.delete(&scene.tenant, &replica).await.0, 200);
    controller.kill().await;
    let (_controller, operator) = Killable::start(scene.cloud.dir.path()).await;
    scene.cloud.operator = operator;
    scene.reaches(&replica, "deleted").await;
}
