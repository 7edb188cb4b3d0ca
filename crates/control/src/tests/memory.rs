//! How instances' memory is kept and shown, as their owners and operators meet it; the host here is this test.

use super::*;

const MIB: u64 = 1 << 20;

pub(super) async fn image(cloud: &Cloud, user: &User) -> Value {
    let mut kernel = vec![0; 0x210];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    let kernel = upload(cloud, user, kernel).await;
    let initramfs = upload(cloud, user, b"070701 and so on".to_vec()).await;
    let source = json!({"kind": "kernel", "kernel": kernel, "initramfs": initramfs, "command_line": "quiet"});
    let (status, made) = cloud.post(user, "/v1/images", json!({"name": "tiny", "source": source})).await;
    assert_eq!(status, 201, "{made}");
    made["id"].clone()
}

/// A host of 256 MiB that promises half as much again. Returns its id and its key.
async fn host(cloud: &Cloud) -> (String, String) {
    let capacity = json!({"vcpus": 16, "memory": 256 * MIB, "disk": 1 << 30});
    let description = json!({"name": "h", "address": "127.0.0.1", "tunnel_port": 1, "public_key": "k",
        "capacity": capacity, "oversubscription": 1500, "hypervisor": "a test"});
    let body = json!({"join_token": cloud.operator.join_token, "host": description});
    let (status, enrolled) = cloud.send(cloud.request(Method::POST, "/v1/host/enrol", "").json(&body)).await;
    assert_eq!(status, 201, "{enrolled}");
    (enrolled["host"].as_str().unwrap().into(), enrolled["host_key"].as_str().unwrap().into())
}

struct Scene {
    cloud: Cloud,
    tenant: User,
    launch: Value,
    host: String,
    key: String,
}

async fn scene() -> Scene {
    let cloud = start().await;
    let tenant = cloud.tenant("a").await;
    let vpc = cloud.vpc(&tenant).await;
    let (_, subnet) = cloud.post(&tenant, "/v1/subnets", json!({"vpc": vpc["id"], "cidr": "10.0.1.0/24"})).await;
    let launch = json!({"image": image(&cloud, &tenant).await, "subnet": subnet["id"], "memory": 192 * MIB});
    let (host, key) = host(&cloud).await;
    Scene { cloud, tenant, launch, host, key }
}

impl Scene {
    fn with(&self, settings: Value) -> Value {
        let mut launch = self.launch.clone();
        launch["memory_settings"] = settings;
        launch
    }

