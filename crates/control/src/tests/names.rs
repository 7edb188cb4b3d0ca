//! The names of a network as its hosts are told them; the hosts here are this test, and are at once what they are told to be.

use std::collections::BTreeMap;

use super::{memory::image, *};

struct Host {
    id: String,
    key: String,
}

struct Scene {
    cloud: Cloud,
    tenant: User,
    launch: Value,
    hosts: [Host; 2],
}

/// Where a name leads: address and host.
type Place = (String, String);

fn capacity() -> Value {
    json!({"vcpus": 16, "memory": 1_u64 << 30, "disk": 1 << 30})
}

async fn host(cloud: &Cloud, key: &str) -> Host {
    let description = json!({"name": key, "address": "127.0.0.1", "tunnel_port": 1, "peer_port": 1, "public_key": key,
        "capacity": capacity(), "hypervisor": "a test"});
    let body = json!({"join_token": cloud.operator.join_token, "host": description});
    let (status, enrolled) = cloud.send(cloud.request(Method::POST, "/v1/host/enrol", "").json(&body)).await;
    assert_eq!(status, 201, "{enrolled}");
    Host { id: enrolled["host"].as_str().unwrap().into(), key: enrolled["host_key"].as_str().unwrap().into() }
}

impl Scene {
    async fn new() -> Self {
        let cloud = start().await;
        let tenant = cloud.tenant("a").await;
        let vpc = cloud.vpc(&tenant).await;
        let (_, subnet) = cloud.post(&tenant, "/v1/subnets", json!({"vpc": vpc["id"], "cidr": "10.0.1.0/24"})).await;
        let launch = json!({"image": image(&cloud, &tenant).await, "subnet": subnet["id"], "memory": 64 << 20});
        let hosts = [host(&cloud, "one").await, host(&cloud, "two").await];
        Self { cloud, tenant, launch, hosts }
    }

    /// Launches, and gives the instance's path and its address.
    async fn launch(&self, name: &str) -> (String, String) {
        let mut body = self.launch.clone();
        body["tags"] = json!({"Name": name});
        let (status, launched) = self.cloud.post(&self.tenant, "/v1/instances", body).await;
        assert_eq!(status, 201, "{launched}");
        let instance = &launched["instances"][0];
        let path = path("instances", instance);
        self.until(&path, "running").await;
        (path, instance["address"].as_str().unwrap().into())
    }

    async fn desired(&self, host: &Host) -> Value {
        let (status, answer) = self.cloud.send(self.cloud.request(Method::GET, "/v1/host/desired", &host.key)).await;
        assert_eq!(status, 200, "{answer}");
        answer["desired"].clone()
    }

    /// Each host is what it is told to be, and says so.
    async fn turn(&self) {
        for host in &self.hosts {
            let desired = self.desired(host).await;
            let actual = |wanted: &Value| {
                let state = match (wanted["power"].as_str(), wanted["migration"]["kind"].as_str()) {
                    (Some("running"), Some("from")) => "arrived",
                    (Some(state), _) => state,
                    (None, _) => panic!("no power: {wanted}"),
                };
                json!({"id": wanted["id"], "generation": wanted["generation"], "state": state, "reason": null,
                    "volumes": []})
            };
            let instances: Vec<_> = desired["instances"].as_array().unwrap().iter().map(actual).collect();
            let report = json!({"version": desired["version"], "capacity": capacity(), "instances": instances,
                "volumes": [], "snapshots": [], "dropped_frames": {}});
            let report = self.cloud.request(Method::POST, "/v1/host/report", &host.key).json(&report);
            assert_eq!(self.cloud.send(report).await.0, 204);
        }
    }

    /// Lets the hosts do as they are told until what is shown at `path` is in this state.
    async fn until(&self, path: &str, state: &str) {
        let reached = async {
            while self.cloud.get(&self.tenant, path).await.1["state"] != state {
                self.turn().await;
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(30), reached).await.unwrap_or_else(|_| panic!("{path} is never {state}"));
    }

    /// What the hosts are told now: all of them the same.
    async fn names(&self) -> BTreeMap<String, Place> {
        let mut told: Vec<BTreeMap<String, Place>> = Vec::new();
        for host in &self.hosts {
            let desired = self.desired(host).await;
            for network in desired["networks"].as_array().unwrap() {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let named = |one: &Value| Some((text(&one["name"])?, (text(&one["address"])?, text(&one["host"])?)));
                told.push(network["endpoints"].as_array().unwrap().iter().filter_map(named).collect());
            }
        }
        assert!(told.iter().all(|names| *names == told[0]), "{told:?}");
        told.swap_remove(0)
    }

    async fn await_names(&self, wanted: &[&str]) -> BTreeMap<String, Place> {
        let told = async {
            loop {
                let names = self.names().await;
                if names.keys().eq(wanted) {
                    return names;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(30), told).await.unwrap_or_else(|_| panic!("these are never told: {wanted:?}"))
    }
}

#[tokio::test]
async fn a_name_follows_its_instance_when_it_is_renamed_moved_ended_and_replaced() {
    let scene = Scene::new().await;
    // It keeps the network on a host.
    let (_, neighbours) = scene.launch("--").await;
    let (web, address) = scene.launch("Web 1").await;
    let told = scene.names().await;
    let (home, away) = match told["web-1"].1 == scene.hosts[0].id {
        true => (&scene.hosts[0].id, &scene.hosts[1].id),
        false => (&scene.hosts[1].id, &scene.hosts[0].id),
    };
    assert_eq!(told, [("web-1".into(), (address.clone(), home.clone()))].into(), "a name without a letter is none");

    let tags = scene.cloud.request(Method::PUT, &web.replace("instances", "tags"), &scene.tenant.token);
    let renamed = scene.cloud.send(tags.json(&json!({"add": {"Name": "front"}}))).await;
    assert_eq!(renamed.0, 200, "{renamed:?}");
    assert_eq!(scene.await_names(&["front"]).await["front"], (address.clone(), home.clone()));

    let (status, job) = scene.cloud.post(&scene.tenant, &format!("{web}/migrate"), json!({})).await;
    assert_eq!(status, 200, "{job}");
    scene.until(&path("jobs", &job), "done").await;
    assert_eq!(scene.names().await, [("front".into(), (address.clone(), away.clone()))].into());

    // No host has ended it yet: it is in the network, and its name is free for another.
    assert_eq!(scene.cloud.delete(&scene.tenant, &web).await.0, 200);
    scene.await_names(&[]).await;
    let (_, replacement) = scene.launch("front").await;
    assert!(replacement != address && replacement != neighbours, "{replacement}");
    assert_eq!(scene.await_names(&["front"]).await["front"].0, replacement);
    scene.until(&web, "terminated").await;
    assert_eq!(scene.await_names(&["front"]).await["front"].0, replacement);
}
