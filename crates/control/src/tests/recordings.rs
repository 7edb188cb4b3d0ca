//! Recordings as their users, those of other accounts, and hosts meet them; the host here is this test.

use lucarne_model::{Moment, pcapng};

use super::{moves::host, *};

#[tokio::test]
async fn a_recording_is_started_shown_stopped_and_deleted_by_its_owner() {
    let cloud = start().await;
    let (a, b) = (cloud.tenant("a").await, cloud.tenant("b").await);
    let vpc = cloud.vpc(&a).await;
    let body = json!({"vpc": vpc["id"], "filter": {"ports": [80]}, "seconds": 3600});
    let (status, made) = cloud.post(&a, "/v1/recordings", body.clone()).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!((made["state"].as_str(), &made["filter"]["ports"]), (Some("recording"), &json!([80])));
    assert_eq!(made["room"], json!({"kind": "ring", "size": 64 << 20}));
    let at = path("recordings", &made);
    assert_eq!(code(&cloud.post(&b, "/v1/recordings", body).await), ErrorCode::InvalidVpcNotFound);
    assert_eq!(code(&cloud.get(&b, &at).await), ErrorCode::InvalidRecordingNotFound);
    assert_eq!(code(&cloud.get(&b, &format!("{at}/frames")).await), ErrorCode::InvalidRecordingNotFound);
    assert_eq!(code(&cloud.delete(&a, &path("vpcs", &vpc)).await), ErrorCode::DependencyViolation);
    let (_, stopped) = cloud.post(&a, &format!("{at}/stop"), Value::Null).await;
    assert_eq!(stopped["state"], "stopped");
    let (_, again) = cloud.post(&a, &format!("{at}/stop"), Value::Null).await;
    assert_eq!(again["until"], stopped["until"], "it stopped once");
    let file = cloud.request(Method::GET, &format!("{at}/frames"), &a.token).send().await.unwrap();
    let file = file.bytes().await.unwrap();
    assert_eq!((file.to_vec(), pcapng::whole(&file).1), (pcapng::section(), 0), "nobody has recorded anything");
    assert_eq!(cloud.delete(&a, &at).await.0, 204);
    assert_eq!(cloud.delete(&a, &path("vpcs", &vpc)).await.0, 204);
}

#[tokio::test]
async fn a_recording_that_cannot_be_is_refused_and_one_with_an_end_has_it() {
    let cloud = start().await;
    let (tenant, other) = (cloud.tenant("a").await, cloud.tenant("b").await);
    let vpc = cloud.vpc(&tenant).await;
    let theirs = cloud.vpc(&other).await;
    let (_, subnet) = cloud.post(&other, "/v1/subnets", json!({"vpc": theirs["id"], "cidr": "10.0.1.0/24"})).await;
    let with = |field: &str, value: Value| {
        let mut body = json!({"vpc": vpc["id"]});
        body[field] = value;
        body
    };
    for (field, value, expected) in [
        ("seconds", json!(0), ErrorCode::InvalidParameterValue),
        ("seconds", json!(86_401), ErrorCode::InvalidParameterValue),
        ("room", json!({"kind": "max", "size": 1000}), ErrorCode::InvalidParameterValue),
        ("filter", json!({"ports": vec![1; 65]}), ErrorCode::InvalidParameterValue),
        ("filter", json!({"subnets": [subnet["id"]]}), ErrorCode::InvalidSubnetNotFound),
        ("filter", json!({"instances": ["i-00000000000000001"]}), ErrorCode::InvalidInstanceNotFound),
        ("filter", json!({"colour": "red"}), ErrorCode::MalformedRequest),
    ] {
        let refused = cloud.post(&tenant, "/v1/recordings", with(field, value.clone())).await;
        assert_eq!(code(&refused), expected, "{field} {value}");
    }
    let (_, made) = cloud.post(&tenant, "/v1/recordings", with("seconds", json!(1))).await;
    let ended = timeout(Duration::from_secs(10), async {
        while cloud.get(&tenant, &path("recordings", &made)).await.1["state"] != "stopped" {
            sleep(Duration::from_millis(50)).await;
        }
    });
    ended.await.expect("its time is over, and it goes on");
}

#[tokio::test]
async fn a_host_that_has_something_of_a_recording_is_told_what_becomes_of_it() {
    let cloud = start().await;
    let tenant = cloud.tenant("a").await;
    let vpc = cloud.vpc(&tenant).await;
    let (_, made) = cloud.post(&tenant, "/v1/recordings", json!({"vpc": vpc["id"]})).await;
    let at = path("recordings", &made);
    let hosts = [host(&cloud, "one").await, host(&cloud, "other").await];
    let stray = "rec-00000000000000001";
    let has = |id: &Value| json!({"id": id, "recorded": {"frames": 3, "size": 400, "lost": 2, "full": false}});
    for host in &hosts {
        let report = json!({"version": 1, "capacity": {"vcpus": 1, "memory": 1, "disk": 1}, "instances": [],
            "volumes": [], "snapshots": [], "dropped_frames": {}, "recordings": [has(&made["id"]), has(&json!(stray))]});
        let sent = cloud.send(cloud.request(Method::POST, "/v1/host/report", &host.key).json(&report)).await;
        assert_eq!(sent.0, 204, "{sent:?}");
    }
    let told = async || {
        let asked = cloud.request(Method::GET, "/v1/host/desired?wait_millis=20000", &hosts[0].key);
        let desired = cloud.send(asked).await.1["desired"].clone();
        let mut states = desired["recordings"].as_array().unwrap().clone();
        states.sort_by_key(|recording| recording["id"] != stray);
        let state = |recording: &Value| recording["state"]["kind"].as_str().unwrap().to_owned();
        states.iter().map(state).collect::<Vec<_>>()
    };
    assert_eq!(told().await, ["absent", "recording"]);
    let shown = cloud.get(&tenant, &at).await.1["recorded"].clone();
    assert_eq!(
        (shown["frames"].as_u64(), shown["size"].as_u64(), shown["lost"].as_u64()),
        (Some(6), Some(800), Some(4))
    );
    assert!(made["started"].as_u64() > Some(Moment::EPOCH.as_micros()));
    cloud.post(&tenant, &format!("{at}/stop"), Value::Null).await;
    assert_eq!(told().await, ["absent", "stopped"]);
    cloud.delete(&tenant, &at).await;
    assert_eq!(told().await, ["absent", "absent"]);
}