    /// Launches and waits until the instance has a host, or none. Returns its path.
    async fn launch(&self, settings: Value) -> String {
        let (status, launched) = self.cloud.post(&self.tenant, "/v1/instances", self.with(settings)).await;
        assert_eq!(status, 201, "{launched}");
        let path = path("instances", &launched["instances"][0]);
        timeout(Duration::from_secs(20), async {
            loop {
                let shown = self.cloud.get(&self.tenant, &path).await.1;
                if !shown["host"].is_null() || shown["state"] == "terminated" {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("it is placed or not");
        path
    }

    async fn set(&self, instance: &str, edit: Value) -> (u16, Value) {
        let path = format!("{instance}/memory");
        self.cloud.send(self.cloud.request(Method::PATCH, &path, &self.tenant.token).json(&edit)).await
    }

    async fn claimed(&self) -> u64 {
        let operator = self.cloud.operator().await;
        let (_, shown) = self.cloud.get(&operator, &format!("/v1/hosts/{}", self.host)).await;
        shown["used"]["memory"].as_u64().unwrap() / MIB
    }

    async fn report(&self, memory: Value) {
        let capacity = json!({"vcpus": 16, "memory": 256 * MIB, "disk": 1 << 30});
        let report = json!({"version": 1, "capacity": capacity, "instances": [], "volumes": [], "snapshots": [],
            "dropped_frames": {}, "memory": memory});
        let sent = self.cloud.send(self.cloud.request(Method::POST, "/v1/host/report", &self.key).json(&report)).await;
        assert_eq!(sent.0, 204, "{sent:?}");
    }
}

fn pages(resident: u64) -> Value {
    json!({"untouched": 100, "same_filled": 0, "resident": resident, "compressed": 0, "ssd": 7, "remote": 0, "snapshot": 0})
}

fn told(instance: &str, secs: u64) -> Value {
    let id = instance.rsplit('/').next();
    let memory = json!({"instance": id, "at": secs * 1_000_000, "mode": "generic", "state": "active",
        "pages": pages(secs), "target": null, "bucket": 250, "evictions": 7, "refaults": 1, "pager_restarts": 0,
        "faults": [{"place": "ssd", "count": 3, "p50_micros": 60, "p99_micros": 90}], "trouble": null});
    let host = json!({"total": 100, "resident": 60, "compressed": 0, "shared": 0, "overhead": 30, "pool": 4, "free": 6,
        "paging": {"kind": "available"}, "cpu_weights": {"kind": "unavailable", "reason": "no cgroup"}});
    json!({"host": host, "instances": [memory]})
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_at_launch_and_later() {
    let scene = scene().await;
    let impossible = [
        json!({"minimum_operating": 193 * MIB}),
        json!({"mode": "soaker", "minimum_operating": 96 * MIB, "minimum_starting": 64 * MIB}),
        json!({"mode": "soaker", "pinned": true}),
        json!({"thresholds": {"fill_above": 64 * MIB, "drain_below": 96 * MIB}}),
    ];
    for settings in &impossible {
        let refused = scene.cloud.post(&scene.tenant, "/v1/instances", scene.with(settings.clone())).await;
        assert_eq!(code(&refused), ErrorCode::InvalidParameterValue, "{settings}");
    }
    let instance = scene.launch(json!({})).await;
    for settings in impossible {
        assert_eq!(code(&scene.set(&instance, settings.clone()).await), ErrorCode::InvalidParameterValue, "{settings}");
    }
    let both = json!({"automatic_thresholds": true, "thresholds": {"fill_above": 96 * MIB, "drain_below": 64 * MIB}});
    assert_eq!(code(&scene.set(&instance, both).await), ErrorCode::InvalidParameterValue);
    assert_eq!(code(&scene.set(&instance, json!({"priority": 256})).await), ErrorCode::MalformedRequest);
    let (_, shown) = scene.cloud.get(&scene.tenant, &instance).await;
    assert_eq!(
        (&shown["memory_settings"]["mode"], &shown["memory_settings"]["priority"]),
        (&json!("generic"), &json!(50))
    );
}

#[tokio::test]
async fn a_host_promises_more_than_it_has_but_what_is_pinned_once_and_soakers_nothing() {
    let scene = scene().await;
    let first = scene.launch(json!({})).await;
    assert_eq!(scene.claimed().await, 128, "192 MiB at a factor of 1.5");
    let soaker = scene.launch(json!({"mode": "soaker"})).await;
    assert_eq!(scene.claimed().await, 128);
    let second = scene.launch(json!({})).await;
    assert_eq!(scene.claimed().await, 256);
    let third = scene.launch(json!({})).await;
    let (_, shown) = scene.cloud.get(&scene.tenant, &third).await;
    assert_eq!(shown["state_reason"]["code"], ErrorCode::InsufficientInstanceCapacity.name(), "{shown}");
    for (instance, edit) in [(&first, json!({"pinned": true})), (&soaker, json!({"mode": "generic"}))] {
        let refused = scene.set(instance, edit).await;
        assert_eq!(code(&refused), ErrorCode::InsufficientInstanceCapacity);
    }
    assert_eq!(scene.claimed().await, 256, "what is refused changes nothing");
    let (status, shown) = scene.set(&second, json!({"mode": "soaker", "priority": 9})).await;
    assert_eq!((status, &shown["memory_settings"]["priority"]), (200, &json!(9)));
    assert_eq!(scene.set(&first, json!({"pinned": true})).await.0, 200);
    assert_eq!(scene.claimed().await, 192);
}

#[tokio::test]
async fn the_host_hears_of_new_settings() {
    let scene = scene().await;
    let instance = scene.launch(json!({})).await;
    let desired = async |have: Option<u64>| {
        let have = have.map_or(String::new(), |have| format!("have={have}&"));
        let path = format!("/v1/host/desired?{have}wait_millis=20000");
        scene.cloud.send(scene.cloud.request(Method::GET, &path, &scene.key)).await.1["desired"].clone()
    };
    let before = desired(None).await;
    assert_eq!(before["instances"][0]["memory_settings"]["mode"], "generic");
    assert_eq!(scene.set(&instance, json!({"mode": "soaker"})).await.0, 200);
    let after = desired(before["version"].as_u64()).await;
    assert_eq!(after["instances"][0]["memory_settings"]["mode"], "soaker");
}

#[tokio::test]
async fn what_hosts_tell_is_shown_to_the_owner_and_of_hosts_to_operators_alone() {
    let scene = scene().await;
    let (operator, stranger) = (scene.cloud.operator().await, scene.cloud.tenant("b").await);
    let instance = scene.launch(json!({})).await;
    let at = format!("{instance}/memory");
    assert_eq!(scene.cloud.get(&scene.tenant, &at).await.1["actual"], Value::Null);
    for secs in [1000, 1001, 1010] {
        scene.report(told(&instance, secs)).await;
    }
    let (_, shown) = scene.cloud.get(&scene.tenant, &at).await;
    assert_eq!((&shown["actual"]["pages"]["resident"], &shown["actual"]["bucket"]), (&json!(1010), &json!(250)));
    let (_, history) = scene.cloud.get(&scene.tenant, &format!("{at}/history")).await;
    let moments = |history: &Value| -> Vec<u64> {
        history["points"].as_array().unwrap().iter().map(|point| point["at"].as_u64().unwrap() / 1_000_000).collect()
    };
    assert_eq!(moments(&history), [1000, 1010], "a point each five seconds");
    let (_, late) = scene.cloud.get(&scene.tenant, &format!("{at}/history?since=1005000000")).await;
    assert_eq!(moments(&late), [1010]);
    for path in [&at, &format!("{at}/history")] {
        assert_eq!(code(&scene.cloud.get(&stranger, path).await), ErrorCode::InvalidInstanceNotFound);
    }
    let overview = async |user: &User| scene.cloud.get(user, "/v1/memory").await.1;
    assert_eq!(overview(&stranger).await, json!({"hosts": [], "instances": []}));
    let own = overview(&scene.tenant).await;
    assert_eq!((own["hosts"].as_array().map(Vec::len), own["instances"].as_array().map(Vec::len)), (Some(0), Some(1)));
    let all = overview(&operator).await;
    let host = &all["hosts"][0];
    let parts = ["resident", "compressed", "shared", "overhead", "pool", "free"];
    let sum: u64 = parts.iter().map(|part| host[*part].as_u64().unwrap()).sum();
    assert_eq!((host["host"].as_str(), host["total"].as_u64()), (Some(scene.host.as_str()), Some(sum)));
}

#[tokio::test]
async fn a_price_book_says_what_the_host_goes_by_and_is_followed_by_another() {
    let scene = scene().await;
    let (operator, stranger) = (scene.cloud.operator().await, scene.cloud.tenant("b").await);
    let instance = scene.launch(json!({})).await;
    let book = |account: Option<&str>, prices: Value| json!({"account": account, "prices": prices});
    let make = async |user: &User, book: Value| scene.cloud.post(user, "/v1/price-books", book).await;
    assert_eq!(code(&make(&scene.tenant, book(None, json!({}))).await), ErrorCode::UnauthorizedOperation);
    let dollars = book(Some(&scene.tenant.account), json!({"currency": "USD"}));
    assert_eq!(code(&make(&operator, dollars.clone()).await), ErrorCode::InvalidParameterValue);
    let (status, usual) = make(&operator, book(None, json!({"currency": "USD"}))).await;
    assert_eq!((status, &usual["since"], &usual["until"]), (201, &json!(0), &Value::Null), "{usual}");
    assert_eq!(code(&make(&operator, book(None, json!({}))).await), ErrorCode::InvalidParameterValue, "euros");
    let shares = json!({"fill_above": 500, "drain_below": 250});
    let agreed = json!({"currency": "USD", "priority": 60, "thresholds": shares});
    let (status, first) = make(&operator, book(Some(&scene.tenant.account), agreed)).await;
    assert_eq!(status, 201, "{first}");
    let ask = scene.cloud.request(Method::GET, "/v1/host/desired?wait_millis=0", &scene.key);
    let desired = scene.cloud.send(ask).await.1["desired"].clone();
    let expected = json!({"fill_above": 96 * MIB, "drain_below": 48 * MIB});
    assert_eq!(desired["instances"][0]["memory_settings"]["thresholds"], expected);
    let (_, shown) = scene.cloud.get(&scene.tenant, &instance).await;
    assert_eq!(shown["memory_settings"]["thresholds"], Value::Null, "its owner has said nothing");
    let greedy = json!({"mode": "soaker", "priority": 61});
    assert_eq!(code(&scene.set(&instance, greedy).await), ErrorCode::InvalidParameterValue);
    let (status, second) = make(&operator, dollars).await;
    assert_eq!(status, 201, "{second}");
    let (_, ended) = scene.cloud.get(&scene.tenant, &path_of(&first)).await;
    assert_eq!(ended["until"], second["since"]);
    let ids = async |user: &User| {
        let (_, page) = scene.cloud.get(user, "/v1/price-books").await;
        page["items"].as_array().unwrap().iter().map(|book| book["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&stranger).await, [usual["id"].clone()]);
    assert_eq!(ids(&scene.tenant).await.len(), 3);
    assert_eq!(scene.cloud.delete(&operator, &path_of(&second)).await.0, 204);
    assert_eq!(code(&scene.cloud.delete(&operator, &path_of(&second)).await), ErrorCode::IncorrectState);
    assert_eq!(scene.cloud.get(&scene.tenant, "/v1/usage").await.1["currency"], "USD");
}

fn path_of(book: &Value) -> String {
    path("price-books", book)
}
