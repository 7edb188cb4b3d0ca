//! Instances that move by themselves for want of memory; the hosts here are this test.

use super::{memory::image, *};

const MIB: u64 = 1 << 20;

/// A host of 256 MiB that promises what it has, as this test plays it.
pub(super) struct Host {
    id: String,
    pub(super) key: String,
    /// Free for anybody, in MiB.
    free: u64,
    pages_memory: bool,
    wishes: Vec<Value>,
    /// What it says of instances.
    instances: Vec<Value>,
    /// What it says of volumes.
    volumes: Value,
    /// Memory of instances that it tells of.
    memories: Vec<Value>,
}

struct Scene {
    cloud: Cloud,
    tenant: User,
    operator: User,
    launch: Value,
    hosts: [Host; 2],
}

pub(super) async fn host(cloud: &Cloud, name: &str) -> Host {
    let capacity = json!({"vcpus": 16, "memory": 256 * MIB, "disk": 1 << 30});
    let description = json!({"name": name, "address": "127.0.0.1", "tunnel_port": 1, "peer_port": 2, "public_key": name,
        "capacity": capacity, "hypervisor": "a test"});
    let body = json!({"join_token": cloud.operator.join_token, "host": description});
    let (status, enrolled) = cloud.send(cloud.request(Method::POST, "/v1/host/enrol", "").json(&body)).await;
    assert_eq!(status, 201, "{enrolled}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (id, key) = (text(&enrolled["host"]), text(&enrolled["host_key"]));
    let (wishes, instances, memories) = Default::default();
    Host { id, key, free: 0, pages_memory: true, wishes, instances, volumes: json!([]), memories }
}

fn id_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

fn says(instance: &str, state: &str) -> Value {
    json!({"id": id_of(instance), "generation": 1, "state": state, "reason": null, "volumes": []})
}

fn memory(instance: &str, state: &str) -> Value {
    let pages = json!({"untouched": 32758, "same_filled": 0, "resident": 10, "compressed": 0, "ssd": 0, "remote": 0,
        "snapshot": 0});
    json!({"instance": id_of(instance), "at": 1, "mode": "soaker", "state": state, "pages": pages, "target": null,
        "bucket": 0, "faults": [], "evictions": 0, "refaults": 0, "pager_restarts": 0, "trouble": null})
}

fn wish(instance: &str, mib: u64, cause: &str, lacks: u64) -> Value {
    json!({"instance": id_of(instance), "needs": mib * 256, "cause": cause, "lacks": lacks * 256})
}

impl Scene {
    async fn new() -> Self {
        let cloud = start().await;
        let (operator, tenant) = (cloud.operator().await, cloud.tenant("a").await);
        let vpc = cloud.vpc(&tenant).await;
        let (_, subnet) = cloud.post(&tenant, "/v1/subnets", json!({"vpc": vpc["id"], "cidr": "10.0.1.0/24"})).await;
        let launch = json!({"image": image(&cloud, &tenant).await, "subnet": subnet["id"], "memory": 128 * MIB});
        let hosts = [host(&cloud, "one").await, host(&cloud, "other").await];
        Self { cloud, tenant, operator, launch, hosts }
    }

    /// Both hosts say what they are.
    async fn report(&self) {
        for host in &self.hosts {
            let free = host.free * MIB;
            let paging = match host.pages_memory {
                true => json!({"kind": "available"}),
                false => json!({"kind": "unavailable", "reason": "this test"}),
            };
            let memory = json!({"total": free, "resident": 0, "compressed": 0, "shared": 0, "overhead": 0, "pool": 0,
                "free": free, "paging": paging, "cpu_weights": {"kind": "available"}});
            let memory = json!({"host": memory, "instances": host.memories, "wishes": host.wishes});
            let capacity = json!({"vcpus": 16, "memory": 256 * MIB, "disk": 1 << 30});
            let report = json!({"version": 1, "capacity": capacity, "instances": host.instances,
                "volumes": host.volumes, "snapshots": [], "dropped_frames": {}, "memory": memory});
            let request = self.cloud.request(Method::POST, "/v1/host/report", &host.key).json(&report);
            let sent = self.cloud.send(request).await;
            assert_eq!(sent.0, 204, "{sent:?}");
        }
    }

    /// Reports until `seen` has something.
    async fn until<T>(&self, seen: impl AsyncFn() -> Option<T>) -> T {
        let looks = async {
            loop {
                self.report().await;
                if let Some(seen) = seen().await {
                    return seen;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), looks).await.expect("it comes about")
    }

    async fn shown(&self, path: &str) -> Value {
        self.cloud.get(&self.operator, path).await.1
    }

    /// Launches on a host and runs there.
    async fn run(&mut self, at: usize, settings: Value) -> String {
        let mut launch = self.launch.clone();
        launch["memory_settings"] = settings;
        self.tell_other(at, "drain").await;
        self.report().await;
        let (status, launched) = self.cloud.post(&self.tenant, "/v1/instances", launch).await;
        assert_eq!(status, 201, "{launched}");
        let instance = path("instances", &launched["instances"][0]);
        self.hosts[at].instances.push(says(&instance, "running"));
        self.until(async || (self.shown(&instance).await["state"] == "running").then_some(())).await;
        assert_eq!(self.shown(&instance).await["host"], self.hosts[at].id);
        self.tell_other(at, "resume").await;
        instance
    }

    async fn tell_other(&self, at: usize, word: &str) {
        let path = format!("/v1/hosts/{}/{word}", self.hosts[1 - at].id);
        let told = self.cloud.send(self.cloud.request(Method::POST, &path, &self.operator.token)).await;
        assert_eq!(told.0, 200, "{told:?}");
    }

    async fn moves(&self) -> Vec<Value> {
        let jobs = self.cloud.get(&self.tenant, "/v1/jobs").await.1["items"].as_array().cloned().unwrap_or_default();
        jobs.into_iter().filter(|job| job["kind"] == "migrate").collect()
    }

    async fn job(&self) -> Value {
        self.until(async || self.moves().await.pop()).await
    }

    /// Plays both hosts until the instance, which is on its way from the first to the second, is there.
    async fn arrive(&mut self, instance: &str) -> Value {
        // A host does not tell of the memory of what is on its way.
        self.hosts[0].memories.clear();
        self.hosts[1].instances.push(says(instance, "arrived"));
        self.until(async || (self.shown(instance).await["host"] == self.hosts[1].id.as_str()).then_some(())).await;
        let said = |host: &mut Host, state| {
            host.instances.retain(|said| said["id"] != id_of(instance));
            host.instances.push(says(instance, state));
        };
        said(&mut self.hosts[0], "absent");
        said(&mut self.hosts[1], "running");
        self.hosts[0].wishes.clear();
        self.until(async || self.moves().await.pop().filter(|job| job["state"] == "done")).await
    }

    /// What a host is told to be.
    async fn desired(&self, at: usize) -> Value {
        let asked = self.cloud.request(Method::GET, "/v1/host/desired?wait_millis=0", &self.hosts[at].key);
        self.cloud.send(asked).await.1["desired"].clone()
    }

    /// The disk that is promised at a host.
    async fn disk(&self, at: usize) -> u64 {
        self.shown(&format!("/v1/hosts/{}", self.hosts[at].id)).await["used"]["disk"].as_u64().unwrap()
    }

    /// Why an operator cannot move it to the second host.
    async fn refusal(&self, instance: &str) -> String {
        let body = json!({"host": self.hosts[1].id});
        let refused = self.cloud.post(&self.operator, &format!("{instance}/migrate"), body).await;
        assert_eq!(code(&refused), ErrorCode::IncorrectState);
        refused.1["detail"].as_str().unwrap().to_owned()
    }

    /// For long enough that something would have been begun.
    async fn nothing_moves(&self, so_far: usize) {
        for _ in 0..5 {
            self.report().await;
            sleep(Duration::from_millis(500)).await;
        }
        let moves = self.moves().await;
        assert_eq!(moves.len(), so_far, "{moves:?}");
    }
}

#[tokio::test]
async fn an_instance_leaves_a_host_that_is_short_for_one_that_has_room_and_stays_there() {
    let mut scene = Scene::new().await;
    let instance = scene.run(0, json!({})).await;
    scene.hosts[0].wishes = vec![wish(&instance, 128, "host-short", 50)];
    scene.hosts[1].free = 140;
    scene.nothing_moves(0).await;
    scene.hosts[1].free = 200;
    let job = scene.job().await;
    assert_eq!((&job["cause"], &job["state"]), (&json!("host-short"), &json!("running")));
    let reason = scene.shown(&instance).await["state_reason"].clone();
    assert_eq!(reason["message"], "it moves to another host: its own has too little memory");
    let job = scene.arrive(&instance).await;
    assert_eq!(job["cause"], "host-short");
    assert_eq!(scene.shown(&instance).await["state_reason"], Value::Null);
    scene.hosts[1].wishes = vec![wish(&instance, 128, "host-short", 50)];
    scene.hosts[0].free = 250;
    scene.nothing_moves(1).await;
}

#[tokio::test]
async fn what_cannot_move_stays_and_another_goes() {
    let mut scene = Scene::new().await;
    let pinned = scene.run(0, json!({"pinned": true})).await;
    scene.hosts[0].wishes = vec![wish(&pinned, 128, "host-short", 50)];
    scene.hosts[1].free = 200;
    scene.nothing_moves(0).await;
    let other = scene.run(0, json!({})).await;
    assert_eq!(scene.job().await["instance"], id_of(&other));
    scene.arrive(&other).await;
    let desired = scene.desired(1).await;
    assert_eq!(
        (&desired["instances"][0]["id"], &desired["instances"][0]["migration"]),
        (&json!(id_of(&other)), &Value::Null)
    );
}

#[tokio::test]
async fn a_soaker_that_is_hibernated_goes_to_a_host_that_can_wake_it() {
    let mut scene = Scene::new().await;
    let soaker = scene.run(0, json!({"mode": "soaker"})).await;
    scene.hosts[0].wishes = vec![wish(&soaker, 32, "nothing-unused", 0)];
    scene.hosts[0].memories = vec![memory(&soaker, "paused")];
    scene.hosts[1].free = 200;
    scene.nothing_moves(0).await;
    assert!(scene.refusal(&soaker).await.contains("is paused"));
    scene.hosts[0].memories = vec![memory(&soaker, "hibernated")];
    scene.hosts[1].pages_memory = false;
    scene.nothing_moves(0).await;
    assert!(scene.refusal(&soaker).await.contains("pages no memory"));
    scene.hosts[1].pages_memory = true;
    assert_eq!(scene.job().await["cause"], "nothing-unused");
    let reason = scene.shown(&soaker).await["state_reason"].clone();
    assert_eq!(reason["message"], "it moves to another host, which has memory for a soaker");
    let job = scene.arrive(&soaker).await;
    assert_eq!((&job["state"], &job["moved"]["pages"]), (&json!("done"), &json!(10)));
}

#[tokio::test]
async fn a_volume_is_the_other_hosts_in_the_instant_in_which_its_instance_is() {
    let mut scene = Scene::new().await;
    let size = 64 * MIB;
    let (_, volume) = scene.cloud.post(&scene.tenant, "/v1/volumes", json!({"size": size})).await;
    let volume = path("volumes", &volume);
    scene.launch["volumes"] = json!([id_of(&volume)]);
    let instance = scene.run(0, json!({})).await;
    let refused = scene.refusal(&instance).await;
    assert!(refused.contains("is being attached"), "{refused}");
    scene.hosts[0].instances[0]["volumes"] = json!([{"volume": id_of(&volume), "slot": 1}]);
    scene.until(async || (scene.shown(&volume).await["state"] == "in-use").then_some(())).await;

    let (status, job) = scene.cloud.post(&scene.operator, &format!("{instance}/migrate"), json!({})).await;
    assert_eq!(status, 200, "{job}");
    let coming = scene.desired(1).await;
    let told = &coming["instances"][0]["migration"];
    assert_eq!((&told["kind"], &told["volumes"][0]["id"]), (&json!("from"), &json!(id_of(&volume))));
    assert_eq!(coming["volumes"], json!([]), "it is not to be made there");
    assert_eq!(scene.desired(0).await["volumes"][0]["present"], true);
    assert_eq!((scene.disk(0).await, scene.disk(1).await), (size, size));
    let detach = scene.cloud.post(&scene.tenant, &format!("{volume}/detach"), json!({})).await;
    assert_eq!(code(&detach), ErrorCode::IncorrectState);

    scene.hosts[1].instances.push(says(&instance, "arrived"));
    scene.until(async || (scene.shown(&instance).await["host"] == scene.hosts[1].id.as_str()).then_some(())).await;
    assert_eq!(scene.shown(&volume).await["host"], scene.hosts[1].id);
    let (left, own) = (scene.desired(0).await, scene.desired(1).await);
    assert_eq!((&left["volumes"][0]["id"], &left["volumes"][0]["present"]), (&json!(id_of(&volume)), &json!(false)));
    assert_eq!((&own["volumes"][0]["present"], &own["instances"][0]["migration"]), (&json!(true), &Value::Null));
    scene.hosts[1].instances.clear();
    let job = scene.arrive(&instance).await;
    assert_eq!(job["moved"]["disk"], size);
    assert_eq!((scene.disk(0).await, scene.disk(1).await), (0, size));
    scene.hosts[0].volumes = json!([{"id": id_of(&volume), "present": true, "reason": null}]);
    let straggler = async || scene.desired(0).await["volumes"].as_array().unwrap().first().cloned();
    assert_eq!(scene.until(straggler).await["present"], false, "a host that comes back with it is told so too");
}

#[tokio::test]
async fn settings_that_its_host_cannot_promise_move_an_instance_and_hold_when_it_is_there() {
    let mut scene = Scene::new().await;
    let soaker = scene.run(0, json!({"mode": "soaker"})).await;
    for _ in 0..2 {
        scene.run(0, json!({})).await;
    }
    scene.hosts[1].free = 200;
    scene.report().await;
    let set = async |edit: Value| {
        let path = format!("{soaker}/memory");
        scene.cloud.send(scene.cloud.request(Method::PATCH, &path, &scene.tenant.token).json(&edit)).await
    };
    let (status, shown) = set(json!({"mode": "generic", "pinned": true})).await;
    assert_eq!((status, &shown["memory_settings"]["mode"]), (200, &json!("soaker")), "until it is there");
    assert_eq!(
        shown["state_reason"]["message"],
        "it moves to another host, which has room for its new memory settings"
    );
    assert_eq!(code(&set(json!({"priority": 7})).await), ErrorCode::IncorrectState);
    let job = scene.arrive(&soaker).await;
    assert_eq!(job["cause"], "new-settings");
    let settings = scene.shown(&soaker).await["memory_settings"].clone();
    assert_eq!((&settings["mode"], &settings["pinned"]), (&json!("generic"), &json!(true)));
    let claimed = async |at: usize| {
        scene.shown(&format!("/v1/hosts/{}", scene.hosts[at].id)).await["used"]["memory"].as_u64().unwrap() / MIB
    };
    assert_eq!((claimed(0).await, claimed(1).await), (256, 128));
}

#[tokio::test]
async fn settings_that_no_host_can_promise_are_refused_and_so_are_those_of_what_cannot_move() {
    let mut scene = Scene::new().await;
    let soaker = scene.run(0, json!({"mode": "soaker"})).await;
    for at in [0, 0, 1, 1] {
        scene.run(at, json!({})).await;
    }
    let edit = json!({"mode": "generic"});
    let request = scene.cloud.request(Method::PATCH, &format!("{soaker}/memory"), &scene.tenant.token).json(&edit);
    let refused = scene.cloud.send(request).await;
    assert_eq!(code(&refused), ErrorCode::InsufficientInstanceCapacity);
    assert!(refused.1["detail"].as_str().unwrap().contains("and it cannot move: none of 1 hosts"), "{refused:?}");
    assert_eq!(scene.shown(&soaker).await["memory_settings"]["mode"], "soaker");
    assert!(scene.moves().await.is_empty());
}
